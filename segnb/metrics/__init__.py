"""Measures: how right the predictions are, and how far the pixel embeddings gather by class."""

from __future__ import annotations

from segnb.metrics.compactness import Compactness, compactness, pixel_positions, sample_pixels
from segnb.metrics.segmentation import ConfusionScore, Score, score_confusion

__all__ = [
    "Compactness",
    "ConfusionScore",
    "Score",
    "compactness",
    "pixel_positions",
    "sample_pixels",
    "score_confusion",
]
