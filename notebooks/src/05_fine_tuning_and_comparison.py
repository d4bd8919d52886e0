# %% [markdown]
# # 05 · Fine-tuning and comparison
#
# After stage 1 the network has never been told which cluster is called what. Stage 2 does that: the
# projection head goes, a pixel classifier comes in its place, and the *whole* network is fine-tuned
# with cross-entropy. Then comes the question that everything hangs on: was stage 1 worth its time?
#
# You will
# - take the head off, put a classifier on, and see what it knows before fine-tuning,
# - set the method against two baselines, one of which gets exactly the same compute,
# - look at predictions side by side and at every class on its own,
# - read the ledger's comparison with intervals, and learn when it says "we don't know yet".
#
# Time: some minutes on two processor cores, for three short trainings.

# %% [markdown]
# **What we need.** `segnb.experiments.runs.run` trains a recipe, measures it and keeps everything in one
# folder. What is there already is not trained again.

# %% tags=["folded"]
# @title Imports
import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from IPython.display import Markdown, display

from segnb import datasets, evaluation, plots, report
from segnb.checks import check_gain_by_class, check_paired_gain, judge
from segnb.errors import ConfigError
from segnb.experiments.runs import load_network, load_splits, run, run_folder
from segnb.metrics.segmentation import score_confusion
from segnb.models import count_parameters
from segnb.notebook import project_path, tier
from segnb.recipe import preset
from segnb.results import ledger, overview, table
from segnb.results.method import Method
from segnb.training import Session

# %% [markdown]
# **The knobs.** All of them. Both stages get a reported run's steps divided by `SHORTER`, so that
# three trainings fit into minutes; 1 trains the whole.

# %%
DATASET = "shapes"
FRACTION = 1 / 32  # share of the training images whose labels are used
SEED = 0
SHORTER = 5
RESULTS = project_path("results")  # the ledger that is read; a notebook never writes into it
RUNS = project_path("runs") / "comparison"  # this notebook's runs, with a small ledger of their own

# %% [markdown]
# ## The three methods
#
# | method | what it does |
# | --- | --- |
# | `contrastive` | stage 1 with the contrastive loss, then stage 2 |
# | `ce` | stage 2 alone, from scratch: the same *fine-tuning steps* |
# | `ce_long` | cross-entropy with the *compute* and the colour distortion of both stages |
#
# `ce` is what papers often compare with, and it is not enough. Stage 1 costs steps; each of its
# steps sends every image through the network twice, as it is and distorted; and the distortion is
# an augmentation that may help cross-entropy too. `ce_long` gets all of that. The recipe counts it
# out:

# %%
whole = preset(DATASET, tier()).replace(fraction=FRACTION, seed=SEED)
short = whole.replace(
    pretrain=dataclasses.replace(
        whole.pretrain,
        steps=max(whole.pretrain.steps // SHORTER, 4),
        warmup=whole.pretrain.warmup // SHORTER,
    ),
    finetune=dataclasses.replace(whole.finetune, steps=max(whole.finetune.steps // SHORTER, 4)),
)
recipes = {method: short.replace(method=method) for method in ("ce", "ce_long", "contrastive")}
for method, recipe in recipes.items():
    stage_one = recipe.pretrain.steps if recipe.uses_contrastive else 0
    print(
        f"{method:>12}: {stage_one:4} steps of stage 1, {recipe.cross_entropy_stage().steps:4} of "
        f"cross-entropy, {recipe.image_passes():6,} images through the network"
    )

# %% [markdown]
# ## Stage 1, then the change of heads
#
# `until="pretrain"` stops after stage 1. The splits tell which images are labelled; all three
# methods get the same ones, and start from the same random weights.

# %%
contrastive = recipes["contrastive"]
splits = load_splits(contrastive)
print(f"{len(splits.labelled)} of {len(splits.train.ids)} training images are labelled")
run(contrastive, runs=RUNS, results=RUNS, until="pretrain")
folder = run_folder(contrastive, RUNS)
network = load_network(folder, weights="pretrained")
head = count_parameters(network.head)
print(f"extractor {(count_parameters(network) - head) / 1e6:.2f} M parameters, head {head:,}")

# %% [markdown]
# Now the change of heads, by hand: `attach_classifier` throws the projection head away and puts a
# 1×1 convolution in its place, one output a class, with random weights. What does the network
# predict in this state, good features and a classifier that has seen nothing?

# %%
val_split, val = splits.evaluated["val"]
torch.manual_seed(0)
network.attach_classifier(val.info.num_classes)
print(f"new head: {count_parameters(network.head):,} parameters")
untaught = evaluation.evaluate(network, val_split, val, session=Session())
counts = torch.bincount(val.masks.flatten(), minlength=256)[: val.info.num_classes].double()
chance = torch.outer(counts, torch.ones_like(counts) / len(counts))  # every class equally often
dice = score_confusion(chance).miou
print(f"mIoU before fine-tuning: {untaught.miou:.1f}; throwing dice would give {dice:.1f}")

# %% [markdown]
# No better than dice, as expected. The clusters may be there, but they have no names, and where
# stage 1 looks within each image alone (`scope="within"`), even the same class need not lie in the
# same place in two images. That is why the paper fine-tunes the whole network and not only the new
# head (`freeze=True` in a recipe tries the other way).
#
# ## Stage 2, and the baselines
#
# The same call without `until` goes on where it stopped. The two baselines follow, with the same
# labels and the same first weights.

# %%
rows = [run(recipe, runs=RUNS, results=RUNS) for recipe in recipes.values()]
for row in rows:
    print(f"{row['method']:>12}: mIoU {row['miou_val']:5.1f} on val, {row['seconds']:.0f} s")

# %% [markdown]
# ## Side by side
#
# Four pictures of the three runs. First the losses.

# %%
figures = report.comparison(rows, RUNS)
figures["loss_curves"]

# %% [markdown]
# **How to read it.** Stage 1 has its own panel: the contrastive loss is another quantity, and its
# height says nothing about the other's; much of its zigzag is its floor's, which moves with the
# crops (notebook 04). In the right panel compare the contrastive line with the grey one, which has
# the same steps and the same images: does it fall sooner, or end lower? Where the two run along
# each other, stage 1 gave no head start in this respect. A training loss near zero with few images
# is no success by itself: notebook 02 showed what overfitting looks like.
#
# The loss is a means. What came of it, on images that no training saw:

# %%
figures["predictions"]

# %% [markdown]
# **How to read it.** Each row is one validation image; below each prediction stands the share of
# its pixels that is right. Large areas decide that share, so look at the small objects too: whether
# they are found at all, whether their class is right, whether their edge is clean.
#
# Six images are soon over-read. So the same over all validation images, one class at a time:

# %%
figures["iou_per_class"]

# %% [markdown]
# **How to read it.** mIoU is the mean of these. A gain may come from all classes or from one that a
# baseline missed altogether, and it is worth knowing which (exercise 1 takes it apart). One seed
# has no interval, and a class with few pixels jumps most from one seed to the next.
#
# And what happened inside, between the two stages:

# %%
figures["embeddings"]

# %% [markdown]
# **How to read it.** The same validation pixels before training, after stage 1 and after stage 2.
# Gathered colours are what the contrastive loss asks for. Find the sky, the sea and the sand in
# each panel: which of them had a place of their own after stage 1, and which needed stage 2?
# Distances between clusters, and their sizes, mean nothing in such a map; notebook 06 measures
# instead.
#
# ## The ledger's comparison
#
# One seed and a short run teach how it is done, not what is true. For that there is the ledger:
# whole runs, several seeds, every method with the same labels. The table and figures below are made
# from it and from nothing else.

# %%
held = [row for row in ledger.read(RESULTS / "ledger.jsonl") if row["fraction"] is not None]
needed = {"ce", "ce_long", "contrastive"}
compared = []
for dataset, size in sorted({(row["dataset"], row["tier"]) for row in held}):
    try:
        plain = overview.comparable(held, dataset=dataset, tier=size)
    except ConfigError:
        continue  # nothing but studies that change more than the method
    if needed <= {row["method"] for row in plain}:
        compared.append((f"{dataset}, {size} tier", plain))
if not compared:
    print("The ledger holds no whole comparison yet; `make reproduce` makes one on shapes.")
    print("Until then, here is the table of the short runs above, one seed each:")
    display(Markdown(table.results_table(rows)))
for name, plain in compared:
    display(Markdown(f"**{name}**\n\n{table.results_table(plain)}"))

# %% [markdown]
# **How to read it.** ± is the standard deviation over the seeds. The interval says how well so few
# seeds pin down the mean over *all* seeds: repeat the whole experiment a hundred times, and about
# 95 of the hundred intervals hold that mean (ours may be one of the other five). With two or three
# seeds it is wide, and rightly so. Now the gain itself, seed by seed:

# %%
for name, plain in compared or [("the short runs above", rows)]:
    display(Markdown(f"**{name}**\n\n{table.gains_table(plain)}"))
    display(plots.gain(plain, measure="miou_val"))

# %% [markdown]
# **How to read it.** The first panel is the gain over the same fine-tuning, the second the gain
# over the same compute; a third, where it was run, the gain over the same compute *without* the
# colour distortion. A bar that crosses zero is an honest "not decided". A gain in the first that is
# gone in the second was bought with training time; one that is gone in the third lay in a baseline
# that the distortion held back. That they stand side by side, always, is this project's
# first rule; the abstract of the paper claims more than 20 points in some settings, and which
# baseline stands on the other side decides what such a number means.
#
# And class by class, from the same rows:

# %%
for name, plain in compared:
    for labelled in sorted({row["labelled"] for row in plain}):
        here = table.select(plain, labelled=labelled)
        if needed <= {row["method"] for row in here}:
            print(name)
            display(plots.iou_per_class(here, datasets.info(here[0]["dataset"])))
            break

# %% [markdown]
# **How to read it.** As above, now with several seeds: dots are single seeds, bars intervals. Where
# nothing is drawn, the ledger holds no comparison yet.
#
# ## Exercise 1: whose gain is it?
#
# A gain in mIoU is made of classes. Write `gain_by_class(ours, baseline)`: for the IoU of each
# class under two methods, the points that this class adds to the gain. Together they must make up
# exactly the difference of the two mIoU. Mind `None`: a class that occurs neither in the masks nor
# in a method's own predictions has no IoU there and is left out of that method's mean, so it can
# happen to one of the two and not to the other.


# %%
# EXERCISE gain_by_class
def gain_by_class(ours: Sequence[float | None], baseline: Sequence[float | None]) -> list[float]:
    """Points that each class adds to the difference of the two mIoU; they sum to it."""
    ...


judge(check_gain_by_class, gain_by_class)

# %% [markdown]
# A solution, folded away. Open it when you have tried.


# %% tags=["solution"]
# SOLUTION gain_by_class
def gain_by_class(ours: Sequence[float | None], baseline: Sequence[float | None]) -> list[float]:
    """Points that each class adds to the difference of the two mIoU; they sum to it."""
    here = sum(value is not None for value in ours)
    there = sum(value is not None for value in baseline)
    return [(a or 0.0) / here - (b or 0.0) / there for a, b in zip(ours, baseline, strict=True)]


judge(check_gain_by_class, gain_by_class)

# %% [markdown]
# **Your function on the runs above.** Is the difference to `ce_long` spread over the classes, or is
# it one that makes it?

# %%
by_method = {row["method"]: row["iou"]["val"] for row in rows}
parts = gain_by_class(by_method["contrastive"], by_method["ce_long"])
for points, name in sorted(zip(parts, val.info.class_names, strict=True), reverse=True):
    print(f"{name:10} {points:+.2f}")
print(f"{'together':10} {sum(parts):+.2f} points of mIoU")

# %% [markdown]
# ## Exercise 2: a gain with its interval
#
# Two methods, each a dictionary from seed to mIoU. Pair them by seed (the same seed means the same
# labelled images and the same first weights), leave out seeds that only one of them has, and return
# the mean gain with the two ends of its 95 % Student-t interval. `scipy.stats.t.ppf(0.975, df)`
# gives the t you need.


# %%
# EXERCISE paired_gain
def paired_gain(
    ours: Mapping[int, float], baseline: Mapping[int, float]
) -> tuple[float, float, float]:
    """Mean of the paired differences, and the ends of its 95 % interval."""
    ...


judge(check_paired_gain, paired_gain)

# %% [markdown]
# A solution, folded away.


# %% tags=["solution"]
# SOLUTION paired_gain
def paired_gain(
    ours: Mapping[int, float], baseline: Mapping[int, float]
) -> tuple[float, float, float]:
    """Mean of the paired differences, and the ends of its 95 % interval."""
    from scipy.stats import t

    gains = np.array([ours[seed] - baseline[seed] for seed in ours if seed in baseline])
    half = t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / math.sqrt(len(gains))
    return float(gains.mean()), float(gains.mean() - half), float(gains.mean() + half)


judge(check_paired_gain, paired_gain)

# %% [markdown]
# **Your function on the ledger.** Each contrastive variant against cross-entropy with the same
# compute, on val.

# %%
for name, plain in compared:
    found = {(group.labelled, group.method): group.values for group in table.groups(plain)}
    for (labelled, method), values in found.items():
        other = found.get((labelled, Method(kind="ce_long")), {})
        if method.kind == "contrastive" and len(set(values) & set(other)) > 1:
            mean, low, high = paired_gain(values, other)
            print(f"{name}, {labelled} images, {method}: {mean:+.1f} ({low:+.1f} to {high:+.1f})")
if not compared:
    print("No pairs in the ledger yet.")

# %% [markdown]
# ## Summary
#
# - Stage 2 changes the head and fine-tunes the whole network: clusters get their names.
# - A method that trains longer needs a baseline that trains as long. `ce_long` is that baseline.
# - Gains are paired by seed and come with an interval; one seed decides nothing.
# - What the ledger has decided stands above, in figures made from it; what it has not decided, no
#   sentence here pretends to know.
#
# **Where to go next.** Has the embedding become compact, in numbers?
# [06 · Embeddings and compactness](06_embeddings_and_compactness.ipynb)
