"""What every data set looks like: classes, a list of ids, and images with their masks.

Neither numpy nor torch is imported here: a recipe and the doctor ask for no more than names.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: The mask value of a pixel that counts nowhere (void), in every data set of this package.
IGNORE = 255

Split = Literal["train", "val", "test"]
Bytes: TypeAlias = "npt.NDArray[np.uint8]"


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before any file is read.

    Attributes:
        name: The name ``load`` takes.
        class_names: One name a class; a pixel of class ``c`` holds the value ``c``.
        palette: One colour (red, green, blue) in 0-255 a class.
        licence: Terms of use, in one sentence.
        homepage: Where the data set is described.
    """

    name: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    licence: str
    homepage: str

    def __post_init__(self) -> None:
        if len(self.palette) != len(self.class_names):
            raise ValueError(
                f"{self.name}: {len(self.palette)} colours for {len(self.class_names)} classes"
            )

    @property
    def num_classes(self) -> int:
        """Number of classes, void not counted."""
        return len(self.class_names)


class Sample(NamedTuple):
    """One labelled image at its own resolution.

    Attributes:
        image: uint8 ``[H, W, 3]``, red, green, blue.
        mask: uint8 ``[H, W]``, class ids from 0, void ``IGNORE``.
        id: Names the sample within its split.
    """

    image: Bytes
    mask: Bytes
    id: str


class SegmentationDataset(Protocol):
    """One split of a data set; any object with these members will do."""

    @property
    def info(self) -> DatasetInfo:
        """Classes, palette, licence."""
        ...

    @property
    def split(self) -> str:
        """``train``, ``val`` or ``test``."""
        ...

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids in a fixed order, without repetition."""
        ...

    @property
    def fingerprint(self) -> str:
        """A short text that changes when any image or mask may have changed.

        It becomes part of a cache's file name.
        """
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """The sample of ``ids[index]``.

        Raises:
            DataError: A file is missing or not what it should be.
        """
        ...

    def mask(self, index: int) -> Bytes:
        """The mask of ``ids[index]`` alone, ``[H, W]``, where the image is not needed."""
        ...


def data_root(root: Path | None = None) -> Path:
    """``root``, or ``$SEGNB_DATA``, or ``./data``."""
    return Path(root or os.environ.get("SEGNB_DATA") or "data").expanduser()


def cache_root(cache: Path | None = None) -> Path:
    """``cache``, or ``$SEGNB_CACHE``, or ``.cache`` in ``$SEGNB_DATA`` or ``./data``.

    A data root that is named in another way is only read from.
    """
    chosen = cache or os.environ.get("SEGNB_CACHE")
    return Path(chosen).expanduser() if chosen else data_root() / ".cache"
