"""On a GPU the host never waits for the device: nothing asks a tensor there for its values.

Fake tensors stand in for the GPU's: they know shape, type and device, and raise when a value is
asked for (``.item()``, ``if tensor``, ``nonzero`` and the like).
"""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from segnb.losses import official, paper, supcon_loss
from segnb.losses.tiled import operators

SIZE, CHANNELS = 700, 16


@pytest.fixture(autouse=True)
def gpu_of_fakes():
    with FakeTensorMode():
        yield


def features(dtype=torch.float32):
    return torch.empty(2, SIZE, CHANNELS, device="cuda", dtype=dtype)


def labels():
    return torch.empty(2, SIZE, device="cuda", dtype=torch.int64)


def weights():
    return torch.empty(2, SIZE, device="cuda")


def test_fake_tensors_tell_of_a_wait():
    with pytest.raises(DataDependentOutputException):
        weights().sum().item()


@pytest.mark.parametrize("backend", ["plain", "tiled"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_forms(backend, reduction):
    f, y = features().requires_grad_(), labels()
    options = {"backend": backend, "reduction": reduction}
    for loss in (
        paper.within_image_loss(f, f, y, y, **options),
        paper.cross_image_loss(f, f, f, y, y, y, **options),
        paper.batch_loss(f, y, **options),
        official.within_image_loss(f, y, **options),
        official.cross_image_loss(f, f, y, y, **options),
        supcon_loss(f, y, **options),
    ):
        assert loss.device.type == "cuda"


def test_passes_of_the_tiles():
    """What the operators hide from fake tensors: both passes of each form."""
    f, y, w = features(), labels(), weights()
    images = torch.zeros_like(y)
    for results in (
        operators._each_image(
            operators._logsumexp_image, f, f, y, y, w, temperature=0.07, split=300
        ),
        operators._each_image(operators._self_image, f, y, w, temperature=0.07),
        operators._each_image(
            operators._official_image, f, y, images, w, temperature=0.07, with_gradient=True
        ),
    ):
        assert results[0].shape == (2, SIZE)
        assert all(gradient.shape == f.shape for gradient in results[1:])
    assert operators._sums_of_sorted(f, y, y).shape == f.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_launches_of_the_kernels(dtype, monkeypatch):
    pytest.importorskip("triton")
    from segnb.losses.triton import kernels, launch

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **options: None

    for name in ("pack", "plan_tiles", "official_forward", "official_backward"):
        monkeypatch.setattr(kernels, name, Kernel())
    for name in ("logsumexp_forward", "logsumexp_backward"):
        monkeypatch.setattr(kernels, name, Kernel())
    monkeypatch.setattr(launch, "_shared_memory", lambda device: 227 << 10)
    monkeypatch.setattr(torch.cuda, "device_of", lambda tensor: contextlib.nullcontext())
    f, y, w = features(dtype), labels(), weights()
    backward = {"width": CHANNELS, "dtype": dtype, "temperature": 0.07}
    _, packed, state = launch.official_anchor_losses(f, y, y, temperature=0.07)
    gradient = launch.official_anchor_losses_backward(w, packed, state, **backward)
    assert gradient.shape == f.shape
    for keys, key_labels in ((None, None), (f, y)):
        backward["pairs"] = pairs = "not_self" if keys is None else "all"
        logs, *packed_sets = launch.masked_logsumexp(
            f, keys, y, key_labels, temperature=0.07, pairs=pairs
        )
        gradient, _ = launch.masked_logsumexp_backward(w, logs, *packed_sets, **backward)
        assert gradient.shape == f.shape
