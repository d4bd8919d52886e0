"""The playground of forces: what its picture says, and what its controls do."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from segnb import circle
from segnb.plots import circle_film, circle_forces
from segnb.widgets.playground import MANY_STEPS, Playground


def test_the_picture_says_who_pulls_and_who_pushes() -> None:
    # One partner of the own class to the left, one of another class to the right.
    scene = circle.Scene(
        angles=np.array([0.0, 1.0, -1.0, 0.0, 1.0, -1.0]),
        labels=np.array([0, 0, 1, 0, 0, 1]),
        vectors=np.array([0.5, -1.0]),
    )
    alt = circle_forces(scene, "paper", pixel=0).alt
    assert "1 partners pull" in alt
    assert "1 push" in alt


def test_force_times_temperature_compares_temperatures() -> None:
    scene = circle.scatter(seed=1)
    warm, cold = (
        circle.forces(scene, "cross-entropy", temperature=t).pairs * t for t in (3.0, 30.0)
    )
    # Far above the scores' range the softmax is flat: what is left does not depend on τ.
    np.testing.assert_allclose(warm, cold, atol=0.02)
    plain = circle_forces(scene, "cross-entropy", temperature=3.0).png()
    assert (
        plain
        != circle_forces(scene, "cross-entropy", temperature=3.0, times_temperature=True).png()
    )


def test_a_pixel_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="pixel is 24; it must be 0 to 23"):
        circle_forces(circle.scatter(), "paper", pixel=24)


def test_a_film_is_an_animated_png() -> None:
    scenes = circle.train(circle.scatter(), "supcon", steps=60, rate=1.0)
    film = circle_film([("supcon", scenes)], frames=4)
    picture = Image.open(io.BytesIO(film.png))
    assert picture.format == "PNG"
    assert picture.n_frames == 4
    assert f"at first SupCon {circle.fisher(scenes[0]):.1f}" in film.alt
    with pytest.raises(ValueError, match="one length"):
        circle_film([("supcon", scenes), ("paper", scenes[:-1])])


def test_steps_gather_and_new_pixels_begin_again() -> None:
    play = Playground()
    before = circle.fisher(play.scene)
    for _ in range(8):
        play.buttons[f"{MANY_STEPS} steps"].click()
    assert play.steps == 8 * MANY_STEPS
    assert circle.fisher(play.scene) > 4 * before
    play.buttons["new pixels"].click()
    assert play.steps == 0
    assert circle.fisher(play.scene) < 4 * before


def test_one_step_is_the_circles_own() -> None:
    play = Playground(rate=0.1)
    wanted = circle.step(play.scene, "paper", temperature=play.temperature.value, rate=0.1 * 12)
    play.buttons["step"].click()
    np.testing.assert_array_equal(play.scene.angles, wanted.angles)


def test_moving_moves_the_chosen_pixel_alone_and_from_where_it_lay() -> None:
    play = Playground()
    play.pixel.value = 3
    start = play.scene.angles.copy()
    play.move.value = 40.0
    play.move.value = 90.0
    moved = play.scene.angles - start
    assert moved[3] == pytest.approx(np.pi / 2)
    assert np.count_nonzero(moved) == 1
    play.pixel.value = 5
    assert play.move.value == 0.0
    np.testing.assert_array_equal(play.scene.angles - start, moved)


def test_every_control_redraws(capsys: pytest.CaptureFixture[str]) -> None:
    play = Playground()
    seen = {capsys.readouterr().out}
    for control, value in (
        (play.loss, "official"),
        (play.temperature, 1.0),
        (play.pixel, 4),
        (play.move, 60.0),
    ):
        control.value = value
        # Outside a kernel, what is displayed is printed.
        shown = capsys.readouterr().out
        assert "pixel views" in shown, control.description
        assert shown not in seen, control.description
        seen.add(shown)
