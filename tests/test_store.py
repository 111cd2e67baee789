"""The store of pixels: what it holds, its mishaps, batches ahead of the loop, augmentation."""
import errno
import gc
import multiprocessing
import os
import pickle
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

import silk_nb.store as store_module
from silk_nb.features import CacheWarning, FeatureData, ImageChangedError, ImageData
from silk_nb.samplers import ClassBalancedBatchSampler, RandomBatchSampler
from silk_nb.store import AUGMENTATIONS, ImageStore, StoredData, augmentation, build_store

OWN = np.random.default_rng(0)
LOOK = {"mean": (0.5, 0.4, 0.3), "std": (0.25, 0.2, 0.3)}


def write_images(folder, count, seed=0, height=24, suffix=".png"):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{n:03}{suffix}" for n in range(count)]
    for path in paths:
        coarse = rng.integers(0, 256, (height, 2 * height, 3), dtype=np.uint8)
        Image.fromarray(coarse).save(path)
    return paths


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images", 30)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def small_shards(monkeypatch):
    """Seven images of 16 px in each shard."""
    monkeypatch.setattr(store_module, "_SHARD_BYTES", 7 * 3 * 16**2)


def build(paths, cache, size=16, **options):
    return build_store(paths, size, cache=cache, **{"quiet": True} | options)


def decoded(paths, size=16, labels=None, **options):
    return ImageData(paths, np.arange(len(paths)) % 3 if labels is None else labels, size=size,
                     **LOOK, **options)


def stored(paths, cache, size=16, labels=None, **options):
    labels = np.arange(len(paths)) % 3 if labels is None else labels
    return StoredData(build(paths, cache, size), labels, **LOOK, **options)


def same(one, two):
    return all(a is b is None or torch.equal(a, b) for a, b in zip(one, two, strict=True))


def shards(cache):
    return sorted(cache.rglob("shard-*.safetensors"))


def forbid_decoding(monkeypatch):
    def decode_image(path, *_):
        raise AssertionError(f"{path} is decoded")
    monkeypatch.setattr(store_module, "decode_image", decode_image)


# ---------------------------------------------------------------- what it holds

def test_batches_equal_those_of_image_data_to_the_bit(images, cache, small_shards):
    colours = torch.rand(30, 25)
    one, two = (make(images, *rest, descriptors=colours) for make, rest in (
        (decoded, ()), (stored, (cache,))))
    assert len(two) == 30 and torch.equal(one.labels, two.labels) and two.descriptors is colours
    for indices in ([5, 29, 0, 5], torch.tensor([3]), np.arange(30), [], [-1]):
        a, b = one.batch(indices), two.batch(indices)
        assert same(a, b) and a.inputs.stride() == b.inputs.stride()
    parts = torch.arange(30).split(13)
    assert [len(batch.inputs) for _, batch in two.batches(parts)] == [13, 13, 4]
    for (at, a), (there, b) in zip(one.batches(parts), two.batches(parts), strict=True):
        assert torch.equal(at, there) and same(a, b)
    with pytest.raises(IndexError):
        two.batch([30])


def test_an_image_is_decoded_once_whatever_its_name(images, cache, small_shards, monkeypatch):
    build(images[:20], cache)
    assert [len(store_module._open_shard(path, 16).keys) for path in shards(cache)] in (
        [7, 7, 6], [7, 6, 7], [6, 7, 7])
    copy = Path(shutil.copy(images[2], images[2].with_name("copy.png")))
    seen, decode = [], store_module.decode_image
    monkeypatch.setattr(store_module, "decode_image",
                        lambda path, *rest: (seen.append(path), decode(path, *rest))[1])
    mixed = [images[25], copy, images[2], images[0], images[25]]
    store = build(mixed, cache)
    assert seen == [images[25]]
    assert torch.equal(store.pixels(range(5)), decoded(mixed).pixels(range(5)))
    assert torch.equal(store.take([4, 1]).pixels([1, 0]), decoded(mixed).pixels([1, 4]))
    forbid_decoding(monkeypatch)
    build(images[:20], cache)


def test_sizes_do_not_meet(images, cache):
    small, large = build(images, cache, 16), build(images, cache, 20)
    assert small.pixels([1]).shape[2:] == (16, 16) and large.pixels([1]).shape[2:] == (20, 20)
    assert len(list(cache.iterdir())) == 2


def test_batches_are_no_part_of_the_store(images, cache):
    store = build(images, cache)
    pixels = store.pixels([0])
    pixels.fill_(7)
    assert not (store.pixels([0]) == 7).all()


def test_a_store_can_be_sent_to_another_process_and_closes_its_files(images, cache, small_shards):
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    store = build(images, cache)
    sent = pickle.loads(pickle.dumps(store))
    assert torch.equal(sent.pixels(range(30)), store.pixels(range(30)))
    assert len(pickle.dumps(store)) < 20_000  # the pixels stay where they are
    del store, sent
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == open_files


def test_no_images(cache):
    store = build([], cache)
    assert len(store) == 0 and store.pixels([]).shape == (0, 3, 16, 16)


@pytest.mark.parametrize("size", [0, -3, 2.0, True, "16"])
def test_bad_sizes(images, cache, size):
    with pytest.raises(ValueError, match="size must be a whole number of pixels"):
        build(images, cache, size)
    assert not cache.exists()


def test_bad_labels(images, cache):
    store = build(images, cache)
    with pytest.raises(ValueError, match="2 labels for 30 images"):
        StoredData(store, [0, 1], **LOOK)
    with pytest.raises(ValueError, match="1 descriptors for 30 images"):
        StoredData(store, np.zeros(30, int), descriptors=torch.zeros(1, 25), **LOOK)


def test_the_bar_counts_images_and_can_be_quiet(images, cache, capfd):
    build(images[:20], cache)
    assert capfd.readouterr() == ("", "")
    build(images, cache, quiet=False)
    assert "30/30" in capfd.readouterr().err


# ---------------------------------------------------------------- mishaps

def test_what_does_not_fit_is_refused_before_anything_is_decoded(images, cache, monkeypatch):
    build(images[:10], cache)
    before = sorted(cache.rglob("*"))
    forbid_decoding(monkeypatch)
    usage = shutil.disk_usage(cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=9000))
    with pytest.raises(OSError, match=r"20 images of 16 px take 0\.0166 MB, but 0\.009 MB are free"
                       r".*another folder \(cache=.*run again") as caught:
        build(images, cache)
    assert caught.value.errno == errno.ENOSPC and str(cache) in str(caught.value)
    assert sorted(cache.rglob("*")) == before


def test_a_disk_that_gets_full_leaves_whole_shards_only(images, cache, small_shards):
    build(images[:7], cache)
    whole = shards(cache)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))  # a shard is larger
        with pytest.raises(OSError, match="cannot be written.*make room or give") as caught:
            build(images, cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    folder, = cache.iterdir()
    assert {path.name for path in folder.iterdir()} == {".lock", whole[0].name}
    assert torch.equal(build(images, cache).pixels(range(30)), decoded(images).pixels(range(30)))


@pytest.mark.parametrize("below", ["", "below"])
def test_a_folder_that_is_a_file(images, tmp_path, below):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"image store cannot be written \([^)]*\): give another "
                       "folder"):  # no more room would help
        build(images, tmp_path / "file" / below)


@pytest.mark.parametrize("spoil", ["cut", "text", "empty", "folder", "gone"])
def test_an_image_that_cannot_be_read_is_named(images, cache, small_shards, spoil, monkeypatch):
    bad, content = images[16], images[16].read_bytes()
    bad.unlink()
    if spoil == "folder":
        bad.mkdir()
    elif spoil != "gone":
        bad.write_bytes({"cut": content[:200], "text": b"no image", "empty": b""}[spoil])
    error = FileNotFoundError if spoil == "gone" else ValueError
    with pytest.raises(error, match="016.png") as caught:
        build(images, cache)
    assert "store" not in str(caught.value)  # its folder is not what is wrong
    if spoil in ("cut", "text", "empty"):
        assert "check_images" in str(caught.value)
        forbid_decoding(monkeypatch)
        build(images[:16], cache)  # what came before is kept


def test_an_image_that_changes_afterwards_is_decoded_anew(images, cache):
    first = build(images, cache)
    old = first.pixels([4])
    write_images(images[0].parent, 30, seed=5)[3].unlink()
    shutil.copy(images[9], images[3])
    second = build(images, cache)
    assert torch.equal(first.pixels([4]), old)  # what is open stays as it was
    assert torch.equal(second.pixels(range(30)), decoded(images).pixels(range(30)))
    assert not torch.equal(second.pixels([4]), old)


def test_an_image_that_changes_meanwhile_is_not_filed_wrongly(images, cache, monkeypatch):
    decode = store_module.decode_image

    def slow(path, *rest):
        if path == images[12]:
            shutil.copy(images[3], path)
        return decode(path, *rest)

    monkeypatch.setattr(store_module, "decode_image", slow)
    with pytest.raises(ImageChangedError, match="012.png changed .*run again"):
        build(images, cache)
    assert torch.equal(build(images, cache).pixels(range(30)), decoded(images).pixels(range(30)))


@pytest.mark.parametrize("damage", ["cut", "head", "empty", "foreign", "folder", "size", "keys"])
def test_a_damaged_file_is_named_left_alone_and_replaced(images, cache, tmp_path, damage):
    wanted = decoded(images).pixels(range(30))
    build(images, cache)
    shard, = shards(cache)
    content = shard.read_bytes()
    if damage == "size":  # of another store
        build(images, tmp_path / "other", 20)
        content, reason = shards(tmp_path / "other")[0].read_bytes(), "20 px, not 16 px"
    elif damage == "foreign":
        from safetensors.numpy import save
        content, reason = save({"a": np.zeros(3)}), "no file of this store"
    elif damage == "keys":
        at = content.index(store_module._open_shard(shard, 16).keys[3].tobytes())
        content, reason = content[:at] + b"\0\0" + content[at + 2:], "table of contents"
    else:
        content = {"cut": content[:-9], "head": content[:90], "empty": b"", "folder": b""}[damage]
        reason = "" if damage == "folder" else "damaged"
    shard.unlink()
    if damage == "folder":
        shard.mkdir()
    else:
        shard.write_bytes(content)
    with pytest.warns(CacheWarning, match=f"{shard.name}.*{reason}.* may be deleted") as caught:
        store = build(images, cache)
    assert len(caught) == 1 and Path(caught[0].filename).name == "test_store.py"
    assert torch.equal(store.pixels(range(30)), wanted)
    assert shard.is_dir() if damage == "folder" else shard.read_bytes() == content
    assert len(shards(cache)) == 2


def test_files_are_read_where_there_is_no_preadv(images, cache, monkeypatch):
    """As on Windows."""
    store = build_store(images, 16, cache=cache, quiet=True)
    order = torch.randperm(len(images))
    expected = store.pixels(order)
    monkeypatch.delattr(os, "preadv")
    assert torch.equal(store.pixels(order), expected)
    os.truncate(next(cache.rglob("shard-*.safetensors")), 500)
    with pytest.raises(ValueError, match="is damaged at the pixels of"):
        store.pixels(order)


def test_damaged_pixels_are_never_handed_out(images, cache):
    build(images, cache)
    shard, = shards(cache)
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1  # in the last image
    shard.write_bytes(content)
    data = stored(images, cache)
    assert same(data.batch(range(29)), decoded(images).batch(range(29)))
    for _ in range(2):
        with pytest.raises(ValueError, match=f"{shard.name} is damaged at the pixels of .*029.png: "
                           "delete that file and run again"):
            data.batch([3, 29])
        with pytest.raises(ValueError, match="029.png"):
            list(data.batches([[0], [29]]))
    shard.unlink()
    assert same(stored(images, cache).batch([29]), decoded(images).batch([29]))


def test_a_file_that_is_cut_short_while_it_is_open_is_named(tmp_path, images, cache):
    """In a process of its own, which a mapped file would take with it."""
    build(images, cache)
    shard, = shards(cache)
    script = tmp_path / "cut.py"
    script.write_text(f"""
import os, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from test_store import build
store = build([Path(p) for p in {list(map(str, images))!r}], {str(cache)!r})
store.pixels(range(30))  # all are known to be right
os.truncate({str(shard)!r}, 100)
try:
    store.pixels([5])
except ValueError as error:
    print(error)
""")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{shard.name} is damaged at the pixels of" in done.stdout and "005.png" in done.stdout


def test_whatever_byte_of_its_head_is_damaged_a_file_is_called_damaged(images, cache):
    build(images, cache)
    shard, = shards(cache)
    content = shard.read_bytes()
    for at in range(8 + int.from_bytes(content[:8], "little")):
        flipped = bytearray(content)
        flipped[at] ^= 1
        shard.write_bytes(flipped)
        with pytest.raises(ValueError, match="it is damaged"):
            store_module._open_shard(shard, 16)


_KILLED = """
import os, random, signal, sys, time
sys.path[:0] = {path!r}
import silk_nb.store as module
from pathlib import Path
from test_store import build, shards
module._SHARD_BYTES = 7 * 3 * 16**2
images, cache = [Path(p) for p in {images!r}], Path({cache!r})
chance = random.Random(0)
for _ in range(10):
    process = os.fork()
    if not process:
        build(images, cache)
        os._exit(0)
    wanted = len(shards(cache)) + chance.randint(0, 4)
    while len(shards(cache)) < wanted:
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.01))
    os.kill(process, signal.SIGKILL)
    print(os.waitpid(process, 0)[1], len(shards(cache)))
"""


def test_killed_at_ten_moments_it_ends_as_if_built_at_once(tmp_path, cache, small_shards):
    images = write_images(tmp_path / "images", 600)
    at_once = build(images, tmp_path / "other")
    root = Path(__file__).parents[1]
    code = _KILLED.format(path=[str(root), str(root / "tests")], cache=str(cache),
                          images=[str(p) for p in images])
    said = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout
    ends, complete = np.array(said.split(), int).reshape(10, 2).T.tolist()
    assert ends == [signal.SIGKILL] * 10 and complete == sorted(complete) and complete[-1] < 85
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = build(images, cache)
    assert torch.equal(store.pixels(range(600)), at_once.pixels(range(600)))
    assert list(store.keys()) == list(at_once.keys())
    folder, = cache.iterdir()
    assert all(path.name == ".lock" or path in shards(cache) for path in folder.iterdir())
    rows = sum(len(store_module._open_shard(path, 16).keys) for path in shards(cache))
    assert rows == 600  # nothing twice


def test_what_a_kill_left_is_taken_away(images, cache):
    build(images[:5], cache)
    left = shards(cache)[0].with_name(".shard-0123.00112233aabb.safetensors")
    left.write_bytes(b"half")
    build(images, cache)
    assert not left.exists()


def _build_elsewhere(images, cache, barrier, results):
    barrier.wait(timeout=300)
    results.put(build(images, cache).pixels(range(len(images))).numpy())


def test_two_processes_build_one_store_together(tmp_path, cache):
    images = write_images(tmp_path / "images", 60)
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    other = context.Process(target=_build_elsewhere, args=(images, cache, barrier, results))
    other.start()
    barrier.wait(timeout=300)
    found = [build(images, cache).pixels(range(60)).numpy(), results.get(timeout=300)]
    other.join()
    assert other.exitcode == 0
    for pixels in found:
        assert np.array_equal(pixels, decoded(images).pixels(range(60)).numpy())
    assert len(shards(cache)) == 1


def test_a_complete_store_needs_no_writing(images, cache, monkeypatch):
    build(images, cache)
    forbid_decoding(monkeypatch)
    monkeypatch.setattr(store_module, "FileLock", None)  # where nothing may be written
    assert torch.equal(build(images, cache).pixels(range(30)), decoded(images).pixels(range(30)))


# ---------------------------------------------------------------- ahead of the loop

def test_batches_are_begun_before_they_are_wanted_and_the_sampler_is_drawn_in_this_thread(
        images, cache):
    data, drawn = stored(images, cache, workers=2), []

    def sampler():
        for at in range(10):
            drawn.append((at, threading.current_thread()))
            yield [3 * at, 3 * at + 1]

    batches = data.batches(sampler())
    next(batches)
    assert [at for at, _ in drawn] == [0, 1, 2]
    assert [batch.labels.tolist() for _, batch in batches] == [[0, 1]] * 9
    assert {thread for _, thread in drawn} == {threading.current_thread()}


def test_a_loop_that_stops_early_loses_nothing(images, cache):
    labels, data = np.arange(30) % 3, stored(images, cache, workers=2)
    threads = threading.active_count()  # the first progress bar has a thread of its own
    whole = [i for i, _ in data.batches(ClassBalancedBatchSampler(labels, 6, seed=0))]
    sampler = ClassBalancedBatchSampler(labels, 6, seed=0)
    for done, (indices, _) in enumerate(data.batches(sampler), 1):
        assert indices == whole[done - 1]
        if done == 2:
            break
    assert threading.active_count() == threads  # no worker is left
    state = sampler.state_dict(batches_done=2)
    again = ClassBalancedBatchSampler(labels, 6, seed=9)
    again.load_state_dict(state)
    assert [i for i, _ in data.batches(again, 0, numbers=count(2))] == whole[2:]


def test_an_error_comes_with_its_batch(images, cache):
    done = []
    with pytest.raises(IndexError):
        for indices, _ in stored(images, cache).batches([[0], [1], [30], [2]]):
            done.append(indices)
    assert done == [[0], [1]]


def test_the_number_of_threads_of_torch_stays(images, cache):
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert len(list(stored(images, cache).batches([[0], [1]]))) == 2
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_files_are_decoded_while_the_batch_before_is_in_use(images):
    data, plain, begun = decoded(images), decoded(images), []
    load = data.pixels

    def pixels(indices):
        begun.append(list(indices))
        return load(indices)

    data.pixels = pixels
    found = data.batches([[0, 1], [2], [3]])
    indices, batch = next(found)
    assert indices == [0, 1] and same(batch, plain.batch([0, 1]))
    found.close()
    assert [2] in begun


def test_feature_data_has_batches_too():
    data = FeatureData(torch.arange(12.0).view(6, 2), [0, 1, 2, 0, 1, 2])
    found = list(data.batches([[4, 0], [1]], epoch=3))
    assert [i for i, _ in found] == [[4, 0], [1]]
    assert all(same(batch, data.batch(i)) for i, batch in found)


def test_elsewhere_than_on_a_processor_pixels_are_normalised_there(images, cache):
    _, batch = next(stored(images, cache).batches([[0, 1]], device="meta"))
    assert batch.inputs.device.type == batch.labels.device.type == "meta"
    assert batch.inputs.shape == (2, 3, 16, 16) and batch.inputs.dtype == torch.float32


# ---------------------------------------------------------------- augmentation

def epoch_of(data, epoch, sampler=None, first=0):
    sampler = sampler or RandomBatchSampler(data.labels.numpy(), 8, seed=0)
    batches = data.batches(sampler, epoch, numbers=count(first))
    return [(list(i), batch.inputs) for i, batch in batches]


def equal(one, two):
    return len(one) == len(two) and all(
        a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("augment", AUGMENTATIONS[1:])
def test_the_same_seed_gives_the_same_views_with_any_number_of_threads(images, cache, augment):
    data = [stored(images, cache, augment=augment, seed=4, workers=n) for n in (1, 3)]
    other = stored(images, cache, augment=augment, seed=5)
    torch.manual_seed(0)
    first = epoch_of(data[0], 2)
    torch.manual_seed(1)
    assert equal(first, epoch_of(data[1], 2))
    assert not equal(first, epoch_of(data[0], 3)) and not equal(first, epoch_of(other, 2))
    assert not equal(first, epoch_of(stored(images, cache), 2))


def test_it_acts_in_training_only(images, cache):
    plain, data = decoded(images), stored(images, cache, augment="colour")
    assert same(data.batch(range(30)), plain.batch(range(30)))
    (_, batch), = data.batches([range(30)])
    assert same(batch, plain.batch(range(30)))
    (_, batch), = data.batches([range(30)], epoch=0)
    assert not torch.equal(batch.inputs, plain.batch(range(30)).inputs)


def test_none_changes_nothing(images, cache):
    (_, batch), = stored(images, cache).batches([range(30)], epoch=1)
    assert same(batch, decoded(images).batch(range(30)))


def test_an_epoch_goes_on_in_its_middle(images, cache):
    data = stored(images, cache, augment="strong")
    whole, sampler = epoch_of(data, 1), RandomBatchSampler(data.labels.numpy(), 8, seed=0)
    next(data.batches(sampler, 1))
    again = RandomBatchSampler(data.labels.numpy(), 8, seed=3)
    again.load_state_dict(sampler.state_dict(batches_done=1))
    assert equal(whole[1:], epoch_of(data, 1, again, first=1))


def test_shares_of_a_batch_are_seen_as_in_the_whole(images, cache):
    data = stored(images, cache, augment="strong")
    (_, whole), = data.batches([range(30)], epoch=1)
    shares = [next(data.batches([range(n, 30, 3)], epoch=1))[1].inputs for n in range(3)]
    for n, share in enumerate(shares):
        assert torch.equal(share, whole.inputs[n::3])


def test_an_image_that_comes_often_is_seen_in_many_ways(images, cache):
    seen = [x for _, batch in stored(images, cache, augment="crop").batches([[7]] * 6, epoch=0)
            for x in batch.inputs]
    assert all(not torch.equal(a, b) for n, a in enumerate(seen) for b in seen[:n])


def test_dropout_draws_what_it_would_draw_without(images, cache):
    def drawn(augment):
        torch.manual_seed(3)
        numbers = []
        for _ in stored(images, cache, augment=augment).batches(torch.arange(30).split(6), epoch=0):
            numbers.append(torch.rand(4))
        return torch.stack(numbers)

    assert torch.equal(drawn("none"), drawn("colour"))


def test_flip_mirrors_half_of_the_images(tmp_path, cache):
    images = write_images(tmp_path / "many", 200)
    data = stored(images, cache, augment="flip")
    plain = data.batch(range(200)).inputs
    (_, batch), = data.batches([range(200)], epoch=0)
    kept = (batch.inputs == plain).flatten(1).all(1)
    mirrored = (batch.inputs == plain.flip(3)).flatten(1).all(1)
    assert (kept | mirrored).all() and 70 <= mirrored.sum() <= 130


def test_named_ones_keep_colours_but_colour_and_no_corner_is_black():
    red = torch.zeros(3, 32, 32, dtype=torch.uint8)
    red[0] = 200
    for name in AUGMENTATIONS[1:]:
        changed = [not torch.equal(store_module._vary(augmentation(name, 32), red, 0, n), red)
                   for n in range(20)]
        assert all(changed) if name == "colour" else not any(changed), name


@pytest.mark.parametrize("transform", [
    v2.RandomRotation(30), v2.RandomPerspective(p=0.8), v2.GaussianNoise(clip=True),
    v2.RandAugment(), v2.RandomErasing(0.9),
    v2.RandomChoice([v2.ColorJitter(0.5), v2.RandomHorizontalFlip()]),
    v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.GaussianNoise(),
                v2.ToDtype(torch.uint8, scale=True)]),
    v2.ElasticTransform(sigma=1.0), v2.TrivialAugmentWide()],
    ids=lambda t: type(t).__name__)
def test_transforms_of_torchvision_are_seeded(images, cache, transform):
    data = [stored(images, cache, augment=transform, workers=n) for n in (1, 3)]
    torch.manual_seed(0)
    first = epoch_of(data[0], 0)
    torch.manual_seed(1)
    assert equal(first, epoch_of(data[1], 0)) and not equal(first, epoch_of(data[0], 1))


@pytest.mark.parametrize("augment,words", [
    ("flop", "augment must be one of none, flip"), (3, "augment must be one of"),
    (v2.Resize(8), r"makes \(3, 8, 8\) torch.uint8 of \(3, 16, 16\) torch.uint8"),
    (v2.Grayscale(1), "keep size and type"), (v2.ToDtype(torch.float32), "torch.float32"),
    (lambda image: None, "makes NoneType"),
    (lambda image: image.roll(random.randrange(16), 1), "cannot be seeded"),
    (lambda image: image.roll(np.random.randint(16), 1), "cannot be seeded"),
    (lambda image: image.roll(int(OWN.integers(16)), -1), "cannot be seeded"),
    (lambda image: image.flip(-1) if OWN.random() < 0.3 else image, "cannot be seeded")])
def test_augmentations_that_cannot_be_used(images, cache, augment, words):
    with pytest.raises(ValueError, match=words):
        stored(images, cache, augment=augment)


def test_an_augmentation_may_work_in_place(images, cache):
    def darken(image):
        return image.mul_(1 - (torch.rand(1) < 0.5).to(torch.uint8))

    data = stored(images, cache, augment=darken)
    assert equal(epoch_of(data, 0), epoch_of(data, 0))


def test_the_fingerprint_is_the_same_in_another_process(images, cache):
    def turned(turns, image):
        return image.roll(turns, 1)

    marks = {stored(images, cache, augment=partial(turned, 2)).fingerprint()}
    first = turned

    def turned(turns, image):  # the same at another address
        return image.roll(turns, 1)

    marks.add(stored(images, cache, augment=partial(turned, 2)).fingerprint())
    assert first is not turned and len(marks) == 1


class Roll:
    """An augmentation that is no function."""

    def __init__(self, by):
        self.by = by

    def __call__(self, image):
        return image.roll(self.by, 1)

    def twice(self, image):
        return image.roll(2 * self.by, 1)


class RollModule(nn.Module):
    """One without a text of its own."""

    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, image):
        return image.roll(self.by, 1)


def test_the_fingerprint_tells_augmentations_of_ones_own_apart(images, cache):
    def closed(by):
        return lambda image: image.roll(by, 1)

    def flipped(image):
        return image.flip(1)

    def kept(image, by=1):
        return image.roll(by, 1)

    augments = [closed(1), closed(2), flipped, kept, partial(kept, by=3), partial(kept, by=4),
                Roll(1), Roll(2), Roll(1).twice, Roll(2).twice, RollModule(1), RollModule(2),
                v2.Compose([RollModule(1)]), v2.Compose([RollModule(2)]), v2.Compose([Roll(2)]),
                nn.Sequential(RollModule(1), RollModule(2)),
                nn.Sequential(RollModule(1), RollModule(3)), v2.RandomRotation(3),
                v2.RandomRotation(4)]
    marks = [stored(images, cache, augment=augment).fingerprint() for augment in augments]
    assert len(set(marks)) == len(marks)


def test_the_mark_tells_parts_of_an_augmentation_apart():
    """What is private, held by others, or not written in Python; without a run of it."""
    class Private(nn.Module):
        def __init__(self, by):
            super().__init__()
            self._by = by

    class Buffered(nn.Module):
        def __init__(self, by):
            super().__init__()
            self.register_buffer("by", torch.tensor(by))

    def called(by):
        class Same:
            __call__ = eval(f"lambda self, image: image.roll({by}, 1)")
        return Same()

    def inner(by):
        return lambda image: image.roll(by, 1)

    def outer(function):
        return lambda image: function(image)

    def nested(by):
        return eval(f"lambda image: (lambda other: other.roll({by}, 1))(image)")

    found = [torch.fliplr, torch.flipud, Private(1), Private(2), Buffered(1), Buffered(2),
             called(1), called(2), outer(inner(1)), outer(inner(2)),
             partial(outer, function=inner(1)), partial(outer, function=inner(2)), nested(1),
             nested(2)]
    told = [repr(store_module._recipe(one)) for one in found]
    told = [re.sub(" at 0x[0-9a-f]+", "", text) for text in told]
    assert len(set(told)) == len(told)
    assert told[9] == re.sub(" at 0x[0-9a-f]+", "", repr(store_module._recipe(outer(inner(2)))))


def test_the_mark_is_the_same_in_every_process(tmp_path):
    """Sets have another order in each, and inner functions other addresses and files."""
    marks = set()
    for seed in ("1", "2", "3"):
        script = tmp_path / f"script{seed}.py"
        script.write_text("\n" * int(seed) + textwrap.dedent("""
            import re
            from silk_nb.store import _recipe
            def augment(image, mode="alpha"):
                if mode in {"alpha", "beta", "gamma", "delta"}:
                    return (lambda other: other.flip(1))(image)
            print(re.sub(" at 0x[0-9a-f]+", "", repr(_recipe(augment))))
        """))
        marks.add(subprocess.run(
            [sys.executable, script], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed}).stdout)
    assert len(marks) == 1


def test_the_fingerprint_knows_augmentations_again(images, cache):
    def closed(by):
        return lambda image: image.roll(by, 1)

    augments = [closed(1), Roll(2), Roll(1).twice, RollModule(2), v2.Compose([RollModule(2)])]
    marks = [stored(images, cache, augment=augment).fingerprint() for augment in augments]
    again = [closed(1), Roll(2), Roll(1).twice, RollModule(2), v2.Compose([RollModule(2)])]
    assert {stored(images, cache, augment=augment).fingerprint() for augment in again} <= set(marks)


def test_the_fingerprint_tells_what_is_seen(images, cache):
    def mark(paths=images, size=16, **options):
        return stored(paths, cache, size, **options).fingerprint()

    marks = [mark(), mark(size=20), mark(augment="flip"), mark(augment="crop"), mark(seed=1),
             mark(images[::-1]), mark(images[1:])]
    assert len(set(marks)) == len(marks)
    assert mark(augment="crop") == mark(augment=augmentation("crop", 16)) == marks[3]
    moved = [path.rename(path.with_name(f"moved-{path.name}")) for path in images]
    assert mark(moved) == marks[0]


def test_training_takes_it_as_it_is(images, cache):
    """The same loss, history and weights as with images that are decoded each time."""
    from silk_nb.losses import TotalLoss
    from silk_nb.model import Backbone, SilkClassifier
    from silk_nb.training import TrainingConfig, fit

    def trained(data):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            filters = nn.Conv2d(3, 6, 5, stride=3)
        network = nn.Sequential(filters, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        backbone = Backbone(network, name="tiny", out_features=6, input_size=16, pretrained=False,
                            **LOOK)
        model = SilkClassifier(3, backbone, trainable="all", task_fc=(4,), seed=0)
        history = fit(model, data, data, loss=TotalLoss(), quiet=True,
                      sampler=RandomBatchSampler(data.labels.numpy(), 10, seed=0),
                      config=TrainingConfig(max_epochs=2))
        return history, model.state_dict()

    (one, weights), (two, same_weights) = trained(decoded(images)), trained(stored(images, cache))
    assert one.equals(two)
    assert all(torch.equal(v, same_weights[k]) for k, v in weights.items())


def test_a_store_holds_a_name_for_every_image(images, cache):
    store = build(images, cache)
    assert isinstance(store, ImageStore) and store.images == [str(path) for path in images]
    assert len(store) == 30 and len(set(store.keys())) == 30


def test_pieces_and_shares_of_a_batch_vary_as_the_whole_does(silk_table, tmp_path):
    """What is random in an image hangs on the batch of the sampler and not on how it is cut."""
    from silk_nb.losses import TotalLoss
    from silk_nb.steps import Alone, Step, batches

    class Share(Alone):
        def __init__(self, process, processes):
            super().__init__()
            self.process_index, self.num_processes = process, processes

    files = silk_table["image"].tolist()[:24]
    data = StoredData(build_store(files, 24, cache=tmp_path, quiet=True), [0, 1] * 12,
                      mean=(0.5,) * 3, std=(0.5,) * 3, augment="strong", seed=4)
    chosen = [torch.arange(12), torch.arange(12).flip(0), torch.arange(6, 24)]

    def seen(micro_batch, *shares):
        parts = [[torch.cat(inputs) for _, inputs in batches(
            Step(torch.nn.Identity(), TotalLoss(), place, micro_batch), data, chosen, epoch=2)]
            for place in shares or (Alone(),)]
        return [torch.cat(one) for one in zip(*parts, strict=True)]

    whole = seen(None)
    assert not torch.equal(whole[0], whole[1].flip(0))  # the same images in another batch
    for found in (seen(5), seen(1), seen(None, Share(0, 2), Share(1, 2)),
                  seen(2, Share(0, 3), Share(1, 3), Share(2, 3))):
        assert all(map(torch.equal, whole, found))
