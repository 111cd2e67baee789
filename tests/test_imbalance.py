"Measures of imbalance: the paper's tables, exactness at 1/K, laws, faults, the figure."

import math
from fractions import Fraction

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from silk_nb.imbalance import (
    SILK_COUNTS,
    balance_deviation,
    class_counts,
    describe_imbalance,
    imbalance_degree,
    imbalance_ratio,
    label_series,
    minority_classes,
    plot_class_distribution,
)

MEASURES = [imbalance_ratio, balance_deviation, imbalance_degree, minority_classes,
            describe_imbalance, plot_class_distribution]
COUNTS = st.lists(st.integers(0, 10**6), min_size=2, max_size=40).filter(any)


@pytest.fixture(autouse=True)
def no_open_figures():
    yield
    plt.close("all")


def test_table_1_sums_to_the_paper():
    assert {v: sum(c.values()) for v, c in SILK_COUNTS.items()} == {
        "material": 35351, "technique": 15977, "place": 35748, "time": 28345}
    for counts in SILK_COUNTS.values():
        assert list(counts.values()) == sorted(counts.values(), reverse=True)


@pytest.mark.parametrize(
    ("variable", "ratio", "classes", "m", "share", "deviation", "degree"),
    [
        ("material", 7.00, 3, 2, 0.67, 0.66, 1.656),
        ("technique", 105.55, 9, 5, 0.56, 0.91, 4.913),
        ("place", 190.43, 29, 22, 0.76, 0.78, 21.782),
        ("time", 231.98, 7, 5, 0.71, 0.51, 4.509),
    ],
)
def test_table_2(variable, ratio, classes, m, share, deviation, degree):
    column = describe_imbalance(SILK_COUNTS)[variable]
    assert column["IR"].round(2) == ratio == round(imbalance_ratio(SILK_COUNTS[variable]), 2)
    assert column["K"] == classes and column["m"] == m
    assert round(column["m/K"], 2) == share
    assert round(column["BD"], 2) == deviation
    assert round(balance_deviation(SILK_COUNTS[variable]), 2) == deviation
    assert round(column["ID"], 3) == degree == round(imbalance_degree(SILK_COUNTS[variable]), 3)


@settings(deadline=None)
@given(COUNTS)
def test_deviation_equals_its_definition_in_fractions(counts):
    total, size = sum(counts), len(counts)
    minority = [i for i, n in enumerate(counts) if Fraction(n, total) < Fraction(1, size)]
    assert sorted(minority_classes(counts)) == minority
    if not minority:
        assert balance_deviation(counts) == imbalance_degree(counts) == 0
        return
    distance = sum(abs(Fraction(n, total) - Fraction(1, size)) for n in counts) / 2
    wanted = distance / Fraction(len(minority), size)
    assert balance_deviation(counts) == float(wanted) and 0 < wanted <= 1
    assert imbalance_degree(counts) == pytest.approx(len(minority) - 1 + float(wanted), abs=1e-12)


@settings(deadline=None)
@given(COUNTS, st.integers(1, 1000))
def test_measures_depend_on_proportions_only(counts, factor):
    larger = [n * factor for n in counts]
    assert minority_classes(larger) == minority_classes(counts)
    for measure in (imbalance_ratio, balance_deviation, imbalance_degree):
        assert measure(larger) == pytest.approx(measure(counts), rel=1e-12)
        assert measure(counts[::-1]) == measure(counts)


@pytest.mark.parametrize("size", [3, 7, 10, 29, 49, 1000])
def test_a_class_at_one_kth_is_no_minority(size):
    # 1/49 and the like have no exact float; one image less must make the difference
    counts = [10**15] * size
    assert minority_classes(counts) == [] and balance_deviation(counts) == 0
    counts[0] += 1
    counts[1] -= 1
    assert minority_classes(counts) == [1]


def test_zero_counts_and_uniform_distributions_are_defined():
    assert imbalance_ratio([4, 0]) == math.inf
    assert balance_deviation([4, 0]) == 1 and imbalance_degree([4, 0, 0]) == 2
    assert minority_classes({"b": 0, "a": 0, "c": 9}) == ["a", "b"]
    assert imbalance_ratio([5, 5]) == 1
    assert balance_deviation([5, 5]) == imbalance_degree([5, 5]) == 0


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.__name__)
@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ({}, "empty"),
        ([], "empty"),
        (pd.Series(dtype=int), "empty"),
        ({"damask": 3, "velvet": -1}, "class 'velvet': the count -1 is negative"),
        ({"damask": float("nan"), "velvet": 1}, "class 'damask': the count is NaN"),
        (pd.Series([2, None], index=["damask", "velvet"]), "class 'velvet': the count is NaN"),
        (np.array([1.0, np.nan]), "class 1: the count is NaN"),
        ({"damask": "3", "velvet": 1}, "class 'damask': the count '3' is not a number"),
        ({"damask": None, "velvet": 1}, "class 'damask': the count None is not a number"),
        (["damask", "velvet"], "class_counts"),
        ([True, False], "not a number"),
        ([0.25, 0.75], "class 0: the count 0.25 is not a whole number"),
        ([1, math.inf], "class 1: the count inf is not a whole number"),
        ({"damask": 12}, "one class only ('damask')"),
        ([0, 0, 0], "counts of all 3 classes are zero"),
        (pd.Series([1, 2], index=["a", "a"]), "class 'a' appears more than once"),
        ([[1, 2], [3, 4]], "not a number"),
        ("damask", "must be a mapping"),
        (7, "must be a mapping"),
    ],
)
def test_bad_counts_say_what_is_wrong(measure, counts, says):
    with pytest.raises(ValueError) as error:
        measure(counts)
    assert says in str(error.value)


def test_every_kind_of_counts_gives_the_same():
    values = [50, 20, 5]
    kinds = [values, tuple(values), np.array(values), np.array(values, dtype=float),
             torch.tensor(values), pd.Series(values), dict(enumerate(values)),
             pd.Series(values, dtype="Int64")]
    for counts in kinds:
        assert minority_classes(counts) == [1, 2]
        assert imbalance_ratio(counts) == 10


def test_describe_names_the_variable_in_an_error():
    with pytest.raises(ValueError, match="place: class 'FR': the count -1 is negative"):
        describe_imbalance({"time": [1, 2], "place": {"FR": -1, "GB": 2}})


def test_describe_keeps_order_and_takes_single_counts():
    table = describe_imbalance({"b": [1, 2], "a": pd.Series([3, 3])})
    assert table.columns.tolist() == ["b", "a"]
    assert table.index.tolist() == ["N", "K", "m", "m/K", "N_min", "N_max", "IR", "BD", "ID"]
    single = describe_imbalance(class_counts(["x", "x", "y"]))
    assert single.shape == (9, 1) and single.loc["N"].item() == 3


@pytest.mark.parametrize(
    "labels",
    [
        ["b", "a", "b", "c"],
        ("b", "a", "b", "c"),
        np.array(["b", "a", "b", "c"]),
        pd.Series(["b", "a", "b", "c"], index=[9, 9, 3, 1]),
        pd.Categorical(["b", "a", "b", "c"], categories=["z", "c", "b", "a"]),
        ["b", None, "a", "b", float("nan"), "c"],
    ],
    ids=["list", "tuple", "array", "series", "categorical", "missing"],
)
def test_class_counts_of_every_kind_of_labels(labels):
    counts = class_counts(labels)
    assert counts.to_dict() == {"b": 2, "a": 1, "c": 1}
    assert counts.index.tolist() == ["b", "a", "c"]


def test_class_counts_of_numbers():
    for labels in (torch.tensor([2, 10, 10, 1]), [2, 10, 10, 1], np.array([2, 10, 10, 1]),
                   list(torch.tensor([2, 10, 10, 1]))):
        assert class_counts(labels).index.tolist() == [10, 1, 2]
        assert class_counts(labels).tolist() == [2, 1, 1]


def test_class_counts_of_mixed_labels_does_not_fail():
    assert class_counts(["a", 3, "a", 3, 1.5]).to_dict() == {"a": 2, 3: 2, 1.5: 1}


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcdef"), min_size=1))
def test_class_counts_equal_counting(labels):
    counts = class_counts(labels)
    assert counts.to_dict() == {c: labels.count(c) for c in set(labels)}
    order = [(-n, c) for c, n in counts.items()]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("labels", "says"),
    [([], "no labels"), ([None], "1 given"), ("damask", "sequence"), (5, "sequence"),
     ({"a": 1}, "sequence"), (np.zeros((2, 3)), r"shape \(2, 3\)"),
     ([[1], [2]], "label 0 is a list")],
)
def test_bad_labels(labels, says):
    with pytest.raises(ValueError, match=says):
        class_counts(labels)


def test_label_series_keeps_order_and_missing():
    series = label_series(pd.Series(["x", None, "y"], index=[5, 6, 7]))
    assert series.index.tolist() == [0, 1, 2] and series.isna().tolist() == [False, True, False]


def test_figure_shows_order_minority_and_line():
    ax = plot_class_distribution({"x": 10, "y": 200, "z": 30}, title="weave")
    assert [t.get_text() for t in ax.get_xticklabels()] == ["y", "z", "x"]
    bars = ax.patches
    assert [bar.get_height() for bar in bars] == [200, 30, 10]
    assert [bool(bar.get_hatch()) for bar in bars] == [False, True, True]
    assert bars[0].get_facecolor() != bars[1].get_facecolor() == bars[2].get_facecolor()
    assert ax.lines[0].get_ydata()[0] == 80
    assert ax.get_title().startswith("weave") and "IR 20.00" in ax.get_title()
    assert ax.get_yscale() == "linear"  # IR is 20, not above


def test_figure_options():
    steep = {"x": 1, "y": 200}
    assert plot_class_distribution(steep).get_yscale() == "log"
    assert plot_class_distribution(steep, log=False).get_yscale() == "linear"
    assert plot_class_distribution(SILK_COUNTS["place"]).get_xscale() == "log"  # horizontal
    own = plt.subplots()[1]
    assert plot_class_distribution([3, 0], ax=own, legend=False) is own
    assert own.get_legend() is None
    own.figure.canvas.draw()  # a zero on a log axis draws without complaint
