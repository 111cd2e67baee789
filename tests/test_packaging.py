"""What users install: a wheel with the weights, without nbdev, fastcore or the tests."""
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from the sdist, so that both hold what they need; in a copy of the source."""
    place = tmp_path_factory.mktemp("build")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout: there is no list of what belongs to the source")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if not (ROOT / name).is_file():
            continue
        (place / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "source" / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir",
                           str(place / "dist"), str(place / "source")],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next((place / "dist").glob("*.whl"))


def test_the_wheel_holds_the_package_and_no_more(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    modules = {f"silk_nb/{p.name}" for p in (ROOT / "silk_nb").glob("*.py")}
    assert modules <= set(names) and "silk_nb/weights/silk-textures.safetensors" in names
    assert {n.split("/")[0] for n in names} == {"silk_nb", next(
        n.split("/")[0] for n in names if ".dist-info" in n)}
    assert any(n.endswith("/LICENSE") for n in names)


def test_the_wheel_asks_for_bounded_libraries_and_no_nbdev(wheel):
    archive = zipfile.ZipFile(wheel)
    about = message_from_bytes(archive.read(next(
        n for n in archive.namelist() if n.endswith("METADATA"))))
    wants = about.get_all("Requires-Dist")
    plain = [w for w in wants if "extra ==" not in w]
    assert len(plain) >= 10 and all(">=" in w for w in plain)
    assert not [w for w in plain if w.startswith(("nbdev", "fastcore", "jupyter", "umap"))]
    assert "Apache-2.0" in (about["License-Expression"], about["License"])
    assert about["Requires-Python"] == ">=3.11"
    points = archive.read(next(n for n in archive.namelist() if n.endswith("entry_points.txt")))
    assert b"silk_nb = silk_nb.cli:main" in points


BLOCKED = """
import importlib, pathlib, sys
for name in ("nbdev", "fastcore", "execnb", "IPython", "ipywidgets", "umap", "jscatter",
             "playwright", "hypothesis", "pytorch_metric_learning", "skimage"):
    sys.modules[name] = None
import silk_nb
names = [p.stem for p in pathlib.Path(silk_nb.__file__).parent.glob("*.py")]
for name in names:
    if name not in ("__init__", "_modidx"):
        importlib.import_module("silk_nb." + name)
print(len(names))
"""


def test_every_module_imports_without_the_developers_tools(tmp_path):
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True,
                          cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 15
