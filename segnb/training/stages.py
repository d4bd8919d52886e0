"""The two stages of the paper.

Stage 1, :func:`pretrain`: two views of every image, the same crop unchanged and colour-distorted.
The contrastive loss compares their pixel embeddings. Stage 2, :func:`finetune`: a pixel classifier
replaces the projection head, and the whole network is trained with cross-entropy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from segnb.datasets import IGNORE, WorkingSet
from segnb.losses import distributed, official, paper
from segnb.models import SegmentationNetwork, freeze_backbone, freeze_statistics
from segnb.recipe import Recipe
from segnb.training.log import LogRow
from segnb.training.loop import LOG_EVERY, train_stage
from segnb.training.randomness import derive_seed
from segnb.training.session import Session
from segnb.views import colour_distortion, nearest_labels, normalise


def pretrain(
    network: SegmentationNetwork,
    data: WorkingSet,
    recipe: Recipe,
    *,
    session: Session,
    name: str = "pretrain",
) -> list[LogRow]:
    """Stage 1: train the pixel features with the contrastive loss.

    Args:
        network: Trained in place, with a fresh projection head.
        data: The labelled images.
        recipe: Loss, views and ``recipe.pretrain``.
        session: Device, folder and listeners.
        name: The stage's name in the log, and that of its checkpoint.

    Returns:
        The stage's log rows.
    """
    torch.manual_seed(derive_seed(recipe.seed, name, "head"))
    network.attach_projection()
    network.train()
    return train_stage(
        network,
        contrastive_step,
        data,
        name=name,
        stage=recipe.pretrain,
        recipe=recipe,
        session=session,
        on_row=_PairsSeen(recipe),
    )


class _PairsSeen:
    """Tells the reader, once, if the first steps had no pair of pixels to compare."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.done = recipe, False

    def __call__(self, row: LogRow) -> None:
        # Only without a positive pair is the paper's loss exactly 0; the official one is as well
        # without a negative pair.
        self.done = self.done or row["loss"] != 0.0
        if not self.done and row["step"] >= min(LOG_EVERY, self.recipe.pretrain.steps):
            self.done = True
            tqdm.write(
                f"stage 1 has seen no positive pair in its first {row['step']} steps (its loss is "
                "0), so it learns nothing: on the loss's map, of loss_size "
                f"{self.recipe.loss_size or 'as the features'}, no two labelled pixels of a crop "
                "share a class. Label more pixels, or raise loss_size."
            )


def contrastive_step(
    network: Callable[..., Tensor],
    images: Tensor,
    masks: Tensor,
    recipe: Recipe,
    *,
    generator: torch.Generator,
) -> Tensor:
    """One step of stage 1: two views, their embeddings, the contrastive loss (a scalar).

    Args:
        network: Maps normalised images ``[2B, 3, H, W]`` and a size to embeddings
            ``[2B, D, h, w]``.
        images: The images I in 0..1 ``[B, 3, H, W]``.
        masks: Their labels ``[B, H, W]``.
        recipe: Distortion, size of the embedding map, and loss.
        generator: Draws the distortion, then the pairs of images.
    """
    distorted = colour_distortion(images, recipe.distortion, generator=generator)
    # One pass for both views: BatchNorm sees them together, and the device is better used.
    both = normalise(torch.cat([images, distorted]))
    first, second = network(both, recipe.loss_size).float().chunk(2)
    labels = nearest_labels(masks, (first.shape[-2], first.shape[-1]))
    return contrastive_loss(first, second, labels, recipe, generator=generator)


def contrastive_loss(
    first: Tensor,
    second: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    generator: torch.Generator,
) -> Tensor:
    """The recipe's contrastive loss of a batch in two views (a scalar).

    Losses per image and per pair of images are means over this process's images. The batch scope
    uses the pixels of all processes, which must all call this with the same shapes; with several
    processes it is computed in tiles, whatever the recipe's back end.

    Args:
        first: Embeddings of the images I, unit-normalised ``[B, D, h, w]``.
        second: Embeddings of their distorted views Î, ``[B, D, h, w]``.
        labels: Labels of both, ``[B, h, w]``.
        recipe: Form, scope, temperature and back end.
        generator: Draws the other image J that each image is paired with.
    """
    count = len(first)
    options: dict[str, Any] = {"temperature": recipe.temperature, "backend": recipe.loss_backend}
    if recipe.form == "paper":
        if recipe.scope == "within":
            return paper.within_image_loss(first, second, labels, labels, **options)
        if recipe.scope == "cross":
            # A cyclic shift pairs every image with another one, never with itself.
            shift = int(torch.randint(1, max(count, 2), (1,), generator=generator))
            other, its_labels = second.roll(shift, 0), labels.roll(shift, 0)
            return paper.cross_image_loss(
                first, second, other, labels, labels, its_labels, **options
            )
        features, twice = torch.cat([first, second]), torch.cat([labels, labels])
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            return distributed.batch_loss(features, twice, temperature=recipe.temperature)
        return paper.batch_loss(features, twice, **options)
    if recipe.scope == "within":
        return official.within_image_loss(first, labels, **options) + official.within_image_loss(
            second, labels, **options
        )
    # The official code pairs by a random permutation, which may pair an image with itself.
    order = torch.randperm(count, generator=generator).to(first.device)
    return official.cross_image_loss(first, second[order], labels, labels[order], **options)


def finetune(
    network: SegmentationNetwork,
    data: WorkingSet,
    recipe: Recipe,
    *,
    session: Session,
    name: str = "finetune",
) -> list[LogRow]:
    """Stage 2, and the whole training of most baselines: cross-entropy.

    Steps and distortion depend on the method (:meth:`Recipe.cross_entropy_stage`,
    :meth:`Recipe.cross_entropy_distortion`).

    Args:
        network: Trained in place; a fresh pixel classifier replaces its head.
        data: The labelled images.
        recipe: Views and ``recipe.finetune``.
        session: Device, folder and listeners.
        name: The stage's name in the log, and that of its checkpoint.

    Returns:
        The stage's log rows.
    """
    torch.manual_seed(derive_seed(recipe.seed, name, "head"))
    network.attach_classifier(data.info.num_classes)
    network.train()
    if recipe.freeze and recipe.has_stage1:
        freeze_backbone(network)
    if recipe.freeze_statistics and recipe.has_stage1:
        freeze_statistics(network)
    return train_stage(
        network,
        cross_entropy_step,
        data,
        name=name,
        stage=recipe.cross_entropy_stage(),
        recipe=recipe,
        session=session,
    )


def cross_entropy_step(
    network: Callable[..., Tensor],
    images: Tensor,
    masks: Tensor,
    recipe: Recipe,
    *,
    generator: torch.Generator,
) -> Tensor:
    """One step of stage 2 or of a baseline: one view, its class scores, cross-entropy (a scalar).

    Args:
        network: Maps normalised images ``[B, 3, H, W]`` and a size to scores ``[B, K, H, W]``.
        images: Images in 0..1 ``[B, 3, H, W]``.
        masks: Their labels ``[B, H, W]``.
        recipe: Distortion and crop.
        generator: Draws the distortion.
    """
    strength = recipe.cross_entropy_distortion()
    view = normalise(colour_distortion(images, strength, generator=generator))
    return cross_entropy(network(view, recipe.crop), masks)


def cross_entropy(scores: Tensor, masks: Tensor) -> Tensor:
    """Mean cross-entropy over labelled pixels; 0 (not NaN) if a batch has none.

    Args:
        scores: Class scores ``[B, K, H, W]``.
        masks: Labels ``[B, H, W]``; 255 is ignored.
    """
    total = F.cross_entropy(scores.float(), masks, ignore_index=IGNORE, reduction="sum")
    return total / (masks != IGNORE).sum().clamp(min=1)
