# %% [markdown]
# # 02 · Cross-entropy with few labels
#
# Before a new method, the old one, as well as we can do it. A weak baseline makes any method look
# good; and the paper's case rests on what cross-entropy does when labels are few.
#
# You will
# - train the baseline on few labelled images and watch it learn them by heart,
# - see how far random scale, crop and flip delay that, and what more labels do,
# - compute **mIoU** by hand from a confusion matrix, and check `segnb.metrics` against it,
# - read a confusion matrix: which classes are taken for which?
#
# Time: about three minutes on two processor cores.

# %% [markdown]
# **What we need.** `segnb.training.finetune` is stage 2 of the paper and at the same time the whole
# baseline: cross-entropy on the network with a pixel classifier.

# %% tags=["folded"]
# @title Imports
from typing import Any

import ipywidgets as widgets
import numpy as np
import torch
import torch.nn.functional as F

from segnb import evaluation, plots
from segnb.checks import check_confusion_matrix, check_mean_iou, judge
from segnb.datasets import IGNORE, WorkingSet
from segnb.experiments.runs import initial_network, load_splits
from segnb.metrics.segmentation import ConfusionScore, score_confusion
from segnb.models import SegmentationNetwork
from segnb.notebook import tier
from segnb.plots import Picture
from segnb.recipe import Recipe, Stage, preset
from segnb.training import Session, finetune, make_accelerator

# %% [markdown]
# **The knobs.** All of them, here and nowhere else.

# %%
TINY = tier() == "smoke"  # the tests run this notebook in seconds, and learn nothing from it
SEED = 0
FEW, MORE = 1 / 32, 1 / 4  # shares of the training images that are labelled
STEPS = 4 if TINY else 400
LOOK_EVERY = 2 if TINY else 40  # steps between two looks at the network

base = preset("shapes", "smoke" if TINY else "quick")
recipe = base.replace(
    method="ce",
    seed=SEED,
    fraction=FEW,
    size=(48, 64) if TINY else (72, 96),
    crop=(48, 48) if TINY else (64, 64),
    scale=(0.5, 2.0),
    encoder_depth=3,
    finetune=Stage(steps=STEPS, batch=8, lr=0.05, schedule="poly"),
)

# %% [markdown]
# ## The loss
#
# For a pixel with scores $s_1, \dots, s_C$ and the true class $y$, cross-entropy is
#
# $$-\log \frac{\exp(s_y)}{\sum_c \exp(s_c)},$$
#
# averaged over all pixels that have a label. A network that knows nothing gives every class the
# same score and pays $\log C$; that is the number to begin from.

# %%
splits = load_splits(recipe)
labelled, val = splits.labelled_set, splits.evaluated["val"][1]
info = val.info
print(f"{len(labelled)} labelled images, {len(val)} for validation, {info.num_classes} classes")
print(f"knowing nothing costs log {info.num_classes} = {np.log(info.num_classes):.2f}")

# %% [markdown]
# ## Train, and look while it trains
#
# `look` asks the network for its scores on whole images, as they are, and returns the loss and
# the mIoU. We call it on the labelled images it is trained on, and on validation images it never
# sees. `watch` trains and looks every now and then, through the same callback that draws live plots
# elsewhere in this series.


# %%
def look(network: SegmentationNetwork, images: WorkingSet) -> dict[str, float]:
    """Cross-entropy and mIoU of a network on whole images."""
    loss, pixels, score = 0.0, 0, ConfusionScore(images.info.num_classes)
    for index, scores in evaluation.score_maps(
        network, images, session=Session(accelerator=accelerator)
    ):
        mask = images.masks[index, : scores.shape[1], : scores.shape[2]].long()
        mask = mask.to(scores.device)
        loss += F.cross_entropy(
            scores[None], mask[None], ignore_index=IGNORE, reduction="sum"
        ).item()
        pixels += int((mask != IGNORE).sum())
        score.update(scores.argmax(0), mask)
    return {"loss": loss / pixels, "miou": score.compute().miou}


def watch(recipe: Recipe) -> tuple[SegmentationNetwork, list[dict[str, Any]]]:
    """Train cross-entropy; the network, and what was seen on the way."""
    images = load_splits(recipe).labelled_set
    network, seen = initial_network(recipe), []

    def on_log(row: dict[str, Any]) -> None:
        step = row["step"]
        if step == 1 or step % LOOK_EVERY == 0 or step == recipe.finetune.steps:
            seen.append(
                {
                    "step": step,
                    "training": look(network, images),
                    "validation": look(network, val),
                    "pictures": evaluation.predict(
                        network, pictures, session=Session(accelerator=accelerator)
                    ),
                }
            )
            network.train()

    session = Session(accelerator=accelerator, on_log=on_log)
    finetune(network, images, recipe, session=session)
    return network, seen


accelerator = make_accelerator(recipe.precision)
ids = [*labelled.ids[:2], *val.ids[:2]]
pictures = WorkingSet(
    info,
    tuple(ids),
    torch.cat([labelled.images[:2], val.images[:2]]),
    torch.cat([labelled.masks[:2], val.masks[:2]]),
    torch.cat([labelled.extents[:2], val.extents[:2]]),
)

# %% [markdown]
# Three trainings of the same length, from the same initial weights:
#
# - **few labels, plain**: the images as they are, but for a random crop;
# - **few labels, augmented**: random scale, crop and flip, as this project trains all its
#   baselines;
# - **more labels, augmented**: the same with eight times the labelled images.

# %%
trainings = {
    "few labels, plain": recipe.replace(scale=(1.0, 1.0), flip=False),
    "few labels, augmented": recipe,
    "more labels, augmented": recipe.replace(fraction=MORE),
}
networks, histories = {}, {}
for name, variant in trainings.items():
    networks[name], histories[name] = watch(variant)
    last = histories[name][-1]
    print(
        f"{name:24} mIoU after {last['step']} steps: training {last['training']['miou']:5.1f}, "
        f"validation {last['validation']['miou']:5.1f}"
    )

# %% [markdown]
# ## How it overfits
#
# Above the loss, below the mIoU; a column for each training.

# %%
COLOURS = {"training": "#D55E00", "validation": "#0072B2"}
with plots.styled():
    figure = plots.new_figure(7.6, 4.4)
    panels = figure.subplots(2, len(histories), sharex=True, sharey="row")
    for column, (name, seen) in zip(panels.T, histories.items(), strict=True):
        steps = [one["step"] for one in seen]
        for axes, key in zip(column, ("loss", "miou"), strict=True):
            for where, colour in COLOURS.items():
                values = [one[where][key] for one in seen]
                line = "-" if where == "validation" else "--"
                axes.plot(steps, values, line, color=colour, marker=".", label=where)
        column[0].set_title(name)
        column[1].set_xlabel("step")
    panels[0, 0].set_ylabel("cross-entropy")
    panels[1, 0].set_ylabel("mIoU, %")
    plots.legend_below(figure, panels[:1].ravel())
Picture(
    figure,
    "Loss and mIoU on training and validation images against steps, for three trainings. "
    + " ".join(
        f"{name}: at the end mIoU {seen[-1]['training']['miou']:.0f} in training and "
        f"{seen[-1]['validation']['miou']:.0f} in validation."
        for name, seen in histories.items()
    ),
)

# %% [markdown]
# **How to read it.** The gap between the dashed and the solid line is what the network learnt by heart.
# On the left the training curves keep improving. Validation mIoU improves too, but much more slowly, and
# the gap widens with every step. The validation *loss* even rises again: the network grows more certain of
# its answers, right or wrong, while *mIoU* asks only which class scores highest. Augmentation narrows the
# gap, because the network never sees the same picture twice. More labels nearly close it. A small gap is not
# yet a good network: with more labels this short training is not accurate either, but its validation loss is
# the lowest of the three and still falling. The gap with few labels is what the paper sets out to close;
# notebook 05 draws it again for all three methods.

# %% [markdown]
# The numbers behind it:

# %%
for name, seen in histories.items():
    best = max(seen, key=lambda one: one["validation"]["miou"])
    last = seen[-1]
    gap = last["training"]["miou"] - last["validation"]["miou"]
    rise = last["validation"]["loss"] - min(one["validation"]["loss"] for one in seen)
    print(
        f"{name:24} gap {gap:5.1f} points; validation loss {rise:.2f} above its lowest; "
        f"best validation mIoU {best['validation']['miou']:.1f} at step {best['step']}"
    )

# %% [markdown]
# **How to read it.** The gap is training minus validation mIoU at the last look. If the best
# validation mIoU came long before the end, or the loss stands well above its lowest, the steps
# after it went into the training images. Stopping there is a remedy, but one that needs validation
# labels, and labels are what we have few of.
#
# ## Watch it learn by heart
#
# Two training images and two validation images, as the network sees them along the way.

# %%
MOMENTS = [one["step"] for one in histories["few labels, augmented"]]


def moment(name: str, step: int) -> Picture:
    """Predictions at a step: two training images, then two validation images."""
    found = next(one for one in histories[name] if one["step"] == step)
    return plots.predictions(
        list(pictures.images), list(pictures.masks), {f"step {step}": list(found["pictures"])}, info
    )


chooser = widgets.Dropdown(options=list(histories), description="training")
slider = widgets.SelectionSlider(
    options=MOMENTS, value=MOMENTS[-1], description="step", continuous_update=False
)
explorer = widgets.interact(moment, name=chooser, step=slider)

# %% [markdown]
# Without widgets, the same: name the training and one of the steps in `MOMENTS`.

# %%
name, step = "few labels, plain", MOMENTS[-1]
moment(name, step)

# %% [markdown]
# **How to read it.** The first two rows are training images: the masks come out close to the truth.
# The last two are new: outlines are vague and toys are called by wrong names. Same network, same
# moment.

# %% [markdown]
# ## mIoU by hand
#
# A small picture with three classes, and one void pixel. Count every labelled pixel into a table:
# its row is the true class, its column the predicted one. That is the **confusion matrix**.

# %%
truth = torch.tensor([[0, 0, 0, 1], [0, 0, 1, 1], [2, 2, 1, IGNORE]])
guess = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 0], [2, 1, 1, 1]])

matrix = torch.zeros(3, 3, dtype=torch.long)
for row, column in zip(truth.flatten().tolist(), guess.flatten().tolist(), strict=True):
    if row != IGNORE:
        matrix[row, column] += 1
print(matrix)

# %% [markdown]
# A class has three kinds of pixels: those it has and got (on the diagonal, $n_{cc}$), those it has
# and lost (the rest of its row), and those it got and has not (the rest of its column). All of them
# together are the union:
#
# $$\text{IoU}_c = \frac{n_{cc}}{\text{row}_c + \text{column}_c - n_{cc}},\qquad
# \text{mIoU} = \frac{1}{C}\sum_c \text{IoU}_c .$$

# %%
shares = []
for c in range(3):
    right = int(matrix[c, c])
    row, column = int(matrix[c].sum()), int(matrix[:, c].sum())
    shares.append(100 * right / (row + column - right))
    print(f"class {c}: {right} / ({row} + {column} - {right}) = {shares[-1]:.2f} %")
by_hand = sum(shares) / 3
print(f"mIoU by hand: {by_hand:.4f} %")

# %% [markdown]
# The package must agree, or one of us is wrong:

# %%
score = ConfusionScore(3)
score.update(guess, truth)
print(f"segnb.metrics: {score.compute().miou:.4f} %")
assert torch.equal(score.confusion(), matrix)
assert abs(score.compute().miou - by_hand) < 1e-9

# %% [markdown]
# Three things to remember, each of them a common mistake (notebook 10 has them in action):
# pixels are counted over the **whole split** into one matrix, before anything is divided; **void**
# counts nowhere; and a class that occurs neither in the masks nor in the predictions has no IoU and
# is left out of the mean.

# %% [markdown]
# ## Reading a confusion matrix
#
# Now the baseline on all validation images. Each row is divided by its sum, so it tells what became
# of the pixels of that class.

# %%
confusion = ConfusionScore(info.num_classes)
network = networks["few labels, augmented"]
for index, scores in evaluation.score_maps(network, val, session=Session(accelerator=accelerator)):
    mask = val.masks[index, : scores.shape[1], : scores.shape[2]]
    confusion.update(scores.argmax(0).cpu(), mask)
counts = confusion.confusion().double()
fate = (100 * counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()

with plots.styled():
    figure = plots.new_figure(5.4, 5.2)
    axes = figure.subplots()
    axes.imshow(fate, cmap="Blues", vmin=0, vmax=100)
    for y, line in enumerate(fate):
        for x, value in enumerate(line):
            if value >= 1:
                colour = "white" if value > 55 else "#222222"
                axes.text(x, y, f"{value:.0f}", ha="center", va="center", size=7.5, color=colour)
    axes.set_xticks(range(info.num_classes), info.class_names, rotation=45, ha="right")
    axes.set_yticks(range(info.num_classes), info.class_names)
    axes.grid(visible=False)
    axes.set(xlabel="taken for", ylabel="true class", title="what became of 100 pixels of a class")
Picture(
    figure,
    "Confusion matrix of the baseline on validation images, in percent of the true class. Right: "
    + ", ".join(f"{n} {fate[c, c]:.0f}" for c, n in enumerate(info.class_names))
    + ".",
)

# %% [markdown]
# **How to read it.** The diagonal is what was right. A column that is dark in many rows is a class
# that the network falls back on: where it is unsure, cross-entropy makes it bet on what is
# frequent, sand first, and among the toys one that it has seen often. Only then look for pairs.
# Balls and swim rings are round, towels and kites have four corners. Is a toy taken for one of a
# similar outline *more often* than its row and column suggest?
#
# And the IoU of each class, from the same matrix. (Its mIoU may be a tenth of a point beside that
# of the last look: on hardware that trains in bf16, so did the looks in between; this is float32.)

# %%
result = score_confusion(confusion.confusion())
for class_name, iou in zip(info.class_names, result.iou, strict=True):
    print(f"{class_name:10} {'–' if iou is None else f'{iou:5.1f}'}")
print(f"{'mIoU':10} {result.miou:5.1f}   (pixels right: {result.pixel_accuracy:.1f} %)")

# %% [markdown]
# **How to read it.** The share of right pixels is far above the mIoU: large classes make the first,
# all classes alike make the second.

# %% [markdown]
# ## Exercise 1: the confusion matrix
#
# Write `confusion_matrix(prediction, mask, num_classes)`: counts, rows true classes, columns
# predicted ones, void left out. Try it without a loop over pixels: `bincount` counts how often each
# number occurs in a list. How could a *pair* of classes become one number?


# %%
# EXERCISE confusion_matrix
def confusion_matrix(
    prediction: torch.Tensor, mask: torch.Tensor, num_classes: int
) -> torch.Tensor:
    """Counts [num_classes, num_classes], rows true, columns predicted; 255 in mask is void."""
    ...


judge(check_confusion_matrix, confusion_matrix)

# %% [markdown]
# A solution is folded away below; unfold it when your own passes, or when you are stuck.


# %% tags=["solution"]
# SOLUTION confusion_matrix
def confusion_matrix(
    prediction: torch.Tensor, mask: torch.Tensor, num_classes: int
) -> torch.Tensor:
    """Counts [num_classes, num_classes], rows true, columns predicted; 255 in mask is void."""
    counted = mask != IGNORE
    pairs = num_classes * mask[counted].long() + prediction[counted].long()
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


judge(check_confusion_matrix, confusion_matrix)

# %% [markdown]
# ## Exercise 2: from the matrix to mIoU
#
# Write `mean_iou(matrix)` in percent. A class that occurs neither in the masks nor in the
# predictions has no IoU: leave it out of the mean, rather than counting it as 0 or as 100.


# %%
# EXERCISE mean_iou
def mean_iou(matrix: torch.Tensor) -> float:
    """Mean IoU in percent of a confusion matrix, over the classes that occur."""
    ...


judge(check_mean_iou, mean_iou)

# %% [markdown]
# One way to do it, folded away:


# %% tags=["solution"]
# SOLUTION mean_iou
def mean_iou(matrix: torch.Tensor) -> float:
    """Mean IoU in percent of a confusion matrix, over the classes that occur."""
    right = matrix.diagonal().double()
    union = matrix.sum(0) + matrix.sum(1) - right
    return float(100 * (right / union)[union > 0].mean())


judge(check_mean_iou, mean_iou)

# %% [markdown]
# ## Summary
#
# - With few labels cross-entropy fits the training images much faster than it improves on validation
#   images; the gap is what it learnt by heart.
# - Augmentation and more labels narrow it. A baseline without augmentation would be an easy victim;
#   ours gets it.
# - mIoU is made of **one** confusion matrix over the whole split, without void, over the classes
#   that occur.
#
# **Where to go next.** Notebook 03 builds the loss that is to do better, from a single pixel up.
