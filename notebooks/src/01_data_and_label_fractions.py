# %% [markdown]
# # 01 · Data and label fractions
#
# The question of the paper is what to do when only few images are labelled. So before any network
# is trained, we look: at the images, at what a label is, and at what "few" means.
#
# You will
# - see the embedded data set, **shapes**, and why it is harder than it looks,
# - see what is left when only a share of the labels may be used, and how that share is chosen so
#   that results can be compared,
# - count how unevenly the classes are spread, which decides what mIoU will reward,
# - bring in a folder of your own images and masks.
#
# Time: about a minute. No network, no files, no GPU needed.

# %% [markdown]
# **What we need.** `segnb.datasets` hands out images and masks, `segnb.plots` draws them. The size
# of everything comes from one word, the *tier*: `quick` unless the environment variable
# `SEGNB_TIER` says otherwise.

# %% tags=["folded"]
# @title Imports
import hashlib
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import torch
from PIL import Image

from segnb import datasets, plots
from segnb.checks import check_class_shares, check_nested_choice, judge
from segnb.datasets import DatasetInfo
from segnb.datasets.fractions import class_presence
from segnb.datasets.paired import Pair, PairedDataset
from segnb.errors import DataError
from segnb.notebook import tier
from segnb.plots import Picture
from segnb.recipe import preset
from segnb.results.table import fraction_name

# %% [markdown]
# **The knobs.** All of them, here and nowhere else. Change one, run the rest again. `camvid`,
# `voc-animals` and others work too, once they lie in the data folder (notebook 09 tells how).

# %%
DATASET = "shapes"
FRACTION = 1 / 16  # share of the training images whose labels may be used
FRACTIONS = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
SEED = 0  # which images those are

# %% [markdown]
# ## Pictures first
#
# A data set comes in splits. We *train* on one, make choices on *val*, and look at *test* once, at
# the very end. What a data set is called, which classes it has and under which terms it may be used
# is known before any file is read.

# %%
recipe = preset(DATASET, tier())
train = datasets.load(DATASET, "train", size=recipe.size)
val = datasets.load(DATASET, "val", size=recipe.size)
info = train.info
print(f"{info.name}: {len(train)} training images, {len(val)} for validation")
print(f"{info.num_classes} classes: {', '.join(info.class_names)}")
print(f"terms: {info.licence}")

# %% [markdown]
# `working_set` brings a split to one size and keeps it in memory as bytes: that is what batches are
# made of. The contact sheet shows the first images with their masks below.

# %%
data = datasets.working_set(train, size=recipe.size)
plots.contact_sheet(list(data.images[:8]), list(data.masks[:8]), info)

# %% [markdown]
# **How to read it.** Each image stands above its mask; a mask gives every pixel one class, in the
# colours of the legend. In shapes a toy's class shows in its outline and in its pattern: a ball has
# wedges, a swim ring blocks, a towel stripes, a starfish dots and a kite checks. Colour says nothing.
# Light, sand and sky, the toys' colours and their size differ from scene to scene, so a few labelled
# scenes cover only a small part of what the network will meet.
#
# Light grey pixels, where you find any, are **void**: nobody labelled them, or they lie outside of the
# image. The drawn scenes have none; photographs do. A void pixel has the value 255 in the mask. It is not
# a class, and every loss and every score must leave it out; notebook 10 shows what happens if one forgets.

# %% [markdown]
# ## What few labels look like
#
# Now the restriction. All training images exist, but somebody has drawn masks for some of them
# only. This wall shows the whole training split; an image with a mask is in colour and wears its
# mask, the others have gone pale.

# %%
labelled = datasets.labelled_ids(train, FRACTION, seed=SEED)


def wall(ids: Sequence[str]) -> Picture:
    """All training images, tiny; those in ``ids`` under their masks, the others pale."""
    step = max(1, data.images.shape[-1] // 32)
    chosen, tiles = set(ids), []
    for name, image, mask in zip(data.ids, data.images, data.masks, strict=True):
        small, labels = image[:, ::step, ::step].numpy(), mask[::step, ::step].numpy()
        if name in chosen:
            tiles.append(plots.overlay(small.transpose(1, 2, 0), labels, info, opacity=0.75))
        else:
            grey = small.mean(axis=0, keepdims=True).repeat(3, axis=0).transpose(1, 2, 0)
            tiles.append((grey // 32 * 8 + 184).astype(np.uint8))
    columns = 32
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)]
    page = np.concatenate(rows)
    with plots.styled():
        figure = plots.new_figure(7.2, 7.2 * page.shape[0] / page.shape[1] + 0.3, pixels=100)
        axes = figure.subplots()
        axes.imshow(page)
        axes.set_axis_off()
        axes.set_title(f"{len(ids)} of {len(data.ids)} images have a label")
    alt = f"A wall of {len(data.ids)} small images, {len(ids)} of them in colour: the labelled ones"
    return Picture(figure, alt)


wall(labelled)

# %% [markdown]
# **How to read it.** The coloured tiles are all the supervision there is. Everything that follows
# in this series, the baseline as well as the paper's method, is trained on these alone. (Only
# notebook 08 uses the pale ones, without their labels.)
#
# The first twelve of them at full size:

# %%
few = data.subset(labelled[:12])
plots.contact_sheet(list(few.images), list(few.masks), info, columns=6)

# %% [markdown]
# **How to read it.** Take the classes of the legend one by one and count the objects of each. A
# class that is there two or three times is all there is to learn it from: one size, one angle, one
# pair of paints each. A network with millions of weights can learn so few examples by heart; that
# is the overfitting the paper is about, and notebook 02 makes it visible.

# %% [markdown]
# ## Which images? Nested splits
#
# If every fraction drew its images anew, a curve over fractions would wobble with the luck of the
# draw, and "twice the labels" would not mean "the old ones and as many again". `labelled_ids`
# therefore puts all images in **one order per seed** and takes a beginning of it:
#
# 1. first the images that each bring the most classes not seen so far, until every class is there,
# 2. then the rest, shuffled by the seed.
#
# So a smaller share lies inside every larger one. We check that, rather than believe it.

# %%
shares = {f: datasets.labelled_ids(train, f, seed=SEED) for f in FRACTIONS}
for small, large in itertools.pairwise(FRACTIONS):
    inside = set(shares[small]) <= set(shares[large])
    print(
        f"{fraction_name(small):>5} ({len(shares[small])} images) inside "
        f"{fraction_name(large)} ({len(shares[large])}): {inside}"
    )

# %% [markdown]
# The same as a picture, for this seed and for the next one. Columns are images, in the order in
# which *this* seed takes them.


# %%
def membership(seed: int, order: Sequence[str]) -> np.ndarray:
    """Rows are fractions, columns images; true where the image is labelled."""
    chosen = [set(datasets.labelled_ids(train, f, seed=seed)) for f in FRACTIONS]
    return np.array([[name in ids for name in order] for ids in chosen])


joined = {name: f for f in reversed(FRACTIONS) for name in shares[f]}
order = sorted(train.ids, key=lambda name: joined.get(name, 2.0))
with plots.styled():
    figure = plots.new_figure(7.2, 3.0)
    for axes, seed in zip(figure.subplots(2, 1, sharex=True), (SEED, SEED + 1), strict=True):
        axes.imshow(
            membership(seed, order), aspect="auto", cmap="Blues", vmax=1.4, interpolation="nearest"
        )
        axes.set_yticks(range(len(FRACTIONS)), [fraction_name(f) for f in FRACTIONS])
        axes.set_title(f"seed {seed}")
        axes.grid(visible=False)
    axes.set_xlabel(
        f"the {len(train)} training images, in the order in which seed {SEED} takes them"
    )
Picture(
    figure,
    "Which images are labelled at each fraction: a staircase for one seed, where every row "
    "contains the row above; for another seed the same images are scattered.",
)

# %% [markdown]
# **How to read it.** Top: a staircase, each row holds the row above. Bottom: another seed takes
# other images, but look down any column: once labelled, an image stays labelled. Results are
# reported over several seeds, because *which* images are labelled matters as much as the method
# when they are few.

# %% [markdown]
# ## Class balance
#
# mIoU gives every class the same weight, however few pixels it has. So we count: what share of the
# pixels does each class have, and in how many labelled images does it appear? We also ask whether
# the labelled images are a fair sample of all, which we can tell only because here every mask
# exists.


# %%
def pixel_shares(masks: torch.Tensor) -> np.ndarray:
    """Percent of the pixels that each class has; void counts nowhere."""
    counts = np.bincount(masks.numpy().ravel(), minlength=256)[: info.num_classes]
    return 100 * counts / counts.sum()


share, everywhere = pixel_shares(data.subset(labelled).masks), pixel_shares(data.masks)
presence = class_presence(train)
position = {name: i for i, name in enumerate(train.ids)}
seen = presence[[position[name] for name in labelled]].sum(axis=0)

with plots.styled():
    figure = plots.new_figure(7.2, 0.9 + 0.2 * info.num_classes)
    left, right = figure.subplots(1, 2, sharey=True)
    colours = np.array(info.palette) / 255
    places = np.arange(info.num_classes)
    left.barh(places, share, color=colours)
    left.plot(everywhere, places, "|", color="#222222", markersize=11, label="in all masks")
    left.set(xlabel="share of the labelled images' pixels, %", title="pixels")
    left.legend(loc="lower right")
    left.set_yticks(places, info.class_names)
    left.invert_yaxis()
    right.barh(places, seen, color=colours)
    right.set(
        xlabel=f"images, of the {len(labelled)} labelled at {fraction_name(FRACTION)}",
        title="images that show it",
    )
Picture(
    figure,
    "For each class its share of the labelled images' pixels (in all masks) and the number of "
    f"the {len(labelled)} labelled images that show it: "
    + ", ".join(
        f"{name} {part:.0f} % ({whole:.0f} %), {number}"
        for name, part, whole, number in zip(info.class_names, share, everywhere, seen, strict=True)
    )
    + ".",
)

# %% [markdown]
# **How to read it.** Left: three large, easy classes have most of the pixels, and every toy
# little. A network that gets only the large ones right has a high *pixel accuracy* and a low
# *mIoU*. A black tick is the class's share in all masks: where the bar misses it, the labelled
# images show a class more or less often than the world does. Right: what a rare class hangs on is a
# part of the labelled images, and in each of these a few pixels. No class is at zero, because the
# order of images covers the classes first.
#
# How much luck remains shows when we ask the same for several seeds:

# %%
for seed in range(SEED, SEED + 4):
    ids = datasets.labelled_ids(train, FRACTION, seed=seed)
    found = presence[[position[name] for name in ids]].sum(axis=0)
    rarest = int(found.argmin())
    print(f"seed {seed}: rarest is {info.class_names[rarest]}, in {found[rarest]} labelled images")

# %% [markdown]
# **How to read it.** Compare the lines: the rarest class, and how rare it is, change with nothing
# but the seed. At a smaller `FRACTION` the difference between lines decides whether a class can be
# learnt at all, and no method can make up for it. A single seed would praise or blame
# the method for it.
#
# ## Move the fraction yourself
#
# Slide through the fractions and watch the wall fill up.

# %%
choices = [(fraction_name(f), f) for f in FRACTIONS]
slider = widgets.SelectionSlider(
    options=choices, value=FRACTION, description="labelled", continuous_update=False
)
explorer = widgets.interact(
    lambda fraction: wall(datasets.labelled_ids(train, fraction, seed=SEED)), fraction=slider
)

# %% [markdown]
# Without widgets, the same: set the fraction and run the cell.

# %%
fraction = 1 / 4
wall(datasets.labelled_ids(train, fraction, seed=SEED))

# %% [markdown]
# **How to read it.** At a quarter the wall is full of colour, and still three of four masks were
# never drawn. For a street scene that is real money: one Cityscapes image took its annotators more
# than an hour and a half (Cordts et al., 2016).

# %% [markdown]
# ## Exercise 1: count pixels, but not void
#
# Write `class_shares(mask, num_classes)`: the share (0 to 1) of each class among the pixels **that
# count**. Run the cell; the checker tells what is missing. It gives a hint, not the answer.


# %%
# EXERCISE class_shares
def class_shares(mask: np.ndarray, num_classes: int) -> np.ndarray:
    """Share of each class among the labelled pixels of ``mask``; zeros if all is void."""
    ...


judge(check_class_shares, class_shares)

# %% [markdown]
# A solution is folded away below; unfold it when your own passes, or when you are stuck.


# %% tags=["solution"]
# SOLUTION class_shares
def class_shares(mask: np.ndarray, num_classes: int) -> np.ndarray:
    """Share of each class among the labelled pixels of ``mask``; zeros if all is void."""
    labels = mask[mask != datasets.IGNORE]
    counts = np.bincount(labels.ravel(), minlength=num_classes)
    return counts / max(1, counts.sum())


judge(check_class_shares, class_shares)

# %% [markdown]
# ## Exercise 2: a nested choice of your own
#
# Write `nested_choice(ids, fraction, seed)`: the ids that are labelled, `round(fraction * n)` of
# them and at least one. It must be the same every time for one seed, differ between seeds, and be
# **nested**: a smaller fraction lies inside a larger one. And it must bear a data set that changes:
# if one image comes in, at most one of those chosen before makes room, and all others stay. (A
# shuffled list does not bear it. No need to cover the classes.)


# %%
# EXERCISE nested_choice
def nested_choice(ids: Sequence[str], fraction: float, seed: int) -> list[str]:
    """A nested random share of ``ids``."""
    ...


judge(check_nested_choice, nested_choice)

# %% [markdown]
# One way to do it, folded away:


# %% tags=["solution"]
# SOLUTION nested_choice
def nested_choice(ids: Sequence[str], fraction: float, seed: int) -> list[str]:
    """A nested random share of ``ids``."""

    def lot(name: str) -> bytes:  # drawn by each id for itself, whoever else is there
        return hashlib.sha256(f"{seed}:{name}".encode()).digest()

    return sorted(ids, key=lot)[: max(1, round(fraction * len(ids)))]


judge(check_nested_choice, nested_choice)

# %% [markdown]
# ## Your own images
#
# You need pairs: an image, and a mask of the same size with **one class id per pixel** (a PNG in
# mode L or P, never a JPEG: compression invents classes that do not exist). Here we write four such
# pairs into a folder to stand in for yours. To use your own, let `folder` point at it, put your
# class names into `mine`, and let `labels` say what each value in your files means: class 0, 1, …,
# or void. A value that it does not name is refused.

# %%
folder = Path(tempfile.mkdtemp())
for i in range(4):
    sample = val[i]
    things = np.where(sample.mask == datasets.IGNORE, 255, sample.mask >= 3).astype(np.uint8)
    Image.fromarray(sample.image).save(folder / f"beach{i}.jpg")
    Image.fromarray(things).save(folder / f"beach{i}.mask.png")

mine = DatasetInfo(
    name="my beach",
    class_names=("background", "toy"),
    palette=((221, 204, 119), (204, 61, 133)),
    licence="mine",
    homepage="a folder",
)
pairs = [
    Pair(image.stem, image, image.with_suffix(".mask.png"))
    for image in sorted(folder.glob("*.jpg"))
]
own = PairedDataset(mine, "train", pairs, labels={0: 0, 1: 1, 255: datasets.IGNORE}, source=folder)
print(f"{len(own)} pairs, {own.info.num_classes} classes")

# %% [markdown]
# From here on your images are like any others: the same working set, the same pictures, the same
# training calls. They are scaled with their aspect kept; what the image does not cover is void.

# %%
own_data = datasets.working_set(own, size=(96, 96), cache=folder / "cache")
plots.contact_sheet(list(own_data.images), list(own_data.masks), mine)

# %% [markdown]
# **How to read it.** The grey strip below each mask is the padding, marked void: it will count
# nowhere. Check here that colours sit where your classes are, before you spend an hour training.
#
# Mistakes in masks are common, and silent ones are the worst. Ids that no class has, colours in
# place of ids, and sizes that differ are refused with the file's name:

# %%
Image.fromarray(np.full((96, 128), 7, np.uint8)).save(folder / "beach1.mask.png")
try:
    own[1]
except DataError as error:
    print(str(error).replace(str(folder), "my-folder"))

# %% [markdown]
# To **train** on `own_data`, hand it to the two stages, as notebooks 04 and 05 do:
# `training.pretrain(network, own_data, recipe, session=...)`, then `training.finetune(...)`.
# To **segment** a folder of images with a network that is already trained, use the command
# `segnb predict RUN IMAGES OUT` (notebook 00 leaves such a run behind).

# %% [markdown]
# ## Summary
#
# - A mask gives each pixel a class id, or 255 for void, which counts nowhere.
# - A label fraction is a beginning of one order per seed: nested, and covering every class where
#   there is room for it.
# - Classes are uneven. mIoU weighs them alike, so rare classes decide it, and with few labels they
#   hang on a handful of images; that is why results come over several seeds.
#
# **Where to go next.** Notebook 02 trains cross-entropy on these few labels, as well as it can be
# done, and watches it overfit.
