# %% [markdown]
# # 07 · Label fraction and temperature
#
# Anyone who uses the paper's method has choices to make: how many images to label, which
# temperature τ, and how many steps for each stage. Here you turn all of these knobs. The ledger of
# finished runs answers at once. A point it doesn't hold you can train here, and stop whenever you
# like.
#
# You will
# - see what τ does to a single anchor before it does anything to a network,
# - move two sliders over finished runs, with curves, predictions and embeddings for each point,
# - train a point yourself, stop in the middle and resume,
# - press the cells of a map that says when stage 1 pays,
# - choose a temperature the fair way, and find what the loss becomes at both ends of τ.
#
# Time: a few minutes on two processor cores, nearly all of it for the one live run.

# %% [markdown]
# **Imports.** `segnb.widgets.explorer` holds the sliders and the plain functions they call.
# `segnb.widgets.training` runs a training in its own thread, so that the Stop button works.

# %% tags=["folded"]
# @title Imports
from collections.abc import Sequence
from typing import Any

import numpy as np
from IPython.display import Markdown, display

from segnb import plots
from segnb.checks import check_limits, check_temperature_choice, judge
from segnb.errors import ConfigError
from segnb.notebook import command, live_dataset, project_path, tier
from segnb.plots import Picture
from segnb.recipe import preset
from segnb.results import ledger
from segnb.results.method import Method
from segnb.results.step_map import step_map
from segnb.widgets.explorer import (
    Explorer,
    answer,
    find_sweep,
    point,
    run_pictures,
    sweep_overview,
)
from segnb.widgets.step_map import StepMapExplorer
from segnb.widgets.training import train

# %% [markdown]
# **Settings.** They are all here. `SHORTER` divides the steps of a reported run, so that a live run
# takes minutes. Numbers from such a run are for learning, not for quoting. Set it to 1 for a
# full-length run.

# %%
TIER = tier()  # "quick", or "gpu" where there is one ("smoke" is for tests and learns nothing)
DATASET = live_dataset(TIER)  # for the live runs
SHORTER = 1 if TIER == "gpu" else 5
MAP_DATASET = "camvid"  # for the map of steps
LEDGER_DATASET = None  # for the sweep shown; None takes the one with the most points
FRACTION = 1 / 8  # the point shown without sliders
TEMPERATURE = 0.07
RESULTS = project_path("results")  # the ledger to read; a notebook never writes to it
RUNS = project_path("runs") / "explorer"  # the live runs, with a small ledger of their own

# %% [markdown]
# ## What τ does to one anchor
#
# The loss asks each anchor pixel: among all keys, how likely are you to pick one of your own class?
# The similarities $s$ are cosines between −1 and 1. Dividing them by τ and taking the softmax turns
# them into shares $w_k$. In the **paper form**, a key's share sets its force on the anchor: a
# negative pushes with $w_k / \tau$, and a positive pulls with $(1/|P| - w_k) / \tau$, so a positive
# that is already close enough stops pulling. (The official form, which the sweep below uses, keeps
# the other positives out of a pair's denominator. There, a negative pushes by its share among the
# negatives, times how far the positives still are from winning.) Here are the shares of nine keys,
# from unlike to very alike:

# %%
cosines = np.linspace(-0.6, 1.0, 9)
weights = {
    tau: np.exp(cosines / tau) / np.exp(cosines / tau).sum() for tau in (0.03, 0.07, 0.2, 0.5)
}
for tau, shares in weights.items():
    print(f"τ {tau:4g}: the most alike key has {shares[-1]:.0%} of the weight")

# %% tags=["folded"]
# @title Draw it
with plots.styled():
    figure = plots.new_figure(7.2, 2.6)
    panels = figure.subplots(1, 4, sharey=True)
    for axes, (tau, shares) in zip(panels, weights.items(), strict=True):
        axes.bar(cosines, shares, width=0.15, color="#0072B2")
        axes.set(title=f"τ = {tau:g}", xlabel="cosine to the anchor", ylim=(0, 1))
    panels[0].set_ylabel("softmax weight of the key")
Picture(
    figure,
    "Softmax weights of nine keys at four temperatures: at 0.03 the most alike key has nearly all "
    "the weight; at 0.5 it has a third, and every key has some.",
)

# %% [markdown]
# **How to read it.** At a small τ, nearly all of the weight lies on the most similar key. If that
# key belongs to another class, the loss sees this hardest negative and little else, and a wrong
# label there does great harm. As τ grows, the weights even out, and negatives that are already far
# away keep pushing. Note the factor $1/\tau$ in the forces: a smaller τ also makes the whole
# gradient larger. A sweep over τ at a single learning rate therefore varies two things at once, and
# the best value has to be measured.
#
# ## What the ledger holds
#
# Every finished run of this project is a row of `results/ledger.jsonl`. Rows that differ only in
# method, label fraction, temperature and seed belong to one sweep, and `find_sweep` looks for the
# widest. This table counts its seeds for each method and label fraction.

# %%
rows = ledger.read(RESULTS / "ledger.jsonl")
sweep = find_sweep(rows, dataset=LEDGER_DATASET)
Markdown(sweep_overview(sweep))

# %% [markdown]
# ## The explorer
#
# Move a slider and let go. The table and the curves answer at once, with a broad line marking the
# chosen point. Predictions follow, then embeddings, which take some seconds the first time. If a
# point has no contrastive run, the explorer says so and shows the baselines it has.
#
# **Run** trains the chosen point here, in its own folder. On a processor it trains on the drawn
# scenes and with fewer steps, so don't compare its mIoU with the ledger's numbers for street
# images. **Stop** finishes the current step and writes a checkpoint; the button then reads *Go on*.
# You can even restart the kernel in between. Only one training runs at a time, and errors show up
# here in red.

# %%
whole = preset(DATASET, TIER)
live = whole.shorter(SHORTER)
explorer = Explorer(sweep, live, results=RESULTS, runs=RUNS)
explorer

# %% [markdown]
# **How to read it.** In the curves, a large mark is a mean over seeds, a dot is a single seed, and
# a bar, drawn from three seeds on, is the 95 % interval of the mean. Look at the baselines first: a
# contrastive line that lies above `cross-entropy` but not above `cross-entropy, same compute` says
# that longer training helps, not that contrast does. Where intervals overlap widely, the ledger
# hasn't decided yet. Two seeds decide nothing: their interval would be too wide to draw. The curve
# over τ uses only the seeds that every τ was run with, so a mean there may differ from the table.
# Its level lines are the baselines, which have no τ; from three shared seeds on, their intervals
# are at the right edge. The embedding maps are a way of looking, not a measurement: notebook 06
# explains what they can't show.
#
# **Without sliders.** Here is the same with plain variables: the recipe of a point, and what the
# ledger says about it. If you are reading without running the notebook, this is the version you
# see.

# %%
recipe = point(live, fraction=FRACTION, temperature=TEMPERATURE)
print(command(recipe.command(), runs=RUNS, results=RUNS))
if sweep is not None:
    for part in answer(sweep, RESULTS, fraction=FRACTION, temperature=TEMPERATURE).values():
        display(Markdown(part) if isinstance(part, str) else part)

# %% [markdown]
# And this single call does what Run does, and waits until the training ends. It refuses if the
# explorer above is training at the moment: two trainings would share one machine, and neither would
# be timed honestly.

# %%
row = train(recipe, runs=RUNS, results=RUNS)
print(f"mIoU {row['miou_val']:.1f} on val after {row['steps']} steps, {row['seconds']:.0f} s")
print(f"{row['labelled']} labelled images, τ {row['temperature']:g}, on {row['device']}")

# %% [markdown]
# What has that run learnt? Here are its predictions on three validation images, and its pixel
# embeddings before training, after stage 1 and after stage 2.

# %%
for picture in run_pictures(row, RUNS):
    display(picture)

# %% [markdown]
# **How to read it.** Compare prediction and truth at the small objects first; large areas are easy.
# In the maps, look for colours that gather from left to right. In a short run they gather little:
# set `SHORTER = 1` for the real thing.
#
# ## The map: when does stage 1 pay?
#
# Labels and temperature are not the only choices. The number of steps in each stage matters more
# than either. Press a cell of the map: it shows the gain of a contrastive stage 1, averaged over
# seeds, for one number of labels, one length of stage 1 and one length of stage 2. Switch the rival
# from *the same fine-tuning* to *the same compute* and watch the colours change.
#
# **Predict first.** Which way does the gain go as stage 2 gets longer? And as there are fewer
# labels?

# %%
try:
    the_map = step_map(rows, dataset=MAP_DATASET, tier="quick")
except ConfigError as error:
    the_map = None
    print(error)
else:
    display(StepMapExplorer(the_map, results=RESULTS))

# %% [markdown]
# Without buttons, here is the whole map: first on validation images, which come from a drive seen
# in training, then on test.

# %%
if the_map is not None:
    for measure in ("miou_val", "miou_test"):
        display(plots.step_map(the_map, measure=measure))

# %% [markdown]
# The largest gain over the same fine-tuning, and its price:

# %%
if the_map is not None:
    for measure in ("miou_val", "miou_test"):
        if best := the_map.largest(over="the same fine-tuning", measure=measure):
            display(Markdown(the_map.in_words(best[0], measure=measure)))

# %% [markdown]
# **How to read it.** The same cell has two numbers, and both are true. On the left, the rival has
# no stage 1: this is what a shared start is worth to someone who can fine-tune for only a few dozen
# steps. On the right, the rival's stage 1 is cross-entropy on the same images, with as many image
# passes (so twice as many steps as the curves' legend says), then a new classifier and the same
# stage 2: this is what the contrastive *loss* is worth. A start trained with cross-entropy can be
# shared just as well. Bold means that the 95 % interval excludes zero; ± is half its width. And
# your predictions? The gain over the same fine-tuning shrinks as stage 2 gets longer, and fewer
# labels do not raise it.
#
# ## Exercise 1: choose a temperature
#
# You have the rows of a sweep over τ. Each is a dictionary with `temperature`, `seed`, `miou_val`
# and `miou_test`. Which temperature do you take, so that the test images can still judge it? Some
# temperatures may have been run with more seeds than others, and remember what a seed decides:
# which images are labelled, too. At least one seed was run with every temperature.


# %%
# EXERCISE temperature_choice
def temperature_choice(rows: Sequence[dict[str, Any]]) -> float:
    """The temperature to report."""
    ...


judge(check_temperature_choice, temperature_choice)

# %% [markdown]
# A solution, folded away. Open it once you have tried.


# %% tags=["solution"]
# SOLUTION temperature_choice
def temperature_choice(rows: Sequence[dict[str, Any]]) -> float:
    """The temperature to report."""
    by_temperature: dict[float, dict[int, float]] = {}
    for row in rows:
        by_temperature.setdefault(row["temperature"], {})[row["seed"]] = row["miou_val"]
    shared = set.intersection(*map(set, by_temperature.values()))
    means = {
        t: sum(values[seed] for seed in shared) / len(shared)
        for t, values in by_temperature.items()
    }
    return max(means, key=means.__getitem__)


judge(check_temperature_choice, temperature_choice)

# %% [markdown]
# **Your function on the ledger.** Where the sweep has enough points, this cell shows the temperature
# that val would choose, separately for each form of the loss and number of labelled images.

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
    print(f"{method}, {labelled} images: of τ = {among} val picks {temperature_choice(here):g}")
if not tried:
    print("The ledger holds at most one temperature: nothing to choose from yet.")

# %% [markdown]
# **How to read it.** A seed can move the mIoU more than a temperature does, so means over different
# seeds would compare images, not temperatures. Over the same seeds, the choice still rests on
# means, and means hide their uncertainty: look back at the dots in the curve over τ before you
# trust the choice. Where there are only two seeds, no interval can be drawn, and a lead of half a
# point decides nothing.

# %% [markdown]
# ## Exercise 2: the two ends of τ
#
# The bars at the top of this notebook showed what τ does to the shares. What does it do to the loss?
# Take one anchor with similarities $s_k$ to its keys (cosines, not yet divided by τ), some of them
# positives $P$. In the paper form its loss is
#
# $$ L = \log \sum_k \exp(s_k / \tau) - \frac{1}{|P|} \sum_{q \in P} s_q / \tau . $$
#
# As τ → 0 the loss itself may grow without bound, but $\tau L$ tends to a finite value. As τ → ∞,
# $L$ tends to a finite value too. Work both out on paper, and return the limit of $\tau L$ first,
# then that of $L$.
#
# **Predict first.** Which keys still matter at the lower end? And at the upper end, what does the
# loss still know about the embeddings?


# %%
# EXERCISE limits
def limits(similarities: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """Limits of τ · loss as τ → 0 and of the loss as τ → ∞: [M] and booleans [M]."""
    ...


judge(check_limits, limits)

# %% [markdown]
# A solution, folded away.


# %% tags=["solution"]
# SOLUTION limits
def limits(similarities: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """Limits of τ · loss as τ → 0 and of the loss as τ → ∞: [M] and booleans [M]."""
    # τ log Σ exp(s / τ) tends to the largest s: the other exponentials vanish beside its own.
    low = similarities.max() - similarities[positive].mean()
    # s / τ tends to 0, so every exponential tends to 1.
    return float(low), float(np.log(len(similarities)))


judge(check_limits, limits)

# %% [markdown]
# **Your function against the formula.** These are the nine keys from the top. The positives are the
# ones at 0.2 and 0.8, and the most similar key, at 1, is a negative.

# %%
positive = np.isin(np.arange(9), (4, 7))
low, high = limits(cosines, positive)
print("      τ   τ · loss      loss")
for tau in (0.001, 0.01, 0.07, 0.2, 1, 10, 1000):
    scores = cosines / tau
    loss = np.logaddexp.reduce(scores) - scores[positive].mean()
    print(f"{tau:7g} {tau * loss:10.4f} {loss:9.3f}")
print(f"limits  {low:10.4f} {high:9.3f}")

# %% [markdown]
# **How to read it.** At a very small τ, one key of the denominator is left: the most similar one.
# The loss becomes a margin, the lead of that key over the average positive, divided by τ. It is 0
# only if all positives tie for the highest similarity. If the label of that one key is wrong, the
# loss follows the mistake. At a very large τ every key has the same share, and the loss is the
# logarithm of the number of keys, whatever the network does; its gradient fades like 1/τ. A useful
# τ lies in between, where several hard keys matter and the easy ones don't.

# %% [markdown]
# ## Summary
#
# - The length of stage 2 decides most of the gain over the same fine-tuning; the map shows where
#   that gain lives.
# - τ decides which keys move an anchor, only the hardest or all of them, and it scales the gradient
#   by 1/τ.
# - Make choices on validation images, by the mean of several seeds, the same for all that you
#   choose from. The test images see only what was chosen.
# - As τ → 0 the loss compares the most similar key with the average positive. As τ → ∞ it is the
#   logarithm of the number of keys, whatever the embeddings.
# - The ledger shows what was measured and says where nothing was; the Run button fills a gap.
#
# **Where to go next.** The unlabelled images have not been used at all so far: [08 ·
# Semi-supervised](08_semi_supervised.ipynb). Or run the sweep on real images: [09 · Real data at
# scale](09_real_data_at_scale.ipynb).
