"""The circle's losses and forces are those of the package, and training gathers the classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segnb import circle
from segnb.losses import official, paper, supcon_loss

TAU = 0.3


def points(angles: Tensor) -> Tensor:
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def package_loss(name: circle.Loss, angles: Tensor, vectors: Tensor, scene: circle.Scene) -> Tensor:
    """The same loss by the package's own functions, in float64."""
    n = scene.pixels
    labels = torch.tensor(scene.labels)
    f = points(angles)
    if name == "cross-entropy":
        return F.cross_entropy(f @ points(vectors).T / TAU, labels)
    if name == "supcon":
        return supcon_loss(f[None], labels[None], temperature=TAU)
    if name == "infonce":
        own = torch.arange(n).repeat(2)
        return supcon_loss(f[None], own[None], temperature=TAU)
    first, second = f[None, :n], f[None, n:]
    if name == "paper":
        return paper.within_image_loss(
            first, second, labels[None, :n], labels[None, n:], temperature=TAU
        )
    one = official.within_image_loss(first, labels[None, :n], temperature=TAU)
    return one + official.within_image_loss(second, labels[None, n:], temperature=TAU)


@pytest.mark.parametrize("name", circle.LOSS_NAMES)
@pytest.mark.parametrize("seed", [0, 1])
def test_loss_and_forces_are_the_packages(name: circle.Loss, seed: int) -> None:
    scene = circle.scatter(classes=3, pixels=4, seed=seed)
    angles = torch.tensor(scene.angles, requires_grad=True)
    vectors = torch.tensor(scene.vectors, requires_grad=True)
    loss = package_loss(name, angles, vectors, scene)
    loss.backward()
    found = circle.forces(scene, name, temperature=TAU)
    assert found.loss == pytest.approx(loss.item(), rel=1e-9)
    assert angles.grad is not None
    np.testing.assert_allclose(found.total, -angles.grad.numpy(), atol=1e-9)
    if name == "cross-entropy":
        assert vectors.grad is not None
        np.testing.assert_allclose(found.vectors, -vectors.grad.numpy(), atol=1e-9)


def test_own_class_pulls_and_other_classes_push() -> None:
    scene = circle.scatter(seed=3)
    weights = circle.forces(scene, "supcon").weights
    same = scene.labels[:, None] == scene.labels[None, :]
    assert (weights[~same] > 0).all()
    # A positive pulls by its share less 1/|P|: none of them can push by more than its share.
    assert weights[same].sum() < 0


@pytest.mark.parametrize("name", ["supcon", "paper", "official", "cross-entropy"])
def test_training_gathers_the_classes(name: circle.Loss) -> None:
    scene = circle.scatter(seed=0)
    last = circle.train(scene, name, steps=400, temperature=0.5, rate=0.3)[-1]
    assert (
        circle.forces(last, name, temperature=0.5).loss
        < circle.forces(scene, name, temperature=0.5).loss
    )
    assert circle.fisher(last) > 4 * circle.fisher(scene)


def test_infonce_does_not_know_the_classes() -> None:
    scene = circle.scatter(seed=0)
    other = replace(scene, labels=scene.labels[::-1].copy())
    np.testing.assert_array_equal(
        circle.forces(scene, "infonce").total, circle.forces(other, "infonce").total
    )


def test_a_small_step_lowers_the_loss() -> None:
    for name in circle.LOSS_NAMES:
        scene = circle.scatter(seed=5)
        after = circle.step(scene, name, temperature=TAU, rate=1e-3)
        assert (
            circle.forces(after, name, temperature=TAU).loss
            < circle.forces(scene, name, temperature=TAU).loss
        )


def test_fisher_by_hand() -> None:
    # Two classes at 0 and 90 degrees, each with one pixel 0.2 to either side.
    angles = np.array([-0.2, np.pi / 2 - 0.2, 0.2, np.pi / 2 + 0.2])
    scene = circle.Scene(angles=angles, labels=np.array([0, 1, 0, 1]), vectors=np.zeros(2))
    within = np.sin(0.2) ** 2
    assert circle.fisher(scene) == pytest.approx(2 * np.cos(0.2) ** 2 / within)


def test_bad_values_are_named() -> None:
    scene = circle.scatter()
    with pytest.raises(ValueError, match="loss is 'nce'"):
        circle.forces(scene, "nce")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="above 0"):
        circle.forces(scene, "supcon", temperature=0)
