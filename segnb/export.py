"""A run's network as an ONNX file, with all that is needed to use it written in the file."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import segnb
from segnb import datasets, installed
from segnb.datasets.cache import letterbox
from segnb.datasets.reading import IMAGE_SUFFIXES, read_image, visible_files
from segnb.errors import ConfigError, DataError
from segnb.experiments.runs import load_network, read_info, read_recipe
from segnb.files import atomic_path
from segnb.models import SegmentationNetwork
from segnb.recipe import Recipe
from segnb.views import normalise

#: Real images on which the file is compared with torch.
CHECKED_IMAGES = 8

#: Largest difference of a score, as a share of the largest score; rounding gives about 1e-5.
TOLERANCE = 1e-3

#: What to do with an image before the network; a test follows these words.
PREPROCESSING = (
    "red, green, blue; turned upright as the orientation flag says",
    "scaled to just fit into height x width, keeping the aspect ratio, bilinear with antialiasing",
    "placed in the top left corner; the rest is 0",
    "float32, 0 to 255, [batch, 3, height, width]; the network normalises it itself",
)

POSTPROCESSING = (
    "scores [batch, classes, height, width]: cut off what was padded",
    "scale bilinearly to the size of the image, then take the class with the highest score",
)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An ONNX file and how it compares with torch.

    Attributes:
        path: The file.
        images: On how many real images it was compared.
        difference: The largest difference of a score, as a share of the largest score.
        agreement: Share of pixels with the same class.
    """

    path: Path
    images: int
    difference: float
    agreement: float

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.path.stat().st_size / 1e6:.1f} MB; on {self.images} images, "
            f"{100 * self.agreement:.3f} % of the pixels get the same class as in torch, and "
            f"scores differ by at most {self.difference:.1g} of the largest"
        )


class _Whole(nn.Module):
    """The network with the normalisation before it."""

    def __init__(self, network: SegmentationNetwork, size: tuple[int, int]) -> None:
        super().__init__()
        self.network = network
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Scores ``[B, K, H, W]`` of images ``[B, 3, H, W]`` in 0..255."""
        scores: Tensor = self.network(normalise(images / 255), self.size)
        return scores


def export(run: Path, path: Path | None = None, *, images: Path | None = None) -> Exported:
    """Write a run's network as ONNX, and compare it with torch on real images.

    Args:
        run: A run's folder.
        path: The file; by default ``network.onnx`` in the run's folder.
        images: A folder of images to compare on; by default validation images of the data set.

    Raises:
        DataError: The folder holds no run, or there are no images to compare on.
        ConfigError: A package is missing or fails, or the file disagrees with torch; then none is
            written.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        raise ConfigError(
            f'export needs the package {error.name}: pip install "segnb[onnx]"'
        ) from None
    recipe, info = read_recipe(run), read_info(run)
    path = path or run / "network.onnx"
    batch = _real_images(recipe, images)
    whole = _Whole(load_network(run), recipe.size).eval()
    with torch.inference_mode():
        expected = whole(batch).numpy()
    model = _converted(whole, batch[:2])
    _describe(model, onnx, recipe, info)
    with atomic_path(path) as side:
        onnx.save(model, str(side))
        session = onnxruntime.InferenceSession(str(side), providers=["CPUExecutionProvider"])
        (found,) = session.run(["scores"], {"images": batch.numpy()})
        exported = _compared(path, expected, found)
    return exported


def read_metadata(path: Path) -> dict[str, Any]:
    """What an exported file says about itself: classes, palette, pre-processing, the run.

    Raises:
        DataError: The file was not written by :func:`export`.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    found = {one.key: one.value for one in model.metadata_props}
    if "segnb" not in found:
        raise DataError(f"{path} was not written by `segnb export`")
    values: dict[str, Any] = json.loads(found["segnb"])
    return values


def _converted(network: nn.Module, images: Tensor) -> Any:
    """The network as an ONNX model, made by torch's exporter."""
    try:
        with _quiet():
            program = torch.onnx.export(
                network,
                (images,),
                input_names=["images"],
                output_names=["scores"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                dynamo=True,
            )
            assert program is not None
            return program.model_proto
    except Exception as error:  # of torch, onnxscript, onnx or protobuf
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"torch {torch.__version__} with onnxscript {installed.version('onnxscript')} can't "
            f"export this network ({first[:200]}); "
            'pip install --upgrade torch "segnb[onnx]"'
        ) from error


def _describe(model: Any, onnx: Any, recipe: Recipe, info: datasets.DatasetInfo) -> None:
    height, width = recipe.size
    values = {
        "classes": info.class_names,
        "palette": info.palette,
        "height": height,
        "width": width,
        "preprocessing": PREPROCESSING,
        "postprocessing": POSTPROCESSING,
        "data_set": info.name,
        "data_licence": info.licence,
        "recipe_hash": recipe.hash,
        "recipe": recipe.to_dict() | {"dataset": recipe.dataset_title},
        "segnb": segnb.__version__,
    }
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {"segnb": json.dumps(values)})
    model.doc_string = f"Semantic segmentation of {info.name}: {', '.join(info.class_names)}"


def _real_images(recipe: Recipe, images: Path | None) -> Tensor:
    """Images as the network takes them, float32 ``[N, 3, H, W]`` in 0..255."""
    if images is not None:
        files = visible_files(images, IMAGE_SUFFIXES)
        if not files:
            raise DataError(f"{images} contains no images to compare on")
        photos = [read_image(path) for path in _spread(files)]
    else:
        try:
            split = datasets.load(recipe.dataset, "val", size=recipe.size)
            photos = [split[index].image for index in _spread(range(len(split)))]
        except DataError as error:
            raise DataError(
                f"{error}; or name a folder of images to compare on: --images"
            ) from error
    batch = torch.zeros(len(photos), 3, *recipe.size)
    for row, photo in enumerate(photos):
        small, _ = letterbox(photo, np.zeros(photo.shape[:2], np.uint8), recipe.size)
        height, width = small.shape[:2]
        batch[row, :, :height, :width] = torch.from_numpy(small.copy()).permute(2, 0, 1)
    return batch


def _spread(files: Any) -> list[Any]:
    count = min(len(files), CHECKED_IMAGES)
    return [files[i * len(files) // count] for i in range(count)]


def _compared(
    path: Path, expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32]
) -> Exported:
    difference = float(np.abs(expected - found).max() / np.abs(expected).max())
    if not difference <= TOLERANCE:
        raise ConfigError(
            f"the ONNX file disagrees with torch: scores differ by {difference:.2g} of the "
            f"largest; it was not written. Try another version of onnxruntime or torch"
        )
    agreement = float((expected.argmax(1) == found.argmax(1)).mean())
    return Exported(path=path, images=len(found), difference=difference, agreement=agreement)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what torch's exporter prints and warns of; its errors still come through."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
