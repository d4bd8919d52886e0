"""Every form and back end against loops over pixels in float64, and what the forms promise."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segnb.losses import official, paper, supcon_loss
from segnb.losses.pixels import pixel_sets
from segnb.losses.tiled import operators, passes

IGNORE = 255
BACKENDS = ["plain", "tiled"]
if os.environ.get("TRITON_INTERPRET") == "1":
    # test_losses_back_ends.py runs the edge cases so, in a process of its own.
    BACKENDS.append("triton")


# ------------------------------------------------------------- an oracle that shares no code


def dot(f: list[float], g: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(f, g, strict=True))


def mean_over_anchors(losses: list[float]) -> float:
    return math.fsum(losses) / len(losses) if losses else 0.0


def oracle_logsumexp_form(
    anchors: Tensor,
    keys: Tensor,
    others: Tensor | None,
    anchor_labels: Tensor,
    key_labels: Tensor,
    other_labels: Tensor | None,
    *,
    temperature: float,
    exclude_self: bool = False,
) -> float:
    """Paper form and SupCon for one image: plain Python numbers."""
    losses = []
    for p, f in enumerate(anchors.double().tolist()):
        label = int(anchor_labels[p])
        positives, denominator = [], []
        for k, g in enumerate(keys.double().tolist()):
            if int(key_labels[k]) == IGNORE or (exclude_self and k == p):
                continue
            score = dot(f, g) / temperature
            denominator.append(score)
            if int(key_labels[k]) == label:
                positives.append(score)
        for k, g in enumerate([] if others is None else others.double().tolist()):
            if int(other_labels[k]) == label:
                positives.append(dot(f, g) / temperature)
                denominator.append(positives[-1])
        if label == IGNORE or not positives:
            continue
        top = max(denominator)
        log_denominator = top + math.log(math.fsum(math.exp(s - top) for s in denominator))
        losses.append(-math.fsum(s - log_denominator for s in positives) / len(positives))
    return mean_over_anchors(losses)


def oracle_official(
    features: Tensor,
    labels: Tensor,
    images: Tensor,
    *,
    temperature: float,
) -> float:
    """Official form for one pair of images."""
    losses = []
    rows = features.double().tolist()
    for p, f in enumerate(rows):
        label = int(labels[p])
        if label == IGNORE:
            continue
        scores = [dot(f, g) / temperature for g in rows]
        negatives = math.fsum(
            math.exp(s)
            for s, y, i in zip(scores, labels.tolist(), images.tolist(), strict=True)
            if y not in (label, IGNORE) and i == int(images[p])
        )
        terms = [
            math.log1p(negatives * math.exp(-s))
            for s, y in zip(scores, labels.tolist(), strict=True)
            if y == label
        ]
        losses.append(math.fsum(terms) / len(terms))
    return mean_over_anchors(losses)


# ----------------------------------------------------------------------------------- helpers


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).to(
        dtype
    )


def labels_of(*shape: int, classes: int = 3, ignored: float = 0.2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + seed)
    labels = torch.randint(0, classes, shape, generator=generator)
    return labels.masked_fill(torch.rand(shape, generator=generator) < ignored, IGNORE)


def value_and_gradients(function: Callable[..., Tensor], *features: Tensor) -> list[Tensor]:
    leaves = [f.detach().clone().requires_grad_() for f in features]
    result = function(*leaves)
    (result * torch.linspace(0.5, 1.5, result.numel()).reshape(result.shape)).sum().backward()
    return [result.detach(), *(leaf.grad for leaf in leaves)]


def relative_error(value: Tensor, expected: Tensor) -> float:
    return float((value.double() - expected).norm() / expected.norm().clamp_min(1e-30))


#: Every form as a function of its features, its options and a size.
Form = tuple[Callable[..., Tensor], tuple[Tensor, ...]]


def forms(
    sizes: tuple[int, int, int] = (9, 7, 8),
    channels: int = 4,
    classes: int = 3,
    ignored: float = 0.2,
    dtype: torch.dtype = torch.float64,
    batch: int = 2,
) -> dict[str, Form]:
    f = [unit(batch, n, channels, seed=i, dtype=dtype) for i, n in enumerate(sizes)]
    y = [labels_of(batch, n, classes=classes, ignored=ignored, seed=i) for i, n in enumerate(sizes)]
    return {
        "paper within": (
            lambda a, k, **o: paper.within_image_loss(a, k, y[0], y[1], **o),
            (f[0], f[1]),
        ),
        "paper cross": (
            lambda a, k, j, **o: paper.cross_image_loss(a, k, j, *y, **o),
            (f[0], f[1], f[2]),
        ),
        "paper batch": (lambda a, **o: paper.batch_loss(a, y[0], **o), (f[0],)),
        "supcon": (lambda a, **o: supcon_loss(a, y[0], **o), (f[0],)),
        "official within": (lambda a, **o: official.within_image_loss(a, y[0], **o), (f[0],)),
        "official cross": (
            lambda a, k, **o: official.cross_image_loss(a, k, y[0], y[1], **o),
            (f[0], f[1]),
        ),
    }


FORMS = list(forms())


# ------------------------------------------------------------------------------------ values


@pytest.mark.parametrize("backend", BACKENDS)
def test_known_values_of_the_official_form(backend):
    ids = sorted([-2, -1] * 2 + [1] * 4 + [2] * 4 + [3] * 4)
    features = torch.tensor(ids, dtype=torch.float64)[None, :, None].repeat(2, 1, 1)
    labels = torch.tensor(ids).masked_fill(torch.tensor(ids) < 0, IGNORE).repeat(2, 1)
    within = official.within_image_loss(features, labels, temperature=1.0, backend=backend)
    cross = official.cross_image_loss(
        features, 2 * features, labels, labels, temperature=1.0, backend=backend
    )
    assert float(within) == pytest.approx(2.450321686, abs=1e-8)
    assert float(cross) == pytest.approx(5.460273578, abs=1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_values_against_loops_over_pixels(backend, temperature):
    f = [unit(2, n, 5, seed=n) for n in (11, 9, 7)]
    y = [labels_of(2, n, seed=n) for n in (11, 9, 7)]
    options = {"temperature": temperature, "backend": backend}

    def mean_over_images(loss_of: Callable[[int], float]) -> float:
        return (loss_of(0) + loss_of(1)) / 2

    within = paper.within_image_loss(f[0], f[1], y[0], y[1], **options)
    assert float(within) == pytest.approx(
        mean_over_images(
            lambda b: oracle_logsumexp_form(
                f[0][b],
                f[1][b],
                None,
                y[0][b],
                y[1][b],
                None,
                temperature=temperature,
            )
        ),
        rel=1e-10,
    )
    cross = paper.cross_image_loss(*f, *y, **options)
    assert float(cross) == pytest.approx(
        mean_over_images(
            lambda b: oracle_logsumexp_form(
                *(x[b] for x in f),
                *(x[b] for x in y),
                temperature=temperature,
            )
        ),
        rel=1e-10,
    )
    bag, bag_labels = f[0].flatten(0, 1), y[0].flatten()
    expected_bag = oracle_logsumexp_form(
        bag,
        bag,
        None,
        bag_labels,
        bag_labels,
        None,
        temperature=temperature,
        exclude_self=True,
    )
    batch = paper.batch_loss(f[0], y[0], **options)
    assert float(batch) == pytest.approx(expected_bag, rel=1e-10)
    supcon = supcon_loss(bag, bag_labels, **options)
    assert float(supcon) == pytest.approx(expected_bag, rel=1e-10)

    def official_of(b: int) -> float:
        images = torch.tensor([0] * 11 + [1] * 9)
        return oracle_official(
            torch.cat([f[0][b], f[1][b]]),
            torch.cat([y[0][b], y[1][b]]),
            images,
            temperature=temperature,
        )

    official_cross = official.cross_image_loss(f[0], f[1], y[0], y[1], **options)
    assert float(official_cross) == pytest.approx(mean_over_images(official_of), rel=1e-10)
    official_within = official.within_image_loss(f[0], y[0], **options)
    assert float(official_within) == pytest.approx(
        mean_over_images(
            lambda b: oracle_official(
                f[0][b],
                y[0][b],
                torch.zeros(11),
                temperature=temperature,
            )
        ),
        rel=1e-10,
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_by_finite_differences(form, reduction, backend):
    function, features = forms()[form]
    leaves = tuple(f.clone().requires_grad_() for f in features)
    assert torch.autograd.gradcheck(
        lambda *f: function(*f, temperature=0.3, reduction=reduction, backend=backend), leaves
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 5e-7), (torch.bfloat16, 2e-3)]
)
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_tiles_against_the_plain_form_over_many_tiles(form, dtype, bound, temperature):
    # Sizes that no tile divides, few and many classes together: pure, mixed and skipped tiles.
    function, features = forms((1100, 577, 641), 17, 7, dtype=dtype, batch=1)[form]
    options = {"temperature": temperature}
    got = value_and_gradients(lambda *f: function(*f, backend="tiled", **options), *features)
    wide = [f.double() for f in features]
    expected = value_and_gradients(lambda *f: function(*f, backend="plain", **options), *wide)
    value_bound = max(min(bound, 1e-6), 1e-12)
    assert relative_error(got[0], expected[0]) < value_bound
    for gradient, exact, feature in zip(got[1:], expected[1:], features, strict=True):
        assert gradient.dtype == feature.dtype
        assert relative_error(gradient, exact) < bound


@pytest.mark.parametrize("form", FORMS)
def test_many_small_classes_share_tiles(form):
    function, features = forms((700, 650, 600), 6, 150, batch=1)[form]
    got = value_and_gradients(lambda *f: function(*f, backend="tiled"), *features)
    expected = value_and_gradients(lambda *f: function(*f, backend="plain"), *features)
    for value, exact in zip(got, expected, strict=True):
        assert relative_error(value, exact) < 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_masked_tiles_of_other_devices_and_shifted_exponents(form, monkeypatch):
    """What runs where the host must not wait for labels, run here."""
    monkeypatch.setattr(operators, "knows_labels", lambda tensor: False)
    monkeypatch.setattr(passes, "fits_unshifted", lambda first, second: False)
    function, features = forms((700, 450, 330), 6, 5, batch=1)[form]
    got = value_and_gradients(lambda *f: function(*f, backend="tiled"), *features)
    expected = value_and_gradients(lambda *f: function(*f, backend="plain"), *features)
    for value, exact in zip(got, expected, strict=True):
        assert relative_error(value, exact) < 1e-10


# ---------------------------------------------------------------------------------- properties


@pytest.mark.parametrize("form", FORMS)
@given(
    n=st.integers(1, 40),
    m=st.integers(1, 40),
    o=st.integers(1, 40),
    channels=st.integers(1, 9),
    classes=st.integers(1, 6),
    ignored=st.sampled_from([0.0, 0.3, 1.0]),
    temperature=st.sampled_from([0.01, 0.07, 1.0]),
)
@settings(max_examples=25, deadline=None)
def test_back_ends_agree(form, n, m, o, channels, classes, ignored, temperature):
    function, features = forms((n, m, o), channels, classes, ignored)[form]
    got, expected = (
        value_and_gradients(lambda *f: function(*f, temperature=temperature, backend=b), *features)  # noqa: B023
        for b in ("tiled", "plain")
    )
    for value, exact in zip(got, expected, strict=True):
        assert torch.isfinite(value).all()
        torch.testing.assert_close(value, exact, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 30), classes=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_order_of_pixels_does_not_matter(backend, seed, n, classes):
    f, y = unit(2, n, 3, seed=seed), labels_of(2, n, classes=classes, seed=seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    for loss in (official.within_image_loss, supcon_loss, paper.batch_loss):
        each = loss(f, y, reduction="none", backend=backend)
        moved = loss(f[:, order], y[:, order], reduction="none", backend=backend)
        torch.testing.assert_close(moved, each[:, order], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 20), m=st.integers(1, 20))
@settings(max_examples=20, deadline=None)
def test_official_cross_is_symmetric_in_its_images(backend, seed, n, m):
    f, g = unit(1, n, 3, seed=seed), unit(1, m, 3, seed=seed + 1)
    y, z = labels_of(1, n, seed=seed), labels_of(1, m, seed=seed + 1)
    there = official.cross_image_loss(f, g, y, z, backend=backend)
    back = official.cross_image_loss(g, f, z, y, backend=backend)
    torch.testing.assert_close(there, back, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", [f for f in FORMS if f != "paper batch"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_is_the_mean_of_its_images(form, backend):
    losses = []
    for images in (slice(0, 1), slice(1, 2), slice(0, 2)):
        f = [unit(2, 12, 4, seed=i)[images] for i in range(3)]
        y = [labels_of(2, 12, seed=i)[images] for i in range(3)]
        losses.append(
            {
                "paper within": lambda: paper.within_image_loss(*f[:2], *y[:2], backend=backend),  # noqa: B023
                "paper cross": lambda: paper.cross_image_loss(*f, *y, backend=backend),  # noqa: B023
                "supcon": lambda: supcon_loss(f[0], y[0], backend=backend),  # noqa: B023
                "official within": lambda: official.within_image_loss(f[0], y[0], backend=backend),  # noqa: B023
                "official cross": lambda: official.cross_image_loss(
                    *f[:2],  # noqa: B023
                    *y[:2],  # noqa: B023
                    backend=backend,
                ),
            }[form]()
        )
    torch.testing.assert_close((losses[0] + losses[1]) / 2, losses[2], rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------------------------- edge cases


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(
    ("sizes", "classes", "ignored"),
    [((6, 6, 6), 2, 1.0), ((6, 5, 4), 1, 0.0), ((1, 1, 1), 1, 0.0), ((1, 1, 1), 5, 0.0)],
    ids=["all ignored", "one class", "one pixel", "one pixel, other class"],
)
def test_degenerate_sets_are_finite(form, backend, reduction, sizes, classes, ignored):
    function, features = forms(sizes, 4, classes, ignored, torch.float32)[form]
    value, *gradients = value_and_gradients(
        lambda *f: function(*f, backend=backend, reduction=reduction), *features
    )
    assert torch.isfinite(value).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    if ignored == 1.0 or (form.startswith("official") and classes == 1):
        assert (value == 0).all()
        assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_positive_counts_nowhere(backend):
    f = unit(1, 4, 3).requires_grad_()
    k = unit(1, 4, 3, seed=1).requires_grad_()
    y = torch.tensor([[0, 1, 2, 3]])
    loss = paper.within_image_loss(f, k, y, y + 10, backend=backend)
    loss.backward()
    assert loss.item() == 0.0
    assert (f.grad == 0).all()
    assert (k.grad == 0).all()
    assert supcon_loss(f, y, backend=backend).item() == 0.0
    # One image without an anchor counts as 0 in the mean over images.
    both = torch.cat([f, f]).detach()
    labels = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
    alone = supcon_loss(both[1:], labels[1:], backend=backend)
    torch.testing.assert_close(supcon_loss(both, labels, backend=backend), alone / 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ignored_border_pixels_change_nothing(backend):
    f, y = unit(1, 30, 4), labels_of(1, 30, ignored=0.0)
    border = torch.full((1, 9), IGNORE)
    g, z = torch.cat([f, unit(1, 9, 4, seed=5)], dim=1), torch.cat([y, border], dim=1)
    for loss in (official.within_image_loss, supcon_loss, paper.batch_loss):
        torch.testing.assert_close(loss(g, z, backend=backend), loss(f, y, backend=backend))
    torch.testing.assert_close(
        paper.within_image_loss(g, g, z, z, backend=backend),
        paper.within_image_loss(f, f, y, y, backend=backend),
    )


@pytest.mark.parametrize("channels", [1, 3, 64, 128, 256, 257, 512])
@pytest.mark.parametrize("form", ["paper cross", "official cross", "supcon"])
def test_any_number_of_channels(form, channels):
    function, features = forms((300, 290, 280), channels, 4, dtype=torch.float32, batch=1)[form]
    got = value_and_gradients(lambda *f: function(*f, backend="tiled"), *features)
    wide = [f.double() for f in features]
    expected = value_and_gradients(lambda *f: function(*f, backend="plain"), *wide)
    for value, exact in zip(got, expected, strict=True):
        assert relative_error(value, exact) < 1e-6


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_small_temperature_is_safe_in_float32(form, backend):
    function, features = forms((40, 35, 30), 16, 3, dtype=torch.float32)[form]
    got = value_and_gradients(lambda *f: function(*f, temperature=0.01, backend=backend), *features)
    wide = [f.double() for f in features]
    expected = value_and_gradients(
        lambda *f: function(*f, temperature=0.01, backend="plain"), *wide
    )
    for value, exact in zip(got, expected, strict=True):
        assert relative_error(value, exact) < 2e-5  # a score of 100 has a rounding error of 8e-6


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_float16_at_the_papers_temperature(form, backend):
    function, features = forms((40, 35, 30), 64, 3, dtype=torch.float16)[form]
    got = value_and_gradients(lambda *f: function(*f, backend=backend), *features)
    wide = [f.double() for f in features]
    expected = value_and_gradients(lambda *f: function(*f, backend="plain"), *wide)
    assert got[0].dtype == torch.float32
    assert relative_error(got[0], expected[0]) < 1e-6
    for gradient, exact in zip(got[1:], expected[1:], strict=True):
        assert gradient.dtype == torch.float16
        assert relative_error(gradient, exact) < 2e-3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_does_not_reach_the_arithmetic(form, backend):
    function, features = forms((40, 35, 30), 16, 3, dtype=torch.float32)[form]
    outside = value_and_gradients(lambda *f: function(*f, backend=backend), *features)
    leaves = [f.clone().requires_grad_() for f in features]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = function(*leaves, backend=backend)
    (0.5 * loss).backward()
    assert loss.dtype == torch.float32
    inside = [loss.detach(), *(leaf.grad for leaf in leaves)]
    for value, expected in zip(inside, outside, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_maps_and_lists_of_pixels_are_one(backend, memory_format):
    f, y = unit(2, 30, 8, dtype=torch.float32), labels_of(2, 30)
    maps = f.reshape(2, 5, 6, 8).permute(0, 3, 1, 2).contiguous(memory_format=memory_format)
    for loss in (official.within_image_loss, supcon_loss, paper.batch_loss):
        listed = value_and_gradients(
            lambda x: loss(x, y, reduction="none", backend=backend),  # noqa: B023
            f,
        )
        mapped = value_and_gradients(
            lambda x: loss(x, y.view(2, 5, 6), reduction="none", backend=backend),  # noqa: B023
            maps,
        )
        assert mapped[0].shape == (2, 5, 6)
        torch.testing.assert_close(mapped[0].flatten(1), listed[0])
        torch.testing.assert_close(mapped[1].flatten(2).transpose(1, 2), listed[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_features_and_labels(backend):
    wide, labels = unit(2, 40, 12, dtype=torch.float32), labels_of(2, 40)
    f, y = F.normalize(wide[:, ::2, 1::3], dim=2), labels[:, ::2]
    strided = wide.clone()
    strided[:, ::2, 1::3] = f
    assert not strided[:, ::2, 1::3].is_contiguous()
    torch.testing.assert_close(
        official.within_image_loss(strided[:, ::2, 1::3], y, backend=backend),
        official.within_image_loss(f.contiguous(), y.contiguous(), backend=backend),
    )


def test_maps_are_not_copied_where_pixels_lie_as_they_are_wanted():
    maps, labels = torch.randn(2, 8, 5, 6), labels_of(2, 5, 6)
    for features in (maps, maps.contiguous(memory_format=torch.channels_last)):
        (pixels,) = pixel_sets(features=(features, labels), temperature=0.07, ignore_index=IGNORE)
        assert pixels.features.data_ptr() == features.data_ptr()


@pytest.mark.parametrize(
    "loss",
    [
        lambda f, y, b: paper.cross_image_loss(f, f, f, y, y, y, backend=b),
        lambda f, y, b: official.cross_image_loss(f, f, y, y, backend=b),
        lambda f, y, b: supcon_loss(f, y, backend=b),
    ],
    ids=["paper cross", "official cross", "supcon"],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_labels_laid_out_by_column_raise_no_warning(loss, backend):
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # by default torch warns once a process
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            loss(unit(2, 3, 4, dtype=torch.float32), labels_of(3, 2).T, backend)
    finally:
        torch.set_warn_always(before)


@pytest.mark.parametrize("number", [0, 1, 127, 128, 129, 700])
@pytest.mark.parametrize("classes", [1, 2, 40])
@pytest.mark.parametrize("device_like_gpu", [False, True])
def test_class_sums(number, classes, device_like_gpu, monkeypatch):
    if device_like_gpu:
        monkeypatch.setattr(operators, "knows_labels", lambda tensor: False)
        monkeypatch.setattr(operators, "CLASS_SUM_VALUES", 2 * 3 * number)  # two images, then one
    generator = torch.Generator().manual_seed(number)
    values = torch.randn(3, number, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (3, number), generator=generator)
    labels[:, : number // 2] = 7  # a class that begins in one block and ends in a later one
    queries = torch.randint(-1, classes + 1, (3, 50), generator=generator)
    expected = (queries[:, :, None] == labels[:, None, :]).double() @ values
    torch.testing.assert_close(operators.class_sums(values, labels, queries), expected)


def test_class_sums_of_a_small_class_beside_a_large_one(monkeypatch):
    """A difference of running sums in float32 would lose the small classes' digits."""
    monkeypatch.setattr(operators, "knows_labels", lambda tensor: False)
    values = 1 + 0.05 * torch.randn(1, 20_000, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(1, 20_000, dtype=torch.long)
    labels[0, ::500] = 1 + torch.arange(40) // 2
    queries = torch.arange(21)[None]
    exact = (queries[0, :, None] == labels).double() @ values[0].double()
    torch.testing.assert_close(
        operators.class_sums(values, labels, queries)[0].double(), exact, rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("form", FORMS)
def test_deterministic_bit_for_bit(form):
    function, features = forms((700, 650, 600), 16, 4, dtype=torch.float32, batch=1)[form]
    first, second = (
        value_and_gradients(lambda *f: function(*f, backend="tiled"), *features) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_second_derivatives_are_refused_by_tiles(form):
    function, features = forms()[form]
    leaves = [f.clone().requires_grad_() for f in features]
    loss = function(*leaves, backend="tiled").sum()
    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        torch.autograd.grad(loss, leaves, create_graph=True)


@pytest.mark.parametrize("form", FORMS)
def test_no_gradient_wanted(form):
    function, features = forms()[form]
    with torch.no_grad():
        quiet = function(*features, backend="tiled")
    assert not quiet.requires_grad
    torch.testing.assert_close(quiet, function(*features, backend="plain"))


@pytest.mark.parametrize("form", FORMS)
def test_gradient_of_one_set_alone(form):
    function, features = forms()[form]
    for wanted in range(len(features)):
        grads = []
        for backend in BACKENDS:
            leaves = [f.clone().requires_grad_(i == wanted) for i, f in enumerate(features)]
            function(*leaves, backend=backend).backward()
            grads.append(leaves[wanted].grad)
        torch.testing.assert_close(*grads)


# -------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("temperature", [0.0, -0.1, 1e-7, float("nan"), float("inf")])
@pytest.mark.parametrize("form", FORMS)
def test_unusable_temperature(form, temperature):
    function, features = forms()[form]
    with pytest.raises(ValueError, match=f"temperature .*{temperature}"):
        function(*features, temperature=temperature)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_features_that_are_not_finite(form, bad, backend):
    function, features = forms()[form]
    features[-1][0, 0, 0] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        function(*features, backend=backend)


def test_shapes_types_devices_and_choices():
    f, y = unit(2, 6, 4), labels_of(2, 6)
    with pytest.raises(ValueError, match=r"need labels of shape \(2, 6\), got \(2, 5\)"):
        official.within_image_loss(f, y[:, :5])
    with pytest.raises(ValueError, match=r"must be \[B, N, D\] or \[B, D, H, W\]"):
        official.within_image_loss(f[0, 0], y)
    with pytest.raises(ValueError, match="anchors and keys differ in channels: 4 and 3"):
        paper.within_image_loss(f, f[..., :3], y, y)
    with pytest.raises(ValueError, match="features1 and features2 differ in batch size: 2 and 1"):
        official.cross_image_loss(f, f[:1], y, y[:1])
    with pytest.raises(ValueError, match="differ in dtype"):
        paper.within_image_loss(f, f.float(), y, y)
    with pytest.raises(ValueError, match="features are on meta, their labels on cpu"):
        official.within_image_loss(f.to("meta"), y)
    with pytest.raises(ValueError, match="no images or no channels"):
        supcon_loss(f[:0], y[:0])
    with pytest.raises(TypeError, match="labels of features must be integers"):
        official.within_image_loss(f, y.float())
    for pair in ((f, y.numpy()), (f.numpy(), y)):
        with pytest.raises(TypeError, match=r"must be a tensor, got ndarray: torch\.as_tensor"):
            official.within_image_loss(*pair)
    with pytest.raises(TypeError, match="must be floating point"):
        official.within_image_loss(f.long(), y)
    with pytest.raises(ValueError, match="backend must be one of"):
        supcon_loss(f, y, backend="fast")
    with pytest.raises(ValueError, match="reduction must be one of"):
        supcon_loss(f, y, reduction="sum")


# ------------------------------------------------------------------------------------ compiled


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_compiles_without_a_graph_break(form, reduction, backend):
    function, features = forms(dtype=torch.float32)[form]
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *f: function(*f, backend=backend, reduction=reduction),
        fullgraph=True,
        backend="aot_eager",
    )
    eager = value_and_gradients(
        lambda *f: function(*f, backend=backend, reduction=reduction), *features
    )
    for value, expected in zip(value_and_gradients(compiled, *features), eager, strict=True):
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize(
    ("operator", "sets", "arguments"),
    [
        ("logsumexp_total", 2, (0.1, 5, True)),
        ("self_logsumexp_total", 1, (0.1, True)),
        ("official_total", 1, (0.1, True)),
        ("positive_total", 2, (True,)),
    ],
)
def test_operators_keep_the_library_contract(operator, sets, arguments):
    sizes = (9, 7)[:sets]
    tensors = [unit(1, n, 3, seed=n).requires_grad_() for n in sizes]
    tensors += [labels_of(1, n, seed=n) for n in sizes]
    if operator.startswith("official"):
        tensors.append(torch.zeros(1, 9, dtype=torch.long))
    tensors.append(torch.rand(1, 9, dtype=torch.float64))
    torch.library.opcheck(
        getattr(torch.ops.segnb, operator).default,
        (*tensors, *arguments),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


# Labels below zero, which mark void pixels elsewhere


@pytest.mark.parametrize("kind", ["official", "paper within", "paper cross", "batch", "supcon"])
@pytest.mark.parametrize("void", [-1, -100])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int8])
def test_a_negative_label_is_void_only_if_it_is_said_to_be(
    kind: str, void: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    f = F.normalize(torch.randn(2, 30, 8, generator=generator), dim=2)
    true = torch.randint(3, (2, 30), generator=generator)
    marked = torch.arange(30).expand(2, 30) % 4 == 0

    def loss(label: int, labels_of: torch.dtype, **options: int) -> Tensor:
        y = true.masked_fill(marked, label).to(labels_of)
        call = {
            "official": lambda: official.within_image_loss(f, y, **options),
            "paper within": lambda: paper.within_image_loss(f, f, y, y, **options),
            "paper cross": lambda: paper.cross_image_loss(f, f, f, y, y, y, **options),
            "batch": lambda: paper.batch_loss(f, y, **options),
            "supcon": lambda: supcon_loss(f, y, **options),
        }
        return call[kind]()

    with pytest.raises(ValueError, match=rf"hold {void}, and ignore_index is 255: .*={void}\)"):
        loss(void, dtype)
    assert torch.equal(loss(void, dtype, ignore_index=void), loss(IGNORE, torch.int64))
