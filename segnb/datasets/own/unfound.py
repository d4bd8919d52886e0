"""Why a folder of images seems to have no labels, and what to do about it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segnb.datasets.own.annotations import colour_codes
from segnb.datasets.own.patterns import ENDINGS, MASK_FOLDER
from segnb.errors import DataError
from segnb.records import read_json
from segnb.words import counted

_SEPARATOR = re.compile(r"[\W_]+")


def explain(folder: Path, files: Sequence[Path], pictures: Sequence[Path]) -> str:
    """What stands in the way of the most likely labels, and what to do, in half a sentence.

    Args:
        folder: The folder.
        files: All files in it.
        pictures: Those that end like images.
    """
    # Of pictures with one name, those outside a folder of masks are taken for the images.
    in_order = sorted(pictures, key=lambda path: (_is_in_masks(path, folder), path))
    folded: dict[str, Path] = {}
    for path in in_order:
        folded.setdefault(path.stem.casefold(), path)
    images = {path.stem: path for path in folded.values()}
    others = sorted({*files} - {*images.values()})
    return (
        _of_one_name(folder, images, others)
        or _in_other_letters(folder, folded, others)
        or _damaged(others)
        or _of_other_kinds(images, others)
        or _of_longer_names(folder, folded, in_order)
        or "masks in a folder of their own or with an ending such as _mask, COCO or LabelMe JSON; "
        "they must have the names of the images"
    )


def _of_one_name(folder: Path, images: dict[str, Path], others: Sequence[Path]) -> str:
    for path in others:
        if path.stem in images and path.suffix.lower() in ENDINGS:
            try:
                colour_codes(path)
            except DataError as error:
                return str(error)
            return (
                f"{_named(path, folder)} fits {_named(images[path.stem], folder)}, but looks like "
                f"a photo; a mask has areas of one value or colour"
            )
    return ""


def _in_other_letters(folder: Path, folded: dict[str, Path], others: Sequence[Path]) -> str:
    for path in others:
        image = folded.get(path.stem.casefold())
        if image is not None and image.stem != path.stem:
            return (
                f"{_named(path, folder)} and {_named(image, folder)} differ in capital letters; "
                f"give both the same name"
            )
    return ""


def _damaged(others: Sequence[Path]) -> str:
    for path in others:
        if path.suffix.lower() == ".json":
            try:
                read_json(path, dict[str, Any], remedy="export it again")
            except DataError as error:
                return str(error)
    return ""


def _of_other_kinds(images: dict[str, Path], others: Sequence[Path]) -> str:
    kinds = Counter(path.suffix for path in others if path.stem in images)
    if not kinds:
        return ""
    ((suffix, count),) = kinds.most_common(1)
    return (
        f"{counted(count, f'{suffix} file')} with names that fit, of a kind that segnb does not "
        f"read; export masks as PNG, or shapes as COCO or LabelMe JSON"
    )


def _of_longer_names(folder: Path, folded: dict[str, Path], pictures: Sequence[Path]) -> str:
    """Pictures in other folders, or of another kind, whose name is that of an image and more."""
    longer: dict[Path, list[Path]] = {}
    for path in pictures:
        for match in _SEPARATOR.finditer(path.stem):
            for part in (path.stem[: match.start()], path.stem[match.end() :]):
                image = folded.get(part.casefold())
                if image and (image.parent, image.suffix) != (path.parent, path.suffix):
                    longer.setdefault(image, []).append(path)
    for image, found in longer.items():
        if len(found) > 1:
            return (
                f"{_named(found[0], folder)} and {_named(found[1], folder)} both seem to belong to "
                f"{_named(image, folder)}; segnb takes one mask an image, in which each class has "
                f"its value"
            )
        return (
            f"{_named(found[0], folder)} seems to belong to {_named(image, folder)}; rename the "
            f"masks to the names of their images, in a folder of their own"
        )
    return ""


def _is_in_masks(path: Path, folder: Path) -> bool:
    return MASK_FOLDER.search(_named(path.parent, folder)) is not None


def _named(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
