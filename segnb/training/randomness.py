"""Randomness as a function of the step, so that a resumed run needs no random state restored.

Every random choice of a step (which images, how they are cropped and distorted, dropout) comes
from a seed made of the run's seed, the stage, the step and the process. Nothing carries over
from the step before; a run that was killed and one that was not draw the same numbers.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that any change in any part changes altogether."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def step_generator(*parts: int | str) -> torch.Generator:
    """A CPU generator for one step; torch's global one (dropout) is seeded alike."""
    seed = derive_seed(*parts)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def batch_indices(count: int, *, step: int, batch: int, seed: int) -> Tensor:
    """Which of ``count`` images make up the batch of a step: epochs of random order, no gaps.

    Args:
        count: Images in the set.
        step: Step, from 0.
        batch: Images a step; may be more than ``count``, then a step spans several epochs.
        seed: Seed of the order.

    Returns:
        Int64 ``[batch]`` of indices below ``count``.
    """
    start, stop = step * batch, (step + 1) * batch
    orders = [
        torch.randperm(count, generator=torch.Generator().manual_seed(derive_seed(seed, epoch)))
        for epoch in range(start // count, (stop - 1) // count + 1)
    ]
    first = start // count * count
    return torch.cat(orders)[start - first : stop - first]
