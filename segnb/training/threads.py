"""Fewer threads while other programs use the processor.

The threads of an operation wait for each other at its end. If another program holds one core, all
of them wait for the thread that has no core, at every operation: on two cores, two threads were
then several times slower than one.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from segnb.device import physical_cores, usable_cores

#: How often a second this process loses a core, from which on another number of threads is tried.
LOST_CORES = 20.0

#: Seconds of watching before a trial, and steps of a trial; the first of them is not timed.
WATCH, TRIAL = 1.0, 4

#: A trial is won by steps this much shorter, and given up at one step this much longer.
WON, HOPELESS = 0.9, 2.5

#: Seconds from one trial to the next: at first, and at most after trials that were lost.
SOON, LATE = 10.0, 160.0


class Threads:
    """Watches the time of steps, and tries half or twice the threads where that may be faster.

    Fewer threads are only tried while this process keeps losing its cores to others, and more only
    while it does not. So on a machine of its own, the number never changes, and results repeat bit
    for bit; else they agree up to rounding.

    Args:
        most: The number to start with, and the highest.
        use: Sets the number.
        clock: Seconds.
        lost: How often this process lost a core so far.
    """

    def __init__(
        self,
        most: int,
        *,
        use: Callable[[int], None] = torch.set_num_threads,
        clock: Callable[[], float] = time.perf_counter,
        lost: Callable[[], int],
    ) -> None:
        self.most = self.number = most
        self._use, self._clock, self._lost = use, clock, lost
        self._before: tuple[int, float] | None = None  # during a trial: threads, seconds a step
        self._wait, self._next = SOON, clock()
        self._steps: list[float] = []
        self._since = self._last = clock()
        self._lost_before = lost()

    def after_step(self) -> None:
        """Note a step; perhaps begin or end a trial."""
        now = self._clock()
        self._steps.append(now - self._last)
        self._last = now
        if self._before is not None:
            self._judge(*self._before)
        elif now - self._since >= WATCH and len(self._steps) > 1:
            busy = (self._lost() - self._lost_before) / (now - self._since) > LOST_CORES
            other = self.number
            if now >= self._next and busy and self.number > 1:
                other = self.number // 2
            elif now >= self._next and not busy and self.number < self.most:
                other = min(2 * self.number, self.most)
            if other != self.number:
                self._before = self.number, statistics.median(self._steps)
                self._take(other)
            self._watch()

    def _judge(self, number: int, seconds: float) -> None:
        hopeless = self._steps[-1] > HOPELESS * seconds
        if len(self._steps) < TRIAL and not hopeless:
            return
        if not hopeless and statistics.median(self._steps[1:]) < WON * seconds:
            self._wait = SOON
        else:
            self._take(number)
            self._wait = min(2 * self._wait, LATE)
        self._next = self._last + self._wait
        self._before = None
        self._watch()

    def _take(self, number: int) -> None:
        self.number = number
        self._use(number)

    def _watch(self) -> None:
        self._steps = []
        self._since = self._last = self._clock()
        self._lost_before = self._lost()


@contextmanager
def watched(device: torch.device) -> Iterator[Callable[[], None]]:
    """Yield what is to be called after every step; at the end, the number of threads is as before.

    Nothing is watched off the CPU, on systems that do not count lost cores, and if the number of
    threads was chosen: by ``OMP_NUM_THREADS``, ``MKL_NUM_THREADS`` or ``torch.set_num_threads``.
    """
    number = torch.get_num_threads()
    chosen = {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & set(os.environ)
    by_default = number in (usable_cores(), physical_cores())
    lost = _counter()
    if device.type != "cpu" or number == 1 or chosen or not by_default or lost is None:
        yield lambda: None
        return
    try:
        yield Threads(number, lost=lost).after_step
    finally:
        torch.set_num_threads(number)


def _counter() -> Callable[[], int] | None:
    """How often a thread of this process had to leave its core to another program's."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return lambda: resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
