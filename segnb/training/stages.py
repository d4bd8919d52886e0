"""The two stages of the paper.

Stage 1, :func:`pretrain`: two views of every image, the same crop as it is and colour-distorted;
their pixel embeddings meet in the contrastive loss. Stage 2, :func:`finetune`: a pixel classifier
in place of the projection head, and cross-entropy on the whole network.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnb.datasets import IGNORE, WorkingSet
from segnb.losses import official, paper
from segnb.models import SegmentationNetwork, freeze_backbone, freeze_statistics
from segnb.recipe import Recipe
from segnb.training.batches import geometric_batch, place
from segnb.training.log import LogRow
from segnb.training.loop import Session, train_stage
from segnb.training.randomness import derive_seed
from segnb.views import colour_distortion, normalise


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
        network: Trained in place; a fresh projection head is attached.
        data: The labelled images.
        recipe: Loss, views and ``recipe.pretrain``.
        session: Device, folder and listeners.
        name: Name of the stage in the log and of its checkpoint.

    Returns:
        The stage's log rows.
    """
    torch.manual_seed(derive_seed(recipe.seed, name, "head"))
    network.attach_projection()
    accelerator = session.accelerator
    data = place(data, accelerator.device)

    def compute_loss(wrapped: nn.Module, step: int, generator: torch.Generator) -> Tensor:
        images, masks = geometric_batch(
            data,
            recipe,
            step=step,
            batch=recipe.pretrain.batch,
            process=accelerator.process_index,
            processes=accelerator.num_processes,
            device=accelerator.device,
            generator=generator,
        )
        distorted = colour_distortion(images, recipe.distortion, generator=generator)
        # One pass for both views: BatchNorm sees them together, and small maps fill the device.
        both = normalise(torch.cat([images, distorted]))
        embeddings = cast(Tensor, wrapped(both, recipe.loss_size))
        first, second = embeddings.float().chunk(2)
        labels = nearest_labels(masks, (first.shape[-2], first.shape[-1]))
        return contrastive_loss(first, second, labels, recipe, generator=generator)

    network.train()
    return train_stage(
        network, compute_loss, name=name, stage=recipe.pretrain, recipe=recipe, session=session
    )


def contrastive_loss(
    first: Tensor,
    second: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    generator: torch.Generator,
) -> Tensor:
    """The recipe's contrastive loss of a batch in two views.

    Args:
        first: Embeddings of the images I, unit-normalised ``[B, D, h, w]``.
        second: Embeddings of their distorted views Î, ``[B, D, h, w]``.
        labels: Labels of both, ``[B, h, w]``.
        recipe: Names the form, the scope and the temperature.
        generator: Draws which other image J each image is paired with.

    Returns:
        A scalar.
    """
    count = len(first)
    tau, backend = recipe.temperature, recipe.loss_backend
    if recipe.form == "paper":
        if recipe.scope == "within":
            return paper.within_image_loss(
                first, second, labels, labels, temperature=tau, backend=backend
            )
        if recipe.scope == "cross":
            # A cyclic shift: every image meets another one, never itself.
            shift = int(torch.randint(1, max(count, 2), (1,), generator=generator))
            return paper.cross_image_loss(
                first,
                second,
                second.roll(shift, 0),
                labels,
                labels,
                labels.roll(shift, 0),
                temperature=tau,
                backend=backend,
            )
        return paper.batch_loss(
            torch.cat([first, second]),
            torch.cat([labels, labels]),
            temperature=tau,
            backend=backend,
        )
    if recipe.scope == "within":
        return official.within_image_loss(
            first, labels, temperature=tau, backend=backend
        ) + official.within_image_loss(second, labels, temperature=tau, backend=backend)
    # The official code pairs by a random permutation, fixed points allowed.
    order = torch.randperm(count, generator=generator).to(first.device)
    return official.cross_image_loss(
        first, second[order], labels, labels[order], temperature=tau, backend=backend
    )


def nearest_labels(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels ``[B, H, W]`` sampled to ``size`` by nearest neighbour, corners aligned.

    The features are resized with aligned corners; labels are taken at the same points.
    """
    rows = _aligned(masks.shape[-2], size[0], masks.device)
    columns = _aligned(masks.shape[-1], size[1], masks.device)
    return masks[:, rows[:, None], columns[None, :]]


def _aligned(length: int, count: int, device: torch.device) -> Tensor:
    return torch.linspace(0, length - 1, count, device=device).round().long()


def finetune(
    network: SegmentationNetwork,
    data: WorkingSet,
    recipe: Recipe,
    *,
    session: Session,
    name: str = "finetune",
) -> list[LogRow]:
    """Stage 2, and all of the baselines: cross-entropy on the whole network.

    Steps and distortion are the method's own (:meth:`Recipe.cross_entropy_stage`,
    :meth:`Recipe.cross_entropy_distortion`).

    Args:
        network: Trained in place; a fresh pixel classifier takes the place of its head.
        data: The labelled images.
        recipe: Views and ``recipe.finetune``.
        session: Device, folder and listeners.
        name: Name of the stage in the log and of its checkpoint.

    Returns:
        The stage's log rows.
    """
    torch.manual_seed(derive_seed(recipe.seed, name, "head"))
    network.attach_classifier(data.info.num_classes)
    accelerator = session.accelerator
    data = place(data, accelerator.device)
    stage, strength = recipe.cross_entropy_stage(), recipe.cross_entropy_distortion()

    def compute_loss(wrapped: nn.Module, step: int, generator: torch.Generator) -> Tensor:
        images, masks = geometric_batch(
            data,
            recipe,
            step=step,
            batch=stage.batch,
            process=accelerator.process_index,
            processes=accelerator.num_processes,
            device=accelerator.device,
            generator=generator,
        )
        images = normalise(colour_distortion(images, strength, generator=generator))
        scores = cast(Tensor, wrapped(images, recipe.crop))
        return cross_entropy(scores, masks)

    network.train()
    if recipe.freeze and recipe.has_stage1:
        freeze_backbone(network)
    if recipe.freeze_statistics and recipe.has_stage1:
        freeze_statistics(network)
    return train_stage(
        network, compute_loss, name=name, stage=stage, recipe=recipe, session=session
    )


def cross_entropy(scores: Tensor, masks: Tensor) -> Tensor:
    """Mean cross-entropy over labelled pixels; 0 (not NaN) where a batch has none.

    Args:
        scores: Class scores ``[B, K, H, W]``.
        masks: Labels ``[B, H, W]``, 255 where ignored.
    """
    total = F.cross_entropy(scores.float(), masks, ignore_index=IGNORE, reduction="sum")
    return total / (masks != IGNORE).sum().clamp(min=1)
