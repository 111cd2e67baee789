"""The page: well-formed, self-contained, escaped, atomic."""

import base64
import re
from html.parser import HTMLParser

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from silk_nb.evaluation import (
    compare_scores,
    confusion_table,
    per_class_table,
    plain_account,
    score_predictions,
)
from silk_nb.report import standard_figures, write_report

NASTY = ['a < b & "c"', "<script>alert('x')</script>", "{{ 7 * 7 }}", "soie façonnée"]
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that tags are balanced and collects what the tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def run():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), [80, 40, 12, 6])
    predicted = np.where(rng.random(len(truth)) < 0.6, truth, 0)
    minority = NASTY[2:]
    epochs = np.arange(1, 6)
    history = pd.DataFrame({
        "epoch": epochs, "train_loss": 1 / epochs, "train_classification": 1 / epochs,
        "validation_loss": [3, 2, 1, 2, 3], "validation_classification": [3, 2, 1, 2, 3],
        "validation_accuracy": epochs / 9, "validation_mean_f1": epochs / 10})
    counts = dict(zip(NASTY, [240, 120, 36, 18], strict=True))
    return {
        "scores": score_predictions(truth, predicted, NASTY, minority),
        "per_class": per_class_table(
            truth, predicted, NASTY, train_counts=counts, minority=minority),
        "confusion": confusion_table(truth, predicted, NASTY),
        "history": history,
    }


def write(folder, run, **changes):
    given = {
        "title": 'Silk <&> "more"', "facts": {"seed": 3, "split": {"train": 5, "test": 2}},
        "scores": run["scores"], "per_class": run["per_class"], "figures": {},
        "confusion": run["confusion"], "left_out": {"no <label>": 1200, "broken": 0},
        "created": "1 March 2025",
    }
    return write_report(folder, **(given | changes))


def test_page_is_whole_and_self_contained(tmp_path, run):
    before = plt.get_fignums()
    figures = standard_figures(run["per_class"], run["confusion"], run["history"])
    assert len(figures) == 4 and plt.get_fignums() == before  # nothing left to pyplot
    path = write(tmp_path, run, figures=figures)
    assert path == tmp_path / "report.html"
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>") and page.named("html") == [{"lang": "en"}]
    images = page.named("img")
    assert len(images) == 4
    for image in images:
        assert len(image["alt"]) > 20
        kind, data = image["src"].split(",", 1)
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data, validate=True).startswith(b"\x89PNG")
    assert not page.named("script") and not page.named("link") and not page.named("a")
    assert all(not {"href", "srcset", "onclick"} & set(attributes) for _, attributes in page.tags)
    styles = re.search("<style>(.*?)</style>", text, re.S)[1]
    assert "url(" not in styles and "@import" not in styles
    assert "prefers-color-scheme: dark" in styles


def test_tables_have_captions_and_scopes(tmp_path, run):
    page = Page(write(tmp_path, run).read_text(encoding="utf-8"))
    assert len(page.named("table")) == len(page.named("caption")) == 4
    assert all(cell.get("scope") in {"row", "col"} for cell in page.named("th"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for section in page.named("section"):
        assert section["aria-labelledby"] in ids


def test_names_are_text_and_never_markup(tmp_path, run):
    figures = standard_figures(run["per_class"], run["confusion"])
    raw = write(tmp_path, run, figures=figures).read_text(encoding="utf-8")
    page = Page(raw)
    assert "<script" not in raw and "no <label>" not in raw
    for name in NASTY:
        assert name in page.text
    assert 'Silk <&> "more"' in page.text and "no <label>" in page.text
    alts = [image["alt"] for image in page.named("img")]
    assert any(NASTY[0] in alt for alt in alts)


def test_numbers_account_and_facts_are_on_the_page(tmp_path, run):
    page = Page(write(tmp_path, run).read_text(encoding="utf-8"))
    shown = page.text.replace("\u00a0", " ")
    for sentence in plain_account(run["per_class"], run["scores"]):
        assert sentence in shown
    assert f"{100 * run['scores']['overall_accuracy']:.1f} %" in shown
    assert "train 5, test 2" in shown and "1 March 2025" in shown
    assert "1,200" in shown and "broken" not in shown
    # two rows are marked by the word itself
    tags = [attributes for attributes in page.named("span") if attributes.get("class") == "tag"]
    assert len(tags) == 2 and len([row for row in page.named("tr") if row]) == 2


def test_optional_parts_are_left_out_or_said_to_be_empty(tmp_path, run):
    path = write(tmp_path, run, confusion=None, left_out=None, created=None)
    page = Page(path.read_text("utf-8"))
    assert "Images left out" not in page.text and "mistakes" not in page.text
    perfect = confusion_table([0, 1, 2, 3], [0, 1, 2, 3], NASTY)
    page = Page(write(tmp_path, run, confusion=perfect, left_out={"broken": 0}).read_text("utf-8"))
    assert "No image was left out." in page.text
    assert "No test image was given a wrong class." in page.text


def test_images_that_cannot_be_read_are_named_and_the_list_is_pointed_to(tmp_path, run):
    few = pd.DataFrame({"image": ["a/x <1>.jpg", "b.png"], "reason": ["no such file", "torn"]})
    text = Page(write(tmp_path, run, unreadable=few).read_text("utf-8")).text
    assert "Cannot be read: x <1>.jpg (no such file); b.png (torn). All are listed in rej" in text
    many = pd.concat([few] * 4)
    text = Page(write(tmp_path, run, unreadable=many).read_text("utf-8")).text
    assert "; and 3 more. All" in text
    assert "Cannot" not in Page(write(tmp_path, run, unreadable=few[:0]).read_text("utf-8")).text


def test_the_figure_of_the_class_sizes_says_which_images_it_counts(run):
    drawn = standard_figures(run["per_class"])["Images per class (training split)"][0]
    assert drawn.axes[0].get_title().startswith("Images per class, training split\nIR ")


def test_several_experiments_need_an_account(tmp_path, run):
    table = compare_scores({"C*": [run["scores"]] * 2, "C": [run["scores"]]})
    with pytest.raises(ValueError, match="account="):
        write(tmp_path, run, scores=table)
    assert not list(tmp_path.iterdir())
    page = Page(write(tmp_path, run, scores=table, account=["C* = C."]).read_text("utf-8"))
    assert "C* = C." in page.text and "minority F1 [%]" in page.text and "± 0.0" in page.text


def test_figures_from_files_with_and_without_alt_text(tmp_path, run):
    figure, ax = plt.subplots()
    ax.plot([1, 2])
    figure.savefig(tmp_path / "line.png")
    plt.close(figure)
    figures = {"As & file": tmp_path / "line.png", "With text": (figure, 'A "rising" line')}
    page = Page(write(tmp_path, run, figures=figures).read_text(encoding="utf-8"))
    assert [image["alt"] for image in page.named("img")] == ["As & file", 'A "rising" line']
    data = page.named("img")[0]["src"].split(",", 1)[1]
    assert base64.b64decode(data) == (tmp_path / "line.png").read_bytes()


class BrokenFigure(plt.Figure):
    def savefig(self, *arguments, **keywords):
        raise RuntimeError("no canvas")


def test_failure_leaves_nothing_and_keeps_the_old_page(tmp_path, run):
    (tmp_path / "bad.png").write_bytes(b"GIF89a")
    cases = [
        (BrokenFigure(), RuntimeError, "no canvas"),
        (tmp_path / "bad.png", ValueError, "'F1'.*not a PNG"),
        (tmp_path / "lost.png", FileNotFoundError, "'F1'.*there is no file"),
    ]
    for figure, error, message in cases:
        with pytest.raises(error, match=message):
            write(tmp_path, run, figures={"F1": figure})
    assert [one.name for one in tmp_path.iterdir()] == ["bad.png"]
    old = write(tmp_path, run).read_bytes()
    with pytest.raises(RuntimeError, match="no canvas"):
        write(tmp_path, run, figures={"F1": BrokenFigure()})
    assert (tmp_path / "report.html").read_bytes() == old


def test_full_disk_keeps_the_old_page(tmp_path, run, monkeypatch):
    path = write(tmp_path, run)
    old = path.read_bytes()

    def full(self, *arguments, **keywords):
        self.write_bytes(b"<!DOCT")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, run, title="new")
    assert path.read_bytes() == old
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]


def test_missing_folder(tmp_path, run):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        write(tmp_path / "nowhere", run)


def test_figures_without_training_counts_say_test(run):
    table = run["per_class"].assign(train=pd.array([pd.NA] * 4, dtype="Int64"))
    figures = standard_figures(table)
    assert list(figures)[0] == "Images per class (test split)"
    assert "80 images down to" in figures["Images per class (test split)"][1]


def test_figures_of_classes_without_images_and_of_one_class(tmp_path, run):
    table = run["per_class"].assign(train=[240, 120, 36, 0])
    assert "down to soie façonnée with 0" in list(standard_figures(table).values())[0][1]
    single = per_class_table([0, 0], [0, 0], ["silk"])
    figures = standard_figures(single)
    assert list(figures) == ["F1 per class on the test set"]
    scores = score_predictions([0, 0], [0, 0], ["silk"])
    page = Page(write(tmp_path, run, scores=scores, per_class=single, confusion=None,
                      figures=figures).read_text("utf-8"))
    assert "no minority F1" in page.text and "minority F1 –" in page.text
