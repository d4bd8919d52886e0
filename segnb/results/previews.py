"""Previews beside the ledger: a run's predictions and a sample of its pixel features, in few bytes.

Only the features of runs that a map is drawn of are stored (:func:`drawn`), as eight bits a value,
which keeps 99 % of every pixel's ten nearest neighbours. They lie in files named by their content:
a network before training, or after a stage 1 that runs share, is stored once. A run's own folder
holds all of them in full.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segnb.files import write_atomic

#: Pixels of each class that are kept; no picture shows more.
PIXELS = 50

#: The folder of the features, in that of the previews.
FEATURES = "features"

_STAGE = "embeddings_"


def drawn(method: str) -> bool:
    """Whether maps of a method's features are drawn from the ledger: those of stage 1 alone."""
    return method == "contrastive"


def store(
    folder: Path, name: str, arrays: Mapping[str, np.ndarray], *, features: bool = True
) -> None:
    """Write a run's preview.

    Args:
        folder: The folder of the previews.
        name: The hash of the run's recipe.
        arrays: What its own ``preview.npz`` holds.
        features: Store the features and their labels too.
    """
    kept: dict[str, Any] = dict(arrays)
    if not features:
        kept = {key: kept[key] for key in kept if key != "labels" and not key.startswith(_STAGE)}
    elif "labels" in arrays:
        labels = arrays["labels"]
        first = [np.flatnonzero(labels == c)[:PIXELS] for c in np.unique(labels)]
        few = np.concatenate([np.empty(0, np.int64), *first])
        kept["labels"] = labels[few]
        for stage in [key for key in arrays if key.startswith(_STAGE)]:
            kept[stage] = _store_features(folder, arrays[stage][few].astype(np.float32))
    write_atomic(folder / f"{name}.npz", _packed(kept))


def read(folder: Path, name: str) -> dict[str, np.ndarray]:
    """A run's preview, features as float32; also those of before features had files of their own.

    Raises:
        OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile: A file is missing or damaged.
    """
    found = _read(folder / f"{name}.npz")
    for stage, value in found.items():
        if stage.startswith(_STAGE) and is_stored(value):
            features = _read(folder / FEATURES / f"{value}.npz")
            found[stage] = features["low"] + features["step"] * features["codes"]
    return found


def is_stored(features: np.ndarray) -> bool:
    """Whether an entry of a preview's file names a file of features."""
    return features.dtype.kind == "U"


def _store_features(folder: Path, features: np.ndarray) -> str:
    low = features.min(initial=0.0)
    step = np.float32((features.max(initial=0.0) - low) / 255 or 1.0)
    codes = np.round((features - low) / step).astype(np.uint8)
    # Channel by channel, where neighbouring values are more alike than pixel by pixel.
    codes = np.asfortranarray(codes)
    packed = _packed({"codes": codes, "low": np.float32(low), "step": step})
    name = hashlib.sha256(packed).hexdigest()[:16]
    path = folder / FEATURES / f"{name}.npz"
    if not path.is_file():
        write_atomic(path, packed)
    return name


def _packed(arrays: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)
