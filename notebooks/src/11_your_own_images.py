# %% [markdown]
# # 11 · Your own images
#
# You have fifty images, a folder of masks from some annotation tool, and one question: how do I get
# the best segmenter out of them, and is the paper's method worth its time here? This notebook
# answers it, first on a folder that it makes itself, then on yours.
#
# You will
#
# - let segnb look at a folder and describe it, whatever tool the masks come from;
# - check what would go wrong before any training;
# - compare the methods within a time budget, and read the answer with its uncertainty;
# - segment new photos with the network that was recommended.
#
# Time: about five minutes on two processor cores. No GPU, no downloads.

# %% [markdown]
# **Imports.** Everything about folders of your own is in `segnb.datasets.own`. The three commands
# `segnb describe`, `segnb check` and `segnb answer` call the same functions.

# %% tags=["folded"]
# @title Imports
import base64
import io
import itertools
import json
import os
import shlex
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import ipywidgets as widgets
import numpy as np
from IPython.display import Markdown, display
from PIL import Image

from segnb import datasets, plots
from segnb.checks import check_group_folds, check_shared_pairs, judge
from segnb.datasets.own.check import check
from segnb.datasets.own.describe import describe, rename_classes
from segnb.errors import ConfigError
from segnb.experiments.answer import answer, least_minutes, shortened
from segnb.experiments.cost import readable_seconds
from segnb.experiments.runs import read_recipe
from segnb.notebook import command, own_folder, project_path, tier
from segnb.plots import Picture
from segnb.predict import predict_folder
from segnb.recipe import Recipe, Stage, fitting_rates, preset
from segnb.widgets.live import live

# %% [markdown]
# **Settings.** `FOLDER` is your folder of images and masks, or a zip file of it; `None` takes the
# folder that is made below. In JupyterLab, drag a zip file into the list of files on the left. On
# Colab, write `"upload"` and choose a zip file when the next cell asks for it; or set `DRIVE = True`
# in the set-up cell above, and write the path, such as `"/content/drive/MyDrive/leaves"`.

# %%
FOLDER = None
TIER = tier()  # "quick", or "gpu" where there is one ("smoke" is for tests and learns nothing)
MINUTES = {"smoke": 60, "quick": 5}.get(TIER, 8)  # for the comparison; more is better
COMPARISONS = 1 if TIER == "smoke" else 6  # three repeats with all labels, three with a quarter
IMAGES = 12 if TIER == "smoke" else 60  # in the made folder
PLACE = Path(os.path.relpath(project_path("runs"))) / "own"  # made folders, runs and answers

own = own_folder(FOLDER, PLACE / "uploaded")

# %% [markdown]
# ## One data set, three tools
#
# Annotation tools save masks in different ways. Here are the same images with the same labels, as
# three tools would leave them:
#
# - **numbers**: one grey PNG per image, whose values are class numbers;
# - **colours**: one RGB PNG per image, and a table of colours (`labelmap.txt`, as CVAT exports);
# - **LabelMe**: one JSON file per image, next to it.
#
# The scenes are drawn (notebook 01), so every pixel of the masks is known.

# %%
source = datasets.load("shapes", "train")
info = source.info
scenes = [source[index] for index in range(IMAGES)]
made = {name: PLACE / name for name in ("numbers", "colours", "labelme")}
palette = np.array(info.palette, np.uint8)


def labelme_file(name: str, mask: np.ndarray) -> str:
    """A LabelMe file with one shape of type mask for each class."""
    height, width = mask.shape
    shapes = []
    for label in np.unique(mask):
        buffer = io.BytesIO()
        Image.fromarray(mask == label).save(buffer, format="PNG")
        drawn = base64.b64encode(buffer.getvalue()).decode()
        corners = [[0, 0], [width - 1, height - 1]]
        shape = {"label": info.class_names[label], "shape_type": "mask"}
        shapes.append({**shape, "points": corners, "mask": drawn})
    size = {"imageHeight": height, "imageWidth": width}
    return json.dumps({"imagePath": f"{name}.png", "shapes": shapes, **size})


for folder in made.values():
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
for number, scene in enumerate(scenes):
    name = f"beach_{number:03d}"
    for folder in made.values():
        Image.fromarray(scene.image).save(folder / "images" / f"{name}.png")
    Image.fromarray(scene.mask).save(made["numbers"] / "masks" / f"{name}.png")
    Image.fromarray(palette[scene.mask]).save(made["colours"] / "masks" / f"{name}.png")
    (made["labelme"] / "masks" / f"{name}.json").write_text(labelme_file(name, scene.mask))
lines = [
    f"{title}:{','.join(map(str, colour))}::"
    for title, colour in zip(info.class_names, info.palette, strict=True)
]
table = "\n".join(["# label:color_rgb:parts:actions", *lines])
(made["colours"] / "labelmap.txt").write_text(table)
print(f"{IMAGES} images in each of {', '.join(made)}")

# %% [markdown]
# ## Describe
#
# `describe` looks at a folder, finds images and masks, and writes `dataset.toml`. It prints what it
# found, and what is left for you to decide. The simplest layout is a folder `images` and beside it
# a folder `masks`, with the same file names. Other layouts and all formats are listed in
# [data/README.md](../data/README.md#your-own-images); COCO needs
# `pip install "segnb[annotations]"`.

# %%
for name, folder in made.items():
    print(f"--- {name}")
    print(describe(folder))

# %% [markdown]
# **How to read it.** The three folders hold the same labels, and `describe` found them in each. Two
# encodings carry the names of the classes. Plain numbers can't, so you name them yourself, in the
# order of their numbers. You can also open `dataset.toml` and edit it. Here is how it begins:

# %%
rename_classes(made["numbers"], info.class_names)
print((made["numbers"] / "dataset.toml").read_text()[:1000])

# %% [markdown]
# Now the proof that nothing was lost. Do all three folders give the same mask, to the pixel?


# %%
def named_masks(folder: Path) -> dict[str, np.ndarray]:
    """Each image's mask, in the class numbers of the drawn scenes."""
    found = {}
    for split in datasets.get(str(folder)).splits:
        data = datasets.load(str(folder), split)
        order = np.array([*map(info.class_names.index, data.info.class_names)], np.uint8)
        found |= {one.id: order[one.mask] for one in map(data.__getitem__, range(len(data)))}
    return found


masks = {name: named_masks(folder) for name, folder in made.items()}
for one, other in itertools.combinations(masks, 2):
    same = sum(np.array_equal(masks[one][image], masks[other][image]) for image in masks[one])
    print(f"{one} and {other}: {same} of {len(masks[one])} masks are equal")
    assert same == len(masks[other]) == IMAGES

# %% [markdown]
# ## Check
#
# Before you train, look at what you will train on. `check` decodes everything: counts, class
# shares, classes missing from a split, unreadable files, masks that do not fit, near-duplicates
# across splits. The sheet shows images of each split above their masks.

# %%
mine = own or made["colours"]
if not (mine / "dataset.toml").exists():
    print(describe(mine))
found = check(mine, progress_bar=False)
print(found)
plots.folder_sheet(mine)

# %% [markdown]
# What it found, in a sentence:

# %%
train = found.splits["train"]
rarest = int(np.argmin(train.seen))
Markdown(
    f"{sum(one.images for one in found.splits.values())} images, {len(found.faults)} faults and "
    f"{len(found.warnings)} warnings. The rarest class in train is "
    f"**{found.info.class_names[rarest]}**, in {train.seen[rarest]} of {train.labelled} images."
)

# %% [markdown]
# **How to read it.** Look at the masks in the sheet. Is a class shifted, or is void where an object
# should be? Then look at the counts: a class that only two training images show can't be learned
# from them, whatever the method. If frames of one clip, patient or tile lie in several splits,
# every number below will flatter you. Write a `group` under `[splits]` in `dataset.toml`, and the
# splits follow it. It is a regular expression, and images whose names give the same text stay
# together: with `group = '^(.+)_\d+$'`, `clip3_001` and `clip3_002` do.
#
# ## Your folder, your classes, your time
#
# Now choose. `folder` takes any path, `classes` gives the classes other names (in the order of
# their numbers, with commas), and `minutes` is the time you have for the comparison. The sheet
# shows what a training would see, and below it stands how many steps fit into the time.


# %%
def small(folder: Path) -> Recipe:
    """The recipe to compare with; on a processor, small enough for a notebook.

    `segnb answer` itself takes larger images, and ImageNet weights where it has them.
    """
    recipe = preset(str(folder), TIER)
    if TIER != "quick":
        return recipe
    return recipe.replace(
        encoder_depth=3,  # a half of the network, and a quarter of the pixels
        decoder_channels=64,
        size=(64, 64),
        crop=(64, 64),
        atrous_rates=fitting_rates((64, 64), recipe.output_stride),
        pretrain=Stage(steps=400, batch=8, lr=0.1, warmup=20),
        finetune=Stage(steps=400, batch=8, lr=0.05, schedule="poly"),
    )


def plan(folder: str, classes: str, minutes: float) -> list[Picture | Markdown]:
    """What a comparison of a folder would see, and how long it would train."""
    place = Path(folder)
    if not (place / "dataset.toml").exists():
        describe(place)
    if classes:
        rename_classes(place, [name.strip() for name in classes.split(",")])
    try:
        short, seconds = shortened(small(place), minutes, comparisons=COMPARISONS)
    except ConfigError as error:
        return [plots.folder_sheet(place, most=4), Markdown(f"*{error}*")]
    text = (
        f"{minutes} minutes give {COMPARISONS} x {readable_seconds(seconds)} of training: in each "
        f"comparison {short.pretrain.steps} steps of stage 1 and {short.finetune.steps} of stage 2."
    )
    return [plots.folder_sheet(place, most=4), Markdown(text)]


choices = [str(folder) for folder in dict.fromkeys((mine, *made.values()))]
MINUTES = max(MINUTES, least_minutes(small(mine), comparisons=COMPARISONS))  # on slow machines
controls = {
    "folder": widgets.Combobox(
        value=choices[0], options=choices, description="folder", continuous_update=False
    ),
    "classes": widgets.Text(
        placeholder="as they are", description="classes", continuous_update=False
    ),
    "minutes": widgets.IntSlider(
        value=MINUTES, min=1, max=120, description="minutes", continuous_update=False
    ),
}
live(plan, controls)

# %% [markdown]
# Without widgets:

# %%
display(*plan(choices[0], "", MINUTES))

# %% [markdown]
# ## Answer
#
# `answer` compares cross-entropy, cross-entropy with the same compute, and the two stages, on the
# folder you chose. With fewer than 200 labelled images it uses cross-validation: the images are
# divided into five folds, and each repeat trains on four of them and scores the fifth, so the split
# above is not used. The number of steps may differ a little from the plan, because the machine's
# speed is measured again. It keeps what it has. Run the cell again, or give it more minutes, and it
# continues.

# %%
mine, minutes = Path(controls["folder"].value), controls["minutes"].value
result = answer(
    mine,
    minutes=minutes,
    recipe=small(mine),
    most=COMPARISONS,
    place=PLACE / "answers" / datasets.get(str(mine)).title,
    progress_bar=False,
)

# %% [markdown]
# Here is the answer:

# %%
display(Markdown("\n\n".join(f"**{sentence}**" for sentence in result.sentences)))
plots.answer_curve(result)

# %% [markdown]
# **How to read it.** A dot is one repeat; the line joins the means. The first sentence says what to
# use: a method that takes longer is recommended only if the whole 95 % interval of its gain lies
# above zero. With three repeats that interval is wide, so even a line that is several points higher
# may not be recommended: give it more minutes before you rule it out. The second compares the two
# stages with cross-entropy of the same compute, which is the fair comparison. The third says
# whether labelling more images is likely to help. "Undecided" and "too few for an interval" are
# answers too: a few minutes don't settle what an hour might.
#
# ## Use it
#
# The network of the first repeat segments new photos; any folder of photos will do. Here are images
# that it did not train on, so their masks can tell how good it is:

# %%
photos, out = PLACE / "photos", PLACE / "predictions"
for folder in (photos, out):
    shutil.rmtree(folder, ignore_errors=True)
photos.mkdir(parents=True)
unseen = datasets.load(read_recipe(result.run).dataset, "val")
shown = [unseen[number] for number in range(min(4, len(unseen)))]
for number, scene in enumerate(shown):
    Image.fromarray(scene.image).save(photos / f"photo_{number}.png")
list(predict_folder(result.run, photos, out))
plots.predictions(
    [scene.image for scene in shown],
    [scene.mask for scene in shown],
    {"predicted": [np.array(Image.open(path)) for path in sorted(out.glob("*.classes.png"))]},
    unseen.info,
)

# %% [markdown]
# **How to read it.** The number below a prediction is the share of pixels that it got right. After
# so short a training, expect the large areas to be right and most objects to be missed. For photos
# without masks, look at the overlays in the output folder.
#
# The same as commands, with larger images and an hour for the comparison. Before you start, run
# `pip install "segnb[imagenet]"`: `segnb answer` then starts from ImageNet weights, which on CamVid
# were worth more than any choice of method. A new folder needs `segnb describe FOLDER` first, and
# `segnb predict RUN PHOTOS --out FOLDER` segments photos. `export` writes the network as an ONNX
# file, for programs without torch; it needs `pip install "segnb[onnx]"`:

# %%
place, run, sheet, hour = (
    shlex.quote(str(one)) for one in (mine, result.run, PLACE / "sheet.png", PLACE / "hour")
)
for line in (
    f"segnb check {place} --sheet {sheet}",
    f"segnb answer {place} --minutes 60 --place {hour}",
    f"segnb export {run}",
):
    print(command(line))

# %% [markdown]
# ## Exercise 1: folds that do not leak
#
# Cross-validation scores every image once, by a network that did not train on it. That is worth
# nothing if the neighbouring frame of the same clip *was* trained on. Write
# `group_folds(groups, count)`: `groups` names the group (clip, patient, tile) of each image; return the fold of each
# image, 0 to `count - 1`. A group never lies in two folds. To keep the folds about equal in size,
# give away whole groups, the largest first, each to the fold with the fewest images so far.


# %%
# EXERCISE group_folds
def group_folds(groups: Sequence[str], count: int) -> list[int]:
    """The fold of each image."""
    ...


judge(check_group_folds, group_folds)

# %% [markdown]
# A solution is folded away below. Open it once your own passes, or when you are stuck.


# %% tags=["solution"]
# SOLUTION group_folds
def group_folds(groups: Sequence[str], count: int) -> list[int]:
    """The fold of each image."""
    sizes = [0] * count
    fold_of = {}
    for group, images in Counter(groups).most_common():  # the largest first
        fold_of[group] = sizes.index(min(sizes))
        sizes[fold_of[group]] += images
    return [fold_of[group] for group in groups]


judge(check_group_folds, group_folds)

# %% [markdown]
# ## Exercise 2: what can stage 1 learn about a rare class?
#
# This one is about the paper's idea. Its loss pulls an anchor towards pixels of the same class in its
# own image and in *one other* image. Those in its own image are mostly the same object in the same
# light. What objects of a class have in common, only the other image can show. Suppose a class is
# in one of ten labelled images. Cross-entropy still learns from that image. What does stage 1 get?
#
# Write `shared_pairs(masks, num_classes)`, where `masks` is `[N, H, W]`: for each class, in which
# share of all pairs of two different images do both show the class? Before you run it on your
# folder, guess: if a class is in half of the images, in which share of the pairs is it?


# %%
# EXERCISE shared_pairs
def shared_pairs(masks: np.ndarray, num_classes: int) -> np.ndarray:
    """For each class, the share of the pairs of images that both show it; 0 without pairs."""
    ...


judge(check_shared_pairs, shared_pairs)

# %% [markdown]
# One possible solution, folded away:


# %% tags=["solution"]
# SOLUTION shared_pairs
def shared_pairs(masks: np.ndarray, num_classes: int) -> np.ndarray:
    """For each class, the share of the pairs of images that both show it; 0 without pairs."""
    seen = np.array([sum((mask == label).any() for mask in masks) for label in range(num_classes)])
    return seen * (seen - 1) / max(1, len(masks) * (len(masks) - 1))


judge(check_shared_pairs, shared_pairs)

# %% [markdown]
# The same count for the folder that you chose, from what `check` sees:

# %%
found = check(mine, progress_bar=False)
train = found.splits["train"]
images = max(1, train.labelled)
alone = np.array(train.seen) / images
both = np.array(train.seen) * (np.array(train.seen) - 1) / max(1, images * (images - 1))
scarcest = int(both.argmin())

# %% tags=["folded"]
# @title Draw it
with plots.styled():
    figure = plots.new_figure(5.4, 1.1 + 0.2 * found.info.num_classes)
    axes = figure.subplots()
    places = np.arange(found.info.num_classes)
    axes.barh(places, 100 * alone, color="#dddddd", label="of the images")
    axes.barh(places, 100 * both, height=0.4, color="#555555", label="of the pairs of images")
    axes.set(xlabel="share that shows the class, %", yticks=places)
    axes.set_yticklabels(found.info.class_names)
    axes.invert_yaxis()
    plots.legend_below(figure, [axes])
Picture(
    figure,
    "Each class's share of the training images and of the pairs of images. "
    + ", ".join(
        f"{name}: {100 * one:.0f} % and {100 * two:.0f} %"
        for name, one, two in zip(found.info.class_names, alone, both, strict=True)
    ),
)

# %% [markdown]
# **How to read it.** The dark bar is about the square of the light one: what is rare among images is
# very rare among pairs. If stage 1 helps on your images, it will help the common classes first. If a
# rare class matters to you, label more images of it.
#
# ## The finding in one sentence

# %%
fair = next(one for one in result.gains if (one.method, one.over) == ("contrastive", "ce_long"))
Markdown(
    f"**With {max(result.scores['ce'])} labelled images of {result.title} and {minutes} minutes, the "
    f"paper's two stages differ from cross-entropy with the same compute by {fair}. The scarcest class, "
    f"{found.info.class_names[scarcest]}, is shared by {100 * both[scarcest]:.0f} % of the pairs of "
    f"images from which stage 1 learns.**"
)

# %% [markdown]
# ## Summary
#
# - Three commands lead from a folder to an answer: `describe`, `check`, `answer`. The masks may come
#   from any common tool; where the format is exact, so are the labels.
# - Check the splits before you believe a number. Frames of one clip on both sides are the most
#   frequent reason for results that do not hold.
# - The answer names its uncertainty. If it is undecided, use plain cross-entropy, and spend your
#   time on labels: with few images, *which* are labelled matters more than the method.
#
# **Where to go next.** [09 · Real data at scale](09_real_data_at_scale.ipynb) for longer runs and
# GPUs, [10 · What goes wrong](10_what_goes_wrong.ipynb) for the failures to expect.
