"""LabelMe JSON: one file an image, with polygons, rectangles, circles, lines, points and masks."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np
from PIL import Image, ImageDraw

from segnb.datasets.base import IGNORE, Bytes
from segnb.datasets.own.description import BACKGROUND, Value, class_of
from segnb.errors import DataError
from segnb.records import Within, read_json

#: As LabelMe draws them: the width of a line and the diameter of a point, in pixels.
LINE_WIDTH, POINT_SIZE = 10, 10


class _Shape(TypedDict):
    label: str
    points: list[tuple[float, float]]


class _Content(TypedDict):
    shapes: list[_Shape]
    imagePath: str
    imageHeight: Annotated[int, Within(1)]
    imageWidth: Annotated[int, Within(1)]


#: The keys by which a LabelMe file is known.
KEYS = frozenset(("shapes", "imagePath"))


def _read(path: Path) -> dict[str, Any]:
    return read_json(path, _Content, remedy="correct it and save it again")


def shape_labels(path: Path) -> list[str]:
    """The label of every shape.

    Raises:
        DataError: The file cannot be read, or is not LabelMe's.
    """
    return [shape["label"] for shape in _read(path)["shapes"]]


def mask(path: Path, labels: Mapping[Value, int]) -> Bytes:
    """The mask of one image, ``[H, W]`` in class ids; where shapes overlap, the later one counts.

    Args:
        path: The LabelMe file.
        labels: The class id, or ``IGNORE``, of each label; that of ``_background_`` is for pixels
            without a shape, which are void without it.

    Raises:
        DataError: The file is not LabelMe's, a label is unknown, or a shape cannot be drawn.
    """
    values = _read(path)
    size = values["imageWidth"], values["imageHeight"]
    canvas = Image.new("L", size, labels.get(BACKGROUND, IGNORE))
    for number, shape in enumerate(values["shapes"], 1):
        where = f"{path}: shape {number}"
        label = class_of(shape["label"], labels, where)
        kind = shape.get("shape_type") or "polygon"
        try:
            _draw(canvas, kind, [(x, y) for x, y in shape["points"]], shape, label)
        except (KeyError, TypeError, ValueError, OSError, binascii.Error) as error:
            raise DataError(
                f"{where}, a {kind}, cannot be drawn ({error}); correct or remove it"
            ) from error
    return np.array(canvas)


def _draw(
    canvas: Image.Image,
    kind: str,
    points: list[tuple[float, float]],
    shape: dict[str, Any],
    fill: int,
) -> None:
    """Draw one shape as LabelMe's own export does."""
    if not points:
        raise ValueError("it has no points")
    draw = ImageDraw.Draw(canvas)
    if kind in ("polygon", "rotation"):
        if len(points) < 3:
            raise ValueError("it has fewer than three points")
        draw.polygon(points, fill=fill, outline=fill)
    elif kind == "rectangle":
        # Two corners; some programs that write this format give all four.
        (left, *_, right), (top, *_, bottom) = map(sorted, zip(*points, strict=True))
        draw.rectangle([left, top, right, bottom], fill=fill, outline=fill)
    elif kind == "circle":
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill, outline=fill)
    elif kind in ("line", "linestrip"):
        draw.line(points, fill=fill, width=LINE_WIDTH)
    elif kind in ("point", "points"):
        half = POINT_SIZE / 2
        for x, y in points:
            draw.ellipse([x - half, y - half, x + half, y + half], fill=fill, outline=fill)
    elif kind == "mask":
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as part:
            stencil = part.convert("L").point(lambda value: 255 if value else 0)
        (left, top), _ = points
        canvas.paste(fill, (round(left), round(top)), stencil)
    else:
        raise ValueError("segnb knows no such shape")
