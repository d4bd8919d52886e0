"""Images and masks at the working resolution: decoded once, stored on disk, memory-mapped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from segnb.datasets.base import IGNORE, Bytes, DatasetInfo, Sample, SegmentationDataset, cache_root
from segnb.datasets.store import entry_name, read_or_build
from segnb.errors import DataError
from segnb.files import write_json

#: Part of a cache's name; increased when the stored content changes.
FORMAT_VERSION = 2

_ARRAYS = ("images", "masks", "extents")

#: Says what a whole cache holds: size and time of each array file, and a checksum per image.
_SEAL = "seal.json"


@dataclass(frozen=True, eq=False)
class WorkingSet:
    """Labelled images of one size, ready for batches.

    Each image is scaled to fit, keeping its aspect ratio, and put in the top left corner. The
    rest is 0 in the image and ``IGNORE`` in the mask.

    Attributes:
        info: The data set's classes.
        ids: One id per image.
        images: uint8 ``[N, 3, H, W]``.
        masks: uint8 ``[N, H, W]``, class ids and ``IGNORE``.
        extents: int64 ``[N, 2]``: height and width of the image without padding.
    """

    info: DatasetInfo
    ids: tuple[str, ...]
    images: Tensor
    masks: Tensor
    extents: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def digest(self) -> str:
        """A hash of the ids, images and masks."""
        digest = hashlib.sha256(repr(self.ids).encode())
        for tensor in (self.images, self.masks):
            digest.update(repr(tensor.shape).encode())
            digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> WorkingSet:
        """The same images in the memory of a device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in _ARRAYS})

    def subset(self, ids: Sequence[str]) -> WorkingSet:
        """Some of the images, in the order of ``ids``.

        Raises:
            DataError: An id is not in this set.
        """
        if tuple(ids) == self.ids:
            return self  # the images may be larger than memory: avoid a copy
        index = {name: i for i, name in enumerate(self.ids)}
        if unknown := [name for name in ids if name not in index]:
            raise DataError(
                f"{self.info.name}: {unknown[0]!r} is not among the {len(self)} images here "
                f"({len(unknown)} such ids)"
            )
        rows = torch.tensor([index[name] for name in ids], dtype=torch.long)
        rows = rows.to(self.images.device)
        chosen = {name: getattr(self, name)[rows] for name in _ARRAYS}
        return replace(self, ids=tuple(ids), **chosen)

    def with_masks(self, masks: Tensor) -> WorkingSet:
        """The same images with other masks, such as pseudo-labels.

        Raises:
            ValueError: The masks are not uint8 of the same shape.
        """
        if masks.shape != self.masks.shape or masks.dtype != torch.uint8:
            raise ValueError(
                f"masks are {masks.dtype} {tuple(masks.shape)}; they must be torch.uint8 "
                f"{tuple(self.masks.shape)}"
            )
        return replace(self, masks=masks.to(self.images.device))


def working_set(
    dataset: SegmentationDataset,
    *,
    size: tuple[int, int],
    ids: Sequence[str] | None = None,
    cache: Path | None = None,
    progress_bar: bool = True,
) -> WorkingSet:
    """A split at a working size, from the cache on disk; the cache is built if it is missing.

    The cache always contains the whole split, so that all label fractions share it. Its files are
    memory-mapped: opening them reads almost nothing, and writing to the tensors does not change the
    files. A cache is either complete or absent, even after a crash. If several processes need the
    same cache, one builds it and the others wait. If its files have changed since, they are checked
    against checksums, and the cache is rebuilt if it is damaged.

    Args:
        dataset: The split.
        size: Height and width.
        ids: Which images; all by default.
        cache: The cache root; by default ``$SEGNB_CACHE``, or ``.cache`` in ``$SEGNB_DATA``.
        progress_bar: Show progress if building the cache takes more than two seconds.

    Raises:
        DataError: A sample cannot be read or has a label that is no class, an id is unknown, the
            data set's files change meanwhile, or the cache cannot be written.
    """
    height, width = size
    if min(size) < 1:
        raise ValueError(f"size is {size}; height and width must be 1 or more")
    name = entry_name(dataset, f"{height}x{width}", f"v{FORMAT_VERSION}")
    folder = cache_root(cache) / "working" / name
    shapes = _shapes(dataset, size)
    arrays = read_or_build(
        folder,
        lambda: _stored(folder, shapes),
        lambda: _build(dataset, size, folder, progress_bar=progress_bar),
    )
    images, masks, extents = (torch.from_numpy(arrays[name]) for name in _ARRAYS)
    whole = WorkingSet(dataset.info, tuple(dataset.ids), images, masks, extents)
    return whole if ids is None else whole.subset(ids)


def letterbox(image: Bytes, mask: Bytes, size: tuple[int, int]) -> tuple[Bytes, Bytes]:
    """Scale an image and its mask to just fit into ``size``, keeping the aspect ratio; no padding.

    The image is filtered (bilinear over the area of each new pixel, so that shrinking does not
    alias). The mask takes the nearest label.

    Args:
        image: uint8 ``[H, W, 3]``.
        mask: uint8 ``[H, W]``.
        size: Maximum height and width.

    Returns:
        Image uint8 ``[h, w, 3]`` and mask uint8 ``[h, w]``.
    """
    scale = min(size[0] / mask.shape[0], size[1] / mask.shape[1])
    height, width = (
        min(most, max(1, round(side * scale))) for side, most in zip(mask.shape, size, strict=True)
    )
    small = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    labels = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(small), np.asarray(labels)


#: Shape and dtype of each array.
_Shapes = Mapping[str, tuple[tuple[int, ...], Any]]


def _shapes(dataset: SegmentationDataset, size: tuple[int, int]) -> _Shapes:
    count = len(dataset)
    return {
        "images": ((count, 3, *size), np.uint8),
        "masks": ((count, *size), np.uint8),
        "extents": ((count, 2), np.int64),
    }


def _stored(folder: Path, shapes: _Shapes) -> dict[str, npt.NDArray[Any]] | None:
    """The arrays of a cache, mapped; ``None`` if there is none or it is damaged."""
    try:
        seal = json.loads((folder / _SEAL).read_bytes())
        # Copy on write: torch needs writable memory, but the files must not change.
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in _ARRAYS}
        for name, (shape, dtype) in shapes.items():
            array = arrays[name]
            if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
                return None
        stamps = _stamps(folder)
        if seal["stamps"] != stamps:
            if seal["sums"] != [_sum(arrays, index) for index in range(len(arrays["masks"]))]:
                return None
            _reseal(folder, {**seal, "stamps": stamps})
    except (OSError, EOFError, ValueError, KeyError, TypeError, SyntaxError):
        return None
    return arrays


def _stamps(folder: Path) -> dict[str, list[int]]:
    """Size and time of each array file."""
    found = {name: (folder / f"{name}.npy").stat() for name in _ARRAYS}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in found.items()}


def _sum(arrays: Mapping[str, npt.NDArray[Any]], index: int) -> int:
    """A checksum of one image with its mask and extent."""
    total = 0
    for name in _ARRAYS:
        total = zlib.crc32(np.ascontiguousarray(arrays[name][index]).data, total)
    return total


def _reseal(folder: Path, seal: Mapping[str, Any]) -> None:
    # A cache that is read only can be used all the same; it is checked again each time.
    with contextlib.suppress(OSError):
        write_json(folder / _SEAL, seal)


def _build(
    dataset: SegmentationDataset, size: tuple[int, int], folder: Path, *, progress_bar: bool
) -> None:
    """Fill a cache beside its place and move it there; only the holder of its lock may do so."""
    from tqdm.contrib.concurrent import thread_map

    height, width = size
    count, before = len(dataset), dataset.fingerprint
    needed, free = count * height * width * 4, shutil.disk_usage(folder.parent).free
    # Writing a mapped file on a full disk kills the process without a message, so check first.
    if needed > free:
        raise DataError(
            f"the cache {folder} needs {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB "
            f"free; set SEGNB_CACHE to a larger disk or choose a smaller size"
        )
    side = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        arrays = {
            name: np.lib.format.open_memmap(side / f"{name}.npy", "w+", dtype, shape)
            for name, (shape, dtype) in _shapes(dataset, size).items()
        }
        arrays["masks"][:] = IGNORE

        def fill(index: int) -> int:
            sample = dataset[index]
            _need_classes(sample, dataset.info)
            image, mask = letterbox(sample.image, sample.mask, size)
            h, w = mask.shape
            arrays["images"][index, :, :h, :w] = image.transpose(2, 0, 1)
            arrays["masks"][index, :h, :w] = mask
            arrays["extents"][index] = h, w
            return _sum(arrays, index)

        # Decoding and scaling release the GIL, so threads use all cores.
        sums = thread_map(
            fill,
            range(count),
            desc=f"{dataset.info.name} {dataset.split} at {height}x{width}",
            unit="image",
            delay=2,
            leave=False,
            disable=not progress_bar,
        )
        if dataset.fingerprint != before:
            raise DataError(
                f"files of {dataset.info.name} {dataset.split} changed while they were read for "
                f"the cache; repeat the command once they are complete"
            )
        for array in arrays.values():
            array.flush()
        write_json(side / _SEAL, {"stamps": _stamps(side), "sums": sums})
        with contextlib.suppress(OSError):  # some disks have no permissions
            side.chmod(0o755)
        # Renaming is atomic, so a reader only ever sees a complete folder.
        os.replace(side, folder)
    finally:
        shutil.rmtree(side, ignore_errors=True)


def _need_classes(sample: Sample, info: DatasetInfo) -> None:
    """Check a sample of any data set: its masks index the classes of the network."""
    if sample.image.shape != (*sample.mask.shape, 3):
        raise DataError(
            f"{info.name}: the image of {sample.id!r} is {sample.image.shape} and its mask "
            f"{sample.mask.shape}; they must be [H, W, 3] and [H, W]"
        )
    labels = sample.mask[sample.mask != IGNORE]
    if sample.mask.dtype != np.uint8 or labels.max(initial=0) >= info.num_classes:
        raise DataError(
            f"{info.name}: the mask of {sample.id!r} is {sample.mask.dtype} with labels up to "
            f"{labels.max(initial=0)}; it must be uint8, with classes 0 to {info.num_classes - 1} "
            f"and {IGNORE} for void"
        )
