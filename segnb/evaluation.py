"""Evaluation: predictions at the images' own resolution, and samples of pixel embeddings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from segnb.datasets import IGNORE, SegmentationDataset, WorkingSet
from segnb.metrics.compactness import pixel_positions
from segnb.metrics.segmentation import ConfusionScore, Score
from segnb.models import SegmentationNetwork
from segnb.training.randomness import derive_seed
from segnb.training.session import Session
from segnb.views import normalise, to_unit

#: Images per forward pass; evaluation keeps no activations, so only speed depends on this.
EVALUATION_BATCH = 16

#: Pixels of each class in the balanced sample on which compactness is measured.
PIXELS_PER_CLASS = 200


class EmbeddingSample(NamedTuple):
    """Pixel features and their labels, class-balanced.

    Attributes:
        embeddings: ``[M, C]`` float32.
        labels: ``[M]`` int64.
    """

    embeddings: Tensor
    labels: Tensor


def score_maps(
    network: SegmentationNetwork, data: WorkingSet, *, session: Session
) -> Iterator[tuple[int, Tensor]]:
    """Class scores of every image at the working resolution, without the padding.

    Args:
        network: With a classifier on top.
        data: The images.
        session: Device and precision; ``Session()`` uses the best of this machine.

    Yields:
        The image's index, and its scores ``[K, h, w]`` in float32.
    """
    size = (data.images.shape[-2], data.images.shape[-1])
    extents = data.extents.tolist()
    for start, scores in _batches(network, lambda images: network(images, size), data, session):
        for index, one in enumerate(scores.float(), start):
            height, width = extents[index]
            yield index, one[:, :height, :width]


def _batches(
    network: SegmentationNetwork,
    forward: Callable[[Tensor], Tensor],
    data: WorkingSet,
    session: Session,
) -> Iterator[tuple[int, Tensor]]:
    """The index of each batch's first image, and what ``forward`` makes of the batch."""
    network.to(session.device).eval()
    for start in range(0, len(data), EVALUATION_BATCH):
        images = data.images[start : start + EVALUATION_BATCH].to(session.device)
        with torch.inference_mode(), session.autocast:
            result = forward(normalise(to_unit(images)))
        yield start, result


def evaluate(
    network: SegmentationNetwork,
    dataset: SegmentationDataset,
    data: WorkingSet,
    *,
    session: Session,
    subsets: Mapping[str, Collection[str]] | None = None,
) -> Score:
    """Score a network on a whole split, every image at its own resolution.

    Args:
        network: With a classifier on top.
        dataset: The split, for masks at full resolution.
        data: The same images at the working resolution; any subset of the split's ids.
        session: Device and precision.
        subsets: Parts of the split to score separately as well: their ids, by name.

    Returns:
        mIoU, IoU of each class and pixel accuracy in percent, from one confusion matrix; the same
        for each subset, from its own.
    """
    position = {name: index for index, name in enumerate(dataset.ids)}
    confusion = ConfusionScore(data.info.num_classes)
    parts = {name: ConfusionScore(data.info.num_classes) for name in subsets or {}}
    for index, scores in score_maps(network, data, session=session):
        mask = torch.from_numpy(dataset.mask(position[data.ids[index]]).astype(np.int64))
        full = F.interpolate(scores[None], size=mask.shape, mode="bilinear", align_corners=False)
        predicted = full[0].max(0).indices.cpu()  # as argmax, in a seventh of the time on a CPU
        confusion.update(predicted, mask)
        for name, ids in (subsets or {}).items():
            if data.ids[index] in ids:
                parts[name].update(predicted, mask)
    by_part = {name: part.compute() for name, part in parts.items()}
    return replace(confusion.compute(), subsets=by_part)


def predict(
    network: SegmentationNetwork, data: WorkingSet, *, session: Session
) -> npt.NDArray[np.uint8]:
    """Predicted classes ``[N, H, W]`` at the working resolution, 255 in the padding."""
    predicted = np.full(tuple(data.masks.shape), IGNORE, dtype=np.uint8)
    for index, scores in score_maps(network, data, session=session):
        height, width = scores.shape[-2:]
        predicted[index, :height, :width] = scores.argmax(0).byte().cpu().numpy()
    return predicted


def sample_embeddings(
    network: SegmentationNetwork,
    data: WorkingSet,
    *,
    session: Session,
    per_class: int = PIXELS_PER_CLASS,
    seed: int = 0,
) -> EmbeddingSample:
    """Pixel features before the head, at most ``per_class`` of each class.

    The pixels depend only on the data and ``seed``, so that every network is measured on the same
    ones.
    """
    generator = torch.Generator().manual_seed(derive_seed("embeddings", seed))
    positions = labels = torch.empty(0, dtype=torch.int64)
    found = torch.empty(0, network.feature_channels)
    for start, features in _batches(network, network.features, data, session):
        if start == 0:
            size = (features.shape[-2], features.shape[-1])
            positions, labels = pixel_positions(
                data.masks, size, per_class=per_class, generator=generator
            )
            found = torch.empty(len(labels), features.shape[1])
        # Batch by batch: the feature maps of a whole split may not fit into memory.
        here = (positions[:, 0] >= start) & (positions[:, 0] < start + len(features))
        image, row, column = positions[here].to(features.device).unbind(1)
        found[here] = features[image - start, :, row, column].float().cpu()
    return EmbeddingSample(found, labels)
