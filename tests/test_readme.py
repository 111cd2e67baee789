"""README.md is made from nbs/index.ipynb."""
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_readme_is_that_of_the_index_notebook():
    done = subprocess.run([sys.executable, ROOT / "tools" / "readme.py", "--check"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
