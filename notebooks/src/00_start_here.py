# %% [markdown]
# # 00 · Start here
#
# This series reproduces one paper in full and in the open: *Contrastive Learning for Label
# Efficient Semantic Segmentation* (Zhao, Vemulapalli, Mansfield, Gong, Green, Shapira and Wu, ICCV
# 2021, [arXiv 2012.06985](https://arxiv.org/abs/2012.06985)).
#
# **Semantic segmentation** gives every pixel of an image a class. The masks it learns from are
# drawn by hand, so we would like to need as few of them as possible. The paper trains in two
# stages. First, a *contrastive loss* pulls the pixels of each class together. Then *cross-entropy*
# teaches the network what the classes are called.
#
# In the next ten minutes you will
#
# 1. see what a contrastive loss does, on a handful of pixels that you can move around;
# 2. run the whole method, along with two controls, on computer-drawn images;
# 3. read the result the way a careful reviewer would.
#
# Run the cells in order. You need no GPU, no network connection and no data.

# %% [markdown]
# ## 1 · Pull and push
#
# A network turns every pixel into a point, its *embedding*. Here, each point is an angle on a
# circle. Filled marks are pixels of an image; open marks are the same pixels after their colours
# were changed. The shape and colour of a mark show its class. Watch four losses act on the same
# pixels:

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
# **How to read it.** An arrow outside the circle is the force on its pixel. **InfoNCE** knows
# nothing about classes. It pulls the two views of a pixel together and pushes everything else away,
# so the pixels spread out evenly. The **paper form** and the **official form** (the authors'
# released code) do know the classes, and each class collects in one spot. **Cross-entropy**
# compares every pixel with one learned vector per class (the arrows from the centre). It gathers
# the classes too, only more slowly: compare the Fisher ratios half-way through. The *Fisher ratio*
# measures how compact the classes are relative to the distance between them.
#
# Now it's your turn. Pick a pixel, move it, and see which pixels pull it and which push it. Then
# press *step*.

# %%
Playground()

# %% [markdown]
# Three things to try, half a minute each:
#
# - Put the ringed pixel in the middle of another class. Which pixels push hardest, the nearest or
#   the farthest?
# - Lower τ to 0.1, then raise it to 1. Do it once more with *forces × τ* switched on. What does τ
#   change besides the size of the forces?
# - Choose *cross-entropy* and press *25 steps* a few times. Press *new pixels* and do the same with
#   the *paper form*. Whose Fisher ratio grows faster?
#
# Here is the same picture without widgets, for one pixel:

# %%
circle_forces(scene, "paper", temperature=0.3, pixel=2)

# %% [markdown]
# **How to read it.** Green lines lead to the pixels that pull the ringed one, purple lines to those
# that push it. The bars show how strongly. Its *nearest* negatives push hardest, because the
# softmax, which turns similarities into shares that add up to 1, gives them the largest shares. A
# very near pixel of its *own* class may push a little too: it has more than its fair share already.
# (Notebook 03 works this out.)
#
# ## 2 · Where this loss comes from
#
# - **Cross-entropy** already compares vectors: a pixel's feature with one learned vector per class.
# - **InfoNCE** ([van den Oord et al. 2018](https://arxiv.org/abs/1807.03748)) replaces the class
#   vectors with other samples: each sample must find its own second view among many others.
#   [SimCLR](https://arxiv.org/abs/2002.05709) made this work for unlabelled images.
# - **SupCon** ([Khosla et al. 2020](https://arxiv.org/abs/2004.11362)) adds labels: all samples of
#   the same class are positives.
# - **This paper** takes SupCon from images to *pixels*. One labelled image holds thousands of
#   samples, so a few masks go a long way.
#
# Why should that help a classifier? Cross-entropy can fit a few masks in many ways, and most of
# them do not carry over to new images. Stage 1 asks for more than a correct answer: all pixels of a
# class should look alike to the network, whatever their colours. The paper's abstract reports gains
# of more than 20 points of mIoU in some settings with few labels. This series measures whether you
# see such a gain, and what it costs.

# %%
network_drawing()

# %% [markdown]
# **How to read it.** One network is trained in both stages. Stage 1 puts a projection head on its
# features and then throws the head away. Stage 2 puts a pixel classifier in its place and
# fine-tunes the whole network.
#
# Next come the pairs of a single anchor pixel in the *cross-image* form, the one we use here:

# %%
pairs_drawing("cross")

# %% [markdown]
# **How to read it.** The ringed pixel is the anchor. In the distorted image, pixels of the anchor's
# class pull it and all others push it. Another image adds more positives, but no negatives.
# Notebook 03 builds this loss up from a single pixel.

# %% [markdown]
# Now we import what we need. The method is implemented once, in the package `segnb`; the notebooks
# explain that code and call it.

# %% tags=["folded"]
# @title Imports
import dataclasses
import math
import os
import shlex
from collections.abc import Sequence

import numpy as np
import torch
from IPython.display import Markdown, display

from segnb import evaluation, plots
from segnb.checks import check_fair_steps, check_verdict, judge
from segnb.datasets import WorkingSet
from segnb.device import describe
from segnb.experiments import kept
from segnb.experiments.runs import find_folder, initial_network, load_network, run
from segnb.experiments.splits import load_splits
from segnb.models import SegmentationNetwork
from segnb.notebook import announce, command, live_dataset, project_path, tier
from segnb.recipe import preset
from segnb.results import findings
from segnb.results.method import Method
from segnb.results.table import results_table, summarise
from segnb.training import Session
from segnb.training import contrastive_step as package_step
from segnb.training.batches import Batches
from segnb.views import colour_distortion, nearest_labels, normalise

# %% [markdown]
# ## 3 · The data and the knobs
#
# Every setting you may want to change is in this cell. A *recipe* holds everything that can affect
# a result: `preset` returns one, and `replace` changes parts of it. Training is short here, so that
# everything runs in minutes. With a GPU, the network and the images are larger, and once CamVid or
# VOC is in your data folder (notebook 09 fetches them), this notebook trains on photographs.

# %%
TIER = tier()  # "quick", or "gpu" where there is one ("smoke" is for tests and learns nothing)
DATASET = live_dataset(TIER)
SEED = 0
FRACTION = 1 / 32  # share of the training images whose masks may be used
PRETRAIN_STEPS, FINETUNE_STEPS = {"smoke": (4, 4), "quick": (300, 500)}.get(TIER, (800, 1500))

preset_recipe = preset(DATASET, TIER)
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
# The data set **shapes** is generated from a seed. It shows toys on a beach, and every image comes
# with its mask. Only a few of the training images count as labelled. No method below sees any other
# mask.

# %%
splits = load_splits(recipe)
labelled, val, info = splits.labelled_set, splits.evaluated["val"][1], splits.train.info
print(f"{len(labelled)} of {len(splits.train)} training images are labelled")
plots.contact_sheet(list(labelled.images[:6]), list(labelled.masks[:6]), info)

# %% [markdown]
# **How to read it.** Images are on top, their masks below, with one colour per class. A toy's class
# depends on its outline *and* its pattern, never on its colours. Light, sand and sky change from
# image to image, so a few labelled images cannot cover everything that varies.
#
# Training takes minutes below. Here, ahead of it, is what both stages can lead to. This network
# comes with the repository. It has another encoder, and it trained much longer, with all labels (an
# *image pass* is one image sent through the network once):

# %%
ready = kept.find(project_path("results/networks"), DATASET)
ready_row, unseen = kept.row_of(ready), kept.unseen(ready)
few = unseen.subset(unseen.ids[:2])
predicted = list(evaluation.predict(load_network(ready), few, session=session))
display(plots.predictions(list(few.images), list(few.masks), {"a long run": predicted}, few.info))
Markdown(
    f"{ready_row['labelled']} labelled images and {ready_row['image_passes']:,} image passes: "
    f"mIoU {ready_row['miou_test']:.1f} on test. `{ready_row['command']}` trains it again."
)

# %% [markdown]
# **How to read it.** From left to right: an image that was not used for training, its true mask,
# and the prediction with its share of correct pixels. With so many labels the toys are found and
# called by their right names. The question of this series is what remains of that with few.
#
# ## 4 · One step of stage 1
#
# This is a complete training step: two views, features, projection head, loss, optimiser. The loss
# is the paper's cross-image form, written out in full.


# %%
def contrastive_step(network, optimiser, images, masks, *, tau, strength, generator):
    """One step of stage 1: images [B, 3, H, W] in 0..1 and their masks [B, H, W]."""
    # Two views. The distortion changes only colours, so one mask serves both.
    distorted = colour_distortion(images, strength, generator=generator)
    features = network.features(normalise(torch.cat([images, distorted])))
    embeddings = network.head(features, recipe.loss_size)  # [2B, 256, h, w], unit length
    anchors, keys = embeddings.flatten(2).transpose(1, 2).chunk(2)  # [B, N, 256] each
    labels = nearest_labels(masks, tuple(embeddings.shape[-2:])).flatten(1)  # [B, N]

    # Pair each image with another distorted image J: the batch, shifted.
    shift = int(torch.randint(1, len(images), (1,), generator=generator))
    others, other_labels = keys.roll(shift, 0), labels.roll(shift, 0)

    # Scores of every anchor with the keys of both images, and which pairs count.
    scores = torch.cat([anchors @ keys.mT, anchors @ others.mT], dim=2) / tau  # [B, N, 2N]
    key_labels = torch.cat([labels, other_labels], dim=1)
    known = (labels != 255)[:, :, None] & (key_labels != 255)[:, None, :]
    positive = known & (labels[:, :, None] == key_labels[:, None, :])
    own_image = torch.arange(scores.shape[2]) < labels.shape[1]
    in_denominator = positive | (known & own_image)  # negatives: the anchor's image only

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
# Is this really what the package does? Let's run the package's own step on the same batch and
# compare the loss, and the gradient of every weight.


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
still = torch.optim.SGD(ours.parameters(), lr=0.0)  # a step of length 0: we only want gradients

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
# **How to read it.** The loss and the gradients agree, so the code you just read is what trains
# below. The package does one thing differently: it never builds the matrix of scores, which would
# not fit into memory for large images (notebook 03). You can also read the method in a single file
# that doesn't use this package: [examples/minimal.py](../examples/minimal.py).
#
# ## 5 · Three ways to train
#
# - **cross-entropy**: the baseline, trained on the labelled images alone.
# - **contrastive**: the paper's method. Stage 1 first, then exactly the same training as the
#   baseline.
# - **cross-entropy, same compute**: sends as many images through the network as both stages of
#   *contrastive* together, with the same colour distortion. This control is easy to forget, but it
#   matters: stage 1 is extra training, and longer training helps too.
#
# Here is what each will cost, estimated from a few timed steps:

# %%
METHODS = ("ce", "contrastive", "ce_long")
names = {method: Method.of(recipe.replace(method=method)) for method in METHODS}
announce({str(names[method]): recipe.replace(method=method) for method in METHODS})

# %% [markdown]
# Now train all three. Each starts from the same weights and learns from the same labelled images.
# Finished runs are kept in `runs/` and reused next time. To stop, interrupt the kernel; to
# continue, run the cell again.

# %%
rows, folders = {}, {}
for method in METHODS:
    chosen = recipe.replace(method=method)
    rows[method] = run(chosen, runs=RUNS, results=None)
    folders[method] = find_folder(chosen, RUNS)
    print(f"{names[method]!s:28} {rows[method]['seconds']:.0f} s")

# %% [markdown]
# ## 6 · What they see
#
# Here are their predictions on validation images, which none of them saw during training.

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
# **How to read it.** The number below each prediction is the share of pixels it got right. Look at
# the toys: has the network found each one, and does it call it by the right name? Sky, sea and sand
# are the easy part. Over all validation images, and class by class:

# %%
display(Markdown(findings.runs_found(rows.values())))
display(Markdown(findings.classes_found(rows.values(), info.class_names, over="ce")))

# %% [markdown]
# ## 7 · Do the classes gather?
#
# We now follow one set of pixels: before training, after stage 1 and after stage 2. t-SNE lays them
# out in the plane and tries to keep neighbours together. In each row, the first two maps show the
# embedding from the **projection head**, where the loss acts. The third shows the **features**
# below the head, which stage 2 builds on.

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
# **How to read it.** Each dot is a pixel, coloured by its true class. The top row shows the
# labelled images: stage 1 pulls their classes together without any classifier. The bottom row shows
# images that were never used for training. How many classes can you still make out there? Any
# structure in the top row that is missing below was learned about those labelled images only.
#
# t-SNE tends to flatter, so let's put a number on it, measured on the features below the head at
# every stage. *fisher* is the distance between classes divided by their spread, so larger is
# better. Here it is for all three methods, on unseen images:

# %%
print(f"{'':34}{'before':>9}{'stage 1':>9}{'at the end':>12}")
for method in METHODS:
    stages = rows[method]["compactness"]
    values = [
        stages.get(stage, {}).get("fisher") for stage in ("initial", "pretrained", "finetuned")
    ]
    cells = ["–" if value is None else f"{value:.2f}" for value in values]
    print(f"{names[method]!s:34}{cells[0]:>9}{cells[1]:>9}{cells[2]:>12}")
Markdown(findings.compactness_found(rows["contrastive"]))

# %% [markdown]
# **How to read it.** Stage 1 gathers the classes before any classifier has seen them. But
# cross-entropy on its own gathers them too, as a side effect. So "the classes gather" does not yet
# mean "the method is better". That is the next question. (Notebook 06 takes these numbers apart.)
#
# ## 8 · The result in one sentence
#
# The metric is **mIoU**: for each class, the overlap of predicted and true pixels divided by their
# union, averaged over the classes. A perfect score is 100. Choices are made on *val*; *test* is for
# the report.

# %%
over_ce, over_long = (
    rows["contrastive"]["miou_test"] - rows[control]["miou_test"] for control in ("ce", "ce_long")
)
display(Markdown(results_table(list(rows.values()))))
display(
    Markdown(
        f"**With {len(labelled)} labelled images, the paper's two stages reach "
        f"{rows['contrastive']['miou_test']:.1f} mIoU on test: {over_ce:+.1f} points compared with "
        f"the same fine-tuning alone, and {over_long:+.1f} compared with cross-entropy given the same compute. This is one seed.**"
    )
)

# %% [markdown]
# ## 9 · How far can you trust it?
#
# - **Would another seed agree?** Set `SEED = 1` above, and other images are labelled and other
#   initial weights are drawn. How much does each method change?
# - **Compared with what?** *contrastive* sees more than twice as many images as *cross-entropy*. If
#   its lead disappears against *the same compute*, it came from longer training.
# - **On which data?** A few minutes on computer-drawn images show how the method works, not how
#   well it works on photographs.
# - **Who chose the settings, and by looking at what?** We chose ours on validation images, with a
#   seed that no reported result uses.
#
# One page collects what this project has measured over several seeds, on photographs too:
# [results/README.md](../results/README.md).
#
# ## Exercise 1: make the comparison fair
#
# Write `fair_steps(pretrain_steps, pretrain_batch, finetune_steps, finetune_batch)`. How many steps
# of cross-entropy must the control take so that at least as many images pass through its network as
# in both stages together? The control uses the batch size of fine-tuning. Think about what one step
# of stage 1 sends through the network. You can check your answer against the estimates above.


# %%
# EXERCISE fair_steps
def fair_steps(
    pretrain_steps: int, pretrain_batch: int, finetune_steps: int, finetune_batch: int
) -> int:
    """Steps of cross-entropy that match the image passes of both stages, rounded up."""
    ...


judge(check_fair_steps, fair_steps)

# %% [markdown]
# A solution is folded away below. Open it once your own passes, or when you are stuck.


# %% tags=["solution"]
# SOLUTION fair_steps
def fair_steps(
    pretrain_steps: int, pretrain_batch: int, finetune_steps: int, finetune_batch: int
) -> int:
    """Steps of cross-entropy that match the image passes of both stages, rounded up."""
    passes = 2 * pretrain_steps * pretrain_batch  # the image, and its distorted view
    return finetune_steps + -(-passes // finetune_batch)


judge(check_fair_steps, fair_steps)

# %% [markdown]
# ## Exercise 2: when can you say "better"?
#
# You ran two methods with the same seeds. Write `verdict(ours, baseline)`, which takes their mIoU
# seed by seed. Return `"better"` or `"worse"` if the 95 % interval of the mean *difference* lies
# entirely on one side of 0, and `"can't tell"` otherwise. `segnb.results.table.summarise` gives you
# the mean and the interval (`low` and `high`, which are `None` when there is only one number).


# %%
# EXERCISE verdict
def verdict(ours: Sequence[float], baseline: Sequence[float]) -> str:
    """What paired seeds allow you to say about two methods."""
    ...


judge(check_verdict, verdict)

# %% [markdown]
# One possible solution, folded away:


# %% tags=["solution"]
# SOLUTION verdict
def verdict(ours: Sequence[float], baseline: Sequence[float]) -> str:
    """What paired seeds allow you to say about two methods."""
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
# - Stage 1 pulls pixels of the same class together and pushes the classes apart. Stage 2 adds the
#   classifier. You have run both.
# - On the training images the classes visibly gather, and you can measure it. On new images some do
#   and many do not, and cross-entropy alone gathers them too. The numbers above say by how much.
# - Whether the *segmentation* improves is a separate question. Answering it takes a control with
#   the same compute, and several seeds.
#
# ## Where to go next
#
# - [01](01_data_and_label_fractions.ipynb) **data and label fractions**: the images, and what "few
#   labels" means
# - [02](02_cross_entropy_with_few_labels.ipynb) **cross-entropy with few labels**: the baseline,
#   how it overfits, and mIoU by hand
# - [03](03_contrastive_loss_from_scratch.ipynb) **contrastive loss from scratch**: from one pixel
#   to the formula to the fast version
# - [04](04_contrastive_pretraining.ipynb) **contrastive pretraining**: watch stage 1 as it trains
# - [05](05_fine_tuning_and_comparison.ipynb) **fine-tuning and comparison**: stage 2 against both
#   controls
# - [06](06_embeddings_and_compactness.ipynb) **embeddings and compactness**: what t-SNE shows and
#   what it can't
# - [07](07_label_fraction_and_temperature.ipynb) **label fraction and temperature**: sliders over
#   the measured sweeps, and a Run button
# - [08](08_semi_supervised.ipynb) **semi-supervised**: pseudo-labels for the images without a mask
# - [09](09_real_data_at_scale.ipynb) **real data at scale**: CamVid, VOC, Cityscapes; Colab and
#   several GPUs
# - [10](10_what_goes_wrong.ipynb) **what goes wrong**: real failures for you to repair
# - [11](11_your_own_images.ipynb) **your own images**: from a folder to an answer, in three commands
#
# Your trained networks have been saved. `segnb predict` segments your own pictures with one of
# them. Here is the command for a cell; fill in your folder names:

# %%
trained = shlex.quote(os.path.relpath(folders["contrastive"]))
print(command(f"segnb predict {trained} MY_IMAGES --out PREDICTIONS"))
