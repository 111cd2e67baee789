"""A batch at once, in pieces, and shared by processes: the same loss, gradient and weights."""
import errno
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file
from torch import nn

from silk_nb.annotations import read_annotations
from silk_nb.experiments import RunConfig, _first, run_experiment
from silk_nb.features import FeatureData
from silk_nb.losses import TotalLoss
from silk_nb.model import SilkHead, SilkOutput
from silk_nb.samplers import ClassBalancedBatchSampler
from silk_nb.steps import Alone, Step, batches, pieces_of, refuse_running_norm, share_of
from silk_nb.training import CrossFit, TrainingConfig, fit, halve


def made_up(counts, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    centres = torch.randn(len(counts), 16, generator=torch.Generator().manual_seed(9))
    colours = torch.rand(len(labels), 25, generator=generator)
    return FeatureData(centres[labels] + 1.3 * torch.randn(len(labels), 16, generator=generator),
                       labels, colours)


TRAIN, VALIDATION = made_up([90, 41, 3], 0), made_up([40, 20, 3], 1)  # a class of three images
BIN = Path(sys.executable).parent
WEIGHTS = (1.0, 1.0, 0.5, 0.5)


def inputs_of(step, data, indices):
    """Of one batch, as training gets them."""
    return next(iter(batches(step, data, [indices])))


def one_step(step, data=TRAIN, indices=None):
    """Loss and parts, with the gradients in the network."""
    chosen = torch.arange(60) if indices is None else indices
    return step.train(data, *inputs_of(step, data, chosen))


def head(dropout=0.0):
    return SilkHead(16, 3, task_fc=(32, 8), dropout=dropout, seed=4)


def trained(folder, place=None, epochs=4, **more):
    """Weights, history and fair scores after a short training."""
    network, crossfit = head(more.pop("dropout", 0.0)), CrossFit(VALIDATION.labels,
                                                                 halve(VALIDATION.labels))
    history = fit(network, TRAIN, VALIDATION, loss=TotalLoss(*WEIGHTS), quiet=True,
                  crossfit=crossfit, accelerator=place,
                  sampler=ClassBalancedBatchSampler(TRAIN.labels, 31, seed=2,
                                                    allow_imbalanced=True),
                  config=TrainingConfig(max_epochs=epochs, patience=99, seed=5),
                  checkpoint=Path(folder) / "checkpoint.pt", checkpoint_seconds=0, **more)
    return {"weights": network.state_dict(), "history": history.to_dict("list"),
            "scores": crossfit.scores}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _process(rank, world, port, folder):
    """What each of several processes does; the first writes down what it found."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank),
                   "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "ACCELERATE_USE_CPU": "1"}
    from accelerate import Accelerator

    torch.set_num_threads(1)
    place, found, indices = Accelerator(cpu=True), {}, torch.randperm(
        134, generator=torch.Generator().manual_seed(0))[:61]
    assert place.num_processes == world
    for name, micro in (("at once", None), ("pieces", 7)):
        network = head()
        step = Step(place.prepare(network), TotalLoss(*WEIGHTS), place, micro)
        total, _ = one_step(step, TRAIN, indices)
        found[name] = total, [p.grad for p in network.parameters()]
        step.network.eval()
        assert torch.equal(step.evaluate(TRAIN, *inputs_of(step, TRAIN, indices))[0], total)
        few = inputs_of(step, TRAIN, indices[:1])  # fewer than processes
        assert len(step.evaluate(TRAIN, *few)[2].logits) == 1
    with pytest.raises(OSError, match="no room"), _first(place):  # of the first one, said by all
        assert place.is_main_process
        raise OSError(errno.ENOSPC, "no room", "a folder")
    found["trained"] = trained(Path(folder) / "whole", place)
    network = head(0.5)
    with pytest.raises(ValueError, match="fewer processes"):
        one_step(Step(network, TotalLoss(), place), TRAIN, indices[:world - 1])

    class Killed(BaseException):
        pass

    plain, epochs = Step.evaluate, [0]

    def dying(*given):
        epochs[0] += 1
        if epochs[0] == 7:  # in the middle of an epoch
            raise Killed
        return plain(*given)

    dropping = {"dropout": 0.5, "epochs": 5}
    found["dropout"] = trained(Path(folder) / "dropout", place, **dropping)
    Step.evaluate = dying
    with pytest.raises(Killed):
        trained(Path(folder) / "cut", place, **dropping)
    Step.evaluate = plain
    assert (Path(folder) / "cut" / "checkpoint.pt").exists()
    found["resumed"] = trained(Path(folder) / "cut", place, **dropping)
    if place.is_main_process:
        torch.save(found, Path(folder) / "found.pt")
    place.wait_for_everyone()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize("world", [2, 4])
def test_several_processes_train_what_one_trains(world, alone, tmp_path):
    for name in ("whole", "dropout", "cut"):
        (tmp_path / name).mkdir()
    mp.spawn(_process, (world, free_port(), str(tmp_path)), nprocs=world)
    found = torch.load(tmp_path / "found.pt", weights_only=False)

    network, indices = head(), torch.randperm(
        134, generator=torch.Generator().manual_seed(0))[:61]
    total, _ = one_step(Step(network, TotalLoss(*WEIGHTS), Alone()), TRAIN, indices)
    for name in ("at once", "pieces"):
        assert torch.allclose(found[name][0], total, atol=1e-6)
        for ours, parameter in zip(found[name][1], network.parameters(), strict=True):
            assert torch.allclose(ours, parameter.grad, atol=1e-6)
    for name, value in alone["weights"].items():
        assert torch.allclose(found["trained"]["weights"][name], value, atol=1e-6), name
    assert torch.allclose(found["trained"]["scores"], alone["scores"], atol=1e-6)
    for name, values in alone["history"].items():
        assert found["trained"]["history"][name] == pytest.approx(values, abs=1e-5), name
    # not to the bit: the order in which processes add up gradients is set anew at a start
    for name, values in found["dropout"]["history"].items():
        assert found["resumed"]["history"][name] == pytest.approx(values, abs=1e-6), name
    for name, value in found["dropout"]["weights"].items():
        assert torch.allclose(found["resumed"]["weights"][name], value, atol=1e-6), name
    with pytest.raises(ValueError, match=f"in {world} processes, and now there is 1: start"):
        trained(tmp_path / "cut", dropout=0.5, epochs=5)


@pytest.mark.parametrize("micro", [1, 7, 30, 61])
def test_pieces_give_the_gradient_of_the_whole_batch(micro):
    found = []
    for size in (None, micro):
        network = head().double()
        data = FeatureData(TRAIN.features.double(), TRAIN.labels, TRAIN.descriptors.double())
        step = Step(network, TotalLoss(*WEIGHTS), Alone(), size)
        step._forward = lambda inputs, network=network: SilkOutput(*network(inputs))  # float64
        total, _ = one_step(step, data, torch.arange(0, 122, 2))
        found.append((total, [p.grad for p in network.parameters()]))
    assert found[0][0].item() == pytest.approx(found[1][0].item(), abs=1e-12)
    for one, two in zip(found[0][1], found[1][1], strict=True):
        assert torch.allclose(one, two, atol=1e-12)


def test_pieces_meet_the_same_dropout_twice():
    """Else the gradient would be one of other outputs than those that the loss has seen."""
    seen = []

    class Watched(SilkHead):
        def forward(self, features):
            out = super().forward(features)
            seen.append(out.logits.detach().clone())
            return out

    network = Watched(16, 3, task_fc=(32, 8), dropout=0.6, seed=4)
    torch.manual_seed(0)
    one_step(Step(network, TotalLoss(*WEIGHTS), Alone(), 20))
    assert len(seen) == 6 and all(map(torch.equal, seen[:3], seen[3:]))
    assert not torch.equal(seen[0], seen[1])


def test_a_micro_batch_is_a_setting_of_the_training(tmp_path):
    found = [fit(head(), TRAIN, VALIDATION, loss=TotalLoss(*WEIGHTS), quiet=True,
                 sampler=ClassBalancedBatchSampler(TRAIN.labels, 30, seed=2, allow_imbalanced=True),
                 config=TrainingConfig(max_epochs=3, micro_batch=size)) for size in (None, 8)]
    for name in ("train_loss", "validation_loss"):
        assert found[0][name].tolist() == pytest.approx(found[1][name].tolist(), abs=1e-5)
    with pytest.raises(ValueError, match="micro_batch must be a whole number"):
        TrainingConfig(micro_batch=0)


def test_running_batch_norm_is_refused_in_pieces():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.head = nn.BatchNorm1d(16), head()

        def forward(self, features):
            return self.head(self.norm(features))

    network = Normed()
    one_step(Step(network, TotalLoss(), Alone(), 70))  # one piece
    with pytest.raises(ValueError, match="the batch norm 'norm' takes its statistics"):
        one_step(Step(network, TotalLoss(), Alone(), 20))
    network.norm.eval()
    one_step(Step(network, TotalLoss(), Alone(), 20))


def test_running_batch_norm_is_refused_in_several_processes():
    """Each would take the statistics of its own share."""
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    refuse_running_norm(network)
    with pytest.raises(ValueError, match="'1' takes its statistics from each of 2 processes'"):
        refuse_running_norm(network, processes=2)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    refuse_running_norm(synchronised, processes=2)
    with pytest.raises(ValueError, match="from each piece of a batch"):
        refuse_running_norm(synchronised, processes=2, micro_batch=8)
    refuse_running_norm(network.eval(), processes=2, micro_batch=8)


@pytest.mark.parametrize("size", [4, 61, 180])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_shares_are_the_batch(size, processes):
    parts = [share_of(torch.arange(size), k, processes) for k in range(processes)]
    assert torch.cat(parts).tolist() == list(range(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("size, processes, most", [(27, 4, 6), (61, 2, 30), (13, 4, 1), (9, 1, 4)])
def test_all_processes_cut_a_batch_into_as_many_pieces(size, processes, most):
    """They wait for each other at every piece."""
    class Several(Alone):
        num_processes = processes

    cut = []
    for process in range(processes):
        place = Several()
        place.process_index = process
        cut.append(pieces_of(Step(head(), TotalLoss(), place, most), torch.arange(size)))
    assert len(set(map(len, cut))) == 1 and all(len(piece) for mine in cut for piece in mine)
    assert torch.cat([piece for mine in cut for piece in mine]).tolist() == list(range(size))
    uneven = size % processes and most == 1  # then one piece more cannot be
    assert max(len(piece) for mine in cut for piece in mine) <= most + bool(uneven)


def test_a_device_with_too_little_memory_says_what_to_change(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(Step, "train", full)
    sampler = ClassBalancedBatchSampler(TRAIN.labels, 31, seed=2, allow_imbalanced=True)
    with pytest.raises(torch.OutOfMemoryError, match="31 images at a time: take micro_batch=15 or"):
        fit(head(), TRAIN, VALIDATION, loss=TotalLoss(), quiet=True, sampler=sampler)
    with pytest.raises(torch.OutOfMemoryError, match="for a single image: take smaller images"):
        fit(head(), TRAIN, VALIDATION, loss=TotalLoss(), quiet=True, sampler=sampler,
            config=TrainingConfig(micro_batch=1))


def test_small_gradients_are_not_lost_in_fp16():
    class Half(Alone):
        mixed_precision = "fp16"

    with pytest.raises(ValueError, match="fp16 makes small gradients vanish"):
        fit(head(), TRAIN, VALIDATION, loss=TotalLoss(), accelerator=Half(), sampler=None)


def test_bf16_is_of_the_network_and_not_of_the_losses():
    seen = []

    class Watched(SilkHead):
        def forward(self, features):
            seen.append(self.classification(torch.relu(torch.zeros(1, 8))).dtype)
            return super().forward(features)

    network = Watched(16, 3, task_fc=(32, 8), dropout=0.0, seed=4)
    total, parts = one_step(Step(network, TotalLoss(*WEIGHTS),
                                   Alone(precision="bf16")))
    exact, _ = one_step(Step(head(), TotalLoss(*WEIGHTS), Alone()))
    assert seen == [torch.bfloat16]
    assert {part.dtype for part in (total, *parts.values())} == {torch.float32}
    assert total.item() == pytest.approx(exact.item(), abs=0.02) and total != exact
    assert all(p.grad.dtype == torch.float32 for p in network.parameters())


def test_the_command_trains_in_several_processes_what_it_trains_in_one(silk_table, tmp_path):
    """The last block of a network, on images; without a GPU torchrun starts the processes."""
    rows = silk_table.groupby("technique", observed=True).head(9)
    rows[["image", "technique"]].to_csv(tmp_path / "table.csv", index=False)
    command = [BIN / "silk_nb", "train", "table.csv", "--variable", "technique", "--experiment",
               "C + co + sem", "--backbone", "shufflenet_v2_x0_5", "--weights", "silk-textures",
               "--trainable", "1", "--input-size", "48", "--dropout", "0", "--max-epochs", "2",
               "--batch-size", "27", "--quiet", "--cache", "cache", "--device", "cpu",
               "--speedups", "channels-last", "checkpoint", "--allow-imbalanced"]
    command += ["--micro-batch", "6"]  # of 7, 7, 7 and 6 images in four processes
    for count in (1, 2, 4):
        launch = [BIN / "torchrun", "--nproc_per_node", str(count), "--master_port",
                  str(free_port())] if count > 1 else []
        done = subprocess.run([*launch, *command, "--out", str(count)], cwd=tmp_path,
                              capture_output=True, text=True, timeout=300,
                              env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("its report is") == 1  # told by one of them
        told = done.stdout.count(f"{count} processes train together on cpu")
        assert told == (count > 1), done.stdout + done.stderr
    one = load_file(tmp_path / "1" / "weights.safetensors")
    for out in ("2", "4"):
        several = load_file(tmp_path / out / "weights.safetensors")
        assert set(one) == set(several) and not any("checkpoint" in name for name in one)
        for name, value in one.items():
            assert torch.allclose(value, several[name], atol=2e-5), name
        for name in ("predictions.csv", "split.csv"):
            tables = [pd.read_csv(tmp_path / folder / name) for folder in ("1", out)]
            assert tables[0].iloc[:, :4].equals(tables[1].iloc[:, :4])


@pytest.mark.parametrize("wanted", [1, 2])
def test_a_launcher_that_starts_one_process_in_place_of_several_is_told_of(wanted, tmp_path):
    """As accelerate's does where there is no GPU."""
    script = tmp_path / "script.py"
    script.write_text("from argparse import Namespace\nfrom silk_nb.cli import _accelerator\n"
                      "print(_accelerator(Namespace(device='cpu')).num_processes)\n")
    done = subprocess.run(
        [BIN / "accelerate", "launch", "--cpu", "--num_processes", str(wanted), "--num_machines",
         "1", "--mixed_precision", "no", "--dynamo_backend", "no", script],
        capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.split() == ["1"], done.stderr
    assert ("one process trains, though the launcher was asked for several" in done.stderr) == (
        wanted > 1)
    assert ("torchrun --nproc_per_node 2" in done.stderr) == (wanted > 1)


def test_torchrun_alone_makes_one_training_of_several_processes(tmp_path):
    """Without a word of accelerate in the environment; else each would train by itself."""
    script = tmp_path / "script.py"
    script.write_text(
        "from argparse import Namespace\nfrom silk_nb.cli import _accelerator\n"
        "found = _accelerator(Namespace(device=None, precision='bf16'))\n"
        "print(f'{found.num_processes} {found.mixed_precision} {found.device.type}', flush=True)\n")
    done = subprocess.run(
        [BIN / "torchrun", "--nproc_per_node", "2", "--master_port", str(free_port()), script],
        capture_output=True, text=True, timeout=300, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 bf16 cpu") == 2  # lines of both may run together
    assert done.stdout.count("2 processes train together on cpu") == 1


def test_a_notebook_launcher_trains_what_one_process_trains(alone, tmp_path):
    """In a process of its own: the launcher forks, which wants that nothing has computed yet."""
    (tmp_path / "launched").mkdir()
    script = tmp_path / "notebook.py"
    script.write_text(textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import torch
        from accelerate import Accelerator, notebook_launcher
        from test_steps import trained

        def work():
            torch.set_num_threads(1)
            place = Accelerator(cpu=True)
            assert place.num_processes == 2
            found = trained({str(tmp_path / "launched")!r}, place)
            if place.is_main_process:
                torch.save(found, {str(tmp_path / "found.pt")!r})
            place.wait_for_everyone()
            torch.distributed.destroy_process_group()

        if __name__ == "__main__":
            notebook_launcher(work, num_processes=2, use_port="{free_port()}")
    """))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True,
                          timeout=300, env={**os.environ, "ACCELERATE_USE_CPU": "1"})
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "found.pt", weights_only=False)
    for name, value in alone["weights"].items():
        assert torch.allclose(found["weights"][name], value, atol=1e-6), name


def test_fine_tuning_on_clothing(shared, tmp_path):
    table = read_annotations(shared / "data" / "clothing" / "clothing.csv", group="sender")
    rows = table[table["garment"].isin(["longsleeve", "hat", "dress"])]
    rows = rows.groupby("garment", observed=True).head(90)
    config = RunConfig("garment", "C + co + sem", backbone="mobilenet_v2", trainable=1, mean=0.5,
                       std=0.5, weights=str(
                           shared / "weights" / "mobilenet_v2-imagenet-tfslim.safetensors"),
                       input_size=96, max_epochs=5, batch_size=60, micro_batch=20, seed=1)
    found = run_experiment(rows, tmp_path / "run", config, cache=tmp_path / "cache", quiet=True)
    assert found["mean_f1"] > 0.45  # three classes: chance is a third
