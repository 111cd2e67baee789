"""What the measurements share: ratios within one run, and a table of what was found."""
import argparse
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from silk_nb.annotations import atomic_write
from silk_nb.experiments import versions


def seconds(function: Callable[[], object]) -> float:
    """Time of one call, until a graphics card has done its part as well."""
    begin = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def compare(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Time of each way, from the median of its ratios to the first; each round does them all, so
    that other work on the machine hits all alike."""
    for way in ways.values():
        way()  # warm up
    taken = [{name: seconds(way) for name, way in ways.items()} for _ in range(rounds)]
    first = next(iter(ways))
    base = statistics.median(row[first] for row in taken)
    return {name: base * statistics.median(row[name] / row[first] for row in taken)
            for name in ways}


@contextmanager
def peak_of(look: Callable[[], np.ndarray], every: float) -> Iterator[np.ndarray]:
    """What is, at the end, the peaks of the numbers that `look` gave every so many seconds.

    They are watched from a thread: not every system keeps the peak of a process itself.
    """
    peak, over = np.zeros_like(look()), threading.Event()

    def watch() -> None:
        while not over.wait(every):
            np.maximum(peak, look(), out=peak)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()


def peak_growth() -> AbstractContextManager[np.ndarray]:
    """One number that is, at the end, by how many MiB this process grew at most meanwhile."""
    own = psutil.Process()
    before = own.memory_info().rss
    return peak_of(lambda: np.array([(own.memory_info().rss - before) / 2**20]), 0.001)


def made_up_images(folder: Path, count: int, size: int) -> list[Path]:
    """Files of noise, for what does not depend on what is to be seen."""
    rng, paths = np.random.default_rng(0), []
    for n in range(count):
        pixels = rng.integers(0, 256, (size // 8 + 1, size // 8 + 1, 3), np.uint8)
        paths.append(folder / f"{n}.jpg")
        Image.fromarray(pixels).resize((size, size)).save(paths[-1])
    return paths


def machine() -> dict[str, object]:
    """Where and with what this runs."""
    card = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {"date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "system": f"{platform.system()} {platform.machine()}", "processors": os.cpu_count(),
            "threads": torch.get_num_threads(), **card, **versions()}


def parser_of(text: str) -> argparse.ArgumentParser:
    """A command line with what all of them take; `text` is the script's docstring."""
    parser = argparse.ArgumentParser(description=" ".join(text.split("\n\n")[0].split()))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there too")
    return parser


def report(file: Path | None, **tables: list[dict]) -> None:
    """Print tables, and write them whole or not at all with the machine and the versions."""
    made = machine()
    for name, rows in tables.items():
        print(f"\n{name.replace('_', ' ')}")
        columns = list(dict.fromkeys(column for row in rows for column in row))
        lines = [columns] + [[_shown(row.get(column)) for column in columns] for row in rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            print("  " + "   ".join(f"{text:>{width}}" for text, width in zip(
                line, widths, strict=True)))
    print("\n" + ", ".join(f"{name} {value}" for name, value in made.items()), flush=True)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part:
            part.write_text(json.dumps({"made": made, "tables": tables}, indent=1) + "\n")


def _shown(value: object) -> str:
    """A cell of a table: three digits that count."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
