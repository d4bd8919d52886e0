"""What to use on images of your own: a comparison within a time budget, and what it says.

Cross-entropy, cross-entropy with the same compute, and the two stages are trained with the same
labels and seeds, again and again until the time is up. With few images, each repeat scores other
images (cross-validation over groups). What is claimed is what the repeats allow, no more.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import shlex
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypedDict

from segnb import datasets
from segnb.datasets.own.folds import Fold, write_folds
from segnb.errors import ConfigError, SegnbError
from segnb.experiments.cost import estimate_cost, readable_seconds
from segnb.experiments.runs import data_today, find_folder, run
from segnb.files import write_json
from segnb.methods import KINDS, MethodName
from segnb.recipe import Recipe, Stage, Tier, preset
from segnb.records import Within, read_json
from segnb.results import ledger
from segnb.results.table import fraction_name
from segnb.training import TrainingStopped
from segnb.weights import PACKAGED
from segnb.words import counted

#: From the cheapest to the most laborious.
METHODS: tuple[MethodName, ...] = ("ce", "ce_long", "contrastive")

#: The encoder whose ImageNet weights ``segnb[imagenet]`` installs.
ENCODER = "tu-tf_efficientnet_lite0"

#: With fewer labelled images than this, they are divided into folds.
FEW_IMAGES = 200

#: Fewer repeats allow no interval.
FEWEST_REPEATS = 3

#: Repeats and label fractions in the order of their use: first what decides, then the curve.
_ROUNDS: tuple[tuple[float, range], ...] = (
    (1.0, range(3)),
    (0.25, range(3)),
    (1.0, range(3, 5)),
    (0.25, range(3, 5)),
    (0.5, range(5)),
    (0.125, range(5)),
    (1.0, range(5, 10)),
    (0.25, range(5, 10)),
)

#: Share of the time that is planned for training; evaluation and loading take the rest.
_TRAINING_SHARE = 0.7

#: Fewer steps than this in a stage teach nothing.
_FEWEST_STEPS = 40

_STAGES = ("pretrain", "finetune")

_IMAGENET = 'pip install "segnb[imagenet]" gives better ones'


class _Plan(TypedDict):
    """``plan.json``: the steps of both stages."""

    pretrain: Annotated[int, Within(1)]
    finetune: Annotated[int, Within(1)]


@dataclass(frozen=True, kw_only=True)
class PairedGain:
    """How much better one method is than another with all labels, in points of mIoU.

    Attributes:
        method: The one.
        over: The other.
        differences: One for each repeat: the same labels, images and initial weights.
        overlap: Images scored over images trained on, if the repeats share training images.
    """

    method: MethodName
    over: MethodName
    differences: tuple[float, ...]
    overlap: float = 0.0

    @property
    def mean(self) -> float:
        """The mean difference."""
        return statistics.fmean(self.differences)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean; ``None`` for fewer than three repeats.

        Folds share training images, so they vary too little; the variance is corrected for that
        (Nadeau and Bengio, *Inference for the Generalization Error*, 2003).
        """
        from scipy.special import stdtrit  # type: ignore[import-untyped]

        count = len(self.differences)
        if count < FEWEST_REPEATS:
            return None
        variance = statistics.variance(self.differences) * (1 / count + self.overlap)
        half = float(stdtrit(count - 1, 0.975)) * math.sqrt(variance)
        return self.mean - half, self.mean + half

    @property
    def sure(self) -> bool:
        """Whether the interval is above zero."""
        return self.interval is not None and self.interval[0] > 0

    def __str__(self) -> str:
        count = len(self.differences)
        repeats = f"{count} repeat" + ("s" if count > 1 else "")
        if self.interval is None:
            return f"{_signed(self.mean)} points ({repeats}: too few for an interval)"
        low, high = map(_signed, self.interval)
        return f"{_signed(self.mean)} points (95 % interval {low} to {high}, {repeats})"


def _signed(points: float) -> str:
    return f"{round(points, 1) + 0.0:+.1f}"  # never -0.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a comparison says.

    Attributes:
        title: The data set's name.
        scores: mIoU on images not trained on, by method, number of labelled images and repeat.
        labels: What all labels bring over fewer, with the method to use; ``None`` if not measured.
        gains: The gains with all labels.
        use: The method to use.
        run: The folder of a run of it, with its weights.
        folds: Number of folds; 1 without cross-validation.
        imagenet: Whether training started from ImageNet weights.
    """

    title: str
    scores: Mapping[MethodName, Mapping[int, Mapping[int, float]]]
    labels: PairedGain | None
    gains: tuple[PairedGain, ...]
    use: MethodName
    run: Path
    folds: int
    imagenet: bool

    @property
    def sentences(self) -> tuple[str, str, str]:
        """What to use, whether the two stages are worth it, and whether labels would help."""
        most = max(self.scores[self.use])
        mean = statistics.fmean(self.scores[self.use][most].values())
        best = f"{KINDS[self.use].name}: mIoU {mean:.1f} with {counted(most, 'labelled image')}"
        if self.use == METHODS[0] and not any(gain.sure for gain in self.gains):
            first = f"Use {best}; nothing that takes longer was shown to be better."
        else:
            first = f"Use {best}."
        fair = next(one for one in self.gains if (one.method, one.over) == _FAIR)
        second = (
            f"The two stages beside cross-entropy with the same compute: {fair}, "
            f"{_verdict(fair, 'worth it', 'not worth it')}."
        )
        if self.labels is None:
            return (
                first,
                second,
                "What more labels would bring takes more time to measure.",
            )
        fewer, _ = sorted(self.scores[self.use])[-2:]
        third = (
            f"{counted(most, 'labelled image')} beside {fewer}: {self.labels}, "
            f"{_verdict(self.labels, 'so more labels are likely to help', 'fewer were enough')}."
        )
        return first, second, third

    def __str__(self) -> str:
        how = f"{self.folds}-fold cross-validation" if self.folds > 1 else "the validation images"
        start = "ImageNet weights" if self.imagenet else "random weights"
        lines = [*self.sentences, f"Scored by {how}; training started from {start}."]
        command = f"segnb predict {shlex.quote(str(self.run))} IMAGES"
        lines.append(f"Weights: {self.run} (`{command}`)")
        return "\n".join(lines)


def answer(
    folder: Path,
    *,
    minutes: float = 60,
    recipe: Recipe | None = None,
    place: Path | None = None,
    most: int | None = None,
    cpu: bool = False,
    progress_bar: bool = True,
    say: Callable[[str], None] = print,
) -> Answer:
    """Compare the methods on a folder of your own within a time budget; repeat it to continue.

    Args:
        folder: A folder with a ``dataset.toml``.
        minutes: The time; steps are cut so that the comparisons planned fit, and time left gives
            more repeats and label fractions.
        recipe: Network, sizes and most steps of all trainings; by default :func:`usual_recipe`.
        place: Folder for runs, ledger and folds; by default ``answers/NAME``.
        most: Plan this many comparisons (repeats and label fractions), and stop after them even if
            there is time left; by default three are planned.
        cpu: Use the CPU even if there is a GPU.
        progress_bar: Show progress.
        say: Called with each line of progress.

    Raises:
        SegnbError: Something is wrong with the folder, or the time is too short for any answer.
    """
    end = time.monotonic() + 60 * minutes
    entry = datasets.get(str(folder))
    place = place or Path("answers") / entry.title
    folds = _folds(entry, place)
    recipe = recipe or usual_recipe(folder)
    if recipe.encoder_weights is None:
        say(f"training starts from random weights; {_IMAGENET}")
    base = _planned(
        recipe.replace(fraction=1.0), place, minutes, most or FEWEST_REPEATS, cpu=cpu, say=say
    )
    read = partial(ledger.read, ledger.ledger_path(place))
    longest = 0.0
    failed: SegnbError | None = None
    try:
        for recipes in itertools.islice(_comparisons(base, folds), most):
            begun = time.monotonic()
            if longest and begun + longest > end and not _held(recipes, read()):
                break
            for recipe in recipes:
                say(f"{recipe.dataset_title}: {recipe.method}, {fraction_name(recipe.fraction)}")
                run(
                    recipe,
                    runs=place / "runs",
                    results=place,
                    cpu=cpu,
                    progress_bar=progress_bar,
                    should_stop=lambda: time.monotonic() > end,
                )
            longest = max(longest, time.monotonic() - begun)
            say(f"    {readable_seconds(max(end - time.monotonic(), 0))} left")
    except TrainingStopped:
        say("time is up")
    except SegnbError as error:
        failed = error
    rows = read()
    found = (_held(one, rows) for one in itertools.islice(_comparisons(base, folds), most))
    done = [one for one in found if one]
    if not any(rows[0]["fraction"] == 1 for rows in done):
        if failed:
            raise failed
        raise ConfigError(
            f"{minutes:g} minutes were too short for one comparison; repeat the command to "
            f"continue, or give it more --minutes"
        )
    return conclude(done, folds=folds, title=entry.title, runs=place / "runs")


_FAIR = ("contrastive", "ce_long")


def _verdict(gain: PairedGain, better: str, worse: str) -> str:
    if gain.interval is None:
        return "so it is open"
    low, high = gain.interval
    return better if low > 0 else worse if high < 0 else "so it is undecided"


def conclude(
    comparisons: Iterable[Sequence[ledger.Row]], *, folds: Sequence[Fold], title: str, runs: Path
) -> Answer:
    """What finished comparisons say.

    Args:
        comparisons: Rows of one repeat and label fraction, one for each of :data:`METHODS`.
        folds: The folds; none without cross-validation.
        title: The data set's name.
        runs: Folder of the runs.
    """
    comparisons = list(comparisons)
    scores: dict[MethodName, dict[int, dict[int, float]]] = {method: {} for method in METHODS}
    sizes: dict[float, int] = {}
    for rows in comparisons:
        for row in rows:
            # Folds differ by an image or two; the curve has one position for each fraction.
            labelled = sizes.setdefault(row["fraction"], row["labelled"])
            scores[row["method"]].setdefault(labelled, {})[row["seed"]] = float(row["miou_val"])
    whole = [
        {row["method"]: float(row["miou_val"]) for row in rows}
        for rows in comparisons
        if rows[0]["fraction"] == 1
    ]
    overlap = statistics.fmean(one.val / one.train for one in folds) if folds else 0.0
    gains = tuple(
        PairedGain(
            method=method,
            over=over,
            differences=tuple(one[method] - one[over] for one in whole),
            overlap=overlap,
        )
        for method, over in (("contrastive", "ce_long"), ("contrastive", "ce"), ("ce_long", "ce"))
    )
    use: MethodName = METHODS[0]
    for method in METHODS[1:]:
        # What takes longer has to be better than what is recommended so far.
        if next(one for one in gains if (one.method, one.over) == (method, use)).sure:
            use = method
    by_count = scores[use]
    labels = None
    if len(by_count) > 1:
        fewer, most = sorted(by_count)[-2:]
        both = [seed for seed in by_count[most] if seed in by_count[fewer]]
        apart = tuple(by_count[most][seed] - by_count[fewer][seed] for seed in both)
        labels = PairedGain(method=use, over=use, differences=apart, overlap=overlap)
    first = next(rows for rows in comparisons if rows[0]["fraction"] == 1)
    # Of the first repeat, not of the best: choosing the best would flatter it.
    recipe = Recipe.from_dict(next(row for row in first if row["method"] == use)["recipe"])
    return Answer(
        title=title,
        scores=scores,
        labels=labels,
        gains=gains,
        use=use,
        run=find_folder(recipe, runs),
        folds=max(len(folds), 1),
        imagenet=recipe.encoder_weights == "imagenet",
    )


def _folds(entry: datasets.Entry, place: Path) -> list[Fold]:
    """The folds of a small data set whose val is taken out of train; none for others."""
    from segnb.datasets.own.description import read_description

    folder = Path(entry.folder)
    if "@" not in entry.name or "val" not in read_description(folder).splits.shares:
        return []
    if sum(len(entry.load(name)) for name in ("train", "val")) >= FEW_IMAGES:
        return []
    return write_folds(folder, place / "folds")


def usual_recipe(folder: Path, tier: Tier = "quick") -> Recipe:
    """The preset of a folder, with ImageNet weights if they are installed.

    Raises:
        DataError: The folder is no data set.
    """
    recipe = preset(datasets.get(str(folder)).name, tier).replace(form="official", fraction=1.0)
    if PACKAGED[ENCODER].version is None:
        return recipe
    return recipe.replace(encoder=ENCODER, encoder_weights="imagenet", encoder_depth=5)


def shortened(
    recipe: Recipe, minutes: float, *, comparisons: int = FEWEST_REPEATS, cpu: bool = False
) -> tuple[Recipe, float]:
    """A recipe with as many steps as its comparisons have time for.

    Args:
        recipe: The recipe, whose steps are the most.
        minutes: The time.
        comparisons: How many comparisons, of one training with each method, are to fit.
        cpu: Use the CPU even if there is a GPU.

    Returns:
        The recipe, and how many seconds one comparison takes.

    Raises:
        ConfigError: The time is too short for this machine.
    """
    seconds = _seconds(recipe, cpu=cpu)
    share = min(1.0, _TRAINING_SHARE * 60 * minutes / (comparisons * seconds))
    steps = {name: round(share * getattr(recipe, name).steps) for name in _STAGES}
    if share < _least_share(recipe):
        needed = _minutes(_least_share(recipe), comparisons=comparisons, seconds=seconds)
        raise ConfigError(
            f"{minutes:g} minutes are too few for this machine: give it {needed} or more "
            f"(--minutes), or a smaller tier"
        )
    return _with_steps(recipe, steps), share * seconds


def least_minutes(
    recipe: Recipe, *, comparisons: int = FEWEST_REPEATS, margin: float = 1.5, cpu: bool = False
) -> int:
    """The shortest time that :func:`shortened` takes, and a margin.

    Args:
        recipe: The recipe.
        comparisons: How many comparisons are to fit.
        margin: Factor, because the next estimate may find the machine busier.
        cpu: Use the CPU even if there is a GPU.

    Returns:
        Minutes.
    """
    share = min(1.0, margin * _least_share(recipe))
    return _minutes(share, comparisons=comparisons, seconds=_seconds(recipe, cpu=cpu))


def _seconds(recipe: Recipe, *, cpu: bool) -> float:
    """What one training with each method takes at full length."""
    return sum(estimate_cost(recipe.replace(method=method), cpu=cpu).seconds for method in METHODS)


def _least_share(recipe: Recipe) -> float:
    """The share of a recipe's steps below which a comparison says nothing."""
    steps = min(getattr(recipe, name).steps for name in _STAGES)
    return min(_FEWEST_STEPS, steps) / steps if steps else 1.0


def _minutes(share: float, *, comparisons: int, seconds: float) -> int:
    return math.ceil(share * comparisons * seconds / (_TRAINING_SHARE * 60))


def _planned(
    recipe: Recipe,
    place: Path,
    minutes: float,
    comparisons: int,
    *,
    cpu: bool,
    say: Callable[[str], None],
) -> Recipe:
    """The recipe that all comparisons share.

    Its steps are kept in a file: another estimate of the time would make other recipes.
    """
    kept = place / "plan.json"
    if kept.exists():
        steps = read_json(kept, _Plan, remedy="remove it: then the steps are planned again")
        say(f"steps as before ({kept}): {steps['pretrain']} and {steps['finetune']}")
        return _with_steps(recipe, steps)
    short, seconds = shortened(recipe, minutes, comparisons=comparisons, cpu=cpu)
    write_json(kept, {name: getattr(short, name).steps for name in _STAGES})
    say(
        f"{short.pretrain.steps} and {short.finetune.steps} steps: one comparison takes about "
        f"{readable_seconds(seconds)}"
    )
    return short


def _with_steps(recipe: Recipe, steps: Mapping[str, int]) -> Recipe:
    return recipe.replace(
        **{name: _cut(getattr(recipe, name), count) for name, count in steps.items()}
    )


def _cut(stage: Stage, steps: int) -> Stage:
    warmup = min(round(stage.warmup * steps / stage.steps), steps)
    return dataclasses.replace(stage, steps=steps, warmup=warmup)


def _comparisons(base: Recipe, folds: Sequence[Fold]) -> Iterable[list[Recipe]]:
    """One comparison after the other: the recipes of one repeat at one label fraction."""
    for fraction, repeats in _ROUNDS:
        for repeat in repeats:
            changes: dict[str, Any] = {"fraction": fraction, "seed": repeat}
            if folds:
                changes["dataset"] = str(folds[repeat % len(folds)].folder)
            yield [base.replace(method=method, **changes) for method in METHODS]


def _held(recipes: Sequence[Recipe], rows: Sequence[ledger.Row]) -> list[ledger.Row]:
    """The rows of one comparison on today's data; none if one of them is missing."""
    data, _ = data_today(recipes[0])
    found = [row for one in recipes if (row := ledger.find(rows, one.hash, data))]
    return found if len(found) == len(recipes) else []
