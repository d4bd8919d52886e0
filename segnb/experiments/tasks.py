"""A sweep in pieces: tasks, what is heard of them, and who does them.

A task is one recipe, or the stage 1 that several recipes share. The driver
(:mod:`segnb.experiments.side_by_side`) hands tasks to an :class:`Executor`, which has them done by
:func:`perform` in other processes and returns :class:`Event` after event.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from segnb.errors import SegnbError
from segnb.experiments.fingerprint import Fingerprint
from segnb.experiments.runs import BusyError, run
from segnb.recipe import VIEWS_PER_STEP, Recipe
from segnb.records import read_bytes
from segnb.results.ledger import Row
from segnb.training import TrainingStopped
from segnb.training.log import LogRow

#: What is heard of a task. The last six end it: ``busy`` (another process is at this run), ``lost``
#: (its process or its node died) and ``stopped`` (on request) without a result.
Kind = Literal["begun", "step", "said", "done", "failed", "busy", "lost", "stopped", "fault"]

#: The kinds of events after which nothing more is heard of a task.
ENDS = frozenset({"done", "failed", "busy", "lost", "stopped", "fault"})


@dataclass(frozen=True, kw_only=True)
class Task:
    """One piece of a sweep.

    Attributes:
        number: Its number, unique within the sweep.
        recipe: The recipe; for a shared stage 1 that of the first run which needs it.
        until: ``pretrain`` trains stage 1 alone.
        data: The fingerprint of the data.
        listed: A hash of the recipe's split list; ``None`` if it has none.
        runs: Folder of the runs, absolute.
        root: Folder of the data sets, absolute; ``None`` if it was not named.
        cpu: Use the CPU even if there is a GPU.
    """

    number: int
    recipe: Recipe
    until: Literal["pretrain", "end"]
    data: Fingerprint
    listed: str | None
    runs: Path
    root: Path | None
    cpu: bool

    @property
    def shares_stage1(self) -> bool:
        """Whether this is the stage 1 that several recipes share."""
        return self.until == "pretrain"


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that is heard of a task.

    Attributes:
        number: The task's.
        kind: What it is.
        text: The stage and step, a line that was printed, or the error.
        passes: Image passes so far, with ``step``.
        row: The row of a finished run, with ``done``.
        files: Files of the run by their names, where its folder is not the driver's.
    """

    number: int
    kind: Kind
    text: str = ""
    passes: int = 0
    row: Row | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)


def list_digest(recipe: Recipe) -> str | None:
    """A hash of a recipe's split list; ``None`` if it has none.

    Raises:
        DataError: It can't be read.
    """
    if recipe.split_list is None:
        return None
    path = Path(recipe.split_list).expanduser()
    return hashlib.sha256(read_bytes(path, remedy="correct --split-list")).hexdigest()


class Executor(Protocol):
    """Has tasks done in other processes, several at a time."""

    def has_room(self) -> bool:
        """Whether it takes another task now."""
        ...

    def submit(self, task: Task) -> None:
        """Take a task; all further news of it are events."""
        ...

    def events(self, seconds: float) -> list[Event]:
        """What was heard, after waiting for at most ``seconds``."""
        ...

    def stop(self) -> None:
        """Ask all running tasks to end with a checkpoint; returns at once."""
        ...

    def close(self) -> None:
        """End all processes, whatever they do."""
        ...


def perform(task: Task, *, say: Callable[[Event], None], should_stop: Callable[[], bool]) -> Event:
    """Do a task in this process.

    Args:
        task: The task.
        say: Called with events while it runs.
        should_stop: Called after every step; returning true ends the task with a checkpoint.

    Returns:
        The event that ends it.
    """
    number = task.number
    before = _passes_before(task.recipe)

    def on_log(row: LogRow) -> None:
        done, each, steps = before[row["stage"]]
        text = f"{row['stage']} {row['step']}/{steps}"
        say(Event(number=number, kind="step", text=text, passes=done + each * row["step"]))

    say(Event(number=number, kind="begun"))
    try:
        with _lines(lambda line: say(Event(number=number, kind="said", text=line))):
            row = run(
                task.recipe,
                runs=task.runs,
                results=None,
                root=task.root,
                cpu=task.cpu,
                progress_bar=False,
                on_log=on_log,
                should_stop=should_stop,
                until=task.until,
            )
    except (TrainingStopped, KeyboardInterrupt):
        return Event(number=number, kind="stopped")
    except BusyError as error:
        return Event(number=number, kind="busy", text=str(error).partition(";")[0])
    except SegnbError as error:
        return Event(number=number, kind="failed", text=str(error))
    except OSError as error:
        if error.errno is None:
            return Event(number=number, kind="fault", text=traceback.format_exc())
        where = "" if error.filename is None else f"{error.filename}: "
        return Event(number=number, kind="failed", text=f"{where}{error.strerror}")
    except Exception:  # the driver ends the sweep with it
        return Event(number=number, kind="fault", text=traceback.format_exc())
    return Event(number=number, kind="done", row=row)


def _passes_before(recipe: Recipe) -> dict[str, tuple[int, int, int]]:
    """Of each stage by its name: image passes before it, passes of each step, and its steps."""
    views = VIEWS_PER_STEP if recipe.uses_contrastive else 1
    one_round = [("finetune", recipe.cross_entropy_stage(), 1)]
    if recipe.has_stage1:
        one_round.insert(0, ("pretrain", recipe.pretraining_stage(), views))
    found: dict[str, tuple[int, int, int]] = {}
    total = 0
    for ending in ("", "-pseudo")[: recipe.kind.rounds]:
        for name, stage, times in one_round:
            found[name + ending] = (total, times * stage.batch, stage.steps)
            total += times * stage.batch * stage.steps
    return found


@contextlib.contextmanager
def _lines(say: Callable[[str], None]) -> Iterator[None]:
    """Hand on what is printed, line by line; the terminal belongs to the driver."""
    stream = _Lines(say)
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        yield


class _Lines(io.TextIOBase):
    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._rest = say, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self._say(line.rstrip())
        return len(text)
