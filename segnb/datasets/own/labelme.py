"""LabelMe JSON: one file an image, with polygons, rectangles, circles, lines, points and masks."""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segnb.datasets.base import IGNORE, Bytes
from segnb.datasets.own.description import BACKGROUND, Value
from segnb.errors import DataError

#: As LabelMe draws them: the width of a line and the diameter of a point, in pixels.
LINE_WIDTH, POINT_SIZE = 10, 10


def is_labelme(values: object) -> bool:
    """Whether the content of a JSON file is LabelMe's."""
    return isinstance(values, dict) and {"shapes", "imagePath"} <= values.keys()


def read_labelme(path: Path) -> dict[str, Any]:
    """The content of a LabelMe file.

    Raises:
        DataError: It cannot be read, or is not LabelMe's.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not JSON ({error}); save it again") from error
    if not is_labelme(values):
        raise DataError(f"{path} is not LabelMe's: it needs shapes and imagePath")
    found: dict[str, Any] = values
    return found


def shape_labels(path: Path) -> list[str]:
    """The label of every shape."""
    try:
        return [str(shape["label"]) for shape in read_labelme(path)["shapes"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} has a shape without a label ({error}); save it again") from error


def mask(path: Path, labels: Mapping[Value, int]) -> Bytes:
    """The mask of one image, ``[H, W]`` in class ids; where shapes overlap, the later one counts.

    Args:
        path: The LabelMe file.
        labels: The class id, or ``IGNORE``, of each label; that of ``_background_`` is for pixels
            without a shape, which are void without it.

    Raises:
        DataError: A label is unknown, or a shape cannot be drawn.
    """
    import numpy as np
    from PIL import Image

    values = read_labelme(path)
    try:
        size = int(values["imageWidth"]), int(values["imageHeight"])
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{path} has no imageWidth and imageHeight; save it again") from None
    canvas = Image.new("L", size, labels.get(BACKGROUND, IGNORE))
    for number, shape in enumerate(values["shapes"], 1):
        where = f"{path}, shape {number}"
        try:
            label = shape["label"]
            kind = shape.get("shape_type") or "polygon"
            points = [(float(x), float(y)) for x, y in shape["points"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{where} is damaged ({error}); save the file again") from error
        if label not in labels:
            raise DataError(
                f"{where} is {label!r}, which is neither a class nor void in dataset.toml; add it "
                f"to one of them"
            )
        try:
            _draw(canvas, kind, points, shape, labels[label])
        except (KeyError, IndexError, TypeError, ValueError, OSError, binascii.Error) as error:
            raise DataError(
                f"{where}, a {kind}, cannot be drawn ({error}); correct or remove it"
            ) from error
    drawn: Bytes = np.array(canvas)
    return drawn


def _draw(
    canvas: Any, kind: str, points: list[tuple[float, float]], shape: dict[str, Any], fill: int
) -> None:
    """Draw one shape as LabelMe's own export does."""
    from PIL import Image, ImageDraw

    draw = ImageDraw.Draw(canvas)
    if kind == "polygon":
        if len(points) < 3:
            raise ValueError("it has fewer than three points")
        draw.polygon(points, fill=fill, outline=fill)
    elif kind == "rectangle":
        (left, top), (right, bottom) = points
        box = [min(left, right), min(top, bottom), max(left, right), max(top, bottom)]
        draw.rectangle(box, fill=fill, outline=fill)
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
