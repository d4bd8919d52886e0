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
    draw_seeds,
    legend_below,
    marks,
    panel_grid,
    panel_title,
    styled,
)
from segnb.results.table import (
    SPLITS,
    Measure,
    Row,
    class_ious,
    groups,
    one_count,
    same_seeds,
    summarise,
)

#: The smoothed loss averages over this share of a stage.
SMOOTHING = 0.05

_STAGES = {
    "pretrain": "stage 1: contrastive loss",
    "finetune": "stage 2: cross-entropy",
    "pretrain-pseudo": "stage 1 with pseudo-labels",
    "finetune-pseudo": "stage 2 with pseudo-labels",
}


def loss_curves(logs: Mapping[Series, Sequence[Mapping[str, Any]]]) -> Picture:
    """Loss against steps: a panel for each stage, a smoothed line over the raw one for each run.

    Different stages, and different forms of the contrastive loss, have losses on different scales:
    compare the shapes of their lines, not the heights.

    Args:
        logs: Rows with ``stage``, ``step`` and ``loss`` by the run's method or name. Rows
            without a finite loss are left out.

    Raises:
        ConfigError: No row has a loss.
    """
    points: dict[str, dict[Series, list[tuple[int, float]]]] = {stage: {} for stage in _STAGES}
    for name, rows in logs.items():
        for row in rows:
            loss = row.get("loss")
            if loss is not None and math.isfinite(loss):
                stage = points.setdefault(str(row["stage"]), {})
                stage.setdefault(name, []).append((int(row["step"]), float(loss)))
    curves = {
        name: {run: np.array(sorted(its)).T for run, its in stage.items()}
        for name, stage in points.items()
        if stage
    }
    if not curves:
        raise ConfigError("no rows with a loss: the logs are empty, or training has not begun")
    drawn_as = marks(logs)
    ends = [
        f"{stage}, {name}: {_smooth(losses)[-1]:.2f} at step {steps[-1]:.0f}"
        for stage, runs in curves.items()
        for name, (steps, losses) in runs.items()
    ]
    alt = f"Training loss against steps. Last smoothed values: {'; '.join(ends)}."
    with styled():
        figure, panels = panel_grid(
            [panel_title(_STAGES.get(stage, stage), 1 / len(curves)) for stage in curves],
            height=3.0,
            width=WIDTH if len(curves) > 1 else 0.7 * WIDTH,
            columns=len(curves),
        )
        for axes, runs in zip(panels, curves.values(), strict=True):
            # The first line is the widest, so that it shows beneath another on the same path.
            widths = np.linspace(1.6 + min(len(runs) - 1, 3) * 0.8, 1.6, len(runs))
            for width, (name, (steps, losses)) in zip(widths, runs.items(), strict=True):
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
            axes.set_xlabel("step")
            axes.set_xlim(left=0)
        panels[0].set_ylabel("loss")
        legend_below(figure, panels, drawn_as)
        return Picture(figure, alt)


def iou_per_class(
    rows: Iterable[Row], info: DatasetInfo, *, measure: Measure = "miou_val"
) -> Picture:
    """IoU of each class, one row per class, methods side by side.

    A large mark is the mean over the seeds, a small dot a single seed, a bar the 95 % interval,
    from three seeds on. The classes are sorted by the mean of the last method, the best on top.

    Args:
        rows: Ledger rows with one number of labelled images.
        info: The data set of the rows.
        measure: The mIoU whose classes are told apart.

    Raises:
        ConfigError: See :func:`segnb.results.table.groups`; or the rows have several numbers of
            labelled images.
    """
    found = groups(same_seeds(rows, measure), measure)
    labelled = one_count(found)
    values = {group.method: class_ious(group, info.num_classes, measure=measure) for group in found}
    last = [*values][-1]
    order = sorted(
        range(info.num_classes),
        key=lambda c: summarise(values[last][c]).mean if values[last][c] else -1.0,
    )
    drawn_as = marks(values)
    split = SPLITS[measure]
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
        height = 0.9 + (0.16 + 0.07 * len(values)) * info.num_classes
        figure, (axes,) = panel_grid([""], height=height)
        for band in range(0, info.num_classes, 2):
            axes.axhspan(band - 0.5, band + 0.5, color="#f6f6f6", linewidth=0)
        for rank, (method, per_class) in enumerate(values.items()):
            offset = 0.7 * ((len(values) - 1) / 2 - rank) / max(len(values), 2)
            mark = drawn_as[method]
            means = {
                band + offset: draw_seeds(axes, band + offset, per_class[c], mark, across=True)
                for band, c in enumerate(order)
                if per_class[c]
            }
            look = {"linestyle": "", "markersize": 5, "zorder": 3, **mark.keywords()}
            axes.plot([*means.values()], [*means], label=method.name, **look)
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


def _smooth(losses: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Running mean, each value divided by the weight so far, so that early ones are unbiased."""
    keep = 1 - 1 / max(1.0, SMOOTHING * len(losses))
    total, weight, smoothed = 0.0, 0.0, []
    for loss in losses:
        total, weight = keep * total + loss, keep * weight + 1
        smoothed.append(total / weight)
    return np.array(smoothed)
