"""The notebooks as pages: what can be checked of them without running them."""
import ast
import json
import re
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / "nbs"
MODULES = sorted(NBS.glob("[0-9][0-9]_*.ipynb"))
TUTORIALS = sorted((NBS / "tutorials").glob("*.ipynb"))
PAGES = [NBS / "index.ipynb", *TUTORIALS, *MODULES]
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:work|home|root|tmp|Users|opt|mnt|private)/\w")


def cells(path, kind=None):
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [c for c in found if kind in (None, c["cell_type"])]


def source(cell):
    return "".join(cell["source"])


def floor(path):
    return int(path.name[:2])


def module_of(path):
    return next(re.search(r"#\| default_exp (\w+)", source(c)).group(1)
                for c in cells(path, "code") if "#| default_exp" in source(c))


FLOORS = {module_of(path): floor(path) for path in MODULES}


def test_every_notebook_is_a_page_of_a_known_kind():
    found = {p for p in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts}
    assert found == set(PAGES) and TUTORIALS


def test_the_site_shows_every_page_tutorials_before_modules():
    site = yaml.safe_load((NBS / "sidebar.yml").read_text(encoding="utf-8"))["website"]["sidebar"]
    front, tutorials, modules = site["contents"]
    assert front == "index.ipynb"
    assert sorted(tutorials["contents"]) == [f"tutorials/{p.name}" for p in TUTORIALS]
    assert modules["contents"] == [p.name for p in MODULES]
    settings = ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    nbdev = settings["DEFAULT"]
    assert nbdev.getboolean("recursive")  # else nbdev passes tutorials over
    assert nbdev.getboolean("custom_sidebar")  # else nbdev writes sidebar.yml anew
    assert "custom_quarto_yml" not in nbdev  # whatever its value, it is misread


def test_every_module_has_its_notebook():
    code = {p.stem for p in (ROOT / "silk_nb").glob("*.py")} - {"__init__", "_modidx"}
    assert code == set(FLOORS) and len(set(FLOORS.values())) == len(FLOORS)


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_a_page_begins_with_its_title_and_subtitle(path):
    first = source(cells(path)[0])
    assert re.match(r"# \S.*\n+> \S", first), first[:80]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_stored_outputs_are_clean(path):
    assert path.stat().st_size < 500_000
    for cell in cells(path, "code"):
        told = json.dumps(cell["outputs"])
        assert '"output_type": "error"' not in told and "Traceback (most recent" not in told
        text = "".join(str(o.get("text", "")) + str(o.get("data", {}).get("text/plain", ""))
                       + str(o.get("data", {}).get("text/html", "")) for o in cell["outputs"])
        assert not MACHINE_PATH.search(text + source(cell)), source(cell)[:200]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_figures_have_label_caption_and_alternative_text(path):
    labels = []
    for cell in cells(path, "code"):
        if any(k.startswith("image/") for o in cell["outputs"] for k in o.get("data", {})):
            marks = dict(re.findall(r"^#\| (label|fig-cap|fig-alt): *(.+)$", source(cell), re.M))
            assert set(marks) == {"label", "fig-cap", "fig-alt"}, source(cell)[:120]
            assert marks["label"].startswith("fig-") and len(marks["fig-alt"]) > 20
            labels.append(marks["label"])
    assert len(labels) == len(set(labels))
    referred = set(re.findall(r"@(fig-[\w-]+)", "\n".join(source(c) for c in cells(path))))
    assert referred <= set(labels)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_a_module_imports_lower_floors_only_and_no_stars(path):
    text = "\n".join(source(c) for c in cells(path, "code") if "#| export" in source(c))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            assert all(a.name != "*" for a in node.names), node.module
            if node.module and node.module.startswith("silk_nb."):
                assert FLOORS[node.module.split(".")[1]] < floor(path), node.module


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_exported_cells_are_short_and_public_names_are_documented(path):
    for cell in cells(path, "code"):
        if "#| export" not in source(cell):
            continue
        body = ast.parse(source(cell)).body
        most = 80 if any(isinstance(node, ast.ClassDef) for node in body) else 60
        assert len(source(cell).splitlines()) <= most, source(cell)[:80]
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), node.name
                if isinstance(node, ast.FunctionDef):
                    assert node.returns is not None, node.name
                    given = [*node.args.args, *node.args.kwonlyargs]
                    assert all(a.annotation for a in given), node.name


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_a_tutorial_exports_nothing_uses_public_names_and_is_linked(path):
    text = "\n".join(source(c) for c in cells(path, "code"))
    assert not re.search(r"^#\| *(default_exp|export)", text, re.M)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "silk_nb":
            assert not [a.name for a in node.names if a.name.startswith(("_", "*"))], node.module
    front = "".join(source(c) for c in cells(NBS / "index.ipynb", "markdown"))
    assert f"](tutorials/{path.name})" in front
