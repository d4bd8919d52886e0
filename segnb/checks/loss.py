"""Checkers of the notebook on the contrastive loss."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator

import torch
from torch import Tensor

from segnb.checks import Answer, Hint, call, need, need_close, numbers
from segnb.datasets.base import IGNORE
from segnb.losses import paper

_TEMPERATURE = 0.5


def check_within_image_loss(answer: Answer) -> None:
    """``answer(anchors [N, D], keys [M, D], anchor_labels [N], key_labels [M], temperature)``.

    The within-image loss of the paper, a scalar: pixels labelled 255 are neither anchor nor key,
    and anchors without a positive are left out of the mean.
    """
    anchors, keys = _unit(7, 1), _unit(9, 2)
    plain = torch.tensor([0, 0, 1, 1, 1, 2, 2]), torch.tensor([0, 1, 1, 2, 2, 2, 0, 1, 2])
    value = _scalar(call(answer, anchors, keys, *plain, _TEMPERATURE))
    if not _close(value, _wanted(anchors, keys, *plain, _TEMPERATURE)):
        raise Hint(_what_differs(value, anchors, keys, *plain))

    ignored = (
        torch.tensor([0, IGNORE, 1, 1, 1, 2, IGNORE]),
        torch.tensor([0, 1, IGNORE, 2, 2, 2, 0, 1, IGNORE]),
    )
    need_close(
        _scalar(call(answer, anchors, keys, *ignored, _TEMPERATURE)),
        _wanted(anchors, keys, *ignored, _TEMPERATURE),
        "with every pixel labelled it is right, but pixels labelled 255 slip in. They must not be "
        "anchors, not be positives of one another, and not stand in a denominator either.",
    )

    lonely = torch.tensor([0, 0, 3, 1, 1, 2, 2]), plain[1]
    need_close(
        _scalar(call(answer, anchors, keys, *lonely, _TEMPERATURE)),
        _wanted(anchors, keys, *lonely, _TEMPERATURE),
        "one anchor's class has no key at all. Nothing can be asked of such an anchor: it counts "
        "neither above nor below the fraction bar of the mean.",
    )

    small = 0.004
    need_close(
        _scalar(call(answer, anchors, keys, *plain, small)),
        _wanted(anchors, keys, *plain, small),
        f"at temperature {small} the exponential of a score leaves the range of float32. "
        "Is there a function that takes the logarithm of a sum of exponentials in one go?",
    )


def check_loss_floor(answer: Answer) -> None:
    """``answer(anchor_labels [N], key_labels [M])``: the least value of the within-image loss."""
    anchor_labels = torch.tensor([0, 0, 0, 1, 2])
    key_labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    value = _scalar(call(answer, anchor_labels, key_labels))
    wanted = math.log(4) * 3 / 5 + math.log(2) * 2 / 5
    need(
        not _close(value, math.log((3 * 4 + 2 + 2) / 5)),
        "this is the logarithm of a mean. Each anchor has a floor of its own; the loss is the mean "
        "of those.",
    )
    need(
        not _close(value, wanted / math.log(2)) and not _close(value, wanted / math.log(10)),
        "right but for the base: the loss is made with natural logarithms.",
    )
    need(
        not _close(value, math.log(8)),
        "this counts all keys. At the floor the negatives are gone from the denominator: which "
        "keys are left in it?",
    )
    need(
        not _close(value, (math.log(4) + 2 * math.log(2)) / 3),
        "this is a mean over classes. The loss is a mean over anchors, so a large class weighs "
        "more.",
    )
    need(
        not _close(value, -wanted),
        "right but for the sign: -log(1/n) is log(n), and a loss falls to its floor.",
    )
    need_close(
        value,
        wanted,
        "not the floor yet. If an anchor's positives all score the same and its negatives nothing, "
        "what is exp(score) over the denominator?",
    )
    need_close(
        _scalar(
            call(answer, torch.tensor([0, IGNORE, 1]), torch.tensor([0, 0, IGNORE, 1, IGNORE]))
        ),
        math.log(2) / 2,
        "pixels labelled 255 are neither anchors nor keys.",
    )
    need_close(
        _scalar(call(answer, torch.tensor([0, 5]), torch.tensor([0, 0, 0]))),
        math.log(3),
        "an anchor without a positive is left out of the mean.",
    )


def check_streaming_logsumexp(answer: Answer) -> None:
    """``answer(tiles)``: logsumexp of each row of a matrix that comes in tiles of columns.

    The tiles ``[N, m]`` come one after another, and are not to be kept.
    """
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(5, 23, generator=generator, dtype=torch.float64)
    one = call(answer, Tiles(scores, 23))
    need_close(
        one,
        torch.logsumexp(scores, 1),
        "with a single tile it should be the plain logsumexp of each row, one number a row.",
    )
    several = call(answer, Tiles(scores, 6))
    last = torch.logsumexp(scores[:, 18:], 1)
    need(
        not _close(several, last),
        "only the last tile is in the result: what is carried from one tile to the next?",
    )
    need_close(
        several,
        torch.logsumexp(scores, 1),
        "with several tiles the sum is off. When a tile brings a larger maximum, the sum so far "
        "was made with the old one: by what factor does it change? (The last tile may be narrower "
        "than the others.)",
    )
    for order, what in ((scores.sort(1).values, "rise"), (-(-scores).sort(1).values, "fall")):
        need_close(
            call(answer, Tiles(order, 4)),
            torch.logsumexp(order, 1),
            f"wrong where the scores {what} from tile to tile. Compare old maximum and new.",
        )
    large = 1000 + 10 * scores.float()
    need_close(
        call(answer, Tiles(large, 6)),
        torch.logsumexp(large, 1),
        "scores around 1000, as at a very small temperature, overflow. Take the maximum off "
        "before the exponential and put it back after the logarithm.",
    )
    tiles = Tiles(scores, 2)
    answer(tiles)
    need(
        tiles.most_alive <= 2,
        "the values are right, but all tiles are kept until the end, and together they are the "
        "matrix that does not fit. Only two numbers a row need to be carried along.",
    )


class Tiles:
    """The columns of a matrix, a few at a time; it notices when a reader keeps them.

    Args:
        scores: ``[N, M]``.
        width: Columns of a tile; the last may have fewer.

    Attributes:
        most_alive: Most tiles that were alive at once while they were read.
    """

    def __init__(self, scores: Tensor, width: int) -> None:
        self._scores = scores
        self._width = width
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


def _wanted(
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


def _what_differs(
    value: float, anchors: Tensor, keys: Tensor, anchor_labels: Tensor, key_labels: Tensor
) -> str:
    """Compare a wrong value with well-known ways to be wrong."""
    same = anchor_labels[:, None] == key_labels[None, :]
    count = same.sum(1)

    def loss(scores: Tensor, denominator: Tensor) -> Tensor:
        return -((scores - denominator.log()[:, None]) * same).sum(1) / count

    scores = anchors @ keys.T / _TEMPERATURE
    raised = scores.exp()
    each = loss(scores, raised.sum(1))
    official = -(scores - (raised + (raised * ~same).sum(1, keepdim=True)).log()) * same
    mistakes = [
        (-each.mean(), "right but for the sign: a loss is to be made small."),
        (each.sum(), "this is a sum over the anchors: divide by how many there are."),
        ((each * count).mean(), "the positives of an anchor are added up: divide by |P_p|."),
        ((each * count).sum(), "nothing is divided: neither by |P_p| nor by the anchors."),
        ((each * count).sum() / count.sum(), "this is a mean over pairs. Take the mean over an "
         "anchor's positives first, then over the anchors."),
        (loss(anchors @ keys.T, (anchors @ keys.T).exp().sum(1)).mean(),
         "the temperature does nothing: scores are divided by it."),
        (loss(anchors @ keys.T * _TEMPERATURE, (anchors @ keys.T * _TEMPERATURE).exp().sum(1))
         .mean(), "scores are divided by the temperature, not multiplied."),
        (-((raised * same).sum(1) / raised.sum(1)).log().mean(),
         "this is the logarithm of a sum over positives. The paper takes the logarithm of each "
         "pair, then the mean."),
        (-((raised * same).sum(1) / count / raised.sum(1)).log().mean(),
         "this is the logarithm of a mean. The paper takes the mean of logarithms."),
        (loss(scores, (raised * ~same).sum(1)).mean(),
         "the denominator holds the negatives alone. In the paper it runs over all keys."),
        ((official.sum(1) / count).mean(), "the denominator of a pair leaves the other positives "
         "out. So does the official code; the paper's runs over all keys."),
    ]  # fmt: skip
    for wrong, hint in mistakes:
        if _close(value, wrong):
            return hint
    return (
        "the value is not that of the paper's form yet. Check in this order: the scores [N, M], "
        "the logarithm of each row's sum of exponentials, the mean over each anchor's positives, "
        "the mean over the anchors."
    )


def _scalar(value: object) -> float:
    found = numbers(value)
    need(found.shape == (), f"the result has shape {found.shape}; it should be a single number.")
    return float(found)


def _close(value: object, wanted: object) -> bool:
    found, right = numbers(value), numbers(wanted)
    return found.shape == right.shape and bool((abs(found - right) < 1e-4).all())
