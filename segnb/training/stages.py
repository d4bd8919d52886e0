"""The two stages of the paper.

Stage 1, :func:`pretrain`: two views of every image, the same crop as it is and colour-distorted;
their pixel embeddings meet in the contrastive loss. Stage 2, :func:`finetune`: a pixel classifier
in place of the projection head, and cross-entropy on the whole network.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from segnb.datasets import IGNORE, WorkingSet
from segnb.losses import distributed, official, paper
from segnb.models import SegmentationNetwork, freeze_backbone, freeze_statistics
from segnb.recipe import Recipe
from segnb.training.log import LogRow
from segnb.training.loop import train_stage
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
    network.train()
    return train_stage(
        network,
        contrastive_step,
        data,
        name=name,
        stage=recipe.pretrain,
        recipe=recipe,
        session=session,
    )


def contrastive_step(
    network: Callable[..., Tensor],
    images: Tensor,
    masks: Tensor,
    recipe: Recipe,
    *,
    generator: torch.Generator,
) -> Tensor:
    """One step of stage 1: two views, their embeddings, the contrastive loss.

    Args:
        network: Normalised images ``[2B, 3, H, W]`` and a size to embeddings ``[2B, D, h, w]``.
        images: The images I in 0..1 ``[B, 3, H, W]``.
        masks: Their labels ``[B, H, W]``.
        recipe: Distortion, size of the embedding map, and loss.
        generator: Draws the distortion, then the pairs of images.

    Returns:
        A scalar.
    """
    distorted = colour_distortion(images, recipe.distortion, generator=generator)
    # One pass for both views: BatchNorm sees them together, and small maps fill the device.
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
    """The recipe's contrastive loss of a batch in two views.

    Losses per image and per pair of images are means over this process's own. The batch scope is
    one bag of the pixels of all processes, which must all call this with the same shapes; several
    processes compute it in tiles, whatever the recipe's back end.

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
        features, twice = torch.cat([first, second]), torch.cat([labels, labels])
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            return distributed.batch_loss(features, twice, temperature=tau)
        return paper.batch_loss(features, twice, temperature=tau, backend=backend)
    if recipe.scope == "within":
        return official.within_image_loss(
            first, labels, temperature=tau, backend=backend
        ) + official.within_image_loss(second, labels, temperature=tau, backend=backend)
    # The official code pairs by a random permutation, fixed points allowed.
    order = torch.randperm(count, generator=generator).to(first.device)
    return official.cross_image_loss(
        first, second[order], labels, labels[order], temperature=tau, backend=backend
    )


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
    """One step of stage 2 or of a baseline: one view, its class scores, cross-entropy.

    Args:
        network: Normalised images ``[B, 3, H, W]`` and a size to scores ``[B, K, H, W]``.
        images: Images in 0..1 ``[B, 3, H, W]``.
        masks: Their labels ``[B, H, W]``.
        recipe: Distortion and crop.
        generator: Draws the distortion.

    Returns:
        A scalar.
    """
    strength = recipe.cross_entropy_distortion()
    view = normalise(colour_distortion(images, strength, generator=generator))
    return cross_entropy(network(view, recipe.crop), masks)


def cross_entropy(scores: Tensor, masks: Tensor) -> Tensor:
    """Mean cross-entropy over labelled pixels; 0 (not NaN) where a batch has none.

    Args:
        scores: Class scores ``[B, K, H, W]``.
        masks: Labels ``[B, H, W]``, 255 where ignored.
    """
    total = F.cross_entropy(scores.float(), masks, ignore_index=IGNORE, reduction="sum")
    return total / (masks != IGNORE).sum().clamp(min=1)
