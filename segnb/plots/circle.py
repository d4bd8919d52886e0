"""Pixels on a circle with the forces of a loss, and a film of their training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from segnb import circle
from segnb.circle import Scene
from segnb.methods import BLUE, GREEN, ORANGE, PINK
from segnb.plots.film import Film, animated
from segnb.plots.style import (
    FAINT,
    PULL,
    PUSH,
    QUIET,
    WIDTH,
    Picture,
    arrow,
    new_figure,
    styled,
)

#: Colours and marks of the classes.
_COLOURS = (BLUE, ORANGE, GREEN, PINK)
_MARKS = "os^D"
#: Class vectors end at the first radius, arrows of forces lie on the second.
_VECTOR, _ARROWS = 0.62, 1.17

_SHORT: dict[circle.Loss, str] = {
    "infonce": "InfoNCE",
    "supcon": "SupCon",
    "paper": "paper form",
    "official": "official form",
    "cross-entropy": "cross-entropy",
}

Floats = npt.NDArray[np.float64]


def circle_forces(
    scene: Scene,
    loss: circle.Loss,
    *,
    temperature: float = 0.3,
    pixel: int = 0,
    times_temperature: bool = False,
) -> Picture:
    """The circle with the force on every pixel, and the partners that pull and push one of them.

    Left: first views are filled, distorted views open. An arrow outside the circle is the force on
    its pixel, on a fixed scale, so that two temperatures can be compared. Lines join the chosen
    pixel to the partners that move it; wider lines are larger parts of its force. Right: these
    parts as bars, nearest partner first.

    Args:
        scene: The pixels.
        loss: Which loss.
        temperature: τ.
        pixel: The chosen pixel, 0 to 2N - 1.
        times_temperature: Draw forces times τ, which shows how the force is shared out.

    Raises:
        ValueError: See :func:`segnb.circle.forces`; or there is no such pixel.
    """
    if not 0 <= pixel < len(scene.angles):
        raise ValueError(f"pixel is {pixel}; it must be 0 to {len(scene.angles) - 1}")
    found = circle.forces(scene, loss, temperature=temperature)
    # The loss is a mean over N anchors; its force alone would shrink as pixels are added.
    scale = scene.pixels * (temperature if times_temperature else 1.0)
    parts, total = scale * found.pairs[pixel], scale * found.total
    vectors = loss == "cross-entropy"
    partners = scene.vectors if vectors else scene.angles
    # Positive where a part moves the pixel towards its partner.
    pull = parts * np.sign(np.sin(partners - scene.angles[pixel]))
    alt = (
        f"{len(scene.angles)} pixel views of {len(scene.vectors)} classes on a circle under "
        f"{circle.LOSS_NAMES[loss]}, temperature {temperature:.2g}, loss {found.loss:.2f}. "
        f"Pixel {pixel}: {(pull > 1e-12).sum()} partners pull it with "
        f"{pull[pull > 0].sum():.2f} in all, {(pull < -1e-12).sum()} push it with "
        f"{-pull[pull < 0].sum():.2f}."
    )
    with styled():
        figure = new_figure(WIDTH, 3.9, tight=False)
        left = figure.add_axes((0.0, 0.0, 0.54, 0.87))
        right = figure.add_axes((0.66, 0.14, 0.32, 0.73))
        _draw_circle(left, scene, vectors=vectors, total=total)
        x, y = np.cos(scene.angles[pixel]), np.sin(scene.angles[pixel])
        widest = max(float(np.abs(parts).max()), 1e-12)
        for angle, part, towards in zip(partners, parts, pull, strict=True):
            if abs(part) > 0.01 * widest:
                reach = _VECTOR if vectors else 1.0
                left.plot(
                    [x, reach * np.cos(angle)],
                    [y, reach * np.sin(angle)],
                    color=PULL if towards > 0 else PUSH,
                    linewidth=0.5 + 3.5 * abs(part) / widest,
                    alpha=0.55,
                    zorder=1,
                    solid_capstyle="round",
                )
        left.plot([x], [y], "o", markersize=17, markerfacecolor="none", color="black", zorder=5)
        left.set_title(
            f"{circle.LOSS_NAMES[loss]}, τ = {temperature:.2g}\n"
            f"loss {found.loss:.2f}, Fisher ratio {_ratio(scene)}"
        )
        _draw_parts(right, scene, pixel, pull, vectors=vectors)
        unit = "force × τ" if times_temperature else "force"
        right.set_xlabel(f"← pushes    {unit}    pulls →")
        right.set_title("who moves the ringed pixel")
        return Picture(figure, alt)


def circle_film(
    films: Sequence[tuple[circle.Loss, Sequence[Scene]]],
    *,
    temperature: float = 0.3,
    frames: int = 24,
    milliseconds: int = 130,
) -> Film:
    """Several losses training side by side on the same pixels, as one animated PNG.

    Args:
        films: Each loss and its scenes, as :func:`segnb.circle.train` makes them.
        temperature: τ, for the arrows.
        frames: How many of the scenes are shown; early ones, where most happens, more often.
        milliseconds: Time of one frame; the first and the last stay longer.

    Raises:
        ValueError: There are no films, or they differ in length.
    """
    lengths = {len(scenes) for _, scenes in films}
    if len(lengths) != 1:
        raise ValueError(f"films need one length, got {sorted(lengths) or 'none'}")
    shown = np.unique((np.linspace(0, 1, frames) ** 2 * (lengths.pop() - 1)).round().astype(int))
    width, height = 2.35 * len(films), 2.75
    figures = []
    for index in shown:
        with styled():
            figure = new_figure(width, height, tight=False, pixels=90)
            for column, (loss, scenes) in enumerate(films):
                axes = figure.add_axes((column / len(films), 0.0, 1 / len(films), 0.84))
                scene = scenes[index]
                total = scene.pixels * circle.forces(scene, loss, temperature=temperature).total
                _draw_circle(axes, scene, vectors=loss == "cross-entropy", total=total)
                axes.set_title(f"{_SHORT[loss]}\nFisher ratio {_ratio(scene)}", fontsize=8.5)
            figure.text(0.995, 0.01, f"step {index}", ha="right", color=QUIET, fontsize=8)
        figures.append(figure)
    first, last = (
        ", ".join(f"{_SHORT[loss]} {_ratio(scenes[i])}" for loss, scenes in films) for i in (0, -1)
    )
    alt = (
        f"Animation: {len(films[0][1][0].labels)} pixel views of {len(films[0][1][0].vectors)} "
        f"classes on a circle, {shown[-1]} steps of training. Fisher ratio at first {first}; "
        f"at the end {last}."
    )
    return animated(figures, alt, milliseconds=milliseconds)


def _ratio(scene: Scene) -> str:
    """The Fisher ratio; beyond 100 a class is a dot, and digits say no more."""
    ratio = circle.fisher(scene)
    return f"{ratio:.1f}" if ratio <= 100 else "above 100"


def _draw_circle(axes: Axes, scene: Scene, *, vectors: bool, total: Floats) -> None:
    around = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(around), np.sin(around), color=FAINT, linewidth=1.2, zorder=0)
    if vectors:
        for c, angle in enumerate(scene.vectors):
            end = (_VECTOR * np.cos(angle), _VECTOR * np.sin(angle))
            arrow(axes, (0, 0), end, colour=_COLOURS[c], width=2.2)
    for k, (c, angle) in enumerate(zip(scene.labels, scene.angles, strict=True)):
        look = _view(c, distorted=k >= scene.pixels)
        axes.plot(np.cos(angle), np.sin(angle), markersize=7, zorder=4, **look)
    for angle, force in zip(scene.angles, total, strict=True):
        # A force acts along the circle, so a long arrow is an arc.
        arc = angle + np.linspace(0, np.clip(0.12 * force, -1.2, 1.2), 12)
        if abs(arc[-1] - arc[0]) >= 0.015:
            x, y = _ARROWS * np.cos(arc), _ARROWS * np.sin(arc)
            axes.plot(x, y, color=QUIET, linewidth=1.1, zorder=2)
            arrow(axes, (x[-2], y[-2]), (x[-1], y[-1]), head=8)
    axes.set(xlim=(-1.42, 1.42), ylim=(-1.36, 1.36), aspect="equal")
    axes.axis("off")


def _draw_parts(axes: Axes, scene: Scene, pixel: int, pull: Floats, *, vectors: bool) -> None:
    """A bar for each partner that moves the pixel, nearest on the circle first."""
    partners = scene.vectors if vectors else scene.angles
    classes = np.arange(len(scene.vectors)) if vectors else scene.labels
    away = np.abs(np.angle(np.exp(1j * (partners - scene.angles[pixel]))))
    order = [k for k in np.argsort(away) if abs(pull[k]) > 1e-12][:14]
    limit = 1.15 * max((abs(pull[k]) for k in order), default=1.0)
    for row, k in enumerate(order):
        colour = PULL if pull[k] > 0 else PUSH
        axes.barh(row, pull[k], height=0.7, color=colour, alpha=0.75, zorder=3)
        look = _view(classes[k], distorted=not vectors and k >= scene.pixels)
        axes.plot(-limit * 1.12, row, markersize=5.5, clip_on=False, **look)
    axes.axvline(0, color="#888888", linewidth=0.8)
    axes.set(xlim=(-limit, limit), ylim=(max(len(order), 1) - 0.4, -0.6), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.set_ylabel("nearest partner first" if order else "no partner moves it", labelpad=18)


def _view(label: int, *, distorted: bool) -> dict[str, Any]:
    """Keywords of the mark of a pixel's view; distorted views are open."""
    colour = _COLOURS[label]
    return {
        "marker": _MARKS[label],
        "linestyle": "",
        "color": colour,
        "markerfacecolor": "white" if distorted else colour,
        "markeredgewidth": 1.4,
    }
