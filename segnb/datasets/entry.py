"""Registry entries: everything the package knows about one data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from segnb.datasets.base import DatasetInfo, SegmentationDataset, Split, data_root
from segnb.errors import DataError

Size = tuple[int, int]

#: Opens one split, given the folder, the split, and the size for a data set that is drawn.
Opener = Callable[[Path, Split, Size | None], SegmentationDataset]

#: Preset values at each tier for photographs of any shape, which are fitted into a square.
PHOTOGRAPHS: dict[str, dict[str, Any]] = {
    "smoke": {"size": (64, 64), "crop": (48, 48)},
    "quick": {"size": (128, 128), "crop": (96, 96)},
    "gpu": {"size": (256, 256), "crop": (224, 224)},
    "colab": {"size": (320, 320), "crop": (320, 320)},
    "paper": {"size": (512, 512), "crop": (513, 513)},
}


@dataclass(frozen=True, kw_only=True)
class Archive:
    """The archive of a data set.

    Attributes:
        file: Its file name, also if it is put into the data root by hand.
        mirrors: Addresses, tried in this order.
        take: The files to unpack, by their names in the archive; ``*`` matches anything.
        size: Approximate size, for the reader.
        sha1: Its hash; ``None`` if the host may repack it, so that equal content can have
            different bytes.
        wrapped: Whether everything is inside one outer folder, which is dropped.
        check: Raises a :class:`DataError` if the unpacked folder is wrong; used instead of a hash.
    """

    file: str
    mirrors: tuple[str, ...]
    take: tuple[str, ...]
    size: str
    sha1: str | None = None
    wrapped: bool = False
    check: Callable[[Path], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One data set.

    Attributes:
        name: Its name in recipes and commands.
        info: Returns classes, palette and licence. A function, because those of ``shapes`` are
            defined with the code that draws it, which needs numpy.
        open: Opens one split.
        presets: Preset values of this data set at each tier: fields of a recipe, including
            ``size`` and ``crop``. All other values are the same for every data set.
        how: How to get the data, in words.
        folder: Its folder under the data root; empty if it needs no files.
        splits: The splits with public labels. Without ``test``, results are reported on ``val``.
        archive: What ``segnb fetch`` downloads; ``None`` if it must be downloaded by hand.
        part_of: The data set whose files this one uses.
        hint: What could be added to it, in words.
        drive: Maps an image's id to the drive on which it was filmed; ``None`` if there are no
            drives. Frames of one drive show the same street in the same light, so a network that
            was trained on some of them has seen the scene of the others.
    """

    name: str
    info: Callable[[], DatasetInfo]
    open: Opener
    presets: Mapping[str, Mapping[str, Any]]
    how: str
    folder: str = ""
    splits: tuple[Split, ...] = get_args(Split)
    archive: Archive | None = None
    part_of: str | None = None
    hint: str = ""
    drive: Callable[[str], str] | None = None

    @property
    def title(self) -> str:
        """The name in hashes, tables and file names, without the place of a folder of your own."""
        return self.name.partition("@")[0]

    def load(
        self, split: Split, *, root: Path | None = None, size: Size | None = None
    ) -> SegmentationDataset:
        """One split; see :func:`segnb.datasets.load`."""
        if split not in get_args(Split):
            raise DataError(f"there is no split {split!r}; splits are {', '.join(get_args(Split))}")
        if split not in self.splits:
            raise DataError(
                f"{self.name} has no {split} split with public labels; report on 'val' and tune on "
                f"a held-out part of 'train'"
            )
        folder = data_root(root) / self.folder
        if self.folder and not folder.is_dir():
            raise DataError(f"{self.name}: there is no folder {folder}; {self.how}")
        return self.open(folder, split, size)

    def count(self, root: Path | None = None) -> str:
        """The number of images in each split, in words.

        Raises:
            DataError: The data set is missing or incomplete.
        """
        return ", ".join(f"{len(self.load(split, root=root))} {split}" for split in self.splits)
