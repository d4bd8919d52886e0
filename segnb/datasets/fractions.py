"""Which images count as labelled: nested label fractions, split lists, and a held-out part."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segnb.datasets.base import IGNORE, SegmentationDataset, cache_root
from segnb.datasets.lists import listed_ids, read_lines
from segnb.datasets.store import entry_name, read_or_build
from segnb.errors import ConfigError, DataError
from segnb.files import write_atomic


@dataclass(frozen=True)
class SplitList:
    """The content of a split list.

    Attributes:
        ids: The ids that are in the data set, in the list's order, without duplicates.
        missing: How many ids of the list are not in the data set.
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

    All shares with one seed are prefixes of one order of the images. First come images that each
    add the most classes not covered yet, until every class is covered; then the others at random.
    So a smaller share is a subset of a larger one, and every class is present if the share is large
    enough. The order depends only on the ids, their classes and the seed. It comes from SHA-256, so
    it is the same on every machine and with every version of numpy.

    Args:
        dataset: The split to choose from.
        fraction: Share of its images with labels, in (0, 1]; rounded to the nearest number, at
            least one.
        seed: Determines the order.
        among: Choose from these ids; by default from all.
        cache: The cache root, for class presence; by default ``$SEGNB_CACHE``.

    Raises:
        ConfigError: The fraction is not in (0, 1].
        DataError: A mask cannot be read.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"the label fraction is {fraction}; it must be above 0 and at most 1")
    # Only a folder of your own may hold images without labels.
    bare: Collection[str] = getattr(dataset, "unlabelled", ())
    rows = [
        row
        for row, name in enumerate(dataset.ids)
        if name not in bare and (among is None or name in among)
    ]
    ids = [dataset.ids[i] for i in rows]
    count = max(1, int(fraction * len(ids) + 0.5))
    if count == len(ids):
        return tuple(ids)
    order = covering_order(ids, class_presence(dataset, cache=cache)[rows], seed=seed)
    return tuple(ids[i] for i in sorted(order[:count]))


def covering_order(ids: Sequence[str], presence: npt.NDArray[np.bool_], *, seed: int) -> list[int]:
    """Indices of ``ids``: first a greedy cover of the classes, then the rest at random.

    Args:
        ids: One id per image.
        presence: bool ``[N, C]``: which image contains which class.
        seed: Determines the random order, which also breaks ties.
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
    """Set ``count`` random ids aside, for tuning without the reported split.

    Args:
        ids: The ids to split.
        count: How many to set aside.
        seed: Determines which.

    Returns:
        The remaining ids and those set aside, both in the given order.

    Raises:
        ConfigError: ``count`` is below 1, or no id would remain.
    """
    if not 1 <= count < len(ids):
        raise ConfigError(f"cannot hold out {count} of {len(ids)} images")
    aside = {ids[i] for i in _shuffled(ids, seed)[:count]}
    return tuple(i for i in ids if i not in aside), tuple(i for i in ids if i in aside)


def read_split_list(path: Path | str, dataset: SegmentationDataset) -> SplitList:
    """Read a list of labelled images, as published with semi-supervised papers.

    Lines are read as :func:`segnb.datasets.lists.listed_ids` says. Ids that are not in the data
    set are counted.

    Args:
        path: The text file.
        dataset: The split that the ids refer to.

    Raises:
        DataError: The file cannot be read, or none of its ids is in the split.
    """
    named = listed_ids(read_lines(Path(path)), dataset.ids)
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
    """Which classes each image contains, bool ``[N, C]``; read from the masks once, then cached.

    Args:
        dataset: Any split.
        cache: The cache root; by default ``$SEGNB_CACHE``, or ``.cache`` in ``$SEGNB_DATA``.

    Raises:
        DataError: A mask cannot be read, or the cache cannot be written.
    """
    path = cache_root(cache) / "presence" / f"{entry_name(dataset)}.npy"
    shape = (len(dataset), dataset.info.num_classes)

    def build() -> None:
        content = io.BytesIO()
        np.save(content, _find_presence(dataset))
        write_atomic(path, content.getvalue() + _checksum(content.getvalue()))

    return read_or_build(path, lambda: _stored_presence(path, shape), build)


def _stored_presence(path: Path, shape: tuple[int, int]) -> npt.NDArray[np.bool_] | None:
    """The array in a cache file; ``None`` if there is none or it is damaged."""
    try:
        content = path.read_bytes()
        if _checksum(content[:-4]) != content[-4:]:
            return None
        stored: npt.NDArray[np.bool_] = np.load(io.BytesIO(content[:-4]))
    except (OSError, ValueError, EOFError):
        return None
    return stored if stored.shape == shape and stored.dtype == np.bool_ else None


def _find_presence(dataset: SegmentationDataset) -> npt.NDArray[np.bool_]:
    classes = dataset.info.num_classes

    def present(index: int) -> npt.NDArray[np.bool_]:
        counts = np.bincount(dataset.mask(index).ravel(), minlength=IGNORE + 1)
        if counts[classes:IGNORE].any():
            raise DataError(
                f"{dataset.info.name}: the mask of {dataset.ids[index]!r} has the label "
                f"{classes + int(counts[classes:IGNORE].argmax())}; classes are 0 to {classes - 1}"
            )
        found: npt.NDArray[np.bool_] = counts[:classes] > 0
        return found

    # Decoding releases the GIL, so threads use all cores.
    with ThreadPoolExecutor() as pool:
        return np.array(list(pool.map(present, range(len(dataset)))), dtype=np.bool_)


def _checksum(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(4, "little")


def _shuffled(ids: Sequence[str], seed: int) -> list[int]:
    def draw(index: int) -> bytes:
        # Names of files need not be valid text.
        return hashlib.sha256(f"{seed}:{ids[index]}".encode(errors="backslashreplace")).digest()

    return sorted(range(len(ids)), key=draw)
