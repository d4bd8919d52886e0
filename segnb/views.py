"""Views of a batch: random scale, crop and flip, and the colour distortion of the second view.

Everything works on whole batches on their own device, with separate parameters for each image. The
parameters are drawn on the CPU, so a seed gives the same views on every device, and nothing here
waits for the device. Masks are resampled by nearest neighbour, never blended.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from segnb.datasets.base import IGNORE

#: Mean and standard deviation of ImageNet's red, green and blue, the usual input scale.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

#: How :func:`nearest_labels` assigns pixels to the cells of a feature map; in every ledger row.
CELL_RULE = "aligned corners"

#: SimCLR's distortion at strength 1 (Chen et al. 2020, appendix A).
_JITTER = 0.8
_JITTER_HUE = 0.2
_JITTER_PROBABILITY = 0.8
_GREY_PROBABILITY = 0.2
_BLUR_PROBABILITY = 0.5
_BLUR_SIGMA = (0.1, 2.0)
_BLUR_AT = 224


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The settings of :func:`geometric_view`.

    Attributes:
        crop: Height and width of the view, in pixels.
        scale: Smallest and largest magnification before the crop; the logarithm is drawn
            uniformly, so that halving and doubling are equally likely.
        flip: Mirror half of the images, on average, left to right.
    """

    crop: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    flip: bool = False

    def __post_init__(self) -> None:
        if min(self.crop) < 1:
            raise ValueError(f"geometry: crop is {self.crop}; both sides must be 1 or more")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"geometry: scale is {self.scale}; it must be 0 < low <= high")


def geometric_view(
    images: Tensor, masks: Tensor, geometry: Geometry, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Scale, crop and flip each image at random, together with its mask.

    Images are resampled with a triangle filter that widens when an image shrinks (bilinear with
    antialiasing), masks by nearest neighbour. An image that is smaller than the crop after scaling
    is put at a random position in it; outside it, images are 0 and masks ``IGNORE``.

    Args:
        images: uint8 ``[B, 3, H, W]``.
        masks: uint8 ``[B, H, W]`` on the same device.
        geometry: Crop, range of scales, flip.
        generator: CPU generator for the parameters; four draws per image.

    Returns:
        float32 images in 0..1 ``[B, 3, h, w]`` and int64 masks ``[B, h, w]``.

    Raises:
        ValueError: Shapes or types do not fit.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images are {images.dtype} {tuple(images.shape)}; they must be uint8 [B, 3, H, W]"
        )
    expected = (images.shape[0], *images.shape[2:])
    if masks.dtype != torch.uint8 or masks.shape != expected:
        raise ValueError(
            f"masks are {masks.dtype} {tuple(masks.shape)}; they must be uint8 {expected}"
        )
    count, _, height, width = images.shape
    crop_height, crop_width = geometry.crop

    draws = torch.rand(count, 4, generator=generator, dtype=torch.float64)
    low, high = geometry.scale
    scale = low * (high / low) ** draws[:, 0]
    mirrored = (draws[:, 3] < 0.5) & geometry.flip
    rows = _centres(height, crop_height, scale, draws[:, 1])
    columns = _centres(width, crop_width, scale, draws[:, 2])
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    reach = (1 / scale).clamp(min=1.0)

    packed = _send(torch.cat([rows, columns, reach[:, None]], 1).float(), images.device)
    rows, columns = packed[:, :crop_height], packed[:, crop_height:-1]
    reach = packed[:, -1]
    with torch.autocast(images.device.type, enabled=False):
        vertical = _resampling_matrix(rows, height, reach)
        horizontal = _resampling_matrix(columns, width, reach)
        view = _separable(images.float(), vertical, horizontal).div_(255).clamp_(0, 1)
    return view, _nearest(masks, rows, columns)


def colour_distortion(images: Tensor, strength: float, *, generator: torch.Generator) -> Tensor:
    """Distort the colours of each image at random; no pixel moves.

    Modelled on SimCLR. With probability 0.8, brightness, contrast and saturation each change by a
    factor within 1 ± 0.8·strength and the hue rotates by up to 0.2·strength of a full circle. An
    image turns grey with probability 0.2·strength and is blurred with probability 0.5·strength
    (these probabilities stop growing at strength 1). The order is fixed: brightness, contrast, hue,
    saturation or grey, blur. The blur's sigma, 0.1 to 2 pixels at SimCLR's 224 pixels, scales with
    the image.

    Args:
        images: float32 in 0..1 ``[B, 3, H, W]``.
        strength: 0 returns the input unchanged, 1 is SimCLR's strength; more is allowed.
        generator: CPU generator for the parameters; eight draws per image.

    Returns:
        Images of the same shape, clipped to 0..1.

    Raises:
        ValueError: A negative strength, or images of another shape or type.
    """
    if strength < 0:
        raise ValueError(f"the distortion's strength is {strength}; it must be 0 or more")
    if not images.is_floating_point() or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images are {images.dtype} {tuple(images.shape)}; they must be float [B, 3, H, W]"
        )
    if strength == 0:
        return images
    count, _, height, width = images.shape
    draws = torch.rand(count, 8, generator=generator, dtype=torch.float64)
    capped = min(strength, 1.0)
    jittered = draws[:, 0] < _JITTER_PROBABILITY
    span = _JITTER * strength
    factors = max(0.0, 1 - span) + draws[:, 1:4] * (1 + span - max(0.0, 1 - span))
    factors[~jittered] = 1
    hue = (2 * draws[:, 4] - 1) * min(_JITTER_HUE * strength, 0.5) * jittered
    brightness, contrast, saturation = factors.unbind(1)
    saturation = torch.where(draws[:, 5] < _GREY_PROBABILITY * capped, 0.0, saturation)
    blurred = draws[:, 6] < _BLUR_PROBABILITY * capped
    least, most = _BLUR_SIGMA
    sigma = (least + draws[:, 7] * (most - least)) * min(height, width) / _BLUR_AT

    packed = torch.stack([brightness, contrast, hue, saturation, sigma], 1)
    device_side = _send(packed.to(images.dtype), images.device)
    result = adjust_brightness(images, device_side[:, 0])
    result = adjust_contrast(result, device_side[:, 1])
    result = adjust_hue(result, device_side[:, 2])
    result = adjust_saturation(result, device_side[:, 3])
    # The CPU knows which images to blur: only those are processed, without waiting.
    chosen = blurred.nonzero()[:, 0]
    if len(chosen):
        index = _send(chosen, images.device)
        result[index] = gaussian_blur(result[index], device_side[index, 4])
    return result


def nearest_labels(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels of the cells of a feature map: nearest neighbour, corners aligned.

    The loss and the measures of compactness both use this rule. Corner cells are at the image's
    corner pixels, the others evenly spaced between them, because features are resized bilinearly
    with aligned corners before the projection head (as in the official code;
    :mod:`segnb.models` does so in both stages). Convolutions of odd width and stride s, padded
    evenly, centre cell i on pixel s*i; this rule agrees for sides of s*k + 1 pixels (513 at
    stride 8). For other sides neither this rule nor cell centres are exact. Labels are never
    blended.

    Args:
        masks: Class ids ``[B, H, W]``.
        size: Height and width of the feature map, ``(h, w)``.

    Returns:
        Class ids ``[B, h, w]`` of the same type.
    """
    rows, columns = (
        torch.linspace(0, side - 1, count, device=masks.device).round().long()
        for side, count in zip(masks.shape[-2:], size, strict=True)
    )
    return masks[:, rows[:, None], columns[None, :]]


def to_unit(images: Tensor) -> Tensor:
    """Images from uint8 in 0..255 to float32 in 0..1."""
    return images.float() / 255


def normalise(images: Tensor) -> Tensor:
    """Normalise images in 0..1 ``[B, 3, H, W]`` by ImageNet's mean and standard deviation."""
    scale = _send(torch.tensor([IMAGENET_MEAN, IMAGENET_STD], dtype=images.dtype), images.device)
    return (images - scale[0, :, None, None]) / scale[1, :, None, None]


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Multiply each image ``[B, 3, H, W]`` by its own factor ``[B]``; clipped."""
    return (images * _each(factors)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Multiply each image's distance from its own mean grey by its factor; clipped."""
    mean = _grey(images).mean(dim=(-2, -1), keepdim=True)
    return torch.lerp(mean, images, _each(factors)).clamp_(0, 1)


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Multiply each pixel's distance from its own grey by its image's factor (0: grey); clipped."""
    return torch.lerp(_grey(images), images, _each(factors)).clamp_(0, 1)


def adjust_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue (in the HSV sense) of each image by its own angle.

    Args:
        images: float in 0..1 ``[B, 3, H, W]``.
        turns: ``[B]``, in full circles, -0.5 to 0.5.
    """
    red, green, blue = images.unbind(1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    safe = torch.where(chroma > 0, chroma, 1)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    hue = hue + 6 * turns[:, None, None]
    # Each channel is the value minus a trapezoid of the hue: flat for two sixths of the circle,
    # falling for one and rising for one.
    channels = []
    for offset in (5, 3, 1):
        sixth = torch.remainder(hue + offset, 6)
        channels.append(value - chroma * torch.minimum(sixth, 4 - sixth).clamp_(0, 1))
    return torch.stack(channels, 1).clamp_(0, 1)


def gaussian_blur(images: Tensor, sigmas: Tensor) -> Tensor:
    """Blur each image ``[B, 3, H, W]`` with its own sigma ``[B]``, in pixels.

    At the border the kernel is cut off at the image's edge and rescaled to sum to 1.
    """
    with torch.autocast(images.device.type, enabled=False):
        vertical, horizontal = (
            _blur_matrix(side, sigmas.to(images.dtype)) for side in images.shape[2:]
        )
        return _separable(images, vertical, horizontal).clamp_(0, 1)


def _centres(side: int, crop: int, scale: Tensor, position: Tensor) -> Tensor:
    """Coordinates of the crop's pixel centres in the unscaled image, ``[B, crop]``.

    Crops start at whole pixels of the scaled image, so that scale 1 keeps pixels exactly.
    ``position`` is from 0 (first possible start) to 1 (last).
    """
    room = torch.round(side * scale) - crop
    start = torch.sign(room) * torch.floor(position * (room.abs() + 1))
    pixels = torch.arange(crop, dtype=torch.float64) + 0.5
    return (pixels + start[:, None]) / scale[:, None]


def _resampling_matrix(centres: Tensor, side: int, reach: Tensor) -> Tensor:
    """Weights ``[B, crop, side]`` of a triangle filter around each centre; 0 outside the image."""
    pixels = torch.arange(side, device=centres.device, dtype=centres.dtype) + 0.5
    distance = (pixels - centres[:, :, None]).abs_()
    weights = (1 - distance / reach[:, None, None]).clamp_(min=0)
    inside = (centres >= 0) & (centres < side)
    total = weights.sum(2).clamp_(min=1e-6)
    return weights * (inside / total)[:, :, None]


def _blur_matrix(side: int, sigmas: Tensor) -> Tensor:
    pixels = torch.arange(side, device=sigmas.device, dtype=sigmas.dtype)
    distance = pixels - pixels[:, None]
    squares = (distance / sigmas.clamp(min=1e-3)[:, None, None]) ** 2
    # Cut off at four sigmas: further out the weights are denormal numbers, slow on CPUs.
    weights = torch.exp(-0.5 * squares) * (squares <= 16)
    return weights / weights.sum(2, keepdim=True)


def _separable(images: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Filter rows and columns, each image with its own matrices.

    Two matrix products per image are the fastest way, on both CPU and GPU, to give every image of
    a batch its own filter. They are exact where the filter is the identity.
    """
    return vertical[:, None] @ (images @ horizontal.transpose(1, 2)[:, None])


def _nearest(masks: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    height, width = masks.shape[1:]
    row_inside = (rows >= 0) & (rows < height)
    column_inside = (columns >= 0) & (columns < width)
    inside = row_inside[:, :, None] & column_inside[:, None, :]
    row = rows.floor().long().clamp_(0, height - 1)
    column = columns.floor().long().clamp_(0, width - 1)
    index = row[:, :, None] * width + column[:, None, :]
    picked = masks.flatten(1).gather(1, index.flatten(1)).view(index.shape)
    return torch.where(inside, picked.long(), IGNORE)


def _grey(images: Tensor) -> Tensor:
    """Rec. 601 luma ``[B, 1, H, W]``, with the weights that torchvision uses."""
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue)[:, None]


def _each(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _send(values: Tensor, device: torch.device) -> Tensor:
    return values.to(device, non_blocking=True)
