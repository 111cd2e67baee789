"""What does a sampler cost? An epoch over many labels, against reading at random.

Run: python benchmarks/samplers.py

The measure is what the batches are for: reading 2,048 features of each of their images, at random
places in memory. Beside it stand torch's own batches at random and its balanced ones, which repeat
images. The labels follow a power law: the rarest class has a hundredth of the images of the most
frequent.
"""
import numpy as np
import torch
from common import compare, parser_of, report
from torch.utils.data import BatchSampler, RandomSampler, WeightedRandomSampler

from silk_nb.samplers import ClassBalancedBatchSampler, RandomBatchSampler

BATCH, CLASSES, WIDTH = 180, 10, 2048
ROWS = 40_000  # of features; more would be read no faster and may not fit


def labels_of(count: int) -> np.ndarray:
    """Labels of so many images."""
    weights = 100.0 ** -np.linspace(0, 1, CLASSES)
    return np.random.default_rng(0).choice(CLASSES, count, p=weights / weights.sum())


def drain(sampler: object) -> None:
    """Use every batch up."""
    for _ in sampler:
        pass


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    labels = labels_of(args.labels)
    weights = torch.from_numpy(1 / np.bincount(labels)[labels])
    features = torch.ones(min(args.labels, ROWS), WIDTH)
    chosen = torch.randint(len(features), (args.labels // BATCH, BATCH))
    samplers = {
        "torch, at random": BatchSampler(RandomSampler(labels), BATCH, True),
        "torch, balanced": BatchSampler(WeightedRandomSampler(weights, len(labels)), BATCH, True),
        "silk_nb, at random": RandomBatchSampler(labels, BATCH, seed=0),
        "silk_nb, balanced": ClassBalancedBatchSampler(labels, BATCH, seed=0)}
    taken = compare({
        "reading at random": lambda: drain(features[indices] for indices in chosen),
        **{name: lambda one=one: drain(one) for name, one in samplers.items()}}, args.rounds)
    report(args.json, samplers=[
        {"what": name, "labels": args.labels, "s per epoch": value,
         "µs per batch": 1e6 * value / len(chosen),
         "% of reading": 100 * value / taken["reading at random"]}
        for name, value in taken.items()])


if __name__ == "__main__":
    main()
