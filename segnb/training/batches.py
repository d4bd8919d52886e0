"""Batches of a step: which images, on which device, as which views."""

from __future__ import annotations

import torch
from torch import Tensor

from segnb.datasets import WorkingSet
from segnb.recipe import Recipe
from segnb.training.randomness import batch_indices
from segnb.views import Geometry, geometric_view

#: Largest share of a GPU's free memory that the training images may take.
RESIDENT_SHARE = 0.25


def geometry_of(recipe: Recipe) -> Geometry:
    """The geometric part of a recipe's augmentation."""
    return Geometry(crop=recipe.crop, scale=recipe.scale, flip=recipe.flip)


def place(data: WorkingSet, device: torch.device) -> WorkingSet:
    """The images on the training device where they fit, so that no step waits for a copy."""
    if device.type != "cuda":
        return data
    free, _ = torch.cuda.mem_get_info(device)
    size = data.images.numel() + data.masks.numel()
    return data.to(device) if size < RESIDENT_SHARE * free else data


def geometric_batch(
    data: WorkingSet,
    recipe: Recipe,
    *,
    step: int,
    batch: int,
    process: int,
    processes: int,
    device: torch.device,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """This process's share of a step's images, scaled, cropped and flipped.

    Returns:
        Images in 0..1 ``[b, 3, h, w]`` and masks ``[b, h, w]``, ``b = batch / processes``.
    """
    chosen = batch_indices(len(data.ids), step=step, batch=batch, seed=recipe.seed)
    mine = chosen[process::processes].to(data.images.device)
    images = data.images[mine].to(device, non_blocking=True)
    masks = data.masks[mine].to(device, non_blocking=True)
    return geometric_view(images, masks, geometry_of(recipe), generator=generator)
