# %% [markdown]
# # 09 · Real data at scale
#
# Toys are for learning; the real question is about streets and photographs. This notebook takes the
# same recipes to CamVid, PASCAL VOC 2012 and Cityscapes, to Colab and to several GPUs.
#
# You will
# - see which data sets are here, and how to get the others,
# - estimate the time and memory of a run before it starts, and compare with what it actually took,
# - interrupt a run in the middle and resume it, as after the end of a Colab session,
# - start the same recipe on all GPUs of a machine, and a grid of recipes on a cluster,
# - read the whole ledger together: tables, label curves, gains, costs.
#
# Everything also works with no data at all: **shapes** then stands in for the real images.
#
# Time: a few minutes on two processor cores.

# %% [markdown]
# **Imports.** Working at scale needs nothing new: a recipe names the data set and the tier, and
# `run` does the rest.

# %% tags=["folded"]
# @title Imports
import dataclasses
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from IPython.display import Markdown, display

from segnb import datasets, notebook, plots
from segnb.checks import check_largest_batch, check_time_left, judge
from segnb.device import describe
from segnb.errors import SegnbError
from segnb.experiments.cluster import Cluster
from segnb.experiments.cost import estimate_cost, readable_seconds
from segnb.experiments.runs import find_folder, run
from segnb.experiments.side_by_side import sweep_side_by_side
from segnb.experiments.sweep import grid
from segnb.notebook import project_path, tier
from segnb.recipe import preset
from segnb.results import findings, ledger, overview, table
from segnb.training import TrainingStopped
from segnb.training.log import read_log

# %% [markdown]
# **Settings.** They are all here. `SHORTER` divides the steps of a reported run; 1 trains at full
# length.

# %%
WANTED = "camvid"  # if it is missing, shapes stands in
FRACTION = 1 / 32  # share of the training images that are labelled
SEED = 0
SHORTER = 10
TIER = tier()  # "quick", or "gpu" where there is one ("smoke" is for tests and learns nothing)
RESULTS = project_path("results")  # the ledger to read; a notebook never writes to it
RUNS = project_path("runs") / "scale"  # this notebook's own runs and small ledger

# %% [markdown]
# ## What is here
#
# First the machine. On Colab, choose *Runtime → Change runtime type → T4 GPU*. That starts a new
# session, so run the notebook again from the top.

# %%
machine = describe()
print(machine)
print(f"arithmetic: {machine.precision}, because {machine.precision_reason}")

# %% [markdown]
# Now the data, in the data folder (`SEGNB_DATA`, or `data/`). For each missing data set, the cell
# prints the command that fetches it. Cityscapes needs an account of your own; `segnb fetch` says
# what to do. Nothing is downloaded unless you ask.

# %%
present = []
for name in datasets.names():
    try:
        count = len(datasets.load(name, "train"))
    except SegnbError:
        line = notebook.command(f"segnb fetch {name}")
        print(f"{name:>12}  not here; to get it:  {line}")
    else:
        present.append(name)
        print(f"{name:>12}  {count} training images. {datasets.info(name).licence}")
DATASET = WANTED if WANTED in present else "shapes"
print(f"\nThis notebook continues with {DATASET}.")

# %% [markdown]
# **Where runs are kept.** A Colab session can end at any time, and its disk disappears with it.
# With `DRIVE = True` in the set-up cell at the top, the folder `runs` lies on your Google Drive. It
# is off by default, because Google then gives this notebook access to your whole Drive.

# %%
print(f"runs are kept in {os.path.relpath(RUNS)}", end="")
print(", on Google Drive" if project_path("runs").is_symlink() else ", on this machine")

# %% [markdown]
# ## Estimated time and memory
#
# `estimate_cost` runs a few real steps of each stage on random images and extrapolates to the time
# of the whole run and, on a GPU, to its peak memory. It takes seconds and can save a night: a run
# that doesn't fit in memory fails here, before it starts.

# %%
whole = preset(DATASET, TIER).replace(fraction=FRACTION, seed=SEED)
recipe = whole.shorter(SHORTER)
estimated = estimate_cost(recipe)
longer = whole.image_passes() / recipe.image_passes()
print(f"this run: {estimated}")
print(f"a reported run: {longer:.1f} times that, {readable_seconds(longer * estimated.seconds)}")

# %% [markdown]
# ## ... and measured
#
# Now the run itself. Loading and evaluation come on top of training, but the row's time covers
# training alone, which is what we estimated. (A run that is already finished in its folder is not
# trained again. Its time is then that of the first training, and its memory next to none.)
#
# On a processor, a run uses fewer threads while other programs need the cores. Here the number is
# fixed, because we want to compare every digit further down.

# %%
os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
on_gpu = machine.device == "cuda"
if on_gpu:
    torch.cuda.reset_peak_memory_stats()
row = run(recipe, runs=RUNS, results=RUNS)
print(f"estimated {readable_seconds(estimated.seconds)}, taken {readable_seconds(row['seconds'])}")
if on_gpu and estimated.peak_bytes:
    most = torch.cuda.max_memory_allocated()
    print(f"memory: estimated {estimated.peak_bytes / 2**30:.1f} GiB, taken {most / 2**30:.1f} GiB")
print(f"mIoU {row['miou_val']:.1f} on val with {row['labelled']} labelled images")

# %% [markdown]
# **How to read it.** Within a factor of two is good: on a shared machine, the clock depends on the
# neighbours. A larger gap has a cause worth finding. On a GPU it is most often images that arrive
# too slowly, on a processor another program.
#
# ## Interrupt and resume
#
# Colab ends a session, a cluster takes its node back, a laptop closes. Every run writes a
# checkpoint once a minute and whenever it is stopped cleanly. Each file is written under another
# name and then renamed, so there is never half a file. To resume, run the same recipe again.
#
# Here we run the same recipe in another folder. `should_stop` is called after every step and ends
# the run in the middle of stage 1, just as the Stop button of notebook 07 does.

# %%
INTERRUPTED = RUNS / "interrupted"
shutil.rmtree(INTERRUPTED, ignore_errors=True)
steps = iter(range(recipe.pretrain.steps))
try:
    run(
        recipe,
        runs=INTERRUPTED,
        results=None,
        progress_bar=False,
        should_stop=lambda: next(steps) >= recipe.pretrain.steps // 2,
    )
except TrainingStopped as stopped:
    print(stopped)
folder = find_folder(recipe, INTERRUPTED)
before = read_log(folder / "log.jsonl")
for path in sorted(INTERRUPTED.rglob("*.*")):
    if path.is_file():
        print(f"{path.stat().st_size / 1e6:8.2f} MB  {path.relative_to(INTERRUPTED)}")

# %% [markdown]
# There is a checkpoint of the current stage and no `metrics.json`: the run is not finished. Stage 1
# is trained in a folder of its own, `stage1`, because recipes that differ only in stage 2 share it.
#
# ## A fresh process, on all GPUs
#
# To take the word "resume" seriously, we continue in a process that knows nothing of this notebook.
# And since it is started from a shell, it can be more than one process: `accelerate launch` starts
# one per GPU and splits the recipe's batch among them, so that the recipe, its hash and its meaning
# stay the same. (Never start several processes from inside a notebook: its kernel may already have
# touched the GPU.) `--mixed_precision no` leaves the choice of arithmetic to the recipe. On this
# machine the line is:

# %%
launch = [sys.executable, "-m", "accelerate.commands.launch"]
launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
if machine.device == "cuda" and machine.devices > 1:
    launch += ["--multi_gpu", "--num_processes", str(machine.devices)]
else:
    launch += ["--num_processes", "1"]
if machine.device == "cpu":
    # By default accelerate gives each process one thread, and then sums are rounded differently.
    launch += ["--num_cpu_threads_per_process", str(torch.get_num_threads())]
here = os.path.relpath(INTERRUPTED)
places = ["--runs", here, "--results", here, "--quiet"]
command = shlex.join([*launch, "-m", *shlex.split(recipe.command()), *places])
print(f"{machine.devices} x {machine.name}")
short = ["accelerate", "launch", *launch[3:], "-m", *shlex.split(recipe.command()), *places]
print(notebook.command(shlex.join(short)))

# %% [markdown]
# The exclamation mark passes the line to the shell.

# %%
# !{command}

# %% [markdown]
# The new process began where the first session had ended. Is its result the same as that of the
# uninterrupted run? (The folder now holds a finished run, so `run` only reads it.)

# %%
resumed = run(recipe, runs=INTERRUPTED, results=None)
print(f"uninterrupted {row['miou_val']:.3f}, resumed {resumed['miou_val']:.3f} mIoU on val")
print("equal to the last digit" if resumed["miou_val"] == row["miou_val"] else "not equal")

# %% [markdown]
# Here are the losses of both on top of each other. The lines have different widths, so that none
# hides another:

# %%
breadth = {"uninterrupted": 8.0, "first session": 4.0, "resumed": 1.3}
picture = plots.loss_curves(
    {
        "uninterrupted": read_log(find_folder(recipe, RUNS) / "log.jsonl"),
        "first session": before,
        "resumed": read_log(folder / "log.jsonl"),
    }
)
drawn = [line for axes in picture.figure.axes for line in axes.get_lines()]
(legend,) = picture.figure.legends
for line in (*drawn, *legend.get_lines()):
    line.set_linewidth(breadth.get(line.get_label(), 0.5))
picture

# %% [markdown]
# **How to read it.** The resumed run lies on the uninterrupted one, because every random number
# depends on the seed and the step, not on how often a process was started. On a processor, with the
# same number of threads in both, the two are equal to the last digit. On GPUs, some sums are taken
# in an order that is not fixed, and several processes draw their crops separately, so there they
# agree up to noise.

# %% [markdown]
# **At full scale** these are the commands, for a machine with one GPU (the first three, sized for
# Colab) or several. Paste one into a cell; in a shell in this folder, leave out the exclamation
# mark. They are generated from the recipes, so they can't go out of date. Each can be interrupted
# and run again, and adds a row to the project's ledger.

# %%
for name, size in (("camvid", "colab"), ("voc", "paper"), ("cityscapes", "paper")):
    for method in ("ce", "ce_long", "contrastive"):
        large = preset(name, size).replace(method=method)
        launcher = "" if size == "colab" else "accelerate launch --multi_gpu -m "
        line = f"{launcher}{large.command()}"
        print(notebook.command(line, runs=project_path("runs"), results=RESULTS))
    print()

# %% [markdown]
# A whole comparison over seeds is one line, too: `segnb sweep` runs what the ledger lacks and skips
# what it has.

# %%
line = f"segnb sweep --dataset {WANTED} --tier colab --methods ce ce_long contrastive \\\n"
line += "  --fractions 0.03125 0.0625 0.125 --seeds 0 1 2"
print(notebook.command(line, runs=RUNS, results=RUNS))

# %% [markdown]
# ## A sweep on many machines
#
# The runs of a sweep need nothing of each other, so they can run side by side. On one machine,
# `segnb sweep ... --workers 4` starts four processes and shares the cores and the GPUs out. On many
# machines, `segnb sweep ... --ray ADDRESS` gives every recipe to a [Ray](https://docs.ray.io)
# cluster as a task of its own. (One run on several GPUs stays `accelerate launch`, as above: that
# makes a large run shorter, and `--ray` a large grid.)
#
# This cell starts a cluster of two nodes. Both are on this machine, and each has one core.

# %%
try:
    from ray.cluster_utils import Cluster as LocalCluster
except ImportError:
    nodes = None
    print('Ray is not installed, so this part is skipped; pip install "segnb[ray]" brings it.')
else:
    nodes = LocalCluster()
    for _ in range(2):
        nodes.add_node(num_cpus=1, include_dashboard=False)
    print("two nodes are up")

# %% [markdown]
# Now a sweep on it, of the smallest recipes: they are over in seconds and learn nothing. Two of them
# share a stage 1, which is a task of its own and comes before them. `[2/4]` is the number of a
# recipe; the lines come as the nodes get ahead.

# %%
if nodes is not None:
    toy = preset(DATASET, "smoke").replace(fraction=FRACTION)
    toys = grid(toy, **{"method": ["ce", "contrastive"], "finetune.steps": [4, 6]})
    place = RUNS / "cluster"
    shutil.rmtree(place, ignore_errors=True)
    sweep_side_by_side(
        toys,
        Cluster(nodes.address, cpu=True),
        runs=place,
        results=place,
        cpu=True,
        progress_bar=False,
    )
    nodes.shutdown()
    rows = ledger.read(place / "ledger.jsonl")
    print(f"\n{len(rows)} rows came back, in the order in which the runs ended")

# %% [markdown]
# **Another cluster is another address.** *By hand:* `ray start --head` on one machine and
# `ray start --address HEAD:6379` on the others; then the sweep runs on the first one with `--ray
# auto`. *Slurm:* the job's script starts these two commands with `srun` on its nodes, and the sweep
# with `--ray auto` behind them. *KubeRay:* a `RayCluster` or a `RayJob` whose image has segnb in it;
# the sweep runs on the head's pod, again with `--ray auto`. The nodes need the same segnb as the
# driver, and refuse other code. They read their own data and refuse if these differ from the
# driver's; data that they lack are sent to them. No shared file system is needed. Where there is
# one, a run whose node dies goes on from its checkpoint on another node; elsewhere it starts again.

# %% [markdown]
# ## The ledger, read together
#
# Everything this project claims comes from the rows of one file. A row holds the recipe, seed,
# machine, commit and the command that repeats it. The tables use only runs of the presets' own
# recipes. The other runs are studies that change something else, and they are never averaged with
# these. Without rows there is nothing to claim, and this cell says so.

# %%
rows = ledger.read(RESULTS / "ledger.jsonl")
if rows:
    print(f"{len(rows)} runs, since {min(r['started'] for r in rows)[:10]}")
    try:
        print(f"{len(overview.comparable(rows))} of them use the presets' own recipes:")
        display(Markdown(overview.tables(rows, show="brief")))
    except SegnbError as error:
        print(error)
else:
    print("The ledger is empty. These are the rows of this notebook's own small ledger:")
    rows = ledger.read(RUNS / "ledger.jsonl")
    display(Markdown(table.results_table(table.select(rows, dataset=DATASET, tier=TIER))))

# %% [markdown]
# **How to read it.** Compare methods within one number of labelled images; between two numbers, two
# things change at once. A line is about the seeds that have all three methods, because another seed
# labels other images. A gain is the mean difference between runs with the same seed. Its interval
# is given from three seeds on; with two it would be too wide to say anything.
#
# The same results follow as figures, for every data set and tier in the ledger, and also the
# temperature, where it was varied with everything else as in the preset. If a figure can't be drawn
# from the rows there are, a message says why.

# %%
for name, size in sorted({(r["dataset"], r["tier"]) for r in rows}):
    try:
        plain = overview.comparable(rows, dataset=name, tier=size)
        heated = overview.comparable(rows, dataset=name, tier=size, varied={"temperature": None})
    except SegnbError:
        continue  # only studies that change more than the method
    display(Markdown(f"**{name}, {size} tier**"))
    three = overview.main_methods(plain)
    measures = [m for m in ("miou_val", "miou_test") if any(row.get(m) for row in three)]
    figures = [
        *(partial(plots.label_curve, three, measure=measure) for measure in measures),
        *(partial(plots.gain, three, measure=measure) for measure in measures),
        partial(plots.temperature_curve, overview.main_methods(heated)),
        partial(plots.cost, table.beside_baselines(table.one_device(three))),
        partial(plots.compactness_scatter, three),
    ]
    for draw in figures:
        try:
            display(draw())
        except SegnbError as error:
            print(f"Not drawn: {error}.")
    display(Markdown(findings.gains_found(plain, measure=measures[-1])))

# %% [markdown]
# **How to read them.** Take them in this order. *How many labels is the method worth?* Read the
# label curve sideways: from a point of the contrastive line, go right at the same height until you
# meet cross-entropy. So many labels it is worth. *Is the gain still there at equal compute?* Read
# the gain panels from left to right; a bar across zero is undecided. *Does the temperature matter?*
# The level lines are the baselines, which have none. *What did a point of mIoU cost?* The seconds
# are those of the machine that ran most of the runs, and they vary with what else ran there; "same
# compute" means the same number of image passes. *Do compact embeddings go with good segmentation?*
# Each mark is a run; look at the correlation within labels and method, since more labels help both.
#
# A large mark is a mean over seeds, a small dot is a single seed, and a bar, from three seeds on, is
# the interval of the mean. A large mark without dots is a single run: the beginning of a comparison,
# not yet a comparison.
#
# ## Exercise 1: the time that is left
#
# You get a training log: rows, in order, with `step` and `seconds` since the start. How many
# seconds will the rest of the stage take? Careful: the first step is slower than all the others.


# %%
# EXERCISE time_left
def time_left(log: Sequence[Mapping[str, float]], total_steps: int) -> float:
    """Seconds until the last of total_steps is done."""
    ...


judge(check_time_left, time_left)

# %% [markdown]
# A solution, folded away. Open it once you have tried.


# %% tags=["solution"]
# SOLUTION time_left
def time_left(log: Sequence[Mapping[str, float]], total_steps: int) -> float:
    """Seconds until the last of total_steps is done."""
    first, last = log[0], log[-1]
    pace = (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])
    return (total_steps - last["step"]) * pace


judge(check_time_left, time_left)

# %% [markdown]
# ## Exercise 2: the largest batch that fits
#
# You have memory estimates for some small batches. Memory grows along a straight line: a part that
# is always there (weights, optimiser) and a part for each image. How many images fit if a tenth of
# the memory is to stay free? Answer with an even number; 0 if not even two fit.


# %%
# EXERCISE largest_batch
def largest_batch(batches: Sequence[int], peaks: Sequence[float], memory: float) -> int:
    """Images per step that fit into nine tenths of the memory; peaks and memory in one unit."""
    ...


judge(check_largest_batch, largest_batch)

# %% [markdown]
# A solution, folded away.


# %% tags=["solution"]
# SOLUTION largest_batch
def largest_batch(batches: Sequence[int], peaks: Sequence[float], memory: float) -> int:
    """Images per step that fit into nine tenths of the memory; peaks and memory in one unit."""
    per_image, fixed = np.polyfit(batches, peaks, 1)
    images = int((0.9 * memory - fixed) / per_image + 1e-9)
    return max(images - images % 2, 0)


judge(check_largest_batch, largest_batch)

# %% [markdown]
# **Your function on this machine.** On a GPU, this estimates the memory of three batches and asks
# your function for the largest batch that fits. On a processor there is nothing to measure.

# %%
if machine.device == "cuda":
    tried = {
        size: estimate_cost(
            whole.replace(
                pretrain=dataclasses.replace(whole.pretrain, batch=size),
                finetune=dataclasses.replace(whole.finetune, batch=size),
            )
        ).peak_bytes
        for size in (2, 4, 8)
    }
    print(f"batch {largest_batch([*tried], [*tried.values()], machine.memory)} should fit")
else:
    print("No GPU here: memory is estimated on GPUs only.")

# %% [markdown]
# ## Summary
#
# - A recipe goes from a laptop to several GPUs unchanged; only the launcher differs.
# - Cost is estimated before a run, and measured in every row after it.
# - Runs survive interruptions: what is done is on disk, and the same command resumes.
# - The ledger is the only place numbers come from, and it says how to reproduce each of them.
#
# **Where to go next.** What can go wrong on the way, and how to spot it: [10 · What goes
# wrong](10_what_goes_wrong.ipynb)
