"""The map of steps: what stage 1 is worth, by labels, its own length and that of stage 2.

Many points and none can both be true of one method. It depends on how many steps each stage takes,
and on what it is compared with. The map holds the runs that differ in these alone.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from segnb.errors import ConfigError
from segnb.recipe import Tier, preset
from segnb.results.method import recipe_of
from segnb.results.table import (
    MEASURE_NAMES,
    Measure,
    Row,
    Summary,
    by_data,
    fraction_name,
    gain_cell,
    markdown,
    summarise,
)

#: What a cell's gain is over. Both have the same labels and the same first weights.
Rival = Literal["the same fine-tuning", "the same compute"]
RIVALS: tuple[Rival, ...] = ("the same fine-tuning", "the same compute")

#: A run's position: kind of method, labelled images, steps of stage 1 (0 for none) and of stage 2.
_Position = tuple[str, int, int, int]

#: Labelled images, steps of stage 1, steps of stage 2.
Cell = tuple[int, int, int]

_KINDS = ("ce", "contrastive", "ce_pretrained")


@dataclass(frozen=True)
class StepMap:
    """Runs that differ in labels, steps, seed and in the loss of stage 1 alone.

    Attributes:
        runs: Rows by seed, by kind of method, number of labelled images and steps of both stages.
        fractions: The share of the training images by number of labelled images.
    """

    runs: dict[_Position, dict[int, Row]]
    fractions: dict[int, float]

    @property
    def cells(self) -> list[Cell]:
        """The cells that hold a contrastive run, sorted."""
        return sorted(position[1:] for position in self.runs if position[0] == "contrastive")

    def axis(self, index: int, labelled: int | None = None) -> tuple[int, ...]:
        """The sorted values of one part of :attr:`cells`, of one number of labels or of all."""
        return tuple(sorted({cell[index] for cell in self.cells if labelled in (None, cell[0])}))

    def rows(self, kind: str, labelled: int, pretrain: int, finetune: int) -> dict[int, Row]:
        """Rows of one kind of method by seed; cross-entropy from scratch has no stage 1."""
        return self.runs.get((kind, labelled, pretrain if kind != "ce" else 0, finetune), {})

    def values(
        self, kind: str, labelled: int, pretrain: int, finetune: int, *, measure: Measure
    ) -> dict[int, float]:
        """The measure in percent by seed; empty where nothing was run."""
        held = self.rows(kind, labelled, pretrain, finetune)
        return {s: float(row[measure]) for s, row in held.items() if row.get(measure) is not None}

    def gain(
        self, labelled: int, pretrain: int, finetune: int, *, over: Rival, measure: Measure
    ) -> Summary | None:
        """Points that the contrastive stage 1 gains, paired by seed; ``None`` without a pair.

        The same fine-tuning is cross-entropy of as many steps as stage 2. The same compute is
        cross-entropy with the image passes and the colour distortion of stage 1, then a new
        classifier and the same stage 2.
        """
        cell = (labelled, pretrain, finetune)
        differences = self._differences(cell, over=over, measure=measure)
        return summarise(differences.values()) if differences else None

    def change(
        self, few: int, many: int, pretrain: int, finetune: int, *, over: Rival, measure: Measure
    ) -> Summary | None:
        """The gain with few labelled images less that with many, paired by seed.

        The labelled images of a seed are nested, so the two are not independent. ``None`` if no
        seed has both.
        """
        ours, theirs = (
            self._differences((labelled, pretrain, finetune), over=over, measure=measure)
            for labelled in (few, many)
        )
        changes = [value - theirs[seed] for seed, value in ours.items() if seed in theirs]
        return summarise(changes) if changes else None

    def _differences(self, cell: Cell, *, over: Rival, measure: Measure) -> dict[int, float]:
        rival = "ce" if over == "the same fine-tuning" else "ce_pretrained"
        ours, theirs = (
            self.values(kind, *cell, measure=measure) for kind in ("contrastive", rival)
        )
        return {seed: value - theirs[seed] for seed, value in ours.items() if seed in theirs}

    def in_words(self, cell: Cell, *, measure: Measure) -> str:
        """One sentence about a cell: its gain over either rival, and how sure that is."""
        labelled, pretrain, finetune = cell
        start = (
            f"With {labelled} labelled images, {pretrain} steps of stage 1 and {finetune} of stage "
            f"2, the contrastive stage 1 is"
        )
        parts = []
        for over in RIVALS:
            gained = self.gain(*cell, over=over, measure=measure)
            if gained is None:
                parts.append(f"not yet compared with cross-entropy of {over}")
                continue
            way = "ahead of" if gained.mean >= 0 else "behind"
            sure = f"{gained.seeds} seeds" if gained.seeds > 1 else "one seed"
            if gained.interval:
                low, high = gained.interval
                sure = f"{low:+.1f} to {high:+.1f}, {sure}"
            parts.append(f"{abs(gained.mean):.1f} points {way} cross-entropy of {over} ({sure})")
        return f"{start} {' and '.join(parts)}, in {MEASURE_NAMES[measure]}."

    def largest(self, *, over: Rival, measure: Measure) -> tuple[Cell, Summary] | None:
        """The cell of the largest mean gain among those that have an interval."""
        found = [
            (cell, gained)
            for cell in self.cells
            if (gained := self.gain(*cell, over=over, measure=measure)) and gained.interval
        ]
        return max(found, key=lambda one: one[1].mean, default=None)


def step_map(rows: Iterable[Row], *, dataset: str, tier: Tier) -> StepMap:
    """The map of one data set and tier.

    It takes the runs of the preset's recipe in the official form across images, with any number
    of steps, labels and seed. A seed's runs with one number of labels are all of one arithmetic,
    so a gain never pairs two: of several, the one with most runs of a stage 1 is taken. Of several
    data, the newest are.

    Raises:
        ConfigError: No two lengths of stage 2 can be compared.
    """
    usual = preset(dataset, tier)
    chosen = []
    for row in rows:
        if (row["dataset"], row["tier"]) != (usual.dataset_title, tier) or row[
            "method"
        ] not in _KINDS:
            continue
        recipe = recipe_of(row)
        like = usual.replace(
            form="official",
            **{name: getattr(recipe, name) for name in ("method", "seed", "fraction", "precision")},
            pretrain=replace(usual.pretrain, steps=recipe.pretrain.steps),
            finetune=replace(usual.finetune, steps=recipe.finetune.steps),
        )
        if recipe.hash == like.hash and row["fraction"] is not None:
            pretrain = recipe.pretrain.steps if recipe.has_stage1 else 0
            position = (row["method"], int(row["labelled"]), pretrain, recipe.finetune.steps)
            chosen.append((row, position))
    newest = {id(row) for row in by_data([row for row, _ in chosen])[-1]} if chosen else set()
    chosen = [(row, position) for row, position in chosen if id(row) in newest]
    arithmetic = _arithmetic(chosen)
    runs: dict[_Position, dict[int, Row]] = {}
    fractions = {}
    for row, position in chosen:
        if row.get("precision") == arithmetic[position[1], int(row["seed"])]:
            runs.setdefault(position, {})[int(row["seed"])] = row
            fractions[position[1]] = float(row["fraction"])
    # One length of stage 2 alone is no line of a map.
    lengths: dict[tuple[int, int], set[int]] = {}
    for _, labelled, pretrain, finetune in runs:
        lengths.setdefault((labelled, pretrain), set()).add(finetune)
    runs = {one: held for one, held in runs.items() if len(lengths[one[1:3]]) > 1}
    found = StepMap(runs, fractions)
    if len(found.axis(2)) < 2:
        raise ConfigError(
            f"the ledger holds no map of steps for {dataset} at the {tier} tier; `segnb sweep "
            "--vary finetune.steps 25 100 400 --methods ce contrastive ce_pretrained --form "
            "official` adds one"
        )
    return found


def _arithmetic(chosen: Sequence[tuple[Row, _Position]]) -> dict[tuple[int, int], str | None]:
    """The arithmetic that is taken, by number of labelled images and seed."""
    everywhere = Counter(row.get("precision") for row, position in chosen if position[2])
    held: dict[tuple[int, int], Counter[str | None]] = {}
    for row, position in chosen:
        counts = held.setdefault((position[1], int(row["seed"])), Counter())
        counts[row.get("precision")] += bool(position[2])
    return {
        one: max(counts, key=lambda name: (counts[name], everywhere[name]))
        for one, counts in held.items()
    }


def step_table(found: StepMap, *, measures: Sequence[Measure]) -> str:
    """Markdown: a column a length of stage 2; a line a rival, number of labels, length of stage 1.

    A cell is the mean gain in points with its 95 % interval, from three seeds on. The last lines
    are the gain with the fewest labelled images less that with more.
    """
    finetune, counts = found.axis(2), found.axis(0)
    few = counts[0]
    parts = []
    for measure in measures:
        lines = []
        for labelled in counts:
            for pretrain in found.axis(1, labelled):
                for over in RIVALS:
                    gained = [
                        found.gain(labelled, pretrain, steps, over=over, measure=measure)
                        for steps in finetune
                    ]
                    if any(gained):
                        name = f"{labelled} ({fraction_name(found.fractions[labelled])})"
                        lines.append([name, over, str(pretrain), *map(gain_cell, gained)])
        for many, pretrain, over in itertools.product(counts[1:], found.axis(1, few), RIVALS):
            changes = [
                found.change(few, many, pretrain, steps, over=over, measure=measure)
                for steps in finetune
            ]
            if any(changes):
                lines.append([f"{few} less {many}", over, str(pretrain), *map(gain_cell, changes)])
        if lines:
            head = ["labelled images", "gain over", "steps of stage 1"]
            head += [f"{steps} steps of stage 2" for steps in finetune]
            parts.append(f"Gain in {MEASURE_NAMES[measure]}, points:\n\n{markdown(head, lines)}")
    return "\n\n".join(parts)
