"""Sweeps: many recipes, one after another, each once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from segnb.errors import SegnbError
from segnb.experiments.cost import readable_seconds
from segnb.experiments.runs import RUNS, run
from segnb.recipe import Recipe
from segnb.results import ledger
from segnb.training import TrainingStopped


def grid(base: Recipe, **choices: Sequence[Any]) -> list[Recipe]:
    """Every combination of the choices, without recipes that would give the same result twice.

    ``grid(base, method=["ce", "contrastive"], temperature=[0.07, 0.2], seed=[0, 1])`` is six
    recipes, not eight: cross-entropy has no temperature. Seeds vary slowest, so that an
    interrupted sweep leaves whole comparisons.
    """
    names = sorted(choices, key=lambda name: name != "seed")
    found: dict[str, Recipe] = {}
    for values in itertools.product(*(choices[name] for name in names)):
        recipe = base.replace(**dict(zip(names, values, strict=True)))
        found.setdefault(recipe.hash, recipe)
    return list(found.values())


def remaining(recipes: Iterable[Recipe], results: Path) -> list[Recipe]:
    """Recipes that the ledger does not hold yet."""
    held = {row["recipe_hash"] for row in ledger.read(ledger.ledger_path(results))}
    return [recipe for recipe in recipes if recipe.hash not in held]


def sweep(
    recipes: Sequence[Recipe],
    *,
    runs: Path = RUNS,
    results: Path = ledger.RESULTS,
    root: Path | None = None,
    cpu: bool = False,
    progress_bar: bool = True,
    should_stop: Callable[[], bool] | None = None,
    say: Callable[[str], None] = print,
) -> list[SegnbError]:
    """Run all recipes that the ledger does not hold yet.

    A recipe that fails is told and left; the others go on. Interrupted, the same call goes on
    where it stopped, within a run too.

    Args:
        recipes: What to run, in order.
        runs: Run folders go here.
        results: The folder of the ledger.
        root: Where the data sets are.
        cpu: Use the processor even where there is a GPU.
        progress_bar: Show progress.
        should_stop: Asked after every step of a training; true stops it with a checkpoint.
        say: Called with each line of progress.

    Returns:
        The errors of recipes that failed.

    Raises:
        TrainingStopped: A run was stopped.
    """
    left = remaining(recipes, results)
    say(f"{len(recipes)} recipes: {len(recipes) - len(left)} in the ledger, {len(left)} to run")
    pace = _Pace()
    failed: list[SegnbError] = []
    for index, recipe in enumerate(left):
        say(f"[{index + 1}/{len(left)}] {recipe.command()}{pace.time_left(left[index:])}")
        try:
            row = run(
                recipe,
                runs=runs,
                results=results,
                root=root,
                cpu=cpu,
                progress_bar=progress_bar,
                should_stop=should_stop,
            )
        except TrainingStopped:
            raise
        except SegnbError as error:
            say(f"    failed: {error}")
            failed.append(error)
            continue
        assert row is not None  # run to the end
        pace.note(recipe, row["seconds"])
        test = "" if row["miou_test"] is None else f", test {row['miou_test']:.1f}"
        say(f"    mIoU val {row['miou_val']:.1f}{test}; {readable_seconds(row['seconds'])}")
    return failed


class _Pace:
    """Seconds an image pass, learnt from the runs that finished."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.passes = 0

    def note(self, recipe: Recipe, seconds: float) -> None:
        self.seconds += seconds
        self.passes += recipe.image_passes()

    def time_left(self, left: Iterable[Recipe]) -> str:
        if not self.passes:
            return ""
        passes = sum(recipe.image_passes() for recipe in left)
        return f"  (about {readable_seconds(passes * self.seconds / self.passes)} left)"
