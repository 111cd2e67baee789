"""The other clustering losses against loops, the library behind one of them, and bad input."""
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.losses import SupConLoss

from silk_nb.auxiliaries import (
    AUXILIARY_LOSSES,
    CentreLoss,
    ContrastiveCentreLoss,
    SupervisedContrastiveLoss,
)
from silk_nb.losses import unit_length

NAMES = list(AUXILIARY_LOSSES)


def batch(n, dim, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    x = unit_length(torch.randn(n, dim, generator=generator, dtype=torch.float64))
    return x.requires_grad_(), torch.randint(0, classes, (n,), generator=generator)


def slow_centre(x, labels, centres):
    return sum((a - centres[y]).square().sum() for a, y in zip(x, labels, strict=True)) / 2 / len(x)


def slow_contrastive_centre(x, labels, centres, delta):
    total = 0.0
    for a, y in zip(x, labels.tolist(), strict=True):
        others = [(a - c).square().sum() for j, c in enumerate(centres) if j != y]
        total = total + (a - centres[y]).square().sum() / (sum(others) + delta)
    return total / 2 / len(x)


def slow_contrastive(x, labels, temperature):
    """Eq. 2 of Khosla et al. over the anchors that have a positive; 0 without any negative."""
    found = []
    for i in range(len(x)):
        others = [a for a in range(len(x)) if a != i]
        positive = [a for a in others if labels[a] == labels[i]]
        if positive and len(set(labels.tolist())) > 1:
            below = torch.stack([x[i] @ x[a] / temperature for a in others]).logsumexp(0)
            found.append(sum(below - x[i] @ x[p] / temperature for p in positive) / len(positive))
    return sum(found) / len(found) if found else x.sum() * 0


def agree(fast, slow, *leaves):
    """Same value, same gradients."""
    assert abs(fast.item() - slow.item()) <= 1e-9
    ours = torch.autograd.grad(fast, leaves, allow_unused=True)
    theirs = torch.autograd.grad(slow, leaves, allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


SIZES = {"n": st.integers(1, 14), "dim": st.integers(1, 6), "classes": st.integers(1, 6),
         "seed": st.integers(0, 10**6)}


@settings(max_examples=60, deadline=None)
@given(**SIZES)
def test_centre_loss_equals_a_loop(n, dim, classes, seed):
    x, labels = batch(n, dim, classes, seed)
    loss = CentreLoss(classes, dim, seed=seed).double()
    agree(loss(x, labels), slow_centre(x, labels, loss.centres), x, loss.centres)


@settings(max_examples=60, deadline=None)
@given(**SIZES, delta=st.sampled_from([0.5, 1.0, 3.0]))
def test_contrastive_centre_loss_equals_a_loop(n, dim, classes, seed, delta):
    x, labels = batch(n, dim, classes, seed)
    loss = ContrastiveCentreLoss(classes, dim, delta, seed=seed).double()
    agree(loss(x, labels), slow_contrastive_centre(x, labels, loss.centres, delta), x, loss.centres)


@settings(max_examples=60, deadline=None)
@given(**SIZES, temperature=st.sampled_from([0.07, 0.1, 1.0]))
def test_supervised_contrastive_loss_equals_a_loop(n, dim, classes, seed, temperature):
    x, labels = batch(n, dim, classes, seed)
    fast, slow = (SupervisedContrastiveLoss(temperature)(x, labels),
                  slow_contrastive(x, labels, temperature))
    assert abs(fast.item() - slow.item()) <= 1e-7 * max(1.0, slow.item())
    ours, theirs = (torch.autograd.grad(loss, x)[0] for loss in (fast, slow))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_supervised_contrastive_loss_equals_the_library_as_it_comes():
    x, labels = batch(60, 16, 5, 0)
    theirs = SupConLoss(0.2)(x, labels)
    torch.testing.assert_close(SupervisedContrastiveLoss(0.2)(x, labels), theirs)


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name):
    x, labels = batch(8, 3, 3, 5)
    loss = AUXILIARY_LOSSES[name](3, 3, 1).double()
    assert torch.autograd.gradcheck(lambda e, *_: loss(e, labels), (x, *loss.parameters()))


@pytest.mark.parametrize("name", NAMES)
def test_order_of_images_and_names_of_classes_do_not_matter(name):
    x, labels = batch(20, 4, 3, 2)
    loss, renamed = (AUXILIARY_LOSSES[name](3, 4, 0) for _ in range(2))
    order, names = torch.randperm(20, generator=torch.Generator().manual_seed(0)), [2, 0, 1]
    for centres in renamed.parameters():
        centres.data[names] = centres.data.clone()
    value = renamed(x[order], torch.tensor(names)[labels][order])
    torch.testing.assert_close(value, loss(x, labels))


@pytest.mark.parametrize("name", NAMES)
def test_descent_gathers_the_classes(name):
    labels = torch.tensor([0] * 12 + [1] * 8 + [2] * 3)
    z = torch.randn(23, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss = AUXILIARY_LOSSES[name](3, 8, 0)
    optimiser = torch.optim.Adam([z, *loss.parameters()], lr=0.05)
    for _ in range(200):
        value = loss(unit_length(z), labels)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    distances = torch.cdist(unit_length(z), unit_length(z)).detach()
    same = labels[:, None] == labels
    assert distances[same].max() < distances[~same].min()
    assert distances[same].mean() < 0.3 * distances[~same].mean()


DEGENERATE = {
    "empty": (torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)),
    "one": (torch.ones(1, 4), torch.zeros(1, dtype=torch.long)),
    "one class": (torch.randn(6, 4), torch.zeros(6, dtype=torch.long)),
    "all single": (torch.randn(6, 4), torch.arange(6)),
    "identical": (torch.ones(6, 4), torch.arange(6) % 2),
    "zero vectors": (torch.zeros(6, 4), torch.arange(6) % 2),
    "one zero": (torch.eye(6, 4), torch.arange(6) % 2),
}


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_degenerate_batches_are_finite(name, case, dtype):
    x, labels = DEGENERATE[case]
    x = x.to(dtype, copy=True).detach().requires_grad_()
    loss = AUXILIARY_LOSSES[name](6, 4, 0)
    value = loss(unit_length(x), labels)
    value.backward()
    assert value.isfinite() and x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in loss.parameters())
    nothing = {"empty"} if name != "supcon" else {"empty", "one", "one class", "all single"}
    assert (value.item() == 0) == (case in nothing)


@pytest.mark.parametrize("name", ["centre", "ccentre"])
def test_at_the_centres_the_loss_and_its_gradient_are_zero(name):
    loss = AUXILIARY_LOSSES[name](4, 3, 0)
    x = loss.centres.detach().clone().requires_grad_()
    value = loss(x, torch.arange(4))
    value.backward()
    assert value.item() == 0 and (x.grad == 0).all() and (loss.centres.grad == 0).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_full_precision_inside_autocast(name, dtype):
    x, labels = batch(30, 16, 4, 3)
    half = x.detach().to(dtype)
    loss = AUXILIARY_LOSSES[name](4, 16, 0)
    with torch.autocast("cpu", dtype=dtype):
        inside = loss(half, labels)
    assert inside.dtype == torch.float32
    assert inside.item() == pytest.approx(loss(half.double(), labels).item(), rel=1e-5)


@pytest.mark.parametrize("name", ["centre", "ccentre"])
def test_centres_are_seeded_saved_and_trained(name):
    first, again, other = (AUXILIARY_LOSSES[name](5, 3, seed) for seed in (1, 1, 2))
    assert torch.equal(first.centres, again.centres)
    assert not torch.equal(first.centres, other.centres)
    state = torch.random.get_rng_state()
    AUXILIARY_LOSSES[name](5, 3, 7)
    assert torch.equal(state, torch.random.get_rng_state())  # a generator of its own
    other.load_state_dict(first.state_dict())
    assert torch.equal(first.centres, other.centres)
    torch.testing.assert_close(first.centres.norm(dim=1), torch.ones(5))
    assert [p is first.centres for p in first.parameters()] == [True]
    x, labels = batch(9, 3, 5, 0)
    labels[:] = 2
    first(x, labels).backward()
    assert (first.centres.grad[2] != 0).any()


def test_without_the_library_the_message_says_what_to_install(monkeypatch):
    for module in list(sys.modules):
        if module.split(".")[0] == "pytorch_metric_learning":
            monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install silk_nb\[compare\]"):
        SupervisedContrastiveLoss()
    for name in ("centre", "ccentre"):
        AUXILIARY_LOSSES[name](3, 2, 0)


def test_builders_take_options():
    assert AUXILIARY_LOSSES["ccentre"](3, 2, 0, delta=2.0).delta == 2
    assert AUXILIARY_LOSSES["supcon"](3, 2, seed=0, temperature=0.5).library.temperature == 0.5


X = torch.ones(3, 2)


@pytest.mark.parametrize(("call", "text"), [
    (lambda: CentreLoss(0, 2), "num_classes"),
    (lambda: CentreLoss(3, 2.0), "dim must be a whole number"),
    (lambda: CentreLoss(3, 2, seed=None), "seed"),
    (lambda: ContrastiveCentreLoss(3, 2, delta=0), "delta"),
    (lambda: ContrastiveCentreLoss(3, 2, delta=float("nan")), "delta"),
    (lambda: SupervisedContrastiveLoss(-0.1), "temperature"),
    (lambda: SupervisedContrastiveLoss("0.1"), "temperature"),
    (lambda: CentreLoss(3, 4)(X, torch.zeros(3).long()), "2 dimensions, the centres 4"),
    (lambda: CentreLoss(3, 2)(X, torch.tensor([0, 1, 3])), "between 0 and 2, not between 0 and 3"),
    (lambda: ContrastiveCentreLoss(3, 2)(X, torch.tensor([0, -1, 1])), "between 0 and 2"),
])
def test_arguments_are_checked(call, text):
    with pytest.raises(ValueError, match=text):
        call()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("embeddings", "labels", "text"), [
    (X[0], torch.zeros(2).long(), "N×D"),
    (X.long(), torch.zeros(3).long(), "floating-point"),
    (X, torch.zeros(3), "whole numbers"),
    (X, torch.zeros(2).long(), "2 labels for 3"),
    (X, 3, "vector"),
])
def test_batches_are_checked(name, embeddings, labels, text):
    with pytest.raises(ValueError, match=text):
        AUXILIARY_LOSSES[name](3, 2, 0)(embeddings, labels)
