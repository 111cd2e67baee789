"""The search: resumed to the bit, blind to the test images, and honest about what it found."""
import errno
import json
import math
import multiprocessing
import os
import random
import resource
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from silk_nb.annotations import choose_variable, split_annotations
from silk_nb.cli import _in_words, _nothing_gained, _parsers, main
from silk_nb.experiments import RunConfig, given_features
from silk_nb.recipes import expand_names, find_experiment
from silk_nb.study import StudyBusyError, UnfinishedStudyError
from silk_nb.training import NonFiniteLossError

optuna = pytest.importorskip("optuna")
import silk_nb.tuning as module  # noqa: E402
from silk_nb.tuning import (  # noqa: E402
    Between,
    Layers,
    best_config,
    collect_tuning,
    default_space,
    plot_course,
    plot_setting,
    plot_tuning,
    tune,
    tuning_words,
)

CONFIG = RunConfig("kind", "C + co + sem", batch_size=None, max_epochs=6, task_fc=(16, 8), seed=3)
PRELOAD = ["silk_nb.study", "silk_nb.tuning", "optuna"]  # by the server that processes fork from


def made_up(rows=200):
    """A label table of one variable, with features and colours that tell a little of it."""
    rng = np.random.default_rng(0)
    kind = rng.choice(["tabby", "velvet", "damask", "twill"], rows, p=[0.5, 0.25, 0.15, 0.1])
    table = pd.DataFrame({"image": [f"no/such/{i:03}.jpg" for i in range(rows)],
                          "group": [f"object {i // 2}" for i in range(rows)],
                          "kind": pd.Categorical(kind)})
    inputs = np.abs(rng.normal(size=(4, 12))[table["kind"].cat.codes] + rng.normal(size=(rows, 12)))
    return table, given_features(table, torch.tensor(inputs, dtype=torch.float32),
                                 torch.tensor(rng.integers(1, 40, (rows, 25)), dtype=torch.float32))


TABLE, PREPARED = made_up()


def search(folder, config=CONFIG, trials=5, **more):
    more = {"confirm": 1, "prepared": PREPARED, "quiet": True, "device": "cpu", **more}
    return tune(TABLE, folder, config, trials=trials, **more)


def same(one, other):
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), other.drop(columns="seconds"),
                                  check_exact=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "search"
    return folder, search(folder, trials=13)


@pytest.fixture
def scored(monkeypatch):
    """In place of a training: a score that the settings and the seed decide."""
    calls = []

    def validate(table, config, *, split_seed, **_):
        calls.append((config, split_seed))
        luck = np.random.default_rng([config.seed, int(config.dropout * 1000)]).normal()
        return {"mean_f1": float(0.5 - (config.dropout - 0.6) ** 2 + 0.02 * luck)}

    monkeypatch.setattr(module, "validate_experiment", validate)
    return calls


def test_the_first_trial_is_the_given_one_and_all_share_a_split(scored, tmp_path):
    found = search(tmp_path / "s", trials=30, seeds=2, confirm=3)
    configs = [config for config, _ in scored]
    assert [c.seed for c in configs[:60]] == [3, 4] * 30
    assert [c.seed for c in configs[60:64]] == [5] * 4  # to choose among three and the given one
    assert [c.seed for c in configs[64:]] == [6, 7] * 2  # to tell of the chosen and the given one
    assert {split for _, split in scored} == {3}
    assert configs[0] == CONFIG and configs[-1] == replace(CONFIG, seed=7)
    assert found["trial"].tolist() != sorted(found["trial"]) and len(found) == 30
    first = found.set_index("trial").loc[0]
    assert (first["dropout"], first["task_fc"], first["lambda_aux"]) == (0.3, (16, 8), 1.0)
    best = found.iloc[0]
    assert best["confirmed_mean_f1"] == found["confirmed_mean_f1"].max() and best["trial"]
    assert found["confirmed_mean_f1"].notna().sum() == 4
    assert set(found["trial"][found["fresh_mean_f1"].notna()]) == {0, best["trial"]}
    chosen = best_config(tmp_path / "s")
    assert chosen == replace(CONFIG, **{k: best[k] for k in default_space(CONFIG)})
    assert abs(chosen.dropout - 0.6) < 0.15
    for column, judges in (("validation_mean_f1", (3, 4)), ("confirmed_mean_f1", (3, 4, 5)),
                           ("fresh_mean_f1", (6, 7))):
        again = [module.validate_experiment(0, replace(chosen, seed=s), split_seed=3)["mean_f1"]
                 for s in judges]
        assert best[column] == np.mean(again)
    held = json.loads((tmp_path / "s" / "best.json").read_text())
    assert held["best"] == {"trial": best["trial"], **best.filter(like="mean_f1")}
    assert held["given"] == dict(first.filter(like="mean_f1"))


def test_what_tells_the_gain_does_not_choose(tmp_path, monkeypatch):
    """Whatever the last two seeds say, the same trial is chosen."""
    def judge(sign):
        def validate(table, config, **_):
            luck = np.random.default_rng([config.seed, int(config.dropout * 1000)]).normal()
            return {"mean_f1": 0.5 + 0.05 * luck * (sign if config.seed > 4 else 1)}
        return validate

    tables = []
    for name, sign in (("a", 1), ("b", -1)):
        monkeypatch.setattr(module, "validate_experiment", judge(sign))
        tables.append(search(tmp_path / name, trials=12, confirm=5))
    one, other = tables
    same(one.drop(columns="fresh_mean_f1"), other.drop(columns="fresh_mean_f1"))
    told = one["fresh_mean_f1"].notna()
    assert one["trial"][0] and set(one["trial"][told]) == {0, one["trial"][0]}
    assert np.allclose((one["fresh_mean_f1"] + other["fresh_mean_f1"])[told], 1.0)
    assert best_config(tmp_path / "a") == best_config(tmp_path / "b")


def test_the_gain_that_is_told_is_not_flattered():
    """Where all trials are equally good and luck is all, the mean gain told is nil."""
    rng, flattered, told = np.random.default_rng(0), [], []
    for _ in range(600):
        luck = rng.normal(size=(20, 4))
        runs = [{seed: {"mean_f1": f1, "seconds": 1.0} for seed, f1 in enumerate(row)}
                for row in luck]
        trials = [module._Trial(n, {"dropout": n / 20}, True, own[0]["mean_f1"], own)
                  for n, own in enumerate(runs)]
        table = module._ranked(trials, ["dropout"], 0, 1, 3).set_index("trial")
        best = table.index[0]
        for column, gains in (("confirmed_mean_f1", flattered), ("fresh_mean_f1", told)):
            gains.append(table[column][best] - table[column][0])
    error = np.std(told) / len(told) ** 0.5
    assert abs(np.mean(told)) < 3 * error < 0.2 and np.mean(flattered) > 30 * error


def test_the_sampler_learns_from_what_was_tried(scored, tmp_path):
    found = search(tmp_path / "s", trials=40, confirm=0, space={"dropout": Between(0.0, 0.9)})
    far = (found.set_index("trial")["dropout"] - 0.6).abs()
    assert far.loc[[*range(25, 40)]].mean() < 0.5 * far.loc[[*range(1, 11)]].mean()


def test_what_is_done_is_not_done_again_and_more_can_be_asked_for(scored, tmp_path):
    straight = search(tmp_path / "a", trials=16)
    n = len(scored)
    same(search(tmp_path / "a", trials=16), straight)
    assert len(scored) == n
    search(tmp_path / "b", trials=12)
    n = len(scored)
    same(search(tmp_path / "b", trials=16), straight)
    assert 4 <= len(scored) - n <= 7  # the four, and fresh judgements where another is best now
    same(search(tmp_path / "b", trials=3), straight)
    same(collect_tuning(tmp_path / "b"), straight)


def _child(folder):
    torch.set_num_threads(1)
    search(folder, trials=12)


def _trials_done(folder):
    try:
        return len(collect_tuning(folder))
    except (FileNotFoundError, ValueError):  # it had not begun
        return -1


def test_kills_change_nothing(tmp_path):
    """Processes fork from a server that has imported everything, so that kills hit the work."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)

    def start(name):
        process = context.Process(target=_child, args=(tmp_path / name,))
        process.start()
        return process

    lengths = []
    for name in ("whole", "timed"):
        began, process = time.monotonic(), start(name)
        process.join(300)
        assert process.exitcode == 0
        lengths.append(time.monotonic() - began)
    rng, reached = random.Random(1), []
    while len(reached) < 40:  # until it has come to its end
        process = start("killed")
        process.join(rng.uniform(0.1, 0.6) * lengths[1])
        if process.exitcode is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        reached.append(_trials_done(tmp_path / "killed"))
    process = start("killed")
    process.join(300)
    assert process.exitcode == 0 and reached == sorted(reached)
    assert len({n for n in reached if 0 < n < 12}) >= 2, reached
    same(collect_tuning(tmp_path / "killed"), collect_tuning(tmp_path / "whole"))
    best = [(tmp_path / name / "best.json").read_text() for name in ("killed", "whole")]
    assert best[0] == best[1]
    assert {p.name for p in (tmp_path / "killed").iterdir()} - {".lock"} == {
        "best.json", "trials.csv", "trials.db", "tuning.json"}


def test_a_half_done_trial_goes_on_with_its_settings(scored, tmp_path, monkeypatch):
    straight = search(tmp_path / "a", seeds=2, trials=4, confirm=0)
    plain = module.validate_experiment
    settings = []

    def interrupted(table, config, **more):
        settings.append(config)
        if len(settings) == 6:
            raise KeyboardInterrupt
        return plain(table, config, **more)

    monkeypatch.setattr(module, "validate_experiment", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "b", seeds=2, trials=4, confirm=0)
    assert len(collect_tuning(tmp_path / "b")) == 2
    with pytest.raises(ValueError, match="is not finished"):
        best_config(tmp_path / "b")
    same(search(tmp_path / "b", seeds=2, trials=4, confirm=0), straight)
    assert settings[6] == settings[5] and settings[6].seed == 4  # its first seed is not done again


def test_the_test_images_are_never_looked_at(whole, tmp_path):
    split = split_annotations(choose_variable(TABLE, "kind")[0], seed=CONFIG.seed)
    tested = TABLE["image"].isin(split["image"][split["split"] == "test"]).to_numpy()
    assert 20 < tested.sum() < 60
    inputs, colours = (t.clone() for t in PREPARED.seen[1:3])
    for seen in (inputs, colours):
        seen[torch.tensor(tested)] = math.nan
    poisoned = PREPARED._replace(seen=PREPARED.seen._replace(inputs=inputs, descriptors=colours))
    same(search(tmp_path / "s", trials=13, prepared=poisoned), whole[1])


def test_trials_that_fail_are_in_the_table_and_avoided(tmp_path, monkeypatch):
    def validate(table, config, **_):
        if config.dropout > 0.4:
            raise NonFiniteLossError("the loss is nan in epoch 1,\nbatch 2")
        return {"mean_f1": 0.5}  # only the failures tell where not to go

    monkeypatch.setattr(module, "validate_experiment", validate)
    found = search(tmp_path / "s", trials=30)
    failed = found[found["state"] == "failed"]
    assert 3 <= len(failed) < 15 and (failed["dropout"] > 0.4).all()
    assert set(failed["reason"]) == {"the loss is nan in epoch 1, batch 2"}
    assert found["state"].tolist() == ["done"] * (30 - len(failed)) + ["failed"] * len(failed)
    assert f"30 trials, of which {len(failed)} failed" in tuning_words(found)[0]
    late = found[found["trial"] >= 20]
    assert (late["state"] == "done").mean() > 0.7
    axes = plot_tuning(found)
    assert len(axes) >= 7 and axes[0].figure.get_suptitle()


def test_where_all_fail_there_is_no_best(tmp_path, monkeypatch):
    def validate(*_, **__):
        raise NonFiniteLossError("nan")

    monkeypatch.setattr(module, "validate_experiment", validate)
    found = search(tmp_path / "s", trials=3)
    assert (found["state"] == "failed").all() and "None came through" in tuning_words(found)[-1]
    with pytest.raises(ValueError, match="none of its trials came through"):
        best_config(tmp_path / "s")


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA: 2.00 GiB"), MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: "
                 "you tried to allocate 4194304 bytes.")])
def test_a_lack_of_memory_stops_the_search_and_fails_no_trial(error, scored, tmp_path, monkeypatch):
    straight, plain, calls = search(tmp_path / "a"), module.validate_experiment, []

    def validate(*job, **more):
        calls.append(job[1])
        if len(calls) == 3:
            raise error
        return plain(*job, **more)

    monkeypatch.setattr(module, "validate_experiment", validate)
    with pytest.raises(UnfinishedStudyError, match="not enough memory on cpu for trial 2 .*Make "
                       "room .*same call goes on .* smaller batch or fewer nodes") as told:
        search(tmp_path / "b")
    assert told.value.__cause__ is error
    assert len(collect_tuning(tmp_path / "b")) == 2
    same(search(tmp_path / "b"), straight)
    assert calls[3] == calls[2]  # the same trial once more


def test_another_error_of_pytorch_is_told_as_it_is(scored, tmp_path, monkeypatch):
    def validate(*_, **__):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(module, "validate_experiment", validate)
    with pytest.raises(RuntimeError, match="^CUDA error: device-side"):
        search(tmp_path / "s")


def test_a_full_disk_stops_the_search_and_fails_no_trial(scored, tmp_path, monkeypatch):
    straight, plain, calls = search(tmp_path / "a"), module._Store.note, []

    def note(self, *args):
        calls.append(args)
        if len(calls) == 3:
            raise OSError(28, "no space left on device", str(self.file))
        return plain(self, *args)

    monkeypatch.setattr(module._Store, "note", note)
    with pytest.raises(OSError, match="no space left"):
        search(tmp_path / "b")
    assert len(collect_tuning(tmp_path / "b")) == 2
    same(search(tmp_path / "b"), straight)


def test_errors_of_the_storage_are_those_of_the_system(tmp_path):
    """A limit on file size stands for a full disk."""
    store, limits = module._Store(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    size = store.file.stat().st_size + 8192
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(OSError, match="no space left on device.*trials.db") as told:
            for seed in range(1000):
                store.note(0, seed, {"x": "y" * 500})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert told.value.errno == errno.ENOSPC and seed > 2
    again = module._Store(tmp_path)
    assert again.trials() == [] and len(again.study.user_attrs) == seed  # what was noted is there


def test_a_second_search_on_the_folder_says_so(scored, tmp_path, monkeypatch):
    plain, told = module.validate_experiment, []

    def meddled(*job, **more):
        if not told:
            with pytest.raises(StudyBusyError, match="another tuning is at work"):
                search(tmp_path / "s", trials=2)
            told.append(len(collect_tuning(tmp_path / "s")))  # can be looked at meanwhile
        return plain(*job, **more)

    monkeypatch.setattr(module, "validate_experiment", meddled)
    assert len(search(tmp_path / "s", trials=2)) == 2 and told == [0]


@pytest.mark.parametrize("change,word", [
    ({"config": replace(CONFIG, learning_rate=0.01)}, "learning_rate"),
    ({"config": replace(CONFIG, experiment="C + sem")}, "experiment"),
    ({"config": replace(CONFIG, seed=4)}, "seed"),
    ({"seeds": 2}, "seeds"), ({"confirm": 0}, "confirm"),
    ({"space": {"dropout": Between(0.1, 0.5)}}, "space"),
])
def test_another_search_is_refused_and_nothing_is_changed(change, word, whole):
    folder, _ = whole
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*")}
    with pytest.raises(FileExistsError, match=f"another tuning, which differs in .*{word}"):
        search(folder, **change)
    fewer = given_features(TABLE[:-2], *(t[:-2] for t in PREPARED.seen[1:3]))
    with pytest.raises(FileExistsError, match="differs in data"):
        tune(TABLE[:-2], folder, CONFIG, prepared=fewer, quiet=True, confirm=1)
    other = given_features(TABLE, PREPARED.seen.inputs + 1, PREPARED.seen.descriptors)
    with pytest.raises(FileExistsError, match="begun with other images, colours or weights"):
        search(folder, trials=13, prepared=other)
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*")} == before


def test_foreign_folders_and_mistakes_leave_nothing(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds other things and no tuning"):
        search(tmp_path)
    config = replace(CONFIG, experiment="C")
    for change, word in (
            ({"config": replace(config, variable="colour")}, "no variable 'colour'"),
            ({"config": replace(config, experiment="C + seem")}, "no experiment"),
            ({"config": replace(config, batch_size=190)}, "190"),
            ({"config": replace(config, dropout=1.5)}, "dropout"),
            ({"config": replace(config, trainable="all")}, "frozen backbone"),
            ({"trials": 0}, "trials must be"), ({"seeds": 0}, "seeds must be"),
            ({"confirm": -1}, "confirm must be"), ({"space": {}}, "nothing to vary"),
            ({"space": {"backbone": ("resnet18", "resnet50")}}, "no setting that can be tuned"),
            ({"space": {"patience": Between(2, 9)}}, "patience cannot take its values"),
            ({"space": {"dropout": Layers()}}, "dropout cannot take its values"),
            ({"space": {"task_fc": Between(1, 2)}}, "or Layers"),
            ({"space": {"dropout": 0.5}}, "or Between"), ({"space": {"dropout": ()}}, "Between"),
            ({"config": CONFIG, "space": {"task_fc": Layers(fewest=0)}}, "one layer at least"),
            ({"config": CONFIG, "space": {"task_fc": ((), (8,))}}, "one layer at least"),
            ({"space": {"batch_size": (16, 190)}}, "190")):
        with pytest.raises(ValueError, match=word):
            search(tmp_path / "s", **{"config": config, **change})
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    for call in (collect_tuning, best_config):
        with pytest.raises(ValueError, match="is not a tuning folder"):
            call(tmp_path)
        with pytest.raises(FileNotFoundError):
            call(tmp_path / "gone")


@pytest.mark.parametrize("experiment,space,word", [
    ("C", {"dropout": Between(0.5, 1.0)}, r"dropout cannot be 1\.0: dropout must lie"),
    ("C", {"dropout": Between(-0.5, 0.5)}, r"dropout cannot be -0\.5"),
    ("C", {"dropout": (0.1, "much")}, "dropout cannot be 'much'"),
    ("C", {"learning_rate": Between(0.0, 0.1)}, r"learning_rate cannot be 0\.0"),
    ("C", {"weight_decay": (0.1, math.nan)}, "weight_decay cannot be nan"),
    ("C", {"patience": (3, 0)}, "patience cannot be 0"),
    ("C", {"select": ("validation_accuracy",)}, "select cannot be 'validation_accuracy'"),
    ("C", {"task_fc": ((16,), (16, 0))}, r"task_fc cannot be \(16, 0\)"),
    ("C", {"members": (1, 0)}, "members cannot be 0"),
    ("C", {"lambda_aux": Between(0.1, 1.0)}, r"lambda_aux cannot be 0\.1: .* no clustering loss"),
    ("C + sem", {"lambda_aux": Between(0.0, 1.0)}, r"lambda_aux cannot be 0\.0"),
    ("C + sem", {"alpha_sem": Between(0.1, 0.9)}, "alpha_sem cannot be .* not sem and co alone"),
    ("C + co + sem", {"alpha_sem": Between(0.1, 1.0)}, r"alpha_sem cannot be 1\.0"),
    ("LDAM-DRW", {"select": ("validation_loss", "validation_mean_f1")},
     "select cannot be varied for LDAM-DRW"),
])
def test_both_ends_and_every_choice_are_checked_before_anything_is_made(
        experiment, space, word, scored, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(module, "hold_folder", lambda *args: made.append(args))
    with pytest.raises(ValueError, match=word):
        search(tmp_path / "s", replace(CONFIG, experiment=experiment), space=space)
    assert not made and not scored and not (tmp_path / "s").exists()


def test_a_colour_loss_without_colours_is_refused_at_once(scored, tmp_path):
    pale = given_features(TABLE, PREPARED.seen.inputs)
    with pytest.raises(ValueError, match="'C \\+ co \\+ sem' wants colour descriptors"):
        search(tmp_path / "s", prepared=pale)
    assert not scored and not (tmp_path / "s").exists()
    assert len(search(tmp_path / "s", replace(CONFIG, experiment="C + sem"), prepared=pale)) == 5


@pytest.mark.parametrize("name", ["a ? b", "100%20", "the #1", "Köper 絹", "{0} {trial}",
                                  "a:b@c&d=e"])
def test_a_folder_may_have_any_name(name, scored, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / "absolute" / name, name):
        found = search(folder, trials=2)
        same(search(folder, trials=2), found)
        same(collect_tuning(folder), found)
    assert {p.name for p in tmp_path.iterdir()} == {"absolute", name}
    for folder in (tmp_path / "absolute" / name, tmp_path / name):
        assert {p.name for p in folder.iterdir()} - {".lock"} == {
            "best.json", "trials.csv", "trials.db", "tuning.json"}
    assert [p.name for p in (tmp_path / "absolute").iterdir()] == [name]


def test_what_a_kill_left_of_the_list_of_trials_is_cleaned_up(scored, tmp_path):
    folder = tmp_path / "s"
    found = search(folder, trials=2)
    (folder / "trials.db").unlink()
    for name in (".trials.0123456789ab.db", ".trials.0123456789ab.db-journal"):
        (folder / name).write_bytes(b"half")
    same(search(folder, trials=2), found)
    assert not list(folder.glob(".trials*"))


@pytest.mark.parametrize("damage", [b"", b"no database at all, but text " * 200])
def test_a_damaged_list_of_trials_is_named(scored, damage, tmp_path):
    search(tmp_path / "s", trials=1)
    (tmp_path / "s" / "trials.db").write_bytes(damage)
    for call in (collect_tuning, lambda folder: search(folder, trials=1)):
        with pytest.raises(ValueError, match="trials.db is damaged"):
            call(tmp_path / "s")
    assert (tmp_path / "s" / "trials.db").read_bytes() == damage


def _changed(held, **run):
    return json.dumps({**held, "run": {**held["run"], **run}})


@pytest.mark.parametrize("damage", [
    lambda held: "", lambda held: "[]", lambda held: json.dumps(held)[:-9], lambda held: "{}",
    lambda held: '{"run": {"variable": "kind"}}', lambda held: '{"run": null}',
    lambda held: _changed(held, momentum=0.9), lambda held: _changed(held, dropout="much"),
    lambda held: _changed(held, dropout=1.5), lambda held: _changed(held, experiment="C + seem")])
def test_a_best_that_is_damaged_or_of_another_version_is_named_and_mended(damage, scored, tmp_path):
    search(tmp_path / "s", trials=2)
    file, n = tmp_path / "s" / "best.json", len(scored)
    right = file.read_text()
    file.write_text(damage(json.loads(right)))
    with pytest.raises(ValueError, match="best.json is damaged, or of another version of silk_nb: "
                       "tune once more"):
        best_config(tmp_path / "s")
    search(tmp_path / "s", trials=2)
    assert file.read_text() == right and len(scored) == n


def test_the_best_is_that_of_the_present_state_or_none(scored, tmp_path, monkeypatch):
    """Wherever more trials are interrupted, the best of fewer trials is not told."""
    straight = search(tmp_path / "a", trials=9, confirm=2)
    search(tmp_path / "b", trials=4, confirm=2)
    file, plain, calls = tmp_path / "b" / "best.json", module.validate_experiment, []
    search(tmp_path / "b", trials=4, confirm=2)
    assert file.exists()  # nothing was to be done

    def interrupted(*job, **more):
        calls.append(job)
        if len(calls) % 2:
            raise KeyboardInterrupt
        return plain(*job, **more)

    monkeypatch.setattr(module, "validate_experiment", interrupted)
    for _ in range(50):
        try:
            search(tmp_path / "b", trials=9, confirm=2)
            break
        except KeyboardInterrupt:
            assert not file.exists()
            with pytest.raises(ValueError, match="is not finished"):
                best_config(tmp_path / "b")
    assert len(calls) >= 10 and file.read_text() == (tmp_path / "a" / "best.json").read_text()
    same(collect_tuning(tmp_path / "b"), straight)


@pytest.mark.parametrize("name", expand_names(["all"]))
def test_a_space_has_what_makes_sense_and_the_first_trial_is_as_given(name, scored, tmp_path):
    experiment, config = find_experiment(name), replace(CONFIG, experiment=name)
    if experiment.without_network:
        with pytest.raises(ValueError, match="trains no network .* nothing to tune"):
            search(tmp_path / "s", config)
        return
    space = default_space(config)
    assert ("lambda_aux" in space) == (experiment.lambda_aux > 0)
    assert ("alpha_sem" in space) == ("+ co + sem" in name)
    assert {"learning_rate", "dropout", "weight_decay"} <= set(space)
    search(tmp_path / "s", config, trials=3, confirm=0)
    given, head = config.settled(), find_experiment(name).head
    ran = scored[0][0]
    assert replace(ran, experiment=name) == given and ran.settled() == ran
    assert ran.experiment == name.removesuffix(f" / {head}")
    for config, _ in scored:
        config.recipe()
        assert config.settled() == config  # nothing is overruled by a head


def test_a_head_does_not_overrule_what_was_tried(scored, tmp_path):
    """0.3 and (1024, 32) are the defaults that '/ hidden' replaces, and may still win."""
    config = replace(CONFIG, experiment="LA + sem / hidden", task_fc=(1024, 32))
    found = search(tmp_path / "s", config, trials=30, confirm=0,
                   space={"task_fc": ((512,), (1024, 32)), "dropout": (0.3, 0.5)})
    assert found["dropout"][0] == 0.5 and len(found) == 30
    for (ran, _), row in zip(scored, found.sort_values("trial").to_dict("records"), strict=True):
        assert (ran.task_fc, ran.dropout) == (row["task_fc"], row["dropout"])
    assert (1024, 32) in set(found["task_fc"]) and best_config(tmp_path / "s").standardise


def test_values_stay_in_their_range_and_can_be_typed():
    study = optuna.create_study()
    for values, name in ((Between(0.00012345, 0.0123456, log=True), "learning_rate"),
                         (Between(0.0, 0.8), "dropout")):
        for _ in range(50):
            drawn = values.draw(study.ask(), name)
            assert values.low <= drawn <= values.high
            assert float(f"{drawn:.3g}") == drawn or drawn in (values.low, values.high)
            (kind, known), = values.parameters(optuna, name, drawn).values()
            assert known == drawn and kind._contains(drawn)
    assert Between(1e-4, 1.0, log=True).nearest(0.0) == 1e-4
    seen = {Layers(0, 3, 16, 64).draw(study.ask(), "task_fc") for _ in range(200)}
    assert {len(layers) for layers in seen} == {0, 1, 2, 3}
    assert {n for layers in seen for n in layers} == {16, 32, 64}
    for layers in [*seen, (1024, 32, 7, 300), (8,)]:
        for kind, value in Layers(1, 2).parameters(optuna, "t", layers).values():
            assert kind._contains(value)
    for bad in ((1, 0), (0, 1, True), (0, math.inf), (math.nan, 1)):
        with pytest.raises(ValueError, match="Between wants"):
            Between(*bad)
    for bad in ((2, 1), (0, 0), (1, 2, 33), (1, 2, 64, 64), (-1, 2)):
        with pytest.raises(ValueError, match="Layers wants"):
            Layers(*bad)


def judged(monkeypatch, *, fails=(), luck=0.0, **settings):
    """In place of a training: a higher dropout is better; `fails` are pairs of dropout and seed."""
    def validate(table, config, **_):
        if (config.dropout, config.seed) in fails:
            raise NonFiniteLossError("the loss is nan in epoch 1.")
        return {"mean_f1": 0.4 + config.dropout * (0.25 + luck * (config.seed > 3))}

    monkeypatch.setattr(module, "validate_experiment", validate)
    return {"config": replace(CONFIG, dropout=0.0), "space": {"dropout": (0.0, 0.4)}, "trials": 8,
            **settings}


def test_words_say_what_was_gained_with_seeds_that_chose_nothing(tmp_path, monkeypatch):
    found = search(tmp_path / "gain", **judged(monkeypatch, luck=-0.05))
    words = " ".join(tuning_words(found))
    assert (f"Trial {found['trial'][0]} is the best, with a mean F1 of 48.0 % on the validation "
            "set; the configuration as given has 40.0 %, so 8.0 points were gained.") in words
    assert "These are means over two fresh seeds" in words
    assert "chosen for a mean of 49.0 % over other seeds, 1.0 points more: about so much" in words
    assert "test images have not been" in words and "nan" not in words
    found = search(tmp_path / "alone", **judged(monkeypatch, fails={(0.0, 3)}))
    words = " ".join(tuning_words(found))
    assert "with a mean F1 of 50.0 %" in words
    assert "the configuration as given failed, so what was gained is not known" in words
    assert "This is the mean over two fresh seeds" in words and "nan" not in words


def test_words_where_fresh_seeds_say_the_contrary(tmp_path, monkeypatch):
    """The one that was chosen by seeds 3 and 4 is worse with 5 and 6."""
    settings = judged(monkeypatch)
    plain = module.validate_experiment
    monkeypatch.setattr(module, "validate_experiment", lambda table, config, **_: {
        "mean_f1": plain(table, config)["mean_f1"] - (config.seed > 4) * config.dropout / 2})
    found = search(tmp_path / "s", **settings)
    words = " ".join(tuning_words(found))
    assert found["dropout"][0] == 0.4 and "with a mean F1 of 30.0 %" in words
    assert "as given has 40.0 %, 10.0 points more: fresh seeds do not bear out" in words


@pytest.mark.parametrize("fails,failed,known", [
    ({(0.0, 6)},
     ["The configuration as given failed with fresh seed 6: the loss is nan in epoch 1. "],
     "Trial {} has 50.0 % over two fresh seeds."),
    ({(0.4, 5)}, ["Trial {} failed with fresh seed 5: the loss is nan in epoch 1."],
     "The configuration as given has 40.0 % over two fresh seeds."),
    ({(0.0, 5), (0.4, 5)}, ["The configuration as given failed with", "Trial {} failed with"],
     None),
    ({(0.0, 4), (0.0, 5)}, ["The configuration as given failed with fresh seed 4"],
     "Trial {} has"),
])
def test_words_where_a_fresh_seed_failed_say_what_is_not_known(fails, failed, known, tmp_path,
                                                               monkeypatch):
    found = search(tmp_path / "s", **judged(monkeypatch, fails=fails))
    best, words = found["trial"][0], " ".join(tuning_words(found))
    assert found["dropout"][0] == 0.4 and (found["state"] == "done").all()
    assert f"Trial {best} is the best, but what was gained is not known" in words
    assert ("The search, which flatters the best, gave it 50.0 % and the configuration as given "
            "40.0 %") in words
    assert all(sentence.format(best) in words for sentence in failed)
    assert known is None or known.format(best) in words
    assert ("over two fresh seeds" in words) == (known is not None)
    assert "nan points" not in words and "nan %" not in words and "were gained" not in words


def test_a_best_of_the_search_that_fails_with_the_fresh_seed_is_not_chosen(tmp_path, monkeypatch):
    found = search(tmp_path / "s", **judged(monkeypatch, fails={(0.4, 4)}))
    assert found["trial"][0] == 0 and best_config(tmp_path / "s").dropout == 0.0
    words = " ".join(tuning_words(found))
    assert "The configuration as given is the best, with a mean F1 of 40.0 %" in words


def test_words_and_pictures(scored, tmp_path, whole):
    _, found = whole
    poor = search(tmp_path / "s", replace(CONFIG, dropout=0.6), trials=6, confirm=5,
                  space={"dropout": Between(0.0, 0.3)})
    words = " ".join(tuning_words(poor))
    assert "as given is the best" in words and poor["trial"][0] == 0
    assert f"{100 * poor['fresh_mean_f1'][0]:.1f} %" in words
    assert "test images have not been" in words
    assert best_config(tmp_path / "s") == replace(CONFIG, dropout=0.6)
    unconfirmed = search(tmp_path / "u", trials=6, confirm=0)
    assert "not confirmed" in " ".join(tuning_words(unconfirmed))
    assert "over two fresh seeds" not in " ".join(tuning_words(unconfirmed))
    assert unconfirmed[["confirmed_mean_f1", "fresh_mean_f1"]].isna().all(axis=None)
    with pytest.raises(ValueError, match="no trial is finished"):
        tuning_words(found[:0])
    ax = plot_setting(found, "weight decay")
    assert len(np.concatenate([c.get_offsets() for c in ax.collections])) == len(found)
    shown = plot_course(found).lines[0].get_ydata()
    assert shown[-1] == pytest.approx(100 * found["validation_mean_f1"].max())
    with pytest.raises(ValueError, match="no setting 'colour' was varied"):
        plot_setting(found, "colour")
    chosen = search(tmp_path / "c", trials=12, confirm=0, config=replace(CONFIG, experiment="C"),
                    space={"standardise": (True,), "select": ("validation_mean_f1",)})
    assert len(plot_tuning(chosen)) == 3


SMALL = ["--backbone", "shufflenet_v2_x0_5", "--weights", "silk-textures", "--batch-size", "auto",
         "--max-epochs", "3"]


def test_the_command_prints_one_that_trains_the_best(silk, silk_cache, tmp_path, capsys):
    arguments = ["tune", str(silk), "--variable", "technique", "--experiment", "LA+co+sem/hidden",
                 "--trials", "4", "--confirm", "1", "--cache", str(silk_cache), *SMALL, "--quiet",
                 "--out", str(tmp_path / "a search"), "--missing", "not known", "?"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert not err and "4 trials." in out and (tmp_path / "a search" / "tuning.png").is_file()
    line = out.splitlines()[-1]
    words = shlex.split(line)
    assert words[:2] == ["silk_nb", "train"] and words == shlex.split(shlex.join(words))
    parsed = _parsers()[0].parse_args(words[1:])
    given = {k: v for k, v in vars(parsed).items() if k in RunConfig.__dataclass_fields__}
    best = best_config(tmp_path / "a search")
    if _nothing_gained(collect_tuning(tmp_path / "a search")):  # then it is that as given
        asked = vars(_parsers()[0].parse_args(arguments))
        best = RunConfig(**{k: v for k, v in asked.items()
                            if k in RunConfig.__dataclass_fields__}).settled()
    assert RunConfig(**given).settled() == best and best.standardise and best.batch_size is None
    assert parsed.missing == ["not known", "?"]
    assert main(words[1:] + ["--quiet"]) == 0  # runs as printed
    run = json.loads((parsed.out / "config.json").read_text())["run"]
    assert run == best.to_json()
    capsys.readouterr()
    assert main(arguments) == 0 and capsys.readouterr().out == out  # nothing is done again
    for more, word in ((["--trials", "0"], "trials must be"),
                       (["--dropout", "0.1"], "differs in dropout"),
                       (["--experiment", "kNN"], "nothing to tune"),
                       (["--settings", "learning-rate", "colour"], "no setting 'colour' to tune"),
                       (["--variable", "colour"], "no variable 'colour'")):
        assert main(arguments + more) == 1
        out_, err = capsys.readouterr()
        assert not out_ and err.count("\n") == 1 and err.startswith("silk_nb: ") and word in err


def test_options_give_back_any_configuration():
    config = RunConfig("the kind", "C + sem", seed=7, weights=None, mean=(0.1, 0.2, 0.3), std=1.5,
                       trainable=2, task_fc=(), dropout=0.0, standardise=True, batch_size=None,
                       allow_imbalanced=True, min_count=3, rare="drop", learning_rate=1e-05,
                       weight_decay=0.123, select="validation_mean_f1", lambda_aux=2.5, members=3,
                       input_size=64, logistic_share=0.25, alpha_sem=0.5, patience=3, max_epochs=9)
    for case in (config, RunConfig("v")):
        parsed = _parsers()[0].parse_args(["train", "x", *_in_words(case)])
        assert RunConfig(**{k: v for k, v in vars(parsed).items()
                            if k in RunConfig.__dataclass_fields__}) == case


def test_without_optuna_it_says_what_to_install(tmp_path):
    code = ("import sys\nfor n in ('optuna', 'sqlalchemy'): sys.modules[n] = None\n"
            "from silk_nb.cli import main\n"
            "sys.exit(main(['tune', sys.argv[1], '--variable', 'kind', '--out', 'o']))")
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "t.csv")], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "tuning needs Optuna: pip install 'silk_nb[study]'" in done.stderr
    assert not (tmp_path / "o").exists()


def test_axes_are_logarithmic_where_the_setting_is_and_labels_do_not_overlap(scored, tmp_path):
    found = search(tmp_path / "s", replace(CONFIG, weight_decay=0.0), trials=12)
    scales = {label: plot_setting(found, label).get_xscale()
              for label in ("learning rate", "weight decay", "dropout", "λ (lambda_aux)")}
    assert scales == {"learning rate": "log", "weight decay": "symlog", "dropout": "linear",
                      "λ (lambda_aux)": "log"}
    for label in scales:
        ax = plot_setting(found, label)
        ax.figure.canvas.draw()
        boxes = sorted((t.get_window_extent() for t in ax.get_xticklabels(which="both")
                        if t.get_text()), key=lambda box: box.x0)
        assert len(boxes) >= 2
        assert all(a.x1 < b.x0 for a, b in zip(boxes, boxes[1:], strict=False)), label
    named = plot_course(found).get_legend_handles_labels()[1]
    assert ("given" in named) == (found["trial"][0] != 0)
