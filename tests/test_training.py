"""The training loop: the same numbers again, after a kill too, and its guards."""
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from silk_nb.features import FeatureData, ImageData
from silk_nb.losses import TotalLoss
from silk_nb.model import SilkHead
from silk_nb.samplers import ClassBalancedBatchSampler, RandomBatchSampler
from silk_nb.store import StoredData, build_store
from silk_nb.training import (
    CollapseWarning,
    CrossFit,
    NonFiniteLossError,
    TrainingConfig,
    _Losses,
    apply_network,
    fit,
    halve,
    mean_f1,
)

LOSS = (1, 1, 0.5, 0.5)


def made_up(counts, seed, dim=16):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(len(counts), dim, generator=torch.Generator().manual_seed(9))
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    noise = 1.5 * torch.randn(len(labels), dim, generator=generator)
    colours = torch.randint(0, 50, (len(labels), 25), generator=generator).float()
    return FeatureData(centres[labels] + noise, labels, colours)


TRAIN, VALIDATION = made_up([120, 60, 20], 0), made_up([40, 20, 8], 1)


def train(sampler=ClassBalancedBatchSampler, seed=0, loss=LOSS, **more):
    head = SilkHead(16, 3, task_fc=(32, 8), seed=seed)
    more.setdefault("config", TrainingConfig(seed=seed, max_epochs=12))
    history = fit(head, TRAIN, VALIDATION, loss=TotalLoss(*loss), quiet=True,
                  sampler=sampler(TRAIN.labels, 30, seed=seed), **more)
    return head, history


def same(one, two):
    return (one[1].equals(two[1]) and all(
        torch.equal(a, b) for a, b in
        zip(one[0].state_dict().values(), two[0].state_dict().values(), strict=True)))


@pytest.mark.parametrize("sampler", [RandomBatchSampler, ClassBalancedBatchSampler])
def test_same_seed_same_result_to_the_bit_and_the_callers_randomness_is_left_alone(sampler):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = train(sampler)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(5)
    assert same(first, train(sampler))
    assert not same(first, train(sampler, seed=1))


@pytest.mark.parametrize("stop", [1, 3, 7])
def test_going_on_equals_an_uninterrupted_training(stop, tmp_path, monkeypatch):
    whole = train()

    class Killed(BaseException):
        pass

    batches = iter(range(10**6))
    plain = FeatureData.batch

    def dying(self, indices):
        if next(batches) == stop * 9 + 4:  # in the middle of an epoch
            raise Killed
        return plain(self, indices)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureData, "batch", dying)
        with pytest.raises(Killed):
            train(checkpoint=tmp_path / "c.pt", checkpoint_seconds=0)
    assert (tmp_path / "c.pt").exists()
    assert same(whole, train(checkpoint=tmp_path / "c.pt", checkpoint_seconds=0))


SCRIPT = """
    import sys, time
    import torch
    sys.path.insert(0, {tests!r})
    from test_training import *
    plain = FeatureData.batch
    FeatureData.batch = lambda self, i: time.sleep(float(sys.argv[2])) or plain(self, i)
    head, history = train(checkpoint=sys.argv[1] + "/c.pt", checkpoint_seconds=0)
    from safetensors.torch import save_file
    save_file(head.state_dict(), sys.argv[1] + "/w.safetensors")
    history.to_pickle(sys.argv[1] + "/h.pkl")
"""


def test_a_real_kill(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT.format(tests=str(Path(__file__).parent))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(folder, pause):
        folder.mkdir(exist_ok=True)
        return subprocess.Popen([sys.executable, str(script), str(folder), str(pause)],
                                env=environment)

    assert start(tmp_path / "whole", 0).wait(120) == 0
    kills = 0
    for wait in (0.0, 0.35, 0.8):  # after the first checkpoint of this start, and a moment more
        process = start(tmp_path / "killed", 0.02)
        file = tmp_path / "killed" / "c.pt"
        old, limit = file.stat().st_mtime_ns if file.exists() else 0, time.monotonic() + 120
        while process.poll() is None and time.monotonic() < limit:
            if file.exists() and file.stat().st_mtime_ns > old:
                break
            time.sleep(0.01)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        kills += process.wait(60) == -signal.SIGKILL
    assert kills >= 2
    assert start(tmp_path / "killed", 0).wait(120) == 0
    one, two = (load_file(tmp_path / name / "w.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert pd.read_pickle(tmp_path / "whole" / "h.pkl").equals(
        pd.read_pickle(tmp_path / "killed" / "h.pkl"))


@pytest.mark.parametrize("stored", [True, False])
def test_a_checkpoint_of_other_images_is_refused(tmp_path, stored):
    class Pooled(SilkHead):
        def forward(self, images):
            return super().forward(images.mean((2, 3)))

    def attempt(colour, epochs):
        folder = tmp_path / f"{colour}"
        folder.mkdir(exist_ok=True)
        paths = [folder / f"{n}.png" for n in range(12)]
        for n, path in enumerate(paths):
            Image.new("RGB", (8, 8), (colour, 20 * n, 90)).save(path)
        labels, look = torch.arange(12) % 3, {"mean": (0.5,) * 3, "std": (0.5,) * 3}
        data = ImageData(paths, labels, size=8, **look)
        if stored:
            store = build_store(paths, 8, cache=tmp_path / "cache", quiet=True)
            data = StoredData(store, labels, **look)
        return fit(Pooled(3, 3, task_fc=(4,), seed=0), data, data, loss=TotalLoss(), quiet=True,
                   sampler=ClassBalancedBatchSampler(data.labels, 6, seed=0),
                   config=TrainingConfig(max_epochs=epochs, patience=9),
                   checkpoint=tmp_path / "c.pt", checkpoint_seconds=0)

    attempt(10, 1)
    assert len(attempt(10, 1)) == 1  # goes on
    with pytest.raises(ValueError, match="belongs to a training with other data"):
        attempt(11, 1)


def test_best_weights_are_kept_and_patience_ends_it():
    config = TrainingConfig(patience=2, max_epochs=200, learning_rate=0.05)
    head, history = train(config=config)
    best = history["validation_loss"].idxmin()
    assert len(history) < 200 and len(history) == best + 1 + 2
    scores, f_aux = apply_network(head, VALIDATION)
    accuracy = (scores.argmax(1) == VALIDATION.labels).float().mean().item()
    assert accuracy == pytest.approx(history["validation_accuracy"][best])
    assert torch.allclose(scores.sum(1), torch.ones(len(scores)))
    assert torch.allclose(f_aux.norm(dim=1), torch.ones(len(f_aux)), atol=1e-5)


def test_what_the_history_holds():
    rows = train(loss=(1, 1, 1, 0))[1]
    assert {"train_sem", "validation_sem", "active_share"} <= set(rows)
    assert "train_co" not in rows and "train_sem" not in train(loss=(1, 0))[1]
    total = rows["train_classification"] + rows["train_sem"]
    pd.testing.assert_series_equal(rows["train_loss"], total, check_names=False, rtol=1e-5)


def test_it_learns():
    history = train(config=TrainingConfig(max_epochs=30))[1]
    assert history["validation_mean_f1"].max() > 0.6 > 1.8 * (40 / 68 / 3)


def losses_on(device, totals):
    """The losses of an epoch of batches of 3, 4, 5 … images, as if they lay on `device`."""
    losses = _Losses(7, torch.device(device))
    for number, total in enumerate(totals):
        losses.add(3 + number, torch.tensor(total), {"classification": torch.tensor(total / 2)})
    return losses


def test_losses_are_fetched_together_from_a_graphics_card():
    totals = torch.rand(40, generator=torch.Generator().manual_seed(0)).tolist()
    assert losses_on("cuda", totals[:15]).rows == []
    assert len(losses_on("cuda", totals).rows) == 32
    told = losses_on("cuda", totals).means("train_")
    assert told == losses_on("cpu", totals).means("train_")
    sizes = np.arange(3, 43)
    assert told["train_loss"] == pytest.approx((sizes * totals).sum() / sizes.sum())
    assert told["train_classification"] == pytest.approx(told["train_loss"] / 2)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("bad", [5, 20])
def test_a_loss_that_is_not_finite_is_told_with_its_batch(device, bad):
    totals = [1.0] * (bad - 1) + [math.nan] + [1.0] * 30
    with pytest.raises(NonFiniteLossError, match=rf"nan in epoch 7, batch {bad} \(class"):
        losses_on(device, totals).means("train_")


def test_guards(tmp_path):
    broken = FeatureData(TRAIN.features * float("inf"), TRAIN.labels, TRAIN.descriptors)
    head = SilkHead(16, 3, task_fc=(8,), seed=0)
    with pytest.raises(NonFiniteLossError, match="epoch 1, batch 1"):
        fit(head, broken, VALIDATION, loss=TotalLoss(), quiet=True,
            sampler=RandomBatchSampler(TRAIN.labels, 30))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
    with pytest.warns(CollapseWarning, match="epoch 1"):
        fit(head, TRAIN, VALIDATION, loss=TotalLoss(), quiet=True,
            sampler=RandomBatchSampler(TRAIN.labels, 30), config=TrainingConfig(max_epochs=1))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 broken"])
def test_a_damaged_or_foreign_checkpoint_is_refused(content, tmp_path):
    path = tmp_path / "c.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="c.pt is not a checkpoint"):
        train(checkpoint=path)
    assert path.read_bytes() == content
    path.unlink()
    train(checkpoint=path, checkpoint_seconds=0)
    with pytest.raises(ValueError, match="other data or settings"):
        train(checkpoint=path, loss=(1, 1, 1, 0))


def test_a_flipped_byte_of_a_checkpoint_is_noticed(tmp_path):
    path = tmp_path / "c.pt"
    train(checkpoint=path, checkpoint_seconds=0)
    content = path.read_bytes()
    for share in (0, 0.003, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1):
        flipped = bytearray(content)
        flipped[round(share * (len(content) - 1))] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match="c.pt is not a checkpoint that can be read .damaged.*"
                           "move it away to train from the beginning"):
            train(checkpoint=path)
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="not a checkpoint that can be read"):
        train(checkpoint=path)
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["history"]  # can be looked into without us
    train(checkpoint=path)


@pytest.mark.parametrize("bad", [{"learning_rate": 0}, {"learning_rate": float("nan")},
                                 {"patience": 0}, {"max_epochs": 0}, {"weight_decay": -1}])
def test_settings_are_checked(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        TrainingConfig(**bad)


def scores_of(seed, size=60, classes=3):
    return torch.rand(size, classes, generator=torch.Generator().manual_seed(seed)).softmax(1)


@pytest.mark.parametrize("seed", range(5))
def test_each_half_is_judged_by_what_is_best_on_the_other(seed):
    labels = torch.randint(0, 3, (60,), generator=torch.Generator().manual_seed(seed))
    half = halve(labels, seed=seed)
    candidates = [scores_of(100 * seed + k) for k in range(15)]
    crossfit = CrossFit(labels, half)
    for at, scores in enumerate(candidates):
        crossfit.offer(scores)
        if at == 6:  # stopped here and gone on with by another
            crossfit, before = CrossFit(labels, half), crossfit
            crossfit.load_state_dict(before.state_dict())
    for side in (half, ~half):
        best = max(candidates, key=lambda s: mean_f1(s[~side], labels[~side]))  # noqa: B023
        assert torch.equal(crossfit.scores[side], best[side])
    crossfit.reset()
    crossfit.offer(candidates[3], (2.0, 0.5))
    crossfit.offer(candidates[4], (1.0, 0.7))
    crossfit.offer(candidates[5], (1.5, 0.9))
    assert torch.equal(crossfit.scores[half], candidates[4][half])  # least outside the half
    assert torch.equal(crossfit.scores[~half], candidates[3][~half])


def test_one_image_cannot_be_halved_and_is_judged_all_the_same():
    labels = torch.tensor([1])
    crossfit = CrossFit(labels, halve(labels))
    for scores in (torch.tensor([[0.9, 0.1]]), torch.tensor([[0.2, 0.8]])):
        crossfit.offer(scores)
    assert torch.equal(crossfit.scores, torch.tensor([[0.2, 0.8]]))


@pytest.mark.parametrize("seed", range(5))
def test_halves_keep_objects_whole_and_share_every_class(seed):
    generator = torch.Generator().manual_seed(seed)
    objects = torch.randint(0, 40, (150,), generator=generator)
    labels = (objects * 7 % 5) ** 2 % 4  # one class per object
    half = halve(labels, [f"object {o}" for o in objects.tolist()], seed)
    for one in objects.unique():
        assert half[objects == one].unique().numel() == 1
    for code in labels.unique():
        there = objects[labels == code].unique()
        here = sum(bool(half[objects == o][0]) for o in there)
        assert abs(2 * here - len(there)) <= 1
    assert torch.equal(half, halve(labels, [f"object {o}" for o in objects.tolist()], seed))


@pytest.mark.parametrize("select", ["validation_loss", "validation_mean_f1"])
def test_fair_scores_are_the_same_after_an_interruption(select, tmp_path, monkeypatch):
    def training(crossfit, **more):
        return train(config=TrainingConfig(max_epochs=9, select=select), crossfit=crossfit, **more)

    whole, cut = (CrossFit(VALIDATION.labels, halve(VALIDATION.labels)) for _ in range(2))
    head, history = training(whole)
    plain, saves = os.replace, [0]

    def dying(old, new):
        plain(old, new)
        saves[0] += 1
        if saves[0] == 5:
            raise KeyboardInterrupt

    more = {"checkpoint": tmp_path / "c.pt", "checkpoint_seconds": 0}
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            training(cut, **more)
    training(cut, **more)
    assert torch.equal(whole.scores, cut.scores)
    if select == "validation_mean_f1":
        kept = apply_network(head, VALIDATION)[0]
        assert mean_f1(kept, VALIDATION.labels) == pytest.approx(history.validation_mean_f1.max())


@pytest.mark.parametrize("size", [7, 200])  # in several batches, in one
def test_each_half_is_judged_by_the_epoch_of_least_loss_on_the_other(size, monkeypatch):
    offered, plain = [], CrossFit.offer

    def watched(self, scores, costs=None):
        offered.append((scores.clone(), costs))
        plain(self, scores, costs)

    monkeypatch.setattr(CrossFit, "offer", watched)
    crossfit = CrossFit(VALIDATION.labels, halve(VALIDATION.labels, seed=3))
    fit(SilkHead(16, 3, task_fc=(32,), dropout=0.5, seed=1), TRAIN, VALIDATION, loss=TotalLoss(),
        sampler=RandomBatchSampler(TRAIN.labels, size, seed=1), quiet=True, crossfit=crossfit,
        config=TrainingConfig(max_epochs=12, learning_rate=0.05))
    rows = torch.arange(len(VALIDATION))
    costs = [-scores[rows, VALIDATION.labels].log() for scores, _ in offered]
    for side, judged in ((~crossfit.half, 0), (crossfit.half, 1)):
        means = torch.stack([cost[side].mean() for cost in costs])
        assert torch.allclose(means, torch.tensor([told[judged] for _, told in offered]), atol=1e-5)
        assert torch.equal(crossfit.scores[~side], offered[int(means.argmin())][0][~side])


def test_a_checkpoint_of_other_halves_is_refused(tmp_path):
    more = {"checkpoint": tmp_path / "c.pt", "checkpoint_seconds": 0,
            "config": TrainingConfig(max_epochs=3)}
    train(crossfit=CrossFit(VALIDATION.labels, halve(VALIDATION.labels, seed=0)), **more)
    with pytest.raises(ValueError, match="other data or settings"):
        train(crossfit=CrossFit(VALIDATION.labels, halve(VALIDATION.labels, seed=1)), **more)


def test_biases_never_decay():
    def biases(decay):
        torch.manual_seed(0)
        head = SilkHead(16, 3, task_fc=(32, 8), dropout=0.0, seed=0)
        with torch.no_grad():
            head.task_fc[0].bias.fill_(-50.0)  # behind the ReLU only decay could move it
        fit(head, TRAIN, VALIDATION, loss=TotalLoss(), quiet=True,
            sampler=RandomBatchSampler(TRAIN.labels, 30, seed=0),
            config=TrainingConfig(max_epochs=2, weight_decay=decay))
        return head
    assert torch.equal(biases(5.0).task_fc[0].bias, torch.full((32,), -50.0))
    assert biases(5.0).task_fc[0].weight.norm() < biases(0.0).task_fc[0].weight.norm()
