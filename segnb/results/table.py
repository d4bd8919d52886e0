"""From ledger rows to statistics over seeds, and from those to markdown tables.

All figures and tables of results group runs with these functions, which refuse to average runs
that differ in more than their seed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args

from segnb.errors import ConfigError
from segnb.methods import KINDS
from segnb.recipe import flat
from segnb.records import same
from segnb.results.method import Baseline, Method, recipe_of

Row = Mapping[str, Any]
AnyRow = TypeVar("AnyRow", bound=Row)
Measure = Literal["miou_val", "miou_test", "miou_test_seen", "miou_test_unseen", "miou_held_out"]

#: Titles of the measures.
MEASURE_NAMES: dict[str, str] = {
    "miou_val": "mIoU, val",
    "miou_test": "mIoU, test",
    "miou_test_seen": "mIoU, test, drives of train",
    "miou_test_unseen": "mIoU, test, other drives",
    "miou_held_out": "mIoU, drive held out of train",
}

#: The split of each measure, as a row's ``iou`` names it.
SPLITS: Mapping[Measure, str] = MappingProxyType(
    {
        "miou_val": "val",
        "miou_test": "test",
        "miou_test_seen": "test_seen",
        "miou_test_unseen": "test_unseen",
        "miou_held_out": "held_out",
    }
)

#: With fewer runs an interval is too wide to show: Student's factor is 12.7 for two, 4.3 for three.
_FEWEST_SEEDS = 3

#: Marks a number of seeds none of which the other methods share.
OTHER_SEEDS = "(others)"


@dataclass(frozen=True)
class Summary:
    """A number over several seeds.

    Attributes:
        seeds: Number of runs.
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

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval as tables and figures show it; ``None`` for fewer than three runs."""
        if self.low is None or self.high is None or self.seeds < _FEWEST_SEEDS:
            return None
        return self.low, self.high


@dataclass(frozen=True)
class Group:
    """The runs of one method with one number of labelled images; they differ only in the seed.

    Attributes:
        method: The method.
        labelled: Number of labelled images.
        fraction: The same as a share of the training images; ``None`` for a list of ids.
        values: The measure in percent, by seed.
        rows: The rows, by seed.
    """

    method: Method
    labelled: int
    fraction: float | None
    values: dict[int, float]
    rows: dict[int, Row]

    @property
    def summary(self) -> Summary:
        """Mean and interval over the seeds."""
        return summarise(self.values.values())


def fraction_name(fraction: float | None) -> str:
    """``1/16`` for 0.0625, ``all`` for 1, empty for ``None``."""
    if fraction is None:
        return ""
    exact = Fraction(fraction).limit_denominator(1000)
    return "all" if exact == 1 else str(exact)


def select(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """The rows whose fields have the wanted values.

    A field is a key of the row or of its recipe. The wanted value may also be a test
    (``fraction=lambda f: f < 0.1``), or a mapping with some of the keys
    (``pretrain={"steps": 1000}``). A method that does not use a field, as cross-entropy does not
    use the temperature, keeps its rows.

    Raises:
        ConfigError: No row has such a field.
    """
    rows = list(rows)
    fields = [{**(row.get("recipe") or {}), **row} for row in rows]
    for name in wanted:
        if rows and not any(name in one for one in fields):
            raise ConfigError(f"no row of the ledger has a field {name!r}")
    return [
        row
        for row, one in zip(rows, fields, strict=True)
        if all(
            name in KINDS[row["method"]].unused or _matches(one.get(name), value)
            for name, value in wanted.items()
        )
    ]


def summarise(values: Iterable[float]) -> Summary:
    """Mean, sample standard deviation and 95 % Student-t interval of the mean.

    Raises:
        ValueError: No values.
    """
    # scipy.stats has it under another name, and takes a second to import.
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    numbers = list(values)
    if not numbers:
        raise ValueError("no values to summarise")
    count = len(numbers)
    mean = math.fsum(numbers) / count
    if count == 1:
        return Summary(seeds=1, mean=mean, std=None, low=None, high=None)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in numbers) / (count - 1))
    half = float(stdtrit(count - 1, 0.975)) * std / math.sqrt(count)
    return Summary(seeds=count, mean=mean, std=std, low=mean - half, high=mean + half)


def groups(rows: Iterable[Row], measure: str = "miou_val") -> list[Group]:
    """Runs by method and number of labelled images, sorted by both.

    Rows without a value for the measure are left out. Of two rows with the same recipe, the later
    one counts.

    Raises:
        ConfigError: No row has the measure; there are several data sets or tiers; or recipes of
            one method and number of labelled images differ in more than the seed. The message
            names the fields; choose with :func:`select`.
    """
    usable = require_rows(rows, measure)
    bins: dict[tuple[Method, int], list[Row]] = {}
    for row in usable:
        bins.setdefault((Method.of(row), int(row["labelled"])), []).append(row)
    found = []
    for (method, labelled), members in bins.items():
        if len(by_data(members)) > 1:
            raise ConfigError(
                f"runs of '{method}' with {labelled} labelled images were on different data: their "
                "mean would be meaningless; choose with segnb.results.table.by_data"
            )
        if len({recipe_identity(row) for row in members}) > 1:
            raise ConfigError(
                f"runs of '{method}' with {labelled} labelled images differ in "
                f"{', '.join(_differences(members))}: their mean would be meaningless; choose "
                "with segnb.results.table.select"
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
    return sorted(found, key=lambda group: (group.method.order, group.labelled))


def shared_seeds(held: Iterable[set[int]], *, fewest: int = _FEWEST_SEEDS) -> set[int]:
    """The seeds that all sets hold or, if there are none, that most of them do.

    A set of fewer than ``fewest`` takes none from the others, unless all are so small.
    """
    sets = list(held)
    enough = min(fewest, max(map(len, sets), default=0))
    counts = Counter(seed for one in sets if len(one) >= enough for seed in one)
    if not counts:
        return set()
    most = min(counts, key=lambda seed: (-counts[seed], seed))
    return set.intersection(*(one for one in sets if len(one) >= enough and most in one))


def same_seeds(
    rows: Iterable[Row], measure: str = "miou_val", *, fewest: int = _FEWEST_SEEDS
) -> list[Row]:
    """The rows with seeds that all methods share, at each number of labelled images.

    Another seed labels other images and starts from other weights, which can move an mIoU by more
    than a method does: means over different seeds can't be compared. A recipe that has none of the
    shared seeds (:func:`shared_seeds`) keeps its own.

    Args:
        rows: Ledger rows of one data set and tier.
        measure: Rows without a value for it are left out.
        fewest: A recipe with fewer seeds takes none from the others; by default three, since fewer
            have no interval either.

    Raises:
        ConfigError: No row has the measure, or there are several data sets or tiers.
    """
    usable = require_rows(rows, measure)
    held: dict[int, dict[str, set[int]]] = {}
    for row in usable:
        recipes = held.setdefault(int(row["labelled"]), {})
        recipes.setdefault(recipe_identity(row), set()).add(int(row["seed"]))
    for recipes in held.values():
        shared = shared_seeds(recipes.values(), fewest=fewest)
        for name, seeds in recipes.items():
            recipes[name] = seeds & shared or seeds
    return [
        row
        for row in usable
        if int(row["seed"]) in held[int(row["labelled"])][recipe_identity(row)]
    ]


@dataclass(frozen=True)
class Gain:
    """The gain of one method over a baseline, at one number of labelled images.

    Attributes:
        baseline: One of the method's baselines.
        group: The runs of the method.
        differences: Points above the baseline by seed, for each seed that both have: these runs
            have the same labelled images and initial weights.
    """

    baseline: Baseline
    group: Group
    differences: dict[int, float]


def gains(rows: Iterable[Row], measure: str = "miou_val") -> list[Gain]:
    """Gains over each of the cross-entropy baselines, paired by seed, the weakest first.

    A seed without its baseline is left out, and so is one whose baseline was computed at another
    precision, which alone can move a run by a point, or one of the same compute had fewer image
    passes. :attr:`Method.baselines` lists the baselines of each method.

    Raises:
        ConfigError: See :func:`groups`; or no run has a baseline with the same seed.
    """
    found = groups(rows, measure)
    by_method = {(group.method, group.labelled): group for group in found}
    paired = []
    for baseline in get_args(Baseline):
        for group in found:
            method = group.method.baselines.get(baseline)
            other = by_method.get((method, group.labelled)) if method else None
            if other is None:
                continue
            differences = {
                seed: value - other.values[seed]
                for seed, value in group.values.items()
                if seed in other.values
                and group.rows[seed].get("precision") == other.rows[seed].get("precision")
                and (
                    baseline in ("cross-entropy", "cross-entropy from ImageNet")
                    or recipe_of(group.rows[seed]).image_passes()
                    <= recipe_of(other.rows[seed]).image_passes()
                )
            }
            if differences:
                paired.append(Gain(baseline, group, differences))
    if not paired:
        raise ConfigError(
            "no run can be compared: there is no cross-entropy run with the same number of "
            "labelled images, the same seed and the same precision"
        )
    return paired


def combined_gain(found: Iterable[Gain], weights: Mapping[int, float]) -> Summary | None:
    """A weighted sum of one method's gains over numbers of labelled images.

    Gains are summed seed by seed before taking the interval. The labelled images of one seed are
    nested, so its gains at several numbers of labelled images are not independent.

    Args:
        found: Gains of one method over one baseline.
        weights: By number of labelled images: ``{10: 1 / 2, 40: 1 / 2}`` is the mean of two,
            ``{10: 1, 40: -1}`` the increase from 40 to 10. The paper claims label efficiency, so
            it predicts that the gain grows as labels become fewer.

    Returns:
        ``None`` if no seed has a gain at every number.
    """
    held = {gain.group.labelled: gain.differences for gain in found}
    if not held.keys() >= weights.keys():
        return None
    seeds = set.intersection(*(set(held[count]) for count in weights))
    sums = [math.fsum(w * held[count][seed] for count, w in weights.items()) for seed in seeds]
    return summarise(sums) if sums else None


def by_data(rows: Iterable[AnyRow]) -> list[list[AnyRow]]:
    """The rows by what they read (the fingerprints of the splits), the newest row's data last.

    Rows of earlier versions have no fingerprint; they count as the first data of their data set.
    Rows of different data sets stay together.
    """
    rows = list(rows)
    parts: list[tuple[dict[str, dict[str, str]], list[AnyRow]]] = []
    for row in sorted(rows, key=lambda one: one.get("data") is None):
        name, data = row["dataset"], row.get("data")
        for known, members in parts:
            if same(known.get(name), data):
                known[name] = {**known.get(name, {}), **(data or {})}
                members.append(row)
                break
        else:
            parts.append(({name: dict(data or {})}, [row]))
    place = {id(row): index for index, row in enumerate(rows)}
    groups = [sorted(members, key=lambda row: place[id(row)]) for _, members in parts]
    return sorted(groups, key=lambda members: place[id(members[-1])])


def one_device(rows: Iterable[AnyRow]) -> list[AnyRow]:
    """The rows of the most frequent device and arithmetic: only their seconds can be compared."""
    rows = list(rows)
    most = Counter(map(timed_on, rows)).most_common(1)
    return [row for row in rows if timed_on(row) == most[0][0]]


def timed_on(row: Row) -> str:
    """The device and the arithmetic of a row, ``"a card, bf16"``."""
    return ", ".join(str(row[name]) for name in ("device", "precision") if row.get(name))


def each_run_once(rows: Iterable[AnyRow]) -> list[AnyRow]:
    """Of several rows of one recipe and seed, keep the one in the arithmetic of its controls.

    bf16 and fp32 can differ by more than two methods or temperatures do, so gains pair runs of one
    arithmetic alone. Where its seed and labelled images have as many kinds of cross-entropy in
    either, it is the arithmetic more frequent in the data set and tier.
    """
    rows = list(rows)
    counts = Counter(_arithmetic(row) for row in rows)
    controls: dict[tuple[Any, ...], set[str]] = {}
    for row in rows:
        held = controls.setdefault((_arithmetic(row), row["labelled"], row["seed"]), set())
        held.update([] if KINDS[row["method"]].stage_one else [row["method"]])
    kept: dict[tuple[Method, str, int], AnyRow] = {}
    for row in rows:
        run = (Method.of(row), recipe_identity(row), row["seed"])
        kept[run] = max(
            kept.get(run, row),
            row,
            key=lambda one: (
                len(controls[_arithmetic(one), one["labelled"], one["seed"]]),
                counts[_arithmetic(one)],
            ),
        )
    return list(kept.values())


def _arithmetic(row: Row) -> tuple[str, str, str | None]:
    return row["dataset"], row["tier"], row.get("precision")


def beside_baselines(rows: Iterable[Row]) -> list[Row]:
    """The rows at numbers of labelled images for which there is cross-entropy as well.

    All rows if there is no cross-entropy: then no method can be compared with it anyway.
    """
    rows = list(rows)
    counts = {row["labelled"] for row in rows if not KINDS[row["method"]].stage_one}
    return [row for row in rows if not counts or row["labelled"] in counts]


def one_of_each_method(rows: Iterable[Row]) -> list[Row]:
    """A run of each method, of the seed that most of them have: same labels and initial weights."""
    rows = list(rows)
    methods = _methods_by(rows, "seed")
    found: dict[Method, Row] = {}
    for row in sorted(rows, key=lambda row: (-len(methods[int(row["seed"])]), row["seed"])):
        found.setdefault(Method.of(row), row)
    return [found[method] for method in sorted(found, key=lambda method: method.order)]


def most_compared(rows: Iterable[Row]) -> list[Row]:
    """The rows at the number of labelled images with most methods; at a tie, the smallest."""
    rows = list(rows)
    methods = _methods_by(rows, "labelled")
    chosen = min(methods, key=lambda labelled: (-len(methods[labelled]), labelled), default=None)
    return [row for row in rows if row["labelled"] == chosen]


def _methods_by(rows: Iterable[Row], field: str) -> dict[int, set[Method]]:
    methods: dict[int, set[Method]] = {}
    for row in rows:
        methods.setdefault(int(row[field]), set()).add(Method.of(row))
    return methods


def one_count(found: Iterable[Group]) -> int:
    """The number of labelled images, which all groups must share.

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
    """The rows that have the measure, all of one data set and tier.

    Raises:
        ConfigError: None are left, or they mix data sets or tiers.
    """
    rows = list(rows)
    if not rows:
        raise ConfigError("no rows: the ledger is empty, or nothing was selected")
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
    """The hash of the row's recipe without its seed: equal for repetitions of one run.

    The requested precision is left out too: ``auto`` differs between machines, and the row states
    the precision that was actually used.
    """
    return recipe_of(row).replace(seed=0, precision="auto").hash


def results_table(
    rows: Iterable[Row], *, measures: Sequence[Measure] = ("miou_val", "miou_test")
) -> str:
    """A markdown table with one line per method and number of labelled images.

    It shows the mean ± sample standard deviation over the seeds that the methods share
    (:func:`same_seeds`) and, from three seeds on, the 95 % Student-t interval of the mean. The
    number of seeds is marked ``(others)`` where a method has none of those. A measure that no run
    has is left out.

    Raises:
        ConfigError: See :func:`groups`.
    """
    rows = list(rows)
    tables = {
        measure: {(g.labelled, g.method): g for g in groups(same_seeds(rows, measure), measure)}
        for measure in _measured(rows, measures)
    }
    head = ["labelled images", "method", "seeds"]
    for measure in tables:
        head += [MEASURE_NAMES[measure], "95 % interval"]
    keys = {key: group for table in tables.values() for key, group in table.items()}
    apart = {key for table in tables.values() for key in _apart(table)}
    lines = []
    for key in sorted(keys, key=lambda key: (key[0], key[1].order)):
        seeds = max(len(table[key].values) for table in tables.values() if key in table)
        counted = _seeds_cell(seeds, apart=key in apart)
        cells = [_labelled_name(keys[key]), keys[key].method.name, counted]
        for table in tables.values():
            summary = table[key].summary if key in table else None
            cells += [_mean_cell(summary), _interval_cell(summary)]
        lines.append(cells)
    return markdown(head, lines)


def _apart(table: Mapping[tuple[int, Method], Group]) -> set[tuple[int, Method]]:
    """The keys of the groups that have none of the seeds that most do, by labelled images."""
    held: dict[int, list[set[int]]] = {}
    for (labelled, _), group in table.items():
        held.setdefault(labelled, []).append(set(group.rows))
    shared = {labelled: shared_seeds(sets) for labelled, sets in held.items()}
    return {key for key, group in table.items() if not set(group.rows) & shared[key[0]]}


def _seeds_cell(seeds: int, *, apart: bool) -> str:
    return f"{seeds} {OTHER_SEEDS}" if apart else str(seeds)


def class_ious(group: Group, classes: int, *, measure: Measure) -> list[list[float]]:
    """IoU of each class in percent: one list per class, one number per seed.

    A class that occurs in no image of the split has no IoU, so its list is empty.

    Args:
        group: The runs of one method.
        classes: Number of classes in the data set.
        measure: The mIoU whose classes are told apart.

    Raises:
        ConfigError: The runs have another number of classes.
    """
    per_seed = [row["iou"][SPLITS[measure]] for row in group.rows.values()]
    for one in per_seed:
        if len(one) != classes:
            raise ConfigError(
                f"'{group.method}' has IoU of {len(one)} classes where there should be {classes}: "
                "the rows come from another data set"
            )
    return [[one[c] for one in per_seed if one[c] is not None] for c in range(classes)]


def classes_table(
    rows: Iterable[Row], class_names: Sequence[str], *, measure: Measure = "miou_val"
) -> str:
    """A markdown table of the IoU of each class, with the lines of :func:`results_table`.

    A cell is the mean ± sample standard deviation over the same seeds, in whole percent, because
    seeds differ by more than a decimal. A class that occurs in no image of the split has a dash.

    Raises:
        ConfigError: See :func:`groups` and :func:`class_ious`.
    """
    lines = []
    table = {(g.labelled, g.method): g for g in groups(same_seeds(rows, measure), measure)}
    apart = _apart(table)
    for key, group in sorted(table.items(), key=lambda one: (one[0][0], one[0][1].order)):
        ious = class_ious(group, len(class_names), measure=measure)
        cells = [_mean_cell(summarise(seeds) if seeds else None, digits=0) for seeds in ious]
        seeds = _seeds_cell(len(group.rows), apart=key in apart)
        lines.append([_labelled_name(group), group.method.name, seeds, *cells])
    return markdown(["labelled images", "method", "seeds", *class_names], lines)


def gains_table(
    rows: Iterable[Row], *, measures: Sequence[Measure] = ("miou_val", "miou_test")
) -> str:
    """A markdown table of :func:`gains`, with one line per method and number of labelled images.

    A cell is the mean of the differences in points and, from three seeds on, their 95 % Student-t
    interval. A method with several numbers of labelled images gets two more lines at the end
    (:func:`combined_gain`): the mean of its gains, and the gain with the fewest labelled images
    minus that with the most.

    Raises:
        ConfigError: See :func:`gains`.
    """
    rows = list(rows)
    held = _measured(rows, measures)
    # Keys are rank (so that combined lines come last), label and method.
    lines: dict[tuple[int, str, Method], dict[tuple[Measure, Baseline], Summary]] = {}
    by_method: dict[tuple[Method, Measure, Baseline], list[Gain]] = {}
    for measure in held:
        for gain in gains(rows, measure):
            method, column = gain.group.method, (measure, gain.baseline)
            key = (gain.group.labelled, _labelled_name(gain.group), method)
            lines.setdefault(key, {})[column] = summarise(gain.differences.values())
            by_method.setdefault((method, *column), []).append(gain)
    counts: dict[Method, list[int]] = {}
    for labelled, _, method in sorted(lines, key=lambda key: key[0]):
        counts.setdefault(method, []).append(labelled)
    for (method, measure, baseline), found in by_method.items():
        its = counts[method]
        if len(its) < 2:
            continue
        for rank, label, weights in (
            (10**9, f"mean of {', '.join(map(str, its))}", dict.fromkeys(its, 1 / len(its))),
            (10**9 + 1, f"{its[0]} less {its[-1]}", {its[0]: 1.0, its[-1]: -1.0}),
        ):
            if summary := combined_gain(found, weights):
                lines.setdefault((rank, label, method), {})[measure, baseline] = summary
    # The first two are always shown: every claim needs them.
    columns = {"cross-entropy", "the same compute", *(baseline for _, _, baseline in by_method)}
    order = [(m, b) for m in held for b in get_args(Baseline) if b in columns]
    body = []
    for (_, label, method), line in sorted(lines.items(), key=lambda i: (i[0][0], i[0][2].order)):
        seeds = sorted({summary.seeds for summary in line.values()})
        # "2-3" if some seeds lack a baseline.
        cells = [label, method.name, "-".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))]
        body.append(cells + [gain_cell(line.get(column)) for column in order])
    head = [f"{MEASURE_NAMES[measure]}: over {baseline}" for measure, baseline in order]
    return markdown(["labelled images", "method", "seeds", *head], body)


def brief_table(rows: Iterable[Row], *, measure: Measure) -> str:
    """A markdown table of the three methods compared, one line per number of labelled images.

    It shows means over seeds, and the gains of ``contrastive`` (official form, across images),
    paired as in :func:`gains`. A line is about the seeds that have all three methods, or both of
    the two that there are: so a gain is the difference of the means beside it.

    Args:
        rows: Ledger rows of one data set and tier.
        measure: Which mIoU.

    Raises:
        ConfigError: See :func:`gains`; or none of these runs is of ``contrastive``.
    """
    ours = Method(kind="contrastive", form="official", scope="cross")
    names: tuple[Baseline, ...] = ("cross-entropy", "the same compute")
    held: dict[int, dict[Baseline, Gain]] = {}
    for gain in gains(rows, measure):
        if gain.group.method == ours and gain.baseline in names:
            held.setdefault(gain.group.labelled, {})[gain.baseline] = gain
    if not held:
        raise ConfigError(f"no run of {ours} stands beside its baselines")
    body = []
    for _, over in sorted(held.items()):
        first, *others = over.values()
        common = [seed for seed in first.differences if all(seed in o.differences for o in others)]
        seeds = common or list(first.differences)
        own = summarise(first.group.values[seed] for seed in seeds).mean
        found: list[Summary | None] = []
        for name in names:
            apart = over[name].differences if name in over else {}
            paired = [apart[seed] for seed in seeds if seed in apart]
            found.append(summarise(paired) if paired else None)
        ce, long = ("–" if one is None else f"{own - one.mean:.1f}" for one in found)
        body.append(
            [_labelled_name(first.group), str(len(seeds)), ce, f"{own:.1f}", long]
            + [gain_cell(one) for one in found]
        )
    ce, long = (ours.baselines[name].name for name in names)
    head = ["labelled images", "seeds", ce, ours.kind, long]
    return markdown([*head, "gain over the same fine-tuning", "gain over the same compute"], body)


def _measured(rows: Sequence[Row], measures: Sequence[Measure]) -> Sequence[Measure]:
    """The measures that some run has; the first one if no run has any."""
    held = [m for m in measures if any(row.get(m) is not None for row in rows)]
    return held or measures[:1]


def _matches(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        return isinstance(value, Mapping) and all(value.get(k) == v for k, v in wanted.items())
    if callable(wanted):
        return value is not None and bool(wanted(value))
    if isinstance(wanted, tuple):
        return value is not None and tuple(value) == wanted  # JSON makes lists of tuples
    return bool(value == wanted)


def _differences(rows: Sequence[Row]) -> list[str]:
    recipes = [flat(row["recipe"]) for row in rows]
    names = set().union(*recipes) - {"seed", "loss_backend", "precision"}
    return [n for n in sorted(names) if len({repr(fields.get(n)) for fields in recipes}) > 1]


def _labelled_name(group: Group) -> str:
    share = fraction_name(group.fraction)
    return f"{group.labelled} ({share})" if share else str(group.labelled)


def _mean_cell(summary: Summary | None, *, digits: int = 1) -> str:
    if summary is None:
        return "–"
    spread = f" ± {summary.std:.{digits}f}" if summary.std is not None else ""
    return f"{summary.mean:.{digits}f}{spread}"


def gain_cell(summary: Summary | None) -> str:
    """``+1.3 (+0.7 to +1.9)``; without an interval the mean alone, a dash for ``None``."""
    if summary is None:
        return "–"
    interval = f" ({_interval_cell(summary, sign='+')})" if summary.interval else ""
    return f"{summary.mean:+.1f}{interval}"


def _interval_cell(summary: Summary | None, *, sign: str = "") -> str:
    if summary is None or summary.interval is None:
        return "–"
    low, high = summary.interval
    return f"{low:{sign}.1f} to {high:{sign}.1f}"


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; from the third column on numbers, set to the right."""
    rule = ["---", "---"] + ["---:"] * (len(head) - 2)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *lines))
