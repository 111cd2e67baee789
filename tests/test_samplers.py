"The law of the batch samplers, their promises per batch and per cycle, states and faults."

import io
from collections import Counter
from itertools import islice

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.utils.data import DataLoader, TensorDataset

from silk_nb import samplers
from silk_nb.imbalance import SILK_COUNTS
from silk_nb.samplers import (
    ClassBalancedBatchSampler,
    RandomBatchSampler,
    batch_shares,
    largest_balanced_batch,
    plot_batches,
)

SAMPLERS = [
    RandomBatchSampler,
    ClassBalancedBatchSampler,
    lambda *args, **kw: ClassBalancedBatchSampler(*args, independent=True, **kw),
    lambda *args, **kw: ClassBalancedBatchSampler(*args, allow_imbalanced=True, **kw),
]
NAMES = ["random", "balanced", "independent", "allow_imbalanced"]
every_sampler = pytest.mark.parametrize("make", SAMPLERS, ids=NAMES)
SIZES = [90, 40, 17, 8, 5]  # N = 160, K = 5, N_min · K = 25


def labels_of(sizes, seed=0):
    "Integer labels 0..K-1, class c `sizes[c]` times, in shuffled order."
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))


def training_labels(variable):
    classes, sizes = zip(*SILK_COUNTS[variable].items(), strict=True)
    return np.repeat(classes, [round(0.6 * n) for n in sizes])


def stream(sampler, batches):
    "The next `batches` batches, over as many whole epochs as that takes."
    taken = []
    while len(taken) < batches:
        taken += list(sampler)
    return taken[:batches]


def positions(batches, labels):
    "Batches × B class labels."
    return labels[np.array(batches)]


# the law


@pytest.mark.parametrize("batch_size", [25, 24, 23, 12, 5, 3], ids=lambda b: f"B={b}")
def test_dealt_draws_are_uniform_at_every_position(batch_size):
    # dealt draws of one batch depend on each other, those of different batches do not
    labels = labels_of(SIZES)
    drawn = positions(stream(ClassBalancedBatchSampler(labels, batch_size, seed=1), 4000), labels)
    for column in {0, batch_size // 2, batch_size - 1}:
        assert chisquare(np.bincount(drawn[:, column], minlength=5)).pvalue > 1e-3
    # and whichever classes get one more than the others, each gets it as often
    extra = Counter(np.concatenate([np.flatnonzero(np.bincount(row, minlength=5) >
                                                   batch_size // 5) for row in drawn]).tolist())
    if batch_size % 5:
        assert chisquare([extra[c] for c in range(5)]).pvalue > 1e-3
    else:
        assert not extra


@pytest.mark.parametrize("variable", ["time", "technique", "place", "material"])
@pytest.mark.parametrize("batch_size", [180, None], ids=["180", "limit"])
def test_dealt_batches_of_the_paper_are_balanced(variable, batch_size):
    labels = training_labels(variable)
    size = batch_size or largest_balanced_batch(labels)
    sampler = ClassBalancedBatchSampler(labels, size)
    counts = (batch_shares(islice(sampler, 50), labels) * size).round().to_numpy()
    assert counts.min() >= size // counts.shape[1]
    assert counts.max() <= -(-size // counts.shape[1])


def test_independent_draws_are_independent_and_uniform():
    labels = labels_of([90, 80, 70, 60])
    drawn = positions(stream(ClassBalancedBatchSampler(labels, 20, seed=2, independent=True), 3000),
                      labels)
    assert chisquare(np.bincount(drawn.ravel())).pvalue > 1e-3
    pairs = drawn[:, :-1:2] * 4 + drawn[:, 1::2]
    assert chisquare(np.bincount(pairs.ravel(), minlength=16)).pvalue > 1e-3
    spread = np.array([np.bincount(row, minlength=4) for row in drawn]).var(0)
    assert spread == pytest.approx(20 * 0.25 * 0.75, rel=0.1)  # binomial; dealt has none


def test_independent_draws_starve_the_rarest_class_at_the_limit():
    labels = labels_of([900, 900, 900, 26], seed=3)
    rarest = [batch_shares(stream(ClassBalancedBatchSampler(
        labels, 104, seed=4, independent=independent), 600), labels)[3].mean()
        for independent in (True, False)]
    # E min(X, 26) / 104 for X ~ Bin(104, 1/4), which no sampler with 26 images can exceed
    x = np.random.default_rng(0).binomial(104, 0.25, 200_000)
    assert rarest[0] == pytest.approx(np.minimum(x, 26).mean() / 104, rel=0.02)
    assert rarest[1] == pytest.approx(0.25, abs=1e-9)


def test_random_batches_follow_the_data_and_fail_the_uniform_law():
    labels = labels_of(SIZES)
    drawn = positions(stream(RandomBatchSampler(labels, 16, seed=5), 4000), labels)[:, 7]
    counts = np.bincount(drawn, minlength=5)
    assert chisquare(counts, np.array(SIZES) * counts.sum() / 160).pvalue > 1e-3
    assert chisquare(counts).pvalue < 1e-12


def test_images_of_a_class_are_equally_likely():
    labels = labels_of(SIZES)
    used = np.bincount(np.concatenate(stream(ClassBalancedBatchSampler(labels, 25), 1801)),
                       minlength=160)
    for c, size in enumerate(SIZES):  # cycles: no two images of a class differ by more than one
        times = used[labels == c]
        assert times.max() - times.min() <= 1
        assert times.sum() == 1801 * 5 and len(times) == size
    # which image comes first in a batch's share of a class is left to chance
    first = [next(i for i in batch if labels[i] == 4) for seed in range(1500)
             for batch in islice(ClassBalancedBatchSampler(labels, 25, seed=seed), 1)]
    assert chisquare([first.count(i) for i in np.flatnonzero(labels == 4)]).pvalue > 1e-3


# promises per batch, epoch and cycle


@st.composite
def tasks(draw):
    "Sizes per class and a batch size that fits in N."
    sizes = draw(st.lists(st.integers(1, 12), min_size=2, max_size=6))
    return sizes, draw(st.integers(1, sum(sizes))), draw(st.integers(0, 2**31))


@settings(deadline=None, max_examples=150)
@given(tasks(), st.booleans(), st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_every_promise_of_balanced_batches(task, independent, breaks):
    sizes, batch_size, seed = task
    labels = labels_of(sizes, seed)
    sampler = ClassBalancedBatchSampler(labels, batch_size, seed=seed, allow_imbalanced=True,
                                        independent=independent)
    batches = [b for stop in breaks for b in islice(sampler, stop)]  # broken-off epochs too
    for batch in batches:
        assert len(batch) == len(set(batch)) == batch_size
        assert all(type(i) is int for i in batch)
        if not independent:  # water-filling: equal but for one, unless used up
            counts = np.bincount(labels[batch], minlength=len(sizes))
            level = counts.max()
            assert all(n >= level - 1 or n == size
                       for n, size in zip(counts, sizes, strict=True))
    for c, size in enumerate(sizes):  # within a batch only the set is fixed, so cut by batches
        seen = Counter()
        for batch in batches:
            mine = [i for i in batch if labels[i] == c]
            least = min_count(seen, labels, c)
            fresh = [i for i in np.flatnonzero(labels == c) if seen[i] == least]
            again = [i for i in mine if i not in fresh]
            assert not again or set(fresh) <= set(mine)  # none again before all have come
            seen.update(mine)
        assert len(seen) <= size


def min_count(seen, labels, c):
    return min(seen[i] for i in np.flatnonzero(labels == c))


def plainly(labels, sizes, batch_size, seed, epochs):
    "The law of the balanced sampler in so many words: shuffled decks of classes, shuffled queues."
    generator = torch.Generator().manual_seed(seed)
    queues = [(torch.from_numpy(np.flatnonzero(labels == c)), size) for c, size in enumerate(sizes)]

    def take(c, count):
        order, first = queues[c]
        taken, first = order[first:first + count], first + count
        if len(taken) < count:
            shuffled = order[torch.randperm(len(order), generator=generator)]
            again = torch.isin(shuffled, taken)
            order, first = torch.cat([shuffled[~again], shuffled[again]]), count - len(taken)
            taken = torch.cat([taken, order[:first]])
        queues[c] = order, first
        return taken.tolist()

    for _ in range(epochs * (sum(sizes) // batch_size)):
        dealt = []
        while len(dealt) < batch_size:
            deck = np.flatnonzero(np.array(sizes) > (max(Counter(dealt).values()) if dealt else 0))
            dealt += deck[torch.randperm(len(deck), generator=generator).numpy()].tolist()
        dealt = dealt[:batch_size]
        mine = {c: iter(take(c, dealt.count(c))) for c in sorted(set(dealt))}
        yield [next(mine[c]) for c in dealt]


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=6), st.integers(0, 2**63), st.data())
def test_the_compiled_draw_is_the_plain_law(sizes, seed, data):
    sizes = sorted(sizes, reverse=True)
    labels = labels_of(sizes, 0)
    batch_size = data.draw(st.integers(1, sum(sizes)))
    sampler = ClassBalancedBatchSampler(labels, batch_size, seed=seed, allow_imbalanced=True)
    assert [b for _ in range(3) for b in sampler] == list(
        plainly(labels, sizes, batch_size, seed, 3))


@pytest.mark.parametrize("how", [{}, {"independent": True}, {"allow_imbalanced": True}])
def test_parts_of_an_epoch_that_are_drawn_at_once_change_nothing(how, monkeypatch):
    batch_size = 60 if "allow_imbalanced" in how else 25
    whole = stream(ClassBalancedBatchSampler(labels_of(SIZES), batch_size, seed=4, **how), 60)
    monkeypatch.setattr(samplers, "_AT_ONCE", 1)  # a batch
    parts = stream(ClassBalancedBatchSampler(labels_of(SIZES), batch_size, seed=4, **how), 60)
    assert whole == parts


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=5), st.integers(0, 2**31), st.data())
def test_independent_draws_use_no_image_twice_and_none_before_all(sizes, seed, data):
    labels = labels_of(sizes, seed)
    batch_size = data.draw(st.integers(1, min(sizes) * len(sizes)))
    sampler = ClassBalancedBatchSampler(labels, batch_size, seed=seed, independent=True)
    used = np.zeros(len(labels), int)
    for batch in stream(sampler, 20):
        assert len(set(batch)) == batch_size
        used[batch] += 1
        for c in range(len(sizes)):
            assert np.ptp(used[labels == c]) <= 1


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=6), st.integers(0, 2**31), st.data())
def test_within_eq_5_every_class_has_its_share(sizes, seed, data):
    labels, classes = labels_of(sizes, seed), len(sizes)
    largest = largest_balanced_batch(labels)
    assert largest == min(sizes) * classes
    batch_size = data.draw(st.integers(max(1, largest - classes), largest))
    for batch in stream(ClassBalancedBatchSampler(labels, batch_size, seed=seed), 12):
        counts = np.bincount(labels[batch], minlength=classes)
        assert counts.min() >= batch_size // classes
        assert counts.max() <= -(-batch_size // classes)


@settings(deadline=None, max_examples=100)
@given(tasks())
def test_random_epochs_use_no_image_twice(task):
    sizes, batch_size, seed = task
    sampler = RandomBatchSampler(labels_of(sizes), batch_size, seed=seed)
    for _ in range(3):
        epoch = list(sampler)
        flat = [i for batch in epoch for i in batch]
        assert len(epoch) == len(sampler) == sum(sizes) // batch_size
        assert len(flat) == len(set(flat)) == len(epoch) * batch_size
        assert set(flat) <= set(range(sum(sizes)))


def test_random_epochs_leave_out_different_images():
    sampler = RandomBatchSampler(labels_of([5, 5]), 4, seed=0)
    left_out = {frozenset(range(10)) - {i for b in sampler for i in b} for _ in range(30)}
    assert len(left_out) > 5 and all(len(s) == 2 for s in left_out)


@every_sampler
@pytest.mark.parametrize(("batch_size", "batches"), [(1, 160), (20, 8), (25, 6), (23, 6)])
def test_an_epoch_is_n_over_b_batches(make, batch_size, batches):
    sampler = make(labels_of(SIZES), batch_size)
    assert len(sampler) == batches
    assert [len(list(sampler)) for _ in range(3)] == [batches] * 3


def test_the_whole_data_set_as_one_batch():
    labels = labels_of(SIZES)
    for sampler in (RandomBatchSampler(labels, 160),
                    ClassBalancedBatchSampler(labels, 160, allow_imbalanced=True)):
        for _ in range(3):
            (batch,) = sampler
            assert sorted(batch) == list(range(160))


# seeds and states


@every_sampler
def test_seeds(make):
    labels = labels_of(SIZES)
    one, same, other = (make(labels, 20, seed=s) for s in (7, 7, 8))
    first = list(one)
    torch.manual_seed(0)
    np.random.seed(0)
    assert first == list(same) != list(other)
    before = torch.get_rng_state()
    second = list(one)
    assert second == list(same) != first
    assert torch.equal(before, torch.get_rng_state())


@every_sampler
def test_a_state_taken_anywhere_goes_on_alike(make):
    labels, epochs = labels_of(SIZES), 3
    whole = make(labels, 20, seed=9)
    expected = [list(whole) for _ in range(epochs + 2)]
    running = make(labels, 20, seed=9)
    for epoch in range(epochs):
        for position, batch in enumerate(running):
            assert batch == expected[epoch][position]
            state = round_trip(running.state_dict())
            restored = make(labels, 20, seed=123)
            restored.load_state_dict(state)
            assert same_state(restored.state_dict(), state)
            rest = expected[epoch][position + 1:]
            if rest:
                assert list(restored) == rest
            assert [list(restored), list(restored)] == expected[epoch + 1:epoch + 3]


def round_trip(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def same_state(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[k], other[k]) if isinstance(one[k], torch.Tensor) else one[k] == other[k]
        for k in one)


@every_sampler
def test_states_between_epochs_and_before_the_first(make):
    labels = labels_of(SIZES)
    sampler = make(labels, 20, seed=3)
    states, epochs = [], []
    for _ in range(3):
        states.append(sampler.state_dict())
        epochs.append(list(sampler))
    for i, state in enumerate(states):
        restored = make(labels, 20)
        list(restored)  # whatever it did before does not matter
        restored.load_state_dict(state)
        assert [list(restored) for _ in epochs[i:]] == epochs[i:]


@every_sampler
def test_a_state_is_a_copy(make):
    labels = labels_of(SIZES)
    sampler = make(labels, 20, seed=3)
    list(sampler)  # in the second epoch the queues are in use
    iterator = iter(sampler)
    next(iterator)
    state = sampler.state_dict()
    kept = round_trip(state)
    rest = [*iterator, *sampler]
    assert same_state(state, kept)
    restored = make(labels, 20)
    restored.load_state_dict(state)
    for value in state.values():
        if isinstance(value, torch.Tensor):
            value.zero_()
    assert same_state(restored.state_dict(), kept)
    assert [*restored, *restored] == rest


@every_sampler
def test_drawing_ahead_does_not_move_the_state(make):
    labels = labels_of(SIZES)
    sampler = make(labels, 20, seed=4)
    epoch, state = list(sampler), sampler.state_dict(batches_done=3)
    restored = make(labels, 20)
    restored.load_state_dict(state)
    assert list(restored) == epoch[3:]
    assert list(restored) == list(sampler)
    for bad in (9, -1, 2.0):
        with pytest.raises(ValueError, match="batches_done"):
            sampler.state_dict(batches_done=bad)


def test_restored_queue_keeps_its_cycle():
    labels = labels_of(SIZES)
    sampler = ClassBalancedBatchSampler(labels, 23, seed=5)
    seen = list(islice(sampler, 4))
    restored = ClassBalancedBatchSampler(labels, 23)
    restored.load_state_dict(sampler.state_dict())
    used = np.bincount(np.concatenate(seen + stream(restored, 40)), minlength=160)
    for c in range(5):
        assert np.ptp(used[labels == c]) <= 1


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (lambda x: ClassBalancedBatchSampler(x, 21), "another batch size: 21"),
        (lambda x: ClassBalancedBatchSampler(x[::-1], 20), "another label vector"),
        (lambda x: ClassBalancedBatchSampler(x, 20, independent=True), "another kind of sampler"),
        (lambda x: RandomBatchSampler(x, 20), "no state of a balanced sampler"),
    ],
)
def test_a_state_of_another_sampler_is_refused_and_changes_nothing(other, says):
    labels = labels_of(SIZES)
    sampler, twin = (ClassBalancedBatchSampler(labels, 20, seed=1) for _ in range(2))
    next(iter(sampler)), next(iter(twin))
    with pytest.raises(ValueError, match=says):
        sampler.load_state_dict(other(labels).state_dict())
    assert same_state(sampler.state_dict(), twin.state_dict())
    assert list(sampler) == list(twin)


@pytest.mark.parametrize("change", [
    {"next": torch.zeros(3, dtype=torch.int64)}, {"order": [1, 2]}, {"batches_done": 9},
    {"next": torch.full((5,), 99)}, {"next": torch.full((5,), -1)},
    {"order": torch.zeros(160).long()}, {"order": torch.arange(160)},
    {"order": torch.full((160,), 10**9)}, {"next": torch.zeros(5)}, {"order": torch.zeros(160)},
    {"generator": torch.full((625,), 2**40)}, {"generator": torch.full((625,), 625)},
    {"batches_done": -1}, {"epoch": "1"}, {"epoch": -1}, {"more": 1}, None])
def test_a_damaged_state_is_refused(change):
    sampler = ClassBalancedBatchSampler(labels_of(SIZES), 20)
    state = [] if change is None else {**sampler.state_dict(), **change}
    with pytest.raises(ValueError, match="damaged|no state"):
        sampler.load_state_dict(state)


def test_an_overtaken_iteration_says_so():
    sampler = RandomBatchSampler(labels_of(SIZES), 20)
    old = iter(sampler)
    next(old)
    list(sampler)
    with pytest.raises(RuntimeError, match="newer one"):
        next(old)
    old = iter(sampler)
    next(old)
    sampler.load_state_dict(sampler.state_dict())
    with pytest.raises(RuntimeError, match="loaded"):
        next(old)


# labels, faults, limits


def test_kinds_of_labels_give_the_same_batches():
    codes = labels_of(SIZES)
    names = np.array(["a", "b", "c", "d", "e"])[codes]
    kinds = [codes, codes.tolist(), torch.tensor(codes), codes.astype(float), names, list(names),
             pd.Series(names, index=range(160, 0, -1)), pd.Series(names, dtype="category"),
             pd.Categorical(names, categories=["unused", *"edcba"])]
    expected = list(ClassBalancedBatchSampler(codes, 25, seed=1))
    for labels in kinds:
        assert list(ClassBalancedBatchSampler(labels, 25, seed=1)) == expected
        assert largest_balanced_batch(labels) == 25


@pytest.mark.parametrize(
    ("variable", "largest"), [("time", 26 * 7), ("technique", 39 * 9), ("place", 25 * 29)])
def test_eq_5_for_table_1(variable, largest):
    labels = training_labels(variable)
    assert largest_balanced_batch(labels) == largest >= 180
    ClassBalancedBatchSampler(labels, largest)
    with pytest.raises(ValueError, match=f"largest balanced batch is {largest}"):
        ClassBalancedBatchSampler(labels, largest + 1)


@pytest.mark.parametrize("independent", [False, True])
def test_too_large_a_batch_names_class_count_size_and_way_on(independent):
    with pytest.raises(ValueError) as error:
        ClassBalancedBatchSampler(training_labels("time"), 256, independent=independent)
    for part in ("batch_size 256", "Eq. 5", "'13th c.'", "26 training images", "7 classes", "182",
                 "allow_imbalanced=True"):
        assert part in str(error.value)
    ClassBalancedBatchSampler(training_labels("time"), 256, allow_imbalanced=True,
                              independent=independent)


@pytest.mark.parametrize("names", [list("vwxyz"), dict(enumerate("vwxyz"))])
def test_too_large_a_batch_uses_class_names(names):
    labels = labels_of(SIZES)
    with pytest.raises(ValueError, match="'z', has 5 training images"):
        ClassBalancedBatchSampler(labels, 26, class_names=names)
    with pytest.raises(ValueError, match="class, 4, has 5 training images"):
        ClassBalancedBatchSampler(labels, 26)


@pytest.mark.parametrize("names", [["v", "w"], {0: "v"}])
def test_too_few_class_names(names):
    with pytest.raises(ValueError, match="class_names has no name for the label"):
        ClassBalancedBatchSampler(labels_of(SIZES), 20, class_names=names)


@every_sampler
@pytest.mark.parametrize(
    ("labels", "batch_size", "says"),
    [
        ([], 1, "no labels"),
        (["a", None, "b"], 1, r"label 1 is missing \(1 of 3 are\)"),
        ([0.0, float("nan"), float("nan")], 1, r"label 1 is missing \(2 of 3 are\)"),
        (pd.Series(pd.Categorical(["a", "b", None])), 1, "label 2 is missing"),
        ([0, 1], 3, "batch_size 3 is more than the 2 images"),
        ([0, 1], 0, "at least 1, not 0"),
        ([0, 1], -2, "at least 1, not -2"),
        ([0, 1], 2.0, "whole number, not 2.0"),
        ([0, 1], "2", "whole number, not '2'"),
        ([0, 1], True, "whole number, not True"),
        ([0, 1], None, "whole number, not None"),
        (np.zeros((2, 2)), 1, "one dimension"),
        ("velvet", 1, "sequence"),
    ],
)
def test_bad_arguments(make, labels, batch_size, says):
    with pytest.raises(ValueError, match=says):
        make(labels, batch_size)


@every_sampler
def test_bad_seed(make):
    for seed in (2**70, 2**64, -2**63 - 1):
        with pytest.raises(ValueError, match=r"seed must lie between -2\*\*63 and 2\*\*64"):
            RandomBatchSampler([0, 1], 2, seed=seed)
    for seed in (2**64 - 1, -2**63):
        assert len(list(RandomBatchSampler([0, 1], 2, seed=seed))) == 1
    with pytest.raises(ValueError, match="seed must be a whole number"):
        make([0, 1], 1, seed=1.5)


def test_one_class_cannot_be_balanced_but_can_be_sampled():
    for refuse in (lambda: ClassBalancedBatchSampler(["a"] * 4, 2),
                   lambda: ClassBalancedBatchSampler(["a"] * 4, 2, allow_imbalanced=True),
                   lambda: largest_balanced_batch(["a"] * 4)):
        with pytest.raises(ValueError, match=r"one class only \('a'\)"):
            refuse()
    assert len(list(RandomBatchSampler(["a"] * 4, 2))) == 2


def test_numpy_and_torch_batch_sizes():
    for size in (np.int64(20), torch.tensor(20)):
        assert len(ClassBalancedBatchSampler(labels_of(SIZES), size)) == 8


# with others


@every_sampler
@pytest.mark.parametrize("workers", [0, 1])
def test_data_loader(make, workers):
    labels = labels_of(SIZES)
    loader = DataLoader(TensorDataset(torch.arange(160)), num_workers=workers,
                        batch_sampler=make(labels, 20, seed=6))
    twin = make(labels, 20, seed=6)
    assert len(loader) == 8
    for _ in range(2):
        assert [x.tolist() for (x,) in loader] == list(twin)


def test_data_loader_with_workers_resumes_by_batches_used():
    labels = labels_of(SIZES)
    sampler = ClassBalancedBatchSampler(labels, 20, seed=6)
    expected = list(ClassBalancedBatchSampler(labels, 20, seed=6))
    loader = DataLoader(TensorDataset(torch.arange(160)), batch_sampler=sampler, num_workers=1)
    for used, (x,) in enumerate(loader, start=1):
        assert x.tolist() == expected[used - 1]
        if used == 3:
            state = sampler.state_dict(batches_done=used)
            assert sampler.state_dict()["batches_done"] > used  # the loader is ahead
            break
    restored = ClassBalancedBatchSampler(labels, 20)
    restored.load_state_dict(state)
    assert list(restored) == expected[3:]


def test_batch_shares_and_figure():
    labels = ["x"] * 6 + ["y"] * 2
    shares = batch_shares([[0, 1, 2, 6], [6, 7, 3, 4]], labels)
    assert shares.columns.tolist() == ["x", "y"]
    assert shares.to_numpy().tolist() == [[0.75, 0.25], [0.5, 0.5]]
    with pytest.raises(ValueError, match="no batches"):
        batch_shares([], labels)
    ax = plot_batches({"mine": [[0, 1, 2, 6], [6, 7, 3, 4]]}, labels)
    assert ax.lines[0].get_ydata().tolist() == [62.5, 37.5]
    assert ax.lines[1].get_ydata()[0] == 50
    assert [t.get_text() for t in ax.get_xticklabels()] == ["x", "y"]
    own = plt.subplots()[1]
    named = plot_batches({"mine": [[0, 1]]}, [0, 1], class_names=["u", "v"], ax=own)
    assert named is own and [t.get_text() for t in own.get_xticklabels()] == ["u", "v"]
    plt.close("all")
