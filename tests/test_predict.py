"""A run on new images: what can be read is classified, the rest is listed."""
import shutil
from pathlib import Path

import pytest

from silk_nb.experiments import RunConfig, run_experiment
from silk_nb.predict import load_run, predict_images

CONFIG = RunConfig("technique", "C", backbone="shufflenet_v2_x0_5", weights="silk-textures",
                   batch_size=None, max_epochs=1)


@pytest.fixture(scope="module")
def run(silk_table, silk_cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict") / "run"
    run_experiment(silk_table, folder, CONFIG, cache=silk_cache, quiet=True)
    return folder


@pytest.fixture
def photographs(silk_table, tmp_path):
    """Two good images and two that cannot be read."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name, image in zip("ad", silk_table["image"], strict=False):
        shutil.copy(image, folder / f"{name}.jpg")
    (folder / "b.jpg").write_bytes((folder / "a.jpg").read_bytes()[:400])
    (folder / "c.png").write_text("not an image")
    return folder


def test_images_that_cannot_be_read_are_listed_and_the_others_predicted(run, photographs):
    table, rejected = predict_images(load_run(run), [photographs], quiet=True)
    assert [Path(p).name for p in table["image"]] == ["a.jpg", "d.jpg"]
    assert table["class"].notna().all() and list(table.index) == [0, 1]
    assert [Path(p).name for p in rejected["image"]] == ["b.jpg", "c.png"]
    assert rejected["reason"].str.len().gt(5).all()


def test_nothing_to_read_and_a_missing_file_are_refused(run, photographs):
    network = load_run(run)
    with pytest.raises(ValueError, match=r"none of the 2 images can be read: .*b\.jpg.*c\.png"):
        predict_images(network, [photographs / "b.jpg", photographs / "c.png"], quiet=True)
    with pytest.raises(FileNotFoundError, match="no image .*gone.jpg"):
        predict_images(network, [photographs, photographs / "gone.jpg"], quiet=True)


def test_weights_of_the_run_that_are_gone_are_said(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no .*weights.safetensors: start the same train"):
        load_run(tmp_path / "run")
