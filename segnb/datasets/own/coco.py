"""COCO JSON: polygons and run lengths, as CVAT, Roboflow and Label Studio export them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypedDict

import numpy as np
import numpy.typing as npt

from segnb.datasets.base import IGNORE, Bytes
from segnb.datasets.own.description import BACKGROUND, Value, class_of
from segnb.errors import ConfigError, DataError
from segnb.records import UnfitError, Within, read_json

#: What names an image or a category in a COCO file.
Id = int | str

_REMEDY = "correct it and export again"


class Picture(TypedDict):
    """One image; ``file_name`` may begin with folders."""

    id: Id
    file_name: str
    height: Annotated[int, Within(1)]
    width: Annotated[int, Within(1)]


class _Category(TypedDict):
    id: Id
    name: str


class _Annotation(TypedDict):
    image_id: Id
    category_id: Id


class _Content(TypedDict):
    images: list[Picture]
    annotations: list[_Annotation]
    categories: list[_Category]


#: The keys by which a COCO file is known.
KEYS = frozenset(_Content.__annotations__)


@dataclass(frozen=True)
class CocoFile:
    """The part of a COCO file that says where each class is.

    Attributes:
        path: The file.
        images: By image id.
        categories: Names by category id.
        annotations: The annotations of each image, in the file's order.
    """

    path: Path
    images: dict[Id, Picture]
    categories: dict[Id, str]
    annotations: dict[Id, list[dict[str, Any]]]

    @property
    def used(self) -> list[str]:
        """The names of the categories that are drawn at all, in the file's order."""
        drawn = {one["category_id"] for found in self.annotations.values() for one in found}
        return list(dict.fromkeys(name for key, name in self.categories.items() if key in drawn))


def read_coco(path: Path) -> CocoFile:
    """A COCO file.

    Raises:
        DataError: It is missing, is not COCO, or names an image or category that it does not have.
    """
    try:
        stat = path.stat()
    except OSError:
        raise DataError(f"there is no COCO file {path}; correct `masks` in dataset.toml") from None
    return _read(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _read(path: Path, time: int, size: int) -> CocoFile:
    # Cached: a file of hundreds of megabytes has all images of a split.
    values = read_json(path, _Content, remedy=_REMEDY, also=_check_ids)
    annotations: dict[Id, list[dict[str, Any]]] = {one["id"]: [] for one in values["images"]}
    for one in values["annotations"]:
        annotations[one["image_id"]].append(one)
    return CocoFile(
        path,
        {one["id"]: one for one in values["images"]},
        {one["id"]: one["name"] for one in values["categories"]},
        annotations,
    )


def _check_ids(values: dict[str, Any]) -> None:
    for key, owners in (("image_id", "images"), ("category_id", "categories")):
        known = {one["id"] for one in values[owners]}
        if len(known) < len(values[owners]):
            raise UnfitError(f"two of its {owners} have one id")
        for number, one in enumerate(values["annotations"]):
            if one[key] not in known:
                raise UnfitError(
                    f"annotations[{number}].{key} is {one[key]!r}, the id of none of its {owners}"
                )


def entries(path: Path, found: Mapping[str, Path]) -> dict[str, Id]:
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
    matched: dict[str, Id] = {}
    missing = []
    for number, picture in read_coco(path).images.items():
        parts = parts_of(picture)
        candidates = by_name.get(parts[-1] if parts else "", [])
        if len(candidates) > 1:
            alike = {name: _common_tail(found[name].parts, parts) for name in candidates}
            most = max(alike.values())
            candidates = [name for name, count in alike.items() if count == most]
            if len(candidates) > 1:
                raise DataError(
                    f"{path} names {picture['file_name']!r}, which may be {found[candidates[0]]} "
                    f"or {found[candidates[1]]}; rename one, or export file names with folders"
                )
        if not candidates:
            missing.append(picture["file_name"])
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


def parts_of(picture: Picture) -> tuple[str, ...]:
    """The folders and the name of an image's file, whatever system wrote them."""
    return PurePosixPath(picture["file_name"].replace("\\", "/")).parts


def mask(path: Path, entry: Id, labels: Mapping[Value, int]) -> Bytes:
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
    coco = read_coco(path)
    picture = coco.images[entry]
    size = picture["height"], picture["width"]
    drawn = np.full(size, labels.get(BACKGROUND, IGNORE), np.uint8)
    for one in coco.annotations[entry]:
        where = f"{path}: annotation {one.get('id')} of {picture['file_name']!r}"
        label = class_of(coco.categories[one["category_id"]], labels, where)
        drawn[_shape(one.get("segmentation"), size, where)] = label
    return drawn


def _shape(given: Any, size: tuple[int, int], where: str) -> npt.NDArray[np.bool_]:
    """The pixels of a COCO segmentation, ``[H, W]``."""
    try:
        from pycocotools import mask as tools
    except ImportError:
        raise ConfigError(
            'COCO needs pycocotools: pip install "segnb[annotations]" (or pycocotools)'
        ) from None
    if not given:
        raise DataError(f"{where} is a box without a shape; draw a polygon or mask, export again")
    try:
        if isinstance(given, dict):
            if list(given["size"]) != list(size):
                raise ValueError(f"its size is {given['size']}, that of the image {list(size)}")
            runs = [tools.frPyObjects(given, *size) if _are_numbers(given["counts"]) else given]
        else:
            # pycocotools takes four numbers for a box, and leaves out an odd one at the end.
            if not all(len(one) >= 6 and _are_numbers(one) for one in given):
                raise ValueError("a polygon needs three points or more")
            if any(len(one) % 2 for one in given):
                raise ValueError("a polygon has an odd number of coordinates")
            runs = tools.frPyObjects(given, *size)
        return np.asarray(tools.decode(tools.merge(runs)), dtype=np.bool_)
    except Exception as error:  # pycocotools raises no class of its own
        raise DataError(f"{where} cannot be drawn ({error}); {_REMEDY}") from error


def _are_numbers(given: Any) -> bool:
    return isinstance(given, list) and all(isinstance(one, (int, float)) for one in given)


def _common_tail(one: Sequence[str], other: Sequence[str]) -> int:
    count = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        count += 1
    return count
