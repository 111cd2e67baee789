"""The classification losses against numpy in float64, torch's functions, and bad input."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from silk_nb.classification import (
    CLASSIFICATION_LOSSES,
    COSINE_LOSSES,
    BalancedSoftmaxLoss,
    ClassificationLoss,
    FocalLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    WeightedCrossEntropy,
    adjust_logits,
    effective_number_weights,
    inverse_frequency_weights,
)
from silk_nb.losses import TotalLoss

COUNTS = torch.tensor([900.0, 200.0, 45.0, 7.0, 1.0])
LONG = torch.tensor([6861.0, 3051.0, 355.0, 65.0, 0.0])
NAMES = list(CLASSIFICATION_LOSSES)
BEFORE_AND_AFTER = (0, 1000)  # an epoch before LDAM-DRW weighs, one in which it does


def batch(n, classes, seed, spread=1.0, cosine=False):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=generator, dtype=torch.float64) * spread
    logits = 30 * logits.tanh() if cosine else logits
    return logits, torch.randint(0, classes, (n,), generator=generator)


def filled(counts):
    counts = np.asarray(counts, dtype=np.float64)
    return np.where(counts > 0, counts, counts[counts > 0].min())


def cb_weights(counts, beta=0.9999):
    n = filled(counts)
    w = (1 - beta) / (1 - beta**n)
    return w / w[np.asarray(counts) > 0].mean()


def cw_weights(counts):
    w = 1 / filled(counts)
    return w / w[np.asarray(counts) > 0].mean()


def slow(name, logits, labels, counts, epoch):
    """Each loss image by image, as the page's table writes it, in numpy."""
    n = filled(counts)
    weights = np.ones(len(n))
    if name in {"CW", "EN"} or (name == "LDAM-DRW" and epoch >= 160):
        weights = cw_weights(counts) if name == "CW" else cb_weights(counts)
    total, mass = 0.0, 0.0
    for z, y in zip(logits.numpy().copy(), labels.tolist(), strict=True):
        if name in {"BS", "LA"}:
            z = z + np.log(n / n.sum())
        if name in COSINE_LOSSES:
            z[y] -= 30 * 0.5 * n[y] ** -0.25 / n.min() ** -0.25
        p = np.exp(z - z.max())
        p = p[y] / p.sum()
        modulation = (1 - p) ** 2 if name == "focal" else 1.0
        total, mass = total - weights[y] * modulation * np.log(p), mass + weights[y]
    return total / mass


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("counts", [COUNTS, LONG], ids=["all present", "one absent"])
def test_equals_numpy_image_by_image(name, counts):
    for seed, epoch in zip(range(6), BEFORE_AND_AFTER * 3, strict=True):
        logits, labels = batch(17, 5, seed, cosine=name in COSINE_LOSSES)
        loss = CLASSIFICATION_LOSSES[name](counts)
        loss.set_epoch(epoch)
        expected = slow(name, logits, labels, counts, epoch)
        assert loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)
        assert loss(logits.float(), labels).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name):
    logits, labels = batch(6, 5, 1)
    loss = CLASSIFICATION_LOSSES[name](LONG)
    loss.set_epoch(1000)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), logits.requires_grad_())


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 12), classes=st.integers(2, 7), seed=st.integers(0, 10**6),
       name=st.sampled_from(NAMES), shift=st.floats(-50, 50), absent=st.integers(0, 3))
def test_shift_of_logits_and_names_of_classes_do_not_matter(n, classes, seed, name, shift, absent):
    logits, labels = batch(n, classes, seed, 3.0)
    counts = torch.randint(1, 500, (classes,), generator=torch.Generator().manual_seed(seed))
    counts[:min(absent, classes - 1)] = 0
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    loss, renamed = (CLASSIFICATION_LOSSES[name](c) for c in (counts, counts[order]))
    for epoch in BEFORE_AND_AFTER:
        loss.set_epoch(epoch), renamed.set_epoch(epoch)
        value = loss(logits, labels)
        assert value.isfinite()
        torch.testing.assert_close(loss(logits + shift, labels), value, rtol=1e-6, atol=1e-9)
        swapped = renamed(logits[:, order], order.argsort()[labels])
        torch.testing.assert_close(swapped, value, rtol=1e-6, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e7)), min_size=2, max_size=20)
       .filter(any), beta=st.sampled_from([0.0, 0.5, 0.999, 0.9999]))
def test_weights_are_finite_have_mean_one_and_favour_the_rare(counts, beta):
    counts = torch.tensor(counts, dtype=torch.float64)
    for weights in (inverse_frequency_weights(counts), effective_number_weights(counts, beta)):
        assert weights.dtype == torch.float32 and weights.isfinite().all() and (weights >= 0).all()
        assert weights[counts > 0].double().mean().item() == pytest.approx(1, rel=1e-5)
        ordered = weights[counts > 0][counts[counts > 0].argsort()]
        assert (ordered.diff() <= 1e-6 * ordered[:-1]).all()
        assert (weights[counts == 0] == weights.max()).all()


def test_weights_equal_their_formulas_and_their_limits():
    for counts in (COUNTS, LONG):
        np.testing.assert_allclose(inverse_frequency_weights(counts), cw_weights(counts), rtol=1e-6)
        np.testing.assert_allclose(effective_number_weights(counts, 0.99), cb_weights(counts, 0.99),
                                   rtol=1e-6)
        assert (effective_number_weights(counts, 0) == 1).all()
        torch.testing.assert_close(effective_number_weights(counts, 1 - 1e-12),
                                   inverse_frequency_weights(counts), rtol=1e-4, atol=0)
    torch.testing.assert_close(inverse_frequency_weights(COUNTS / 7),
                               inverse_frequency_weights(COUNTS))


@pytest.mark.parametrize("seed", range(5))
def test_weighted_cross_entropy_has_torchs_reduction(seed):
    logits, labels = batch(23, 5, seed)
    weights = inverse_frequency_weights(COUNTS)
    theirs = F.cross_entropy(logits, labels, weight=weights.double())
    torch.testing.assert_close(WeightedCrossEntropy(weights)(logits, labels), theirs)
    plain = F.cross_entropy(logits.float(), labels)
    assert WeightedCrossEntropy(torch.ones(5))(logits.float(), labels).item() == pytest.approx(
        plain.item(), rel=1e-6)
    one_class = torch.full((23,), 4)  # weights cancel
    torch.testing.assert_close(WeightedCrossEntropy(weights)(logits, one_class),
                               F.cross_entropy(logits, one_class))


def test_weights_of_zero_leave_images_out():
    logits, labels = batch(20, 3, 0)
    loss = WeightedCrossEntropy(torch.tensor([1.0, 2.0, 0.0]))
    kept = labels < 2
    torch.testing.assert_close(loss(logits, labels), loss(logits[kept], labels[kept]))
    nothing = logits.requires_grad_()
    value = loss(nothing, torch.full((20,), 2))
    value.backward()
    assert value.item() == 0 and (nothing.grad == 0).all()


def test_focal_loss_is_cross_entropy_at_gamma_zero_and_below_it_otherwise():
    logits, labels = batch(40, 6, 3)
    torch.testing.assert_close(FocalLoss(0)(logits, labels), F.cross_entropy(logits, labels))
    values = [FocalLoss(gamma)(logits, labels).item() for gamma in (0, 0.5, 1, 2, 5)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
def test_focal_loss_has_finite_gradients_at_certainty(gamma):
    logits = torch.tensor([[1e4, 0.0], [0.0, 1e4], [100.0, 0.0]], requires_grad=True)
    value = FocalLoss(gamma)(logits, torch.tensor([0, 0, 0]))
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()


def test_ldam_equals_the_authors_formula_and_weighs_from_its_epoch_on():
    cosines = torch.rand(30, 5, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    labels = torch.arange(30) % 5
    margins = (1 / COUNTS.double() ** 0.25)
    margins = margins * 0.4 / margins.max()
    shifted = torch.where(F.one_hot(labels, 5).bool(), cosines - margins[labels, None], cosines)
    weights = effective_number_weights(COUNTS)
    for defer, epoch, weigh in ((None, 0, False), (3, 2, False), (3, 3, True), (3, 9, True),
                                (0, 0, True)):
        loss = LDAMLoss(COUNTS, 0.4, 20.0, defer_until=defer)
        loss.set_epoch(epoch)
        theirs = F.cross_entropy(20 * shifted, labels, weight=weights.double() if weigh else None)
        assert loss(20 * cosines, labels).item() == pytest.approx(theirs.item(), rel=1e-6)
    always = LDAMLoss(COUNTS, weights=weights)
    own = LDAMLoss(COUNTS, weights=weights, defer_until=1)
    plain = LDAMLoss(COUNTS)
    assert own(20 * cosines, labels) == plain(20 * cosines, labels)
    own.set_epoch(1)
    assert own(20 * cosines, labels) == always(20 * cosines, labels) != plain(20 * cosines, labels)


def test_without_margin_ldam_is_cross_entropy_and_equal_counts_give_equal_margins():
    logits, labels = batch(20, 5, 0)
    torch.testing.assert_close(LDAMLoss(COUNTS, 0)(logits, labels), F.cross_entropy(logits, labels))
    assert (LDAMLoss(torch.full((4,), 12.5)).margins == 0.5).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 9), tau=st.floats(0, 3))
def test_logit_adjustment(seed, classes, tau):
    logits, labels = batch(15, classes, seed)
    counts = torch.randint(1, 10**5, (classes,), generator=torch.Generator().manual_seed(seed))
    prior = (counts / counts.sum()).double()
    loss = LogitAdjustedLoss(counts, tau)
    by_hand = F.cross_entropy(logits + tau * prior.log(), labels)
    torch.testing.assert_close(loss(logits, labels), by_hand, rtol=1e-5, atol=1e-6)
    # the adjustment after training undoes that in the loss: same classes, same probabilities
    undone = adjust_logits(logits + tau * prior.log(), prior, tau)
    torch.testing.assert_close(undone.softmax(1), logits.softmax(1), rtol=1e-6, atol=1e-9)


def test_balanced_softmax_is_logit_adjustment_with_tau_one():
    logits, labels = batch(30, 5, 2)
    written = COUNTS.double() * logits.exp()
    written = -(written / written.sum(1, keepdim=True)).gather(1, labels[:, None]).log().mean()
    for loss in (BalancedSoftmaxLoss(COUNTS), LogitAdjustedLoss(COUNTS / COUNTS.sum(), 1.0)):
        torch.testing.assert_close(loss(logits, labels), written, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(NAMES) - COSINE_LOSSES - {"focal"}))
def test_with_balanced_batches_nothing_is_corrected(name):
    logits, labels = batch(30, 5, 4)
    loss = CLASSIFICATION_LOSSES[name](torch.full((5,), 36.0))
    torch.testing.assert_close(loss(logits, labels), F.cross_entropy(logits, labels), rtol=1e-6,
                               atol=1e-7)


def test_correcting_balanced_batches_again_is_wrong():
    """Two classes, ±1 by their mean: the best boundary for equal classes is at 0."""
    generator = torch.Generator().manual_seed(0)
    size = torch.tensor([4000.0, 400.0])
    labels = torch.repeat_interleave(torch.arange(2), size.long())
    x = torch.randn(4400, generator=generator, dtype=torch.float64) + 2 * labels - 1
    drawn = torch.multinomial((1 / size)[labels], 4400, replacement=True, generator=generator)

    def boundary(loss, x, labels):
        w = torch.zeros(2, dtype=torch.float64, requires_grad=True)  # slope and intercept
        optimiser = torch.optim.LBFGS([w], max_iter=100, line_search_fn="strong_wolfe")

        def closure():
            optimiser.zero_grad()
            z = w[0] * x + w[1]
            value = loss(torch.stack([-z, z], dim=1), labels)
            value.backward()
            return value

        optimiser.step(closure)
        return -(w[1] / w[0]).item()

    uniform = torch.ones(2)
    assert boundary(LogitAdjustedLoss(uniform), x, labels) > 0.9  # cross entropy: log(10) / 2
    assert abs(boundary(LogitAdjustedLoss(size), x, labels)) < 0.15
    assert abs(boundary(LogitAdjustedLoss(uniform), x[drawn], labels[drawn])) < 0.15
    assert boundary(LogitAdjustedLoss(size), x[drawn], labels[drawn]) < -0.9  # corrected twice


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_full_precision_inside_autocast(name, dtype):
    logits, labels = batch(20, 5, 1, cosine=name in COSINE_LOSSES)
    half = logits.to(dtype)
    loss = CLASSIFICATION_LOSSES[name](COUNTS)
    with torch.autocast("cpu", dtype=dtype):
        inside = loss(half.requires_grad_(), labels)
    inside.backward()
    assert inside.dtype == torch.float32 and half.grad.isfinite().all()
    assert inside.item() == pytest.approx(loss(half.detach().double(), labels).item(), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_empty_batches_and_images_of_absent_classes_are_finite(name):
    loss = CLASSIFICATION_LOSSES[name](LONG)
    empty = torch.zeros(0, 5, requires_grad=True)
    loss(empty, torch.zeros(0, dtype=torch.int64)).backward()
    assert loss(empty, torch.zeros(0, dtype=torch.int64)).item() == 0
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for epoch in BEFORE_AND_AFTER:
        loss.set_epoch(epoch)
        value = loss(logits, torch.full((4,), 4))
        value.backward()
        assert value.isfinite() and logits.grad.isfinite().all()
        assert logits.grad[:, 4].abs().min() > 0 and loss(logits, torch.zeros(4).long()).isfinite()


@pytest.mark.parametrize("name", NAMES)
def test_what_a_builder_returns_is_a_module_that_fits_into_the_total_loss(name):
    counts, logits = COUNTS.clone(), torch.randn(6, 5)
    loss = CLASSIFICATION_LOSSES[name](counts)
    assert isinstance(loss, ClassificationLoss) and loss.wants_cosine == (name in COSINE_LOSSES)
    before = loss(logits, torch.arange(6) % 5)
    counts.zero_()  # a loss keeps its own copy
    assert loss(logits, torch.arange(6) % 5) == before
    whole = TotalLoss(2.0, classification=loss)
    total, parts = whole(logits, torch.ones(6, 2), torch.arange(6) % 5)
    assert parts["classification"] == before and total == 2 * before
    twin = CLASSIFICATION_LOSSES[name](torch.ones(5))
    twin.load_state_dict(loss.state_dict())
    assert twin(logits, torch.arange(6) % 5) == before
    assert not list(loss.parameters())


def test_builders_take_options():
    assert CLASSIFICATION_LOSSES["focal"](COUNTS, gamma=1).gamma == 1
    assert CLASSIFICATION_LOSSES["LDAM-DRW"](COUNTS, defer_until=7, scale=16).defer_until == 7
    assert CLASSIFICATION_LOSSES["LDAM-DRW"](COUNTS).defer_until == 160
    assert (CLASSIFICATION_LOSSES["EN"](COUNTS, beta=0.0).weights == 1).all()
    assert (CLASSIFICATION_LOSSES["LA"](COUNTS, tau=0.0).shift == 0).all()


LOGITS = torch.zeros(3, 5)


@pytest.mark.parametrize(("call", "text"), [
    (lambda: WeightedCrossEntropy([1.0, 2.0]), "weights must be a vector .* list"),
    (lambda: WeightedCrossEntropy(torch.ones(1)), "K ≥ 2"),
    (lambda: WeightedCrossEntropy(torch.tensor([1.0, -1.0])), "from 0 on"),
    (lambda: WeightedCrossEntropy(torch.zeros(2)), "all 0"),
    (lambda: inverse_frequency_weights(torch.ones(2, 2)), "counts must be a vector"),
    (lambda: inverse_frequency_weights(torch.tensor([1.0, float("nan")])), "finite"),
    (lambda: inverse_frequency_weights(torch.ones(2, dtype=torch.complex64)), "real"),
    (lambda: effective_number_weights(COUNTS, 1.0), "beta must be below 1"),
    (lambda: effective_number_weights(COUNTS, -0.1), "beta"),
    (lambda: FocalLoss(float("inf")), "gamma"),
    (lambda: FocalLoss("2"), "gamma"),
    (lambda: LDAMLoss(COUNTS, max_margin=-1), "max_margin"),
    (lambda: LDAMLoss(COUNTS, scale=0), "scale must be a finite number above 0"),
    (lambda: LDAMLoss(COUNTS, weights=torch.ones(4)), "4 weights for 5 classes"),
    (lambda: LDAMLoss(COUNTS, defer_until=1.5), "defer_until"),
    (lambda: LDAMLoss(COUNTS).set_epoch(True), "epoch"),
    (lambda: LogitAdjustedLoss(torch.zeros(3)), "prior are all 0"),
    (lambda: LogitAdjustedLoss(COUNTS, tau=-1), "tau"),
    (lambda: BalancedSoftmaxLoss(torch.tensor([1.0, float("inf")])), "finite"),
    (lambda: adjust_logits(LOGITS, torch.ones(4)), "5 columns for 4 classes"),
    (lambda: adjust_logits(torch.tensor(1.0), torch.ones(4)), "N×K"),
    (lambda: CLASSIFICATION_LOSSES["CE"](torch.zeros(3)), "all 0"),
    (lambda: LDAMLoss(COUNTS)(LOGITS[:, :4], torch.zeros(3).long()), "4 columns for 5"),
    (lambda: FocalLoss()(LOGITS[:, :1], torch.zeros(3).long()), "at least 2"),
    (lambda: FocalLoss()(LOGITS.long(), torch.zeros(3).long()), "floating-point"),
    (lambda: FocalLoss()(LOGITS, torch.zeros(3)), "whole numbers"),
    (lambda: FocalLoss()(LOGITS, torch.zeros(2).long()), "2 labels for 3 rows"),
    (lambda: FocalLoss()(LOGITS, torch.zeros(3, 1).long()), "vector"),
    (lambda: FocalLoss()(LOGITS, torch.tensor([0, 1, 5])), "between 0 and 4, not between 0 and 5"),
    (lambda: FocalLoss()(LOGITS, torch.tensor([0, -100, 1])), "between 0 and 4"),
])
def test_arguments_are_checked(call, text):
    with pytest.raises(ValueError, match=text):
        call()
