"""Synthetic silk: bytes, counts, file format, and what make_silk refuses."""
import csv
import hashlib
import io
import json
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import silk_nb.synthetic as synthetic
from silk_nb.annotations import read_annotations
from silk_nb.imbalance import SILK_COUNTS
from silk_nb.synthetic import (
    MOTIFS,
    TECHNIQUES,
    VARIABLES,
    design_cloth,
    draw_motif,
    draw_silk,
    draw_weave,
    make_silk,
    plan_silk,
    scale_counts,
    silk_classes,
    technique_counts,
)

SMALL = {"images": 120, "size": 48, "quiet": True}


@pytest.fixture(scope="module")
def silk(tmp_path_factory) -> Path:
    return make_silk(tmp_path_factory.mktemp("silk") / "set", seed=3, **SMALL)


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.rglob("*")) if p.is_file()}


def rows(master: Path) -> list[dict[str, str]]:
    "Read the collection file with nothing but the standard library."
    lines = master.read_text().split("\n")
    assert lines == ["collection.txt", ""]
    return list(csv.DictReader(io.StringIO((master.parent / lines[0]).read_text()),
                               delimiter="\t"))


# --- the same to the byte -------------------------------------------------------------------

def test_same_seed_same_bytes(silk, tmp_path):
    again = make_silk(tmp_path / "again", seed=3, **SMALL)
    assert contents(again.parent) == contents(silk.parent)


def test_bytes_do_not_depend_on_threads(silk, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic.os, "cpu_count", lambda: 1)
    alone = make_silk(tmp_path / "alone", seed=3, **SMALL)
    assert contents(alone.parent) == contents(silk.parent)


def test_other_seed_other_pictures_and_objects(silk, tmp_path):
    other = make_silk(tmp_path / "other", seed=4, **SMALL)
    pictures = [{h for n, h in contents(m.parent).items() if n.startswith("images")}
                for m in (silk, other)]
    assert len(pictures[0]) == len(pictures[1]) == SMALL["images"]  # and no two alike
    assert not pictures[0] & pictures[1]
    objects = [{r["#image_file"].split("__")[1] for r in rows(m)} for m in (silk, other)]
    assert not objects[0] & objects[1]


def test_global_random_state_is_neither_used_nor_touched(silk, tmp_path):
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    make_silk(tmp_path / "g", seed=3, **SMALL)
    assert (np.random.get_state()[1] == before).all()


# --- counts ---------------------------------------------------------------------------------

@pytest.mark.parametrize("images", [90, 300, 1000, 4000])
def test_technique_counts_follow_table_1(images):
    counts = technique_counts(images)
    assert list(counts) == [c.replace(" ", "_") for c in SILK_COUNTS["technique"]]
    assert sum(counts.values()) == images
    assert all(a >= b for a, b in pairwise(counts.values()))
    floor = min(counts.values())
    assert floor >= (5 if images < 1000 else 20)
    table = SILK_COUNTS["technique"]
    table = {c.replace(" ", "_"): n for c, n in table.items()}
    big = [c for c in counts if counts[c] > floor]  # these keep their proportions
    for c in big:
        assert counts[c] / counts[big[0]] == pytest.approx(table[c] / table[big[0]],
                                                           abs=1.5 / counts[big[0]])


def test_full_size_is_table_1_itself():
    total = sum(SILK_COUNTS["technique"].values())
    assert list(technique_counts(total).values()) == list(SILK_COUNTS["technique"].values())


def test_plan_has_exactly_the_counts_and_every_technique_five_objects():
    plan = plan_silk(1000, 5)
    assert Counter(plan["technique"]) == technique_counts(1000)
    assert plan["recorded_technique"].equals(plan["technique"])
    assert plan.groupby("technique")["object"].nunique().min() >= 5
    assert set(plan.groupby("object").size()) == {1, 2, 3, 4}


@pytest.mark.parametrize("variable", ["place", "timespan", "material"])
def test_other_variables_are_partly_missing_and_in_order_of_table_1(variable):
    objects = plan_silk(2000, 1).drop_duplicates("object")
    counts = objects[f"recorded_{variable}"].value_counts()
    expected = silk_classes(variable)
    assert set(counts.index) <= set(expected)
    ranked = [counts[c] for c in expected if c in counts]
    assert all(a >= b for a, b in pairwise(ranked))
    assert min(ranked) >= 5
    share = objects[f"recorded_{variable}"].notna().mean()
    assert share == pytest.approx(synthetic.RECORDED[variable], abs=0.01)


@settings(deadline=None)
@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=30), st.integers(0, 20),
       st.integers(0, 5_000))
def test_scale_counts_sums_up_and_keeps_order(values, floor, spare):
    counts = {str(k): n for k, n in enumerate(sorted(values, reverse=True))}
    total = max(1, floor * len(counts)) + spare
    scaled = scale_counts(counts, total, floor=floor)
    assert list(scaled) == list(counts)
    assert sum(scaled.values()) == total
    assert min(scaled.values()) >= floor
    assert all(a >= b for a, b in pairwise(scaled.values()))


# --- files ----------------------------------------------------------------------------------

def test_collection_file_is_silknow(silk):
    table = rows(silk)
    assert list(table[0]) == ["#image_file", *(f"#{v}" for v in VARIABLES), ""]
    assert len(table) == SMALL["images"]
    for row in table:
        museum, uri, name = Path(row["#image_file"]).name.split("__")
        assert museum and len(uri) == 36 and name.endswith(".jpg")
        for v in VARIABLES:
            assert row[f"#{v}"] == "nan" or row[f"#{v}"] in silk_classes(v)
        with Image.open(silk.parent / row["#image_file"]) as image:
            image.load()
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (48, 48))
    assert Counter(r["#technique"] for r in table) == technique_counts(SMALL["images"])
    on_disk = {f"images/{p.name}" for p in (silk.parent / "images").iterdir()}
    assert on_disk == {r["#image_file"] for r in table}


def test_images_of_one_object_share_their_labels(silk):
    labels = defaultdict(set)
    for row in rows(silk):
        labels[row["#image_file"].split("__")[1]].add(tuple(row[f"#{v}"] for v in VARIABLES))
    assert len(labels) < SMALL["images"]
    assert all(len(found) == 1 for found in labels.values())


def test_read_annotations_reads_it(silk):
    table = read_annotations(silk)
    plain = rows(silk)
    assert table["group"].nunique() == len({r["#image_file"].split("__")[1] for r in plain})
    assert all(Path(p).is_file() for p in table["image"])
    for v in VARIABLES:
        found = Counter(table[v].dropna())
        assert found == Counter(r[f"#{v}"] for r in plain if r[f"#{v}"] != "nan")


# --- pictures -------------------------------------------------------------------------------

@pytest.mark.parametrize("technique", list(TECHNIQUES))
@pytest.mark.parametrize("size", [32, 75])
def test_pictures_have_contrast_and_differ(technique, size):
    rng = np.random.default_rng(0)
    cloth = design_cloth(rng, technique, "animal_fibre", "FR", "eighteenth century (dates CE)")
    one, two = draw_silk(cloth, rng, size), draw_silk(cloth, rng, size)
    assert one.shape == (size, size, 3) and one.dtype == np.uint8
    assert one.std() > 3 and not np.array_equal(one, two)


def test_all_classes_can_be_drawn():
    rng = np.random.default_rng(0)
    for place in silk_classes("place"):
        for timespan in silk_classes("timespan"):
            cloth = design_cloth(rng, "tabby", "metal_thread", place, timespan)
            assert cloth.motif in MOTIFS and cloth.colours.shape == (6, 3)


@pytest.mark.parametrize("name", list(MOTIFS))
def test_motifs_repeat(name):
    y, x = np.mgrid[:64, :64].astype(float)
    mask, core, _ = draw_motif(name, x, y, tile=16)
    assert mask.min() == 0 and mask.max() == 1 and core.max() > 0
    np.testing.assert_allclose(mask[:32, :32], mask[32:, 32:], atol=1e-9)


def test_weaves_cross_as_they_should():
    y, x = np.mgrid[:80, :80].astype(float) + 0.5
    share = {w: draw_weave(w, x, y, pitch=4)[0].mean() for w in ("tabby", "twill", "satin",
                                                                 "weft satin")}
    assert share == pytest.approx({"tabby": 0.5, "twill": 0.5, "satin": 0.8, "weft satin": 0.2})
    top = draw_weave("tabby", x, y, pitch=4)[0][::4, ::4]
    assert (top[1:] != top[:-1]).all() and (top[:, 1:] != top[:, :-1]).all()


# --- folders --------------------------------------------------------------------------------

def test_complete_set_is_reused(silk, monkeypatch):
    monkeypatch.setattr(synthetic, "draw_silk", lambda *a, **k: pytest.fail("drawn again"))
    assert make_silk(silk.parent, seed=3, **SMALL) == silk


def test_interrupted_set_is_continued(silk, tmp_path, monkeypatch):
    real, drawn = synthetic.draw_silk, []

    def stops(*args):
        if len(drawn) > 20:
            raise KeyboardInterrupt
        drawn.append(1)
        return real(*args)

    monkeypatch.setattr(synthetic, "draw_silk", stops)
    with pytest.raises(KeyboardInterrupt):
        make_silk(tmp_path / "set", seed=3, **SMALL)
    assert not json.loads((tmp_path / "set" / "silk.json").read_text())["complete"]
    assert not (tmp_path / "set" / "master.txt").exists()
    monkeypatch.setattr(synthetic, "draw_silk", real)
    master = make_silk(tmp_path / "set", seed=3, **SMALL)
    assert contents(master.parent) == contents(silk.parent)


def test_lost_image_is_drawn_again(tmp_path):
    master = make_silk(tmp_path / "set", **SMALL)
    before = contents(master.parent)
    next((tmp_path / "set" / "images").iterdir()).unlink()
    make_silk(tmp_path / "set", **SMALL)
    assert contents(master.parent) == before


@pytest.mark.parametrize("name", ["collection.txt", "master.txt"])
def test_lost_list_is_written_again(tmp_path, name):
    master = make_silk(tmp_path / "set", **SMALL)
    before = contents(master.parent)
    (tmp_path / "set" / name).unlink()
    assert make_silk(tmp_path / "set", **SMALL) == master
    assert contents(master.parent) == before


def test_a_first_write_that_failed_does_not_spoil_the_folder(silk, tmp_path, monkeypatch):
    real, folder = synthetic.atomic_write, tmp_path / "set"

    def no_space(path):
        raise OSError("no space left on device")

    monkeypatch.setattr(synthetic, "atomic_write", no_space)
    with pytest.raises(OSError, match="no space"):
        make_silk(folder, seed=3, **SMALL)
    monkeypatch.setattr(synthetic, "atomic_write", real)
    (folder / "images").mkdir(exist_ok=True)  # what an older version left
    (folder / ".silk.0123456789ab.json").write_text("{")  # and a kill
    master = make_silk(folder, seed=3, **SMALL)
    (folder / ".silk.0123456789ab.json").unlink()
    assert contents(master.parent) == contents(silk.parent)


def test_images_of_others_are_not_taken_for_leftovers(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mine.jpg").write_text("mine")
    with pytest.raises(ValueError, match="holds other things"):
        make_silk(tmp_path, **SMALL)


def test_foreign_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other things"):
        make_silk(tmp_path, **SMALL)
    assert contents(tmp_path).keys() == {"letter.txt"}


@pytest.mark.parametrize("manifest", ["", "[]", "{}", "null", '{"made_by": 1}', "\x00"])
def test_broken_manifest_is_foreign(tmp_path, manifest):
    (tmp_path / "silk.json").write_text(manifest)
    with pytest.raises(ValueError, match="holds other things"):
        make_silk(tmp_path, **SMALL)


def test_other_set_is_refused(silk):
    with pytest.raises(ValueError, match="another silk set"):
        make_silk(silk.parent, **{**SMALL, "seed": 4})


def test_file_instead_of_folder(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        make_silk(tmp_path / "f", **SMALL)


@pytest.mark.parametrize("bad, match", [
    ({"images": 89}, "too few"), ({"images": 0}, "too few"), ({"images": -5}, "too few"),
    ({"images": 200.5}, "images must be a whole number"), ({"images": "200"}, "whole number"),
    ({"images": True}, "whole number"), ({"size": 31}, "32 to 1024"), ({"size": 2000}, "32 to"),
    ({"size": None}, "size must be"), ({"seed": -1}, "negative"), ({"seed": 0.5}, "seed must"),
])
def test_bad_arguments(tmp_path, bad, match):
    with pytest.raises(ValueError, match=match):
        make_silk(tmp_path / "new", **{**SMALL, **bad})
    assert not (tmp_path / "new").exists()


def test_scale_counts_says_what_is_missing():
    with pytest.raises(ValueError, match="need 10, but the total is 9"):
        scale_counts({"a": 1, "b": 2}, 9, floor=5)
