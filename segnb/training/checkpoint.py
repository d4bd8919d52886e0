"""Checkpoints that are whole or not there, loaded without running code from the file."""

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
    """All a stage needs to go on after an interruption.

    The random state and the data order are functions of the step
    (:mod:`segnb.training.randomness`), and so is the learning rate: the step holds all three.

    Args:
        path: The file; ``None`` keeps nothing.
        stage: Name of the stage.
        recipe: Hash of the recipe; the file of another recipe or stage is refused.
        network: The network.
        optimizer: Its optimiser.
        scaler: The loss scale of fp16 training.
        every: Least seconds between two files; see :meth:`save_if_due`.
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
        """Training time of the stage so far, that before interruptions included."""
        return self._before + time.perf_counter() - self._started

    def resume(self) -> int:
        """Restore what :meth:`save` wrote; the number of steps done, 0 where there is no file.

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
                    f"checkpoint {self.path} does not fit this network ({error}); it may come from "
                    "another version: delete it to start the stage afresh"
                ) from error
        self._started = self._saved_at = time.perf_counter()
        return step

    def save(self, step: int) -> None:
        """Write the state after ``step`` steps.

        Raises:
            SegnbError: The weights are not finite; an older file stays as it was.
            OSError: The file can't be written; an older one stays as it was.
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
        # To memory first: on a full disk torch's own writer hides that it is full.
        packed = io.BytesIO()
        torch.save(content, packed)
        write_atomic(self.path, packed.getvalue())

    def save_if_due(self, step: int) -> None:
        """:meth:`save`, unless the last one is too recent."""
        if time.perf_counter() - self._saved_at > self.every:
            self.save(step)
            self._saved_at = time.perf_counter()

    def diverged(self, what: str, step: int) -> SegnbError:
        """The error of a training that can't recover, with what to do."""
        rate = self.optimizer.param_groups[0]["lr"]
        kept = self.path is not None and self.path.exists()
        return SegnbError(
            f"the {what} at step {step} of {self.stage} (learning rate {rate:.4g}). "
            "Training can't recover from that: lower the learning rate, lengthen the warm-up, or "
            "use fp32 (precision='fp32')."
            + (f" The last good state is in {self.path}." if kept else "")
        )


def _read(path: Path, key: str) -> dict[str, Any]:
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
