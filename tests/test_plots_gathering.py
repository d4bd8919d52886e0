"""The film of stage 1: one pair of axes for all moments, and what its alternative text says."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from segnb import datasets
from segnb.plots.gathering import Gathering, gathering_film, spread, together


def made(moments: int = 3, title: str = "beaches") -> Gathering:
    """Classes that gather: noise that shrinks around one direction a class."""
    draw = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 8)
    towards = np.eye(5)[labels]
    vectors = []
    for step in range(moments):
        noisy = towards + draw.normal(size=towards.shape) * (2.0 if step == 0 else 0.1 / step)
        vectors.append((10 * step, noisy / np.linalg.norm(noisy, axis=1, keepdims=True)))
    return Gathering(title, datasets.info("shapes"), labels, vectors)


def test_axes_are_those_of_the_end_and_stay() -> None:
    one = made()
    first, *_, last = one.in_plane()
    assert first[0] == 0
    assert last[1].shape == (24, 2)
    # At the end the classes lie apart; the projection is linear and shared.
    means = np.stack([last[1][one.labels == c].mean(0) for c in range(3)])
    apart = np.linalg.norm(means[:, None] - means[None], axis=2)
    assert apart[np.triu_indices(3, 1)].min() > 0.9
    twice = Gathering(one.title, one.info, one.labels, [one.moments[0], *one.moments])
    np.testing.assert_allclose(twice.in_plane()[0][1], twice.in_plane()[1][1])


def test_tightness_is_the_mean_cosine_of_two_pixels() -> None:
    one = made()
    unit = one.moments[0][1]
    wanted = []
    for c in range(3):
        own = unit[one.labels == c]
        wanted.append(np.mean([own[i] @ own[j] for i in range(8) for j in range(8) if i != j]))
    assert one.tightness(0) == pytest.approx(np.mean(wanted))
    assert one.tightness(-1) > 0.95


def test_the_film_has_a_frame_a_moment_and_says_what_happens() -> None:
    film = gathering_film([made(), made(title="streets")])
    picture = Image.open(io.BytesIO(film.png))
    assert getattr(picture, "n_frames", 1) == 3
    assert picture.size == film.size
    assert "beaches: mean cosine of two pixels of one class" in film.alt
    assert "at step 20" in film.alt
    with pytest.raises(ValueError, match="as many moments"):
        gathering_film([made(), made(moments=2)])


def test_classes_that_lie_together_are_named_together() -> None:
    places = np.array([[0.0, 0.0], [0.1, 0.0], [0.2, 0.0], [1.0, 0.0], [-1.0, 0.5]])
    labels = np.array([4, 0, 2, 1, 3]).repeat(3)
    groups = together(labels, places.repeat(3, axis=0), within=0.15)
    # 4 and 2 are not neighbours, but both are neighbours of 0.
    assert sorted([*group] for group in groups) == [[0, 2, 4], [1], [3]]
    (alone,) = [group for group in groups if 1 in group]
    np.testing.assert_allclose(alone[1], [1.0, 0.0])


@pytest.mark.parametrize("angles", [[0.0, 0.1, 0.2], [-3.1, 3.1, 0.0], [1.0], [2.0, 2.0]])
def test_names_keep_their_distance_around_the_circle(angles: list[float]) -> None:
    turned = spread(np.array(angles), gap=0.4)
    between = np.abs(np.angle(np.exp(1j * (turned[:, None] - turned[None]))))
    assert between[~np.eye(len(angles), dtype=bool)].min(initial=9) > 0.39
    moved = np.abs(np.angle(np.exp(1j * (turned - np.array(angles)))))
    assert moved.max() < 0.45
    assert spread(np.array([0.0, 1.0]), gap=0.4).tolist() == [0.0, 1.0]
