"""Checkpoints: written whole or not at all, and loaded without running code from the file."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from segnb.errors import DataError, SegnbError
from segnb.files import write_atomic
from segnb.records import Amount, Count, UnfitError, check, read_bytes, zip_fault
from segnb.training.log import LogFields, LogRow, TrainingLog


class CheckpointFields(TypedDict):
    """What a checkpoint must have; earlier versions stored no ``rows``."""

    key: str
    network: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any] | None
    step: Count
    seconds: Amount


class StageRows(TypedDict):
    """The rows of the log that a checkpoint holds."""

    rows: list[LogFields]


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
        log: The run's log. A checkpoint holds its stage's rows too, and restores them.
        steps: The stage's steps; a checkpoint with more belongs to another.
        every: Minimum seconds between two saves; see :meth:`save_if_due`.
        writes: Whether this process writes; all of them read.

    Attributes:
        rows: The stage's rows of the log so far.
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
        log: TrainingLog | None = None,
        steps: int | None = None,
        every: float = 0.0,
        writes: bool = True,
    ) -> None:
        self.path, self.stage, self.key = path, stage, f"{recipe}/{stage}"
        self.every, self.writes = every, writes
        self.network, self.optimizer, self.scaler = network, optimizer, scaler
        self.log, self.steps = log or TrainingLog(None), steps
        self.rows: list[LogRow] = []
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
            content = _read(self.path, self.key, self.steps)
            try:
                self.network.load_state_dict(content["network"])
                self.optimizer.load_state_dict(content["optimizer"])
                if self.scaler is not None and content["scaler"]:
                    self.scaler.load_state_dict(content["scaler"])
            except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
                raise DataError(
                    f"checkpoint {self.path} does not fit this network ({_brief(error)}); it may "
                    f"be from another version: {_RESTART}"
                ) from error
            step, self._before = content["step"], content["seconds"]
            self.rows = content.get("rows") or [
                row for row in self.log.rows if row["stage"] == self.stage and row["step"] <= step
            ]
        self.log.resume(self.stage, self.rows)
        self._started = self._saved_at = time.perf_counter()
        return step

    def add(self, row: LogRow) -> None:
        """Add a row to the log, and to what the next checkpoint holds."""
        self.rows.append(row)
        self.log.append(row)

    def save(self, step: int) -> None:
        """Write the state after ``step`` steps.

        Raises:
            SegnbError: The weights are not finite; an older file is kept.
            OSError: The file can't be written; an older file is kept.
        """
        if self.path is None or not self.writes:
            return
        if not_finite(self.network.state_dict()):
            raise self.diverged("weights are not finite", step)
        self.log.sync()
        content = {
            "key": self.key,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "step": step,
            "seconds": self.seconds,
            "rows": self.rows,
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


_RESTART = "delete it to restart the stage"


def _read(path: Path, key: str, steps: int | None) -> dict[str, Any]:
    packed = read_bytes(path, remedy=_RESTART)
    fault = zip_fault(packed)
    if fault is not None:
        raise DataError(f"checkpoint {path} can't be read ({fault}); {_RESTART}")
    try:
        content: dict[str, Any] = torch.load(
            io.BytesIO(packed), map_location="cpu", weights_only=True
        )
    except Exception as error:
        raise DataError(f"checkpoint {path} can't be read ({_brief(error)}); {_RESTART}") from error
    found = content.get("key") if isinstance(content, dict) else None
    if found != key:
        raise DataError(
            f"checkpoint {path} belongs to {found!r}, not to {key!r}; "
            "delete it or choose another folder"
        )
    try:
        check(content, CheckpointFields)
        if "rows" in content:
            check(content, StageRows)
    except UnfitError as error:
        raise DataError(f"checkpoint {path}: {error}; {_RESTART}") from error
    if steps is not None and content["step"] > steps:
        raise DataError(
            f"checkpoint {path} is at step {content['step']} of a stage of {steps}; {_RESTART}"
        )
    if wrong := not_finite(content["network"]):
        raise DataError(f"checkpoint {path}: {wrong[0]} is not finite; {_RESTART}")
    return content


def _brief(error: Exception) -> str:
    """torch's message on one line of bearable length."""
    words = " ".join(str(error).split())
    return words if len(words) <= 160 else f"{words[:160]}…"


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity."""
    names = [name for name, value in state.items() if value.is_floating_point()]
    if not names:
        return []
    # One wait for the device instead of one for each tensor.
    good = torch.stack([state[name].isfinite().all() for name in names]).tolist()
    return [name for name, fine in zip(names, good, strict=True) if not fine]


#: The key of the checksum in the metadata of a file of weights.
_CHECKSUM = "sha256"


def save_weights(path: Path, network: nn.Module, **about: Any) -> None:
    """Write weights as safetensors, with a checksum.

    Args:
        path: The file.
        network: The network.
        **about: What to store with the weights: plain JSON values, which
            :func:`read_weights` returns.
    """
    from safetensors.torch import save

    state: dict[str, Tensor] = {
        name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()
    }
    known = {name: json.dumps(value, sort_keys=True) for name, value in sorted(about.items())}
    known[_CHECKSUM] = _digest(state, known)
    write_atomic(path, save(state, metadata=known))


def read_weights(path: Path, *, remedy: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file of weights, and what was stored with them.

    Files of earlier versions have no checksum, and nothing stored with them.

    Args:
        path: The file.
        remedy: What to do about a wrong file, as the end of a sentence.

    Raises:
        DataError: The file is missing or damaged, its checksum is off, or a weight is not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    packed = read_bytes(path, remedy=remedy)
    try:
        state = load(packed)
        length = int.from_bytes(packed[:8], "little")
        known = json.loads(packed[8 : 8 + length]).get("__metadata__") or {}
        about = {name: json.loads(value) for name, value in known.items() if name != _CHECKSUM}
    except (SafetensorError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise DataError(f"weights {path} are cut or damaged ({error}); {remedy}") from error
    if known and known.pop(_CHECKSUM, None) != _digest(state, known):
        raise DataError(f"weights {path} are damaged: their checksum is off; {remedy}")
    if wrong := not_finite(state):
        raise DataError(f"weights {path} are of no use: {wrong[0]} is not finite; {remedy}")
    return state, about


def load_weights(path: Path, network: nn.Module, *, remedy: str = "train first") -> dict[str, Any]:
    """Load what :func:`save_weights` wrote; returns what was stored with the weights.

    Raises:
        DataError: The file is missing, damaged, not finite, or from another network.
    """
    state, about = read_weights(path, remedy=remedy)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise DataError(
            f"weights {path} do not fit this network ({_brief(error)}); {remedy}"
        ) from error
    return about


def _digest(state: Mapping[str, Tensor], known: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    for name, value in sorted(state.items()):
        digest.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
