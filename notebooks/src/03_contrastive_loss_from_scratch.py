# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 03 · The contrastive loss, from scratch
#
# Cross-entropy asks every pixel: *which class are you?* The contrastive loss asks for less, and
# with few labels that may be more useful: *are you closer to the pixels of your own class than to
# the others?* It needs no classifier. It pulls pixels of the same class together, pushes the rest
# apart, and leaves naming the clusters for later.
#
# In this notebook you will
#
# 1. choose one pixel of an image, the **anchor**, and see its positives, its negatives and how
#    similar each of them is to it;
# 2. turn that picture into a formula, by hand, on a handful of pixels, and check it against
#    `segnb.losses`;
# 3. meet two forms of the loss that are not the same: the one in the **paper** and the one its
#    authors **released**;
# 4. find the value that the loss can't fall below, and why it isn't zero;
# 5. run out of memory on paper, fix it, and time the fixes side by side;
# 6. see what a small temperature does, to the learning and to the arithmetic.
#
# Before this: [02, cross-entropy with few labels](02_cross_entropy_with_few_labels.ipynb).

# %% [markdown]
# ## The knobs
#
# Every setting you may want to change is in this cell. Change one and run the notebook again.

# %%
from segnb.notebook import tier

TIER = tier()  # "quick", or "gpu" where there is one ("smoke" is for tests and learns nothing)
DATASET = "shapes"  # or "camvid" or "voc"; notebook 09 shows how to get them
IMAGE = 3  # which validation image
ROW, COLUMN = 0.8, 0.62  # the anchor's position: 0 is top or left, 1 bottom or right
TEMPERATURE = 0.07  # tau
STRENGTH = 1.0  # of the colour distortion
DRAW = 16  # seed of the distorted view shown below
STEPS = {"smoke": 4, "quick": 250}.get(TIER, 1000)  # of stage 1, so that there is something to see
TIMED_PIXELS = {"smoke": (256, 512), "quick": (512, 1024, 2048, 4096)}.get(
    TIER, (1024, 2048, 4096, 8192)
)
CHANNELS = 256  # of an embedding, for the timings

# %% [markdown]
# We need `torch`, and `segnb`, whose losses this notebook explains.

# %% tags=["folded"]
# @title Imports
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Markdown, display

from segnb import checks
from segnb.checks import judge
from segnb.device import best_device, describe, machine_memory
from segnb.experiments import runs
from segnb.experiments.splits import load_splits
from segnb.losses import official, paper
from segnb.plots import views
from segnb.plots.lines import lines
from segnb.plots.similarity import anchor_and_keys, key_weights, pixels_on_a_circle
from segnb.recipe import Stage, preset
from segnb.training import Session, make_accelerator, pretrain
from segnb.views import colour_distortion, nearest_labels, normalise, to_unit
from segnb.widgets.live import live

# %% [markdown]
# ## 1 · Two views of one image
#
# The loss compares an image $I$ with a **distorted version of itself**, $\hat I$. Only the colours
# change. Every pixel stays where it is, so one label map serves both. A network that gives a pixel
# and its distorted twin the same embedding has learned to ignore the lighting.
#
# The recipe below is the preset of this tier, with a smaller network and smaller crops so that a
# CPU can train it while you read.

# %%
small = {"encoder_depth": 3, "decoder_channels": 64} if TIER in ("smoke", "quick") else {}
if TIER == "quick":
    small |= {"crop": (64, 64), "scale": (0.75, 2.0)}
recipe = preset(DATASET, TIER).replace(
    **small,
    form="paper",
    scope="within",
    temperature=TEMPERATURE,
    distortion=STRENGTH,
    pretrain=Stage(steps=STEPS, batch=8, lr=0.1, warmup=min(20, STEPS // 2)),
)
splits = load_splits(recipe)
_, val = splits.evaluated["val"]
info = val.info

image = to_unit(val.images[IMAGE : IMAGE + 1])
distorted = colour_distortion(image, STRENGTH, generator=torch.Generator().manual_seed(DRAW))
views(list(image), {f"distorted, strength {STRENGTH:g}": list(distorted)})

# %% [markdown]
# **How to read it.** Same toys, same positions, different colours. The labels of the left image are
# correct for the right one too, which is why the distortion never moves a pixel. This is one random
# draw of many: with another `DRAW` the image may turn grey, be blurred or hardly change.

# %% [markdown]
# ## 2 · From pixels to embeddings
#
# The network produces a **feature map** that is coarser than the image. A projection head turns
# each cell of that map into a vector of length 1: the embedding $f_p$ of "pixel" $p$. From here on,
# a pixel is a cell of that map. Because $|f_p| = |f_k| = 1$, the product $f_p \cdot f_k$ is the
# cosine of the angle between the two: 1 for the same direction, 0 for unrelated, -1 for opposite.
#
# Let's embed both views with a network that hasn't learned anything yet.

# %%
network = runs.initial_network(recipe)
torch.manual_seed(0)
network.attach_projection()


def embed(images: torch.Tensor) -> torch.Tensor:
    """Unit-normalised pixel embeddings [B, 256, h, w]."""
    network.eval()
    with torch.inference_mode():
        return network.to("cpu")(normalise(images)).float().clone()


first, second = embed(image), embed(distorted)
grid = tuple(first.shape[-2:])
labels = nearest_labels(val.masks[IMAGE : IMAGE + 1].long(), grid)
anchor = (round(ROW * (grid[0] - 1)), round(COLUMN * (grid[1] - 1)))

print("image     ", tuple(image.shape))
print(
    "embeddings", tuple(first.shape), "- length of one:", round(float(first[0, :, 0, 0].norm()), 4)
)
print("labels    ", tuple(labels.shape), "- nearest neighbour, never blended")
print(f"anchor     row {anchor[0]}, column {anchor[1]}, class {int(labels[0][anchor])}")

# %% [markdown]
# ## 3 · One anchor and its keys
#
# Take a single pixel $p$ of $I$, the anchor. Every pixel $k$ of $\hat I$ is a **key**. Keys of the
# anchor's class are its **positives** $P_p$; all others are its **negatives**. Pixels without a
# label (255) are left out. The similarity map shows $f_p \cdot f_k$ for every key.

# %%
before = torch.einsum("c,chw->hw", first[0, :, anchor[0], anchor[1]], second[0])
anchor_and_keys(
    image[0],
    distorted[0],
    labels[0],
    anchor,
    info,
    {"similarity, untrained": before},
    limits=(float(before.min()), 1.0),
)

# %% [markdown]
# **How to read it.** The square marks the anchor. In the middle, the keys tinted blue should be
# similar to it, and those tinted orange should not. On the right is what the untrained network
# thinks. Mind the scale: all cosines are close to 1, because a fresh network sends every pixel in
# nearly the same direction. Nothing separates the classes yet.
#
# Let's train it a little with the loss of this notebook. (What happens in there is the subject of
# [04](04_contrastive_pretraining.ipynb). Here we just want a map worth looking at.)

# %%
accelerator = make_accelerator(recipe.precision)
session = Session(accelerator=accelerator, progress_bar=True)
log = pretrain(network, splits.labelled_set, recipe, session=session)
trained_first, trained_second = embed(image), embed(distorted)
print(f"{STEPS} steps on {len(splits.labelled)} labelled images, {log[-1]['seconds']:.0f} seconds")

# %% [markdown]
# Now look at the same anchor again, before and after training. The function takes the anchor's
# position, so that the sliders below can use it too.

# %%


def show_anchor(row: float, column: float):
    """The anchor nearest to a position (0 to 1), its keys, and the maps before and after."""
    place = (round(row * (grid[0] - 1)), round(column * (grid[1] - 1)))
    maps = {
        title: torch.einsum("c,chw->hw", ours[0, :, place[0], place[1]], theirs[0])
        for title, ours, theirs in (
            ("untrained", first, second),
            (f"after {STEPS} steps", trained_first, trained_second),
        )
    }
    least = float(maps[f"after {STEPS} steps"].min())
    return anchor_and_keys(
        image[0], distorted[0], labels[0], place, info, maps, limits=(min(least, 0.99), 1.0)
    )


# %% [markdown]
# Move the anchor with the sliders. Try the middle of a toy, its edge, and the sky. Which classes
# has the network already pulled together, and which does it still confuse?

# %%
import ipywidgets

slider = {"min": 0.0, "max": 1.0, "step": 0.01, "continuous_update": False}
live(
    show_anchor,
    {
        "row": ipywidgets.FloatSlider(value=ROW, description="row", **slider),
        "column": ipywidgets.FloatSlider(value=COLUMN, description="column", **slider),
    },
)

# %% [markdown]
# Without widgets: change the two numbers and run the cell.

# %%
row, column = ROW, COLUMN
show_anchor(row, column)

# %% [markdown]
# **How to read it.** Both maps use the same scale, with yellow for the most similar keys. A good
# map is yellow exactly where the picture above it is blue, and dark everywhere else. The untrained
# map is yellow all over: to that network, all pixels look alike. In the trained map, check first
# whether the anchor's own toy stands out, and from what: the sky, the sand, other toys? Anything
# bright that is not blue above is a negative that the network still confuses with the anchor.
# (Horizontal bands, if you see any, encode height in the image. On a beach that clue is nearly
# free, but it can't separate a toy from the sand beside it.) What about an anchor in the sky?

# %%
show_anchor(0.1, 0.3)

# %% [markdown]
# **How to read it.** As above. The large areas come first: the sky now stands out clearly from
# everything else. Telling a towel from a kite takes many more steps than we took, as the previous
# map shows. One anchor proves little, so let's ask all of them, class by class.

# %%


def nearest_key_is_right(ours: torch.Tensor, theirs: torch.Tensor) -> dict[str, float]:
    """The share of each class's anchors whose most similar key has their class, in percent.

    An anchor's own twin, the same pixel in the distorted image, doesn't count.
    """
    names = labels.flatten()
    cosines = ours[0].flatten(1).T @ theirs[0].flatten(1)  # [N anchors, N keys]
    cosines = cosines.masked_fill(names == 255, -1.0).fill_diagonal_(-1.0)
    right = names[cosines.argmax(dim=1)] == names
    return {
        info.class_names[c]: 100 * float(right[names == c].float().mean())
        for c in range(info.num_classes)
        if (names == c).any()
    }


at_first = nearest_key_is_right(first, second)
at_last = nearest_key_is_right(trained_first, trained_second)
better = {name: at_last[name] - at_first[name] for name in at_last}
most, least = max(better, key=better.get), min(better, key=better.get)
Markdown(
    f"After {STEPS} steps, {np.mean([*at_last.values()]):.0f} % of the anchors (mean "
    f"over classes) have a key of their own class as the most similar one, their own twin aside; "
    f"before, {np.mean([*at_first.values()]):.0f} %. {most.capitalize()} changed most "
    f"({at_first[most]:.0f} to {at_last[most]:.0f} %) and {least} least "
    f"({at_first[least]:.0f} to {at_last[least]:.0f} %)."
)

# %% [markdown]
# **How to read it.** A class can also fall. An anchor's neighbours count as keys, and in a smooth
# area such as the sky they look alike even to an untrained network. So look at the toys.

# %% [markdown]
# ## 4 · The formula, by hand
#
# What single number says how good such a map is? Divide the cosines by a **temperature** $\tau$ and
# call the results scores,
#
# $$ s_{pk} = f_p \cdot f_k / \tau . $$
#
# A softmax over *all* keys turns an anchor's scores into shares that add up to 1. Each positive $q$
# should have a large share. So we take the negative logarithm of each positive's share, and average
# first over the anchor's positives, then over the anchors. This is the **within-image loss, paper
# form**:
#
# $$ L_p = -\frac{1}{|P_p|} \sum_{q \in P_p} \log
#    \frac{\exp(s_{pq})}{\sum_{k \in \hat I} \exp(s_{pk})}, \qquad
#    L = \frac{1}{N_I} \sum_{p \in I} L_p . $$
#
# To follow every number, take three anchors and five keys with only two channels each, so that they
# are points on a circle.

# %%


def direction(*degrees: float) -> torch.Tensor:
    """Unit vectors at these angles, [N, 2]."""
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=1)


few_anchors, anchor_labels = direction(80, 130, 250), torch.tensor([0, 0, 1])
few_keys, key_labels = direction(60, 115, 10, 200, 290), torch.tensor([0, 0, 1, 1, 1])
pixels_on_a_circle(few_anchors, few_keys, anchor_labels.tolist(), key_labels.tolist(), anchor=0)

# %% [markdown]
# **How to read it.** The arrow is anchor 0. Round blue keys are its positives, square orange ones
# its negatives. This anchor is in good shape: its positives are the two nearest keys.
#
# Now one step at a time, for this anchor, with $\tau = 0.5$:

# %%
tau = 0.5
scores = [float(few_anchors[0] @ key) / tau for key in few_keys]
raised = [math.exp(score) for score in scores]
shares = [value / sum(raised) for value in raised]
print("key  positive   s_pk   exp(s_pk)   share of the denominator")
for k in range(len(few_keys)):
    positive = bool(key_labels[k] == anchor_labels[0])
    print(f"{k:3}  {positive!s:8}  {scores[k]:6.2f}  {raised[k]:9.3f}   {shares[k]:.3f}")
positives = [k for k in range(len(few_keys)) if key_labels[k] == anchor_labels[0]]
by_hand = -sum(math.log(shares[q]) for q in positives) / len(positives)
print(f"\nloss of anchor 0: {by_hand:.6f}")

# %% [markdown]
# Does `segnb` agree? `reduction="none"` returns the loss of each anchor instead of the mean. The
# leading `[None]` adds the batch dimension: the library takes `[B, N, D]`.

# %%
per_anchor = paper.within_image_loss(
    few_anchors[None],
    few_keys[None],
    anchor_labels[None],
    key_labels[None],
    temperature=tau,
    reduction="none",
)
print("segnb, each anchor:", [round(value, 6) for value in per_anchor[0].tolist()])
assert math.isclose(by_hand, float(per_anchor[0, 0]), rel_tol=1e-12)

# %% [markdown]
# ### Exercise 1 · all anchors at once
#
# Write the loss for a whole image, without loops: compute the scores as one matrix `[N, M]`, then
# take means along its rows. Real images add three complications:
#
# - pixels labelled 255 are neither anchors nor keys;
# - an anchor without any positive is left out of the mean;
# - with a small $\tau$ the exponentials are enormous: $e^{1/0.004}$ is too large for float32.
#
# Fill in the function. The next cell tells you if anything is off.


# %%
# EXERCISE within_image_loss
def within_image_loss(
    anchors: torch.Tensor,
    keys: torch.Tensor,
    anchor_labels: torch.Tensor,
    key_labels: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """The paper's within-image loss of one image: [N, D], [M, D], [N], [M] -> a scalar."""
    ...


# %% [markdown]
# Ask the checker.

# %%
judge(checks.check_within_image_loss, within_image_loss)

# %% [markdown]
# The next cell has a solution, folded away. Try your own first.


# %% tags=["solution"]
# SOLUTION within_image_loss
def within_image_loss(
    anchors: torch.Tensor,
    keys: torch.Tensor,
    anchor_labels: torch.Tensor,
    key_labels: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """The paper's within-image loss of one image: [N, D], [M, D], [N], [M] -> a scalar."""
    keys, key_labels = keys[key_labels != 255], key_labels[key_labels != 255]
    anchors, anchor_labels = anchors[anchor_labels != 255], anchor_labels[anchor_labels != 255]
    scores = anchors @ keys.T / temperature
    positive = anchor_labels[:, None] == key_labels[None, :]
    number = positive.sum(dim=1)
    shares = scores - torch.logsumexp(scores, dim=1, keepdim=True)  # logarithms of the shares
    losses = -(shares * positive).sum(dim=1) / number.clamp(min=1)
    return losses[number > 0].mean()


# %% [markdown]
# ### Exercise 2 · the gradient by hand
#
# A loss acts through its gradient. What does this one do to a single anchor? Write it as
#
# $$ L_p = \log \sum_k \exp(f_p \cdot f_k / \tau)
#    - \frac{1}{|P_p|} \sum_{q \in P_p} f_p \cdot f_q / \tau $$
#
# and differentiate with respect to $f_p$. The first term gives a weighted mean of the keys; you
# have already met the weights. The keys are constants, and $f_p$ is a free vector: leave out the
# normalisation that gave it length 1.
#
# **Predict first.** For anchor 0 above, which key will push hardest: the orange one nearest to it
# or the one opposite?


# %%
# EXERCISE gradient_by_hand
def gradient_by_hand(
    anchor: np.ndarray, keys: np.ndarray, positive: np.ndarray, temperature: float
) -> np.ndarray:
    """Gradient [D] of an anchor's loss by the anchor: [D], [M, D], booleans [M] -> [D]."""
    ...


# %% [markdown]
# Ask the checker.

# %%
judge(checks.check_gradient_by_hand, gradient_by_hand)

# %% [markdown]
# A solution, folded away.


# %% tags=["solution"]
# SOLUTION gradient_by_hand
def gradient_by_hand(
    anchor: np.ndarray, keys: np.ndarray, positive: np.ndarray, temperature: float
) -> np.ndarray:
    """Gradient [D] of an anchor's loss by the anchor: [D], [M, D], booleans [M] -> [D]."""
    scores = keys @ anchor / temperature
    share = np.exp(scores - scores.max())
    share /= share.sum()
    return (share @ keys - keys[positive].mean(axis=0)) / temperature


# %% [markdown]
# Does autograd agree? We let it differentiate the package's loss for anchor 0. Then we take your
# gradient apart: gradient descent moves the anchor *against* the gradient, so key $k$ contributes
# $(1/|P_p| - p_k) / \tau$ times its vector if it is a positive and $-p_k / \tau$ times its vector
# if it is a negative, where $p_k$ is its share. Plus is a pull, minus a push. The last column is the
# part at right angles to the anchor. Only this part turns the anchor; the normalisation undoes the
# rest.

# %%
free = few_anchors[:1].clone().requires_grad_()
loss = paper.within_image_loss(
    free[None], few_keys[None], anchor_labels[None, :1], key_labels[None], temperature=tau
)
(by_autograd,) = torch.autograd.grad(loss, free)
pulls = (key_labels == anchor_labels[0]).numpy()
found = gradient_by_hand(few_anchors[0].numpy(), few_keys.numpy(), pulls, tau)
print("by hand ", found)
print("autograd", by_autograd[0].numpy())
assert np.allclose(found, by_autograd[0].numpy(), rtol=0, atol=1e-12)

strength = (pulls / pulls.sum() - np.array(shares)) / tau
turning = strength * np.sqrt(1 - (few_keys @ few_anchors[0]).numpy() ** 2)
print("\nkey  positive  pull (+) or push (-)  part that turns")
for k in range(len(few_keys)):
    print(f"{k:3}  {pulls[k]!s:8}  {strength[k]:+20.3f}  {turning[k]:+15.3f}")
print(f"\nKey {strength.argmin()} pushes hardest.")

# %% [markdown]
# **How to read it.** The nearest negative pushes hardest, and the one opposite hardly at all: in the
# softmax, a key that is far away has almost no share. The loss finds the hard negatives by itself;
# nobody has to select them. Of the positives, the nearest pulls least, because its share is already
# close to $1/|P_p|$. The first column of numbers adds up to 0: together, the positives pull exactly
# as hard as the negatives push. So once the negatives have no share left, all that remains is to
# even out the positives.

# %% [markdown]
# ### The cross-image loss
#
# Within one image, clusters form. But nothing says that the sand of one photograph must end up near
# the sand of another. The **cross-image loss** adds keys from another distorted image $\hat J$, but
# only those of the anchor's class. Negatives still come from the anchor's own image:
#
# $$ D_p = \sum_{k \in \hat I} \exp(s_{pk}) + \sum_{k \in \hat J,\, y_k = y_p} \exp(s_{pk}),
#    \qquad
#    L_p = -\frac{1}{|P_p^{\hat I}| + |P_p^{\hat J}|}
#    \sum_{q \in P_p^{\hat I} \cup P_p^{\hat J}} \log \frac{\exp(s_{pq})}{D_p} . $$
#
# The third scope, **batch**, puts all pixels of the batch into one bag. The paper found that it
# works worse than the other two.

# %%
print("anchor 0, its own image only: ", round(float(per_anchor[0, 0]), 4))
other_keys, other_labels = direction(95, 300), torch.tensor([0, 1])
crossed = paper.cross_image_loss(
    few_anchors[None],
    few_keys[None],
    other_keys[None],
    anchor_labels[None],
    key_labels[None],
    other_labels[None],
    temperature=tau,
    reduction="none",
)
print("with one more positive from J:", round(float(crossed[0, 0]), 4))

# %% [markdown]
# The anchor's loss went *up*, although the new positive is very close to it. Keep that in mind for
# section 6: with more positives sharing the same total of 1, each gets less.

# %% [markdown]
# ## 5 · Paper form and official form
#
# The authors released TensorFlow code that is, in their own words, "slightly modified". Side by
# side, the two differ substantially, so this project has both and measures both:
#
# | | paper form | official form |
# | --- | --- | --- |
# | within: pairs | $I$ against $\hat I$ | $I$ against $I$, plus $\hat I$ against $\hat I$ |
# | the pixel itself | never a pair | one of its own positives |
# | denominator | all of $\hat I$, same-class $\hat J$ | $\exp(s_{pq})$ plus $p$'s negatives |
# | cross: anchors | $I$ | both images, $[I, \hat J]$ |
# | cross: positives | $\hat I$ and $\hat J$ | same class in both images |
# | cross: negatives | $\hat I$ | other classes in the anchor's own image |
# | pairing | another image | a permutation of the batch; an image may be paired with itself |
#
# The official form for one anchor, with $\mathrm{neg}_p = \sum_{k:\, y_k \ne y_p} \exp(s_{pk})$, is
#
# $$ L_p = \frac{1}{|P_p|} \sum_{q \in P_p}
#    \log\left(1 + \frac{\mathrm{neg}_p}{\exp(s_{pq})}\right). $$
#
# Here it is by hand for the keys on our circle, treated as one image compared with itself:

# %%
losses = []
for p in range(len(few_keys)):
    exps = [math.exp(float(few_keys[p] @ key) / tau) for key in few_keys]
    same = [bool(label == key_labels[p]) for label in key_labels]
    neg = sum(value for value, alike in zip(exps, same, strict=True) if not alike)
    terms = [math.log1p(neg / value) for value, alike in zip(exps, same, strict=True) if alike]
    losses.append(sum(terms) / len(terms))
by_hand_official = sum(losses) / len(losses)
library = official.within_image_loss(few_keys[None], key_labels[None], temperature=tau)
print(f"by hand {by_hand_official:.9f}")
print(f"segnb   {float(library):.9f}")
assert math.isclose(by_hand_official, float(library), rel_tol=1e-12)

# %% [markdown]
# Agreeing with ourselves proves little. So here is a stronger test. The authors' own code, run in
# TensorFlow in float64 on a small example, gives two known values. (A batch of two images of 16
# pixels, features equal to the labels, $\tau = 1$. For the cross-image loss, the second features
# are twice the labels.) Does `segnb` reproduce them?

# %%
ids = torch.tensor(sorted([-2, -1] * 2 + [1] * 4 + [2] * 4 + [3] * 4)).repeat(2, 1)
features = ids.double()[:, :, None]
known = torch.where(ids < 0, 255, ids)  # -2 and -1 mean "ignore"
ours = {
    "within": official.within_image_loss(features, known, temperature=1.0),
    "cross": official.cross_image_loss(features, 2 * features, known, known, temperature=1.0),
}
theirs = {"within": 2.450321686, "cross": 5.460273578}
for name, value in ours.items():
    print(f"{name:6}  segnb {float(value):.9f}   TensorFlow {theirs[name]:.9f}")
    assert math.isclose(float(value), theirs[name], abs_tol=1e-8)

# %% [markdown]
# ## 6 · The floor
#
# A loss of 0 would mean that each positive has the whole softmax to itself. In the paper form that
# is impossible as soon as an anchor has two positives, because they share one denominator. The best
# an anchor can do is to silence its negatives and give each of its $|P_p|$ positives the same
# share, $1 / |P_p|$. Hence
#
# $$ L \;\ge\; \frac{1}{N_I} \sum_p \log |P_p| , $$
#
# and a curve that flattens out at this value hasn't failed: it has arrived. (This follows from
# Jensen's inequality: the mean of the logarithms of the shares is at most the logarithm of their
# mean, and the shares add up to at most 1. At $\tau = 0.07$, silenced negatives add next to
# nothing.) The official form leaves the other positives out of the denominator, so its floor is
# near 0.
#
# ### Exercise 3 · compute the floor
#
# Use the labels alone. Watch out for 255 and for anchors without a positive, as before.


# %%
# EXERCISE loss_floor
def loss_floor(anchor_labels: torch.Tensor, key_labels: torch.Tensor) -> float:
    """The lowest value of the within-image loss, paper form: labels [N] and [M] -> a number."""
    ...


# %% [markdown]
# Ask the checker.

# %%
judge(checks.check_loss_floor, loss_floor)

# %% [markdown]
# A solution, folded away.


# %% tags=["solution"]
# SOLUTION loss_floor
def loss_floor(anchor_labels: torch.Tensor, key_labels: torch.Tensor) -> float:
    """The lowest value of the within-image loss, paper form: labels [N] and [M] -> a number."""
    positive = (anchor_labels[:, None] == key_labels[None, :]) & (anchor_labels != 255)[:, None]
    number = positive.sum(dim=1)
    return float(number[number > 0].double().log().mean())


# %% [markdown]
# Can the loss reach its floor? Yes, and we don't even need training: just give each class its own
# direction, at right angles to all others. Below we move from random embeddings ($t = 0$) to these
# ideal ones ($t = 1$), with the labels of our image, and plot both forms along the way. The upper
# dashed line is the function from exercise 3, which sees only the labels and none of these
# embeddings.

# %%
flat = labels.flatten(1)
ideal = F.one_hot(flat.clamp(max=info.num_classes), info.num_classes + 1).double()
scattered = torch.randn(ideal.shape, generator=torch.Generator().manual_seed(0), dtype=ideal.dtype)
floor = loss_floor(flat[0], flat[0])  # from the labels alone, without any embedding
way = [step / 20 for step in range(21)]
paper_values, official_values = [], []
for t in way:
    mixed = F.normalize((1 - t) * F.normalize(scattered, dim=2) + t * ideal, dim=2)
    options = {"temperature": TEMPERATURE}
    paper_values.append(float(paper.within_image_loss(mixed, mixed, flat, flat, **options)))
    official_values.append(float(official.within_image_loss(mixed, flat, **options)))
display(
    lines(
        {"paper form": (way, paper_values), "official form": (way, official_values)},
        xlabel="t: from random (0) to one direction per class (1)",
        ylabel="within-image loss",
        levels={"floor of the paper form": floor, "floor of the official form": 0.0},
    )
)
Markdown(
    f"With every class in one place, the paper form ends at {paper_values[-1]:.4f} "
    f"and its floor is {floor:.4f}; the official form ends at {official_values[-1]:.4f}."
)

# %% [markdown]
# **How to read it.** Both losses fall as the classes gather, each towards its own floor. The paper
# form ends exactly on the line that the labels predicted. Don't compare the heights: for the same
# embeddings, the two forms give quite different numbers. Compare each form with its own floor, and
# compare the two forms by the mIoU they lead to.

# %% [markdown]
# ## 7 · The matrix that does not fit
#
# The scores of all pairs form a matrix that grows with the *square* of the number of pixels, which
# means with the fourth power of the side of the feature map. Take a map of 65 x 65 cells, the
# resolution of DeepLab, a common segmentation network, on 513 x 513 pixels with output stride 8
# (one cell for every 8 x 8 pixels). Two such images have 8450 pixels together. Here is the
# arithmetic, in float32:

# %%
print(" map       pixels of a pair   one matrix")
for side in (33, 65, 97, 129, 257):
    pixels = 2 * side * side
    print(f"{side:4} x {side:<4} {pixels:12,}   {4 * pixels**2 / 2**20:12,.0f} MiB")

# %% [markdown]
# And one matrix is not enough. For the backward pass, autograd keeps whatever the chain rule will
# need: scores, masks, softmax. We can count those bytes exactly by listening in as autograd saves
# its tensors. We compare two versions: the plain form (`backend="plain"`, the formula as written,
# with every pair in memory) and the linear-memory version (`backend="tiled"`), which section 8
# explains.

# %%


def saved_bytes(pixels: int, backend: str) -> int:
    """Bytes that autograd keeps for the backward pass of the official cross-image loss."""
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        held.append(tensor)  # keep it alive, so that no address is reused
        return tensor

    held: list[torch.Tensor] = []
    vectors, names = timing_case(pixels)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss_of(vectors, names, backend)
    return sum(kept.values())


def timing_case(pixels: int, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Random unit vectors [2, N/2, D], with our image's labels resized to that many pixels."""
    height = round(math.sqrt(pixels / 2))
    width = pixels // 2 // height
    names = nearest_labels(val.masks[IMAGE : IMAGE + 1].long(), (height, width)).flatten(1)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(2, names.shape[1], CHANNELS, generator=generator)
    vectors = F.normalize(vectors, dim=2).to(device).requires_grad_()
    return vectors, names.to(device)


def loss_of(vectors: torch.Tensor, names: torch.Tensor, backend: str) -> torch.Tensor:
    """The official cross-image loss of one pair of images."""
    return official.cross_image_loss(
        vectors[:1], vectors[1:], names, names, temperature=TEMPERATURE, backend=backend
    )


# %% [markdown]
# Let's count for growing numbers of pixels and draw a line at this machine's memory. The counts are
# exact, so they are the same on every machine. The extrapolation follows the law $N^2$.

# %%
counts = {
    backend: [saved_bytes(pixels, backend) / 2**20 for pixels in TIMED_PIXELS]
    for backend in ("plain", "tiled")
}
places = [timing_case(pixels)[1].numel() * 2 for pixels in TIMED_PIXELS]
far = 2 * 257 * 257
last, at = counts["plain"][-1], places[-1]
estimated = last * (far / at) ** 2
display(
    lines(
        {
            "plain form": (places, counts["plain"]),
            "plain form, estimated": ([at, far], [last, estimated]),
            "tiled": (places, counts["tiled"]),
        },
        xlabel="pixels of a pair of images",
        ylabel="MiB kept for the backward pass",
        log="xy",
        levels={"memory of this machine": machine_memory() / 2**20},
    )
)
matrices = last * 2**20 / (4 * at**2)
print(f"plain form at {at} pixels: {last:,.0f} MiB, or {matrices:.1f} matrices of float32")
print(f"tiled at {at} pixels:      {counts['tiled'][-1]:,.1f} MiB")
print(f"plain form at {far} pixels (estimated): {estimated / 2**10:,.0f} GiB, for one pair")

# %% [markdown]
# **How to read it.** Both axes are logarithmic, so a quadratic law is a straight line of slope 2,
# and a linear one has slope 1. Every doubling of the pixels costs the plain form four times the
# memory. The point on the far right is not a measurement; it extends the law to the last size in
# the list above. Where that line crosses the dashed one, this machine runs out of memory. The usual
# answer is to sample a few hundred pixels and hope. A better answer is never to build the matrix.

# %% [markdown]
# ## 8 · The same loss in linear memory
#
# Three ideas make the loss cheap and keep it exact. The first two are simplest in the **paper
# form**. The official form, the one we counted above, needs one more idea, which comes last.
#
# **In the paper form, positives need no pairs.** The mean score of an anchor's positives is linear
# in the keys. So it is a product with the *sum* of the keys of its class, which we compute once per
# class:
#
# $$ \frac{1}{|P_p|} \sum_{q \in P_p} s_{pq}
#    = \frac{1}{\tau |P_p|}\, f_p \cdot \sum_{q \in P_p} f_q . $$
#
# **A denominator is a running sum.** What is left, $\log \sum_k \exp(s_{pk})$, does run over all
# pairs, but we can add it up tile by tile with two numbers per row: the largest score so far, and
# the sum of exponentials relative to it.
#
# **Gradients can be computed along the way.** Each tile contributes its part of the gradient and is
# then thrown away. What stays in memory is $N \times D$, not $N \times N$.
#
# **The official form** takes the logarithm of each positive pair separately,
# $\log(1 + \mathrm{neg}_p\, e^{-s_{pq}})$, so its positives do need pairs. It makes two passes over
# the tiles: one sums the negatives of every anchor, the next goes over the positive pairs. With
# pixels sorted by class, a tile is all negatives or all positives, so each pair is visited about
# once in each direction.
#
# Let's check the first idea:

# %%
vectors = trained_second[0].flatten(1).T.double()
mine = trained_first[0, :, anchor[0], anchor[1]].double()
alike = flat[0] == labels[0][anchor]
pair_by_pair = sum(float(mine @ vectors[q]) for q in alike.nonzero()[:, 0]) / int(alike.sum())
one_product = float(mine @ vectors[alike].sum(dim=0)) / int(alike.sum())
print(f"{int(alike.sum())} pairs, one by one: {pair_by_pair:.12f}")
print(f"one product with the sum: {one_product:.12f}")

# %% [markdown]
# ### Exercise 4 · a streaming logsumexp
#
# `tiles` yields the matrix of scores a few columns at a time, as tensors `[N, m]`. You may loop
# over it once and must not keep the tiles. Return $\log \sum_k \exp(s_{pk})$ for each row, `[N]`.
#
# There is one difficulty: when a tile brings a larger maximum, the sum so far is still relative to
# the old one.

# %%
# EXERCISE streaming_logsumexp
from collections.abc import Iterable


def streaming_logsumexp(tiles: Iterable[torch.Tensor]) -> torch.Tensor:
    """Logsumexp of each row of a matrix that arrives in tiles of columns: [N, m], ... -> [N]."""
    ...


# %% [markdown]
# Ask the checker. It also notices if you keep the tiles.

# %%
judge(checks.check_streaming_logsumexp, streaming_logsumexp)

# %% [markdown]
# A solution, folded away.

# %% tags=["solution"]
# SOLUTION streaming_logsumexp
from collections.abc import Iterable


def streaming_logsumexp(tiles: Iterable[torch.Tensor]) -> torch.Tensor:
    """Logsumexp of each row of a matrix that arrives in tiles of columns: [N, m], ... -> [N]."""
    largest = total = None
    for tile in tiles:
        here = tile.amax(dim=1)
        if largest is None:
            largest, total = here, torch.zeros_like(here)
        new = torch.maximum(largest, here)
        total = total * (largest - new).exp() + (tile - new[:, None]).exp().sum(dim=1)
        largest = new
    return largest + total.log()


# %% [markdown]
# The library's tiled version does two more things, which make it fast as well as small. It sorts
# pixels by class, so that a tile is all negatives, all positives or not needed at all. And where
# anchors and keys are the same set, it computes one half of the symmetric matrix instead of both.
# The loss and the gradient are still the same:

# %%
vectors, names = timing_case(TIMED_PIXELS[0])
found = {}
for backend in ("plain", "tiled"):
    value = loss_of(vectors, names, backend)
    (gradient,) = torch.autograd.grad(value, vectors)
    found[backend] = (float(value.detach()), gradient)
difference = (found["tiled"][1] - found["plain"][1]).norm() / found["plain"][1].norm()
print("loss, plain form:", found["plain"][0])
print("loss, tiled:     ", found["tiled"][0])
print(f"relative difference of the gradients: {float(difference):.1e}")
assert difference < 1e-5

# %% [markdown]
# ## 9 · Side by side
#
# Three back ends compute the same loss: `plain` (every pair in memory), `tiled` (linear memory, any
# device), and `triton` (the tiled idea as GPU kernels that never let a tile leave the chip).
# `backend="auto"` picks one for you. We time the forward and backward pass of the official
# cross-image loss, the best of a few runs, on whatever this machine has.

# %%


def seconds(pixels: int, backend: str, device: str, repeats: int = 3) -> float:
    """Best time of forward and backward together."""
    vectors, names = timing_case(pixels, device)
    best = math.inf
    for _ in range(repeats + 1):  # the first run is a warm-up
        start = time.perf_counter()
        torch.autograd.grad(loss_of(vectors, names, backend), vectors)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


contenders = [("plain", "cpu"), ("tiled", "cpu")]
if best_device().type == "cuda":
    contenders += [("plain", "cuda"), ("tiled", "cuda")]
    if torch.cuda.get_device_capability() >= (8, 0):
        contenders.append(("triton", "cuda"))
    else:
        print("This GPU is too old for the Triton kernels (they need 8.0), so they are left out.")
else:
    print("No CUDA GPU here, so the GPU back end is left out.")
timed = {
    f"{backend}, {device}": [1000 * seconds(pixels, backend, device) for pixels in TIMED_PIXELS]
    for backend, device in contenders
}
display(
    lines(
        {name: (places, values) for name, values in timed.items()},
        xlabel="pixels of a pair of images",
        ylabel="ms, forward and backward",
        log="xy",
    )
)
print(describe())
print(f"{torch.get_num_threads()} thread(s), {CHANNELS} channels, official cross-image loss\n")
print("pixels".ljust(16), *(f"{place:>9,}" for place in places))
for name, values in timed.items():
    print(name.ljust(16), *(f"{value:9.1f}" for value in values), "ms")
fastest = min(timed, key=lambda name: timed[name][-1])
Markdown(
    f"At {places[-1]:,} pixels, tiled on the CPU takes "
    f"{timed['tiled, cpu'][-1] / timed['plain, cpu'][-1]:.2f} times as long as the plain form, and "
    f"keeps {counts['tiled'][-1]:,.1f} MiB where that keeps {counts['plain'][-1]:,.0f}. "
    f"The fastest is {fastest}."
)

# %% [markdown]
# **How to read it.** Linear memory is not linear time. All lines approach slope 2 in the end,
# because every back end looks at every pair that matters. They differ in how much work a pair costs
# and in whether it has to travel through memory. With fewer pixels than shown here the plain form
# can be faster, and on a CPU `auto` uses it there. Timings on a busy machine jump around, so trust
# the shape, and run the cell again before you quote a number. `make bench` times the losses more
# carefully; its findings are in [results/loss_benchmark.md](../results/loss_benchmark.md).

# %% [markdown]
# ## 10 · A small temperature
#
# $\tau$ decides how far the loss looks. The derivative of an anchor's loss with respect to the
# score of a negative, $\partial L_p / \partial s_{pk}$, is that negative's share of the softmax.
# With a large $\tau$ all negatives push a little; with a small one, the few most similar do all the
# pushing. Here are those shares for our anchor, after training:

# %%
similarity = torch.einsum("c,chw->hw", trained_first[0, :, anchor[0], anchor[1]], trained_second[0])
negative = (labels[0] != labels[0][anchor]) & (labels[0] != 255)
pushing = {}
for tau in (0.5, TEMPERATURE, 0.02):
    weights = torch.softmax((similarity / tau).flatten(), 0).reshape(grid) * negative
    pushing[rf"$\tau$ = {tau:g}"] = weights / weights.sum()
display(
    key_weights(distorted[0], anchor, pushing, caption="share of the negatives' push on the anchor")
)


def half_of_the_push(weights: torch.Tensor) -> int:
    """How many keys, the strongest first, do half of the pushing."""
    return int((weights.flatten().sort(descending=True).values.cumsum(0) < 0.5).sum()) + 1


few, many = (half_of_the_push([*pushing.values()][i]) for i in (-1, 0))
Markdown(
    f"Of the {int(negative.sum())} negatives, {many} do half of the pushing at "
    f"$\\tau = 0.5$, and {few} at $\\tau = 0.02$."
)

# %% [markdown]
# **How to read it.** Bright cells are the negatives that push the anchor away, and each map has its
# own scale. The square is the anchor. The keys of its class are dark because positives do not push.
# The line under each map tells you how few keys do half of the work. A small $\tau$ means that only
# hard negatives count: it quickly separates what is confused, and a wrong label easily leads it
# astray.
#
# A small $\tau$ is also hard on the arithmetic. The largest possible score is $1/\tau$, and its
# exponential soon exceeds what a float can hold. Subtracting the maximum first, as every logsumexp
# does, costs nothing and solves the problem. The official code has no such shift.

# %%
print("   tau   exp(1/tau)    fp16      fp32     logsumexp in fp32")
for tau in (0.5, 0.1, 0.07, 0.02, 0.01, 0.001):
    top = torch.tensor([1.0, 0.5]) / tau
    half, single = top.half().exp().sum().log(), top.exp().sum().log()
    exponent = 1 / tau / math.log(10)
    print(
        f"{tau:6}   10^{exponent:6.1f}   {float(half):8.3f}  {float(single):8.3f}"
        f"   {float(torch.logsumexp(top, 0)):8.3f}"
    )

# %% [markdown]
# **How to read it.** `inf` is an overflow, and its gradient is not a number. A single such step
# ruins the network. In fp16 this already happens at 0.07, the default of the official code. Hence
# the rule in `segnb`: features may be bf16 or fp16, but scores and logsumexp are float32. If $\tau$
# is too small even for that, you get an error message, not a NaN:

# %%
try:
    paper.within_image_loss(first, second, labels, labels, temperature=1e-6)
except ValueError as error:
    print("ValueError:", error)

# %% [markdown]
# ## Summary
#
# - For one anchor, every pixel of the distorted image is a key. Positives share the anchor's class,
#   negatives don't. The loss is the mean negative logarithm of the positives' shares in a softmax
#   over all keys.
# - The **paper form** and the **official form** differ in their denominators, their pairs and their
#   floors. Their raw values can't be compared.
# - The paper form can't fall below the mean of $\log |P_p|$. Read every loss curve against that
#   floor.
# - Holding all pairs at once takes memory that grows with the square of the number of pixels. Class
#   sums and a streaming logsumexp give the same loss and the same gradient in linear memory.
# - $\tau$ sets how strongly the hardest negatives dominate. Scores belong in float32.
#
# ## Where to go next
#
# - [04, contrastive pretraining](04_contrastive_pretraining.ipynb): the loss at work, and the
#   embedding as it moves.
# - [07, label fraction and temperature](07_label_fraction_and_temperature.ipynb): what $\tau$ does
#   to the mIoU.
# - [10, what goes wrong](10_what_goes_wrong.ipynb): small $\tau$ in fp16, leaked 255 and other real
#   failures, for you to repair.
