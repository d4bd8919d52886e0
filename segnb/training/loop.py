"""The training loop of both stages: batch, loss, backward, step; then log, checkpoint, stop."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from tqdm.auto import tqdm

from segnb.datasets import WorkingSet
from segnb.errors import ConfigError, DataError, SegnbError
from segnb.losses.pixels import NotFiniteError
from segnb.models import SegmentationNetwork
from segnb.recipe import Recipe, Stage
from segnb.training.batches import Batches, to_device
from segnb.training.checkpoint import Checkpoint
from segnb.training.log import LogRow
from segnb.training.randomness import step_generator
from segnb.training.schedule import learning_rate
from segnb.training.session import Session
from segnb.training.threads import watched

#: Steps between log rows. Reading the loss waits for the device, so it is not read at every step.
LOG_EVERY = 10


class StepLoss(Protocol):
    """The loss of one batch: images in 0..1 and masks in, a scalar out."""

    def __call__(  # noqa: D102
        self,
        network: Callable[..., Tensor],
        images: Tensor,
        masks: Tensor,
        recipe: Recipe,
        *,
        generator: torch.Generator,
    ) -> Tensor: ...


class TrainingStopped(SegnbError):
    """Training was stopped on request; the checkpoint contains everything done so far."""


def train_stage(
    network: SegmentationNetwork,
    step_loss: StepLoss,
    data: WorkingSet,
    *,
    name: str,
    stage: Stage,
    recipe: Recipe,
    session: Session,
    on_row: Callable[[LogRow], None] | None = None,
) -> list[LogRow]:
    """Train ``network`` in place with SGD for ``stage.steps`` steps.

    Continues from a checkpoint in the session's folder, if there is one. Ctrl-C, a requested stop
    and the end of the stage all leave a checkpoint.

    Args:
        network: The network with its head.
        step_loss: The loss of one step on this process's share of the batch. Gradients are
            averaged over processes.
        data: The labelled images.
        name: The stage's name, in the log and in the checkpoint's file name.
        stage: Steps, learning rate and schedule.
        recipe: Seeds the steps and identifies the checkpoint.
        session: Device, folder and listeners.
        on_row: Called with every new log row, in the process that writes.

    Returns:
        The log rows of this stage.

    Raises:
        ConfigError: Too few images per process for BatchNorm.
        DataError: The checkpoint can't be used.
        SegnbError: The loss or the weights are not finite; the last checkpoint is kept.
        TrainingStopped: ``session.should_stop`` returned true.
    """
    accelerator = session.accelerator
    check_batch(stage, accelerator.num_processes)
    session.place(network)
    optimizer = torch.optim.SGD(
        [p for p in network.parameters() if p.requires_grad],
        lr=stage.lr,
        momentum=stage.momentum,
        weight_decay=stage.weight_decay,
    )
    checkpoint = Checkpoint(
        session.folder / f"{name}.pt" if session.folder else None,
        stage=name,
        recipe=recipe.hash,
        network=network,
        optimizer=optimizer,
        scaler=accelerator.scaler,
        log=session.log(),
        steps=stage.steps,
        every=session.checkpoint_seconds,
        writes=session.is_main,
    )
    first = checkpoint.resume()
    if 0 < stage.steps == first and [row["step"] for row in checkpoint.rows[-1:]] != [first]:
        raise DataError(
            f"checkpoint {checkpoint.path} is from an earlier version, and the log of its stage "
            "is lost; delete it to restart the stage"
        )
    log = _StageLog(session, name, stage, checkpoint, first=first)
    if session.is_main and on_row is not None:
        log.listeners.append(on_row)
    batches = Batches(
        data=to_device(data, session.device),
        recipe=recipe,
        batch=stage.batch,
        device=session.device,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    with (
        _prepared(accelerator, network, optimizer) as (wrapped, wrapped_optimizer),
        _held_interrupt() as interrupted,
        contextlib.closing(log.bar),
        watched(session.device) as watch_threads,
    ):
        for step in range(first, stage.steps):
            rate = learning_rate(stage, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            generator = step_generator(recipe.seed, name, step, accelerator.process_index)
            images, masks = batches.at(step, generator)
            try:
                loss = step_loss(wrapped, images, masks, recipe, generator=generator)
            except NotFiniteError as error:
                raise checkpoint.diverged("output of the network is not finite", step) from error
            wrapped_optimizer.zero_grad(set_to_none=True)
            accelerator.backward(loss)
            wrapped_optimizer.step()

            taken = step + 1
            watch_threads()
            log.after_step(taken, loss, rate)
            if taken < stage.steps:
                checkpoint.save_if_due(taken)
            _stop_if_asked(session, interrupted, checkpoint, taken, stage.steps)
    if first < stage.steps or (checkpoint.path is not None and not checkpoint.path.exists()):
        checkpoint.save(stage.steps)
    if accelerator.num_processes > 1:
        # Each process has running statistics from its own batches; keep those of the first.
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)
    return list(checkpoint.rows)


class _StageLog:
    """Reads the loss every few steps, for the log, the progress bar and the listener."""

    def __init__(
        self, session: Session, name: str, stage: Stage, checkpoint: Checkpoint, *, first: int
    ) -> None:
        self.session, self.name, self.stage, self.checkpoint = session, name, stage, checkpoint
        self.listeners = [] if session.on_log is None else [session.on_log]
        self.bar = tqdm(
            total=stage.steps,
            initial=first,
            desc=name,
            unit="step",
            leave=False,
            disable=not (session.progress_bar and session.is_main),
        )
        self._last_step, self._last_time = first, time.perf_counter()

    def after_step(self, taken: int, loss: Tensor, rate: float) -> None:
        """Log the step if it is due.

        Raises:
            SegnbError: The loss is not finite.
        """
        self.bar.update()
        if taken % LOG_EVERY and taken not in (1, self.stage.steps):
            return
        value = loss.item()
        if not math.isfinite(value):
            raise self.checkpoint.diverged(f"loss is {value}", taken)
        now = time.perf_counter()
        speed = (taken - self._last_step) * self.stage.batch / max(now - self._last_time, 1e-9)
        row: LogRow = {
            "stage": self.name,
            "step": taken,
            "loss": round(value, 6),
            "lr": round(rate, 8),
            "images_per_s": round(speed, 1),
            "seconds": round(self.checkpoint.seconds, 2),
        }
        self.checkpoint.add(row)
        self.bar.set_postfix(loss=f"{value:.3f}", images_per_s=f"{speed:.0f}")
        for listener in self.listeners:
            listener(row)
        self._last_step, self._last_time = taken, now


def _stop_if_asked(
    session: Session, interrupted: Callable[[], bool], checkpoint: Checkpoint, taken: int, of: int
) -> None:
    """End training with a checkpoint if requested, unless this was the last step anyway."""
    asked = session.should_stop is not None and session.should_stop()
    asked, stopped = _agreed(session.accelerator, taken, asked, interrupted())
    if taken == of or not (asked or stopped):
        return
    checkpoint.save(taken)
    # When one process ends, the others are ended too: wait until all are done.
    session.accelerator.wait_for_everyone()
    message = f"stopped at step {taken} of {of} ({checkpoint.stage})"
    if asked:
        raise TrainingStopped(message)
    tqdm.write(f"{message}; run the same command again to continue")
    raise KeyboardInterrupt


def check_batch(stage: Stage, processes: int) -> None:
    """Check that a batch can be trained on.

    Raises:
        ConfigError: Too few images per process for BatchNorm, or unequal numbers.
    """
    if stage.batch % processes or stage.batch // processes < 2:
        raise ConfigError(
            f"batch {stage.batch} over {processes} process(es): each needs the same number of "
            "images and at least 2, since the pooled branch of the network normalises over them"
        )


def _agreed(accelerator: Accelerator, taken: int, *flags: bool) -> tuple[bool, ...]:
    """For each flag, whether any process has raised it.

    Processes only ask each other at steps where they wait for the loss anyway. If one of them
    stopped alone, the others would wait for it forever.
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
    """Wrap network and optimiser for precision and processes; unwrap the network at the end."""
    try:
        wrapped, wrapped_optimizer = accelerator.prepare(network, optimizer)
        yield wrapped, wrapped_optimizer
    finally:
        accelerator.unwrap_model(network, keep_fp32_wrapper=False)
        accelerator.free_memory()
        # Otherwise the next stage would think the network is wrapped, and train it in fp32.
        network._is_accelerate_prepared = False  # type: ignore[assignment]


@contextlib.contextmanager
def _held_interrupt() -> Iterator[Callable[[], bool]]:
    """Delay Ctrl-C and SIGTERM until the step is finished; a second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread receives signals; other threads are stopped by ``should_stop``.
        yield lambda: False
        return
    seen = False
    # A machine that is taken away sends SIGTERM first. ``None`` is a handler that was not set from
    # Python, which Python can't put back, so it is left in charge. A signal that is ignored stays
    # so: a script that starts us in the background has Ctrl-C stop the script, not us.
    originals = {
        one: handler
        for one in (signal.SIGINT, signal.SIGTERM)
        if (handler := signal.getsignal(one)) not in (None, signal.SIG_IGN)
    }

    def note(signum: int, frame: object) -> None:
        nonlocal seen
        if seen:
            raise KeyboardInterrupt
        seen = True

    for one in originals:
        signal.signal(one, note)
    try:
        yield lambda: seen
    finally:
        for one, handler in originals.items():
            signal.signal(one, handler)
