"""The losses against brute force, the field's library, and everything that can go wrong."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.reducers import MeanReducer

import silk_nb.losses as module
from silk_nb.colour import colour_correlation
from silk_nb.losses import (
    AuxiliaryClusteringLoss,
    TotalLoss,
    colour_similarity_loss,
    embedding_diagnostics,
    semantic_similarity_loss,
    unit_length,
)


def brute_force(x, labels, margin=1.0):
    """Eq. 3 triplet by triplet; distances with gradient 0 at 0."""
    square = (x[:, None] - x[None]).square().sum(2)
    d = torch.where(square > 0, square.clamp_min(1e-300), torch.ones_like(square)).sqrt()
    d = torch.where(square > 0, d, torch.zeros_like(d))
    same = labels[:, None] == labels
    valid = (same & ~torch.eye(len(x), dtype=torch.bool))[:, :, None] & ~same[:, None, :]
    hinge = (margin + d[:, :, None] - d[:, None, :]).clamp_min(0)[valid]
    return hinge.mean() if len(hinge) else x.sum() * 0


def batch(n, dim, classes, seed, normal=True):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (n,), generator=generator)
    return (unit_length(x) if normal else x).requires_grad_(), labels


@pytest.mark.parametrize("inside", [False, True])
def test_unit_length_of_large_float16_vectors(inside):
    x = torch.full((2, 512), 6e3, dtype=torch.float16)  # of length 135,765, beyond float16
    x[1, 0] = -6e4
    x.requires_grad_()
    with torch.autocast("cpu", torch.float16, enabled=inside):
        unit = unit_length(x)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(2))
    unit[:, 0].sum().backward()
    assert x.grad.abs().sum(1).gt(0).all() and x.grad.isfinite().all()


def test_unit_length_is_exact_in_bfloat16():
    layer = torch.nn.Linear(8, 64)
    with torch.autocast("cpu", torch.bfloat16):
        x = layer(torch.randn(16, 8, generator=torch.manual_seed(0)))
        unit = unit_length(x)
    assert x.dtype == torch.bfloat16 and unit.dtype == torch.float32
    for found in (unit, unit_length(x.detach())):
        torch.testing.assert_close(found.norm(dim=1), torch.ones(16), atol=1e-6, rtol=0)
    assert unit_length(x.double()).dtype == torch.float64


@settings(max_examples=300, deadline=None)
@given(n=st.integers(0, 24), dim=st.integers(1, 6), classes=st.integers(1, 8),
       seed=st.integers(0, 10**6), normal=st.booleans(), margin=st.sampled_from([0.0, 0.2, 1.0]))
def test_equals_brute_force_in_value_and_gradient(n, dim, classes, seed, normal, margin):
    x, labels = batch(n, dim, classes, seed, normal)
    fast, slow = semantic_similarity_loss(x, labels, margin=margin), brute_force(x, labels, margin)
    assert abs(fast.item() - slow.item()) <= 1e-9
    ours, theirs = (torch.autograd.grad(loss, x)[0] for loss in (fast, slow))
    # In one dimension many hinges lie at 0 but for rounding, where any subgradient is right.
    if dim > 1:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(3, 20), copies=st.integers(2, 4), seed=st.integers(0, 10**6))
def test_repeated_points_equal_brute_force_in_value(n, copies, seed):
    x, labels = batch(n, 3, 3, seed)
    x = x.detach().repeat(copies, 1).requires_grad_()
    labels = torch.cat([labels, torch.randint(0, 3, (n * (copies - 1),))])
    fast = semantic_similarity_loss(x, labels)
    assert abs(fast.item() - brute_force(x, labels).item()) <= 1e-9
    assert torch.autograd.grad(fast, x)[0].isfinite().all()


@pytest.mark.parametrize("seed", range(5))
def test_gradcheck(seed):
    x, labels = batch(12, 4, 3, seed)
    descriptors = torch.rand(12, 9, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda e: semantic_similarity_loss(e, labels), x)
    assert torch.autograd.gradcheck(lambda e: colour_similarity_loss(e, descriptors), x)


@pytest.mark.parametrize(("n", "classes"), [(16, 2), (60, 5), (180, 9), (64, 40)])
def test_equals_pytorch_metric_learning(n, classes):
    x, labels = batch(n, 32, classes, n)
    distance = LpDistance(normalize_embeddings=False, p=2, power=1)
    library = TripletMarginLoss(margin=1, triplets_per_anchor="all", distance=distance,
                                reducer=MeanReducer())
    theirs, ours = library(x, labels), semantic_similarity_loss(x, labels)
    assert abs(theirs.item() - ours.item()) <= 1e-9
    gradients = [torch.autograd.grad(loss, x)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-9)


def test_chunks_of_anchors_give_the_same(monkeypatch):
    x, labels = batch(3000, 2, 4, 0)  # 9 million distances: two chunks
    loss = semantic_similarity_loss(x, labels)
    parts = [semantic_similarity_loss(x[torch.arange(3000) % 2 == k], labels[k::2]) for k in (0, 1)]
    assert abs(loss - sum(parts) / 2) < 0.02  # a sample of half the points says nearly the same
    order = torch.randperm(3000)
    again = semantic_similarity_loss(x[order], labels[order])
    assert abs(loss - again) <= 1e-12
    gradients = [torch.autograd.grad(part, x)[0] for part in (loss, again)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_loops_and_tensors_count_the_same_triplets(seed):
    x, labels = batch(3000 if seed == 2 else 90, 3, 6, seed)  # 3000: several chunks of anchors
    d = module.pair_distances(x.detach())
    sums, slopes = module._triplets_by_loops(d, labels, 1.0)
    others, other_slopes = module._triplets_by_tensors(d, labels, 1.0)
    assert torch.equal(slopes, other_slopes) and torch.equal(sums[1:], others[1:])
    assert sums[0].item() == pytest.approx(others[0].item(), rel=1e-13)


def test_threads_change_nothing():
    x, labels = batch(1100, 8, 5, 0)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            loss = semantic_similarity_loss(x, labels)
            found.append((loss.detach(), torch.autograd.grad(loss, x)[0]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0][0], found[1][0]) and torch.allclose(*(g for _, g in found))


def test_close_points_keep_their_direction():
    """In float32 a difference of sums would lose it."""
    x = torch.tensor([[1.0, 0.0], [1.0, 1e-5], [0.0, 1.0]], requires_grad=True)
    module.pair_distances(x)[0, 1].backward()
    assert torch.allclose(x.grad[:2], torch.tensor([[0.0, -1.0], [0.0, 1.0]]), atol=1e-6)


def test_on_a_gpu_the_host_waits_for_nothing():
    """Tensors without values: whatever would ask for one raises."""
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

    with FakeTensorMode():
        x = torch.empty(180, 32, device="cuda", requires_grad=True)
        labels, colours = (torch.empty(180, device="cuda", dtype=torch.int64),
                           torch.empty(180, 25, device="cuda"))
        with pytest.raises(DataDependentOutputException):
            x.sum().item()
        total = AuxiliaryClusteringLoss(0.5, 0.5)(unit_length(x), labels, colours)
        assert total.device.type == "cuda" and total.requires_grad


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.bool])
def test_labels_of_any_whole_type_and_rows_in_any_order_in_memory(dtype):
    x, labels = batch(30, 4, 2, 1)
    strided = x.detach().T.contiguous().T
    assert not strided.is_contiguous()
    assert torch.equal(semantic_similarity_loss(strided, labels.to(dtype)),
                       semantic_similarity_loss(x, labels))


DEGENERATE = {
    "empty": (torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)),
    "one": (torch.ones(1, 4), torch.zeros(1, dtype=torch.long)),
    "one class": (torch.randn(6, 4), torch.zeros(6, dtype=torch.long)),
    "all single": (torch.randn(6, 4), torch.arange(6)),
    "identical": (torch.ones(6, 4), torch.arange(6) % 2),
    "zero vectors": (torch.zeros(6, 4), torch.arange(6) % 2),
    "one zero": (torch.eye(6, 4), torch.arange(6) % 2),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_degenerate_batches_are_finite(name, dtype):
    x, labels = DEGENERATE[name]
    x = x.to(dtype, copy=True).detach().requires_grad_()
    descriptors = torch.rand(len(x), 25)
    loss = semantic_similarity_loss(unit_length(x), labels)
    loss = loss + colour_similarity_loss(unit_length(x), descriptors)
    loss.backward()
    assert loss.isfinite() and x.grad.isfinite().all()
    assert x.grad.abs().max().item() <= 3000 if len(x) else True


@pytest.mark.parametrize("name", ["empty", "one", "one class", "all single"])
def test_without_triplets_the_loss_is_zero(name):
    assert semantic_similarity_loss(*DEGENERATE[name]).item() == 0


def test_a_collapsed_network_sits_at_the_margin():
    assert semantic_similarity_loss(torch.ones(50, 8), torch.arange(50) % 5).item() == 1.0
    numbers = embedding_diagnostics(torch.ones(50, 8), torch.arange(50) % 5)
    assert numbers["active_share"] == 1 and numbers["std_distance"] == 0


def test_separated_classes_cost_nothing():
    x = torch.eye(2).repeat_interleave(5, 0) * torch.tensor([[1.0, -1.0]])
    labels = torch.arange(10) // 5
    assert semantic_similarity_loss(x, labels).item() == 0
    assert embedding_diagnostics(x, labels)["active_share"] == 0


def test_colour_loss_equals_the_pairs_one_by_one():
    x, _ = batch(9, 3, 2, 1)
    descriptors = torch.randint(0, 50, (9, 25)).float()
    for centre in ("image", "batch"):
        rho = colour_correlation(descriptors, centre=centre)
        pairs = [abs((x[i] - x[j]).norm() - (1 - rho[i, j]))
                 for i in range(9) for j in range(9) if i != j]
        ours = colour_similarity_loss(x, descriptors, centre=centre)
        assert abs(ours.item() - sum(pairs).item() / 72) < 1e-6


def test_full_precision_inside_autocast():
    x, labels = batch(40, 16, 4, 3)
    half = x.detach().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = semantic_similarity_loss(half, labels)
    assert inside.dtype == torch.float32
    assert abs(inside.item() - brute_force(half.double(), labels).item()) < 1e-6


def test_total_loss_is_eqs_1_and_2_and_leaves_out_what_has_no_weight():
    x, labels = batch(20, 4, 3, 5)
    logits, descriptors = torch.randn(20, 3).double(), torch.rand(20, 25).double()
    total, parts = TotalLoss(0.5, 0.8, 0.3, 0.6)(logits, x, labels, descriptors)
    auxiliary = 0.3 * parts["sem"] + 0.6 * parts["co"]
    torch.testing.assert_close(total, 0.5 * parts["classification"] + 0.8 * auxiliary)
    torch.testing.assert_close(AuxiliaryClusteringLoss(0.3, 0.6)(x, labels, descriptors), auxiliary)
    assert set(TotalLoss(1, 0, 1, 1)(logits, x, labels)[1]) == {"classification"}
    assert AuxiliaryClusteringLoss(0, 0)(x, labels).item() == 0


@pytest.mark.parametrize(("call", "text"), [
    (lambda: semantic_similarity_loss(torch.ones(3), torch.zeros(3).long()), "N×D"),
    (lambda: semantic_similarity_loss(torch.ones(3, 2).long(), torch.zeros(3).long()), "floating"),
    (lambda: semantic_similarity_loss(torch.ones(3, 2), torch.zeros(3)), "whole numbers"),
    (lambda: semantic_similarity_loss(torch.ones(3, 2), torch.zeros(2).long()), "2 labels for 3"),
    (lambda: semantic_similarity_loss(torch.ones(3, 2), torch.zeros(3).long(), margin=-1),
     "margin"),
    (lambda: colour_similarity_loss(torch.ones(3, 2), torch.ones(4, 25)), "4 descriptors for 3"),
    (lambda: colour_similarity_loss(torch.ones(3, 2), torch.ones(3)), "N×r²"),
    (lambda: AuxiliaryClusteringLoss(0, 1)(torch.ones(3, 2), torch.zeros(3).long()), "descriptors"),
    (lambda: TotalLoss(lambda_c=-1), "lambda_c"),
    (lambda: AuxiliaryClusteringLoss(float("nan")), "alpha_sem"),
])
def test_arguments_are_checked(call, text):
    with pytest.raises(ValueError, match=text):
        call()
