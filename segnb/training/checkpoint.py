"""Checkpoints: written whole or not at all, and loaded without running code from the file."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segnb.errors import DataError, SegnbError
from segnb.files import write_atomic


class Checkpoint:
    """Everything a stage needs to continue after an interruption.

    The random state, the data order (:mod:`segnb.training.randomness`) and the learning rate are
    functions of the step, so that storing the step is enough.

    Args:
        path: The file; ``None`` stores nothing.
        stage: Name of the stage.
        recipe: Hash of the recipe; a file of another recipe or stage is rejected.
        network: The network.
        optimizer: Its optimiser.
        scaler: The loss scaler of fp16 training.
        every: Minimum seconds between two saves; see :meth:`save_if_due`.
        writes: Whether this process writes; all of them read.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        stage: str,
        recipe: str,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None,
        every: float = 0.0,
        writes: bool = True,
    ) -> None:
        self.path, self.stage, self.key = path, stage, f"{recipe}/{stage}"
        self.every, self.writes = every, writes
        self.network, self.optimizer, self.scaler = network, optimizer, scaler
        self._before, self._started = 0.0, time.perf_counter()
        self._saved_at = self._started

    @property
    def seconds(self) -> float:
        """Training time of the stage so far, including the time before interruptions."""
        return self._before + time.perf_counter() - self._started

    def resume(self) -> int:
        """Restore what :meth:`save` wrote; returns the number of steps done, 0 without a file.

        Raises:
            DataError: The file can't be read, or belongs to another recipe or stage.
        """
        step = 0
        if self.path is not None and self.path.exists():
            content = _read(self.path, self.key)
            try:
                self.network.load_state_dict(content["network"])
                self.optimizer.load_state_dict(content["optimizer"])
                if self.scaler is not None and content["scaler"]:
                    self.scaler.load_state_dict(content["scaler"])
                step, self._before = content["step"], content["seconds"]
            except (KeyError, RuntimeError, ValueError) as error:
                raise DataError(
                    f"checkpoint {self.path} does not fit this network ({error}); it may be from "
                    "another version: delete it to restart the stage"
                ) from error
        self._started = self._saved_at = time.perf_counter()
        return step

    def save(self, step: int) -> None:
        """Write the state after ``step`` steps.

        Raises:
            SegnbError: The weights are not finite; an older file is kept.
            OSError: The file can't be written; an older file is kept.
        """
        if self.path is None or not self.writes:
            return
        state = [v for v in self.network.state_dict().values() if v.is_floating_point()]
        if not torch.stack([value.isfinite().all() for value in state]).all():
            raise self.diverged("weights are not finite", step)
        content = {
            "key": self.key,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "step": step,
            "seconds": self.seconds,
        }
        # To memory first: torch's own writer hides that a disk is full.
        packed = io.BytesIO()
        torch.save(content, packed)
        write_atomic(self.path, packed.getvalue())

    def save_if_due(self, step: int) -> None:
        """:meth:`save`, unless the last one is too recent."""
        if time.perf_counter() - self._saved_at > self.every:
            self.save(step)
            self._saved_at = time.perf_counter()

    def diverged(self, what: str, step: int) -> SegnbError:
        """The error of a training that can't recover, with advice."""
        rate = self.optimizer.param_groups[0]["lr"]
        kept = self.path is not None and self.path.exists()
        return SegnbError(
            f"the {what} at step {step} of {self.stage} (learning rate {rate:.4g}). "
            "Training can't recover from this: lower the learning rate, lengthen the warm-up, or "
            "use fp32 (precision='fp32')."
            + (f" The last good state is in {self.path}." if kept else "")
        )


def _read(path: Path, key: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(
            f"checkpoint {path} can't be read ({error}); delete it to restart the stage"
        ) from error
    found = content.get("key") if isinstance(content, dict) else None
    if found != key:
        raise DataError(
            f"checkpoint {path} belongs to {found!r}, not to {key!r}; "
            "delete it or choose another folder"
        )
    return content


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
        DataError: The file is missing, damaged, or from another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        network.load_state_dict(load_file(path))
    except FileNotFoundError as error:
        raise DataError(f"weights {path} are missing; train first") from error
    except (SafetensorError, RuntimeError) as error:
        raise DataError(f"weights {path} do not fit this network: {error}") from error
