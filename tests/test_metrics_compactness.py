from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
from torch import Tensor

from segnb.metrics import Compactness, compactness, pixel_positions
from segnb.views import nearest_labels


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def measure(points: Tensor, labels: Tensor, num_classes: int = 3) -> Compactness:
    return compactness(
        points,
        labels,
        fit_embeddings=points,
        fit_labels=labels,
        num_classes=num_classes,
        seed=0,
    )


def test_numbers_by_hand() -> None:
    # Unit vectors in the plane at +-60 degrees around +x and around -x: m = (+-1/2, 0),
    # |z - m|² = 3/4 (the sine squared), |m1 - m2|² = 1.
    s = 3**0.5 / 2
    points = torch.tensor([[0.5, s], [0.5, -s], [-0.5, s], [-0.5, -s]])
    result = measure(
        points * torch.tensor([[1.0], [2.0], [5.0], [0.1]]), torch.tensor([0, 0, 1, 1])
    )
    assert result.intra == pytest.approx(0.75)
    assert result.inter == pytest.approx(1.0)
    assert result.fisher == pytest.approx(4 / 3)
    # Cosine distances: 1.5 to the own class; 0.5 and 2 to the other, mean 1.25.
    assert result.silhouette == pytest.approx((1.25 - 1.5) / 1.5)


def test_a_class_counts_once_however_many_pixels_it_has() -> None:
    spread = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    tight = torch.tensor([[-1.0, 0.0]]).repeat(50, 1)
    result = measure(torch.cat([spread, tight]), torch.tensor([0, 0] + [1] * 50))
    assert result.intra == pytest.approx((0.5 + 0.0) / 2)


def test_two_tight_far_clusters_are_told_apart() -> None:
    noise = torch.randn(60, 8, generator=generator()) * 0.02
    centre = torch.zeros(60, 8)
    centre[:30, 0], centre[30:, 0] = 1.0, -1.0
    labels = torch.tensor([0] * 30 + [2] * 30)
    result = measure(centre + noise, labels)
    assert result.intra is not None
    assert result.intra < 0.01
    assert result.inter == pytest.approx(4.0, rel=0.02)
    assert result.fisher is not None
    assert result.fisher > 400
    assert result.silhouette is not None
    assert result.silhouette > 0.98
    assert result.knn_miou == 100.0
    assert result.probe_miou == 100.0


def test_noise_is_not_compact() -> None:
    points = torch.randn(300, 16, generator=generator(1))
    labels = torch.arange(300) % 3
    fresh = torch.randn(300, 16, generator=generator(2))
    result = compactness(
        fresh, labels, fit_embeddings=points, fit_labels=labels, num_classes=3, seed=0
    )
    assert result.fisher is not None
    assert result.fisher < 0.1
    assert result.silhouette == pytest.approx(0.0, abs=0.05)
    # Chance: a third right, IoU about 1/5.
    assert result.knn_miou == pytest.approx(20, abs=8)
    assert result.probe_miou == pytest.approx(20, abs=8)


def test_classifiers_are_fitted_on_the_fit_sample() -> None:
    fit = torch.tensor([[1.0, 0.0]] * 6 + [[-1.0, 0.0]] * 6)
    fit_labels = torch.tensor([0] * 6 + [1] * 6)
    swapped = compactness(
        fit, 1 - fit_labels, fit_embeddings=fit, fit_labels=fit_labels, num_classes=2, seed=0
    )
    assert swapped.knn_miou == 0.0
    assert swapped.probe_miou == 0.0


def test_single_class_leaves_undefined_numbers_out() -> None:
    result = measure(torch.randn(10, 4, generator=generator()), torch.zeros(10).long())
    assert result.intra is not None
    assert (result.inter, result.fisher, result.silhouette) == (None, None, None)
    assert result.probe_miou is None
    assert result.knn_miou == 100.0


def test_one_pixel_a_class_has_no_spread() -> None:
    result = measure(torch.eye(3), torch.arange(3))
    assert result.intra is None
    assert result.fisher is None
    assert result.silhouette is None
    assert result.inter == pytest.approx(2.0)


def test_collapsed_embeddings_have_no_fisher_ratio_and_stay_json() -> None:
    result = measure(torch.ones(20, 4), torch.arange(20) % 2)
    assert result.fisher is None
    json.dumps(result.as_dict(), allow_nan=False)
    # A dead feature map is all zeros; it must not become NaN.
    assert measure(torch.zeros(20, 4), torch.arange(20) % 2).inter == 0.0


def test_dict_has_the_ledger_keys() -> None:
    assert set(measure(torch.eye(3), torch.arange(3)).as_dict()) == {
        "intra",
        "inter",
        "fisher",
        "silhouette",
        "knn_miou",
        "probe_miou",
    }


def test_arrays_and_half_precision_are_welcome() -> None:
    points = torch.randn(30, 4, generator=generator()).bfloat16()
    labels = torch.arange(30) % 3
    array = np.asarray(points.float())
    assert measure(points, labels) == compactness(
        array,
        labels.numpy(),
        fit_embeddings=array,
        fit_labels=labels.numpy(),
        num_classes=3,
        seed=0,
    )


def test_same_seed_same_silhouette_on_a_large_sample() -> None:
    points = torch.randn(5200, 4, generator=generator())
    labels = torch.arange(5200) % 3
    assert measure(points, labels) == measure(points, labels)


@pytest.mark.parametrize(
    ("points", "labels", "words"),
    [
        (torch.zeros(0, 4), torch.zeros(0).long(), "M of 1 or more"),
        (torch.full((2, 4), float("nan")), torch.zeros(2).long(), "not finite"),
        (torch.zeros(3, 4), torch.zeros(2).long(), r"labels are \(2,\); they must be \(3,\)"),
    ],
)
def test_bad_samples_are_named(points: Tensor, labels: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        measure(points, labels)


def test_fits_eleven_classes_in_seconds() -> None:
    labels = torch.arange(11).repeat_interleave(200)
    centres = torch.randn(11, 128, generator=generator()) * 0.3
    points = centres[labels] + torch.randn(2200, 128, generator=generator(1))
    measure(points, labels, 11)  # the first call pays for imports
    start = time.process_time()
    measure(points, labels, 11)
    assert time.process_time() - start < 5


def test_sample_is_balanced_and_true_to_the_map() -> None:
    masks = torch.zeros(2, 4, 4, dtype=torch.uint8)
    masks[0, :, 2:] = 1
    masks[1, 0, 0] = 2
    masks[1, 3, :] = 255
    positions, labels = pixel_positions(masks, (4, 4), per_class=5, generator=generator())
    assert labels.tolist() == [0] * 5 + [1] * 5 + [2]
    assert masks[tuple(positions.unbind(1))].tolist() == labels.tolist()
    assert len(set(map(tuple, positions.tolist()))) == 11, "a pixel was drawn twice"


def test_only_the_generator_changes_the_positions() -> None:
    masks = torch.randint(0, 4, (3, 8, 8), generator=generator())
    first, again, other = (
        pixel_positions(masks, (8, 8), per_class=6, generator=generator(seed))[0]
        for seed in (7, 7, 8)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("side", "cells", "pixels"),
    # Counted by hand: cell i of n lies at pixel i (side - 1) / (n - 1), rounded.
    [
        (8, 2, [0, 7]),
        (9, 3, [0, 4, 8]),
        (12, 3, [0, 6, 11]),
        (13, 4, [0, 4, 8, 12]),
        (16, 4, [0, 5, 10, 15]),
        (33, 5, [0, 8, 16, 24, 32]),
        (7, 1, [0]),
    ],
)
def test_labels_are_those_that_the_loss_takes(side: int, cells: int, pixels: list[int]) -> None:
    expected = torch.tensor(pixels)
    for axis, masks, size in (
        (2, torch.arange(side).repeat(1, 5, 1), (2, cells)),
        (1, torch.arange(side)[:, None].repeat(1, 1, 5), (cells, 2)),
    ):
        positions, labels = pixel_positions(masks, size, per_class=99, generator=generator())
        assert torch.equal(labels, expected[positions[:, axis]])
        assert torch.equal(labels, nearest_labels(masks, size)[tuple(positions.unbind(1))])


def test_all_void_gives_an_empty_sample() -> None:
    void = torch.full((1, 2, 2), 255)
    positions, labels = pixel_positions(void, (2, 2), per_class=3, generator=generator())
    assert positions.shape == (0, 3)
    assert labels.shape == (0,)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"masks are \(4, 4\); they must be \[B, H, W\]"):
        pixel_positions(torch.zeros(4, 4), (4, 4), per_class=1, generator=generator())
    with pytest.raises(ValueError, match="per_class is 0"):
        pixel_positions(torch.zeros(1, 2, 2), (2, 2), per_class=0, generator=generator())
