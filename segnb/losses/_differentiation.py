"""What the hand-made gradients allow."""

from __future__ import annotations

import torch


def once_differentiable() -> None:
    """Raise RuntimeError in a backward pass that is itself to be differentiated."""
    # The engine records a backward pass only when someone wants to differentiate it again.
    if torch.is_grad_enabled():
        raise RuntimeError(
            "this back end of the contrastive loss cannot be differentiated twice; "
            "use backend='reference' for second derivatives"
        )
