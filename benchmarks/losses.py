"""How fast is the exact triplet loss, and how much memory does it take?

Run: python benchmarks/losses.py

Three forms with their gradients on the same batches: this package's, pytorch-metric-learning's, and
the dense one of N³ numbers. Times are medians of turns in one process, memory is what a process of
its own needs beyond what it had before.
"""
import argparse
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

SIZES = (64, 180, 512, 1024, 4096, 16384)
SMALL = 512  # the largest batch for the two that grow with N³
LIBRARY = TripletMarginLoss(margin=1, triplets_per_anchor="all", reducer=MeanReducer(),
                            distance=LpDistance(normalize_embeddings=False, p=2, power=1))


def dense(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Eq. 3 as it is written."""
    d, same = torch.cdist(x, x), labels[:, None] == labels
    positive = same & ~torch.eye(len(x), dtype=torch.bool)
    valid = positive[:, :, None] & ~same[:, None, :]
    return (1 + d[:, :, None] - d[:, None, :]).clamp_min(0)[valid].mean()


FORMS = {"silk_nb": semantic_similarity_loss, "library": LIBRARY, "dense": dense}


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


def forms_of(size: int) -> list[str]:
    """Those that can do a batch of that size."""
    return list(FORMS) if size <= SMALL else ["silk_nb"]


def times(size: int) -> dict[str, float]:
    """Medians of the forms in turn on one batch, in seconds."""
    given, taken = batch(size), {}
    for _ in range(1 + max(1, min(30, 20_000 // size))):
        for name in forms_of(size):
            taken.setdefault(name, []).append(seconds(FORMS[name], *given))
    return {name: statistics.median(values[1:]) for name, values in taken.items()}


def memory(name: str, size: int) -> float:
    """MiB that one loss with its gradient needs, in a process of its own."""
    said = subprocess.run([sys.executable, __file__, "--memory", name, "--size", str(size)],
                          capture_output=True, text=True, check=True)
    return float(said.stdout)


def own_memory(name: str, size: int) -> float:
    """The same, in this process."""
    seconds(FORMS[name], *batch(16))  # what is compiled and allocated once
    given = batch(size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds(FORMS[name], *given)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, nargs="+", default=SIZES, help="of batches")
    args = parser.parse_args()
    if args.memory:
        print(own_memory(args.memory, args.size[0]))
        return
    print(f"semantic similarity loss with its gradient, 9 classes, 32 dimensions, "
          f"{torch.get_num_threads()} threads")
    print(f"{'N':>6} " + " ".join(f"{name + ' ms':>12} {'MiB':>7}" for name in FORMS)
          + f" {'library ÷':>10} {'dense ÷':>9}")
    for size in args.size:
        taken = times(size)
        row = [f"{1e3 * taken[name]:12.2f} {memory(name, size):7.0f}" if name in taken
               else f"{'–':>12} {'–':>7}" for name in FORMS]
        ratios = [f"{taken[name] / taken['silk_nb']:.1f}" if name in taken else "–"
                  for name in ("library", "dense")]
        print(f"{size:6d} " + " ".join(row) + f" {ratios[0]:>10} {ratios[1]:>9}", flush=True)


if __name__ == "__main__":
    main()
