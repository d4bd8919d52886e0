"""Shapes: toys on a beach, drawn from a seed; the data set that needs no file and no network.

Each scene has sky, sea and sand, directional light, and two to four large toys. Each kind of toy
has its own shape and pattern: a ball has panels that meet at a pole, a swim ring bands, a towel
stripes, a starfish dots, a kite checks. Everything else varies from scene to scene: paints, light,
weather, background, position, size and rotation. Colours carry no information, because all toys of
a scene use the same set of paints. So a few labelled scenes leave much to learn, while a small
network can learn it from all of them in minutes. Pebbles count as the sky, sea or sand behind them.

Scenes are laid out in units of the image's height, so a seed gives the same scene at any size.
"""

# numpy types float32 arithmetic with Python numbers as Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segnb.datasets.base import Bytes, DatasetInfo, Sample, Split
from segnb.errors import DataError

Floats = npt.NDArray[np.float32]

#: Shape and pattern of each kind of toy.
_TOYS: dict[str, tuple[str, str]] = {
    "ball": ("disc", "panels"),
    "swim ring": ("ring", "bands"),
    "towel": ("box", "stripes"),
    "starfish": ("star", "dots"),
    "kite": ("kite", "checks"),
}
_STUFF = ("sky", "sea", "sand")
_SKY, _SEA, _SAND = range(3)

#: Chosen by search: any two differ by 25 or more in CIELAB, for normal vision and for each of the
#: three types of colour blindness (simulated as in Machado et al. 2009).
_PALETTE = {
    "sky": (136, 204, 238),
    "sea": (40, 70, 150),
    "sand": (221, 204, 119),
    "ball": (242, 145, 145),
    "swim ring": (145, 48, 242),
    "towel": (61, 153, 31),
    "starfish": (204, 61, 133),
    "kite": (194, 242, 48),
}

INFO = DatasetInfo(
    name="shapes",
    class_names=(*_STUFF, *_TOYS),
    palette=tuple(_PALETTE[name] for name in (*_STUFF, *_TOYS)),
    licence="Made by this package from a seed; free to use in any way.",
    homepage="made on the spot by segnb.datasets.shapes",
)

_COUNTS: dict[Split, int] = {"train": 512, "val": 64, "test": 128}

#: A scene is 4:3; images of other shapes show all of it, with more sky, sand or sides.
_ASPECT = 4 / 3

#: Moods: upper sky, sky at the horizon, sea, sand, light (red, green, blue in 0-1 each).
_MOODS = np.array(
    [
        # noon
        [(0.36, 0.62, 0.86), (0.76, 0.88, 0.94), (0.16, 0.50, 0.62), (0.90, 0.80, 0.60), (1, 1, 1)],
        # golden hour
        [
            (0.45, 0.52, 0.74),
            (0.98, 0.80, 0.58),
            (0.34, 0.50, 0.60),
            (0.86, 0.68, 0.48),
            (1.04, 0.95, 0.84),
        ],
        # dusk
        [
            (0.33, 0.29, 0.52),
            (0.93, 0.60, 0.56),
            (0.36, 0.32, 0.52),
            (0.62, 0.50, 0.50),
            (0.98, 0.88, 0.95),
        ],
        # overcast
        [
            (0.62, 0.67, 0.71),
            (0.82, 0.84, 0.84),
            (0.42, 0.52, 0.54),
            (0.72, 0.68, 0.60),
            (0.94, 0.96, 0.98),
        ],
        # lagoon
        [
            (0.44, 0.74, 0.80),
            (0.88, 0.94, 0.88),
            (0.26, 0.68, 0.66),
            (0.95, 0.88, 0.76),
            (1.02, 1, 0.97),
        ],
        # black sand
        [
            (0.50, 0.60, 0.72),
            (0.86, 0.84, 0.82),
            (0.22, 0.38, 0.44),
            (0.40, 0.37, 0.37),
            (0.98, 0.98, 1),
        ],
    ],
    np.float32,
)

#: Sets of paints; each scene uses one set for all toys.
_PAINTS = np.array(
    [
        [0xE8505B, 0xF9D56E, 0xF3ECC2, 0x14B1AB, 0x2B4C7E],
        [0xF4A261, 0xE76F51, 0x2A9D8F, 0x264653, 0xF1E3C6],
        [0xEF476F, 0xFFD166, 0x06D6A0, 0x118AB2, 0xFDF6E3],
        [0x6D597A, 0xB56576, 0xE56B6F, 0xEAAC8B, 0xF7EDE2],
        [0x355070, 0x84A59D, 0xF28482, 0xF6BD60, 0xF7EDE2],
        [0x3D5A80, 0x98C1D9, 0xE0FBFC, 0xEE6C4D, 0x293241],
        [0x588157, 0xA3B18A, 0xDAD7CD, 0xBC6C25, 0x344E41],
        [0x9B5DE5, 0xF15BB5, 0xFEE440, 0x00BBF9, 0xFFF8E8],
    ],
    np.int64,
)


class ShapesDataset:
    """One split of the procedural beach scenes.

    Splits never share a scene. A scene is drawn when it is requested, in about three milliseconds
    at the default size.

    Args:
        split: ``train``, ``val`` or ``test``.
        size: Height and width of the images, in pixels.
        count: Number of scenes; 512, 64 and 128 by default. The first scenes stay the same.
        seed: Another seed gives another data set of the same kind.

    Raises:
        DataError: An unknown split, a size under 16 pixels, a count below 1, a negative seed.
    """

    def __init__(
        self,
        split: Split,
        *,
        size: tuple[int, int] = (96, 128),
        count: int | None = None,
        seed: int = 0,
    ) -> None:
        if split not in _COUNTS:
            raise DataError(f"shapes: no split {split!r}; it has {', '.join(_COUNTS)}.")
        if min(size) < 16:
            raise DataError(f"shapes: size is {size}; both sides must be 16 pixels or more.")
        if count is not None and count < 1:
            raise DataError(f"shapes: count is {count}; it must be 1 or more.")
        if seed < 0:
            raise DataError(f"shapes: seed is {seed}; it must be 0 or more.")
        self.info = INFO
        self.split: Split = split
        self.size = size
        self.seed = seed
        length = _COUNTS[split] if count is None else count
        self.ids = tuple(f"{split}-{index:04d}" for index in range(length))

    @property
    def fingerprint(self) -> str:
        """Changes with the arguments and with this module's source code."""
        drawn_by = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
        return f"{self.split}-{len(self)}-{self.size}-{self.seed}-{drawn_by}"

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"shapes: no scene {index} among {len(self)}")
        index %= len(self)
        rng = np.random.default_rng([self.seed, list(_COUNTS).index(self.split), index])
        image, mask = _draw_scene(rng, self.size)
        return Sample(image, mask, self.ids[index])

    def mask(self, index: int) -> Bytes:
        """Only the mask of ``ids[index]``."""
        return self[index].mask


@dataclass(frozen=True)
class _Thing:
    """A toy or a pebble: its position, shape and paint, in scene units.

    Attributes:
        label: Class of a toy; ``None`` for a pebble.
        shape: A name in ``_OUTLINES``.
        pattern: A name in ``_PATTERNS``, or ``plain``.
        x, y: Its centre.
        radius: From the centre to the outline.
        angle: Its rotation, in radians.
        squash: Height over width before the rotation.
        fineness: Fineness of the pattern, 0 to 1.
        phase: Offset of the pattern.
        paint: Two colours ``[2, 3]``.
    """

    label: int | None
    shape: str
    pattern: str
    x: float
    y: float
    radius: float
    angle: float
    squash: float
    fineness: float
    phase: tuple[float, float]
    paint: Floats


@dataclass(frozen=True)
class _Frame:
    """Scene coordinates of an image's pixels."""

    x: Floats
    y: Floats
    unit: float


@functools.lru_cache(maxsize=8)
def _frame(size: tuple[int, int]) -> _Frame:
    height, width = size
    unit = min(height, width / _ASPECT)
    y = (np.arange(height, dtype=np.float32) + 0.5 - height / 2) / unit + 0.5
    x = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / unit + _ASPECT / 2
    return _Frame(x, y, unit)


def _draw_scene(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Bytes, Bytes]:
    frame = _frame(size)
    toward = rng.uniform(0, 2 * np.pi)
    light = np.array([np.cos(toward), -0.4 - 0.6 * abs(np.sin(toward))], np.float32)
    light /= np.hypot(*light)
    weight = np.float32(rng.beta(0.6, 0.6))
    first, second = rng.choice(len(_MOODS), 2, replace=False)
    mood = weight * _MOODS[first] + (1 - weight) * _MOODS[second]

    image, mask, horizon = _draw_backdrop(rng, frame, mood)
    behind = mask.copy()
    shadow = np.float32(rng.uniform(0.25, 0.5))
    for thing in _lay_out(rng, horizon):
        where, inside = _draw_thing(image, behind, thing, frame, light, shadow)
        mask[where][inside] = behind[where][inside] if thing.label is None else thing.label

    exposure = rng.uniform(0.82, 1.12)
    fall = (
        1
        + 0.12 * light[0] * (frame.x - _ASPECT / 2)[None, :]
        + 0.12 * light[1] * (frame.y - 0.5)[:, None]
    )
    image *= fall * np.float32(exposure)
    image *= mood[4][:, None, None]
    image += _noise(rng, size, (96, 128)) * np.float32(rng.uniform(0.01, 0.03))
    np.clip(image, 0, 1, out=image)
    image *= 255
    image += 0.5
    return np.ascontiguousarray(image.astype(np.uint8).transpose(1, 2, 0)), mask


def _draw_backdrop(
    rng: np.random.Generator, frame: _Frame, mood: Floats
) -> tuple[Floats, Bytes, float]:
    """Draw sky, sea and sand; returns image ``[3, H, W]``, mask and the height of the horizon."""
    size = (len(frame.y), len(frame.x))
    x, y = frame.x[None, :], frame.y[:, None]
    above, haze, sea, sand, _ = mood[:, :, None, None]
    pixel = np.float32(1 / frame.unit)

    horizon = rng.uniform(-0.10, 0.42)
    tilt = rng.normal(0, 0.03)
    shore = horizon + max(0.0, rng.uniform(-0.05, 0.36))
    swing, wave, phase = rng.uniform(0.01, 0.05), rng.uniform(2, 6), rng.uniform(0, 6.3)
    slope = rng.normal(0, 0.12)
    sky_line = horizon + tilt * (x - _ASPECT / 2)
    sea_line = sky_line + np.maximum(
        shore - horizon + slope * (x - _ASPECT / 2) + swing * np.sin(wave * x + phase), 0
    )
    depth = (y - sky_line).astype(np.float32)

    clouds = (
        _noise(rng, size, (11, 5))
        + np.float32(0.6) * _noise(rng, size, (23, 12))
        + np.float32(0.35) * _noise(rng, size, (53, 31))
    )
    ripples = _noise(rng, size, (40, 12))
    dunes = _noise(rng, size, (9, 5)) + np.float32(0.5) * _noise(rng, size, (21, 13))
    grain = _noise(rng, size, (48, 64))

    up = np.clip(1 + depth * np.float32(2.2), 0, 1)
    cover = np.clip((clouds - np.float32(rng.uniform(0, 1.2))) * 1.2, 0, np.float32(0.85))
    sky_image = above + (haze - above) * up
    sky_image += (np.float32(0.97) - sky_image) * cover * np.float32(0.8)

    far = np.clip(1 - depth * 3, 0, 1)
    glint = np.clip(ripples - np.float32(0.7), 0, 1) * np.float32(rng.uniform(0.1, 0.4))
    sea_image = sea + (haze - sea) * (far * np.float32(0.45))
    sea_image *= 1 + np.float32(0.10) * ripples
    sea_image += glint

    ridge = np.float32(rng.uniform(0.02, 0.10))
    speck = np.float32(rng.uniform(0.02, 0.06))
    sand_image = sand * (1 + ridge * dunes + speck * grain)

    sky_alpha = np.clip(np.float32(0.5) - depth / pixel, 0, 1)
    edge = (y - sea_line).astype(np.float32)
    sand_alpha = np.clip(np.float32(0.5) + edge / pixel, 0, 1)
    # Wet sand is darker, and there is foam along the shore.
    has_sea = np.clip((sea_line - sky_line) * 20, 0, 1)
    wet = np.clip(1 - edge * np.float32(14), 0, 1) * has_sea
    sand_image *= 1 - np.float32(0.22) * wet
    image = sea_image + (sand_image - sea_image) * sand_alpha
    foam = np.exp(-(((edge + 0.012 * ripples) / np.float32(0.012)) ** 2)) * has_sea
    image += (np.float32(0.96) - image) * (foam * np.float32(0.75))
    image += (sky_image - image) * sky_alpha

    mask = np.where(sand_alpha >= 0.5, np.uint8(_SAND), np.uint8(_SEA))
    mask[sky_alpha >= 0.5] = _SKY
    return image.astype(np.float32, copy=False), mask, horizon


def _lay_out(rng: np.random.Generator, horizon: float) -> list[_Thing]:
    """All toys and pebbles, from far to near."""
    toys = rng.permutation(len(_TOYS))[: rng.integers(2, 5)]
    chosen: list[tuple[int | None, str, str]] = [
        (len(_STUFF) + toy, *list(_TOYS.values())[toy]) for toy in toys.tolist()
    ]
    chosen += [(None, "disc", "plain")] * int(rng.integers(4))

    paints = _paint_pairs(rng)
    ground = min(max(horizon + 0.1, 0.1), 0.5)
    things: list[_Thing] = []
    for label, shape, pattern in chosen:
        is_toy = label is not None
        # Half of the kites may be in the sky.
        top = 0.1 if shape == "kite" and rng.random() < 0.5 else ground
        reach = rng.uniform(0.24, 0.36) if is_toy else rng.uniform(0.02, 0.045)
        # Of 12 random positions, the first one with the least overlap.
        centres = rng.random((12, 2)) * (_ASPECT - 0.2, 0.88 - top) + (0.1, top)
        x, y = min(centres.tolist(), key=lambda centre: _overlap(centre, reach, things))
        things.append(
            _Thing(
                label=label,
                shape=shape,
                pattern=pattern,
                x=x,
                y=y,
                radius=reach * (0.7 + 0.4 * y),
                angle=2 * np.pi * rng.random(),
                squash=rng.uniform(0.78, 1),
                fineness=rng.random(),
                phase=(rng.random(), rng.random()),
                paint=paints[rng.integers(len(paints))],
            )
        )
    return sorted(things, key=lambda thing: thing.y)


def _overlap(centre: list[float], radius: float, things: list[_Thing]) -> float:
    x, y = centre
    depths = [radius + thing.radius - math.hypot(thing.x - x, thing.y - y) for thing in things]
    return max([0.0, *depths])


def _draw_thing(
    image: Floats,
    behind: Bytes,
    thing: _Thing,
    frame: _Frame,
    light: Floats,
    shadow: np.float32,
) -> tuple[tuple[slice, slice], npt.NDArray[np.bool_]]:
    """Paint one thing and its shadow over the image.

    Returns:
        A window of the image, and which of its pixels the thing covers.
    """
    throw = 0.28 * thing.radius
    dx, dy = -light[0] * throw, -light[1] * throw
    reach = 1.5 * thing.radius
    rows = _span(frame.y, thing.y, reach)
    columns = _span(frame.x, thing.x, reach)
    u = ((frame.x[columns] - np.float32(thing.x)) / np.float32(thing.radius))[None, :]
    v = ((frame.y[rows] - np.float32(thing.y)) / np.float32(thing.radius))[:, None]
    outline = _OUTLINES[thing.shape]
    cos, sin = np.float32(np.cos(thing.angle)), np.float32(np.sin(thing.angle))
    squash = np.float32(1 / thing.squash)

    def local(across: Floats, down: Floats) -> tuple[Floats, Floats]:
        return cos * across + sin * down, squash * (cos * down - sin * across)

    window = image[:, rows, columns]
    fallen = outline(*local(u - np.float32(dx / thing.radius), v - np.float32(dy / thing.radius)))
    cast = np.clip(np.float32(0.5) - fallen * np.float32(2.2), 0, 1)
    cast *= shadow * (behind[rows, columns] != _SKY)
    window *= 1 - cast

    p, q = local(u, v)
    distance = outline(p, q)
    radius_pixels = np.float32(thing.radius * frame.unit)
    cover = np.clip(np.float32(0.5) - distance * radius_pixels, 0, 1)
    body = _paint(thing, p, q, radius_pixels)
    body *= _shade(thing.shape, u, v, distance, light)
    if thing.shape == "disc":
        spot = (u - np.float32(0.42) * light[0]) ** 2 + (v - np.float32(0.42) * light[1]) ** 2
        body += np.float32(0.22) * np.exp(np.float32(-9) * spot)
    body -= window
    body *= cover
    window += body

    return (rows, columns), cover >= 0.5


def _span(axis: Floats, centre: float, reach: float) -> slice:
    first, last = np.searchsorted(axis, [centre - reach, centre + reach])
    return slice(int(first), int(last))


def _paint(thing: _Thing, p: Floats, q: Floats, radius_pixels: np.float32) -> Floats:
    """The two paints in the thing's pattern, antialiased; ``[3, h, w]``."""
    one, two = thing.paint[:, :, None, None]
    if thing.pattern == "plain":
        return one + np.zeros_like(p)
    return one + (two - one) * _PATTERNS[thing.pattern](thing, p, q, radius_pixels)


def _panels(thing: _Thing, p: Floats, q: Floats, radius_pixels: np.float32) -> Floats:
    """Six or eight panels that meet at a pole, under a cap."""
    p = p - np.float32(0.42)
    count = 3 + round(thing.fineness)
    length = np.sqrt(p * p + q * q)
    share = _around(p, q, length, count, thing.phase[0], radius_pixels)
    return share * _soft(length - np.float32(0.17), radius_pixels)


def _bands(thing: _Thing, p: Floats, q: Floats, radius_pixels: np.float32) -> Floats:
    count = 4 + round(thing.fineness)
    return _around(p, q, np.sqrt(p * p + q * q), count, thing.phase[0], radius_pixels)


def _around(
    p: Floats, q: Floats, length: Floats, count: int, phase: float, radius_pixels: np.float32
) -> Floats:
    turns = np.arctan2(q, p) * np.float32(count / (2 * np.pi)) + np.float32(phase)
    return _soft(_zigzag(turns), length * np.float32(2 * np.pi / count) * radius_pixels)


def _stripes(thing: _Thing, p: Floats, q: Floats, radius_pixels: np.float32) -> Floats:
    rate = np.float32(2.0 + 0.8 * thing.fineness)
    return _soft(_zigzag(p * rate + np.float32(thing.phase[0])), radius_pixels / rate)


def _checks(thing: _Thing, p: Floats, q: Floats, radius_pixels: np.float32) -> Floats:
    rate = np.float32(1.7 + 0.6 * thing.fineness)
    one, other = (
        _soft(_zigzag(axis * rate + np.float32(phase)), radius_pixels / rate)
        for axis, phase in zip((p, q), thing.phase, strict=True)
    )
    return one + other - 2 * one * other


def _dots(thing: _Thing, p: Floats, q: Floats, radius_pixels: np.float32) -> Floats:
    rate = np.float32(2.0 + 0.6 * thing.fineness)
    down = q * rate + np.float32(thing.phase[1])
    across = p * rate + np.float32(thing.phase[0]) + np.float32(0.5) * (np.floor(down) % 2)
    across -= np.floor(across) + np.float32(0.5)
    down = down - np.floor(down) - np.float32(0.5)
    away = np.sqrt(across * across + down * down)
    return _soft(np.float32(0.3) - away, radius_pixels / rate)


_PATTERNS: dict[str, Callable[[_Thing, Floats, Floats, np.float32], Floats]] = {
    "panels": _panels,
    "bands": _bands,
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
}


def _zigzag(phase: Floats) -> Floats:
    """Signed distance to the nearest edge of a square wave of period 1."""
    return np.float32(0.25) - np.abs(phase - np.floor(phase) - np.float32(0.5))


def _soft(distance: Floats, steep: Floats | np.float32) -> Floats:
    return np.clip(np.float32(0.5) + distance * steep, 0, 1)


def _shade(shape: str, u: Floats, v: Floats, distance: Floats, light: Floats) -> Floats:
    """Brightness from the direction of the light; round things are darker on the far side."""
    facing = u * light[0] + v * light[1]
    if shape == "ring":
        length = np.sqrt(u * u + v * v) + np.float32(1e-3)
        facing = facing / length * np.clip((length - np.float32(0.68)) * 3, -1, 1)
    depth = 0.12 if shape in ("box", "kite") else 0.26
    rim = np.clip(1 + distance * np.float32(7), 0, 1)
    return 1 + np.float32(depth) * facing - np.float32(0.13) * rim


def _disc(p: Floats, q: Floats) -> Floats:
    return np.sqrt(p * p + q * q) - 1


def _ring(p: Floats, q: Floats) -> Floats:
    return np.abs(np.sqrt(p * p + q * q) - np.float32(0.69)) - np.float32(0.31)


def _box(p: Floats, q: Floats) -> Floats:
    a = np.maximum(np.abs(p) - np.float32(0.72), 0)
    b = np.maximum(np.abs(q) - np.float32(0.72), 0)
    inner = np.maximum(np.abs(p), np.abs(q)) - np.float32(0.84)
    return np.where(inner < np.float32(-0.12), inner, np.sqrt(a * a + b * b) - np.float32(0.12))


def _star(p: Floats, q: Floats) -> Floats:
    length = np.sqrt(p * p + q * q)
    arm = np.float32(0.5) + np.float32(0.5) * np.cos(5 * np.arctan2(q, p))
    return (length - np.float32(0.54) - np.float32(0.58) * arm * arm) * np.float32(0.7)


def _kite(p: Floats, q: Floats) -> Floats:
    down = np.where(q > 0, q / np.float32(1.45), q / np.float32(-0.65))
    return (np.abs(p) / np.float32(0.88) + down - 1) * np.float32(0.6)


_OUTLINES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "disc": _disc,
    "ring": _ring,
    "box": _box,
    "star": _star,
    "kite": _kite,
}


def _paint_pairs(rng: np.random.Generator) -> Floats:
    """Pairs of paints from one set, ``[pairs, 2, 3]``.

    The paints are varied slightly, so that no two scenes have exactly the same colours. The two
    paints of a pair differ in brightness, so that the pattern is visible.
    """
    packed = _PAINTS[rng.integers(len(_PAINTS))]
    paints = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], 1) / 255
    paints = np.clip(paints + rng.normal(0, 0.04, paints.shape), 0, 1).astype(np.float32)
    bright = paints @ np.array([0.3, 0.59, 0.11], np.float32)
    one, two = np.nonzero(np.abs(bright[:, None] - bright) > 0.28)
    return np.stack([paints[one], paints[two]], 1)


def _noise(rng: np.random.Generator, size: tuple[int, int], lattice: tuple[int, int]) -> Floats:
    """Smooth noise around 0: values of unit variance on a lattice, interpolated between points."""
    values = (rng.random(lattice, dtype=np.float32) - np.float32(0.5)) * np.float32(12**0.5)
    return _blend(size[0], lattice[0]) @ values @ _blend(size[1], lattice[1]).T


@functools.lru_cache(maxsize=32)
def _blend(side: int, points: int) -> Floats:
    position = (np.arange(side) + 0.5) / side * (points - 1)
    gap = np.abs(position[:, None] - np.arange(points))
    weights = np.where(gap < 1, 0.5 + 0.5 * np.cos(np.pi * np.minimum(gap, 1)), 0)
    return weights.astype(np.float32)
