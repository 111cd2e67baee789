"""The widgets without a browser: controls change what is shown, and words stand for what is not."""
import shutil
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

ipywidgets = pytest.importorskip("ipywidgets")
pytest.importorskip("jscatter")

from silk_nb import widgets  # noqa: E402
from silk_nb.experiments import RunConfig, given_features, run_experiment  # noqa: E402
from silk_nb.explore import find_runs, mistakes, read_predictions, see_run  # noqa: E402
from silk_nb.study import run_study  # noqa: E402
from silk_nb.widgets import (  # noqa: E402
    check_ipywidgets,
    cluster_widget,
    distribution_widget,
    experiment_widget,
    explore,
    image_widget,
    photograph,
    scatter_of,
    show_in,
)

CONFIG = RunConfig("", backbone="shufflenet_v2_x0_5", weights="silk-textures", batch_size=None,
                   max_epochs=2)


@pytest.fixture(scope="module")
def runs(silk_table, silk_cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("widgets") / "study"
    run_study(silk_table, folder, ["technique", "material"], ["C*", "LR"], 1, config=CONFIG,
              cache=silk_cache, quiet=True)
    return find_runs(folder)


@pytest.fixture(scope="module")
def seen(runs, silk_cache):
    return see_run(runs["folder"][0], cache=silk_cache, quiet=True)


@pytest.fixture(autouse=True)
def no_figure_is_left_open():
    plt.close("all")  # of other tests
    yield
    assert not plt.get_fignums()


def inside(widget):
    """A widget and all below it."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from inside(child)


def control(widget, description):
    return next(w for w in inside(widget) if getattr(w, "description", None) == description)


def pictures(widget):
    return [w.value for w in inside(widget) if isinstance(w, ipywidgets.Image)]


def told(widget):
    return " ".join(w.value for w in inside(widget) if isinstance(w, ipywidgets.HTML))


def test_other_variables_and_batches_change_the_distributions(runs):
    widget = distribution_widget(runs)
    both = pictures(widget)
    assert len(both) == 3  # distributions, and the batches of two variables
    control(widget, "variables").value = ("material",)
    one = pictures(widget)
    assert len(one) == 2 and one[0] != both[0] and one[1] == both[2]
    control(widget, "batch size").value = 9
    assert pictures(widget)[0] == one[0] and pictures(widget)[1] != one[1]
    control(widget, "batch size").value = 10_000
    assert "batch_size 10000 is more than" in told(widget) and len(pictures(widget)) == 1
    control(widget, "variables").value = ()
    assert "there is no variable to show" in told(widget)


def test_experiments_variables_and_classes_change_the_f1(runs):
    widget = experiment_widget(runs)
    f1, confusions = pictures(widget)[:2]
    control(widget, "experiments").value = ("LR",)
    assert pictures(widget)[0] != f1
    before = pictures(widget)
    control(widget, "class").value = "embroidery"
    assert pictures(widget)[0] == before[0] and pictures(widget)[1] != before[1]
    control(widget, "variable").value = "material"
    assert set(control(widget, "class").options) == {
        "animal_fibre", "metal_thread", "vegetal_fibre"}
    assert pictures(widget)[0] not in (before[0], f1)
    control(widget, "experiments").value = ()
    assert told(widget).count("choose at least one experiment") == 1
    control(widget, "class").value = "animal_fibre"
    assert told(widget).count("Nothing to show") == 1 and not pictures(widget)


def scatter(widget):
    return next(w for w in inside(widget) if hasattr(w, "hovering"))


def test_points_show_their_photograph_and_a_region_its_images(seen):
    widget = cluster_widget(seen)
    control(widget, "method").value = "PCA"
    plot, cloud = scatter_of(seen, method="PCA")
    assert sorted(cloud["row"]) == list(range(len(seen.table)))
    rare = seen.table["label"].isin(seen.minority).to_numpy()
    assert rare[cloud["row"][-rare.sum():]].all()  # on top
    scatter(widget).hovering = 7
    row = seen.table.iloc[cloud["row"][7]]
    assert Path(row["image"]).name[:50] in told(widget) and row["label"] in told(widget)
    hovered = pictures(widget)
    scatter(widget).selection = np.array([11])
    assert pictures(widget)[0] != hovered[0] and len(pictures(widget)) == len(hovered) + 1
    assert "Clicked: " in told(widget)
    scatter(widget).selection = np.array([3, 11, 50])
    assert "3 images: " in told(widget)
    control(widget, "colour").value = "right"
    assert "wrong" in told(widget) and "3 images: " not in told(widget)
    control(widget, "space").value = "f_RN"
    assert len(scatter(widget).points) == len(seen.table)


def test_right_and_wrong_are_of_images_that_were_not_trained_on(seen):
    colour, colours = widgets._point_colours(seen, "right")
    trained = seen.table["split"] == "train"
    assert (colour[trained] == "training image").all()
    right = seen.table["right"].map({True: "right", False: "wrong"})
    assert (colour[~trained].astype(str) == right[~trained]).all() and len(colours) == 3
    widget = cluster_widget(seen)
    assert f"The {(~trained).sum()} images not trained on" in told(widget)
    for at, mark in ((trained.idxmax(), True), ((~trained).idxmax(), False)):
        assert ("(training image)" in told(photograph(seen, int(at)))) == mark


def test_a_run_without_network_has_its_features_alone(runs, silk_cache):
    plain = see_run(runs["folder"][1], cache=silk_cache, quiet=True)  # of LR
    widget = cluster_widget(plain)
    assert control(widget, "space").options == (("features (no network)", "f_RN"),)


def test_a_large_region_is_sampled_and_says_so(seen):
    widget = widgets._region(seen, range(len(seen.table)), listed=100)
    assert "180 images: " in told(widget) and "Shown are 24 of them drawn at random" in told(widget)
    assert "the list has the first 100" in told(widget) and told(widget).count("<tr") == 101
    assert "drawn at random" not in told(widgets._region(seen, [3, 1, 2]))


def test_another_colour_does_not_take_the_numbers_anew(seen, monkeypatch):
    calls, real = [], widgets.cluster_numbers
    monkeypatch.setattr(widgets, "cluster_numbers",
                        lambda *a, **k: calls.append(1) or real(*a, **k))
    widget = cluster_widget(seen)
    control(widget, "colour").value = "split"
    control(widget, "space").value = "f_RN"
    control(widget, "space").value = "f_aux"
    assert len(calls) == 2 and "purity" in told(widget)


def test_classes_beyond_ten_have_colours_of_their_own(seen):
    names = [f"class {i:02}" for i in range(17)]
    many = seen._replace(table=seen.table.assign(label=(names * 11)[:180]), classes=names)
    assert len(set(widgets._point_colours(many, "label")[1].values())) == 17


def test_an_image_behind_a_class_is_shown_once_for_all_runs(runs):
    one = runs[runs["variable"] == "technique"].iloc[:1]
    said = read_predictions(pd.concat([one.assign(seed=seed) for seed in range(3)]), "technique")
    name = said.loc[said["truth"] != said["predicted"], "truth"].iloc[0]
    axes = widgets._behind(said, name)
    assert len(axes) == min(len(mistakes(said, name)) // 3, 16)
    assert all(ax.get_title().endswith("(3×)") for ax in axes)
    assert "of 3 runs" in axes[0].figure.get_suptitle()
    plt.close("all")
    alone = widgets._behind(said[said["seed"] == 0], name)
    assert "×" not in alone[0].get_title() + alone[0].figure.get_suptitle()
    plt.close("all")


def test_an_image_that_went_missing_is_said(seen, tmp_path):
    table = seen.table.copy()
    table.loc[4, "image"] = str(tmp_path / "gone.jpg")
    assert "gone.jpg: no such file" in told(photograph(seen._replace(table=table), 4))


def test_class_and_image_change_what_is_seen_and_suspects_are_written_once(
        seen, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    widget = image_widget(seen)
    assert seen.title in told(widget) and control(widget, "of").value == "not those of training"
    before = pictures(widget)
    control(widget, "image").index = 1
    after = pictures(widget)
    assert after[0] == before[0] and after[1] != before[1] and after[2] != before[2]
    control(widget, "class").value = seen.classes[-1]
    assert pictures(widget)[0] != before[0]
    assert len(control(widget, "image").options) == (seen.table["label"] == seen.classes[-1]).sum()
    control(widget, "agree").value = 0.5
    control(widget, "of").value = "all images"
    control(widget, "of").value = "not those of training"
    control(widget, "Write CSV").click()
    assert "written: suspects.csv" in told(widget)
    assert "train" not in set(pd.read_csv("suspects.csv")["split"])
    control(widget, "Write CSV").click()
    assert "there already" in told(widget)


def test_all_tabs_open_on_a_study_and_another_run_changes_them(runs, silk_cache):
    widget = explore(Path(runs["folder"][0]).parents[3], cache=silk_cache)
    tab = next(w for w in inside(widget) if isinstance(w, ipywidgets.Tab))
    assert tab.titles == ("Classes", "F1 per class", "Clusters", "Images")
    assert "C* on technique, seed 0: 180 images" in told(tab.children[2])
    control(widget, "run").index = 3
    assert "LR on material, seed 0" in told(tab.children[2]) and "Nothing to" not in told(widget)
    assert "LR on material, seed 0" in told(tab.children[3])
    assert control(tab.children[3], "run") is control(tab.children[2], "run")


def test_features_are_kept_where_the_commands_keep_them(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("SILK_NB_CACHE", str(tmp_path / "kept"))
    explore(runs["folder"][0])
    assert list((tmp_path / "kept").glob("*/*.safetensors"))


def test_a_run_on_features_of_ones_own_is_opened_with_them(tmp_path, silk_cache):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"image": [f"no/such/{i}.jpg" for i in range(90)], "group": range(90),
                          "kind": pd.Categorical(list("aabc") * 22 + ["a", "b"])})
    table["group"] = table["group"].astype(str)
    ready = given_features(table, rng.normal(size=(90, 5)))
    run_experiment(table, tmp_path / "run", RunConfig("kind", "C", task_fc=(4,), batch_size=None,
                                                      max_epochs=1), prepared=ready, quiet=True)
    assert "prepared=given_features(table" in told(explore(tmp_path / "run", cache=silk_cache))
    widget = explore(tmp_path / "run", prepared=ready, cache=silk_cache)
    assert "C on kind, seed 0: 90 images" in told(widget)
    assert "Nothing to show: the image cannot" not in told(widget)
    scatter(widget).selection = np.array([3])
    assert "no such file" in told(widget) or "does not exist" in told(widget)


def test_what_cannot_be_opened_is_said(runs, tmp_path, silk_cache):
    assert "there is no folder" in told(explore(tmp_path / "none"))
    assert "holds no finished run" in told(explore(tmp_path))
    folder = Path(shutil.copytree(runs["folder"][0], tmp_path / "run"))
    (folder / "weights.safetensors").unlink()
    (folder / "predictions.csv").unlink()
    widget = explore(folder, cache=silk_cache)
    assert "weights.safetensors: start the same training" in told(widget)
    assert "has no predictions.csv any more" in told(widget)
    (folder / "split.csv").write_text("")
    assert "split.csv is damaged" in told(explore(folder, cache=silk_cache))


def test_a_run_of_one_class_is_said(seen):
    one = seen._replace(table=seen.table.assign(label="silk"), classes=["silk"], minority=[])
    widget = cluster_widget(one)
    assert "1 class only" in told(widget)
    assert "one class only" in told(image_widget(one))


def test_words_are_shown_as_they_are_and_the_extra_is_named(monkeypatch):
    place = ipywidgets.VBox()

    def refuse():
        plt.figure()
        raise ValueError("<b>bold</b>")
    show_in(place, refuse)
    assert "&lt;b&gt;bold" in told(place)
    monkeypatch.setitem(sys.modules, "jscatter", None)
    with pytest.raises(ModuleNotFoundError, match=r"silk_nb\[explore\]"):
        check_ipywidgets()
