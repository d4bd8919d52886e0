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
# **What we need.** `segnb.runs.run` trains a recipe, measures it and keeps everything in one
# folder. What is there already is not trained again.

# %%
import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import torch
from IPython.display import Markdown, display

from segnb import datasets, evaluation, ledger, plots, report, summary, table
from segnb.checks import check_equal_compute, check_paired_gain, judge
from segnb.errors import ConfigError
from segnb.models import count_parameters
from segnb.notebook import project_path, tier
from segnb.recipe import preset
from segnb.runs import load_network, load_splits, run, run_folder

# %% [markdown]
# **The knobs.** All of them. `SHORTER` takes that part of a reported run's steps, so that three
# trainings fit into minutes; 1 trains the whole.

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
untaught = evaluation.evaluate(network, val_split, val, device=torch.device("cpu"))
print(f"mIoU before fine-tuning: {untaught.miou:.1f}; guessing has {val.info.num_classes} classes")

# %% [markdown]
# As expected: next to nothing. The clusters may be there, but they have no names, and in
# within-image training even the same class need not lie in the same place in two images. That is
# why the paper fine-tunes the whole network and not only the new head (`freeze=True` in a recipe
# tries the other way).
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
# height says nothing about the other's. In the right panel compare where the contrastive line
# *starts* falling from, and how fast. A training loss near zero with few images is no success by
# itself: notebook 02 showed what overfitting looks like.

# %%
figures["predictions"]

# %% [markdown]
# **How to read it.** Each row is one validation image; below each prediction stands the share of
# its pixels that is right. Large areas decide that share, so look at the small objects too: whether
# they are found at all, whether their class is right, whether their edge is clean.

# %%
figures["iou_per_class"]

# %% [markdown]
# **How to read it.** mIoU is the mean of these. A gain may come from all classes or from one that a
# baseline missed altogether, and it is worth knowing which. One seed has no interval; a difference
# of some points between single runs is well within what another seed would change.

# %%
figures["embeddings"]

# %% [markdown]
# **How to read it.** The same pixels before training, after stage 1 and after stage 2. Gathered
# colours are what the contrastive loss asks for. Distances between clusters, and their sizes, mean
# nothing in such a map; notebook 06 measures instead.
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
        plain = summary.comparable(held, dataset=dataset, tier=size)
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
# **How to read it.** ± is the standard deviation over the seeds; the interval is where the mean
# would lie in 95 of 100 repetitions of the whole experiment. Now the gain itself, seed by seed:

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
# ## Exercise 1: the same compute
#
# How many steps of cross-entropy cost as much as both stages? Count images through the network, and
# think of the two views. If it does not divide evenly, give the baseline the benefit.


# %%
# EXERCISE equal_compute
def equal_compute(
    pretrain_steps: int, pretrain_batch: int, finetune_steps: int, finetune_batch: int
) -> int:
    """Steps of cross-entropy, of finetune_batch images, that cost as much as both stages."""
    ...


judge(check_equal_compute, equal_compute)

# %% [markdown]
# A solution, folded away. Open it when you have tried.


# %% tags=["solution"]
# SOLUTION equal_compute
def equal_compute(
    pretrain_steps: int, pretrain_batch: int, finetune_steps: int, finetune_batch: int
) -> int:
    """Steps of cross-entropy, of finetune_batch images, that cost as much as both stages."""
    passes = 2 * pretrain_steps * pretrain_batch
    return finetune_steps + math.ceil(passes / finetune_batch)


judge(check_equal_compute, equal_compute)

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
        other = found.get((labelled, table.CROSS_ENTROPY_LONG), {})
        if method.startswith("contrastive") and len(set(values) & set(other)) > 1:
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
