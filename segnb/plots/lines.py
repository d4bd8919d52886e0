"""Plain lines: a few quantities against another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from segnb.plots.style import (
    QUIET,
    WIDTH,
    Picture,
    legend_below,
    log_ticks,
    marks,
    panel_grid,
    styled,
)

#: A logarithmic axis with at most so many positions names each of them.
_NAMED_TICKS = 6


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    log: Literal["", "x", "y", "xy"] = "",
    levels: Mapping[str, float] | None = None,
) -> Picture:
    """Lines, each with its own colour and mark, and level lines to compare them with.

    Args:
        series: Positions and values by name.
        xlabel: What the positions are.
        ylabel: What the values are.
        log: Which axes are logarithmic.
        levels: Values of level lines by name.

    Raises:
        ValueError: There is nothing to draw, or positions and values differ in number.
    """
    if not any(len(x) for x, _ in series.values()):
        raise ValueError("no points to draw")
    for name, (x, y) in series.items():
        if len(x) != len(y):
            raise ValueError(f"{name!r} has {len(x)} positions and {len(y)} values")
    drawn_as = marks(series)
    levels = levels or {}
    alt = f"{ylabel} against {xlabel}. " + " ".join(
        f"{name}: from {y[0]:.3g} at {x[0]:.3g} to {y[-1]:.3g} at {x[-1]:.3g}."
        for name, (x, y) in series.items()
        if len(x)
    )
    alt += "".join(f" Level line {name} at {value:.3g}." for name, value in levels.items())
    with styled():
        figure, (axes,) = panel_grid([""], height=3.4, width=0.78 * WIDTH)
        for name, (x, y) in series.items():
            mark = drawn_as[name]
            crowded = len(x) > 40
            look: dict[str, Any] = {"color": mark.colour} if crowded else mark.keywords()
            axes.plot(
                np.asarray(x, float),
                np.asarray(y, float),
                label=name,
                markersize=4.5,
                linewidth=1.2 if crowded else 1.6,
                **look,
            )
        for name, value in levels.items():
            axes.axhline(value, color="#777777", linestyle="--", linewidth=1)
            at: dict[str, Any] = {
                "xy": (0.01, value),
                "xycoords": ("axes fraction", "data"),
                "va": "bottom",
            }
            axes.annotate(name, fontsize=8, color=QUIET, **at)
        if "x" in log:
            axes.set_xscale("log")
            ticks = sorted({float(tick) for x, _ in series.values() for tick in x})
            # A few positions name themselves: powers of ten are seldom among them.
            if len(ticks) <= _NAMED_TICKS and _apart(ticks):
                log_ticks(axes, ticks, [f"{tick:,g}" for tick in ticks])
        if "y" in log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.set(xlabel=xlabel, ylabel=ylabel)
        if len(series) > 1:
            legend_below(figure, [axes])
        return Picture(figure, alt)


def _apart(ticks: Sequence[float]) -> bool:
    """Whether labels at these ticks of a logarithmic axis do not overlap."""
    gaps = np.diff(np.log(ticks))
    return len(gaps) > 0 and float(gaps.min()) > 0.1 * float(gaps.sum())
