"""Progress of a sweep whose recipes run side by side: a line for each, and what is left in all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from tqdm.auto import tqdm

from segnb.experiments.cost import readable_seconds

#: Fewer seconds of training than this tell no pace.
_FEWEST_SECONDS = 2.0


class Work(NamedTuple):
    """What a task has to do.

    Attributes:
        passes: Image passes that have to be made.
        whole: The same with those of a stage 1 that is trained elsewhere.
        is_recipe: Whether it is a recipe, and not a stage 1 that recipes share.
    """

    passes: int
    whole: int
    is_recipe: bool


class Progress:
    """One line a running task, and one for the sweep: done, left, time left.

    Args:
        work: What there is to do, by the tasks' numbers.
        show: Whether to draw lines; without, only the time left is known.
        say: Called with every line that stays.
        clock: Seconds.
    """

    def __init__(
        self,
        work: Mapping[int, Work],
        *,
        show: bool,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._left = {number: one.passes for number, one in work.items()}
        self._whole = {number: one.whole for number, one in work.items()}
        self._recipes = {number for number, one in work.items() if one.is_recipe}
        self._count = {"done": 0, "failed": 0}
        self._show, self._say, self._clock = show, say, clock
        self._since: float | None = None
        # Passes of a task at its first report, which a resumed run did not make now, and at its
        # last one.
        self._seen: dict[int, tuple[int, int]] = {}
        self._gained = 0
        self._lines: dict[int, Any] = {}
        self._names: dict[int, str] = {}
        self._total = self._line("", "{desc}") if show else None
        self._summarise()

    def say(self, line: str) -> None:
        """Print a line that stays, above those that move."""
        if self._show:
            with tqdm.external_write_mode():
                self._say(line)
        else:
            self._say(line)

    def begin(self, number: int, name: str) -> None:
        """A task has begun."""
        if self._since is None:
            self._since = self._clock()
        if self._show and number not in self._lines:
            line = self._line(name, "{percentage:3.0f}% |{bar:20}| {desc}")
            line.total = max(self._whole[number], 1)
            self._lines[number], self._names[number] = line, name

    def step(self, number: int, passes: int, text: str) -> None:
        """A task has done so many image passes."""
        first, last = self._seen.get(number, (passes, passes))
        self._gained += max(passes - last, 0)
        self._seen[number] = first, passes
        if number in self._lines:
            line = self._lines[number]
            line.n = min(passes, line.total)
            line.set_description_str(f"{self._names[number]}, {text}")
        self._summarise()

    def end(self, number: int, how: Literal["done", "failed", "again"]) -> None:
        """A task is done, has failed, or will begin again."""
        first, last = self._seen.pop(number, (0, 0))
        if how == "again":
            self._gained -= last - first
        else:
            self._left[number] = 0
            self._count[how] += number in self._recipes
        if number in self._lines:
            self._lines.pop(number).close()
        self._summarise()

    def time_left(self) -> str:
        """``about 12 min left``; empty as long as nothing is known."""
        left = sum(self._left.values()) - sum(b - a for a, b in self._seen.values())
        seconds = 0.0 if self._since is None else self._clock() - self._since
        if self._gained <= 0 or left <= 0 or seconds < _FEWEST_SECONDS:
            return ""
        return f"about {readable_seconds(left * seconds / self._gained)} left"

    def close(self) -> None:
        """Remove all lines that move."""
        for line in [*self._lines.values(), *([self._total] if self._total else [])]:
            line.close()
        self._lines.clear()
        self._total = None

    def _summarise(self) -> None:
        if self._total is None:
            return
        done, failed = self._count["done"], self._count["failed"]
        left = len(self._recipes) - done - failed
        words = [f"{done} done", f"{failed} failed" if failed else "", f"{left} left"]
        words.append(self.time_left())
        self._total.set_description_str(", ".join(word for word in words if word))

    @staticmethod
    def _line(name: str, form: str) -> Any:
        return tqdm(desc=name, total=1, bar_format=form, leave=False)
