"""Train a recipe from a notebook: Run, Stop, a progress bar and a picture of the loss.

The training runs in a thread, so that its buttons answer meanwhile. What it has done lies in the
run folder: a training that was stopped, or whose kernel died, goes on when it is run again.
"""

from __future__ import annotations

import base64
import contextlib
import html
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from segnb import plots
from segnb.errors import ConfigError, SegnbError
from segnb.experiments.runs import RUNS, run, run_folder
from segnb.plots import Picture
from segnb.recipe import Recipe
from segnb.results import ledger
from segnb.training import TrainingStopped
from segnb.training.log import LogRow, read_log

State = Literal["idle", "running", "stopped", "finished", "failed"]

#: Least seconds between two pictures of the loss; drawing takes time from training.
REDRAW_SECONDS = 1.0

#: matplotlib's settings are the process's own: one thread draws at a time.
drawing = threading.RLock()

_one = threading.Lock()
_running: list[TrainingThread] = []


def planned_steps(recipe: Recipe) -> dict[str, int]:
    """Steps of each stage of a recipe, in their order, by the stage's name in the log."""
    stages = {"finetune": recipe.cross_entropy_stage().steps}
    if recipe.has_stage1:
        stages = {"pretrain": recipe.pretraining_stage().steps, **stages}
    if recipe.kind.rounds > 1:
        stages |= {f"{name}-pseudo": steps for name, steps in stages.items()}
    return stages


def steps_taken(rows: Sequence[LogRow]) -> int:
    """Steps that a training log tells of, over all stages."""
    last: dict[str, int] = {}
    for row in rows:
        last[row["stage"]] = int(row["step"])
    return sum(last.values())


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Be the one training that this process may run.

    Raises:
        ConfigError: Another training holds it.
    """
    if not _one.acquire(blocking=False):
        raise ConfigError("another training is under way here: press its Stop, or let it finish")
    try:
        yield
    finally:
        _one.release()


def train(
    recipe: Recipe,
    *,
    runs: Path = RUNS,
    results: Path | None = None,
    root: Path | None = None,
    cpu: bool = False,
) -> ledger.Row:
    """What a panel's Run button does, as one call that waits: train, or finish what was begun.

    Args:
        recipe: What to train.
        runs: Run folders go here.
        results: The finished row goes into a ledger here; ``None`` keeps it in the run folder.
        root: Where the data sets are.
        cpu: Use the processor even where there is a GPU.

    Raises:
        ConfigError: A panel is training.
        SegnbError: See :func:`segnb.experiments.runs.run`.
    """
    with one_at_a_time():
        row = run(recipe, runs=runs, results=results, root=root, cpu=cpu)
    assert row is not None  # run to the end
    return row


class TrainingThread:
    """One recipe being trained in a thread.

    Args:
        recipe: What to train.
        runs: Run folders go here.
        results: The finished row goes into a ledger here; ``None`` keeps it in the run folder.
        root: Where the data sets are.
        cpu: Use the processor even where there is a GPU.

    Attributes:
        state: ``idle`` before :meth:`start`, then ``running``, and how it ended.
        row: The ledger row of a finished training.
        message: What a training that was stopped, or failed, says of it.
        trace: The traceback of an error that is no fault of the user's.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        runs: Path = RUNS,
        results: Path | None = None,
        root: Path | None = None,
        cpu: bool = False,
    ) -> None:
        self.recipe = recipe
        self.folder = run_folder(recipe, runs)
        self.state: State = "idle"
        self.row: ledger.Row | None = None
        self.message = ""
        self.trace = ""
        self._options: dict[str, Any] = {"runs": runs, "results": results, "root": root, "cpu": cpu}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._listeners: list[Callable[[], None]] = []

    @property
    def rows(self) -> list[LogRow]:
        """The log so far, that of earlier sessions included."""
        return read_log(self.folder / "log.jsonl")

    @property
    def stopping(self) -> bool:
        """Whether a stop was asked for that the training has not come to yet."""
        return self.state == "running" and self._stop.is_set()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` from the training's thread after every change."""
        self._listeners.append(listener)

    def start(self) -> None:
        """Begin, or go on from the last checkpoint.

        Raises:
            ConfigError: A training is under way in this process.
        """
        place = contextlib.ExitStack()
        place.enter_context(one_at_a_time())
        self.state, self.message, self.trace = "running", "", ""
        self._stop.clear()
        _running[:] = [self]
        # A daemon: a kernel that shuts down does not wait for it, and checkpoints are whole.
        self._thread = threading.Thread(target=self._train, args=(place,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask for a stop after the step at hand; the checkpoint then holds all that was done."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the thread; whether it has ended."""
        if self._thread is not None:
            self._thread.join(timeout)
            return not self._thread.is_alive()
        return True

    def _train(self, place: contextlib.ExitStack) -> None:
        state: State
        try:
            self.row = run(
                self.recipe,
                progress_bar=False,
                on_log=lambda _: self._tell(),
                should_stop=self._stop.is_set,
                **self._options,
            )
            state = "finished"
        except TrainingStopped as stopped:
            state, self.message = "stopped", str(stopped)
        except SegnbError as error:
            state, self.message = "failed", str(error)
        except Exception as error:
            # Nothing above this frame would show it to anyone.
            state, self.message = "failed", f"{type(error).__name__}: {error}"
            self.trace = traceback.format_exc()
        # The place is free before anyone hears of the end, so that they can start the next.
        _running.clear()
        place.close()
        self.state = state
        self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


def current() -> TrainingThread | None:
    """The training that this process is running."""
    found = _running[:]
    return found[0] if found else None


class TrainingPanel:
    """Run and Stop buttons, a progress bar, a live picture of the loss.

    Show it by ending a cell with it. A panel that is made while a training is under way, as when
    its cell is run again, takes that training over.

    Args:
        recipe: What Run trains.
        runs: Run folders go here.
        results: Finished rows go into a ledger here; ``None`` keeps them in the run folders.
        root: Where the data sets are.
        cpu: Use the processor even where there is a GPU.
        outcome: Pictures of a finished training, from its row; drawn in its thread.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        runs: Path = RUNS,
        results: Path | None = None,
        root: Path | None = None,
        cpu: bool = False,
        outcome: Callable[[ledger.Row], Sequence[Picture]] | None = None,
    ) -> None:
        import ipywidgets as widgets

        self._options: dict[str, Any] = {"runs": runs, "results": results, "root": root, "cpu": cpu}
        self._outcome = outcome
        self._lock = threading.RLock()
        self._drawn_at = 0.0
        self._drawn: tuple[str, int, State] | None = None
        self.run_button = widgets.Button(description="Run", icon="play", button_style="success")
        self.stop_button = widgets.Button(description="Stop", icon="stop")
        self.bar = widgets.IntProgress(min=0, max=1, layout=widgets.Layout(width="45%"))
        self.status = widgets.HTML()
        self.figure = widgets.HTML()
        self.widget = widgets.VBox(
            [
                widgets.HBox([self.run_button, self.stop_button, self.bar]),
                self.status,
                self.figure,
            ]
        )
        self.run_button.on_click(lambda _: self.run())
        self.stop_button.on_click(lambda _: self.stop())
        self._recipe = recipe
        running = current()
        self.training = running or TrainingThread(recipe, **self._options)
        self.training.listen(self._update)
        self._update()

    @property
    def recipe(self) -> Recipe:
        """What the next Run trains."""
        return self._recipe

    @recipe.setter
    def recipe(self, recipe: Recipe) -> None:
        with self._lock:
            self._recipe = recipe
            if self.training.state != "running":
                self._take(recipe)
            self._update()

    def run(self) -> None:
        """What the Run button does: start the training, or go on with it."""
        with self._lock:
            if self.training.state != "running" and self.training.recipe != self._recipe:
                self._take(self._recipe)
            try:
                self.training.start()
            except ConfigError as error:
                self._show_status(_error(str(error)))
                return
            self._update()

    def stop(self) -> None:
        """What the Stop button does."""
        self.training.stop()
        self._update()

    def _take(self, recipe: Recipe) -> None:
        self.training = TrainingThread(recipe, **self._options)
        self.training.listen(self._update)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget)

    def _update(self) -> None:
        with self._lock:
            training = self.training
            # Read once: the thread may change it in between.
            state = training.state
            rows = training.rows
            planned = sum(planned_steps(training.recipe).values())
            taken = min(steps_taken(rows), planned)
            self.bar.max, self.bar.value = max(planned, 1), taken
            self.bar.bar_style = {"finished": "success", "failed": "danger"}.get(state, "")
            self.run_button.disabled = state == "running"
            self.stop_button.disabled = state != "running" or training.stopping
            self.run_button.description = "Go on" if 0 < taken < planned else "Run"
            self._show_status(_status(training, state, rows, taken, planned, self._recipe))
            self._draw(training, state, rows)

    def _show_status(self, text: str) -> None:
        self.status.value = text

    def _draw(self, training: TrainingThread, state: State, rows: list[LogRow]) -> None:
        key = (training.recipe.hash, len(rows), state)
        soon = time.monotonic() - self._drawn_at < REDRAW_SECONDS
        if key == self._drawn or (state == "running" and soon):
            return
        try:
            with drawing:
                stages = [row["stage"] for row in rows]
                # A single point is no curve, and would look like an empty picture.
                drawn = max(map(stages.count, stages), default=0) > 1
                pictures = [plots.loss_curves({"this run": rows})] if drawn else []
                if state == "finished" and training.row is not None and self._outcome is not None:
                    pictures += self._outcome(training.row)
                # Put up in one go: what was there stays until the new picture is whole.
                self.figure.value = "".join(map(picture_html, pictures))
        except (SegnbError, ValueError) as error:
            self.figure.value = _error(f"no picture: {error}")
        self._drawn, self._drawn_at = key, time.monotonic()


def picture_html(picture: Picture) -> str:
    """An ``img`` element of a picture, its alternative text included.

    An Output area takes what the main thread displays while it is open; a training's thread can
    only set a value, and this is one.
    """
    width, _ = picture.figure.get_size_inches()
    data = base64.b64encode(picture.png()).decode("ascii")
    return (
        f'<img alt="{html.escape(picture.alt)}" style="width:{100 * width:.0f}px;max-width:100%" '
        f'src="data:image/png;base64,{data}">'
    )


def _status(
    training: TrainingThread,
    state: State,
    rows: list[LogRow],
    taken: int,
    planned: int,
    chosen: Recipe,
) -> str:
    recipe = training.recipe
    name = f"{recipe.method}, {recipe.dataset}, seed {recipe.seed}"
    if recipe.uses_contrastive:
        name += f", fraction {recipe.fraction:g}, τ {recipe.temperature:g}"
    where = f"step {taken} of {planned}"
    if rows:
        where += f", loss {rows[-1]['loss']:.3f} ({rows[-1]['stage']})"
    if state == "failed":
        text = _error(f"This training failed: {training.message}")
        if training.trace:
            text += f"<details><summary>traceback</summary><pre>{html.escape(training.trace)}"
            text += "</pre></details>"
        return text
    if state == "running":
        doing = "preparing" if not rows else "measuring" if taken == planned else "training"
        words = f"{doing}; {where}"
        if training.stopping:
            words += "; stopping after this step"
        if recipe != chosen:
            words += ". The choice above has moved on: it is trained when this one has ended"
    elif state == "finished" and training.row is not None:
        words = f"finished: mIoU {training.row['miou_val']:.1f} on the validation images"
    elif state == "stopped":
        words = f"{html.escape(training.message)}. Go on takes it up there"
    elif (training.folder / "metrics.json").exists():
        words = "finished in an earlier session: Run shows the result at once"
    elif rows:
        words = f"{where}, from an earlier session. Go on takes up the last checkpoint"
    else:
        words = f"ready, {planned} steps"
    return f"<div><b>{html.escape(name)}</b>: {words}.</div>"


def _error(message: str) -> str:
    return f'<div style="color:#b00020"><b>{html.escape(message)}</b></div>'
