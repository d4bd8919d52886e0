"""The interface of all data sets: classes, a list of ids, and images with their masks.

Neither numpy nor torch is imported here: a recipe and the doctor need only names.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias

from segnb.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: The mask value of an unlabelled (void) pixel, in every data set of this package.
IGNORE = 255

Split = Literal["train", "val", "test"]
Bytes: TypeAlias = "npt.NDArray[np.uint8]"


@dataclass(frozen=True)
class DatasetInfo:
    """What is known about a data set before any file is read.

    Attributes:
        name: The data set's name, as ``load`` takes it.
        class_names: One name per class; pixels of class ``c`` have the value ``c``.
        palette: One colour (red, green, blue in 0-255) per class.
        licence: Terms of use, in one sentence.
        homepage: Web page that describes the data set.
    """

    name: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    licence: str
    homepage: str

    def __post_init__(self) -> None:
        if len(self.palette) != len(self.class_names):
            raise DataError(
                f"{self.name}: {len(self.palette)} colours for {len(self.class_names)} classes"
            )

    @property
    def num_classes(self) -> int:
        """Number of classes, not counting void."""
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
        """Ids in a fixed order, without duplicates."""
        ...

    @property
    def fingerprint(self) -> str:
        """A short text that changes if any image or mask may have changed.

        It is part of a cache's file name.
        """
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """The sample of ``ids[index]``.

        Raises:
            DataError: A file is missing or wrong.
        """
        ...

    def mask(self, index: int) -> Bytes:
        """Only the mask of ``ids[index]``, ``[H, W]``."""
        ...


def data_root(root: Path | None = None) -> Path:
    """``root``, or ``$SEGNB_DATA``, or ``./data``."""
    return Path(root or os.environ.get("SEGNB_DATA") or "data").expanduser()


def cache_root(cache: Path | None = None) -> Path:
    """``cache``, or ``$SEGNB_CACHE``, or ``.cache`` in ``$SEGNB_DATA`` or ``./data``.

    A data root given as an argument is never written to.
    """
    chosen = cache or os.environ.get("SEGNB_CACHE")
    return Path(chosen).expanduser() if chosen else data_root() / ".cache"


@contextlib.contextmanager
def writing_cache(path: Path) -> Iterator[None]:
    """Explain what to do if ``path``, in a cache, cannot be written."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write the cache {path} ({error}); set SEGNB_CACHE to a folder on a local disk "
            f"that you may write to"
        ) from error
