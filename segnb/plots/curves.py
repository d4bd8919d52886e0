"""Training logs and IoU per class."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from segnb.datasets.base import DatasetInfo
from segnb.errors import ConfigError
from segnb.plots.style import (
    WIDTH,
    Picture,
    Series,
    legend_below,
    marks,
    new_figure,
    panel_title,
    styled,
)
from segnb.results.method import Mark, Method
from segnb.results.table import MeasuredSplit, Row, class_ious, groups, one_count, summarise

#: Share of a stage that the smoothed loss averages over.
SMOOTHING = 0.05


def loss_curves(logs: Mapping[Series, Sequence[Mapping[str, Any]]]) -> Picture:
    """Loss against steps: each stage a panel of its own, each run a smoothed line over its raw one.

    Losses of different stages, and of different forms of the contrastive loss, are different
    quantities: compare the shapes of such lines, not their heights.

    Args:
        logs: Rows with ``stage``, ``step`` and ``loss`` by the run's method or name. Rows
            without a finite loss are left out.

    Raises:
        ConfigError: No row with a loss.
    """
    series: dict[str, dict[Series, list[tuple[int, float]]]] = {}
    for name, rows in logs.items():
        for row in rows:
            loss = row.get("loss")
            if loss is not None and math.isfinite(loss):
                runs = series.setdefault(str(row["stage"]), {})
                runs.setdefault(name, []).append((int(row["step"]), float(loss)))
    order = [*_STAGES, *series]
    series = {stage: series[stage] for stage in dict.fromkeys(order) if stage in series}
    if not series:
        raise ConfigError("no rows with a loss: the logs are empty, or training has not begun")
    for runs in series.values():
        for points in runs.values():
            points.sort()
    drawn_as = marks(logs)
    ends = [
        f"{stage}, {name}: {_smooth(np.array(points)[:, 1])[-1]:.2f} at step {points[-1][0]}"
        for stage, runs in series.items()
        for name, points in runs.items()
    ]
    alt = f"Training loss against steps. Last smoothed values: {'; '.join(ends)}."
    with styled():
        figure = new_figure(WIDTH if len(series) > 1 else 0.7 * WIDTH, 3.0)
        panels = figure.subplots(1, len(series), squeeze=False)[0]
        for axes, (stage, runs) in zip(panels, series.items(), strict=True):
            # The first is the widest, so that it shows beneath another that runs along it.
            widths = np.linspace(1.6 + min(len(runs) - 1, 3) * 0.8, 1.6, len(runs))
            for width, (name, points) in zip(widths, runs.items(), strict=True):
                steps, losses = np.array(points).T
                mark = drawn_as[name]
                axes.plot(steps, losses, color=mark.colour, alpha=0.25, linewidth=0.8)
                axes.plot(
                    steps,
                    _smooth(losses),
                    linestyle=mark.line,
                    linewidth=float(width),
                    markevery=[-1],
                    markersize=5,
                    label=str(name),
                    **mark.keywords(),
                )
            axes.set(title=panel_title(_STAGES.get(stage, stage), 1 / len(series)), xlabel="step")
            axes.set_xlim(left=0)
        panels[0].set_ylabel("loss")
        legend_below(figure, panels, drawn_as)
        return Picture(figure, alt)


def iou_per_class(
    rows: Iterable[Row], info: DatasetInfo, *, split: MeasuredSplit = "val"
) -> Picture:
    """IoU of each class, one line a class, methods side by side.

    A large mark is the mean over the seeds, small dots single seeds, and, from three seeds
    on, a bar the 95 % interval.
    The classes are sorted by the mean of the method that is drawn last, best on top.

    Args:
        rows: Ledger rows at one number of labelled images.
        info: The data set of the rows.
        split: Which split's IoU.

    Raises:
        ConfigError: See :func:`segnb.results.table.groups`; or rows at several numbers of labelled
            images; or of another data set.
    """
    found = groups(rows, f"miou_{split}")
    labelled = one_count(found)
    values = {group.method: class_ious(group, info.num_classes, split=split) for group in found}
    last = [*values][-1]
    order = sorted(
        range(info.num_classes),
        key=lambda c: summarise(values[last][c]).mean if values[last][c] else -1.0,
    )
    drawn_as = marks(values)
    alt = f"IoU of each class of {info.name} on {split}, {labelled} labelled images. " + " ".join(
        f"{info.class_names[c]}: "
        + ", ".join(
            f"{method} {summarise(seeds[c]).mean:.0f}" if seeds[c] else f"{method} not there"
            for method, seeds in values.items()
        )
        + "."
        for c in reversed(order)
    )
    with styled():
        figure = new_figure(WIDTH, 0.9 + (0.16 + 0.07 * len(values)) * info.num_classes)
        axes = figure.subplots()
        for band in range(0, info.num_classes, 2):
            axes.axhspan(band - 0.5, band + 0.5, color="#f6f6f6", linewidth=0)
        for rank, (method, per_class) in enumerate(values.items()):
            offset = 0.7 * ((len(values) - 1) / 2 - rank) / max(len(values), 2)
            _class_marks(axes, order, per_class, offset, drawn_as[method], method)
        axes.set_yticks(range(info.num_classes), [info.class_names[c] for c in order])
        axes.set(
            xlim=(-1, 101),
            ylim=(-0.5, info.num_classes - 0.5),
            xlabel=f"IoU on {split}, %, with {labelled} labelled images",
        )
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        legend_below(figure, [axes])
        return Picture(figure, alt)


_STAGES = {
    "pretrain": "stage 1: contrastive loss",
    "finetune": "stage 2: cross-entropy",
    "pretrain-pseudo": "stage 1 with pseudo-labels",
    "finetune-pseudo": "stage 2 with pseudo-labels",
}


def _class_marks(
    axes: Any,
    order: list[int],
    per_class: list[list[float]],
    offset: float,
    mark: Mark,
    method: Method,
) -> None:
    label: str | None = method.name
    for band, c in enumerate(order):
        if not per_class[c]:
            continue
        summary, y = summarise(per_class[c]), band + offset
        if summary.interval is not None:
            low, high = summary.interval
            bar = [max(low, 0.0), min(high, 100.0)]
            axes.plot(bar, [y, y], color=mark.colour, alpha=0.5, linewidth=1.6)
        if summary.seeds > 1:
            axes.plot(per_class[c], [y] * summary.seeds, ".", color=mark.colour, markersize=3.5)
        axes.plot(
            summary.mean, y, linestyle="", markersize=5, label=label, zorder=3, **mark.keywords()
        )
        label = None


def _smooth(losses: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Running mean whose early values are unbiased: each is divided by the weight seen so far."""
    keep = 1 - 1 / max(1.0, SMOOTHING * len(losses))
    total, weight, smoothed = 0.0, 0.0, []
    for loss in losses:
        total, weight = keep * total + loss, keep * weight + 1
        smoothed.append(total / weight)
    return np.array(smoothed)
