"""Learning rates as a function of the step: warm-up, then poly or cosine decay to zero."""

from __future__ import annotations

import math

from segnb.recipe import Stage

#: Power of the poly schedule, the usual value since DeepLab.
POLY_POWER = 0.9


def learning_rate(stage: Stage, step: int) -> float:
    """Learning rate of a step, counted from 0.

    It rises linearly to ``stage.lr`` over ``stage.warmup`` steps, then decays over the rest.
    """
    if step < stage.warmup:
        return stage.lr * (step + 1) / stage.warmup
    progress = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    if stage.schedule == "poly":
        return float(stage.lr * (1 - progress) ** POLY_POWER)
    return stage.lr * 0.5 * (1 + math.cos(math.pi * progress))
