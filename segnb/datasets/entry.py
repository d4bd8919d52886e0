"""An entry of the registry: all that the package knows of one data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from segnb.datasets.base import DatasetInfo, SegmentationDataset, Split, data_root
from segnb.errors import DataError

Size = tuple[int, int]

#: Opens one split: the data set's folder, the split, and the size to draw at where it is drawn.
Opener = Callable[[Path, Split, Size | None], SegmentationDataset]

#: What a preset holds at each tier for photographs of any shape: they are fitted into a square.
PHOTOGRAPHS: dict[str, dict[str, Any]] = {
    "smoke": {"size": (64, 64), "crop": (48, 48)},
    "quick": {"size": (128, 128), "crop": (96, 96)},
    "colab": {"size": (320, 320), "crop": (320, 320)},
    "paper": {"size": (512, 512), "crop": (513, 513)},
}


@dataclass(frozen=True, kw_only=True)
class Archive:
    """An archive that a data set is unpacked from.

    Attributes:
        file: Its name, also when it is put into the data root by hand.
        mirrors: Addresses, tried in this order.
        take: The files needed of it, as they are named inside it; ``*`` stands for anything.
        size: About how large it is, for the reader.
        sha1: Its hash, or ``None`` where the host packs it anew now and then, so that equal
            content does not mean equal bytes.
        wrapped: Whether all of it lies in one outer folder, which is dropped.
        check: Raises a :class:`DataError` where the unpacked folder is not right; takes the place
            of a hash.
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
        name: The name that recipes and commands take.
        info: Gives classes, palette and licence. A call, because those of ``shapes`` come with
            the code that draws it, which needs numpy.
        open: Opens one split.
        presets: What the presets of this data set hold at each tier: fields of a recipe, among
            them ``size`` and ``crop``. Everything else is as for every data set.
        how: How to get the data, in words.
        folder: Where it lies under the data root; empty if it needs no files.
        splits: The splits with public labels. Without ``test``, ``val`` is what is reported.
        archive: What ``segnb fetch`` downloads; ``None`` if that must be done by hand.
        part_of: The data set whose files this one is read from.
        hint: What could be added to it, in words.
        drive: Gives the drive that an image was filmed on, by its id; ``None`` where there are no
            drives. Frames of one drive show one street in one light: a network that was trained on
            some of them has seen the others' scene.
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

    def load(
        self, split: Split, *, root: Path | None = None, size: Size | None = None
    ) -> SegmentationDataset:
        """One split; see :func:`segnb.datasets.load`."""
        if split not in get_args(Split):
            raise DataError(f"there is no split {split!r}; splits are {', '.join(get_args(Split))}")
        if split not in self.splits:
            raise DataError(
                f"{self.name} has no {split} split with public labels; report on 'val' and tune "
                f"on a part held out of 'train'"
            )
        folder = data_root(root) / self.folder
        if self.folder and not folder.is_dir():
            raise DataError(f"{self.name}: there is no folder {folder}; {self.how}")
        return self.open(folder, split, size)

    def count(self, root: Path | None = None) -> str:
        """How many images each split has, in words.

        Raises:
            DataError: The data set is not there, or not whole.
        """
        return ", ".join(f"{len(self.load(split, root=root))} {split}" for split in self.splits)
