# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 04 · Contrastive pretraining
#
# This is stage 1 of the paper. We take a network from scratch, a handful of labelled images, and
# the loss of [03](03_contrastive_loss_from_scratch.ipynb). There is no classifier and no
# cross-entropy, only pixels that attract and repel each other. By the end, the network can't name a
# single class. But it should, we hope, have put each class in a region of its own.
#
# In this notebook you will
#
# 1. see what the network is fed: random crops, and a colour distortion whose strength you choose;
# 2. train stage 1 and **watch the embedding move**, for the same pixels throughout, step by step;
# 3. compare the loss curve with its floor, and see how much of the noise in the curve comes from
#    that floor.

# %% [markdown]
# ## The knobs
#
# Every setting you may want to change is in this cell.

# %%
from segnb.notebook import announce, command, live_dataset, project_path, tier

TIER = tier()  # "quick", or "gpu" where there is one ("smoke" is for tests and learns nothing)
DATASET = live_dataset(TIER)
STRENGTH = 1.0  # of the colour distortion; 0 is none, 1 is SimCLR's
FORM, SCOPE = "paper", "cross"  # or "official"; or "within", "batch"
TEMPERATURE = 0.07
STEPS = {"smoke": 4, "quick": 450}.get(TIER, 1500)
BATCH = {"smoke": 4}.get(TIER, 8)
SNAPSHOTS = {"smoke": (1, 4), "quick": (10, 50, 150, 300, 450)}.get(
    TIER, (10, 100, 300, 700, 1500)
)  # steps after which to look: 1, multiples of 10, or the last
PIXELS_PER_CLASS = {"smoke": 10}.get(TIER, 60)  # in a snapshot
SEED = 0

# %% [markdown]
# The imports. The stage itself is one function of `segnb.training`: `pretrain`.

# %% tags=["folded"]
# @title Imports
import math

import ipywidgets
import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Markdown, display
from sklearn.decomposition import PCA

from segnb import checks, evaluation
from segnb.checks import judge
from segnb.experiments import runs
from segnb.experiments.splits import load_splits
from segnb.metrics import compactness
from segnb.plots import (
    Picture,
    contact_sheet,
    embedding_maps,
    new_figure,
    styled,
    tsne,
    views,
)
from segnb.plots.lines import lines
from segnb.recipe import Stage, preset
from segnb.training import Session, contrastive_loss, make_accelerator, pretrain
from segnb.training.batches import Batches
from segnb.training.randomness import step_generator
from segnb.views import colour_distortion, nearest_labels, to_unit
from segnb.widgets.live import live

# %% [markdown]
# ## 1 · The recipe and its images
#
# A recipe holds everything that can change the result. Ours is the preset of this tier, with a
# smaller network and smaller crops, so that a CPU can take a few hundred steps while you watch. The
# printed command, in a cell, runs the same stage, followed by stage 2.

# %%
small = {"encoder_depth": 3, "decoder_channels": 64} if TIER in ("smoke", "quick") else {}
if TIER == "quick":
    small |= {"crop": (64, 64), "scale": (0.75, 2.0)}
recipe = preset(DATASET, TIER).replace(
    **small,
    seed=SEED,
    form=FORM,
    scope=SCOPE,
    temperature=TEMPERATURE,
    distortion=STRENGTH,
    pretrain=Stage(steps=STEPS, batch=BATCH, lr=0.1, warmup=min(30, STEPS // 2)),
)
splits = load_splits(recipe)
labelled, val = splits.labelled_set, splits.evaluated["val"][1]
print(f"{len(labelled)} labelled images of {len(splits.train)}, {len(val)} validation images")
print(command(recipe.command(), runs=project_path("runs"), results=project_path("results")))
announce({"stage 1": recipe.replace(finetune=Stage(steps=0))})

# %% [markdown]
# ## 2 · What the distortion does
#
# In each step the network sees every image twice: as it is, and with distorted colours. We follow
# SimCLR's recipe: brightness, contrast, saturation and hue change, and the image is sometimes
# turned grey and sometimes blurred. The distortion says *what should not matter*. If it is too
# weak, the two views are so alike that matching them teaches nothing. If it is too strong, it
# destroys what tells the classes apart. We don't know how strong it was in the paper, so here it is
# a knob.

# %%


def distorted_views(strength: float, seed: int):
    """Two training images, each in three random distortions of one strength."""
    images = to_unit(labelled.images[:2])
    found = {}
    for draw in range(3):
        generator = torch.Generator().manual_seed(3 * seed + draw)
        found[f"draw {draw + 1}"] = list(colour_distortion(images, strength, generator=generator))
    return views(list(images), found)


# %% [markdown]
# Move the slider. At which strength can *you* no longer tell a ball from a swim ring?

# %%
live(
    distorted_views,
    {
        "strength": ipywidgets.FloatSlider(
            value=STRENGTH, max=2.0, step=0.1, description="strength", continuous_update=False
        ),
        "seed": ipywidgets.IntSlider(
            value=SEED, max=20, description="seed", continuous_update=False
        ),
    },
)

# %% [markdown]
# The same without widgets:

# %%
strength, seed = STRENGTH, SEED
distorted_views(strength, seed)

# %% [markdown]
# **How to read it.** There is one row per image, and the first column shows the image as it is.
# Shapes and patterns survive. Colours often don't: as in SimCLR, chance decides for each image. At
# strength 1, colours are shifted in four out of five images, and one in five turns grey, so about
# one in six (0.2 x 0.8 = 16 %) keeps its colours. In **shapes** that is exactly what we want,
# because colour says nothing about a toy's class. On street scenes, where the sky *is* blue, a
# strong distortion takes a real clue away.
#
# ## 3 · What the loss sees
#
# Before its colours are distorted, each image is scaled, cropped and perhaps mirrored, together
# with its mask. The network then computes its feature map. Where the recipe sets a `loss_size`, as
# here, the features are resized to it, which saves time. The labels then have to be shrunk to the
# same size.

# %%
generator = step_generator(recipe.seed, "pretrain", 0, 0)
crops, masks = Batches(data=labelled, recipe=recipe, batch=4).at(0, generator)
network = runs.initial_network(recipe)
with torch.inference_mode():
    grid = tuple(network.eval().features(crops[:1]).shape[-2:])
grid = recipe.loss_size or grid
print(f"crops of {recipe.crop}, the loss sees {grid}: {grid[0] * grid[1]} pixels per image")
display(contact_sheet(list(crops), list(masks), val.info))
coarse = nearest_labels(masks, grid)
display(contact_sheet(list(crops), list(coarse), val.info))

# %% [markdown]
# **How to read it.** The first sheet shows four crops from the first batch with their masks. Pale
# grey marks whatever lies outside the image or has no label; it is neither anchor nor key. The
# second sheet shows the same masks at the size the loss sees. Each block takes the label of the
# nearest pixel: corner blocks stand for corner pixels (aligned corners), the others lie evenly
# between. These blocks are all the loss ever learns about the labels, and anything smaller than a
# block may vanish.
#
# ### Exercise 1 · design a negative
#
# The labels decide *which* keys push an anchor away. How hard a key pushes depends on where it
# lies. Take a circle as in notebook 03, with the anchor at angle 0, one positive at angle
# $\varphi$ and a single negative at angle $\theta$. In the paper form, the negative pushes the
# anchor along the circle with
#
# $$ \frac{1}{\tau} \, w(\theta) \sin \theta , \qquad
#    w(\theta) = \frac{\exp(\cos \theta / \tau)}
#    {\exp(\cos \theta / \tau) + \exp(\cos \varphi / \tau)} . $$
#
# $w$ is the negative's share of the softmax. The sine is the part of its push that turns the
# anchor; the normalisation removes the rest. At which angle, between 0 and $\pi$, is the push
# hardest? Searching a fine grid is enough.
#
# **Predict first.** Is it very near the anchor, at 90°, or opposite? And where does it move as
# $\tau$ falls?


# %%
# EXERCISE hardest_negative
def hardest_negative(temperature: float, positive_angle: float) -> float:
    """Angle, in radians, at which a negative pushes an anchor at angle 0 hardest."""
    ...


# %% [markdown]
# Ask the checker.

# %%
judge(checks.check_hardest_negative, hardest_negative)

# %% [markdown]
# A solution, folded away.


# %% tags=["solution"]
# SOLUTION hardest_negative
def hardest_negative(temperature: float, positive_angle: float) -> float:
    """Angle, in radians, at which a negative pushes an anchor at angle 0 hardest."""
    angles = np.linspace(0, np.pi, 10_001)
    # exp(a) / (exp(a) + exp(b)) = 1 / (1 + exp(b - a))
    share = 1 / (1 + np.exp((np.cos(positive_angle) - np.cos(angles)) / temperature))
    return float(angles[np.argmax(share * np.sin(angles))])


# %% [markdown]
# Now look at the whole curve, at three temperatures, with the positive at 30°. The dots are your
# function's answers.

# %%
positive_angle = math.radians(30)
angles = np.linspace(0, np.pi, 361)
pushes, hardest = {}, {}
for tau in (0.07, 0.2, 0.5):
    share = 1 / (1 + np.exp((math.cos(positive_angle) - np.cos(angles)) / tau))
    pushes[tau] = share * np.sin(angles) / tau
    hardest[tau] = math.degrees(hardest_negative(tau, positive_angle))
answers = [f"{angle:.0f}° at τ = {tau:g}" for tau, angle in hardest.items()]
print("hardest:", ", ".join(answers))

# %% tags=["folded"]
# @title Draw it
with styled():
    figure = new_figure(6.4, 3.0)
    axes = figure.subplots()
    for (tau, push), look in zip(pushes.items(), ("-", "--", ":"), strict=True):
        (line,) = axes.plot(np.degrees(angles), push, look, label=f"τ = {tau:g}")
        at = np.interp(hardest[tau], np.degrees(angles), push)
        axes.plot(hardest[tau], at, "o", color=line.get_color())
    axes.axvline(30, color="#777777", linewidth=1)
    axes.set(
        xlabel="angle of the negative (degrees); the line is the positive",
        ylabel="push along the circle",
        xticks=range(0, 181, 30),
    )
    axes.legend()
Picture(
    figure,
    "How hard a negative pushes the anchor along the circle, against its angle, with the positive "
    f"at 30 degrees. Zero at 0 and at 180 degrees; hardest at {', '.join(answers)}. The smaller "
    "the temperature, the higher and narrower the peak.",
)

# %% [markdown]
# **How to read it.** The hardest negative is neither very near, nor at 90°, nor opposite: at a
# small $\tau$ it is about as far from the anchor as the positive. A negative on top of the anchor
# has the largest share, but it pushes along the anchor's own direction and can't turn it. One far
# away could turn it, but has no share left. A large $\tau$ evens out the shares, and the peak moves
# towards 90°, where the sine is largest. At a small $\tau$ the share works like a switch: negatives
# nearer than the positive have it all, those farther away nothing. So the loss spends its force on
# the pixels that it might confuse with a positive, and with a smaller $\tau$ on fewer of them.

# %% [markdown]
# ### Exercise 2 · another image
#
# The cross-image loss pairs each image $I$ of the batch with "another image" $J$. Write that
# pairing: for a batch of `count` images, return the number of each image's partner. No image is its
# own partner, every image is the partner of exactly one other, and the pairs, drawn from the
# generator, differ from step to step. (The official code takes any permutation, so an image may be
# paired with itself. We follow the paper's wording for the paper form, and the code for the
# official form.)


# %%
# EXERCISE other_images
def other_images(count: int, generator: torch.Generator) -> torch.Tensor:
    """For each of `count` images, the number of another one: [count]."""
    ...


# %% [markdown]
# Ask the checker.

# %%
judge(checks.check_other_images, other_images)

# %% [markdown]
# A solution, folded away. There are others; this is the one `segnb` uses.


# %% tags=["solution"]
# SOLUTION other_images
def other_images(count: int, generator: torch.Generator) -> torch.Tensor:
    """For each of `count` images, the number of another one: [count]."""
    shift = int(torch.randint(1, count, (1,), generator=generator))
    return torch.arange(count).roll(shift)


# %% [markdown]
# ## 4 · Train, and watch
#
# Every so often we stop to look at the same pixels of the same validation images, on which the
# network is never trained. We take the features *before* the projection head. The head is thrown
# away after this stage, and stage 2 inherits only what lies below it.
#
# While the network trains, the picture below shows the latest snapshot, projected to the plane by
# PCA. (`on_log` is called with each row of the training log. To stop early, interrupt the kernel. A
# training with a run folder, which this one lacks, would later resume where it stopped.)

# %%
snapshots: dict[int, evaluation.EmbeddingSample] = {}
accelerator = make_accelerator(recipe.precision)
window = display(display_id=True)


def look(step: int) -> None:
    """Keep a snapshot, show it, and hand the network back in training mode."""
    snapshots[step] = evaluation.sample_embeddings(
        network,
        val,
        session=Session(accelerator=accelerator),
        per_class=PIXELS_PER_CLASS,
        seed=SEED,
    )
    network.train()
    unit = F.normalize(snapshots[step].embeddings, dim=1).numpy()
    flat = PCA(2, random_state=0).fit_transform(unit)
    picture = embedding_maps({f"after {step} steps": (flat, snapshots[step].labels)}, val.info)
    if window is not None:
        window.update(picture)


def on_log(row: dict) -> None:
    """Take a snapshot at the steps in SNAPSHOTS."""
    if row["step"] in SNAPSHOTS:
        look(row["step"])


network = runs.initial_network(recipe)
look(0)
session = Session(accelerator=accelerator, progress_bar=True, on_log=on_log)
log = pretrain(network, labelled, recipe, session=session)

# %% [markdown]
# **How to read it.** Each dot is a pixel, in the colour of its true class. The axes are the two
# directions in which this snapshot varies most, whatever they are. That is the weakness of this
# picture: each snapshot gets a new plane, so you can't compare one with the next. So let's use
# *one* plane for all of them: the principal components of all snapshots together. PCA is a plain
# projection, so distances in these pictures do mean something, though only distances within the
# plane.

# %%
units = {step: F.normalize(sample.embeddings, dim=1).numpy() for step, sample in snapshots.items()}
plane = PCA(2, random_state=0).fit(np.concatenate([*units.values()]))
places = {step: plane.transform(unit) for step, unit in units.items()}
everything = np.concatenate([*places.values()])
low, high = everything.min(0) - 0.05, everything.max(0) + 0.05


def on_one_plane(*steps: int):
    """Snapshots in the common plane, all panels on one scale."""
    points = {f"after {step} steps": (places[step], snapshots[step].labels) for step in steps}
    picture = embedding_maps(points, val.info)
    for axes in picture.figure.axes:
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    return picture


on_one_plane(*places)

# %% [markdown]
# **How to read it.** Each dot is a pixel of a validation image, the same one in every panel,
# coloured by its true class. The first panel is the fresh network: all classes are mixed. Early on
# the cloud moves as a whole, then it is pulled apart. Follow one class from panel to panel: the sky
# first, then sea and sand, then a toy of your choice. Which of them get a corner to themselves, and
# when? The large areas separate first. The toys differ from each other only in shape and pattern,
# and stay mixed for a long time. To separate them takes more steps than a notebook on a CPU can
# afford, and more directions than a plane has room for. Notebook 06 shows a network that was
# trained much longer, after stage 1 and after stage 2.
#
# Step through the snapshots yourself:

# %%
live(
    lambda snapshot: on_one_plane(snapshot),
    {"snapshot": ipywidgets.SelectionSlider(options=list(places), description="step")},
)

# %% [markdown]
# The same without widgets:

# %%
snapshot = max(places)
on_one_plane(snapshot)

# %% [markdown]
# **How to read it.** This is one panel of the picture above, enlarged, in the same plane and at the
# same scale. t-SNE can show what the plane hides: which pixels are neighbours in all dimensions.
# Here are the first and the last snapshot:

# %%
perplexity = min(30.0, (len(everything) / len(places) - 1) / 3)
embedding_maps(
    {
        f"t-SNE, after {step} steps": (
            tsne(units[step], perplexity=perplexity, seed=SEED),
            snapshots[step].labels,
        )
        for step in (0, max(snapshots))
    },
    val.info,
)

# %% [markdown]
# **How to read it.** Look for regions of one colour, and nothing else. In t-SNE, neither the size
# of an island nor the distance between two islands means anything. Nor must an island be a class:
# the untrained network's map has clumps too, and most of them mix several colours. Why t-SNE
# misleads, and what to trust instead, is the subject of [06](06_embeddings_and_compactness.ipynb).
# Here are two numbers from that notebook, measured during training: the spread within the classes,
# and the distance between them.

# %%
fitted = evaluation.sample_embeddings(
    network, labelled, session=session, per_class=PIXELS_PER_CLASS, seed=SEED
)
gathered = {
    step: compactness(
        *sample,
        fit_embeddings=fitted.embeddings,
        fit_labels=fitted.labels,
        num_classes=val.info.num_classes,
    )
    for step, sample in snapshots.items()
}
display(
    lines(
        {
            "intra: spread within classes": (
                [*gathered],
                [c.intra or 0.0 for c in gathered.values()],
            ),
            "inter: distance between classes": (
                [*gathered],
                [c.inter or 0.0 for c in gathered.values()],
            ),
        },
        xlabel="step",
        ylabel="squared distance of unit-length features",
    )
)
first, last = gathered[0], gathered[max(gathered)]
display(
    Markdown(
        f"On images it never trained on, the distance between classes goes from "
        f"{(first.fisher or math.nan):.2f} to {(last.fisher or math.nan):.2f} times the spread "
        f"within them."
    )
)
print("step       ", *(f"{step:6}" for step in gathered))
print("inter/intra", *(f"{c.fisher or math.nan:6.2f}" for c in gathered.values()))

# %% [markdown]
# **How to read it.** Both lines are averages over validation pixels. In a tight lump, the spread is
# small *and* so are the distances, so both may have to grow before the classes can become compact.
# That is why it is no mistake when *intra*, which should be small, rises; here it stays up as well.
# What counts is whether *inter* outgrows *intra*. Watch their ratio in the last row: neither number
# alone tells you that the classes have separated.
#
# ## 5 · The loss curve and its floor
#
# The paper form can't fall below the mean of $\log$ (number of positives), and that floor depends
# on the crops of each step. A batch full of sky has a high floor, a batch of small toys a low one.
# We can compute the floor of *each step exactly*, because a step's crops are drawn from a seed:
# rebuild the same batch, and feed the loss perfect embeddings, with one direction per class.

# %%


def floor_of(step: int) -> float:
    """The loss of a perfect embedding on exactly the batch of this step."""
    generator = step_generator(recipe.seed, "pretrain", step - 1, 0)
    batches = Batches(data=labelled, recipe=recipe, batch=recipe.pretrain.batch)
    crops, masks = batches.at(step - 1, generator)
    colour_distortion(crops, recipe.distortion, generator=generator)  # draws what training drew
    labels = nearest_labels(masks, grid)
    classes = val.info.num_classes
    perfect = F.one_hot(labels.clamp(max=classes), classes + 1).permute(0, 3, 1, 2).float()
    return float(contrastive_loss(perfect, perfect, labels, recipe, generator=generator))


steps = [row["step"] for row in log]
losses = [row["loss"] for row in log]
floors = [floor_of(step) for step in steps]
lines(
    {"loss": (steps, losses), "floor of the same batch": (steps, floors)},
    xlabel="step",
    ylabel=f"contrastive loss ({FORM} form, {SCOPE})",
)

# %% [markdown]
# **How to read it.** The two lines jump up and down together. Much of what looks like noise in the
# loss comes from the floor, because both depend on which pixels the crops happen to contain. The
# part that the network can do something about is the gap between them:

# %%
gap = [loss - floor for loss, floor in zip(losses, floors, strict=True)]
display(
    lines(
        {"loss above its floor": (steps, gap)},
        xlabel="step",
        ylabel="loss - floor",
        levels={"perfect": 0.0},
    )
)
if len(steps) > 4:
    together = float(np.corrcoef(np.diff(losses), np.diff(floors))[0, 1])
    print(f"correlation of the two lines' jumps: {together:.2f}")
    print(f"share of the loss's jumps explained by the floor's (R²): {100 * together**2:.0f} %")
Markdown(
    f"The loss ends {gap[-1]:.2f} above its floor, having started {gap[0]:.2f} above it"
    + (f"; half-way it was {gap[len(gap) // 2]:.2f}." if len(gap) > 4 else ".")
)

# %% [markdown]
# **How to read it.** With the floor removed, the curve finally answers our question: is the loss
# still falling? If it is, more steps may help. (The gap is noisy too: the loss follows its floor,
# but not one to one.) In a raw loss curve, a flat stretch may hide a gap that is still closing, and
# a fall may only mean that the crops got easier. (With `FORM = "official"` the floor is about zero,
# so the gap is the loss itself.)
#
# ## Summary
#
# - In each step the network sees every image twice, in the same crop: as it is, and with other
#   colours. The strength of the distortion says what the network should learn to ignore.
# - Labels are shrunk to the size of the features by nearest neighbour, with aligned corners.
# - The embeddings start as one lump and are pulled apart, the large areas first. We watched the
#   same pixels of unseen images in one common plane, and measured what the plane can't show.
# - In the paper form, the loss has a floor that changes with the crops. Subtract it before you
#   judge the curve.
#
# ## Where to go next
#
# - [05, fine-tuning and comparison](05_fine_tuning_and_comparison.ipynb): the clusters get their
#   names, and meet baselines with the same compute.
# - [06, embeddings and compactness](06_embeddings_and_compactness.ipynb): what t-SNE can and can't
#   show, and numbers for what it can't.
# - Try this here: `STRENGTH = 0`, `SCOPE = "within"`, `FORM = "official"`.
