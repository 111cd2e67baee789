"""How long does the paper's whole study take, and how much memory? The 96 runs of Table 3.

Run: python benchmarks/paper_scale.py                                     all 96 runs
     python benchmarks/paper_scale.py --workers 2                         in two processes
     python benchmarks/paper_scale.py --variables technique --seeds 1     8 of them, scaled up

Labels and objects are those of SILKNOW's real lists (../shared/data/silknow); the photographs are
not at hand, so what a network would see in them is made up: 2,048 numbers per image. Pure noise
would stop every training after a few epochs and flatter the figures. Here an image is a point in
96 dimensions: one of twelve prototypes of its class for every variable it has a label of, plus
what all images of its object share, plus a part of its own; then projected to 2,048 dimensions,
with noise, cut at zero as a network's pooled features are. STRENGTH, the size of the prototypes,
is set so that trainings are as long as on the real photographs of ../shared/data/clothing (Table
3's eight on frozen mobilenet_v2: 17 to 25 epochs, the best validation accuracy 0.68 to 0.71). The
numbers of epochs are printed, for the time is proportional to them.
"""
import argparse
import json
import os
import resource
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import psutil
import torch
from common import peak_of

from silk_nb import experiments, losses, study, training
from silk_nb.annotations import read_annotations
from silk_nb.experiments import Prepared, RunConfig, given_features
from silk_nb.study import plan_study, run_study

LISTS = Path(__file__).resolve().parents[2] / "shared" / "data" / "silknow"
VARIABLES = ("material", "technique", "place", "timespan")
WIDTH, LATENT, PROTOTYPES, STRENGTH = 2048, 96, 12, 0.5
PIXELS, CELLS = 224 * 224, 25  # of the colour descriptor
ROWS = 4096  # images made at a time


def read_lists(share: float) -> pd.DataFrame:
    """The label table of the real lists, or a share of its rows."""
    lists = [LISTS / f"collection_{name}.txt" for name in ("train", "dev", "test")]
    table = read_annotations(lists)
    return table if share == 1 else table.sample(frac=share, random_state=0, ignore_index=True)


def make_up(table: pd.DataFrame, seed: int = 0) -> Prepared:
    """Features N×2048 and colour descriptors N×25, float32, as described above."""
    rng, size = np.random.default_rng(seed), len(table)
    objects = pd.factorize(table["group"])[0]
    shared = rng.standard_normal((objects.max() + 1, LATENT), np.float32)
    points = shared[objects] + rng.standard_normal((size, LATENT), np.float32)
    for variable in VARIABLES:
        codes = pd.factorize(table[variable])[0]
        prototypes = rng.standard_normal((codes.max() + 1, PROTOTYPES, LATENT), np.float32)
        chosen = prototypes[codes, rng.integers(PROTOTYPES, size=size)]
        points += np.float32(STRENGTH) * np.where(codes[:, None] >= 0, chosen, 0)
    projection = rng.standard_normal((LATENT, WIDTH), np.float32) / np.float32(LATENT**0.5)
    features = np.empty((size, WIDTH), np.float32)
    colours = np.empty((size, CELLS), np.float32)
    for start in range(0, size, ROWS):
        rows = slice(start, start + ROWS)
        seen = points[rows] @ projection
        seen += rng.standard_normal(seen.shape, np.float32)
        np.maximum(seen, 0, out=features[rows])
        shares = rng.dirichlet(np.full(CELLS, 0.2), size=len(seen))
        colours[rows] = rng.multinomial(PIXELS, shares)
    return given_features(table, torch.from_numpy(features), torch.from_numpy(colours))


class Clock:
    """Seconds inside functions of this process; of nested ones the innermost counts."""

    def __init__(self, file: Path | None = None) -> None:  # where to leave them, for a worker
        self.wall, self.processor = Counter(), Counter()
        self._inner, self._file = [], file

    def watch(self, owner: object, name: str, label: str) -> None:
        """Count the time in `owner.name` under `label`. `AttributeError` where it is gone."""
        plain = getattr(owner, name)

        @wraps(plain)  # under the same name a pool can hand it on
        def timed(*args, **more):
            start = np.array([time.perf_counter(), time.process_time()])
            self._inner.append(np.zeros(2))
            try:
                return plain(*args, **more)
            finally:
                taken = np.array([time.perf_counter(), time.process_time()]) - start
                own = taken - self._inner.pop()
                self.wall[label] += own[0]
                self.processor[label] += own[1]
                if self._inner:
                    self._inner[-1] += taken
                elif self._file:
                    self._file.write_text(json.dumps([self.wall, self.processor]))

        setattr(owner, name, timed)

    def take_in(self, file: Path) -> None:
        """Add what a worker left."""
        for mine, other in zip((self.wall, self.processor), json.loads(file.read_text()),
                               strict=True):
            mine.update(other)

    def watch_study(self) -> None:
        """The parts of a study that could matter."""
        for owner, name, label in (
                (training, "_train_epoch", "training steps"),
                (training, "_validate", "validation after each epoch"),
                (losses.AuxiliaryClusteringLoss, "parts", "similarity losses, forward"),
                (training._Progress, "save", "checkpoints"),
                (training, "_fingerprint", "fingerprints of data and features"),
                (experiments, "data_fingerprint", "fingerprints of data and features"),
                (study, "data_fingerprint", "fingerprints of data and features"),
                (experiments, "split_annotations", "splits"),
                (study, "split_annotations", "splits"),
                (study, "_store_seen", "storing features, once"),
                (study, "_load_seen", "loading features"),
                (experiments, "_parts", "loading features"),
                (experiments, "apply_network", "scores of validation and test images"),
                (experiments, "standard_figures", "figures and report"),
                (experiments, "write_report", "figures and report"),
                (experiments, "_write_results", "figures and report"),
                (experiments, "_save_network", "tables and weights"),
                (experiments, "_begin", "tables and weights"),
                (experiments, "write_table", "tables and weights"),
                (study, "write_table", "tables and weights"),
                (study, "collect_study", "tables and weights"),
                (study, "_one_run", "everything else"),
                (study, "_do_runs", "everything else")):
            self.watch(owner, name, label)


def begin_worker(folder: str) -> None:
    """One thread, and a clock whose seconds end up in the folder."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    Clock(Path(folder) / f"clock-{os.getpid()}.json").watch_study()


def _memory(process: psutil.Process) -> np.ndarray:
    """Resident GiB of a process, and the same with pages that are shared divided (Linux)."""
    try:
        found = process.memory_full_info()
    except psutil.Error:  # it has just ended
        return np.zeros(2)
    return np.array([found.rss, getattr(found, "pss", found.rss)]) / 2**30


def peak_memory() -> AbstractContextManager[np.ndarray]:
    """Two numbers that are, at the end, the peaks of `_memory`, summed over child processes."""
    own = psutil.Process()
    return peak_of(lambda: sum(map(_memory, (own, *own.children(recursive=True)))), 0.5)


def processor_seconds() -> float:
    """Of this process, and of children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in used)


def measured_runs(folder: Path, table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Images, epochs and seconds of each run, from the times of its files."""
    rows = []
    for run in runs.to_dict("records"):
        begun, trained, ended = ((folder / run["folder"] / name).stat().st_mtime for name in (
            "config.json", "weights.safetensors", "metrics.json"))
        epochs = len(pd.read_csv(folder / run["folder"] / "history.csv", usecols=["epoch"]))
        rows.append({**run, "images": int(table[run["variable"]].notna().sum()), "epochs": epochs,
                     "seconds": ended - begun, "s/epoch": (trained - begun) / epochs})
    return pd.DataFrame(rows).drop(columns="folder")


def scaled_up(measured: pd.DataFrame, table: pd.DataFrame, wall: float) -> float:
    """Seconds of all 96 runs where `measured` took `wall`: epochs stay as many for an experiment,
    an epoch costs in proportion to the images, and a run has a fixed cost besides.
    """
    by_experiment = measured.assign(each=measured["s/epoch"] / measured["images"]).groupby(
        "experiment")[["each", "epochs"]].mean()
    trained = (measured["epochs"] * measured["s/epoch"]).sum()
    images = table[list(VARIABLES)].notna().sum().sum()  # a variable's images, over all variables
    an_experiment = (by_experiment["each"] * by_experiment["epochs"]).mean() * images
    return 8 * 3 * an_experiment + (wall - trained) / len(measured) * 96


def report(measured: pd.DataFrame, clock: Clock, figures: dict[str, str]) -> None:
    """Print it all."""
    shown = measured.groupby(["variable", "experiment"], sort=False).agg(
        runs=("seed", "size"), images=("images", "first"), epochs=("epochs", "mean"),
        **{"s/run": ("seconds", "mean"), "s/epoch": ("s/epoch", "mean")})
    print(shown.round({"epochs": 1, "s/run": 1, "s/epoch": 2}).reset_index().to_string(index=False))
    total = sum(clock.wall.values())
    print("\nwhere the time goes (training steps include the backward pass of all losses)")
    for label, seconds in clock.wall.most_common():
        print(f"  {label:38s} {seconds:8.1f} s {seconds / total:6.1%}   "
              f"processor {clock.processor[label]:8.1f} s")
    print()
    for name, value in figures.items():
        print(f"{name}: {value}")


def do_study(table: pd.DataFrame, prepared: Prepared, args: argparse.Namespace) -> None:
    """Run it, and print what it took."""
    clock, runs = Clock(), plan_study(args.variables, args.experiments, args.seeds)
    clock.watch_study()
    with TemporaryDirectory() as folder, TemporaryDirectory() as clocks, peak_memory() as peak:
        pool = ProcessPoolExecutor(args.workers, get_context("spawn"), begin_worker, (clocks,)
                                   ) if args.workers else nullcontext()
        wall, used = time.perf_counter(), processor_seconds()
        with pool as executor:
            run_study(table, folder, args.variables, args.experiments, args.seeds,
                      config=RunConfig("", max_epochs=args.epochs), prepared=prepared,
                      executor=executor)
        wall, used = time.perf_counter() - wall, processor_seconds() - used
        measured = measured_runs(Path(folder), table, runs)
        if args.workers:
            del clock.wall["everything else"]  # there was nothing to do here but to wait
            for file in Path(clocks).iterdir():
                clock.take_in(file)
    figures = {"wall time": f"{wall / 60:.1f} min for {len(runs)} runs",
               "processor time": f"{used / 60:.1f} min",
               "peak memory": f"{peak[1]:.2f} GiB of all processes together "
                              f"({peak[0]:.2f} GiB if what they share counts in each)"}
    if len(runs) < 96:
        side = max(args.workers, 1)
        whole = scaled_up(measured, table, wall * side) / side
        figures["all 96 runs would take"] = (
            f"{whole / 60:.0f} min, of processors {whole * used / wall / 60:.0f} min, if epochs "
            "stay as many and cost in proportion to the images")
    report(measured, clock, figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variables", nargs="+", choices=VARIABLES, default=VARIABLES)
    parser.add_argument("--experiments", nargs="+", default=["paper"])
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: 3)")
    parser.add_argument("--workers", type=int, default=0, help="processes of one thread each "
                        "(default: 0, in this process with all its threads)")
    parser.add_argument("--epochs", type=int, default=200, help="at most (default: 200)")
    parser.add_argument("--share", type=float, default=1.0, help="of the images (default: 1)")
    args = parser.parse_args()
    if not LISTS.is_dir():
        print(f"Left out: the label lists of SILKNOW are not at hand ({LISTS}).")
        return
    warnings.simplefilter("ignore")
    table, start = read_lists(args.share), time.perf_counter()
    prepared = make_up(table)
    print(f"{len(table):,} images, features made up in {time.perf_counter() - start:.0f} s; "
          f"PyTorch {torch.__version__}, {args.workers or 'no'} workers, "
          f"{1 if args.workers else torch.get_num_threads()} threads", flush=True)
    do_study(table, prepared, args)


if __name__ == "__main__":
    main()
