from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tv

from segnb.datasets.base import IGNORE
from segnb.views import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Geometry,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    colour_distortion,
    gaussian_blur,
    geometric_view,
    normalise,
    to_unit,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_batch(count=3, height=20, width=26, classes=5, seed=0):
    generator = seeded(seed)
    images = torch.randint(0, 256, (count, 3, height, width), generator=generator)
    masks = torch.randint(0, classes, (count, height, width), generator=generator)
    return images.to(torch.uint8), masks.to(torch.uint8)


def labelled_blocks(count, side=64, block=16, seed=0):
    """Images whose grey value says the label: 40 times the label plus 40."""
    coarse = torch.randint(0, 5, (count, side // block, side // block), generator=seeded(seed))
    masks = coarse.repeat_interleave(block, 1).repeat_interleave(block, 2).to(torch.uint8)
    images = (40 * masks + 40)[:, None].expand(-1, 3, -1, -1).contiguous()
    return images, masks


# Geometry


def test_nothing_to_do_keeps_every_pixel():
    images, masks = random_batch()
    view, labels = geometric_view(images, masks, Geometry(crop=(20, 26)), generator=seeded())
    assert view.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert torch.equal(view, to_unit(images))
    assert torch.equal(labels, masks.long())


def test_crops_and_flips_are_pieces_of_the_image():
    images, masks = random_batch(count=40, height=6, width=7)
    geometry = Geometry(crop=(4, 3), flip=True)
    view, labels = geometric_view(images, masks, geometry, generator=seeded())
    places, flips = set(), 0
    for image, mask, piece, label in zip(images, masks, view, labels, strict=True):
        found = []
        for top in range(3):
            for left in range(5):
                cut = to_unit(image[:, top : top + 4, left : left + 3])
                cut_mask = mask[top : top + 4, left : left + 3].long()
                for flip in (False, True):
                    if torch.equal(cut.flip(2) if flip else cut, piece):
                        assert torch.equal(cut_mask.flip(1) if flip else cut_mask, label)
                        found.append((top, left, flip))
        assert len(found) == 1
        places.add(found[0][:2])
        flips += found[0][2]
    assert len(places) > 8
    assert 10 < flips < 30


def test_a_flip_by_hand():
    images = torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8).expand(16, 3, 1, 3).contiguous()
    masks = torch.tensor([[[0, 1, 2]]], dtype=torch.uint8).expand(16, 1, 3).contiguous()
    view, labels = geometric_view(
        images, masks, Geometry(crop=(1, 3), flip=True), generator=seeded()
    )
    rows = {tuple(row) for row in labels[:, 0].tolist()}
    assert rows == {(0, 1, 2), (2, 1, 0)}
    for row, values in zip(labels[:, 0].tolist(), view[:, 0, 0].tolist(), strict=True):
        expected = [0.0, 0.2, 1.0] if row == [0, 1, 2] else [1.0, 0.2, 0.0]
        assert values == pytest.approx(expected)


def test_doubling_by_hand():
    images = torch.tensor([[[[0, 100], [0, 100]]]], dtype=torch.uint8).expand(1, 3, 2, 2)
    masks = torch.tensor([[[3, 4], [3, 4]]], dtype=torch.uint8)
    geometry = Geometry(crop=(4, 4), scale=(2, 2))
    view, labels = geometric_view(images, masks, geometry, generator=seeded())
    assert labels[0, 0].tolist() == [3, 3, 4, 4]
    # Centres at 0.25, 0.75, 1.25, 1.75 between pixel centres 0.5 and 1.5.
    assert (view[0, 0, 0] * 255).tolist() == pytest.approx([0, 25, 75, 100], abs=1e-4)


def test_a_small_image_is_padded_with_black_and_void():
    images, masks = random_batch(count=12, height=4, width=5)
    images = images.clamp(min=1)
    geometry = Geometry(crop=(9, 8), scale=(1, 1))
    view, labels = geometric_view(images, masks, geometry, generator=seeded())
    inside = labels != IGNORE
    assert inside.sum((1, 2)).tolist() == [20] * 12
    assert torch.equal(inside, view.amin(1) > 0)
    for number in range(12):
        assert torch.equal(labels[number][inside[number]].view(4, 5), masks[number].long())
    assert len({tuple(row) for row in inside.any(2).int().tolist()}) > 1


def test_scaling_agrees_with_torchvision():
    images, masks = random_batch(count=1, height=40, width=56)
    for scale, size in ((0.5, (20, 28)), (0.75, (30, 42)), (2.0, (80, 112))):
        geometry = Geometry(crop=size, scale=(scale, scale))
        view, labels = geometric_view(images, masks, geometry, generator=seeded())
        expected = tv.resize(to_unit(images), list(size), antialias=True)
        assert torch.allclose(view, expected, atol=1e-4)
        if scale == 2.0:
            repeated = masks.repeat_interleave(2, 1).repeat_interleave(2, 2)
            assert torch.equal(labels, repeated.long())


def test_shrinking_does_not_alias():
    """A pattern of single pixels has to become grey, not one of its two colours."""
    rows = torch.arange(64)
    pattern = ((rows[:, None] + rows) % 2 * 255).to(torch.uint8).expand(1, 3, 64, 64)
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    geometry = Geometry(crop=(20, 20), scale=(0.5, 0.5))
    view, _ = geometric_view(pattern, masks, geometry, generator=seeded())
    assert (view - 0.5).abs().max() < 0.05


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    low=st.floats(0.3, 1.2),
    ratio=st.floats(1, 3),
    crop=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_no_new_label_and_no_value_out_of_range(seed, low, ratio, crop):
    images, masks = random_batch(seed=seed)
    masks = masks * 50
    geometry = Geometry(crop=crop, scale=(low, low * ratio), flip=True)
    view, labels = geometric_view(images, masks, geometry, generator=seeded(seed))
    assert view.shape == (3, 3, *crop)
    assert set(labels.unique().tolist()) <= {*masks.unique().tolist(), IGNORE}
    assert view.min() >= 0
    assert view.max() <= 1
    assert (view.amax(1)[labels == IGNORE] == 0).all()


def test_image_and_mask_stay_aligned():
    images, masks = labelled_blocks(32)
    geometry = Geometry(crop=(48, 40), scale=(0.5, 2.0), flip=True)
    view, labels = geometric_view(images, masks, geometry, generator=seeded())
    shown = torch.where(labels == IGNORE, torch.tensor(0), 40 * labels + 40) / 255
    # Where the label is the same all around, resampling cannot have changed the grey.
    padded = torch.nn.functional.pad(shown[:, None], (2, 2, 2, 2), value=-1)
    highest = torch.nn.functional.max_pool2d(padded, 5, 1)[:, 0]
    lowest = -torch.nn.functional.max_pool2d(-padded, 5, 1)[:, 0]
    calm = (highest == lowest) & (labels != IGNORE)
    assert calm.float().mean() > 0.3
    assert (view[:, 0] - shown).abs()[calm].max() < 1e-5
    assert ((view[:, 0] - shown).abs() < 0.06).float().mean() > 0.85


def test_scales_spread_evenly_in_their_logarithm():
    masks = torch.zeros(400, 8, 8, dtype=torch.uint8)
    images = torch.full((400, 3, 8, 8), 255, dtype=torch.uint8)
    geometry = Geometry(crop=(16, 16), scale=(0.5, 2.0))
    _, labels = geometric_view(images, masks, geometry, generator=seeded())
    covered = (labels == 0).flatten(1).sum(1).sqrt()
    assert covered.min() >= 3
    assert covered.max() <= 16
    assert 150 < (covered < 8).sum() < 230


def test_views_depend_on_nothing_but_generator_and_own_image():
    images, masks = random_batch(count=6)
    geometry = Geometry(crop=(16, 16), scale=(0.5, 2.0), flip=True)
    first = geometric_view(images, masks, geometry, generator=seeded(4))
    again = geometric_view(images, masks, geometry, generator=seeded(4))
    other = geometric_view(images, masks, geometry, generator=seeded(5))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    changed, changed_masks = images.clone(), masks.clone()
    changed[2], changed_masks[2] = 0, 1
    mixed = geometric_view(changed, changed_masks, geometry, generator=seeded(4))
    for number in (0, 1, 3, 4, 5):
        assert torch.equal(mixed[0][number], first[0][number])
        assert torch.equal(mixed[1][number], first[1][number])


def test_the_input_is_left_as_it_was():
    images, masks = random_batch()
    kept, kept_masks = images.clone(), masks.clone()
    geometry = Geometry(crop=(20, 26), scale=(0.5, 2.0))
    view, _ = geometric_view(images, masks, geometry, generator=seeded())
    before = view.clone()
    colour_distortion(view, 1.0, generator=seeded())
    assert torch.equal(images, kept)
    assert torch.equal(masks, kept_masks)
    assert torch.equal(view, before)


@pytest.mark.parametrize(
    ("images", "masks", "told"),
    [
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8), "float32"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.zeros(1, 4, 4).byte(), r"\(1, 1, 4, 4"),
        (torch.zeros(1, 3, 4, 4).byte(), torch.zeros(1, 4, 5).byte(), r"\(1, 4, 5\)"),
        (torch.zeros(1, 3, 4, 4).byte(), torch.zeros(1, 4, 4).long(), "int64"),
    ],
)
def test_what_does_not_fit_is_named(images, masks, told):
    with pytest.raises(ValueError, match=told):
        geometric_view(images, masks, Geometry(crop=(2, 2)), generator=seeded())


def test_impossible_geometry_is_named():
    with pytest.raises(ValueError, match="crop"):
        Geometry(crop=(0, 4))
    with pytest.raises(ValueError, match="scale"):
        Geometry(crop=(4, 4), scale=(2.0, 0.5))


# Colour


FACTORS = [0.0, 0.3, 1.0, 1.8]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (adjust_brightness, tv.adjust_brightness),
        (adjust_contrast, tv.adjust_contrast),
        (adjust_saturation, tv.adjust_saturation),
    ],
)
def test_factors_agree_with_torchvision(ours, theirs):
    images = torch.rand(4, 3, 12, 15, generator=seeded())
    result = ours(images, torch.tensor(FACTORS))
    for number, factor in enumerate(FACTORS):
        expected = theirs(images[number], factor)
        assert torch.allclose(result[number], expected, atol=1e-5)


def test_hue_agrees_with_torchvision():
    turns = [-0.5, -0.17, 0.0, 0.05, 0.33, 0.5]
    images = torch.rand(6, 3, 12, 15, generator=seeded())
    images[:, :, 0] = 0.4
    images[:, 0, 1] = images[:, 1, 1]
    images[:, 1, 2] = images[:, 2, 2]
    result = adjust_hue(images, torch.tensor(turns))
    for number, turn in enumerate(turns):
        expected = tv.adjust_hue(images[number], turn)
        assert torch.allclose(result[number], expected, atol=1e-4)


def test_blur_agrees_with_torchvision_away_from_the_border():
    sigmas = [0.2, 0.7, 1.5]
    images = torch.rand(3, 3, 30, 33, generator=seeded())
    result = gaussian_blur(images, torch.tensor(sigmas))
    for number, sigma in enumerate(sigmas):
        expected = tv.gaussian_blur(images[number], [13, 13], [sigma, sigma])
        inner = (slice(None), slice(7, -7), slice(7, -7))
        assert torch.allclose(result[number][inner], expected[inner], atol=1e-3)
    assert torch.allclose(gaussian_blur(images, torch.zeros(3)), images, atol=1e-6)
    flat = torch.full((1, 3, 9, 9), 0.3)
    assert torch.allclose(gaussian_blur(flat, torch.tensor([2.0])), flat, atol=1e-6)


def test_strength_zero_returns_the_input():
    images = torch.rand(2, 3, 8, 8)
    assert colour_distortion(images, 0.0, generator=seeded()) is images


@settings(max_examples=30, deadline=None)
@given(strength=st.floats(0.01, 3), seed=st.integers(0, 10**6))
def test_distortion_stays_in_range(strength, seed):
    images = torch.rand(3, 3, 9, 11, generator=seeded(seed))
    result = colour_distortion(images, strength, generator=seeded(seed))
    assert result.shape == images.shape
    assert result.dtype == images.dtype
    assert torch.isfinite(result).all()
    assert result.min() >= 0
    assert result.max() <= 1


def test_distortion_is_per_image_and_determined_by_the_generator():
    one = torch.rand(3, 16, 16, generator=seeded())
    images = one.expand(12, -1, -1, -1).contiguous()
    first = colour_distortion(images, 1.0, generator=seeded(3))
    assert torch.equal(first, colour_distortion(images, 1.0, generator=seeded(3)))
    assert not torch.equal(first, colour_distortion(images, 1.0, generator=seeded(4)))
    assert len({row.numpy().tobytes() for row in first}) >= 11
    changed = images.clone()
    changed[5] = 0.5
    mixed = colour_distortion(changed, 1.0, generator=seeded(3))
    keep = [number for number in range(12) if number != 5]
    assert torch.allclose(mixed[keep], first[keep], atol=1e-6)


def test_distortion_grows_with_its_strength():
    images = torch.rand(64, 3, 8, 8, generator=seeded())
    change = [
        (colour_distortion(images, strength, generator=seeded()) - images).abs().mean()
        for strength in (0.05, 0.25, 1.0)
    ]
    assert 0 < change[0] < change[1] < change[2]
    assert change[0] < 0.05


def test_probabilities_are_those_of_simclr():
    images = torch.rand(1500, 3, 6, 6, generator=seeded())
    result = colour_distortion(images, 1.0, generator=seeded())
    grey = (result.amax(1) - result.amin(1)).flatten(1).amax(1) < 1e-5
    assert grey.float().mean().item() == pytest.approx(0.2, abs=0.04)
    # sigma is far below a pixel at this size, so blur leaves the image as it is
    kept = (result - images).abs().flatten(1).amax(1) < 1e-4
    assert kept.float().mean().item() == pytest.approx(0.2 * 0.8, abs=0.04)


def test_blur_is_as_strong_for_the_same_picture_at_another_size():
    small = torch.rand(40, 3, 32, 32, generator=seeded())
    large = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    before = torch.nn.functional.avg_pool2d(large, 4)
    after_small = colour_distortion(small, 1.0, generator=seeded(2))
    after_large = colour_distortion(large, 1.0, generator=seeded(2))
    assert torch.allclose(before, small, atol=1e-5)
    difference = torch.nn.functional.avg_pool2d(after_large, 4) - after_small
    assert difference.abs().mean() < 0.02


@pytest.mark.parametrize(
    ("images", "strength", "told"),
    [
        (torch.rand(1, 3, 4, 4), -0.1, "-0.1"),
        (torch.zeros(1, 3, 4, 4).byte(), 1.0, "uint8"),
        (torch.rand(1, 4, 4, 4), 1.0, r"\(1, 4, 4, 4\)"),
    ],
)
def test_bad_distortion_is_named(images, strength, told):
    with pytest.raises(ValueError, match=told):
        colour_distortion(images, strength, generator=seeded())


def test_normalise_by_hand():
    images = torch.tensor([0.2, 0.5, 0.9])[None, :, None, None].expand(2, 3, 4, 5)
    expected = (np.array([0.2, 0.5, 0.9]) - IMAGENET_MEAN) / IMAGENET_STD
    assert normalise(images)[1, :, 2, 3].tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_nothing_waits_for_the_device(monkeypatch):
    """Tensors of the meta device have no values: whatever asks for one, fails."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    images, masks = (part.to("meta") for part in random_batch(count=8))
    with pytest.raises(RuntimeError):
        images.max().item()
    geometry = Geometry(crop=(16, 18), scale=(0.5, 2.0), flip=True)
    view, labels = geometric_view(images, masks, geometry, generator=seeded())
    result = normalise(colour_distortion(view, 1.0, generator=seeded()))
    assert result.shape == (8, 3, 16, 18)
    assert labels.device == result.device == images.device


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_gpu_draws_the_same_views():
    images, masks = random_batch(count=8, height=48, width=64)
    geometry = Geometry(crop=(40, 40), scale=(0.5, 2.0), flip=True)
    view, labels = geometric_view(images, masks, geometry, generator=seeded())
    there, labels_there = geometric_view(images.cuda(), masks.cuda(), geometry, generator=seeded())
    assert torch.equal(labels, labels_there.cpu())
    assert torch.allclose(view, there.cpu(), atol=1e-4)
    distorted = colour_distortion(view, 1.0, generator=seeded())
    distorted_there = colour_distortion(view.cuda(), 1.0, generator=seeded())
    assert torch.allclose(distorted, distorted_there.cpu(), atol=1e-3)
