"""Finds masks whose edges were smoothed, so that blends of classes look like classes.

It happens when a mask is resized like a photo, drawn with soft edges, or saved as JPEG and then as
PNG. The file reads well; only its content shows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[Any]
_Flags = npt.NDArray[np.bool_]

#: Masks are taken for smoothed from this many blends on, and if half of their values are blends.
FEWEST_BLENDS = 3

#: Share of a value's pixels that stand alone on one ground, from which on it marks points.
_POINTS = 0.3

#: A colour this near to another, in each channel, and this much rarer is that colour, changed.
_NEAR, _RARER = 16, 0.05


def count(masks: Iterable[Codes], *, colours: bool) -> tuple[Counter[int], set[int]]:
    """How many pixels have each value, and which values are blends of others.

    A blend fills no 3x3 pixels anywhere, and lies along edges. In smoothed masks of colours, a rare
    colour very near to another is a blend as well.

    Args:
        masks: Values ``[H, W]``; a colour is one number of 24 bits.
        colours: Values are colours.

    Returns:
        Pixels by value; the values that are blends, empty if the masks are not smoothed.
    """
    counts: Counter[int] = Counter()
    points: Counter[int] = Counter()
    solid: set[int] = set()
    for mask in masks:
        inner = mask[1:-1, 1:-1]
        counts.update(_by_value(mask))
        solid.update(_by_value(inner[_is_solid(mask)]))
        points.update(_by_value(inner[_is_point(mask)]))
    blends = {
        value
        for value, pixels in counts.items()
        if value not in solid and points[value] < _POINTS * pixels
    }
    if len(blends) < FEWEST_BLENDS or 2 * len(blends) < len(counts) or len(solid) < 2:
        return counts, set()
    return counts, blends | (_changed(counts, solid) if colours else set())


def is_mostly_solid(mask: Codes) -> bool:
    """Whether most of a picture is areas of one value, as in a mask, however it was smoothed."""
    solid = _is_solid(mask)
    return solid.size > 0 and bool(solid.mean() > 0.5)


def _changed(counts: Counter[int], solid: set[int]) -> set[int]:
    """Colours that are a much more frequent one, changed a little."""
    kept: list[int] = []
    changed: set[int] = set()
    for value in sorted(solid, key=lambda value: (-counts[value], value)):
        if any(
            counts[value] < _RARER * counts[other] and _distance(value, other) <= _NEAR
            for other in kept
        ):
            changed.add(value)
        else:
            kept.append(value)
    return changed


def _distance(one: int, other: int) -> int:
    return max(abs((one >> shift & 255) - (other >> shift & 255)) for shift in (16, 8, 0))


def _by_value(codes: Codes) -> dict[int, int]:
    if codes.max(initial=0) < 1 << 16:  # sorting takes longer
        found = np.bincount(codes.ravel())
        values = np.flatnonzero(found)
        found = found[values]
    else:
        values, found = np.unique(codes, return_counts=True)
    return dict(zip(values.tolist(), found.tolist(), strict=True))


def _is_solid(mask: Codes) -> _Flags:
    """Inner pixels, ``[H - 2, W - 2]``, whose eight neighbours have their value."""
    middle = mask[1:-1, 1:-1]
    across = (mask[:, :-2] == mask[:, 1:-1]) & (mask[:, 2:] == mask[:, 1:-1])
    down = (mask[:-2, 1:-1] == middle) & (mask[2:, 1:-1] == middle)
    solid: _Flags = down & across[:-2] & across[1:-1] & across[2:]
    return solid


def _is_point(mask: Codes) -> _Flags:
    """Inner pixels, ``[H - 2, W - 2]``, with one other value on all four sides."""
    left, right = mask[1:-1, :-2], mask[1:-1, 2:]
    up, down = mask[:-2, 1:-1], mask[2:, 1:-1]
    points: _Flags = (left == right) & (up == down) & (left == up) & (left != mask[1:-1, 1:-1])
    return points
