"""The images of a folder of your own: their files, groups and splits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import get_args

from segnb.datasets.base import Split
from segnb.datasets.own import coco
from segnb.datasets.own.description import FILE, Description, Files
from segnb.datasets.own.patterns import ENDINGS, pattern
from segnb.errors import DataError
from segnb.records import read_text


@dataclass(frozen=True)
class Item:
    """One image.

    Attributes:
        id: What the star of its pattern stands for.
        image: The image file.
        labels: The file with its mask or polygons; ``None`` if the image is not labelled.
        entry: For COCO, the image's id in that file.
    """

    id: str
    image: Path
    labels: Path | None
    entry: coco.Id | None = None


def scan(folder: Path, description: Description) -> dict[Split, tuple[Item, ...]]:
    """The images of each split, in the order of their ids.

    Images without a mask are training images without labels.

    Raises:
        DataError: A file is missing, stands alone or is there twice, an id of a list is unknown,
            there are too few groups to divide, or a split has no labelled image.
    """
    placed: dict[Split | None, list[Item]] = {}
    for files in description.files:
        placed.setdefault(files.split, []).extend(find(folder, description, files))
    items = [item for one in placed.values() for item in one]
    if not items:
        where = ", ".join(repr(files.images) for files in description.files)
        raise DataError(f"{folder / FILE}: there is no image at {where}; correct `images`")
    for one in placed.values():
        _need_unique(folder, one)
    loose = placed.pop(None, [])
    found: dict[Split, list[Item]] = {
        name: [*one] for name, one in placed.items() if name is not None
    }
    loose = _by_list(folder, description, found, loose)
    found["train"] = _by_share(folder, description, found, [*found.get("train", []), *loose])
    for name in description.split_names:
        _need_labels(folder, name, found.get(name, []))
    return {
        name: tuple(sorted(found[name], key=lambda item: item.id))
        for name in description.split_names
    }


def find(folder: Path, description: Description, files: Files) -> list[Item]:
    """The images of one ``[[files]]``, in the order of their ids.

    Raises:
        DataError: A mask has no image, or two files have one id.
    """
    images = pattern(folder, files.images)
    if files.masks is None:
        return [Item(name, path, None) for name, path in images.find().items()]
    if description.format == "coco":
        found = images.find()
        entries = coco.entries(folder / files.masks, found)
        labels = folder / files.masks
        return [
            Item(name, path, labels if name in entries else None, entries.get(name))
            for name, path in found.items()
        ]
    masks = pattern(folder, files.masks)
    endings = (".json",) if description.format == "labelme" else ENDINGS
    labelled = masks.find(endings=endings)
    # With "*" and "*_mask" in one folder, a mask is no image.
    taken = set(labelled.values())
    found = {name: path for name, path in images.find().items() if path not in taken}
    if lonely := [name for name in labelled if name not in found]:
        raise DataError(
            f"{labelled[lonely[0]]} labels no image: there is no "
            f"{images.path_of(lonely[0], '.*')} ({len(lonely)} such files); remove it, or correct "
            f"`files` in {folder / FILE}"
        )
    if found and not labelled:
        raise DataError(
            f"{folder / FILE}: no file is at masks = {files.masks!r}; correct it, or leave these "
            f"images out"
        )
    return [Item(name, path, labelled.get(name)) for name, path in found.items()]


def divide(
    groups: Mapping[str, Sequence[str]], share: float, *, seed: int
) -> tuple[list[str], list[str]]:
    """Set whole groups aside, in a random order, until a share of the images is reached.

    Args:
        groups: The ids of each group.
        share: Share of the images to set aside, above 0 and below 1.
        seed: Determines the order.

    Returns:
        The groups that stay, and those set aside: at least one of each.

    Raises:
        ValueError: There are fewer than two groups.
    """
    if len(groups) < 2:
        raise ValueError("fewer than two groups")
    order = sorted(groups, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    wanted = share * sum(map(len, groups.values()))
    aside: list[str] = []
    taken = 0
    for name in order:
        # A group is taken if that brings the number of images closer to what is wanted.
        if len(aside) < len(order) - 1 and taken + len(groups[name]) / 2 <= wanted:
            aside.append(name)
            taken += len(groups[name])
    if not aside:
        aside = [min(order, key=lambda name: len(groups[name]))]
    return [name for name in order if name not in aside], aside


def by_group(description: Description, items: Sequence[Item]) -> dict[str, list[str]]:
    """The ids of each group."""
    groups: dict[str, list[str]] = {}
    for item in items:
        groups.setdefault(description.splits.group_of(item.id), []).append(item.id)
    return groups


def _by_list(
    folder: Path, description: Description, found: dict[Split, list[Item]], loose: list[Item]
) -> list[Item]:
    """Move the images that lists name from ``loose`` to their splits; returns the others."""
    owners: dict[str, Split] = {}
    for name in get_args(Split):
        if name not in description.splits.lists:
            continue
        path = folder / description.splits.lists[name]
        for wanted in read_list(path, [item.id for item in loose]):
            if owners.setdefault(wanted, name) != name:
                raise DataError(
                    f"{path}: {wanted!r} is in the list of {owners[wanted]} too; remove one"
                )
    for item in loose:
        if item.id in owners:
            found.setdefault(owners[item.id], []).append(item)
    # With a list for train, images in no list are left out, unless they have no labels anyway.
    listed = "train" in description.splits.lists
    return [
        item for item in loose if item.id not in owners and not (listed and item.labels is not None)
    ]


def read_list(path: Path, known: Sequence[str]) -> list[str]:
    """The ids in a list, one a line: ids or names of files, in whatever folder.

    Raises:
        DataError: The list cannot be read, or it names an image that is not there.
    """
    ids = set(known)
    by_name = {PurePosixPath(name).name: name for name in known}
    found = []
    lines = read_text(path, remedy="write one id a line, or correct `splits` in dataset.toml")
    for number, line in enumerate(lines.splitlines(), 1):
        text = line.strip().replace("\\", "/")
        if not text or text[0] == "#":
            continue
        stem = text
        for ending in ENDINGS:
            if stem.lower().endswith(ending):
                stem = stem[: -len(ending)]
        name = next((one for one in (text, stem) if one in ids), None)
        name = name or by_name.get(PurePosixPath(stem).name)
        if name is None:
            raise DataError(
                f"{path} line {number}: there is no image {text!r}; correct or remove the line"
            )
        found.append(name)
    return found


def _by_share(
    folder: Path, description: Description, found: dict[Split, list[Item]], train: list[Item]
) -> list[Item]:
    """Take ``val`` and ``test`` out of the training images by their shares; returns the others."""
    splits = description.splits
    # Only labelled images can be scored; images without labels stay training images.
    rest = [item for item in train if item.labels is not None]
    bare = [item for item in train if item.labels is None]
    whole = len(rest)
    for name, share in splits.shares.items():
        groups = by_group(description, rest)
        try:
            stay, _ = divide(groups, share * whole / max(len(rest), 1), seed=splits.seed)
        except ValueError:
            what = "groups" if splits.group else "labelled images"
            raise DataError(
                f"{folder / FILE}: {len(groups)} {what} cannot be divided into train and {name}; "
                + ("change or remove splits, group" if splits.group else "label more of them")
            ) from None
        kept = set(stay)
        found[name] = [item for item in rest if splits.group_of(item.id) not in kept]
        rest = [item for item in rest if splits.group_of(item.id) in kept]
    # An unlabelled frame of a clip in val would leak into training.
    aside = {splits.group_of(item.id) for name in splits.shares for item in found[name]}
    return rest + [item for item in bare if splits.group_of(item.id) not in aside]


def _need_unique(folder: Path, items: Sequence[Item]) -> None:
    seen: dict[str, Item] = {}
    for item in items:
        if (other := seen.setdefault(item.id, item)) is not item:
            raise DataError(
                f"{folder / FILE}: {other.image} and {item.image} both have the id {item.id!r}; "
                f"use one pattern with ** for both folders, or rename one"
            )


def _need_labels(folder: Path, name: Split, items: Sequence[Item]) -> None:
    bare = [item for item in items if item.labels is None]
    if len(bare) == len(items):
        raise DataError(
            f"{folder / FILE}: the split {name!r} has no labelled image; correct files or splits"
        )
    if bare and name != "train":
        raise DataError(
            f"{bare[0].image}, an image of {name}, has no labels, so it cannot be scored; label "
            f"it or remove it ({len(bare)} such images)"
        )
