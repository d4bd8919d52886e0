"""The ``triton`` back end as the core calls it: features go to the kernels in the caller's type.

The losses hold features in float32. What came as bfloat16 or float16 is rounded back, which is
exact, so that the kernels multiply in that type while the gradients of a loss's terms add up in
float32.
"""

from __future__ import annotations

from torch import Tensor

from segnb.losses import _triton
from segnb.losses._inputs import PixelSet
from segnb.losses._tiles import Pairs


def masked_logsumexp(
    anchors: PixelSet,
    keys: PixelSet,
    *,
    temperature: float,
    ignore_index: int,
    pairs: Pairs,
    exclude_self: bool,
) -> Tensor:
    """See :func:`segnb.losses._core.masked_logsumexp`."""
    features = anchors.features.to(anchors.dtype)
    return _triton.masked_logsumexp(
        features,
        features if keys is anchors else keys.features.to(keys.dtype),
        anchors.labels,
        keys.labels,
        temperature=temperature,
        ignore_index=ignore_index,
        pairs=pairs,
        exclude_self=exclude_self,
    )


def official_anchor_losses(
    pixels: PixelSet, images: Tensor, *, temperature: float, ignore_index: int
) -> Tensor:
    """See :func:`segnb.losses._core.official_anchor_losses`."""
    return _triton.official_anchor_losses(
        pixels.features.to(pixels.dtype),
        pixels.labels,
        images,
        temperature=temperature,
        ignore_index=ignore_index,
    )
