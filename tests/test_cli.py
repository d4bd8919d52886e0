"""The command line: words that help, one line for an error, exit codes."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import STEPS, Finished, ledger_row, tiny_recipe
from torch import distributed

from segnb import cli, datasets
from segnb.experiments import runs
from segnb.recipe import Stage, preset
from segnb.results import ledger

REPOSITORY = Path(__file__).resolve().parent.parent

pytest_plugins = ["tiny"]
pytestmark = pytest.mark.usefixtures("one_thread", "places")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_every_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: segnb {command}" in text
    first = (cli.COMMANDS[command].__doc__ or "").splitlines()[0]
    assert first.split(";")[0][:60] in " ".join(text.split())


@pytest.mark.parametrize("command", ["run", "sweep", "reproduce", "table", "figures", "fetch"])
def test_help_lists_the_registered_data_sets(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    assert ",".join(datasets.names()) in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_the_overview_names_every_command(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    assert all(f"  {command} " in text for command in cli.COMMANDS)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert told.err.startswith("segnb: ")
    assert "Traceback" not in told.err
    return told.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["fly"], 2, "no command 'fly'"),
        (["run", "--temperature", "-1"], 2, "temperature is -1.0"),
        (["run", "--dataset", "nope"], 1, "no data set 'nope'; there are shapes, camvid, voc,"),
        (["table", "--dataset", "nope"], 1, "no data set 'nope'"),
        (["figures", "--dataset", "nope"], 1, "no data set 'nope'"),
        (["fetch", "nope"], 1, "a folder of your own needs a dataset.toml"),
        (["sweep", "--fractions", "0.5", "7"], 2, "fraction is 7.0"),
        (["run", "--architecture", "Nothing"], 1, "'Nothing' is not known"),
        (["run", "--finetune.batch", "1", "--method", "ce"], 1, "batch 1"),
        (["run", "--precision", "fp16", "--cpu"], 1, "precision 'fp16'"),
        (["run", "--dataset", "voc", "--tier", "smoke", "--cpu"], 1, "VOC2012"),
        (["pretrain", "--method", "ce", "--tier", "smoke", "--cpu"], 1, "no stage 1"),
        (["finetune", "nowhere"], 1, "nowhere holds no run"),
        (["evaluate", "nowhere"], 1, "nowhere holds no run"),
        (["predict", "nowhere", "images"], 1, "nowhere holds no run"),
        (["table", "--results", "nowhere"], 1, "holds no runs"),
        (["figures", "--dataset", "shapes", "--tier", "paper"], 1, "camvid at quick, shapes at"),
    ],
)
def test_errors_are_one_line_and_a_code(
    words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    places = ["--runs", str(tmp_path)] if words[0] in ("run", "pretrain") else []
    assert cli.main([*words, *places]) == code
    assert said in one_line(capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--tier", "nope"], "invalid choice: 'nope'"),
        (["run", "--method", "nope"], "nope"),
        (["run", "--pretrain.lr", "0"], "recipe: lr is 0.0"),
        (["run", "--no-such-option", "1"], "no-such-option"),
        (["evaluate"], "folder"),
    ],
)
def test_words_that_cannot_be_read(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert said in (told.err + told.out).lower()


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> int:
        raise ValueError("a fault")

    monkeypatch.setattr(cli.Doctor, "__call__", fail)
    with pytest.raises(ValueError, match="a fault"):
        cli.main(["doctor"])


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "free some space, then repeat the command"),
        (errno.EACCES, "choose a folder that you may write to"),
        (errno.EROFS, "choose a folder that you may write to"),
    ],
)
def test_a_disk_that_refuses_is_one_line(
    number: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(_: object) -> int:
        raise OSError(number, os.strerror(number), "some/file")

    monkeypatch.setattr(cli.Doctor, "__call__", refuse)
    assert cli.main(["doctor"]) == 1
    assert f"some/file: {os.strerror(number)}; {said}" in one_line(capsys)


def test_a_file_in_the_place_of_a_folder_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    words = tiny_recipe("ce").command().split()[1:]
    places = ["--cpu", "--quiet", "--runs", str(tmp_path), "--results", str(tmp_path / "file")]
    assert cli.main([*words, *places]) == 1
    assert "there is a file where a folder should be" in one_line(capsys)


def test_a_command_has_no_options_that_it_does_not_use(capsys: pytest.CaptureFixture[str]) -> None:
    for command, dead in (
        ("table", ("--cpu", "--runs", "--data ", "--quiet")),
        ("doctor", ("--cpu", "--runs", "--results")),
        ("fetch", ("--cpu", "--runs", "--results")),
        ("predict", ("--data", "--runs", "--results")),
        ("finetune", ("--runs",)),
    ):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        told = capsys.readouterr().out
        assert not [option for option in dead if option in told], command


def test_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.Doctor, "__call__", stop)
    assert cli.main(["doctor"]) == 130


@pytest.mark.parametrize("encoding", ["cp1252", "cp932", "ascii"])
@pytest.mark.parametrize("words", [["run", "--help"], ["table", "--dataset", "camvid"]])
def test_a_console_without_tau_or_plus_minus_is_written_to(words: list[str], encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "segnb", *words],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    assert len(done.stdout) > 1000


def test_signs_that_a_console_lacks_stay_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(kept, encoding="ascii"))
    assert cli.main(["--help"]) == 0
    print("33.1 ± 0.4 | – | τ 0.1 | caf\xe9 | \udce9", flush=True)
    assert kept.getvalue().endswith(b"33.1 +- 0.4 | - | tau 0.1 | caf? | ?\n")


def test_a_preset_is_the_ground_that_flags_change() -> None:
    options = cli._parse(cli.Run, "run", ["--dataset", "voc", "--tier=paper", "--no-flip"])
    assert options.recipe == preset("voc", "paper").replace(flip=False)


def test_a_run_from_its_own_command_and_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe(finetune=Stage(steps=2, batch=4), pretrain=Stage(steps=2, batch=4))
    places = ["--cpu", "--quiet", "--runs", str(tmp_path), "--results", str(tmp_path / "results")]
    words = recipe.command().split()[1:]
    folder = runs.run_folder(recipe, tmp_path)

    assert cli.main(["pretrain", *words[1:], *places]) == 0
    told = capsys.readouterr().out
    assert f"segnb finetune {folder}" in told
    assert "image passes" in told  # the cost, before it starts
    assert cli.main(["finetune", str(folder), *places[:2], *places[4:]]) == 0
    first = capsys.readouterr().out
    assert "mIoU val" in first
    assert "6 labelled images, 4 steps" in first
    assert cli.main([*words, *places]) == 0
    # Finished: told again, not trained again.
    said = f"{folder} was finished before: nothing was trained\n"
    assert capsys.readouterr().out == first + said
    rows = ledger.read(tmp_path / "results" / "ledger.jsonl")
    assert [row["recipe_hash"] for row in rows] == [recipe.hash]

    assert cli.main(["sweep", *words[1:], "--seeds", "0", "1", "--dry-run", *places]) == 0
    told = capsys.readouterr().out
    assert "2 recipes: 1 in the ledger, 1 to run" in told
    assert recipe.replace(seed=1).command() in told


def test_a_renamed_folder_is_refused(
    finished: Callable[..., Finished], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = (finished("ce").folder / "recipe.json").read_bytes()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.json").write_bytes(recipe)
    assert cli.main(["finetune", str(tmp_path / "mine")]) == 1
    assert "was renamed" in one_line(capsys)


def test_evaluate_says_what_the_row_says(
    finished: Callable[..., Finished], capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished("ce")
    assert cli.main(["evaluate", str(run.folder), "--split", "test", "--cpu"]) == 0
    told = capsys.readouterr().out
    assert f"mIoU  {run.row['miou_test']:5.1f}" in told
    assert "bicyclist" in told


def test_predict_names_what_it_wrote(
    finished: Callable[..., Finished],
    places: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images, out = places / "CamVid" / "val", tmp_path / "out"
    run = finished("ce").folder
    assert cli.main(["predict", str(run), str(images), "--out", str(out), "--cpu"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 4
    assert all(Path(line).exists() for line in told)


def test_a_fraction_may_be_given_as_it_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A ledger of its own: the project's may come to hold these recipes.
    words = ["sweep", "--dry-run", "--results", str(tmp_path), "--fractions", "1/8", "0.5"]
    assert cli.main(words) == 0
    told = capsys.readouterr().out
    assert "--fraction 0.125\n" in told
    assert "--fraction 0.5\n" in told
    for wrong in ("1/0", "1/", "/2", "1/2/3", "eighth"):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["sweep", "--dry-run", "--fractions", wrong])
        assert stopped.value.code == 2
        assert "--fractions" in capsys.readouterr().err


def test_a_sweep_varies_any_field(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["sweep", "--dry-run", "--dataset", "camvid", "--results", str(tmp_path)]
    words += ["--runs", str(tmp_path), "--methods", "ce", "contrastive"]
    words += ["--vary", "finetune.steps", "25", "50", "100", "--vary", "pretrain.steps", "0", "400"]
    assert cli.main(words) == 0
    told = capsys.readouterr().out.splitlines()
    # Three of cross-entropy, which are also those without a stage 1, and three after one.
    assert told[0] == "6 recipes: 0 in the ledger, 6 to run"
    assert told[1] == "stage 1: 1 for 3 recipes (3 each); 0 held, 1 to train"
    shared, steps = 2 * 400 * 8, 2 * (25 + 50 + 100) * 8
    assert told[2] == f"image passes: {shared + steps:,} ({3 * shared + steps:,} without sharing)"
    assert sum("--method ce " in line for line in told) == 3


def test_options_that_a_method_does_not_use_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--runs", str(tmp_path), "--results", str(tmp_path), "--quiet", "--cpu"]
    words = ["run", "--tier", "smoke", "--temperature", "0.5", "--pretrain.steps", "3", *places]
    assert cli.main([*words, "--method", "ce", "--distortion", "0.5"]) == 0
    told = capsys.readouterr().out
    assert "note: cross-entropy does not use distortion, temperature, pretrain.steps" in told
    assert preset("shapes", "smoke").replace(temperature=0.5).changes_without_effect() == []
    long = preset("shapes", "smoke").replace(method="ce_long", temperature=0.5, distortion=0.5)
    assert long.changes_without_effect() == ["temperature"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--vary", "finetune.epochs", "2"], "no field 'finetune.epochs'; it has dataset, method"),
        (["--vary"], "no field ''"),
        (["--vary", "finetune", "2"], "vary one of finetune.steps, finetune.batch"),
        (["--vary", "tier", "quick"], "choose one with --tier"),
        (
            ["--vary", "finetune.steps"],
            "finetune.steps: give values after the name; it takes a whole",
        ),
        (["--vary", "finetune.steps", "5", "many"], "finetune.steps: 'many' is not a whole number"),
        (["--vary", "seed", "1", "--seeds", "2"], "seed is varied twice"),
        (["--vary", "seed", "1", "--vary", "seed", "2"], "seed is varied twice"),
        (["--fraction", "0.2", "--fractions", "0.5"], "fraction is both set to 0.2 and varied"),
        (
            ["--finetune.steps", "700", "--vary", "finetune.steps", "5"],
            "finetune.steps is both set to 700 and varied; leave one out",
        ),
    ],
)
def test_an_axis_that_cannot_be_varied_is_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sweep", "--dry-run", *words]) == 1
    assert said in one_line(capsys)


def test_table_prints_the_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method, miou in (("ce", 20.0), ("ce_long", 25.0)):
        recipe = preset("shapes", "quick").replace(method=method)
        ledger.add(tmp_path / "ledger.jsonl", ledger_row(recipe, miou_val=miou, fraction=1 / 16))
    assert cli.main(["table", "--results", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "**shapes**, quick tier" in told
    assert "20.0" in told
    assert "25.0" in told
    assert cli.main(["table", "--results", str(tmp_path), "--dataset", "voc"]) == 1
    one_line(capsys)
    # Without the contrastive method, one line with three methods cannot be had.
    assert cli.main(["table", "--results", str(tmp_path), "--show", "brief"]) == 1
    assert "none of these 2 runs has a baseline to compare with" in one_line(capsys)


def test_tables_of_compactness(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["table", "--show", "compactness", "--results", str(tmp_path)]
    for seed in range(5):
        recipe = preset("shapes", "quick").replace(method="ce", seed=seed)
        row = ledger_row(recipe, miou_val=20.0 + seed, fraction=1 / 16)
        ledger.add(tmp_path / "ledger.jsonl", {**row, "compactness": {}, "fisher": None})
    assert cli.main(words) == 1
    assert "none of these 5 runs measured compactness" in one_line(capsys)
    for seed in range(5, 10):
        recipe = preset("shapes", "quick").replace(method="ce", seed=seed)
        row = ledger_row(recipe, miou_val=20.0 + seed, fraction=1 / 16)
        measured = {"compactness": {"finetuned": {"fisher": 1.0 + seed}}, "fisher": 1.0 + seed}
        ledger.add(tmp_path / "ledger.jsonl", {**row, **measured})
    assert cli.main(words) == 0
    told = capsys.readouterr().out
    assert "6.00 to 10.00" in told
    assert "**+1.00**" in told


@pytest.mark.slow
def test_reproduce_trains_the_three_and_draws_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset", "camvid", "--tier", "smoke", "--fraction", "0.5", "--cpu", "--quiet"]
    places = ["--runs", str(tmp_path), "--results", str(tmp_path / "results")]
    assert cli.main(["reproduce", *words, *places]) == 0
    told = capsys.readouterr().out
    assert "3 recipes: 0 in the ledger, 3 to run" in told
    assert "| cross-entropy, same compute |" in " ".join(told.split("\n"))
    figures = {path.name for path in (tmp_path / "results" / "figures").iterdir()}
    names = ("predictions", "loss_curves", "iou_per_class", "embeddings")
    assert {f"{name}.png" for name in names} <= figures
    assert "contrastive" in (tmp_path / "results" / "table.md").read_text()


def piped(words: list[str]) -> subprocess.CompletedProcess[str]:
    """The command with a reader that leaves at once."""
    program = f"{sys.executable} -m segnb.cli {' '.join(words)}"
    # The pipe's reader is gone before the first byte is written.
    script = f"({program}; echo code $? >&2) | (exec <&-; sleep 0.1)"
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"]])
def test_a_reader_that_leaves_early_is_no_fault(words: list[str]) -> None:
    told = piped(words).stderr
    assert "Traceback" not in told
    assert "BrokenPipeError" not in told
    assert "code 1" in told


def test_the_overview_does_not_wait_for_torch() -> None:
    program = "import sys; from segnb import cli; cli.main([]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)


def test_one_of_several_processes_tells(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert cli.main([]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(not distributed.is_gloo_available(), reason="needs gloo")
@pytest.mark.parametrize(("dataset", "code", "left"), [("camvid", 0, True), ("voc", 1, False)])
def test_processes_part_in_order(tmp_path: Path, dataset: str, code: int, left: bool) -> None:
    """But not where one of them failed: the others would be waited for."""
    ledger.add(ledger.ledger_path(tmp_path), ledger_row(preset("camvid")))
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1
    )
    try:
        assert cli.main(["table", "--dataset", dataset, "--results", str(tmp_path)]) == code
        assert distributed.is_initialized() is not left
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def test_steps_of_the_tiny_recipe_reach_the_command() -> None:
    assert f"--finetune.steps {STEPS}" in tiny_recipe().command()
