"""The measurement at the paper's scale, in small."""
import importlib.util
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "paper_scale.py"


def script():
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


def test_the_input_side_is_measured(tmp_path):
    for n in range(9):
        Image.new("RGB", (40, 30), (20 * n, 90, 0)).save(tmp_path / f"{n}.jpg")
    said = subprocess.run(
        [sys.executable, SCRIPT.with_name("store.py"), tmp_path, "--images", "8", "--rounds", "1",
         "--backbones", "shufflenet_v2_x0_5"], capture_output=True, text=True, check=True).stdout
    for words in ("8 images", "decoded each time", "threads ahead", "DataLoader", "strong",
                  "shufflenet_v2_x0_5 at 224 px", "float32", "bfloat16", "% of its rate"):
        assert words in said, said


def test_a_slice_is_measured_and_scaled_up(shared):
    command = [sys.executable, SCRIPT, "--variables", "technique", "--experiments", "C*",
               "C + co + sem", "--seeds", "1", "--epochs", "2", "--share", "0.1"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for words in ("technique", "C + co + sem", "training steps", "similarity losses, forward",
                  "figures and report", "loading features", "peak memory", "for 2 runs",
                  "all 96 runs would take"):
        assert words in said, said
