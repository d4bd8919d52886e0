# %% [markdown]
# # 00 · Start here
#
# This series reproduces one paper, completely and honestly: *Contrastive Learning for Label
# Efficient Semantic Segmentation* (Zhao, Vemulapalli, Mansfield, Gong, Green, Shapira and Wu,
# ICCV 2021, [arXiv 2012.06985](https://arxiv.org/abs/2012.06985)).
#
# **Semantic segmentation** gives every pixel of an image a class. Drawing the masks it learns from
# is slow, dear work, so one would like to need few of them. The usual training, pixel by pixel
# **cross-entropy**, then learns the few masks by heart. The paper's idea is to train in two stages:
#
# 1. **Contrastive pretraining.** Every pixel becomes a point (an *embedding*). Pixels of one class
#    are pulled together, pixels of different classes pushed apart. No classifier yet.
# 2. **Fine-tuning.** A classifier goes on top, and the whole network is trained with cross-entropy
#    on the same few masks.
#
# The paper's abstract reports gains of more than 20 points of mIoU in some settings with few
# labels. In the next minutes you run all of it, small, on this machine: both stages, the baseline,
# and one control that is easily forgotten. Then we look at how far to trust what came out.
#
# Just run the cells in order. It needs no GPU, no network and no data.

# %% [markdown]
# **What we need.** The notebooks contain no second version of the method: they call the package `segnb`,
# which is meant to be read. The whole method in one file, with nothing imported from segnb, is
# `examples/minimal.py`.

# %%
from collections.abc import Sequence

import numpy as np
from IPython.display import Markdown

from segnb import evaluation, plots
from segnb.checks import check_fair_steps, check_verdict, judge
from segnb.device import describe
from segnb.experiments.cost import estimate_cost
from segnb.experiments.runs import initial_network, load_network, load_splits, run, run_folder
from segnb.metrics import compactness
from segnb.notebook import project_path, tier
from segnb.recipe import Stage, preset
from segnb.results import ledger, overview
from segnb.results.method import Method
from segnb.results.table import results_table, summarise
from segnb.training import Session
from segnb.training.log import read_log

# %% [markdown]
# **The machine.** Everything runs on a laptop's processor; where there is a GPU it is used.

# %%
print(describe())

# %% [markdown]
# **The knobs.** All of them, here and nowhere else. A *recipe* holds everything that can change a
# result; `preset` gives one, `replace` changes some of it. To fit into minutes, this one makes the
# images and the network small and the training short.

# %%
TINY = tier() == "smoke"  # the tests run this notebook in seconds, and learn nothing from it
SEED = 0
FRACTION = 1 / 64  # share of the training images whose masks may be used
PRETRAIN_STEPS, FINETUNE_STEPS = (4, 4) if TINY else (350, 200)

base = preset("shapes", "smoke" if TINY else "quick")
recipe = base.replace(
    seed=SEED,
    fraction=FRACTION,
    size=(48, 64) if TINY else (72, 96),
    crop=(48, 48) if TINY else (64, 64),
    scale=(0.75, 1.5),
    encoder_depth=3,
    pretrain=Stage(steps=PRETRAIN_STEPS, batch=8, lr=0.1, warmup=min(50, PRETRAIN_STEPS)),
    finetune=Stage(steps=FINETUNE_STEPS, batch=8, lr=0.05, schedule="poly"),
)
RUNS = project_path("runs")  # where trained networks are kept

# %% [markdown]
# ## The data
#
# **shapes** is drawn from a seed: toys on a beach. Each image comes with its mask. Of the training
# images a few are labelled, and these few are all that any method below gets to see:

# %%
splits = load_splits(recipe)
labelled, info = splits.labelled_set, splits.train.info
print(f"{len(labelled)} of {len(splits.train)} training images are labelled")
plots.contact_sheet(list(labelled.images[:8]), list(labelled.masks[:8]), info)

# %% [markdown]
# **How to read it.** Images above, masks below, a colour for each class. What a toy is called
# depends on outline *and* pattern, never on its colours: a striped disc is a ball, a dotted one a
# cookie, and one with a pattern that no class has is clutter, labelled as the sand or sea behind
# it. So sky, sea and sand are easy and the toys are not; do not expect to learn all of them from so
# few images in three minutes. Notebook 01 looks closer.

# %% [markdown]
# ## The loss of stage 1
#
# Take a pixel $p$ of an image. Its embedding $f_p$ has length 1. The same image with its colours
# distorted gives further pixels $k$ with embeddings $f_k$; those of $p$'s class are its
# *positives* $P_p$. The loss asks that $p$ picks its positives out of all pixels:
#
# $$L_p = -\frac{1}{|P_p|}\sum_{q\in P_p}\log\frac{\exp(f_p\cdot f_q/\tau)}
# {\sum_k \exp(f_p\cdot f_k/\tau)}$$
#
# It is small when $p$ is close to its own class and far from all others. The *temperature* $\tau$
# sets how sharply. In the *cross-image* form used here, another image gives more positives. That
# is all; notebook 03 builds it from scratch.

# %% [markdown]
# ## Three ways to train
#
# - **ce**: cross-entropy on the labelled images. The baseline.
# - **contrastive**: stage 1, then exactly the training of *ce*. The paper.
# - **ce_long**: cross-entropy alone, but for **as many image passes** as both stages of
#   *contrastive* together, and with the same colour distortion. The control: stage 1 is extra
#   training, and without this one could not tell a better method from a longer one.
#
# Before we start, what will it cost? A few steps are timed and multiplied.

# %%
METHODS = ("ce", "ce_long", "contrastive")
for method in METHODS:
    print(f"{method:12} {estimate_cost(recipe.replace(method=method))}")

# %% [markdown]
# Now train all three. Each starts from the same initial weights and sees the same images. A
# finished run is kept in `runs/` and taken from there the next time. To stop, interrupt the kernel;
# run the cell again to go on where it stopped.

# %%
rows = {}
for method in METHODS:
    row = run(recipe.replace(method=method), runs=RUNS, results=None)
    assert row is not None
    rows[method] = row
    print(f"{Method.of(row).name:28} {row['image_passes']:6} image passes, {row['seconds']:.0f} s")

# %% [markdown]
# ## Did the losses fall?

# %%
folders = {method: run_folder(recipe.replace(method=method), RUNS) for method in METHODS}
plots.loss_curves(
    {Method.of(rows[method]): read_log(folders[method] / "log.jsonl") for method in METHODS}
)

# %% [markdown]
# **How to read it.** Left, stage 1; only the contrastive run has one. Right, cross-entropy for all
# three. Faint is the raw loss, bold a running mean, and a mark stands where a run ends; where two
# runs coincide, one shows as a rim around the other. A lower cross-entropy on the *training* images
# is no result yet: with so few of them, a network can learn them by heart. (*ce_long* trains on
# distorted colours, so its loss is of a harder task.) And the two panels are two different
# quantities: the contrastive loss has a floor above 0, set by how many positives a pixel has.

# %% [markdown]
# ## Do the classes gather?
#
# This is what the paper is about. We take the features of the same pixels from the network before
# training, after stage 1 and after stage 2, and let t-SNE lay them out in the plane: neighbours in
# the network's many dimensions become neighbours on paper. Upper row: pixels of the **labelled
# training** images. Lower row: pixels of **validation** images, which no training saw.

# %%
stages = {
    "before training": initial_network(recipe),
    "after stage 1": load_network(folders["contrastive"], weights="pretrained"),
    "after stage 2": load_network(folders["contrastive"]),
}
session = Session()
maps, samples = {}, {}
for where, images in (("training", labelled), ("validation", splits.evaluated["val"][1])):
    for stage, network in stages.items():
        sample = evaluation.sample_embeddings(network, images, session=session, per_class=60)
        perplexity = min(30.0, (len(sample.labels) - 1) / 3)
        places = plots.tsne(sample.embeddings, perplexity=perplexity)
        maps[f"{where}, {stage}"] = (places, sample.labels)
        samples[where, stage] = sample
plots.embedding_maps(maps, info)

# %% [markdown]
# **How to read it.** A dot is a pixel, its colour the true class. On the left colours are mixed,
# even within the islands: an island is not a class. Go right along the upper row, the training images: after stage 1, without a classifier anywhere, colours begin to
# come together, and after stage 2 most classes have a place of their own. Now the lower row, images
# that no training saw. Look for the sky first, then for the sea, then for a toy: how many classes
# can you still point at? What the upper row has and the lower lacks was learnt of the training
# images alone.
#
# t-SNE flatters: the size of a cluster and the distance between two mean nothing. So here are
# numbers for the same pixels: *intra*, the spread within a class; *inter*, the distance between
# class means; and *fisher*, the second divided by the first.


# %%
def table_row(name: str, values: dict[str, float | None]) -> str:
    """One line of numbers."""
    numbers = [values[key] for key in ("intra", "inter", "fisher")]
    return f"{name:46}" + "".join("      –" if v is None else f"{v:7.3f}" for v in numbers)


print(f"{'':46}" + "".join(f"{key:>7}" for key in ("intra", "inter", "fisher")))
for (where, stage), sample in samples.items():
    fitted = samples["training", stage]
    measured = compactness(
        *sample,
        fit_embeddings=fitted.embeddings,
        fit_labels=fitted.labels,
        num_classes=info.num_classes,
    )
    print(table_row(f"{where}, {stage}", measured.as_dict()))

# %% [markdown]
# **How to read it.** Read *fisher*: large means that the classes lie far apart *for their size*.
# Neither of the other two will do alone. An untrained network sends every pixel to nearly the same
# place, so its classes are very compact and of no use: training spreads them out, *intra* grows,
# and what counts is that *inter* grows more. From *before training* to *after stage 1* fisher rises
# in both, more so in the training images. Then follow the last step, stage 2: what it adds on
# images it trains on, it need not add on new ones.
#
# Does cross-entropy alone do the same? For all three methods, on validation images:

# %%
print(f"{'':46}" + "".join(f"{key:>7}" for key in ("intra", "inter", "fisher")))
for row in rows.values():
    for stage, values in row["compactness"].items():
        print(table_row(f"{Method.of(row)}, {stage}", values))

# %% [markdown]
# **How to read it.** `initial` is the same for all. Compare the fisher of the three lines that end
# in `finetuned`: cross-entropy alone gathers classes too, as a side effect, and whether stage 1
# leaves a lead that survives fine-tuning is for these numbers to say. "The classes gather" is not
# yet "the method is better". Notebook 06 asks whether these numbers predict the accuracy.

# %% [markdown]
# ## Is the segmentation better?
#
# The measure is **mIoU**: for each class, the overlap of predicted and true pixels divided by their
# union; then the mean over the classes. 100 is perfect. Notebook 02 computes it by hand.

# %%
Markdown(results_table(list(rows.values())))

# %% [markdown]
# **How to read it.** Two columns of mIoU: choices are made on *val*, *test* is for the report. One
# run each has no interval, hence the dashes; how much that matters is the last section's subject.
#
# And the predictions themselves, on validation images:

# %%
val = splits.evaluated["val"][1]
previews = {method: np.load(folders[method] / "preview.npz") for method in METHODS}
shown = [str(name) for name in previews["ce"]["ids"]][:4]
chosen = val.subset(shown)
plots.predictions(
    list(chosen.images),
    list(chosen.masks),
    {Method.of(rows[m]).name: list(previews[m]["predictions"][: len(shown)]) for m in METHODS},
    info,
)

# %% [markdown]
# **How to read it.** Below each prediction is the share of its pixels that are right, which the
# large classes rule. Look at the toys: where one is found, is it called by its name? And look at a
# single image for long, and you can convince yourself of any method. That is why we count.

# %% [markdown]
# ## How far to trust this
#
# The difference that counts is the one to *ce_long*. It is one number from one seed:

# %%
for control in ("ce", "ce_long"):
    for split in ("val", "test"):
        gain = rows["contrastive"][f"miou_{split}"] - rows[control][f"miou_{split}"]
        print(f"contrastive against {control:8} on {split:4}: {gain:+.1f} points of mIoU")

# %% [markdown]
# **An honest reading.** Before you believe any of these differences, four questions:
#
# - **Would another seed agree?** Another seed labels other images and starts from other weights.
#   Set `SEED = 1` above and run again: by how much does each method change, and is the difference
#   between two methods larger than that?
# - **Against what?** *contrastive* saw several times as many images as *ce*. A gain over *ce* that
#   is gone against *ce_long* is a gain of longer training.
# - **Where?** A few minutes on small drawn images says how the method works, not how well it works
#   on photographs with a large network. The paper's own numbers are in its tables; we print none
#   that we did not measure.
# - **Who chose the knobs, and by looking at what?** Ours were chosen to fit three minutes, by
#   looking at validation images. Notebook 10 shows what happens if one looks at the test images.
#
# What this project has measured at length, over several seeds, is in the ledger. Each row is a run
# with its recipe, seed, machine and the command that repeats it:

# %%
measured = ledger.read(project_path("results/ledger.jsonl"))
Markdown(overview.tables(measured) if measured else "*The ledger of this copy is still empty.*")

# %% [markdown]
# **How to read it.** Compare `cross-entropy, same compute` with `contrastive` at the same number of
# labelled images, on *test* where there is one. Where the 95 % intervals overlap widely, the runs
# do not tell the two apart, and neither should we.

# %% [markdown]
# ## Exercise 1: make the comparison fair
#
# Write `fair_steps(pretrain_steps, pretrain_batch, finetune_steps, finetune_batch)`: how many steps
# of cross-entropy *ce_long* must take so that at least as many images pass through the network as
# in both stages together. Its batch is that of fine-tuning. Mind what a step of stage 1 sends
# through the network; the numbers of image passes estimated above are there to test yours on.


# %%
# EXERCISE fair_steps
def fair_steps(
    pretrain_steps: int, pretrain_batch: int, finetune_steps: int, finetune_batch: int
) -> int:
    """Steps of cross-entropy with the image passes of both stages, rounded up."""
    ...


judge(check_fair_steps, fair_steps)

# %% [markdown]
# A solution is folded away below; unfold it when your own passes, or when you are stuck.


# %% tags=["solution"]
# SOLUTION fair_steps
def fair_steps(
    pretrain_steps: int, pretrain_batch: int, finetune_steps: int, finetune_batch: int
) -> int:
    """Steps of cross-entropy with the image passes of both stages, rounded up."""
    passes = 2 * pretrain_steps * pretrain_batch  # the image, and its distorted view
    return finetune_steps + -(-passes // finetune_batch)


judge(check_fair_steps, fair_steps)

# %% [markdown]
# ## Exercise 2: when may one say "better"?
#
# You ran two methods with the same seeds. Write `verdict(ours, baseline)`, given their mIoU seed by
# seed: `"better"` or `"worse"` if the 95 % interval of the mean *difference* lies wholly on one
# side of 0, and `"can't tell"` otherwise. `segnb.results.table.summarise` gives mean and interval (`low`,
# `high`; `None` where there is one number only).


# %%
# EXERCISE verdict
def verdict(ours: Sequence[float], baseline: Sequence[float]) -> str:
    """What seeds run in pairs allow one to say."""
    ...


judge(check_verdict, verdict)

# %% [markdown]
# One way to do it, folded away:


# %% tags=["solution"]
# SOLUTION verdict
def verdict(ours: Sequence[float], baseline: Sequence[float]) -> str:
    """What seeds run in pairs allow one to say."""
    found = summarise([a - b for a, b in zip(ours, baseline, strict=True)])
    if found.low is not None and found.low > 0:
        return "better"
    if found.high is not None and found.high < 0:
        return "worse"
    return "can't tell"


judge(check_verdict, verdict)

# %% [markdown]
# ## Summary
#
# - Stage 1 pulls the pixels of a class together and pushes classes apart; stage 2 adds the
#   classifier. You have run both.
# - In the training images the classes gather, which can be seen and measured. In new images some do and many
#   do not, and cross-entropy alone gathers them as well: the numbers above say how much.
# - Whether the *segmentation* gains is another question. It needs a control with the same compute,
#   and several seeds.
#
# ## Where to go next
#
# - [01](01_data_and_label_fractions.ipynb) **data and label fractions**:
#   the images, and what "few labels" means
# - [02](02_cross_entropy_with_few_labels.ipynb) **cross-entropy with few labels**:
#   the baseline, how it overfits, mIoU by hand
# - [03](03_contrastive_loss_from_scratch.ipynb) **contrastive loss from scratch**:
#   from one pixel to the formula to the fast version
# - [04](04_contrastive_pretraining.ipynb) **contrastive pretraining**:
#   stage 1, watched while it trains
# - [05](05_fine_tuning_and_comparison.ipynb) **fine-tuning and comparison**:
#   stage 2 against both controls
# - [06](06_embeddings_and_compactness.ipynb) **embeddings and compactness**:
#   what t-SNE shows and what it can't
# - [07](07_label_fraction_and_temperature.ipynb) **label fraction and temperature**:
#   sliders over the measured sweeps, and a Run button
# - [08](08_semi_supervised.ipynb) **semi-supervised**:
#   pseudo-labels for the images without a mask
# - [09](09_real_data_at_scale.ipynb) **real data at scale**:
#   CamVid, VOC, Cityscapes; Colab and several GPUs
# - [10](10_what_goes_wrong.ipynb) **what goes wrong**:
#   real failures to repair
#
# Your trained networks are kept. `segnb predict` lays one over pictures of your own; this is the
# command, with the folder names to fill in:

# %%
print(f"segnb predict runs/{folders['contrastive'].name} MY_IMAGES OUT")
