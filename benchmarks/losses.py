"""How fast is the exact triplet loss, and how much memory does it take?

Run: python benchmarks/losses.py

Three forms with their gradients on the same batches: this package's, pytorch-metric-learning's, and
the dense one of N³ numbers. Times are medians of turns in one process, memory is by how much a
process of its own grows at most.
"""
import argparse
import statistics
import subprocess
import sys
import time

import torch
from common import parser_of, peak_growth, report
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.reducers import MeanReducer

from silk_nb.losses import semantic_similarity_loss, unit_length

SIZES = (64, 180, 512, 1024, 4096, 16384)
SMALL = 512  # the largest batch for the two that grow with N³
TURNS, PATIENCE = 30, 10.0  # at most so many, and none begun after so many seconds
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
    given, begin = batch(size), time.perf_counter()
    taken = {name: [seconds(FORMS[name], *given)] for name in forms_of(size)}  # warm up
    for _ in range(TURNS):
        for name in taken:
            taken[name].append(seconds(FORMS[name], *given))
        if time.perf_counter() - begin > PATIENCE:
            break
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
    with peak_growth() as peak:
        seconds(FORMS[name], *given)
    return float(peak[0])


def row(size: int) -> dict[str, float]:
    """What is measured of one batch size."""
    taken = times(size)
    found = {"N": size}
    for name, value in taken.items():
        found |= {f"{name} ms": 1e3 * value, f"{name} MiB": memory(name, size)}
    return found | {f"{name} ÷ silk_nb": value / taken["silk_nb"] for name, value in taken.items()
                    if name != "silk_nb"}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--memory", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, nargs="+", default=SIZES, help="of batches")
    args = parser.parse_args()
    if args.memory:
        print(own_memory(args.memory, args.size[0]))
    else:
        report(args.json, losses=[row(size) for size in args.size])


if __name__ == "__main__":
    main()
