"""The network: every torchvision family, weights from everywhere, what is trained, faults."""
import os
import pickle
import shutil
import subprocess
import sys
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import get_model

from silk_nb import model as model_module
from silk_nb.model import (
    Backbone,
    SilkClassifier,
    SilkHead,
    WeightsUnavailableError,
    backbone_names,
    load_backbone,
    parameter_table,
    plot_architecture,
    speed_up,
)

SMALL = "shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory):
    """Random resnet18 weights as torchvision would save them, classifier included."""
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(get_model("resnet18", weights=None).state_dict(), path)
    return path


@pytest.fixture
def small():
    """The shipped network."""
    return load_backbone(SMALL, "silk-textures")


# ---------------------------------------------------------------- families

FAMILIES = {  # name -> features, an input that is large enough for it
    "alexnet": (4096, 64), "vgg11_bn": (4096, 32), "resnet18": (512, 32),
    "densenet121": (1024, 32), "squeezenet1_1": (512, 32), "mobilenet_v2": (1280, 32),
    "mobilenet_v3_small": (1024, 32), "shufflenet_v2_x0_5": (1024, 32),
    "efficientnet_b0": (1280, 32), "mnasnet0_5": (1280, 32), "regnet_y_400mf": (440, 32),
    "convnext_tiny": (768, 32), "googlenet": (1024, 64), "inception_v3": (2048, 80),
    "swin_t": (768, 64), "vit_b_32": (768, 64),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_a_vector_of_the_length_it_claims(name):
    length, size = FAMILIES[name]
    backbone = load_backbone(name, None, input_size=size, seed=0).eval()
    with torch.no_grad():
        features = backbone(torch.randn(2, 3, size, size, generator=torch.manual_seed(0)))
    assert backbone.out_features == length
    assert features.shape == (2, length)
    assert torch.isfinite(features).all()
    assert backbone.blocks()
    assert not any(isinstance(m, nn.Dropout) and m.p and "classifier" in n and name not in
                   ("alexnet", "vgg11_bn") for n, m in backbone.network.named_modules())


@pytest.mark.parametrize("name", ["maxvit_t", "resnext50_32x4d", "swin_v2_t", "vit_h_14"])
def test_large_ones_on_the_meta_device(name):
    with torch.device("meta"):
        backbone = load_backbone(name, None).eval()
        images = torch.empty(1, 3, backbone.input_size, backbone.input_size)
        assert backbone(images).shape == (1, backbone.out_features)


def test_there_are_eighty_names_and_all_are_classification():
    assert {"resnet152", "googlenet", "vit_b_16"} <= set(backbone_names())
    assert not any("rcnn" in n or "deeplab" in n or "r3d" in n for n in backbone_names())


def test_blocks_cover_the_parameters_and_come_in_order():
    backbone = load_backbone("efficientnet_b0", None)
    blocks = backbone.blocks()
    named = [n for n, _ in backbone.network.named_parameters()]
    assert all(any(p.startswith(b + ".") for b in blocks) for p in named)
    first = [next(i for i, p in enumerate(named) if p.startswith(b + ".")) for b in blocks]
    assert first == sorted(first)
    vit = load_backbone("vit_b_32", None).blocks()
    assert sum("encoder_layer_" in b for b in vit) == 12


@pytest.mark.parametrize("name, says", [
    ("resnet_18", "resnet18"), ("mobilenetv2", "mobilenet_v2"), ("zzzz", "backbone_names"),
    ("fcn_resnet50", "no image classification"), ("r3d_18", "no image classification"),
])
def test_other_names_are_refused_with_near_ones(name, says):
    with pytest.raises(ValueError, match=says):
        load_backbone(name, None)


# ---------------------------------------------------------------- weights

def test_file_gives_the_features_of_the_network_it_was_saved_from(resnet_file):
    torch.manual_seed(7)
    original = get_model("resnet18", weights=None).eval()
    seen = []
    original.avgpool.register_forward_hook(lambda m, i, o: seen.append(o.flatten(1)))
    images = torch.randn(3, 3, 64, 64)
    backbone = load_backbone("resnet18", resnet_file, mean=0.5, std=(0.1, 0.2, 0.3)).eval()
    with torch.no_grad():
        original(images)
        assert torch.equal(backbone(images), seen[0])
        assert (seen[0] >= 0).all()  # v1: the ReLU of Figure 1 changes nothing
    assert backbone.mean == (0.5, 0.5, 0.5) and backbone.std == (0.1, 0.2, 0.3)
    assert backbone.pretrained and backbone.trainable == "none"


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("classifier", [False, True])
def test_suffixes_half_precision_and_classifier_keys(tmp_path, suffix, half, classifier):
    state = get_model(SMALL, weights=None).state_dict()
    state = {k: v.half() if half and v.is_floating_point() else v for k, v in state.items()
             if classifier or not k.startswith("fc.")}
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    loaded = load_backbone(SMALL, str(path), mean=0.5, std=0.5).network.state_dict()
    for key, value in loaded.items():
        assert value.dtype == (torch.float32 if value.is_floating_point() else torch.int64)
        assert torch.equal(value, state[key].to(value.dtype)), key


def test_aux_heads_in_the_file_are_left_out(tmp_path):
    full = get_model("inception_v3", weights=None, aux_logits=True, init_weights=False)
    torch.save(full.state_dict(), tmp_path / "inception.pth")
    backbone = load_backbone("inception_v3", tmp_path / "inception.pth", mean=0.5, std=0.5)
    assert torch.equal(backbone.network.Conv2d_1a_3x3.conv.weight, full.Conv2d_1a_3x3.conv.weight)


def test_old_densenet_names_and_missing_counters(tmp_path):
    torch.manual_seed(0)
    state = get_model("densenet121", weights=None).state_dict()
    old = {}
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        head, found, tail = key.partition("denselayer")
        for part in ("norm", "conv"):
            for digit in "12":
                tail = tail.replace(f".{part}{digit}.", f".{part}.{digit}.")
        old[head + found + tail] = value
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "densenet.pth")
    loaded = load_backbone("densenet121", tmp_path / "densenet.pth", mean=0, std=1)
    for key, value in loaded.network.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_metadata_may_hold_mean_std_size_and_architecture(tmp_path):
    state = get_model(SMALL, weights=None).state_dict()
    path = tmp_path / "own.safetensors"
    meta = {"mean": "0.1,0.2,0.3", "std": "0.5", "input_size": "96", "architecture": SMALL}
    save_file(state, path, metadata=meta)
    backbone = load_backbone(SMALL, path)
    assert (backbone.mean, backbone.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    assert backbone.input_size == 96
    assert load_backbone(SMALL, path, mean=0.4, input_size=64).mean == (0.4, 0.4, 0.4)
    with pytest.raises(ValueError, match=f'backbone="{SMALL}"'):
        load_backbone("resnet18", path)
    for wrong in ({"std": "0"}, {"mean": "a,b,c"}, {"mean": "1,2"}, {"input_size": "big"}):
        save_file(state, path, metadata=meta | wrong)
        with pytest.raises(ValueError, match=next(iter(wrong))):
            load_backbone(SMALL, path)


def test_shipped_weights(small):
    assert (small.name, small.out_features, small.input_size) == (SMALL, 1024, 128)
    with pytest.raises(ValueError, match=SMALL):
        SilkClassifier(3, weights="silk-textures")
    images = torch.randn(8, 3, 128, 128, generator=torch.manual_seed(0))
    with torch.no_grad():
        features = small.eval()(images)
    assert torch.isfinite(features).all() and features.std(dim=0).max() > 0


def test_the_real_imagenet_file_tells_photographs_apart(shared):
    from silk_nb.features import load_pixels, normalise

    path = shared / "weights" / "mobilenet_v2-imagenet-tfslim.safetensors"
    with pytest.raises(ValueError, match="mean= and std="):
        load_backbone("mobilenet_v2", path)
    backbone = load_backbone("mobilenet_v2", path, mean=0.5, std=0.5).eval()
    assert backbone.input_size == 224
    images = sorted((shared / "data" / "clothing" / "images").iterdir())[:12]
    pixels = load_pixels(images, 224)
    with torch.no_grad():
        features = backbone(normalise(pixels, backbone.mean, backbone.std))
        mirrored = backbone(normalise(pixels.flip(3), backbone.mean, backbone.std))
    assert torch.isfinite(features).all()
    unit = nn.functional.normalize(features)
    likeness = unit @ nn.functional.normalize(mirrored).T
    # a photograph is most like its own mirror image: so much an ImageNet network must know
    assert (likeness.argmax(dim=1) == torch.arange(12)).all()
    assert (unit @ unit.T)[0, 1:].max() < 0.95


# ---------------------------------------------------------------- faults with weights

def _refused(path, *words, name="resnet18", error=ValueError):
    with pytest.raises(error) as caught:
        load_backbone(name, path, mean=0.5, std=0.5)
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))


def test_partial_loads_are_refused(resnet_file, tmp_path):
    from safetensors.torch import load_file

    state = load_file(resnet_file)
    path = tmp_path / "changed.safetensors"
    save_file({k: v for k, v in state.items() if k != "layer3.0.conv1.weight"}, path)
    _refused(path, "1 missing: layer3.0.conv1.weight", "changed.safetensors")
    save_file(state | {"extra.weight": torch.zeros(2)}, path)
    _refused(path, "1 unexpected: extra.weight")
    save_file(state | {"conv1.weight": torch.zeros(64, 3, 3, 3)}, path)
    _refused(path, "conv1.weight (64, 3, 3, 3) instead of (64, 3, 7, 7)")
    save_file(state | {"bn1.weight": torch.full((64,), float("nan"))}, path)
    _refused(path, "bn1.weight", "not finite")
    _refused(resnet_file, "missing", "unexpected", name="mobilenet_v2")


def test_damaged_and_odd_files(resnet_file, tmp_path):
    data = resnet_file.read_bytes()
    for name, content in {"cut.safetensors": data[:5_000_000], "empty.safetensors": b"",
                          "text.safetensors": b"hello" * 100, "text.pth": b"hello" * 100,
                          "empty.pt": b""}.items():
        (tmp_path / name).write_bytes(content)
        _refused(tmp_path / name, name)
    torch.save({"a": torch.zeros(3)}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:300])
    _refused(tmp_path / "cut.pth", "cut.pth", "damaged")
    torch.save([1, 2], tmp_path / "list.pt")
    _refused(tmp_path / "list.pt", "no state dict")
    torch.save({"epoch": 3, "model": {}}, tmp_path / "checkpoint.pt")
    _refused(tmp_path / "checkpoint.pt", "no plain state dict", "model.state_dict()")
    _refused(tmp_path / "nowhere.pth", "nowhere.pth", error=FileNotFoundError)
    (tmp_path / "weights.h5").write_bytes(b"x")
    _refused(tmp_path / "weights.h5", ".safetensors, .pt and .pth")
    (tmp_path / "folder.pt").mkdir()
    _refused(tmp_path / "folder.pt", "no weights file")


def test_weights_saved_from_data_parallel(tmp_path):
    network = load_backbone(SMALL, "silk-textures").network
    torch.save(nn.DataParallel(network).state_dict(), tmp_path / "parallel.pt")
    found = load_backbone(SMALL, tmp_path / "parallel.pt", mean=0.5, std=0.5).network.state_dict()
    for key, value in network.state_dict().items():
        assert torch.equal(found[key], value)


class _Trap:
    def __reduce__(self):
        return (os.mkdir, (str(_Trap.where),))


def test_code_in_a_pickle_is_not_run(tmp_path):
    _Trap.where = tmp_path / "owned"
    torch.save({"a": _Trap()}, tmp_path / "trap.pth")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(_Trap(), protocol=2))
    _refused(tmp_path / "trap.pth", "trap.pth", "safety")
    _refused(tmp_path / "bare.pt", "bare.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    _refused(tmp_path / "model.pt", "it holds torch.nn.modules.linear.Linear",
             "save model.state_dict(), not the model")
    for name in ("trap.pth", "model.pt"):
        with pytest.raises(ValueError) as caught:
            load_backbone("resnet18", tmp_path / name)
        assert str(caught.value).isprintable()  # torch's text has escapes for a terminal
    assert not _Trap.where.exists()


def test_unknown_weights_name_lists_the_known():
    with pytest.raises(ValueError, match="IMAGENET1K_V1, IMAGENET1K_V2"):
        load_backbone("resnet50", "IMAGENET1K_V7")


@pytest.mark.parametrize("error", [
    urllib.error.URLError("no network"), TimeoutError("timed out"),
    urllib.error.HTTPError("u", 503, "unavailable", None, None), ConnectionResetError("reset"),
    RuntimeError('invalid hash value (expected "f2", got "00")'),
])
def test_what_cannot_be_fetched_is_an_error_and_nothing_is_left(monkeypatch, tmp_path, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(WeightsUnavailableError) as caught:
        SilkClassifier(4)
    text = str(caught.value)
    for word in ("resnet152-f82ba261.pth", str(tmp_path / "hub" / "checkpoints"), "weights=",
                 "mean=(0.485, 0.456, 0.406)", "std=", "input_size=224"):
        assert word in text, (word, text)
    assert caught.value.__cause__ is error
    assert not list((tmp_path / "hub").rglob("*.pth"))


def test_torchs_own_store_is_used_and_a_damaged_file_in_it_named(monkeypatch, tmp_path):
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    torch.manual_seed(3)
    state = get_model("resnet18", weights=None).state_dict()
    torch.save(state, folder / "resnet18-f37072fd.pth")
    for weights in ("DEFAULT", "IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1"):
        backbone = load_backbone("resnet18", weights)
        assert torch.equal(backbone.network.conv1.weight, state["conv1.weight"])
    assert backbone.std == (0.229, 0.224, 0.225) and backbone.input_size == 224
    (folder / "resnet18-f37072fd.pth").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="resnet18-f37072fd.pth"):
        load_backbone("resnet18")


def test_googlenet_expects_half_and_half_where_torchvision_rescales_inside(monkeypatch, tmp_path):
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    theirs = get_model("googlenet", weights=None, aux_logits=False, init_weights=False,
                       transform_input=True).eval()
    torch.save(theirs.state_dict(), folder / "googlenet-1378be20.pth")
    ours = load_backbone("googlenet", "IMAGENET1K_V1").eval()
    pixels = torch.rand(2, 3, 64, 64)

    def scaled(mean, std):
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, std))
        return (pixels - mean) / std

    theirs.fc = nn.Identity()
    with torch.no_grad():
        expected = theirs(scaled((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        torch.testing.assert_close(ours(scaled(ours.mean, ours.std)), expected)


@pytest.mark.parametrize("option", [{"mean": (1, 2)}, {"std": 0}, {"std": -1}, {"mean": "x"},
                                    {"std": float("nan")}, {"input_size": 31},
                                    {"input_size": 2.5}])
def test_bad_input_options(resnet_file, option):
    with pytest.raises(ValueError, match=next(iter(option))):
        load_backbone("resnet18", resnet_file, **{"mean": 0.5, "std": 0.5} | option)


def test_an_input_size_that_a_transformer_cannot_take():
    with pytest.raises(ValueError, match="input_size=100"):
        load_backbone("vit_b_16", None, input_size=100)


# ---------------------------------------------------------------- what is trained

def _step(model, images):
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    output = model(images)
    (output.logits.square().mean() + output.f_aux[:, 0].sum()).backward()
    optimiser.step()
    return {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}


@pytest.fixture
def images():
    return torch.randn(4, 3, 64, 64, generator=torch.manual_seed(1))


def test_frozen_backbone_never_changes(small, images):
    changed = _step(SilkClassifier(3, small, task_fc=(16, 8), seed=0), images)
    assert changed and all(key.startswith("head.") for key in changed)


def test_last_blocks_change_with_batch_norm_in_inference_mode(small, images):
    model = SilkClassifier(3, small, task_fc=(16, 8), trainable=2, seed=0)
    assert small.blocks()[-2:] == ["conv5.0", "conv5.1"]
    changed = {k for k in _step(model, images) if k.startswith("backbone.")}
    assert changed == {"backbone.network.conv5.0.weight", "backbone.network.conv5.1.weight",
                       "backbone.network.conv5.1.bias"}


def test_all_from_pretrained_keeps_batch_norm_statistics_and_from_random_trains_them(images):
    pretrained = SilkClassifier(3, SMALL, "silk-textures", task_fc=(8,), trainable="all", seed=0)
    random = SilkClassifier(3, SMALL, None, task_fc=(8,), trainable="all", seed=0)
    for model, trained in ((pretrained, False), (random, True)):
        changed = _step(model, images)
        assert "backbone.network.conv1.0.weight" in changed
        assert any("running_mean" in key for key in changed) == trained
        model.eval()
        assert not any(m.training for m in model.modules())


def test_trainable_can_be_changed_and_counts_the_parameters(small):
    model = SilkClassifier(3, small, task_fc=(8,), trainable="all")
    assert parameter_table(model).loc["backbone", "trained"] == 341792
    small.set_trainable("none")
    assert parameter_table(model).loc["backbone", "trained"] == 0
    assert parameter_table(model).loc["task_fc"].tolist() == [1024 * 8 + 8] * 2
    total = sum(p.numel() for p in model.parameters())
    assert parameter_table(model).loc["total", "parameters"] == total


@pytest.mark.parametrize("trainable", [0, -1, 21, 1.5, True, "some", "2"])
def test_bad_trainable(small, trainable):
    with pytest.raises(ValueError, match="trainable"):
        SilkClassifier(3, small, trainable=trainable)


def test_by_default_only_a_pretrained_backbone_is_frozen(small):
    random = SilkClassifier(5, SMALL, weights=None, seed=0)
    assert random.trainable == "all"
    assert all(p.requires_grad for p in random.backbone.parameters())
    assert SilkClassifier(5, load_backbone(SMALL, None, seed=0)).trainable == "all"
    assert SilkClassifier(5, small).trainable == "none"
    assert not any(p.requires_grad for p in small.parameters())


@pytest.mark.parametrize("trainable", ["none", 1])
def test_frozen_random_networks_are_refused(trainable):
    with pytest.raises(ValueError, match="knows nothing"):
        SilkClassifier(3, SMALL, None, trainable=trainable)
    with pytest.raises(ValueError, match="knows nothing"):
        SilkClassifier(3, load_backbone(SMALL, None), trainable=trainable)


# ---------------------------------------------------------------- random starts

def test_seeds_decide_and_the_global_generators_do_not_move():
    def states():
        return torch.get_rng_state(), np.random.get_state()[1].copy()

    before = states()
    build = {seed: [SilkClassifier(5, SMALL, None, trainable="all", seed=seed).state_dict()
                    for _ in range(2)] for seed in (0, 1, None)}
    after = states()
    assert torch.equal(before[0], after[0]) and (before[1] == after[1]).all()
    for seed, (one, two) in build.items():
        same = [k for k in one if k.endswith("weight") and one[k].ndim > 1
                and torch.equal(one[k], two[k])]
        assert bool(same) == (seed is not None), (seed, same)
    assert not torch.equal(build[0][0]["head.task_fc.0.weight"],
                           build[1][0]["head.task_fc.0.weight"])


def test_he_initialisation():
    head = SilkHead(2048, 40, seed=3)
    for layer in (head.task_fc[0], head.task_fc[2], head.classification):
        wanted = (2 / layer.in_features) ** 0.5
        values = layer.weight.detach().flatten()
        assert abs(values.std() / wanted - 1) < 0.05
        assert abs(values.mean()) < 4 * wanted / len(values) ** 0.5
        kurtosis = ((values / values.std()) ** 4).mean()
        assert 2.5 < kurtosis < 3.5  # normal; a uniform distribution has 1.8
        assert not layer.bias.any()


def test_random_backbone_of_every_device_context_is_the_same():
    default = load_backbone(SMALL, None, seed=5)
    with torch.device("cpu"):
        assert load_backbone(SMALL, None, seed=5).fingerprint() == default.fingerprint()


# ---------------------------------------------------------------- the head

def test_head_is_figure_one_written_out():
    head = SilkHead(6, 3, task_fc=(5, 4), seed=0).eval()
    x = torch.randn(7, 6)
    w1, w2, w3 = head.task_fc[0], head.task_fc[2], head.classification
    f_tfc = (x.relu() @ w1.weight.T + w1.bias).relu() @ w2.weight.T + w2.bias
    output = head(x)
    torch.testing.assert_close(output.logits, f_tfc.relu() @ w3.weight.T + w3.bias)
    torch.testing.assert_close(output.f_aux, f_tfc / f_tfc.norm(dim=1, keepdim=True))
    assert (output.f_aux < 0).any()  # no ReLU before the clustering head


def test_head_without_hidden_layer_and_dropout():
    head = SilkHead(6, 3, task_fc=(), dropout=0, seed=0).train()
    x = torch.randn(7, 6) + 1
    torch.testing.assert_close(head(x).f_aux, nn.functional.normalize(x.relu()))
    half = SilkHead(1000, 3, task_fc=(), dropout=0.3).train()
    dropped = (half(torch.ones(50, 1000)).f_aux == 0).float().mean()
    assert 0.28 < dropped < 0.32


def test_gradients_of_all_zero_features_are_finite():
    head = SilkHead(6, 3, task_fc=(4,), seed=0)
    x = torch.zeros(2, 6, requires_grad=True)
    output = head(x)
    (output.logits.sum() + output.f_aux.sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())


def test_empty_batch():
    assert SilkHead(6, 3, task_fc=(4,))(torch.zeros(0, 6)).logits.shape == (0, 3)


@pytest.mark.parametrize("options", [
    {"num_classes": 1}, {"num_classes": 2.0}, {"in_features": 0}, {"task_fc": (0,)},
    {"task_fc": (3, "x")}, {"dropout": 1}, {"dropout": -0.1},
])
def test_bad_heads(options):
    arguments = {"in_features": 4, "num_classes": 3} | options
    with pytest.raises(ValueError, match=next(iter(options))):
        SilkHead(arguments.pop("in_features"), arguments.pop("num_classes"), **arguments)


def test_bad_inputs(small):
    model = SilkClassifier(3, small).eval()
    for images, says in ((torch.zeros(3, 64, 64), "N×3×S×S"), (torch.zeros(1, 4, 64, 64), "3×S"),
                         (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "normalise")):
        with pytest.raises(ValueError, match=says):
            model(images)
    with pytest.raises(ValueError, match="N×1024"):
        model.head(torch.zeros(2, 10))
    with pytest.raises(ValueError, match="belong to the backbone"):
        SilkClassifier(3, small, mean=0.5)


# ---------------------------------------------------------------- fingerprint

def test_fingerprint_depends_on_everything_and_not_on_mode_or_layout(small, resnet_file):
    first = small.fingerprint()
    assert len(first) == 64
    assert load_backbone(SMALL, "silk-textures").fingerprint() == first
    assert small.set_trainable("all").train().fingerprint() == first
    assert small.to(memory_format=torch.channels_last).fingerprint() == first
    others = [load_backbone(SMALL, "silk-textures", **option).fingerprint()
              for option in ({"mean": 0.4}, {"std": 0.4}, {"input_size": 96})]
    with torch.no_grad():
        small.network.conv5[0].weight[0, 0, 0, 0] += 1e-6
    assert len({first, small.fingerprint(), *others}) == 5


def test_fingerprint_is_the_same_in_another_process(small):
    code = ("from silk_nb.model import load_backbone;"
            f"print(load_backbone({SMALL!r}, 'silk-textures').fingerprint())")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         env=os.environ | {"PYTHONHASHSEED": "5"},
                         cwd=Path(model_module.__file__).parents[1])
    assert run.stdout.strip() == small.fingerprint()


# ---------------------------------------------------------------- own backbones, drawing

def test_own_network_as_a_backbone():
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    own = Backbone(network, name="own", out_features=5, input_size=16, mean=(0,) * 3, std=(1,) * 3)
    assert SilkClassifier(2, own, task_fc=(4,))(torch.zeros(3, 3, 16, 16)).logits.shape == (3, 2)
    assert own.blocks() == ["0"]


def test_the_drawing_says_what_the_model_is(small):
    import matplotlib

    matplotlib.use("Agg")
    ax = plot_architecture(SilkClassifier(3, small, task_fc=(32, 16), dropout=0.5, trainable=2))
    text = "\n".join(t.get_text() for t in ax.texts)
    for word in ("3×128×128", SMALL, "last 2 blocks trained", "dropout 0.5", "32 → 16",
                 "3 classes", "16 features", "1024 features"):
        assert word in text


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("c++")),
                    reason="torch.compile wants a C++ compiler, and there is none")
def test_a_compiled_network_computes_and_learns_the_same():
    found, images = [], torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for ways in ([], ["compile"]):
        backbone = load_backbone("squeezenet1_1", None, seed=0, input_size=64)
        model = speed_up(SilkClassifier(3, backbone, trainable="all", task_fc=(8,), dropout=0.0,
                                        seed=0), ways)
        out = model(images)
        (out.logits.sum() + out.f_aux.sum()).backward()
        found.append({"logits": out.logits, "f_aux": out.f_aux,
                      **{name: p.grad for name, p in model.named_parameters()}})
    assert found[0].keys() == found[1].keys()  # weights keep their names
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, atol=1e-4, rtol=1e-4)
