"""Sentences that say what a figure shows, computed from the rows that it is drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from segnb.errors import ConfigError
from segnb.results.method import Baseline, Method
from segnb.results.table import (
    MEASURE_NAMES,
    Gain,
    Measure,
    Row,
    Summary,
    gains,
    groups,
    one_of_each_method,
    summarise,
)


def runs_found(rows: Iterable[Row], *, measure: Measure = "miou_val") -> str:
    """How the two stages end beside each baseline; one run a method."""
    mious = {Method.of(row): float(row[measure]) for row in one_of_each_method(rows)}
    sentences = []
    for method, miou in mious.items():
        if method.kind != "contrastive":
            continue
        beside = [
            f"{_way(miou - mious[other])} {other}"
            for other in method.baselines.values()
            if other in mious
        ]
        if beside:
            where = MEASURE_NAMES[measure]
            sentences.append(f"{method} ends at {miou:.1f} {where}: {_joined(beside)}.")
    return _sentences(sentences, "No contrastive run stands beside a baseline here.")


def gains_found(
    rows: Iterable[Row], *, measure: Measure = "miou_val", form: str = "official"
) -> str:
    """With how many labels the two stages gain over each baseline, lose, or can't be told apart."""
    ours = Method(kind="contrastive", form=form, scope="cross")
    try:
        found = [gain for gain in gains(rows, measure) if gain.group.method == ours]
    except ConfigError:
        found = []
    sentences = []
    for baseline in [*ours.baselines][:2]:
        here = [gain for gain in found if gain.baseline == baseline]
        if here:
            where = MEASURE_NAMES[measure]
            sentences.append(f"Over {_over(baseline)}, in {where}: {_verdicts(here)}.")
    return _sentences(sentences, "No gain can be computed from these rows yet.")


def starts_found(rows: Iterable[Row], *, measure: Measure = "miou_test") -> str:
    """What ImageNet is worth beside stage 1, and what stage 1 adds to it, by number of labels."""
    rows = list(rows)
    mious = {(g.method, g.labelled): g.values for g in groups(rows, measure)}
    try:
        found = gains(rows, measure)
    except ConfigError:
        found = []
    points = {
        (gain.group.labelled, gain.group.method.kind, gain.group.method.imagenet, gain.baseline): (
            _points(gain.differences.values())
        )
        for gain in found
    }
    sentences = []
    for labelled in sorted({labelled for _, labelled in mious}):
        cold, warm = (
            mious.get((Method(kind="ce", imagenet=imagenet), labelled), {})
            for imagenet in (False, True)
        )
        shared = warm.keys() & cold.keys()
        if not shared:
            continue
        said = (
            f"With {labelled} labelled images ({MEASURE_NAMES[measure]}), a start from ImageNet is "
            f"worth {_points(warm[seed] - cold[seed] for seed in shared)} to cross-entropy"
        )
        for kind, imagenet, baseline, words in _STARTS:
            if point := points.get((labelled, kind, imagenet, baseline)):
                said += f"{words} {point}"
        sentences.append(f"{said}.")
    return _sentences(sentences, "No run from ImageNet stands beside one from scratch here.")


#: Kind, whether from ImageNet, baseline, and the words before the gain of the one over the other.
_STARTS: tuple[tuple[str, bool, Baseline, str], ...] = (
    ("contrastive", False, "cross-entropy", ". Stage 1 from scratch is worth"),
    (
        "contrastive",
        False,
        "cross-entropy from ImageNet",
        "; beside cross-entropy from ImageNet it stands at",
    ),
    ("contrastive", True, "cross-entropy", ". On top of ImageNet, stage 1 is worth"),
    ("ce_long", True, "cross-entropy", ", and the same compute of cross-entropy"),
)


def classes_found(
    rows: Iterable[Row], names: Sequence[str], *, over: str = "ce_long", split: str = "val"
) -> str:
    """Which classes the two stages win and lose beside a baseline; one run a method."""
    ious = {Method.of(row): row["iou"].get(split) for row in one_of_each_method(rows)}
    ours = next((iou for method, iou in ious.items() if method.kind == "contrastive"), None)
    theirs = ious.get(Method(kind=over))
    if not ours or not theirs:
        return "No contrastive run stands beside this baseline here."
    points = {
        name: a - b
        for name, a, b in zip(names, ours, theirs, strict=True)
        if a is not None and b is not None
    }
    best, worst = max(points, key=points.__getitem__), min(points, key=points.__getitem__)
    ahead = sum(value > 0 for value in points.values())
    return (
        f"Beside {Method(kind=over)}, {ahead} of {len(points)} classes end higher; {best} gains "
        f"most ({points[best]:+.1f} points of IoU), {worst} least ({points[worst]:+.1f})."
    )


def compactness_found(row: Row) -> str:
    """How tight the classes of unseen pixels are before, between and after the stages."""
    stages = {
        "initial": "before training",
        "pretrained": "after stage 1",
        "finetuned": "at the end",
    }
    ratios = [
        f"{measured['fisher']:.2f} {stages[stage]}"
        for stage, measured in row["compactness"].items()
        if stage in stages and measured["fisher"] is not None
    ]
    return (
        "The Fisher ratio of validation pixels (how far apart the classes lie, over how wide each "
        f"of them is) is {_joined(ratios)}."
    )


def losses_found(logs: Mapping[Method, Sequence[Mapping[str, object]]]) -> str:
    """Where each method's cross-entropy begins and ends, in the last stage of its log."""
    said = []
    for method, rows in logs.items():
        last = [row for row in rows if row["stage"] == rows[-1]["stage"]] if rows else []
        if len(last) > 1:
            first, end = last[0], last[-1]
            said.append(
                f"{method} from {first['loss']:.2f} at step {first['step']} to {end['loss']:.2f}"
            )
    return f"Training cross-entropy falls: {'; '.join(said)}." if said else "No log to read."


def _verdicts(found: Iterable[Gain]) -> str:
    """``a gain with 46 (+1.3) labelled images, undecided with 11 (+1.0)``."""
    by_verdict: dict[str, list[str]] = {}
    for gain in found:
        summary = summarise(gain.differences.values())
        count = f"{gain.group.labelled} ({summary.mean:+.1f})"
        by_verdict.setdefault(_verdict(summary), []).append(count)
    said = [f"{verdict} with {_joined(counts)}" for verdict, counts in by_verdict.items()]
    return "; ".join([f"{said[0]} labelled images", *said[1:]])


def _verdict(summary: Summary) -> str:
    if summary.interval is None:
        return "too few seeds for an interval"
    low, high = summary.interval
    return "a gain" if low > 0 else "a loss" if high < 0 else "undecided"


def _over(baseline: str) -> str:
    return {"cross-entropy": "the same fine-tuning"}.get(baseline, baseline)


def _points(values: Iterable[float]) -> str:
    """``+2.0 points (+0.5 to +3.6)``."""
    summary = summarise(values)
    interval = "" if summary.interval is None else " ({:+.1f} to {:+.1f})".format(*summary.interval)
    return f"{summary.mean:+.1f} points{interval}"


def _way(points: float) -> str:
    return f"{abs(points):.1f} points {'ahead of' if points >= 0 else 'behind'}"


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _sentences(found: Sequence[str], otherwise: str) -> str:
    return " ".join(found) or otherwise
