"""How does the time of a run grow with the data? From 1,000 to 100,000 rows.

Run: python benchmarks/rows.py

A run is everything: split, training, scores, figures and report. Features are made up, and the
number of epochs is fixed.
"""
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import parser_of, report

from silk_nb.experiments import RunConfig, given_features, run_experiment

CLASSES = 9


def made_up(rows: int, width: int) -> tuple[pd.DataFrame, torch.Tensor, torch.Tensor]:
    """Label table with two images of each object, features and colour descriptors."""
    rng = np.random.default_rng(rows)
    codes = np.repeat(rng.integers(CLASSES, size=rows // 2), 2)
    table = pd.DataFrame({
        "image": [f"{n}.jpg" for n in range(len(codes))],
        "group": [f"object {n // 2}" for n in range(len(codes))],
        "kind": pd.Categorical.from_codes(codes, [f"class {k}" for k in range(CLASSES)])})
    centres = rng.standard_normal((CLASSES, width), np.float32)
    features = centres[codes] + 2 * rng.standard_normal((len(codes), width), np.float32)
    return table, torch.from_numpy(features), torch.rand(len(codes), 25)


def seconds(rows: int, width: int, epochs: int) -> float:
    """Time of one run."""
    table, features, colours = made_up(rows, width)
    prepared = given_features(table, features, colours)
    config = RunConfig("kind", "C + co + sem", max_epochs=epochs, batch_size=None)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        begin = time.perf_counter()
        run_experiment(table, Path(folder) / "run", config, prepared=prepared, device="cpu",
                       quiet=True)
        return time.perf_counter() - begin


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rows", type=int, nargs="+",
                        default=[1_000, 3_000, 10_000, 30_000, 100_000])
    parser.add_argument("--width", type=int, default=512, help="of the features")
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    seconds(min(args.rows), args.width, 1)  # warm up
    report(args.json, rows=[
        {"rows": rows, "epochs": args.epochs, "s": value, "ms per row": 1e3 * value / rows}
        for rows in args.rows for value in [seconds(rows, args.width, args.epochs)]])


if __name__ == "__main__":
    main()
