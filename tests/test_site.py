"""The site, as far as it can be checked where quarto is not installed."""
import base64
import io
import json
import os
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / "nbs"
PAGES = sorted(p for p in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
sys.path.insert(0, str(ROOT / "tools"))


def cells(path, kind=None):
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [c for c in found if kind in (None, c["cell_type"])]


def source(cell):
    return "".join(cell["source"])


def pictures(cell):
    return [kind for output in cell.get("outputs", []) for kind in output.get("data", {})
            if kind.startswith("image/")]


def name(page):
    return page.relative_to(NBS).as_posix()


# ---- nbdev's own preparation ----------------------------------------------------------------

PREPARE = """
import json, os, sys
from pathlib import Path
os.environ["IN_TEST"] = "1"
from execnb.nbio import read_nb, write_nb
from nbdev.processors import FilterDefaults
for page in sys.argv[2:]:  # the steps of nbdev_docs before quarto, without its processes
    notebook = read_nb(page)
    FilterDefaults()(notebook)
    made = Path(sys.argv[1]) / page
    made.parent.mkdir(exist_ok=True)
    write_nb(notebook, made)
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folder of pages as nbdev hands them to quarto."""
    folder = tmp_path_factory.mktemp("prepared")
    done = subprocess.run([sys.executable, "-c", PREPARE, folder, *map(name, PAGES)],
                          cwd=NBS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_nbdev_prepares_every_page(page, prepared):
    made = cells(prepared / name(page))
    head = yaml.safe_load(source(made[0]).strip("-\n"))
    title, subtitle = re.match(r"# (.+)\n+> (.+)", source(cells(page)[0])).groups()
    assert (head["title"], head["description"]) == (title, subtitle)
    text = "\n".join(map(source, made))
    assert not re.search(r"^#\| *(hide|default_exp)\b", text, re.M)  # such cells are left out
    shown = [c for c in cells(page, "code") if not re.search(r"^#\| *hide\b", source(c), re.M)]
    for cell in shown:
        if pictures(cell):
            label = re.search(r"^#\| label: (\S+)", source(cell), re.M).group(1)
            after = [c for c in made if f"label: {label}\n" in source(c)]
            assert len(after) == 1 and pictures(after[0]) == pictures(cell), label


def test_nbdev_names_each_page_once(prepared):
    heads = {page: yaml.safe_load(source(cells(prepared / name(page))[0]).strip("-\n"))
             for page in PAGES}
    written = [(page.parent, head.get("output-file", page.with_suffix(".html").name))
               for page, head in heads.items()]
    assert len(set(written)) == len(PAGES)


# ---- links and cross-references --------------------------------------------------------------

def anchors(page):
    """The identifiers that pandoc gives to the headings of a page."""
    found = set()
    for cell in cells(page, "markdown"):
        prose = re.sub(r"^```.*?^```", "", source(cell), flags=re.M | re.S)
        for heading in re.findall(r"^#{1,6} +(.+?) *$", prose, re.M):
            if explicit := re.search(r"\{#([\w:.-]+)[^}]*\}$", heading):
                found.add(explicit.group(1))
                continue
            words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
            words = re.sub(r"[^\w\s.-]", "", words)
            found.add(re.sub(r"\s", "-", re.sub(r"^[^a-zà-ÿα-ω]+", "", words.strip())))
    return found


def links(page):
    """Targets of the links of a page that do not leave the site."""
    for cell in cells(page, "markdown"):
        prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", source(cell), flags=re.M | re.S)
        for target in re.findall(r"\]\(\s*<?([^()\s>]+)", prose):
            if not re.match(r"https?:|mailto:", target):
                yield target


def broken(page):
    for target in links(page):
        place, _, anchor = target.partition("#")
        there = (page.parent / place).resolve() if place else page
        if there not in PAGES:
            yield f"{target}: no such page"
        elif anchor and anchor not in anchors(there):
            yield f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_pages_and_headings(page):
    assert not list(broken(page))


def test_broken_links_are_found(tmp_path, monkeypatch):
    page = tmp_path / "page.ipynb"
    prose = ("# A page: the first\n\n[here](#a-page-the-first), [not](#elsewhere), "
             "[nor](other.ipynb), [away](https://example.org)\n\n```\n[code](no.ipynb)\n```")
    page.write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": [prose]}]}))
    monkeypatch.setitem(globals(), "PAGES", [page])
    assert list(broken(page)) == ["#elsewhere: no such heading", "other.ipynb: no such page"]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_cross_references_have_their_target_on_the_page(page):
    text = "\n".join(source(c) for c in cells(page, "markdown"))
    code = "\n".join(source(c) for c in cells(page, "code"))
    targets = re.findall(r"\{#([\w-]+)", text) + re.findall(r"^#\| label: (\S+)", code, re.M)
    assert len(targets) == len(set(targets))
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.M | re.S)
    assert set(re.findall(r"(?<![\w@])@((?:fig|tbl|eq|sec|lst)-[\w-]+)", prose)) <= set(targets)


# ---- a picture early --------------------------------------------------------------------------

def first_picture(page):
    """Where the first picture stands, as a share of what a reader sees of the page; 1 for none."""
    hidden = re.compile(r"^#\| *(hide|default_exp)\b", re.M)
    shown = [c for c in cells(page) if not hidden.search(source(c))]
    lengths = [len(source(c)) for c in shown]
    at = next((i for i, cell in enumerate(shown) if pictures(cell)), len(shown))
    return sum(lengths[:at]) / sum(lengths)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_picture_stands_in_the_first_part_of_a_page(page):
    assert first_picture(page) < 1, "the page has no picture"
    assert first_picture(page) <= 0.5


def test_a_late_picture_is_found(tmp_path):
    def cell(text, *outputs):
        return {"cell_type": "code", "source": [text], "outputs": list(outputs)}
    page = tmp_path / "page.ipynb"
    for made, share in (([cell("a" * 60), cell("b" * 40, figure())], 0.6), ([cell("a")], 1),
                        ([cell("#| hide\n" + "a" * 99), cell("b", figure())], 0)):
        page.write_text(json.dumps({"cells": made}))
        assert first_picture(page) == share


# ---- figures in the light and in the dark ----------------------------------------------------

@pytest.mark.parametrize("page", PAGES, ids=name)
def test_figures_are_drawn_on_white(page):
    for cell in cells(page, "code"):
        for output in cell["outputs"]:
            for kind in pictures({"outputs": [output]}):
                figure = Image.open(io.BytesIO(base64.b64decode(output["data"][kind])))
                on_white = Image.new("RGBA", figure.size, "white")
                on_white.alpha_composite(figure.convert("RGBA"))
                edge = [on_white.getpixel((x, y))[:3] for x in (0, figure.width - 1)
                        for y in (0, figure.height - 1)]
                assert min(map(min, edge)) > 240, source(cell)[:80]


def test_the_dark_theme_keeps_the_white_of_figures():
    html = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))["format"]["html"]
    assert set(html["theme"]) == {"light", "dark"}
    style = "".join(part["text"] for part in html["include-in-header"])
    assert re.search(r"main img[^{]*\{[^}]*background: *#fff", style)


# ---- configuration ---------------------------------------------------------------------------

def test_the_arrangement_that_nbdev_and_quarto_both_accept():
    stub = yaml.safe_load((NBS / "_quarto.yml").read_text(encoding="utf-8"))
    assert stub == {"metadata-files": ["../_quarto.yml", "nbdev.yml", "sidebar.yml"]}
    site = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    assert site["project"] == {"type": "website"}  # nbdev says where the output goes
    assert site["execute"]["enabled"] is False  # stored outputs are shown
    assert site["website"]["search"] and site["format"]["html"]["grid"]["body-width"]
    menu = [entry["href"] for entry in site["website"]["navbar"]["left"]]
    assert menu[0] == "index.ipynb" and all((NBS / page).is_file() for page in menu)


def test_the_workflow_publishes_what_make_docs_builds():
    workflow = yaml.safe_load((ROOT / ".github/workflows/docs.yaml").read_text(encoding="utf-8"))
    steps = workflow["jobs"]["publish"]["steps"]
    used = [step.get("uses", step.get("run", "")) for step in steps]
    order = [next(i for i, step in enumerate(used) if part in step)
             for part in ("checkout", "setup-python", "quarto-actions/setup", "make docs",
                          "actions-gh-pages")]
    assert order == sorted(order)
    settings = ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    assert steps[order[-1]]["with"]["publish_dir"] == settings["DEFAULT"]["doc_path"]
    assert workflow["permissions"] == {"contents": "write"}  # the branch gh-pages


def test_make_docs_says_how_to_install_quarto(tmp_path):
    for tool in ("make", "sh"):
        (tmp_path / tool).symlink_to(next(
            at for folder in os.environ["PATH"].split(os.pathsep)
            if (at := Path(folder) / tool).exists()))
    done = subprocess.run(["make", "docs"], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "PATH": str(tmp_path)})
    assert done.returncode != 0 and "https://quarto.org/docs/get-started/" in done.stdout
    assert "Traceback" not in done.stderr


# ---- stored outputs: tools/pages.py, which `make test` runs on every page --------------------

def printed(text):
    return {"output_type": "stream", "name": "stdout", "text": [text]}


def figure(width=40, height=30, kind="image/png", axes=1):
    made = io.BytesIO()
    Image.new("RGB", (width, height)).save(made, kind.partition("/")[2])
    return {"output_type": "display_data", "data": {
        kind: base64.b64encode(made.getvalue()).decode(),
        "text/plain": [f"<Figure size 40x30 with {axes} Axes>"]}}


def table(html):
    return {"output_type": "execute_result", "data": {"text/html": [html], "text/plain": ["x"]}}


@pytest.mark.parametrize(("stored", "now"), [
    ([printed("3 images")], [printed("4 images")]),
    ([printed("3 images")], []),
    ([], [printed("3 images")]),
    ([table("<td>0.5</td>")], [table("<td>0.6</td>")]),
    ([figure()], [figure(), figure()]),
    ([figure()], [figure(width=80)]),
    ([figure()], [figure(axes=2)]),
    ([figure()], [figure(kind="image/jpeg")]),
    ([figure(), printed("a")], [printed("b"), figure()]),
], ids=["text", "gone", "new", "table", "number", "size", "axes", "kind", "text-and-figure"])
def test_stale_outputs_are_told(stored, now):
    from pages import difference
    assert difference(stored, now)


@pytest.mark.parametrize(("stored", "now"), [
    ([printed("119 batches: 0.07 s\n")], [printed("119 batches: 1.3 s\n")]),
    ([printed("a\n"), printed("b\n")], [printed("a\nb\n")]),
    ([printed("/tmp/tmpa1b2/runs")], [printed("/var/tmp/tmpz9/runs")]),
    ([printed("<object at 0x7f00aa11>")], [printed("<object at 0x7fff0000>")]),
    ([figure(), printed("a")], [printed("a"), figure(width=41)]),
    ([{"output_type": "stream", "name": "stderr", "text": ["50 %"]}], []),
], ids=["time", "pieces", "folder", "address", "order", "progress"])
def test_what_differs_from_run_to_run_is_not_told(stored, now):
    from pages import difference
    assert not difference(stored, now)


def test_a_page_fails_with_stale_outputs_and_with_errors_only(tmp_path):
    pages = {"fresh": ("print(1 + 1)", ["2\n"]), "stale": ("print(1 + 1)", ["3\n"]),
             "skipped": ("#| notest\nprint(time)", ["3 s\n"]), "wrong": ("1 / 0", None)}
    for kind, (code, text) in pages.items():
        outputs = [] if text is None else [{**printed(""), "text": text}]
        (tmp_path / f"{kind}.ipynb").write_text(json.dumps({
            "nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [
                {"cell_type": "markdown", "metadata": {}, "id": "a", "source": ["# A\n\n> B"]},
                {"cell_type": "code", "metadata": {}, "id": "b", "execution_count": None,
                 "source": code.splitlines(True), "outputs": outputs}]}))
    told = ("import sys; from pathlib import Path; from pages import check\n"
            "for name in sys.argv[2:]: print(name, check(Path(sys.argv[1]) / name)[0])")
    done = subprocess.run(
        [sys.executable, "-c", told, tmp_path, *(f"{kind}.ipynb" for kind in pages)],
        cwd=ROOT / "tools", capture_output=True, text=True)
    results = re.findall(r"^(\w+)\.ipynb (True|False)$", done.stdout, re.M)
    assert results == [("fresh", "True"), ("stale", "False"), ("skipped", "True"),
                       ("wrong", "False")], done.stderr[-2000:]
    assert "StaleOutputError" in done.stderr and "ZeroDivisionError" in done.stderr


def test_make_test_compares_every_page():
    assert "tools/pages.py" in (ROOT / "Makefile").read_text(encoding="utf-8").partition(
        "\ntest:")[2].partition("\n\n")[0]
