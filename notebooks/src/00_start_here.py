# %% [markdown]
# # 00 · Start here
#
# This series reproduces one paper, completely and openly: *Contrastive Learning for Label Efficient Semantic
# Segmentation* (Zhao, Vemulapalli, Mansfield, Gong, Green, Shapira and Wu, ICCV 2021,
# [arXiv 2012.06985](https://arxiv.org/abs/2012.06985)).
#
# **Semantic segmentation** gives every pixel of an image a class. The masks it learns from are drawn by hand, so one
# would like to need few of them. The paper trains in two stages: first a *contrastive loss* gathers the pixels of each
# class, then *cross-entropy* teaches the network their names.
#
# In the next ten minutes you will
#
# 1. see what a contrastive loss does, with a handful of pixels that you can move;
# 2. run the whole method, with both controls, on drawn images;
# 3. read the result the way a careful reviewer would.
#
# Run the cells in order. No GPU, no network connection and no data are needed.

# %% [markdown]
# ## 1 · Pull and push
#
# A network turns every pixel into a point, its *embedding*. Here each point is an angle on a circle. Filled marks are
# pixels of an image, open marks the same pixels after their colours were changed, and mark and colour show the class.
# Watch four losses act on the same pixels:

# %%
from segnb import circle
from segnb.plots import circle_film, circle_forces, network_drawing, pairs_drawing
from segnb.widgets.playground import Playground

scene = circle.scatter(classes=3, pixels=4, seed=1)
films = [
    (loss, circle.train(scene, loss, steps=240, temperature=0.3, rate=0.6))
    for loss in ("infonce", "paper", "official", "cross-entropy")
]
circle_film(films, temperature=0.3)

# %% [markdown]
# **How to read it.** An arrow outside the circle is the force on its pixel. **InfoNCE** knows no classes: it pulls the two
# views of a pixel together and pushes all else away, so the pixels spread out evenly. The **paper's form** and the
# **official form** (the authors' released code) know the classes, and each class gathers in one place. **Cross-entropy**
# compares every pixel with one learnt vector per class (the arrows from the centre). It gathers the classes too, but it stops
# caring once a pixel is safely on the right side. The *Fisher ratio* measures how compact the classes are for their distance.
#
# Now play. Pick a pixel, move it, and see who pulls and who pushes it. Then press *step*.

# %%
Playground()

# %% [markdown]
# Three things to try, each in half a minute:
#
# - Put the ringed pixel in the middle of another class. Who pushes hardest, the nearest pixels or the farthest?
# - Lower τ to 0.1, then raise it to 1, once with *forces × τ* switched on. What does τ change besides the size?
# - Choose *cross-entropy* and press *25 steps* a few times, then the *paper form*. Which one goes on pulling?
#
# The same without widgets, for one pixel:

# %%
circle_forces(scene, "paper", temperature=0.3, pixel=2)

# %% [markdown]
# **How to read it.** Green partners pull the ringed pixel, purple ones push it; the bars say by how much. A pixel feels the push
# of its *near* negatives most, because the softmax gives them the largest shares.
#
# ## 2 · Where this loss comes from
#
# - **Cross-entropy** is already a comparison of vectors: a pixel's feature with one learnt vector for each class.
# - **InfoNCE** ([van den Oord et al. 2018](https://arxiv.org/abs/1807.03748)) replaces the class vectors by other samples: pick your own
#   other view out of many. [SimCLR](https://arxiv.org/abs/2002.05709) made it work for images without labels.
# - **SupCon** ([Khosla et al. 2020](https://arxiv.org/abs/2004.11362)) gives it labels: all samples of the class are positives.
# - **This paper** takes SupCon from images to *pixels*: one labelled image has thousands of samples, so a few masks go a long way.
#
# Why should that help a classifier? With few masks, cross-entropy can fit them in many ways, and most do not carry over to new
# images. Stage 1 asks for more than a correct answer: that all pixels of a class look alike to the network, in any colours. The
# paper's abstract reports gains of more than 20 points of mIoU in some settings with few labels. Whether you see one, and what it
# costs, is what this series measures.

# %%
network_drawing()

# %% [markdown]
# And these are the pairs of one anchor pixel in the *cross-image* form, which we use here:

# %%
pairs_drawing("cross")

# %% [markdown]
# **How to read it.** The ringed pixel is the anchor. Pixels of its class in the distorted image pull it, all others there
# push it, and another image gives more positives but no negatives. Notebook 03 builds this loss from a single pixel.

# %% [markdown]
# What this needs from the package, which holds the only version of the method; the notebooks show it and call it.

# %%
import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from IPython.display import Markdown, display

from segnb import evaluation, plots
from segnb.checks import check_fair_steps, check_verdict, judge
from segnb.datasets import WorkingSet
from segnb.device import describe
from segnb.experiments.cost import estimate_cost
from segnb.experiments.runs import initial_network, load_network, load_splits, run, run_folder
from segnb.models import SegmentationNetwork
from segnb.notebook import project_path, tier
from segnb.recipe import preset
from segnb.results.method import Method
from segnb.results.table import results_table, summarise
from segnb.training import Session
from segnb.training import contrastive_step as package_step
from segnb.training.batches import Batches
from segnb.views import colour_distortion, nearest_labels, normalise

# %% [markdown]
# ## 3 · The data and the knobs
#
# All the knobs are in this cell. A *recipe* holds everything that can change a result; `preset` gives one, `replace` changes
# parts of it. To fit into minutes, training is short here.

# %%
TINY = tier() == "smoke"  # the tests run this notebook in seconds, and learn nothing from it
SEED = 0
FRACTION = 1 / 32  # share of the training images whose masks may be used
PRETRAIN_STEPS, FINETUNE_STEPS = (4, 4) if TINY else (300, 500)

preset_recipe = preset("shapes", "smoke" if TINY else "quick")
recipe = preset_recipe.replace(
    seed=SEED,
    fraction=FRACTION,
    form="paper",
    scope="cross",
    pretrain=dataclasses.replace(
        preset_recipe.pretrain, steps=PRETRAIN_STEPS, warmup=min(50, PRETRAIN_STEPS)
    ),
    finetune=dataclasses.replace(
        preset_recipe.finetune, steps=FINETUNE_STEPS, warmup=min(50, FINETUNE_STEPS)
    ),
)
RUNS = project_path("runs")  # where trained networks are kept
session = Session()
print(describe())

# %% [markdown]
# **shapes** is drawn from a seed: toys on a beach, each image with its mask. A few of the training images are labelled, and no
# method below sees any other mask.

# %%
splits = load_splits(recipe)
labelled, val, info = splits.labelled_set, splits.evaluated["val"][1], splits.train.info
print(f"{len(labelled)} of {len(splits.train)} training images are labelled")
plots.contact_sheet(list(labelled.images[:6]), list(labelled.masks[:6]), info)

# %% [markdown]
# **How to read it.** Images above, masks below, one colour for each class. A toy's class follows from its outline *and* its
# pattern, never from its colours; light, sand and sky differ from image to image. So a few labels do not cover all that varies.
#
# ## 4 · One step of stage 1
#
# This is the whole of it: two views, features, projection head, loss, optimiser. The loss is the paper's cross-image form,
# written out.


# %%
def contrastive_step(network, optimiser, images, masks, *, tau, strength, generator):
    """One step of stage 1: images [B, 3, H, W] in 0..1 and their masks [B, H, W]."""
    # Two views. The distortion changes colours alone, so one mask serves both.
    distorted = colour_distortion(images, strength, generator=generator)
    features = network.features(normalise(torch.cat([images, distorted])))
    embeddings = network.head(features, recipe.loss_size)  # [2B, 256, h, w], unit length
    anchors, keys = embeddings.flatten(2).transpose(1, 2).chunk(2)  # [B, N, 256] each
    labels = nearest_labels(masks, tuple(embeddings.shape[-2:])).flatten(1)  # [B, N]

    # Another distorted image J for each image: the batch, shifted.
    shift = int(torch.randint(1, len(images), (1,), generator=generator))
    others, other_labels = keys.roll(shift, 0), labels.roll(shift, 0)

    # Scores of every anchor with the keys of both images, and which pairs count.
    scores = torch.cat([anchors @ keys.mT, anchors @ others.mT], dim=2) / tau  # [B, N, 2N]
    key_labels = torch.cat([labels, other_labels], dim=1)
    known = (labels != 255)[:, :, None] & (key_labels != 255)[:, None, :]
    positive = known & (labels[:, :, None] == key_labels[:, None, :])
    own_image = torch.arange(scores.shape[2]) < labels.shape[1]
    in_denominator = positive | (known & own_image)  # negatives come from the own image alone

    # loss_p = log D_p - mean score of p's positives; mean over anchors, then over images.
    log_denominator = scores.masked_fill(~in_denominator, -torch.inf).logsumexp(dim=2)
    number = positive.sum(dim=2)
    mean_score = (scores * positive).sum(dim=2) / number.clamp(min=1)
    of_anchor = torch.where(number > 0, log_denominator - mean_score, 0.0)
    loss = (of_anchor.sum(dim=1) / (number > 0).sum(dim=1).clamp(min=1)).mean()

    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return float(loss.detach())


# %% [markdown]
# Is that really what the package does? Run the package's own step on the same batch, and compare the loss and the gradient of
# every weight.


# %%
def fresh() -> SegmentationNetwork:
    """The untrained network with a projection head, the same one at every call."""
    network = initial_network(recipe)
    network.attach_projection()
    return network.train()


images, masks = Batches(data=labelled, recipe=recipe, batch=4).at(
    0, torch.Generator().manual_seed(0)
)
ours, theirs = fresh(), fresh()
theirs.load_state_dict(ours.state_dict())
still = torch.optim.SGD(ours.parameters(), lr=0.0)  # a step of length 0: we want the gradient

options = {"tau": recipe.temperature, "strength": recipe.distortion}
torch.manual_seed(0)  # for the network's dropout
by_hand = contrastive_step(
    ours, still, images, masks, generator=torch.Generator().manual_seed(2), **options
)
torch.manual_seed(0)
by_package = package_step(theirs, images, masks, recipe, generator=torch.Generator().manual_seed(2))
by_package.backward()
print(f"loss by hand {by_hand:.5f}, by the package {float(by_package.detach()):.5f}")
assert math.isclose(by_hand, float(by_package.detach()), rel_tol=1e-4)
for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
    torch.testing.assert_close(mine.grad, other.grad, rtol=1e-2, atol=1e-4)

# %% [markdown]
# **How to read it.** The same number and the same gradients, so what you just read is what trains below. The package differs in
# one thing: it never builds the matrix of scores, which would not fit into memory for large images (notebook 03). The same in one
# file, without this package: [examples/minimal.py](../examples/minimal.py).
#
# ## 5 · Three ways to train
#
# - **cross-entropy**: the baseline, on the labelled images alone.
# - **contrastive**: stage 1, then exactly the training of the baseline. This is the paper's method.
# - **cross-entropy, same compute**: as many images through the network as *contrastive* in both stages, with the same colour
#   distortion. It is the control that is easily forgotten: stage 1 is extra training, and longer training helps too.
#
# The estimated cost, from a few timed steps:

# %%
METHODS = ("ce", "contrastive", "ce_long")
names = {method: Method.of(recipe.replace(method=method)) for method in METHODS}
for method in METHODS:
    print(f"{method:12} {estimate_cost(recipe.replace(method=method))}")

# %% [markdown]
# Now train all three. Each starts from the same weights and sees the same images. A finished run is kept in `runs/` and taken from
# there next time. To stop, interrupt the kernel; run the cell again to go on.

# %%
rows, folders = {}, {}
for method in METHODS:
    chosen = recipe.replace(method=method)
    rows[method] = run(chosen, runs=RUNS, results=None)
    folders[method] = run_folder(chosen, RUNS)
    print(f"{names[method]!s:28} {rows[method]['seconds']:.0f} s")

# %% [markdown]
# ## 6 · What they see
#
# Validation images, which no training saw.

# %%
previews = {method: np.load(folders[method] / "preview.npz") for method in METHODS}
shown = [str(name) for name in previews["ce"]["ids"]][:4]
chosen = val.subset(shown)
plots.predictions(
    list(chosen.images),
    list(chosen.masks),
    {str(names[m]): list(previews[m]["predictions"][: len(shown)]) for m in METHODS},
    info,
)

# %% [markdown]
# **How to read it.** Below each prediction stands the share of its pixels that are right. Look at the toys: is one found, and is
# it called by its name? Sky, sea and sand are the easy part.
#
# ## 7 · Do the classes gather?
#
# Here is the same set of pixels before training, after stage 1 and after stage 2, laid out in the plane by t-SNE, which keeps
# neighbours together. First the embedding of the **projection head**, where the loss acts; then the **features** below it, which
# stage 2 goes on with.

# %%
before = fresh()
pretrained = load_network(folders["contrastive"], weights="pretrained")
finetuned = load_network(folders["contrastive"])


def pixels_of(network: SegmentationNetwork, data: WorkingSet, *, projected: bool):
    """Class-balanced pixels: their embeddings [M, C] and labels [M]."""
    embeddings, labels = evaluation.sample_embeddings(network, data, session=session, per_class=50)
    if projected:  # the head is made of 1x1 convolutions, so it takes single pixels
        with torch.inference_mode():
            columns = embeddings.T[None, :, :, None].to(session.device)  # [1, C, M, 1]
            embeddings = network.head(columns, None)[0, :, :, 0].T.cpu()
    return embeddings, labels


def maps(where: str, data: WorkingSet) -> dict:
    """t-SNE maps of one set of images."""
    found = {}
    for title, network, projected in (
        ("head, before training", before, True),
        ("head, after stage 1", pretrained, True),
        ("features, after stage 2", finetuned, False),
    ):
        embeddings, labels = pixels_of(network, data, projected=projected)
        perplexity = min(30.0, (len(labels) - 1) / 3)
        found[f"{where}: {title}"] = (plots.tsne(embeddings, perplexity=perplexity), labels)
    return found


plots.embedding_maps(maps("labelled", labelled) | maps("unseen", val), info)

# %% [markdown]
# **How to read it.** A dot is a pixel, its colour the true class. Upper row: the labelled images. Stage 1 draws their classes
# together, without any classifier. Lower row: images that no training saw. How many classes can you still point at? What the upper
# row has and the lower row lacks was learnt about these images only.
#
# t-SNE flatters, so here are numbers for the same pixels, *fisher* (distance between classes over their spread, large is good), for
# all three methods on unseen images:

# %%
print(f"{'':34}{'before':>9}{'stage 1':>9}{'at the end':>12}")
for method in METHODS:
    stages = rows[method]["compactness"]
    values = [
        stages.get(stage, {}).get("fisher") for stage in ("initial", "pretrained", "finetuned")
    ]
    cells = ["–" if value is None else f"{value:.2f}" for value in values]
    print(f"{names[method]!s:34}{cells[0]:>9}{cells[1]:>9}{cells[2]:>12}")

# %% [markdown]
# **How to read it.** Stage 1 gathers the classes before any classifier has seen them. Cross-entropy alone gathers them as well, as a
# side effect. So "the classes gather" does not yet mean "the method is better": that is the next question. (Notebook 06 takes these
# numbers apart.)
#
# ## 8 · The result in one sentence
#
# The measure is **mIoU**: for each class the overlap of predicted and true pixels divided by their union, then the mean over the
# classes. 100 is perfect. Choices are made on *val*; *test* is for the report.

# %%
over_ce, over_long = (
    rows["contrastive"]["miou_test"] - rows[control]["miou_test"] for control in ("ce", "ce_long")
)
display(Markdown(results_table(list(rows.values()))))
display(
    Markdown(
        f"**With {len(labelled)} labelled images, the paper's two stages reach "
        f"{rows['contrastive']['miou_test']:.1f} mIoU on test: {over_ce:+.1f} points over the same fine-tuning, and "
        f"{over_long:+.1f} over cross-entropy with the same compute. This is one seed.**"
    )
)

# %% [markdown]
# ## 9 · How far to trust it
#
# - **Would another seed agree?** Set `SEED = 1` above: other images are labelled and other weights drawn. By how much does each
#   method change?
# - **Against what?** *contrastive* sees several times as many images as *cross-entropy*. A gain over it that is gone over *the same
#   compute* is a gain of longer training.
# - **Where?** A few minutes on drawn images show how the method works, not how well it works on photographs.
# - **Who chose the knobs, and by looking at what?** Ours were chosen on validation images with a seed that no result uses.
#
# What this project has measured over several seeds, on photographs as well, is on one page:
# [results/README.md](../results/README.md).
#
# ## Exercise 1: make the comparison fair
#
# Write `fair_steps(pretrain_steps, pretrain_batch, finetune_steps, finetune_batch)`: how many steps of cross-entropy must the control
# take so that at least as many images pass through its network as in both stages together? Its batch is that of fine-tuning. Mind what
# one step of stage 1 sends through the network; the estimates above are there to check yours against.


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
print(f"segnb predict ../runs/{folders['contrastive'].name} MY_IMAGES --out PREDICTIONS")
