"""Images a second of both stages, beside a plain DataLoader loop on the same machine.

The plain loop is what most training scripts do: decode each image when it is needed, transform it
on its own with torchvision, collect batches in worker processes. Network, crop, batch, optimiser
and cross-entropy are the same. It runs in float32 and in the precision that segnb chooses.

    python -m benchmarks.training --dataset camvid --tier quick
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from segnb.datasets import IGNORE, SegmentationDataset, load
from segnb.device import choose_precision, describe, usable_cores
from segnb.experiments.runs import initial_network
from segnb.experiments.splits import load_splits
from segnb.files import write_atomic
from segnb.recipe import Precision, Recipe, preset
from segnb.training import Session, finetune, make_accelerator, pretrain
from segnb.training.stages import cross_entropy
from segnb.views import normalise

#: Steps before the clock starts, to warm up workers, caches and kernels.
WARM_UP = 5


class Decoded(Dataset[tuple[Tensor, Tensor]]):
    """Each image read from its file, then scaled, cropped and flipped on its own."""

    def __init__(self, source: SegmentationDataset, recipe: Recipe) -> None:
        self.source = source
        self.transform = v2.Compose(
            [
                v2.ScaleJitter(recipe.size, recipe.scale),
                v2.RandomCrop(
                    recipe.crop, pad_if_needed=True, fill={tv_tensors.Mask: IGNORE, "others": 0}
                ),
                v2.RandomHorizontalFlip(),
            ]
        )

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.source[index]
        image, mask = self.transform(
            tv_tensors.Image(torch.from_numpy(sample.image.copy()).permute(2, 0, 1)),
            tv_tensors.Mask(torch.from_numpy(sample.mask.copy())),
        )
        return image.as_subclass(Tensor), mask.as_subclass(Tensor)


def plain_loop(recipe: Recipe, *, steps: int, precision: Precision, root: Path | None) -> float:
    """Images a second of a plain cross-entropy loop."""
    accelerator = make_accelerator(precision)
    data = Decoded(load(recipe.dataset, "train", root=root, size=recipe.size), recipe)
    loader = DataLoader(
        data,
        batch_size=recipe.finetune.batch,
        shuffle=True,
        drop_last=True,
        num_workers=usable_cores(),
        persistent_workers=True,
        pin_memory=accelerator.device.type == "cuda",
    )
    network = initial_network(recipe).to(accelerator.device).train()
    network.attach_classifier(data.source.info.num_classes)
    optimizer = torch.optim.SGD(network.parameters(), lr=recipe.finetune.lr, momentum=0.9)
    batches = _forever(loader)
    started = 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            _wait(accelerator.device)
            started = time.perf_counter()
        images, masks = (part.to(accelerator.device, non_blocking=True) for part in next(batches))
        with accelerator.autocast():
            scores = network(normalise(images.float() / 255), recipe.crop)
        loss = cross_entropy(scores, masks.long())
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        optimizer.step()
    _wait(accelerator.device)
    return steps * recipe.finetune.batch / (time.perf_counter() - started)


def stage_speed(recipe: Recipe, *, steps: int, root: Path | None) -> dict[str, float]:
    """Images a second of segnb's two stages; stage 1 passes each image through twice."""
    short = recipe.replace(
        method="contrastive",
        fraction=1.0,
        pretrain=dataclasses.replace(recipe.pretrain, steps=WARM_UP + steps, warmup=0),
        finetune=dataclasses.replace(recipe.finetune, steps=WARM_UP + steps),
    )
    splits = load_splits(short, root=root)
    network = initial_network(short)
    found = {}
    for name, stage in (("stage 1", pretrain), ("stage 2", finetune)):
        clock = _Clock(device=describe().device)
        session = Session(
            accelerator=make_accelerator(short.precision),
            progress_bar=False,
            should_stop=clock.tick,
        )
        stage(network, splits.labelled_set, short, session=session)
        found[name] = steps * short.finetune.batch / clock.seconds()
    return found


class _Clock:
    """Starts after the warm-up steps; ``tick`` is called after every step but the last."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.steps = 0
        self.started = 0.0

    def tick(self) -> bool:
        self.steps += 1
        if self.steps == WARM_UP:
            _wait(self.device)
            self.started = time.perf_counter()
        return False

    def seconds(self) -> float:
        _wait(self.device)
        return time.perf_counter() - self.started


def _forever(loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from loader


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="camvid")
    parser.add_argument("--tier", default="quick")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/training.json"))
    options = parser.parse_args()
    recipe = preset(options.dataset, options.tier)
    machine = describe()
    chosen = choose_precision("auto", machine.device)

    speeds = {
        f"segnb, {name}, {chosen}": value
        for name, value in stage_speed(recipe, steps=options.steps, root=options.data).items()
    }
    precisions: list[Precision] = ["fp32"] if chosen == "fp32" else ["fp32", chosen]
    for precision in precisions:
        speeds[f"plain DataLoader loop, cross-entropy, {precision}"] = plain_loop(
            recipe, steps=options.steps, precision=precision, root=options.data
        )
    print(f"{machine}\n{options.dataset}, {options.tier} tier, {torch.get_num_threads()} threads\n")
    print("| loop | images/s |\n| --- | ---: |")
    for name, value in speeds.items():
        print(f"| {name} | {value:.1f} |")
    content = {
        "machine": dataclasses.asdict(machine),
        "threads": torch.get_num_threads(),
        "recipe": recipe.to_dict(),
        "steps": options.steps,
        "images_per_s": {name: round(value, 1) for name, value in speeds.items()},
    }
    write_atomic(options.out, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
