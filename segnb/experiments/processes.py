"""Recipes side by side in processes of this machine, which share its cores and its GPUs out.

A process does task after task. It reads them from its standard input and writes events to its
standard output; the end of its input asks it to stop with a checkpoint, so that it also stops when
the driver dies.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import IO, Any

from segnb.device import usable_cores
from segnb.errors import ConfigError
from segnb.experiments.tasks import ENDS, Event, Task, perform

#: What a process runs; it finds modules where this one does.
_PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from segnb.experiments.processes import serve; serve()"
)


@dataclass
class _Worker:
    """One process, and the number of the task that it does."""

    process: subprocess.Popen[bytes]
    task: int | None = None


class Processes:
    """Has tasks done in a number of processes of this machine.

    Args:
        count: How many; each gets an equal share of the cores, and one of the GPUs in turn.
        cpu: Use no GPU.

    Raises:
        ConfigError: There are to be none, or this process is itself one of several.
    """

    def __init__(self, count: int, *, cpu: bool = False) -> None:
        if count < 1:
            raise ConfigError(f"--workers is {count}; it must be 1 or more")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                "accelerate launch starts several processes for one run, and --workers several "
                "runs: use one of them"
            )
        self._environments = _shares(count, cpu=cpu)
        self._workers: list[_Worker | None] = [None] * count
        self._heard: queue.SimpleQueue[tuple[_Worker, Event | None]] = queue.SimpleQueue()

    def has_room(self) -> bool:
        """Whether a process has nothing to do."""
        return self._idle() is not None

    def submit(self, task: Task) -> None:
        """Give a task to an idle process; it is started where there is none yet."""
        place = self._idle()
        assert place is not None, "has_room said no"
        worker = self._workers[place]
        if worker is None:
            worker = self._workers[place] = self._start(self._environments[place])
        worker.task = task.number
        assert worker.process.stdin is not None
        with contextlib.suppress(OSError):  # it died: its end is heard
            pickle.dump(task, worker.process.stdin)
            worker.process.stdin.flush()

    def events(self, seconds: float) -> list[Event]:
        """What was heard, after waiting for at most ``seconds``."""
        found: list[Event] = []
        with contextlib.suppress(queue.Empty):
            found += self._take(timeout=seconds)
            while True:
                found += self._take(timeout=0.0)
        return found

    def stop(self) -> None:
        """Ask all running tasks to end with a checkpoint."""
        for worker in self._workers:
            if worker is not None and worker.process.stdin is not None:
                with contextlib.suppress(OSError):
                    worker.process.stdin.close()

    def close(self) -> None:
        """End all processes; what they write is whole or absent."""
        self.stop()
        for worker in self._workers:
            if worker is not None:
                if worker.task is not None:
                    worker.process.kill()
                worker.process.wait()
        self._workers = [None] * len(self._workers)

    def _idle(self) -> int | None:
        for place, worker in enumerate(self._workers):
            if worker is None or worker.task is None:
                return place
        return None

    def _take(self, timeout: float) -> list[Event]:
        worker, event = self._heard.get(timeout=timeout)
        if event is None:
            number, worker.task = worker.task, None
            self._workers = [None if one is worker else one for one in self._workers]
            if number is None:
                return []
            text = f"its process {_ending(worker.process.wait())}"
            return [Event(number=number, kind="lost", text=text)]
        if event.kind in ENDS:
            worker.task = None
        return [event]

    def _start(self, environment: dict[str, str]) -> _Worker:
        # A group of its own: Ctrl-C reaches the driver alone, which asks for checkpoints.
        flags = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
            start_new_session=os.name == "posix",
            creationflags=flags,
        )
        worker = _Worker(process)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()
        return worker

    def _listen(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
            while True:
                self._heard.put((worker, pickle.load(worker.process.stdout)))
        self._heard.put((worker, None))


def _shares(count: int, *, cpu: bool) -> list[dict[str, str]]:
    """The environment of each process: its share of the cores, and its GPU."""
    threads = max(usable_cores() // count, 1)
    with contextlib.suppress(ValueError):
        threads = min(threads, int(os.environ.get("OMP_NUM_THREADS", threads)))
    found = [{"OMP_NUM_THREADS": str(threads)} for _ in range(count)]
    for number, gpu in zip(range(count), [] if cpu else _gpus() * count, strict=False):
        found[number]["CUDA_VISIBLE_DEVICES"] = gpu
    return found


def _gpus() -> list[str]:
    """The names of the GPUs that this process may use, for ``CUDA_VISIBLE_DEVICES``."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()  # touches no card
    return visible.split(",")[:count] if visible else [str(number) for number in range(count)]


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"


def serve() -> None:
    """Do tasks from standard input until it ends: the whole life of a process."""
    with os.fdopen(os.dup(1), "wb") as channel:
        os.dup2(2, 1)  # nothing that is printed may come between the events
        _serve(os.fdopen(os.dup(0), "rb"), channel)
    # A thread still reads the input, and would hold up the interpreter's end.
    os._exit(0)


def _serve(source: IO[bytes], channel: IO[bytes]) -> None:
    asked = threading.Event()
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def listen() -> None:
        with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
            while True:
                tasks.put(pickle.load(source))
        asked.set()
        tasks.put(None)

    lock = threading.Lock()

    def say(event: Event) -> None:
        with lock, contextlib.suppress(OSError):  # the driver is gone
            pickle.dump(event, channel)
            channel.flush()

    threading.Thread(target=listen, daemon=True).start()
    while (task := tasks.get()) is not None:
        say(perform(task, say=say, should_stop=asked.is_set))
