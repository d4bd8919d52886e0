"""The environment of a run: device, precision, processes, and listeners for its progress."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, InitProcessGroupKwargs
from torch import nn

from segnb.device import ResolvedPrecision, choose_precision, memory_format
from segnb.errors import ConfigError
from segnb.recipe import Precision
from segnb.training.log import LogRow, TrainingLog

#: Seconds between checkpoints.
CHECKPOINT_SECONDS = 60.0

#: How long processes wait for each other. The first one measures and evaluates alone; by default,
#: NCCL would treat it as lost after ten minutes.
PATIENCE = datetime.timedelta(hours=6)


@dataclass(frozen=True, kw_only=True)
class Session:
    """Where and how a run trains and evaluates; ``Session()`` uses the best device here.

    Folder, progress bar and listeners never change a result. Precision and the number of processes
    do: each process draws its own views, and normalises and pairs only its own images. Only the
    batch loss uses the pixels of all processes.

    Attributes:
        accelerator: Device, precision and processes; see :func:`make_accelerator`.
        folder: Folder for checkpoints and the log; ``None`` keeps nothing.
        progress_bar: Show a bar.
        on_log: Called with every log row, for live plots.
        should_stop: Called after every step; returning true ends training with a checkpoint.
        checkpoint_seconds: Minimum time between checkpoints.
        device: The device to compute on.
        precision: The arithmetic of the forward pass.
    """

    accelerator: Accelerator = field(default_factory=lambda: make_accelerator())
    folder: Path | None = None
    progress_bar: bool = True
    on_log: Callable[[LogRow], None] | None = None
    should_stop: Callable[[], bool] | None = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    device: torch.device = field(init=False)
    precision: ResolvedPrecision = field(init=False)

    def __post_init__(self) -> None:
        # Accelerators share a state that the next one changes, so copy what this session needs.
        names = {"no": "fp32", "bf16": "bf16", "fp16": "fp16"}
        object.__setattr__(self, "device", self.accelerator.device)
        object.__setattr__(self, "precision", names[self.accelerator.mixed_precision])

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return bool(self.accelerator.is_main_process)

    @property
    def autocast(self) -> torch.autocast:
        """A context that evaluates in the precision of training."""
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.precision != "fp32")

    def place(self, network: nn.Module) -> None:
        """Move a network to the device, in the order in memory that trains fastest."""
        order = memory_format(self.precision, self.device)
        network.to(device=self.device, memory_format=order)  # type: ignore[call-overload]

    def log(self) -> TrainingLog:
        """The run's log; only the main process writes to it."""
        return TrainingLog(self.folder / "log.jsonl" if self.folder and self.is_main else None)


def make_accelerator(precision: Precision = "auto", *, cpu: bool = False) -> Accelerator:
    """An accelerator whose precision the device supports in hardware.

    Raises:
        ConfigError: The device does not support the requested precision, or torch's default type
            is not float32.
    """
    if torch.get_default_dtype() != torch.float32:
        raise ConfigError(
            f"torch's default type is {torch.get_default_dtype()}, and networks here are float32; "
            "call torch.set_default_dtype(torch.float32) first"
        )
    # Accelerate keeps one device and one precision per process, but a notebook trains with
    # several: reset its state. Connected processes stay connected.
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    AcceleratorState._reset_state(reset_partial_state=alone)
    patience = InitProcessGroupKwargs(timeout=PATIENCE)
    device = Accelerator(mixed_precision="no", cpu=cpu, kwargs_handlers=[patience]).device
    chosen = choose_precision(precision, device)
    AcceleratorState._reset_state()
    return Accelerator(
        mixed_precision={"fp32": "no"}.get(chosen, chosen),
        cpu=cpu,
        # Given as a plug-in, because the environment would overrule a number: the recipe alone
        # decides a result.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )
