"""An average of heads: what it is made of, and stored and built again."""
import numpy as np
import pytest
import torch

from silk_nb.comparators import (
    AveragedHead,
    NeighbourHead,
    build_head,
    fit_logistic,
    fit_neighbours,
    head_settings,
    normalise_classifier,
)
from silk_nb.features import FeatureData
from silk_nb.model import SilkHead
from silk_nb.training import CrossFit, apply_network, halve, mean_f1

FEATURES = torch.rand(60, 7, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(60) % 4
DATA = FeatureData(FEATURES, LABELS)


def heads():
    return [SilkHead(7, 4, task_fc=(6,), seed=0), SilkHead(7, 4, task_fc=(9, 5), seed=1),
            SilkHead(7, 4, task_fc=(), standardise=True, seed=2),
            NeighbourHead(FEATURES, LABELS, 4, 3)]


@pytest.mark.parametrize("weights", [None, (0.1, 0.2, 0.3, 0.4)])
def test_an_average_is_the_weighted_mean_of_the_class_probabilities(weights):
    head = AveragedHead(heads(), weights)
    scores, f_aux = apply_network(head, DATA)
    shares = weights or (0.25,) * 4
    parts = [apply_network(one, DATA) for one in heads()]
    wanted = sum(w * part[0] for w, part in zip(shares, parts, strict=True))
    assert torch.allclose(scores, wanted, atol=1e-6)
    # only the two with layers of their own have learned a metric
    wide = torch.cat([np.sqrt(w) * part[1]
                      for w, part in zip(shares[:2], parts[:2], strict=True)], 1)
    assert torch.allclose(f_aux, wide / wide.norm(dim=1, keepdim=True), atol=1e-6)


def test_an_average_of_heads_without_layers_has_their_features():
    _, f_aux = apply_network(AveragedHead(heads()[2:]), DATA)
    assert f_aux.shape == (60, 14)
    assert torch.allclose(f_aux.norm(dim=1), torch.ones(60), atol=1e-5)


def test_an_average_stays_finite_where_all_are_sure():
    sure = SilkHead(7, 4, task_fc=(), dropout=0, seed=0)
    with torch.no_grad():
        sure.classification.bias.copy_(torch.tensor([1e4, -1e4, -1e4, -1e4]))
    out = AveragedHead([sure, sure]).eval()(FEATURES)
    assert torch.isfinite(out.logits).all()
    assert torch.equal(out.logits.argmax(1), torch.zeros(60, dtype=torch.int64))


def test_an_average_of_averages_is_stored_and_built_again():
    head = AveragedHead([AveragedHead(heads()[:2], (0.3, 0.7)), *heads()[2:]], (0.5, 0.25, 0.25))
    again = build_head(head_settings(head), head.state_dict())
    for one, other in zip(apply_network(head, DATA), apply_network(again, DATA), strict=True):
        assert torch.equal(one, other)
    lacking = {k: v for k, v in head.state_dict().items() if not k.startswith("heads.1.")}
    with pytest.raises(ValueError, match="does not fit"):
        build_head(head_settings(head), lacking)


@pytest.mark.parametrize("weights", [(1.0,), (0.5, 0.6), (1.5, -0.5), (0.0, 1.0)])
def test_weights_that_are_no_shares_are_refused(weights):
    with pytest.raises(ValueError, match="2 shares above 0 that sum to 1"):
        AveragedHead(heads()[:2], weights)


def test_heads_of_other_classes_are_refused():
    with pytest.raises(ValueError, match="same number of classes"):
        AveragedHead([SilkHead(7, 4, seed=0), SilkHead(7, 5, seed=0)])


def test_candidates_are_cross_fitted_by_every_comparator():
    validation = FeatureData(torch.rand(40, 7, generator=torch.Generator().manual_seed(1)),
                             torch.arange(40) % 4)
    for fit in (fit_logistic, fit_neighbours):
        crossfit = CrossFit(validation.labels, halve(validation.labels))
        head, tried = fit(DATA, validation, 4, crossfit=crossfit)
        assert crossfit.scores.shape == (40, 4)
        assert mean_f1(apply_network(head, validation)[0], validation.labels) == pytest.approx(
            tried["validation_mean_f1"].max())
    head, crossfit = SilkHead(7, 4, task_fc=(6,), seed=0), CrossFit(
        validation.labels, halve(validation.labels))
    normalise_classifier(head, validation, crossfit=crossfit)
    assert torch.allclose(crossfit.scores.sum(1), torch.ones(40), atol=1e-5)
