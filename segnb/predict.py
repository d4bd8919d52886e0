"""Predictions for a folder of images: coloured masks, overlays and class ids as PNG files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError

from segnb import datasets, evaluation
from segnb.datasets import IGNORE, DatasetInfo, Sample, WorkingSet
from segnb.datasets.cache import letterbox
from segnb.errors import DataError
from segnb.files import atomic_path
from segnb.plots import colour_mask, overlay
from segnb.runs import load_network, read_recipe
from segnb.training import make_accelerator
from segnb.training.loop import Session

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def predict_folder(run: Path, images: Path, out: Path, *, cpu: bool = False) -> Iterator[Path]:
    """Segment every image of a folder with a run's network.

    For ``photo.jpg``, ``out`` gets ``photo.classes.png`` (class ids), ``photo.mask.png``
    (colours) and ``photo.overlay.png``, at the image's own resolution.

    Args:
        run: A run's folder.
        images: A folder of images, or one image.
        out: Where the pictures go.
        cpu: Use the processor even where there is a GPU.

    Yields:
        The path of every overlay, as it is written.

    Raises:
        DataError: No run, no images, or a file that can't be read.
    """
    recipe = read_recipe(run)
    info = datasets.info(recipe.dataset)
    files = _files(images)
    network = load_network(run)
    session = Session(accelerator=make_accelerator(recipe.precision, cpu=cpu))
    for path in files:
        sample = _read(path)
        data = _one_image(sample, recipe.size, info)
        maps = evaluation.score_maps(
            network, data, device=session.accelerator.device, autocast=session.autocast
        )
        _, scores = next(maps)
        full = F.interpolate(
            scores[None], size=sample.mask.shape, mode="bilinear", align_corners=False
        )
        classes = full[0].argmax(0).byte().cpu().numpy()
        pictures = {
            "classes": classes,
            "mask": colour_mask(classes, info),
            "overlay": overlay(sample.image, classes, info),
        }
        for kind, pixels in pictures.items():
            with atomic_path(out / f"{path.stem}.{kind}.png") as side:
                Image.fromarray(pixels).save(side, format="PNG")
        yield out / f"{path.stem}.overlay.png"


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
    found = sorted(path for path in images.iterdir() if path.suffix.lower() in ENDINGS)
    if not found:
        raise DataError(f"{images} holds no images; known endings are {', '.join(ENDINGS)}")
    by_stem: dict[str, Path] = {}
    for path in found:
        other = by_stem.setdefault(path.stem, path)
        if other != path:
            raise DataError(f"{other} and {path} would give the same file names; rename one")
    return found


def _read(path: Path) -> Sample:
    try:
        with Image.open(path) as picture:
            image = np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"{path} can't be read as an image: {error}") from error
    # There is no label: all pixels are class 0, which nothing looks at.
    return Sample(image, np.zeros(image.shape[:2], np.uint8), path.stem)
