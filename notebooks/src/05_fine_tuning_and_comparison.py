# %% [markdown]
# # 05 · Fine-tuning and comparison
#
# After stage 1 the network may have sorted its pixels into clusters, but nothing in it names a
# class. Stage 2 takes care of that: we throw the projection head away, put a pixel classifier in
# its place and fine-tune the *whole* network with cross-entropy. Then comes the question that
# everything hangs on: was stage 1 worth its time?
#
# You will
# - swap the head for a classifier and see what the network knows before fine-tuning,
# - compare the method with two baselines, one of which gets exactly the same compute,
# - see the gap between training and validation images that the paper sets out to close,
# - find out on a map how the gain depends on the steps of both stages,
# - see what stage 1 is worth beside a start from ImageNet.
#
# Time: about 8 minutes on two processor cores, for three short trainings; about twice as long on a
# CPU without bf16.

# %% [markdown]
# **Imports.** `segnb.experiments.runs.run` trains a recipe, evaluates it and keeps everything in
# one folder. A run that is already there is not trained again.

# %% tags=["folded"]
# @title Imports
import math
from collections.abc import Mapping
from contextlib import suppress

import numpy as np
import torch
from IPython.display import Markdown, display

from segnb import evaluation, plots, report
from segnb.checks import check_paired_gain, check_unfair_because, judge
from segnb.datasets import WorkingSet
from segnb.errors import ConfigError
from segnb.experiments import kept
from segnb.experiments.runs import find_folder, load_network, run
from segnb.experiments.splits import load_splits
from segnb.metrics.segmentation import ConfusionScore, score_confusion
from segnb.models import SegmentationNetwork, count_parameters
from segnb.notebook import announce, live_dataset, project_path, tier
from segnb.recipe import preset
from segnb.results import findings, ledger, overview, table
from segnb.results.method import Method
from segnb.results.starts import starts
from segnb.results.step_map import step_map
from segnb.training import Session
from segnb.training.log import read_log
from segnb.widgets.step_map import StepMapExplorer, cell_parts

# %% [markdown]
# **Settings.** They are all here. `SHORTER` divides the steps of both stages, so that three
# trainings take minutes; set it to 1 for a full-length run.

# %%
TIER = tier()  # "quick", or "gpu" where there is one ("smoke" is for tests and learns nothing)
DATASET = live_dataset(TIER)
FRACTION = 1 / 32  # share of the training images that are labelled
SEED = 0
SHORTER = 1 if TIER == "gpu" else 2
LEDGER_DATASET = "camvid"  # compare the finished runs on this data set below
ALL_METHODS = False  # also show variants of the loss and of the baselines
RESULTS = project_path("results")  # the ledger to read; a notebook never writes to it
RUNS = project_path("runs") / "comparison"  # this notebook's own runs and small ledger

# %% [markdown]
# ## The three methods
#
# | method | what it does |
# | --- | --- |
# | `contrastive` | stage 1 with the contrastive loss, then stage 2 |
# | `ce` | stage 2 alone, from scratch: the same *fine-tuning steps* |
# | `ce_long` | cross-entropy with the *compute* and the colour distortion of both stages |
#
# Papers often compare with `ce`, and that is not enough. Stage 1 costs steps. Each of those steps
# sends every image through the network twice, once as it is and once distorted. And the distortion
# is an augmentation that may help cross-entropy too. `ce_long` gets all of that. The recipe does
# the counting:

# %%
whole = preset(DATASET, TIER).replace(fraction=FRACTION, seed=SEED)
short = whole.shorter(SHORTER)
recipes = {method: short.replace(method=method) for method in ("ce", "ce_long", "contrastive")}
for method, recipe in recipes.items():
    stage_one = recipe.pretrain.steps if recipe.uses_contrastive else 0
    print(
        f"{method:>12}: {stage_one:4} steps of stage 1, {recipe.cross_entropy_stage().steps:4} of "
        f"cross-entropy, {recipe.image_passes():6,} images through the network"
    )
announce(recipes)

# %% [markdown]
# **While you wait.** This network comes with the repository. It has another encoder, and it went
# through both stages with all labels and many more steps, so it shows what the procedure can do
# when neither is scarce:

# %%
ready = kept.find(project_path("results/networks"), DATASET)
unseen, ready_row = kept.unseen(ready), kept.row_of(ready)
few = unseen.subset(unseen.ids[:4])
predicted = list(evaluation.predict(load_network(ready), few, session=Session()))
display(plots.predictions(list(few.images), list(few.masks), {"a long run": predicted}, few.info))
Markdown(
    f"{ready_row['labelled']} labelled images, mIoU {ready_row['miou_test']:.1f} on test. "
    + findings.compactness_found(ready_row)
)

# %% [markdown]
# **How to read it.** Nearly every object is found and named. Compare the three Fisher ratios: here
# all of the gathering happens in stage 1, and stage 2 loosens the classes a little (notebook 06
# shows which classes it gathers, and which not). The rest of this notebook asks what stage 1 adds
# when labels are few.
#
# ## Stage 1, then a new head
#
# `until="pretrain"` stops after stage 1. The splits say which images are labelled. All three
# methods get the same labelled images and start from the same random weights.

# %%
contrastive = recipes["contrastive"]
splits = load_splits(contrastive)
print(f"{len(splits.labelled)} of {len(splits.train.ids)} training images are labelled")
run(contrastive, runs=RUNS, results=RUNS, until="pretrain")
folder = find_folder(contrastive, RUNS)
network = load_network(folder, weights="pretrained")
head = count_parameters(network.head)
print(f"extractor {(count_parameters(network) - head) / 1e6:.2f} M parameters, head {head:,}")

# %% [markdown]
# Now we swap the heads by hand. `attach_classifier` replaces the projection head with a 1×1
# convolution: one output per class, random weights. The features may be good by now, but the
# classifier has seen nothing. What does the network predict in this state?

# %%
val_split, val = splits.evaluated["val"]
torch.manual_seed(0)
network.attach_classifier(val.info.num_classes)
print(f"new head: {count_parameters(network.head):,} parameters")
untaught = evaluation.evaluate(network, val_split, val, session=Session())
counts = torch.bincount(val.masks.flatten(), minlength=256)[: val.info.num_classes].double()
chance = torch.outer(counts, torch.ones_like(counts) / len(counts))  # every class equally often
dice = score_confusion(chance).miou
print(f"mIoU before fine-tuning: {untaught.miou:.1f}; rolling dice would give {dice:.1f}")

# %% [markdown]
# As expected, the untrained classifier does no better than rolling dice. The clusters may be there,
# but they have no names. And if stage 1 only compares pixels within one image (`scope="within"`),
# the same class can even end up in different parts of the embedding space in two images. That is
# why the paper fine-tunes the whole network and not just the new head (`freeze=True` in a recipe
# tries the alternative).
#
# ## Stage 2, and the baselines
#
# The same call without `until` picks up where it stopped. The two baselines follow, with the same
# labels and the same initial weights.

# %%
rows = [run(recipe, runs=RUNS, results=RUNS) for recipe in recipes.values()]
for row in rows:
    print(f"{row['method']:>12}: mIoU {row['miou_val']:5.1f} on val, {row['seconds']:.0f} s")

# %% [markdown]
# ## Side by side
#
# Four figures compare the three runs. First, the losses.

# %%
figures = report.comparison(rows, RUNS)
figures["loss_curves"]

# %% [markdown]
# What it shows, in a sentence computed from the logs:

# %%
Markdown(findings.losses_found({Method.of(row): read_log(RUNS / row["log"]) for row in rows}))

# %% [markdown]
# **How to read it.** Stage 1 has its own panel. The contrastive loss is a different quantity, so
# its height can't be compared with cross-entropy, and much of its zigzag comes from the crops,
# which change with every step (notebook 04). In the right panel, compare the contrastive
# line with the grey one, which has the same steps and the same images: does it fall sooner, or end
# lower? Where the two run side by side, stage 1 gave no head start by this measure. A training loss
# near zero on few images is no success in itself: notebook 02 showed what overfitting looks like.
#
# The loss is only a means to an end. Here are the predictions on images that no training has seen:

# %%
figures["predictions"]

# %% [markdown]
# **How to read it.** Each row is one validation image, and the number below each prediction is the
# share of pixels it gets right. Large areas dominate that share, so look at the small objects too.
# Are they found at all? Is their class right? Are their edges clean?
#
# In one sentence, over all validation images:

# %%
Markdown(findings.runs_found(rows))

# %% [markdown]
# ## The gap
#
# Notebook 02 ended with a promise: the gap between training and validation images is what the paper
# sets out to close. Here it is for all three methods, trained on the same labelled images.


# %%
def miou(network: SegmentationNetwork, images: WorkingSet) -> float:
    """mIoU in percent on whole images at the working resolution."""
    score = ConfusionScore(images.info.num_classes)
    for predicted, mask in zip(
        evaluation.predict(network, images, session=Session()), images.masks, strict=True
    ):
        score.update(torch.from_numpy(predicted), mask)
    return score.compute().miou


gaps = {}
for recipe in recipes.values():
    trained = load_network(find_folder(recipe, RUNS))
    gaps[Method.of(recipe)] = (miou(trained, splits.labelled_set), miou(trained, val))
plots.training_gap(gaps)

# %% [markdown]
# Does stage 1 close it?

# %%
gap = {method.kind: known - unseen for method, (known, unseen) in gaps.items()}
narrower = gap["ce"] - gap["contrastive"]
verdict = "narrows it" if narrower > 3 else "widens it" if narrower < -3 else "hardly changes it"
Markdown(
    f"The gap is {gap['ce']:.0f} points for cross-entropy, {gap['contrastive']:.0f} after stage 1 "
    f"and {gap['ce_long']:.0f} for cross-entropy with the same compute. Stage 1 {verdict} here."
)

# %% [markdown]
# **How to read it.** The grey bar is the gap. A method can narrow it in two ways: by doing better
# on validation images, or by doing worse on its own training images. Only the first is worth
# anything, so look at the blue dots first. Longer training alone tends to push the red dot to the
# right. The colour distortion works against that: it makes the training images harder to memorise.
# *Cross-entropy, same compute* gets both.
#
# ## Class by class
#
# mIoU is a mean over classes. Here they are one at a time:

# %%
figures["iou_per_class"]

# %% [markdown]
# In a sentence:

# %%
Markdown(findings.classes_found(rows, val.info.class_names))

# %% [markdown]
# **How to read it.** A gain may be spread over all classes, or come from a single class that a
# baseline missed altogether. It is worth knowing which. One seed gives no interval, and classes
# with few pixels vary most from seed to seed.
#
# And what happened inside the network, between the two stages?

# %%
figures["embeddings"]

# %% [markdown]
# The same in numbers:

# %%
Markdown(findings.compactness_found(rows[-1]))

# %% [markdown]
# **How to read it.** These are the same validation pixels before training, after stage 1 and after
# stage 2. The contrastive loss asks for dots of one colour to gather. Find the sky, the sea and the
# sand in each panel: which of them formed a cluster of their own after stage 1, and which needed
# stage 2? Cluster sizes and the distances between clusters mean nothing in such a map; notebook 06
# measures instead.
#
# ## The comparison in the ledger
#
# One seed and a short run teach the procedure, not the answer. For the answer we turn to the
# ledger, which holds full-length runs with several seeds, where every method gets the same labels.
# The table gives means over seeds, and gains paired by seed with their 95 % interval:

# %%
held = ledger.read(RESULTS / "ledger.jsonl")
needed = {"ce", "ce_long", "contrastive"}
try:
    plain = overview.comparable(held, dataset=LEDGER_DATASET)
except ConfigError:
    plain = []
if not ALL_METHODS:
    plain = overview.main_methods(plain)
if not needed <= {row["method"] for row in plain}:
    print(f"The ledger holds no complete comparison on {LEDGER_DATASET} yet.")
    print("The short runs above stand in for it below, one seed each.")
    plain = rows
else:
    measure = "miou_test" if any(row.get("miou_test") for row in plain) else "miou_val"
    display(Markdown(table.brief_table(plain, measure=measure)))

# %% [markdown]
# **How to read it.** The interval says how well so few seeds pin down the mean over *all* seeds.
# Repeat the whole experiment a hundred times, and about 95 of the hundred intervals will contain it
# (ours may be one of the other five). With two seeds no interval is given: it would be too wide to
# mean anything. Here are the gains as figures, first on validation images, then on test. (A figure
# uses every seed that the two methods compared have in common, the table only those that all three
# have, so the same gain can differ by a few tenths.)

# %%
measures = [one for one in ("miou_val", "miou_test") if any(row.get(one) for row in plain)]
for measure in measures:
    display(plots.gain(plain, measure=measure))

# %% [markdown]
# What it shows:

# %%
for measure in measures:
    display(Markdown(findings.gains_found(plain, measure=measure)))

# %% [markdown]
# **How to read it.** The first panel is the gain over the same fine-tuning, the second the gain
# over the same compute. A bar that crosses zero is an honest "not decided". If a gain shows up in
# the first panel and is gone in the second, it was bought with training time. This project always
# shows the two side by side; that is its first rule.
#
# ## The map: how the gain depends on the steps
#
# The paper's abstract claims more than 20 points in some settings. The table above shows one or
# two, after 1000 steps of stage 2. Is the gain larger where stage 2 is shorter? What if it takes
# only 25 steps? The map below varies the steps of both stages and the number of labels. Each cell
# is the gain of a contrastive stage 1. On the left, the rival is the same fine-tuning from scratch.
# On the right, it is cross-entropy that gets the same compute: the image passes and colour
# distortion of stage 1, then a new classifier and the same stage 2.
#
# **Predict first.** Before you run the cell, write down two numbers: the gain over the same
# fine-tuning with 25 steps of stage 2, and with 1000.

# %%
try:
    the_map = step_map(held, dataset=LEDGER_DATASET, tier="quick")
except ConfigError as error:
    the_map = None
    print(error)
else:
    display(plots.step_map(the_map, measure="miou_test"))

# %% [markdown]
# What it shows:

# %%
if the_map is not None:
    cells = [
        found[0]
        for over in ("the same fine-tuning", "the same compute")
        if (found := the_map.largest(over=over, measure="miou_test"))
    ] or the_map.cells[:1]
    for cell in dict.fromkeys(cells):
        display(Markdown(the_map.in_words(cell, measure="miou_test")))

# %% [markdown]
# **How to read it.** Blue is a gain, orange a loss; the small number is half the width of the 95 %
# interval, and bold means that the interval excludes zero. Follow one row from left to right. With
# few steps of stage 2, cross-entropy from scratch has barely begun, and *any* start that has seen
# the labels is far ahead: that is where the large gains live. With many steps it catches up. Even
# the largest gain on this map is far below 20 points: these networks, images and runs are small.
# The right panel asks the harder question: is the *contrastive* loss a better way to spend those
# steps? Here it is not: nearly every cell is a loss, and no gain is clear of zero.
#
# **Press a cell** to see what is behind its number: curves against the steps of stage 2, masks of
# one seed, and the embeddings. You can switch between the two rivals, and between val, test and the
# test drives that training has or hasn't seen.

# %%
if the_map is not None:
    display(StepMapExplorer(the_map, results=RESULTS))

# %% [markdown]
# Without buttons, here is the same for one cell, the one with the largest gain over the same
# fine-tuning.

# %%
if the_map is not None:
    for part in cell_parts(the_map, cells[0], RESULTS).values():
        display(Markdown(part) if isinstance(part, str) else part)

# %% [markdown]
# ## And a start from ImageNet?
#
# The abstract makes a second claim: in many settings, pretraining with the contrastive loss matches
# or beats a start from ImageNet, without a single extra image. Most of us have such weights at
# hand, so it matters. The ledger holds one network from both starts. It is not the network used
# above, because we needed one that comes with ImageNet weights. Stage 1 takes 800 steps, half as
# many as in the table above, and stage 2 takes 400.
#
# **Predict first.** Where does stage 1 from scratch end: level with cross-entropy from ImageNet,
# halfway, or close to where it began?

# %%
both = {}
for name in (LEDGER_DATASET, "voc-animals"):
    with suppress(ConfigError):  # none of these runs starts from ImageNet
        both[name] = starts(held, dataset=name, tier="quick")
if not both:
    print("The ledger holds no run from ImageNet on these data yet.")
for name, these in both.items():
    last = "miou_test" if any(row.get("miou_test") for row in these) else "miou_val"
    display(Markdown(f"**{name}**"), plots.starts(these, measure=last))
    display(Markdown(findings.starts_found(these, measure=last)))

# %% [markdown]
# **How to read it.** Full marks start from scratch, open ones from ImageNet; the dashed line is
# cross-entropy from ImageNet. To stand in for ImageNet, a full mark would have to reach the line.
# To add to ImageNet, the open diamond would have to stand right of the line, and to be worth its
# compute, right of the open square.
#
# One network, small images and a short stage 1. We don't know how long the paper trained, or on
# which crops, so this does not contradict its claim. In this regime the answer is plain. If your
# encoder has ImageNet weights, start from them.

# %% [markdown]
# ## Exercise 1: spot the unfair control
#
# A gain says something about the contrastive loss only if nothing else differs. You get one
# dictionary for our method and one for the baseline:
#
# | key | value |
# | --- | --- |
# | `labelled` | ids of the labelled images, in any order |
# | `seeds` | the seeds that were run |
# | `image_passes` | images through the network, over all stages |
# | `distortion` | strength of the colour distortion in training |
# | `chosen_on` | the split on which its settings were chosen |
# | `reported_on` | the split whose mIoU is reported |
#
# Return the set of reasons why the comparison is unfair, or an empty set:
#
# - `"fewer image passes"`: the baseline had less compute than ours;
# - `"another distortion"`: the colour distortion differs;
# - `"other labels"`: the labelled images differ;
# - `"tuned on the reported split"`: this holds for at least one of the two;
# - `"one seed"`: fewer than two seeds were run for both. Gains are paired by seed, so only those
#   count.


# %%
# EXERCISE unfair_because
def unfair_because(ours: dict, baseline: dict) -> set[str]:
    """Reasons why a comparison of the two is unfair; empty if it is fair."""
    ...


judge(check_unfair_because, unfair_because)

# %% [markdown]
# A solution, folded away. Open it once you have tried.


# %% tags=["solution"]
# SOLUTION unfair_because
def unfair_because(ours: dict, baseline: dict) -> set[str]:
    """Reasons why a comparison of the two is unfair; empty if it is fair."""
    found = {
        "fewer image passes": baseline["image_passes"] < ours["image_passes"],
        "another distortion": baseline["distortion"] != ours["distortion"],
        "other labels": set(baseline["labelled"]) != set(ours["labelled"]),
        "tuned on the reported split": any(
            one["chosen_on"] == one["reported_on"] for one in (ours, baseline)
        ),
        "one seed": len(set(ours["seeds"]) & set(baseline["seeds"])) < 2,
    }
    return {reason for reason, holds in found.items() if holds}


judge(check_unfair_because, unfair_because)

# %% [markdown]
# **Your function on the runs above.** This project makes its choices on val, and val is what the
# short runs report. What is wrong with each of the two baselines?

# %%
described = {
    method: {
        "labelled": load_splits(recipe).labelled,
        "seeds": [recipe.seed],
        "image_passes": recipe.image_passes(),
        "distortion": recipe.distortion
        if recipe.uses_contrastive
        else recipe.cross_entropy_distortion(),
        "chosen_on": "val",
        "reported_on": "val",
    }
    for method, recipe in recipes.items()
}
for method in ("ce", "ce_long"):
    reasons = unfair_because(described["contrastive"], described[method])
    print(f"{method:>8}: {', '.join(sorted(reasons)) or 'fair'}")

# %% [markdown]
# **How to read it.** `ce_long` removes the two reasons that concern the training itself. More seeds
# and the test images, as in the ledger, remove the others.

# %% [markdown]
# ## Exercise 2: a gain with its interval
#
# You get two methods, each a dictionary from seed to mIoU. Pair them by seed (the same seed means
# the same labelled images and the same initial weights), leave out seeds that only one of them has,
# and return the mean gain with the two ends of its 95 % Student-t interval.
# `scipy.stats.t.ppf(0.975, df)` gives the t you need.


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
# **Your function on the ledger.** The contrastive method against cross-entropy with the same
# compute, on val.

# %%
found = {(group.labelled, group.method): group.values for group in table.groups(plain)}
for (labelled, method), values in found.items():
    other = found.get((labelled, Method(kind="ce_long")), {})
    if method.kind == "contrastive" and len(set(values) & set(other)) > 1:
        mean, low, high = paired_gain(values, other)
        print(f"{labelled} images, {method}: {mean:+.1f} ({low:+.1f} to {high:+.1f})")

# %% [markdown]
# ## Summary
#
# **Was stage 1 worth its time?** Here is the ledger's answer, computed from the rows above:

# %%
for measure in measures:
    display(Markdown(findings.gains_found(plain, measure=measure)))

# %% [markdown]
# - Stage 2 swaps the head and fine-tunes the whole network: the clusters get their names.
# - How large a gain looks depends on how long the baseline trained. Against a baseline that is cut
#   short, any start that has seen the labels shines. Ask what the same compute would buy.
# - Gains are paired by seed and come with an interval; one seed decides nothing.
#
# **Where to go next.** Has the embedding become compact, and can we put numbers on it? [06 ·
# Embeddings and compactness](06_embeddings_and_compactness.ipynb)
