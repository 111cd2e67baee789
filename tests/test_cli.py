"""The command silk_nb: what it prints and leaves, and one line for every mistake."""
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from silk_nb.cli import main
from silk_nb.predict import find_images

SMALL = ["--backbone", "shufflenet_v2_x0_5", "--weights", "silk-textures", "--batch-size", "auto",
         "--max-epochs", "3", "--quiet"]


def train(silk, out, cache, *more):
    return ["train", str(silk), "--variable", "technique", "--out", str(out), "--cache",
            str(cache), *SMALL, *more]


@pytest.fixture(scope="module")
def run(silk, silk_cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main(train(silk, folder, silk_cache)) == 0
    return folder


@pytest.fixture
def told(capsys):
    """Run the command: exit status, standard output, and the lines of standard error."""
    def call(*arguments):
        capsys.readouterr()
        status = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return status, out, err.splitlines()
    return call


def state(folder):
    return {p.relative_to(folder): p.is_file() and p.read_bytes() for p in folder.rglob("*")}


def test_train_and_evaluate_say_the_same(run, silk, silk_cache, told):
    status, out, _ = told(*train(silk, run, silk_cache))
    assert status == 0 and "OA" in out and "minority F1" in out and str(run) in out
    assert "report.html" in out and (run / "report.html").is_file()
    status, again, err = told("evaluate", run)
    assert status == 0 and not err
    headline = [line for line in out.splitlines() if line.endswith("%")]
    assert len(headline) == 4 and all(line in again for line in headline)
    assert "embroidery" in again


def test_predict_writes_one_row_per_image(run, silk, told, tmp_path):
    folder = tmp_path / "photographs"
    (folder / "deep").mkdir(parents=True)
    images = find_images([Path(silk).parent])
    shutil.copy(images[0], folder / "a.jpg")
    shutil.copy(images[1], folder / "deep" / "b.jpg")
    (folder / "notes.txt").write_text("left alone")
    out = tmp_path / "predictions.csv"
    status, printed, err = told("predict", run, folder, images[2], "--out", out, "--quiet")
    assert status == 0 and not err and "3 predictions" in printed
    table = pd.read_csv(out)
    assert [Path(p).name for p in table["image"]] == ["a.jpg", "b.jpg", images[2].name]
    classes = list(table.columns[3:])
    assert list(table.columns[:3]) == ["image", "class", "score"] and len(classes) == 9
    assert table[classes].sum(axis=1).between(0.999, 1.001).all()
    assert (table[classes].idxmax(axis=1) == table["class"]).all()
    assert (table[classes].max(axis=1) - table["score"]).abs().max() < 1e-6
    status, printed, _ = told("predict", run, images[2], "--quiet")
    assert status == 0 and printed.splitlines()[0].startswith("image,class,score,")


def test_demo_small_ends_with_a_table_and_a_report(told, tmp_path):
    status, out, _ = told("demo", "--folder", tmp_path / "d", "--images", 120, "--seeds", 1,
                          "--quiet")
    assert status == 0 and "C*" in out and "C + sem" in out
    report = Path(out.split("seed 0: ")[1].strip())
    assert report.is_file() and "<html" in report.read_text()


@pytest.mark.parametrize("arguments,words", [
    (["train", "nowhere.csv", "--variable", "x"], "nowhere.csv"),
    (["train", "EMPTY", "--variable", "label"], "EMPTY"),
    (["train", "SILK", "--variable", "colour"], "no variable 'colour'; there are "),
    (["train", "SILK", "--variable", "technique", "--experiment", "C + seem"],
     "no experiment 'C + seem'; the names are C*, C, "),
    (["train", "SILK", "--variable", "technique", "--backbone", "resnet_152", *SMALL[2:]],
     "resnet152"),
    (["train", "SILK", "--variable", "technique", "--weights", "gone.safetensors"],
     "gone.safetensors"),
    (["train", "SILK", "--variable", "technique", *SMALL, "--batch-size", "400"],
     "batch_size 400 is more than"),
    (["train", "SILK", "--variable", "technique", *SMALL, "--batch-size", "100"], "Eq. 5"),
    (["train", "SILK", "--variable", "technique", *SMALL, "--learning-rate", "0"],
     "learning_rate must be"),
    (["train", "SILK", "--variable", "technique", *SMALL, "--dropout", "1.5"], "dropout"),
    (["train", "SILK", "--variable", "technique", *SMALL, "--group", "owner"], "owner"),
    (["evaluate", "nowhere"], "nowhere"),
    (["evaluate", "EMPTY"], "is not a run folder"),
    (["predict", "EMPTY", "SILK"], "is not a run folder"),
    (["predict", "RUN", "gone.jpg"], "there is no image gone.jpg"),
    (["predict", "RUN", "EMPTY"], "holds no images"),
    (["predict", "RUN", "SILK", "--quiet"], "cannot be read"),
    (["predict", "RUN", "SILK", "--out", "gone/p.csv"], "there is no folder"),
    (["demo", "--seeds", "0"], "--seeds must be 1 or more"),
    (["demo", "--images", "5"], "images"),
])
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, words, run, silk, told, tmp_path,
                                                  monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    places = {"SILK": silk, "RUN": run}
    status, out, err = told(*[places.get(a, a) for a in arguments])
    assert status == 1 and not out
    assert len(err) == 1 and err[0].startswith("silk_nb: ") and words in err[0]
    assert set(state(tmp_path)) == {Path("EMPTY")}


@pytest.mark.parametrize("arguments", [
    [], ["trian"], ["train", "x"], ["train", "x", "--variable", "y", "--patiance", "3"],
    ["train", "x", "--variable", "y", "--seed", "one"], ["evaluate"], ["predict", "x"],
    ["train", "x", "--variable", "y", "--rare", "remove"]])
def test_a_mistyped_command_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2 and "usage: silk_nb" in capsys.readouterr().err


def test_a_run_of_other_settings_is_not_overwritten(run, silk, silk_cache, told):
    before = state(run)
    status, _, err = told(*train(silk, run, silk_cache, "--seed", "5"))
    assert status == 1 and "another run, which differs in run.seed" in err[-1]
    assert state(run) == before


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[1]"])
def test_a_damaged_run_is_named(content, run, told, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_bytes(content)
    status, _, err = told("evaluate", tmp_path / "run")
    assert status == 1 and len(err) == 1 and "config.json" in err[0]


def test_damaged_weights_are_named(run, silk, told, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    status, _, err = told("predict", tmp_path / "run", Path(silk).parent, "--quiet")
    assert status == 1 and len(err) == 1 and "weights.safetensors" in err[0]


def command(*arguments, **more):
    start = "import sys; from silk_nb.cli import main; sys.exit(main())"
    return subprocess.Popen([sys.executable, "-c", start, *map(str, arguments)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1"}, **more)


def test_no_space_left(run, silk, silk_cache, tmp_path):
    """A limit on file size stands for a full disk: the system refuses the write in the same way."""
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    process = command(*train(silk, tmp_path / "run", silk_cache), preexec_fn=limit)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1 and not out
    assert err.splitlines()[-1].startswith("silk_nb: ") and "Traceback" not in err
    left = [p.name for p in (tmp_path / "run").rglob("*") if p.is_file()]
    assert "metrics.json" not in left and not [n for n in left if "part" in n or "tmp" in n]
    assert main(train(silk, tmp_path / "run", silk_cache)) == 0  # goes on when there is space


def test_interrupted_by_hand_it_says_so_and_goes_on(silk, tmp_path):
    arguments = [*train(silk, tmp_path / "run", tmp_path / "cache"), "--max-epochs", "60",
                 "--patience", "60"]
    process = command(*arguments)
    limit = time.monotonic() + 120
    while not (tmp_path / "run" / "split.csv").exists() and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert err.splitlines()[-1].startswith("silk_nb: interrupted") and "Traceback" not in err
    assert main(["evaluate", str(tmp_path / "run")]) == 1  # not finished
    assert main(arguments) == 0
    assert main(["evaluate", str(tmp_path / "run")]) == 0
