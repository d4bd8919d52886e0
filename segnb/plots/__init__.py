"""Figures: pure functions from plain data to pictures, in one style.

Functions that draw return a :class:`Picture`: a matplotlib ``figure`` with its ``alt`` text, which
shows itself in Jupyter; :func:`save` writes it as PNG or SVG.
"""

from __future__ import annotations

from segnb.plots.circle import circle_film, circle_forces
from segnb.plots.curves import iou_per_class, loss_curves
from segnb.plots.drawings import network_drawing, pairs_drawing
from segnb.plots.embeddings import embedding_maps, tsne
from segnb.plots.film import Film
from segnb.plots.folder import answer_curve, folder_sheet
from segnb.plots.gap import training_gap
from segnb.plots.images import colour_mask, contact_sheet, overlay, predictions, views
from segnb.plots.results import (
    compactness_scatter,
    compactness_stages,
    cost,
    gain,
    label_curve,
    temperature_curve,
)
from segnb.plots.starts import starts
from segnb.plots.step_map import step_curves, step_map
from segnb.plots.style import (
    Picture,
    legend_below,
    marks,
    new_figure,
    save,
    styled,
)

__all__ = [
    "Film",
    "Picture",
    "answer_curve",
    "circle_film",
    "circle_forces",
    "colour_mask",
    "compactness_scatter",
    "compactness_stages",
    "contact_sheet",
    "cost",
    "embedding_maps",
    "folder_sheet",
    "gain",
    "iou_per_class",
    "label_curve",
    "legend_below",
    "loss_curves",
    "marks",
    "network_drawing",
    "new_figure",
    "overlay",
    "pairs_drawing",
    "predictions",
    "save",
    "starts",
    "step_curves",
    "step_map",
    "styled",
    "temperature_curve",
    "training_gap",
    "tsne",
    "views",
]
