"""What a run will cost, told before it starts: a few real steps are timed and multiplied."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from segnb.datasets import IGNORE
from segnb.experiments.runs import initial_network, within_memory
from segnb.models import count_parameters
from segnb.recipe import VIEWS_PER_STEP, Recipe
from segnb.training import contrastive_loss, make_accelerator
from segnb.training.loop import check_batch
from segnb.training.stages import cross_entropy, nearest_labels

#: Steps that are timed, after one that is not.
_TIMED = 2


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a recipe will take.

    Attributes:
        device: Where it was timed.
        parameters: Trainable values.
        image_passes: Images through the network, forward and backward.
        seconds: Training time; loading and evaluation come on top.
        peak_bytes: Most memory in use on one GPU; ``None`` on a processor.
    """

    device: str
    parameters: int
    image_passes: int
    seconds: float
    peak_bytes: int | None

    def __str__(self) -> str:
        memory = "" if self.peak_bytes is None else f", {self.peak_bytes / 2**30:.1f} GiB at most"
        return (
            f"{self.parameters / 1e6:.1f} M parameters, {self.image_passes:,} image passes, about "
            f"{readable_seconds(self.seconds)} of training on {self.device}{memory}"
        )


def foretell(recipe: Recipe, *, cpu: bool = False) -> Cost:
    """Time a few steps of each stage on random images and tell the cost of the whole run.

    Of several processes each times its own share of a batch.

    Raises:
        ConfigError: The network can't be built, a batch is too small, or memory is too little.
    """
    return within_memory(recipe, lambda: _foretell(recipe, cpu=cpu))


def _foretell(recipe: Recipe, *, cpu: bool) -> Cost:
    accelerator = make_accelerator(recipe.precision, cpu=cpu)
    processes = accelerator.num_processes
    check_batch(recipe.cross_entropy_stage(), processes)
    device, classes = accelerator.device, 8
    network = initial_network(recipe).to(device).train()
    parameters = count_parameters(network)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = 0.0
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> torch.Tensor:
        return torch.randn(count, 3, *recipe.crop, generator=generator).to(device)

    def masks(count: int) -> torch.Tensor:
        # Blocks of one class, as real masks have them; a few pixels ignored.
        coarse = torch.randint(0, classes, (count, 6, 6), generator=generator)
        full = nearest_labels(coarse, recipe.crop)
        full[:, :2] = IGNORE
        return full.to(device)

    def timed(step: Callable[[], None]) -> float:
        step()
        _wait(device)
        started = time.perf_counter()
        for _ in range(_TIMED):
            step()
        _wait(device)
        return (time.perf_counter() - started) / _TIMED

    if recipe.uses_contrastive:
        check_batch(recipe.pretrain, processes)
        batch = recipe.pretrain.batch // processes
        both, labels = images(VIEWS_PER_STEP * batch), masks(batch)
        network.attach_projection()

        def contrast() -> None:
            with accelerator.autocast():
                first, second = network(both, recipe.loss_size).float().chunk(2)
            small = nearest_labels(labels, (first.shape[-2], first.shape[-1]))
            loss = contrastive_loss(first, second, small, recipe, generator=generator)
            loss.backward()  # type: ignore[no-untyped-call]

        seconds += recipe.pretrain.steps * timed(contrast)

    stage = recipe.cross_entropy_stage()
    share = stage.batch // processes
    batch_images, batch_masks = images(share), masks(share)
    network.attach_classifier(classes)

    def classify() -> None:
        with accelerator.autocast():
            scores = network(batch_images, recipe.crop)
        cross_entropy(scores, batch_masks).backward()  # type: ignore[no-untyped-call]

    steps = stage.steps
    if recipe.has_stage1 and not recipe.uses_contrastive:
        steps += recipe.pretraining_stage().steps
    seconds += steps * timed(classify)
    rounds = 2 if recipe.method == "pseudo" else 1
    return Cost(
        device=str(device),
        parameters=parameters,
        image_passes=recipe.image_passes(),
        seconds=rounds * seconds,
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
