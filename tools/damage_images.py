"""A campaign of odd and damaged images and masks: each must be read right, or refused in one line.

    python tools/damage_images.py          # the long form: several hundred files, half a minute

The files are written here byte by byte, or by Pillow from known pixels, so what a reader should see
is known. A file counts as ``right``, ``refused``, ``WRONG`` (other pixels, and no word) or
``CRASHED`` (any error that is no DataError, or one of several lines).
"""

from __future__ import annotations

import collections
import io
import os
import struct
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, features

from segnb.datasets.reading import Colour, read_image, read_mask
from segnb.errors import DataError

Array = npt.NDArray[Any]


class Case(NamedTuple):
    """One file.

    Attributes:
        name: Says what is odd about it; the part before the colon is its kind.
        suffix: The ending of its name.
        content: Its bytes.
        truth: The pixels that should be read; ``None`` if the file must be refused.
        off: How far each pixel may be from the truth, for formats that lose some.
        colours: The colours that the mask's data set is known to have.
    """

    name: str
    suffix: str
    content: bytes
    truth: Array | None
    off: float = 0
    colours: dict[int, Colour] | None = None


IDS = np.random.default_rng(0).integers(0, 4, (13, 18)).astype(np.uint8)
COLOURS: dict[int, Colour] = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0)}

#: A smooth picture without symmetry, so that lossy formats come close and each turn shows.
SCENE = np.stack(
    [
        np.add.outer(np.linspace(0, 180, 40), np.linspace(0, 70, 56)),
        np.add.outer(np.linspace(200, 40, 40), np.linspace(0, 40, 56)),
        np.add.outer(np.linspace(0, 30, 40), np.linspace(220, 0, 56)),
    ],
    axis=-1,
).astype(np.uint8)

#: What each orientation flag did to the upright pixels when they were stored.
STORED: dict[int, Callable[[Array], Array]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: np.rot90(a, 2),
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def saved(pixels: Array | Image.Image, kind: str, **options: Any) -> bytes:
    """A file that Pillow writes."""
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels.copy())
    stream = io.BytesIO()
    picture.save(stream, format=kind, **options)
    return stream.getvalue()


def png(
    values: Array, bits: int, *, kind: int = 0, palette: bytes = b"", extra: bytes = b""
) -> bytes:
    """A PNG file of grey (kind 0) or palette (kind 3) values with some bits per pixel."""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", *values.shape[::-1], bits, kind, 0, 0, 0))
        + extra
        + (chunk(b"PLTE", palette) if palette else b"")
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in packed(values, bits))))
        + chunk(b"IEND", b"")
    )


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def packed(values: Array, bits: int, order: str = ">", align: int = 1) -> list[bytes]:
    """Rows of values in some bits each, filled up to a number of bytes."""
    if bits >= 8:
        kind = values.dtype.kind if values.dtype.kind in "if" else "u"
        rows = [row.astype(f"{order}{kind}{bits // 8}").tobytes() for row in values]
    else:
        text = ["".join(f"{int(value):0{bits}b}" for value in row) for row in values]
        text = [row + "0" * (-len(row) % 8) for row in text]
        rows = [int(row, 2).to_bytes(len(row) // 8, "big") for row in text]
    return [row + b"\0" * (-len(row) % align) for row in rows]


def tiff(
    values: Array,
    bits: int,
    *,
    order: str = "<",
    photometric: int = 1,
    sample: int = 1,
    **more: int,
) -> bytes:
    """An uncompressed TIFF of one number per pixel."""
    strip = b"".join(packed(values, bits, order))
    height, width = values.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1}
    tags |= {278: height, 279: len(strip), 339: sample}
    tags |= {int(name[1:]): value for name, value in more.items()}
    fields = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    head = b"II*\0" if order == "<" else b"MM\0*"
    return (
        head
        + struct.pack(f"{order}I", 8 + len(strip))
        + strip
        + struct.pack(f"{order}H", len(tags))
        + fields
        + b"\0\0\0\0"
    )


def bmp(values: Array, bits: int, palette: list[Colour]) -> bytes:
    """A BMP file of palette values."""
    rows = b"".join(reversed(packed(values, bits, align=4)))
    table = b"".join(bytes((*colour[::-1], 0)) for colour in palette)
    start, (height, width) = 54 + len(table), values.shape
    return (
        struct.pack("<2sIHHI", b"BM", start + len(rows), 0, 0, start)
        + struct.pack(
            "<IiiHHIIiiII", 40, width, height, 1, bits, 0, len(rows), 0, 0, len(palette), 0
        )
        + table
        + rows
    )


def palette_png(values: Array, palette: list[Colour], **options: Any) -> bytes:
    """A palette PNG as Pillow writes it."""
    picture = Image.fromarray(values)
    picture.putpalette([part for colour in palette for part in colour])
    return saved(picture, "PNG", **options)


def with_flag(flag: int) -> Image.Exif:
    """EXIF data with an orientation flag."""
    exif = Image.Exif()
    exif[0x0112] = flag
    return exif


def masks() -> Iterator[Case]:
    """Masks in every way of storing numbers; those that lose some must be refused."""
    two = IDS & 1
    for bits in (1, 2, 4, 8, 16):
        ids = two if bits == 1 else IDS
        yield Case(f"grey PNG: {bits} bits", ".png", png(ids, bits), ids)
        if bits < 16:
            colours = b"".join(bytes(colour) for colour in COLOURS.values())[: 3 * 2**bits]
            indexed = png(ids, bits, kind=3, palette=colours)
            yield Case(f"palette PNG: {bits} bits", ".png", indexed, ids, colours=COLOURS)
    full = np.where(IDS == 3, 15, IDS)
    yield Case("grey PNG: 4 bits up to 15", ".png", png(full, 4), full)
    for value in (-1, 256, 300, 65535):
        odd = np.where(IDS == 3, value, IDS.astype(np.int32))
        if value > 0:
            yield Case(f"too large: {value} in PNG", ".png", png(odd, 16), None)
            yield Case(f"too large: {value} in TIFF", ".tif", tiff(odd.astype(np.uint32), 32), None)
        for order in "<>":
            content = tiff(odd, 32, order=order, sample=2)
            yield Case(f"out of range: {value} {order}", ".tif", content, None)
            if abs(value) < 2**15:
                content = tiff(odd.astype(np.int16), 16, order=order, sample=2)
                yield Case(f"out of range: {value} {order} 16", ".tif", content, None)
    minus = np.where(IDS == 3, -1, IDS.astype(np.int8)).astype(np.int8)
    yield Case("out of range: -1 in 8 bits", ".tif", tiff(minus, 8, sample=2), None)
    for order in "<>":
        for bits in (1, 2, 4, 8, 16, 32):
            ids = two if bits == 1 else IDS
            for sample, kind in ((1, np.uint32), (2, np.int32)):
                if bits >= 8 or sample == 1:
                    content = tiff(ids.astype(kind), bits, order=order, sample=sample)
                    # Few readers know every combination: these are right or refused.
                    yield Case(f"TIFF: {bits} bits {order} {sample}", ".tif", content, ids)
            inverted = tiff(ids, bits, order=order, photometric=0)
            yield Case(f"white is 0: TIFF {bits} {order}", ".tif", inverted, None)
        floats = tiff(IDS.astype(np.float32), 32, order=order, sample=3)
        yield Case(f"floats: TIFF {order}", ".tif", floats, None)
    for compression in (
        "tiff_lzw",
        "tiff_adobe_deflate",
        "packbits",
        "lzma",
        "zstd",
        "tiff_deflate",
    ):
        try:
            content = saved(IDS, "TIFF", compression=compression)
        except (OSError, ValueError, KeyError):  # this Pillow lacks it
            continue
        yield Case(f"TIFF: {compression}", ".tif", content, IDS)
    lossy = saved(IDS, "TIFF", compression="jpeg")
    yield Case("lossy: JPEG in TIFF", ".tif", lossy, None)
    for suffix in (".jpg", ".png", ".tif", ".bmp"):
        for quality in (75, 100):
            content = saved(IDS, "JPEG", quality=quality)
            yield Case(f"lossy: JPEG {quality} named {suffix}", suffix, content, None)
    for kind in ("WEBP", "JPEG2000", "AVIF"):
        if kind != "AVIF" or "avif" in features.get_supported():
            yield Case(f"lossy: {kind} named .png", ".png", saved(IDS, kind), None)
    yield Case("lossy: lossless WebP", ".webp", saved(IDS, "WEBP", lossless=True), None)
    greys = [(value, value, value) for value in range(256)]
    for bits, ids in ((1, two), (4, IDS), (8, IDS), (8, two)):
        for name, colours in (
            ("colours", list(COLOURS.values())),
            ("greys", greys[: 2**bits]),
            ("black and white", [(0, 0, 0), (255, 255, 255)]),
        ):
            content = bmp(ids, bits, colours[: 2**bits])
            yield Case(f"BMP: {bits} bits {ids.max()} {name}", ".bmp", content, ids)
    for maximum in (1, 3, 15, 254, 255, 256, 4095, 65535):
        ids = two if maximum == 1 else IDS
        head = f"P5\n{ids.shape[1]} {ids.shape[0]}\n{maximum}\n".encode()
        content = head + b"".join(packed(ids, 8 if maximum < 256 else 16))
        yield Case(f"PGM: to {maximum}", ".pgm", content, ids)
        text = " ".join(str(value) for value in ids.ravel())
        content = head.replace(b"P5", b"P2") + text.encode()
        yield Case(f"PGM: to {maximum} in text", ".pgm", content, ids)
    content = f"P4\n{two.shape[1]} {two.shape[0]}\n".encode() + b"".join(packed(two, 1))
    yield Case("white is 0: PBM", ".pbm", content, None)
    yield Case("GIF: grey", ".gif", saved(IDS, "GIF"), IDS)
    colours = [COLOURS[value] for value in range(4)]
    picture = Image.fromarray(IDS)
    picture.putpalette([part for colour in colours for part in colour])
    yield Case("GIF: palette", ".gif", saved(picture, "GIF"), IDS)
    for mode in ("RGB", "RGBA", "LA", "CMYK", "YCbCr"):
        kind = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
        content = saved(Image.fromarray(IDS).convert(mode), kind)
        yield Case(f"colours: {mode}", ".png", content, None)
    for flag, store in STORED.items():
        for kind in ("PNG", "TIFF"):
            content = saved(store(IDS), kind, exif=with_flag(flag))
            yield Case(f"turned: {kind} {flag}", ".png", content, IDS)
    order = np.array([0, 3, 1, 2])
    back = np.argsort(order).astype(np.uint8)
    used = back[IDS]
    moved = [colours[value] for value in order]
    for name, options in (("", {}), (" optimised", {"optimize": True})):
        content = palette_png(used, moved, **options)
        yield Case(f"renumbered palette:{name}", ".png", content, None, colours=COLOURS)
    quantized = saved(Image.fromarray(np.array(colours, np.uint8)[IDS]).quantize(4), "PNG")
    if not np.array_equal(np.asarray(Image.open(io.BytesIO(quantized))), IDS):
        yield Case("renumbered palette: quantized", ".png", quantized, None, colours=COLOURS)
    content = palette_png(IDS, [(9, 9, 9), (7, 0, 80), (5, 6, 7), (99, 1, 2)])
    yield Case("palette PNG: other colours", ".png", content, IDS, colours=COLOURS)
    frames = [Image.fromarray(IDS), Image.fromarray(3 - IDS)]
    for kind in ("PNG", "GIF", "TIFF"):
        content = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        yield Case(f"several: {kind}", f".{kind.lower()}", content, None)


def images() -> Iterator[Case]:
    """Photos in every format, turned and not; in other modes and depths."""
    kinds: list[tuple[str, dict[str, Any], float]] = [
        ("PNG", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 95}, 12),
    ]
    if "avif" in features.get_supported():
        kinds.append(("AVIF", {"quality": 95}, 12))
    for kind, options, off in kinds:
        for flag, store in STORED.items():
            content = saved(store(SCENE), kind, exif=with_flag(flag), **options)
            name = f"turned: {kind} {flag} {options.get('compression', '')}"
            yield Case(name, ".png", content, SCENE, off)
    note = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="%d"/></x:xmpmeta>'
    for flag, store in STORED.items():
        plain = saved(store(SCENE), "JPEG", quality=95)
        block = b"http://ns.adobe.com/xap/1.0/\0" + note % flag
        content = plain[:2] + struct.pack(">HH", 0xFFE1, len(block) + 2) + block + plain[2:]
        yield Case(f"turned: JPEG {flag} by XMP", ".jpg", content, SCENE, 12)
        wide = np.stack([store(SCENE)[..., 0]])[0].astype(np.uint32) * 257
        content = tiff(wide, 16, t274=flag)
        yield Case(f"turned: 16 bits {flag}", ".tif", content, grey(SCENE[..., 0]))
    for flag in (0, 9, 255, 65535):
        content = saved(SCENE, "PNG", exif=with_flag(flag))
        yield Case(f"turned: PNG with the flag {flag}, which is none", ".png", content, SCENE)
    for kind in ("BMP", "PPM", "GIF", "JPEG2000"):
        content = saved(SCENE, kind)
        yield Case(
            f"format: {kind}", ".x", content, SCENE, {"GIF": 60, "JPEG2000": 12}.get(kind, 0)
        )
    one = SCENE[..., 0]
    deep = (np.arange(40 * 56).reshape(40, 56) * 29).astype(np.uint16)
    yield Case("16 bits: PNG", ".png", png(deep, 16), grey(deep >> 8))
    for order in "<>":
        yield Case(f"16 bits: TIFF {order}", ".tif", tiff(deep, 16, order=order), grey(deep >> 8))
        content = tiff(deep, 16, order=order, photometric=0)
        yield Case(f"16 bits: TIFF {order} from white", ".tif", content, grey(255 - (deep >> 8)))
        for bits, sample in ((32, 1), (32, 2), (16, 2)):
            content = tiff(deep.astype(np.int32), bits, order=order, sample=sample)
            yield Case(f"unknown range: {bits} {sample} {order}", ".tif", content, None)
        content = tiff(deep.astype(np.float32) / 65535, 32, order=order, sample=3)
        yield Case(f"unknown range: floats {order}", ".tif", content, None)
    for maximum in (255, 4095, 65535):
        values = (deep.astype(np.int64) * maximum // 65535).astype(np.uint16)
        raw = b"".join(packed(values, 8 if maximum < 256 else 16))
        content = f"P5\n56 40\n{maximum}\n".encode() + raw
        yield Case(f"16 bits: PGM to {maximum}", ".pgm", content, grey(values * 255.0 / maximum), 1)
    for bits in (1, 2, 4):
        levels = (one >> (8 - bits)).astype(np.uint8)
        shown = grey(levels * (255 // (2**bits - 1)))
        yield Case(f"few bits: PNG {bits}", ".png", png(levels, bits), shown)
        yield Case(f"few bits: TIFF {bits}", ".tif", tiff(levels, bits), shown)
        content = tiff(levels, bits, photometric=0)
        yield Case(f"few bits: TIFF {bits} from white", ".tif", content, 255 - shown)
    levels = (one >> 7).astype(np.uint8)
    two = bmp(levels, 8, [(0, 0, 0), (255, 255, 255)])
    yield Case("few bits: BMP 8 of two greys", ".bmp", two, grey(levels * 255))
    photo = Image.fromarray(SCENE)
    for mode in ("L", "LA", "RGBA", "P", "1", "CMYK", "YCbCr"):
        picture = photo.quantize(64) if mode == "P" else photo.convert(mode)
        shown = np.asarray(picture.convert("RGB"))
        for kind in ("PNG", "TIFF"):
            if kind == "TIFF" or mode not in ("CMYK", "YCbCr"):
                yield Case(f"mode: {mode} {kind}", ".png", saved(picture, kind), shown)
    content = saved(photo.convert("CMYK"), "JPEG", quality=100)
    yield Case("mode: CMYK JPEG", ".jpg", content, SCENE, 12)
    clear = np.dstack([SCENE, np.zeros((40, 56), np.uint8)])
    yield Case("mode: transparent", ".png", saved(clear, "PNG"), SCENE)
    frames = [photo, Image.fromarray(255 - SCENE)]
    for kind in (
        "PNG",
        "GIF",
        "TIFF",
        "WEBP",
        *(["AVIF"] if "avif" in features.get_supported() else []),
    ):
        content = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        yield Case(f"several: {kind}", ".png", content, None)
    content = saved(frames[0], "MPO", save_all=True, append_images=frames[1:], quality=95)
    yield Case("preview: MPO", ".jpg", content, SCENE, 12)
    broken = {
        "nothing": b"",
        "zeros": b"\0" * 4096,
        "text": b"no image\n" * 99,
        "HTML": b"<!DOCTYPE html><html><body>404</body></html>",
        "a Mac's note": b"\0\5\x16\7" + b"\0" * 200,
        "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "NumPy": b"\x93NUMPY\1\0v\0{'descr': '|u1', 'fortran_order': False, 'shape': (9, 9), }\n",
    }
    for name, content in broken.items():
        for suffix in (".jpg", ".png", ".tif"):
            yield Case(f"no image: {name}", suffix, content, None)
    for index, block in enumerate(
        (b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12", b"Exif\0\0II*\0\xff\xff\xff\xff",
         b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x1a\0\5\0\0\0\1\0\0\0\x1a\0\0\0\0\xff\xff\xff\xff\0\0\0\0")
    ):  # fmt: skip
        content = saved(SCENE, "JPEG", quality=95, exif=block)
        yield Case(f"broken EXIF: {index}", ".jpg", content, SCENE, 12)


def grey(values: Array) -> Array:
    """Grey values as colours."""
    return np.repeat(np.asarray(values).astype(np.uint8)[..., None], 3, axis=-1)


def cut(case: Case, parts: int) -> Iterator[Case]:
    """The same file, ended too early."""
    for part in range(1, parts):
        end = len(case.content) * part // parts
        content = case.content[:end]
        yield case._replace(name=f"cut: {case.name} at {end}", content=content)


def flipped(case: Case, count: int) -> Iterator[Case]:
    """The same file with one byte changed, for formats that have checksums."""
    draw = np.random.default_rng(1)
    for place in draw.choice(len(case.content), size=min(count, len(case.content)), replace=False):
        content = bytearray(case.content)
        content[place] ^= 1 << int(draw.integers(8))
        name = f"flipped: {case.name} at {place}"
        yield case._replace(name=name, content=bytes(content))


def long_cuts() -> tuple[list[Case], list[Case]]:
    """Cut and flipped images, and masks."""
    whole = [case for case in images() if case.name.endswith((": PNG 1 ", " 1 tiff_lzw"))]
    whole += [case for case in images() if case.name.startswith(("format", "16 bits: PNG"))]
    whole += [case for case in images() if case.name in ("turned: JPEG 6 ", "turned: WEBP 8 ")]
    some = [part for case in whole for part in cut(case, 7)]
    kinds = ("grey PNG", "palette PNG: 8", "TIFF: 8 bits", "TIFF: tiff_", "BMP: 8", "PGM: to 255")
    whole = [case for case in masks() if case.name.startswith((*kinds, "GIF", "TIFF: packbits"))]
    others = [part for case in whole if case.truth is not None for part in cut(case, 6)]
    for case in masks():
        if case.name in ("grey PNG: 8 bits", "grey PNG: 2 bits", "palette PNG: 8 bits"):
            others += flipped(case, 40)
    return some, others


def judge(case: Case, path: Path, *, as_mask: bool) -> tuple[str, str]:
    """What became of a case, and the words that were said."""
    path.write_bytes(case.content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = read_mask(path, colours=case.colours) if as_mask else read_image(path)
    except DataError as error:
        good = str(path) in str(error) and "\n" not in str(error)
        return ("refused" if good else "CRASHED"), str(error)
    except Exception as error:  # what the campaign looks for
        return "CRASHED", repr(error)
    finally:
        path.unlink()
    if case.truth is None:
        return "WRONG", f"read, with values up to {found.max()}"
    if found.dtype != np.uint8 or found.shape != case.truth.shape:
        return "WRONG", f"{found.dtype} {found.shape}"
    far = np.abs(found.astype(int) - case.truth.astype(int)).max()
    return ("right" if far <= case.off else "WRONG"), f"off by {far}"


def campaign(folder: Path, *, short: bool = False) -> list[tuple[str, Case, str, str]]:
    """Judge all cases: image or mask, the case, what became of it, the words."""
    cut_images, cut_masks = long_cuts()
    step = 9 if short else 1
    found = []
    for name, cases in (
        ("image", [*images(), *cut_images[::step]]),
        ("mask", [*masks(), *cut_masks[::step]]),
    ):
        for index, case in enumerate(cases):
            path = folder / f"{name}{index}{case.suffix}"
            found.append((name, case, *judge(case, path, as_mask=name == "mask")))
    return found


def main() -> int:
    """Run the long form; print counts by kind, and every fault."""
    with tempfile.TemporaryDirectory() as folder:
        found = campaign(Path(folder))
    table: dict[str, collections.Counter[str]] = {}
    for name, case, outcome, words in found:
        kind = f"{name}, {case.name.partition(':')[0]}"
        table.setdefault(kind, collections.Counter())[outcome] += 1
        if outcome.isupper() or "-v" in sys.argv:
            print(f"{outcome}: {name} {case.name}: {words}")
    for kind, counts in table.items():
        print(f"{kind}: {', '.join(f'{count} {name}' for name, count in sorted(counts.items()))}")
    total = collections.Counter(outcome for _, _, outcome, _ in found)
    print(f"{len(found)} files: {', '.join(f'{n} {name}' for name, n in total.most_common())}")
    return int(any(outcome.isupper() for outcome in total))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
