"""Patterns of file names: ``images/*`` and ``masks/*_mask`` match by what the star stands for.

``*`` stands for a name within one folder, ``**`` also for names in subfolders (``clip_a/0001``).
Without an ending (``.jpg``), a pattern takes every ending of an image file. Files that begin with a
dot are passed over, as are the folders in which macOS hides its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from segnb.errors import DataError

#: Endings of image files: those of ``segnb.datasets.reading``, which needs numpy. A test compares.
ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".jp2", ".avif", ".ppm", ".pgm", ".pbm", ".pnm"),
)

#: Names of folders that hold labels.
MASK_FOLDER = re.compile(r"mask|label|annot|^gt|ground.?truth|segm|class|target", re.IGNORECASE)


@dataclass(frozen=True)
class Pattern:
    """A pattern of file names.

    Attributes:
        text: The pattern.
        base: The folder that is searched.
        before: The name up to the star.
        after: The name after the star, without an ending.
        deep: Whether subfolders are searched too.
        ending: The only ending; ``None`` for any.
    """

    text: str
    base: Path
    before: str
    after: str
    deep: bool
    ending: str | None

    def id_of(self, path: Path, *, endings: tuple[str, ...] = ENDINGS) -> str | None:
        """What the star stands for in a path; ``None`` if the path does not match."""
        try:
            name = path.relative_to(self.base).as_posix()
        except ValueError:
            return None
        stem, ending = os.path.splitext(name)
        wanted = endings if self.ending is None else (self.ending,)
        if ending.lower() not in wanted:
            return None
        if not (stem.startswith(self.before) and stem.endswith(self.after)):
            return None
        found = stem[len(self.before) : len(stem) - len(self.after)]
        if not found or ("/" in found and not self.deep):
            return None
        return found

    def path_of(self, name: str, ending: str) -> Path:
        """Where the file of an id would be."""
        return self.base / f"{self.before}{name}{self.after}{self.ending or ending}"

    def find(self, *, endings: tuple[str, ...] = ENDINGS) -> dict[str, Path]:
        """All files that match, by id, in the order of the ids.

        Raises:
            DataError: Two files have one id.
        """
        found: dict[str, Path] = {}
        for path in walk(self.base, deep=self.deep or "/" in self.before + self.after):
            name = self.id_of(path, endings=endings)
            if name is None:
                continue
            if name in found:
                raise DataError(
                    f"{found[name]} and {path} differ only in their endings; remove one, or name "
                    f"the ending in {self.text!r}"
                )
            found[name] = path
        return dict(sorted(found.items()))


def pattern(root: Path, text: str) -> Pattern:
    """The pattern that a text stands for.

    Args:
        root: The folder that a relative pattern starts from.
        text: The pattern, with ``/`` between folders.

    Raises:
        ValueError: It is no pattern; the message says what to do.
    """
    if "\\" in text:
        raise ValueError("write / between folders")
    stars = re.findall(r"\*+", text)
    if len(stars) != 1 or len(stars[0]) > 2 or re.search(r"[?\[\]]", text):
        raise ValueError("write one *, which stands for the part that image and mask share")
    before, after = text.split(stars[0])
    folder, _, before = before.rpartition("/")
    if text.startswith("/"):
        folder = folder or "/"
    ending = PurePosixPath(f"x{after}").suffix.lower()
    known = ending in (*ENDINGS, ".json")
    if known:
        after = after[: -len(ending)]
    return Pattern(
        text,
        Path(os.path.normpath(root / Path(folder).expanduser())),
        before,
        after,
        deep=len(stars[0]) == 2,
        ending=ending if known else None,
    )


def walk(folder: Path, *, deep: bool) -> Iterator[Path]:
    """The files of a folder in a fixed order, without hidden ones."""
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _hidden(name)) if deep else []
        yield from (Path(where, name) for name in sorted(files) if not _hidden(name))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
