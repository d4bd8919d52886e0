"""Runs that end before their end: killed, interrupted, stopped, diverged; and how they go on."""

from __future__ import annotations

import errno
import functools
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import SERVER, STEPS, Finished, tiny_recipe

from segnb import cli
from segnb.errors import ConfigError, DataError, SegnbError
from segnb.experiments import runs
from segnb.methods import MethodName
from segnb.recipe import Recipe, Stage
from segnb.training import Session, TrainingStopped, checkpoint, loop, stages
from segnb.training.log import TrainingLog, read_log

pytest_plugins = ["tiny"]
pytestmark = pytest.mark.usefixtures("one_thread", "places")


def start(target: Callable[..., None], *arguments: Any) -> Any:
    """Run a function of this module in a process of its own."""
    environment = {name: os.environ[name] for name in ("SEGNB_DATA", "SEGNB_CACHE")}
    child = SERVER.Process(target=_child, args=(environment, target, arguments))
    child.start()
    return child


def _child(
    environment: dict[str, str], target: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    target(*arguments)


def train(
    recipe: Recipe,
    folder: Path,
    *,
    stop_after: int | None = None,
    checkpoint_seconds: float = 0.0,
    **options: Any,
) -> runs.ledger.Row | None:
    """``runs.run`` with a checkpoint at every step; it may be asked to stop after some."""
    steps = 0

    def should_stop() -> bool:
        nonlocal steps
        steps += 1
        return steps == stop_after

    with pytest.MonkeyPatch.context() as patch:
        eager = functools.partial(Session, checkpoint_seconds=checkpoint_seconds)
        patch.setattr(runs, "Session", eager)
        options = {"should_stop": should_stop, **options}
        return runs.run(recipe, runs=folder, results=None, cpu=True, progress_bar=False, **options)


def train_until_killed(recipe: Recipe, folder: Path, stage: str, step: int, delay: float) -> None:
    """Train, and be killed (``kill -9``) some moment after a step of a stage."""

    def checkpoint_step() -> int:
        own = runs.run_folder(recipe, folder) / f"{stage}.pt"
        found = [p for p in (own, *folder.glob(f"stage1/*/{stage}.pt")) if p.exists()]
        return int(torch.load(found[0], weights_only=True)["step"]) if found else 0

    def kill() -> None:
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGKILL)

    def watch() -> bool:
        if checkpoint_step() >= step:
            threading.Thread(target=kill, daemon=True).start()
        return False

    train(recipe, folder, should_stop=watch)


def same_weights(recipe: Recipe, folder: Path, other: Path, name: str = "weights") -> bool:
    mine = load_file(runs.run_folder(recipe, folder) / f"{name}.safetensors")
    theirs = load_file(other / f"{name}.safetensors")
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def told(log: Path) -> list[tuple[Any, ...]]:
    """What a log says, without times."""
    return [(row["stage"], row["step"], row["loss"], row["lr"]) for row in read_log(log)]


@pytest.mark.parametrize(("first", "second", "delay"), [(1, 3, 0.0), (3, 5, 0.013), (5, 1, 0.031)])
def test_a_run_killed_in_both_stages_ends_with_the_very_same_weights(
    first: int,
    second: int,
    delay: float,
    tmp_path: Path,
    finished: Callable[..., Finished],
) -> None:
    recipe = tiny_recipe()
    whole = finished()
    folder = runs.run_folder(recipe, tmp_path)
    for stage, step in (("pretrain", first), ("finetune", second)):
        child = start(train_until_killed, recipe, tmp_path, stage, step, delay)
        child.join()
        assert child.exitcode == -signal.SIGKILL
        (left,) = tmp_path.glob(f"**/{stage}.pt")
        assert torch.load(left, weights_only=True)["step"] >= step
    assert not (folder / "metrics.json").exists()
    row = train(recipe, tmp_path)
    assert row is not None
    assert same_weights(recipe, tmp_path, whole.folder)
    assert same_weights(recipe, tmp_path, whole.folder, "pretrained")
    assert told(folder / "log.jsonl") == told(whole.folder / "log.jsonl")
    for name in ("miou_val", "miou_test", "iou", "steps", "compactness", "recipe_hash"):
        assert row[name] == whole.row[name], name
    # What a killed process left half written is gone, and so are checkpoints.
    assert not list(tmp_path.glob("**/*.pt"))
    assert {path.name for path in tmp_path.glob("**/.*")} <= {".lock"}


@pytest.mark.parametrize(
    ("method", "every"), [("ce", 1), ("contrastive", 4), ("pseudo", 5), ("ce_pretrained", 5)]
)
def test_a_run_stopped_again_and_again_ends_with_the_very_same_weights(
    method: MethodName, every: int, tmp_path: Path, finished: Callable[..., Finished]
) -> None:
    recipe = tiny_recipe(method)
    stops = []
    row = None
    while row is None:
        try:
            # No checkpoint but the one that stopping leaves.
            row = train(recipe, tmp_path, stop_after=every, checkpoint_seconds=1e9)
        except TrainingStopped as stop:
            stops.append(str(stop))
    name, first = next(iter(row["stages"].items()))
    assert stops[0] == f"stopped at step {every} of {first['step']} ({name})"
    assert same_weights(recipe, tmp_path, finished(method).folder)
    mine = told(runs.run_folder(recipe, tmp_path) / "log.jsonl")
    assert len({line[:2] for line in mine}) == len(mine)
    assert mine == told(finished(method).folder / "log.jsonl")


def test_stage_one_alone_then_the_rest(tmp_path: Path, finished: Callable[..., Finished]) -> None:
    recipe = tiny_recipe()
    assert train(recipe, tmp_path, until="pretrain") is None
    folder = runs.run_folder(recipe, tmp_path)
    assert (folder / "pretrained.safetensors").exists()
    assert not (folder / "weights.safetensors").exists()
    assert train(recipe, tmp_path) is not None
    assert same_weights(recipe, tmp_path, finished().folder)


def test_a_run_in_a_thread_is_stopped_by_another(tmp_path: Path) -> None:
    asked, ends = threading.Event(), []
    recipe = tiny_recipe("ce", finetune=Stage(steps=100_000, batch=4))

    def work() -> None:
        try:
            train(recipe, tmp_path, should_stop=asked.is_set, checkpoint_seconds=1e9)
        except TrainingStopped as stop:
            ends.append(str(stop))

    thread = threading.Thread(target=work)
    thread.start()
    log = runs.run_folder(recipe, tmp_path) / "log.jsonl"
    while thread.is_alive() and not read_log(log):
        time.sleep(0.01)
    asked.set()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert len(ends) == 1
    assert "stopped at step" in ends[0]
    checkpoint = torch.load(log.parent / "finetune.pt", weights_only=True)
    assert f"step {checkpoint['step']} of" in ends[0]


def run_from_the_command_line(words: list[str], errors: Path) -> None:
    # A suite that was started in the background ignores Ctrl-C, and its children with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with errors.open("w") as stream:
        os.dup2(stream.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(cli.main(words))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_leaves_a_run_that_goes_on(tmp_path: Path, sent: signal.Signals) -> None:
    recipe = tiny_recipe("ce", finetune=Stage(steps=100_000, batch=4))
    words = [*recipe.command().split()[1:], "--cpu", "--quiet", "--runs", str(tmp_path)]
    errors = tmp_path / "errors"
    child = start(run_from_the_command_line, words, errors)
    folder = runs.run_folder(recipe, tmp_path)
    while child.is_alive() and not read_log(folder / "log.jsonl"):
        time.sleep(0.02)
    os.kill(child.pid, sent)
    child.join(timeout=60)
    child.kill()  # if it goes on all the same
    assert child.exitcode == 130, errors.read_text()
    said = errors.read_text()
    assert "Traceback" not in said
    step = torch.load(folder / "finetune.pt", weights_only=True)["step"]
    assert step >= 1
    with pytest.raises(TrainingStopped, match=f"stopped at step {step + 2} of"):
        train(recipe, tmp_path, stop_after=2)


def test_a_handler_that_was_set_outside_python_is_left_in_charge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host such as R sets one in C: Python calls it None and can't set it again."""
    true = signal.getsignal
    monkeypatch.setattr(
        loop.signal, "getsignal", lambda one: None if one == signal.SIGINT else true(one)
    )
    before = true(signal.SIGINT)
    assert train(tiny_recipe("ce"), tmp_path) is not None
    assert true(signal.SIGINT) is before


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    """A script ignores Ctrl-C for what it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:

        def interrupt() -> bool:
            os.kill(os.getpid(), signal.SIGINT)
            return False

        assert train(tiny_recipe("ce"), tmp_path, should_stop=interrupt) is not None
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_environment_of_accelerate_changes_no_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Callable[..., Finished]
) -> None:
    whole = finished("ce")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    row = train(tiny_recipe("ce"), tmp_path)
    assert row is not None
    assert same_weights(tiny_recipe("ce"), tmp_path, whole.folder)
    assert row["miou_test"] == whole.row["miou_test"]


# --- checkpoints that are not what they should be --------------------------------------------


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A checkpoint of stage 2 after three steps."""
    recipe = tiny_recipe("ce")
    with pytest.raises(TrainingStopped):
        train(recipe, tmp_path, stop_after=3)
    return runs.run_folder(recipe, tmp_path) / "finetune.pt"


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _garbage(path: Path) -> None:
    path.write_bytes(b"no checkpoint")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _something_else(path: Path) -> None:
    torch.save(torch.zeros(3), path)


def _another_run(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    torch.save({**content, "key": "0123456789/finetune"}, path)


def _another_network(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    content["network"].pop("head.scores.weight")
    torch.save(content, path)


def _a_field_less(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    del content["optimizer"]
    torch.save(content, path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_cut, "can't be read"),
        (_garbage, "can't be read"),
        (_empty, "can't be read"),
        (_something_else, "belongs to None"),
        (_another_run, "belongs to '0123456789/finetune'"),
        (_another_network, "does not fit"),
        (_a_field_less, "there is no 'optimizer'"),
    ],
)
def test_a_spoilt_checkpoint_is_named(
    stopped: Path, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(stopped)
    with pytest.raises(DataError) as caught:
        train(tiny_recipe("ce"), stopped.parent.parent)
    assert str(stopped) in str(caught.value)
    assert words in str(caught.value)
    assert "delete it" in str(caught.value)


def test_the_log_of_steps_that_run_again_is_dropped(stopped: Path) -> None:
    log = stopped.parent / "log.jsonl"
    with log.open("a") as stream:
        stream.write(json.dumps({"stage": "finetune", "step": 5, "loss": 1.0, "lr": 1.0}) + "\n")
        stream.write('{"stage": "finetune", "st')  # cut short by a kill
    train(tiny_recipe("ce"), stopped.parent.parent)
    assert [row[1] for row in told(log)] == [1, STEPS]
    # Every line is whole: what was cut short is gone, not grown together with what came next.
    assert all(json.loads(line) for line in log.read_text().splitlines())


def test_a_log_keeps_what_came_before_a_broken_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    numbers = {"loss": 1.0, "lr": 0.1, "images_per_s": 1.0, "seconds": 1.0}
    rows = [{"stage": "a", "step": step, **numbers} for step in (1, 2)]
    path.write_text(json.dumps(rows[0]) + '\n{"stage"')
    assert read_log(path) == rows[:1]
    with pytest.raises(DataError, match="line 2 is not JSON"):
        read_log(path, last=False)  # a finished run's log is whole
    log = TrainingLog(path)
    log.resume("a", rows[:1])
    log.append(rows[1])
    assert read_log(path) == rows


def test_a_log_that_was_lost_comes_back_from_the_checkpoint(stopped: Path) -> None:
    """And so do the steps, seconds and stages of the row."""
    log = stopped.parent / "log.jsonl"
    for damage in (log.unlink, lambda: log.write_bytes(b"\xff\n")):
        damage()
        with pytest.raises(TrainingStopped):
            train(tiny_recipe("ce"), stopped.parent.parent, stop_after=1)
        assert [row[1] for row in told(log)] == [1]
    log.unlink()
    row = train(tiny_recipe("ce"), stopped.parent.parent)
    assert row is not None
    assert row["steps"] == row["stages"]["finetune"]["step"] == STEPS
    assert [line[1] for line in told(log)] == [1, STEPS]


def test_a_log_cut_between_the_stages_changes_nothing_in_the_row(
    tmp_path: Path, finished: Callable[..., Finished]
) -> None:
    recipe = tiny_recipe()
    assert train(recipe, tmp_path, until="pretrain") is None
    log = runs.run_folder(recipe, tmp_path) / "log.jsonl"
    with pytest.raises(TrainingStopped):
        train(recipe, tmp_path, stop_after=2)
    log.write_text("")
    row = train(recipe, tmp_path)
    assert row is not None
    assert row["steps"] == 2 * STEPS
    assert list(row["stages"]) == ["pretrain", "finetune"]
    assert told(log) == told(finished().folder / "log.jsonl")


# --- training that goes wrong -----------------------------------------------------------------


def _spoil_loss_after(
    monkeypatch: pytest.MonkeyPatch, steps: int, spoil: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    true, done = stages.cross_entropy, 0

    def loss(scores: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        nonlocal done
        done += 1
        value = true(scores, masks)
        return spoil(value) if done > steps else value

    monkeypatch.setattr(stages, "cross_entropy", loss)


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda loss: loss * float("nan"), id="loss"),
        # A finite loss with a gradient that is not: the weights are spoilt before the next loss.
        pytest.param(lambda loss: loss + (0 * loss).sqrt(), id="gradient"),
    ],
)
def test_training_that_diverges_says_so_and_keeps_the_good_checkpoint(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[torch.Tensor], torch.Tensor],
    checkpoint_seconds: float,
) -> None:
    recipe = tiny_recipe("ce")
    with pytest.raises(TrainingStopped):
        train(recipe, tmp_path, stop_after=2)
    _spoil_loss_after(monkeypatch, 2, spoil)
    with pytest.raises(SegnbError) as caught:
        train(recipe, tmp_path, checkpoint_seconds=checkpoint_seconds)
    assert "lower the learning rate" in str(caught.value)
    path = runs.run_folder(recipe, tmp_path) / "finetune.pt"
    assert str(path) in str(caught.value)
    good = torch.load(path, weights_only=True)
    assert good["step"] == (4 if checkpoint_seconds == 0 else 2)
    state = [v for v in good["network"].values() if v.is_floating_point()]
    assert all(bool(v.isfinite().all()) for v in state)
    assert not (path.parent / "metrics.json").exists()


def test_a_rate_that_is_far_too_high_ends_in_words(tmp_path: Path) -> None:
    recipe = tiny_recipe("ce", finetune=Stage(steps=30, batch=4, lr=1e15))
    with pytest.raises(SegnbError, match=r"(loss|weights).*not finite|loss is (nan|inf)") as caught:
        train(recipe, tmp_path, checkpoint_seconds=1e9)
    assert "learning rate" in str(caught.value)
    assert "last good state" not in str(caught.value)  # there is none


def hold(recipe: Recipe, folder: Path, ready: Any, leave: Any) -> None:
    def wait() -> bool:
        ready.set()
        leave.wait(30)
        return True

    with pytest.raises(TrainingStopped):
        train(recipe, folder, should_stop=wait)


def test_two_processes_do_not_train_one_run(tmp_path: Path) -> None:
    recipe = tiny_recipe("ce")
    ready, leave = SERVER.Event(), SERVER.Event()
    child = start(hold, recipe, tmp_path, ready, leave)
    assert ready.wait(60)
    with pytest.raises(ConfigError, match="another process is working"):
        train(recipe, tmp_path)
    leave.set()
    child.join(timeout=60)
    assert child.exitcode == 0
    assert train(recipe, tmp_path) is not None


def test_a_disk_without_room_is_told_and_the_old_files_stay(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    network = torch.nn.Linear(100, 100)
    files = {name: tmp_path / name for name in ("finetune.pt", "weights.safetensors")}

    def save() -> list[int | None]:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        kept = checkpoint.Checkpoint(
            files["finetune.pt"],
            stage="finetune",
            recipe="a",
            network=network,
            optimizer=optimizer,
            scaler=None,
        )
        acts = (
            lambda: kept.save(1),
            lambda: checkpoint.save_weights(files["weights.safetensors"], network),
        )
        numbers: list[int | None] = []
        for act in acts:
            try:
                act()
            except OSError as error:
                numbers.append(error.errno)
        return numbers

    assert save() == []
    before = [path.read_bytes() for path in files.values()]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # stands in for a full disk
    try:
        assert save() == [errno.EFBIG, errno.EFBIG]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.read_bytes() for path in files.values()] == before
    assert len(list(tmp_path.iterdir())) == 2
