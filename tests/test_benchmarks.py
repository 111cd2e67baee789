"""The measurement at the paper's scale, in small."""
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "paper_scale.py"


def script():
    if str(SCRIPT.parent) not in sys.path:  # where it finds what the scripts share
        sys.path.append(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("paper_scale", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_made_up_features_are_the_same_for_a_seed_and_tell_of_the_labels(shared):
    module = script()
    table = module.read_lists(0.1)
    seen, again, other = (module.make_up(table, seed).seen for seed in (0, 0, 1))
    assert torch.equal(seen.inputs, again.inputs) and not torch.equal(seen.inputs, other.inputs)
    assert seen.inputs.shape == (len(table), 2048) and seen.inputs.dtype == torch.float32
    assert seen.inputs.min() == 0 and 0.4 < (seen.inputs > 0).float().mean() < 0.6
    assert seen.descriptors.dtype == torch.float32
    assert (seen.descriptors.sum(1) == 224 * 224).all()  # every pixel is in one cell
    label = torch.tensor(table["technique"].cat.codes.to_numpy())
    means = torch.stack([seen.inputs[label == code].mean(0) for code in range(4)])
    chance = torch.stack([part.mean(0) for part in seen.inputs[label >= 0].split(300)[:4]])
    assert means.std(0).mean() > 1.2 * chance.std(0).mean()


def test_without_the_lists_it_says_that_it_is_left_out(tmp_path, monkeypatch, capsys):
    module = script()
    monkeypatch.setattr(module, "LISTS", tmp_path / "silknow")
    monkeypatch.setattr(sys, "argv", ["paper_scale.py"])
    module.main()
    assert capsys.readouterr().out.startswith("Left out: the label lists of SILKNOW")


def measured(name, file, *arguments):
    """Tables that a script has written, each as a list of rows."""
    subprocess.run([sys.executable, SCRIPT.with_name(f"{name}.py"), *map(str, arguments), "--json",
                    file], capture_output=True, text=True, check=True)
    found = json.loads(file.read_text())
    assert {"date", "processors", "torch", "silk_nb"} <= set(found["made"])
    assert [p.name for p in file.parent.glob(f"*{file.name}*")] == [file.name]
    return found["tables"]


def test_the_input_side_is_measured(tmp_path):
    (tmp_path / "images").mkdir()
    for n in range(9):
        Image.new("RGB", (40, 30), (20 * n, 90, 0)).save(tmp_path / "images" / f"{n}.jpg")
    found = measured("store", tmp_path / "store.json", tmp_path / "images", "--images", 8,
                     "--rounds", 1, "--backbones", "shufflenet_v2_x0_5")
    assert found["batches_of_images"][0]["way"] == "decoded each time"
    assert found["batches_of_images"][0]["times as fast as decoding"] == 1
    assert [row["precision"] for row in found["extraction"]] == ["float32", "bf16"]
    assert all(row["share of bare %"] > 0 for row in found["extraction"])


def test_losses_colours_samplers_and_rows_are_measured(tmp_path):
    row, = measured("losses", tmp_path / "losses.json", "--size", 64)["losses"]
    assert row["N"] == 64
    assert row["library ÷ silk_nb"] == pytest.approx(row["library ms"] / row["silk_nb ms"])
    assert all(row[f"{name} MiB"] >= 0 for name in ("silk_nb", "library", "dense"))
    rows = measured("colour", tmp_path / "colour.json", "--images", 2, "--rounds", 1)
    assert rows["colour_descriptors"][0]["times as fast as the loop"] == 1
    rows = measured("samplers", tmp_path / "samplers.json", "--labels", 9000, "--rounds", 1)
    assert [row["% of reading"] > 0 for row in rows["samplers"]] == [True] * 5
    rows = measured("rows", tmp_path / "rows.json", "--rows", 400, 800, "--width", 8, "--epochs", 1)
    assert [row["rows"] for row in rows["rows"]] == [400, 800]


def test_the_losses_share_of_a_step_is_measured(tmp_path):
    frozen, tuned = measured("losses_in_training", tmp_path / "share.json", "--batch", 18,
                             "--rounds", 1, "--backbone", "shufflenet_v2_x0_5", "--pixels", 32,
                             "--images", 2)["losses_in_training"]
    assert frozen["N"] == tuned["N"] == 18 and "scaled up from 2" in tuned["step"]
    assert 0 < tuned["share %"] < 100


def test_fine_tuning_is_measured_on_a_processor_and_wants_a_gpu_otherwise(tmp_path):
    found = measured("fine_tuning", tmp_path / "tuning.json", "--small", "--backbone",
                     "shufflenet_v2_x0_5", "--pixels", 32, "--batch", 9, "--images", 18,
                     "--rounds", 1, "--losses", 18)
    row, = found["fine_tuning"]
    assert row["share of bare %"] == pytest.approx(
        100 * row["real images/s"] / row["bare images/s"])
    assert found["losses_alone"][0]["N"] == 18 and found["losses_alone"][0]["waits"] is None
    if not torch.cuda.is_available():
        done = subprocess.run([sys.executable, SCRIPT.with_name("fine_tuning.py"), "--json",
                               tmp_path / "none.json"], capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr.startswith("There is no GPU")
        assert not (tmp_path / "none.json").exists()


def test_a_slice_is_measured_and_scaled_up(shared):
    command = [sys.executable, SCRIPT, "--variables", "technique", "--experiments", "C*",
               "C + co + sem", "--seeds", "1", "--epochs", "2", "--share", "0.1"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for words in ("technique", "C + co + sem", "training steps", "similarity losses, forward",
                  "figures and report", "loading features", "peak memory", "for 2 runs",
                  "all 96 runs would take"):
        assert words in said, said
