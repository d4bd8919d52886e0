"""The estimated cost of a run: a few real steps are timed, and the time multiplied."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from segnb.datasets import IGNORE
from segnb.experiments.runs import initial_network, within_memory
from segnb.models import count_parameters
from segnb.recipe import Recipe, Stage
from segnb.training import Session, contrastive_step, cross_entropy_step, make_accelerator
from segnb.training.loop import StepLoss, check_batch
from segnb.views import nearest_labels

#: Steps that are timed, after one warm-up step.
_TIMED = 2

#: Classes of the random masks; their number hardly changes the cost.
_CLASSES = 8


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The estimated cost of a recipe.

    Attributes:
        device: The device that was timed.
        parameters: Trainable values.
        image_passes: Images through the network, forward and backward.
        seconds: Training time, without loading and evaluation.
        peak_bytes: Peak memory on one GPU; ``None`` on a CPU.
    """

    device: str
    parameters: int
    image_passes: int
    seconds: float
    peak_bytes: int | None

    def __str__(self) -> str:
        memory = "" if self.peak_bytes is None else f", at most {self.peak_bytes / 2**30:.1f} GiB"
        return (
            f"{self.parameters / 1e6:.1f} M parameters, {self.image_passes:,} image passes, about "
            f"{readable_seconds(self.seconds)} of training on {self.device}{memory}"
        )


def estimate_cost(recipe: Recipe, *, cpu: bool = False) -> Cost:
    """Time a few steps of each stage on random images, and multiply.

    Each of several processes times its own share of a batch.

    Raises:
        ConfigError: The network can't be built, a batch is too small, or memory runs out.
    """
    return within_memory(recipe, lambda: _estimate(recipe, cpu=cpu))


def _estimate(recipe: Recipe, *, cpu: bool) -> Cost:
    accelerator = make_accelerator(recipe.precision, cpu=cpu)
    device = accelerator.device
    network = initial_network(recipe).train()
    Session(accelerator=accelerator).place(network)
    parameters = count_parameters(network)
    generator = torch.Generator().manual_seed(0)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def forward(images: Tensor, size: tuple[int, int] | None) -> Tensor:
        # As in training with Accelerate, only the network runs in the chosen precision.
        with accelerator.autocast():
            return cast(Tensor, network(images, size))

    def seconds(stage: Stage, step_loss: StepLoss) -> float:
        check_batch(stage, accelerator.num_processes)
        share = stage.batch // accelerator.num_processes
        images = torch.rand(share, 3, *recipe.crop, generator=generator).to(device)
        # Blocks of one class, as in real masks; a few pixels are ignored.
        coarse = torch.randint(0, _CLASSES, (share, 6, 6), generator=generator)
        masks = nearest_labels(coarse, recipe.crop).to(device)
        masks[:, :2] = IGNORE
        for step in range(1 + _TIMED):
            if step == 1:
                _wait(device)
                started = time.perf_counter()
            loss = step_loss(forward, images, masks, recipe, generator=generator)
            loss.backward()  # type: ignore[no-untyped-call]
        _wait(device)
        return stage.steps * (time.perf_counter() - started) / _TIMED

    total = 0.0
    if recipe.uses_contrastive:
        network.attach_projection()
        total += seconds(recipe.pretrain, contrastive_step)
    network.attach_classifier(_CLASSES)
    if recipe.has_stage1 and not recipe.uses_contrastive:
        total += seconds(recipe.pretraining_stage(), cross_entropy_step)
    total += seconds(recipe.cross_entropy_stage(), cross_entropy_step)
    return Cost(
        device=str(device),
        parameters=parameters,
        image_passes=recipe.image_passes(),
        seconds=recipe.kind.rounds * total,
        peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    )


def readable_seconds(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
