"""Sweeps whose recipes run side by side, in processes of this machine or of a cluster.

The driver plans the tasks: first each stage 1 that several recipes share, then the recipes that
need it. An executor runs them. What comes back is published here: only the driver writes to
the ledger, so that other machines need no folder of this one.
"""

from __future__ import annotations

import contextlib
import signal
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from segnb.datasets.base import data_root
from segnb.errors import DataError, SegnbError
from segnb.experiments import stage1
from segnb.experiments.fingerprint import Fingerprint
from segnb.experiments.folder import RUNS, chosen, inspect, read_row
from segnb.experiments.progress import Progress, Work
from segnb.experiments.runs import data_today, need_results, publish
from segnb.experiments.sweep import in_order, outcome, plan, remaining
from segnb.experiments.tasks import ENDS, Event, Executor, Task, list_digest
from segnb.files import claimed, write_atomic
from segnb.recipe import Recipe
from segnb.results import ledger

#: How often a task is started whose process or node dies.
TRIES = 5

#: Seconds between two looks at what runs.
LOOK_SECONDS = 0.5

#: Seconds until a recipe that another process is training is tried again: first, and at most.
BUSY_SECONDS = 2.0, 60.0

#: Seconds that running recipes have to write a checkpoint after a Ctrl-C.
STOP_SECONDS = 60.0


def sweep_side_by_side(
    recipes: Sequence[Recipe],
    executor: Executor,
    *,
    runs: Path = RUNS,
    results: Path = ledger.RESULTS,
    root: Path | None = None,
    cpu: bool = False,
    progress_bar: bool = True,
    say: Callable[[str], None] = print,
) -> list[SegnbError]:
    """Run all recipes that are not in the ledger yet, as many at a time as the executor takes.

    A recipe that fails is reported, and the others continue. A task whose process or node died is
    begun again. After an interruption the same call resumes where it stopped.

    Args:
        recipes: The recipes.
        executor: Has the tasks done; closed at the end.
        runs: Folder of the runs.
        results: Folder of the ledger.
        root: Folder of the data sets.
        cpu: Use the CPU even if there is a GPU.
        progress_bar: Show progress.
        say: Called with each line of progress.

    Returns:
        The errors of recipes that failed.

    Raises:
        KeyboardInterrupt: After Ctrl-C or SIGTERM; running recipes were asked for a checkpoint.
        DataError: The results can't be written, or the ledger can't be read.
        RuntimeError: A fault of the program, with its traceback from the other process.
    """
    with contextlib.closing(executor), _interrupted_by_sigterm():
        runs, results = runs.expanduser().absolute(), results.expanduser()
        if recipes:
            need_results(results, recipes[0])
        left = in_order(remaining(recipes, results, root=root, say=say))
        for line in plan(recipes, left, runs=runs).splitlines():
            say(line)
        if not left:
            return []
        driver = _Driver(left, executor, runs=runs, results=results, root=root, cpu=cpu)
        driver.prepare(say)
        driver.progress = Progress(driver.work(), show=progress_bar, say=say)
        with contextlib.closing(driver.progress):
            driver.drive()
        return driver.failed


@dataclass
class _Pending:
    """A task that is not over."""

    task: Task
    name: str
    work: Work
    tries: int = 0
    wait: float = BUSY_SECONDS[0]
    after: float = 0.0
    busy: bool = False
    begun: bool = False
    dependents: list[_Pending] = field(default_factory=list)


class _Driver:
    """Hands out tasks in order, and stores what comes back."""

    progress: Progress

    def __init__(
        self,
        left: Sequence[Recipe],
        executor: Executor,
        *,
        runs: Path,
        results: Path,
        root: Path | None,
        cpu: bool,
    ) -> None:
        self.left, self.executor = left, executor
        self.runs, self.results, self.root, self.cpu = runs, results, root, cpu
        self.failed: list[SegnbError] = []
        self.ready: deque[_Pending] = deque()
        self.running: dict[int, _Pending] = {}

    def prepare(self, say: Callable[[str], None]) -> None:
        """Plan the tasks; what needs no other process is done at once."""
        sharing = Counter(one.stage1().hash for one in self.left if one.has_stage1)
        held = stage1.held(self.runs)
        shared: dict[str, _Pending] = {}
        known: dict[tuple[Any, ...], tuple[Fingerprint | None, SegnbError | None]] = {}
        for number, recipe in enumerate(self.left, 1):
            name = f"[{number}/{len(self.left)}]"
            key = (recipe.dataset, recipe.size)
            if key not in known:
                known[key] = data_today(recipe, root=self.root)
            data, missing = known[key]
            try:
                listed = list_digest(recipe)
            except DataError as error:
                listed, missing = None, error
            if data is None or missing is not None:
                assert missing is not None
                say(f"{name} {recipe.command()}\n    failed: {missing}")
                self.failed.append(missing)
                continue
            task = Task(
                number=number,
                recipe=recipe,
                until="end",
                data=data,
                listed=listed,
                runs=self.runs,
                root=data_root(self.root).absolute(),
                cpu=self.cpu,
            )
            if row := self._published(task):
                say(f"{name} {recipe.command()}\n    {outcome(row)}")
                continue
            its = recipe.stage1().hash if recipe.has_stage1 else None
            apart = its is not None and (sharing[its] > 1 or its in held)
            whole, first = recipe.image_passes(), recipe.stage1_passes()
            pending = _Pending(task, name, Work(whole - first * apart, whole, True))
            if its is None or sharing[its] == 1:
                self.ready.append(pending)
                continue
            if its not in shared:
                only = replace(task, number=len(self.left) + number, until="pretrain")
                shared[its] = _Pending(only, "", Work(first * (its not in held), first, False))
                self.ready.append(shared[its])
            shared[its].dependents.append(pending)
        for one in shared.values():
            numbers = ", ".join(other.name.strip("[]").split("/")[0] for other in one.dependents)
            one.name = f"[stage 1 of {numbers}]"

    def work(self) -> dict[int, Work]:
        """What there is to do, by the tasks' numbers."""
        every = [*self.ready, *(one for first in self.ready for one in first.dependents)]
        return {one.task.number: one.work for one in every}

    def drive(self) -> None:
        """Have all tasks done."""
        try:
            while self.ready or self.running:
                self._hand_out()
                for event in self.executor.events(LOOK_SECONDS):
                    self._hear(event)
        except KeyboardInterrupt:
            self._stop()
            raise

    def _hand_out(self) -> None:
        now = time.monotonic()
        for _ in range(len(self.ready)):
            if not self.executor.has_room():
                return
            pending = self.ready.popleft()
            if pending.after > now:
                self.ready.append(pending)
                continue
            pending.tries += 1
            self.running[pending.task.number] = pending
            self.executor.submit(pending.task)

    def _hear(self, event: Event) -> None:
        pending = self.running[event.number]
        task, say = pending.task, self.progress.say
        if event.kind == "begun":
            pending.begun = True
            if pending.tries == 1 and not pending.busy:
                time_left = self.progress.time_left()
                what = "" if task.shares_stage1 else task.recipe.command()
                say(f"{pending.name} {what or 'begins'}{time_left and f'  ({time_left})'}")
            self.progress.begin(event.number, f"{pending.name} {task.recipe.method}")
        elif event.kind == "step":
            self.progress.step(event.number, event.passes, event.text)
        elif event.kind == "said":
            say(f"{pending.name} {event.text}")
        if event.kind in ENDS:
            del self.running[event.number]
            self._end(pending, event)

    def _end(self, pending: _Pending, event: Event) -> None:
        if event.kind == "fault":
            raise RuntimeError(f"{pending.name} {pending.task.recipe.command()}\n{event.text}")
        error: SegnbError | None = None
        if event.kind == "done":
            try:
                row = self._store(pending.task, event)
            except SegnbError as wrong:
                error = wrong
            else:
                self._over(pending)
                if row is not None:
                    self.progress.say(f"{pending.name} {outcome(row)}")
                for one in reversed(pending.dependents):
                    self.ready.appendleft(one)
                return
        elif event.kind == "failed":
            error = SegnbError(event.text)
        elif event.kind == "busy":
            if not pending.busy:
                self.progress.say(f"{pending.name} {event.text}: it is tried again later")
            pending.busy, pending.tries = True, pending.tries - 1
            pending.after = time.monotonic() + pending.wait
            pending.wait = min(2 * pending.wait, BUSY_SECONDS[1])
        elif pending.tries < TRIES:
            why = event.text or "its process was stopped"
            self.progress.say(f"{pending.name} {why}; it begins again")
        else:
            error = SegnbError(f"{event.text}, {TRIES} times; the same command tries it again")
        pending.begun = False
        if error is None:
            self.progress.end(pending.task.number, "again")
            self.ready.append(pending) if event.kind == "busy" else self.ready.appendleft(pending)
        else:
            self._fail(pending, error)

    def _fail(self, pending: _Pending, error: SegnbError) -> None:
        self.progress.say(f"{pending.name} failed: {error}")
        self._over(pending, failed=True)
        if not pending.task.shares_stage1:
            self.failed.append(error)
        for one in pending.dependents:
            self._fail(one, SegnbError(f"its stage 1 failed: {error}"))

    def _over(self, pending: _Pending, *, failed: bool = False) -> None:
        self.progress.end(pending.task.number, "failed" if failed else "done")

    def _stop(self) -> None:
        """Ask for checkpoints, and take in what is finished meanwhile."""
        running = sum(one.begun for one in self.running.values())
        self.progress.say(
            f"stopping: {running} running, each writes a checkpoint (Ctrl-C again leaves at once)"
        )
        self.executor.stop()
        until = time.monotonic() + STOP_SECONDS
        while self.running and time.monotonic() < until:
            for event in self.executor.events(LOOK_SECONDS):
                if event.kind == "done":
                    self._hear(event)
                elif event.kind in ENDS:
                    del self.running[event.number]
        self.progress.say("stopped; the same command goes on")

    def _published(self, task: Task) -> ledger.Row | None:
        """The row of a run that is finished in this machine's folder; it only lacks its row."""
        folder = chosen(task.recipe, self.runs, task.data)[0]
        if not (folder / "metrics.json").exists():
            return None
        if inspect(folder, task.recipe, task.data).wrong:
            return None
        return publish(folder, read_row(folder / "metrics.json", task.recipe), self.results)

    def _store(self, task: Task, event: Event) -> ledger.Row | None:
        """Take in what a task left."""
        if task.shares_stage1:
            if event.files:
                stage1.put(self.runs, event.files[stage1.WEIGHTS], event.files[stage1.RECORD])
            return None
        assert event.row is not None
        folder = chosen(task.recipe, self.runs, task.data)[0]
        if not event.files:
            return publish(folder, event.row, self.results)
        if "weights.safetensors" in event.files:
            with claimed(folder, busy=lambda: time.sleep(LOOK_SECONDS)):
                _write(folder, event.files)
            return publish(folder, event.row, self.results)
        with tempfile.TemporaryDirectory() as place:
            _write(Path(place), event.files)
            return publish(Path(place), event.row, self.results)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    # The row comes last: it says that the run is finished.
    for name in sorted(files, key=lambda name: name == "metrics.json"):
        write_atomic(folder / name, files[name])


@contextlib.contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM, which a machine that is taken away sends, does what Ctrl-C does."""
    before = signal.getsignal(signal.SIGTERM)
    left = before in (None, signal.SIG_IGN)  # set outside Python, or ignored by who started us
    if left or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
