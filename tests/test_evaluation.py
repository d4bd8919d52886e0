"""Scores and predictions, with networks whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import NATIVE, tiny_recipe
from torch import Tensor

from segnb import datasets
from segnb.datasets import IGNORE, WorkingSet
from segnb.evaluation import (
    EVALUATION_BATCH,
    EmbeddingSample,
    evaluate,
    predict,
    sample_embeddings,
    score_maps,
)
from segnb.experiments.runs import initial_network
from segnb.metrics import Compactness, compactness
from segnb.models import SegmentationNetwork
from segnb.training import Session, make_accelerator

pytest_plugins = ["tiny"]
pytestmark = pytest.mark.usefixtures("one_thread", "places")

CPU = Session(accelerator=make_accelerator("fp32", cpu=True))
CLASSES = 11


class Oracle(SegmentationNetwork):
    """Knows the answer: scores made of the masks of the working set, batch by batch."""

    def __init__(self, answers: Tensor) -> None:
        super().__init__(torch.nn.Conv2d(3, 2, 1), 2)
        self.answers = answers
        self.seen = 0

    def forward(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        assert size == images.shape[-2:]
        mine = self.answers[self.seen : self.seen + len(images)].long()
        self.seen += len(images)
        one_hot = torch.nn.functional.one_hot(mine.where(mine != IGNORE, 0), CLASSES)
        return one_hot.permute(0, 3, 1, 2).float()


def val(size: tuple[int, int]) -> tuple[datasets.SegmentationDataset, WorkingSet]:
    split = datasets.load("camvid", "val")
    return split, datasets.working_set(split, size=size)


def test_the_right_answer_at_the_native_size_scores_a_hundred() -> None:
    split, data = val(NATIVE)
    score = evaluate(Oracle(data.masks), split, data, session=CPU)
    assert score.miou == pytest.approx(100)
    assert score.pixel_accuracy == pytest.approx(100)


@pytest.mark.parametrize("size", [(90, 120), (96, 120), (90, 160)])
def test_padding_takes_no_part_in_the_score(size: tuple[int, int]) -> None:
    """Doubled, letterboxed and scaled back, bands keep their borders; padding would shift them."""
    split, data = val(size)
    answers = data.masks.clone()
    answers[answers == IGNORE] = 5
    score = evaluate(Oracle(answers), split, data, session=CPU)
    assert score.pixel_accuracy > 99
    assert score.miou > 98


def test_a_score_by_hand() -> None:
    """Everything is class 0: its IoU is its share of the labelled pixels; other classes get 0."""
    split, data = val((32, 48))
    score = evaluate(Oracle(torch.zeros_like(data.masks)), split, data, session=CPU)
    masks = np.stack([split.mask(i) for i in range(len(split))])
    labelled = masks[masks != IGNORE]
    share = 100 * float((labelled == 0).mean())
    assert score.pixel_accuracy == pytest.approx(share)
    present = set(np.unique(labelled).tolist()) | {0}
    for label in range(CLASSES):
        expected = None if label not in present else share if label == 0 else 0.0
        assert score.iou[label] == (None if expected is None else pytest.approx(expected))
    assert score.miou == pytest.approx(share / len(present))


def test_a_subset_is_matched_to_its_own_masks() -> None:
    split, data = val(NATIVE)
    some = data.subset([data.ids[3], data.ids[1]])
    assert evaluate(Oracle(some.masks), split, some, session=CPU).miou == pytest.approx(100)
    swapped = Oracle(some.masks.flip(0))
    assert evaluate(swapped, split, some, session=CPU).miou < 100


def test_predictions_are_void_on_the_padding() -> None:
    _, data = val((32, 48))
    predicted = predict(Oracle(data.masks), data, session=CPU)
    assert predicted.shape == (len(data), 32, 48)
    assert predicted.dtype == np.uint8
    inside = data.masks.numpy() != IGNORE
    assert (predicted[inside] == data.masks.numpy()[inside]).all()
    assert (predicted[:, :, 43:] == IGNORE).all()
    assert (predicted[:, :, :43] != IGNORE).all()


def many(data: WorkingSet, count: int) -> WorkingSet:
    chosen = [i % len(data) for i in range(count)]
    return WorkingSet(
        data.info,
        tuple(f"{i}" for i in range(count)),
        data.images[chosen],
        data.masks[chosen],
        data.extents[chosen],
    )


def test_every_image_has_its_scores_also_in_a_last_short_batch() -> None:
    _, data = val((32, 48))
    lot = many(data, EVALUATION_BATCH + 3)
    network = Oracle(lot.masks)
    found = dict(score_maps(network, lot, session=CPU))
    assert list(found) == list(range(EVALUATION_BATCH + 3))
    assert all(scores.shape == (CLASSES, 32, 43) for scores in found.values())
    assert not network.training


def test_scores_do_not_depend_on_who_shares_the_batch() -> None:
    _, data = val((32, 48))
    network = initial_network(tiny_recipe())
    network.attach_classifier(CLASSES)
    together = dict(score_maps(network, data, session=CPU))
    alone = dict(score_maps(network, data.subset([data.ids[2]]), session=CPU))
    torch.testing.assert_close(together[2], alone[0])


def test_evaluation_changes_no_weights_and_no_statistics() -> None:
    split, data = val((32, 48))
    network = initial_network(tiny_recipe()).train()
    network.attach_classifier(CLASSES)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    evaluate(network, split, data, session=CPU)
    sample_embeddings(network, data, session=CPU)
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_embeddings_are_of_the_same_pixels_for_every_network() -> None:
    _, data = val((32, 48))
    lot = many(data, EVALUATION_BATCH + 5)

    class Places(SegmentationNetwork):
        """Features that say where they were taken: image colour, row, column."""

        def features(self, images: Tensor) -> Tensor:
            height, width = 4, 6
            rows = torch.arange(height).repeat_interleave(width).reshape(height, width)
            columns = torch.arange(width).repeat(height).reshape(height, width)
            colour = images.mean((1, 2, 3))[:, None, None].expand(-1, height, width)
            spread = (rows.expand_as(colour), columns.expand_as(colour))
            return torch.stack([colour, *(one.float() for one in spread)], 1)

    network = Places(torch.nn.Conv2d(3, 1, 1), 3)
    one = sample_embeddings(network, lot, session=CPU, per_class=7)
    two = sample_embeddings(network, lot, session=CPU, per_class=7)
    assert torch.equal(one.embeddings, two.embeddings)
    assert len(one.embeddings) == len(one.labels) > 0
    assert one.labels.bincount().max() <= 7
    # Each label is the mask's where the cell lies (aligned corners), in the image of that colour.
    images = (lot.images.float() / 255 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / (
        torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    )
    colours = images.mean((1, 2, 3))
    for (colour, row, column), label in zip(one.embeddings, one.labels, strict=True):
        image = int((colours - colour).abs().argmin())
        assert lot.masks[image, round(float(row) * 31 / 3), round(float(column) * 47 / 5)] == label
    other = sample_embeddings(network, lot, session=CPU, per_class=7, seed=1)
    assert not torch.equal(one.embeddings, other.embeddings)


def test_compactness_is_fitted_on_one_sample_and_measured_on_the_other() -> None:
    _, data = val((32, 48))
    network = initial_network(tiny_recipe())
    train = datasets.working_set(datasets.load("camvid", "train"), size=(32, 48))
    fitted = sample_embeddings(network, train, session=CPU, per_class=20)
    measured = sample_embeddings(network, data, session=CPU, per_class=20)

    def fitted_on(sample: EmbeddingSample) -> Compactness:
        return compactness(
            *measured,
            fit_embeddings=sample.embeddings,
            fit_labels=sample.labels,
            num_classes=CLASSES,
        )

    values, itself = fitted_on(fitted), fitted_on(measured)
    assert values.intra == itself.intra  # of the measured sample alone
    assert values.probe_miou is not None
    assert itself.probe_miou is not None
    assert values.probe_miou < itself.probe_miou  # fitted where it is not scored


def test_evaluation_in_the_precision_of_training() -> None:
    split, data = val((32, 48))
    network = initial_network(tiny_recipe())
    network.attach_classifier(CLASSES)
    session = Session(accelerator=make_accelerator("bf16", cpu=True), progress_bar=False)
    seen: list[torch.dtype] = []
    network.backbone.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    evaluate(network, split, data, session=session)
    evaluate(network, split, data, session=CPU)
    assert seen == [torch.bfloat16, torch.float32]


def test_images_of_many_sizes_are_each_scored_at_their_own(tmp_path: Path) -> None:
    """Two images of different shapes, one class each: the count of pixels is by full masks."""
    for name, (height, width), label in (("a", (20, 70), 1), ("b", (64, 16), 2)):
        for split in ("train", "val", "test"):
            folder = tmp_path / "CamVid"
            (folder / split).mkdir(parents=True, exist_ok=True)
            (folder / f"{split}annot").mkdir(exist_ok=True)
            grey = np.full((height, width, 3), 99, np.uint8)
            Image.fromarray(grey).save(folder / split / f"{name}.png")
            mask = np.full((height, width), label, np.uint8)
            Image.fromarray(mask).save(folder / f"{split}annot" / f"{name}.png")
    split_ = datasets.load("camvid", "val", root=tmp_path)
    data = datasets.working_set(split_, size=(32, 32), cache=tmp_path)
    # Right on the first image, wrong on the second.
    answers = torch.ones_like(data.masks)
    score = evaluate(Oracle(answers), split_, data, session=CPU)
    assert score.pixel_accuracy == pytest.approx(100 * 1400 / (1400 + 1024))
    assert score.iou[1] == pytest.approx(100 * 1400 / 2424)
    assert score.iou[2] == 0
