# %% [markdown]
# # 10 · What goes wrong
#
# Here are six failures of the kind that fill public issue trackers. Most of them don't crash: they
# give you a number, only a wrong one. In this notebook each fails in front of you, in a few lines
# of real code, and then gets repaired.
#
# 1. Masks resized like photographs
# 2. A 255 that leaks
# 3. A small temperature in half precision
# 4. An mIoU that is a different number
# 5. A pixel without positives
# 6. Tuning on the test split
#
# Time: about a minute. No GPU, no files.

# %% [markdown]
# **Imports.** The wrong code is written out in the cells below. The right code is what the rest of
# this project uses.

# %% tags=["folded"]
# @title Imports
import math
from collections.abc import Callable, Sequence

import ipywidgets as widgets
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from segnb import datasets, plots
from segnb.checks import check_choose_and_report, check_resize_mask, check_stable_loss, judge
from segnb.datasets import IGNORE
from segnb.datasets.cache import letterbox
from segnb.datasets.shapes import ShapesDataset
from segnb.experiments.runs import initial_network
from segnb.losses import paper, supcon_loss
from segnb.metrics.segmentation import ConfusionScore, score_confusion
from segnb.notebook import tier
from segnb.plots import Picture
from segnb.recipe import preset
from segnb.training.stages import cross_entropy
from segnb.views import nearest_labels, normalise, to_unit

# %% [markdown]
# **Settings.** They are all here.

# %%
TINY = tier() == "smoke"  # so that the tests run this notebook in seconds
SEED = 0
TEMPERATURE = 0.07
CANDIDATES = 6 if TINY else 30  # "settings" to choose from in the last failure
PUSH = 0.1  # standard deviation of the random push; the right class scores about 1

# %% [markdown]
# A scene to break things with (the left one; the right one keeps it company):

# %%
scenes = ShapesDataset("val", size=(96, 128))
info = scenes.info
photo, mask, _ = scenes[2]
plots.contact_sheet([photo, scenes[3].image], [mask, scenes[3].mask], info, columns=2)

# %% [markdown]
# **How to read it.** The image is on top, its mask below, with a colour for each class.

# %% [markdown]
# ## 1. Masks resized like photographs
#
# **The failure.** Image and mask go through the same `resize`, and its default blends neighbouring
# pixels. Halfway between class 2 and class 6, that makes "class 4".

# %%
half = (mask.shape[1] // 2, mask.shape[0] // 2)  # Pillow says width first
blended = np.asarray(Image.fromarray(mask).resize(half, Image.Resampling.BILINEAR))
invented = sorted(set(np.unique(blended).tolist()) - set(np.unique(mask).tolist()))
print(f"classes before: {np.unique(mask).tolist()}")
print(f"values invented by blending: {invented}")
touched = np.isin(blended, invented).mean()
print(f"{100 * touched:.1f} % of the pixels hold a value that the mask never had")

# %% [markdown]
# **The repair.** Look masks up, never blend them: use the nearest neighbour. In this package,
# images and masks go through one function that treats them differently.

# %%
_, looked_up = letterbox(photo, mask, (mask.shape[0] // 2, mask.shape[1] // 2))
assert set(np.unique(looked_up)) <= set(np.unique(mask))


def shown(labels: np.ndarray) -> np.ndarray:
    """The mask with values that are no class turned into void, so that it can be drawn."""
    return np.where(labels < info.num_classes, labels, IGNORE).astype(np.uint8)


# %% tags=["folded"]
# @title Draw it
with plots.styled():
    figure = plots.new_figure(7.2, 2.2)
    titles = ("the mask", "halved, blended", "halved, nearest")
    for axes, title, labels in zip(
        figure.subplots(1, 3), titles, (mask, shown(blended), looked_up), strict=True
    ):
        axes.imshow(plots.colour_mask(labels, info), interpolation="nearest")
        axes.set_title(title)
        axes.set_axis_off()
Picture(
    figure,
    "A mask and two half-size copies of it: along every outline, the blended copy has seams of "
    "classes that are nowhere in the scene; the looked-up copy has none.",
)

# %% [markdown]
# **How to read it.** In the middle, look along the outlines: there are thin seams in the colours of
# classes that are nowhere near. No error, no warning; the network learns that every toy has a
# border made of other toys. Right: clean.
#
# **How to catch it.** One line in a test does it: after any geometric change, the labels must be a
# subset of the labels before, plus 255.

# %% [markdown]
# ## 2. A 255 that leaks
#
# **The failure, loud.** Void has the value 255. Forget to tell cross-entropy, and it looks for
# score number 255. (On a GPU this shows up as `device-side assert triggered`, on some later line,
# and you have to restart the process.)

# %%
labels = torch.from_numpy(mask.copy()).long()[None]
labels[:, 40:56] = IGNORE  # some rows in the middle are void
scores = torch.randn(
    1, info.num_classes, *labels.shape[1:], generator=torch.Generator().manual_seed(SEED)
)
try:
    F.cross_entropy(scores, labels)
except (IndexError, RuntimeError) as error:
    print(f"{type(error).__name__}: {error}")

# %% [markdown]
# **The failure, silent.** The quick fix `labels[labels == 255] = 0` is worse: now every void pixel
# *is* sky. And the contrastive loss accepts any number as a class, so there a leaked 255 never
# crashes: all void pixels become each other's positives.

# %%
generator = torch.Generator().manual_seed(SEED)
true = nearest_labels(torch.from_numpy(mask.copy()).long()[None], (12, 16)).flatten(1)
small = nearest_labels(labels, (12, 16)).flatten(1)
# Features as after training: those of a class lie close together.
features = F.one_hot(true, 32) + 0.1 * torch.randn(1, 12 * 16, 32, generator=generator)
features = F.normalize(features, dim=2)

as_sky = torch.where(small == IGNORE, 0, small)
for name, its_labels, ignored in (
    ("void left out", small, IGNORE),
    ("void is a class of its own", small, -1),
    ("void is sky", as_sky, IGNORE),
):
    loss = paper.within_image_loss(features, features, its_labels, its_labels, ignore_index=ignored)
    print(f"{name:28} {loss:.4f}")

# %% [markdown]
# **How to read it.** The same features give three different losses, and only the first is the one
# we meant. Nothing about the other two looks like an error.
#
# **The repair.** There is one constant, `segnb.datasets.IGNORE`, for all data sets (CamVid's files
# use 11 and Cityscapes' use a dozen values; the readers translate). Every loss and score leaves it
# out.

# %%
loss = cross_entropy(scores, labels)
changed = scores.clone()
changed[:, :, 40:56] = 100 * torch.randn(changed[:, :, 40:56].shape, generator=generator)
print(
    f"loss {loss:.4f}; with anything at all predicted on void {cross_entropy(changed, labels):.4f}"
)

# %% [markdown]
# **How to catch it.** The cell above is the test: change the predictions on void any way you like,
# and neither loss nor score may move.

# %% [markdown]
# ## 3. A small temperature in half precision
#
# **The failure.** The contrastive loss contains $\exp(s/\tau)$, with similarities $s$ up to 1. At
# $\tau = 0.07$ that is $e^{14.3}$, more than a million; the largest number in fp16 is 65504. Code
# that casts the similarities to half precision itself, as the function below does, has no chance.
# (On a GPU, `torch.autocast` would run `exp` and `log` in fp32. It has a quieter hazard, which
# comes at the end of this section.)

# %%
print(f"exp(1 / {TEMPERATURE}) = {math.exp(1 / TEMPERATURE):,.0f}")
print(f"largest fp16 number: {torch.finfo(torch.float16).max:,.0f}")


def naive_loss(
    features: torch.Tensor, labels: torch.Tensor, temperature: float, dtype: torch.dtype
) -> torch.Tensor:
    """The formula exactly as on paper."""
    similarity = (features @ features.T).to(dtype)
    exponentials = torch.exp(similarity / temperature)
    probability = exponentials / exponentials.sum(1, keepdim=True)
    same = labels[:, None] == labels[None, :]
    return -(torch.log(probability) * same).sum(1).div(same.sum(1)).mean()


def repaired_loss(features: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """This package's version: the same formula, through a logsumexp in fp32."""
    return paper.within_image_loss(
        features[None], features[None], labels[None], labels[None], temperature=temperature
    )


near = torch.randint(0, 4, (64,), generator=generator)
clustered = F.one_hot(near, 32) + 0.1 * torch.randn(64, 32, generator=generator)
clustered = F.normalize(clustered, dim=1)
print(f"fp16:     {naive_loss(clustered, near, TEMPERATURE, torch.float16):.4f}")
print(f"fp32:     {naive_loss(clustered, near, TEMPERATURE, torch.float32):.4f}")
print(f"repaired: {repaired_loss(clustered, near, TEMPERATURE):.4f}")

# %% [markdown]
# So is fp32 the repair? No, it only moves the cliff. Let's try a range of temperatures:

# %%
temperatures = np.geomspace(0.004, 1, 40)
lines = {
    "as on paper, fp16": lambda t: naive_loss(clustered, near, t, torch.float16),
    "as on paper, fp32": lambda t: naive_loss(clustered, near, t, torch.float32),
    "logsumexp in fp32": lambda t: repaired_loss(clustered, near, t),
}
values = {name: np.array([float(loss(t)) for t in temperatures]) for name, loss in lines.items()}
dead = {  # the largest temperature at which each one fails
    name: max(temperatures[~np.isfinite(found)], default=None) for name, found in values.items()
}
for name, limit in dead.items():
    print(
        f"{name}: " + ("finite everywhere" if limit is None else f"not finite for τ ≤ {limit:.3g}")
    )

# %% tags=["folded"]
# @title Draw it
with plots.styled():
    figure = plots.new_figure(6.4, 3.0)
    axes = figure.subplots()
    for (name, found), colour, width in zip(
        values.items(), ("#D55E00", "#E69F00", "#0072B2"), (5, 3, 1.2), strict=True
    ):
        alive = np.isfinite(found)
        axes.plot(temperatures[alive], found[alive], color=colour, linewidth=width, label=name)
    axes.axvline(TEMPERATURE, color="#888888", linestyle=":")
    axes.set(xscale="log", xlabel="temperature τ", ylabel="loss")
    plots.legend_below(figure, [axes])
Picture(
    figure,
    "The loss against the temperature, computed in three ways. "
    + " ".join(
        f"{name}: {'finite everywhere' if limit is None else f'not finite for τ up to {limit:.3g}'}."
        for name, limit in dead.items()
    ),
)

# %% [markdown]
# **How to read it.** The three lines coincide as far as they go; the dotted line marks the
# temperature in use. Each of the first two ends somewhere. To the left of that point the loss is
# not a number, and after one step neither is any weight. What kills them first? Let's look at the
# largest temperature at which each one fails.

# %%
for name, dtype in (("fp16", torch.float16), ("fp32", torch.float32)):
    limit = dead[f"as on paper, {name}"]
    exponentials = torch.exp((clustered @ clustered.T).to(dtype) / limit)
    total = exponentials.sum(1, keepdim=True)
    print(f"{name}, τ = {limit:.3g}; the largest number is {torch.finfo(dtype).max:.3g}")
    print(f"  largest exponential {exponentials.max():.3g}, largest sum of a row {total.max():.3g}")
    print(f"  smallest probability {(exponentials / total).min():.3g}")

# %% [markdown]
# **How to read it.** An `inf` is an overflow. In fp16, a single exponential is already too large
# here; with more keys, the *sum* of a row can overflow before any of its terms does. A probability
# of 0 is the opposite, an underflow: its logarithm is -inf, and multiplying that by the 0 that
# drops a negative from the sum is not a number. Either one is enough.
#
# **The repair.** $\log\sum_k e^{x_k} = m + \log\sum_k e^{x_k - m}$ with $m = \max_k x_k$: no
# exponent is above 0, and no logarithm is taken of a 0. That is `torch.logsumexp`. Before it, the
# scores are converted to fp32, whatever precision the network computes in.
#
# **The quieter hazard.** Under autocast the exponential is safe, but the matrix product before it
# is not: it rounds the *similarities* to half precision, and only then are they divided by τ. Once
# a class has gathered, its similarities differ only in the third digit, which is the digit that
# bf16 drops. Nothing becomes infinite, and no warning appears. To see the damage, we take anchors
# and keys of four classes, from loose to tight, round their similarities as autocast does, and
# compare the loss and its gradient with fp32.


# %%
def anchors_and_keys(spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """64 unit-length anchors and keys of four classes that scatter by `spread` around their class."""
    centre = F.one_hot(near, 32).float()
    first, second = (centre + spread * torch.randn(64, 32, generator=generator) for _ in range(2))
    return F.normalize(first, dim=1), F.normalize(second, dim=1)


def rounding_errors(spread: float, temperature: float, dtype: torch.dtype) -> tuple[float, float]:
    """Relative error of the loss and of its gradient when similarities are rounded to `dtype`."""
    anchors, keys = anchors_and_keys(spread)
    same = near[:, None] == near[None, :]
    found = []
    for rounded in (False, True):
        features = anchors.clone().requires_grad_()
        similarity = features @ keys.T
        if rounded:  # only the value: the gradient passes as if nothing had been rounded
            similarity = similarity + (similarity.to(dtype).float() - similarity).detach()
        logs = (similarity / temperature).log_softmax(1)
        loss = -(logs * same).sum(1).div(same.sum(1)).mean()
        (gradient,) = torch.autograd.grad(loss, features)
        found.append((loss.detach(), gradient))
    (loss, wanted), (other, gradient) = found
    return float((other - loss).abs() / loss), float((gradient - wanted).norm() / wanted.norm())


print("similarities in   spread of a class      τ   error of the loss   error of the gradient")
for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
    for spread in (0.3, 0.1, 0.02):
        for temperature in (0.5, 0.07):
            loss_error, gradient_error = rounding_errors(spread, temperature, dtype)
            print(
                f"{name:15} {spread:19g} {temperature:6g} {100 * loss_error:17.2f} % "
                f"{100 * gradient_error:21.1f} %"
            )

# %% [markdown]
# **How to read it.** The loss looks right in every line, so no loss curve would show the fault. The
# error of the gradient grows as τ gets smaller and the class gets tighter: late in training, at a
# small τ, much of what bf16 sends back is rounding noise. The repair is a rule in `segnb`: the
# *inputs* of the product may be in half precision, but its result, the scores, stays in fp32.
#
# Try temperatures of your own:


# %%
def at_temperature(temperature: float) -> None:
    """The three losses at one temperature."""
    for name, loss_at in lines.items():
        print(f"{name:20} {float(loss_at(temperature)):.4f}")


slider = widgets.FloatLogSlider(
    value=TEMPERATURE, min=-2.4, max=0, step=0.05, description="τ", continuous_update=False
)
explorer = widgets.interact(at_temperature, temperature=slider)

# %% [markdown]
# The same without widgets: set τ and run the cell.

# %%
tau = 0.02
at_temperature(tau)

# %% [markdown]
# ## 4. An mIoU that is a different number
#
# **The failure.** IoU is computed for every image, averaged, and called mIoU. To see what that
# does, we score two made-up methods on the true masks. **A** gets sky, sea and sand exactly right
# and calls every toy "sand". **B** finds every toy and mislabels part of the large classes.

# %%
truths = [torch.from_numpy(scenes.mask(i).copy()).long() for i in range(32)]


def method_a(truth: torch.Tensor) -> torch.Tensor:
    """Right about the large classes, blind to toys."""
    return torch.where(truth >= 3, 2, truth)


def method_b(truth: torch.Tensor) -> torch.Tensor:
    """Finds every toy; mistakes part of the large classes for another one."""
    wrong = torch.rand(truth.shape, generator=generator) < 0.35
    return torch.where((truth < 3) & wrong, (truth + 1) % 3, truth)


def iou_of(prediction: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """IoU of each class in one image; NaN if it occurs in neither."""
    counted = truth != IGNORE
    rows = []
    for c in range(info.num_classes):
        p, t = (prediction == c)[counted], (truth == c)[counted]
        union = int((p | t).sum())
        rows.append(int((p & t).sum()) / union if union else math.nan)
    return 100 * np.array(rows)


guesses = {name: [method(t) for t in truths] for name, method in (("A", method_a), ("B", method_b))}
wrong_ways: dict[str, Callable[[np.ndarray], float]] = {
    "mean over images, absent classes left out": lambda m: np.nanmean(np.nanmean(m, axis=1)),
    "mean over images, absent classes as 100": lambda m: np.nan_to_num(m, nan=100.0).mean(),
    "mean over images, absent classes as 0": lambda m: np.nan_to_num(m, nan=0.0).mean(),
}
tables = {
    name: np.array([iou_of(p, t) for p, t in zip(found, truths, strict=True)])
    for name, found in guesses.items()
}
print(f"{'':44} {'A':>6} {'B':>6}")
for words, measure in wrong_ways.items():
    print(f"{words:44} {measure(tables['A']):6.1f} {measure(tables['B']):6.1f}")

# %% [markdown]
# **How to read it.** Three ways to average over images give three different numbers for the same
# predictions, and none of them is the mIoU of the literature. The second way is kind to a method
# that never predicts anything rare. Averaging over batches has the same problem.
#
# **The repair.** Add up one confusion matrix over the whole split, and divide only then:

# %%
for name, found in guesses.items():
    score = ConfusionScore(info.num_classes)
    for prediction, truth in zip(found, truths, strict=True):
        score.update(prediction, truth)
    result = score.compute()
    print(f"{name}: mIoU {result.miou:.1f}   (pixels right: {result.pixel_accuracy:.1f} %)")

# %% [markdown]
# **How to read it.** Compare with the table above: not only do the values differ, so does the
# distance between A and B. And the share of right pixels hides how blind A is. If you report one
# number, say how you computed it.

# %% [markdown]
# ## 5. A pixel without positives
#
# **The failure.** The loss of an anchor is a mean over its positives. In a batch loss no pixel is
# its own positive, so a pixel that is the only one of its class has none: 0 / 0.

# %%
batch = F.normalize(torch.randn(6, 8, generator=generator), dim=1).requires_grad_()
classes = torch.tensor([0, 0, 0, 1, 1, 7])  # class 7 occurs once


def naive_supcon(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A mean over positives, without asking whether there are any."""
    others = ~torch.eye(len(labels), dtype=torch.bool)
    logits = (features @ features.T / TEMPERATURE).masked_fill(~others, -1e9)
    same = (labels[:, None] == labels[None, :]) & others
    return -(logits.log_softmax(1) * same).sum(1).div(same.sum(1)).mean()


bad = naive_supcon(batch, classes)
bad.backward()
print(f"loss {bad.item()}")
print(
    f"pixels whose gradient is not a number: {int(batch.grad.isnan().any(1).sum())} of {len(batch)}"
)

# %% [markdown]
# **How to read it.** *One* lonely pixel, and the loss of the whole batch is not a number. One step
# later neither is any weight, and training can go on for hours and produce nothing. It happens
# sooner or later, because crops cut rare classes down to a single pixel.
#
# Cross-entropy has the same hole: a crop that is void everywhere.

# %%
empty = torch.full((1, 4, 4), IGNORE)
blank = torch.randn(1, 3, 4, 4, generator=generator)
print(f"torch, mean over no pixels: {F.cross_entropy(blank, empty, ignore_index=IGNORE).item()}")

# %% [markdown]
# **The repair.** An anchor without a positive has no loss and is left out of the mean, and a mean
# over nothing is 0, with a gradient of 0.

# %%
batch.grad = None
good = supcon_loss(batch, classes, temperature=TEMPERATURE)
good.backward()
print(f"loss {good.item():.4f}, all gradients finite: {bool(batch.grad.isfinite().all())}")
alone = supcon_loss(batch, torch.arange(6), temperature=TEMPERATURE)
print(
    f"no anchor has a positive: {alone.item():.4f}; void everywhere: {cross_entropy(blank, empty):.4f}"
)

# %% [markdown]
# **How to catch it.** Test the loss with a class of one pixel, with a single class, and with
# nothing but void. And make training stop, with a message, at the first loss that is not a number;
# this project does.

# %% [markdown]
# ## 6. Tuning on the test split
#
# **The failure.** Somebody tries thirty settings, looks at the *test* score of each, and reports
# the best. To see what that is worth, we make thirty "settings" that are **one and the same
# method**: a linear classifier on the features of an untrained network, whose class scores get a
# small random push, a new one for every image. So each setting makes its own mistakes on its own
# images, as networks trained from different seeds do, and none is better than another. We store one
# confusion matrix per setting and image; from these, the mIoU on any split follows with no further
# work.

# %%
tiny = preset("shapes", "smoke").replace(encoder_depth=3, seed=SEED)
network = initial_network(tiny).eval()


def features_of(dataset: ShapesDataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [N, cells, D] of all images, with a constant added, and their labels [N, cells]."""
    samples = [dataset[i] for i in range(len(dataset))]
    images = torch.stack([torch.from_numpy(s.image.copy()).permute(2, 0, 1) for s in samples])
    masks = torch.stack([torch.from_numpy(s.mask.copy()).long() for s in samples])
    with torch.inference_mode():
        maps = network.features(normalise(to_unit(images)))
    labels = nearest_labels(masks, (maps.shape[2], maps.shape[3])).flatten(1)
    return F.pad(maps.flatten(2).transpose(1, 2), (0, 1), value=1.0), labels


def fit(values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A linear classifier [D, classes], by ridge regression."""
    known = labels != IGNORE
    values, wanted = values[known], F.one_hot(labels[known], info.num_classes).float()
    ridge = values.T @ values + torch.eye(values.shape[1])
    return torch.linalg.solve(ridge, values.T @ wanted)


values, labels = features_of(ShapesDataset("train", size=tiny.size, count=32))
classifier = fit(values.flatten(0, 1), labels.flatten())

images = 48 if TINY else 192
values, labels = features_of(ShapesDataset("test", size=tiny.size, count=images))
counts = torch.zeros(CANDIDATES, images, info.num_classes, info.num_classes, dtype=torch.long)
for candidate in range(CANDIDATES):
    push = PUSH * torch.randn(images, 1, info.num_classes, generator=generator)
    predicted = (values @ classifier + push).argmax(2)
    for image in range(images):
        score = ConfusionScore(info.num_classes)
        score.update(predicted[image], labels[image])
        counts[candidate, image] = score.confusion()

# %% [markdown]
# Now we play this game many times. Half of the images stand for the outside world. From the other
# half we draw eight images as *val* and eight as *test* and choose the best setting by one of the
# two. Then we note how far it is above the average setting: on *test*, which is what would be
# reported, and outside, which is what it is really worth.

# %%
GAMES = 20 if TINY else 300


def scores_on(chosen: torch.Tensor) -> np.ndarray:
    """How far each candidate's mIoU on these images lies above their mean."""
    found = np.array([score_confusion(matrix).miou for matrix in counts[:, chosen].sum(1)])
    return found - found.mean()


outside = scores_on(torch.arange(images // 2, images))
gains: dict[str, list[tuple[float, float]]] = {"chosen on test": [], "chosen on val": []}
for _ in range(GAMES):
    drawn = torch.randperm(images // 2, generator=generator)
    on_val, on_test = scores_on(drawn[:8]), scores_on(drawn[8:16])
    for name, judged in (("chosen on test", on_test), ("chosen on val", on_val)):
        pick = int(judged.argmax())
        gains[name].append((float(on_test[pick]), float(outside[pick])))

means = {name: np.mean(pairs, axis=0) for name, pairs in gains.items()}
for name, (reported, worth) in means.items():
    reported, worth = round(reported, 1) + 0.0, round(worth, 1) + 0.0  # no "-0.0"
    print(f"{name}: {reported:+.1f} points reported on test, {worth:+.1f} outside")

# %% tags=["folded"]
# @title Draw it
with plots.styled():
    figure = plots.new_figure(6.8, 2.9)
    for axes, (name, pairs) in zip(
        figure.subplots(1, 2, sharex=True, sharey=True), gains.items(), strict=True
    ):
        reported, worth = np.array(pairs).T
        edges = np.linspace(-4, 6, 41)
        axes.hist(reported, edges, color="#D55E00", alpha=0.75, label="reported on test")
        axes.hist(worth, edges, color="#0072B2", alpha=0.55, label="worth outside")
        axes.axvline(0, color="#888888", linestyle=":")
        axes.set(title=name, xlabel="points of mIoU above the average")
        axes.set_yticks([])
    plots.legend_below(figure, [axes])
Picture(
    figure,
    f"Gains of the best of {CANDIDATES} equal candidates over {GAMES} games. "
    + " ".join(
        f"{name}: {reported:+.1f} points on average reported on test, {worth:+.1f} outside."
        for name, (reported, worth) in ((n, np.round(pair, 1) + 0.0) for n, pair in means.items())
    ),
)

# %% [markdown]
# **How to read it.** Each game adds one value to each histogram. Left: the best setting on *test*
# is reported with a gain far above what it is worth outside, and the gain is nearly always
# positive. You could write a paper about it, and there is no method behind it. Right: chosen on
# *val*, the best setting is reported on *test* with about what it is worth, sometimes with less.
# *Test* had no say in the choice, so its errors go both ways. The remaining spread is why one test
# split of eight images, or one seed, proves little.
#
# **The repair.** Choose on *val*, report on *test*, once. If a data set has no public test labels
# (VOC, Cityscapes), everyone reports *val*; then hold out a part of *train* to choose on:
# `datasets.holdout`.

# %%
ids = datasets.load("shapes", "train", size=tiny.size).ids
train_ids, tuning_ids = datasets.holdout(ids, 64, seed=SEED)
print(
    f"{len(train_ids)} images to train on, {len(tuning_ids)} to choose on, none in both: ", end=""
)
print(not set(train_ids) & set(tuning_ids))

# %% [markdown]
# ## Exercise 1: repair the mask
#
# Write `resize_mask(mask, size)`: the mask at another height and width, by nearest neighbour.


# %%
# EXERCISE resize_mask
def resize_mask(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A mask [H, W] (uint8) at size (height, width), without new labels."""
    resized = F.interpolate(mask[None, None].float(), size=size, mode="bilinear")
    return resized[0, 0].to(mask.dtype)


judge(check_resize_mask, resize_mask)

# %% [markdown]
# A solution is folded away below. Open it when your own passes, or when you are stuck.


# %% tags=["solution"]
# SOLUTION resize_mask
def resize_mask(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A mask [H, W] (uint8) at size (height, width), without new labels."""
    resized = F.interpolate(mask[None, None].float(), size=size, mode="nearest-exact")
    return resized[0, 0].to(mask.dtype)


judge(check_resize_mask, resize_mask)

# %% [markdown]
# ## Exercise 2: repair the loss
#
# `stable_loss(similarity, same, temperature)` gets similarities in fp16 and, for each anchor (row),
# which keys (columns) are its positives. It has two of the faults shown above. Repair both: the
# loss must be finite at any temperature, leave anchors without a positive out of the mean, and be 0
# if no anchor has one.


# %%
# EXERCISE stable_loss
def stable_loss(similarity: torch.Tensor, same: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean over anchors of -mean over positives of log(exp(s_pq) / sum_k exp(s_pk))."""
    exponentials = torch.exp(similarity / temperature)
    logs = torch.log(exponentials / exponentials.sum(1, keepdim=True))
    return -((logs * same).sum(1) / same.sum(1)).mean()


judge(check_stable_loss, stable_loss)

# %% [markdown]
# One way to do it, folded away:


# %% tags=["solution"]
# SOLUTION stable_loss
def stable_loss(similarity: torch.Tensor, same: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean over anchors of -mean over positives of log(exp(s_pq) / sum_k exp(s_pk))."""
    logs = (similarity.float() / temperature).log_softmax(1)
    positives = same.sum(1)
    losses = -(logs * same).sum(1) / positives.clamp(min=1)  # 0 where there is no positive
    return losses.sum() / (positives > 0).sum().clamp(min=1)


judge(check_stable_loss, stable_loss)

# %% [markdown]
# ## Exercise 3: choose, then report
#
# Candidates have scores on *val* and on *test*. Write `choose_and_report(val, test)`: it returns
# the position of the chosen candidate, and the number that goes into the table.


# %%
# EXERCISE choose_and_report
def choose_and_report(val: Sequence[float], test: Sequence[float]) -> tuple[int, float]:
    """Position of the chosen candidate, and the score to report for it."""
    best = max(range(len(test)), key=lambda i: test[i])
    return best, test[best]


judge(check_choose_and_report, choose_and_report)

# %% [markdown]
# One way to do it, folded away:


# %% tags=["solution"]
# SOLUTION choose_and_report
def choose_and_report(val: Sequence[float], test: Sequence[float]) -> tuple[int, float]:
    """Position of the chosen candidate, and the score to report for it."""
    best = max(range(len(val)), key=lambda i: val[i])
    return best, test[best]


judge(check_choose_and_report, choose_and_report)

# %% [markdown]
# ## Summary
#
# | failure | how it shows | what prevents it |
# | --- | --- | --- |
# | blended masks | seams of false classes, no error | nearest neighbour; no new labels afterwards |
# | leaked 255 | a crash, or silently a false class | one constant; void changes nothing |
# | small τ, fp16 | a loss that is not a number | logsumexp in fp32 |
# | mean over images | a plausible but wrong mIoU | one confusion matrix over the split |
# | no positives | one pixel ruins all weights | leave such anchors out; a mean over nothing is 0 |
# | tuning on test | a gain that isn't there | choose on val, report test once, several seeds |
#
# Each repair has a test in this repository's `tests/`, so that it stays repaired.
#
# **Where to go next.** With what you know now, read the results in the README again, and ask them
# the questions you would ask of any other paper.
