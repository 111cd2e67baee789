"""Exploring a run or a study: the numbers behind the pictures, and what is missing is said."""
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from execnb.nbio import read_nb
from execnb.shell import CaptureShell
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import silhouette_samples

from silk_nb import explore
from silk_nb.annotations import read_annotations
from silk_nb.colour import colour_correlation
from silk_nb.experiments import RunConfig, given_features, run_experiment
from silk_nb.explore import (
    ChangedImagesWarning,
    MissingImagesWarning,
    class_colours,
    class_confusions,
    cluster_numbers,
    embed,
    find_runs,
    mistakes,
    nearest,
    plot_class_confusions,
    plot_clusters,
    plot_distributions,
    plot_experiments,
    plot_sampling,
    plot_spaces,
    point_kinds,
    read_predictions,
    read_split,
    run_points,
    sampling_table,
    see_run,
    silhouettes,
    variable_counts,
)
from silk_nb.images import (
    colour_space,
    contact_sheet,
    export_suspects,
    neighbours_of,
    plot_image_colours,
    plot_neighbours,
    plot_suspects,
    short_name,
    show_images,
    suspects,
)
from silk_nb.study import run_study

CONFIG = RunConfig("technique", "C", backbone="shufflenet_v2_x0_5", weights="silk-textures",
                   batch_size=None, max_epochs=3)


@pytest.fixture(scope="module")
def study(silk_table, silk_cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explore") / "study"
    run_study(silk_table, folder, ["technique", "material"], ["C*", "LR"], 1, config=CONFIG,
              cache=silk_cache, quiet=True)
    return folder


@pytest.fixture(scope="module")
def runs(study):
    return find_runs(study)


@pytest.fixture(scope="module")
def seen(runs, silk_cache):
    return see_run(runs["folder"][0], cache=silk_cache, quiet=True)


@pytest.fixture
def copied(runs, tmp_path):
    """A run folder that a test may change."""
    return Path(shutil.copytree(runs["folder"][0], tmp_path / "run"))


@pytest.fixture(autouse=True)
def no_figure_stays():
    yield
    plt.close("all")


def clouds(least=6):
    sizes = st.integers(least, 40), st.integers(1, 5), st.integers(0, 2**31)
    return st.tuples(*sizes).map(lambda s: np.random.default_rng(s[2]).normal(size=s[:2]))


# numbers

@settings(max_examples=40, deadline=None)
@given(clouds(), st.integers(1, 5), st.booleans())
def test_neighbours_are_those_of_a_loop(values, k, grouped):
    groups = np.arange(len(values)) // (2 if grouped else 1)
    if k > len(values) - 1 - grouped:
        return
    near, far = nearest(values, k, groups=groups)
    for i in range(len(values)):
        others = [j for j in range(len(values)) if groups[j] != groups[i]]
        apart = {j: np.linalg.norm(np.float32(values[i]) - np.float32(values[j])) for j in others}
        wanted = sorted(others, key=apart.get)[:k]
        assert near[i].tolist() == wanted
        assert far[i] == pytest.approx([apart[j] for j in wanted], rel=1e-4, abs=1e-5)
    some, _ = nearest(values, k, groups=groups, rows=[2, 0])
    assert (some == near[[2, 0]]).all()


@settings(max_examples=40, deadline=None)
@given(clouds(), st.integers(2, 4))
def test_silhouettes_are_those_of_scikit_learn(values, classes):
    labels = np.random.default_rng(len(values)).integers(0, classes, len(values))
    labels[:2] = 0, 1
    if len(set(labels)) >= len(values):
        return
    wanted = silhouette_samples(values, labels, metric="sqeuclidean")
    assert silhouettes(values, labels) == pytest.approx(wanted, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(clouds(8), st.integers(1, 4))
def test_purity_is_that_of_a_loop(values, k):
    labels = np.array(list("aab") * len(values))[:len(values)]
    table = cluster_numbers(values, labels, k=k)
    near, _ = nearest(values, k)
    for name in "ab":
        mine = [i for i in range(len(values)) if labels[i] == name]
        share = np.mean([sum(labels[j] == name for j in near[i]) / k for i in mine])
        assert table.loc[name, "purity"] == pytest.approx(share)
        assert table.loc[name, "by chance"] == pytest.approx((len(mine) - 1) / (len(values) - 1))
        assert table.loc[name, "images"] == len(mine)


def test_separate_clusters_are_pure_and_shuffled_labels_are_chance():
    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b"], 300)
    values = rng.normal(size=(600, 3)) + 40 * (labels == "b")[:, None]
    table = cluster_numbers(values, labels)
    assert (table["purity"] == 1).all() and (table["silhouette"] > 0.95).all()
    shuffled = cluster_numbers(values, rng.permutation(labels))
    assert shuffled["purity"].to_numpy() == pytest.approx(shuffled["by chance"], abs=0.06)
    assert abs(shuffled["silhouette"]).max() < 0.02


@settings(max_examples=25, deadline=None)
@given(clouds(12), st.integers(1, 4))
def test_numbers_of_what_was_not_trained_on_are_those_of_a_loop(values, k):
    labels = np.array(list("aab") * len(values))[:len(values)]
    trained = np.arange(len(values)) % 2 == 0
    table = cluster_numbers(values, labels, k=k, trained=trained)
    apart = np.linalg.norm(values[:, None].astype("float32") - values.astype("float32"), axis=2)
    apart[:, ~trained] = np.inf
    near = apart.argsort(axis=1, kind="stable")[:, :k]
    assert trained[near].all()
    own = silhouettes(values[~trained], labels[~trained])
    for name in "ab":
        mine = (labels == name) & ~trained
        assert table.loc[name, "images"] == mine.sum()
        assert table.loc[name, "purity"] == pytest.approx((labels[near[mine]] == name).mean())
        assert table.loc[name, "by chance"] == pytest.approx((labels[trained] == name).mean())
        assert table.loc[name, "silhouette"] == pytest.approx(own[labels[~trained] == name].mean())


def test_a_network_that_learned_its_training_images_by_heart_has_no_better_numbers():
    rng = np.random.default_rng(0)
    labels, trained = rng.choice(["a", "b"], 400), np.arange(400) < 200
    values = rng.normal(size=(400, 2)) + 9 * ((labels == "b") & trained)[:, None]
    assert cluster_numbers(values, labels)["purity"].mean() > 0.6
    others = cluster_numbers(values, labels, trained=trained)
    assert cluster_numbers(values, labels)["silhouette"].mean() > 0.2
    assert others["silhouette"].abs().max() < 0.1 and others["images"].sum() == 200
    with pytest.raises(ValueError, match="no image was trained on, so"):
        cluster_numbers(values, labels, trained=[False] * 400)


def test_one_class_and_too_few_images_are_said():
    with pytest.raises(ValueError, match="1 class only"):
        cluster_numbers(np.eye(5), ["a"] * 5)
    with pytest.raises(ValueError, match=r"k must lie in 1..1 for 4 images of 2 objects, not 3"):
        nearest(np.eye(4), 3, groups=list("aaab"))


def test_the_colour_space_has_the_distances_of_rho():
    counts = torch.randint(0, 50, (9, 25), generator=torch.Generator().manual_seed(0)).float()
    counts[3] = 4.0  # uniform: no direction at all
    space = colour_space(counts)
    rho = colour_correlation(counts).numpy()
    assert (space @ space.T)[np.triu_indices(9, 1)] == pytest.approx(
        rho[np.triu_indices(9, 1)], abs=1e-5)
    assert (space[3] == 0).all()


# folders

def test_a_study_a_run_and_a_folder_of_runs_are_opened(study, runs):
    assert list(runs.columns) == ["variable", "experiment", "seed", "folder"] and len(runs) == 4
    one = find_runs(runs["folder"][1])
    assert one.iloc[0].tolist() == runs.iloc[1].tolist()
    beside = find_runs(Path(runs["folder"][0]).parents[1] / "LR")
    assert beside["experiment"].tolist() == ["LR"]


def test_studies_below_a_folder_and_the_runs_of_a_part_of_one_are_listed(study, runs):
    pd.testing.assert_frame_equal(find_runs(study.parent), runs)
    for part, number in ((study / "runs", 4), (Path(runs["folder"][0]).parents[1], 2)):
        assert set(find_runs(part)["folder"]) <= set(runs["folder"])
        assert len(find_runs(part)) == number


def test_runs_of_the_same_name_are_told_apart(study, runs, tmp_path):
    shutil.copytree(study, tmp_path / "second")
    shutil.copytree(runs["folder"][0], tmp_path / "one")
    found = find_runs(tmp_path)
    mine = found[found["variable"] == "technique"]["experiment"].tolist()
    assert mine == ["C* (one)", "C* (second)", "LR"]
    assert find_runs(tmp_path / "second")["experiment"].tolist() == runs["experiment"].tolist()
    (tmp_path / "second" / "study.json").write_text("torn")
    with pytest.warns(UserWarning, match="the study .*second is left out"):
        assert len(find_runs(tmp_path)) == 1


def test_runs_on_other_data_are_no_rivals(study, runs, tmp_path):
    """A study of other labels: its variable is another one, and has its own counts."""
    for name in ("first", "second"):
        shutil.copytree(study, tmp_path / name)
    for at, file in enumerate(sorted((tmp_path / "second").rglob("config.json"))):
        header = json.loads(file.read_text())
        if header["run"]["variable"] == "technique":
            file.write_text(json.dumps(header | {"data": "other"}))
            (file.parent / "split.csv").write_text(
                "image,group,label,split\n" + f"{at}.jpg,{at},tabby,train\n" * 5)
            (file.parent / "per_class.csv").write_text(
                "class,train,test,minority,precision,recall,f1\ntabby,5,0,False,0,0,0\n")
            (file.parent / "metrics.json").write_text('{"mean_f1": 0.0}')
    found = find_runs(tmp_path)
    assert set(found["variable"]) == {"technique (first)", "technique (second)", "material"}
    assert set(found[found["variable"] != "material"]["experiment"]) == {"C*", "LR"}
    assert set(found[found["variable"] == "material"]["experiment"]) == {
        "C* (first)", "C* (second)", "LR (first)", "LR (second)"}
    counts = variable_counts(found)
    assert counts["technique (second)"].to_dict() == {"tabby": 5}
    assert counts["technique (first)"].equals(variable_counts(runs)["technique"])


def test_folders_without_runs_are_said(tmp_path, copied):
    with pytest.raises(FileNotFoundError, match="no folder"):
        find_runs(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no finished run: make one with `silk_nb tr"):
        find_runs(tmp_path / "empty")
    (copied / "metrics.json").unlink()
    with pytest.raises(ValueError, match="not finished"):
        find_runs(copied)


def test_a_run_without_its_split_is_said(copied):
    split = copied / "split.csv"
    split.write_text(split.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="split.csv is damaged .* training images would be 0, the"):
        read_split(copied)
    split.unlink()
    with pytest.raises(ValueError, match="no split.csv any more"):
        see_run(copied, quiet=True)


@pytest.mark.parametrize("name", ["split.csv", "per_class.csv", "predictions.csv"])
@pytest.mark.parametrize("harm", ["half of the rows", "half of the bytes", "empty", "no text",
                                  "gone", "another column"])
def test_a_damaged_table_is_named_and_not_believed(copied, name, harm):
    """No picture of half of the images, and no message of pandas alone."""
    file = copied / name
    content, rows = file.read_bytes(), file.read_text().splitlines(keepends=True)
    file.write_bytes({"half of the rows": "".join(rows[:len(rows) // 2]).encode(), "empty": b"",
                      "half of the bytes": content[:len(content) // 2], "gone": b"",
                      "no text": b"\xff\xfe\x00" + content[:50],
                      "another column": b"x" + content}[harm])
    if harm == "gone":
        file.unlink()
    runs = find_runs(copied)
    looks = {"split.csv": lambda: variable_counts(runs),
             "per_class.csv": lambda: plot_experiments(runs, "technique"),
             "predictions.csv": lambda: read_predictions(runs, "technique")}
    with pytest.raises(ValueError, match=rf"{name} is damaged|has no {name} any more"):
        looks[name]()


def test_a_run_without_test_images_is_said(copied):
    table = pd.read_csv(copied / "predictions.csv")
    table.head(0).to_csv(copied / "predictions.csv", index=False)
    per_class = pd.read_csv(copied / "per_class.csv").assign(test=0)
    per_class.to_csv(copied / "per_class.csv", index=False)
    runs = find_runs(copied)
    with pytest.raises(ValueError, match="has no test images: look at another run"):
        read_predictions(runs, "technique")
    with pytest.raises(ValueError, match="has no test images: nothing to compare"):
        plot_experiments(runs, "technique")


def test_all_images_of_a_run_are_seen_as_when_it_was_made(seen, runs):
    stored = pd.read_csv(Path(runs["folder"][0]) / "predictions.csv")
    again = seen.table.set_index("image").loc[stored["image"]]
    assert again["predicted"].tolist() == stored["predicted"].tolist()
    assert again["score"].to_numpy() == pytest.approx(stored["score"], abs=1e-5)
    assert (seen.table["right"] == (seen.table["predicted"] == seen.table["label"])).all()
    assert np.linalg.norm(seen.f_aux, axis=1) == pytest.approx(1, abs=1e-4)
    assert seen.classes == list(variable_counts(runs)["technique"].index)
    assert len(seen.left_out) == 0 and set(seen.table["split"]) == {"train", "validation", "test"}


def test_missing_and_torn_images_are_left_out_with_a_word(copied, tmp_path, seen):
    split = read_split(copied)
    folder = tmp_path / "images"
    folder.mkdir()
    torn = folder / "torn.jpg"
    torn.write_bytes(Path(split["image"][1]).read_bytes()[:500])
    split.loc[0, "image"], split.loc[1, "image"] = str(folder / "gone.jpg"), str(torn)
    split.to_csv(copied / "split.csv", index=False)
    with pytest.warns(MissingImagesWarning, match=r"2 of 180 images .* left out, the first"):
        fewer = see_run(copied, quiet=True)
    assert fewer.left_out["reason"].iloc[0] == "no such file" and len(fewer.table) == 178
    assert fewer.table["image"].tolist() == seen.table["image"][2:].tolist()
    split.assign(image=str(folder / "gone") + split.index.astype(str)).to_csv(
        copied / "split.csv", index=False)
    with pytest.raises(ValueError, match="none of the 180 images .* that now stands for .*images"):
        see_run(copied, quiet=True)


def test_images_that_have_moved_are_found_in_their_new_folder(copied, tmp_path, seen):
    split = read_split(copied)
    for at, image in enumerate(split["image"]):  # some of them in a folder below
        new = tmp_path / "new" / ("some" if at % 2 else "") / Path(image).name
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, new)
        split.loc[at, "image"] = str(tmp_path / "old" / new.relative_to(tmp_path / "new"))
    was = dict(zip(read_split(copied)["image"], split["image"], strict=True))
    said = pd.read_csv(copied / "predictions.csv")
    said.assign(image=said["image"].map(was)).to_csv(copied / "predictions.csv", index=False)
    split.to_csv(copied / "split.csv", index=False)
    again = see_run(copied, image_dir=tmp_path / "new", quiet=True)
    assert again.table["score"].to_numpy() == pytest.approx(seen.table["score"], abs=1e-5)
    assert len(contact_sheet(again.table, again.classes[0], most=3)[0].images) == 1
    files = sorted((tmp_path / "new" / "some").iterdir())
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, contents[1:] + contents[:1], strict=True):
        file.write_bytes(content)  # other images of the same names
    with pytest.raises(ValueError, match="not its images"):
        see_run(copied, image_dir=tmp_path / "new", quiet=True)
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    said = pd.read_csv(copied / "predictions.csv")
    said.loc[3, "score"] += 0.1  # one photograph was edited
    said.to_csv(copied / "predictions.csv", index=False)
    with pytest.warns(ChangedImagesWarning, match=f"1 of .*the first is {said['image'][3]}"):
        see_run(copied, image_dir=tmp_path / "new", quiet=True)


# features of one's own

@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A run on features that were given, its label table and features; the images are nowhere."""
    rng = np.random.default_rng(0)
    kind = rng.choice(["tabby", "velvet", "damask"], 150, p=[0.6, 0.25, 0.15])
    table = pd.DataFrame({"image": [f"no/such/{i:03}.jpg" for i in range(150)],
                          "group": [f"object {i // 2}" for i in range(150)],
                          "kind": pd.Categorical(kind)})
    features = rng.normal(size=(3, 8))[table["kind"].cat.codes] + rng.normal(size=(150, 8))
    folder = tmp_path_factory.mktemp("own") / "run"
    run_experiment(table, folder, RunConfig("kind", "C", task_fc=(8, 4), batch_size=None,
                                            max_epochs=3), quiet=True,
                   prepared=given_features(table, features))
    return folder, table, features


def test_a_run_on_features_of_ones_own_is_seen_with_them(own, tmp_path):
    folder, table, features = own
    with pytest.raises(ValueError, match=r"not in it: give them again, prepared=given_features"):
        see_run(folder, quiet=True)
    seen = see_run(folder, prepared=given_features(table, features))
    at = pd.Index(table["image"]).get_indexer(seen.table["image"])
    assert len(seen.table) == 150 and not len(seen.left_out)
    assert seen.f_rn == pytest.approx(features[at], abs=1e-6)
    assert len(plot_neighbours(seen, 0, k=4)) == 5  # by f_aux alone
    with pytest.raises(ValueError, match="colours .* are not known"):
        neighbours_of(seen, 0, "colour")
    for image in table["image"]:
        Image.new("RGB", (8, 8), (200, 0, 0)).save(tmp_path / Path(image).name)
    there = see_run(folder, prepared=given_features(table, features), image_dir=tmp_path)
    assert (there.colours > 0).sum() == 150  # red everywhere
    colours = np.arange(150 * 25).reshape(150, 25) % 7
    known = see_run(folder, prepared=given_features(table, features, colours))
    assert (known.colours == colours[at]).all() and len(plot_neighbours(known, 0, k=4)) == 10


def test_features_that_are_not_those_of_the_run_are_refused(own, runs, silk_table):
    folder, table, features = own
    for rows, wrong, told in ((table[:-9], features[:-9], "no features for 9 of 150 images"),
                              (table, features[:, 1:], r"do not fit the network .* N×8"),
                              (table, features[::-1].copy(), "test images get other scores")):
        with pytest.raises(ValueError, match=told):
            see_run(folder, prepared=given_features(rows, wrong))
    training = np.flatnonzero(table["image"].isin(
        read_split(folder).query("split == 'train'")["image"]))
    mixed = features.copy()
    mixed[training] = features[training[::-1]]
    with pytest.warns(ChangedImagesWarning, match="not, to the bit, those .* in another order"):
        see_run(folder, prepared=given_features(table, mixed))
    other = given_features(silk_table, np.ones((len(silk_table), 1024)))
    with pytest.raises(ValueError, match="or those of another backbone"):
        see_run(runs["folder"][0], prepared=other)


# distributions

def test_batches_deliver_what_the_table_says(runs):
    split = read_split(runs["folder"][0])
    labels = split["label"][split["split"] == "train"].tolist()
    table = sampling_table(labels, 18)
    counts = pd.Series(labels).value_counts()
    assert table["images"].to_dict() == counts.to_dict()
    assert table["balanced batches [%]"].to_numpy() == pytest.approx(100 / len(counts), abs=1e-9)
    drawn = len(labels) // 18 * 18
    balanced = table["an image comes (balanced)"] * table["images"]
    assert balanced.sum() == pytest.approx(drawn) and balanced.std() == pytest.approx(0, abs=1e-9)
    assert (table["an image comes (random)"] <= 1 + 1e-9).all()
    assert "batches of 18 images" in plot_sampling(labels, 18).get_title()
    with pytest.raises(ValueError, match="one class only"):
        sampling_table(["a"] * 9)


def test_a_variable_of_one_class_has_words_in_its_panel():
    axes = plot_distributions({"two": {"a": 5, "b": 2}, "one": pd.Series({"a": 3})})
    assert "IR 2.50" in axes[0].get_title() and "1 class only" in axes[1].texts[0].get_text()
    with pytest.raises(ValueError, match="no variable to show"):
        plot_distributions({})


# clusters

def test_points_are_kept_and_made_anew_for_other_features(tmp_path, monkeypatch):
    values, calls = np.random.default_rng(0).normal(size=(30, 4)), []
    monkeypatch.setattr(explore, "_umap", lambda v, seed, n: calls.append(seed) or v[:, :2] + seed)
    first = embed(values, keep=tmp_path / "new")
    assert (embed(values, keep=tmp_path / "new") == first).all() and calls == [0]
    embed(values + 1, keep=tmp_path / "new")
    embed(values, seed=1, keep=tmp_path / "new")
    assert calls == [0, 0, 1]
    files = list((tmp_path / "new").iterdir())
    assert len(files) == 3 and all(file.suffix == ".npy" for file in files)  # nothing half-written
    for file in files:
        file.write_bytes(file.read_bytes()[:70])  # torn
    assert (embed(values, keep=tmp_path / "new") == first).all() and calls == [0, 0, 1, 0]


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="points are not kept"):
        points = embed(np.eye(6), "PCA", keep=tmp_path / "file")
    assert points.shape == (6, 2)


def test_umap_is_seeded_and_pca_is_offered_without_it(monkeypatch):
    values = np.random.default_rng(0).normal(size=(60, 70))
    assert (embed(values, seed=3) == embed(values, seed=3)).all()
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ModuleNotFoundError, match=r'silk_nb\[explore\].*method="PCA"'):
        embed(values)
    assert embed(values, "PCA").shape == (60, 2)
    for bad in (values[:3], values[:, :1]):
        with pytest.raises(ValueError, match="4 images or more"):
            embed(bad, "PCA")
    with pytest.raises(ValueError, match='"UMAP" or "PCA", not \'tSNE\''):
        embed(values, "tSNE")


def test_every_colouring_draws_each_image_once_minority_on_top(seen):
    points = run_points(seen, method="PCA")
    for by in explore.COLOUR_BY:
        ax = plot_clusters(points, seen.table, by, minority=seen.minority)
        drawn = [c for c in ax.collections if len(c.get_offsets())]
        assert sum(len(c.get_offsets()) for c in drawn) == len(seen.table)
        top = sum(len(c.get_offsets()) for c in drawn if c.get_zorder() == 3)
        assert top == seen.table["label"].isin(seen.minority).sum() > 0
    with pytest.raises(ValueError, match="by must be one of label, split, right, score"):
        plot_clusters(points, seen.table, "place")
    with pytest.raises(ValueError, match="for 180 images"):
        plot_clusters(points[:5], seen.table)
    titles = [ax.get_title() for ax in plot_spaces(seen, method="PCA")]
    mean = cluster_numbers(seen.f_aux, seen.table["label"], groups=seen.table["group"],
                           trained=seen.trained).mean()
    assert f"purity {mean['purity']:.2f}" in titles[1] and "f_RN" in titles[0]


def test_numbers_of_spaces_are_of_images_that_were_not_trained_on_and_say_so(seen):
    others = (seen.table["split"] != "train").sum()
    axes = plot_spaces(seen, method="PCA")
    assert f"purity and silhouette of the {others} not trained on" in axes[0].figure.get_suptitle()
    all_trained = seen._replace(table=seen.table.assign(split="train"))
    axes = plot_spaces(all_trained, method="PCA")
    assert "purity" not in axes[1].get_title() + axes[0].figure.get_suptitle()


def test_training_images_are_neither_right_nor_wrong(seen):
    table = seen.table
    kinds = {name: rows for name, rows, *_ in point_kinds(table, "right", seen.classes)}
    assert (kinds["training image"] == (table["split"] == "train")).all()
    test = table[table["split"] != "train"]
    legend = plot_spaces(seen, "right", method="PCA")[1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [
        f"training image ({(table['split'] == 'train').sum()})",
        f"right ({test['right'].sum()})", f"wrong ({(~test['right']).sum()})"]
    assert [name for name, *_ in point_kinds(test, "right", ())] == ["right", "wrong"]
    assert [name for name, *_ in point_kinds(test.drop(columns="split"), "right", ())] == [
        "right", "wrong"]


def test_what_is_drawn_of_a_run_without_network_or_of_an_average_is_said(
        runs, seen, silk_table, silk_cache, tmp_path):
    plain = see_run(runs["folder"][1], cache=silk_cache, quiet=True)  # of LR
    ax, = plot_spaces(plain, method="PCA")
    assert ax.get_title().startswith("PCA of features (no network)\n") and ax.get_legend()
    assert "f_aux" not in plot_neighbours(plain, 0, k=2)[0].get_title()
    assert plot_spaces(seen, method="PCA")[1].get_title().startswith("PCA of f_aux\n")
    config = RunConfig("technique", "C* / averaged-LR", backbone="shufflenet_v2_x0_5",
                       weights="silk-textures", batch_size=None, max_epochs=1)
    run_experiment(silk_table, tmp_path / "run", config, cache=silk_cache, quiet=True)
    joined = see_run(tmp_path / "run", cache=silk_cache, quiet=True)
    title = plot_spaces(joined, method="PCA")[1].get_title()
    assert title.startswith("PCA of f_aux of 4 networks, joined\n")
    assert joined.f_aux.shape[1] == 4 * 256


def test_every_class_has_a_colour_of_its_own(seen):
    assert len(set(class_colours(30))) == 30
    assert np.ptp(class_colours(30)) <= 1 and class_colours(40)[30:] == class_colours(10)
    many = seen.table.assign(label=[f"class {i % 17}" for i in range(len(seen.table))])
    legend = plot_clusters(run_points(seen, method="PCA"), many).get_legend()
    drawn = {tuple(handle.get_facecolor()[0]) for handle in legend.legend_handles}
    assert len(drawn) == 17


# F1 and confusions

def test_many_experiments_become_a_map_of_their_means(runs):
    one = runs[runs["variable"] == "technique"].iloc[:1]
    few = pd.concat([one.assign(experiment=f"E{i}") for i in range(8)])
    assert plot_experiments(few, "technique").get_legend()
    many = pd.concat([one.assign(experiment=f"E{i // 2}", seed=i % 2) for i in range(18)])
    ax = plot_experiments(many, "technique")
    stored = pd.read_csv(Path(one["folder"].iloc[0]) / "per_class.csv").sort_values(
        "train", ascending=False, kind="stable")
    shades = np.asarray(ax.collections[0].get_array()).reshape(9, -1)
    assert shades[4] == pytest.approx(100 * stored["f1"].to_numpy())
    assert [text.get_text() for text in ax.get_yticklabels()] == [f"E{i}" for i in range(9)]
    named = [text.get_text() for text in ax.get_xticklabels()]
    assert [name.endswith(" ●") for name in named] == stored["minority"].tolist()
    assert "mean of 2 seeds" in ax.get_title()


def test_the_title_of_confusions_says_how_many_runs_are_summed(runs):
    said = read_predictions(runs, "technique")
    name, truth = said["truth"].iloc[0], said["truth"] == said["truth"].iloc[0]
    right = (truth & (said["predicted"] == name)).sum()
    assert plot_class_confusions(said, name).get_title() == (
        f"{name}: found in {right} of {truth.sum()} test images, 2 runs together")
    alone = plot_class_confusions(said[said["experiment"] == "C*"], name)
    assert "together" not in alone.get_title() and alone.get_xlabel() == "test images"


def test_confusions_of_a_class_are_the_mistakes_behind_it(runs):
    said = read_predictions(runs, "technique")
    for name in said["truth"].unique():
        wrong, table = mistakes(said, name), class_confusions(said, name)
        assert len(wrong) == table.to_numpy().sum()
        assert (wrong["truth"] != wrong["predicted"]).all()
        for other in table.index:
            lost = ((said["truth"] == name) & (said["predicted"] == other)).sum()
            taken = ((said["truth"] == other) & (said["predicted"] == name)).sum()
            assert table.loc[other].tolist() == [lost, taken]
    with pytest.raises(ValueError, match="no test image is of the class 'felt'"):
        mistakes(said, "felt")
    with pytest.raises(ValueError, match="no experiment 'X'; there are C"):
        plot_experiments(runs, "technique", ["X"])
    with pytest.raises(ValueError, match="choose at least one experiment"):
        plot_experiments(runs, "technique", [])


# images

def test_training_images_are_marked_wherever_images_are_shown(seen):
    name = seen.classes[0]
    rows = seen.table[seen.table["label"] == name]
    axes = contact_sheet(seen.table, name, most=len(rows))
    marked = ["(training)" in ax.get_title() for ax in axes]
    assert marked == (rows["split"] == "train").tolist() and 0 < sum(marked) < len(rows)
    assert f"{sum(marked)} of them trained on" in axes[0].figure.get_suptitle()
    tested = contact_sheet(seen.table[seen.table["split"] == "test"], name)
    assert "train" not in tested[0].figure.get_suptitle() + tested[0].get_title()
    assert contact_sheet(seen.table[["image", "label"]], name, most=1)[0].get_title() == ""
    at = int(np.flatnonzero(seen.table["split"] == "test")[0])
    drawn = plot_neighbours(seen, at, k=4)
    near = neighbours_of(seen, at, k=4)
    assert ["(training)" in ax.get_title() for ax in drawn[:5]] == [
        False, *(near["split"] == "train")]
    found = suspects(seen, least=0.3)
    assert ["(training)" in ax.get_title() for ax in plot_suspects(found)] == [
        split == "train" for split in found["split"][:16]]


def test_names_are_cut_in_the_middle_and_only_where_they_are_long(tmp_path):
    assert short_name("twill.jpg") == "twill.jpg"
    cut = short_name("0a6b8f1e-93d7-4c1f-b6b1-5d1c2e7f9a21.jpg")
    assert cut == "0a6b…f9a21.jpg" and len(cut) == 14
    ax, = show_images([tmp_path / "gone.jpg"])
    assert ax.texts[0].get_text().startswith("gone.jpg\n")


def test_missing_images_have_words_in_their_place(seen, tmp_path):
    (tmp_path / "torn.jpg").write_bytes(b"none")
    axes = show_images([seen.table["image"][0], tmp_path / "gone.jpg", tmp_path / "torn.jpg"])
    assert [len(ax.images) for ax in axes] == [1, 0, 0]
    assert "no such file" in axes[1].texts[0].get_text()
    assert "not an image" in axes[2].texts[0].get_text()
    _, disc = plot_image_colours(tmp_path / "gone.jpg")
    assert "no colours" in disc.texts[0].get_text()
    with pytest.raises(ValueError, match="no image of the class 'felt'; there are"):
        contact_sheet(seen.table, "felt")


def test_neighbours_of_an_image_are_of_other_objects(seen):
    for by in ("f_aux", "f_RN", "colour"):
        rows = neighbours_of(seen, 5, by, k=4)
        assert seen.table["group"][5] not in set(rows["group"])
        assert rows["distance"].is_monotonic_increasing and len(rows) == 4
    assert len(plot_neighbours(seen, 5, k=3)) == 8
    few = seen._replace(table=seen.table[:4], f_aux=seen.f_aux[:4], colours=seen.colours[:4])
    most = 4 - few.table["group"].value_counts().max()
    assert len(plot_neighbours(few, 0)) == 2 * (1 + most)
    with pytest.raises(ValueError, match="position must be a whole number in 0..179"):
        plot_neighbours(seen, 180)
    with pytest.raises(ValueError, match="by must be one of f_aux, f_RN, colour"):
        neighbours_of(seen, 5, "shape")


def test_planted_wrong_labels_are_suspects():
    rng = np.random.default_rng(1)
    labels = np.repeat(["a", "b", "c"], 40)
    values = rng.normal(size=(120, 4)) * 0.1 + np.eye(4)[pd.factorize(labels)[0]]
    table = pd.DataFrame({"image": [f"{i}.jpg" for i in range(120)], "split": "train",
                          "group": [str(i) for i in range(120)], "label": labels,
                          "predicted": labels, "score": 0.9, "right": True})
    table.loc[[3, 50], "label"] = "c"
    seen = explore.RunImages(Path("run"), {}, table, ["c", "a", "b"], [], values, values, values,
                             table.head(0))
    found = suspects(seen)
    assert set(found["image"]) == {"3.jpg", "50.jpg"}
    assert dict(zip(found["image"], found["neighbours_say"], strict=True)) == {
        "3.jpg": "a", "50.jpg": "b"}
    assert (found["share"] >= 0.9).all() and (found["own_share"] <= 0.1).all()
    with pytest.raises(ValueError, match="one class only"):
        suspects(seen._replace(table=table.assign(label="a")))
    with pytest.raises(ValueError, match="least must lie in"):
        suspects(seen, least=0)
    with pytest.raises(ValueError, match="no image is suspect"):
        plot_suspects(found.head(0))


def test_the_list_for_a_curator_comes_back_and_is_never_replaced_silently(seen, tmp_path):
    found = suspects(seen, least=0.3)
    assert len(found)
    file = export_suspects(found, tmp_path / "suspects.csv")
    back = pd.read_csv(file, keep_default_na=False)
    pd.testing.assert_frame_equal(back[found.columns], found.astype({
        name: object for name in ("label", "split", "image", "group", "predicted")}),
        check_dtype=False)
    assert (back["correct_label"] == "").all()
    file.write_text("notes of a curator")
    with pytest.raises(FileExistsError, match="name another file, or say overwrite=True"):
        export_suspects(found, file)
    assert file.read_text() == "notes of a curator"
    export_suspects(found, file, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["suspects.csv"]
    with pytest.raises(FileNotFoundError, match="does not exist"):
        export_suspects(found, tmp_path / "none" / "suspects.csv")


def test_a_run_on_photographs_of_clothing(shared, tmp_path):
    source, weights = shared / "data" / "clothing", next((shared / "weights").glob("mob*"), None)
    if not (source / "clothing.csv").is_file() or weights is None:
        pytest.skip("../shared has no clothing photographs or no weights of MobileNetV2")
    table = read_annotations(source / "clothing.csv", group="sender", variables="garment")
    common = table["garment"].value_counts().index[:5]
    some = table[table["garment"].isin(common)].groupby("garment", observed=True).head(40)
    some = some.assign(garment=some["garment"].cat.remove_unused_categories())
    run_experiment(some.reset_index(drop=True), tmp_path / "run", RunConfig(
        "garment", "C", backbone="mobilenet_v2", weights=str(weights), batch_size=None,
        max_epochs=10, mean=0.5, std=0.5), cache=tmp_path / "cache", quiet=True)
    seen = see_run(tmp_path / "run", cache=tmp_path / "cache", quiet=True)
    numbers = cluster_numbers(seen.f_aux, seen.table["label"], groups=seen.table["group"])
    assert (numbers["purity"] > numbers["by chance"]).all()
    assert len(plot_spaces(seen, method="PCA")) == 2 and len(contact_sheet(seen.table, "shoes"))


# the pages, on a folder of one's own

@pytest.fixture(scope="module")
def own_study(silk_table, silk_cache, tmp_path_factory):
    """A study with other names of variables and classes than the pages' own."""
    table = silk_table.rename(columns={"technique": "weave", "material": "fibre"})
    for variable in ("weave", "fibre"):
        table[variable] = table[variable].cat.rename_categories(lambda name: f"a {name}")
    folder = tmp_path_factory.mktemp("own") / "study"
    run_study(table, folder, ["weave", "fibre"], ["C", "C*"], 1, cache=silk_cache, quiet=True,
              config=replace(CONFIG, variable="weave", allow_imbalanced=True))
    return folder


@pytest.mark.parametrize("page, run", [("24_explore", False), ("24_explore", True),
                                       ("25_images", True), ("26_widgets", False)])
def test_a_page_opens_a_folder_of_ones_own(own_study, silk_cache, monkeypatch, page, run):
    monkeypatch.setattr("silk_nb.features.default_cache", lambda: silk_cache)
    folder = find_runs(own_study)["folder"][0] if run else own_study
    nb = read_nb(Path(__file__).resolve().parents[1] / "nbs" / f"{page}.ipynb")
    named = [cell for cell in nb.cells if cell.source.startswith("folder = None")]
    assert len(named) == 1
    named[0].source = f"folder, cache = {str(folder)!r}, {str(silk_cache)!r}"
    shell = CaptureShell()
    shell.run_all(nb, exc_stop=True)
    assert str(shell.user_ns["seen"].folder).startswith(str(own_study))
    if page != "26_widgets":  # whose figures are pictures
        assert "a velvet" in "".join(str(cell.get("outputs", "")) for cell in nb.cells)
