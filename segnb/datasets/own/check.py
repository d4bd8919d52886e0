"""What will go wrong with a folder of your own, seen before training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segnb import datasets
from segnb.datasets.base import IGNORE, DatasetInfo, Split
from segnb.datasets.own.dataset import OwnSplit, open_splits
from segnb.datasets.own.description import Description, read_description
from segnb.datasets.own.duplicates import difference_hash, near_duplicates
from segnb.datasets.own.scan import Item
from segnb.datasets.reading import is_turned
from segnb.errors import DataError
from segnb.words import counted

#: Faults of one kind that are listed; the rest is counted.
MOST_LISTED = 5

#: Images on a contact sheet.
SHEET_IMAGES = 12


@dataclass(frozen=True, kw_only=True)
class SplitCheck:
    """What a split holds.

    Attributes:
        images: Number of images.
        labelled: How many have labels.
        shares: Share of the labelled pixels of each class, in the order of the classes.
        seen: How many images show each class.
        void: Share of the pixels of labelled images that are void.
    """

    images: int
    labelled: int
    shares: tuple[float, ...]
    seen: tuple[int, ...]
    void: float


@dataclass(frozen=True, kw_only=True)
class Check:
    """The check of a folder.

    Attributes:
        folder: The folder.
        info: Its classes.
        splits: What each split holds.
        sizes: Number of images by (width, height), the most frequent first.
        faults: What stops a training, one line each.
        warnings: What may spoil a result, one line each.
    """

    folder: Path
    info: DatasetInfo
    splits: Mapping[Split, SplitCheck]
    sizes: Mapping[tuple[int, int], int]
    faults: tuple[str, ...]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.info.name}: {self.folder}"]
        for name, one in self.splits.items():
            bare = one.images - one.labelled
            lines.append(
                f"  {name:<6} {counted(one.images, 'image')}"
                + (f", {bare} of them without labels" if bare else "")
                + f", {100 * one.void:.1f} % of the pixels void"
            )
        sizes = [f"{width}x{height} ({count})" for (width, height), count in self.sizes.items()]
        more = f" and {len(sizes) - 4} more" if len(sizes) > 4 else ""
        lines.append(f"  sizes  {', '.join(sizes[:4])}{more}")
        lines.append("share of the labelled pixels, and number of images that show the class:")
        lines.append(f"  {'':<24}" + "".join(f"{name:>16}" for name in self.splits))
        for label, title in enumerate(self.info.class_names):
            cells = [
                f"{100 * one.shares[label]:8.2f} % {one.seen[label]:5d}"
                for one in self.splits.values()
            ]
            lines.append(f"  {title:<24}" + "".join(f"{cell:>16}" for cell in cells))
        lines += [f"warning: {text}" for text in self.warnings]
        lines += [f"FAULT: {text}" for text in self.faults]
        if not self.faults:
            lines.append(f"ready: segnb run --dataset {self.folder}")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Look:
    """What one image shows; ``fault`` says why it cannot be read."""

    size: tuple[int, int] | None = None
    counts: npt.NDArray[np.int64] | None = None
    hash: npt.NDArray[np.bool_] | None = None
    turned: bool = False
    fault: str = ""


def check(folder: Path, *, progress_bar: bool = True) -> Check:
    """Decode everything in a folder, and say what is wrong with it.

    Args:
        folder: A folder with a ``dataset.toml``.
        progress_bar: Show progress if it takes more than two seconds.

    Raises:
        DataError: ``dataset.toml`` is wrong, or the images cannot be divided into splits.
    """
    from tqdm.auto import tqdm

    folder = Path(folder)
    datasets.get(str(folder.resolve()))  # its name may be that of another data set
    description = read_description(folder)
    opened = open_splits(folder, description)
    total = sum(map(len, opened.values()))
    looks: dict[Split, list[_Look]] = {}
    with (
        tqdm(total=total, unit="image", delay=2, leave=False, disable=not progress_bar) as bar,
        ThreadPoolExecutor() as pool,
    ):
        for name, split in opened.items():

            def look(index: int, split: OwnSplit = split) -> _Look:
                found = _look(split, index)
                bar.update()
                return found

            looks[name] = list(pool.map(look, range(len(split))))
    splits = {name: _of_split(split, looks[name]) for name, split in opened.items()}
    sizes = Counter(one.size for found in looks.values() for one in found if one.size)
    return Check(
        folder=folder,
        info=description.info,
        splits=splits,
        sizes=dict(sizes.most_common()),
        faults=tuple(_faults(splits, looks)),
        warnings=tuple(_warnings(description, opened, splits, looks)),
    )


def _look(split: OwnSplit, index: int) -> _Look:
    item: Item = split.items[index]
    try:
        sample = split[index]
        turned = is_turned(item.image)
    except DataError as error:
        return _Look(fault=str(error))
    height, width = sample.mask.shape
    counts = np.bincount(sample.mask.ravel(), minlength=IGNORE + 1)
    return _Look(
        (width, height),
        np.zeros_like(counts) if item.labels is None else counts,
        difference_hash(sample.image),
        turned,
    )


def _of_split(split: OwnSplit, looks: list[_Look]) -> SplitCheck:
    classes = split.info.num_classes
    counts = np.array([one.counts for one in looks if one.counts is not None]).reshape(-1, 256)
    pixels = counts[:, :classes].sum(axis=0)
    labelled, whole = int(pixels.sum()), int(counts.sum())
    return SplitCheck(
        images=len(split),
        labelled=len(split) - len(split.unlabelled),
        shares=tuple((pixels / max(labelled, 1)).tolist()),
        seen=tuple((counts[:, :classes] > 0).sum(axis=0).tolist()),
        void=1 - labelled / whole if whole else 0.0,
    )


def _faults(splits: Mapping[Split, SplitCheck], looks: Mapping[Split, list[_Look]]) -> list[str]:
    found = [one.fault for many in looks.values() for one in many if one.fault]
    listed = found[:MOST_LISTED]
    if len(found) > MOST_LISTED:
        listed.append(f"{counted(len(found) - MOST_LISTED, 'more file')} cannot be used")
    listed += [
        f"every pixel of {name} is void, so there is nothing to learn or to score; check `void` "
        f"and the values of the classes"
        for name, one in splits.items()
        if not any(one.seen) and any(not look.fault for look in looks[name])
    ]
    return listed


def _warnings(
    description: Description,
    opened: Mapping[Split, OwnSplit],
    splits: Mapping[Split, SplitCheck],
    looks: Mapping[Split, list[_Look]],
) -> list[str]:
    titles = description.info.class_names
    found = []
    for name, one in splits.items():
        missing = [title for title, seen in zip(titles, one.seen, strict=True) if not seen]
        if missing and any(one.seen):
            what = "cannot be learned" if name == "train" else "cannot be scored there"
            found.append(f"{name} shows no {', no '.join(missing)}: what is missing {what}")
        rare = [title for title, seen in zip(titles, one.seen, strict=True) if 0 < seen < 3]
        if rare and name == "train":
            found.append(f"only one or two images of train show {', '.join(rare)}")
    turned = sum(one.turned for many in looks.values() for one in many)
    if turned:
        found.append(
            f"{counted(turned, 'image')} with an orientation flag: segnb turns such images upright "
            f"before it compares them with their masks; look at them on the contact sheet"
        )
    if any(one.void > 0.5 for one in splits.values()):
        found.append(
            "more than half of the pixels of a split are void: with points or scribbles that is "
            "as it should be; otherwise check `void`"
        )
    places: dict[str, set[Split]] = {}
    for name, split in opened.items():
        for image in split.ids if description.splits.group else ():
            places.setdefault(description.splits.group_of(image), set()).add(name)
    if torn := [group for group, names in places.items() if len(names) > 1]:
        found.append(
            f"{counted(len(torn), 'group')} with images in several splits "
            f"({', '.join(map(repr, torn[:3]))}), "
            f"so scores will be too good; leave the splits to splits, group, or correct it"
        )
    hashes = {
        str(name): {
            split.ids[index]: one.hash
            for index, one in enumerate(looks[name])
            if one.hash is not None
        }
        for name, split in opened.items()
    }
    if pairs := near_duplicates(hashes):
        examples = ", ".join(f"{i} ({a}) and {j} ({b})" for (a, i), (b, j) in pairs[:3])
        found.append(
            f"{counted(len(pairs), 'image')} nearly the same as one of another split, so scores "
            f"will be too good: {examples}; keep such images together with splits, group"
        )
    return found


def sheet_samples(folder: Path, *, most: int = SHEET_IMAGES) -> dict[str, list[int]]:
    """Images for a contact sheet, spread over the splits: indices by split.

    Args:
        folder: A folder with a ``dataset.toml``.
        most: How many in all.
    """
    opened = open_splits(Path(folder), read_description(Path(folder)))
    each = -(-most // len(opened))
    found: dict[str, list[int]] = {}
    for name, split in opened.items():
        usable = [i for i, item in enumerate(split.items) if item.labels is not None]
        count = min(each, len(usable))
        found[name] = [usable[i * len(usable) // count] for i in range(count)]
    return found
