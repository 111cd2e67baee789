"""Pixels, the feature cache and its mishaps, batches."""
import errno
import math
import multiprocessing
import resource
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import silk_nb.features as features_module
from silk_nb.annotations import open_image
from silk_nb.colour import DescriptorTable, colour_descriptor
from silk_nb.features import (
    CacheWarning,
    FeatureData,
    ImageChangedError,
    ImageData,
    ahead,
    decode_image,
    default_cache,
    extract_descriptors,
    extract_features,
    fastest_precision,
    load_pixels,
    normalise,
    plot_features,
)
from silk_nb.model import Backbone, SilkClassifier, load_backbone


class Counting(nn.Module):
    """Three tiny filters and a pool; counts calls, and stops after some when told to."""

    def __init__(self, fail_after=None):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.filters = nn.Conv2d(3, 4, 3, stride=2)
        self.calls, self.sizes, self.fail_after = 0, [], fail_after

    def forward(self, images):
        if self.calls == self.fail_after:
            raise KeyboardInterrupt
        self.calls += 1
        self.sizes.append(len(images))
        return self.filters(images).relu().mean(dim=(2, 3))


def tiny(**options):
    return Backbone(Counting(**options), name="tiny", out_features=4, input_size=32,
                    mean=(0.5,) * 3, std=(0.25,) * 3)


def write_images(folder, count, size=24, seed=0):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{n:03}.png" for n in range(count)]
    for path in paths:
        coarse = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((size * 2, size), 0).save(path)
    return paths


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images", 10)


@pytest.fixture
def one_thread():
    """One chunk after the other, so that what was done by when is known."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def extract(paths, backbone=None, **options):
    options = {"quiet": True, "batch_size": 4} | options
    return extract_features(paths, backbone or tiny(), **options)


# ---------------------------------------------------------------- pixels

def test_pixels_are_the_whole_image_straight_to_a_square_in_order(images):
    pixels = load_pixels(images, 16, workers=3)
    assert pixels.shape == (10, 3, 16, 16) and pixels.dtype == torch.uint8
    for path, found in zip(images, pixels, strict=True):
        with Image.open(path) as image:
            wanted = torch.from_numpy(np.array(image.resize((16, 16), Image.BILINEAR)))
        assert torch.equal(found, wanted.permute(2, 0, 1))


def test_pixels_agree_with_torchvision(images):
    from torchvision.transforms.v2 import functional as F

    for path, found in zip(images, load_pixels(images, 16), strict=True):
        with Image.open(path) as image:
            tensor = F.pil_to_tensor(image)
        theirs = F.resize(tensor, [16, 16], antialias=True).int()
        assert (found.int() - theirs).abs().max() <= 1


def test_shrinking_averages_all_pixels(tmp_path):
    board = np.indices((64, 64)).sum(0) % 2 * 255  # without antialiasing: all black or white
    Image.fromarray(board.astype(np.uint8)).convert("RGB").save(tmp_path / "board.png")
    assert (load_pixels([tmp_path / "board.png"], 8).float() - 127.5).abs().max() < 3


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 255), st.floats(-1, 2), st.floats(0.01, 3))
def test_normalise(value, mean, std):
    pixels = torch.full((1, 3, 2, 2), value, dtype=torch.uint8)
    found = normalise(pixels, (mean, 0.0, mean), (std, 1.0, 2 * std))
    wanted = torch.tensor([(value / 255 - mean) / std, value / 255, (value / 255 - mean) / std / 2])
    torch.testing.assert_close(found[0, :, 0, 1], wanted.float(), atol=1e-4, rtol=1e-4)
    assert (pixels == value).all()


@pytest.mark.parametrize("mode, turned", [("RGB", 1), ("L", 6), ("CMYK", 1)])
def test_a_large_jpeg_is_decoded_smaller_and_gives_the_same_square(mode, turned, tmp_path):
    small = np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8)
    photo = Image.fromarray(small).resize((2000, 3000), Image.Resampling.BICUBIC).convert(mode)
    exif = Image.Exif()
    exif[274] = turned  # orientation
    photo.save(tmp_path / "large.jpg", quality=95, exif=exif)
    whole = open_image(tmp_path / "large.jpg")
    assert {whole.size} <= {(2000, 3000), (3000, 2000)}
    assert max(open_image(tmp_path / "large.jpg", least=896).size) == 1500
    for size in (96, 224):
        found, = decode_image(tmp_path / "large.jpg", (size,))
        wanted = np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(found - wanted).max() <= 1
    assert np.array_equal(decode_image(tmp_path / "large.jpg", (500,))[0],  # 4 · 500 > 3000 / 2
                          np.asarray(whole.resize((500, 500), Image.Resampling.BILINEAR)))


@pytest.mark.parametrize("shape, mean, told", [
    ((1, 1, 3, 3), (0.5,) * 3, "N×3×H×W"), ((4, 20, 30, 3), (0.5,) * 3, "N×3×H×W"),
    ((3, 8, 8), (0.5,) * 3, "N×3×H×W"), ((0, 6, 2, 2), (0.5,) * 3, "N×3×H×W"),
    ((1, 3, 8, 8), (0.5,), "three channels"), ((1, 3, 8, 8), (0.5,) * 4, "three channels")])
def test_normalise_refuses_what_does_not_fit(shape, mean, told):
    with pytest.raises(ValueError, match=told):
        normalise(torch.zeros(shape, dtype=torch.uint8), mean, (1,) * 3)


def test_normalise_refuses_floats():
    with pytest.raises(ValueError, match="uint8"):
        normalise(torch.zeros(1, 3, 2, 2), (0,) * 3, (1,) * 3)


@pytest.mark.parametrize("spoil", ["cut", "text", "empty", "folder", "gone"])
def test_an_image_that_cannot_be_read_is_named(images, tmp_path, spoil):
    bad = images[6]
    if spoil == "cut":
        bad.write_bytes(bad.read_bytes()[:60])
    elif spoil in ("text", "empty"):
        bad.write_bytes(b"no image" * (spoil == "text"))
    else:
        bad.unlink()
        if spoil == "folder":
            bad.mkdir()
    error = FileNotFoundError if spoil == "gone" else ValueError
    with pytest.raises(error, match="006.png"):
        load_pixels(images, 16)
    with pytest.raises(error, match="006.png"):
        extract(images, cache=tmp_path / "cache")
    if spoil in ("cut", "text", "empty"):  # what came before it is kept: the first batch
        backbone = tiny()
        extract(images[:4], backbone, cache=tmp_path / "cache")
        assert backbone.network.calls == 0


# ---------------------------------------------------------------- features

def test_features_are_what_the_network_says_and_colours_those_of_224_pixels(images):
    backbone = tiny()
    features, descriptors = extract(images, backbone)
    pixels = load_pixels(images, 32)
    with torch.no_grad():
        wanted = backbone(normalise(pixels, backbone.mean, backbone.std))
    torch.testing.assert_close(features, wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(descriptors, colour_descriptor(load_pixels(images, 224), 5))
    assert features.dtype == descriptors.dtype == torch.float32
    assert not features.requires_grad
    assert features.std(dim=0).min() > 0
    assert torch.equal(extract_descriptors(images, quiet=True), descriptors)
    assert extract(images, backbone, resolution=3)[1].shape == (10, 9)


def test_cached_equals_uncached_to_the_bit(images, tmp_path):
    plain = extract(images)
    first = extract(images, cache=tmp_path / "cache")
    backbone = tiny()
    second = extract(images, backbone, cache=tmp_path / "cache")
    for a, b, c in zip(plain, first, second, strict=True):
        assert torch.equal(a, b) and torch.equal(b, c)
    assert backbone.network.calls == 0
    other_batches = extract(images, batch_size=3)
    torch.testing.assert_close(other_batches, plain, atol=1e-5, rtol=1e-5)


def test_cached_features_train_the_same_head_as_images(images, tmp_path):
    backbone = load_backbone("shufflenet_v2_x0_5", "silk-textures")
    model = SilkClassifier(3, backbone, seed=0).train()
    labels = np.arange(10) % 3
    features, descriptors = extract(images, backbone, cache=tmp_path / "cache")
    assert backbone.training  # the mode was given back
    short = FeatureData(features, labels, descriptors)
    long = ImageData(images, labels, size=128, mean=backbone.mean, std=backbone.std,
                     descriptors=descriptors)
    model.head.eval()
    for indices in ([0, 9, 3], torch.tensor([5]), np.array([7, 7, 1])):
        one, two = short.batch(indices), long.batch(indices)
        assert torch.equal(one.labels, two.labels)
        assert torch.equal(one.descriptors, two.descriptors)
        with torch.no_grad():
            cached, whole = model.head(one.inputs), model(two.inputs)
        torch.testing.assert_close(cached, whole, atol=1e-5, rtol=1e-5)


def test_a_backbone_in_training_mode_is_run_in_inference_mode(images):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5),
                            nn.AdaptiveAvgPool2d(1), nn.Flatten())
    backbone = Backbone(network, name="norm", out_features=4, input_size=16, mean=(0,) * 3,
                        std=(1,) * 3, pretrained=False).train()
    state = {k: v.clone() for k, v in backbone.state_dict().items()}
    assert torch.equal(extract(images, backbone)[0], extract(images, backbone)[0])
    assert all(torch.equal(v, state[k]) for k, v in backbone.state_dict().items())
    assert backbone.training and network[1].training


def test_order_and_copies(images, tmp_path):
    features, descriptors = extract(images)
    copy = shutil.copy(images[2], tmp_path / "copy.png")
    mixed = [images[7], images[2], copy, images[2], str(images[0])]
    backbone = tiny()
    found = extract(mixed, backbone, cache=tmp_path / "cache")
    rows = [7, 2, 2, 2, 0]
    torch.testing.assert_close(found, (features[rows], descriptors[rows]), atol=1e-5, rtol=1e-5)
    assert backbone.network.sizes == [3]


def test_no_images():
    features, descriptors = extract([])
    assert features.shape == (0, 4) and descriptors.shape == (0, 25)


def test_features_that_are_no_numbers_are_refused(images, tmp_path):
    backbone = tiny()
    with torch.no_grad():
        backbone.network.filters.bias[0] = float("inf")
    with pytest.raises(ValueError, match="000.png"):
        extract(images, backbone, cache=tmp_path / "cache")


@pytest.mark.parametrize("option", [{"batch_size": 0}, {"batch_size": 2.5}, {"resolution": 0}])
def test_bad_options(images, option):
    with pytest.raises(ValueError, match=next(iter(option))):
        extract(images, **option)


# ---------------------------------------------------------------- ahead of the network

def test_ahead_keeps_the_order_and_begins_only_a_few():
    begun, gates = [], [threading.Event() for _ in range(20)]

    def slow(n):
        begun.append(n)
        if n < 3:
            gates[n].wait(60)  # the later ones of these are ready first
        return n

    def open_gates():
        for n in (2, 1, 0):
            gates[n].set()

    threading.Timer(0.05, open_gates).start()
    results = ahead(slow, range(20), workers=3)
    assert next(results) == 0 and max(begun) <= 3
    assert list(results) == list(range(1, 20))


@pytest.mark.parametrize("items", ["items", "results"])
def test_ahead_tells_of_an_error_where_it_is_due_and_ends_its_threads(items):
    def fail(n):
        if n == 4:
            raise KeyError(n)
        return n

    threads, found = threading.active_count(), []
    with pytest.raises(KeyError, match="4"):
        if items == "items":
            results = ahead(int, map(fail, range(9)), workers=1, waiting=1)
        else:
            results = ahead(fail, range(9), workers=2)
        for n in results:
            found.append(n)
    assert found == [0, 1, 2, 3] and threading.active_count() == threads


def test_ahead_that_is_closed_begins_nothing_more(one_thread):
    begun = []
    results = ahead(begun.append, range(100), workers=1)
    next(results)
    results.close()
    assert len(begun) <= 2 and torch.get_num_threads() == 1
    assert list(ahead(int, [])) == []


def test_the_files_of_later_chunks_are_read_while_the_network_works(images, monkeypatch):
    """What a graphics card has: batches are decoded while it works, two are under way at once."""
    backbone, events, decode = tiny(), [], features_module.decode_image
    ready = threading.Event()

    def tell(path, *rest):
        events.append(int(path.stem))
        if path == images[9]:
            ready.set()
        return decode(path, *rest)

    monkeypatch.setattr(features_module, "decode_image", tell)

    def wait(*_):
        assert ready.wait(60)

    backbone.register_forward_hook(wait)
    work = features_module._Work(backbone.eval(), torch.device("cpu"), "float32")
    keys = features_module.image_keys(images)
    chunks = [list(zip(images, keys, strict=True))[n:n + 2] for n in range(0, 10, 2)]
    monkeypatch.setattr(features_module.os, "cpu_count", lambda: 8)
    found = list(features_module._on_device(work, iter(chunks), colour_descriptor))
    assert sorted(events) == list(range(10))  # all were read while the first was with the network
    for at, table in enumerate(extract(images)):
        whole = torch.cat([row[at] for row in found])
        torch.testing.assert_close(whole, table, atol=1e-5, rtol=1e-5)


def test_bfloat16_is_near_float32_and_never_takes_its_place(images, tmp_path):
    cache, exact = tmp_path / "cache", extract(images)
    half = extract(images, cache=cache, precision="bf16")
    assert half[0].dtype == torch.float32 and torch.equal(half[1], exact[1])
    assert not torch.equal(half[0], exact[0])
    torch.testing.assert_close(half[0], exact[0], atol=0.02, rtol=0.02)
    assert torch.equal(extract(images, cache=cache)[0], exact[0])
    backbone = tiny()
    assert torch.equal(extract(images, backbone, cache=cache, precision="bf16")[0], half[0])
    assert backbone.network.calls == 0 and len(list(cache.iterdir())) == 2
    # caches of before, when it had another name
    known = backbone.name, backbone.fingerprint(), 5, "bfloat16"
    assert features_module.cache_folder(cache, *known).exists()


@pytest.mark.parametrize("half,wanted", [(1.7, "bf16"), (1.9, "float32"), (2.5, "float32"),
                                         (math.inf, "float32")])
def test_the_faster_precision_is_measured_once(images, tmp_path, monkeypatch, half, wanted):
    taken, calls = {"float32": 2.0, "bf16": half}, []

    def seconds(backbone, place, precision, count):
        assert not backbone.training and torch.get_num_threads() == 1
        calls.append(precision)
        return taken[precision]

    monkeypatch.setattr(features_module, "_fastest", {})
    monkeypatch.setattr(features_module, "_seconds", seconds)
    backbone = tiny().train()
    assert fastest_precision(backbone) == wanted and backbone.training
    measured = len(calls)
    found = extract(images, backbone, precision="fastest", cache=tmp_path)
    assert torch.equal(found[0], extract(images, precision=wanted)[0])
    assert fastest_precision(backbone, "cpu") == wanted and len(calls) == measured
    other = tiny()
    other.input_size = 24
    fastest_precision(other)
    assert len(calls) == 2 * measured


def test_a_device_without_bfloat16_is_told_apart_from_a_network_that_fails(images):
    class Whole(Counting):
        def forward(self, images):
            if torch.is_autocast_enabled("cpu"):
                raise RuntimeError("no such numbers here")
            return super().forward(images)

    backbone = tiny()
    backbone.network = Whole()
    backbone.name = "whole"
    assert fastest_precision(backbone) == "float32"
    broken = tiny(fail_after=0)
    broken.name = "broken"
    broken.network.filters = nn.Linear(1, 1)
    broken.network.fail_after = None
    with pytest.raises(RuntimeError):
        fastest_precision(broken)


def test_many_images_have_the_same_descriptors_as_few(images, monkeypatch):
    assert isinstance(features_module._describer(5, 151), DescriptorTable)
    few = extract(images, resolution=4)
    monkeypatch.setattr(features_module, "_describer", lambda r, _: DescriptorTable(r))
    assert all(torch.equal(a, b) for a, b in zip(extract(images, resolution=4), few, strict=True))


def test_a_precision_that_is_none(images):
    with pytest.raises(ValueError, match="precision must be one of float32, bf16 and fastest"):
        extract(images, precision="float16")


# ---------------------------------------------------------------- the cache

def test_the_key_is_content_network_and_preprocessing(images, tmp_path, monkeypatch):
    cache = tmp_path / "cache"

    def calls(backbone, paths=images, **options):
        found = extract(paths, backbone, cache=cache, **options)
        torch.testing.assert_close(found, extract(paths, backbone.eval(), **options))
        sizes = backbone.network.sizes[:-3] if len(paths) == 10 else backbone.network.sizes
        return sorted(sizes, reverse=True)  # threads may change their order

    assert calls(tiny()) == [4, 4, 2]
    assert calls(tiny()) == []
    moved = [path.rename(path.with_name(f"moved-{path.name}")) for path in images]
    assert calls(tiny(), moved) == []
    write_images(tmp_path / "new", 1, seed=9)[0].replace(moved[3])
    assert calls(tiny(), moved) == [1]

    other = tiny()
    with torch.no_grad():
        other.network.filters.weight[0, 0, 0, 0] += 0.1
    assert calls(other, moved) == [4, 4, 2]
    for name, value in (("mean", (0.4,) * 3), ("std", (0.2,) * 3), ("input_size", 24)):
        other = tiny()
        setattr(other, name, value)
        assert calls(other, moved) == [4, 4, 2], name
    assert calls(tiny(), moved, resolution=4) == [4, 4, 2]
    monkeypatch.setattr(features_module, "_PREPROCESSING", "2: another way")
    assert calls(tiny(), moved) == [4, 4, 2]


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_an_interrupted_extraction_goes_on(tmp_path, monkeypatch, one_thread, stop):
    monkeypatch.setattr(features_module, "_SHARD_IMAGES", 8)
    images = write_images(tmp_path / "images", 18)
    with pytest.raises(KeyboardInterrupt):
        extract(images, tiny(fail_after=stop), cache=tmp_path / "cache")
    backbone = tiny()
    found = extract(images, backbone, cache=tmp_path / "cache")
    assert sum(backbone.network.sizes) == 18 - 4 * stop
    assert all(torch.equal(a, b) for a, b in zip(found, extract(images), strict=True))


_KILLED = """
import sys, os, signal, torch
sys.path[:0] = {path!r}
import silk_nb.features as module
from test_features import tiny, extract
module._SHARD_IMAGES = 8
torch.set_num_threads(1)
backbone = tiny()
def stop(*_):
    if backbone.network.calls == 4:
        os.kill(os.getpid(), signal.SIGKILL)
backbone.register_forward_hook(stop)
extract({images!r}, backbone, cache={cache!r})
"""


def test_a_killed_extraction_goes_on(tmp_path):
    images = write_images(tmp_path / "images", 18)
    root = Path(__file__).parents[1]
    code = _KILLED.format(path=[str(root), str(root / "tests")],
                          images=[str(p) for p in images], cache=str(tmp_path / "cache"))
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 1
    backbone = tiny()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = extract(images, backbone, cache=tmp_path / "cache")
    assert sum(backbone.network.sizes) == 10  # the shard of eight survived
    assert all(torch.equal(a, b) for a, b in zip(found, extract(images), strict=True))


@pytest.mark.parametrize("damage", ["cut", "empty", "flip", "foreign", "folder", "half"])
def test_a_damaged_shard_is_named_left_alone_and_replaced(images, tmp_path, damage):
    cache = tmp_path / "cache"
    before = extract(images, cache=cache)
    shard, = cache.rglob("shard-*.safetensors")
    data = shard.read_bytes()
    bad = {"cut": data[:-7], "empty": b"", "foreign": data, "folder": b"", "half": data,
           "flip": data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]}[damage]
    shard.write_bytes(bad)
    if damage == "half":  # of the right shape and checksum, but not written by this package
        rows = safetensors.torch.load(data)
        rows["features"] = rows["features"].half()
        rows["checksum"] = features_module._checksum(rows)
        bad = safetensors.torch.save(rows)
        shard.write_bytes(bad)
    if damage == "foreign":
        other = Backbone(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), name="other",
                         out_features=3, input_size=8, mean=(0,) * 3, std=(1,) * 3)
        extract(images, other, cache=tmp_path / "two")
        bad = next((tmp_path / "two").rglob("shard-*")).read_bytes()
        shard.write_bytes(bad)
    if damage == "folder":
        shard.unlink()
        shard.mkdir()
    backbone = tiny()
    with pytest.warns(CacheWarning, match=f"{shard.name}.* it may be deleted") as caught:
        after = extract(images, backbone, cache=cache)
    assert len(caught) == 1
    assert sum(backbone.network.sizes) == 10
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert shard.is_dir() if damage == "folder" else shard.read_bytes() == bad
    with pytest.warns(CacheWarning):
        extract(images, backbone, cache=cache)
    assert sum(backbone.network.sizes) == 10  # the new shard serves


def test_foreign_files_in_the_cache_do_not_matter(images, tmp_path):
    extract(images, cache=tmp_path / "cache")
    folder, = (tmp_path / "cache").iterdir()
    (folder / ".shard-half.safetensors").write_bytes(b"being written")
    (folder / "notes.txt").write_text("mine")
    backbone = tiny()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extract(images, backbone, cache=tmp_path / "cache")
    assert backbone.network.calls == 0


def _fill(paths, cache, barrier):
    """What each of two processes does at the same time; its tables as arrays."""
    barrier.wait(timeout=120)
    for _ in range(2):
        found = extract(paths, tiny(), cache=cache)
    return [table.numpy() for table in found]


def _fill_elsewhere(paths, cache, barrier, results):
    torch.set_num_threads(1)
    features_module._SHARD_IMAGES = 4
    results.put(_fill(paths, cache, barrier))


def test_two_processes_share_one_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(features_module, "_SHARD_IMAGES", 4)
    images = write_images(tmp_path / "images", 48)
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    other = context.Process(target=_fill_elsewhere,
                            args=(images, tmp_path / "cache", barrier, results))
    other.start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [_fill(images, tmp_path / "cache", barrier), results.get(timeout=120)]
    other.join()
    assert other.exitcode == 0
    for tables in found:
        for table, want in zip(tables, extract(images), strict=True):
            np.testing.assert_allclose(table, want.numpy(), atol=1e-5)
    backbone = tiny()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extract(images, backbone, cache=tmp_path / "cache")
    assert backbone.network.calls == 0


def test_a_cache_that_is_a_file(images, tmp_path):
    (tmp_path / "file").write_text("x")
    for cache in (tmp_path / "file", tmp_path / "file" / "below"):
        backbone = tiny()
        with pytest.raises(OSError, match=r"feature cache cannot be used \([^)]*\); give another "
                           "folder") as caught:  # no more room would help
            extract(images, backbone, cache=cache)
        assert str(tmp_path / "file") in str(caught.value)
        assert backbone.network.calls == 0


def test_no_space_leaves_nothing_half_written(images, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
        with pytest.raises(OSError, match="make room or give another") as caught:
            extract(images, cache=tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    folder, = (tmp_path / "cache").iterdir()
    assert not list(folder.iterdir())


def test_an_image_replaced_while_it_is_read_is_not_filed_wrongly(images, tmp_path, one_thread):
    before, backbone = extract(images), tiny()

    def replace(*_):
        write_images(tmp_path / "images", 10, seed=5)

    backbone.register_forward_hook(replace)
    with pytest.raises(ImageChangedError, match="004.png changed while"):
        extract(images, backbone, cache=tmp_path / "cache")
    write_images(tmp_path / "images", 10)
    backbone = tiny()
    after = extract(images, backbone, cache=tmp_path / "cache")
    assert sum(backbone.network.sizes) == 6  # the first four are kept by what they were
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_bar_says_what_is_computed(images, capfd):
    extract_descriptors(images)
    told = capfd.readouterr().err
    assert "colours:" in told and "features" not in told
    extract(images, quiet=False)
    assert "features:" in capfd.readouterr().err


def test_descriptors_have_a_cache_of_their_own(images, tmp_path, monkeypatch):
    first = extract_descriptors(images, cache=tmp_path / "cache", quiet=True)
    monkeypatch.setattr(features_module, "decode_image", None)
    assert torch.equal(extract_descriptors(images, cache=tmp_path / "cache", quiet=True), first)


def test_the_bar_counts_images_and_can_be_quiet(images, tmp_path, capfd):
    extract(images, cache=tmp_path / "cache")
    assert capfd.readouterr() == ("", "")
    extract(write_images(tmp_path / "more", 3, seed=8) + images, cache=tmp_path / "cache",
            quiet=False)
    assert "13/13" in capfd.readouterr().err


def test_default_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SILK_NB_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.setenv("SILK_NB_CACHE", "")
    assert "silk_nb" in str(default_cache())


# ---------------------------------------------------------------- batches

def test_batches_hold_what_was_asked_for_in_that_order():
    rows = torch.arange(12.0).view(6, 2)
    data = FeatureData(rows, [0, 1, 2, 0, 1, 2], torch.arange(6.0)[:, None])
    batch = data.batch([4, 0])
    assert batch.inputs.tolist() == [[8, 9], [0, 1]]
    assert batch.labels.tolist() == [1, 0] and batch.labels.dtype == torch.int64
    assert batch.descriptors.tolist() == [[4], [0]]
    assert len(data) == 6
    assert FeatureData(torch.zeros(2, 3), np.array([0, 1], np.int8)).batch([1]).descriptors is None
    assert len(data.batch([]).labels) == 0
    with pytest.raises(IndexError):
        data.batch([6])


@pytest.mark.parametrize("labels", [[0.0, 1.0], [[0, 1]], [0, -1], ["a", "b"], [0], [0, 1, 1]])
def test_bad_labels(labels, images):
    with pytest.raises(ValueError, match="labels"):
        FeatureData(torch.zeros(2, 3), labels)
    with pytest.raises(ValueError, match="labels"):
        ImageData(images[:2], labels, size=8, mean=(0,) * 3, std=(1,) * 3)


def test_other_bad_lengths_and_indices(images):
    with pytest.raises(ValueError, match="3 descriptors for 2 images"):
        FeatureData(torch.zeros(2, 3), [0, 1], torch.zeros(3, 25))
    with pytest.raises(ValueError, match="1 descriptors for 2 images"):
        ImageData(images[:2], [0, 1], size=8, mean=(0,) * 3, std=(1,) * 3,
                  descriptors=torch.zeros(1, 25))
    for indices in ([0.5], [True], [[0]]):
        with pytest.raises(ValueError, match="indices"):
            FeatureData(torch.zeros(2, 3), [0, 1]).batch(indices)


def test_plot_features_orders_classes_by_frequency():
    import matplotlib

    matplotlib.use("Agg")
    names = ["rare"] * 2 + ["often"] * 5 + ["some"] * 3
    ax = plot_features(torch.randn(10, 6, generator=torch.manual_seed(0)), names)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "often (5)", "some (3)", "rare (2)"]
    with pytest.raises(ValueError, match="length N"):
        plot_features(torch.zeros(3, 6), names)
