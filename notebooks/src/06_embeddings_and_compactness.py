# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 06 · Embeddings and compactness
#
# The paper's argument has a middle step. With few labels, cross-entropy overfits; contrastive
# pretraining raises **intra-class compactness** and **inter-class separability**; *therefore* the
# classifier improves. The usual evidence for the middle step is a t-SNE picture. This notebook asks
# how much such a picture is worth, and adds the numbers that it can't give.
#
# In this notebook you will
#
# 1. look at the same pixels before training, after stage 1 and after stage 2, with several seeds
#    and perplexities;
# 2. build a case where the truth is known, and catch t-SNE inventing distances;
# 3. compute six numbers that don't depend on a perplexity: intra, inter, Fisher, silhouette, kNN
#    mIoU and linear-probe mIoU, stage by stage;
# 4. ask the ledger whether compactness goes along with mIoU at all.
#
# Before this: [05, fine-tuning and comparison](05_fine_tuning_and_comparison.ipynb).

# %% [markdown]
# ## Settings
#
# Everything you may want to change is in one cell.

# %%
from segnb.notebook import announce, command, live_dataset, project_path, tier

TIER = tier()  # "quick", or "gpu" where there is one ("smoke" is for tests and learns nothing)
DATASET = live_dataset(TIER)  # for the small pair of runs trained here
USE_LEDGER = True  # draw the saved pixels of a ledger run, if any; otherwise those of the pair
STEPS = {"smoke": (4, 4), "quick": (150, 80)}.get(TIER, (800, 800))  # of stages 1 and 2
SEEDS = (0, 1, 2)  # for t-SNE
PERPLEXITIES = {"smoke": (3, 5, 8)}.get(TIER, (5, 30, 100))
PIXELS = {"smoke": 6}.get(TIER, 50)  # per class, in the t-SNE pictures
DRAWS, PER_CLASS = {"smoke": (2, 20)}.get(TIER, (3, 200))  # of pixels, to measure again
SEED = 0  # of the runs trained here

# %% [markdown]
# **Imports.** `segnb.metrics.compactness` computes the numbers; `segnb.report` reads what a run has
# saved.

# %% tags=["folded"]
# @title Imports
from collections import Counter

import numpy as np
from IPython.display import Markdown, display
from sklearn.decomposition import PCA

from segnb import checks, datasets, evaluation, report
from segnb.checks import judge
from segnb.datasets import DatasetInfo
from segnb.errors import ConfigError, DataError
from segnb.experiments import kept, runs
from segnb.experiments.splits import load_splits
from segnb.metrics.compactness import compactness
from segnb.plots import (
    compactness_scatter,
    compactness_stages,
    embedding_maps,
    tsne,
)
from segnb.recipe import Stage, preset
from segnb.results import findings, ledger, overview
from segnb.results.compactness import RANKED_AMONG, correlation, spearman
from segnb.results.table import select
from segnb.training import Session

# %% [markdown]
# ## 1 · A run to look at
#
# We want two runs on the same few labels: one with stage 1, one with cross-entropy alone. We train
# a small pair here, in a folder of its own. It never enters the repository's ledger, and if you run
# the cell again, it finds the pair already trained.

# %%
small = {"encoder_depth": 3, "decoder_channels": 64} if TIER in ("smoke", "quick") else {}
recipe = preset(DATASET, TIER).replace(
    **small,
    seed=SEED,
    pretrain=Stage(steps=STEPS[0], batch=8, lr=0.1, warmup=min(30, STEPS[0] // 2)),
    finetune=Stage(steps=STEPS[1], batch=8, lr=0.05, schedule="poly"),
)
announce({method: recipe.replace(method=method) for method in ("contrastive", "ce")})
own = project_path("runs/notebooks")
trained = {
    method: runs.run(recipe.replace(method=method), runs=own, results=own)
    for method in ("contrastive", "ce")
}
for method, row in trained.items():
    print(f"{method:12} {row['labelled']} labelled images, mIoU on val {row['miou_val']:.1f}")

# %% [markdown]
# Runs this short show little. The repository's ledger holds longer ones whose pixel features were
# saved, so for the pictures we take one of those: among the contrastive runs with the preset's own
# recipe, the one with the fewest labelled images. If there is none, we fall back on the pair above.
# The saved pixels are a **class-balanced** sample of validation images, the same at every stage,
# and the features are those just below the head.

# %%
ledger_rows = ledger.read(project_path("results/ledger.jsonl"))
try:
    reported = overview.comparable(ledger_rows)
except ConfigError:
    reported = []  # only studies that change more than the method
shown, preview = trained["contrastive"], report.read_preview(trained["contrastive"], own)
source = "the run trained above"
candidates = [
    row
    for row in reported
    if USE_LEDGER and TIER != "smoke" and row["tier"] == TIER and row["method"] == "contrastive"
]
for row in sorted(candidates, key=lambda row: (row["labelled"], row["seed"])):
    try:
        shown, preview = row, report.read_preview(row, project_path("results"))
    except DataError:
        continue  # its preview was not saved
    source = f"run {row['recipe_hash']} of the ledger"
    break
info = datasets.info(shown["dataset"])
few = np.concatenate(
    [np.flatnonzero(preview["labels"] == c)[:PIXELS] for c in np.unique(preview["labels"])]
)
preview = {name: values[few] for name, values in preview.items() if len(values) > few.max()}
labels = preview["labels"]
print(
    f"{source}: {shown['dataset']}, {shown['form']} form, {shown['scope']}, "
    f"{shown['labelled']} labelled images"
)
for name in preview:
    if name.startswith("embeddings_"):
        print(f"{name:22} {preview[name].shape}")

# %% [markdown]
# ## 2 · Before and after
#
# t-SNE places the pixels in the plane so that near neighbours stay near. First, the picture as
# papers show it: one seed, one perplexity.

# %%
display(embedding_maps(report.embedding_points(preview, perplexity=PERPLEXITIES[1]), info))

# %% [markdown]
# **How to read it.** Each dot is a pixel, coloured by its true class; every panel shows the same
# pixels. Ask one question only: *do a dot's neighbours share its colour?* Before training they do
# only where colour or texture alone gives the class away. Look for classes that gather from left to
# right, and for pairs that stay mixed to the end. The axes have no unit, and nothing else in the
# picture has a meaning, as we are about to see.
#
# How far can this go? The network that comes with the repository was trained with all labels and
# many more steps. Its own pixels, from images it never saw:

# %%
ready = kept.find(project_path("results/networks"), DATASET)
unseen = kept.unseen(ready)
points = {}
for title, weights in (("after stage 1", "pretrained"), ("after stage 2", "weights")):
    network = runs.load_network(ready, weights=weights)
    sample = evaluation.sample_embeddings(network, unseen, session=Session(), per_class=PIXELS)
    perplexity = min(PERPLEXITIES[1], (len(sample.labels) - 1) / 3)
    points[f"a long run, {title}"] = (tsne(sample.embeddings, perplexity=perplexity), sample.labels)
display(embedding_maps(points, unseen.info))
Markdown(findings.compactness_found(kept.row_of(ready)))

# %% [markdown]
# **How to read it.** With enough labels and steps, every class has a region of its own, also in
# images that took no part in training. Which classes do so already after stage 1, and which only
# after stage 2? In the saved pictures, sky, sea and sand do so already after stage 1; the five toys
# are still mixed there, and only stage 2 parts them. Yet the Fisher ratio *falls* in stage 2. One
# number can miss what a picture shows, and the other way round.
#
# Now the same embeddings with other seeds and other perplexities (the perplexity is roughly how
# many neighbours count). In each picture, the first row is before training and the second after the
# last stage. For the seeds, t-SNE starts from random positions; in all other pictures it starts
# from the principal components.

# %%
first, last = preview["embeddings_initial"], preview["embeddings_finetuned"]


def before_and_after(**settings: dict) -> None:
    """One column per setting, one row per stage."""
    points = {
        f"{when}, {name}": (tsne(embeddings.astype(np.float32), **options), labels)
        for when, embeddings in (("before", first), ("after", last))
        for name, options in settings.items()
    }
    display(embedding_maps(points, info))


before_and_after(
    **{
        f"seed {seed}": {"seed": seed, "perplexity": PERPLEXITIES[1], "start": "random"}
        for seed in SEEDS
    }
)

# %% [markdown]
# **How to read it.** In the saved picture, follow sky, sea or sand along the second row. The dots
# of each stay together from seed to seed, and their nearest neighbours often stay the same too:
# t-SNE keeps who lies next to whom. What changes is where an island lies, how the whole picture is
# rotated, and how far apart the islands are. So "towel lies far from sky" is a story about one
# seed. Starting from the principal components fixes the rotation, which makes two pictures
# comparable, but it doesn't give the distances any more meaning.
#
# Now the perplexity.

# %%
before_and_after(**{f"perplexity {p}": {"perplexity": p, "seed": SEEDS[0]} for p in PERPLEXITIES})

# %% [markdown]
# **How to read it.** A small perplexity tears classes into crumbs and draws strings of dots where
# there are none. A large one lets islands run into each other. All panels of a row, here and above,
# show the *same* embedding. Whoever picks one of these panels picks the story.
#
# ## 3 · Distances that are not there
#
# Here is an embedding whose truth we know: four classes on a sphere in 20 dimensions. A and B are
# close neighbours, C is far from both, and D is scattered several times as widely as the others. On
# the left is the truth, in a plain linear projection; next to it, t-SNE.

# %%
generator = np.random.default_rng(0)
count = 20 if TIER == "smoke" else 120
axes = np.eye(20)
means = {
    "A": axes[0],
    "B": axes[0] + 0.35 * axes[1],
    "C": axes[2],
    "D": axes[3] - 0.5 * axes[0],
}
spread = {"A": 0.02, "B": 0.02, "C": 0.02, "D": 0.08}
names = list(means)
points = np.concatenate([means[n] + spread[n] * generator.normal(size=(count, 20)) for n in names])
points /= np.linalg.norm(points, axis=1, keepdims=True)
owner = np.repeat(np.arange(4), count)
toy = DatasetInfo(
    name="a made-up embedding",
    class_names=tuple(names),
    palette=((0, 114, 178), (86, 180, 233), (213, 94, 0), (0, 158, 115)),
    licence="made in this notebook",
    homepage="",
)
perplexity = min(30, count // 4)
maps = {"truth (PCA)": PCA(2, random_state=0).fit_transform(points)}
maps |= {f"t-SNE, perplexity {p}": tsne(points, perplexity=p) for p in (perplexity, 2 * perplexity)}
embedding_maps({title: (xy, owner) for title, xy in maps.items()}, toy)

# %% [markdown]
# **How to read it.** In truth A and B nearly touch, and D is a wide cloud. t-SNE draws four islands
# of roughly the same size, all well apart; A and B, which nearly touch, now lie about as far apart
# as A and C. It evens out densities by design, so that every point has the same number of
# neighbours. Let's put numbers on it:


# %%
def gaps_and_widths(places: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
    """Distances between class means, and each class's root mean square distance to its mean."""
    centre = {n: places[owner == c].mean(0) for c, n in enumerate(names)}
    gap = {
        f"{a}-{b}": float(np.linalg.norm(centre[a] - centre[b]))
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    }
    width = {
        n: float(np.sqrt(((places[owner == c] - centre[n]) ** 2).sum(1).mean()))
        for c, n in enumerate(names)
    }
    return gap, width


rows = {"truth": gaps_and_widths(points)}
rows |= {title: gaps_and_widths(xy) for title, xy in maps.items() if title.startswith("t-SNE")}
print(f"{'':24} gap A-C / gap A-B    width D / width A")
for title, (gap, width) in rows.items():
    print(f"{title:24} {gap['A-C'] / gap['A-B']:17.2f} {width['D'] / width['A']:20.2f}")

# %% [markdown]
# **How to read it.** A faithful map would repeat the first line. t-SNE makes up ratios of its own,
# and they change with the perplexity. So a t-SNE picture can't show that "the clusters moved apart"
# or that "the clusters became tighter", and those are precisely the paper's two claims.
#
# ## 4 · Numbers instead
#
# Let $z$ be an embedding scaled to length 1 and $m_c$ the mean of class $c$ (not rescaled):
#
# | number | what it is | good |
# | --- | --- | --- |
# | **intra** | mean over classes of $\frac{1}{n_c}\sum_{z \in c} \lVert z - m_c \rVert^2$ | small |
# | **inter** | mean over pairs of classes of $\lVert m_c - m_d \rVert^2$ | large |
# | **Fisher** | inter / intra | large |
# | **silhouette** | mean of $(b - a) / \max(a, b)$, see below | large |
# | **kNN mIoU** | the five nearest *training* pixels vote on each validation pixel | large |
# | **probe mIoU** | the same, with a linear classifier instead of the vote | large |
#
# In the silhouette, $a$ is a pixel's mean cosine distance to the other pixels of its own class, and
# $b$ is its mean distance to the nearest other class. The first four numbers look at one sample of
# pixels. The last two ask what we really want to know: does the geometry carry over from labelled
# training images to images the network has never seen?
#
# ### Exercise 1 · intra and inter
#
# Write them in numpy, for `embeddings [M, D]` of any length and `labels [M]`.


# %%
# EXERCISE intra_inter
def intra_inter(embeddings: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Intra-class variance and inter-class distance, as in the table above."""
    ...


# %% [markdown]
# Ask the checker.

# %%
judge(checks.check_intra_inter, intra_inter)

# %% [markdown]
# A solution, folded away.


# %% tags=["solution"]
# SOLUTION intra_inter
def intra_inter(embeddings: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Intra-class variance and inter-class distance, as in the table above."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    present = np.unique(labels)
    means = np.stack([unit[labels == c].mean(axis=0) for c in present])
    spreads = [
        ((unit[labels == c] - mean) ** 2).sum(axis=1).mean()
        for c, mean in zip(present, means, strict=True)
    ]
    first, second = np.triu_indices(len(present), k=1)
    gaps = ((means[first] - means[second]) ** 2).sum(axis=1)
    return float(np.mean(spreads)), float(gaps.mean())


# %% [markdown]
# ### Exercise 2 · the silhouette of one pixel
#
# Use cosine distance, $1 - \cos$. The pixel itself does not count among its own neighbours.


# %%
# EXERCISE silhouette_of
def silhouette_of(embeddings: np.ndarray, labels: np.ndarray, index: int) -> float:
    """(b - a) / max(a, b) of the pixel at `index`."""
    ...


# %% [markdown]
# Ask the checker.

# %%
judge(checks.check_silhouette_of, silhouette_of)

# %% [markdown]
# A solution, folded away.


# %% tags=["solution"]
# SOLUTION silhouette_of
def silhouette_of(embeddings: np.ndarray, labels: np.ndarray, index: int) -> float:
    """(b - a) / max(a, b) of the pixel at `index`."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    distance = 1 - unit @ unit[index]
    own = labels == labels[index]
    a = distance[own].sum() / (own.sum() - 1)
    b = min(distance[labels == c].mean() for c in np.unique(labels[~own]))
    return float((b - a) / max(a, b))


# %% [markdown]
# ### The made-up embedding again
#
# These numbers come from the embedding itself, so no perplexity can change them. But they are
# averages over the classes. D alone makes up four fifths of intra, and that A and B nearly touch is
# lost in the mean distance. If one pair of classes matters to you, measure that pair. (There is
# only one sample here, so we both fit and measure on it.)

# %%
known = compactness(points, owner, fit_embeddings=points, fit_labels=owner, num_classes=4, seed=0)
for name, value in known.as_dict().items():
    print(f"{name:12} {value:8.3f}")

# %% [markdown]
# ## 5 · Stage by stage
#
# Each run's row in the ledger holds all six numbers for each stage, measured on the same validation
# pixels. The classifiers behind the last two were fitted only on pixels of the *labelled training
# images*. Here they are for the pair we trained, as a table and as a figure.

# %%
NAMES = ("intra", "inter", "fisher", "silhouette", "knn_miou", "probe_miou")


def stage_table(rows: dict) -> Markdown:
    """One line per run and stage."""
    lines = [f"| run | stage | {' | '.join(NAMES)} |", "| --- " * (len(NAMES) + 2) + "|"]
    for name, row in rows.items():
        for stage, values in row["compactness"].items():
            cells = ["-" if values[n] is None else f"{values[n]:.3g}" for n in NAMES]
            lines.append(f"| {name} | {stage} | {' | '.join(cells)} |")
    return Markdown("\n".join(lines))


display(stage_table(trained))
display(compactness_stages(trained.values()))

# %% [markdown]
# **How to read it.** From left to right: before training, after stage 1, after stage 2.
# Cross-entropy has no stage 1, so its line goes straight on. Three things to look for:
#
# - *Intra alone misleads.* A network that maps every pixel to the same point has no spread at all,
#   and is useless. Where intra falls, check whether inter falls with it. Fisher divides one by the
#   other and is harder to fool.
# - *Stage 2 changes the geometry again.* Cross-entropy has its own pull towards compact classes:
#   trained long enough to fit its images, it draws each class together around its class vector
#   (neural collapse). Check whether Fisher rises or falls from stage 1 to stage 2.
# - *The numbers disagree.* The silhouette may fall while the probe rises, or the other way round.
#   Report several, or say beforehand which one you mean.
#
# Never compare runs on different data sets in the table: the classes differ, so neither a variance
# nor an mIoU carries over.
#
# ### How sure are they?
#
# t-SNE changed with its settings. Do these numbers change with the pixels that happen to be drawn?
# We measure the trained networks again, on other random pixels.

# %%
splits = load_splits(recipe)
session = Session()
draws: dict[str, dict[str, list[float]]] = {}
for method in trained:
    folder = runs.find_folder(recipe.replace(method=method), own)
    network = runs.load_network(folder)
    for draw in range(DRAWS):
        fitted, measured = (
            evaluation.sample_embeddings(
                network, data, session=session, seed=draw, per_class=PER_CLASS
            )
            for data in (splits.labelled_set, splits.evaluated["val"][1])
        )
        values = compactness(
            *measured,
            fit_embeddings=fitted.embeddings,
            fit_labels=fitted.labels,
            num_classes=datasets.info(DATASET).num_classes,
        )
        for name, value in values.as_dict().items():
            if value is not None:
                draws.setdefault(name, {}).setdefault(method, []).append(value)
print(f"{'':12} {'contrastive':>22} {'cross-entropy':>22}")
for name, found in draws.items():
    cells = [
        f"{np.mean(found[m]):8.3f} ± {np.std(found[m], ddof=1):.3f}" if m in found else "-"
        for m in ("contrastive", "ce")
    ]
    print(f"{name:12} {cells[0]:>22} {cells[1]:>22}")

# %% [markdown]
# **How to read it.** These are the mean and standard deviation over a few draws of pixels from the
# same networks. Unless two columns differ by well more than the ±, treat them as equal. And this is
# only the noise from drawing *pixels*: two runs with different seeds differ by more. A single pair
# of runs, such as ours, shows what the numbers look like, not which method is better.
#
# ## 6 · Does compactness go along with mIoU?
#
# If the paper's *therefore* holds, runs with a better geometry should have a higher mIoU. The
# ledger can tell us, for each data set with enough runs of the three methods of this series. Each
# run becomes a mark.

# %%
LEAST = 6
places = Counter((row["dataset"], row["tier"]) for row in reported).most_common()
many = {
    f"{dataset}, {size} tier": overview.main_methods(select(reported, dataset=dataset, tier=size))
    for (dataset, size), count in places
    if count >= LEAST
}
for place, rows in many.items():
    print(f"{place}: {len(rows)} runs")
    display(compactness_scatter(rows))
if not many:
    print(
        f"The ledger holds {places[0][1] if places else 0} runs of one data set and tier; a picture "
        f"needs at least {LEAST}. To add some, for example:\n"
        + command(
            f"segnb sweep --dataset {DATASET} --tier {TIER} --fractions 0.0625 0.25 --seeds 0 1 2",
            runs=project_path("runs"),
            results=project_path("results"),
        )
    )

# %% [markdown]
# **How to read it** (where there is a picture). Each mark is a run: its shape and colour show the
# method, its size the number of labelled images. Above each panel is Spearman's ρ, the correlation
# of ranks. It is 1 if the runs have the same order by that number as by mIoU, and -1 if the order
# is reversed. If compactness did what the paper's *therefore* asks, ρ would be **negative for
# intra**, which is good when it is small, and **positive for the others**.
#
# Before you believe a ρ, look at the marks: those of one method lie together. On CamVid, long
# cross-entropy has the highest mIoU and a low Fisher ratio; short training has a lower mIoU and a
# higher ratio. So a line through marks of *all* methods falls, whatever happens inside each of
# them. On the drawn scenes more labels raise both, so there it climbs. This is **Simpson's
# paradox**: a trend between groups that the groups themselves don't have. We fell for it ourselves:
# an earlier version of this notebook read ρ = -0.75 on CamVid as "tighter classes go with a lower
# mIoU". The fair question is asked *within labels and method*, where only the seed differs between
# runs.
#
# Ranks also need enough runs. With very few, ρ is close to a coin toss:

# %%
generator = np.random.default_rng(0)
for number in (4, 6, 12, 40):
    by_chance = [
        abs(spearman(generator.normal(size=number), generator.normal(size=number)) or 0.0)
        for _ in range(500)
    ]
    print(
        f"{number:3} unrelated runs: |ρ| above {np.quantile(by_chance, 0.95):.2f} in 1 of 20 tries"
    )

# %% [markdown]
# What about the ledger's own runs? We rank three times: among all runs of a data set, among those
# with the same number of labelled images, and among those with the same number of labelled images
# and the same method. (Newer runs label a feature cell by another of its pixels than older ones,
# which shifts all of these numbers, so the third ranking keeps the two apart.) To find out what
# chance alone gives, we shuffle the mIoU many times among the runs that are ranked together. Is the
# true ρ larger than what 19 of 20 shuffles reach?


# %%
def rho_and_chance(rows: list, name: str, group_of) -> tuple[float, float]:
    """Spearman's ρ of a number and mIoU within groups, and the level that shuffled runs reach."""
    held = [row for row in rows if row[name] is not None]
    x, y = (np.array([row[key] for row in held], float) for key in (name, "miou_val"))
    groups = np.array([group_of(row) for row in held])
    shuffled = []
    for _ in range(300):
        mixed = y.copy()
        for group in np.unique(groups):
            mixed[groups == group] = generator.permutation(y[groups == group])
        shuffled.append(abs(spearman(x, mixed, within=groups) or 0.0))
    return spearman(x, y, within=groups) or 0.0, float(np.quantile(shuffled, 0.95))


found = {}
for place, rows in many.items():
    lines = [f"**{place}**, {len(rows)} runs", "", f"| | {' | '.join(RANKED_AMONG)} |"]
    lines.append("| --- " * (len(RANKED_AMONG) + 1) + "|")
    for name in NAMES:
        found[place, name] = [rho_and_chance(rows, name, rule) for rule in RANKED_AMONG.values()]
        package = [correlation(rows, name, among=among).rho or 0.0 for among in RANKED_AMONG]
        assert np.allclose([rho for rho, _ in found[place, name]], package)
        cells = [
            f"{rho:+.2f}{' **beyond chance**' if abs(rho) > level else ''} ({level:.2f})"
            for rho, level in found[place, name]
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    display(Markdown("\n".join(lines)))

# %% [markdown]
# **How to read it.** Each cell gives ρ and, in brackets, what chance gives. Read the *fisher* row
# from left to right: where the value shrinks or changes sign on the way to the last column, you see
# Simpson's paradox at work. kNN and probe are close to being an mIoU themselves, so it is no
# surprise that they go along with it, and it says nothing about compactness. Look at *intra* too:
# on CamVid, within labels and method, runs with *looser* classes have the higher mIoU, against the
# paper's *therefore*, while inter goes its way. The Fisher ratio divides one by the other, and
# little is left. Six numbers are six tries, so one may well pass by luck. What holds on one data
# set need not hold on the next. And a correlation across runs is not a cause. In one sentence:

# %%
lines = []
for place in many:
    (_, _), (between, _), (inside, level) = found[place, "fisher"]
    verdict = (
        "no more than chance gives: these runs cannot tell"
        if abs(inside) <= level
        else f"beyond chance: tighter classes go with a {'higher' if inside > 0 else 'lower'} mIoU"
    )
    lines.append(
        f"- **{place}**: Fisher ratio and mIoU have ρ = {between:+.2f} at equal labels and "
        f"{inside:+.2f} within labels and method, {verdict}."
    )
Markdown("\n".join(lines))

# %% [markdown]
# ## Summary
#
# - t-SNE shows which points are neighbours. The sizes of its islands and the distances between them
#   are its own invention, and change with the perplexity.
# - Compactness can be measured: intra, inter, Fisher and silhouette for the geometry, kNN and probe
#   mIoU for what carries over to unseen images. None of them tells the whole truth, and intra alone
#   tells the least.
# - Measure the same pixels at every stage, balanced over the classes, several times.
# - Whether compactness explains mIoU is a question for the ledger: it takes many runs, compared
#   within labels *and* method. Compare across methods, and Simpson's paradox gives the answer
#   instead.
#
# ## Where to go next
#
# - [07, label fraction and temperature](07_label_fraction_and_temperature.ipynb): how results and
#   geometry change with the number of labels and with $\tau$.
# - [04, contrastive pretraining](04_contrastive_pretraining.ipynb): the embedding while it moves.
