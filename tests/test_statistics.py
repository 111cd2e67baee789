"""Statistics: against scikit-learn, scipy and statsmodels, a bootstrap by hand, and simulation."""

import math
import re
import sys
import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from matplotlib.text import Annotation, Text
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, recall_score

from silk_nb import statistics as st
from silk_nb.evaluation import AbsentClassWarning, score_predictions

CLASSES = {"v": ["a", "b", "c", "d"], "w": ["x", "y"]}
MINORITY = {"v": ["c", "d"], "w": ["y"]}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def make_runs(variable="v", skills=(("A", 0.5), ("B", 0.7)), seeds=(0, 1), images=40, per_group=2,
              same_test=False, start=0):
    """Predictions of classifiers that are right with a given probability."""
    names, parts = np.array(CLASSES[variable]), []
    share = np.arange(len(names), 0, -1.0) ** 2
    share /= share.sum()
    for seed in seeds:
        test = 0 if same_test else seed
        rng = np.random.default_rng([start, test])
        truth = np.repeat(rng.choice(len(names), images // per_group, p=share), per_group)
        draw = np.random.default_rng([start, seed, 1])
        for name, skill in skills:
            right = draw.random(len(truth)) < skill
            guess = np.where(right, truth, draw.choice(len(names), len(truth), p=share))
            parts.append(pd.DataFrame({
                "variable": variable, "experiment": name, "seed": seed,
                "image": [f"{test}/{number}.jpg" for number in range(len(truth))],
                "group": [f"{test}/{number // per_group}" for number in range(len(truth))],
                "truth": names[truth], "predicted": names[guess]}))
    return pd.concat(parts, ignore_index=True)


def scored(predictions):
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AbsentClassWarning)
        for run, part in predictions.groupby(["variable", "experiment", "seed"], sort=False):
            rows.append(dict(zip(("variable", "experiment", "seed"), run, strict=True))
                        | score_predictions(part["truth"], part["predicted"], CLASSES[run[0]],
                                            MINORITY[run[0]]))
    return pd.DataFrame(rows)


def differences(predictions, baseline="A", **more):
    return st.paired_differences(predictions, baseline, CLASSES, MINORITY, quiet=True,
                                 **{"resamples": 200} | more)


def some_results(**columns):
    base = {"variable": ["v", "v", "v", "v"], "experiment": ["A", "A", "B", "B"],
            "seed": [0, 1, 0, 1], "mean_f1": [0.4, 0.5, 0.6, 0.7],
            "minority_f1": [0.1, 0.2, 0.3, 0.4], "overall_accuracy": [0.8, 0.8, 0.7, 0.8]}
    return pd.DataFrame(base | columns)


# Tables

def test_summary_is_mean_and_sample_deviation_in_the_given_order():
    results = some_results(experiment=["Z", "Z", "B", "B"])
    table = st.summary_table(results, "mean_f1", baseline="Z")
    assert list(table.index) == ["Z (baseline)", "B"]
    assert list(table.columns) == [("v", "mean"), ("v", "std"), ("v", "runs")]
    np.testing.assert_allclose(table["v"].to_numpy(dtype=float),
                               [[45, math.sqrt(50), 2], [65, math.sqrt(50), 2]])


def test_summary_over_variables():
    two = pd.concat([some_results(), some_results(variable="w", mean_f1=[0.6, 0.5, 0.5, 0.9])])
    table = st.summary_table(two)
    assert table.columns[-1] == (st.MEAN_OVER, "runs")
    # per seed: A 50 and 50, B 55 and 80
    np.testing.assert_allclose(table[st.MEAN_OVER].to_numpy(dtype=float),
                               [[50, 0, 2], [67.5, math.sqrt(312.5), 2]], atol=1e-12)
    part = st.summary_table(two[(two["variable"] == "v") | (two["experiment"] == "A")])
    assert math.isnan(part.loc["B", (st.MEAN_OVER, "mean")])
    assert part.loc["B", ("w", "runs")] == 0


def test_summary_leaves_out_of_the_mean_a_variable_that_has_no_number_at_all():
    nothing = some_results(variable="w", minority_f1=math.nan)
    table = st.summary_table(pd.concat([some_results(), nothing]), "minority_f1")
    assert table.loc["A", (st.MEAN_OVER, "mean")] == pytest.approx(15)
    assert math.isnan(table.loc["A", ("w", "mean")])


def test_one_run_and_missing_numbers_are_shown_as_such():
    results = some_results(mean_f1=[0.4, math.nan, 0.6, 0.7]).iloc[[0, 1, 2]]
    lines = st.table_markdown(st.summary_table(results)).splitlines()
    assert lines[2:] == ["| A | 40.0 |", "| B | **60.0** |"]
    mixed = some_results(mean_f1=[0.4, math.nan, 0.6, 0.7]).assign(variable=["v"] * 4)
    more = pd.concat([mixed, some_results(variable="w")])
    assert "| A | 40.0 (1 run) |" in st.table_markdown(st.summary_table(more))
    none = st.table_markdown(st.summary_table(some_results(mean_f1=math.nan)))
    assert none.splitlines()[2] == "| A | – |"
    alone = st.table_markdown(st.summary_table(some_results()[:1]))
    assert "**" not in alone and "±" not in alone


def test_equal_as_printed_is_bold_twice():
    two = some_results(mean_f1=[0.4, 0.5, 0.4501, 0.4501])
    worse = some_results(mean_f1=0.1)[:2].assign(experiment="W")
    assert st.table_markdown(st.summary_table(pd.concat([two, worse]))).count("**") == 4
    # where all are alike none is the best
    assert "**" not in st.table_markdown(st.summary_table(two))


def test_tables_escape_what_their_language_reads():
    odd = 'C* | <b>&"_x_" 5 % {y}\\'
    results = some_results(experiment=[odd, odd, "B", "B"])
    table = st.summary_table(results)
    page = st.table_html(table, caption="<i>")
    assert "<b>" not in page and "&lt;b&gt;&amp;&quot;" in page and "&lt;i&gt;" in page
    assert "<strong>65.0 ± 7.07</strong>" in page
    latex = st.table_latex(table)
    assert r"C* | \textless{}b\textgreater{}\&" in latex and r"5 \% \{y\}\textbackslash{}" in latex
    assert r"\textbf{65.0 $\pm$ 7.07} \\" in latex and latex.count(r"\\") == 3
    row = st.table_markdown(table).splitlines()[2]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3 and r"C\* \| \<b\>" in row
    with pytest.raises(ValueError, match="summary_table or per_class"):
        st.table_html(results)


def test_latex_with_caption_is_a_float():
    text = st.table_latex(st.summary_table(some_results()), caption="100 %", label="tab:x")
    assert text.startswith("\\begin{table}") and "\\caption{100 \\%}\n\\label{tab:x}" in text


def test_per_class_summary_is_scikit_learns_f1_and_skips_runs_without_the_class():
    predictions = make_runs(seeds=(0, 1, 2), images=12)
    table = st.per_class_summary(predictions, CLASSES, MINORITY)
    assert list(table.index.get_level_values("class")) == CLASSES["v"]
    assert list(table.index.get_level_values("minority")) == [False, False, True, True]
    for name in CLASSES["v"]:
        f1 = [100 * f1_score(part["truth"], part["predicted"], labels=[name], average="macro",
                             zero_division=0)
              for _, part in predictions[predictions["experiment"] == "B"].groupby("seed")
              if name in set(part["truth"])]
        found = table.xs(name, level="class")["B"].iloc[0]
        assert found["runs"] == len(f1)
        assert found["mean"] == pytest.approx(np.mean(f1) if f1 else math.nan, nan_ok=True)
    rare = table["B", "runs"]
    assert rare.min() < 3  # the case that this test is about
    assert "| v | d | ● |" in st.table_markdown(table)


# Paired differences

@settings(deadline=None, max_examples=25)
@given(some.integers(0, 10**6), some.integers(1, 3), some.integers(8, 40))
def test_point_estimates_are_scikit_learns(start, seeds, images):
    predictions = make_runs(seeds=range(seeds), images=images, start=start)
    expected = dict.fromkeys(("overall_accuracy", "mean_f1", "minority_f1", "macro_recall"), 0.0)
    for (name, _), part in predictions.groupby(["experiment", "seed"]):
        sign, pair = (1 if name == "B" else -1), (part["truth"], part["predicted"])
        more = {"average": "macro", "zero_division": 0}
        for metric, value in (
            ("overall_accuracy", accuracy_score(*pair)),
            ("mean_f1", f1_score(*pair, labels=CLASSES["v"], **more)),
            ("minority_f1", f1_score(*pair, labels=MINORITY["v"], **more)),
            ("macro_recall", recall_score(*pair, labels=CLASSES["v"], **more)),
        ):
            expected[metric] += 100 * sign * value / seeds
    table = differences(predictions, resamples=100).set_index("metric")
    for metric, value in expected.items():
        assert table.loc[metric, "difference"] == pytest.approx(value, abs=1e-9)


def by_hand(predictions, weights, union):
    """Differences of mean F1 for one draw, image by image with scikit-learn."""
    gains = []
    for _, runs in predictions.groupby("seed", sort=False):
        scores = {}
        for name, part in runs.groupby("experiment"):
            times = part["group"].map(dict(zip(union, weights, strict=True))).astype(int)
            drawn = part.loc[part.index.repeat(times)]
            known = set(part["truth"])
            labels = [one for one in CLASSES["v"] if one in set(drawn["truth"])]
            f1 = f1_score(drawn["truth"], drawn["predicted"], labels=labels, average="macro",
                          zero_division=0)
            scores[name] = f1 * len(known) / len(CLASSES["v"])
        gains.append(scores["B"] - scores["A"])
    return 100 * np.mean(gains)


@pytest.mark.parametrize("same_test", [False, True])
def test_the_bootstrap_is_the_brute_force_one_on_the_same_draws(same_test):
    predictions = make_runs(images=30, same_test=same_test, per_group=3)
    blocks = st._blocks(predictions, CLASSES["v"], "A")
    union = list(dict.fromkeys(np.concatenate([block.groups for block in blocks])))
    strata, _ = st._strata([block.groups for block in blocks])
    weights = st._weights(np.random.default_rng(3), strata, 100)
    expected = [by_hand(predictions, row, union) for row in weights]
    table = differences(predictions, metrics=["mean_f1"], resamples=100, seed=3)
    np.testing.assert_allclose(table[["low", "high"]].to_numpy()[0],
                               np.quantile(expected, [0.025, 0.975]), atol=1e-4)


def test_one_test_set_for_all_seeds_is_drawn_once_and_gives_wider_intervals():
    """Three trainings on one split are not three samples of objects."""
    one = make_runs(seeds=[0], images=400)
    copies = pd.concat([one.assign(seed=seed) for seed in range(3)])
    apart = pd.concat([one.assign(seed=seed, group=f"{seed}" + one["group"],
                                  image=f"{seed}" + one["image"]) for seed in range(3)])
    width = {}
    for name, runs in (("one", one), ("copies", copies), ("apart", apart)):
        row = differences(runs, metrics=["overall_accuracy"], resamples=2000).iloc[0]
        width[name] = row["high"] - row["low"]
    assert width["copies"] == pytest.approx(width["one"], rel=1e-9)
    assert width["apart"] == pytest.approx(width["one"] / math.sqrt(3), rel=0.1)


def test_images_of_one_object_are_one_piece_of_evidence():
    singles = make_runs(seeds=[0], images=200, per_group=1)
    twice = pd.concat([singles, singles.assign(image=singles["image"] + "b")])
    apart = twice.assign(group=twice["image"])
    row = {name: differences(runs, metrics=["overall_accuracy"], resamples=2000).iloc[0]
           for name, runs in (("singles", singles), ("twice", twice), ("apart", apart))}
    width = {name: one["high"] - one["low"] for name, one in row.items()}
    assert width["twice"] == pytest.approx(width["singles"], rel=1e-9)
    assert width["apart"] == pytest.approx(width["singles"] / math.sqrt(2), rel=0.1)


@pytest.mark.parametrize("same_test", [False, True])
def test_intervals_hold_a_known_difference(same_test):
    # accuracy of a guess by class frequency: the sum of squared shares
    share = np.arange(4, 0, -1.0) ** 2 / 30
    gain = 100 * (0.7 - 0.5) * (1 - (share**2).sum())
    held, runs = 0, 150
    for start in range(runs):
        table = differences(make_runs(images=150, start=start, same_test=same_test),
                            metrics=["overall_accuracy"], resamples=300)
        held += table["low"].iloc[0] <= gain <= table["high"].iloc[0]
    # 95 % nominal; three standard deviations of a share of 150 are 5 %
    assert 0.89 <= held / runs <= 1.0


def test_nothing_is_found_where_there_is_nothing():
    names = [(f"e{number}", 0.6) for number in range(6)]
    found = [differences(make_runs(skills=names, images=100, start=start), "e0",
                         metrics=["overall_accuracy"], resamples=500)["real"].any()
             for start in range(60)]
    assert np.mean(found) <= 0.12  # family-wise 5 %, less by the agreement asked of runs


def test_a_lost_class_does_not_pull_the_interval_below_the_estimate():
    skills = (("A", 0.3), ("B", 0.95))
    place = []
    for start in range(10):
        row = differences(make_runs(skills=skills, images=24, per_group=1, start=start),
                          metrics=["mean_f1"], resamples=400).iloc[0]
        place.append((row["difference"] - row["low"]) / (row["high"] - row["low"]))
    assert 0.35 < np.mean(place) < 0.7


def test_equal_predictions_differ_by_nothing():
    runs = make_runs(skills=(("A", 0.5),))
    table = differences(pd.concat([runs, runs.assign(experiment="B")]))
    assert (table[["difference", "low", "high"]] == 0).all(axis=None)
    assert (table["p"] == 1).all() and not table["real"].any()


def test_columns_and_words_of_the_table():
    predictions = pd.concat([make_runs(seeds=(0, 1, 2)), make_runs("w", seeds=(0, 1))])
    table = differences(predictions)
    assert list(table) == st._COLUMNS
    assert table.groupby("variable")["runs"].first().to_dict() == {"v": 3, "w": 2}
    assert table.groupby("variable")["objects"].first().to_dict() == {"v": 60, "w": 40}
    shuffled = predictions.sample(frac=1, random_state=0)
    shuffled = shuffled.sort_values(["variable", "experiment"], kind="stable")
    pd.testing.assert_frame_equal(table, differences(shuffled))


def test_experiments_keep_their_order():
    runs = make_runs(skills=(("Z", 0.4), ("A", 0.5), ("B", 0.7)))
    table = differences(runs, metrics=["mean_f1"])
    assert list(table["experiment"]) == ["Z", "B"]


def test_another_experiment_does_not_change_an_interval():
    three = make_runs(skills=(("A", 0.5), ("B", 0.7), ("C", 0.6)), images=60)
    two = three[three["experiment"] != "C"]
    both = differences(three), differences(two)
    first, second = (t[t["experiment"] == "B"][["difference", "low", "high", "p"]] for t in both)
    np.testing.assert_allclose(first.to_numpy(), second.to_numpy(), atol=1e-9)


def test_only_common_seeds_are_compared():
    runs = make_runs(seeds=(0, 1, 2))
    fewer = runs[~((runs["experiment"] == "B") & (runs["seed"] == 2))]
    expected = differences(runs[runs["seed"] < 2])["difference"]
    table = differences(fewer)
    assert (table["runs"] == 2).all()
    np.testing.assert_allclose(table["difference"], expected)
    apart = runs[(runs["experiment"] == "B") == (runs["seed"] == 2)]
    with pytest.raises(ValueError, match="'B' and 'A' have no seed in common; 'A' ran 0, 1"):
        differences(apart)


def test_no_minority_class_is_nan_and_not_a_difference():
    table = st.paired_differences(make_runs(), "A", CLASSES, None, resamples=100, quiet=True)
    row = table.set_index("metric").loc["minority_f1"]
    assert math.isnan(row["difference"]) and math.isnan(row["low"]) and not row["real"]


def test_classes_that_no_test_set_has():
    classes = {"v": [*CLASSES["v"], "never"]}
    table = st.paired_differences(make_runs(), "A", classes, {"v": ["never"]}, resamples=100,
                                  quiet=True).set_index("metric")
    assert table.loc["minority_f1", "difference"] == 0
    plain = differences(make_runs()).set_index("metric")
    assert table.loc["mean_f1", "difference"] == pytest.approx(
        plain.loc["mean_f1", "difference"] * 4 / 5)


def test_one_group_has_no_interval_and_groups_of_one_image_do():
    lone = make_runs(seeds=[0], images=6, per_group=6)
    assert differences(lone)[["low", "high", "p"]].isna().all(axis=None)
    assert differences(make_runs(per_group=1))["low"].notna().all()
    mixed = make_runs(seeds=[0], images=20)
    mixed.loc[mixed["image"] == "0/0.jpg", "group"] = "alone"
    assert differences(mixed)["objects"].iloc[0] == 11


def test_only_the_baseline_gives_an_empty_table():
    table = differences(make_runs(skills=(("A", 0.5),)))
    assert len(table) == 0 and list(table) == st._COLUMNS


def without(runs, column):
    return runs.drop(columns=column)


@pytest.mark.parametrize(("change", "message"), [
    (lambda p: p[1:], "variable 'v', seed 0: 'B' and 'A' do not have the same test images "
                      r"\(1 are in one of the two only, such as '0/0.jpg'"),
    (lambda p: p.replace({"experiment": {"A": "Z"}}), "no experiment 'A'; there are: 'Z', 'B'"),
    (lambda p: pd.concat([p, p[:1]]), "image '0/0.jpg' of variable 'v', experiment 'A', seed 0 "
                                      "more than once"),
    (lambda p: without(p, "group"), "lacks the columns group"),
    (lambda p: p[:0], "no row"),
    (lambda p: p.assign(group=[None, *p["group"][1:]]), "rows without group"),
    (lambda p: p.assign(variable="q"), "no list for variable 'q'"),
    (lambda p: p.assign(predicted=["?", *p["predicted"][1:]]),
     r"predicted of image '0/0.jpg' \(variable 'v', experiment 'A', seed 0\) is '\?'"),
    (lambda p: p.assign(truth=["d", *p["truth"][1:]]), "more than one true class in the runs"),
    (lambda p: p.assign(group=["g", *p["group"][1:]]), "more than one group in the runs of A, B"),
])
def test_predictions_that_cannot_be_compared(change, message):
    predictions = make_runs()
    predictions.loc[predictions["image"] == "0/0.jpg", "truth"] = "a"
    with pytest.raises(ValueError, match=message):
        differences(change(predictions))


@pytest.mark.parametrize(("more", "message"), [
    ({"metrics": ["f1"]}, "some of overall_accuracy"), ({"metrics": []}, "list of some"),
    ({"metrics": "mean_f1"}, "list of some"), ({"resamples": 5}, "at least 100"),
    ({"confidence": 95}, "between 0 and 1"),
])
def test_choices_that_do_not_exist(more, message):
    with pytest.raises(ValueError, match=message):
        differences(make_runs(), **more)


def test_baseline_missing_for_one_variable():
    runs = pd.concat([make_runs(), make_runs("w", skills=(("B", 0.5),))])
    with pytest.raises(ValueError, match="'A' of variable 'w'; there are: 'B'"):
        differences(runs)


def test_a_study_of_thirty_experiments_takes_seconds():
    names = [f"c{number}" for number in range(17)]
    rng, parts = np.random.default_rng(0), []
    images = np.arange(1000).astype(str)
    for seed in range(3):
        truth = rng.integers(17, size=1000)
        for number in range(30):
            guess = np.where(rng.random(1000) < 0.6, truth, rng.integers(17, size=1000))
            parts.append(pd.DataFrame({
                "variable": "v", "experiment": f"e{number}", "seed": seed, "image": images,
                "group": images, "truth": np.array(names)[truth],
                "predicted": np.array(names)[guess]}))
    began = time.process_time()
    table = st.paired_differences(pd.concat(parts), "e0", {"v": names}, {"v": names[9:]},
                                  quiet=True)
    assert time.process_time() - began < 20  # about one second on an idle core
    assert len(table) == 29 * 4


# Tests over runs

@settings(deadline=None, max_examples=100)
@given(some.lists(some.one_of(some.floats(0, 1), some.just(math.nan)), max_size=12))
def test_holm_is_statsmodels(p_values):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.array(p_values, dtype=float)
    known = ~np.isnan(p)
    adjusted = st.holm(p)
    assert np.isnan(adjusted[~known]).all()
    if known.any():
        np.testing.assert_allclose(adjusted[known],
                                   multitest.multipletests(p[known], method="holm")[1])


def signs(gain):
    """Exact two-sided signed-rank test by all patterns of signs."""
    gain = np.array([one for one in gain if one != 0])
    ranks = stats.rankdata(np.abs(gain))
    patterns = (np.arange(2 ** len(gain))[:, None] >> np.arange(len(gain))) & 1
    sums = patterns @ ranks
    seen = ranks[gain > 0].sum()
    return min(1, 2 * min((sums <= seen + 1e-9).mean(), (sums >= seen - 1e-9).mean()))


@settings(deadline=None, max_examples=40)
@given(some.lists(some.integers(-6, 6), min_size=1, max_size=9))
def test_wilcoxon_is_exact_with_ties_and_zeros(gain):
    p = st._p_over_pairs(np.array(gain, dtype=float), "wilcoxon")
    assert p == pytest.approx(signs(gain) if any(gain) else 1.0, abs=1e-9)


def runs_of(gains, variables=("v",)):
    rows = []
    for number, gain in enumerate(gains):
        base = 0.3 + 0.01 * number
        for name, value in (("A", base), ("B", base + gain)):
            rows.append({"variable": variables[number % len(variables)], "experiment": name,
                         "seed": number, "mean_f1": value})
    return pd.DataFrame(rows)


def test_few_pairs_are_said_to_be_too_few():
    row = st.test_over_runs(runs_of([0.1, 0.11, 0.12, 0.13, 0.14]), "mean_f1", "A").loc["B"]
    assert row["pairs"] == 5 and row["p"] == pytest.approx(2 / 2**5)
    assert row["verdict"] == "5 pairs are too few: even if all agree, p is at least 0.062"
    six = st.test_over_runs(runs_of([0.1, 0.11, 0.12, 0.13, 0.14, 0.15]), "mean_f1", "A")
    assert six.loc["B", "verdict"] == "better" and six.loc["B", "p_holm"] < 0.05
    two = pd.concat([runs_of([0.1, 0.11, 0.12, 0.13, 0.14, 0.15]),
                     runs_of([0.2, 0.21, 0.22, 0.23, 0.24, 0.25]).query("experiment == 'B'")
                     .assign(experiment="C")])
    words = st.test_over_runs(two, "mean_f1", "A").loc["B", "verdict"]
    assert words.startswith("6 pairs are too few") and words.endswith("for 2 tests 0.062")


def test_t_test_is_scipys_and_finds_with_three_pairs():
    gains = [0.1, 0.11, 0.12]
    results = runs_of(gains, ("v", "w"))
    row = st.test_over_runs(results, "mean_f1", "A", test="t").loc["B"]
    assert row["p"] == pytest.approx(stats.ttest_1samp(gains, 0).pvalue)
    assert row["verdict"] == "better" and row["difference"] == pytest.approx(11)
    one = st.test_over_runs(results[:2], "mean_f1", "A", test="t").loc["B"]
    assert math.isnan(one["p"]) and one["verdict"].startswith("1 pair is too few")


def test_pairs_without_both_numbers_do_not_count():
    results = runs_of([0.1, 0.2, 0.3])
    results.loc[1, "mean_f1"] = math.nan
    assert st.test_over_runs(results[:-1], "mean_f1", "A").loc["B", "pairs"] == 1
    none = st.test_over_runs(results[:2], "mean_f1", "A").loc["B"]
    assert none["pairs"] == 0 and none["verdict"] == "no pair of runs to compare"
    assert len(st.test_over_runs(results[results["experiment"] == "A"], "mean_f1", "A")) == 0


@pytest.mark.parametrize(("change", "message"), [
    (lambda r: pd.concat([r, r[:1]]), "'v', experiment 'A', seed 0 more than once"),
    (lambda r: r.assign(mean_f1=41.0), "is 41: scores are fractions"),
    (lambda r: without(r, "seed"), "results lacks seed"),
    (lambda r: without(r, "mean_f1"), "lacks mean_f1; metrics that it has: overall_acc"),
    (lambda r: r[:0], "no run"),
    (lambda r: r.assign(experiment=[None, "A", "B", "B"]), "without variable, experiment"),
    (lambda r: r.assign(experiment=["Z", "Z", "B", "B"]), "no experiment 'A'; there are: 'Z'"),
])
def test_results_that_cannot_be_trusted(change, message):
    with pytest.raises(ValueError, match=message):
        st.test_over_runs(change(some_results()), "mean_f1", "A")


# Friedman

def ranked(scores):
    return pd.DataFrame([
        {"variable": f"v{row}", "experiment": f"e{column}", "seed": seed,
         "mean_f1": value + 0.001 * seed}
        for (row, column), value in np.ndenumerate(scores) for seed in range(2)])


@settings(deadline=None, max_examples=30)
@given(some.integers(2, 8), some.integers(3, 8), some.integers(0, 10**6))
def test_friedman_is_scipys_and_the_critical_difference_demsars(blocks, methods, start):
    scores = np.random.default_rng(start).random((blocks, methods)) * 0.9
    result = st.friedman_test(ranked(scores))
    expected = stats.friedmanchisquare(*scores.T)
    assert result.statistic == pytest.approx(expected.statistic)
    assert result.p_value == pytest.approx(expected.pvalue)
    assert result.blocks == blocks
    ranks = (methods + 1 - stats.rankdata(scores, axis=1)).mean(axis=0)
    np.testing.assert_allclose(result.ranks[[f"e{n}" for n in range(methods)]], ranks)
    # Demšar 2006, Table 5 (a)
    q = {3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 7: 2.949, 8: 3.031}[methods]
    assert result.critical_difference == pytest.approx(
        q * math.sqrt(methods * (methods + 1) / (6 * blocks)), rel=1e-3)


def test_friedman_blocks_ties_and_gaps():
    scores = np.array([[0.1, 0.2, 0.3], [0.2, 0.3, 0.4], [0.5, 0.6, 0.7]])
    results = ranked(scores)
    assert st.friedman_test(results, blocks="run").blocks == 6
    gap = results[~((results["variable"] == "v1") & (results["experiment"] == "e2"))]
    result = st.friedman_test(gap)
    assert result.blocks == 2 and result.left_out == ["v1"]
    level = st.friedman_test(ranked(np.full((3, 4), 0.5)))
    assert level.p_value == 1.0 and (level.ranks == 2.5).all()
    with pytest.raises(ValueError, match="there are 2 and 3"):
        st.friedman_test(ranked(scores[:, :2]))
    with pytest.raises(ValueError, match="there are 3 and 1"):
        st.friedman_test(ranked(scores[:1]))
    with pytest.raises(ValueError, match="'variable' or 'run'"):
        st.friedman_test(results, blocks="seed")


def test_critical_difference_plot_joins_what_nemenyi_does_not_tell_apart():
    pytest.importorskip("scikit_posthocs")
    scores = np.tile([0.1, 0.12, 0.8, 0.82], (12, 1)) + 0.01 * np.arange(12)[:, None]
    scores[::2, [0, 1]], scores[::2, [2, 3]] = scores[::2, [1, 0]], scores[::2, [3, 2]]
    ax = st.plot_critical_difference(ranked(scores))
    texts = {text.get_text().strip() for text in ax.texts}
    assert "e2 (1.5)" in texts and "(3.5) e1" in texts and "ranks differ" in ax.get_title()
    bars = [line for line in ax.lines if line.get_linewidth() == 2]
    assert len(bars) == 2
    _, given_ax = plt.subplots()
    assert st.plot_critical_difference(ranked(scores), ax=given_ax) is given_ax


def test_critical_difference_plot_of_thirty_is_quick():
    pytest.importorskip("scikit_posthocs")
    began = time.process_time()
    ax = st.plot_critical_difference(ranked(np.random.default_rng(0).random((4, 30)) * 0.9))
    assert time.process_time() - began < 20 and len(ax.texts) == 30


def test_critical_difference_plot_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scikit_posthocs", None)
    with pytest.raises(ImportError, match=r"pip install silk_nb\[study\]"):
        st.plot_critical_difference(ranked(np.eye(3)))


# Words

def words(predictions, **more):
    more = {"baseline": "A", "resamples": 400, "quiet": True} | more
    return st.plain_comparison(scored(predictions), predictions, CLASSES, MINORITY, **more)


def test_words_of_a_clear_winner():
    skills = (("A", 0.4), ("B", 0.95), ("C", 0.7), ("D", 0.1), ("E", 0.4))
    lines = words(make_runs(skills=skills, images=600, seeds=(0, 1, 2)))
    assert lines[0].startswith("v: the highest mean F1") and "is that of B, against" in lines[0]
    assert lines[0].endswith("more than chance.")
    assert lines[1].startswith("B is ahead of the next best, C (") and ": +" in lines[1]
    assert lines[2].startswith("Better in mean F1 than A, beyond chance: B (+")
    assert "C (+" in lines[2] and "D" not in lines[2]
    assert lines[3].startswith("Worse than A, beyond chance: D (−")
    assert lines[4].startswith("Not told from A at this size: E (")
    assert "With 900 test objects, differences below about" in lines[5]
    assert lines[6] == "None of these gains costs overall accuracy beyond chance."
    assert "Over 3 pairs of runs" in lines[7] and "3 pairs are too few" in lines[7]


def test_words_where_nothing_can_be_told():
    lines = words(make_runs(skills=(("A", 0.55), ("B", 0.55), ("C", 0.55)), images=40))
    assert any("cannot be told from the next best" in line for line in lines)
    assert not any("Better in" in line or "costs overall" in line for line in lines)


def test_words_where_the_baseline_wins_and_where_it_is_alone():
    lines = words(make_runs(skills=(("A", 0.9), ("B", 0.3)), images=300))
    assert "is that of A, the baseline itself" in lines[0] and "A is ahead of" in lines[1]
    alone = words(make_runs(skills=(("A", 0.9),)))
    assert alone == ["v: only A was run, so there is nothing to compare."]


def test_words_of_the_price():
    # B finds the rare classes and pays for it with the large one
    runs = make_runs(skills=(("A", 0.5), ("B", 0.5)), images=800)
    truth = runs["truth"]
    runs["predicted"] = np.where(
        runs["experiment"] == "A", np.where(truth.isin(["a", "b"]), truth, "a"),
        np.where(truth == "a", np.where(np.arange(len(runs)) % 3 > 0, "d", "a"), truth))
    lines = words(runs, metric="minority_f1")
    assert any(line.startswith("The price in overall accuracy: B (−") for line in lines)
    assert not any("accuracy:" in line or "costs" in line
                   for line in words(runs, metric="overall_accuracy"))


def test_words_of_one_run_each_and_of_several_variables():
    both = pd.concat([make_runs(seeds=[0]), make_runs("w", seeds=[0])])
    lines = words(both)
    assert sum(line.startswith("Each was run once") for line in lines) == 2
    assert any(line.startswith("w: the highest") for line in lines)
    assert lines[-1].startswith("Over 2 pairs of runs")


def test_words_without_numbers_or_predictions():
    predictions = make_runs()
    results = scored(predictions).assign(minority_f1=math.nan)
    lines = st.plain_comparison(results, predictions, CLASSES, {}, baseline="A", quiet=True,
                                metric="minority_f1")
    assert lines == ["v: no run of A has a minority F1, so nothing can be compared."]
    with pytest.raises(ValueError, match="no row of variable 'v', experiment 'B', seed 1"):
        st.plain_comparison(scored(predictions), predictions[:-40], CLASSES, baseline="A",
                            quiet=True)
    with pytest.raises(ValueError, match="no experiment 'Q'"):
        words(predictions, baseline="Q")


# Figures

def many(number):
    rng = np.random.default_rng(number)
    return pd.DataFrame([
        {"variable": "v", "experiment": f"a long name of an experiment {name}", "seed": seed,
         "overall_accuracy": 0.6 + 0.01 * rng.random(), "minority_f1": 0.3 + 0.01 * rng.random()}
        for name in range(number) for seed in range(2)])


@pytest.mark.parametrize("number", [1, 2, 8, 30, 45])
@pytest.mark.parametrize("given_ax", [False, True])
def test_names_do_not_overlap_and_stay_on_the_page(number, given_ax):
    ax = plt.subplots(figsize=(7, 5))[1] if given_ax else None
    ax = st.plot_accuracy_against_minority(many(number), ax=ax)
    shown = [text for text in ax.texts if isinstance(text, Annotation)]
    assert len(shown) == number
    ax.figure.canvas.draw()
    extents = [Text.get_window_extent(text) for text in shown]  # the words, not their lines
    order = sorted(extents, key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 0.5 for low, high in zip(order, order[1:], strict=False))
    assert order[0].y0 > 0 and order[-1].y1 < ax.figure.bbox.height


def test_accuracy_figure_shows_means_deviations_and_asks_for_a_variable():
    ax = st.plot_accuracy_against_minority(some_results())
    points = [bars.lines[0].get_xydata()[0] for bars in ax.containers]
    np.testing.assert_allclose(points, [[80, 15], [75, 35]])
    single = st.plot_accuracy_against_minority(some_results()[::2])
    assert not any(bars.has_xerr or bars.has_yerr for bars in single.containers)
    two = pd.concat([some_results(), some_results(variable="w")])
    with pytest.raises(ValueError, match="name one of the variables: 'v', 'w'"):
        st.plot_accuracy_against_minority(two)
    with pytest.raises(ValueError, match="no variable 'q' of the variables"):
        st.plot_accuracy_against_minority(two, variable="q")
    with pytest.raises(ValueError, match="has both scores"):
        st.plot_accuracy_against_minority(some_results(minority_f1=math.nan))


def test_per_class_figure_shows_the_chosen_experiments():
    predictions = make_runs(skills=(("A", 0.5), ("B", 0.7), ("C", 0.2)))
    train = {"v": {"a": 5, "b": 9, "c": 2, "d": 1}}
    ax = st.plot_gain_per_class(predictions, CLASSES, ["C", "A"], minority=MINORITY,
                                train_counts=train)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["C", "A"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [
        "b (9)", "a (5)", "c ● (2)", "d ● (1)"]
    assert ax.get_title().startswith("v: ")
    with pytest.raises(ValueError, match="no experiment 'Q' of variable 'v'; there are: 'A'"):
        st.plot_gain_per_class(predictions, CLASSES, ["Q"])
    for wrong in ([], "A", list("ABCDEFGHI")):
        with pytest.raises(ValueError, match="one to eight"):
            st.plot_gain_per_class(predictions, CLASSES, wrong)


@pytest.mark.parametrize("measure", ["BD", "IR"])
def test_gain_figure_shows_the_gains(measure):
    two = pd.concat([some_results(), some_results(variable="w", minority_f1=[0.1, 0.3, 0.6, 0.4])])
    counts = {"v": {"a": 90, "b": 10}, "w": {"x": 60, "y": 40}}
    ax = st.plot_gain_against_imbalance(two, counts, "A", measure=measure)
    points = ax.containers[0].lines[0].get_xydata()
    np.testing.assert_allclose(points[:, 1], [30, 20])  # w is the more balanced one
    expected = [1.5, 9] if measure == "IR" else [0.2, 0.8]
    np.testing.assert_allclose(points[:, 0], expected, rtol=0.02)
    assert {text.get_text() for text in ax.texts} == {"v", "w"}


def test_gain_figure_of_many_shows_the_eight_largest_and_refuses_nonsense():
    base = some_results()[:2]
    crowd = pd.concat([base] + [
        base.assign(experiment=f"e{number}", minority_f1=0.1 + 0.02 * number)
        for number in range(12)])
    counts = {"v": {"a": 9, "b": 1}}
    ax = st.plot_gain_against_imbalance(crowd, counts, "A")
    assert [bars.get_label() for bars in ax.containers] == [f"e{n}" for n in range(4, 12)]
    assert "the 8 largest of 12" in ax.get_title()
    ask = st.plot_gain_against_imbalance
    for more, message in (
        ({"measure": "ID"}, "one of BD, IR"), ({"experiments": ["A"]}, "no experiment 'A' beside"),
        ({"experiments": []}, "one to eight"), ({"baseline": "Q"}, "no experiment 'Q'"),
        ({"counts": {}}, "no variable 'v'"),
    ):
        with pytest.raises(ValueError, match=message):
            ask(**{"results": crowd, "counts": counts, "baseline": "A"} | more)
    with pytest.raises(ValueError, match="no gain in minority_f1 over 'A' is known"):
        ask(base, counts, "A")
