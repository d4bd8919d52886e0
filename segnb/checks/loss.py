"""Checkers of notebook 03: the contrastive loss, its gradient and floor, a streaming logsumexp."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segnb.checks import Answer, call, need, need_cases, need_close
from segnb.datasets.base import IGNORE
from segnb.losses import paper

Array = npt.NDArray[np.float64]

_TEMPERATURE = 0.5


def check_within_image_loss(answer: Answer) -> None:
    """``answer(anchors [N, D], keys [M, D], anchor_labels [N], key_labels [M], temperature)``.

    The within-image loss of the paper, a scalar: pixels labelled 255 are neither anchors nor keys,
    and anchors without a positive are left out of the mean.
    """
    anchors, keys = _unit(7, 1), _unit(9, 2)
    anchor_labels = torch.tensor([0, 0, 1, 1, 1, 2, 2])
    key_labels = torch.tensor([0, 1, 1, 2, 2, 2, 0, 1, 2])
    plain = (anchors, keys, anchor_labels, key_labels, _TEMPERATURE)
    need_close(
        call(answer, *plain),
        _within_image_loss(*plain),
        "the value is not that of the paper's form yet. Check in this order: the scores [N, M], "
        "the logarithm of each row's sum of exponentials, the mean over each anchor's positives, "
        "the mean over the anchors.",
        mistakes=_mistakes_in_the_loss(*plain[:-1]),
        tolerance=1e-5,  # a mean over pairs is close to the right value
    )
    void_anchors = torch.tensor([0, IGNORE, 1, 1, 1, 2, IGNORE])
    void_keys = torch.tensor([0, 1, IGNORE, 2, 2, 2, 0, 1, IGNORE])
    lonely = torch.tensor([0, 0, 3, 1, 1, 2, 2])
    small = 0.004
    for arguments, hint in (
        ((anchors, keys, void_anchors, void_keys, _TEMPERATURE),
         "it is right with every pixel labelled, but pixels labelled 255 slip in. They must not be "
         "anchors, nor positives of one another, nor part of a denominator."),
        ((anchors, keys, lonely, key_labels, _TEMPERATURE),
         "one anchor's class has no key at all. Such an anchor is left out of the mean: it counts "
         "neither in the sum nor in the number that the sum is divided by."),
        ((anchors, keys, anchor_labels, key_labels, small),
         f"at temperature {small} the exponential of a score leaves the range of float32. "
         "Is there a function that takes the logarithm of a sum of exponentials in one go?"),
    ):  # fmt: skip
        need_close(call(answer, *arguments), _within_image_loss(*arguments), hint)


def check_gradient_by_hand(answer: Answer) -> None:
    """``answer(anchor [D], keys [M, D], positive [M], temperature)``: the loss's gradient ``[D]``.

    The paper's loss of one anchor by that anchor, a free vector; numpy arrays.
    """
    anchor, keys = _unit(1, 4)[0].double().numpy(), _unit(6, 5).double().numpy()
    positive = np.array([True, False, False, True, True, False])
    right, mistakes = _gradients(anchor, keys, positive, _TEMPERATURE)
    need_close(
        call(answer, anchor, keys, positive, _TEMPERATURE),
        right,
        "not the gradient yet. It is a difference, divided by the temperature: the mean of all "
        "keys, each weighted by its share of the softmax, minus the plain mean of the positives.",
        mistakes=mistakes,
    )
    alone = np.arange(6) == 3
    small = 0.001
    cases = [
        ((anchor, keys, alone, 0.2), _gradients(anchor, keys, alone, 0.2)[0],
         "right for three positives at temperature 0.5, wrong for one at 0.2. Is a number written "
         "into the function that should come from its arguments?"),
        ((keys[1], keys, positive, small), _gradients(keys[1], keys, positive, small)[0],
         f"at temperature {small} the exponential of a score overflows. Subtract the largest score "
         "from all of them first: the shares stay the same."),
    ]  # fmt: skip
    need_cases(answer, cases)


def _gradients(
    anchor: Array, keys: Array, positive: npt.NDArray[np.bool_], temperature: float
) -> tuple[Array, list[tuple[Array, str]]]:
    """The gradient of an anchor's loss, and those that common mistakes give."""

    def mean(scores: Array) -> Array:
        """The keys' mean, weighted by the softmax of the scores."""
        weights = np.exp(scores - scores.max())
        weighted: Array = weights @ keys / weights.sum()
        return weighted

    cosines = keys @ anchor
    scores = cosines / temperature
    everyone, pull = mean(scores), keys[positive].mean(axis=0)
    right = (everyone - pull) / temperature
    return right, [
        (right * temperature, "right except for the factor 1 / temperature: the scores are divided "
         "by the temperature, and the chain rule brings that out."),
        (-right, "right except for the sign. This is the step that gradient descent takes; the "
         "gradient points the other way."),
        ((mean(np.where(positive, -np.inf, scores)) - pull) / temperature,
         "the positives are missing from the softmax's denominator. In the paper it runs over all "
         "keys."),
        ((everyone - keys[positive].sum(axis=0)) / temperature,
         "the positives are added up. The loss is a mean over the positives, and so is its "
         "gradient."),
        ((mean(cosines) - pull) / temperature,
         "the shares are a softmax of the cosines. Divide by the temperature first: they are a "
         "softmax of the scores."),
        (everyone / temperature, "the pull of the positives is missing: this is the gradient of "
         "the logarithm of the denominator alone."),
        (right - (right @ anchor) * anchor, "this is the part at right angles to the anchor. It is "
         "what the normalisation leaves; here the anchor is a free vector."),
    ]  # fmt: skip


def check_loss_floor(answer: Answer) -> None:
    """``answer(anchor_labels [N], key_labels [M])``: the least value of the within-image loss."""
    right = math.log(4) * 3 / 5 + math.log(2) * 2 / 5
    base = "right except for the base: the loss uses natural logarithms."
    mistakes = [
        (math.log((3 * 4 + 2 + 2) / 5), "this is the logarithm of a mean. Each anchor has a floor "
         "of its own; the loss is the mean of those."),
        (right / math.log(2), base),
        (right / math.log(10), base),
        (math.log(8), "this counts all keys. At the floor the negatives are gone from the "
         "denominator: which keys are left in it?"),
        ((math.log(4) + 2 * math.log(2)) / 3, "this is a mean over classes. The loss is a mean "
         "over anchors, so a large class has more weight."),
        (-right, "right except for the sign: -log(1/n) is log(n), and a loss falls to its floor."),
    ]  # fmt: skip
    need_close(
        call(answer, torch.tensor([0, 0, 0, 1, 2]), torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])),
        right,
        "not the floor yet. If an anchor's positives all have the same score and its negatives "
        "add nothing, what is exp(score) over the denominator?",
        mistakes=mistakes,
    )
    cases = [
        ((torch.tensor([0, IGNORE, 1]), torch.tensor([0, 0, IGNORE, 1, IGNORE])), math.log(2) / 2,
         "pixels labelled 255 are neither anchors nor keys."),
        ((torch.tensor([0, 5]), torch.tensor([0, 0, 0])), math.log(3),
         "an anchor without a positive is left out of the mean."),
    ]  # fmt: skip
    need_cases(answer, cases)


def check_streaming_logsumexp(answer: Answer) -> None:
    """``answer(tiles)``: logsumexp of each row of a matrix that comes in tiles of columns.

    The tiles ``[N, m]`` come one after another and must not be kept.
    """
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(5, 23, generator=generator, dtype=torch.float64)
    rising, falling = scores.sort(1).values, scores.sort(1, descending=True).values
    large = 1000 + 10 * scores.float()
    last_tile = torch.logsumexp(scores[:, 18:], 1)
    turn = "wrong where the scores {} from tile to tile. Compare the old and the new maximum."
    for matrix, width, hint in (
        (scores, 23, "with a single tile it should be the plain logsumexp of each row: one number "
         "a row."),
        (scores, 6, "with several tiles the sum is wrong. When a tile brings a larger maximum, the "
         "sum so far was computed with the old one: by what factor does it change? (The last tile "
         "may be narrower than the others.)"),
        (rising, 4, turn.format("rise")),
        (falling, 4, turn.format("fall")),
        (large, 6, "scores around 1000, as at a very small temperature, overflow. Subtract the "
         "maximum before the exponential and add it back after the logarithm."),
    ):  # fmt: skip
        need_close(
            call(answer, WatchedTiles(matrix, width)),
            torch.logsumexp(matrix, 1),
            hint,
            mistakes=[
                (last_tile, "only the last tile is in the result: what is carried from one tile to "
                 "the next?"),
            ],
        )  # fmt: skip
    tiles = WatchedTiles(scores, 2)
    answer(tiles)
    need(
        tiles.most_alive <= 2,
        "the values are right, but all tiles are kept until the end, and together they are the "
        "matrix that does not fit. Only two numbers a row need to be carried along.",
    )


class WatchedTiles:
    """The columns of a matrix, a few at a time; counts how many of them the reader keeps.

    Args:
        scores: ``[N, M]``.
        width: Columns per tile; the last may have fewer.

    Attributes:
        most_alive: Largest number of tiles alive at once during reading.
    """

    def __init__(self, scores: Tensor, width: int) -> None:
        self._scores, self._width = scores, width
        self.most_alive = 0

    def __iter__(self) -> Iterator[Tensor]:
        given: list[weakref.ref[Tensor]] = []
        for start in range(0, self._scores.shape[1], self._width):
            tile = self._scores[:, start : start + self._width].clone()
            given.append(weakref.ref(tile))
            self.most_alive = max(self.most_alive, sum(ref() is not None for ref in given))
            yield tile
            del tile


def _unit(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=1)


def _within_image_loss(
    anchors: Tensor, keys: Tensor, anchor_labels: Tensor, key_labels: Tensor, temperature: float
) -> Tensor:
    return paper.within_image_loss(
        anchors.double()[None],
        keys.double()[None],
        anchor_labels[None],
        key_labels[None],
        temperature=temperature,
        backend="plain",
    )


def _mistakes_in_the_loss(
    anchors: Tensor, keys: Tensor, anchor_labels: Tensor, key_labels: Tensor
) -> list[tuple[Tensor, str]]:
    same = anchor_labels[:, None] == key_labels[None, :]
    count = same.sum(1)

    def losses(scores: Tensor, summed: Tensor | bool = True) -> Tensor:
        """Each anchor's loss, its denominator summed over some of the keys."""
        denominator = (scores.exp() * summed).sum(1, keepdim=True)
        return -((scores - denominator.log()) * same).sum(1) / count

    cosines = anchors @ keys.T
    scores = cosines / _TEMPERATURE
    raised = scores.exp()
    each = losses(scores)
    official = -(scores - (raised + (raised * ~same).sum(1, keepdim=True)).log()) * same
    return [
        (-each.mean(), "right except for the sign: a loss is minimised."),
        (each.sum(), "this is a sum over the anchors: divide by how many there are."),
        ((each * count).mean(), "the positives of an anchor are added up: divide by |P_p|."),
        ((each * count).sum(), "nothing is divided: neither by |P_p| nor by the anchors."),
        ((each * count).sum() / count.sum(), "this is a mean over pairs. Take the mean over an "
         "anchor's positives first, then over the anchors."),
        (losses(cosines).mean(), "the temperature does nothing: scores are divided by it."),
        (losses(cosines * _TEMPERATURE).mean(),
         "scores are divided by the temperature, not multiplied."),
        (-((raised * same).sum(1) / raised.sum(1)).log().mean(),
         "this is the logarithm of a sum over positives. The paper takes the logarithm of each "
         "pair, then the mean."),
        (-((raised * same).sum(1) / count / raised.sum(1)).log().mean(),
         "this is the logarithm of a mean. The paper takes the mean of logarithms."),
        (losses(scores, ~same).mean(),
         "the denominator holds the negatives alone. In the paper it runs over all keys."),
        ((official.sum(1) / count).mean(), "the denominator of a pair leaves the other positives "
         "out. So does the official code; the paper's runs over all keys."),
    ]  # fmt: skip
