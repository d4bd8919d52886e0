"""What to run when a GPU is at hand: full resolution and ResNet-50, the most telling runs first.

A card is often lent in short slots. Every run here fits one, and one that does not finish goes on
from its checkpoint in the next: the same command, given again and again, works through the list.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from segnb.experiments.sweep import grid, remaining, sweep
from segnb.recipe import DatasetName, Recipe, Tier, preset
from segnb.results.ledger import RESULTS
from segnb.training import TrainingStopped

#: Data set and share of the labels, the most telling first. Each is a whole comparison: three
#: methods, three seeds.
COMPARISONS: tuple[tuple[DatasetName, float], ...] = (
    ("camvid", 1 / 8),
    ("camvid", 1 / 32),
    ("voc-animals", 1 / 8),
    ("camvid", 1.0),
    ("voc-animals", 1.0),
)


def recipes(tier: Tier = "colab") -> list[Recipe]:
    """The list, in order.

    Args:
        tier: ``colab`` is the campaign: CamVid at 360x480, VOC at 320x320, ResNet-50. ``smoke``
            is its rehearsal at toy size.
    """
    found: list[Recipe] = []
    for dataset, fraction in COMPARISONS:
        base = preset(dataset, tier).replace(fraction=fraction, form="official")
        found += grid(base, method=["ce", "contrastive", "ce_long"], seed=[0, 1, 2])
    return found


def campaign(
    *,
    minutes: float,
    tier: Tier = "colab",
    say: Callable[[str], None] = print,
    **places: Any,
) -> int:
    """Work through the list for so many minutes.

    A run that is under way when the time is up stops with a checkpoint. A recipe that fails, for
    example because its data set is not there, is reported, and the others go on.

    Args:
        minutes: Time to spend on training. Leave some of a slot for loading and evaluation.
        tier: See :func:`recipes`.
        say: Called with each line of progress.
        **places: Passed on to :func:`segnb.experiments.sweep.sweep`.

    Returns:
        How many recipes are left.
    """
    end = time.monotonic() + 60 * minutes
    wanted = recipes(tier)
    try:
        sweep(wanted, should_stop=lambda: time.monotonic() > end, say=say, **places)
    except TrainingStopped as stopped:
        say(f"time is up: {stopped}")
    left = len(remaining(wanted, places.get("results", RESULTS)))
    if left:
        say(f"{left} of {len(wanted)} recipes left; give the same command again to go on")
    else:
        say(f"all {len(wanted)} recipes are in the ledger")
    return left
