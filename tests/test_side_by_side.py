"""Recipes side by side: one driver, whoever does the tasks; and processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny import Finished, ledger_row, tiny_recipe

from segnb import cli
from segnb.errors import ConfigError, SegnbError
from segnb.experiments import processes, side_by_side, stage1, sweep
from segnb.experiments.processes import Processes
from segnb.experiments.progress import Progress, Work
from segnb.experiments.side_by_side import sweep_side_by_side
from segnb.experiments.tasks import ENDS, Event, Task
from segnb.recipe import Recipe, Stage
from segnb.results import ledger

pytest_plugins = ["tiny"]
pytestmark = pytest.mark.usefixtures("one_thread", "places")

#: Two stage 1s and two recipes without one, each in two lengths of stage 2.
GRID = sweep.grid(
    tiny_recipe(), **{"method": ["ce", "contrastive"], "finetune.steps": [3, 6], "seed": [0, 1]}
)


class Script:
    """Stands in for other processes: each task ends at once, as the script says.

    Args:
        ends: How a task ends, by number, one try after the other; without an entry it is done.
        room: How many tasks at a time.
    """

    def __init__(self, ends: dict[int, list[Event]] | None = None, *, room: int = 2) -> None:
        self.ends = {number: deque(events) for number, events in (ends or {}).items()}
        self.room = room
        self.waiting: deque[Task] = deque()
        self.begun: list[Task] = []
        self.most = 0
        self.stopped = self.closed = False
        self.interrupt_at = -1

    def has_room(self) -> bool:
        return len(self.waiting) < self.room

    def submit(self, task: Task) -> None:
        self.waiting.append(task)
        self.begun.append(task)
        self.most = max(self.most, len(self.waiting))

    def events(self, seconds: float) -> list[Event]:
        if len(self.begun) == self.interrupt_at and not self.stopped:
            raise KeyboardInterrupt
        if not self.waiting:
            return []
        task = self.waiting.popleft()
        if self.stopped and len(self.waiting) > 0:
            return [Event(number=task.number, kind="stopped")]
        number = task.number
        left = self.ends.get(number)
        row = None if task.shares_stage1 else ledger_row(task.recipe)
        end = left.popleft() if left else Event(number=number, kind="done", row=row)
        return [Event(number=number, kind="begun"), end]

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def only_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is published is the row alone."""

    def publish(_: Path, row: ledger.Row, results: Path) -> ledger.Row:
        return ledger.add(ledger.ledger_path(results), row)

    monkeypatch.setattr(side_by_side, "publish", publish)
    monkeypatch.setattr(side_by_side, "LOOK_SECONDS", 0.01)


def swept(
    executor: Any, folder: Path, recipes: Sequence[Recipe] = GRID
) -> tuple[list[SegnbError], list[str], list[ledger.Row]]:
    """Errors, lines and rows of a sweep."""
    said: list[str] = []
    failed = sweep_side_by_side(
        recipes,
        executor,
        runs=folder / "runs",
        results=folder,
        cpu=True,
        progress_bar=False,
        say=said.append,
    )
    return failed, said, ledger.read(ledger.ledger_path(folder))


def end(number: int, kind: Any, text: str = "") -> Event:
    return Event(number=number, kind=kind, text=text)


@pytest.mark.usefixtures("only_rows")
def test_a_shared_stage_1_comes_before_the_recipes_that_need_it(tmp_path: Path) -> None:
    script = Script()
    failed, said, rows = swept(script, tmp_path)
    assert failed == []
    assert {row["recipe_hash"] for row in rows} == {recipe.hash for recipe in GRID}
    seen: set[str] = set()
    for task in script.begun:
        its = task.recipe.stage1().hash
        if task.shares_stage1:
            assert its not in seen
            seen.add(its)
        else:
            assert not task.recipe.has_stage1 or its in seen
    assert len(seen) == 2
    assert script.most == 2
    assert script.closed
    numbers = [line.split("]")[0][1:] for line in said if line.startswith("[stage 1 of ")]
    assert len(numbers) == 2
    # Again: nothing is left.
    again = Script()
    assert swept(again, tmp_path)[0] == []
    assert again.begun == []
    assert again.closed


@pytest.mark.usefixtures("only_rows")
def test_a_recipe_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    failed, said, rows = swept(Script({2: [end(2, "failed", "img.png is broken")]}), tmp_path)
    assert [str(error) for error in failed] == ["img.png is broken"]
    assert "[2/8] failed: img.png is broken" in said
    assert len(rows) == 7
    # Only that one is left, and it is tried again.
    script = Script()
    assert swept(script, tmp_path)[0] == []
    assert len(script.begun) == 1


@pytest.mark.usefixtures("only_rows")
def test_recipes_whose_stage_1_fails_are_all_told(tmp_path: Path) -> None:
    whole = Script()
    swept(whole, tmp_path / "whole")
    number = next(task.number for task in whole.begun if task.shares_stage1)
    failed, said, rows = swept(Script({number: [end(number, "failed", "too hot")]}), tmp_path)
    assert [str(error) for error in failed] == ["its stage 1 failed: too hot"] * 2
    assert sum("failed: too hot" in line for line in said) == 3
    assert len(rows) == 6


@pytest.mark.usefixtures("only_rows")
def test_what_is_lost_begins_again_and_not_for_ever(tmp_path: Path) -> None:
    lost = [end(1, "lost", "its node died")] * 2
    failed, said, rows = swept(Script({1: [*lost]}), tmp_path / "twice")
    assert failed == []
    assert said.count("[1/8] its node died; it begins again") == 2
    assert len(rows) == 8
    always = Script({1: [end(1, "lost", "its node died")] * 99})
    failed, _, rows = swept(always, tmp_path)
    assert [str(error).partition(";")[0] for error in failed] == ["its node died, 5 times"]
    assert len(rows) == 7
    assert sum(task.number == 1 for task in always.begun) == side_by_side.TRIES


@pytest.mark.usefixtures("only_rows")
def test_a_run_that_another_process_trains_is_come_back_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "BUSY_SECONDS", (0.05, 0.1))
    busy = [end(1, "busy", "another process is working on it")] * 7
    failed, said, rows = swept(Script({1: busy}), tmp_path)
    assert failed == []
    assert len(rows) == 8
    told = [line for line in said if "it is tried again later" in line]
    assert told == ["[1/8] another process is working on it: it is tried again later"]


@pytest.mark.usefixtures("only_rows")
def test_an_interrupted_sweep_takes_in_what_is_done_and_goes_on(tmp_path: Path) -> None:
    script = Script()
    script.interrupt_at = 4
    with pytest.raises(KeyboardInterrupt):
        swept(script, tmp_path)
    assert script.stopped
    assert script.closed
    held = len(ledger.read(ledger.ledger_path(tmp_path)))
    assert 0 < held < 8
    more = Script()
    assert swept(more, tmp_path)[0] == []
    assert sum(not task.shares_stage1 for task in more.begun) == 8 - held


@pytest.mark.usefixtures("only_rows")
def test_a_fault_of_the_program_ends_the_sweep_with_its_traceback(tmp_path: Path) -> None:
    script = Script({1: [end(1, "fault", "Traceback: ZeroDivisionError")]})
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        swept(script, tmp_path)
    assert script.closed


def test_results_that_cannot_be_written_are_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    script = Script()
    with pytest.raises(SegnbError, match="a file where a folder should be"):
        swept(script, tmp_path)
    assert script.begun == []
    assert script.closed


def test_recipes_without_data_fail_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGNB_DATA", str(tmp_path / "nowhere"))
    script = Script()
    failed, _, _ = swept(script, tmp_path)
    assert len(failed) == 8
    assert "there is no folder" in str(failed[0])
    assert script.begun == []


@pytest.mark.usefixtures("only_rows")
def test_a_split_list_that_is_not_there_fails_its_recipe_alone(tmp_path: Path) -> None:
    recipes = [tiny_recipe("ce", split_list=str(tmp_path / "gone.txt")), *GRID[:1]]
    script = Script()
    failed, _, _ = swept(script, tmp_path, recipes)
    assert "gone.txt is missing; correct --split-list" in str(failed[0])
    assert [task.recipe for task in script.begun] == GRID[:1]


@pytest.mark.parametrize("weights", [False, True])
def test_files_that_come_back_are_published(
    tmp_path: Path, weights: bool, finished: Callable[..., Finished]
) -> None:
    """And kept as a finished run if the weights are among them."""
    whole = finished()
    files = {
        path.name: path.read_bytes()
        for path in whole.folder.iterdir()
        if path.is_file() and (weights or path.suffix != ".safetensors")
    }
    script = Script({1: [Event(number=1, kind="done", row=whole.row, files=files)]})
    failed, _, rows = swept(script, tmp_path, [whole.recipe])
    assert failed == []
    assert [one["miou_val"] for one in rows] == [whole.row["miou_val"]]
    name = whole.recipe.hash
    assert (tmp_path / "logs" / f"{name}.jsonl").read_bytes() == files["log.jsonl"]
    assert (tmp_path / "previews" / f"{name}.npz").exists()
    assert (tmp_path / "runs" / whole.folder.name / "weights.safetensors").exists() is weights
    if weights:
        # With its folder whole, a row that is gone comes back without any training.
        (tmp_path / "ledger.jsonl").unlink()
        again = Script()
        assert len(swept(again, tmp_path, [whole.recipe])[2]) == 1
        assert again.begun == []


def test_a_stage_1_that_comes_back_lies_in_the_store(
    tmp_path: Path, finished: Callable[..., Finished]
) -> None:
    whole = finished()
    weights, record = (
        (whole.folder / name).read_bytes() for name in ("pretrained.safetensors", "pretrained.json")
    )
    stage1.put(tmp_path, weights, record)
    stage1.put(tmp_path, weights, record)
    (folder,) = stage1.kept(whole.recipe, tmp_path)
    assert (folder / "pretrained.safetensors").read_bytes() == weights
    assert stage1.held(tmp_path) == {whole.recipe.stage1().hash}
    assert stage1.kept(whole.recipe.replace(temperature=0.5), tmp_path) == []
    with pytest.raises(SegnbError, match="damaged on its way"):
        stage1.put(tmp_path / "other", weights[:-1], record)


# --- the lines ------------------------------------------------------------------------------------


def test_the_time_left_counts_what_is_trained_now() -> None:
    clock = [0.0]
    work = {1: Work(100, 100, True), 2: Work(100, 200, True), 9: Work(100, 100, False)}
    progress = Progress(work, show=False, say=lambda _: None, clock=lambda: clock[0])
    assert progress.time_left() == ""
    progress.begin(1, "one")
    progress.step(1, 10, "")  # a run that goes on: these were made before
    clock[0] = 10.0
    progress.step(1, 60, "")
    # Fifty in ten seconds; fifty of its own and two hundred more are left.
    assert progress.time_left() == "about 50 s left"
    progress.end(1, "done")
    assert progress.time_left() == "about 40 s left"
    progress.begin(2, "two")
    progress.step(2, 100, "")
    progress.step(2, 150, "")
    progress.end(2, "again")  # what its node took along counts for nothing
    assert progress.time_left() == "about 40 s left"
    progress.end(9, "failed")
    progress.end(2, "failed")
    assert progress.time_left() == ""


def test_lines_of_running_recipes_are_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    work = {1: Work(10, 10, True), 2: Work(10, 10, True)}
    progress = Progress(work, show=True, say=print)
    progress.begin(1, "[1/2] ce")
    progress.step(1, 5, "finetune 3/6")
    progress.say("a line that stays")
    progress.end(1, "done")
    progress.end(2, "failed")
    progress.close()
    told = capsys.readouterr()
    assert "a line that stays\n" in told.out
    assert "[1/2] ce, finetune 3/6" in told.err
    assert "1 done, 1 left" in told.err
    assert "1 done, 1 failed, 0 left" in told.err


# --- processes of this machine --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workers", "0"], "--workers is 0; it must be 1 or more"),
        (["--workers", "2", "--ray"], "use one"),
        (["--ray", "a:1", "b:2"], "--ray takes one address"),
        (["--num-gpus", "0.5"], "are for --ray"),
        (["--workers", "2", "--weights"], "are for --ray"),
    ],
)
def test_options_that_do_not_fit_are_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--results", str(tmp_path), "--runs", str(tmp_path)]
    assert cli.main(["sweep", "--tier", "smoke", *places, *words]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert said in told


def test_no_several_runs_in_one_of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="accelerate launch"):
        Processes(2)


def test_cores_and_gpus_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(processes, "usable_cores", lambda: 8)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    found = processes._shares(3, cpu=False)
    assert [one["OMP_NUM_THREADS"] for one in found] == ["2", "2", "2"]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == ["0", "1", "0"]
    assert all("CUDA_VISIBLE_DEVICES" not in one for one in processes._shares(3, cpu=True))
    # Fewer, where the user says so; and of the GPUs those that are given.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    found = processes._shares(2, cpu=False)
    assert [one["OMP_NUM_THREADS"] for one in found] == ["1", "1"]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == ["5", "7"]


def same_numbers(one: ledger.Row, other: ledger.Row) -> None:
    """Two rows of a recipe agree in all but times and places."""
    names = ("miou_val", "miou_test", "iou", "compactness", "steps", "image_passes", "data")
    for name in names:
        assert one[name] == other[name], name
    assert [stage["loss"] for stage in one["stages"].values()] == [
        stage["loss"] for stage in other["stages"].values()
    ]


@pytest.mark.slow
def test_two_processes_give_the_rows_of_a_plain_sweep(tmp_path: Path) -> None:
    """One of them is killed, and a recipe fails."""
    recipes = [*GRID[:4], tiny_recipe("ce", finetune=Stage(steps=3, batch=1))]
    options: dict[str, Any] = {"cpu": True, "progress_bar": False, "say": lambda _: None}
    plain = tmp_path / "plain"
    assert len(sweep.sweep(recipes, runs=plain / "runs", results=plain, **options)) == 1

    executor = Processes(2, cpu=True)
    killed: list[int] = []

    class Killing:
        """Kills the process of the second recipe once it has begun."""

        def __getattr__(self, name: str) -> Any:
            return getattr(executor, name)

        def events(self, seconds: float) -> list[Event]:
            found = executor.events(seconds)
            for worker in executor._workers:
                begun = any(one.number == 2 and one.kind not in ENDS for one in found)
                if worker is not None and worker.task == 2 and begun and not killed:
                    killed.append(worker.process.pid)
                    os.kill(worker.process.pid, signal.SIGKILL)
            return found

    failed, said, rows = swept(Killing(), tmp_path / "two", recipes)
    assert len(killed) == 1
    assert "[2/5] its process was ended by SIGKILL; it begins again" in said
    assert [("batch 1" in str(error)) for error in failed] == [True]
    wanted = {row["recipe_hash"]: row for row in ledger.read(plain / "ledger.jsonl")}
    assert {row["recipe_hash"] for row in rows} == wanted.keys()
    for row in rows:
        same_numbers(row, wanted[row["recipe_hash"]])
    assert sum(row["stage1"] is not None and row["stage1"]["shared"] for row in rows) == 1


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("sent", [signal.SIGTERM])
def test_a_signal_leaves_a_sweep_that_goes_on(tmp_path: Path, sent: signal.Signals) -> None:
    recipe = tiny_recipe("ce", finetune=Stage(steps=100_000, batch=4))
    words = [*recipe.command().split()[2:], "--cpu", "--quiet", "--workers", "2"]
    words += ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path), "--seeds", "0", "1"]
    errors = tmp_path / "errors"
    with errors.open("w") as stream:
        child = subprocess.Popen(
            [sys.executable, "-m", "segnb", "sweep", *words],
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
        )
        assert child.stdout is not None
        logs = [tmp_path / "runs"]
        while child.poll() is None and len(list(logs[0].glob("*/log.jsonl"))) < 2:
            time.sleep(0.05)
        child.send_signal(sent)
        said, _ = child.communicate(timeout=90)
    assert child.returncode == 130, errors.read_text()
    assert "Traceback" not in errors.read_text()
    assert "stopping: 2 running" in said
    assert said.rstrip().endswith("stopped; the same command goes on")
    assert len(list((tmp_path / "runs").glob("*/finetune.pt"))) == 2
