"""Runs for a borrowed GPU: full resolution and ResNet-50, the most informative first.

A GPU is often lent in short slots. Every run here fits on one GPU, and an unfinished run continues
from its checkpoint in the next slot. Repeating the same command works through the list.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from segnb.experiments.sweep import grid, remaining, sweep
from segnb.recipe import DatasetName, Recipe, Tier, preset
from segnb.results.ledger import RESULTS
from segnb.training import TrainingStopped
from segnb.words import counted

#: Data set and label fraction, the most informative first. Each is a whole comparison: three
#: methods with three seeds.
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
    **options: Any,
) -> int:
    """Work through the list until the time is up.

    The run in progress then stops with a checkpoint. A recipe that fails, for example because its
    data set is missing, is reported, and the others continue.

    Args:
        minutes: Time limit for training. Leave part of a slot for loading and evaluation.
        tier: See :func:`recipes`.
        say: Called with each line of progress.
        **options: Passed on to :func:`segnb.experiments.sweep.sweep`.

    Returns:
        How many recipes are left.
    """
    end = time.monotonic() + 60 * minutes
    wanted = recipes(tier)
    try:
        sweep(wanted, should_stop=lambda: time.monotonic() > end, say=say, **options)
    except TrainingStopped as stopped:
        say(f"time is up: {stopped}")
    results, root = options.get("results", RESULTS), options.get("root")
    left = len(remaining(wanted, results, root=root))
    if left:
        say(f"{left} of {counted(len(wanted), 'recipe')} left; repeat the command to continue")
    else:
        say(f"all {len(wanted)} recipes are in the ledger")
    return left
