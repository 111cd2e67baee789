"""Properties, faults and edges of silk_nb.annotations."""
import errno
import itertools
import json
import os
import pickle
import re
import struct
import time
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from silk_nb import annotations
from silk_nb.annotations import (
    DuplicateImageWarning,
    EmptyClassWarning,
    ImageTooLargeError,
    JoinedGroupsWarning,
    SeveralLabelsWarning,
    SmallClassWarning,
    UnclearLabelWarning,
    UnreadableImageError,
    atomic_write,
    check_images,
    choose_variable,
    open_image,
    plot_split,
    read_annotations,
    split_annotations,
    write_table,
)

UUIDS = [f"09aff494-fb7a-312e-95c1-94ca537b413{i}" for i in range(4)]


@pytest.fixture
def write(tmp_path):
    """Write a text (or bytes) under a name; its path."""

    def _write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return _write


def labels(table, variable):
    """Image name -> label, None where it is missing."""
    names = [os.path.basename(image) for image in table["image"]]
    return {n: None if pd.isna(v) else v for n, v in zip(names, table[variable], strict=True)}


# --- writing --------------------------------------------------------------------------------

def test_atomic_write_keeps_the_old_file_after_any_error(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            with atomic_write(path) as part:
                assert part.parent == tmp_path and part.suffix == ".txt"
                part.write_text("half")
                raise error
        assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]
    with atomic_write(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.txt"]


def test_atomic_write_gives_usual_permissions(tmp_path):
    with atomic_write(tmp_path / "a") as part:
        part.write_text("x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_atomic_write_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="the folder .*nowhere does not exist"):
        with atomic_write(tmp_path / "nowhere" / "a.txt"):
            pass
    with pytest.raises(FileNotFoundError, match="nothing was written for"):
        with atomic_write(tmp_path / "a.txt"):
            pass
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        with atomic_write(tmp_path):
            pass


def test_atomic_write_names_the_file_and_not_its_temporary_name(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for error in (full, lambda part: OSError(errno.EACCES, "Permission denied", str(part))):
        with pytest.raises(OSError) as caught:
            with atomic_write(tmp_path / "a.csv") as part:
                raise error(part) if callable(error) else error
        assert caught.value.filename == str(tmp_path / "a.csv") and caught.value.errno
        assert part.name not in str(caught.value) and not os.listdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="picture.png"):  # another file is not renamed
        with atomic_write(tmp_path / "a.csv"):
            (tmp_path / "picture.png").read_bytes()


def test_write_table_keeps_line_breaks_within_a_cell(tmp_path):
    table = pd.DataFrame({"label": ["a\rb", "c\nd", "e, \"f\"", None], "score": [0.1, 1, 2, None]})
    write_table(table, tmp_path / "a.csv")
    again = pd.read_csv(tmp_path / "a.csv")
    assert again["label"].tolist()[:3] == table["label"].tolist()[:3] and again.isna().iloc[3].all()
    assert again["score"].tolist()[:3] == [0.1, 1, 2]


def test_write_table_keeps_floats_and_named_index(tmp_path):
    table = pd.DataFrame({"x": [1 / 3, 1e-300], "y": ["é,", 'a"b']})
    write_table(table, tmp_path / "a.csv")
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "a.csv", float_precision="round_trip"), table)
    write_table(table.set_index("y"), tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_text().splitlines()[0] == "y,x"


# --- images ---------------------------------------------------------------------------------

def save(tmp_path, image, name, **options):
    image.save(tmp_path / name, **options)
    return np.asarray(open_image(tmp_path / name)).astype(int)


GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm", "a.jp2"])
def test_16_bit_grey_is_scaled(tmp_path, name):
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    found = save(tmp_path, Image.fromarray(values), name)
    assert found.shape == (16, 16, 3)
    assert np.abs(found - GREY[..., None].astype(int)).max() <= (0 if name != "a.jp2" else 2)


def test_16_bit_tiff_in_which_0_is_white(tmp_path):
    sixteen = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    for name, values in (("8.tif", GREY), ("16.tif", sixteen)):
        Image.fromarray(values).save(tmp_path / name, tiffinfo={262: 1})
        data = bytearray((tmp_path / name).read_bytes())
        at = data.index(struct.pack("<HHI", 262, 3, 1))
        data[at + 8:at + 10] = struct.pack("<H", 0)  # WhiteIsZero
        (tmp_path / name).write_bytes(data)
        found = np.asarray(open_image(tmp_path / name))[..., 0]
        np.testing.assert_array_equal(found, 255 - GREY, err_msg=name)


def test_16_bit_grey_that_is_transparent_shows_white(tmp_path):
    values = np.array([[300, 301, 65535, 0]], np.uint16)
    found = save(tmp_path, Image.fromarray(values), "a.png", transparency=300)
    assert found[0, :, 0].tolist() == [255, 1, 255, 0]


def test_wide_numbers_are_stretched(tmp_path):
    for values in (GREY.astype(np.int32) * 1000 - 7, GREY.astype(np.float32) / 50 + 3):
        found = save(tmp_path, Image.fromarray(values), "a.tif")
        np.testing.assert_array_equal(found, np.repeat(GREY[..., None], 3, axis=2))
    odd = GREY.astype(np.float32)
    odd[0, :3] = np.nan, np.inf, -np.inf
    found = save(tmp_path, Image.fromarray(odd), "a.tif")[0, :3, 0]
    assert found.tolist() == [0, 255, 0]
    assert save(tmp_path, Image.fromarray(np.full((4, 4), 9, np.int32)), "a.tif").max() == 0


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB"])
def test_plain_modes(tmp_path, mode):
    image = Image.fromarray(GREY).convert("RGB").convert(mode)
    np.testing.assert_array_equal(save(tmp_path, image, "a.png"), np.asarray(image.convert("RGB")))


def test_cmyk(tmp_path):
    for ink, rgb in (((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 0, 255), (0, 0, 0)),
                     ((0, 0, 0, 0), (255, 255, 255))):
        found = save(tmp_path, Image.new("CMYK", (16, 16), ink), "a.jpg", quality=100)
        assert np.abs(found - rgb).max() <= 3, ink
        assert (save(tmp_path, Image.new("CMYK", (4, 4), ink), "a.tif") == rgb).all()


def test_transparent_shows_white(tmp_path):
    clear = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    clear.putpixel((1, 0), (200, 0, 0, 128))
    assert save(tmp_path, clear, "a.png")[0].tolist() == [[255] * 3, [227, 127, 127]]
    assert save(tmp_path, clear.convert("LA"), "b.png")[0, 0].tolist() == [255] * 3
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([9, 9, 9, 40, 80, 120])
    palette.putpixel((1, 0), 1)
    found = save(tmp_path, palette, "a.gif", transparency=0)
    assert found[0].tolist() == [[255] * 3, [40, 80, 120]]
    found = save(tmp_path, Image.new("RGB", (2, 1), (1, 2, 3)), "c.png", transparency=(1, 2, 3))
    assert (found == 255).all()


# where the EXIF orientation finds the corner that was top left, as (row, column) of a 2×3 image
CORNER = {1: (0, 0), 2: (0, 2), 3: (1, 2), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (2, 1), 8: (2, 0)}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_exif_rotation(tmp_path, orientation, mode):
    pixels = np.zeros((2, 3), np.uint16 if mode == "I;16" else np.uint8)
    pixels[0, 0] = 65535 if mode == "I;16" else 255
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = save(tmp_path, image if mode == "I;16" else image.convert("RGB"), "a.png", exif=exif)
    assert found.shape == ((2, 3, 3) if orientation < 5 else (3, 2, 3))
    where = np.argwhere(found[..., 0] == 255)
    assert where.tolist() == [list(CORNER[orientation])]


def test_rubbish_exif_does_not_reject_the_picture(tmp_path):
    rubbish = b"Exif\0\0MM\0*\0\0\xff\xffgarbage"
    save(tmp_path, Image.new("RGB", (8, 8), "red"), "a.jpg", exif=rubbish)
    assert open_image(tmp_path / "a.jpg").size == (8, 8)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    for name in ("a.gif", "a.png", "a.tif"):
        found = save(tmp_path, frames[0], name, save_all=True, append_images=frames[1:])
        assert (found == (255, 0, 0)).all(), name


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.tif", "a.bmp", "a.webp"])
def test_truncated_files_are_named(tmp_path, name):
    rng = np.random.default_rng(0)
    path = tmp_path / name
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    for kept in (len(content) // 2, int(0.9 * len(content))):
        path.write_bytes(content[:kept])
        for least in (None, 1):  # a JPEG is decoded at an eighth then, and is read to its end
            with pytest.raises(UnreadableImageError, match=name) as caught:
                open_image(path, least=least)
    assert caught.value.reason and "\n" not in caught.value.reason
    assert isinstance(caught.value, ValueError)
    again = pickle.loads(pickle.dumps(caught.value))  # it may come from another process
    assert str(again) == str(caught.value) and again.reason == caught.value.reason


def bomb(path):
    """A PNG that says it has 60,000 × 60,000 pixels."""
    Image.new("L", (1, 1)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    import zlib
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)


def test_no_image(tmp_path, write):
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg: no such file"):
        open_image(tmp_path / "gone.jpg")
    with pytest.raises(UnreadableImageError, match="not an image in a format"):
        open_image(write("page.jpg", "<html>"))
    with pytest.raises(UnreadableImageError, match="not an image"):
        open_image(write("empty.jpg", b""))
    with pytest.raises(UnreadableImageError, match="directory"):
        open_image(tmp_path)
    bomb(tmp_path / "bomb.png")
    with pytest.raises(ImageTooLargeError, match="3600000000 pixels"):
        open_image(tmp_path / "bomb.png")


@settings(deadline=None, max_examples=150,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_never_raise_anything_else(tmp_path, data):
    kind = data.draw(st.sampled_from(["jpeg", "png", "gif", "tiff", "bmp", "webp"]))
    path = tmp_path / f"a.{kind}"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert open_image(path).mode == "RGB"
        except UnreadableImageError as error:
            assert "\n" not in error.reason


def test_check_images(tmp_path, write, recwarn):
    for name in ("a.png", "b.png"):
        Image.effect_noise((64, 64), 50).save(tmp_path / name)
    half = (tmp_path / "a.png").read_bytes()
    half = half[: len(half) // 2]
    write("half.png", half)
    names = ["a.png", "half.png", "gone.png", "b.png"]
    table = pd.DataFrame({"image": [str(tmp_path / n) for n in names], "group": list("wxyz")},
                         index=[5, 5, 7, 9])
    good, bad = check_images(table, rejected=tmp_path / "rejected.csv", quiet=True)
    assert good["group"].tolist() == ["w", "z"]
    assert [os.path.basename(i) for i in bad["image"]] == ["half.png", "gone.png"]
    assert "cannot be decoded" in bad["reason"][0] and bad["reason"][1] == "no such file"
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "rejected.csv"), bad, check_dtype=False)
    assert (tmp_path / "half.png").read_bytes() == half  # never deleted

    _, none = check_images(good, rejected=tmp_path / "rejected.csv", quiet=True)
    assert none.columns.tolist() == ["image", "reason"] and len(none) == 0
    assert (tmp_path / "rejected.csv").read_text() == "image,reason\n"
    with pytest.raises(ValueError, match=r"none of the 2 images can be read: .*half\.png: .*; "
                                         r".*gone\.png: no such file"):
        check_images(table[1:3], rejected=tmp_path / "rejected.csv", quiet=True)
    assert len(pd.read_csv(tmp_path / "rejected.csv")) == 2


def test_check_images_is_quiet_when_asked(tmp_path, capfd):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    table = pd.DataFrame({"image": [str(tmp_path / "a.png")]})
    check_images(table, quiet=True)
    assert capfd.readouterr() == ("", "")
    check_images(table)
    assert "checking images" in capfd.readouterr().err


# --- reading: CSV and TSV ---------------------------------------------------------------------

@pytest.mark.parametrize("mark,name", [(",", "a.csv"), (";", "a.csv"), ("\t", "a.tsv"),
                                       ("\t", "a.txt"), ("|", "a.dat")])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_forms(write, tmp_path, mark, name, bom, end):
    rows = [["Image", "kind", "object", "size"], ["a.jpg", ' crêpe "de", Chine ', "o1", "1"],
            ["sub/b.jpg", "NaN", "o1", ""], ["c.jpg", "None", "", "NULL"],
            ["d.jpg", "nan", "o2", "2"]]
    quoted = end.join(mark.join('"' + cell.replace('"', '""') + '"' for cell in r) for r in rows)
    table = read_annotations(write(name, bom + quoted + end + end))
    assert table.columns.tolist() == ["image", "group", "kind", "size"]
    assert table["image"].tolist() == [str(tmp_path / r[0]) for r in rows[1:]]
    assert labels(table, "kind") == {"a.jpg": 'crêpe "de", Chine', "b.jpg": None, "c.jpg": None,
                                     "d.jpg": None}
    assert labels(table, "size") == {"a.jpg": "1", "b.jpg": None, "c.jpg": None, "d.jpg": "2"}
    assert table["group"].tolist() == ["o1", "o1", str(tmp_path / "c.jpg"), "o2"]
    assert isinstance(table["kind"].dtype, pd.CategoricalDtype)


@pytest.mark.parametrize("name", ["image", "image_file", "image_path", "file", "filename", "path",
                                  "img", "IMAGE"])
def test_image_column_is_found_by_name(write, name):
    table = read_annotations(write("a.csv", f"kind,{name}\nx,a.jpg\n"))
    assert labels(table, "kind") == {"a.jpg": "x"}


def test_columns_by_name(write, tmp_path):
    path = write("a.csv", "group,photo,x,y,sender\ng1,a.jpg,p,q,s\ng2,b.jpg,r,,s\n")
    table = read_annotations(path, image="photo", group="sender", variables=["y", "x"],
                             image_dir=tmp_path / "elsewhere")
    assert table.columns.tolist() == ["image", "group", "y", "x"]
    assert table["group"].tolist() == ["s", "s"]
    assert table["image"][0] == str(tmp_path / "elsewhere" / "a.jpg")
    assert read_annotations(path, image="photo", variables="x")["group"].tolist() == ["g1", "g2"]
    with pytest.raises(ValueError, match=r"a\.csv: no column 'foto'; there are 'group', 'photo'"):
        read_annotations(path, image="foto")
    with pytest.raises(ValueError, match="no column 'object'; there are 'group', 'photo'"):
        read_annotations(path, image="photo", group="object")
    with pytest.raises(ValueError, match=r"a\.csv: no variable 'z'; there are 'x', 'y', 'sender'"):
        read_annotations(path, image="photo", variables=["x", "z"])
    with pytest.raises(ValueError, match="names one twice"):
        read_annotations(path, image="photo", variables=["x", "x"])
    with pytest.raises(ValueError, match="'group' cannot be the name of a variable"):
        read_annotations(path, image="photo", group="sender")
    with pytest.raises(ValueError, match="no image column; there are 'group', 'photo', 'x'"):
        read_annotations(path)


@pytest.mark.parametrize("name,text", [
    ("a.csv", 'file;"colour (red, green, blue, grey)"\na.jpg;red\n'),
    ("a.csv", "file;colours (red, green, blue)\na.jpg;red\n"),
    ("a.tsv", "photo\tcolour, as seen; by day, night\na.jpg\tred\n"),
    ("a.csv", "sep=;\nfile;colour\na.jpg;red\n"),
    ("a.csv", '\ufeff"sep=;"\r\nfile;colour,x,y\r\na.jpg;red\r\n'),
    ("a.csv", 'photo;"red, green, blue, grey"\na.jpg;red\n'),
    ("a.txt", "photo|who, when, where\na.jpg|red\n"),
])
def test_marks_inside_names_do_not_part_them(write, name, text):
    image = "photo" if "photo" in text else None
    table = read_annotations(write(name, text), image=image)
    assert table.shape == (1, 3) and labels(table, table.columns[2]) == {"a.jpg": "red"}


def test_without_an_image_column_the_header_is_counted_outside_quotes(write):
    with pytest.raises(ValueError, match="there are 'photo', 'red, green, blue, grey'"):
        read_annotations(write("a.csv", 'photo;"red, green, blue, grey"\na.jpg;red\n'))


def test_rows_are_counted_with_the_line_that_names_the_mark(write):
    with pytest.raises(ValueError, match="row 4: 1 fields"):
        read_annotations(write("a.csv", "sep=,\nimage,kind\na.jpg,x\nb.jpg\n"))


def test_a_quote_begins_a_cell_between_tabs(write):
    text = 'image\tkind\na.jpg\t"Gros de Tours" silk\nb.jpg\t"x\n'
    table = read_annotations(write("a.tsv", text))
    assert labels(table, "kind") == {"a.jpg": '"Gros de Tours" silk', "b.jpg": '"x'}
    quoted = read_annotations(write("b.tsv", 'image\tkind\na.jpg\t"x\ty"\n'))
    assert labels(quoted, "kind") == {"a.jpg": "x\ty"}  # quotes that close are quotes


@pytest.mark.parametrize("name", ["object", "obj", "Object"])
def test_what_variables_names_is_no_group(write, name):
    path = write("a.csv", f"image,{name}\na.jpg,vase\nb.jpg,cup\n")
    table = read_annotations(path, variables=name)
    assert labels(table, name) == {"a.jpg": "vase", "b.jpg": "cup"}
    assert table["group"].tolist() == table["image"].tolist()
    with pytest.raises(ValueError, match=f"no column with labels; the column '{name}' was taken "
                                         "for the group. If .* variables="):
        read_annotations(path)
    with pytest.raises(ValueError, match="no column with labels$"):
        read_annotations(path, group=name)
    both = read_annotations(write("b.csv", f"image,{name},kind\na.jpg,vase,x\nb.jpg,cup,y\n"))
    with pytest.raises(ValueError, match=f"told variables='{name}'"):
        choose_variable(both, name)


def test_group_falls_back_to_the_object_in_the_name_then_to_the_image(write, tmp_path):
    names = [f"vam__{UUIDS[0]}__a_b__1.jpg", f"met__{UUIDS[0]}__x.jpg", "plain.jpg", "a__b__c.jpg"]
    table = read_annotations(write("a.csv", "file,kind\n" + "".join(f"d/{n},x\n" for n in names)))
    assert table["group"].tolist() == [UUIDS[0], UUIDS[0], str(tmp_path / "d" / "plain.jpg"),
                                       str(tmp_path / "d" / "a__b__c.jpg")]


def test_relative_sources_give_full_paths(write, tmp_path, monkeypatch):
    write("t/a.csv", "image,kind\n../i/a.jpg,x\n/abs/b.jpg,y\n")
    monkeypatch.chdir(tmp_path)
    assert read_annotations("t/a.csv")["image"].tolist() == [str(tmp_path / "i" / "a.jpg"),
                                                             "/abs/b.jpg"]


def test_multiline_cells_do_not_shift_row_numbers(write):
    path = write("a.csv", 'image,note\na.jpg,"one\ntwo\nthree"\nb.jpg\n')
    with pytest.raises(ValueError, match=r"a\.csv, row 5: 1 fields where the header has 2"):
        read_annotations(path)


@pytest.mark.parametrize("content,message", [
    ("", "a.csv: the file is empty"),
    ("\n \n", "a.csv: the file is empty"),
    (",,\n", "a.csv: the file is empty"),
    ("image,kind\n", "a.csv: a header and no rows"),
    ("image\na.jpg\n", "a.csv: images, but no column with labels"),
    ("image,object\na.jpg,o\n", "images, but no column with labels"),
    ("image,kind\na.jpg,\nb.jpg,nan\n", "a.csv: no labels at all for 'kind'"),
    ("image,kind,kind\na.jpg,x,y\n", "the header names the column 'kind' twice"),
    ("image,kind\na.jpg,x\n\nb.jpg,y,z\n", "row 4: 3 fields where the header has 2"),
    ("image,kind\na.jpg,x\n ,y\n", "row 3: no image in the column 'image'"),
    ("image,kind\na.jpg,x\nNaN,y\n", "row 3: no image"),
    ('image,kind\na.jpg,"x\nb.jpg,y\n', "row 2: unexpected end of data"),
    ("image,kind\na.jpg,x\nb.jpg,\xff\n".encode("latin-1"), "not text in UTF-8 (line 3)"),
    ("image,kind\na.jpg,x\n".encode("utf-16"), "not text in UTF-8"),
    (bytes(range(256)), "not text in UTF-8 (line 1)"),
])
def test_faulty_tables(write, content, message):
    with pytest.raises(ValueError) as caught:
        read_annotations(write("a.csv", content))
    assert message in str(caught.value) and "a.csv" in str(caught.value)


def test_things_that_are_no_tables(write, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv: no such file"):
        read_annotations(tmp_path / "nowhere.csv")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg: it is an image \(JPEG\), not a table"):
        read_annotations(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="list of sources is empty"):
        read_annotations([])


def test_ways_to_say_not_known(write):
    words = ["NAN", "Null", "NONE", "<NA>", "#N/A", "nil"]
    path = write("a.csv", "image,kind\n0.jpg,x\n"
                 + "".join(f"{n}.jpg,{word}\n" for n, word in enumerate(words, 1)))
    assert list(labels(read_annotations(path), "kind").values()) == ["x", *[None] * 5, "nil"]
    found = read_annotations(path, missing="nil")
    assert list(labels(found, "kind").values()) == ["x", *[None] * 6]


def test_na_is_a_label_and_a_warning(write, tmp_path):
    path = write("a.csv", "image,object,place\na.jpg,o,NA\nb.jpg,p,ZA\nc.jpg,NA,NA\n")
    with pytest.warns(UnclearLabelWarning) as caught:
        table = read_annotations(path)
    assert list(labels(table, "place").values()) == ["NA", "ZA", "NA"]
    messages = [str(w.message) for w in caught]
    assert len(messages) == 2 and "1 cells of the groups say 'NA'" in messages[0]
    assert re.search(r"2 cells of 'place' say 'NA', first .*a\.csv, row 2, .*missing='NA'",
                     messages[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = read_annotations(path, missing=())
        gone = read_annotations(path, missing=["NA"])
        write("set/NA/a.jpg", ""), write("set/ZA/a.jpg", "")
        assert set(read_annotations(tmp_path / "set")["label"]) == {"NA", "ZA"}
    pd.testing.assert_frame_equal(kept, table)
    assert list(labels(gone, "place").values()) == [None, "ZA", None]
    assert gone["group"].tolist() == ["o", "p", str(tmp_path / "c.jpg")]


def test_labels_are_in_one_unicode_form(write, tmp_path):
    table = read_annotations(write("a.csv", "image,kind\ne\u0301.jpg,cre\u0302pe\n"
                                   "b.jpg,cr\u00eape\n"))
    assert list(table["kind"]) == ["cr\u00eape"] * 2
    assert table["image"][0] == str(tmp_path / "e\u0301.jpg")  # the file's name stays
    write("set/cre\u0302pe/a.jpg", "")
    write("set/satin/a.jpg", "")
    assert set(read_annotations(tmp_path / "set")["label"]) == {"cr\u00eape", "satin"}


# --- one row per image ------------------------------------------------------------------------

def test_contradicting_labels(write):
    path = write("a.csv", "image,x,y\na.jpg,p,q\n\n./a.jpg,p,r\nb.jpg,p,q\n")
    with pytest.raises(ValueError, match=r"a\.jpg has contradicting labels for 'y': 'q' "
                                         r"\(.*a\.csv, row 2\) and 'r' \(.*a\.csv, row 4\)"):
        read_annotations(path)
    with pytest.warns(DuplicateImageWarning, match="1 images stand in several rows"):
        table = read_annotations(path, variables="x")  # the other column is not asked for
    assert labels(table, "x") == {"a.jpg": "p", "b.jpg": "p"}


def test_groups_that_share_an_image_are_joined(write):
    rows = ["a,o1,p", "a,o2,p", "b,o2,p", "c,o3,p", "d,o4,p", "c,o4,", "b,o3,", "e,o5,p", "f,,p"]
    path = write("a.csv", "image,object,x\n" + "".join(f"{row}\n" for row in rows))
    with pytest.warns(JoinedGroupsWarning, match=r"3 images stand under several groups, and 4 "
                                                 r"groups became 1, .* first is .*a: 'o1' .*row 2"
                                                 r".* and 'o2' .*row 3"):
        with pytest.warns(DuplicateImageWarning):
            table = read_annotations(path)
    assert labels(table, "group") == dict(zip("abcdef", ["o1"] * 4 + ["o5", table["image"][5]],
                                              strict=True))
    path = write("b.csv", "image,object,x\na.jpg,o1,p\na.jpg,o2,q\n")
    with pytest.warns(JoinedGroupsWarning), pytest.raises(ValueError, match="contradicting labels"):
        read_annotations(path)


def test_agreeing_rows_complete_each_other(write):
    path = write("a.csv", "image,object,x,y\nb.jpg,,p,\na.jpg,o,s,\nb.jpg,o,,q\nb.jpg,,p,q\n")
    with pytest.warns(DuplicateImageWarning, match=r"b\.jpg \(rows 2, 4, 5\)"):
        table = read_annotations(path)
    assert labels(table, "x") == {"b.jpg": "p", "a.jpg": "s"}
    assert labels(table, "y") == {"b.jpg": "q", "a.jpg": None}
    assert table["group"].tolist() == ["o", "o"]
    assert list(labels(table, "x")) == ["b.jpg", "a.jpg"]  # in order of first appearance


# --- a folder per class -------------------------------------------------------------------------

def test_folder_per_class(write, tmp_path):
    for name in ("cat/a.jpg", "cat/deep/er/b.PNG", "dog/c.tiff", "dog/.hidden.jpg", "dog/notes.txt",
                 ".git/d.jpg", "dog/.thumbs/e.jpg", "empty/readme.md", f"dog/v__{UUIDS[0]}__1.jpg"):
        write(name, "")
    with pytest.warns(EmptyClassWarning, match="no image in the folders 'empty', which"):
        table = read_annotations(tmp_path)
    assert table.columns.tolist() == ["image", "group", "label"]
    assert labels(table, "label") == {"a.jpg": "cat", "b.PNG": "cat", "c.tiff": "dog",
                                      f"v__{UUIDS[0]}__1.jpg": "dog"}
    assert table["group"].tolist()[-1] == UUIDS[0] and table["group"].nunique() == 4
    assert all(os.path.isfile(i) for i in table["image"])


def test_images_of_every_suffix_are_read_or_rejected(write, tmp_path):
    for n, suffix in enumerate(["jfif", "jpe", "avif", "heic", "HEIF", "jxl", "jp2"]):
        write(f"cat/{n}.{suffix}", "no picture")
    for name in ("cat/a.h5", "cat/film.mpg", "cat/notes.pdf", "cat/list.txt"):
        write(name, "")
    Image.new("RGB", (4, 4)).save(tmp_path / "cat" / "good.jpe", format="JPEG")
    table = read_annotations(tmp_path)
    assert len(table) == 8
    _, bad = check_images(table, rejected=tmp_path / "rejected.csv", quiet=True)
    assert len(bad) == 7 == len(pd.read_csv(tmp_path / "rejected.csv"))
    assert set(annotations.IMAGE_SUFFIXES) >= {
        ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".jp2"}


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "Val", "testing"), ("train",)])
def test_a_folder_that_is_split_already_is_refused(write, tmp_path, names):
    for name in names:
        write(f"{name}/cat/a.jpg", "")
        write(f"{name}/dog/b.jpg", "")
    write("docs/readme.md", "")
    with pytest.raises(ValueError, match=rf"split already; .*'{names[0]}'.* Name one of these"):
        read_annotations(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(read_annotations(tmp_path / names[0])["label"]) == {"cat", "dog"}


def test_classes_may_have_the_names_of_splits(write, tmp_path):
    write("test/a.jpg", "")
    write("train/b.jpg", "")  # no classes below
    assert set(read_annotations(tmp_path)["label"]) == {"train", "test"}
    write("plane/deep/c.jpg", "")
    assert set(read_annotations(tmp_path)["label"]) == {"train", "test", "plane"}


def test_faulty_folders(write, tmp_path):
    with pytest.raises(ValueError, match="no images in it; wanted: one sub-folder per class"):
        read_annotations(tmp_path)
    write("images/a.jpg", "")
    write("master.txt", "")
    with pytest.raises(ValueError, match="all images lie in the one folder 'images'.*'master.txt'"):
        read_annotations(tmp_path)
    with pytest.raises(ValueError, match="group= and image_dir= are for tables"):
        read_annotations(tmp_path, group="x")
    for n in range(4):
        write(f"{n}.jpg", "")
    with pytest.raises(ValueError, match=r"4 images lie outside the class folders "
                                         r"\(0\.jpg, 1\.jpg"):
        read_annotations(tmp_path)


# --- SILKNOW lists ----------------------------------------------------------------------------

HEADER = "#image_file\t#timespan\t#material\t\n"


def row(n, *values):
    return "\t".join([f"../img/vam__{UUIDS[n // 2]}__{n}.jpg", *values]) + "\t\n"


def test_collection_file(write, tmp_path):
    text = (HEADER + row(0, "1700 (CE)", "silk") + row(1, "nan", "silk___wool")
            + row(2, "NaN", "a__b"))
    path = write("lists/c.txt", text)
    with pytest.warns(SeveralLabelsWarning, match="taken as missing: material 1$"):
        table = read_annotations(path)
    assert table.columns.tolist() == ["image", "group", "timespan", "material"]
    assert list(labels(table, "timespan").values()) == ["1700 (CE)", None, None]
    assert list(labels(table, "material").values()) == ["silk", None, "a__b"]
    assert table["group"].tolist() == [UUIDS[0], UUIDS[0], UUIDS[1]]
    assert table["image"][0] == str(tmp_path / "img" / f"vam__{UUIDS[0]}__0.jpg")


def test_collection_with_the_image_in_another_column(write, tmp_path):
    text = ("#material\t#image_file\t#object\t\n"
            "silk___wool\ta.jpg\t1\t\nsilk\tb.jpg\t2\t\n")
    write("l/c.txt", text)
    for path in (tmp_path / "l" / "c.txt", write("l/master.txt", "c.txt\n")):
        with pytest.warns(SeveralLabelsWarning, match="material 1$"):
            table = read_annotations(path)
        assert labels(table, "material") == {"a.jpg": None, "b.jpg": "silk"}
    with pytest.warns(SeveralLabelsWarning):
        table = read_annotations(tmp_path / "l" / "c.txt", variables=["material", "object"])
    assert labels(table, "object") == {"a.jpg": "1", "b.jpg": "2"}


def test_master_file_and_list_of_files(write, tmp_path):
    one = write("l/deep/1.txt", HEADER + row(0, "x", "silk"))
    two = write("l/2.txt", "#image_file\t#material\t#place\n" + row(2, "wool", "ES"))
    master = write("l/master.txt", "\ndeep/1.txt\n\n2.txt\n")
    table = read_annotations(master)
    assert table.columns.tolist() == ["image", "group", "timespan", "material", "place"]
    assert list(labels(table, "material").values()) == ["silk", "wool"]
    assert list(labels(table, "place").values()) == [None, "ES"]
    # relative to the master's folder, not to the collection's
    assert [os.path.dirname(i) for i in table["image"]] == [str(tmp_path / "img")] * 2
    both = read_annotations([one, str(two)])
    assert [os.path.dirname(i) for i in both["image"]] == [str(tmp_path / "l/img"),
                                                           str(tmp_path / "img")]
    assert list(labels(both, "material").values()) == ["silk", "wool"]
    moved = read_annotations(master, image_dir=tmp_path / "a" / "b", variables=["place"])
    assert os.path.dirname(moved["image"][0]) == str(tmp_path / "a" / "img")


def test_faulty_lists(write):
    write("c.txt", HEADER + row(0, "x", "silk"))
    with pytest.raises(FileNotFoundError, match=r"master\.txt, line 3: no "
                                                r"collection file .*d\.txt"):
        read_annotations(write("master.txt", "c.txt\n\nd.txt\n"))
    write("d.txt", "image\tmaterial\n")
    with pytest.raises(ValueError, match=r"master\.txt, line 3: .*d\.txt is not "
                                         r"a SILKNOW collection"):
        read_annotations(write("master.txt", "c.txt\n\nd.txt\n"))
    with pytest.raises(ValueError, match=r"e\.txt, row 3: 2 fields where the header has 3"):
        read_annotations(write("e.txt", HEADER + row(0, "x", "y") + "img.jpg\tx\n"))
    with pytest.raises(ValueError, match=r"e\.txt, row 2: 6 fields where the header has 3"):
        read_annotations(write("e.txt", HEADER + row(0, "x", "y", "z", "z")))
    write("f.txt", HEADER + row(0, "x", "wool"))
    with pytest.raises(ValueError, match=r"'material': 'silk' \(.*c\.txt, row 2\) "
                                         r"and 'wool' \(.*f\.txt"):
        read_annotations(write("master.txt", "c.txt\nf.txt\n"))


def test_real_silknow_lists(shared, tmp_path):
    files = [shared / "data" / "silknow" / f"collection_{n}.txt" for n in ("train", "dev", "test")]
    start = time.perf_counter()
    table = read_annotations(files)
    print(f"36,043 rows read in {time.perf_counter() - start:.2f} s")
    assert len(table) == 36_043 and table["group"].nunique() == 22_093
    assert table.columns.tolist() == ["image", "group", "place", "timespan", "technique",
                                      "material"]
    assert table["material"].value_counts().to_dict() == {
        "animal_fibre": 23_238, "vegetal_fibre": 3_119, "metal_thread": 2_967}
    assert table["place"].isna().sum() == 14_232
    master = tmp_path / "master.txt"
    master.write_text("".join(f"{file}\n" for file in files))
    again = read_annotations(master)
    assert again.drop(columns="image").equals(table.drop(columns="image"))

    chosen, account = choose_variable(table, "place")
    assert account["missing"] == 14_232 and len(chosen) == 21_811
    start = time.perf_counter()
    split = split_annotations(chosen)
    print(f"{len(chosen)} images split in {time.perf_counter() - start:.2f} s")
    check_split(chosen, split)
    assert_shares(split, overall=0.01, per_class=0.03)


# --- the knowledge graph's export ---------------------------------------------------------------

EXPORT = ("obj,museum,text,img,deeplink,place_country_code,time_label,technique_group,"
          "material_group,depict_group\n")


def test_export(write, tmp_path):
    text = EXPORT + (
        """o1,vam,"['a text, with ""commas""']","['a.jpg', 'b.jpg']",,['FR'],"""
        """"['1700 (CE)']",[],nan,['x']\n"""
        """o2,['vam'],[],['c.jpg'],,"['FR', 'ES']",[nan],['velvet'],"['silk', 'wool']","""
        """"['x', 'x']"\n"""
        """o3,vam,[],[],,['FR'],[],[],[],[]\n""")
    with pytest.warns(SeveralLabelsWarning, match="taken as missing: place 1, material 1|"
                                                  "place_country_code 1, material_group 1"):
        table = read_annotations(write("total_post.csv", text))
    assert table.columns.tolist() == ["image", "group", "place", "time", "technique", "material",
                                      "depict"]
    assert labels(table, "place") == {"a.jpg": "FR", "b.jpg": "FR", "c.jpg": None}
    assert labels(table, "time") == {"a.jpg": "1700 (CE)", "b.jpg": "1700 (CE)", "c.jpg": None}
    assert labels(table, "technique") == {"a.jpg": None, "b.jpg": None, "c.jpg": "velvet"}
    assert labels(table, "material") == {"a.jpg": None, "b.jpg": None, "c.jpg": None}
    assert labels(table, "depict") == {"a.jpg": "x", "b.jpg": "x", "c.jpg": "x"}
    assert table["group"].tolist() == ["o1", "o1", "o2"]


@pytest.mark.parametrize("cell,found", [
    ("['a.jpg' 'b.jpg']", ["a.jpg", "b.jpg"]),  # numpy's print, which Python concatenates
    ("['a'\n 'b, c'\t\"it's\"]", ["a", "b, c", "it's"]),
    ("['FR', nan]", ["FR"]), ("[nan 'FR' None]", ["FR"]), ("[nan, nan]", []), ("[]", []),
    ("['FR', 'FR',]", ["FR"]), ("[u'a', 2, 1.5]", ["a", "2", "1.5"]), ("bare [x]", ["bare [x]"]),
    (r"['it\'s ]', 'b']", ["it's ]", "b"]),
])
def test_lists_in_cells(cell, found):
    assert annotations._parse_list(cell) == found


def test_export_printed_by_numpy_keeps_several_labels_apart(write):
    path = write("t.csv", EXPORT + """o1,v,[],['a.jpg' 'b.jpg'],,['FR' 'ES'],"['x', nan]",[],[],[]
""")
    with pytest.warns(SeveralLabelsWarning, match="place_country_code 2$"):
        table = read_annotations(path)
    assert labels(table, "place") == {"a.jpg": None, "b.jpg": None}
    assert labels(table, "time") == {"a.jpg": "x", "b.jpg": "x"}


@pytest.mark.parametrize("cell", ["['FR'", "[__import__('os').getcwd()]", "[[1, 2]]", "[{}]",
                                  "[" * 5000, "['a''b']", "['a' ... 'b']", "[b'a']",
                                  "['a'] ['b']", "[FR, ES]"])
def test_faulty_export(write, cell):
    path = write("t.csv", EXPORT + "o1,v,[],['a.jpg'],,['FR'],[],[],[],[]\n"
                 f'o2,v,[],[\'b.jpg\'],,"{cell}",[],[],[],[]\n')
    with pytest.raises(ValueError, match=r"t\.csv, row 3: place_country_code is not a list like"):
        read_annotations(path)


def test_export_without_images(write):
    with pytest.raises(ValueError, match="no row names an image"):
        read_annotations(write("t.csv", EXPORT + "o1,v,[],[],,['FR'],[],[],[],[]\n"))


# --- choosing -----------------------------------------------------------------------------------

@pytest.fixture
def garments():
    kinds = ["b"] * 5 + ["a"] * 5 + ["c"] * 9 + ["d", "d", "e"] + [None] * 3
    return pd.DataFrame({"image": [f"{i}.jpg" for i in range(25)],
                         "group": [str(i) for i in range(25)],
                         "kind": pd.Categorical(kinds), "one": pd.Categorical(["x"] * 25),
                         "none": pd.Categorical([None] * 25)})


def test_choose_variable(garments):
    chosen, account = choose_variable(garments, "kind")
    assert account == {"variable": "kind", "rows": 25, "missing": 3, "dropped": {}, "merged": {},
                       "counts": {"c": 9, "a": 5, "b": 5, "d": 2, "e": 1}}
    assert list(account["counts"]) == ["c", "a", "b", "d", "e"]  # by frequency, ties by name
    assert chosen["label"].cat.categories.tolist() == ["c", "a", "b", "d", "e"]
    assert chosen.columns.tolist() == ["image", "group", "label"]
    assert chosen["image"].tolist() == [f"{i}.jpg" for i in range(22)]
    assert json.loads(json.dumps(account)) == account


def test_choose_variable_sets_rare_classes_aside_when_asked(garments):
    chosen, account = choose_variable(garments, "kind", min_count=3, rare="drop")
    assert account["dropped"] == {"d": 2, "e": 1} and account["merged"] == {}
    assert chosen["label"].cat.categories.tolist() == ["c", "a", "b"] and len(chosen) == 19
    chosen, account = choose_variable(garments, "kind", min_count=6, rare="merge", other="rest")
    assert account["merged"] == {"a": 5, "b": 5, "d": 2, "e": 1} and account["dropped"] == {}
    assert account["counts"] == {"rest": 13, "c": 9} and len(chosen) == 22
    # a rare class that already has the name is among those merged
    chosen, account = choose_variable(garments, "kind", min_count=3, rare="merge", other="e")
    assert account["counts"] == {"c": 9, "a": 5, "b": 5, "e": 3}
    assert choose_variable(garments, "kind", min_count=1, rare="merge")[1]["merged"] == {}


@pytest.mark.parametrize("options,message", [
    ({"variable": "colour"}, "no variable 'colour'; there are 'kind', 'one', 'none'"),
    ({"variable": "image"}, "no variable 'image'"),
    ({"variable": "one"}, "one class only, 'x'"),
    ({"variable": "none"}, "no labels at all"),
    ({"min_count": 6, "rare": "drop"}, "one class only, 'c' after setting aside 4 rare classes"),
    ({"min_count": 3}, "give both min_count > 0 and rare='drop' or rare='merge'"),
    ({"rare": "drop"}, "give both"),
    ({"min_count": -1}, "min_count=-1"),
    ({"rare": "hide"}, "rare= must be 'keep', 'drop' or 'merge', not 'hide'"),
    ({"min_count": 3, "rare": "merge", "other": "a"}, "cannot be merged into 'a'"),
])
def test_choose_variable_faults(garments, options, message):
    with pytest.raises(ValueError) as caught:
        choose_variable(garments, **{"variable": "kind", **options})
    assert message in str(caught.value)


# --- splitting ----------------------------------------------------------------------------------

def check_split(table, split):
    """What holds for every split: the same rows, a split for each, no group in two."""
    pd.testing.assert_frame_equal(split[table.columns], table)
    assert split["split"].cat.categories.tolist() == ["train", "validation", "test"]
    assert split["split"].notna().all()
    assert split.groupby("group")["split"].nunique().max() == 1


def assert_shares(split, overall, per_class):
    target = pd.Series({"train": 0.6, "validation": 0.2, "test": 0.2})
    found = split["split"].value_counts(normalize=True)
    assert (found - target).abs().max() < overall, found
    shares = pd.crosstab(split["label"], split["split"], normalize="index")
    assert ((shares - target).abs() < per_class).all(axis=None), shares


def frame(groups, names):
    return pd.DataFrame({"image": [f"{i:05}.jpg" for i in range(len(groups))],
                         "group": [f"g{g}" for g in groups], "label": pd.Categorical(names)})


@st.composite
def tables(draw):
    n = draw(st.integers(4, 60))
    groups = draw(st.lists(st.integers(0, draw(st.integers(3, 60))), min_size=n, max_size=n))
    names = draw(st.lists(st.sampled_from("abcdef"), min_size=n, max_size=n))
    groups[:3], names[:2] = [100, 101, 102], ["a", "b"]
    return frame(groups, names)


@settings(deadline=None, max_examples=150)
@given(table=tables(), seed=st.integers(0, 2**32 - 1), shuffle=st.integers(0, 1000))
def test_split_holds_its_promises(table, seed, shuffle):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        split = split_annotations(table, seed=seed)
    check_split(table, split)
    assert split["split"].nunique() == 3
    # the warnings name exactly the classes that miss a split
    parts = split.groupby("label", observed=True)["split"].nunique()
    warned = {str(w.message).split("'")[1] for w in caught if w.category is SmallClassWarning}
    assert warned == set(parts[parts < 3].index)
    # seeded, and independent of the order of the rows
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mixed = table.sample(frac=1, random_state=shuffle)
        again = split_annotations(mixed, seed=seed)
    assert again.sort_index()["split"].tolist() == split["split"].tolist()


@settings(deadline=None, max_examples=60)
@given(sizes=st.lists(st.lists(st.integers(1, 6), min_size=3, max_size=12), min_size=2, max_size=6),
       seed=st.integers(0, 100))
def test_classes_of_three_pure_groups_are_in_all_splits(sizes, seed):
    groups, names, g = [], [], 0
    for k, of_class in enumerate(sizes):
        for size in of_class:
            groups += [g] * size
            names += [f"c{k}"] * size
            g += 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split = split_annotations(frame(groups, names), seed=seed)
    assert (pd.crosstab(split["label"], split["split"]) > 0).all(axis=None)


def test_shares_with_single_images_are_exact():
    split = split_annotations(frame(range(1000), ["a"] * 700 + ["b"] * 250 + ["c"] * 50))
    assert_shares(split, overall=0.0011, per_class=0.0001)


def test_another_seed_is_another_split():
    table = frame(np.arange(600) // 3, list("abc") * 200)
    one, two = split_annotations(table, seed=0), split_annotations(table, seed=1)
    assert (one["split"] != two["split"]).mean() > 0.3


def test_large_groups_are_not_bound_for_training():
    table = frame([0] * 60 + list(range(1, 441)), ["a", "b"] * 250)
    where = [split_annotations(table, seed=s)["split"].iloc[0] for s in range(30)]
    assert 5 <= where.count("train") <= 28 and len(set(where)) == 3


def test_test_sets_of_seeds_share_no_more_than_by_chance():
    # groups as skewed as the senders of the clothing photographs; the largest hold 10 and 8 %
    rng = np.random.default_rng(0)
    sizes = np.array([120, 95, 60, 50, 40, *rng.integers(1, 30, 60)])
    groups = np.repeat(np.arange(len(sizes)), sizes)
    tastes = rng.dirichlet(np.full(6, 0.6), len(sizes))
    table = frame(groups, [rng.choice(list("abcdef"), p=tastes[g]) for g in groups])
    tested = np.stack([(split_annotations(table, seed=s)["split"] == "test").to_numpy()
                       for s in range(40)])
    both = tested.astype(float) @ tested.T
    shared = (both / both.diagonal())[~np.eye(40, dtype=bool)].mean()
    assert 0.17 < shared < 0.25, shared
    # of 40 test sets each of the large groups is in about 8
    assert all(1 <= tested[:, groups == g][:, 0].sum() <= 18 for g in range(5))


def test_mending_moves_whole_groups():
    # class b: three groups, dealt by hand so that the test split misses it
    counts = np.array([[8, 0]] * 9 + [[0, 1], [1, 1], [0, 1]], dtype=float)
    split = np.array([0, 0, 0, 0, 0, 1, 1, 2, 2, 0, 0, 1])
    mended = annotations._mend_gaps(counts, split)
    assert (mended != split).sum() == 1 and mended[9:].tolist() in ([2, 0, 1], [0, 2, 1])
    held = np.stack([counts[mended == s].sum(axis=0) for s in range(3)])
    assert (held > 0).all()


def test_mending_exchanges_groups_where_no_move_helps():
    # the first class misses the test split; each of its groups is the last one of some class in
    # its split, so that only an exchange with a group of that class helps
    counts = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0],
                       [0, 0, 1, 0], [0, 0, 1, 0], *[[0, 0, 0, 3]] * 5], dtype=float)
    split = np.array([0, 0, 1, 2, 1, 2, 1, 0, 0, 0, 1, 2])

    def gaps(split):
        return sum((counts[split == s].sum(axis=0) == 0).sum() for s in range(3))

    mended = annotations._mend_gaps(counts, split)
    assert gaps(split) == 1 and gaps(mended) == 0, mended
    assert (mended != split).sum() == 2


@settings(deadline=None, max_examples=60)
@given(data=st.data(), seed=st.integers(0, 50))
def test_few_groups_leave_no_gap_that_need_not_be(data, seed):
    groups, classes = data.draw(st.integers(3, 6)), data.draw(st.integers(2, 4))
    rows = st.lists(st.integers(0, 2), min_size=classes, max_size=classes).filter(any)
    counts = np.array(data.draw(st.lists(rows, min_size=groups, max_size=groups)), float)
    counts = counts[:, counts.any(axis=0)]
    wide = (counts > 0).sum(axis=0) >= 3

    def bad(split):
        held = np.stack([counts[np.equal(split, s)].sum(axis=0) for s in range(3)])
        return int((held.sum(axis=1) == 0).sum()), int((held[:, wide] == 0).sum())

    split = annotations._good_deal(counts, np.random.default_rng(seed))
    found = bad(annotations._mend_gaps(counts, split))
    assert found == min(map(bad, itertools.product(range(3), repeat=groups)))


def test_small_classes_are_named():
    table = frame([0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9], ["a"] * 9 + ["b", "b", "c"])
    with pytest.warns(SmallClassWarning) as caught:
        split_annotations(table)
    messages = sorted(str(w.message) for w in caught)
    assert "'b' (2 images, groups: 1) is missing in" in messages[0]
    assert "'c' (1 images, groups: 1) is missing in" in messages[1] and len(messages) == 2
    assert " and " in messages[1]


def test_index_need_not_be_unique():
    table = frame(range(30), list("ab") * 15)
    table.index = [7] * 30
    split = split_annotations(table)
    again = split_annotations(table.reset_index(drop=True))
    assert split["split"].tolist() == again["split"].tolist()


@pytest.mark.parametrize("change,message", [
    (lambda t: t.drop(columns="label"), "no column 'label'; split what choose_variable gives"),
    (lambda t: t.assign(group="g"), "number of groups: 1; three splits need at least three groups"),
    (lambda t: t.assign(label="a"), "number of classes: 1; two are the least"),
    (lambda t: t[:0], "number of classes: 0"),
    (lambda t: t.assign(label=["a", "b", None, "b", "a", "b"]),
     "1 images have no label, first 00002"),
    (lambda t: t.assign(group=[None, *"bcdef"]), "1 images have no group, first 00000"),
    (lambda t: t.assign(image="a.jpg"), "the image a.jpg is in the table more than once"),
])
def test_split_faults(change, message):
    with pytest.raises(ValueError) as caught:
        split_annotations(change(frame(range(6), list("ababab"))))
    assert message in str(caught.value)


def test_real_clothing(shared):
    table = read_annotations(shared / "data" / "clothing" / "clothing.csv", group="sender")
    assert table.columns.tolist() == ["image", "group", "garment", "kids"] and len(table) == 5096
    assert all(os.path.isfile(i) for i in table["image"])
    chosen, account = choose_variable(table, "garment")
    assert account["missing"] == 0 and len(account["counts"]) == 17
    for seed in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            split = split_annotations(chosen, seed=seed)
        check_split(chosen, split)
        assert_shares(split, overall=0.02, per_class=0.2)


def test_plot_split_shows_the_counts():
    split = split_annotations(frame(range(60), ["b"] * 40 + ["a"] * 15 + ["c"] * 5))
    ax = plot_split(split)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["b", "a", "c"]
    heights = [[int(bar.get_height()) for bar in bars] for bars in ax.containers]
    assert heights == [[24, 9, 3], [8, 3, 1], [8, 3, 1]]
