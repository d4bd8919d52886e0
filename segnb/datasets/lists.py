"""Text files that list images, as data sets and papers publish them."""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

from segnb.datasets.reading import IMAGE_SUFFIXES
from segnb.errors import DataError

#: Suffixes of Cityscapes' file names after the id.
_CITYSCAPES_ENDS = ("_leftImg8bit", "_gtFine_labelIds", "_gtFine_labelTrainIds")

#: VOC's lists of one class say after each id whether it is shown, in two columns.
_FLAG = re.compile(r"(?P<id>\S+)(?:\s+-1|\s{2,}[01])")


def read_lines(path: Path) -> list[str]:
    """The lines of a text file in UTF-8, or in UTF-16 as PowerShell writes it.

    Empty lines and lines that start with ``#`` are left out.

    Raises:
        DataError: There is no such file, or it is no text of this kind.
    """
    try:
        raw = path.read_bytes()
        wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = raw.decode("utf-16" if wide else "utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"there is no list {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list {path} can't be read ({error}); save it as UTF-8") from error
    if "\0" in text:
        raise DataError(f"the list {path} is not a text file; save it as UTF-8")
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def listed_ids(lines: Sequence[str], known: Collection[str]) -> tuple[str, ...]:
    """The id that each line names, without duplicates; also ids that are not known.

    A line holds an id, a path, or an image path and a mask path with a space, tab or comma between
    them. Names may contain spaces and commas too: a line that is a known id is taken whole, and a
    line is split only where a whole path ends.

    Args:
        lines: From :func:`read_lines`.
        known: The ids that there are.
    """
    known = frozenset(known)
    return tuple(dict.fromkeys(_id_of(line, known) for line in lines))


def _id_of(line: str, known: Collection[str]) -> str:
    whole = _bare(line)
    for name in (whole, PurePosixPath(whole).name):
        if name in known:  # such as "photo.png", whose file is photo.png.jpg
            return name
    images = [_stem(image) for image in _images_of_pairs(line)]
    if not images or (_stem(line) in known and re.search(r"[\s,]", _stem(line))):
        return _stem(line)
    return next((image for image in images if image in known), images[0])


def _images_of_pairs(line: str) -> Iterator[str]:
    """What is the image if a line is read as image and mask, for each way to split it."""
    if flagged := _FLAG.fullmatch(line):
        yield flagged["id"]
    for gap in re.finditer(r"\s*,\s*|\s+", line):
        image, mask = _bare(line[: gap.start()]), _bare(line[gap.end() :])
        whole = image.lower().endswith(IMAGE_SUFFIXES)
        clear = "," in gap[0] or mask.lower().endswith(IMAGE_SUFFIXES)
        # Without endings, a space may as well be part of one name: only twice the same is a pair.
        if (whole and clear) or _stem(image) == _stem(mask):
            yield image


def _bare(path: str) -> str:
    return path.strip().strip("\"'").replace("\\", "/")


def _stem(path: str) -> str:
    """The id in a path: its last part, without the endings of file names."""
    name = PurePosixPath(_bare(path)).name
    for suffix in IMAGE_SUFFIXES:
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
            break
    for end in _CITYSCAPES_ENDS:
        name = name.removesuffix(end)
    return name
