"""What the tests share."""
from pathlib import Path

import matplotlib
import pytest

matplotlib.use("agg")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The real data and weights that lie beside a founder's checkout; the package needs none."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("the folder ../shared with real data and weights is not on this machine")
    return folder
