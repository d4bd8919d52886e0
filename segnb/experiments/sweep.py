"""Sweeps: many recipes, one after another; recipes that share a stage 1 train it only once."""

from __future__ import annotations

import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence, Set
from pathlib import Path
from typing import Any

from segnb.axes import changed
from segnb.errors import SegnbError
from segnb.experiments import stage1
from segnb.experiments.cost import readable_seconds
from segnb.experiments.folder import RUNS
from segnb.experiments.runs import BusyError, data_today, run
from segnb.recipe import Recipe
from segnb.records import differing
from segnb.results import ledger
from segnb.training import TrainingStopped
from segnb.words import counted


def grid(base: Recipe, **choices: Sequence[Any]) -> list[Recipe]:
    """Every combination of the choices, without recipes that would repeat a result.

    ``grid(base, method=["ce", "contrastive"], temperature=[0.07, 0.2], seed=[0, 1])`` gives six
    recipes, not eight, because cross-entropy has no temperature. Fields of a stage have a dot in
    their name: ``grid(base, **{"finetune.steps": [25, 50]})``. A method whose stage 1 has no steps
    becomes ``ce``, unless stage 2 freezes something. Seeds vary slowest, so that an interrupted
    sweep leaves whole comparisons.
    """
    names = sorted(choices, key=lambda name: name != "seed")
    found: dict[str, Recipe] = {}
    for values in itertools.product(*(choices[name] for name in names)):
        recipe = changed(base, dict(zip(names, values, strict=True)))
        if (
            recipe.method in ("contrastive", "ce_pretrained")
            and recipe.pretrain.steps == 0
            and not (recipe.freeze or recipe.freeze_statistics)
        ):
            recipe = recipe.replace(method="ce")
        found.setdefault(recipe.hash, recipe)
    return list(found.values())


def in_order(recipes: Iterable[Recipe]) -> list[Recipe]:
    """The same recipes, with those that share a stage 1 next to each other."""
    groups: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        groups.setdefault(_stage1_name(recipe) or recipe.hash, []).append(recipe)
    return list(itertools.chain.from_iterable(groups.values()))


def _stage1_name(recipe: Recipe) -> str | None:
    """A name that is equal for recipes that share a stage 1; ``None`` if there is no stage 1."""
    return recipe.stage1().hash if recipe.has_stage1 else None


def passes_to_train(recipes: Iterable[Recipe], held: Set[str] = frozenset()) -> int:
    """Image passes of all recipes; each stage 1 counts once, or not at all if already held."""
    total, known = 0, set(held)
    for recipe in recipes:
        name = _stage1_name(recipe)
        total += recipe.image_passes() - (recipe.stage1_passes() if name in known else 0)
        known |= {name} if name else set()
    return total


def plan(recipes: Sequence[Recipe], left: Sequence[Recipe], *, runs: Path = RUNS) -> str:
    """The cost of a sweep and what its recipes share, in lines to print before it starts.

    Args:
        recipes: All recipes.
        left: Those that are not in the ledger.
        runs: The folder of the runs, and of the stored stage 1s.
    """
    done = len(recipes) - len(left)
    text = f"{counted(len(recipes), 'recipe')}: {done} in the ledger, {len(left)} to run"
    if not left:
        return text
    held = stage1.held(runs)
    sharing = Counter(name for name in map(_stage1_name, left) if name)
    if sharing:
        ready = len(sharing.keys() & held)
        low, high = min(sharing.values()), max(sharing.values())
        each = str(low) if low == high else f"{low} to {high}"
        text += f"\nstage 1: {len(sharing)} for {counted(sharing.total(), 'recipe')} ({each} each)"
        text += f"; {ready} held, {len(sharing) - ready} to train"
    alone = sum(recipe.image_passes() for recipe in left)
    text += f"\nimage passes: {passes_to_train(left, held):,}"
    return text + (f" ({alone:,} without sharing)" if sharing else "")


#: Seconds between two looks at a recipe that another process is training.
POLL_SECONDS = 2.0


def remaining(
    recipes: Iterable[Recipe],
    results: Path,
    *,
    root: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[Recipe]:
    """Recipes that are not in the ledger yet, on today's data.

    Args:
        recipes: The recipes.
        results: Folder of the ledger.
        root: Folder of the data sets.
        say: Called with a line about rows on other data, and about rows that another back end of
            the loss computed.
    """
    rows = ledger.read(ledger.ledger_path(results))
    read = {row["recipe_hash"] for row in rows}
    left: list[Recipe] = []
    other: list[str] = []
    back_ends = 0
    data: dict[tuple[Any, ...], dict[str, str] | None] = {}
    for recipe in recipes:
        if recipe.hash not in read:
            left.append(recipe)
            continue
        key = (recipe.dataset, recipe.size)
        if key not in data:
            # Without the data there is nothing to compare, and nothing to train on.
            data[key], _ = data_today(recipe, root=root)
        row = ledger.find(rows, recipe.hash, data[key])
        if row is None:
            left.append(recipe)
            known = ledger.find(rows, recipe.hash)
            other += differing((known or {}).get("data"), data[key])
        elif recipe.uses_contrastive:
            back_ends += row["recipe"]["loss_backend"] != recipe.loss_backend
    if other:
        count = sum(recipe.hash in read for recipe in left)
        splits = ", ".join(dict.fromkeys(other))
        say(f"{count} in the ledger on other data (the files of {splits} differ): they run again")
    if back_ends:
        say(
            f"{back_ends} in the ledger with another --loss-backend: nothing is trained for them, "
            "because back ends agree up to rounding"
        )
    return left


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
    """Run all recipes that are not in the ledger yet, those that share a stage 1 in a row.

    A recipe that fails is reported, and the others continue. One that another process is training
    is taken up again after the others. After an interruption the same call
    resumes where it stopped, even within a run.

    Args:
        recipes: The recipes, in order except for what is shared.
        runs: Folder of the runs.
        results: Folder of the ledger.
        root: Folder of the data sets.
        cpu: Use the CPU even if there is a GPU.
        progress_bar: Show progress.
        should_stop: Called after every training step; returning true stops with a checkpoint.
        say: Called with each line of progress.

    Returns:
        The errors of recipes that failed.

    Raises:
        TrainingStopped: A run was stopped.
    """
    left = in_order(remaining(recipes, results, root=root, say=say))
    for line in plan(recipes, left, runs=runs).splitlines():
        say(line)
    pace = _Pace()
    failed: list[SegnbError] = []
    queue = deque(enumerate(left, 1))
    busy: set[str] = set()
    while queue:
        number, recipe = queue.popleft()
        waiting = recipe.hash in busy
        if not waiting:
            time_left = pace.time_left([recipe, *(one for _, one in queue)], runs)
            say(f"[{number}/{len(left)}] {recipe.command()}{time_left}")
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
        except BusyError as error:
            if not waiting:
                say(f"    {str(error).partition(';')[0]}: it is tried again later")
            busy.add(recipe.hash)
            queue.append((number, recipe))
            if all(one.hash in busy for _, one in queue):
                if should_stop is not None and should_stop():
                    raise TrainingStopped("stopped while waiting for another process") from None
                time.sleep(POLL_SECONDS)
            continue
        except SegnbError as error:
            say(f"    failed: {error}")
            failed.append(error)
            continue
        if waiting:
            say(f"[{number}/{len(left)}] {recipe.command()}")
        assert row is not None  # run to the end
        pace.note(recipe, row["seconds"])
        say(f"    {outcome(row)}")
    return failed


def outcome(row: ledger.Row) -> str:
    """The result of a run in one line."""
    test = "" if row["miou_test"] is None else f", test {row['miou_test']:.1f}"
    return (
        f"mIoU val {row['miou_val']:.1f}{test} with {counted(row['labelled'], 'labelled image')}, "
        f"{counted(row['steps'], 'step')}, {readable_seconds(row['seconds'])}"
    )


class _Pace:
    """Seconds per image pass, measured on finished runs."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.passes = 0

    def note(self, recipe: Recipe, seconds: float) -> None:
        self.seconds += seconds
        self.passes += recipe.image_passes()

    def time_left(self, left: Iterable[Recipe], runs: Path) -> str:
        if not self.passes:
            return ""
        passes = passes_to_train(left, stage1.held(runs))
        return f"  (about {readable_seconds(passes * self.seconds / self.passes)} left)"
