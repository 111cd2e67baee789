"""How near does fine-tuning come to the bare network? In images per second.

Run: python benchmarks/fine_tuning.py               ResNet152, 224 px, batch 180, bf16 on the GPU
     python benchmarks/fine_tuning.py --small       a small network on a processor

Bare is forward and backward on tensors that lie on the device already. The real thing is an epoch
of training: store, balanced sampler, all losses of C + co + sem, backward and Adam. The similarity
losses are timed on their own as well, and every wait of the host for the GPU is counted.
"""
import tempfile
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch
from common import compare, made_up_images, parser_of, report, seconds
from losses_in_training import losses_alone

from silk_nb import training
from silk_nb.model import SilkClassifier, load_backbone, speed_up
from silk_nb.recipes import find_experiment
from silk_nb.steps import Alone, Step
from silk_nb.store import StoredData, build_store

CLASSES = 9
SMALL = {"backbone": "mobilenet_v2", "pixels": 96, "batch": 36, "images": 180, "rounds": 3,
         "precision": "float32", "device": "cpu"}
FULL = {"backbone": "resnet152", "pixels": 224, "batch": 180, "images": 1800, "rounds": 3,
        "precision": "bf16", "device": "cuda"}


def counted_waits(function: Callable[[], object], device: torch.device) -> int | None:
    """How often the host waits for the GPU; None where there is none."""
    if device.type != "cuda":
        return None
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            function()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in told)


@contextmanager
def prepared(args):
    """Step, data, sampler and optimiser of a training."""
    backbone = load_backbone(args.backbone, None, seed=0, input_size=args.pixels)
    network = speed_up(SilkClassifier(CLASSES, backbone, trainable="all", batch_norm="frozen"),
                       ["channels-last"])
    labels = torch.arange(args.images) % CLASSES
    experiment = find_experiment("C + co + sem")
    sampler = experiment.sampler(labels, args.batch, seed=0)
    place = Alone(args.device, args.precision)
    step = Step(place.prepare(network), experiment.loss(), place, args.micro_batch)
    with tempfile.TemporaryDirectory() as work:
        paths = made_up_images(Path(work), args.images, args.pixels)
        store = build_store(paths, args.pixels, cache=Path(work) / "cache", quiet=True)
        data = StoredData(store, labels, mean=backbone.mean, std=backbone.std,
                          descriptors=torch.rand(args.images, 25))
        yield step, data, sampler, torch.optim.Adam(network.parameters(), fused=True)


def bare(step: Step, batch: int, pixels: int, times: int) -> None:
    """Forward and backward on the same tensor."""
    step.network.train()
    inputs = torch.randn(batch, 3, pixels, pixels, device=step.place.device).to(
        memory_format=torch.channels_last)
    for _ in range(times):
        step.network.zero_grad(set_to_none=True)
        step._forward(inputs).logits.sum().backward()


def measure(args) -> dict[str, list[dict]]:
    """Rates and shares, and the losses on their own."""
    device = torch.device(args.device)
    with prepared(args) as (step, data, sampler, optimiser):
        batches = len(sampler)
        ways = {"bare": lambda: bare(step, args.micro_batch or args.batch, args.pixels,
                                     batches * args.batch // (args.micro_batch or args.batch)),
                "real": lambda: training._train_epoch(step, data, sampler, optimiser, 1)}
        taken = compare(ways, args.rounds)
        waits = counted_waits(ways["real"], device)
    images = batches * args.batch
    row = {"network": f"{args.backbone}, {args.pixels} px", "N": args.batch,
           "precision": args.precision, "device": args.device,
           **{f"{name} images/s": images / value for name, value in taken.items()},
           "share of bare %": 100 * taken["bare"] / taken["real"]}
    if waits is not None:
        row["waits per step"] = waits / batches
    alone = []
    for size in args.losses:
        do = losses_alone(size, args.device)
        do()
        value = min(seconds(do) for _ in range(20))
        alone.append({"N": size, "device": args.device, "similarity losses ms": 1e3 * value,
                      "waits": counted_waits(do, device)})
    return {"fine_tuning": [row], "losses_alone": alone}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--small", action="store_true",
                        help="defaults for a processor: " + ", ".join(
                            f"{name} {value}" for name, value in SMALL.items()))
    for name, value in FULL.items():
        parser.add_argument(f"--{name}", type=type(value), help=f"default: {value}")
    parser.add_argument("--micro-batch", type=int, help="images at a time, where memory is short")
    parser.add_argument("--losses", type=int, nargs="+", default=[180, 4096],
                        help="batch sizes at which the losses are timed alone")
    args = parser.parse_args()
    for name, value in (SMALL if args.small else FULL).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("There is no GPU that PyTorch can use: nothing was measured. On a "
                         "processor, --small measures a small network.")
    report(args.json, **measure(args))


if __name__ == "__main__":
    main()
