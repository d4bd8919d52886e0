from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segnb.errors import DataError
from segnb.metrics import ConfusionScore, Score, score_confusion


def score(prediction: list[int], mask: list[int], classes: int) -> Score:
    counter = ConfusionScore(classes)
    counter.update(torch.tensor(prediction), torch.tensor(mask))
    return counter.compute()


def test_matches_a_count_by_hand() -> None:
    #        class 0: 2 right, union 4; class 1: 1 right, union 3; class 2: 1 right, union 1
    result = score([0, 0, 1, 0, 1, 2], [0, 0, 0, 1, 1, 2], 3)
    assert result.iou == pytest.approx((50.0, 100 / 3, 100.0))
    assert result.miou == pytest.approx((50 + 100 / 3 + 100) / 3)
    assert result.pixel_accuracy == pytest.approx(100 * 4 / 6)


def test_rows_of_the_confusion_are_the_truth() -> None:
    counter = ConfusionScore(2)
    counter.update(torch.tensor([1, 1, 1]), torch.tensor([0, 0, 1]))
    assert counter.confusion().tolist() == [[0, 2], [0, 1]]


def test_void_counts_nowhere_whatever_was_predicted_there() -> None:
    clean = score([0, 1, 1], [0, 1, 0], 2)
    leaky = score([0, 1, 1, 0, 1, 255, 7], [0, 1, 0, 255, 255, 255, 255], 2)
    assert leaky == clean


def test_void_is_kept_out_in_uint8_masks_too() -> None:
    counter = ConfusionScore(2)
    mask = torch.tensor([[0, 1], [255, 255]], dtype=torch.uint8)
    counter.update(torch.tensor([[0, 1], [0, 1]], dtype=torch.uint8), mask)
    assert counter.compute() == Score(miou=100.0, iou=(100.0, 100.0), pixel_accuracy=100.0)


def test_mean_over_images_is_another_number() -> None:
    images = [([0] * 9 + [1], [0] * 10), ([1, 1], [1, 1])]
    counter = ConfusionScore(2)
    for prediction, mask in images:
        counter.update(torch.tensor(prediction), torch.tensor(mask))
    whole = counter.compute().miou
    # Class 0: 9 of 10; class 1: 2 of 3.
    assert whole == pytest.approx((90 + 200 / 3) / 2)
    per_image = sum(score(p, m, 2).miou for p, m in images) / 2
    assert per_image == pytest.approx((45 + 100) / 2)
    assert abs(whole - per_image) > 5


def test_class_in_neither_is_left_out_but_a_false_alarm_counts_as_zero() -> None:
    absent = score([0, 1], [0, 1], 3)
    assert absent.iou == (100.0, 100.0, None)
    assert absent.miou == 100.0
    false_alarm = score([0, 1, 2], [0, 1, 1], 3)
    assert false_alarm.iou == (100.0, 50.0, 0.0)
    assert false_alarm.miou == pytest.approx(50.0)
    missed = score([0, 0], [0, 2], 3)
    assert missed.iou == (50.0, None, 0.0)


@settings(deadline=None, max_examples=25)
@given(
    pairs=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 2, 3, 255])), min_size=1, max_size=40
    ),
    cut=st.integers(0, 40),
)
def test_batches_add_up_and_agree_with_sets(pairs: list[tuple[int, int]], cut: int) -> None:
    counted = [(p, m) for p, m in pairs if m != 255]
    counter = ConfusionScore(4)
    for part in (pairs[:cut], pairs[cut:]):
        columns = torch.tensor(part, dtype=torch.long).reshape(-1, 2)
        counter.update(columns[:, 0], columns[:, 1])
    if not counted:
        with pytest.raises(DataError, match="no labelled pixel"):
            counter.compute()
        return
    result = counter.compute()
    for c in range(4):
        truth = {i for i, (_, m) in enumerate(counted) if m == c}
        guess = {i for i, (p, _) in enumerate(counted) if p == c}
        expected = 100 * len(truth & guess) / len(truth | guess) if truth | guess else None
        assert result.iou[c] == (None if expected is None else pytest.approx(expected))


def test_label_outside_the_classes_is_named() -> None:
    with pytest.raises(DataError, match="the mask holds class 12; the classes are 0 to 10"):
        ConfusionScore(11).update(torch.zeros(2, dtype=torch.long), torch.tensor([3, 12]))
    with pytest.raises(DataError, match="the prediction holds class 255"):
        ConfusionScore(11).update(torch.tensor([255, 1]), torch.tensor([3, 1]))


@pytest.mark.parametrize(
    ("prediction", "mask", "words"),
    [
        (torch.zeros(2, 3).long(), torch.zeros(3, 2).long(), r"\(2, 3\).*\(3, 2\)"),
        (torch.zeros(1, 5, 4, 4), torch.zeros(1, 4, 4).long(), "argmax"),
        (torch.zeros(4), torch.zeros(4).long(), "not integer"),
    ],
)
def test_wrong_shapes_and_types(prediction: Tensor, mask: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ConfusionScore(5).update(prediction, mask)


def test_confusion_must_be_square() -> None:
    with pytest.raises(ValueError, match="square"):
        score_confusion(torch.ones(2, 3))
