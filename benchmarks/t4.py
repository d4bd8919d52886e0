"""What the notebooks should take on a Tesla T4, estimated by counting operations.

    python -m benchmarks.t4

Nobody has timed them on that card. The operations of a step of every stage are counted, and the
card is assumed to reach a stated share of its peak. Data and views stay on the card, so the
processor does not hold it up.
"""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from segnb.experiments.cost import readable_seconds
from segnb.experiments.runs import initial_network
from segnb.methods import MethodName
from segnb.recipe import VIEWS_PER_STEP, Recipe, preset

#: A T4's peak in half precision (its data sheet), operations per second, and the share of it that
#: training a ResNet is assumed to reach.
PEAK, SHARE = 65e12, 0.15

#: Seconds of a notebook beside its training: imports, data, evaluation, t-SNE, drawing.
BESIDE = 90

#: What each notebook trains at the tier ``gpu``, as runs of the preset; 03, 04 and 06 train less.
TRAINED: dict[str, tuple[MethodName, ...]] = {
    "00": ("ce", "contrastive", "ce_long"),
    "02": ("ce", "ce", "ce"),
    "03": ("contrastive",),
    "04": ("contrastive",),
    "05": ("ce", "contrastive", "ce_long"),
    "06": ("ce", "contrastive"),
    "08": ("pseudo", "ce_double"),
}

#: What the notebooks that set ``SHORTER`` at that tier divide the preset's steps by.
SHORTER = {"08": 2}


def operations(recipe: Recipe) -> float:
    """Operations of a recipe's training, forward and backward, counted on one step of each head."""
    network = initial_network(recipe).to("meta").train()

    def of_pass() -> float:
        with FlopCounterMode(display=False) as counter:
            image = torch.empty(2, 3, *recipe.crop, device="meta")
            network(image, recipe.loss_size).sum().backward()
        return float(counter.get_total_flops()) / len(image)

    total = 0.0
    if recipe.uses_contrastive:
        network.attach_projection()
        total = of_pass() * VIEWS_PER_STEP * recipe.pretrain.steps * recipe.pretrain.batch
    network.attach_classifier(12)
    stage = recipe.cross_entropy_stage()
    return recipe.kind.rounds * (total + of_pass() * stage.steps * stage.batch)


def main() -> None:
    """Print one line for each data set and notebook."""
    print(f"assumed: {SHARE:.0%} of {PEAK / 1e12:.0f} T operations/s, {BESIDE} s beside training")
    for dataset in ("shapes", "camvid", "voc"):
        for notebook, methods in TRAINED.items():
            recipe = preset(dataset, "gpu").shorter(SHORTER.get(notebook, 1))
            counted = sum(operations(recipe.replace(method=method)) for method in methods)
            seconds = counted / (PEAK * SHARE) + BESIDE
            print(f"{dataset:7} {notebook}: {counted / 1e15:.2f} P, {readable_seconds(seconds)}")


if __name__ == "__main__":
    main()
