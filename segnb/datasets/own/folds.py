"""Cross-validation: a folder of your own, described again once for each fold."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from segnb.datasets.base import Split
from segnb.datasets.own.description import FILE, Files, Splits, read_description, to_toml
from segnb.datasets.own.scan import Item, by_group, scan
from segnb.errors import DataError
from segnb.files import write_atomic

#: Folds, if there are as many groups.
FOLDS = 5


@dataclass(frozen=True)
class Fold:
    """A folder that describes the same images, divided otherwise.

    Attributes:
        folder: The folder of its ``dataset.toml``.
        train: Number of labelled training images.
        val: Number of images to score.
    """

    folder: Path
    train: int
    val: int


def write_folds(folder: Path, target: Path, *, seed: int = 0, most: int = FOLDS) -> list[Fold]:
    """Divide the images of train and val into folds by group; a test split stays what it is.

    Args:
        folder: A folder with a ``dataset.toml``.
        target: Where the folds' folders are written.
        seed: Determines the division.
        most: How many folds; fewer if there are fewer groups.

    Returns:
        The folds. Each image is in ``val`` of just one.

    Raises:
        DataError: Something is wrong with the folder, or it has only one group.
    """
    description = read_description(folder)
    found = scan(folder, description)
    pool: list[Item] = [
        item for name in ("train", "val") for item in found[name] if item.labels is not None
    ]
    groups = by_group(description, pool)
    if len(groups) < 2:
        raise DataError(
            f"{folder / FILE}: there is one group of images, so none can be set aside for scoring; "
            f"change or remove splits, group"
        )
    parts: list[list[str]] = [[] for _ in range(min(most, len(groups)))]
    order = sorted(groups, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    for name in sorted(order, key=lambda name: -len(groups[name])):
        min(parts, key=len).extend(groups[name])
    files = tuple(
        Files(
            images=_absolute(folder, one.images), masks=one.masks and _absolute(folder, one.masks)
        )
        for one in description.files
    )
    folds = []
    for number, part in enumerate(parts):
        place = target / f"fold-{seed}-{number}"
        lists: dict[Split, list[str]] = {
            "train": [item.id for item in pool if item.id not in set(part)],
            "val": sorted(part),
        }
        if "test" in found:
            lists["test"] = [item.id for item in found["test"]]
        for name, ids in lists.items():
            write_atomic(place / f"{name}.txt", "\n".join(ids) + "\n")
        one = replace(
            description,
            name=f"{description.name}.fold-{seed}-{number}",
            files=files,
            splits=Splits(
                lists={name: f"{name}.txt" for name in lists}, group=description.splits.group
            ),
        )
        write_atomic(place / FILE, to_toml(one))
        folds.append(Fold(place, len(lists["train"]), len(part)))
    return folds


def _absolute(folder: Path, pattern: str) -> str:
    """A pattern that means the same from anywhere."""
    return Path(os.path.abspath(folder / Path(pattern).expanduser())).as_posix()
