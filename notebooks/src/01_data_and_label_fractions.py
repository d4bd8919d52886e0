# %% [markdown]
# # 01 · Data and label fractions
#
# What can you do when only a few images are labelled? That is the paper's question. So before we
# train anything, we look: at the images, at what a label is, and at what "few" means.
#
# You will
# - meet the built-in data set, **shapes**, and see why it is harder than it looks,
# - see what is left when only a fraction of the labels may be used, and how to choose that fraction
#   so that results can be compared,
# - count how unevenly the classes are spread, which decides what mIoU rewards,
# - see how the split of a video can leak, and what this project does about it.
#
# Time: about a minute. You need no network connection, no files and no GPU.

# %% [markdown]
# **What we need.** `segnb.datasets` loads images and masks, and `segnb.plots` draws them. One word,
# the *tier*, sets the size of everything. It is `gpu` where there is a GPU and `quick` elsewhere,
# unless the environment variable `SEGNB_TIER` says otherwise.

# %% tags=["folded"]
# @title Imports
import hashlib
import itertools
from collections.abc import Sequence

import ipywidgets as widgets
import numpy as np
import torch
from IPython.display import Markdown, display

from segnb import datasets, plots
from segnb.checks import check_class_shares, check_nested_choice, judge
from segnb.datasets.fractions import class_presence
from segnb.errors import DataError
from segnb.notebook import project_path, tier
from segnb.plots import Picture
from segnb.recipe import preset
from segnb.results.table import fraction_name

# %% [markdown]
# **The knobs.** Every setting is here and nowhere else. Change one, then run the rest again.
# `camvid`, `voc-animals` and others work too, once they are in your data folder (notebook 09 shows
# how).

# %%
DATASET = "shapes"
FRACTION = 1 / 16  # fraction of the training images whose labels may be used
FRACTIONS = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
SEED = 0  # which images those are

# %% [markdown]
# ## Pictures first
#
# A data set comes in splits. We *train* on one, make choices on *val*, and look at *test* once, at
# the very end. We can read the data set's name, its classes and its licence before opening a single
# file.

# %%
recipe = preset(DATASET, tier())
train = datasets.load(DATASET, "train", size=recipe.size)
val = datasets.load(DATASET, "val", size=recipe.size)
info = train.info
print(f"{info.name}: {len(train)} training images, {len(val)} for validation")
print(f"{info.num_classes} classes: {', '.join(info.class_names)}")
print(f"terms: {info.licence}")

# %% [markdown]
# `working_set` brings a split to one size and keeps it in memory as bytes, ready to be cut into
# batches. The contact sheet shows the first images, each with its mask below.

# %%
data = datasets.working_set(train, size=recipe.size)
plots.contact_sheet(list(data.images[:8]), list(data.masks[:8]), info)

# %% [markdown]
# **How to read it.** Each image sits above its mask. The mask gives every pixel one class, in the
# colours of the legend. In shapes, you recognise a toy's class by its outline and its pattern: a
# ball has wedges, a swim ring has blocks, a towel has stripes, a starfish has dots and a kite has
# checks. Colour tells you nothing. Light, sand, sky and the toys' colours and sizes change from
# scene to scene, so a few labelled scenes cover only a small part of what the network will meet.
#
# Light grey pixels, if you see any, are **void**: nobody labelled them, or they lie outside the
# image. The drawn scenes have none; photographs do. In the mask, a void pixel has the value 255.
# Void is not a class, and every loss and every score must leave it out. Notebook 10 shows what
# happens if you forget.

# %% [markdown]
# ## What few labels look like
#
# Now for the restriction. We have all the training images, but masks for only some of them. This
# wall shows the whole training split. An image with a mask appears in colour, with its mask drawn
# on top; all others are faded.

# %%
labelled = datasets.labelled_ids(train, FRACTION, seed=SEED)


# %% tags=["folded"]
# @title Draw it
def wall(ids: Sequence[str]) -> Picture:
    """All training images, tiny: those in ``ids`` under their masks, the others faded."""
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
# **How to read it.** The coloured tiles are all the supervision there is. Everything else in this
# series, the baseline and the paper's method alike, is trained on these alone. (Only notebook 08
# uses the faded ones, without their labels.)
#
# Here are the first twelve of them at full size:

# %%
few = data.subset(labelled[:12])
plots.contact_sheet(list(few.images), list(few.masks), info, columns=6)

# %% [markdown]
# **How to read it.** Go through the classes in the legend one by one and count the objects of each.
# Even in all the labelled images together, a toy appears only a few dozen times at most, each time
# with one size, one angle and one pair of colours. That is all the network has to learn it from. A
# network with millions of weights can simply memorise so few examples. That is the overfitting the
# paper is about, and notebook 02 makes it visible.

# %% [markdown]
# ## Which images? Nested splits
#
# Suppose we drew a fresh set of images for every fraction. A curve over fractions would then wobble
# with the luck of the draw, and "twice the labels" would not mean "the old ones plus as many
# again". So `labelled_ids` puts all images in **one order per seed** and takes the first part of
# it:
#
# 1. First come the images that add the most classes not seen so far, until every class is covered.
# 2. Then come the others, shuffled by the seed.
#
# Every smaller set is therefore contained in every larger one. Let's check that rather than believe
# it.

# %%
shares = {f: datasets.labelled_ids(train, f, seed=SEED) for f in FRACTIONS}
for small, large in itertools.pairwise(FRACTIONS):
    inside = set(shares[small]) <= set(shares[large])
    print(
        f"{fraction_name(small):>5} ({len(shares[small])} images) inside "
        f"{fraction_name(large)} ({len(shares[large])}): {inside}"
    )

# %% [markdown]
# Here it is as a picture, for this seed and for the next one. Each column is one image, in the
# order in which *this* seed takes them.


# %%
def membership(seed: int, order: Sequence[str]) -> np.ndarray:
    """One row per fraction, one column per image; true where the image is labelled."""
    chosen = [set(datasets.labelled_ids(train, f, seed=seed)) for f in FRACTIONS]
    return np.array([[name in ids for name in order] for ids in chosen])


joined = {name: f for f in reversed(FRACTIONS) for name in shares[f]}
order = sorted(train.ids, key=lambda name: joined.get(name, 2.0))
# %% tags=["folded"]
# @title Draw it
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
    "contains the row above; for another seed the labelled images are scattered.",
)

# %% [markdown]
# **How to read it.** The top panel is a staircase: each row contains the row above. In the bottom
# panel another seed picks other images. But look down any column: once an image is labelled, it
# stays labelled. We report results over several seeds, because when labels are few, *which* images
# are labelled matters as much as the method.

# %% [markdown]
# ## Class balance
#
# mIoU gives every class the same weight, however few pixels it has. So let's count. What share of
# the pixels does each class have, and in how many labelled images does it appear? And are the
# labelled images a fair sample of all images? We can answer that last question only because every
# mask exists in this data set.


# %%
def pixel_shares(masks: torch.Tensor) -> np.ndarray:
    """Percentage of the pixels in each class; void is not counted."""
    counts = np.bincount(masks.numpy().ravel(), minlength=256)[: info.num_classes]
    return 100 * counts / counts.sum()


share, everywhere = pixel_shares(data.subset(labelled).masks), pixel_shares(data.masks)
presence = class_presence(train)
position = {name: i for i, name in enumerate(train.ids)}
seen = presence[[position[name] for name in labelled]].sum(axis=0)

# %% tags=["folded"]
# @title Draw it
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
        title="images with the class",
    )
Picture(
    figure,
    "For each class its share of the labelled images' pixels (in all masks) and the number of "
    f"the {len(labelled)} labelled images that contain it: "
    + ", ".join(
        f"{name} {part:.0f} % ({whole:.0f} %), {number}"
        for name, part, whole, number in zip(info.class_names, share, everywhere, seen, strict=True)
    )
    + ".",
)

# %% [markdown]
# **How to read it.** On the left, three easy background classes have most of the pixels, and each
# toy has few. A network that gets only the background right still has about two thirds of the
# pixels right (its *pixel accuracy*), but its *mIoU* is low. A black tick marks the class's share
# in all masks. Where the bar misses the tick, the labelled images show that class more or less
# often than the full data set does. On the right, a rare class shows up in only part of the
# labelled images, and in each of those it has only a few pixels. No class is at zero, because the
# order of images covers all classes first. In a sentence:

# %%
small = np.argsort(share)[: max(1, info.num_classes - 3)]
rarest, off = int(seen.argmin()), int(np.abs(share - everywhere).argmax())
Markdown(
    f"All but the three largest classes share {share[small].sum():.0f} % of the labelled pixels. "
    f"The rarest, {info.class_names[rarest]}, is in {seen[rarest]} of {len(labelled)} labelled "
    f"images. {info.class_names[off].capitalize()} is furthest from its share in all masks: "
    f"{share[off]:.1f} % instead of {everywhere[off]:.1f} %."
)

# %% [markdown]
#
# To see how much is still down to luck, ask the same question for several seeds:

# %%
for seed in range(SEED, SEED + 4):
    ids = datasets.labelled_ids(train, FRACTION, seed=seed)
    found = presence[[position[name] for name in ids]].sum(axis=0)
    rarest = int(found.argmin())
    print(f"seed {seed}: rarest is {info.class_names[rarest]}, in {found[rarest]} labelled images")

# %% [markdown]
# **How to read it.** Compare the lines. Nothing changes but the seed, yet the rarest class changes,
# and so does how rare it is. At a smaller `FRACTION`, such differences decide whether a class can
# be learned at all, and no method can make up for that. With a single seed, the method would get
# the praise or the blame for it.
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
# Without widgets: set the fraction and run the cell.

# %%
fraction = 1 / 4
wall(datasets.labelled_ids(train, fraction, seed=SEED))

# %% [markdown]
# **How to read it.** At a quarter, one tile in four is in colour; the other three out of four masks
# were never drawn. For street scenes, that saves real money: a single Cityscapes image took its
# annotators more than an hour and a half (Cordts et al., 2016).

# %% [markdown]
# ## A split can leak
#
# Drawn scenes are independent of each other. Photographs often aren't: **CamVid**, the streets of
# this series, was cut from four drives, and two frames of a drive show the same street in the same
# light. Its files are named by drive and frame, so the names alone show how the public splits were
# made.

# %%
frames = {
    split: project_path(f"results/lists/camvid-{split}.txt").read_text().split()
    for split in ("train", "val", "test")
}


def place(name: str) -> tuple[str, int]:
    """The drive and the number of a frame: ``Seq05VD_f00030`` is frame 30 of Seq05VD."""
    drive, _, number = name.partition("_")
    return drive, int(number.strip("f"))


places = {split: [place(name) for name in names] for split, names in frames.items()}
trained_on = {drive for drive, _ in places["train"]}

# %% tags=["folded"]
# @title Draw it
drives = sorted({drive for one in places.values() for drive, _ in one})
with plots.styled():
    figure = plots.new_figure(7.2, 3.4)
    panels = figure.subplots(len(drives), 1)
    for axes, drive in zip(panels, drives, strict=True):
        for row, split in enumerate(places):
            numbers = [number for one, number in places[split] if one == drive]
            colour = {"train": "#999999", "val": "#D55E00", "test": "#0072B2"}[split]
            axes.plot(numbers, [row] * len(numbers), "|", color=colour, markersize=9)
        axes.set(yticks=range(3), yticklabels=list(places), ylim=(2.6, -0.6))
        axes.set_ylabel(drive, rotation=0, ha="right", va="center", labelpad=28)
        axes.grid(visible=False)
    panels[-1].set_xlabel("number of the frame in its drive")
Picture(
    figure,
    "The frames of CamVid's four drives by split. Val is one short clip of drive 0016E5, most of "
    "which is in train. Test has a later part of 0001TP, whose beginning is in train, and all of "
    "Seq05VD.",
)

# %% [markdown]
# **How to read it.** Each mark is a frame. Where marks of *val* or *test* stand on a drive that
# also has marks of *train*, the network is asked about a drive that it has seen part of. In
# numbers:

# %%
nearest = min(
    abs(number - other)
    for drive, number in places["val"]
    for same, other in places["train"]
    if same == drive
)
unseen = sum(drive not in trained_on for drive, _ in places["test"])
span = np.ptp([number for _, number in places["val"]])
Markdown(
    f"All {len(places['val'])} frames of val lie within {span} frames of one drive "
    f"(about {span / 30:.0f} seconds at 30 frames a second), the nearest training frame "
    f"{nearest} frames away. Of test's {len(places['test'])} frames, {unseen} are of a drive that "
    f"training has not seen. So this project reports *test* on seen and unseen drives as well."
)

# %% [markdown]
# With CamVid in your data folder (notebook 09), the next cell shows what that means: a frame of val,
# the training frame nearest to it, and a frame of the unseen drive.

# %%
try:
    camvid = {split: datasets.load("camvid", split, size=(96, 128)) for split in places}
except DataError:
    print("CamVid is not in the data folder.")
else:
    first = min(places["val"], key=lambda one: one[1])
    _, closest = min(
        (abs(number - first[1]), index)
        for index, (drive, number) in enumerate(places["train"])
        if drive == first[0]
    )
    shown = [
        camvid["val"][places["val"].index(first)],
        camvid["train"][closest],
        camvid["test"][[drive for drive, _ in places["test"]].index("Seq05VD")],
    ]
    display(
        plots.contact_sheet(
            [one.image for one in shown], [one.mask for one in shown], camvid["val"].info, columns=3
        )
    )

# %% [markdown]
# ## Exercise 1: count pixels, but not void
#
# Write `class_shares(mask, num_classes)`: the share (0 to 1) of each class among the pixels **that
# count**. Run the cell, and the checker tells you what is missing. It gives a hint, not the answer.


# %%
# EXERCISE class_shares
def class_shares(mask: np.ndarray, num_classes: int) -> np.ndarray:
    """Share of each class among the labelled pixels of ``mask``; zeros if all is void."""
    ...


judge(check_class_shares, class_shares)

# %% [markdown]
# A solution is folded away below. Open it once your own passes, or when you are stuck.


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
# Write `nested_choice(ids, fraction, seed)`, which returns the labelled ids: `round(fraction * n)`
# of them, and at least one. The choice must
#
# - be the same every time for the same seed, and differ between seeds;
# - be **nested**: a smaller fraction lies inside a larger one;
# - survive a change of the data set: when one image is added, at most one of those chosen before
#   may drop out, and all others stay. (A shuffled list fails this test.)
#
# You don't need to cover all classes.


# %%
# EXERCISE nested_choice
def nested_choice(ids: Sequence[str], fraction: float, seed: int) -> list[str]:
    """A nested random share of ``ids``."""
    ...


judge(check_nested_choice, nested_choice)

# %% [markdown]
# One possible solution, folded away:


# %% tags=["solution"]
# SOLUTION nested_choice
def nested_choice(ids: Sequence[str], fraction: float, seed: int) -> list[str]:
    """A nested random share of ``ids``."""

    def lot(name: str) -> bytes:  # depends on this id alone, not on the others
        return hashlib.sha256(f"{seed}:{name}".encode()).digest()

    return sorted(ids, key=lot)[: max(1, round(fraction * len(ids)))]


judge(check_nested_choice, nested_choice)

# %% [markdown]
# ## Summary
#
# - A mask gives each pixel a class id, or 255 for void, which is never counted.
# - A label fraction is the first part of one order per seed. The fractions are nested and, where
#   there is room, cover every class.
# - Classes are unevenly spread, but mIoU weighs them equally, so rare classes decide it. With few
#   labels, those rare classes depend on a handful of images. That is why we report results over
#   several seeds.
# - Frames of one drive on both sides of a split are an easier test than they look. Ask of every
#   number which split it was measured on.
#
# **Your own images** take three commands, from a folder to an answer:
# [notebook 11](11_your_own_images.ipynb).
#
# **Where to go next.** [Notebook 02](02_cross_entropy_with_few_labels.ipynb) trains cross-entropy
# on these few labels, as well as we can, and watches it overfit.
