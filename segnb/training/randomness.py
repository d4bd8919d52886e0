"""Randomness as a function of the step, so that resuming needs no saved random state.

Every random choice of a step (its images, their crops and distortion, dropout) depends on a seed
made from the run's seed, the stage, the step and the process. Nothing carries over from the step
before, so an interrupted run draws the same numbers as an uninterrupted one.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that is completely different for any change in any part."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def step_generator(*parts: int | str) -> torch.Generator:
    """A CPU generator for one step; torch's global one (dropout) gets the same seed."""
    seed = derive_seed(*parts)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def batch_indices(count: int, *, step: int, batch: int, seed: int) -> Tensor:
    """Indices of the images in the batch of a step, from an endless sequence of shuffled epochs.

    Args:
        count: Images in the set.
        step: Step, from 0.
        batch: Images per step; if more than ``count``, a step spans several epochs.
        seed: Seed of the order.

    Returns:
        int64 ``[batch]``, indices below ``count``.
    """
    start, stop = step * batch, (step + 1) * batch
    orders = [
        torch.randperm(count, generator=torch.Generator().manual_seed(derive_seed(seed, epoch)))
        for epoch in range(start // count, (stop - 1) // count + 1)
    ]
    first = start // count * count
    return torch.cat(orders)[start - first : stop - first]
