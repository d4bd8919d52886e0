"""Figures: pure functions from plain data to pictures, in one style.

Every function returns a :class:`Picture`, a matplotlib figure that shows itself in Jupyter and
carries its alternative text as ``alt``; :func:`save` writes it as PNG or SVG.
"""

from __future__ import annotations

from segnb.plots.curves import iou_per_class, loss_curves
from segnb.plots.embeddings import embedding_maps, tsne
from segnb.plots.images import colour_mask, contact_sheet, overlay, predictions, views
from segnb.plots.results import (
    compactness_scatter,
    cost,
    gain,
    label_curve,
    spearman,
    temperature_curve,
)
from segnb.plots.style import (
    MethodStyle,
    Picture,
    legend_below,
    method_styles,
    picture,
    save,
    styled,
)

__all__ = [
    "MethodStyle",
    "Picture",
    "colour_mask",
    "compactness_scatter",
    "contact_sheet",
    "cost",
    "embedding_maps",
    "gain",
    "iou_per_class",
    "label_curve",
    "legend_below",
    "loss_curves",
    "method_styles",
    "overlay",
    "picture",
    "predictions",
    "save",
    "spearman",
    "styled",
    "temperature_curve",
    "tsne",
    "views",
]
