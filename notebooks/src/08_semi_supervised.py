# %% [markdown]
# # 08 · Semi-supervised: pseudo-labels
#
# So far the unlabelled images lay idle. The paper's semi-supervised recipe uses them with the help
# of the network itself: train both stages on the labelled images, let the network label the others,
# then run both stages again, from fresh weights, on all of them.
#
# A network that learns from its own guesses can also learn its own mistakes. So this notebook walks
# slowly: train, *look at the pseudo-labels and their errors*, choose a threshold, second round, and
# a comparison in which the second round's compute is paid for.
#
# Time: about ten minutes on two processor cores, most of it three short trainings.

# %% [markdown]
# **What we need.** The stages are plain functions that take a network and a set of images; that is
# why a second round is no more than calling them again.

# %% tags=["folded"]
# @title Imports
import dataclasses

import ipywidgets as widgets
import numpy as np
import torch
from IPython.display import Markdown, display

from segnb import evaluation, plots
from segnb.checks import (
    check_confident_labels,
    check_pseudo_quality,
    check_union_masks,
    judge,
)
from segnb.datasets import IGNORE
from segnb.errors import ConfigError
from segnb.experiments.runs import initial_network, load_network, load_splits, run, run_folder
from segnb.notebook import project_path, tier
from segnb.plots import Picture
from segnb.recipe import preset
from segnb.results import ledger, overview, table
from segnb.training import Session, finetune, make_accelerator, pretrain, pseudo_label
from segnb.training.log import read_log
from segnb.widgets.live import live

# %% [markdown]
# **The knobs.** All of them. `SHORTER` takes that part of a reported run's steps; 1 trains the
# whole.

# %%
DATASET = "shapes"
FRACTION = 1 / 16  # share of the training images whose labels are used
THRESHOLD = 0.7  # least confidence of a pseudo-label
SEED = 0
SHORTER = 4
IMAGE = 0  # which unlabelled image is looked at closely
RESULTS = project_path("results")  # the ledger that is read; a notebook never writes into it
RUNS = project_path("runs") / "semi_supervised"  # this notebook's runs and a ledger of their own

# %% [markdown]
# ## Round one
#
# A `contrastive` run as in notebook 05, on the labelled images alone.

# %%
whole = preset(DATASET, tier()).replace(fraction=FRACTION, seed=SEED)
first = whole.replace(
    method="contrastive",
    pretrain=dataclasses.replace(
        whole.pretrain,
        steps=max(whole.pretrain.steps // SHORTER, 4),
        warmup=whole.pretrain.warmup // SHORTER,
    ),
    finetune=dataclasses.replace(whole.finetune, steps=max(whole.finetune.steps // SHORTER, 4)),
)
splits = load_splits(first)
train, info = splits.train, splits.train.info
known = set(splits.labelled)
labelled = torch.tensor([name in known for name in train.ids])
unlabelled = train.subset([name for name in train.ids if name not in known])
print(f"{int(labelled.sum())} labelled images, {len(unlabelled.ids)} without labels")
first_row = run(first, runs=RUNS, results=RUNS)
print(f"round one: mIoU {first_row['miou_val']:.1f} on val, {first_row['seconds']:.0f} s")

# %% [markdown]
# ## What the network says about the others
#
# For each unlabelled image the network gives every pixel a score for every class. The softmax turns
# scores into probabilities; the largest is the pseudo-label, and its value the *confidence*. We
# keep both for all unlabelled images.

# %%
session = Session(accelerator=make_accelerator(first.precision))
network = load_network(run_folder(first, RUNS))
labels, confidence = [], []
for _, scores in evaluation.score_maps(network, unlabelled, session=session):
    sure, label = scores.softmax(0).max(0)
    labels.append(label.cpu())
    confidence.append(sure.cpu())
mean = torch.cat([one.flatten() for one in confidence]).mean()
print(f"{len(labels)} images, mean confidence {mean:.2f}")

# %% [markdown]
# Here is what that looks like for one image. We *do* have its true mask, since shapes is a data set
# for learning; in real use you would not, and nothing below trains on it.


# %%
def look(threshold: float, image: int = IMAGE) -> Picture:
    """An unlabelled image, its pseudo-label at a threshold, what is wrong, and the confidence."""
    truth, guess, sure = unlabelled.masks[image].long(), labels[image], confidence[image]
    height, width = guess.shape
    truth = truth[:height, :width]
    kept = guess.where(sure >= threshold, torch.full_like(guess, IGNORE))
    wrong = (kept != truth) & (kept != IGNORE) & (truth != IGNORE)
    photo = unlabelled.images[image, :, :height, :width].permute(1, 2, 0).numpy()
    marked = np.where(wrong.numpy()[..., None], np.array([213, 94, 0], np.uint8), photo // 2 + 110)
    panels = {
        "image": photo,
        "true mask (unseen)": plots.colour_mask(truth, info),
        f"pseudo-label, ≥ {threshold:g}": plots.colour_mask(kept, info),
        "errors": marked,
    }
    with plots.styled():
        figure = plots.new_figure(7.2, 1.75)
        axes = figure.subplots(1, 5)
        for place, (title, picture) in zip(axes[:4], panels.items(), strict=True):
            place.imshow(picture, interpolation="nearest")
            place.set_title(title, fontsize=8)
        drawn = axes[4].imshow(sure, cmap="cividis", vmin=0, vmax=1)
        axes[4].set_title("confidence", fontsize=8)
        figure.colorbar(drawn, ax=axes[4], fraction=0.046, ticks=[0, 0.5, 1])
        for place in axes:
            place.set(xticks=[], yticks=[])
            place.grid(visible=False)
            place.spines[:].set_visible(False)
    share = float((kept != IGNORE).float().mean())
    return Picture(
        figure,
        f"Image, true mask, pseudo-label at threshold {threshold:g} covering {share:.0%} of the "
        f"pixels, its errors, and the confidence",
    )


live(
    look,
    {
        "threshold": widgets.FloatSlider(
            value=THRESHOLD,
            min=0,
            max=0.99,
            step=0.01,
            description="threshold",
            continuous_update=False,
        ),
        "image": widgets.IntSlider(
            value=IMAGE, min=0, max=len(labels) - 1, description="image", continuous_update=False
        ),
    },
)

# %% [markdown]
# **Without sliders**, the same picture with plain variables, and below it the image in which most
# pixels got a wrong label that the network was sure of:


# %%
def sure_and_wrong(image: int) -> float:
    """Share of an image's pixels with a wrong label above the threshold."""
    guess, sure = labels[image], confidence[image]
    truth = unlabelled.masks[image, : guess.shape[0], : guess.shape[1]]
    return float(((guess != truth) & (sure >= THRESHOLD) & (truth != IGNORE)).float().mean())


worst = max(range(len(labels)), key=sure_and_wrong)
display(look(THRESHOLD, IMAGE), look(THRESHOLD, worst))
print(f"below: image {worst}, {sure_and_wrong(worst):.0%} of its pixels wrong and sure")

# %% [markdown]
# **How to read it.** Light grey in the pseudo-label is where the network was not sure enough;
# orange marks what it was sure of and got wrong. Compare the errors with the confidence: the
# network doubts edges and whole objects, which is right of it; but in the worst image it is certain
# of large areas and wrong. A threshold does not catch those, and the second round will be taught
# them as truth.
#
# ## Exercise 1: labels one is sure of
#
# Scores `[K, h, w]` in, a mask `[h, w]` out: the most likely class where its probability is at
# least the threshold, 255 elsewhere.


# %%
# EXERCISE confident_labels
def confident_labels(scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """The most likely class of each pixel, 255 where its probability is below the threshold."""
    ...


judge(check_confident_labels, confident_labels)

# %% [markdown]
# A solution, folded away. Open it when you have tried.


# %% tags=["solution"]
# SOLUTION confident_labels
def confident_labels(scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """The most likely class of each pixel, 255 where its probability is below the threshold."""
    probability, label = scores.softmax(0).max(0)
    label[probability < threshold] = 255
    return label


judge(check_confident_labels, confident_labels)

# %% [markdown]
# ## Exercise 2: how good are they?
#
# Two numbers. *Coverage*: which share of the truly labelled pixels has a pseudo-label at all?
# *Accuracy*: of the pixels that have both, which share is right? Void (255) in the truth counts
# nowhere; return 0 for an accuracy of nothing.


# %%
# EXERCISE pseudo_quality
def pseudo_quality(pseudo: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    """Coverage and accuracy of pseudo-labels, as shares between 0 and 1."""
    ...


judge(check_pseudo_quality, pseudo_quality)

# %% [markdown]
# A solution, folded away.


# %% tags=["solution"]
# SOLUTION pseudo_quality
def pseudo_quality(pseudo: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    """Coverage and accuracy of pseudo-labels, as shares between 0 and 1."""
    counted = truth != 255
    both = counted & (pseudo != 255)
    coverage = int(both.sum()) / max(int(counted.sum()), 1)
    accuracy = int((pseudo == truth)[both].sum()) / max(int(both.sum()), 1)
    return coverage, accuracy


judge(check_pseudo_quality, pseudo_quality)

# %% [markdown]
# ## Choosing a threshold
#
# Your two numbers over all unlabelled images, for many thresholds. In real use there is no truth
# for these images; one would hold out some labelled ones and measure there.

# %%
truths = [
    mask[: label.shape[0], : label.shape[1]].long()
    for mask, label in zip(unlabelled.masks, labels, strict=True)
]
truth, guess, sure = (
    torch.cat([one.flatten() for one in many]) for many in (truths, labels, confidence)
)
thresholds = np.linspace(0, 0.99, 34)
quality = np.array(
    [
        pseudo_quality(guess.where(sure >= t, torch.full_like(guess, IGNORE)), truth)
        for t in thresholds
    ]
)
with plots.styled():
    figure = plots.new_figure(7.2, 2.8)
    left, right = figure.subplots(1, 2)
    left.plot(thresholds, 100 * quality[:, 0], color="#4d4d4d", label="coverage")
    left.plot(thresholds, 100 * quality[:, 1], "--", color="#0072B2", label="accuracy")
    left.axvline(THRESHOLD, color="#D55E00", linewidth=1, label="THRESHOLD")
    left.set(xlabel="threshold", ylabel="% of pixels", ylim=(0, 102))
    kept = (sure >= THRESHOLD) & (truth != IGNORE)
    per_class = [
        100 * float((guess == truth)[kept & (guess == c)].float().mean())
        if (kept & (guess == c)).any()
        else 0.0
        for c in range(info.num_classes)
    ]
    right.barh(range(info.num_classes), per_class, color=[np.divide(c, 255) for c in info.palette])
    for c in range(info.num_classes):
        share = 100 * float((kept & (guess == c)).sum() / kept.sum().clamp(min=1))
        words = f"{share:.1f} % of the labels" if (kept & (guess == c)).any() else "no pixel got it"
        inside = per_class[c] > 60
        right.text(
            per_class[c] + (-1 if inside else 1),
            c,
            words,
            ha="right" if inside else "left",
            va="center",
            fontsize=6.5,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6},
        )
    right.set_yticks(range(info.num_classes), info.class_names, fontsize=7)
    right.set(xlabel="% right of what got this label", xlim=(0, 100))
    right.invert_yaxis()
    plots.legend_below(figure, [left])
at = int(np.abs(thresholds - THRESHOLD).argmin())
shares = zip(info.class_names, per_class, strict=True)
Picture(
    figure,
    f"Coverage and accuracy of the pseudo-labels against the threshold; at {THRESHOLD:g} "
    f"{100 * quality[at, 0]:.0f} and {100 * quality[at, 1]:.0f} percent. Percent right by class: "
    + ", ".join(f"{name} {share:.0f}" for name, share in shares),
)

# %% [markdown]
# **How to read it.** Left: a higher threshold keeps fewer pixels, and more of those are right, if
# the confidence is worth anything. The dashed line rising slowly means that many errors are
# confident ones. Right: how far a label can be trusted, class by class, and which part of all labels
# it is. Large easy areas lift the overall accuracy; the second round learns the rare classes from
# these bars. A threshold takes rare classes away first, since the network is seldom sure of them:
# in the union they become rarer still. The threshold stands in a recipe as `pseudo_threshold`, and
# like every choice it must not be made on test images.
#
# ## Exercise 3: bring both together
#
# True masks of all training images (of the unlabelled ones you must not use them), pseudo-masks of
# all, and a row of booleans that says which images are labelled. Return the masks the second round
# is trained on, and leave the ones you were given untouched.


# %%
# EXERCISE union_masks
def union_masks(
    true_masks: torch.Tensor, pseudo_masks: torch.Tensor, labelled: torch.Tensor
) -> torch.Tensor:
    """True masks [N, H, W] of labelled images, pseudo-masks of the others."""
    ...


judge(check_union_masks, union_masks)

# %% [markdown]
# A solution, folded away.


# %% tags=["solution"]
# SOLUTION union_masks
def union_masks(
    true_masks: torch.Tensor, pseudo_masks: torch.Tensor, labelled: torch.Tensor
) -> torch.Tensor:
    """True masks [N, H, W] of labelled images, pseudo-masks of the others."""
    masks = pseudo_masks.clone()
    masks[labelled] = true_masks[labelled]
    return masks


judge(check_union_masks, union_masks)

# %% [markdown]
# ## Round two
#
# Now the union, and both stages again. Two things are easy to get wrong: the network starts from
# *fresh* weights (the same first weights as in round one, so that only the labels differ), and the
# true labels of the unlabelled images stay unseen. The stages get names of their own, so that log
# and checkpoints of the rounds don't mix. All of this is what `segnb run --method pseudo` does in
# one go.

# %%
second = first.replace(method="pseudo", pseudo_threshold=THRESHOLD)
guessed = pseudo_label(
    train,
    evaluation.score_maps(network, train, session=session),
    threshold=THRESHOLD,
)
union = train.with_masks(union_masks(train.masks, guessed.masks, labelled))
coverage = float((guessed.masks[~labelled] != IGNORE).float().mean())
print(f"{coverage:.0%} of the pixels of the unlabelled images have a pseudo-label")
if coverage < 0.05:
    print("Hardly any: the network is not sure of much yet. Train longer, or lower THRESHOLD.")
folder = run_folder(second, RUNS)
session = Session(accelerator=make_accelerator(second.precision), folder=folder)
network = initial_network(second)
log = pretrain(network, union, second, session=session, name="pretrain-pseudo")
log += finetune(network, union, second, session=session, name="finetune-pseudo")
val_split, val = splits.evaluated["val"]
second_score = evaluation.evaluate(network, val_split, val, session=session)
print(
    f"round two: mIoU {second_score.miou:.1f} on val; after round one {first_row['miou_val']:.1f}"
)

# %% [markdown]
# The losses of both rounds, the second on the union:

# %%
plots.loss_curves(
    {
        "round one": read_log(run_folder(first, RUNS) / "log.jsonl"),
        "round two": [{**row, "stage": row["stage"].removesuffix("-pseudo")} for row in log],
    }
)

# %% [markdown]
# **How to read it.** Right: the fine-tuning loss may lie *below* that of round one although there are
# many more images, since pseudo-labels are what such a network finds easy to predict, and the hard
# pixels are void. Agreement with oneself is no evidence; only the validation images are. Left: don't
# compare the heights. The paper form of the loss has a floor that grows with the number of pixels of
# an anchor's class (notebook 04), and void pixels change that number.
#
# ## An honest comparison
#
# Two rounds cost twice as much as one. If the second round is better, is it the pseudo-labels, or
# simply more training? So here is cross-entropy on the labelled images alone, with as many images
# through the network as both rounds together and the same colour distortion: `ce_double`, to
# pseudo-labels what `ce_long` is to one round.

# %%
same_cost = second.replace(method="ce_double")
cost_row = run(same_cost, runs=RUNS, results=RUNS)
outcomes = {
    "cross-entropy, compute of both rounds": (same_cost, cost_row["miou_val"]),
    "contrastive, round one": (first, first_row["miou_val"]),
    "pseudo-labels, round two": (second, second_score.miou),
}
lines = ["| | images through the network | mIoU, val |", "| --- | ---: | ---: |"]
lines += [f"| {n} | {r.image_passes():,} | {m:.1f} |" for n, (r, m) in outcomes.items()]
display(Markdown("\n".join(lines)))
for name, score in (
    ("round one", first_row["miou_val"]),
    ("cross-entropy with the compute of both", cost_row["miou_val"]),
):
    print(f"round two against {name}: {second_score.miou - score:+.1f} points")

# %% [markdown]
# **How to read it.** The first difference tells whether the pseudo-labels did any good, the second
# whether they were worth their compute. A second round *can* lose: look back at the bars to see
# which classes it was taught next to nothing of. One seed tells no more than the direction, and two
# runs of different seeds may well lie a few points apart.
#
# And what the three say about the same validation images:

# %%
few = val.subset(list(val.ids[:3]))
networks = {
    "cross-entropy": load_network(run_folder(same_cost, RUNS)),
    "round one": load_network(run_folder(first, RUNS)),
    "round two": network,
}
plots.predictions(
    list(few.images),
    list(few.masks),
    {name: list(evaluation.predict(one, few, session=session)) for name, one in networks.items()},
    info,
)

# %% [markdown]
# **How to read it.** Compare round one with round two where round one was wrong: has the mistake
# gone, or has it become firmer and cleaner at the edges? The latter is what learning from one's own
# guesses looks like. A short run with one seed can't settle more than that; the ledger can, where
# it holds such runs.

# %%
all_rows = ledger.read(RESULTS / "ledger.jsonl")
held = [row for row in all_rows if row["method"] == "pseudo"]
if not held:
    print("The ledger holds no semi-supervised run yet. One such run, both rounds, whole length:")
    print(f"  {whole.replace(method='pseudo', pseudo_threshold=THRESHOLD).command()}")
for dataset, size in sorted({(row["dataset"], row["tier"]) for row in held}):
    counts = {row["labelled"] for row in table.select(held, dataset=dataset, tier=size)}
    try:
        plain = overview.comparable(all_rows, dataset=dataset, tier=size)
    except ConfigError:
        continue  # nothing but studies that change more than the method
    beside = [row for row in plain if row["labelled"] in counts]
    display(Markdown(f"**{dataset}, {size} tier**\n\n{table.results_table(beside)}"))

# %% [markdown]
# **How to read it.** Compare pseudo-labels with the contrastive run they began with: same form, same
# scope. Then with cross-entropy: *same compute* in this table is the compute of one round, *compute of
# two rounds* that of both, which pseudo-labels took. Two seeds have no interval worth the name.
#
# ## Summary
#
# - Pseudo-labels turn unlabelled images into training images, errors included.
# - Look at them before training on them: coverage, accuracy, and which classes the errors hit.
# - A threshold trades coverage for accuracy; confident mistakes pass any threshold.
# - Two rounds cost two rounds. The baseline gets the same, or the comparison is worth nothing.
#
# **Where to go next.** All this on real images, on larger machines, with runs that survive an
# interruption: [09 · Real data at scale](09_real_data_at_scale.ipynb)
