"""Studies: every name runs, nothing is lost by any interruption, and no folder is spoilt."""
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import silk_nb.experiments as experiments
import silk_nb.study as module
from silk_nb.comparators import FewNeighboursWarning
from silk_nb.experiments import RunConfig, given_features, read_scores
from silk_nb.findings import (
    Findings,
    level_with_best,
    read_findings,
    recommendations,
    write_findings,
)
from silk_nb.recipes import expand_names
from silk_nb.study import (
    StudyBusyError,
    UnfinishedStudyError,
    collect_predictions,
    collect_study,
    plan_study,
    read_rejected,
    read_study,
    run_study,
)

CONFIG = RunConfig("", task_fc=(16, 4), batch_size=None, max_epochs=4)
WHAT = (["kind", "shade"], ["C*", "C + co + sem"], 2)
DETERMINED = ("results.csv", "metrics.json", "validation.json", "history.csv", "split.csv",
              "weights.safetensors", "predictions.csv", "per_class.csv", "confusion.csv")


def made_up(rows=240):
    """A label table of two variables, with features that tell a little of the labels."""
    rng = np.random.default_rng(0)
    kind = rng.choice(["tabby", "velvet", "damask", "twill"], rows, p=[0.6, 0.2, 0.12, 0.08])
    shade = rng.choice(["red", "blue", "green"], rows, p=[0.7, 0.2, 0.1])
    table = pd.DataFrame({"image": [f"no/such/{i:03}.jpg" for i in range(rows)],
                          "group": [f"object {i // 2}" for i in range(rows)],
                          "kind": pd.Categorical(kind), "shade": pd.Categorical(shade)})
    centres = rng.normal(size=(7, 12))
    codes = table["kind"].cat.codes.to_numpy(), 4 + table["shade"].cat.codes.to_numpy()
    inputs = np.abs(centres[codes[0]] + centres[codes[1]] + rng.normal(size=(rows, 12)))
    colours = rng.integers(1, 40, (rows, 25))
    return table, given_features(table, torch.tensor(inputs, dtype=torch.float32),
                                 torch.tensor(colours, dtype=torch.float32))


TABLE, PREPARED = made_up()


def study(folder, what=WHAT, **more):
    more.setdefault("config", CONFIG)
    return run_study(TABLE, folder, *what, prepared=PREPARED, quiet=True, **more)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*"))
            if p.name in DETERMINED}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "study"
    return folder, study(folder)


def test_a_study_is_whole_and_its_runs_pair_up(whole):
    folder, results = whole
    assert len(results) == 8 and results.notna().all(axis=None)
    for row in results.to_dict("records"):
        assert row["mean_f1"] == read_scores(folder / row["folder"] / "metrics.json")["mean_f1"]
    said = collect_predictions(folder)
    for _, one in said.groupby(["variable", "seed"]):
        images = [rows["image"].tolist() for _, rows in one.groupby("experiment")]
        assert images[0] == images[1]
    splits = {p.read_bytes() for p in folder.rglob("split.csv")}
    assert len(splits) == 4  # one per variable and seed
    pd.testing.assert_frame_equal(pd.read_csv(folder / "results.csv"), results)
    header = read_study(folder)
    assert header["study"]["experiments"] == ["C*", "C + co + sem"]
    assert {"torch", "silk_nb", "python"} <= set(header["versions"])


def test_what_is_done_is_not_done_again(whole, monkeypatch):
    folder, results = whole
    monkeypatch.setattr(module, "_one_run", lambda *a: pytest.fail("a run was done again"))
    pd.testing.assert_frame_equal(study(folder), results)


@pytest.mark.parametrize("name", expand_names(["all"]))
def test_every_name_runs_to_its_end(name, tmp_path):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewNeighboursWarning)
        results = study(tmp_path / "s", (["kind"], [name], 1))
    row = results.iloc[0]
    assert row["experiment"] == name and 0 < row["overall_accuracy"] <= 1
    weights = tmp_path / "s" / row["folder"] / "weights.safetensors"
    assert weights.stat().st_size > 100
    assert json.loads((weights.parent / "config.json").read_text())["run"]["experiment"] == name


def _child(folder):
    torch.set_num_threads(1)
    study(folder)


def test_twenty_kills_change_nothing(tmp_path):
    """Processes fork from a server that has imported everything, so that kills hit the work."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["silk_nb.study", "silk_nb.tuning", "optuna"])
    start = context.Process(target=_child, args=(tmp_path / "whole",))
    start.start()
    start.join(300)
    assert start.exitcode == 0
    began = time.monotonic()
    start = context.Process(target=_child, args=(tmp_path / "timed",))
    start.start()
    start.join(300)
    length, kills, rng = time.monotonic() - began, 0, random.Random(0)
    for _ in range(20):
        process = context.Process(target=_child, args=(tmp_path / "killed",))
        process.start()
        time.sleep(rng.uniform(0.02, 0.25) * length)
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        kills += process.exitcode == -signal.SIGKILL
    process = context.Process(target=_child, args=(tmp_path / "killed",))
    process.start()
    process.join(300)
    assert process.exitcode == 0 and kills >= 10
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_second_study_on_the_folder_says_so(tmp_path, monkeypatch):
    plain, told, what = module._one_run, [], (["kind"], ["C*"], 1)

    def meddled(*job):
        if not told:
            began = time.monotonic()
            with pytest.raises(StudyBusyError, match="another study is at work"):
                study(tmp_path / "s", what, wait=0.2)
            told.append(time.monotonic() - began)
            assert len(collect_study(tmp_path / "s")) == 0  # can be looked at meanwhile
        return plain(*job)

    monkeypatch.setattr(module, "_one_run", meddled)
    assert len(study(tmp_path / "s", what)) == 1 and told[0] >= 0.2


@pytest.mark.parametrize("change,word", [
    ({"config": replace(CONFIG, learning_rate=0.01)}, "learning_rate"),
    ({"what": (["kind"], ["C*", "C + co + sem"], 2)}, "variables"),
    ({"what": (["kind", "shade"], ["C*"], 2)}, "experiments"),
    ({"what": (["kind", "shade"], ["C*", "C + co + sem"], [1, 2])}, r"seeds \(it has 0 as well"),
])
def test_another_study_is_refused_and_nothing_is_changed(change, word, whole):
    folder, _ = whole
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    with pytest.raises(FileExistsError, match=f"another study, which differs in .*{word}"):
        study(folder, **change)
    fewer = given_features(TABLE[:-2], *(t[:-2] for t in PREPARED.seen[1:3]))
    with pytest.raises(FileExistsError, match="differs in data"):
        run_study(TABLE[:-2], folder, *WHAT, config=CONFIG, prepared=fewer, quiet=True)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_experiments_variables_and_seeds_can_be_added(whole, tmp_path):
    grown = shutil.copytree(whole[0], tmp_path / "grown")
    before = {p: p.read_bytes() for p in grown.rglob("weights.safetensors")}
    more = (["kind", "shade"], ["kNN", "C*", "C + co + sem"], 3)
    table = study(grown, more)
    assert table.equals(study(tmp_path / "at once", more))
    assert len(table) == 18 and len(before) == 8
    assert all(path.read_bytes() == content for path, content in before.items())
    assert read_study(grown)["study"]["seeds"] == [0, 1, 2]
    assert study(tmp_path / "one", (["kind"], ["C*"], 1)).equals(
        collect_study(tmp_path / "one"))
    assert len(study(tmp_path / "one", (["shade", "kind"], ["C*"], 1))) == 2


def test_a_finished_study_refuses_other_features(whole):
    other = PREPARED._replace(seen=PREPARED.seen._replace(inputs=PREPARED.seen.inputs + 1))
    with pytest.raises(FileExistsError, match="begun with other images"):
        run_study(TABLE, whole[0], *WHAT, config=CONFIG, prepared=other, quiet=True)
    assert study(whole[0]).equals(whole[1])


def test_mistakes_leave_no_folder(tmp_path):
    for what, word in ((["colour"], ["C*"], 1), "no variable 'colour'"), (
            (["kind"], ["C + seem"], 1), "no experiment"), ((["kind"], ["C*"], 0), "seed"), (
            (["kind"], ["SMOTE + co"], 1), "no colours"):
        with pytest.raises(ValueError, match=word):
            study(tmp_path / "s", what)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds other things"):
        study(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(ValueError, match="is not a study folder"):
        collect_study(tmp_path)


def test_a_run_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    plain = module.run_experiment

    def failing(table, folder, config, **more):
        if config.experiment == "C":
            raise RuntimeError("the third law of thermodynamics")
        return plain(table, folder, config, **more)

    monkeypatch.setattr(module, "run_experiment", failing)
    with pytest.raises(UnfinishedStudyError, match=r"2 of 4 runs in .* others are done.*third law"):
        study(tmp_path / "s", (["kind"], ["C", "C*"], 2))
    assert collect_study(tmp_path / "s")["experiment"].tolist() == ["C*", "C*"]
    monkeypatch.undo()
    assert len(study(tmp_path / "s", (["kind"], ["C", "C*"], 2))) == 4


def test_what_cannot_be_is_refused_before_the_folder_is_made(tmp_path):
    with pytest.raises(ValueError, match=r"Eq\. 5"):
        study(tmp_path / "s", (["kind"], ["C*", "C"], 1), config=replace(CONFIG, batch_size=140))
    assert not (tmp_path / "s").exists()
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / ".study.c49251b77625.json").write_text("{")  # as a kill leaves it
    assert len(study(tmp_path / "s", (["kind"], ["C*", "C"], 1))) == 2
    assert not [p for p in (tmp_path / "s").iterdir() if p.name.startswith(".study")]


def test_batches_that_cannot_be_are_refused_before_features_are_extracted(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "check_once", lambda table, cache, quiet: (table, None))
    monkeypatch.setattr(experiments, "see_images",
                        lambda *_, **__: pytest.fail("features are extracted"))
    with pytest.raises(ValueError, match=r"Eq\. 5.* training images"):
        run_study(TABLE, tmp_path / "s", *WHAT, config=replace(CONFIG, batch_size=140), quiet=True)
    assert not (tmp_path / "s").exists()


def test_deferred_weights_are_reached_and_the_best_epoch_comes_after(tmp_path):
    results = study(tmp_path / "s", (["kind"], ["LDAM-DRW"], 1),
                    config=replace(CONFIG, max_epochs=40, patience=2))
    history = pd.read_csv(tmp_path / "s" / results["folder"][0] / "history.csv")
    assert len(history) > 11 and history["epoch"][history["best"]].item() >= 11  # from 1


def _die(*_):
    os._exit(1)


def test_workers_that_die_for_good(tmp_path, whole):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver"),
                             initializer=_die) as pool:
        with pytest.raises(UnfinishedStudyError, match="0 of 8 runs in .* are done: the same call"):
            study(tmp_path / "s", executor=pool)
    study(tmp_path / "s")
    pd.testing.assert_frame_equal(collect_study(tmp_path / "s"), whole[1])


def test_dask_with_a_worker_killed_half_way(tmp_path, whole, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    killed = []

    def kill_one(*_):
        if not killed and len(collect_study(tmp_path / "s")) >= 2:
            worker = next(iter(cluster.workers.values()))
            os.kill(worker.process.process.pid, signal.SIGKILL)
            killed.append(worker)
        return plain(*_)

    plain = module.write_table
    monkeypatch.setattr(module, "write_table", kill_one)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True,
                                  dashboard_address=None, worker_dashboard_address=None) as cluster:
        with distributed.Client(cluster) as client:
            results = study(tmp_path / "s", executor=client.get_executor())
    assert killed
    assert len(results) == 8 and not results.duplicated(["variable", "experiment", "seed"]).any()
    pd.testing.assert_frame_equal(results, whole[1])


def test_plan():
    plan = plan_study(["a b", "c"], ["paper", "LA+sem"], [3, 5])
    assert len(plan) == 2 * 9 * 2 and plan["folder"].is_unique
    assert plan["folder"].iloc[0] == "runs/a_b/C_random/seed_3"
    with pytest.raises(ValueError, match="punctuation"):
        plan_study(["a-b", "a b"], ["C"], 1)
    with pytest.raises(ValueError, match="the seed 1 is named more than once"):
        plan_study(["a"], ["C"], [2, 1, 1])
    with pytest.raises(ValueError, match="there is no variable"):
        plan_study([], ["C"])
    for seeds in (0, -2):
        with pytest.raises(ValueError, match=f"seeds={seeds} is no run at all"):
            plan_study(["a"], ["C"], seeds)


def test_the_study_imports_without_the_extra(tmp_path):
    code = ("import sys\nfor n in ('distributed', 'dask', 'imblearn', 'scikit_posthocs'):\n"
            "    sys.modules[n] = None\nimport silk_nb.study, silk_nb.statistics")
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0


def test_other_features_under_the_same_names_are_refused(tmp_path, monkeypatch):
    what = (["kind"], ["C*", "C"], 1)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_one_run", lambda *_: None)  # begun, but nothing done
        study(tmp_path / "s", what)
    other = given_features(TABLE, PREPARED.seen.inputs + 1, PREPARED.seen.descriptors)
    before = contents(tmp_path / "s")
    with pytest.raises(FileExistsError, match="begun with other images, colours or weights"):
        run_study(TABLE, tmp_path / "s", *what, prepared=other, quiet=True, config=CONFIG)
    assert contents(tmp_path / "s") == before
    assert len(study(tmp_path / "s", what)) == 2


def test_the_table_grows_with_every_run_and_no_run_is_read_again(tmp_path, monkeypatch):
    reads, sizes, row, write = [], [], module._row, module.write_table

    def counted(folder, run):
        reads.append(run["folder"])
        return row(folder, run)

    def compared(table, path):
        if path.name != "results.csv":
            return write(table, path)
        with monkeypatch.context() as patch:
            patch.setattr(module, "_row", row)
            pd.testing.assert_frame_equal(table, collect_study(tmp_path / "s"))
        sizes.append(len(table))
        return write(table, path)

    monkeypatch.setattr(module, "_row", counted)
    monkeypatch.setattr(module, "write_table", compared)
    study(tmp_path / "s", (["kind"], ["LR", "kNN"], 3))
    assert sizes == [1, 2, 3, 4, 5, 6, 6]
    assert len(reads) == 3 * 6  # at the beginning, when it ends, and for the whole


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="wants Linux's /proc")
def test_workers_share_the_features_of_one_file(whole):
    seen = module._load_seen(whole[0] / "features.safetensors", PREPARED.seen.images)
    assert torch.equal(seen.inputs, PREPARED.seen.inputs)
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    mapped = [range(*(int(end, 16) for end in words[0].split("-"))) for words in maps
              if words[-1].endswith("features.safetensors")]
    assert any(seen.inputs.data_ptr() in pages for pages in mapped)  # not a copy per process


def test_a_variable_without_minority_classes_has_a_page_too(tmp_path):
    from silk_nb.findings import write_findings

    table = TABLE.assign(even=pd.Categorical(["a", "b"] * (len(TABLE) // 2)))
    run_study(table, tmp_path / "s", ["even", "kind"], ["C*", "LR"], 1, quiet=True, config=CONFIG,
              prepared=given_features(table, *PREPARED.seen[1:3]))
    page = write_findings(tmp_path / "s", quiet=True).read_text()
    assert "even: F1 per class" in page and "even: overall accuracy against" not in page


def test_dask_without_workers_says_so(tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=0, dashboard_address=None) as cluster:
        with distributed.Client(cluster) as client:
            with pytest.raises(UnfinishedStudyError, match="no worker for 1 s; 0 of 1 runs"):
                study(tmp_path / "s", (["kind"], ["C*"], 1), executor=client.get_executor(),
                      worker_wait=1.0)


def test_missing_colours_or_features_are_refused_before_anything_is_written(tmp_path):
    for seen, told in ((PREPARED.seen._replace(descriptors=None), "wants the colours"),
                       (PREPARED.seen._replace(inputs=None), "holds no features")):
        with pytest.raises(ValueError, match=told):
            run_study(TABLE, tmp_path / "s", ["kind"], ["C*", "C + co + sem"], 1, config=CONFIG,
                      prepared=PREPARED._replace(seen=seen), quiet=True)
        assert not (tmp_path / "s").exists()


def test_a_study_that_does_not_name_a_later_setting_is_known_again(whole, tmp_path):
    old = shutil.copytree(whole[0], tmp_path / "old")
    about = json.loads((old / "study.json").read_text())
    for later in ("lambda_aux", "members", "logistic_share"):
        del about["study"][later]
    (old / "study.json").write_text(json.dumps(about))
    assert study(old).equals(collect_study(whole[0]))
    with pytest.raises(FileExistsError, match="differs in members"):
        study(old, config=replace(CONFIG, members=2))


def test_one_who_waited_for_a_study_that_came_to_nothing_has_a_lock_that_others_see(tmp_path):
    folder, entered, told = tmp_path / "s", threading.Event(), []

    def second():
        with module.hold_folder(folder, 10.0):
            entered.set()
            with pytest.raises(StudyBusyError):
                with module.hold_folder(folder, 0.1):
                    pass
            told.append((folder / ".lock").exists())

    waiting = threading.Thread(target=second)
    with module.hold_folder(folder, 0.0):
        waiting.start()
        assert not entered.wait(0.3)
    waiting.join(20)
    assert told == [True] and not folder.exists()


@pytest.mark.parametrize("left", [{"shade": ["C + co + sem"]}, {"kind": ["C*"], "shade": ["C"]},
                                  {"shade": ["C*"]}])
def test_a_page_of_what_is_finished_so_far(left, tmp_path):
    """Runs are missing, in one case those of the baseline on a variable."""
    study(tmp_path / "s", (["kind", "shade"], ["C*", "C", "C + co + sem"], 2))
    for run in collect_study(tmp_path / "s").to_dict("records"):
        kept = left.get(run["variable"])
        if kept is not None and run["experiment"] not in kept:
            (tmp_path / "s" / run["folder"] / "metrics.json").unlink()
    page = write_findings(tmp_path / "s", quiet=True).read_text()
    told = recommendations(read_findings(tmp_path / "s"))
    assert all(line in page for line in told) and len(told) == 2
    lacking = "C*" not in left["shade"]
    assert ("C* has no finished run there yet" in told[1]) == lacking


def test_the_tables_order_classes_as_the_figures_do(whole, tmp_path, monkeypatch):
    """By training images, also where all images together are in another order."""
    monkeypatch.setattr("silk_nb.predict._check_whole", lambda *_: None)  # of tables changed here
    shutil.copytree(whole[0], tmp_path / "s")
    for file in (tmp_path / "s").rglob("split.csv"):
        split = pd.read_csv(file, dtype=str)
        split.loc[split["label"].isin(["tabby", "red"]), "split"] = "test"
        split.to_csv(file, index=False)
    found = read_findings(tmp_path / "s")
    assert found.classes["kind"][-1] == "tabby" and found.classes["shade"][-1] == "red"
    for name, classes in found.classes.items():
        sizes = [found.training[name][one] for one in classes]
        assert sizes == sorted(sizes, reverse=True)


def test_what_the_validation_set_does_not_tell_from_the_best_is_named():
    scores = {"best": [0.50, 0.60, 0.55], "level": [0.52, 0.56, 0.555],
              "behind": [0.49, 0.59, 0.54], "once": [0.50, None, None]}
    rows = [("v", name, seed, score) for name, own in scores.items()
            for seed, score in enumerate(own) if score is not None]
    results = pd.DataFrame(rows, columns=["variable", "experiment", "seed", "validation_mean_f1"])
    results["mean_f1"] = 0.5
    # 'behind' loses little as well, but with every seed
    assert level_with_best(results, "v") == ["level"]
    assert level_with_best(results[results["seed"] == 0], "v") == []


def judged(validation, wrong):
    """Findings of two classes; an experiment errs on so many of ten images of the rare one."""
    truth, seeds = ["a"] * 30 + ["b"] * 10, range(3)
    results, said = [], []
    for name, score in validation.items():
        for seed in seeds:
            results.append({"variable": "v", "experiment": name, "seed": seed, "mean_f1": 0.5,
                            "validation_mean_f1": score + 0.01 * seed})
            predicted = ["a"] * (30 + wrong[name]) + ["b"] * (10 - wrong[name])
            said.append(pd.DataFrame({
                "variable": "v", "experiment": name, "seed": seed, "truth": truth,
                "image": [f"{i}.jpg" for i in range(40)], "group": range(40),
                "predicted": predicted}))
    return Findings({}, pd.DataFrame(results), pd.concat(said, ignore_index=True),
                    {"v": ["a", "b"]}, {"v": ["b"]}, {}, {})


def test_a_choice_that_the_test_set_does_not_bear_out_says_so():
    rated = {"C*": 0.5, "C": 0.7, "LA": 0.6}
    behind, = recommendations(judged(rated, {"C*": 9, "C": 8, "LA": 0}))
    assert "C is recommended" in behind and "The test set does not bear the choice out" in behind
    assert "against LA (next best by validation)" in behind and "and so behind it beyond" in behind
    ahead, = recommendations(judged(rated, {"C*": 9, "C": 0, "LA": 8}))
    assert "behind" not in ahead and "bear" not in ahead and "not certain" not in ahead


def test_a_recommendation_of_an_unfinished_study_leaves_out_what_has_no_seed_in_common():
    found = judged({"C*": 0.5, "C": 0.7, "LA": 0.6}, {"C*": 9, "C": 0, "LA": 8})
    kept = {"C*": (0, 1), "C": (0,), "LA": (1, 2)}
    results, said = (table[[seed in kept[name] for name, seed in zip(
        table["experiment"], table["seed"], strict=True)]]
        for table in (found.results, found.predictions))
    told, = recommendations(replace(found, results=results, predictions=said))
    assert "LA has no seed in common with it yet" in told and "against C* (95 %" in told


def test_the_page_shows_the_scores_that_the_choice_rests_on(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "s")
    page = write_findings(tmp_path / "s", quiet=True).read_text()
    assert "validation set, by which the recommendation is made" in page
    assert (tmp_path / "s" / "tables" / "validation_mean_f1.csv").exists()
    assert "batch_size=auto" in page and "backbone=" not in page  # the features were given


def test_an_image_that_was_lost_meanwhile_is_named(whole, tmp_path, monkeypatch):
    shutil.copytree(whole[0], tmp_path / "s")
    lost = pd.DataFrame({"image": [TABLE["image"][7]], "reason": ["no such file"]})
    monkeypatch.setattr(module, "prepare", lambda *_, **__: PREPARED._replace(
        rejected=lost, seen=PREPARED.seen))
    monkeypatch.setattr(module._Plan, "header", given_header(module._Plan.header))
    with pytest.raises(FileExistsError, match="begun with 1 images more, the first is .*007.jpg"):
        run_study(TABLE, tmp_path / "s", WHAT[0], [*WHAT[1], "LR"], 2, config=CONFIG, quiet=True)
    (tmp_path / "s" / "rejected.csv").unlink()  # killed before it came to be written
    found = run_study(TABLE, tmp_path / "s", WHAT[0], [*WHAT[1], "LR"], 2, config=CONFIG,
                      quiet=True)
    assert len(found) == 12
    assert read_rejected(tmp_path / "s")["image"].tolist() == lost["image"].tolist()


def given_header(plain):
    """The header of a study on given features, whatever it is continued with."""
    return lambda plan: plain(plan) | {"features": "given"}
