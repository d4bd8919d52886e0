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
# - segment new photos with the network that won.
#
# Time: about ten minutes on two processor cores.

# %% [markdown]
# **Imports.** Everything about folders of your own is in `segnb.datasets.own`. The three commands
# `segnb describe`, `segnb check` and `segnb answer` call the same functions.

# %% tags=["folded"]
# @title Imports
import base64
import io
import itertools
import json
import shutil

import ipywidgets
import numpy as np
from IPython.display import Markdown, display
from PIL import Image

from segnb import datasets, plots
from segnb.datasets.own.check import check
from segnb.datasets.own.describe import describe
from segnb.experiments.answer import answer
from segnb.notebook import command, project_path, tier
from segnb.predict import predict_folder
from segnb.widgets.live import live

# %% [markdown]
# **Settings.** Put the path of your own folder into `FOLDER`, or leave `None` for the one made
# below. On Colab, upload a zip with the folder icon on the left and unpack it with `!unzip`, or set
# `DRIVE = True` in the set-up cell and name a folder in `/content/drive/MyDrive`.

# %%
FOLDER = None
TIER = tier()  # "quick", or "gpu" where there is one ("smoke" is for tests and learns nothing)
MINUTES = {"smoke": 60, "quick": 5}.get(TIER, 8)  # for the comparison; more is better
MOST = 1 if TIER == "smoke" else None  # comparisons, at most
IMAGES = {"smoke": 12}.get(TIER, 60)  # in the made folder
PLACE = project_path("runs") / "own"  # made folders, runs and answers

# %% [markdown]
# ## One data set, three tools
#
# Annotation tools save masks in different ways. Here are the same images with the same labels, as
# three tools would leave them:
#
# - **numbers**: one grey PNG per image whose values are class numbers;
# - **colours**: one RGB PNG per image, with a table of colours (`labelmap.txt`, as CVAT exports);
# - **LabelMe**: one JSON file per image, next to it.

# %%
source = datasets.load("shapes", "train")
info = source.info
chosen = [source[index] for index in range(IMAGES)]
made = {name: PLACE / name for name in ("numbers", "colours", "labelme")}


def labelme_file(name: str, mask: np.ndarray) -> str:
    """A LabelMe file with one shape of type mask for each class."""
    shapes = []
    for label in np.unique(mask):
        buffer = io.BytesIO()
        Image.fromarray(mask == label).save(buffer, format="PNG")
        height, width = mask.shape
        shapes.append(
            {
                "label": info.class_names[label],
                "shape_type": "mask",
                "points": [[0, 0], [width - 1, height - 1]],
                "mask": base64.b64encode(buffer.getvalue()).decode(),
            }
        )
    size = {"imageHeight": mask.shape[0], "imageWidth": mask.shape[1]}
    return json.dumps({"imagePath": f"{name}.png", "shapes": shapes, **size})


for folder in made.values():
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    if folder.name != "labelme":
        (folder / "masks").mkdir()
palette = np.array(info.palette, np.uint8)
for number, sample in enumerate(chosen):
    name = f"beach_{number:03d}"
    for folder in made.values():
        Image.fromarray(sample.image).save(folder / "images" / f"{name}.png")
    Image.fromarray(sample.mask).save(made["numbers"] / "masks" / f"{name}.png")
    Image.fromarray(palette[sample.mask]).save(made["colours"] / "masks" / f"{name}.png")
    (made["labelme"] / "images" / f"{name}.json").write_text(labelme_file(name, sample.mask))
table = [
    f"{title}:{','.join(map(str, colour))}::"
    for title, colour in zip(info.class_names, info.palette, strict=True)
]
(made["colours"] / "labelmap.txt").write_text(
    "# label:color_rgb:parts:actions\n" + "\n".join(table)
)

# %% [markdown]
# ## Describe
#
# `describe` looks at a folder, finds images and masks, and writes `dataset.toml`. It prints what it
# found and what you should decide.

# %%
for name, folder in made.items():
    print(f"--- {name}")
    print(describe(folder))

# %% [markdown]
# **How to read it.** The three folders hold the same labels, and `describe` found them in each. Two
# encodings carry the names of the classes. Plain numbers can't, so there you name the classes
# yourself: edit `dataset.toml`. Here is that file:

# %%
print((made["numbers"] / "dataset.toml").read_text()[:1500])

# %% [markdown]
# Names in place, from a list in the order of the values. Then the proof that nothing was lost: all
# three folders give the same mask, to the pixel.

# %%
text = (made["numbers"] / "dataset.toml").read_text()
for value, title in enumerate(info.class_names):
    text = text.replace(f'name = "class {value}"', f'name = "{title}"')
(made["numbers"] / "dataset.toml").write_text(text)


def named_masks(folder) -> dict[str, np.ndarray]:
    """Each image's mask, in the class numbers of the made scenes."""
    found = {}
    for split in datasets.get(str(folder)).splits:
        data = datasets.load(str(folder), split)
        order = [*map(info.class_names.index, data.info.class_names)]
        for one in (data[index] for index in range(len(data))):
            found[one.id] = np.array(order, np.uint8)[one.mask]
    return found


masks = {name: named_masks(folder) for name, folder in made.items()}
for one, other in itertools.combinations(masks, 2):
    assert masks[one].keys() == masks[other].keys()
    same = sum(np.array_equal(masks[one][image], masks[other][image]) for image in masks[one])
    print(f"{one} and {other}: {same} of {len(masks[one])} masks are equal")
    assert same == len(masks[one]) == IMAGES

# %% [markdown]
# ## Check
#
# Before you train, look at what you will train on. `check` decodes everything: counts, class
# shares, classes missing from a split, unreadable files, masks that do not fit, near-duplicates
# across splits. The sheet shows images of each split above their masks.

# %%
mine = made["colours"] if FOLDER is None else FOLDER
found = check(mine)
print(found)
plots.folder_sheet(mine)

# %% [markdown]
# What it found, in a sentence:

# %%
rarest = min(
    range(len(found.info.class_names)), key=lambda label: found.splits["train"].seen[label]
)
Markdown(
    f"{sum(one.images for one in found.splits.values())} images, {len(found.faults)} faults and "
    f"{len(found.warnings)} warnings. The rarest class in train is "
    f"**{found.info.class_names[rarest]}**, in {found.splits['train'].seen[rarest]} images."
)

# %% [markdown]
# **How to read it.** Look at the masks in the sheet. Is a class shifted, or is void where an object
# should be? Then look at the counts: a class that only two training images show can't be learned
# from them, whatever the method. If frames of one clip, patient or tile lie in several splits, every
# number below will flatter you: write a `group` into `dataset.toml`, and the splits follow it.
#
# The other folders, for comparison:

# %%
live(
    lambda encoding, images: plots.folder_sheet(made[encoding], most=images),
    {
        "encoding": ipywidgets.Dropdown(options=list(made), description="encoding"),
        "images": ipywidgets.IntSlider(
            value=6, min=3, max=12, description="images", continuous_update=False
        ),
    },
)

# %% [markdown]
# Without widgets:

# %%
plots.folder_sheet(made["numbers"], most=6)

# %% [markdown]
# ## Answer
#
# `answer` compares cross-entropy, cross-entropy with the same compute, and the two stages, on your
# images. With fewer than 200 labelled images it uses cross-validation, so that every image is scored
# once by a network that did not train on it. The steps are cut to the time you give, and it keeps
# what it has: run the cell again, or give it more minutes, and it continues.

# %%
result = answer(
    mine, minutes=MINUTES, most=MOST, tier=TIER, place=PLACE / "answer", progress_bar=False
)

# %% [markdown]
# Here is the answer:

# %%
display(Markdown("\n\n".join(f"**{sentence}**" for sentence in result.sentences)))
plots.answer_curve(result)

# %% [markdown]
# **How to read it.** A dot is one repeat. The first sentence says what to use; a method that takes
# longer is recommended only if its gain is above zero beyond the interval. The second compares the
# two stages with cross-entropy of the same compute: the fair comparison. "Too few for an interval"
# and "undecided" are answers too: a few minutes don't settle what an hour might. The third says
# whether labelling more images is likely to help, once the time allowed fewer labels to be tried.
#
# ## Use it
#
# The network of the first repeat segments new photos. Any folder will do; here are images that none
# of the trainings saw:

# %%
photos, out = PLACE / "photos", PLACE / "predictions"
for folder in (photos, out):
    shutil.rmtree(folder, ignore_errors=True)
photos.mkdir(parents=True)
unseen = datasets.load("shapes", "test")
for number in range(4):
    Image.fromarray(unseen[number].image).save(photos / f"photo_{number}.png")
written = list(predict_folder(result.run, photos, out))
plots.predictions(
    [unseen[number].image.transpose(2, 0, 1) for number in range(4)],
    [unseen[number].mask for number in range(4)],
    {
        "overlay's classes": [
            np.array(Image.open(path.with_name(path.name.replace("overlay", "classes"))))
            for path in written
        ]
    },
    datasets.info(str(mine)),
)

# %% [markdown]
# **How to read it.** The masks beside these photos are known, because the scenes are drawn. After so
# short a training, expect the large areas to be right and many objects to be missed. On your own
# images, the overlays in the output folder are what you look at.
#
# The same from a shell, with an hour for the comparison:

# %%
for line in (
    f"segnb describe {mine.name} --overwrite",
    f"segnb check {mine.name}",
    f"segnb answer {mine.name} --minutes 60",
    f"segnb export {result.run.name}",
):
    print(command(line))

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
