"""Predictions for a folder of images: coloured masks, overlays and class ids as PNG files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from segnb import evaluation
from segnb.datasets import IGNORE, DatasetInfo, Sample, WorkingSet
from segnb.datasets.cache import letterbox
from segnb.datasets.reading import IMAGE_SUFFIXES, read_image, visible_files
from segnb.errors import DataError
from segnb.experiments.runs import load_network, read_info, read_recipe
from segnb.files import atomic_path
from segnb.plots import colour_mask, overlay
from segnb.training import Session, make_accelerator

#: Endings of other pictures. They are not read, but the reader is told.
_OTHER_PICTURES = (
    *(".heic", ".heif", ".jxl", ".apng", ".svg", ".psd", ".tga"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),
)

_KINDS = ("classes", "mask", "overlay")

#: Marks the pictures written here: they are no photos, and may be written over.
_SOFTWARE = "segnb predict"


def predict_folder(run: Path, images: Path, out: Path, *, cpu: bool = False) -> Iterator[Path]:
    """Segment every image of a folder with a run's network.

    For ``photo.jpg``, this writes ``photo.classes.png`` (class ids), ``photo.mask.png`` (colours)
    and ``photo.overlay.png`` into ``out``, at the image's own resolution, rotated as its EXIF data
    say. A file that can't be read does not stop the others. What it wrote earlier is written over,
    and is not taken for photos; anything else is kept.

    Args:
        run: A run's folder.
        images: A folder of images, or one image.
        out: Folder for the pictures.
        cpu: Use the CPU even if there is a GPU.

    Yields:
        The path of every overlay, once it is written.

    Raises:
        DataError: No run or no images; a picture would take the place of somebody's own file; or,
            after all others are done, files that can't be read.
    """
    recipe = read_recipe(run)
    info = read_info(run)
    files = _files(images)
    _keep_others(files, out)
    network = load_network(run)
    session = Session(accelerator=make_accelerator(recipe.precision, cpu=cpu))
    unread: list[str] = []
    for path in files:
        try:
            sample = _read(path)
        except DataError as error:
            unread.append(str(error))
            continue
        data = _one_image(sample, recipe.size, info)
        _, scores = next(evaluation.score_maps(network, data, session=session))
        classes = _classes(scores, sample.mask.shape).cpu().numpy()
        pictures = (classes, colour_mask(classes, info), overlay(sample.image, classes, info))
        mark = PngInfo()
        mark.add_text("Software", _SOFTWARE)
        for target, pixels in zip(_targets(path, out), pictures, strict=True):
            with atomic_path(target) as side:
                Image.fromarray(pixels).save(side, format="PNG", pnginfo=mark)
        yield _targets(path, out)[-1]
    if unread:
        raise DataError("; ".join(unread))


def _classes(scores: Tensor, size: tuple[int, ...]) -> Tensor:
    """The class with the highest score at every pixel, upsampling one class at a time.

    All classes at once would take gigabytes for a photo of 50 million pixels.
    """
    classes = torch.zeros(size, dtype=torch.uint8, device=scores.device)
    highest = torch.full(size, -torch.inf, device=scores.device)
    for label, one in enumerate(scores):
        full = F.interpolate(one[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
        classes.masked_fill_(full > highest, label)
        torch.maximum(highest, full, out=highest)
    return classes


def _one_image(sample: Sample, size: tuple[int, int], info: DatasetInfo) -> WorkingSet:
    small, mask = letterbox(sample.image, sample.mask, size)
    height, width = mask.shape
    images = torch.zeros(1, 3, *size, dtype=torch.uint8)
    images[0, :, :height, :width] = torch.from_numpy(small.copy()).permute(2, 0, 1)
    masks = torch.full((1, *size), IGNORE, dtype=torch.uint8)
    masks[0, :height, :width] = 0
    return WorkingSet(info, (sample.id,), images, masks, torch.tensor([[height, width]]))


def _files(images: Path) -> list[Path]:
    if images.is_file():
        return [images]
    if not images.is_dir():
        raise DataError(f"{images} is not there; name a folder of images, or one image")
    found = [path for path in visible_files(images) if not _is_ours(path)]
    if not found:
        others = left_out(images)
        held = f", only {', '.join(path.name for path in others[:5])}" if others else ""
        raise DataError(
            f"{images} contains no images that can be read{held}; known endings are "
            f"{', '.join(IMAGE_SUFFIXES)}"
        )
    by_stem: dict[str, Path] = {}
    for path in found:
        other = by_stem.setdefault(path.stem, path)
        if other != path:
            raise DataError(f"{other} and {path} would give the same output names; rename one")
    return found


def left_out(images: Path) -> list[Path]:
    """The pictures in a folder that :func:`predict_folder` does not read, such as HEIC files."""
    if not images.is_dir():
        return []
    return visible_files(images, _OTHER_PICTURES)


def _targets(path: Path, out: Path) -> list[Path]:
    return [out / f"{path.stem}.{kind}.png" for kind in _KINDS]


def _is_ours(path: Path) -> bool:
    """Whether a picture was written here."""
    if not path.name.endswith(tuple(f".{kind}.png" for kind in _KINDS)) or not path.is_file():
        return False
    try:
        with Image.open(path) as picture:
            return bool(picture.info.get("Software") == _SOFTWARE)
    except Exception:  # Pillow raises errors of many kinds over damaged files
        return False


def _keep_others(files: list[Path], out: Path) -> None:
    for path in files:
        for target in _targets(path, out):
            if target.exists() and not _is_ours(target):
                raise DataError(
                    f"{target} is in the way: it was not written by `segnb predict`, and the "
                    f"prediction for {path} would replace it; choose another folder with --out"
                )


def _read(path: Path) -> Sample:
    image = read_image(path)
    # There are no labels: all pixels are class 0, which is never used.
    return Sample(image, np.zeros(image.shape[:2], np.uint8), path.stem)
