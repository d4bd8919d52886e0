# %% [markdown]
# # 02 · Cross-entropy with few labels
#
# Before the new method comes the old one, done as well as we can. A weak baseline makes any method
# look good, and the paper's case rests on what cross-entropy does when labels are few.
#
# You will
# - train the baseline on a few labelled images and watch it memorise them,
# - see how far random scale, crop and flip delay that, and how much more labels help,
# - compute **mIoU** by hand from a confusion matrix, and check `segnb.metrics` against it,
# - read a confusion matrix: which classes get mistaken for which?
#
# Time: about three minutes on two processor cores.

# %% [markdown]
# **What we need.** `segnb.training.finetune` is stage 2 of the paper. It is also the entire
# baseline: cross-entropy on the network with a pixel classifier.

# %% tags=["folded"]
# @title Imports
from typing import Any

import ipywidgets as widgets
import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Markdown, display

from segnb import evaluation, plots
from segnb.checks import check_confusion_matrix, check_mean_iou, judge
from segnb.datasets import IGNORE, WorkingSet
from segnb.experiments.runs import initial_network
from segnb.experiments.splits import load_splits
from segnb.metrics.segmentation import ConfusionScore, score_confusion
from segnb.models import SegmentationNetwork
from segnb.notebook import announce, live_dataset, tier
from segnb.plots import Picture
from segnb.recipe import Recipe, Stage, preset
from segnb.training import Session, finetune, make_accelerator

# %% [markdown]
# **The knobs.** Every setting is here and nowhere else.

# %%
TIER = tier()  # "quick", or "gpu" where there is one ("smoke" is for tests and learns nothing)
DATASET = live_dataset(TIER)
SEED = 0
FEW, MORE = 1 / 32, 1 / 4  # fractions of the training images that are labelled
STEPS = {"smoke": 4, "quick": 400}.get(TIER, 1500)
LOOK_EVERY = {"smoke": 2, "quick": 40}.get(TIER, 150)  # steps between looks at the network

# A smaller network on smaller images, so that a CPU can train while you watch.
small = {
    "smoke": {"size": (48, 64), "crop": (48, 48), "encoder_depth": 3},
    "quick": {"size": (72, 96), "crop": (64, 64), "encoder_depth": 3},
}.get(TIER, {})
recipe = preset(DATASET, TIER).replace(
    **small,
    method="ce",
    seed=SEED,
    fraction=FEW,
    scale=(0.5, 2.0),
    finetune=Stage(steps=STEPS, batch=8, lr=0.05, schedule="poly"),
)

# %% [markdown]
# ## The loss
#
# For a pixel with scores $s_1, \dots, s_C$ and true class $y$, the cross-entropy is
#
# $$-\log \frac{\exp(s_y)}{\sum_c \exp(s_c)},$$
#
# averaged over all pixels that have a label. A network that knows nothing gives every class the
# same score, and its loss is $\log C$. That is our starting point.

# %%
splits = load_splits(recipe)
labelled, val = splits.labelled_set, splits.evaluated["val"][1]
info = val.info
print(f"{len(labelled)} labelled images, {len(val)} for validation, {info.num_classes} classes")
announce({"cross-entropy": recipe})
print(f"loss when knowing nothing: log {info.num_classes} = {np.log(info.num_classes):.2f}")

# %% [markdown]
# ## Train, and look while it trains
#
# `look` runs the network on whole, unaltered images and returns the loss and the mIoU. We call it
# on the labelled images that the network trains on, and on validation images that it never trains
# on. `watch` trains a network and calls `look` every few steps, through the same callback that
# draws the live plots elsewhere in this series.


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
    """Train with cross-entropy; return the network and what we saw along the way."""
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
# Now we train three times, for the same number of steps and from the same initial weights. (The
# estimate above is for one of them.)
#
# - **few labels, plain**: the images as they are, apart from a random crop;
# - **few labels, augmented**: random scale, crop and flip, as in all baselines of this project;
# - **more labels, augmented**: the same, with eight times as many labelled images.

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
# The top row shows the loss, the bottom row the mIoU, with one column per training.

# %% tags=["folded"]
# @title Draw it
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
        f"{name}: final mIoU {seen[-1]['training']['miou']:.0f} in training and "
        f"{seen[-1]['validation']['miou']:.0f} in validation."
        for name, seen in histories.items()
    ),
)

# %% [markdown]
# **How to read it.** The gap between the dashed and the solid line is what the network has
# memorised. On the left, the training curves keep improving. Validation mIoU improves much more
# slowly, so the gap keeps widening. The validation *loss* even rises again: the network becomes
# more certain of its answers, right or wrong, while *mIoU* only asks which class scores highest.
# Augmentation narrows the gap, because the network never sees the same picture twice. In so short
# a training it need not raise the validation mIoU yet: compare the numbers below. More labels
# nearly close it. A small gap doesn't make a good network, though. With more labels, this short
# training isn't accurate either, but its validation loss is the lowest of the three and still
# falling. The gap with few labels is what the paper sets out to close. Notebook 05 draws it again
# for all three methods.

# %% [markdown]
# In a sentence, and the numbers behind the curves:

# %%
gaps = {
    name: seen[-1]["training"]["miou"] - seen[-1]["validation"]["miou"]
    for name, seen in histories.items()
}
display(
    Markdown(
        "**After "
        + f"{STEPS} steps, mIoU is higher on the training images than on new ones by "
        + ", ".join(f"{gap:.0f} points with {name}" for name, gap in gaps.items())
        + ".**"
    )
)
for name, seen in histories.items():
    best = max(seen, key=lambda one: one["validation"]["miou"])
    last = seen[-1]
    gap = last["training"]["miou"] - last["validation"]["miou"]
    rise = last["validation"]["loss"] - min(one["validation"]["loss"] for one in seen)
    print(
        f"{name:24} gap {gap:5.1f}   loss {rise:.2f} above its lowest   "
        f"best mIoU {best['validation']['miou']:.1f} at step {best['step']}"
    )

# %% [markdown]
# **How to read it.** The gap is training mIoU minus validation mIoU at the last look; loss and best
# mIoU are those of validation. If the best validation mIoU came long before the end, or the loss
# ends well above its lowest value, the network spent the remaining steps memorising the training
# images. Stopping early would lower the validation loss, though here it would hardly raise the
# mIoU. It also takes validation labels, and labels are what we are short of.
#
# ## Watch it memorise
#
# Here are two training images and two validation images, as the network sees them along the way.

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
# Without widgets: name the training, and one of the steps in `MOMENTS`.

# %%
name, step = "few labels, plain", MOMENTS[-1]
moment(name, step)

# %% [markdown]
# **How to read it.** The top two rows are training images: the predicted masks come close to the
# truth. The bottom two are new images: outlines are vague, and toys get the wrong class. It is the
# same network at the same moment.

# %% [markdown]
# ## mIoU by hand
#
# Take a tiny picture with three classes and one void pixel. Count every labelled pixel into a
# table, where the row is the true class and the column is the predicted one. This table is the
# **confusion matrix**.

# %%
truth = torch.tensor([[0, 0, 0, 1], [0, 0, 1, 1], [2, 2, 1, IGNORE]])
guess = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 0], [2, 1, 1, 1]])

matrix = torch.zeros(3, 3, dtype=torch.long)
for row, column in zip(truth.flatten().tolist(), guess.flatten().tolist(), strict=True):
    if row != IGNORE:
        matrix[row, column] += 1
print(matrix)

# %% [markdown]
# For each class, three groups of pixels matter. Correct pixels are on the diagonal ($n_{cc}$).
# Missed pixels belong to the class but were predicted as something else: they are the rest of its
# row. False alarms were predicted as the class but belong elsewhere: they are the rest of its
# column. The union is all three together:
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
# Three rules to remember. Breaking any of them is a common mistake, and notebook 10 shows all three
# in action:
#
# - Count the pixels of the **whole split** into one matrix before you divide anything.
# - **Void** pixels are never counted.
# - A class that occurs neither in the masks nor in the predictions has no IoU, so leave it out of
#   the mean.

# %% [markdown]
# ## Reading a confusion matrix
#
# Now let's do this for the baseline, on all validation images. Each row is divided by its sum, so
# it shows where 100 pixels of that class end up.

# %%
confusion = ConfusionScore(info.num_classes)
network = networks["few labels, augmented"]
for index, scores in evaluation.score_maps(network, val, session=Session(accelerator=accelerator)):
    mask = val.masks[index, : scores.shape[1], : scores.shape[2]]
    confusion.update(scores.argmax(0).cpu(), mask)
counts = confusion.confusion().double()
fate = (100 * counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()

# %% tags=["folded"]
# @title Draw it
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
    axes.set(xlabel="predicted as", ylabel="true class", title="where 100 pixels of a class end up")
Picture(
    figure,
    "Confusion matrix of the baseline on validation images, in percent of the true class. Correct: "
    + ", ".join(f"{n} {fate[c, c]:.0f}" for c, n in enumerate(info.class_names))
    + ".",
)

# %% [markdown]
# **How to read it.** The diagonal is what the network got right. A column that is dark in many rows
# is a class the network falls back on. When it is unsure about a toy, it bets on a few classes:
# here on starfish, towel and sand. Only then look for pairs. Balls and swim rings are both round;
# towels and kites both have four corners. Is a toy mistaken for one with a similar outline *more
# often* than its row and column suggest? Here is the most frequent mistake:

# %%
wrong = fate - np.diag(np.diag(fate))
true_class, taken_for = np.unravel_index(wrong.argmax(), wrong.shape)
Markdown(
    f"Of 100 pixels of {info.class_names[true_class]}, {wrong.max():.0f} are taken for "
    f"{info.class_names[taken_for]} and {fate[true_class, true_class]:.0f} are right."
)

# %% [markdown]
# The IoU of each class comes from the same matrix. (Its mIoU may differ by a tenth of a point from
# the last look above. On hardware that trains in bf16, the looks during training used bf16 too, and
# this one uses float32.)

# %%
result = score_confusion(confusion.confusion())
for class_name, iou in zip(info.class_names, result.iou, strict=True):
    print(f"{class_name:10} {'–' if iou is None else f'{iou:5.1f}'}")
print(f"{'mIoU':10} {result.miou:5.1f}   (correct pixels: {result.pixel_accuracy:.1f} %)")

# %% [markdown]
# **How to read it.** The share of correct pixels is far above the mIoU. Large classes dominate the
# first; all classes count equally in the second.

# %% [markdown]
# ## Exercise 1: the confusion matrix
#
# Write `confusion_matrix(prediction, mask, num_classes)`: counts with one row per true class and
# one column per predicted class, without void. Try to do it without a loop over pixels: `bincount`
# counts how often each number occurs in a list. How could you turn a *pair* of classes into one
# number?


# %%
# EXERCISE confusion_matrix
def confusion_matrix(
    prediction: torch.Tensor, mask: torch.Tensor, num_classes: int
) -> torch.Tensor:
    """Counts [num_classes, num_classes]: rows true, columns predicted; 255 in mask is void."""
    ...


judge(check_confusion_matrix, confusion_matrix)

# %% [markdown]
# A solution is folded away below. Open it once your own passes, or when you are stuck.


# %% tags=["solution"]
# SOLUTION confusion_matrix
def confusion_matrix(
    prediction: torch.Tensor, mask: torch.Tensor, num_classes: int
) -> torch.Tensor:
    """Counts [num_classes, num_classes]: rows true, columns predicted; 255 in mask is void."""
    counted = mask != IGNORE
    pairs = num_classes * mask[counted].long() + prediction[counted].long()
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


judge(check_confusion_matrix, confusion_matrix)

# %% [markdown]
# ## Exercise 2: from the matrix to mIoU
#
# Write `mean_iou(matrix)`, in percent. A class that occurs neither in the masks nor in the
# predictions has no IoU. Leave it out of the mean instead of counting it as 0 or as 100.


# %%
# EXERCISE mean_iou
def mean_iou(matrix: torch.Tensor) -> float:
    """Mean IoU in percent from a confusion matrix, over the classes that occur."""
    ...


judge(check_mean_iou, mean_iou)

# %% [markdown]
# One possible solution, folded away:


# %% tags=["solution"]
# SOLUTION mean_iou
def mean_iou(matrix: torch.Tensor) -> float:
    """Mean IoU in percent from a confusion matrix, over the classes that occur."""
    right = matrix.diagonal().double()
    union = matrix.sum(0) + matrix.sum(1) - right
    return float(100 * (right / union)[union > 0].mean())


judge(check_mean_iou, mean_iou)

# %% [markdown]
# ## Summary
#
# - With few labels, cross-entropy fits the training images much faster than it improves on
#   validation images. The gap is what it has memorised.
# - Augmentation and more labels narrow that gap. To be a fair opponent, every baseline in this
#   project is trained with augmentation.
# - mIoU comes from **one** confusion matrix over the whole split, without void, averaged over the
#   classes that occur.
#
# **Where to go next.** [Notebook 03](03_contrastive_loss_from_scratch.ipynb) builds the loss that
# is meant to do better, starting from a single pixel.
