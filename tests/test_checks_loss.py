"""The loss notebook's checkers know right answers by other roads, and name the usual mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from torch import Tensor

from segnb.checks import Hint
from segnb.checks.loss import (
    WatchedTiles,
    check_gradient_by_hand,
    check_loss_floor,
    check_streaming_logsumexp,
    check_within_image_loss,
)

Loss = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]


def by_loops(
    anchors: Tensor, keys: Tensor, anchor_labels: Tensor, key_labels: Tensor, temperature: float
) -> Tensor:
    """The formula pair by pair, in float64."""
    losses = []
    valid = [k for k in range(len(keys)) if key_labels[k] != 255]
    for p in range(len(anchors)):
        positives = [k for k in valid if key_labels[k] == anchor_labels[p]]
        if anchor_labels[p] == 255 or not positives:
            continue
        scores = {k: anchors[p].double() @ keys[k].double() / temperature for k in valid}
        below = torch.logsumexp(torch.stack([*scores.values()]), 0)
        losses.append(sum(below - scores[q] for q in positives) / len(positives))
    return torch.stack(losses).mean()


def test_the_formula_by_loops_is_right() -> None:
    check_within_image_loss(by_loops)


def variant(
    *,
    score: Callable[[Tensor, float], Tensor] = lambda s, t: s / t,
    denominator: str = "all",
    reduce: str = "means",
    ignore: bool = True,
    lonely: bool = True,
    stable: bool = True,
) -> Loss:
    """The loss with one thing changed."""

    def loss(a: Tensor, k: Tensor, la: Tensor, lk: Tensor, t: float) -> Tensor:
        if ignore:
            a, la, k, lk = a[la != 255], la[la != 255], k[lk != 255], lk[lk != 255]
        s = score(a @ k.T, t)
        same = la[:, None] == lk[None]
        count = same.sum(1).clamp(min=1)
        if denominator == "all":
            below = torch.logsumexp(s, 1) if stable else s.exp().sum(1).log()
        else:
            below = (s.exp() * ~same).sum(1).log()
        each = ((below[:, None] - s) * same).sum(1)
        if reduce == "log of mean":
            return -((s.exp() * same).sum(1) / count / s.exp().sum(1)).log().mean()
        if reduce == "pairs":
            return each.sum() / same.sum()
        if reduce == "sums":
            return each.mean()
        each = each / count
        kept = each[same.any(1)] if lonely else each
        return {"means": kept.mean(), "total": kept.sum(), "negated": -kept.mean()}[reduce]

    return loss


def test_the_unchanged_variant_is_right() -> None:
    check_within_image_loss(variant())


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (variant(score=lambda s, t: s), "temperature does nothing"),
        (variant(score=lambda s, t: s * t), "divided by the temperature, not"),
        (variant(denominator="negatives"), "negatives alone"),
        (variant(reduce="log of mean"), "logarithm of a mean"),
        (variant(reduce="pairs"), "mean over pairs"),
        (variant(reduce="sums"), r"divide by \|P_p\|"),
        (variant(reduce="total"), "divide by how many"),
        (variant(reduce="negated"), "sign"),
        (variant(ignore=False), "255"),
        (variant(lonely=False), "no key at all"),
        (variant(stable=False), "not finite.*one go"),
        (lambda *_: torch.zeros(3), r"shape \(3,\)"),
        (lambda *_: torch.tensor(0.123), "Check in this order"),
        (lambda *_: None, "returns nothing"),
        (lambda *_: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_mistakes_in_the_loss_are_named(wrong: Loss, hint: str) -> None:
    with pytest.raises(Hint, match=hint):
        check_within_image_loss(wrong)


Array = np.ndarray


def by_autograd(anchor: Array, keys: Array, positive: Array, temperature: float) -> Array:
    free = torch.tensor(anchor, requires_grad=True)
    scores = torch.tensor(keys) @ free / temperature
    loss = scores.logsumexp(0) - scores[torch.tensor(positive)].mean()
    return torch.autograd.grad(loss, free)[0].numpy()


def gradient(
    anchor: Array,
    keys: Array,
    positive: Array,
    temperature: float,
    *,
    denominator: bool = True,
    shift: bool = True,
    divide: bool = True,
) -> Array:
    """The gradient with one thing changed."""
    scores = keys @ anchor / (temperature if divide else 1.0)
    with np.errstate(over="ignore", invalid="ignore"):
        raised = np.exp(scores - scores.max() if shift else scores)
        raised = raised if denominator else raised * ~positive
        return (raised @ keys / raised.sum() - keys[positive].mean(0)) / temperature


def tangent(anchor: Array, keys: Array, positive: Array, temperature: float) -> Array:
    whole = gradient(anchor, keys, positive, temperature)
    return whole - (whole @ anchor) * anchor


def summed(anchor: Array, keys: Array, positive: Array, temperature: float) -> Array:
    pull = keys[positive].sum(0) - keys[positive].mean(0)
    return gradient(anchor, keys, positive, temperature) - pull / temperature


def without_pull(anchor: Array, keys: Array, positive: Array, temperature: float) -> Array:
    return gradient(anchor, keys, positive, temperature) + keys[positive].mean(0) / temperature


@pytest.mark.parametrize("right", [by_autograd, gradient])
def test_gradients_by_two_roads_are_right(right: Callable[..., Array]) -> None:
    check_gradient_by_hand(right)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda a, k, p, t: gradient(a, k, p, t) * t, "factor 1 / temperature"),
        (lambda a, k, p, t: -gradient(a, k, p, t), "sign"),
        (lambda *args: gradient(*args, denominator=False), "missing from the softmax"),
        (summed, "positives are added up"),
        (lambda *args: gradient(*args, divide=False), "softmax of the scores"),
        (without_pull, "pull of the positives is missing"),
        (tangent, "right angles"),
        (lambda a, k, p, t: gradient(a, k, p, 0.5), "written into the function"),
        (lambda *args: gradient(*args, shift=False), "not finite.*overflows"),
        (lambda a, k, p, t: k @ a, r"shape \(6,\), but it should have shape \(4,\)"),
        (lambda *_: 1.0, "shape"),
        (lambda *_: np.ones(4), "not the gradient yet"),
        (lambda *_: "up", "not numbers"),
        (lambda *_: None, "returns nothing"),
    ],
)
def test_mistakes_in_the_gradient_are_named(wrong: Callable[..., object], hint: str) -> None:
    with pytest.raises(Hint, match=hint):
        check_gradient_by_hand(wrong)


def floor(anchor_labels: Tensor, key_labels: Tensor) -> Tensor:
    valid = anchor_labels[anchor_labels != 255]
    number = torch.tensor([float((key_labels == label).sum()) for label in valid])
    return number[number > 0].log().mean()


def per_class(anchor_labels: Tensor, key_labels: Tensor) -> float:
    classes = anchor_labels.unique()
    return float(torch.stack([(key_labels == c).sum().float().log() for c in classes]).mean())


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda a, k: floor(a, k) / torch.tensor(2.0).log(), "base"),
        (lambda a, k: -floor(a, k), "sign"),
        (lambda a, k: torch.tensor(float(len(k))).log(), "all keys"),
        (per_class, "mean over classes"),
        (lambda a, k: (a[:, None] == k[None]).sum(1).float().mean().log(), "logarithm of a mean"),
        (lambda a, k: (a[:, None] == k[None]).sum(1).float().log().mean(), "255|without"),
        (lambda a, k: 0.0, "not the floor"),
    ],
)
def test_mistakes_in_the_floor_are_named(
    wrong: Callable[[Tensor, Tensor], object], hint: str
) -> None:
    check_loss_floor(floor)
    with pytest.raises(Hint, match=hint):
        check_loss_floor(wrong)


def streamed(tiles: Iterable[Tensor], *, rescale: bool = True, shift: bool = True) -> Tensor:
    largest, total = None, 0.0
    for tile in tiles:
        here = tile.amax(1) if shift else torch.zeros(len(tile), dtype=tile.dtype)
        new = here if largest is None else torch.maximum(largest, here)
        if largest is not None and rescale:
            total = total * (largest - new).exp()
        total = total + (tile - new[:, None]).exp().sum(1)
        largest = new
    return largest + total.log()


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda tiles: streamed(tiles, rescale=False), "larger maximum"),
        (lambda tiles: streamed(tiles, shift=False), "overflow"),
        (lambda tiles: [torch.logsumexp(t, 1) for t in tiles][-1], "last tile"),
        (lambda tiles: torch.logsumexp(torch.cat([*tiles], 1), 1), "tiles are kept"),
        (lambda tiles: torch.logsumexp(next(iter(tiles)), 0), "shape"),
    ],
)
def test_mistakes_in_streaming_are_named(wrong: Callable[..., Tensor], hint: str) -> None:
    check_streaming_logsumexp(streamed)
    with pytest.raises(Hint, match=hint):
        check_streaming_logsumexp(wrong)


def test_tiles_are_the_columns_in_order() -> None:
    scores = torch.arange(14.0).reshape(2, 7)
    tiles = WatchedTiles(scores, 3)
    kept = list(tiles)
    assert [tile.shape[1] for tile in kept] == [3, 3, 1]
    assert torch.equal(torch.cat(kept, 1), scores)
    assert tiles.most_alive == 3
