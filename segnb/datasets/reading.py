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

import functools
import os
import stat
from collections.abc import Callable, Mapping
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

_IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
_MASK_FORMATS = ("PNG", "BMP", "TIFF", "GIF", "PPM")
#: TIFF compressions that keep every number.
_LOSSLESS = frozenset(
    ("raw", "packbits", "lzma", "zstd", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate")
)
_TIFF_SUBFILE, _TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT = 254, 262, 339
_ORIENTATION = 0x0112

Colour = tuple[int, int, int]


def read_image(path: Path) -> Bytes:
    """The pixels of an image as a viewer shows them, uint8 ``[H, W, 3]``, red, green, blue.

    Raises:
        DataError: The file is missing, damaged, or of a kind that has no one right reading.
    """
    try:
        with _opened(path) as picture:
            _require_one_picture(picture)
            picture.load()
            turned = _upright(np.asarray(_eight_bits(picture).convert("RGB")), picture)
            return np.array(turned, order="C")
    except Exception as error:
        raise DataError(f"{path} cannot be read as an image: {_reason(error)}") from error


def read_mask(path: Path, *, colours: Mapping[int, Colour] | None = None) -> Bytes:
    """The values of a mask file exactly as they were written, uint8 ``[H, W]``.

    Args:
        path: The file.
        colours: The colour that each value has in palette masks of this data set, if known.

    Raises:
        DataError: The file is missing or damaged, does not hold one value from 0 to 255 per pixel,
            or cannot be trusted to hold the values that were drawn.
    """

    def take(picture: Image.Image, stretch: int) -> npt.NDArray[Any]:
        values = _values(picture) // stretch
        if picture.mode == "P" and colours:
            _check_palette(picture, values, colours)
        return values.astype(np.uint8)

    mask: Bytes = _exactly(path, take)
    return mask


def read_numbers(path: Path) -> npt.NDArray[Any]:
    """The values of a mask file exactly as they were written, ``[H, W]``, 0 to 65535.

    Unlike :func:`read_mask`, this takes what annotation tools write: values above 255, which the
    caller maps to classes, and numbers in all three channels of a colour image.

    Raises:
        DataError: As for :func:`read_mask`; or the file holds colours.
    """

    def take(picture: Image.Image, stretch: int) -> npt.NDArray[Any]:
        if picture.mode == "LA":
            picture = picture.getchannel("L")
        if picture.mode in ("RGB", "RGBA"):
            channels = np.asarray(picture.convert("RGB"))
            if (channels != channels[..., :1]).any():
                raise _RefusedError(
                    'it holds colours; in dataset.toml, write format = "colour", and a colour as '
                    "the value of each class"
                )
            return channels[..., 0]
        return _values(picture, highest=65535) // stretch

    return _exactly(path, take)


def read_colours(path: Path) -> npt.NDArray[np.int32]:
    """The colours of a mask file, ``[H, W]``: red, green and blue as one number of 24 bits.

    Opacity is left out.

    Raises:
        DataError: The file is missing, damaged, or stored with a loss.
    """

    def take(picture: Image.Image, stretch: int) -> npt.NDArray[Any]:
        wide = np.asarray(picture.convert("RGB")).astype(np.int32)
        return (wide[..., 0] << 16) + (wide[..., 1] << 8) + wide[..., 2]

    return _exactly(path, take)


def palette_of(path: Path) -> tuple[Colour, ...]:
    """The colours of a palette mask, by number; empty for other files.

    Raises:
        DataError: The file is missing or damaged.
    """

    def take(picture: Image.Image, stretch: int) -> npt.NDArray[Any]:
        flat = picture.getpalette("RGB") if picture.mode == "P" else None
        return np.array(flat or [], np.uint8).reshape(-1, 3)

    rows = _exactly(path, take, turn=False).tolist()
    return tuple((red, green, blue) for red, green, blue in rows)


def _exactly(
    path: Path, take: Callable[[Image.Image, int], npt.NDArray[Any]], *, turn: bool = True
) -> npt.NDArray[Any]:
    """What ``take`` makes of a mask file that keeps every number, and of its stretch; upright."""
    try:
        with _opened(path) as picture:
            _require_one_picture(picture)
            if picture.format not in _MASK_FORMATS:
                raise _RefusedError(
                    f"it is a {picture.format} file, which changes ids or cannot hold them; save "
                    f"the mask as PNG"
                )
            stretch = _stretch(picture)
            picture.load()
            taken = take(picture, stretch)
            return np.array(_upright(taken, picture) if turn else taken, order="C")
    except Exception as error:
        raise DataError(f"{path} cannot be read as a mask: {_reason(error)}") from error


def has_orientation(path: Path) -> bool:
    """Whether an image has an orientation flag other than upright, which reading applies.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        with _opened(path) as picture:
            return picture.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except Exception as error:
        raise DataError(f"{path} cannot be read as an image: {_reason(error)}") from error


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
        raise DataError(f"the folder {folder} cannot be read ({_reason(error)})") from error
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


def _opened(path: Path) -> Image.Image:
    """The picture, not decoded yet."""
    # Opening a named pipe would wait for ever.
    if problem := not_a_file(path):
        raise _RefusedError(problem)
    return Image.open(path, formats=_formats())


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _IMAGE_FORMATS if name in Image.OPEN)


def _require_one_picture(picture: Image.Image) -> None:
    frames = _frames(picture)
    if frames > 1:
        raise _RefusedError(f"it holds {frames} images; save the one you mean to a file of its own")
    if picture.format == "BMP" and picture.mode in ("1", "L"):
        bits = _bmp_bits(Path(picture.filename))  # type: ignore[attr-defined]
        # For these, Pillow takes the bits of one pixel for those of several, or the reverse.
        if bits != (1 if picture.mode == "1" else 8):
            raise _RefusedError(f"it is a BMP file with a grey palette of {bits} bits; save as PNG")


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


def _bmp_bits(path: Path) -> int:
    with path.open("rb") as stream:
        head = stream.read(30)
    start = 24 if head[14] == 12 else 28  # the oldest header is shorter
    return int.from_bytes(head[start : start + 2], "little")


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
    values = np.asarray(picture)
    return Image.fromarray((values >> 8).astype(np.uint8))


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
        if isinstance(maximum, tuple) and maximum[-1] not in (255, 65535, 1, -1):
            raise _RefusedError(
                f"its values run to {maximum[-1]} and would be stretched; save the mask as PNG"
            )
    return {"L;2": 85, "L;4": 17}.get(raw[:3], 1)


def _values(picture: Image.Image, *, highest: int = IGNORE) -> npt.NDArray[Any]:
    """The values of a loaded mask, ``[H, W]``, none above ``highest``."""
    if picture.mode == "F":
        raise _RefusedError("it holds floating-point numbers; save class ids as 8-bit PNG")
    if picture.mode not in ("L", "P", "1") and not picture.mode.startswith("I"):
        raise _RefusedError(
            f"it holds {picture.mode} colours; a mask must hold one class id per pixel (grey or "
            f"palette PNG)"
        )
    values = np.asarray(picture)
    tags = getattr(picture, "tag_v2", {})
    if values.dtype == np.uint8 and 2 in np.atleast_1d(tags.get(_TIFF_SAMPLE_FORMAT, 1)):
        values = values.view(np.int8)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > highest:
        raise _RefusedError(
            f"it holds the value {low if low < 0 else high}; class ids are 0 to 254, and void is "
            f"{IGNORE}"
        )
    return values.astype(np.uint8 if highest == IGNORE else np.int32)


def _check_palette(
    picture: Image.Image, values: npt.NDArray[np.uint8], colours: Mapping[int, Colour]
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
    # Pillow has turned a TIFF and dropped its flag by now.
    flag = picture.getexif().get(_ORIENTATION, 1)
    if flag in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if flag in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if flag in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _reason(error: Exception) -> str:
    """One clause that says what is wrong with a file and what to do."""
    if isinstance(error, _RefusedError):
        return str(error)
    if isinstance(error, PermissionError):
        return "permission denied"
    if isinstance(error, UnidentifiedImageError):
        names = ", ".join(_formats()).replace("PPM", "PGM, PPM")
        return f"it is damaged, or of another format than {names}"
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        return f"it has more than {limit:.0f} million pixels, the reader's limit; cut it into tiles"
    if isinstance(error, MemoryError):
        return "there is not enough memory for its pixels; cut it into tiles"
    return f"the file is damaged ({error or type(error).__name__}); replace it"
