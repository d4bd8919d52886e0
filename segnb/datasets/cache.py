"""Images and masks at the working resolution: decoded once, stored on disk, memory-mapped."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor

from segnb.datasets.base import (
    IGNORE,
    Bytes,
    DatasetInfo,
    SegmentationDataset,
    cache_root,
    writing_cache,
)
from segnb.errors import DataError

#: Part of a cache's name; increased when the stored content changes.
FORMAT_VERSION = 1

_ARRAYS = ("images", "masks", "extents")


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
    same cache, one builds it and the others wait.

    Args:
        dataset: The split.
        size: Height and width.
        ids: Which images; all by default.
        cache: The cache root; by default ``$SEGNB_CACHE``, or ``.cache`` in ``$SEGNB_DATA``.
        progress_bar: Show progress if building the cache takes more than two seconds.

    Raises:
        DataError: A sample cannot be read, an id is unknown, or the cache cannot be written.
    """
    height, width = size
    if min(size) < 1:
        raise ValueError(f"size is {size}; height and width must be 1 or more")
    name = f"{dataset.info.name}-{dataset.split}-{height}x{width}-{dataset.fingerprint}"
    folder = cache_root(cache) / "working" / f"{name}-v{FORMAT_VERSION}"
    if not folder.is_dir():
        with writing_cache(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not folder.is_dir():
                    _build(dataset, size, folder, progress_bar=progress_bar)
    # Copy on write: torch needs writable memory, but the files must not change.
    images, masks, extents = (
        torch.from_numpy(np.load(folder / f"{array}.npy", mmap_mode="c")) for array in _ARRAYS
    )
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


def _build(
    dataset: SegmentationDataset, size: tuple[int, int], folder: Path, *, progress_bar: bool
) -> None:
    from tqdm.contrib.concurrent import thread_map

    height, width = size
    count = len(dataset)
    needed, free = count * height * width * 4, shutil.disk_usage(folder.parent).free
    # Writing a mapped file on a full disk kills the process without a message, so check first.
    if needed > free:
        raise DataError(
            f"the cache {folder} needs {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB "
            f"free; set SEGNB_CACHE to a larger disk or choose a smaller size"
        )
    # Remove what a killed process left; only the holder of the lock gets here.
    for stale in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(stale)
    side = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        open_memmap = np.lib.format.open_memmap
        images = open_memmap(side / "images.npy", "w+", np.uint8, (count, 3, height, width))
        masks = open_memmap(side / "masks.npy", "w+", np.uint8, (count, height, width))
        extents = open_memmap(side / "extents.npy", "w+", np.int64, (count, 2))
        masks[:] = IGNORE

        def fill(index: int) -> None:
            sample = dataset[index]
            image, mask = letterbox(sample.image, sample.mask, size)
            h, w = mask.shape
            images[index, :, :h, :w] = image.transpose(2, 0, 1)
            masks[index, :h, :w] = mask
            extents[index] = h, w

        # Decoding and scaling release the GIL, so threads use all cores.
        thread_map(
            fill,
            range(count),
            desc=f"{dataset.info.name} {dataset.split} at {height}x{width}",
            unit="image",
            delay=2,
            leave=False,
            disable=not progress_bar,
        )
        for array in (images, masks, extents):
            array.flush()
        side.chmod(0o755)
        # Renaming is atomic, so a reader only ever sees a complete folder.
        os.replace(side, folder)
    finally:
        shutil.rmtree(side, ignore_errors=True)
