"""Evaluation: every number against a hand computation, every bad input against its message."""

import math
import warnings

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from silk_nb.evaluation import (
    AbsentClassWarning,
    compare_scores,
    confusion_table,
    per_class_table,
    plain_account,
    plot_confusion,
    plot_history,
    plot_per_class_f1,
    recall_interval,
    score_predictions,
    scores_markdown,
    top_confusions,
)

CLASSES = ["damask", "velvet", "tabby"]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def quiet_scores(*arguments, **keywords):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AbsentClassWarning)
        return score_predictions(*arguments, **keywords)


@st.composite
def label_vectors(draw):
    classes = draw(st.integers(1, 7))
    codes = st.lists(st.integers(0, classes - 1), min_size=1, max_size=40)
    truth = draw(codes)
    size = len(truth)
    predicted = draw(st.lists(st.integers(0, classes - 1), min_size=size, max_size=size))
    rare = draw(st.sets(st.integers(0, classes - 1)))
    return classes, truth, predicted, sorted(rare)


def by_hand(truth, predicted, one):
    pairs = list(zip(truth, predicted, strict=True))
    hits = sum(t == one and p == one for t, p in pairs)
    called, real = sum(p == one for p in predicted), sum(t == one for t in truth)
    precision = hits / called if called else 0.0
    recall = hits / real if real else 0.0
    # F1 = 2 TP / (2 TP + FP + FN), written differently from the harmonic mean on purpose
    f1 = 2 * hits / (called + real) if called + real else 0.0
    return precision, recall, f1, real


@settings(deadline=None, max_examples=200)
@given(label_vectors())
def test_scores_equal_a_hand_computation(case):
    count, truth, predicted, rare = case
    names = [f"class {code}" for code in range(count)]
    rows = [by_hand(truth, predicted, one) for one in range(count)]
    minority = [names[one] for one in rare]

    table = per_class_table(truth, predicted, names, minority=minority)
    assert list(table.index) == names
    np.testing.assert_allclose(table[["precision", "recall", "f1", "test"]].to_numpy(), rows)
    assert list(table.index[table["minority"]]) == minority

    scores = quiet_scores(truth, predicted, names, minority)
    right = sum(t == p for t, p in zip(truth, predicted, strict=True))
    assert scores["overall_accuracy"] == pytest.approx(right / len(truth))
    assert scores["mean_f1"] == pytest.approx(sum(row[2] for row in rows) / count)
    assert scores["macro_recall"] == pytest.approx(sum(row[1] for row in rows) / count)
    if rare:
        mean = sum(rows[one][2] for one in rare) / len(rare)
        assert scores["minority_f1"] == pytest.approx(mean)
    else:
        assert math.isnan(scores["minority_f1"])


@settings(deadline=None, max_examples=100)
@given(label_vectors())
def test_confusion_counts_pairs_and_names_equal_codes(case):
    count, truth, predicted, rare = case
    names = [f"class {code}" for code in range(count)]
    table = confusion_table(truth, predicted, names)
    pairs = list(zip(truth, predicted, strict=True))
    for row in range(count):
        for column in range(count):
            assert table.iloc[row, column] == pairs.count((row, column))
    true_names = [names[code] for code in truth]
    predicted_names = pd.Series([names[code] for code in predicted])
    pd.testing.assert_frame_equal(confusion_table(true_names, predicted_names, names), table)
    mistakes = top_confusions(table, n=10**6)
    assert mistakes["count"].sum() == sum(t != p for t, p in pairs)
    assert (mistakes["truth"] != mistakes["predicted"]).all()
    assert mistakes["count"].is_monotonic_decreasing


def test_categorical_labels_are_read_by_name():
    # the categories' own codes are in another order than the class list
    truth = pd.Categorical(["tabby", "damask", "velvet"], categories=["velvet", "tabby", "damask"])
    assert quiet_scores(truth, [2, 0, 1], CLASSES)["overall_accuracy"] == 1.0


def test_absent_classes_are_named_and_count_zero():
    with pytest.warns(AbsentClassWarning, match="no test image of velvet, tabby"):
        scores = score_predictions([0, 0], [0, 0], CLASSES, ["tabby"])
    assert scores == {"overall_accuracy": 1.0, "mean_f1": pytest.approx(1 / 3),
                      "minority_f1": 0.0, "macro_recall": pytest.approx(1 / 3)}
    table = per_class_table([0, 0], [0, 0], CLASSES)
    assert table["test"].tolist() == [2, 0, 0]


def test_no_warning_when_all_classes_are_there():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score_predictions([0, 1, 2], [0, 0, 0], CLASSES)


def test_one_class_predicted_only():
    scores = score_predictions([0, 0, 1, 2], [0, 0, 0, 0], CLASSES, ["velvet", "tabby"])
    # precision 1/2, recall 1 for the first class, nothing for the others
    assert scores["overall_accuracy"] == 0.5
    assert scores["mean_f1"] == pytest.approx((2 / 3) / 3)
    assert scores["minority_f1"] == 0.0


def test_train_counts_are_kept_by_name_and_missing_without():
    counts = pd.Series({"tabby": 4, "damask": 9})
    table = per_class_table([0], [0], CLASSES, train_counts=counts)
    assert table["train"].tolist() == [9, 0, 4]
    assert per_class_table([0], [0], CLASSES)["train"].isna().all()


@pytest.mark.parametrize(("truth", "predicted", "classes", "message"), [
    ([0, 5, 7], [0, 1, 2], CLASSES, r"truth\[1\] is 5"),
    ([0, 1, 2], [0, 1, -1], CLASSES, r"predicted\[2\] is -1"),
    (["damask", "satin"], [0, 1], CLASSES, r"truth\[1\] is satin"),
    (["damask", None], [0, 1], CLASSES, r"truth\[1\] is None"),
    ([0.5, 1.0], [0, 1], CLASSES, r"truth\[0\] is 0.5"),
    ([0, 1, 2], [0, 1], CLASSES, "from position 2 on"),
    ([], [], CLASSES, "truth is empty"),
    ([0], [], CLASSES, "predicted is empty"),
    ([[0, 1], [1, 0]], [0, 1], CLASSES, r"one-dimensional, its shape is \(2, 2\)"),
    ([0], [0], [], "classes is empty"),
    ([0], [0], "damask", "one string"),
    ([0], [0], ["damask", "damask"], "more than once"),
])
@pytest.mark.parametrize("function", [score_predictions, per_class_table, confusion_table])
def test_bad_labels(function, truth, predicted, classes, message):
    with pytest.raises(ValueError, match=message):
        function(truth, predicted, classes)


def test_unknown_names_in_minority_and_train_counts():
    with pytest.raises(ValueError, match="minority names satin"):
        score_predictions([0], [0], CLASSES, ["satin"])
    with pytest.raises(ValueError, match="train_counts names satin"):
        per_class_table([0], [0], CLASSES, train_counts={"satin": 1})


def some_scores(accuracy, rare=0.2):
    return {"overall_accuracy": accuracy, "mean_f1": 0.5, "minority_f1": rare, "macro_recall": 0.4}


def test_compare_scores_gives_mean_and_sample_deviation():
    runs = {"C*": [some_scores(0.6), some_scores(0.7), some_scores(0.71)], "C": [some_scores(0.5)]}
    table = compare_scores(runs)
    assert list(table.index) == ["C*", "C"]
    assert list(table.columns) == ["OA", "mean F1", "minority F1", "macro recall"]
    # mean 67; deviations -7, 3, 4: sqrt(74 / 2) = 6.08, while the population's would be 4.97
    assert table.loc["C*", "OA"] == "67.0 ± 6.1"
    assert table.loc["C*", "mean F1"] == "50.0 ± 0.0"
    assert table.loc["C", "OA"] == "50.0"
    numbers = compare_scores(runs, numeric=True)
    assert numbers.loc["C*", ("OA", "std")] == pytest.approx(math.sqrt(37))
    assert math.isnan(numbers.loc["C", ("OA", "std")])


def test_scores_markdown_marks_the_best_and_escapes_names():
    runs = {"C* | a": [some_scores(0.61)], "C": [some_scores(0.62, math.nan)]}
    lines = scores_markdown(runs).splitlines()
    assert lines[0] == "| experiment | OA | mean F1 | minority F1 | macro recall |"
    assert lines[2] == r"| C\* \| a | 61.0 | **50.0** | **20.0** | **40.0** |"
    assert lines[3] == "| C | **62.0** | **50.0** | – | **40.0** |"


@pytest.mark.parametrize(("scores", "message"), [
    ({}, "no experiments"),
    ({"C": []}, "'C' has no runs"),
    ({"C": [some_scores(0.5), {"mean_f1": 1}]}, "run 1 of 'C' lacks overall_accuracy"),
])
def test_compare_scores_refuses(scores, message):
    with pytest.raises(ValueError, match=message):
        compare_scores(scores)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
       st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_recall_interval_is_wilsons(case, confidence):
    found, images = case
    low, high = recall_interval([found], [images], confidence)
    expected = binomtest(found, images).proportion_ci(confidence, method="wilson")
    assert low[0] == pytest.approx(expected.low, abs=1e-9)
    assert high[0] == pytest.approx(expected.high, abs=1e-9)


def test_recall_interval_edges():
    low, high = recall_interval([0, 0], [0, 5])
    assert math.isnan(low[0]) and math.isnan(high[0])
    assert 0 <= low[1] < 1e-12 and high[1] < 1
    with pytest.raises(ValueError, match="between 0 and images"):
        recall_interval([6], [5])
    with pytest.raises(ValueError, match="confidence"):
        recall_interval([1], [5], 95)


def account(truth, predicted, classes, minority=(), **keywords):
    table = per_class_table(truth, predicted, classes, minority=minority, **keywords)
    return plain_account(table, quiet_scores(truth, predicted, classes, minority))


def test_account_names_failing_few_and_absent_classes():
    truth, predicted = [0] * 40 + [1] * 4, [0] * 40 + [0] * 3 + [1]
    lines = account(truth, predicted, CLASSES, ["velvet", "tabby"],
                    train_counts={"damask": 120, "velvet": 9})
    text = " ".join(lines)
    assert "93.2 % of 44 test images" in lines[0]
    # F1 of damask 40 / 41.5, of velvet 40 %, of tabby 0 for want of images
    assert lines[2] == (
        "1 class could not be tested, for want of test images: tabby. Counted as F1 = 0 it pulls "
        "the mean F1 and the minority F1 down: over the tested classes alone the mean F1 is "
        "68.2 %.")
    assert "2 minority classes" in lines[3] and "below the overall accuracy" in lines[3]
    # F1 of velvet: 2 / (1 + 4) = 40 %: not failing, but known from four images only
    assert "No tested class has an F1 below 30 %; the lowest is velvet" in text
    assert "velvet 5 to 70 % (1 of 4 found)" in text


def test_account_lists_classes_that_are_never_found():
    lines = account([0] * 40 + [1] * 4, [0] * 44, CLASSES[:2], ["velvet"],
                    train_counts={"damask": 120, "velvet": 9})
    assert lines[3] == (
        "The classifier fails on 1 of 2 tested classes (F1 below 30 %, 1 of them minority): "
        "velvet, F1 0.0 % (0 of 4 test images found, 9 in training).")


def test_account_words_turn_with_the_numbers():
    # here the minority class does better than the large one
    lines = account([0] * 50 + [1] * 30, [0] * 25 + [2] * 25 + [1] * 30, CLASSES, ["velvet"])
    assert "above the overall accuracy" in lines[3] and "the mean F1 down" in lines[2]
    perfect = account([0] * 30 + [1] * 30, [0] * 30 + [1] * 30, CLASSES[:2], ["velvet"])
    assert "the same as the overall accuracy" in perfect[1] and len(perfect) == 4
    plain = account([0] * 30, [0] * 30, CLASSES[:1])
    assert "1 class " in plain[1] and "no minority F1" in plain[2]


def test_account_of_many_failing_classes_stays_short():
    names = [f"place {code}" for code in range(29)]
    lines = account(list(range(29)) * 2, [0] * 58, names)
    assert lines[3].endswith("; and 19 more.") and "fails on 29 of 29" in lines[3]


def test_account_refuses_empty_input():
    table = per_class_table([0], [0], CLASSES)
    with pytest.raises(ValueError, match="no test image"):
        plain_account(table.assign(test=0), some_scores(0.5))
    with pytest.raises(ValueError, match="lacks overall_accuracy"):
        plain_account(table, {"mean_f1": 1, "minority_f1": 1})


def test_confusion_plot_orders_marks_and_normalises():
    table = pd.DataFrame([[1, 1, 0], [0, 6, 2], [0, 0, 0]], index=CLASSES, columns=CLASSES)
    ax = plot_confusion(table, minority=["damask"])
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [
        "velvet (8)", "damask ● (2)", "tabby (0)"]
    shown = ax.images[0].get_array()
    np.testing.assert_allclose(shown[0], [75, 0, 25])
    np.testing.assert_allclose(shown[1], [50, 50, 0])
    assert np.ma.masked_invalid(shown).mask[2].all()  # no test image: grey, not 0 %
    assert {text.get_text() for text in ax.texts} == {"75", "25", "50"}
    by_counts = plot_confusion(table, counts={"tabby": 9, "damask": 5, "velvet": 1})
    assert [tick.get_text() for tick in by_counts.get_xticklabels()] == [
        "tabby", "damask", "velvet"]


def test_confusion_plot_as_counts_and_of_many_classes():
    names = list(range(13))
    table = confusion_table(names * 2, names + [0] * 13, names)
    assert len(plot_confusion(table).texts) == 0
    ax = plot_confusion(table.loc[:2, :2], normalise=False)
    np.testing.assert_array_equal(ax.images[0].get_array(), table.loc[:2, :2])


def test_confusion_plot_refuses():
    table = confusion_table([0, 1, 2], [0, 1, 2], CLASSES)
    with pytest.raises(ValueError, match="same classes"):
        plot_confusion(table[CLASSES[::-1]])
    with pytest.raises(ValueError, match="no entry for tabby"):
        plot_confusion(table, counts={"damask": 1, "velvet": 1})


def test_f1_plot_shows_mean_and_deviation_in_order_of_frequency():
    tables = [pd.DataFrame({"train": [10, 90], "test": [3, 30], "minority": [True, False],
                            "precision": 0.5, "recall": 0.5, "f1": [low, 0.8]},
                           index=["rare", "common"]) for low in (0.1, 0.3)]
    ax = plot_per_class_f1({"C": tables, "C*": tables[0]})
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["common (90)", "rare ● (10)"]
    first, second = ax.containers
    np.testing.assert_allclose(first[0].get_xdata(), [80, 20])
    half = [segment[:, 0].max() - segment[:, 0].mean() for segment in first[2][0].get_segments()]
    np.testing.assert_allclose(half, [0, math.sqrt(200)], atol=1e-9)
    assert not second.has_xerr
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["C", "C*"]


def test_f1_plot_refuses():
    table = per_class_table([0, 1, 2], [0, 1, 2], CLASSES)
    with pytest.raises(ValueError, match="no experiments"):
        plot_per_class_f1({})
    with pytest.raises(ValueError, match="no per-class table for C"):
        plot_per_class_f1({"C": []})
    with pytest.raises(ValueError, match="table 1 of 'C' has other classes: tabby"):
        plot_per_class_f1({"C": [table, table.drop("tabby")]})


def make_history(**columns):
    base = {"epoch": [1, 2, 3], "train_loss": [3.0, 2, 1], "train_classification": [3.0, 2, 1],
            "validation_loss": [3.0, 1.5, 2], "validation_classification": [3.0, 1.5, 2],
            "validation_accuracy": [0.3, 0.5, 0.6], "validation_mean_f1": [0.1, 0.2, 0.3]}
    return pd.DataFrame(base | columns)


def test_history_marks_the_least_validation_loss_and_hides_a_repeated_part():
    ax = plot_history(make_history())
    assert any(text.get_text() == "best epoch: 2" for text in ax.texts)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["total", "training", "validation"]
    lower = ax.figure.axes[-1]
    np.testing.assert_allclose(lower.lines[0].get_ydata(), [30, 50, 60])
    parts = {"train_loss": [4.0, 3, 2], "train_sem": [1.0, 1, 1], "validation_sem": [1.0, 1, 1]}
    ax = plot_history(make_history(**parts))
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["total", "classification", "L_sem", "training", "validation"]


def test_history_fits_in_a_grid_and_skips_nan():
    _, axes = plt.subplots(1, 2, layout="constrained")
    ax = plot_history(make_history(validation_loss=[math.nan, 2, 1.0]), ax=axes[1])
    assert any(text.get_text() == "best epoch: 3" for text in ax.texts)
    ax.figure.draw_without_rendering()
    assert ax.get_position().x0 > 0.5 and ax.get_position().y0 > 0.3


def test_history_keeps_its_legend_and_words_clear_of_the_curves():
    for best in (2, 10):
        loss = [3.0] * 10
        loss[best - 1] = 1.0
        values = {name: np.linspace(0.1, 1, 10) for name in make_history()}
        ax = plot_history(pd.DataFrame(values | {"epoch": range(1, 11), "validation_loss": loss}))
        ax.figure.draw_without_rendering()
        lower = ax.figure.axes[-1]
        assert lower.get_legend().get_window_extent().y0 >= lower.get_window_extent().y1 - 1
        text, = [text for text in ax.texts if text.get_text() == f"best epoch: {best}"]
        assert text.get_window_extent().x1 < ax.get_window_extent().x1


def test_history_refuses():
    with pytest.raises(ValueError, match="no epoch"):
        plot_history(make_history().iloc[:0])
    with pytest.raises(ValueError, match="lacks the columns validation_loss"):
        plot_history(make_history().drop(columns="validation_loss"))
    with pytest.raises(ValueError, match="subplot grid"):
        plot_history(make_history(), ax=plt.figure().add_axes((0, 0, 1, 1)))
