"""Values and gradients of the Triton kernels in Triton's interpreter, on the CPU.

``TRITON_INTERPRET`` must be set before Triton is first imported and would change every other test
of the process: ``test_losses_triton.py`` runs this file in a process of its own.
"""

from __future__ import annotations

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by test_losses_triton.py with TRITON_INTERPRET=1", allow_module_level=True)
pytest.importorskip("triton", reason="Triton is not installed")

from segnb.errors import ConfigError
from segnb.losses import official, paper, plain, supcon_loss
from segnb.losses.pixels import IGNORED, Pixels
from segnb.losses.triton import launch

SMALL = launch.Tiles(rows=16, columns=16, warps=4, stages=1)
UNEVEN = launch.Tiles(rows=32, columns=16, warps=4, stages=1)
IGNORE = IGNORED


# --- in float64, by the plain form, which test_losses.py holds against loops over pixels ---


def allowed_pairs(anchor_labels, key_labels, pairs):
    used = (anchor_labels != IGNORE)[:, :, None] & (key_labels != IGNORE)[:, None, :]
    same = anchor_labels[:, :, None] == key_labels[:, None, :]
    rule = {"all": torch.ones_like(same), "same": same, "other": ~same}
    if pairs == "not_self":
        return used & ~torch.eye(used.shape[1], dtype=torch.bool)
    return used & rule[pairs]


def plain_logsumexp(anchors, keys, allowed, temperature):
    """Masked logsumexp, -inf for rows without a key, and which rows have one."""
    return plain._logsumexp(anchors @ keys.transpose(1, 2) / temperature, allowed), allowed.any(2)


def plain_official(features, labels, images, temperature):
    pixels = Pixels(features=features, labels=labels, temperature=temperature, dtype=features.dtype)
    return plain.official_losses(pixels, images)[0]


# --- inputs ---


def unit(batch, size, width, *, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, size, width, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(features, dim=2).to(dtype)


def random_labels(batch, size, classes, *, seed, ignored=0.2):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (batch, size), generator=generator)
    void = torch.rand(batch, size, generator=generator) < ignored
    return labels.masked_fill(void, IGNORE)


def gradient_weights(batch, size, *, seed):
    """Upstream gradients of both signs and uneven size."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, size, generator=generator) * torch.logspace(-3, 0, size)


# --- checks ---


def tolerances(dtype, temperature):
    """Relative errors allowed to values and gradients.

    Rounding of a score in fp32 is an error of exp(score) that grows with 1 / temperature.
    """
    rounding = 2e-6 * max(1.0, 0.07 / temperature)
    return rounding, {torch.float32: rounding, torch.float16: 3e-3}[dtype]


def assert_near(actual, expected, tolerance, what):
    distance, size = (actual.double() - expected).norm(), expected.norm()
    assert distance <= tolerance * size, f"{what}: off by {distance:.2e} of {size:.2e}"


def check_logsumexp(
    anchors,
    keys,
    anchor_labels,
    key_labels,
    *,
    temperature=0.07,
    pairs="all",
    tiles=SMALL,
):
    one_set = keys is None
    values, packed_anchors, packed_keys = launch.masked_logsumexp(
        anchors,
        keys,
        anchor_labels,
        key_labels,
        temperature=temperature,
        pairs=pairs,
        tiles=tiles,
    )
    a = anchors.detach().double().requires_grad_()
    k = a if one_set else keys.detach().double().requires_grad_()
    allowed = allowed_pairs(anchor_labels, anchor_labels if one_set else key_labels, pairs)
    expected, some = plain_logsumexp(a, k, allowed, temperature)
    value_tolerance, gradient_tolerance = tolerances(anchors.dtype, temperature)
    assert values.dtype == torch.float32
    assert torch.equal(torch.isinf(values), ~some)
    assert_near(values[some], expected[some], value_tolerance, "values")

    grad = gradient_weights(*values.shape, seed=7)
    expected[some].backward(grad[some].double())
    gradients = launch.masked_logsumexp_backward(
        grad,
        values,
        packed_anchors,
        packed_keys,
        width=anchors.shape[2],
        dtype=anchors.dtype,
        temperature=temperature,
        pairs=pairs,
        tiles=tiles,
    )
    assert gradients[0].shape == anchors.shape
    assert gradients[0].dtype == anchors.dtype
    assert_near(gradients[0], a.grad, gradient_tolerance, "anchors' gradient")
    if one_set:
        assert gradients[1] is None
    else:
        assert gradients[1].shape == keys.shape
        assert_near(gradients[1], k.grad, gradient_tolerance, "keys' gradient")


def check_official(features, labels, images, *, temperature=0.07, tiles=SMALL):
    losses, packed, state = launch.official_anchor_losses(
        features, labels, images, temperature=temperature, tiles=tiles
    )
    f = features.detach().double().requires_grad_()
    expected = plain_official(f, labels, images, temperature)
    value_tolerance, gradient_tolerance = tolerances(features.dtype, temperature)
    assert losses.dtype == torch.float32
    assert_near(losses, expected.detach(), value_tolerance, "losses")
    assert (losses[labels == IGNORE] == 0).all()

    grad = gradient_weights(*losses.shape, seed=8)
    expected.backward(grad.double())
    gradient = launch.official_anchor_losses_backward(
        grad,
        packed,
        state,
        width=features.shape[2],
        dtype=features.dtype,
        temperature=temperature,
        tiles=tiles,
    )
    assert gradient.shape == features.shape
    assert gradient.dtype == features.dtype
    assert_near(gradient, f.grad, gradient_tolerance, "gradient")


KINDS = pytest.mark.parametrize(
    ("dtype", "tiles"),
    [(torch.float32, SMALL), (torch.float16, UNEVEN)],
    ids=["fp32 in tiles of 16 x 16", "fp16 in tiles of 32 x 16"],
)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])


# --- logsumexp ---


@KINDS
@pytest.mark.parametrize("pairs", ["all", "same", "other"])
def test_logsumexp_two_sets(pairs, dtype, tiles):
    check_logsumexp(
        unit(1, 40, 12, seed=0, dtype=dtype),
        unit(1, 55, 12, seed=1, dtype=dtype),
        random_labels(1, 40, 3, seed=2),
        random_labels(1, 55, 3, seed=3),
        pairs=pairs,
        tiles=tiles,
    )


@KINDS
@pytest.mark.parametrize("pairs", ["all", "not_self", "same", "other"])
def test_logsumexp_one_set(pairs, dtype, tiles):
    check_logsumexp(
        unit(1, 50, 12, seed=0, dtype=dtype),
        None,
        random_labels(1, 50, 3, seed=2),
        None,
        pairs=pairs,
        tiles=tiles,
    )


@pytest.mark.parametrize("pairs", ["all", "same", "other"])
@pytest.mark.parametrize(
    ("anchor_labels", "key_labels"),
    [
        pytest.param([[0] * 20], [[0] * 33], id="one class"),
        pytest.param([[0] * 20], [[1] * 33], id="no positive"),
        pytest.param([[IGNORE] * 20], [[1] * 33], id="anchors ignored"),
        pytest.param([[0] * 20], [[IGNORE] * 33], id="keys ignored"),
        pytest.param([[-4] * 10 + [2**31 - 1] * 10], [[-4] * 30 + [7] * 3], id="wide labels"),
        pytest.param([[5]], [[5]], id="one pixel"),
        pytest.param([list(range(20))], [list(range(33))], id="each its own class"),
    ],
)
def test_logsumexp_edge_cases(anchor_labels, key_labels, pairs):
    anchor_labels, key_labels = torch.tensor(anchor_labels), torch.tensor(key_labels)
    check_logsumexp(
        unit(1, anchor_labels.shape[1], 8, seed=0),
        unit(1, key_labels.shape[1], 8, seed=1),
        anchor_labels,
        key_labels,
        pairs=pairs,
    )


@pytest.mark.parametrize(("anchors", "keys"), [(0, 5), (5, 0), (0, 0)])
def test_logsumexp_of_empty_sets(anchors, keys):
    check_logsumexp(
        unit(2, anchors, 8, seed=0),
        unit(2, keys, 8, seed=1),
        torch.zeros(2, anchors).long(),
        torch.zeros(2, keys).long(),
    )


def test_one_pixel_without_itself_has_no_key():
    check_logsumexp(unit(1, 1, 8, seed=0), None, torch.zeros(1, 1).long(), None, pairs="not_self")


@DTYPES
def test_small_temperature(dtype):
    check_logsumexp(
        unit(1, 40, 16, seed=0, dtype=dtype),
        unit(1, 50, 16, seed=1, dtype=dtype),
        random_labels(1, 40, 3, seed=2),
        random_labels(1, 50, 3, seed=3),
        temperature=0.01,
        pairs="other",
    )


@pytest.mark.parametrize("width", [1, 3, 64, 128, 256, 257, 512])
def test_widths(width):
    check_logsumexp(
        unit(1, 20, width, seed=0),
        unit(1, 35, width, seed=1),
        random_labels(1, 20, 2, seed=2),
        random_labels(1, 35, 2, seed=3),
    )
    check_official(
        unit(1, 40, width, seed=0), random_labels(1, 40, 2, seed=2), torch.arange(40)[None] // 20
    )


def test_two_sets_of_different_size_in_every_batch_element():
    labels = random_labels(3, 40, 3, seed=2)
    labels[0] = IGNORE
    labels[1, 1:] = IGNORE
    check_logsumexp(unit(3, 40, 8, seed=0), unit(3, 17, 8, seed=1), labels, labels[:, 3:20])


# --- official form ---


def two_images(batch, size):
    """The first of two images a little larger than the second."""
    return (torch.arange(size) >= size // 2 + 3).long().expand(batch, size)


@KINDS
@pytest.mark.parametrize("classes", [1, 2, 5, 60])
def test_official_cross(classes, tiles, dtype):
    check_official(
        unit(1, 70, 12, seed=0, dtype=dtype),
        random_labels(1, 70, classes, seed=1),
        two_images(1, 70),
        tiles=tiles,
    )


@pytest.mark.parametrize("images", [1, 3])
def test_official_with_one_image_and_with_three(images):
    check_official(
        unit(1, 100, 12, seed=0),
        random_labels(1, 100, 3, seed=1),
        (torch.arange(100) % images)[None],
    )


def test_official_with_void_on_the_border_and_large_regions():
    labels = torch.zeros(1, 2, 9, 9, dtype=torch.long)
    labels[..., 5:, :] = 1
    labels[0, 1, 3:, 3:] = 3
    labels[..., 0], labels[..., -1], labels[..., 0, :] = IGNORE, IGNORE, IGNORE
    images = torch.tensor([0, 1])[None, :, None, None].expand_as(labels)
    check_official(unit(1, 162, 8, seed=0), labels.flatten(1), images.flatten(1))


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param([[IGNORE] * 20], id="everything ignored"),
        pytest.param([[3]], id="one pixel"),
        pytest.param([[]], id="no pixel"),
        pytest.param([list(range(20))], id="each its own class"),
        pytest.param([[IGNORE] * 19 + [0]], id="all but one ignored"),
    ],
)
def test_official_edge_cases(labels):
    labels = torch.tensor(labels, dtype=torch.int64)
    check_official(unit(1, labels.shape[1], 8, seed=0), labels, torch.zeros_like(labels))


@DTYPES
def test_official_at_a_small_temperature(dtype):
    check_official(
        unit(1, 60, 8, seed=0, dtype=dtype),
        random_labels(1, 60, 3, seed=1),
        two_images(1, 60),
        temperature=0.01,
    )


def test_official_of_well_separated_classes_keeps_its_small_values():
    """Losses of 1e-6: 1 + x alone would keep two of their digits."""
    labels = torch.arange(60)[None] % 3
    features = torch.eye(8)[labels] + 0.01 * unit(1, 60, 8, seed=0)
    features = torch.nn.functional.normalize(features, dim=2)
    losses, _, _ = launch.official_anchor_losses(
        features, labels, two_images(1, 60), temperature=0.06, tiles=SMALL
    )
    expected = plain_official(features.double(), labels, two_images(1, 60), 0.06)
    assert expected.max() < 2e-6
    assert_near(losses, expected, 1e-5, "losses")


@pytest.mark.parametrize(
    ("factor", "images", "expected"), [(None, 1, 2.450321686), (2.0, 2, 5.460273578)]
)
def test_known_values_of_the_official_code(factor, images, expected):
    """16 pixels, features equal to the labels; the first eight are ignored."""
    labels = torch.tensor([-2] * 2 + [-1] * 2 + [1] * 4 + [2] * 4 + [3] * 4)
    features = labels.float()[None, :, None]
    labels = labels.masked_fill(labels < 0, IGNORE)[None]
    if factor is not None:
        features = torch.cat([features, factor * features], dim=1)
        labels = labels.repeat(1, 2)
    losses, _, _ = launch.official_anchor_losses(
        features,
        labels,
        torch.arange(labels.shape[1])[None] // 16,
        temperature=1.0,
        tiles=SMALL,
    )
    assert losses.sum().item() / (labels != IGNORE).sum().item() == pytest.approx(
        expected, rel=1e-6
    )


# --- both ---


def test_strided_features_and_small_label_types():
    maps = unit(2, 64, 12, seed=0).transpose(1, 2).contiguous().view(2, 12, 8, 8)
    flat = maps.flatten(2).transpose(1, 2)
    assert flat.stride(2) != 1
    labels = random_labels(2, 64, 3, seed=1)
    check_official(flat, labels.to(torch.uint8), two_images(2, 64).to(torch.uint8))
    check_official(unit(2, 128, 12, seed=0)[:, ::2], labels, two_images(2, 64))


def test_what_ignored_pixels_hold_does_not_matter():
    features = unit(1, 50, 8, seed=0)
    labels = random_labels(1, 50, 3, seed=1, ignored=0.3)
    spoilt = features.masked_fill((labels == IGNORE)[:, :, None], torch.nan)
    results = []
    for values in (features, spoilt):
        losses, packed, state = launch.official_anchor_losses(
            values, labels, two_images(1, 50), temperature=0.07, tiles=SMALL
        )
        gradient = launch.official_anchor_losses_backward(
            torch.ones_like(losses),
            packed,
            state,
            width=8,
            dtype=torch.float32,
            temperature=0.07,
            tiles=SMALL,
        )
        results.append((losses, gradient))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_nan_in_a_used_pixel_shows():
    features = unit(1, 20, 8, seed=0)
    features[0, 5] = torch.nan
    values, _, _ = launch.masked_logsumexp(
        features,
        None,
        torch.zeros(1, 20).long(),
        None,
        temperature=0.07,
        pairs="all",
        tiles=SMALL,
    )
    assert values.isnan().all()


# --- the back end as the losses call it ---


def test_features_it_does_not_take():
    labels = torch.zeros(1, 4).long()
    for features, word in (
        (torch.zeros(1, 4, 8).double(), "float64"),
        (torch.zeros(1, 4, 513), "513"),
    ):
        with pytest.raises(ConfigError, match=f"{word}.*use backend='tiled'"):
            official.within_image_loss(features, labels, backend="triton")


def test_gradients_of_one_tensor_used_in_several_sets_add_up():
    anchors = unit(1, 20, 8, seed=0).requires_grad_()
    keys = unit(1, 30, 8, seed=1).requires_grad_()
    anchor_labels, key_labels = torch.arange(20)[None] % 2, torch.arange(30)[None] % 2

    def total(a, k, backend):
        return (
            paper.within_image_loss(a, k, anchor_labels, key_labels, backend=backend)
            + 2 * supcon_loss(a, anchor_labels, backend=backend)
            + 3 * official.within_image_loss(k, key_labels, backend=backend)
        )

    total(anchors, keys, "triton").backward()
    a, k = (f.detach().double().requires_grad_() for f in (anchors, keys))
    total(a, k, "plain").backward()
    assert_near(anchors.grad, a.grad, 2e-6, "anchors' gradient")
    assert_near(keys.grad, k.grad, 2e-6, "keys' gradient")


def test_differentiating_twice_is_refused():
    features, labels = unit(1, 8, 4, seed=0).requires_grad_(), torch.arange(8)[None] % 2
    for loss in (official.within_image_loss, supcon_loss):
        with pytest.raises(RuntimeError, match="twice"):
            torch.autograd.grad(
                loss(features, labels, backend="triton"), features, create_graph=True
            )


def test_operators_keep_the_rules_for_custom_operators():
    features, labels = unit(1, 8, 4, seed=0).requires_grad_(), torch.arange(8)[None] % 2
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(
        torch.ops.segnb.triton_official_losses,
        (features, labels, torch.zeros_like(labels), 0.07),
        test_utils=checks,
    )
    for keys, key_labels, pairs in (
        (features.detach().clone(), labels, "all"),
        (None, None, "not_self"),
    ):
        torch.library.opcheck(
            torch.ops.segnb.triton_logsumexp,
            (features, keys, labels, key_labels, 0.07, pairs),
            test_utils=checks,
        )
