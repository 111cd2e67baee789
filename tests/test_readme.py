"""README.md is made from nbs/index.ipynb, and its code runs as it is shown."""
import ast
import builtins
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_readme_is_that_of_the_index_notebook():
    done = subprocess.run([sys.executable, ROOT / "tools" / "readme.py", "--check"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_links_of_the_readme_lead_to_files():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^()\s]+)\)", text)
    assert any(link.endswith(".ipynb") for link in links)
    assert all((ROOT / link).is_file() for link in links)


def test_every_name_in_the_shown_code_is_imported_or_set_there():
    cells = json.loads((ROOT / "nbs" / "index.ipynb").read_text(encoding="utf-8"))["cells"]
    shown = [s for c in cells if c["cell_type"] == "code" and "#| hide" not in (s := "".join(
        c["source"]))]
    nodes = list(ast.walk(ast.parse("\n".join(shown))))
    known = {a.asname or a.name for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom))
             for a in n.names}
    names = [n for n in nodes if isinstance(n, ast.Name)]
    known |= {n.id for n in names if isinstance(n.ctx, ast.Store)} | set(dir(builtins))
    assert {n.id for n in names} <= known
    assert "savefig" in shown[-1]  # a plain script shows no figure by itself
