"""The command silk_nb: what it prints and leaves, and one line for every mistake."""
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest

from silk_nb.cli import _COMMANDS, _RUN_OPTIONS, _in_options, _parsers, main
from silk_nb.experiments import RunConfig
from silk_nb.features import PRECISIONS
from silk_nb.model import SPEEDUPS
from silk_nb.predict import find_images
from silk_nb.store import AUGMENTATIONS

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


def test_a_warning_is_said_once_however_many_runs_give_it(told, monkeypatch):
    def command(_):
        for run in range(3):
            with warnings.catch_warnings():  # Python forgets what it has said
                warnings.warn("a small class" if run else "other", UserWarning, stacklevel=1)

    monkeypatch.setitem(_COMMANDS, "evaluate", command)
    status, _, err = told("evaluate", "run")
    assert status == 0 and err == ["UserWarning: other", "UserWarning: a small class"]


@pytest.mark.parametrize("arguments,words", [
    (["train", "nowhere.csv", "--variable", "x"], "nowhere.csv"),
    (["train", "EMPTY", "--variable", "label"], "EMPTY"),
    (["train", "SILK", "--variable", "colour"], "no variable 'colour'; there are "),
    (["train", "SILK", "--variable", "technique", "--experiment", "C + seem"],
     "no experiment 'C + seem', did you mean 'C + sem'? the names are C*, C, "),
    (["train", "SILK", "--variable", "technique", "--backbone", "resnet_152", *SMALL[2:]],
     "resnet152"),
    (["train", "SILK", "--variable", "technique", "--weights", "gone.safetensors"],
     "gone.safetensors"),
    (["train", "SILK", "--variable", "technique", *SMALL, "--batch-size", "400"],
     "--batch-size 400 is more than"),
    (["train", "SILK", "--variable", "technique", *SMALL, "--batch-size", "100"],
     "or less, or pass --allow-imbalanced for batches as balanced as can be, or --batch-size auto"),
    (["train", "SILK", "--variable", "technique", *SMALL, "--learning-rate", "0"],
     "--learning-rate must be"),
    (["train", "SILK", "--variable", "technique", *SMALL, "--min-count", "9"],
     "give both --min-count > 0 and --rare drop or --rare merge"),
    (["train", "SILK", "--variable", "technique", *SMALL, "--dropout", "1.5"], "dropout"),
    (["train", "SILK", "--variable", "technique", *SMALL, "--group", "owner"], "owner"),
    (["evaluate", "nowhere"], "nowhere"),
    (["evaluate", "EMPTY"], "is not a run folder"),
    (["predict", "EMPTY", "SILK"], "is not a run folder"),
    (["predict", "RUN", "gone.jpg"], "there is no image gone.jpg"),
    (["predict", "RUN", "EMPTY"], "holds no images"),
    (["predict", "RUN", "SILK", "--quiet"], "none of the 1 images can be read"),
    (["predict", "RUN", "SILK", "--out", "gone/p.csv"], "there is no folder"),
    (["predict", "RUN", "SILK", "--out", "SILK", "--quiet"], "exists already: give --out another"),
    (["predict", "RUN", "SILK", "--out", "EMPTY", "--force"], "EMPTY is a folder"),
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
    told = capsys.readouterr().err
    assert exit.value.code == 2 and told.count("\n") == 1 and " --help shows" in told


@pytest.mark.parametrize("arguments,words", [
    (["train", "x", "--variabel", "garment"],
     "silk_nb train: there is no option --variabel, did you mean --variable?; "),
    (["train", "--patiance=3"], "there is no option --patiance, did you mean --patience?"),
    (["evaluate", "--quite", "x"], "silk_nb evaluate: there is no option --quite, did you mean"),
    (["predict", "-force"], "there is no option -force, did you mean --force?"),
    (["train", "x", "--variable", "y", "--zzz"], "there is no option --zzz; silk_nb train --help"),
    (["train", "x", "--variable", "y", "--mean", "abc"], "argument --mean: 'abc' is not a number"),
    (["train", "x", "--variable", "y", "--task-fc", "8,a"], "'8,a' is not a list of whole numbers"),
    (["train", "x", "--variable", "y", "--seed", "1.5"], "--seed: '1.5' is not a whole number"),
])
def test_a_mistyped_option_is_named_with_the_nearest(arguments, words, capsys):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    told = capsys.readouterr().err
    assert exit.value.code == 2 and words in told and told.count("\n") == 1
    assert "_" not in told.replace("silk_nb", "")


def test_options_of_a_run_are_those_of_the_configuration():
    usual = {field.name: field.default for field in fields(RunConfig)}
    for name, (_, default, _) in _RUN_OPTIONS.items():
        assert default == usual[name], name
    assert {*_RUN_OPTIONS, "variable", "experiment"} == set(usual)
    # repeated there, so that --help comes without the modules
    assert _RUN_OPTIONS["augment"][0] == AUGMENTATIONS
    assert _RUN_OPTIONS["precision"][0] == PRECISIONS
    ways = next(a for a in _parsers()[1]["train"]._actions if a.dest == "speedups")
    assert tuple(ways.choices) == SPEEDUPS
    parser, _ = _parsers()
    args = parser.parse_args(["train", "x", "--variable", "v"])
    assert args.experiment == usual["experiment"] and not hasattr(args, "seed")
    words = "--standardise --select validation_mean_f1 --weights none --mean 0.5,0.4,0.3 --std 1"
    args = parser.parse_args(["train", "x", "--variable", "v", *words.split()])
    assert (args.standardise, args.select, args.weights) == (True, "validation_mean_f1", None)
    assert (args.mean, args.std) == ((0.5, 0.4, 0.3), 1.0)


@pytest.mark.parametrize("said,wanted", [
    ("give mean= and std= for it", "give --mean and --std for it"),
    ("Take batch_size=40 or less", "Take --batch-size 40 or less"),
    ("pass allow_imbalanced=True.", "pass --allow-imbalanced."),
    ('weights="path/to/file", mean=(0.485, 0.456), std=0.5.',
     "--weights path/to/file, --mean 0.485,0.456, --std 0.5."),
    ("differs in run.batch_size, run.seed: name", "differs in --batch-size, --seed: name"),
    ("give another folder (cache=… or $SILK_NB_CACHE)",
     "give another folder (--cache or $SILK_NB_CACHE)"),
    ("no variable 'batch_size' in /a/mean=1/batch_size/min_count.csv",
     "no variable 'batch_size' in /a/mean=1/batch_size/min_count.csv"),
    ("other=3 and mean_f1 stay", "other=3 and mean_f1 stay"),
])
def test_messages_speak_of_options(said, wanted):
    assert _in_options(said, _parsers()[1]["train"].options()) == wanted


def test_predict_overwrites_only_with_force(run, silk, told, tmp_path, monkeypatch):
    image, out = find_images([Path(silk).parent])[0], tmp_path / "table.csv"
    out.write_text("mine")
    with monkeypatch.context() as patch:  # it is refused before anything is computed
        patch.setattr("silk_nb.predict.load_run", None)
        status, _, err = told("predict", run, image, "--out", out)
        assert status == 1 and len(err) == 1 and "exists already" in err[0] and "--force" in err[0]
        patch.setattr(os, "access", lambda *_: False)
        status, _, err = told("predict", run, image, "--out", tmp_path / "new.csv")
        assert status == 1 and len(err) == 1 and "may not be written to" in err[0]
    assert out.read_text() == "mine" and os.listdir(tmp_path) == ["table.csv"]
    assert told("predict", run, image, "--out", out, "--force", "--quiet")[0] == 0
    assert len(pd.read_csv(out)) == 1


def test_predict_goes_on_without_images_that_cannot_be_read(run, silk, told, tmp_path):
    shutil.copy(find_images([Path(silk).parent])[0], tmp_path / "good.jpg")
    for name in "abcd":
        (tmp_path / f"{name}.jpg").write_text("no image")
    status, out, err = told("predict", run, tmp_path, "--quiet")
    assert status == 0 and len(out.splitlines()) == 2 and "good.jpg" in out
    assert len(err) == 1 and err[0].startswith("4 of 5 images cannot be read and are left out: ")
    assert "c.jpg: not an image" in err[0] and "d.jpg" not in err[0]


def test_predict_names_the_option_for_weights_that_have_moved(run, silk, told, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    header = json.loads((run / "config.json").read_text())
    header["run"]["weights"] = "/nowhere/w.safetensors"
    (tmp_path / "run" / "config.json").write_text(json.dumps(header))
    status, _, err = told("predict", tmp_path / "run", Path(silk).parent, "--quiet")
    assert status == 1 and len(err) == 1 and "was trained with, --weights FILE." in err[0]
    assert "/nowhere/w.safetensors" in err[0]


def test_train_says_what_was_left_out_and_why_a_score_is_missing(silk_table, silk_cache, told,
                                                                tmp_path):
    first = silk_table["technique"].isin(["embroidery", "velvet"])
    rows = silk_table[first].groupby("technique", observed=True).head(24)
    rows = rows[["image", "technique"]].astype(object).reset_index(drop=True)
    rows.loc[0, "technique"] = ""
    rows.loc[len(rows)] = [str(tmp_path / "gone.jpg"), "velvet"]
    rows.to_csv(tmp_path / "t.csv", index=False)
    status, out, _ = told(*train(tmp_path / "t.csv", tmp_path / "run", silk_cache))
    assert status == 0
    assert (f"2 of 49 images were left out: 1 cannot be read, listed in {tmp_path}/run/rejected.csv"
            "; 1 without a label for technique or of a dropped class") in out
    balanced = pd.read_csv(tmp_path / "t.csv").iloc[1:-1].groupby("technique").head(23)
    balanced.to_csv(tmp_path / "b.csv", index=False)
    status, out, _ = told(*train(tmp_path / "b.csv", tmp_path / "even", silk_cache))
    assert status == 0 and "nan" not in out and "left out" not in out
    assert "minority F1        –   (no class has fewer images than an equal share)" in out


@pytest.mark.parametrize("number,words", [
    (errno.ENOSPC, "there is no room for FILE (no space left on device): make room; then the same "
                   "command goes on"),
    (errno.EACCES, "FILE: permission denied; allow it, or name another place"),
    (errno.EROFS, "FILE: read-only file system; allow it"),
])
def test_errors_of_the_system_are_plain_and_name_the_file(number, words, run, silk, told, tmp_path,
                                                          monkeypatch):
    def refuse(old, new):
        raise OSError(number, os.strerror(number), str(old), None, str(new))

    monkeypatch.setattr(os, "replace", refuse)
    out = tmp_path / "p.csv"
    status, _, err = told("predict", run, find_images([Path(silk).parent])[0], "--out", out,
                          "--quiet")
    assert status == 1 and len(err) == 1 and words.replace("FILE", str(out)) in err[0]
    assert not os.listdir(tmp_path)


def test_a_run_of_other_settings_is_not_overwritten(run, silk, silk_cache, told):
    before = state(run)
    status, _, err = told(*train(silk, run, silk_cache, "--seed", "5"))
    assert status == 1 and "another run, which differs in --seed:" in err[-1]
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
    assert "there is no room for" in err and "make room; then the same command goes on" in err
    left = [p.name for p in (tmp_path / "run").rglob("*") if p.is_file()]
    assert "metrics.json" not in left and not [n for n in left if "part" in n or "tmp" in n]
    assert main(train(silk, tmp_path / "run", silk_cache)) == 0  # goes on when there is space


def test_help_and_version_come_without_the_modules_and_an_interrupt_is_one_line():
    start = ("import sys; from silk_nb.cli import main\n"
             "try: main(sys.argv[1:])\n"
             "except SystemExit: pass\n"
             "assert not {'torch', 'pandas', 'matplotlib'} & set(sys.modules)")
    for word in ("--help", "--version", "trian"):
        done = subprocess.run([sys.executable, "-c", start, word], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    start = ("import sys; from silk_nb.cli import main; print('up', flush=True)\n"
             "sys.exit(main(['evaluate', 'nowhere']))")
    for seconds in (0.02, 0.6, 1.2):  # while it imports
        process = subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "up\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (1, 130) and err.count("\n") == 1, err  # 1: it was done


def test_an_interrupt_waits_for_the_end_of_an_import(tmp_path, monkeypatch, capsys):
    """As numpy's extensions do: the interrupt is swallowed and the import fails for no reason."""
    (tmp_path / "swallows_interrupts.py").write_text(
        "import os, signal, time\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(0.2)\n"
        "except KeyboardInterrupt:\n    raise ImportError('could not import datetime')\n")
    monkeypatch.syspath_prepend(tmp_path)
    imported = []

    def evaluate(_):
        import swallows_interrupts
        imported.append(swallows_interrupts)
        time.sleep(30)
        raise AssertionError("nothing interrupted it")

    monkeypatch.setitem(_COMMANDS, "evaluate", evaluate)
    assert main(["evaluate", "run"]) == 130 and imported
    assert capsys.readouterr().err.startswith("silk_nb: interrupted")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def short(_):
        sys.modules.pop("swallows_interrupts")
        import swallows_interrupts  # noqa: F401

    monkeypatch.setitem(_COMMANDS, "evaluate", short)
    assert main(["evaluate", "run"]) == 130  # and not in what comes next
    time.sleep(0.05)

    (tmp_path / "calls_main.py").write_text(
        "from silk_nb.cli import main\nstatus = main(['evaluate', 'run'])\n")
    monkeypatch.setitem(_COMMANDS, "evaluate",
                        lambda _: (os.kill(os.getpid(), signal.SIGINT), time.sleep(30)))
    import calls_main
    assert calls_main.status == 130


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


def test_study_says_what_to_use_and_writes_its_page(silk, silk_cache, told, tmp_path):
    arguments = ["study", silk, "--variables", "technique", "material", "--experiments", "C*",
                 "C+sem", "kNN", "--seeds", 2, "--out", tmp_path / "s", "--cache", silk_cache,
                 *SMALL]
    status, out, _ = told(*arguments)
    assert status == 0 and "| C\\* (baseline) |" in out and "Table 5 of the paper" in out
    assert out.count(" is recommended, the best of 3 by mean F1 on the validation set") == 2
    page = (tmp_path / "s" / "report.html").read_text()
    assert page.count("data:image/png") >= 5 and 'src="http' not in page
    assert (tmp_path / "s" / "tables" / "mean_f1.tex").read_text().startswith("\\begin{table}")
    assert told(*arguments)[1] == out  # nothing is done again, the same is said
    status, _, err = told(*arguments, "--patience", 3)
    assert status == 1 and "differs in patience" in err[-1]
    for more, word in ((["--baseline", "C"], "not among the experiments"),
                       (["--workers", 0], "--workers must be"),
                       (["--experiments", "C*", "C*+centr"], "no experiment")):
        status, _, err = told(*arguments, *more)
        assert status == 1 and len(err) == 1 and word in err[0]
