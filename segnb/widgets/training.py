"""Train a recipe from a notebook: Run, Stop, a progress bar and a picture of the loss.

The training runs in a thread, so that the buttons keep working. Its state is kept in the run
folder: a training that was stopped, or whose kernel died, continues when it is run again.
"""

from __future__ import annotations

import base64
import html
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from segnb import plots
from segnb.errors import ConfigError, SegnbError
from segnb.experiments.runs import RUNS, find_folder, run
from segnb.plots import Picture
from segnb.recipe import Recipe
from segnb.results import ledger
from segnb.training import TrainingStopped
from segnb.training.log import LogRow, TrainingLog

State = Literal["idle", "running", "stopped", "finished", "failed"]

#: Minimum seconds between two pictures of the loss: drawing slows training down.
REDRAW_SECONDS = 1.0

#: matplotlib's settings belong to the whole process, so only one thread draws at a time.
drawing = threading.RLock()

#: Held by the one training that this process may run.
_one = threading.Lock()
_running: list[TrainingThread] = []


def planned_steps(recipe: Recipe) -> dict[str, int]:
    """Steps of each stage of a recipe, in order, by the stage's name in the log."""
    stages = {"finetune": recipe.cross_entropy_stage().steps}
    if recipe.has_stage1:
        stages = {"pretrain": recipe.pretraining_stage().steps, **stages}
    if recipe.kind.rounds > 1:
        stages |= {f"{name}-pseudo": steps for name, steps in stages.items()}
    return stages


def steps_taken(rows: Sequence[LogRow]) -> int:
    """Steps recorded in a training log, over all stages."""
    return sum({row["stage"]: int(row["step"]) for row in rows}.values())


def _claim() -> None:
    if not _one.acquire(blocking=False):
        raise ConfigError("another training is running here: press its Stop, or let it finish")


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
        runs: Folder of the run folders.
        results: Folder of the ledger that gets the finished row; ``None`` keeps the row in the
            run folder.
        root: Folder of the data sets.
        cpu: Use the processor even where there is a GPU.

    Raises:
        ConfigError: A panel is training.
        SegnbError: See :func:`segnb.experiments.runs.run`.
    """
    _claim()
    try:
        row = run(recipe, runs=runs, results=results, root=root, cpu=cpu)
    finally:
        _one.release()
    assert row is not None  # run to the end
    return row


class TrainingThread:
    """The training of one recipe in a thread.

    Args:
        recipe: What to train.
        runs, results, root, cpu: As in :func:`train`.

    Attributes:
        state: ``idle`` before :meth:`start`, then ``running``, and in the end how it ended.
        row: The ledger row of a finished training.
        message: Why a training stopped or failed.
        trace: The traceback of an error that is not the user's fault.
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
        self.folder = find_folder(recipe, runs, root=root)
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
        """The log so far, including that of earlier sessions."""
        return TrainingLog(self.folder / "log.jsonl").rows

    @property
    def stopping(self) -> bool:
        """Whether a stop was requested and the training has not reached it yet."""
        return self.state == "running" and self._stop.is_set()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` from the training's thread after every change."""
        self._listeners.append(listener)

    def start(self) -> None:
        """Begin, or continue from the last checkpoint.

        Raises:
            ConfigError: A training is running in this process.
        """
        _claim()
        self.state, self.message, self.trace = "running", "", ""
        self._stop.clear()
        _running[:] = [self]
        # A daemon, so that a kernel can shut down meanwhile; checkpoints are never half-written.
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Request a stop after the current step; the checkpoint then holds all steps so far."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the thread; return whether it has ended."""
        if self._thread is not None:
            self._thread.join(timeout)
        return self._thread is None or not self._thread.is_alive()

    def _train(self) -> None:
        state: State = "failed"
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
            self.message = str(error)
        except Exception as error:
            # Nothing above this frame would show it to anyone.
            self.message = f"{type(error).__name__}: {error}"
            self.trace = traceback.format_exc()
        # Released before the listeners hear of the end, so that they can start the next training.
        _running.clear()
        _one.release()
        self.state = state
        self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


def current() -> TrainingThread | None:
    """The training that this process is running."""
    return next(iter(_running), None)


class TrainingPanel:
    """Run and Stop buttons, a progress bar, a live picture of the loss.

    End a cell with it to show it. A panel that is created while a training is running, as when its
    cell is run again, takes over that training.

    Args:
        recipe: What Run trains.
        runs, results, root, cpu: As in :func:`train`.
        outcome: Makes pictures of a finished training from its row, in the training's thread.
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
        controls = widgets.HBox([self.run_button, self.stop_button, self.bar])
        self.widget = widgets.VBox([controls, self.status, self.figure])
        self.run_button.on_click(lambda _: self.run())
        self.stop_button.on_click(lambda _: self.stop())
        self._recipe = recipe
        self._watch(current() or TrainingThread(recipe, **self._options))
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
                self._watch(TrainingThread(recipe, **self._options))
            self._update()

    def run(self) -> None:
        """What the Run button does: start the training, or continue it."""
        with self._lock:
            if self.training.state != "running" and self.training.recipe != self._recipe:
                self._watch(TrainingThread(self._recipe, **self._options))
            try:
                self.training.start()
            except ConfigError as error:
                self.status.value = _error(str(error))
            else:
                self._update()

    def stop(self) -> None:
        """What the Stop button does."""
        self.training.stop()
        self._update()

    def _watch(self, training: TrainingThread) -> None:
        self.training = training
        training.listen(self._update)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget)

    def _update(self) -> None:
        with self._lock:
            # Read once: the thread may change it meanwhile.
            state, rows = self.training.state, self.training.rows
            planned = sum(planned_steps(self.training.recipe).values())
            taken = min(steps_taken(rows), planned)
            self.bar.max, self.bar.value = max(planned, 1), taken
            self.bar.bar_style = {"finished": "success", "failed": "danger"}.get(state, "")
            self.run_button.disabled = state == "running"
            self.stop_button.disabled = state != "running" or self.training.stopping
            self.run_button.description = "Go on" if 0 < taken < planned else "Run"
            self.status.value = self._status(state, rows, taken, planned)
            self._draw(state, rows)

    def _draw(self, state: State, rows: list[LogRow]) -> None:
        key = (self.training.recipe.hash, len(rows), state)
        soon = time.monotonic() - self._drawn_at < REDRAW_SECONDS
        if key == self._drawn or (state == "running" and soon):
            return
        row = self.training.row
        try:
            with drawing:
                stages = [row["stage"] for row in rows]
                # A single point is not a curve and would look like an empty picture.
                drawn = max(map(stages.count, stages), default=0) > 1
                pictures = [plots.loss_curves({"this run": rows})] if drawn else []
                if state == "finished" and row is not None and self._outcome is not None:
                    pictures += self._outcome(row)
                # Set in one go: the old picture stays until the new one is complete.
                self.figure.value = "".join(map(picture_html, pictures))
        except (SegnbError, ValueError) as error:
            self.figure.value = _error(f"no picture: {error}")
        self._drawn, self._drawn_at = key, time.monotonic()

    def _status(self, state: State, rows: list[LogRow], taken: int, planned: int) -> str:
        training, recipe = self.training, self.training.recipe
        if state == "failed":
            text, trace = _error(f"This training failed: {training.message}"), training.trace
            if trace:
                trace = f"<summary>traceback</summary><pre>{html.escape(trace)}</pre>"
                text += f"<details>{trace}</details>"
            return text
        name = f"{recipe.method}, {recipe.dataset_title}, seed {recipe.seed}"
        if recipe.uses_contrastive:
            name += f", fraction {recipe.fraction:g}, τ {recipe.temperature:g}"
        progress = f"step {taken} of {planned}"
        if rows:
            progress += f", loss {rows[-1]['loss']:.3f} ({rows[-1]['stage']})"
        if state == "running":
            doing = "preparing" if not rows else "measuring" if taken == planned else "training"
            words = f"{doing}; {progress}"
            if training.stopping:
                words += "; stopping after this step"
            if recipe != self._recipe:
                words += ". The choice above has moved on: press Run for it once this one has ended"
        elif state == "finished" and training.row is not None:
            words = f"finished: mIoU {training.row['miou_val']:.1f} on the validation images"
        elif state == "stopped":
            words = f"{html.escape(training.message)}. Go on continues from there"
        elif (training.folder / "metrics.json").exists():
            words = "finished in an earlier session: Run shows the result at once"
        elif rows:
            words = f"{progress}, from an earlier session. Go on continues from the last checkpoint"
        else:
            words = f"ready, {planned} steps"
        return f"<div><b>{html.escape(name)}</b>: {words}.</div>"


def picture_html(picture: Picture) -> str:
    """An ``img`` element of a picture, including its alternative text.

    A training's thread can't display into an Output area, which captures only the main thread; but
    it can set a widget's value to this.
    """
    width, _ = picture.figure.get_size_inches()
    data = base64.b64encode(picture.png()).decode("ascii")
    return (
        f'<img alt="{html.escape(picture.alt)}" style="width:{100 * width:.0f}px;max-width:100%" '
        f'src="data:image/png;base64,{data}">'
    )


def _error(message: str) -> str:
    return f'<div style="color:#b00020"><b>{html.escape(message)}</b></div>'
