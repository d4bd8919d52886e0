"""The batch of each step: its images, on the right device, scaled, cropped and flipped."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from segnb.datasets import WorkingSet
from segnb.recipe import Recipe
from segnb.training.randomness import batch_indices
from segnb.views import Geometry, geometric_view

#: Largest share of a GPU's free memory that the training images may take.
RESIDENT_SHARE = 0.25


def to_device(data: WorkingSet, device: torch.device) -> WorkingSet:
    """Move the images to the training device if they fit, so that no step waits for a copy."""
    if device.type != "cuda":
        return data
    free, _ = torch.cuda.mem_get_info(device)
    size = data.images.numel() + data.masks.numel()
    return data.to(device) if size < RESIDENT_SHARE * free else data


@dataclass(frozen=True, kw_only=True)
class Batches:
    """The batches of a stage, each determined by its step.

    Attributes:
        data: The images.
        recipe: Seed of the order; crop, scale and flip.
        batch: Images per step, over all processes.
        device: The device of the batches.
        process: This process's number.
        processes: How many processes share a batch; each gets every ``processes``-th image.
    """

    data: WorkingSet
    recipe: Recipe
    batch: int
    device: torch.device | str = "cpu"
    process: int = 0
    processes: int = 1

    def at(self, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """This process's images of a step, with geometry drawn from ``generator``.

        Returns:
            Images in 0..1 ``[b, 3, h, w]`` and masks ``[b, h, w]``, ``b = batch / processes``.
        """
        data, recipe = self.data, self.recipe
        chosen = batch_indices(len(data), step=step, batch=self.batch, seed=recipe.seed)
        mine = chosen[self.process :: self.processes].to(data.images.device)
        images = data.images[mine].to(self.device, non_blocking=True)
        masks = data.masks[mine].to(self.device, non_blocking=True)
        geometry = Geometry(crop=recipe.crop, scale=recipe.scale, flip=recipe.flip)
        return geometric_view(images, masks, geometry, generator=generator)
