"""Compactness after each stage, always on the same pixels, and a sample of embeddings to plot.

Many runs share a network before or after stage 1: every method starts from the network of its seed,
and a sweep over stage 2 shares stage 1. Its measurements are stored in the folder of the runs,
under a hash of its weights and of the images, and reused from there.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segnb import evaluation
from segnb.datasets import WorkingSet
from segnb.device import describe
from segnb.errors import DataError
from segnb.files import atomic_path, sweep_halves
from segnb.metrics.compactness import UNMEASURED, compactness
from segnb.models import SegmentationNetwork
from segnb.records import read_bytes, zip_fault
from segnb.training import Session

#: The folder of the measurements, in the folder of the runs.
MEASURED = "measured"

#: Increase this with any change of the code that changes the measurements.
CODE = 1

#: Validation images whose predictions are kept for pictures.
PREVIEW_IMAGES = 6

#: Pixels of each class whose embeddings are kept for pictures.
PREVIEW_PIXELS = 60


class Probe:
    """Measures a run's network after each stage.

    Args:
        labelled: The labelled training images, to fit the nearest neighbours and the linear probe.
        val: The images on which everything is measured.
        session: Device, precision and the run's folder.

    Attributes:
        values: The compactness measures by stage.
    """

    def __init__(self, labelled: WorkingSet, val: WorkingSet, session: Session) -> None:
        self.values: dict[str, dict[str, float | None]] = {}
        self._labelled = labelled
        self._val = val
        self._session = session
        self._images = labelled.digest() + val.digest()
        self._sample: dict[str, Any] = {}

    def measure(self, stage: str, network: SegmentationNetwork) -> None:
        """Measure ``network`` after ``stage``, in the first process only."""
        if not self._session.is_main:
            return
        path = self._path(network)
        stored = _read(path)
        if stored is None:
            stored = self._measured(network)
            with atomic_path(path) as side, side.open("wb") as stream:
                np.savez(stream, **stored)
        self.values[stage] = json.loads(str(stored["values"]))
        self._sample[f"embeddings_{stage}"] = stored["embeddings"]
        self._sample["labels"] = stored["labels"]

    def save(self, path: Path, network: SegmentationNetwork) -> None:
        """Write the preview: predictions of ``network`` for a few images, embeddings by stage."""
        count = min(PREVIEW_IMAGES, len(self._val))
        # Spread over the split, to avoid neighbouring frames of one clip.
        ids = [self._val.ids[i * len(self._val) // count] for i in range(count)]
        predicted = evaluation.predict(network, self._val.subset(ids), session=self._session)
        with atomic_path(path) as side, side.open("wb") as stream:
            np.savez_compressed(stream, ids=ids, predictions=predicted, **self._sample)
        if self._session.folder is not None:
            sweep_halves(self._session.folder.parent / MEASURED)

    def _path(self, network: SegmentationNetwork) -> Path:
        session = self._session
        assert session.folder is not None
        arithmetic = (session.precision, describe(session.device).name, torch.__version__, CODE)
        digest = hashlib.sha256(repr((self._images, arithmetic)).encode())
        for name, tensor in network.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
        return session.folder.parent / MEASURED / f"{digest.hexdigest()[:16]}.npz"

    def _measured(self, network: SegmentationNetwork) -> dict[str, Any]:
        fitted, measured = (
            evaluation.sample_embeddings(network, data, session=self._session)
            for data in (self._labelled, self._val)
        )
        if not (len(fitted.labels) and len(measured.labels)):
            # Points and scribbles may leave no labelled cell. A report never ends a training.
            return {
                "values": np.array(json.dumps(UNMEASURED.as_dict())),
                "embeddings": np.empty((0, network.feature_channels), "f2"),
                "labels": np.empty(0, "u1"),
            }
        values = compactness(
            *measured,
            fit_embeddings=fitted.embeddings,
            fit_labels=fitted.labels,
            num_classes=self._val.info.num_classes,
        )
        labels = measured.labels.numpy()
        first = [np.flatnonzero(labels == c)[:PREVIEW_PIXELS] for c in np.unique(labels)]
        keep = np.concatenate(first)
        return {
            "values": np.array(json.dumps(values.as_dict())),
            "embeddings": measured.embeddings.numpy()[keep].astype("f2"),
            "labels": labels[keep].astype("u1"),
        }


def read_preview(path: Path, *, remedy: str) -> dict[str, np.ndarray]:
    """The arrays of a preview: ``ids``, ``predictions``, ``labels``, ``embeddings_*``.

    Args:
        path: The file.
        remedy: What to do about a wrong file, as the end of a sentence.

    Raises:
        DataError: The file is missing or damaged, or its arrays do not belong together.
    """
    arrays = _arrays(read_bytes(path, remedy=remedy), path, remedy)
    words = _misfit(arrays)
    if words is not None:
        raise DataError(f"{path} is not a preview of a run: {words}; {remedy}")
    return arrays


def _arrays(content: bytes, path: Path, remedy: str) -> dict[str, np.ndarray]:
    fault = zip_fault(content)
    if fault is None:
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                return dict(file)
        except Exception as error:  # numpy, zipfile and zlib each raise their own errors
            fault = str(error)
    raise DataError(f"{path} is damaged ({fault}); {remedy}")


def _misfit(arrays: dict[str, np.ndarray]) -> str | None:
    """What is wrong with the arrays of a preview; ``None`` if nothing."""
    shapes = {"ids": ("U", 1), "predictions": ("u", 3), "labels": ("u", 1)}
    samples = [name for name in arrays if name.startswith("embeddings_")]
    for name, (kind, axes) in {**shapes, **dict.fromkeys(samples, ("f", 2))}.items():
        if name not in arrays:
            return f"there is no {name!r}"
        one = arrays[name]
        if one.dtype.kind != kind or one.ndim != axes:
            return f"{name} is {one.dtype} {one.shape}"
        if kind == "f" and not np.isfinite(one).all():
            return f"{name} is not finite"
    if len(arrays["ids"]) != len(arrays["predictions"]):
        return f"{len(arrays['ids'])} ids for {len(arrays['predictions'])} predictions"
    if any(len(arrays[name]) != len(arrays["labels"]) for name in samples):
        return "the embeddings are not those of its labels"
    return None


def _read(path: Path) -> dict[str, Any] | None:
    """The stored measurements; ``None`` if they are missing or damaged."""
    try:
        stored: dict[str, Any] = _arrays(path.read_bytes(), path, "")
        values = json.loads(str(stored["values"]))
        whole = {"embeddings", "labels"} <= stored.keys() and isinstance(values, dict)
    except (DataError, OSError, ValueError, KeyError):
        return None
    return stored if whole else None
