"""How fast is the exact triplet loss? Ratios to pytorch-metric-learning, and one large batch.

Run: python benchmarks/losses.py
"""
import resource
import statistics
import subprocess
import sys
import time

import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.reducers import MeanReducer

from silk_nb.losses import semantic_similarity_loss, unit_length


def batch(size: int, classes: int = 9, dim: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(size)
    x = unit_length(torch.randn(size, dim, generator=generator))
    return x.requires_grad_(), torch.randint(0, classes, (size,), generator=generator)


def seconds(loss, x, labels) -> float:
    """Forward and backward, once."""
    x.grad = None
    start = time.perf_counter()
    loss(x, labels).backward()
    return time.perf_counter() - start


def compare(size: int, rounds: int) -> None:
    """Both losses in turn on one batch; medians and their ratio."""
    library = TripletMarginLoss(
        margin=1, triplets_per_anchor="all", reducer=MeanReducer(),
        distance=LpDistance(normalize_embeddings=False, p=2, power=1))
    x, labels = batch(size)
    seconds(semantic_similarity_loss, x, labels), seconds(library, x, labels)  # warm up
    pairs = [(seconds(semantic_similarity_loss, x, labels), seconds(library, x, labels))
             for _ in range(rounds)]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"{size:6d} {1e3 * ours:12.2f} {1e3 * theirs:12.2f} {theirs / ours:9.1f}")


def large(size: int = 8192) -> None:
    """One large batch, in a process of its own so that the peak of memory is its own."""
    taken = seconds(semantic_similarity_loss, *batch(size))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"N = {size}: {taken:.1f} s, peak memory of the process {peak:.2f} GiB")


if __name__ == "__main__":
    if sys.argv[1:] == ["large"]:
        large()
    else:
        print("semantic similarity loss, forward + backward, 9 classes, 32 dimensions")
        print(f"{'N':>6} {'silk_nb ms':>12} {'library ms':>12} {'ratio':>9}")
        for size, rounds in ((64, 30), (180, 20), (512, 5)):
            compare(size, rounds)
        subprocess.run([sys.executable, __file__, "large"], check=True)
