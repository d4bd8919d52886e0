"""From ledger rows to numbers over seeds, and from those to markdown tables.

Every figure and table of results goes through here, so that all of them group runs in one way,
and refuse in one way to average runs that differ in more than their seed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, TypeVar

from segnb.errors import ConfigError
from segnb.recipe import MATCHED, Recipe, preset

Row = Mapping[str, Any]
AnyRow = TypeVar("AnyRow", bound=Row)
Measure = Literal["miou_val", "miou_test"]
MeasuredSplit = Literal["val", "test"]

#: What the measures are called where people read them.
MEASURE_NAMES: dict[str, str] = {"miou_val": "mIoU, val", "miou_test": "mIoU, test"}

CROSS_ENTROPY = "cross-entropy"
CROSS_ENTROPY_LONG = "cross-entropy, same compute"
CROSS_ENTROPY_DOUBLE = "cross-entropy, compute of two rounds"
CROSS_ENTROPY_PRETRAINED = "cross-entropy in both stages"
UNDISTORTED = ", undistorted"
CROSS_ENTROPY_PLAIN = CROSS_ENTROPY_LONG + UNDISTORTED

_BASELINE_NAMES = {
    "ce": CROSS_ENTROPY,
    "ce_long": CROSS_ENTROPY_LONG,
    "ce_double": CROSS_ENTROPY_DOUBLE,
    "ce_pretrained": CROSS_ENTROPY_PRETRAINED,
}

#: Methods of two rounds; what is of the same compute as they is the baseline of two rounds.
_TWO_ROUNDS = ("pseudo", "ce_double")

#: What a gain is measured over, the weakest baseline first, and the heading of its column.
BASELINES: dict[str, str] = {
    CROSS_ENTROPY: "over cross-entropy",
    CROSS_ENTROPY_LONG: "over the same compute",
    CROSS_ENTROPY_PLAIN: "over the same compute, undistorted",
}

_VARIANTS = tuple(
    f"({form}, {scope})" for form in ("paper", "official") for scope in ("cross", "within", "batch")
)

#: Methods that have a temperature.
_HEATED = ("contrastive", "pseudo")

#: Where lines over several numbers of labelled images stand: after any number of them.
_LAST = 10**9

#: Fields that decide nothing for a method, so that choosing by them does not drop its rows.
_STAGE_ONE = frozenset({"form", "scope", "temperature", "loss_size", "freeze", "freeze_statistics"})
_UNUSED: dict[str, frozenset[str]] = {
    "ce": _STAGE_ONE | {"pretrain", "distortion"},
    "ce_long": _STAGE_ONE,
    "ce_double": _STAGE_ONE,
    "ce_pretrained": _STAGE_ONE - {"freeze", "freeze_statistics"},
}


@dataclass(frozen=True)
class Summary:
    """A number over seeds.

    Attributes:
        seeds: How many runs.
        mean: Their mean.
        std: Sample standard deviation (n - 1); ``None`` for one run.
        low: Lower end of the 95 % Student-t interval of the mean; ``None`` for one run.
        high: Upper end.
    """

    seeds: int
    mean: float
    std: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Group:
    """The runs of one method with one number of labelled images; they differ in the seed alone.

    Attributes:
        method: Name, as in :func:`method_name`.
        labelled: Number of labelled images.
        fraction: The same as a share of the training images; ``None`` for a list of ids.
        values: The measure in percent by seed.
        rows: The rows themselves by seed.
    """

    method: str
    labelled: int
    fraction: float | None
    values: dict[int, float]
    rows: dict[int, Row]

    @property
    def summary(self) -> Summary:
        """Mean and interval over the seeds."""
        return summarise(self.values.values())


def method_name(row: Row) -> str:
    """What a run's method is called in every legend and table.

    ``contrastive (paper, cross)`` names the loss form and scope; ``, 24x24 places`` is added where
    the loss saw another map than the preset's, ``, frozen`` where stage 2 trained the classifier
    alone, ``, frozen statistics`` where it kept stage 1's statistics of BatchNorm, ``, ImageNet``
    where the encoder did not start from scratch, ``, undistorted`` where a baseline of the same
    compute was spared the colour distortion.
    """
    method = row["method"]
    if method in _HEATED:
        label = "contrastive" if method == "contrastive" else "pseudo-labels"
        name = f"{label} ({row['form']}, {row['scope']})" + _places(row)
    else:
        name = _BASELINE_NAMES[method]
        if method in (*MATCHED, "ce_pretrained") and _field(row, "distortion") == 0:
            name += UNDISTORTED
    if method in (*_HEATED, "ce_pretrained"):
        if _field(row, "freeze"):
            name += ", frozen"
        if _field(row, "freeze_statistics"):
            name += ", frozen statistics"
    return name + weights_suffix(row)


def _places(row: Row) -> str:
    """What :func:`method_name` adds for another map of the loss than the preset's."""
    if row.get("recipe") is None:
        return ""
    size = _field(row, "loss_size")
    usual = preset(row["dataset"], row["tier"]).loss_size
    if (size and tuple(size)) == usual:
        return ""
    return f", {size[0]}x{size[1]} places" if size else ", places of the feature map"


def weights_suffix(row: Row) -> str:
    """What :func:`method_name` adds for the encoder's initial weights; empty from scratch."""
    return ", ImageNet" if _field(row, "encoder_weights") == "imagenet" else ""


def method_order(name: str) -> tuple[int, int, str]:
    """Sorting key: baselines, contrastive, pseudo-labels; the paper's form first, cross first."""
    families = (*_BASELINE_NAMES.values(), "contrastive", "pseudo")
    # The longest: every baseline's name begins with that of the first.
    fitting = [i for i, start in enumerate(families) if name.startswith(start)]
    family = max(fitting, default=len(families))
    variant = next((i for i, words in enumerate(_VARIANTS) if words in name), len(_VARIANTS))
    return family, variant, name


def fraction_name(fraction: float | None) -> str:
    """``1/16`` for 0.0625, ``all`` for 1, empty for ``None``."""
    if fraction is None:
        return ""
    exact = Fraction(fraction).limit_denominator(1000)
    return "all" if exact == 1 else str(exact)


def select(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """The rows whose fields have the wanted values.

    A field is a key of the row or of its recipe. In place of a value a test may be given
    (``fraction=lambda f: f < 0.1``); a mapping is compared with the keys it has
    (``pretrain={"steps": 1000}``). A field that a method does not use, as the temperature of
    cross-entropy, does not drop that method's rows.

    Raises:
        ConfigError: A field that no row has.
    """
    rows = list(rows)
    for name in wanted:
        if rows and not any(_has(row, name) for row in rows):
            raise ConfigError(f"no row of the ledger has a field {name!r}")
    return [
        row
        for row in rows
        if all(
            name in _UNUSED.get(row["method"], ()) or _matches(_field(row, name), value)
            for name, value in wanted.items()
        )
    ]


def summarise(values: Iterable[float]) -> Summary:
    """Mean, sample standard deviation and 95 % Student-t interval of the mean.

    Raises:
        ValueError: No values.
    """
    numbers = list(values)
    if not numbers:
        raise ValueError("no values to summarise")
    count = len(numbers)
    mean = math.fsum(numbers) / count
    if count == 1:
        return Summary(seeds=1, mean=mean, std=None, low=None, high=None)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in numbers) / (count - 1))
    half = _student(count - 1) * std / math.sqrt(count)
    return Summary(seeds=count, mean=mean, std=std, low=mean - half, high=mean + half)


def groups(rows: Iterable[Row], measure: str = "miou_val") -> list[Group]:
    """Runs by method and number of labelled images, sorted by both.

    Rows without a value for the measure are left out. Of two rows with the same recipe the later
    one counts.

    Raises:
        ConfigError: No row with the measure; several data sets or tiers; or one method and number
            of labelled images with recipes that differ in more than the seed. The message names
            the fields; choose with :func:`select`.
    """
    usable = require_rows(rows, measure)
    bins: dict[tuple[str, int], list[Row]] = {}
    for row in usable:
        bins.setdefault((method_name(row), int(row["labelled"])), []).append(row)
    found = []
    for (method, labelled), members in bins.items():
        if len({recipe_identity(row) for row in members}) > 1:
            raise ConfigError(
                f"runs of '{method}' with {labelled} labelled images differ in "
                f"{', '.join(_differences(members))}: a mean over them would mean nothing; "
                "choose with segnb.results.table.select"
            )
        by_seed = {int(row["seed"]): row for row in members}
        found.append(
            Group(
                method=method,
                labelled=labelled,
                fraction=members[0].get("fraction"),
                values={seed: float(row[measure]) for seed, row in sorted(by_seed.items())},
                rows=dict(sorted(by_seed.items())),
            )
        )
    return sorted(found, key=lambda group: (method_order(group.method), group.labelled))


@dataclass(frozen=True)
class Gain:
    """What one method gains over a baseline, at one number of labelled images.

    Attributes:
        baseline: Which of :data:`BASELINES`; for a method of two rounds that of its own compute.
        group: The runs of the method.
        differences: Points over the baseline by seed, for each seed that both have: the same
            labelled images and first weights.
    """

    baseline: str
    group: Group
    differences: dict[int, float]


def gains(rows: Iterable[Row], measure: str = "miou_val") -> list[Gain]:
    """Gains over each of the cross-entropy baselines, paired by seed, the weakest first.

    A seed without its baseline is left out, and so is one whose baseline of the same compute had
    fewer image passes. The baseline of the same compute is ``ce_double`` for pseudo-labels, which
    take twice the image passes of ``ce_long``. Methods from ImageNet weights are compared with
    baselines from ImageNet weights.

    Raises:
        ConfigError: See :func:`groups`; or no run has a baseline of its seed.
    """
    found = groups(rows, measure)
    held = {(group.method, group.labelled): group for group in found}
    baselines = tuple(BASELINES)
    paired = []
    for place, baseline in enumerate(baselines):
        for group in found:
            one = next(iter(group.rows.values()))
            names = [_of_its_rounds(name, one) + weights_suffix(one) for name in baselines]
            # No gain of a baseline over itself, and none of a weaker one over a stronger one.
            if group.method in names[: place + 1]:
                continue
            other = held.get((names[place], group.labelled))
            differences = {
                seed: value - other.values[seed]
                for seed, value in group.values.items()
                if other is not None
                and seed in other.values
                and (
                    baseline == CROSS_ENTROPY
                    or _image_passes(group.rows[seed]) <= _image_passes(other.rows[seed])
                )
            }
            if differences:
                paired.append(Gain(baseline, group, differences))
    if not paired:
        raise ConfigError(
            "no run can be compared: there is no cross-entropy run with the same number of "
            "labelled images and the same seed"
        )
    return paired


def _of_its_rounds(baseline: str, row: Row) -> str:
    """The baseline's name where the run trained two rounds."""
    if row["method"] not in _TWO_ROUNDS:
        return baseline
    return baseline.replace(CROSS_ENTROPY_LONG, CROSS_ENTROPY_DOUBLE)


def mean_gain(found: Iterable[Gain], counts: Collection[int]) -> Summary | None:
    """One method's gain over one baseline, averaged over numbers of labelled images.

    Averaged seed by seed, so that what repeats in the interval is the seed: the labelled images
    of one seed are nested, and its gains at several numbers of them are not independent.

    Args:
        found: Gains of one method over one baseline.
        counts: The numbers of labelled images.

    Returns:
        ``None`` where no seed has a gain at every number.
    """
    return _combined(found, {count: 1 / len(counts) for count in counts})


def gain_rise(found: Iterable[Gain], *, few: int, many: int) -> Summary | None:
    """How much larger a method's gain is with few labelled images than with many, in points.

    The paper's claim is label efficiency, so a gain that rises as labels become fewer is what it
    foretells. Taken seed by seed, as in :func:`mean_gain`.

    Args:
        found: Gains of one method over one baseline.
        few: The smaller number of labelled images.
        many: The larger.

    Returns:
        ``None`` where no seed has a gain at both.
    """
    return _combined(found, {few: 1.0, many: -1.0})


def _combined(found: Iterable[Gain], weights: Mapping[int, float]) -> Summary | None:
    """A weighted sum of gains over numbers of labelled images, seed by seed."""
    held = {gain.group.labelled: gain.differences for gain in found}
    if not weights or not held.keys() >= weights.keys():
        return None
    seeds = set.intersection(*(set(held[count]) for count in weights))
    sums = [math.fsum(w * held[count][seed] for count, w in weights.items()) for seed in seeds]
    return summarise(sums) if sums else None


def _image_passes(row: Row) -> int:
    """Image passes of a run, by its recipe; 0 for a row that lacks it."""
    recipe = row.get("recipe")
    return 0 if recipe is None else Recipe.from_dict(dict(recipe)).image_passes()


def one_device(rows: Iterable[Row]) -> list[Row]:
    """The rows of the device that ran most of them: seconds of two devices can't be compared."""
    rows = list(rows)
    most = Counter(row["device"] for row in rows).most_common(1)
    return [row for row in rows if row["device"] == most[0][0]]


def each_run_once(rows: Iterable[AnyRow]) -> list[AnyRow]:
    """Of the rows of one recipe and seed, the one in the arithmetic that most rows are in.

    What bf16 and fp32 differ by can be more than what two methods or temperatures do. "Most" is
    counted in each data set and tier.
    """
    rows = list(rows)
    counts = Counter((row["dataset"], row["tier"], row.get("precision")) for row in rows)
    kept: dict[tuple[str, str, int], AnyRow] = {}
    for row in rows:
        run = (method_name(row), recipe_identity(row), row["seed"])
        kept[run] = max(
            kept.get(run, row),
            row,
            key=lambda one: counts[one["dataset"], one["tier"], one.get("precision")],
        )
    return list(kept.values())


def beside_baselines(rows: Iterable[Row]) -> list[Row]:
    """The rows at numbers of labelled images where cross-entropy stands too.

    All rows, where it stands nowhere: then no method can be set beside it anyway.
    """
    rows = list(rows)
    counts = {row["labelled"] for row in rows if row["method"] in _BASELINE_NAMES}
    return [row for row in rows if not counts or row["labelled"] in counts]


def one_of_each_method(rows: Iterable[Row]) -> list[Row]:
    """A run of each method, of the seed that most of them have: same labels, same first weights."""
    rows = list(rows)
    methods: dict[int, set[str]] = {}
    for row in rows:
        methods.setdefault(int(row["seed"]), set()).add(method_name(row))
    found: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: (-len(methods[int(row["seed"])]), row["seed"])):
        found.setdefault(method_name(row), row)
    return [found[name] for name in sorted(found, key=method_order)]


def most_compared(rows: Iterable[Row]) -> list[Row]:
    """The rows at the number of labelled images where most methods stand; the fewest of several."""
    methods: dict[int, set[str]] = {}
    rows = list(rows)
    for row in rows:
        methods.setdefault(int(row["labelled"]), set()).add(method_name(row))
    chosen = min(methods, key=lambda labelled: (-len(methods[labelled]), labelled), default=None)
    return [row for row in rows if row["labelled"] == chosen]


def one_count(found: Iterable[Group]) -> int:
    """The number of labelled images that all groups share.

    Raises:
        ConfigError: There are several.
    """
    counts = sorted({group.labelled for group in found})
    if len(counts) > 1:
        raise ConfigError(
            f"rows at {', '.join(map(str, counts))} labelled images; choose one with "
            f"segnb.results.table.select(rows, labelled={counts[0]})"
        )
    return counts[0]


def require_rows(rows: Iterable[Row], measure: str) -> list[Row]:
    """The rows that hold the measure, all of one data set and tier.

    Raises:
        ConfigError: None are left, or they mix data sets or tiers.
    """
    rows = list(rows)
    if not rows:
        raise ConfigError("no rows: the ledger is empty, or the choice leaves nothing")
    usable = [row for row in rows if row.get(measure) is not None]
    if not usable:
        raise ConfigError(f"none of the {len(rows)} rows has a value for {measure!r}")
    for field in ("dataset", "tier"):
        values = sorted({str(row.get(field)) for row in usable})
        if len(values) > 1:
            raise ConfigError(
                f"rows of several {field}s ({', '.join(values)}) do not belong in one figure or "
                f"table; choose with segnb.results.table.select(rows, {field}={values[0]!r})"
            )
    return usable


def recipe_identity(row: Row) -> str:
    """The hash of the row's recipe with its seed left out: alike for repetitions of one run.

    The arithmetic that was asked for is left out too: ``auto`` means another one on another
    machine, so what a run was computed in is told by its row, not by its recipe.
    """
    if row.get("recipe") is None:
        return str(row.get("temperature")) if row["method"] in _HEATED else ""
    return Recipe.from_dict(dict(row["recipe"])).replace(seed=0, precision="auto").hash


def results_table(
    rows: Iterable[Row], *, measures: Sequence[Measure] = ("miou_val", "miou_test")
) -> str:
    """A markdown table, one line a method and number of labelled images.

    Mean ± sample standard deviation over the seeds, and the 95 % Student-t interval of the mean.
    A measure that no run has is left out.

    Raises:
        ConfigError: See :func:`groups`.
    """
    rows = list(rows)
    held = [m for m in measures if any(row.get(m) is not None for row in rows)]
    tables = {
        measure: {(g.labelled, g.method): g for g in groups(rows, measure)}
        for measure in held or measures[:1]
    }
    head = ["labelled images", "method", "seeds"]
    for measure in tables:
        head += [MEASURE_NAMES[measure], "95 % interval"]
    keys = {key: group for table in tables.values() for key, group in table.items()}
    lines = []
    for key in sorted(keys, key=lambda k: (k[0], method_order(k[1]))):
        seeds = max(len(table[key].values) for table in tables.values() if key in table)
        cells = [_labelled_name(keys[key]), key[1], str(seeds)]
        for table in tables.values():
            summary = table[key].summary if key in table else None
            cells += [_mean_cell(summary), _interval_cell(summary)]
        lines.append(cells)
    return _markdown(head, lines, left=2)


def class_ious(group: Group, classes: int, *, split: MeasuredSplit) -> list[list[float]]:
    """IoU in percent of each class: one list a class, one number a seed.

    A class that no image of the split shows has no IoU, and an empty list.

    Args:
        group: The runs of one method.
        classes: How many classes the data set has.
        split: Which split's IoU.

    Raises:
        ConfigError: The runs have another number of classes.
    """
    per_seed = [row["iou"][split] for row in group.rows.values()]
    for one in per_seed:
        if len(one) != classes:
            raise ConfigError(
                f"'{group.method}' has IoU of {len(one)} classes where there should be {classes}: "
                "the rows are of another data set"
            )
    return [[one[c] for one in per_seed if one[c] is not None] for c in range(classes)]


def classes_table(
    rows: Iterable[Row], class_names: Sequence[str], *, split: MeasuredSplit = "val"
) -> str:
    """A markdown table of the IoU of each class, lines as in :func:`results_table`.

    A cell is the mean ± sample standard deviation over the seeds, in whole percent: seeds scatter
    by more than a decimal could tell. A class that no image of the split shows has a dash.

    Raises:
        ConfigError: See :func:`groups` and :func:`class_ious`.
    """
    lines = []
    for group in sorted(
        groups(rows, f"miou_{split}"), key=lambda g: (g.labelled, method_order(g.method))
    ):
        ious = class_ious(group, len(class_names), split=split)
        cells = [_mean_cell(summarise(seeds) if seeds else None, digits=0) for seeds in ious]
        lines.append([_labelled_name(group), group.method, str(len(group.rows)), *cells])
    return _markdown(["labelled images", "method", "seeds", *class_names], lines, left=2)


def gains_table(
    rows: Iterable[Row], *, measures: Sequence[Measure] = ("miou_val", "miou_test")
) -> str:
    """A markdown table of :func:`gains`, one line a method and number of labelled images.

    A cell is the mean of the differences in points, and their 95 % Student-t interval. A method
    that was run at several numbers of labelled images has two last lines: their mean
    (:func:`mean_gain`), and by how much the gain with the fewest is above that with the most
    (:func:`gain_rise`).

    Raises:
        ConfigError: See :func:`gains`.
    """
    rows = list(rows)
    held = [m for m in measures if any(row.get(m) is not None for row in rows)] or measures[:1]
    found = {measure: gains(rows, measure) for measure in held}
    cells: dict[tuple[int, tuple[int, int, str], str], dict[tuple[Measure, str], Summary]] = {}
    labels: dict[tuple[int, str], str] = {}
    for measure, gained in found.items():
        for gain in gained:
            group = gain.group
            key = (group.labelled, method_order(group.method), group.method)
            labels[group.labelled, group.method] = _labelled_name(group)
            summary = summarise(gain.differences.values())
            cells.setdefault(key, {})[measure, gain.baseline] = summary
    for name in {method for _, method in labels}:
        counts = sorted(int(count) for count, method in labels if method == name)
        for place, (label, columns) in enumerate(_over_counts(found, name, counts).items()):
            last = _LAST + place
            labels[last, name] = label
            cells[last, method_order(name), name] = columns
    # The two that every claim needs are there, empty or not.
    told = {baseline for columns in cells.values() for _, baseline in columns}
    told |= {CROSS_ENTROPY, CROSS_ENTROPY_LONG}
    order = [(m, b) for m in held for b in BASELINES if b in told]
    head = ["labelled images", "method", "seeds"]
    head += [f"{MEASURE_NAMES[m]}: {BASELINES[b]}" for m, b in order]
    lines = [
        [labels[key[0], key[2]], key[2], _seeds_cell(line.values())]
        + [_gain_cell(line.get(column)) for column in order]
        for key, line in sorted(cells.items())
    ]
    return _markdown(head, lines, left=2)


def _over_counts(
    found: Mapping[Measure, Sequence[Gain]], method: str, counts: Sequence[int]
) -> dict[str, dict[tuple[Measure, str], Summary]]:
    """What is told of one method's gains at several numbers of labelled images taken together."""
    if len(counts) < 2:
        return {}
    few, many = counts[0], counts[-1]
    mean, rise = f"mean of {', '.join(map(str, counts))}", f"{few} less {many}"
    told: dict[str, dict[tuple[Measure, str], Summary]] = {mean: {}, rise: {}}
    for measure, gained in found.items():
        for baseline in BASELINES:
            one = [g for g in gained if (g.group.method, g.baseline) == (method, baseline)]
            for label, summary in (
                (mean, mean_gain(one, counts)),
                (rise, gain_rise(one, few=few, many=many)),
            ):
                if summary is not None:
                    told[label][measure, baseline] = summary
    return {label: columns for label, columns in told.items() if columns}


def _field(row: Row, name: str) -> Any:
    if name in row:
        return row[name]
    return (row.get("recipe") or {}).get(name)


def _has(row: Row, name: str) -> bool:
    return name in row or name in (row.get("recipe") or {})


def _matches(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        return isinstance(value, Mapping) and all(value.get(k) == v for k, v in wanted.items())
    if callable(wanted):
        return value is not None and bool(wanted(value))
    if isinstance(wanted, tuple):
        return value is not None and tuple(value) == wanted  # JSON makes lists of tuples
    return bool(value == wanted)


def _differences(rows: Sequence[Row]) -> list[str]:
    flat = [_flat(row.get("recipe") or {"temperature": row.get("temperature")}) for row in rows]
    names = sorted(
        {name for fields in flat for name in fields} - {"seed", "loss_backend", "precision"}
    )
    return [n for n in names if len({repr(fields.get(n)) for fields in flat}) > 1]


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found.update({f"{name}.{inner}": v for inner, v in value.items()})
        else:
            found[name] = value
    return found


def _student(freedom: int) -> float:
    from scipy.stats import t  # type: ignore[import-untyped]

    return float(t.ppf(0.975, freedom))


def _labelled_name(group: Group) -> str:
    share = fraction_name(group.fraction)
    return f"{group.labelled} ({share})" if share else str(group.labelled)


def _mean_cell(summary: Summary | None, *, digits: int = 1) -> str:
    if summary is None:
        return "–"
    spread = f" ± {summary.std:.{digits}f}" if summary.std is not None else ""
    return f"{summary.mean:.{digits}f}{spread}"


def _seeds_cell(summaries: Iterable[Summary]) -> str:
    """``3``, or ``2-3`` where not every seed has every baseline."""
    counts = sorted({summary.seeds for summary in summaries})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"


def _gain_cell(summary: Summary | None) -> str:
    if summary is None:
        return "–"
    if summary.low is None or summary.high is None:
        return f"{summary.mean:+.1f}"
    return f"{summary.mean:+.1f} ({summary.low:+.1f} to {summary.high:+.1f})"


def _interval_cell(summary: Summary | None) -> str:
    if summary is None or summary.low is None or summary.high is None:
        return "–"
    return f"{summary.low:.1f} to {summary.high:.1f}"


def _markdown(head: Sequence[str], lines: Collection[Sequence[str]], *, left: int) -> str:
    rule = ["---" if i < left else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *lines))
