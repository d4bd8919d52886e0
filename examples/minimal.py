"""Contrastive learning for segmentation with few labels: the whole method in one file.

Zhao et al., ICCV 2021 (arXiv 2012.06985). Stage 1 trains a network so that pixels of one class
lie close together in feature space; stage 2 puts a pixel classifier on top and fine-tunes all of
it with cross-entropy. Does that beat cross-entropy alone? Run it and see; no data needed:

    python examples/minimal.py
    python examples/minimal.py --labelled 32      # more labels

It reads from top to bottom and needs torch and numpy. To try an idea, copy it and change it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = ("background", "striped disc", "checked disc", "striped box", "checked box")
IGNORE = 255  # the label of pixels that take part in nothing
SIZE = 49  # a multiple of the network's strides, plus one: see Backbone
BATCH = 8
Scenes = tuple[Tensor, Tensor]  # images [B, 3, SIZE, SIZE] in 0..1, label maps [B, SIZE, SIZE]

# --- Scenes: shape and pattern together tell the class; colours are random and tell nothing.


def draw_scenes(count: int, seed: int) -> Scenes:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    images, masks = [], []
    for _ in range(count):
        left, right = rng.random((2, 3, 1, 1))
        image = left + (right - left) * x / SIZE
        mask = np.zeros((SIZE, SIZE), np.int64)
        for _ in range(rng.integers(2, 5)):
            label = rng.integers(len(CLASSES))  # 0: a plain object, which counts as background
            angle, radius, period = rng.uniform([0, 7, 4.5], [np.pi, 10, 6])
            v, u = y - rng.uniform(5, SIZE - 5), x - rng.uniform(5, SIZE - 5)
            u, v = np.cos(angle) * u + np.sin(angle) * v, np.cos(angle) * v - np.sin(angle) * u
            is_box = rng.random() < 0.5 if label == 0 else label > 2
            distance = np.maximum(abs(u), abs(v)) / 0.85 if is_box else np.hypot(u, v)
            stripes, across = np.sin(2 * np.pi / period * np.stack([u, v]))
            pattern = 1 if label == 0 else stripes if label % 2 else stripes * across
            one, two = rng.random((2, 3, 1, 1))
            image = np.where(distance < radius, np.where(pattern > 0, one, two), image)
            mask[distance < radius + 1] = IGNORE  # an outline belongs to no class, as in VOC
            mask[distance < radius - 1] = label
        images.append((image + rng.normal(0, 0.04, image.shape)).clip(0, 1))
        masks.append(mask)
    return torch.from_numpy(np.stack(images)).float(), torch.from_numpy(np.stack(masks))


def draw_batch(images: Tensor, masks: Tensor) -> Scenes:
    """Random scenes, turned and mirrored together with their label maps."""
    chosen, turns = torch.randint(len(images), (BATCH,)), int(torch.randint(4, ()))
    images, masks = images[chosen].rot90(turns, (2, 3)), masks[chosen].rot90(turns, (1, 2))
    return (images.flip(3), masks.flip(2)) if torch.rand(()) < 0.5 else (images, masks)


def distort(images: Tensor) -> Tensor:
    """Change the colours of each image at random; every pixel stays where it is."""
    mix = torch.eye(3) + 0.4 * torch.randn(len(images), 3, 3)
    shift = 0.5 + 0.2 * torch.randn(len(images), 3, 1, 1)
    return (torch.einsum("bij,bjhw->bihw", mix, images - 0.5) + shift).clamp(0, 1)


# --- Network: pixel features below, and on top a head that the two stages exchange.


def conv(channels_in: int, channels: int, stride: int = 1) -> nn.Module:
    layer = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def resize(maps: Tensor, size: int) -> Tensor:
    return F.interpolate(maps, (size, size), mode="bilinear", align_corners=True)


class Backbone(nn.Module):
    """Images ``[B, 3, 49, 49]`` to pixel features ``[B, 48, 13, 13]``, U-Net fashion.

    Feature (i, j) looks at the surroundings of pixel (4i, 4j). A side of a multiple plus one lets
    the corners of image and features meet, which is why DeepLab takes crops of 513.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(conv(3, 24, 2), conv(24, 32, 2), conv(32, 48))
        self.coarse = nn.Sequential(conv(48, 64, 2), conv(64, 64), conv(64, 48))
        self.join = conv(96, 48)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.fine(4 * (images - 0.5))
        features: Tensor = self.join(torch.cat([fine, resize(self.coarse(fine), 13)], 1))
        return features


# --- Loss.


Pixels = tuple[Tensor, Tensor]  # features [B, N, D] of unit length, labels [B, N]


def contrastive_loss(
    image: Pixels, distorted: Pixels, other: Pixels | None = None, *, temperature: float
) -> Tensor:
    """The paper's within-image loss; with ``other`` its cross-image loss.

    Anchors p are pixels of an image I, keys k pixels of its distorted version Î. With scores
    s_pk = f_p . f_k / temperature and p's positives P_p, the keys of its class,

        loss_p = -mean over q in P_p of log( exp(s_pq) / D_p ),   D_p = sum over k of exp(s_pk)

    The cross-image loss adds the pixels of p's class in another distorted image Ĵ to P_p and to
    D_p. Pixels of other classes in Ĵ are left out: negatives come from Î alone.

    Ignored pixels are neither anchor nor key. The mean goes over the anchors of an image that
    have a positive, then over images.
    """
    (anchors, labels), (keys, key_labels) = image, distorted
    scores = anchors @ keys.mT / temperature  # [B, anchors, keys]
    is_anchor = (labels != IGNORE)[:, :, None]
    positive = is_anchor & (labels[:, :, None] == key_labels[:, None, :])
    in_sum = (key_labels != IGNORE)[:, None, :].expand_as(positive)
    if other is not None:
        others, other_labels = other
        scores = torch.cat([scores, anchors @ others.mT / temperature], 2)
        more = is_anchor & (labels[:, :, None] == other_labels[:, None, :])
        positive, in_sum = torch.cat([positive, more], 2), torch.cat([in_sum, more], 2)
    # exp(1 / 0.07) is over a million, so logsumexp takes out the largest score first. Minus a
    # billion stands for "not in the sum": a row of minus infinities would have NaN gradients.
    log_sum = scores.masked_fill(~in_sum, -1e9).logsumexp(2, keepdim=True)  # log D_p
    count = positive.sum(2)
    loss = ((log_sum - scores) * positive).sum(2) / count.clamp(min=1)  # [B, anchors]
    return (loss.sum(1) / (count > 0).sum(1).clamp(min=1)).mean()


# --- The two stages, and the loop they share.


def fit(network: nn.Module, batch_loss: Callable[[], Tensor], steps: int, lr: float) -> None:
    optimiser = torch.optim.SGD(network.parameters(), lr, momentum=0.9, weight_decay=4e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    network.train()
    for _ in range(steps):
        optimiser.zero_grad()
        batch_loss().backward()
        optimiser.step()
        schedule.step()


def pretrain(backbone: nn.Module, scenes: Scenes, steps: int, temperature: float) -> None:
    """Stage 1: the contrastive loss between images and their distorted versions."""
    # The paper's projection head is 256 wide. It is thrown away at the end of the stage.
    layers = (nn.Conv2d(48, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.ReLU())
    network = nn.Sequential(backbone, *layers, nn.Conv2d(64, 64, 1))

    def batch_loss() -> Tensor:
        batch, label_maps = draw_batch(*scenes)
        features = F.normalize(network(torch.cat([batch, distort(batch)])), dim=1)
        first, second = features.flatten(2).mT.chunk(2)  # [B, 169, 64] each
        labels = label_maps[:, ::4, ::4].flatten(1)  # of the pixels that the features stand for
        other = second.roll(1, 0), labels.roll(1, 0)  # J is the neighbour of I in the batch
        return contrastive_loss((first, labels), (second, labels), other, temperature=temperature)

    fit(network, batch_loss, steps, lr=0.1)


def finetune(backbone: nn.Module, scenes: Scenes, steps: int, distorted: bool) -> nn.Module:
    """Stage 2, and alone the baselines: cross-entropy on the whole network, which it returns."""
    network = nn.Sequential(backbone, nn.Conv2d(48, len(CLASSES), 1))

    def batch_loss() -> Tensor:
        batch, label_maps = draw_batch(*scenes)
        scores = network(distort(batch) if distorted else batch)
        return F.cross_entropy(resize(scores, SIZE), label_maps, ignore_index=IGNORE)

    fit(network, batch_loss, steps, lr=0.05)
    return network


# --- Score.


def predict(network: nn.Module, images: Tensor) -> Tensor:
    network.eval()
    with torch.no_grad():
        return resize(network(images), SIZE).argmax(1)


def mean_iou(predictions: Tensor, masks: Tensor) -> float:
    """mIoU in percent, from one confusion matrix over all images (no mean over images)."""
    counted = masks != IGNORE
    pairs = masks[counted] * len(CLASSES) + predictions[counted]
    matrix = pairs.bincount(minlength=len(CLASSES) ** 2).view(len(CLASSES), -1).double()
    right = matrix.diagonal()
    union = matrix.sum(0) + matrix.sum(1) - right  # predicted + true - both
    return 100 * float((right / union)[union > 0].mean())


# --- Comparison: cross-entropy with as many steps of fine-tuning, and with as many image passes
# in all and the colour distortion of stage 1, whose steps see two views of every image.


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--labelled", type=int, default=8, help="number of labelled scenes")
    parser.add_argument("--pretrain-steps", type=int, default=200, help="steps of stage 1")
    parser.add_argument("--steps", type=int, default=100, help="steps of stage 2")
    parser.add_argument("--temperature", type=float, default=0.07, help="of the contrastive loss")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run each")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # on maps this small, threads cost more than they save
    test_images, test_masks = draw_scenes(128, seed=10_000)
    long = args.steps + 2 * args.pretrain_steps
    methods = {  # steps of stage 1, steps of stage 2, colours distorted in stage 2
        "cross-entropy": (0, args.steps, False),
        "cross-entropy, same compute": (0, long, True),
        "contrastive": (args.pretrain_steps, args.steps, False),
    }
    print(f"mIoU (%) on unseen scenes, {args.labelled} labelled; seeds {args.seeds}")
    results = {}
    for name, (pretrain_steps, steps, distorted) in methods.items():
        scores = []
        for seed in args.seeds:
            scenes = draw_scenes(args.labelled, seed)
            torch.manual_seed(seed)  # the three methods start from the same backbone
            backbone = Backbone()
            if pretrain_steps:
                pretrain(backbone, scenes, pretrain_steps, args.temperature)
            network = finetune(backbone, scenes, steps, distorted)
            scores.append(mean_iou(predict(network, test_images), test_masks))
        results[name] = np.array(scores)
        print(f"{name:<28} mean {np.mean(scores):5.1f}   each", *(f"{s:5.1f}" for s in scores))
    chance = mean_iou(torch.zeros_like(test_masks), test_masks)
    print(f"{'background everywhere':<28} mean {chance:5.1f}")
    short, same, contrastive = results.values()
    gains = " and ".join(
        f"{gain.mean():+.1f} points over cross-entropy with the same {budget} "
        f"(ahead in {(gain > 0).sum()} of {len(gain)} seeds)"
        for gain, budget in (
            (contrastive - short, "fine-tuning steps"),
            (contrastive - same, "image passes"),
        )
    )
    print(f"Contrastive pretraining: {gains}.")


if __name__ == "__main__":
    main()
