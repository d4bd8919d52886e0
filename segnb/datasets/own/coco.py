"""COCO JSON: polygons and run lengths, as CVAT, Roboflow and Label Studio export them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from segnb.datasets.base import IGNORE, Bytes
from segnb.datasets.own.description import BACKGROUND, Value
from segnb.errors import ConfigError, DataError


@dataclass(frozen=True)
class Picture:
    """What a COCO file says about one image.

    Attributes:
        name: Its file name, which may begin with folders.
        height: Rows of pixels.
        width: Columns of pixels.
    """

    name: str
    height: int
    width: int


@dataclass(frozen=True)
class CocoFile:
    """The part of a COCO file that says where each class is.

    Attributes:
        path: The file.
        images: By image id.
        categories: Names by category id.
        annotations: ``category_id`` and ``segmentation`` by image id, in the file's order.
    """

    path: Path
    images: dict[int, Picture]
    categories: dict[int, str]
    annotations: dict[int, list[dict[str, Any]]]

    @property
    def used(self) -> list[str]:
        """The names of the categories that are drawn at all, in the file's order."""
        drawn = {one["category_id"] for found in self.annotations.values() for one in found}
        return list(dict.fromkeys(name for key, name in self.categories.items() if key in drawn))


def is_coco(values: object) -> bool:
    """Whether the content of a JSON file is COCO's."""
    return isinstance(values, dict) and {"images", "annotations", "categories"} <= values.keys()


def read_coco(path: Path) -> CocoFile:
    """A COCO file.

    Raises:
        DataError: It cannot be read, or is not COCO.
    """
    try:
        stat = path.stat()
    except OSError:
        raise DataError(f"there is no COCO file {path}") from None
    return _read(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _read(path: Path, time: int, size: int) -> CocoFile:
    # Cached: a file of hundreds of megabytes has all images of a split.
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not JSON ({error}); export it again") from error
    if not is_coco(values):
        raise DataError(f"{path} is not COCO: it needs images, annotations and categories")
    try:
        images = {
            one["id"]: Picture(
                str(one["file_name"]).replace("\\", "/"), int(one["height"]), int(one["width"])
            )
            for one in values["images"]
        }
        categories = {one["id"]: str(one["name"]) for one in values["categories"]}
        annotations: dict[int, list[dict[str, Any]]] = {name: [] for name in images}
        for one in values["annotations"]:
            categories[one["category_id"]]  # a KeyError names what is missing
            annotations[one["image_id"]].append(one)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is not whole COCO: {type(error).__name__} {error}; export it again"
        ) from error
    return CocoFile(path, images, categories, annotations)


def entries(path: Path, found: Mapping[str, Path]) -> dict[str, int]:
    """The COCO image id of each image file that the COCO file names.

    Tools write file names with and without folders, so the end of the path decides.

    Args:
        path: The COCO file.
        found: The image files, by id.

    Raises:
        DataError: The file names an annotated image that is not there, or not just one.
    """
    by_name: dict[str, list[str]] = {}
    for name, image in found.items():
        by_name.setdefault(image.name, []).append(name)
    coco = read_coco(path)
    matched: dict[str, int] = {}
    missing = []
    for number, picture in coco.images.items():
        parts = PurePosixPath(picture.name).parts
        candidates = by_name.get(parts[-1] if parts else "", [])
        if len(candidates) > 1:
            alike = {name: _common_tail(found[name].parts, parts) for name in candidates}
            most = max(alike.values())
            candidates = [name for name, count in alike.items() if count == most]
            if len(candidates) > 1:
                raise DataError(
                    f"{path} names {picture.name!r}, which may be {found[candidates[0]]} or "
                    f"{found[candidates[1]]}; rename one, or export file names with folders"
                )
        if not candidates:
            missing.append(picture.name)
        elif matched.setdefault(candidates[0], number) != number:
            raise DataError(
                f"{path} has two entries for {found[candidates[0]]}; remove one and export again"
            )
    if missing:
        raise DataError(
            f"{path} names {missing[0]!r}, which is not among the images ({len(missing)} such "
            f"images); add them, or correct `images` in dataset.toml"
        )
    return matched


def mask(path: Path, entry: int, labels: Mapping[Value, int]) -> Bytes:
    """The mask of one image, ``[H, W]`` in class ids; where shapes overlap, the later one counts.

    Args:
        path: The COCO file.
        entry: The image's id in it.
        labels: The class id, or ``IGNORE``, of each category's name; that of ``_background_`` is
            for pixels without an annotation, which are void without it.

    Raises:
        DataError: A category is unknown, or an annotation has no shape.
        ConfigError: pycocotools is not installed.
    """
    import numpy as np

    coco = read_coco(path)
    picture = coco.images[entry]
    drawn: Bytes = np.full((picture.height, picture.width), labels.get(BACKGROUND, IGNORE), "u1")
    for one in coco.annotations[entry]:
        name = coco.categories[one["category_id"]]
        if name not in labels:
            raise DataError(
                f"{path}: {picture.name!r} shows {name!r}, which is neither a class nor void in "
                f"dataset.toml; add it to one of them"
            )
        shape = _shape(one.get("segmentation"), picture, f"{path}, annotation {one.get('id')}")
        drawn[shape] = labels[name]
    return drawn


def _shape(given: Any, picture: Picture, where: str) -> Any:
    """The pixels of a COCO segmentation, bool ``[H, W]``."""
    try:
        from pycocotools import mask as tools
    except ImportError:
        raise ConfigError(
            'COCO needs pycocotools: pip install "segnb[annotations]" (or pycocotools)'
        ) from None
    if not given:
        raise DataError(
            f"{where} of {picture.name!r} is a box without a shape; draw polygons or masks, and "
            f"export again"
        )
    size = picture.height, picture.width
    try:
        if isinstance(given, dict):
            if list(given["size"]) != list(size):
                raise ValueError(f"its size is {given['size']}, that of the image {list(size)}")
            if isinstance(given["counts"], list):
                given = tools.frPyObjects(given, *size)
            runs = [given]
        else:
            runs = tools.frPyObjects(given, *size)
        return tools.decode(tools.merge(runs)).astype(bool)
    except Exception as error:  # pycocotools raises no class of its own
        raise DataError(
            f"{where} of {picture.name!r} cannot be drawn ({error}); correct it and export again"
        ) from error


def _common_tail(one: Sequence[str], other: Sequence[str]) -> int:
    count = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        count += 1
    return count
