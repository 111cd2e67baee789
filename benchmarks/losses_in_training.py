"""What share of a training step do the similarity losses take?

Run: python benchmarks/losses_in_training.py

A step is forward, all losses of C + co + sem, backward and Adam; the similarity losses, with their
gradients, are timed alone on a batch of the same size. On frozen features the step is measured
without them as well. Of fine-tuning, forward and backward of a few images are measured and scaled
up to the batch, for which a processor takes minutes.
"""
from collections.abc import Callable

import torch
from common import compare, parser_of, report
from torch.nn.functional import normalize

from silk_nb.features import FeatureData
from silk_nb.model import SilkClassifier, SilkHead, load_backbone
from silk_nb.recipes import find_experiment
from silk_nb.steps import Alone, Step

CLASSES, WIDTH = 9, 2048


def made_up(size: int, width: int = WIDTH) -> FeatureData:
    """Features, labels and colour descriptors of a batch."""
    generator = torch.Generator().manual_seed(size)
    return FeatureData(torch.randn(size, width, generator=generator).relu(),
                       torch.arange(size) % CLASSES, torch.rand(size, 25, generator=generator))


def frozen_step(experiment: str, data: FeatureData) -> Callable[[], None]:
    """A training step of a head on features."""
    network = SilkHead(data.features.shape[1], CLASSES, seed=0)
    step = Step(network, find_experiment(experiment).loss(), Alone())
    optimiser, indices = torch.optim.Adam(network.parameters()), torch.arange(len(data))

    def do() -> None:
        optimiser.zero_grad()
        step.train(data, indices, [data.batch(indices).inputs])
        optimiser.step()

    return do


def losses_alone(size: int, device: str = "cpu") -> Callable[[], None]:
    """The similarity losses of a batch with their gradients."""
    batch = made_up(size, 1).batch(range(size)).to(device)
    loss = find_experiment("C + co + sem").loss().auxiliary
    f_aux = normalize(torch.randn(size, 32, device=device)).requires_grad_()

    def do() -> None:
        f_aux.grad = None
        loss(f_aux, batch.labels, batch.descriptors).backward()

    return do


def fine_tuning(backbone: str, pixels: int, images: int) -> Callable[[], None]:
    """Forward and backward of a whole network."""
    network = SilkClassifier(CLASSES, load_backbone(backbone, None, seed=0), trainable="all",
                             batch_norm="frozen").train()
    inputs = torch.randn(images, 3, pixels, pixels)

    def do() -> None:
        network.zero_grad()
        network(inputs).logits.sum().backward()

    return do


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--batch", type=int, default=180)
    parser.add_argument("--backbone", default="resnet152")
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--images", type=int, default=2, help="of fine-tuning that are measured")
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    data = made_up(args.batch)
    frozen = compare({name: frozen_step(name, data) for name in ("C + co + sem", "C")}, args.rounds)
    whole, without = frozen.values()
    alone = compare({"losses": losses_alone(args.batch)}, args.rounds)["losses"]
    tuned = compare({"step": fine_tuning(args.backbone, args.pixels, args.images)},
                    min(3, args.rounds))["step"] * args.batch / args.images
    report(args.json, losses_in_training=[
        {"step": "head on frozen features", "N": args.batch, "ms per step": 1e3 * whole,
         "without them": 1e3 * without, "similarity losses ms": 1e3 * alone,
         "share %": 100 * alone / whole},
        {"step": f"all of {args.backbone}, scaled up from {args.images} images", "N": args.batch,
         "ms per step": 1e3 * (tuned + alone), "similarity losses ms": 1e3 * alone,
         "share %": 100 * alone / (tuned + alone)}])


if __name__ == "__main__":
    main()
