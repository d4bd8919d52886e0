"""The loop that both stages share: steps, learning rate, log, checkpoints, interruptions."""

from __future__ import annotations

import contextlib
import datetime
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn
from tqdm.auto import tqdm

from segnb.device import ResolvedPrecision, choose_precision
from segnb.errors import ConfigError, SegnbError
from segnb.models import SegmentationNetwork
from segnb.recipe import Precision, Recipe, Stage
from segnb.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from segnb.training.log import LogRow, TrainingLog
from segnb.training.randomness import step_generator
from segnb.training.schedule import learning_rate

#: Steps between log rows. Reading the loss waits for the device, so not at every step.
LOG_EVERY = 10

#: Seconds between checkpoints.
CHECKPOINT_SECONDS = 60.0

#: How long processes wait for each other: the first one measures and evaluates alone, and by
#: default NCCL takes the others for lost after ten minutes.
PATIENCE = datetime.timedelta(hours=6)

#: ``compute_loss(network, step, generator) -> scalar``: what a stage does with one step.
ComputeLoss = Callable[[nn.Module, int, torch.Generator], Tensor]


class TrainingStopped(SegnbError):
    """Training was asked to stop; the checkpoint holds all that was done."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """Where and how a run trains; nothing in here changes its result.

    Attributes:
        accelerator: Device, precision and processes.
        folder: Where checkpoints and the log go; ``None`` keeps nothing.
        progress_bar: Show a bar.
        on_log: Called with every log row, for live plots.
        should_stop: Asked after every step; true ends training with a checkpoint.
        checkpoint_seconds: Least time between checkpoints.
    """

    accelerator: Accelerator
    folder: Path | None = None
    progress_bar: bool = True
    on_log: Callable[[LogRow], None] | None = None
    should_stop: Callable[[], bool] | None = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return bool(self.accelerator.is_main_process)

    @property
    def precision(self) -> ResolvedPrecision:
        """The arithmetic of the forward pass."""
        names: dict[str, ResolvedPrecision] = {"no": "fp32", "bf16": "bf16", "fp16": "fp16"}
        return names[self.accelerator.mixed_precision]

    @property
    def autocast(self) -> torch.autocast:
        """A context for evaluation in the precision of training."""
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(
            self.accelerator.device.type, dtype=dtype, enabled=self.precision != "fp32"
        )

    def log(self) -> TrainingLog:
        """The run's log; only the main process writes to it."""
        return TrainingLog(self.folder / "log.jsonl" if self.folder and self.is_main else None)


def make_accelerator(precision: Precision = "auto", *, cpu: bool = False) -> Accelerator:
    """An accelerator with the precision that the device truly has.

    Raises:
        ConfigError: The device does not have the precision that is asked for.
    """
    # Accelerate keeps one device and one precision for the life of the process; a notebook trains
    # with several. Processes that have found each other stay together.
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    AcceleratorState._reset_state(reset_partial_state=alone)
    patience = InitProcessGroupKwargs(timeout=PATIENCE)
    device = Accelerator(mixed_precision="no", cpu=cpu, kwargs_handlers=[patience]).device
    chosen = choose_precision(precision, device)
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision={"fp32": "no"}.get(chosen, chosen), cpu=cpu)


def train_stage(
    network: SegmentationNetwork,
    compute_loss: ComputeLoss,
    *,
    name: str,
    stage: Stage,
    recipe: Recipe,
    session: Session,
) -> list[LogRow]:
    """Train ``network`` in place with SGD for ``stage.steps`` steps.

    A checkpoint in the session's folder is picked up where it stopped. Ctrl-C, a stop asked for
    and the loop's own end leave one.

    Args:
        network: The network, its head attached.
        compute_loss: The loss of one step, on this process's share of the batch.
        name: The stage's name, in the log and the checkpoint's file name.
        stage: Steps, rate and schedule.
        recipe: Seeds the steps and marks the checkpoint.
        session: Device, folder and listeners.

    Returns:
        The log rows of this stage.

    Raises:
        ConfigError: Too few images a process for BatchNorm.
        DataError: The checkpoint can't be used.
        SegnbError: The loss or the weights are not finite; the last checkpoint stays as it was.
        TrainingStopped: ``session.should_stop`` said so.
    """
    accelerator = session.accelerator
    check_batch(stage, accelerator.num_processes)
    # Channels last is how convolutions want their maps, in bf16 most of all.
    network.to(device=accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(
        trained, lr=stage.lr, momentum=stage.momentum, weight_decay=stage.weight_decay
    )
    path = session.folder / f"{name}.pt" if session.folder else None
    key = f"{recipe.hash}/{name}"
    done = Progress(step=0, seconds=0.0)
    if path is not None:
        done = (
            load_checkpoint(
                path,
                key=key,
                network=network,
                optimizer=optimizer,
                scaler=accelerator.scaler,
            )
            or done
        )
    log = session.log()
    log.resume(name, done.step)

    before, started = done.seconds, time.perf_counter()

    def save(step: int) -> None:
        if path is not None and session.is_main:
            if not _all_finite(network):
                raise _diverged("weights are not finite", name, step, optimizer, path)
            seconds = before + time.perf_counter() - started
            save_checkpoint(
                path,
                key=key,
                network=network,
                optimizer=optimizer,
                scaler=accelerator.scaler,
                progress=Progress(step=step, seconds=seconds),
            )

    bar = tqdm(
        total=stage.steps,
        initial=done.step,
        desc=name,
        unit="step",
        leave=False,
        disable=not (session.progress_bar and session.is_main),
    )
    saved_at = logged_at = time.perf_counter()
    logged_step = done.step
    with (
        _prepared(accelerator, network, optimizer) as (wrapped, wrapped_optimizer),
        _held_interrupt() as interrupted,
        contextlib.closing(bar),
    ):
        for step in range(done.step, stage.steps):
            rate = learning_rate(stage, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            generator = step_generator(recipe.seed, name, step, accelerator.process_index)
            loss = compute_loss(wrapped, step, generator)
            wrapped_optimizer.zero_grad(set_to_none=True)
            accelerator.backward(loss)
            wrapped_optimizer.step()
            bar.update()

            taken, last = step + 1, step + 1 == stage.steps
            if taken % LOG_EVERY == 0 or taken == 1 or last:
                value = loss.item()
                if not math.isfinite(value):
                    raise _diverged(f"loss is {value}", name, taken, optimizer, path)
                now = time.perf_counter()
                speed = (taken - logged_step) * stage.batch / max(now - logged_at, 1e-9)
                row: LogRow = {
                    "stage": name,
                    "step": taken,
                    "loss": round(value, 6),
                    "lr": round(rate, 8),
                    "images_per_s": round(speed, 1),
                    "seconds": round(before + now - started, 2),
                }
                log.append(row)
                bar.set_postfix(loss=f"{value:.3f}", images_per_s=f"{speed:.0f}")
                if session.on_log is not None:
                    session.on_log(row)
                logged_at, logged_step = now, taken
            if not last and time.perf_counter() - saved_at > session.checkpoint_seconds:
                save(taken)
                saved_at = time.perf_counter()
            asked = session.should_stop is not None and session.should_stop()
            asked, stopped = _agreed(accelerator, taken, asked, interrupted())
            if not last and (asked or stopped):
                save(taken)
                # The first process to end takes the others with it.
                accelerator.wait_for_everyone()
                message = f"stopped at step {taken} of {stage.steps} ({name})"
                if asked:
                    raise TrainingStopped(message)
                tqdm.write(f"{message}; run the same command again to go on")
                raise KeyboardInterrupt
    if done.step < stage.steps or (path is not None and not path.exists()):
        save(stage.steps)
    if accelerator.num_processes > 1:
        # Each process has running statistics of its own batches; those of the first are kept.
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)
    return [row for row in log.rows if row["stage"] == name]


def check_batch(stage: Stage, processes: int) -> None:
    """Refuse a batch that can't be trained on.

    Raises:
        ConfigError: Too few images a process for BatchNorm, or not the same number for each.
    """
    if stage.batch % processes or stage.batch // processes < 2:
        raise ConfigError(
            f"batch {stage.batch} over {processes} process(es): each needs the same number of "
            "images and at least 2, since the pooled branch of the network normalises over them"
        )


def _all_finite(network: nn.Module) -> bool:
    state = [v for v in network.state_dict().values() if v.is_floating_point()]
    return bool(torch.stack([value.isfinite().all() for value in state]).all())


def _diverged(
    what: str, name: str, step: int, optimizer: torch.optim.Optimizer, path: Path | None
) -> SegnbError:
    rate = optimizer.param_groups[0]["lr"]
    kept = "" if path is None or not path.exists() else f" The last good state is in {path}."
    return SegnbError(
        f"the {what} at step {step} of {name} (learning rate {rate:.4g}). Training "
        "can't recover from that: lower the learning rate, lengthen the warm-up, or use fp32 "
        f"(precision='fp32').{kept}"
    )


def _agreed(accelerator: Accelerator, taken: int, *flags: bool) -> tuple[bool, ...]:
    """Flags that any process has raised.

    Several processes ask each other only where they wait for the loss anyway; one that stopped
    alone would leave the others waiting for ever.
    """
    if accelerator.num_processes == 1:
        return flags
    if taken % LOG_EVERY:
        return tuple(False for _ in flags)
    found = torch.tensor(flags, dtype=torch.float32, device=accelerator.device)
    return tuple(bool(value) for value in accelerator.reduce(found, "sum").tolist())


@contextlib.contextmanager
def _prepared(
    accelerator: Accelerator, network: nn.Module, optimizer: torch.optim.Optimizer
) -> Iterator[tuple[nn.Module, AcceleratedOptimizer]]:
    """Wrap for precision and processes; the network leaves as it came."""
    try:
        wrapped, wrapped_optimizer = accelerator.prepare(network, optimizer)
        yield wrapped, wrapped_optimizer
    finally:
        accelerator.unwrap_model(network, keep_fp32_wrapper=False)
        accelerator.free_memory()
        # Else the next stage would take the network for wrapped, and train it in fp32.
        network._is_accelerate_prepared = False  # type: ignore[assignment]


@contextlib.contextmanager
def _held_interrupt() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C back until the step is whole; a second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        # Signals reach the main thread only; a thread is stopped by ``should_stop``.
        yield lambda: False
        return
    seen = False
    original = signal.getsignal(signal.SIGINT)

    def note(signum: int, frame: object) -> None:
        nonlocal seen
        if seen:
            raise KeyboardInterrupt
        seen = True

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: seen
    finally:
        signal.signal(signal.SIGINT, original)
