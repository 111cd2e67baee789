"""One run from the label table to the run folder: what it holds, and what no kill changes."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score

import silk_nb
from silk_nb.experiments import (
    EXPERIMENTS,
    RunConfig,
    check_once,
    find_experiment,
    given_features,
    prepare,
    read_scores,
    run_experiment,
    validate_experiment,
)
from silk_nb.model import SilkClassifier, load_backbone
from silk_nb.predict import evaluate_run, load_run, predict_images, read_header
from silk_nb.steps import Alone
from silk_nb.training import NonFiniteLossError

CONFIG = RunConfig("technique", "C + co + sem", backbone="shufflenet_v2_x0_5",
                   weights="silk-textures", batch_size=None, max_epochs=6, min_count=6,
                   rare="merge")
RESULTS = {"config.json", "split.csv", "rejected.csv", "history.csv", "weights.safetensors",
           "metrics.json", "per_class.csv", "predictions.csv", "confusion.csv", "figures",
           "report.html", "validation.json"}
SHIPPED = Path(silk_nb.__file__).parent / "weights" / "silk-textures.safetensors"
DETERMINED = ["split.csv", "history.csv", "weights.safetensors", "validation.json", "metrics.json",
              "per_class.csv", "predictions.csv", "confusion.csv"]


@pytest.fixture(scope="module")
def run(silk_table, silk_cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "one"
    run_experiment(silk_table, folder, CONFIG, cache=silk_cache, quiet=True)
    return folder


def table_of(folder, name):
    return pd.read_csv(folder / name, keep_default_na=False)


def contents(folder, names=None):
    files = [folder / n for n in names] if names else folder.rglob("*")
    return {p.name: p.read_bytes() for p in files if p.is_file()}


def test_table_3():
    rows = {e.name: (e.sampling, e.lambda_aux, e.alpha_sem, e.alpha_co) for e in
            EXPERIMENTS.values()}
    assert rows == {
        "C*": ("random", 0, 0, 0), "C": ("balanced", 0, 0, 0),
        "C* + sem": ("random", 1, 1, 0), "C* + co": ("random", 1, 0, 1),
        "C* + co + sem": ("random", 1, 0.5, 0.5), "C + sem": ("balanced", 1, 1, 0),
        "C + co": ("balanced", 1, 0, 1), "C + co + sem": ("balanced", 1, 0.5, 0.5)}
    assert {e.lambda_c for e in EXPERIMENTS.values()} == {1}
    assert find_experiment("C*+co +sem").name == "C* + co + sem"
    with pytest.raises(ValueError, match=r'no experiment .C \+ seem., did you mean .C \+ sem.\? .*'
                                         r'Table 3: "C\*", "C", "C\*'):
        find_experiment("C + seem")


def test_a_run_folder_is_whole(run):
    assert {p.name for p in run.iterdir()} == RESULTS
    assert len(list((run / "figures").glob("*.png"))) >= 3
    header = json.loads((run / "config.json").read_text())
    assert RunConfig(**{**header["run"], "task_fc": tuple(header["run"]["task_fc"])}) == CONFIG
    assert {"silk_nb", "python", "torch", "torchvision"} <= set(header["versions"])
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 3 and "src=\"http" not in page


def test_the_split_is_kept_and_no_object_lies_in_two(run, silk_table):
    split = table_of(run, "split.csv")
    assert sorted(split["image"]) == sorted(silk_table["image"].astype(str))
    assert (split.groupby("group")["split"].nunique() == 1).all()
    tested = split.loc[split["split"] == "test", "image"]
    assert table_of(run, "predictions.csv")["image"].tolist() == tested.tolist()


def test_scores_follow_from_the_stored_predictions(run):
    table, stored = table_of(run, "predictions.csv"), json.loads((run / "metrics.json").read_text())
    per_class = table_of(run, "per_class.csv").set_index("class")
    names = [c.removeprefix("score: ") for c in table if c.startswith("score: ")]
    scores = table[[f"score: {n}" for n in names]].to_numpy()
    assert np.allclose(scores.sum(1), 1, atol=1e-5)
    assert [names[k] for k in scores.argmax(1)] == table["predicted"].tolist()
    truth, predicted = table["truth"], table["predicted"]
    assert stored["overall_accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    f1 = f1_score(truth, predicted, labels=names, average=None, zero_division=0)
    present = set(truth) | set(predicted)
    for name, value in zip(names, f1, strict=True):
        if name in present:
            assert per_class.loc[name, "f1"] == pytest.approx(value), name
    minority = per_class["minority"].astype(str) == "True"
    assert 0 < minority.sum() < len(names)


def test_a_finished_run_is_not_done_again_and_another_one_is_refused(run, silk_table, silk_cache):
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    again = run_experiment(silk_table, run, CONFIG, cache=silk_cache, quiet=True)
    stored = json.loads((run / "metrics.json").read_text())
    assert {k: None if v != v else v for k, v in again.items()} == stored
    for other in (replace(CONFIG, seed=1), replace(CONFIG, experiment="C")):
        with pytest.raises(FileExistsError, match=r"another run, which differs in run\.(seed|exp)"):
            run_experiment(silk_table, run, other, cache=silk_cache, quiet=True)
    with pytest.raises(FileExistsError, match="differs in data"):
        run_experiment(silk_table[:-1], run, CONFIG, cache=silk_cache, quiet=True)
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before


def test_a_run_without_its_weights_is_trained_anew(run, silk_table, silk_cache, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "weights.safetensors").unlink()
    run_experiment(silk_table, tmp_path / "run", CONFIG, cache=silk_cache, quiet=True)
    assert contents(tmp_path / "run", DETERMINED) == contents(run, DETERMINED)


def test_a_weights_file_given_by_a_relative_path_is_found_from_anywhere(
        silk_table, silk_cache, tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    shutil.copy(SHIPPED, here / "w.safetensors")
    config = replace(CONFIG, weights="./w.safetensors", max_epochs=1)
    monkeypatch.chdir(here)
    metrics = run_experiment(silk_table, "run", config, cache=silk_cache, quiet=True)
    assert read_header("run")["run"]["weights"] == str(here / "w.safetensors")
    assert RunConfig("v").settled().weights == "DEFAULT"
    monkeypatch.chdir(there)
    load_run(here / "run")
    (there / "link").symlink_to(here)
    for same in ("../here/w.safetensors", "link/w.safetensors", here / "w.safetensors"):
        config = replace(config, weights=str(same))
        again = run_experiment(silk_table, here / "run", config, cache=silk_cache, quiet=True)
        assert again == pytest.approx(metrics, nan_ok=True)
    with pytest.raises(FileExistsError, match="differs in run.weights: "):
        run_experiment(silk_table, here / "run", replace(config, weights="w.safetensors"))
    (here / "w.safetensors").rename(there / "moved.safetensors")
    with pytest.raises(FileNotFoundError, match=r"here/w\.safetensors: .*, weights=FILE"):
        load_run(here / "run")
    load_run(here / "run", weights="moved.safetensors")


def test_a_folder_of_other_things_is_refused_and_left(tmp_path, silk_table):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds other things and no run"):
        run_experiment(silk_table, tmp_path, CONFIG, quiet=True)
    with pytest.raises(FileExistsError, match="is a file"):
        run_experiment(silk_table, tmp_path / "notes.txt", CONFIG, quiet=True)
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def test_without_a_cache_it_is_the_same(run, silk_table, tmp_path):
    run_experiment(silk_table, tmp_path / "plain", CONFIG, cache=None, quiet=True)
    assert contents(tmp_path / "plain", DETERMINED) == contents(run, DETERMINED)


def test_frozen_features_give_what_the_images_give(run, silk_table):
    """The stored head on cached features scores as the whole network does on the image files."""
    stored = table_of(run, "predictions.csv")
    network = load_run(run)
    fresh, _ = predict_images(network, stored["image"][:12].tolist(), quiet=True)
    names = network.classes
    assert fresh["class"].tolist() == stored["predicted"][:12].tolist()
    assert np.allclose(fresh[names], stored[[f"score: {n}" for n in names]][:12], atol=1e-5)


SCRIPT = """
    import sys
    sys.path.insert(0, {tests!r})
    from test_experiments import CONFIG, run_experiment
    from silk_nb.annotations import read_annotations
    import torch
    torch.set_num_threads(1)
    run_experiment(read_annotations(sys.argv[1]), sys.argv[2], CONFIG, cache=sys.argv[3],
                   quiet=True)
"""


def test_killed_at_many_moments_it_ends_with_the_same_folder(silk, tmp_path):
    script = tmp_path / "one.py"
    script.write_text(textwrap.dedent(SCRIPT.format(tests=str(Path(__file__).parent))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}

    def start(name):
        return subprocess.Popen([sys.executable, str(script), str(silk), str(tmp_path / name),
                                 str(tmp_path / f"cache {name}")], env=environment)

    began = time.monotonic()
    assert start("whole").wait(300) == 0
    length, kills = time.monotonic() - began, 0
    for part in (0.55, 0.7, 0.8, 0.88, 0.94):  # before that it only imports
        process = start("killed")
        time.sleep(part * length)
        process.send_signal(signal.SIGKILL)
        kills += process.wait(60) == -signal.SIGKILL
    assert start("killed").wait(300) == 0
    assert kills >= 1
    assert contents(tmp_path / "killed", DETERMINED) == contents(tmp_path / "whole", DETERMINED)
    assert {p.name for p in (tmp_path / "killed").iterdir()} == RESULTS


class Cut(BaseException):
    """As a kill, but at a chosen write."""


def test_cut_off_at_every_single_write_it_ends_with_the_same_folder(
        run, silk_table, silk_cache, tmp_path, monkeypatch):
    """Each start dies just before one more of the files is put in place."""
    plain, places, starts = os.replace, [0, 0], 0

    def dying(old, new):
        places[0] += 1
        if places[0] > places[1]:
            raise Cut
        plain(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        while starts < 60:
            places[0], starts = 0, starts + 1
            try:
                run_experiment(silk_table, tmp_path / "cut", CONFIG, cache=silk_cache, quiet=True)
                break
            except Cut:
                places[1] += 1
    assert 8 < starts < 60
    assert contents(tmp_path / "cut", DETERMINED) == contents(run, DETERMINED)
    assert {p.name for p in (tmp_path / "cut").iterdir()} == RESULTS


def test_bad_images_are_listed_and_left_out_also_when_it_goes_on(silk_table, silk_cache, tmp_path):
    rows = silk_table.copy()
    rows["image"] = rows["image"].astype(str)
    torn, text = tmp_path / "torn.jpg", tmp_path / "text.jpg"
    torn.write_bytes(Path(rows["image"].iloc[3]).read_bytes()[:400])
    text.write_text("not an image")
    for place, name in ((3, torn), (7, text), (9, tmp_path / "gone.jpg")):
        rows.loc[place, "image"] = str(name)
    for folder in ("first", "second"):
        run_experiment(rows, tmp_path / folder, replace(CONFIG, max_epochs=1), cache=silk_cache,
                       quiet=True)
        rejected = table_of(tmp_path / folder, "rejected.csv")
        assert sorted(Path(p).name for p in rejected["image"]) == ["gone.jpg", "text.jpg",
                                                                   "torn.jpg"]
        assert rejected["reason"].str.len().gt(5).all()
        page = (tmp_path / folder / "report.html").read_text()
        assert all(f"{name}.jpg (" in page for name in ("gone", "text", "torn"))
        assert "listed in rejected.csv" in page and "IR (all splits)" in page
        assert len(table_of(tmp_path / folder, "split.csv")) == len(rows) - 3
    assert torn.exists() and text.exists()


def test_an_image_that_changes_is_checked_again(silk_table, tmp_path):
    image = tmp_path / "a.png"
    Image.new("RGB", (20, 20), "red").save(image)
    rows = silk_table[:2].assign(image=[str(image), silk_table["image"].iloc[0]])
    assert len(check_once(rows, tmp_path / "c", quiet=True)[0]) == 2
    image.write_bytes(b"now broken")
    good, rejected = check_once(rows, tmp_path / "c", quiet=True)
    assert len(good) == 1 and rejected["image"].tolist() == [str(image)]


def test_eq_5_is_refused_before_the_folder_is_made(silk_table, silk_cache, tmp_path):
    for sampling in ("C", "C + sem"):
        with pytest.raises(ValueError, match=r"Eq\. 5.*the rarest class, '\w+', has \d+ "
                                             r"training images.*batch_size=\d+ or less"):
            run_experiment(silk_table, tmp_path / "x",
                           replace(CONFIG, batch_size=100, experiment=sampling, min_count=0,
                                   rare="keep"), cache=silk_cache, quiet=True)
    assert not (tmp_path / "x").exists()
    run_experiment(silk_table, tmp_path / "x", replace(
        CONFIG, batch_size=100, allow_imbalanced=True, max_epochs=1), cache=silk_cache, quiet=True)
    assert read_header(tmp_path / "x")["batch_size"] == 100


def test_rare_classes_are_dropped_only_when_asked(silk_table, silk_cache, tmp_path):
    kept = silk_table["technique"].value_counts()
    for rare, wanted in (("keep", len(kept)), ("drop", (kept >= 10).sum())):
        folder = tmp_path / rare
        config = replace(CONFIG, rare=rare, min_count=10 * (rare == "drop"), max_epochs=1)
        run_experiment(silk_table, folder, config, cache=silk_cache, quiet=True)
        assert len(evaluate_run(folder)[1]) == wanted
        page = (folder / "report.html").read_text()
        assert ("rare class dropped" in page) == (rare == "drop")


def test_fine_tuning_the_last_block(silk_table, tmp_path):
    config = replace(CONFIG, trainable=1, max_epochs=1, input_size=48, experiment="C + sem",
                     batch_size=12)
    rows = silk_table.groupby("technique", observed=True).head(9)
    run_experiment(rows, tmp_path / "tuned", config, quiet=True)
    state = load_file(tmp_path / "tuned" / "weights.safetensors")
    backbone = load_backbone("shufflenet_v2_x0_5", "silk-textures", input_size=48).state_dict()
    changed = {name for name, value in state.items() if name.startswith("backbone.")
               and not torch.equal(value, backbone[name.removeprefix("backbone.")])}
    assert changed and not any("conv1" in name for name in changed)
    stored = table_of(tmp_path / "tuned", "predictions.csv")
    network = load_run(tmp_path / "tuned")
    fresh, _ = predict_images(network, stored["image"].tolist(), quiet=True)
    assert fresh["class"].tolist() == stored["predicted"].tolist()


@pytest.mark.parametrize("most", [7, 20])  # of images at a time; a batch has 12, the test set more
def test_a_run_out_of_memory_goes_on_as_its_message_says(most, silk_table, tmp_path, monkeypatch):
    """In training and in testing; afterwards in the same folder, with a smaller micro_batch."""
    plain = SilkClassifier.forward

    def small(self, images):
        if len(images) > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.")
        return plain(self, images)

    monkeypatch.setattr(SilkClassifier, "forward", small)
    config = replace(CONFIG, trainable=1, max_epochs=1, input_size=48, experiment="C",
                     batch_size=12, dropout=0.0, batch_norm="frozen")
    rows = silk_table.groupby("technique", observed=True).head(60)
    how = {"cache": tmp_path / "cache", "quiet": True}
    with pytest.raises(torch.OutOfMemoryError, match="take micro_batch=") as told:
        run_experiment(rows, tmp_path / "run", config, **how)
    assert (tmp_path / "run").exists() == (most == 20)  # where all is trained but not tested
    advice = int(re.search(r"micro_batch=(\d+)", str(told.value))[1])
    assert advice <= 18  # half of the test images at most
    run_experiment(rows, tmp_path / "run", replace(config, micro_batch=advice), **how)
    assert read_header(tmp_path / "run")["run"]["micro_batch"] == advice


def test_parts_of_a_batch_are_checked_before_the_folder_is_made(silk_table, tmp_path, monkeypatch):
    monkeypatch.setattr("silk_nb.experiments.of_all", lambda _, value: [value])  # there are none
    class Several(Alone):
        num_processes, mixed_precision = 4, "no"

    config = replace(CONFIG, trainable=1, max_epochs=1, input_size=48, experiment="C*",
                     batch_size=3, batch_norm="running")
    rows = silk_table.groupby("technique", observed=True).head(9)
    for more, place, told in (({}, Several(), "3 images cannot be shared among 4 processes"),
                              ({"batch_size": 12}, Several(), "each of 4 processes' share"),
                              ({"micro_batch": 2}, None, "each piece of a batch")):
        with pytest.raises(ValueError, match=told):
            run_experiment(rows, tmp_path / "run", replace(config, **more), accelerator=place,
                           cache=tmp_path / "cache", quiet=True)
        assert not (tmp_path / "run").exists()
    whole = replace(config, batch_size=12, micro_batch=12)  # one piece of one process
    run_experiment(rows, tmp_path / "run", whole, cache=tmp_path / "cache", quiet=True)


def test_images_of_a_trained_backbone_come_from_the_store_and_may_vary(silk_table, tmp_path):
    config = replace(CONFIG, trainable=1, max_epochs=2, input_size=48, experiment="C",
                     batch_size=18, dropout=0.0)
    rows = silk_table.groupby("technique", observed=True).head(9)
    how = {"cache": tmp_path / "cache", "quiet": True}
    found = {}
    for name, more in (("files", {"cache": None}), ("store", {}), ("again", {})):
        run_experiment(rows, tmp_path / name, config, **(how | more))
        found[name] = contents(tmp_path / name, ["history.csv", "predictions.csv"])
    assert found["files"] == found["store"] == found["again"]
    assert list((tmp_path / "cache").rglob("shard-*.safetensors"))
    for name in ("varied", "varied again"):
        run_experiment(rows, tmp_path / name, replace(config, augment="strong"), **how)
        found[name] = contents(tmp_path / name, ["history.csv", "predictions.csv"])
    assert found["varied"] == found["varied again"] != found["store"]
    for wrong, told in (({"augment": "blur"}, "augment must be one of none, flip"),
                        ({"augment": "flip", "trainable": "none"}, "backbone that is trained"),
                        ({"batch_norm": "frozen", "trainable": "none"}, "backbone that is trained"),
                        ({"batch_norm": "wild"}, "'frozen' or 'running'"),
                        ({"precision": "fp8"}, "must be float32 or bf16")):
        with pytest.raises(ValueError, match=told):
            run_experiment(rows, tmp_path / "wrong", replace(config, **wrong), **how)
    with pytest.raises(ValueError, match="name a folder for it with cache="):
        run_experiment(rows, tmp_path / "wrong", replace(config, augment="flip"), quiet=True)
    with pytest.raises(ValueError, match="'compile' is for a backbone that is trained"):
        run_experiment(rows, tmp_path / "wrong", replace(config, trainable="none"),
                       speedups=["compile"], **how)
    assert not (tmp_path / "wrong").exists()


def test_the_test_set_takes_no_part_in_training(run, silk_table, silk_cache, tmp_path, monkeypatch):
    """Other test features change the predictions, but neither history nor weights."""
    import silk_nb.experiments as module

    plain = module._parts

    def shifted(*args):
        data = plain(*args)
        data["test"].features = -data["test"].features
        return data

    monkeypatch.setattr(module, "_parts", shifted)
    run_experiment(silk_table, tmp_path / "other", CONFIG, cache=silk_cache, quiet=True)
    same = ["split.csv", "history.csv", "weights.safetensors"]
    assert contents(tmp_path / "other", same) == contents(run, same)
    assert contents(tmp_path / "other", ["predictions.csv"]) != contents(run, ["predictions.csv"])


def test_clothing_end_to_end(shared, tmp_path):
    """The main job on a part of the real photographs: far better than the largest class."""
    from silk_nb.annotations import read_annotations

    table = read_annotations(shared / "data" / "clothing" / "clothing.csv", group="sender")
    senders = table["group"].drop_duplicates().sample(60, random_state=0)
    table = table[table["group"].isin(senders)].reset_index(drop=True)
    scores = {}
    for name in ("C*", "C + sem"):
        config = RunConfig(
            "garment", name, backbone="mobilenet_v2", mean=0.5, std=0.5, batch_size=None,
            weights=str(shared / "weights" / "mobilenet_v2-imagenet-tfslim.safetensors"),
            min_count=15, rare="drop")
        scores[name] = run_experiment(table, tmp_path / name.replace("*", "r"), config,
                                      cache=tmp_path / "cache", quiet=True)
    print(len(table), scores, asdict(config))
    predictions = table_of(tmp_path / "C + sem", "predictions.csv")
    largest = predictions["truth"].value_counts(normalize=True).max()
    for name in scores:
        assert scores[name]["overall_accuracy"] > largest + 0.15, name
        assert scores[name]["mean_f1"] > 0.25, name


def test_any_class_name_comes_through_to_the_report(silk_table, silk_cache, tmp_path):
    """Names that look like formulas, numbers, columns and markup."""
    names = ["US$ 5_^{ $", "001", "class", "<b>score</b>", "a,b"]
    rows = silk_table[["image", "group"]].copy()
    codes = rows["group"].map({g: i % 5 for i, g in enumerate(rows["group"].unique())})
    rows["kind"] = pd.Categorical([names[code] for code in codes])
    config = replace(CONFIG, variable="kind", min_count=0, rare="keep", max_epochs=1)
    run_experiment(rows, tmp_path / "run", config, cache=silk_cache, quiet=True)
    _, per_class, _ = evaluate_run(tmp_path / "run")
    assert set(per_class.index) == set(names)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "&lt;b&gt;score&lt;/b&gt;" in page and "<b>score" not in page
    table, rejected = predict_images(load_run(tmp_path / "run"), rows["image"][:3], quiet=True)
    assert not len(rejected) and table.columns.is_unique
    assert {"score: class", "001", "a,b"} <= set(table.columns)


def test_a_run_may_move_with_its_images_and_begins_again_after_the_earliest_kill(
        silk, silk_cache, tmp_path):
    import shutil

    from silk_nb.annotations import read_annotations

    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".config.3c1b2822074e.json").write_text("{")  # as a kill in the first write leaves
    config = replace(CONFIG, max_epochs=1)
    for place in ("here", "there"):
        shutil.copytree(Path(silk).parent, tmp_path / place)
    tables = [read_annotations(tmp_path / place / Path(silk).name) for place in ("here", "there")]
    tables = [t.assign(group=t["image"]) for t in tables]  # every image its own object
    first = run_experiment(tables[0], folder, config, cache=silk_cache, quiet=True)
    assert run_experiment(tables[1], folder, config, cache=silk_cache, quiet=True) == first
    assert {p.name for p in folder.iterdir()} == RESULTS


@pytest.mark.parametrize("content", ["[1]", "{", '{"run": "x"}', "\x00"])
def test_a_damaged_configuration_is_named_and_left(content, silk_table, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        run_experiment(silk_table, tmp_path, CONFIG, quiet=True)
    assert contents(tmp_path) == {"config.json": content.encode()}


@pytest.mark.parametrize("device", ["cuda:99", "toaster"])
def test_a_device_that_is_not_there_is_refused(device, silk_table, tmp_path):
    with pytest.raises(ValueError, match="there is no"):
        run_experiment(silk_table, tmp_path / "run", CONFIG, device=device, quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_leaves_the_folder_free(silk_table, silk_cache, tmp_path):
    with pytest.raises(NonFiniteLossError, match="try a smaller learning rate"):
        run_experiment(silk_table, tmp_path / "run", replace(CONFIG, learning_rate=1e30),
                       cache=silk_cache, quiet=True)
    assert not (tmp_path / "run").exists()
    run_experiment(silk_table, tmp_path / "run", CONFIG, cache=silk_cache, quiet=True)


def test_a_frozen_backbone_of_random_weights_is_refused(silk_table, tmp_path):
    with pytest.raises(ValueError, match="random weights tells nothing: hand in weights="):
        run_experiment(silk_table, tmp_path / "run", replace(CONFIG, weights=None), quiet=True)
    assert not (tmp_path / "run").exists()


AVERAGED = replace(CONFIG, experiment="LA + sem / averaged-LR", max_epochs=3, members=2)


@pytest.fixture(scope="module")
def averaged(silk_table, silk_cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "averaged"
    run_experiment(silk_table, folder, AVERAGED, cache=silk_cache, quiet=True)
    return folder


def test_an_average_is_stored_told_of_and_applied(averaged, silk_table):
    run = load_run(averaged)
    assert len(run.model.head.heads) == 3
    assert run.model.head.weights == [0.25, 0.25, 0.5]
    assert read_header(averaged)["run"]["weight_decay"] == 0.1
    history = table_of(averaged, "history.csv")
    assert history.groupby("member").best.sum().tolist() == [1, 1]
    assert set(contents(averaged)) >= RESULTS - {"figures"}
    said = table_of(averaged, "predictions.csv")
    again, _ = predict_images(run, said["image"].tolist()[:12], quiet=True)
    assert again["class"].tolist() == said["predicted"].tolist()[:12]
    assert np.allclose(again["score"], said["score"].astype(float)[:12], atol=1e-4)
    first, second = (one.task_fc[0].weight for one in list(run.model.head.heads)[:2])
    assert not torch.allclose(first, second)


def test_an_average_cut_off_at_every_single_write_ends_the_same(
        averaged, silk_table, silk_cache, tmp_path, monkeypatch):
    plain, places, starts = os.replace, [0, 0], 0

    def dying(old, new):
        places[0] += 1
        if places[0] > places[1]:
            raise Cut
        plain(old, new)

    monkeypatch.setattr("silk_nb.training.time.monotonic", iter(range(0, 10**6, 3)).__next__)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        while starts < 60:
            places[0], starts = 0, starts + 1
            try:
                run_experiment(silk_table, tmp_path / "cut", AVERAGED, cache=silk_cache, quiet=True)
                break
            except Cut:
                places[1] += 1
    assert 8 < starts < 60
    assert contents(tmp_path / "cut", DETERMINED) == contents(averaged, DETERMINED)
    assert not list((tmp_path / "cut").glob("checkpoint*"))


@pytest.mark.parametrize("experiment", ["C + co + sem", "LA + sem / averaged-LR", "LR-bal", "cRT",
                                        "LA-post", "tau"])
def test_validation_looks_at_no_test_image_and_says_what_a_run_says(
        experiment, silk_table, silk_cache, tmp_path):
    config = replace(CONFIG, experiment=experiment, max_epochs=3)
    ready = prepare(silk_table, config, cache=silk_cache, quiet=True)
    run_experiment(silk_table, tmp_path / "run", config, prepared=ready, quiet=True)
    tested = set(table_of(tmp_path / "run", "predictions.csv")["image"])
    poisoned = ready.seen.inputs.clone()
    poisoned[[str(image) in tested for image in ready.seen.images]] = float("nan")
    seen = ready.seen._replace(inputs=poisoned)
    found = validate_experiment(silk_table, config, prepared=ready._replace(seen=seen),
                                scratch=tmp_path / "scratch", quiet=True)
    assert found == read_scores(tmp_path / "run" / "validation.json")
    assert not list((tmp_path / "scratch").iterdir())


def test_validation_leaves_what_lies_in_its_scratch_folder_and_goes_on_there(
        silk_table, silk_cache, tmp_path, monkeypatch):
    config = replace(CONFIG, max_epochs=6)
    (tmp_path / "checkpoint.pt").write_text("mine")
    whole = validate_experiment(silk_table, config, cache=silk_cache, quiet=True)
    monkeypatch.setattr("silk_nb.training.time.monotonic", iter(range(0, 10**6, 3)).__next__)
    plain, saves = os.replace, [0]

    def dying(old, new):
        plain(old, new)
        saves[0] += 1
        if saves[0] == 3:
            raise KeyboardInterrupt

    def again(**more):
        return validate_experiment(silk_table, config, cache=silk_cache, scratch=tmp_path,
                                   quiet=True, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            again()
    assert list(tmp_path.glob("validate-*/checkpoint.pt"))
    again(split_seed=5)  # another training in the same folder
    assert again() == whole
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert (tmp_path / "checkpoint.pt").read_text() == "mine"


def test_a_run_that_does_not_name_a_later_setting_is_known_again(run, silk_table, silk_cache,
                                                                 tmp_path):
    old = shutil.copytree(run, tmp_path / "old")
    about = json.loads((old / "config.json").read_text())
    for later in ("lambda_aux", "members", "logistic_share"):
        del about["run"][later]
    (old / "config.json").write_text(json.dumps(about))
    assert run_experiment(silk_table, old, CONFIG, cache=silk_cache, quiet=True) == read_scores(
        run / "metrics.json")
    with pytest.raises(FileExistsError, match=r"run\.members"):
        run_experiment(silk_table, old, replace(CONFIG, members=2), cache=silk_cache, quiet=True)


def test_logits_are_adjusted_after_fine_tuning_too(silk_table, tmp_path):
    config = replace(CONFIG, trainable=1, max_epochs=1, input_size=48, experiment="LA-post",
                     batch_size=60)
    found = validate_experiment(silk_table, config, quiet=True)
    metrics = run_experiment(silk_table, tmp_path / "run", config, quiet=True)
    assert read_scores(tmp_path / "run" / "validation.json") == found
    assert 0 <= metrics["mean_f1"] <= 1


def test_features_given_are_checked_at_once(silk_table):
    rows, features = silk_table[:5], np.ones((5, 3))
    ready = given_features(rows, features, np.ones((5, 25)))
    assert ready.seen.inputs.dtype == torch.float32 and ready.seen.descriptors.shape == (5, 25)
    features[3, 1] = np.nan
    for wrong, told in (((features, rows), "the label table comes first"),
                        ((rows, features), "of 1 images are not finite.*first is row 3"),
                        ((rows, np.ones(5)), "must be 5×D"),
                        ((rows, np.ones((4, 3))), "4 features"),
                        ((rows, np.ones((5, 3)), np.ones((6, 25))), "6 descriptors for 5 rows")):
        with pytest.raises(ValueError, match=told):
            given_features(*wrong)


def test_features_may_be_a_frame_and_are_not_shared(silk_table):
    rows = silk_table[:5].reset_index(drop=True)
    numbers = np.arange(15.0).reshape(5, 3)
    for index in (None, rows["image"]):
        seen = given_features(rows, pd.DataFrame(numbers, index=index)).seen
        assert torch.equal(seen.inputs, torch.tensor(numbers, dtype=torch.float32))
    frame = pd.DataFrame(numbers)
    with pytest.raises(ValueError, match="index of the features is neither that of the label"):
        given_features(rows, frame[::-1])
    with pytest.raises(ValueError, match="the features must be rows of numbers"):
        given_features(rows, frame.assign(name="x"))
    with pytest.raises(ValueError, match="the descriptors must be rows of numbers"):
        given_features(rows, frame, "colours.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as of an array that may not be written to
        numbers.flags.writeable = False
        seen = given_features(rows, numbers).seen
    seen.inputs[0] = -1
    assert numbers[0, 0] == 0


def test_a_table_made_by_hand_is_told_what_it_lacks(silk_table, tmp_path):
    features = np.ones((len(silk_table), 3))
    for name, remedy in (("image", "the image files"), ("group", "makes every image its own")):
        table = silk_table.drop(columns=name)
        with pytest.raises(ValueError, match=f"no column '{name}': .*{remedy}"):
            given_features(table, features)
        with pytest.raises(ValueError, match=f"no column '{name}': .*{remedy}"):
            run_experiment(table, tmp_path / "run", CONFIG)
    assert not (tmp_path / "run").exists()


def test_weights_of_losses_are_taken_and_refused_where_there_are_none(
        silk_table, silk_cache, run, tmp_path):
    same = replace(CONFIG, lambda_aux=1.0, alpha_sem=0.5)  # as the experiment has them
    run_experiment(silk_table, tmp_path / "same", same, cache=silk_cache, quiet=True)
    names = ["history.csv", "metrics.json"]
    assert contents(tmp_path / "same", names) == contents(run, names)
    other = replace(CONFIG, lambda_aux=0.1, alpha_sem=0.9).recipe()
    assert (other.lambda_aux, other.alpha_sem, other.alpha_co) == pytest.approx((0.1, 0.9, 0.1))
    for wrong, told in (({"experiment": "C", "lambda_aux": 1.0}, "no clustering loss"),
                        ({"experiment": "C + sem", "alpha_sem": 0.5}, "not sem and co alone"),
                        ({"experiment": "C + co + sem + centre", "alpha_sem": 0.5}, "and co alone"),
                        ({"members": 2.5}, "1 or more"),
                        ({"lambda_aux": 0.0}, "above 0"), ({"alpha_sem": 1.0}, "between 0 and 1"),
                        ({"members": 0}, "1 or more"), ({"logistic_share": 1.0}, "below 1")):
        with pytest.raises(ValueError, match=told):
            replace(CONFIG, **wrong).settled()
    with pytest.raises(ValueError, match="an average wants a frozen backbone"):
        replace(CONFIG, trainable="all", members=2).settled()
