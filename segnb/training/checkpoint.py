"""Checkpoints that are whole or not there, loaded without running code from the file."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segnb.errors import DataError
from segnb.files import write_atomic


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a stage has come.

    Attributes:
        step: Steps done.
        seconds: Time they took, over all sessions.
    """

    step: int
    seconds: float


def save_checkpoint(
    path: Path,
    *,
    key: str,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    progress: Progress,
) -> None:
    """Write all a stage needs to go on (``scaler``: the loss scale of fp16 training).

    The random state and the data order are functions of the step
    (:mod:`segnb.training.randomness`), and so is the learning rate: the step holds all three.

    Raises:
        OSError: The file can't be written; an older one stays as it was.
    """
    content = {
        "key": key,
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "step": progress.step,
        "seconds": progress.seconds,
    }
    # To memory first: on a full disk torch's own writer hides that it is full.
    packed = io.BytesIO()
    torch.save(content, packed)
    write_atomic(path, packed.getvalue())


def load_checkpoint(
    path: Path,
    *,
    key: str,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
) -> Progress | None:
    """Restore what :func:`save_checkpoint` wrote; ``None`` when there is nothing to restore.

    Raises:
        DataError: The file can't be read, or belongs to another recipe or stage.
    """
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(
            f"checkpoint {path} can't be read ({error}); delete it to start the stage afresh"
        ) from error
    found = content.get("key") if isinstance(content, dict) else None
    if found != key:
        raise DataError(
            f"checkpoint {path} belongs to {found!r}, not to {key!r}; "
            "delete it or choose another folder"
        )
    try:
        network.load_state_dict(content["network"])
        optimizer.load_state_dict(content["optimizer"])
        if scaler is not None and content["scaler"]:
            scaler.load_state_dict(content["scaler"])
        return Progress(step=content["step"], seconds=content["seconds"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise DataError(
            f"checkpoint {path} does not fit this network ({error}); it may come from another "
            "version: delete it to start the stage afresh"
        ) from error


def save_weights(path: Path, network: nn.Module) -> None:
    """Write weights as safetensors."""
    from safetensors.torch import save

    state: dict[str, Tensor] = {
        name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()
    }
    write_atomic(path, save(state))


def load_weights(path: Path, network: nn.Module) -> None:
    """Load what :func:`save_weights` wrote.

    Raises:
        DataError: The file is missing, broken, or made by another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        network.load_state_dict(load_file(path))
    except FileNotFoundError as error:
        raise DataError(f"weights {path} are not there; train first") from error
    except (SafetensorError, RuntimeError) as error:
        raise DataError(f"weights {path} do not fit this network: {error}") from error
