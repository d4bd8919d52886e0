"""Image and mask files, read in one way by training, predictions and checks.

An image is what a viewer shows, as 8-bit colours:

- Orientation flags are applied, whatever the format.
- 16 bits are cut to the upper 8, in grey as in colour. 32-bit numbers and floating-point numbers
  have no known range, so they are refused.
- CMYK, LAB and palettes become red, green and blue. Transparency and colour profiles are ignored.
- Of a photo with a preview, the photo counts. Animations and stacks are refused.

A mask is exact or refused:

- It must be in a format that keeps every number, whatever its name says.
- Its values are those that were written: 1, 2 and 4 bits are not stretched to 0-255, and 16 or 32
  bits may hold ids up to 255.
- Palette masks count by index. If the data set's colours are known, a palette that gives an index
  the colour of another value is refused: some program has renumbered the indices.
- Orientation flags are applied, as for images.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from segnb.datasets.base import IGNORE, Bytes
from segnb.errors import DataError

#: Increased when a file would give other pixels than before; caches depend on it.
RULES = 1

#: Endings of the files that :func:`read_image` can read, in lower case.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".jp2", ".avif", ".ppm", ".pgm", ".pbm", ".pnm"),
)

#: Endings of the files that :func:`read_mask` can read, in lower case.
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif", ".pgm")

_IMAGE_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
_MASK_FORMATS = ("PNG", "BMP", "TIFF", "GIF", "PPM")
#: TIFF compressions that keep every number.
_LOSSLESS = frozenset(
    ("raw", "packbits", "lzma", "zstd", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate")
)
_TIFF_SUBFILE, _TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT = 254, 258, 262, 339
_ORIENTATION = 0x0112
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')

Colour = tuple[int, int, int]


def read_image(path: Path) -> Bytes:
    """The pixels of an image as a viewer shows them, uint8 ``[H, W, 3]``, red, green, blue.

    Raises:
        DataError: The file is missing, damaged, or of a kind that has no one right reading.
    """
    with _telling(path, "an image"), _opened(path, _IMAGE_FORMATS) as picture:
        picture.load()
        turned = _upright(np.asarray(_eight_bits(picture).convert("RGB")), picture)
        return np.array(turned, order="C")


def read_mask(path: Path, *, colours: Mapping[int, Colour] | None = None) -> Bytes:
    """The values of a mask file exactly as they were written, uint8 ``[H, W]``.

    Args:
        path: The file.
        colours: The colour that each value has in palette masks of this data set, if known.

    Raises:
        DataError: The file is missing or damaged, does not hold one value from 0 to 255 per pixel,
            or cannot be trusted to hold the values that were drawn.
    """
    numbers = read_numbers(path, colours=colours)
    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or high > IGNORE:
        raise DataError(
            f"{path} can't be read as a mask: it holds the value {low if low < 0 else high}; "
            f"class ids are 0 to {IGNORE - 1}, and void is {IGNORE}"
        )
    return numbers.astype(np.uint8, copy=False)


def read_numbers(
    path: Path, *, colours: Mapping[int, Colour] | None = None
) -> npt.NDArray[np.integer[Any]]:
    """The numbers of a mask file of 1 to 32 bits, ``[H, W]``; for the rest see :func:`read_mask`.

    Raises:
        DataError: As in :func:`read_mask`, but any whole number will do.
    """
    with _telling(path, "a mask"), _opened(path, _MASK_FORMATS) as picture:
        stretch = _stretch(picture)
        picture.load()
        if picture.mode == "F":
            raise _RefusedError("it holds floating-point numbers; save class ids as 8-bit PNG")
        if picture.mode not in ("L", "P", "1") and not picture.mode.startswith("I"):
            raise _RefusedError(
                f"it holds {picture.mode} colours; a mask must hold one class id per pixel (grey "
                f"or palette PNG)"
            )
        numbers = np.asarray(picture)
        tags = getattr(picture, "tag_v2", {})
        if numbers.dtype == np.uint8 and 2 in np.atleast_1d(tags.get(_TIFF_SAMPLE_FORMAT, 1)):
            numbers = numbers.view(np.int8)
        if picture.mode == "P" and colours:
            _check_palette(picture, numbers, colours)
        kind = np.uint8 if numbers.dtype == np.bool_ else numbers.dtype.newbyteorder("=")
        return np.array(_upright(numbers // stretch, picture), dtype=kind, order="C")


def read_colours(path: Path) -> Bytes:
    """The colours of a mask file exactly as they were written, uint8 ``[H, W, 3]``.

    For masks that show classes by colour. Transparency is ignored.

    Raises:
        DataError: The file is missing or damaged, or may hold other colours than were drawn.
    """
    with _telling(path, "a mask"), _opened(path, _MASK_FORMATS) as picture:
        _stretch(picture)
        raw = _raw_mode(picture)
        picture.load()
        if picture.mode not in ("RGB", "RGBA", "P", "L", "1") or ";1" in raw.removesuffix(";1"):
            raise _RefusedError(f"its colours ({raw or picture.mode}) do not have 8 bits each")
        return np.array(_upright(np.asarray(picture.convert("RGB")), picture), order="C")


def read_palette(path: Path) -> list[Colour] | None:
    """The colours of a palette mask by value; ``None`` for a mask without a palette.

    Raises:
        DataError: The file cannot be read.
    """
    with _telling(path, "a mask"), _opened(path, _MASK_FORMATS) as picture:
        flat = picture.getpalette("RGB") if picture.mode == "P" else None
    return None if flat is None else list(zip(flat[::3], flat[1::3], flat[2::3], strict=False))


def is_turned(path: Path) -> bool:
    """Whether an image has an orientation flag that :func:`read_image` applies.

    Raises:
        DataError: The file cannot be read.
    """
    with _telling(path, "an image"), _opened(path, _IMAGE_FORMATS) as picture:
        return _flag(picture) in range(2, 9)


def require_same_size(image: Bytes, mask: Bytes, *, image_path: Path, mask_path: Path) -> None:
    """Check that an image and its mask have the same height and width.

    Raises:
        DataError: They differ.
    """
    if image.shape[:2] != mask.shape:
        raise DataError(
            f"{mask_path} is {mask.shape[1]}x{mask.shape[0]} but its image {image_path} is "
            f"{image.shape[1]}x{image.shape[0]}; both must have the same size"
        )


def visible_files(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """The paths in a folder that have one of these endings, sorted by name.

    Hidden names are passed over, such as the ``._`` files that a Mac writes beside others. Paths
    that are no regular file are included, so that reading them says what they are.

    Raises:
        DataError: The folder cannot be listed.
    """
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise DataError(f"the folder {folder} can't be read ({_reason(error)})") from error
    return [
        folder / name
        for name in sorted(names)
        if not name.startswith(".") and name.lower().endswith(suffixes)
    ]


def not_a_file(path: Path) -> str | None:
    """Why a path cannot be opened as a file, in words; ``None`` if it can."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            return f"it is a link to {os.readlink(path)}, which is not there"
        return "there is no such file"
    except OSError as error:
        return str(error.strerror or error)
    return None if stat.S_ISREG(mode) else "it is not a file"


class _RefusedError(Exception):
    """The file is whole, but has no one right reading; the text says why."""


@contextlib.contextmanager
def _telling(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a decoder raises into one line; damaged files bring out errors of any kind."""
    try:
        yield
    except Exception as error:
        raise DataError(f"{path} can't be read as {what}: {_reason(error)}") from error


@contextlib.contextmanager
def _opened(path: Path, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """The one picture in a file, not decoded yet."""
    # Opening a named pipe would wait for ever.
    if problem := not_a_file(path):
        raise _RefusedError(problem)
    # As a stream, because Pillow maps files it has the name of, and then garbles turned TIFFs.
    with path.open("rb") as stream:
        head = stream.read(30)
        if head.startswith(b"\x89PNG"):
            # Decoding passes over the checksums.
            Image.open(stream, formats=("PNG",)).verify()
        with Image.open(stream, formats=_known_formats()) as picture:
            if picture.format not in formats:
                raise _RefusedError(
                    f"it is a {picture.format} file, which changes ids or cannot hold them; export "
                    f"the mask again as PNG, from the tool that drew it"
                )
            if (frames := _frames(picture)) > 1:
                raise _RefusedError(f"it holds {frames} images; save the one you mean as a file")
            if picture.format == "BMP" and picture.mode in ("1", "L"):
                # The oldest header is shorter.
                bits = head[24] if head[14] == 12 else head[28]
                # For these, Pillow takes the bits of one pixel for those of several.
                if bits != (1 if picture.mode == "1" else 8):
                    raise _RefusedError(f"it is a BMP with {bits} bits of grey; save it as PNG")
            yield picture


@functools.cache
def _known_formats() -> tuple[str, ...]:
    """Of the formats for images, those that this Pillow knows."""
    Image.init()
    return tuple(name for name in _IMAGE_FORMATS if name in Image.OPEN)


def _frames(picture: Image.Image) -> int:
    """How many pictures a file shows, not counting previews."""
    count: int = getattr(picture, "n_frames", 1)
    if count == 1 or picture.format == "MPO":  # a camera's photo, with previews or a depth map
        return 1
    if picture.format != "TIFF":
        return count
    smaller = 0
    for frame in range(1, count):
        picture.seek(frame)
        smaller += picture.tag_v2.get(_TIFF_SUBFILE, 0) & 1  # type: ignore[attr-defined]
    picture.seek(0)
    return count - smaller


def _raw_mode(picture: Image.Image) -> str:
    """How the pixels are stored in the file, in Pillow's notation; known before they are loaded."""
    arguments = picture.tile[0][3] if picture.tile else ""  # type: ignore[attr-defined]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey values of 16 bits cut to the upper 8; Pillow's own conversion clips them at 255."""
    if picture.mode == "F":
        raise _RefusedError("it holds floating-point numbers of unknown range; save 8 or 16 bits")
    if not picture.mode.startswith("I"):
        return picture
    # Pillow reads 16-bit PNG and PGM files as 32 bits, depending on its version.
    if picture.format == "TIFF" and picture.mode == "I":
        raise _RefusedError("it holds 32-bit or signed numbers of unknown range; save 8 or 16 bits")
    tags = getattr(picture, "tag_v2", {})
    unused = 16 - tags.get(_TIFF_BITS, (16,))[0]
    values = np.asarray(picture) >> (8 - unused)
    if tags.get(_TIFF_PHOTOMETRIC) == 0:
        values = 255 - values
    return Image.fromarray(values.astype(np.uint8))


def _stretch(picture: Image.Image) -> int:
    """The number by which Pillow multiplies the values of a mask when it decodes them.

    Raises:
        _RefusedError: It changes them in another way.
    """
    raw = _raw_mode(picture)
    if picture.format == "TIFF":
        tags = picture.tag_v2  # type: ignore[attr-defined]
        if picture.info.get("compression") not in _LOSSLESS:
            raise _RefusedError(
                f"its compression, {picture.info.get('compression')}, may change ids; save the "
                f"mask as PNG"
            )
        if tags.get(_TIFF_PHOTOMETRIC) == 0:
            raise _RefusedError("it counts from white to black; save the mask as PNG")
    if picture.format == "PPM":
        if picture.mode == "1":
            raise _RefusedError("it counts from white to black; save the mask as PNG")
        maximum = picture.tile[0][3]  # type: ignore[attr-defined]
        if isinstance(maximum, tuple) and maximum[-1] not in (255, 65535):
            raise _RefusedError(
                f"its values run to {maximum[-1]} and would be stretched; save the mask as PNG"
            )
    return {"L;2": 85, "L;4": 17}.get(raw[:3], 1)


def _check_palette(
    picture: Image.Image, values: npt.NDArray[Any], colours: Mapping[int, Colour]
) -> None:
    """Raise a ``_RefusedError`` if a value is shown in the colour that belongs to another."""
    flat = picture.getpalette("RGB") or []
    known = {colour: value for value, colour in colours.items()}
    for value in range(len(flat) // 3):
        shown = (flat[3 * value], flat[3 * value + 1], flat[3 * value + 2])
        # A palette that ends before void shows it black.
        if value == IGNORE or shown == colours.get(value) or shown not in known:
            continue
        if (values == value).any():
            raise _RefusedError(
                f"its palette shows the value {value} in the colour of {known[shown]}, so the "
                f"values were renumbered when it was saved again; restore the original file"
            )


def _upright(pixels: npt.NDArray[Any], picture: Image.Image) -> npt.NDArray[Any]:
    """The pixels ``[H, W, ...]``, turned as the picture's orientation flag asks for."""
    flag = _flag(picture)
    if flag in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if flag in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if flag in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _flag(picture: Image.Image) -> int:
    """The orientation flag of a picture; 1 is upright."""
    # Pillow drops the flag of a TIFF when it loads and turns it.
    flag = picture.getexif().get(_ORIENTATION)
    if flag is None:
        # Older versions of Pillow do not look into the XMP block of a JPEG file.
        blocks = b"".join(content for _, content in getattr(picture, "applist", ()))
        found = _XMP_ORIENTATION.search(blocks)
        flag = int(found[1]) if found else 1
    return int(flag)


def _reason(error: Exception) -> str:
    """One clause that says what is wrong with a file and what to do."""
    if isinstance(error, _RefusedError):
        return str(error)
    if isinstance(error, PermissionError):
        return "permission denied"
    if isinstance(error, UnidentifiedImageError):
        names = ", ".join(_known_formats())
        return f"it is damaged, or of another format than {names}"
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        return f"it has more than {limit:.0f} million pixels, the reader's limit; cut it into tiles"
    if isinstance(error, MemoryError):
        return "there is not enough memory for its pixels; cut it into tiles"
    return f"the file is damaged ({error or type(error).__name__}); replace it"
