"""Which files of a folder are images, and which are their labels."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segnb.datasets.base import Split
from segnb.datasets.own import coco, labelme, unfound
from segnb.datasets.own.annotations import colour_codes, numbers_of
from segnb.datasets.own.description import Files, Format
from segnb.datasets.own.patterns import ENDINGS, MASK_FOLDER
from segnb.datasets.own.smoothed import is_mostly_solid
from segnb.errors import DataError, SegnbError
from segnb.records import read_json
from segnb.words import counted

#: A picture with more values than this is a photo, or a mask whose edges were smoothed.
MOST_VALUES = 256

#: What is put between the name of an image and the ending of its mask.
_MASK_ENDINGS = (
    *("", "_mask", ".mask", "-mask", "_masks", "_Mask", "_label", "_labels", "_L", "_l", "_gt"),
    *("_GT", "_seg", "_segmentation", "_annot", "annot", "_annotation", "_labelIds", "_manual1"),
)
#: Masks of single objects, which lie beside those of classes.
_OBJECTS = re.compile(r"object|instance", re.IGNORECASE)

#: The split that a name means.
SPLITS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def find_sources(
    folder: Path, files: Sequence[Path], notes: list[str]
) -> tuple[Format, list[Files]]:
    """Where the images and labels of a folder are, and how the labels are stored.

    Args:
        folder: The folder.
        files: All files in it.
        notes: What a reader should know is added.

    Returns:
        The format, ``index`` for pictures of any kind, and the sources.

    Raises:
        DataError: There are no images, or no labels that fit them.
    """
    pictures = [path for path in files if path.suffix.lower() in ENDINGS]
    if not pictures:
        raise DataError(f"{folder} holds no images; known endings are {', '.join(ENDINGS)}")
    kinds = _json_kinds(files)
    form: Format = "coco" if "coco" in kinds.values() else "labelme" if kinds else "index"
    labels = [path for path, kind in kinds.items() if kind == form]
    if form == "coco":
        sources = _coco_sources(folder, labels, pictures)
    else:
        drawn = [path for path in pictures if path.suffix.lower() not in (".jpg", ".jpeg")]
        sources = _pairs(folder, pictures, labels or drawn, notes)
    if not sources:
        raise DataError(
            f"{folder} holds {counted(len(pictures), 'image')}, but no labels that fit were found: "
            f"{unfound.explain(folder, files, pictures)}"
        )
    return form, sources


def _json_kinds(files: Iterable[Path]) -> dict[Path, Format]:
    kinds: dict[Path, Format] = {}
    for path in files:
        if path.suffix.lower() != ".json":
            continue
        with contextlib.suppress(DataError):  # not every JSON file in a folder is one of labels
            keys = read_json(path, dict[str, Any], remedy="").keys()
            if keys >= coco.KEYS:
                kinds[path] = "coco"
            elif keys >= labelme.KEYS:
                kinds[path] = "labelme"
    return kinds


def _coco_sources(folder: Path, files: Sequence[Path], pictures: Sequence[Path]) -> list[Files]:
    by_name: dict[str, list[Path]] = {}
    for path in pictures:
        by_name.setdefault(path.name, []).append(path)
    found = []
    for file in files:
        names = {coco.parts_of(one)[-1] for one in coco.read_coco(file).images.values()}
        held = [path for name in names for path in by_name.get(name, [])]
        split = split_of(file.relative_to(folder).with_suffix("")) if len(files) > 1 else None
        if len(files) > 1 and split:
            # Files of several splits may have the same names.
            held = [p for p in held if split_of(p.relative_to(folder).parent) in (split, None)]
        if not held:
            continue
        parents = sorted({path.parent for path in held})
        deep = len(parents) > 1
        base = Path(*_common_head([path.parts for path in parents]))
        star = "**" if deep else "*"
        found.append(
            Files(
                images=_relative(folder, base, star),
                masks=file.relative_to(folder).as_posix(),
                split=split,
            )
        )
    return found


_Match = tuple[Path, Path, str]


def _pairs(
    folder: Path, pictures: Sequence[Path], labels: Sequence[Path], notes: list[str]
) -> list[Files]:
    """Folders of images with their folders of labels, matched by the names of the files."""

    def of_masks(place: Path) -> bool:
        """Whether the name of a folder says that it holds labels."""
        return any(MASK_FOLDER.search(name) for name in place.relative_to(folder).parts)

    def rank(match: _Match) -> tuple[Any, ...]:
        place, masks, ending = match
        names = (*masks.relative_to(folder).parts, ending)
        objects = any(_OBJECTS.search(name) for name in names)
        hinted = bool(ending) or of_masks(masks)
        return objects, -_alike(place, masks), -matches[match], not hinted, str(masks), ending

    matches = _matches(pictures, labels)
    looks = _Looks(labels)
    drawn = not {*labels}.isdisjoint(pictures)  # JSON files are no images themselves
    chosen: dict[Path, tuple[Path, str]] = {}
    for place, masks, ending in sorted(matches, key=rank):
        if place in chosen or {(masks, ending), (masks, "")} & {*chosen.values()}:
            continue
        if not ending and place in {other for other, _ in chosen.values()}:
            continue  # the images would be the masks of others
        if not looks.like_labels(masks, ending):
            continue
        # Of two folders that both look like labels, a name has to say which are the images.
        sure = (bool(ending) or of_masks(masks)) and not of_masks(place)
        if drawn and not sure and looks.like_labels(place, ""):
            continue
        chosen[place] = masks, ending
    notes += [
        f"the images in {place.relative_to(folder).as_posix()} have no labels; to train on them "
        f"with pseudo-labels, add them as [[files]] without masks"
        for place in sorted({path.parent for path in pictures})
        if place not in chosen
        and place not in {masks for masks, _ in chosen.values()}
        and not of_masks(place)
    ]
    return _merged(folder, [(place, *found) for place, found in sorted(chosen.items())])


def _matches(pictures: Sequence[Path], labels: Sequence[Path]) -> Counter[_Match]:
    """How many files match, by the folder of images, the folder of labels and their ending."""
    places: dict[str, set[Path]] = {}
    for path in pictures:
        places.setdefault(path.stem, set()).add(path.parent)
    drawn = {*pictures}
    matches: Counter[_Match] = Counter()
    for path in labels:
        for ending in _MASK_ENDINGS:
            if path.stem.endswith(ending) and path.stem != ending:
                for place in places.get(path.stem.removesuffix(ending), ()):
                    # An image is no mask of itself.
                    if ending or place != path.parent or path not in drawn:
                        matches[place, path.parent, ending] += 1
    return matches


def _merged(folder: Path, found: Sequence[_Match]) -> list[Files]:
    """One entry for folders that differ only in their last part, such as a folder a clip."""
    together: dict[tuple[Path, Path, str, Split | None], list[tuple[Path, Path]]] = {}
    for place, masks, ending in found:
        relative = place.relative_to(folder)
        split = split_of(relative) or split_of(masks.relative_to(folder))
        heads = (place, masks)
        if place.name == masks.name and place != masks and place.name.lower() not in SPLITS:
            heads = (place.parent, masks.parent)
        together.setdefault((*heads, ending, split), []).append((place, masks))
    splits = {split for *_, split in together}
    entries = []
    for (place, masks, ending, split), members in together.items():
        deep = (place, masks) not in members
        star = "**" if deep else "*"
        entries.append(
            Files(
                images=_relative(folder, place, star),
                masks=_relative(folder, masks, f"{star}{ending}"),
                # A folder "train" beside nothing else is just a name.
                split=split if len(splits) > 1 else None,
            )
        )
    return entries


class _Looks:
    """Whether files look like labels: few values, and large areas of each."""

    def __init__(self, labels: Sequence[Path]) -> None:
        self._by_folder: dict[Path, list[Path]] = {}
        for path in labels:
            self._by_folder.setdefault(path.parent, []).append(path)
        self._known: dict[tuple[Path, str], bool] = {}

    def like_labels(self, folder: Path, ending: str) -> bool:
        """Whether the files of a folder with this ending look like labels."""
        key = folder, ending
        if key not in self._known:
            files = [p for p in self._by_folder.get(folder, []) if p.stem.endswith(ending)]
            few = [files[i * len(files) // 3] for i in range(3)] if len(files) > 3 else files
            self._known[key] = bool(few) and all(map(_is_label, few))
        return self._known[key]


def _is_label(path: Path) -> bool:
    if path.suffix.lower() == ".json":
        return True
    for read in (numbers_of, colour_codes):
        with contextlib.suppress(SegnbError):
            values = read(path)
            return len(np.unique(values)) <= MOST_VALUES or is_mostly_solid(values)
    return False


def split_of(path: Path) -> Split | None:
    """The split that a path names, with or without a mask's ending: ``train``, ``train_labels``."""
    for part in reversed(path.parts):
        for word in re.split(r"[_\W]+", part.lower()):
            for name, split in SPLITS.items():
                if word in (name, f"{name}annot"):
                    return split
    return None


def _alike(place: Path, masks: Path) -> int:
    """How many parts two paths share at their ends or beginnings, besides the root."""
    count = sum(a == b for a, b in zip(reversed(place.parts), reversed(masks.parts), strict=False))
    same = split_of(place) == split_of(masks)
    return count + len(_common_head([place.parts, masks.parts])) + same


def _common_head(paths: Sequence[Sequence[str]]) -> list[str]:
    head = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        head.append(parts[0])
    return head


def _relative(folder: Path, place: Path, star: str) -> str:
    relative = place.relative_to(folder).as_posix()
    return star if relative == "." else f"{relative}/{star}"
