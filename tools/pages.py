"""Run every page as nbdev_test does, and compare what it shows with the outputs stored in it.

A published page shows stored outputs. They must be those of the code: what the cells print and
return has to be the same text, and their figures the same in number, kind and size. Times,
temporary folders and the pixels of figures may differ.

Run: python tools/pages.py [--workers 2] [--run-only] [NAME …]
"""
import argparse
import base64
import difflib
import io
import multiprocessing
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import nbdev.test
from execnb.shell import CaptureShell
from nbdev.config import get_config
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / "nbs"
CHANGING = (  # what differs from run to run, and what stands for it
    (re.compile(r"\d[\d.,]*(?: ?|&nbsp;)(?:µs|ms|s|min|h)\b"), "‹time›"),
    (re.compile(r"(?<![\w.])/(?:\w+/)*tmp\w+"), "‹folder›"),
    (re.compile(r"0x[0-9a-f]{6,}"), "‹address›"),
)


class StaleOutputError(AssertionError):
    """The stored outputs of a page are not those of its code."""


def picture_kind(output: dict) -> str | None:
    """The kind of picture that an output is, such as image/png."""
    return next((kind for kind in output.get("data", {}) if kind.startswith("image/")), None)


def settled(text: str | list[str]) -> str:
    """A text with what differs from run to run taken out."""
    text = text if isinstance(text, str) else "".join(text)
    for pattern, stand_in in CHANGING:
        text = pattern.sub(stand_in, text)
    return text.rstrip("\n")


def shown(outputs: list) -> list[str]:
    """What a reader sees of a cell: its printed text, then texts, tables and figures in order."""
    printed = "".join("".join(o["text"]) for o in outputs
                      if o["output_type"] == "stream" and o["name"] == "stdout")
    seen = [settled(printed)] if printed else []
    for output in outputs:
        data = output.get("data", {})
        if kind := picture_kind(output):  # the text beside it says how large, and how many axes
            seen.append(f"{kind} {settled(data.get('text/plain', ''))}")
        elif data:
            kinds = [kind for kind in ("text/html", "text/markdown", "text/plain") if kind in data]
            seen.append(settled(data[kinds[0]]) if kinds else f"{sorted(data)}")
    return seen


def figure_sizes(outputs: list) -> list[tuple[int, int]]:
    """Width and height of the figures of a cell, in pixels."""
    return [Image.open(io.BytesIO(base64.b64decode(output["data"][kind]))).size
            for output in outputs if (kind := picture_kind(output))]


def difference(stored: list, now: list) -> str:
    """How the outputs of a cell differ from what is stored; empty where they do not."""
    lines = difflib.unified_diff("\n".join(shown(stored)).splitlines(),
                                 "\n".join(shown(now)).splitlines(), "stored", "now", lineterm="")
    told = "\n".join(lines)
    for old, new in zip(figure_sizes(stored), figure_sizes(now), strict=not told):
        if any(abs(a - b) > 0.05 * max(a, b) for a, b in zip(old, new, strict=True)):
            told += f"\na figure has {new} pixels, the stored one {old}"
    return told


class ComparingShell(CaptureShell):
    """nbdev's shell, which fails a page whose outputs are not the stored ones."""

    def __init__(self, path: Path | None = None) -> None:
        super().__init__(path, mpl_format="png")

    def run_all(self, nb, exc_stop=False, preproc=lambda cell: False, **more) -> None:
        """Run the cells, then compare those that ran."""
        ran = [cell for cell in nb.cells if not preproc(cell)]
        stored = [cell.outputs for cell in ran]
        for cell in ran:
            cell.outputs = []
        super().run_all(nb, exc_stop=exc_stop, preproc=preproc, **more)
        told = [f"{cell.source}\n{changed}" for cell, old in zip(ran, stored, strict=True)
                if (changed := difference(old, cell.outputs))]
        if told:
            self.exc = StaleOutputError("\n\n".join([
                "stored outputs are not those of the code: run jupyter execute --inplace, then "
                "nbdev_clean (where only this machine's rounding differs: --run-only)", *told]))
            raise self.exc


def check(path: Path, run_only: bool = False) -> tuple[bool, float]:
    """Whether a page runs and its outputs are the stored ones, and its seconds."""
    nbdev.test.CaptureShell = CaptureShell if run_only else ComparingShell
    os.chdir(NBS)
    return nbdev.test.test_nb(path, skip_flags=get_config().tst_flags.split(), basepath=ROOT)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="part of a file name")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--run-only", action="store_true", help="do not compare outputs")
    given = parser.parse_args()
    pages = [p for p in sorted(NBS.rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts
             and (not given.names or any(name in p.name for name in given.names))]
    if not pages:
        print(f"no page in {NBS} is called like {', '.join(given.names)}")
        return 1
    from pages import check  # by its module's name: a notebook takes the place of __main__
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # sums in one order on any number of cores
    good, failed = "runs" if given.run_only else "as stored", []
    # A process per page, so that no page changes another, forked from one that has the imports.
    fresh = multiprocessing.get_context("forkserver")
    fresh.set_forkserver_preload(["nbdev.test", "torchvision", "seaborn", "sklearn.linear_model"])
    with ProcessPoolExecutor(given.workers, mp_context=fresh, max_tasks_per_child=1) as pool:
        for page, (passed, seconds) in zip(
                pages, pool.map(partial(check, run_only=given.run_only), pages), strict=True):
            print(f"{page.relative_to(NBS)}: {good if passed else 'FAILED'}, {seconds:.0f} s",
                  flush=True)
            failed += [] if passed else [page.name]
    print(f"{len(failed)} of {len(pages)} pages failed: {', '.join(failed)}" if failed
          else f"{len(pages)} pages: {good}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
