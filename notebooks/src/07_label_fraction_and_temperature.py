# %% [markdown]
# # 07 · Label fraction and temperature
#
# Two numbers anyone who uses the paper's method must settle: how many images to label, and the
# temperature τ of the contrastive loss. Here both are sliders. What the ledger of finished runs
# knows about a place of the sliders it shows at once; what it does not know you can train, live,
# and stop whenever you like.
#
# You will
# - see what τ does to a single anchor before it does anything to a network,
# - move through a sweep: curves, predictions and embeddings of the chosen point,
# - train a point yourself, stop in the middle and go on,
# - choose a temperature the fair way, and count labels instead of points of mIoU.
#
# Time: a few minutes on two processor cores, nearly all of it the one live run.

# %% [markdown]
# **What we need.** `segnb.widgets.explorer` holds the sliders and, apart from them, the plain
# functions they call; `segnb.widgets.training` runs a training in a thread of its own, so that the
# Stop button can be heard.

# %% tags=["folded"]
# @title Imports
import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from IPython.display import Markdown, display

from segnb import plots
from segnb.checks import check_labels_needed, check_temperature_choice, judge
from segnb.notebook import project_path, tier
from segnb.plots import Picture
from segnb.recipe import preset
from segnb.results import ledger
from segnb.results.method import Method
from segnb.results.table import fraction_name, groups
from segnb.widgets.explorer import Explorer, answer, find_sweep, point, run_pictures
from segnb.widgets.training import train

# %% [markdown]
# **The knobs.** All of them. `SHORTER` makes the live runs last minutes: they take that part of the
# steps that a reported run takes, and their numbers are for learning, not for quoting. 1 trains the
# whole.

# %%
DATASET = "shapes"  # of the live runs
SHORTER = 5
LEDGER_DATASET = None  # of the sweep that is shown; None takes the one with most points
FRACTION = 1 / 8  # where the sliders' twins stand
TEMPERATURE = 0.07
RESULTS = project_path("results")  # the ledger that is read; a notebook never writes into it
RUNS = project_path("runs") / "explorer"  # the live runs, with a small ledger of their own

# %% [markdown]
# ## What τ does to one anchor
#
# The loss asks each anchor pixel: among all keys, how likely are you to pick one of your own class? The
# similarities $s$ are cosines between −1 and 1. Dividing by τ and taking the softmax turns them into shares
# $w_k$. In the **paper form** the force of a key on the anchor follows from its share: a negative pushes with
# $w_k / \tau$, a positive pulls with $(1/|P| - w_k) / \tau$, so a positive that is close enough pulls no more. (In
# the official form, which the sweep below uses, the other positives stay out of a pair's denominator: a
# negative pushes by its share among the negatives, times how far the positives still are from winning.)
# Here are the shares of nine keys, from unlike to very alike:

# %%
cosines = np.linspace(-0.6, 1.0, 9)
with plots.styled():
    figure = plots.new_figure(7.2, 2.6)
    panels = figure.subplots(1, 4, sharey=True)
    for axes, tau in zip(panels, (0.03, 0.07, 0.2, 0.5), strict=True):
        weights = np.exp((cosines - cosines.max()) / tau)
        axes.bar(cosines, weights / weights.sum(), width=0.15, color="#0072B2")
        axes.set(title=f"τ = {tau:g}", xlabel="cosine to the anchor", ylim=(0, 1))
    panels[0].set_ylabel("softmax weight of the key")
Picture(
    figure,
    "Softmax weights of nine keys at four temperatures: at 0.03 the most alike key has nearly all "
    "the weight, at 0.5 a third, and every key has some.",
)

# %% [markdown]
# **How to read it.** At a small τ nearly all of the weight lies on the most similar key. If that key belongs to
# another class, the loss sees this hardest negative and little else, and a wrong label there does great harm.
# As τ grows the weights even out: negatives that are already far away keep pushing. Note the factor $1/\tau$ in
# the forces: a smaller τ also makes the whole gradient larger, so a sweep over τ at one learning rate varies two
# things at once. Where the best value lies has to be measured.
#
# ## What the ledger holds
#
# Every finished run of this project is a row of `results/ledger.jsonl`. Rows that differ only in
# method, form of the loss, label fraction, temperature and seed belong to one sweep;
# `find_sweep` looks for the widest. Few sweeps are full: here is what it holds, as the number of
# seeds at each place.

# %%
rows = ledger.read(RESULTS / "ledger.jsonl")
sweep = find_sweep(rows, dataset=LEDGER_DATASET)
if sweep is None:
    print("There is no sweep in the ledger yet. The sliders work, and Run trains their point.")
    print("To make a sweep (hours on a processor, safe to interrupt, goes on where it stopped):")
    print(f"  segnb sweep --dataset {DATASET} --tier quick --methods ce ce_long contrastive \\")
    print("    --fractions 0.03125 0.0625 0.125 --temperatures 0.03 0.07 0.2 --seeds 0 1 2")
else:
    base = sweep.base
    print(f"{len(sweep.rows)} runs on {base.dataset} at the {base.tier} tier")
    held = Counter((Method.of(row), row["temperature"], row["fraction"]) for row in sweep.rows)
    width = max(len(method.name) for method, _, _ in held) + 10
    print("share of the labels".ljust(width), *(f"{fraction_name(f):>5}" for f in sweep.fractions))
    for method, tau in sorted(
        {key[:2] for key in held}, key=lambda key: (key[0].order, key[1] or 0)
    ):
        words = method.name if tau is None else f"{method}, τ {tau:g}"
        seeds = (held[method, tau, fraction] or "–" for fraction in sweep.fractions)
        print(words.ljust(width), *(f"{count:>5}" for count in seeds))

# %% [markdown]
# ## The explorer
#
# Move a slider and let go. The table and the curves answer at once, with the chosen place marked
# by a broad line; predictions follow, of the seed that most methods there have, and embeddings,
# which take some seconds to be laid out the first time and are kept. A place that no contrastive
# run was made for says so, and shows the baselines it has.
#
# **Run** trains the chosen point here, in its own folder. **Stop** lets the step at hand finish and
# writes a checkpoint; the button then reads *Go on*. You may even restart the kernel in between:
# what was done is on disk. Only one training runs at a time, and an error shows up here in red, not
# in a terminal you never see.

# %%
whole = preset(DATASET, tier())
live = whole.replace(
    pretrain=dataclasses.replace(
        whole.pretrain,
        steps=max(whole.pretrain.steps // SHORTER, 4),
        warmup=whole.pretrain.warmup // SHORTER,
    ),
    finetune=dataclasses.replace(whole.finetune, steps=max(whole.finetune.steps // SHORTER, 4)),
)
explorer = Explorer(sweep, live, results=RESULTS, runs=RUNS)
explorer

# %% [markdown]
# **How to read it.** In the curves a large mark is a mean over seeds, a dot a single seed, a
# bar, from three seeds on, the 95 % interval of the mean. Look at the baselines first: a contrastive line that lies above `cross-entropy`
# but not above `cross-entropy, same compute` says that longer training helps, not that contrast
# does. Where intervals overlap widely, the ledger has not decided yet, and two seeds
# decide nothing: their interval would be too wide to draw. In the curve over τ the level lines are
# the baselines, which know no τ, with their intervals at the right edge. The embedding maps are a
# way of looking, not a measurement: notebook 06 tells what they can't show.
#
# **Without sliders.** The same, with plain variables: the recipe of a point, and what the ledger
# says about it. This is also what you see here if nobody runs the notebook.

# %%
recipe = point(live, fraction=FRACTION, temperature=TEMPERATURE)
print(recipe.command())
if sweep is not None:
    for part in answer(sweep, RESULTS, fraction=FRACTION, temperature=TEMPERATURE).values():
        display(Markdown(part) if isinstance(part, str) else part)

# %% [markdown]
# And this is what Run does, as one call that waits for the end. If the explorer above is training
# at this moment, it refuses: two trainings would share one machine, and neither would be timed
# honestly.

# %%
row = train(recipe, runs=RUNS, results=RUNS)
print(f"mIoU {row['miou_val']:.1f} on val after {row['steps']} steps, {row['seconds']:.0f} s")
print(f"{row['labelled']} labelled images, τ {row['temperature']:g}, on {row['device']}")

# %% [markdown]
# What that run learnt: its predictions on three validation images, and where its pixels lie before
# training, after stage 1 and after stage 2.

# %%
for picture in run_pictures(row, RUNS):
    display(picture)

# %% [markdown]
# **How to read it.** Compare prediction and truth at the small objects first; large areas are easy.
# In the maps, look for colours that have gathered from left to right. A short run gathers little:
# set `SHORTER = 1` for the real thing.
#
# ## Exercise 1: choose a temperature
#
# You have rows of a sweep over τ. Each is a dictionary with `temperature`, `seed`, `miou_val` and
# `miou_test`. Which temperature do you take, so that the test images can still judge it? Some
# temperatures may have been run with more seeds than others.


# %%
# EXERCISE temperature_choice
def temperature_choice(rows: Sequence[dict[str, Any]]) -> float:
    """The temperature to report."""
    ...


judge(check_temperature_choice, temperature_choice)

# %% [markdown]
# A solution, folded away. Open it when you have tried.


# %% tags=["solution"]
# SOLUTION temperature_choice
def temperature_choice(rows: Sequence[dict[str, Any]]) -> float:
    """The temperature to report."""
    by_temperature: dict[float, list[float]] = {}
    for row in rows:
        by_temperature.setdefault(row["temperature"], []).append(row["miou_val"])
    means = {t: sum(values) / len(values) for t, values in by_temperature.items()}
    return max(means, key=means.__getitem__)


judge(check_temperature_choice, temperature_choice)

# %% [markdown]
# ## Exercise 2: count labels, not points
#
# "Three points more" means little to someone who has to draw masks. "As good as the baseline with
# twice the labels" means a lot. Given the baseline's curve (numbers of labelled images, ascending,
# and the mIoU at each), how many labels does it need for a target mIoU? Go straight between the
# points, on an axis of log2 of the labels; the first crossing counts. Below the curve answer with
# its fewest labels, above it with `math.inf`.


# %%
# EXERCISE labels_needed
def labels_needed(counts: Sequence[int], mious: Sequence[float], target: float) -> float:
    """Labelled images that a baseline needs to reach the target."""
    ...


judge(check_labels_needed, labels_needed)

# %% [markdown]
# A solution, folded away.


# %% tags=["solution"]
# SOLUTION labels_needed
def labels_needed(counts: Sequence[int], mious: Sequence[float], target: float) -> float:
    """Labelled images that a baseline needs to reach the target."""
    if mious[0] >= target:
        return float(counts[0])
    for i in range(1, len(counts)):
        if mious[i] >= target:
            share = (target - mious[i - 1]) / (mious[i] - mious[i - 1])
            low, high = math.log2(counts[i - 1]), math.log2(counts[i])
            return float(2 ** (low + share * (high - low)))
    return math.inf


judge(check_labels_needed, labels_needed)

# %% [markdown]
# **Your functions on the ledger.** Where the sweep has enough points, this applies both: the
# temperature that val would choose, for each form of the loss and number of labelled images by
# itself; and what the method's labels are worth in labels of cross-entropy with the same compute and
# the same colour distortion.

# %%
contrastive = [r for r in sweep.rows if r["method"] == "contrastive"] if sweep else []
at_labels: dict[tuple[Method, int], list[dict[str, Any]]] = {}
for row in contrastive:
    at_labels.setdefault((Method.of(row), row["labelled"]), []).append(row)
tried = {key: here for key, here in at_labels.items() if len({r["temperature"] for r in here}) > 1}
for (method, labelled), here in sorted(
    tried.items(), key=lambda item: (item[0][0].order, item[0][1])
):
    among = ", ".join(f"{t:g}" for t in sorted({r["temperature"] for r in here}))
    print(f"{method}, {labelled} images: of τ = {among} val chooses {temperature_choice(here):g}")
if not tried:
    print("The ledger holds one temperature or none: nothing to choose from yet.")

same_compute = Method(kind="ce_long")
baseline = [r for r in sweep.rows if Method.of(r) == same_compute] if contrastive else []
at_default = [r for r in contrastive if r["temperature"] == TEMPERATURE]
curve = [(group.labelled, group.summary.mean) for group in groups(baseline)] if baseline else []
if len(curve) > 1 and at_default:
    counts, mious = zip(*curve, strict=True)
    for group in groups(at_default):
        worth = labels_needed(counts, mious, group.summary.mean)
        said = f"about {worth:.0f}"
        if math.isinf(worth):
            said = f"more than {counts[-1]}, the most that were tried,"
        elif group.summary.mean < mious[0]:
            said = f"fewer than {counts[0]}, the fewest that were tried,"
        print(f"{group.method}, {group.labelled} images: worth {said} of cross-entropy's")
else:
    print("The ledger holds no label curve of cross-entropy with the same compute yet.")

# %% [markdown]
# **How to read it.** A worth above the number of labelled images is a saving; one below it says that
# cross-entropy would have done as well with fewer. Both answers are made of means, and means hide
# how sure they are: look back at the intervals in the curves before you believe a choice between
# temperatures, or a number of labels.

# %% [markdown]
# ## Summary
#
# - τ decides which keys move an anchor, the hardest alone or all of them, and it scales the gradient by 1/τ.
# - A choice is made on validation images, over the mean of several seeds; the test images see only
#   what was chosen.
# - A label curve is read sideways as well as upwards: how many labels is the method worth?
# - The ledger shows what was measured and says where nothing was; the Run button fills a gap.
#
# **Where to go next.** The unlabelled images have not been used at all so far:
# [08 · Semi-supervised](08_semi_supervised.ipynb). Or make the sweep on real images:
# [09 · Real data at scale](09_real_data_at_scale.ipynb).
