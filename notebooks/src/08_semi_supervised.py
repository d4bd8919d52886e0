# %% [markdown]
# # 08 · Semi-supervised: pseudo-labels
#
# So far the unlabelled images have been sitting idle. The paper's semi-supervised recipe puts them
# to use with the help of the network itself: train both stages on the labelled images, let the
# network label the others, then run both stages again on all of them. Here the second run starts
# from fresh weights.
#
# A network that learns from its own guesses can also learn its own mistakes. So this notebook goes
# step by step. We train, *look at the pseudo-labels and their errors*, choose a threshold and run
# the second round. Then we compare, with a baseline that gets the second round's compute too.
#
# Time: about ten minutes on two processor cores, mostly for three short trainings; about twice as
# long on a CPU without bf16.

# %% [markdown]
# **Imports.** The stages are plain functions that take a network and a set of images, so a second
# round simply means calling them again.

# %% tags=["folded"]
# @title Imports
from collections import Counter

import ipywidgets as widgets
import numpy as np
import torch
from IPython.display import Markdown, display

from segnb import evaluation, plots
from segnb.checks import check_confident_labels, check_pseudo_quality, judge
from segnb.datasets import IGNORE
from segnb.errors import ConfigError
from segnb.experiments.runs import find_folder, initial_network, load_network, run
from segnb.experiments.splits import load_splits
from segnb.notebook import announce, command, live_dataset, project_path, tier
from segnb.plots import Picture
from segnb.recipe import preset
from segnb.results import ledger, overview, table
from segnb.results.method import Method
from segnb.training import Session, finetune, make_accelerator, pretrain, pseudo_label
from segnb.training.log import read_log
from segnb.widgets.live import live

# %% [markdown]
# **Settings.** They are all here. `SHORTER` divides the steps of a reported run; 1 trains at full
# length.

# %%
TIER = tier()  # "quick", or "gpu" where there is one ("smoke" is for tests and learns nothing)
DATASET = live_dataset(TIER)
FRACTION = 1 / 16  # share of the training images that are labelled
THRESHOLD = 0.7  # minimum confidence of a pseudo-label
SEED = 0
SHORTER = 2 if TIER == "gpu" else 4
IMAGE = 0  # the unlabelled image to look at closely
RESULTS = project_path("results")  # the ledger to read; a notebook never writes to it
RUNS = project_path("runs") / "semi_supervised"  # this notebook's own runs and ledger

# %% [markdown]
# ## Round one
#
# This is a `contrastive` run as in notebook 05, on the labelled images alone.

# %%
whole = preset(DATASET, TIER).replace(fraction=FRACTION, seed=SEED)
first = whole.shorter(SHORTER).replace(method="contrastive")
announce({"round one": first})
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
# For each unlabelled image, the network gives every pixel a score for every class. The softmax
# turns scores into probabilities. The class with the largest probability is the pseudo-label, and
# that probability is its *confidence*. We keep both for all unlabelled images.

# %%
session = Session(accelerator=make_accelerator(first.precision))
network = load_network(find_folder(first, RUNS))
labels, confidence = [], []
for _, scores in evaluation.score_maps(network, unlabelled, session=session):
    sure, label = scores.softmax(0).max(0)
    labels.append(label.cpu())
    confidence.append(sure.cpu())
mean = torch.cat([one.flatten() for one in confidence]).mean()
print(f"{len(labels)} images, mean confidence {mean:.2f}")

# %% [markdown]
# Here is what that looks like for one image. We *do* have its true mask, since shapes is a data set
# for learning. In real use you wouldn't, and nothing below trains on it.


# %% tags=["folded"]
# @title Draw it
def look(threshold: float, image: int = IMAGE) -> Picture:
    """An unlabelled image, its pseudo-label at a threshold, the errors and the confidence."""
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


# %% [markdown]
# Move the threshold, and go through the images.

# %%
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
# **Without sliders**, here is the same picture with plain variables. Below it is the image with the
# most confident mistakes:


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
# **How to read it.** In the pseudo-label, light grey is where the network was not sure enough.
# Orange marks what it was sure of and got wrong. Compare the errors with the confidence. The
# network doubts edges and whole objects, and rightly so. But in the worst image it is certain of
# large areas and wrong. A threshold does not catch those, and the second round will learn them as
# truth.
#
# ## Exercise 1: keep the confident labels
#
# Scores `[K, h, w]` go in, a mask `[h, w]` comes out: the most likely class where its probability
# is at least the threshold, 255 elsewhere.


# %%
# EXERCISE confident_labels
def confident_labels(scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """The most likely class of each pixel, 255 where its probability is below the threshold."""
    ...


judge(check_confident_labels, confident_labels)

# %% [markdown]
# A solution, folded away. Open it once you have tried.


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
# Two numbers. *Coverage*: what share of the truly labelled pixels has a pseudo-label at all?
# *Accuracy*: of the pixels that have both, what share is right? Void (255) in the truth counts
# nowhere. If there is nothing to compare, return an accuracy of 0.


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
# Here are your two numbers over all unlabelled images, for many thresholds. In real use there is no
# truth for these images; you would hold out some labelled ones and measure there. The curves don't
# choose for you: a stricter threshold is more accurate but leaves less to learn from. This notebook
# keeps `THRESHOLD`. To choose, run round two with several thresholds and take the one with the best
# mIoU on validation images.

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
kept = (sure >= THRESHOLD) & (truth != IGNORE)
per_class = [
    100 * float((guess == truth)[kept & (guess == c)].float().mean())
    if (kept & (guess == c)).any()
    else 0.0
    for c in range(info.num_classes)
]

# %% tags=["folded"]
# @title Draw it
with plots.styled():
    figure = plots.new_figure(7.2, 2.8)
    left, right = figure.subplots(1, 2)
    left.plot(thresholds, 100 * quality[:, 0], color="#4d4d4d", label="coverage")
    left.plot(thresholds, 100 * quality[:, 1], "--", color="#0072B2", label="accuracy")
    left.axvline(THRESHOLD, color="#D55E00", linewidth=1, label="THRESHOLD")
    left.set(xlabel="threshold", ylabel="% of pixels", ylim=(0, 102))
    right.barh(range(info.num_classes), per_class, color=[np.divide(c, 255) for c in info.palette])
    for c in range(info.num_classes):
        share = 100 * float((kept & (guess == c)).sum() / kept.sum().clamp(min=1))
        words = f"{share:.1f} % of the labels" if (kept & (guess == c)).any() else "no pixel has it"
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
    right.set(xlabel="% right among pixels with this label", xlim=(0, 100))
    right.invert_yaxis()
    plots.legend_below(figure, [left])
at = int(np.abs(thresholds - THRESHOLD).argmin())
shares = zip(info.class_names, per_class, strict=True)
labelled_as = [c for c in range(info.num_classes) if (kept & (guess == c)).any()]
display(
    Markdown(
        f"At threshold {THRESHOLD:g}, {quality[at, 0]:.0%} of the pixels keep a pseudo-label and "
        f"{quality[at, 1]:.0%} of those are right"
        + (
            f"; {info.class_names[min(labelled_as, key=per_class.__getitem__)]} is trusted least "
            f"({min(per_class[c] for c in labelled_as):.0f} % right)."
            if labelled_as
            else "."
        )
    )
)
Picture(
    figure,
    f"Coverage and accuracy of the pseudo-labels against the threshold; at {THRESHOLD:g} "
    f"{100 * quality[at, 0]:.0f} and {100 * quality[at, 1]:.0f} percent. Percent right by class: "
    + ", ".join(f"{name} {share:.0f}" for name, share in shares),
)

# %% [markdown]
# **How to read it.** Left: a higher threshold keeps fewer pixels, and if the confidence is worth
# anything, more of those are right. If the dashed line rises only slowly, many errors are confident
# ones. Right: how far each class's labels can be trusted, and what share of all labels they make
# up. Large easy areas lift the overall accuracy, but the second round learns the rare classes from
# the labels behind these bars. A threshold removes rare classes first, since the network is seldom
# sure of them, so in the union they become rarer still. In a recipe the threshold is called
# `pseudo_threshold`, and like every other choice it must not be made on test images.
#
# ## Combine the two
#
# The second round trains on both kinds of labels: the true masks of the labelled images and the
# pseudo-masks of all others. The true masks of those others exist in this data set, but they are
# off limits. The function works on a copy, so the pseudo-masks stay as they are for another
# threshold.


# %%
def union_masks(
    true_masks: torch.Tensor, pseudo_masks: torch.Tensor, labelled: torch.Tensor
) -> torch.Tensor:
    """True masks [N, H, W] of labelled images, pseudo-masks of the others."""
    masks = pseudo_masks.clone()
    masks[labelled] = true_masks[labelled]
    return masks


# %% [markdown]
# ## Round two
#
# Now we train both stages again, on the union. Two things are easy to get wrong. The network must
# start from *fresh* weights (the same initial weights as in round one, so that only the labels
# differ), and the true labels of the unlabelled images must stay unseen. The stages get names of
# their own, so that the logs and checkpoints of the two rounds don't get mixed up. `segnb run
# --method pseudo` does all of this in one go.

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
    print("Hardly any: the network is not yet sure of much. Train longer, or lower THRESHOLD.")
folder = find_folder(second, RUNS)
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
        "round one": read_log(find_folder(first, RUNS) / "log.jsonl"),
        "round two": [{**row, "stage": row["stage"].removesuffix("-pseudo")} for row in log],
    }
)

# %% [markdown]
# **How to read it.** Right: the fine-tuning loss may end up *below* that of round one, even though
# there are many more images. Pseudo-labels are what such a network finds easy to predict, and the
# hard pixels are void. Agreeing with yourself is no evidence; only the validation images provide
# that. Left: don't compare the heights. Void pixels change how many pixels an anchor is compared
# with, and the height of the contrastive loss depends on that number (for the paper form, notebook
# 04 shows how its floor moves).
#
# ## An honest comparison
#
# Two rounds cost twice as much as one. If the second round is better, is that thanks to the
# pseudo-labels, or simply to more training? To find out, we train cross-entropy on the labelled
# images alone, with the same colour distortion and as many images through the network as both
# rounds together. This baseline is called `ce_double`; it is to pseudo-labels what `ce_long` is to
# one round.

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
Markdown(
    f"**The second round changes mIoU by {second_score.miou - first_row['miou_val']:+.1f} points "
    f"from the first. Beside cross-entropy with the compute of both rounds it is "
    f"{second_score.miou - cost_row['miou_val']:+.1f} points. This is one seed.**"
)

# %% [markdown]
# **How to read it.** The first difference says whether the pseudo-labels did any good, the second
# whether they were worth their compute. A second round *can* lose: look back at the bars to see
# which classes it learned from mostly wrong labels. One seed can't even be trusted for the
# direction: two runs with different seeds may well be a few points apart.
#
# And here is what the three predict on the same validation images:

# %%
few = val.subset(list(val.ids[:3]))
networks = {
    "cross-entropy": load_network(find_folder(same_cost, RUNS)),
    "round one": load_network(find_folder(first, RUNS)),
    "round two": network,
}
plots.predictions(
    list(few.images),
    list(few.masks),
    {name: list(evaluation.predict(one, few, session=session)) for name, one in networks.items()},
    info,
)

# %% [markdown]
# **How to read it.** Look at the mistakes of round one. Are they gone in round two, or have they
# become firmer, with cleaner edges? The latter is what learning from your own guesses looks like. A
# short run with one seed can't settle more than that. The ledger can, where it holds such runs.

# %%
all_rows = ledger.read(RESULTS / "ledger.jsonl")
held = [row for row in all_rows if row["method"] == "pseudo"]
if not held:
    print("The ledger holds no semi-supervised run yet. One such run, both rounds at full length:")
    longer = whole.replace(method="pseudo", pseudo_threshold=THRESHOLD)
    print(command(longer.command(), runs=project_path("runs"), results=RESULTS))
for dataset, size in sorted({(row["dataset"], row["tier"]) for row in held}):
    pseudo = table.select(held, dataset=dataset, tier=size)
    # Where most such runs are, with what they started from and what cost as much.
    labelled = Counter(row["labelled"] for row in pseudo).most_common(1)[0][0]
    of_pseudo = Method.of(pseudo[0])
    started = Method(kind="contrastive", form=of_pseudo.form, scope=of_pseudo.scope)
    shown = {Method(kind="ce"), Method(kind="ce_double"), started, *map(Method.of, pseudo)}
    try:
        plain = overview.comparable(all_rows, dataset=dataset, tier=size)
    except ConfigError:
        continue  # only studies that change more than the method
    beside = [r for r in plain if r["labelled"] == labelled and Method.of(r) in shown]
    display(Markdown(f"**{dataset}, {size} tier**\n\n{table.results_table(beside)}"))


# %% [markdown]
# **How to read it.** First compare pseudo-labels with the contrastive run they started from: same
# form, same scope. Then compare them with cross-entropy of the *compute of two rounds*, which is
# what pseudo-labels took. On CamVid the second round has not paid: its means are below those of the
# first round, and further below those of cross-entropy, on val and on test. The intervals overlap,
# so three seeds don't settle by how much.
#
# ## Summary
#
# - Pseudo-labels turn unlabelled images into training images, errors included.
# - Look at them before you train on them: coverage, accuracy, and which classes the errors hit.
# - A threshold trades coverage for accuracy; confident mistakes pass any threshold.
# - Two rounds cost two rounds. Give the baseline the same, or the comparison is worth nothing. With
#   it, pseudo-labels have not paid here so far.
#
# **Where to go next.** All of this on real images, on larger machines, with runs that survive an
# interruption: [09 · Real data at scale](09_real_data_at_scale.ipynb)
