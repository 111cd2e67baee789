"""What the tests share."""
from pathlib import Path

import matplotlib
import pandas as pd
import pytest

from silk_nb.annotations import read_annotations
from silk_nb.synthetic import make_silk

matplotlib.use("agg")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The real data and weights that lie beside a founder's checkout; the package needs none."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("the folder ../shared with real data and weights is not on this machine")
    return folder


@pytest.fixture(scope="session")
def silk(tmp_path_factory) -> Path:
    """Master file of a small set of synthetic silk."""
    return make_silk(tmp_path_factory.mktemp("silk") / "set", images=180, size=48, quiet=True)


@pytest.fixture(scope="session")
def silk_table(silk) -> pd.DataFrame:
    """Its label table."""
    return read_annotations(silk)


@pytest.fixture(scope="session")
def silk_cache(tmp_path_factory) -> Path:
    """A feature cache that all tests on it share."""
    return tmp_path_factory.mktemp("cache")
