"""Which images count as labelled: nested fractions, shared split lists, and a held-out part."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from segnb.datasets.base import IGNORE, SegmentationDataset, cache_root
from segnb.errors import ConfigError, DataError
from segnb.files import atomic_path

_SUFFIXES = (".jpg", ".jpeg", ".png")
#: What Cityscapes puts behind an id in the names of its files.
_CITYSCAPES_ENDS = ("_leftImg8bit", "_gtFine_labelIds", "_gtFine_labelTrainIds")


@dataclass(frozen=True)
class SplitList:
    """What a split list names of a data set.

    Attributes:
        ids: The ids that are there, in the list's order, without repetition.
        missing: How many ids of the list are not there.
    """

    ids: tuple[str, ...]
    missing: int


def labelled_ids(
    dataset: SegmentationDataset,
    fraction: float,
    *,
    seed: int,
    among: Collection[str] | None = None,
    cache: Path | None = None,
) -> tuple[str, ...]:
    """The ids of a labelled share of a split, in the data set's order.

    All shares with one seed are beginnings of one order of the images: first those that each
    add the most classes not covered yet, until every class is covered, then the others at
    random. So a smaller share lies inside a larger one, and every class is present if the share
    has room for it. The order depends on the ids, the classes in them and the seed alone; it
    comes from SHA-256, so it is the same on every machine and with every version of numpy.

    Args:
        dataset: The split to take from.
        fraction: Share of its images in (0, 1]; rounded to the nearest number, at least one.
        seed: Picks the order.
        among: Take the share from these ids; by default from all.
        cache: Where class presence is kept; by default ``$SEGNB_CACHE``.

    Raises:
        ConfigError: The fraction is not in (0, 1].
        DataError: A mask cannot be read.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"the label fraction is {fraction}; it must be above 0 and at most 1")
    places = [i for i, name in enumerate(dataset.ids) if among is None or name in among]
    ids = [dataset.ids[i] for i in places]
    count = max(1, int(fraction * len(ids) + 0.5))
    if count == len(ids):
        return tuple(ids)
    order = covering_order(ids, class_presence(dataset, cache=cache)[places], seed=seed)
    return tuple(ids[i] for i in sorted(order[:count]))


def covering_order(ids: Sequence[str], presence: npt.NDArray[np.bool_], *, seed: int) -> list[int]:
    """Positions of ``ids``: greedy cover of the classes first, then at random.

    Args:
        ids: One id an image.
        presence: bool ``[N, C]``, which image shows which class.
        seed: Picks the random order, which also settles ties.
    """
    rest = _shuffled(ids, seed)
    open_classes = presence.any(axis=0)
    cover: list[int] = []
    while open_classes.any():
        gains = presence[rest][:, open_classes].sum(axis=1)
        best = rest.pop(int(gains.argmax()))
        cover.append(best)
        open_classes &= ~presence[best]
    return cover + rest


def holdout(
    ids: Sequence[str], count: int, *, seed: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Set ``count`` random ids aside, for tuning without a look at the reported split.

    Args:
        ids: What to split.
        count: How many to set aside.
        seed: Picks them.

    Returns:
        The ids that stay and those set aside, both in the order given.

    Raises:
        ConfigError: ``count`` is not between 1 and one less than there are ids.
    """
    if not 1 <= count < len(ids):
        raise ConfigError(f"cannot hold out {count} of {len(ids)} images")
    aside = {ids[i] for i in _shuffled(ids, seed)[:count]}
    return tuple(i for i in ids if i not in aside), tuple(i for i in ids if i in aside)


def read_split_list(path: Path | str, dataset: SegmentationDataset) -> SplitList:
    """Read a list of labelled images such as semi-supervised papers share.

    One image a line: an id, a path, or an image path and a mask path separated by a space or
    a comma. Empty lines and lines that begin with ``#`` are skipped. Ids that the data set does
    not hold are counted.

    Args:
        path: The text file.
        dataset: The split whose ids are looked up.

    Raises:
        DataError: The file cannot be read, or it names nothing that is there.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"there is no split list {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the split list {path} cannot be read ({error})") from error
    lines = [line.strip() for line in text.splitlines()]
    named = list(dict.fromkeys(_id_of(line) for line in lines if line and line[0] != "#"))
    known = set(dataset.ids)
    ids = tuple(name for name in named if name in known)
    if not ids:
        example = f" (its first is {named[0]!r})" if named else ""
        raise DataError(
            f"the split list {path} names {len(named)} images{example}, none of which is in "
            f"{dataset.info.name} {dataset.split}"
        )
    return SplitList(ids, len(named) - len(ids))


def class_presence(
    dataset: SegmentationDataset, *, cache: Path | None = None
) -> npt.NDArray[np.bool_]:
    """Which class each image shows, bool ``[N, C]``; read from the masks once, then kept on disk.

    Args:
        dataset: Any split.
        cache: The cache root; by default ``$SEGNB_CACHE``, or ``.cache`` in ``$SEGNB_DATA``.

    Raises:
        DataError: A mask cannot be read, or the cache cannot be written.
    """
    info = dataset.info
    shape = (len(dataset), info.num_classes)
    name = f"{info.name}-{dataset.split}-{dataset.fingerprint}.npy"
    path = cache_root(cache) / "presence" / name
    if path.is_file():
        kept: npt.NDArray[np.bool_] = np.load(path)
        if kept.shape == shape and kept.dtype == np.bool_:
            return kept

    def present(index: int) -> npt.NDArray[np.bool_]:
        counts = np.bincount(dataset.mask(index).ravel(), minlength=IGNORE + 1)
        found: npt.NDArray[np.bool_] = counts[: info.num_classes] > 0
        return found

    # Decoding releases the interpreter's lock, so threads use all cores.
    with ThreadPoolExecutor() as pool:
        presence = np.array(list(pool.map(present, range(len(dataset)))), dtype=np.bool_)
    try:
        with atomic_path(path) as side, side.open("wb") as stream:
            np.save(stream, presence)
    except OSError as error:
        raise DataError(
            f"cannot write the cache {path} ({error}); set SEGNB_CACHE to a folder that can be "
            f"written"
        ) from error
    return presence


def _shuffled(ids: Sequence[str], seed: int) -> list[int]:
    def draw(index: int) -> bytes:
        return hashlib.sha256(f"{seed}:{ids[index]}".encode()).digest()

    return sorted(range(len(ids)), key=draw)


def _id_of(line: str) -> str:
    """The id in one line of a split list."""
    first = line.split(",")[0] if "," in line else line.split()[0]
    name = PurePosixPath(first.strip().strip("\"'").replace("\\", "/")).name
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    for end in _CITYSCAPES_ENDS:
        name = name.removesuffix(end)
    return name
