"""Measures: how accurate the predictions are, and how well the embeddings cluster by class."""

from __future__ import annotations

from segnb.metrics.compactness import Compactness, compactness, pixel_positions
from segnb.metrics.segmentation import ConfusionScore, Score, score_confusion

__all__ = [
    "Compactness",
    "ConfusionScore",
    "Score",
    "compactness",
    "pixel_positions",
    "score_confusion",
]
