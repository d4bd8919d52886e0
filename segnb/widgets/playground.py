"""Pixels on a circle to play with: pick one, move it, press *step*, and watch classes gather."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from segnb import circle
from segnb.circle import Scene
from segnb.plots.circle import circle_forces
from segnb.widgets.live import live

#: Steps of gradient descent that the second button takes.
MANY_STEPS = 25


class Playground:
    """The circle, its forces, and buttons that let them act.

    End a cell with it to show it. The picture is :func:`segnb.plots.circle_forces`, which a cell
    can call with plain variables; the steps are :func:`segnb.circle.step`.

    Args:
        classes: Number of classes.
        pixels: Pixels per class.
        rate: Step size of gradient descent on one pixel's own loss.
        seed: Seed of the first scene; *new pixels* takes the next one.

    Attributes:
        scene: The current pixels.
        steps: Steps since the pixels were scattered.
    """

    def __init__(
        self, *, classes: int = 3, pixels: int = 4, rate: float = 0.12, seed: int = 1
    ) -> None:
        import ipywidgets as widgets

        self._shape = {"classes": classes, "pixels": pixels}
        self._rate, self._seed = rate, seed
        self.steps = 0
        self.scene: Scene = circle.scatter(**self._shape, seed=seed)
        narrow = {"description_width": "70px"}
        self.loss = widgets.Dropdown(
            options=[(name, key) for key, name in circle.LOSS_NAMES.items()],
            value="paper",
            description="loss",
            style=narrow,
        )
        self.temperature = widgets.FloatLogSlider(
            value=0.3, base=10, min=-1.3, max=0.5, step=0.05, description="τ", style=narrow
        )
        self.pixel = widgets.IntSlider(
            value=0, min=0, max=len(self.scene.angles) - 1, description="pixel", style=narrow
        )
        self.move = widgets.FloatSlider(
            value=0.0,
            min=-180.0,
            max=180.0,
            step=5.0,
            description="move it",
            readout_format=".0f",
            style=narrow,
        )
        self.times_temperature = widgets.Checkbox(
            value=False, description="forces × τ: compare temperatures", indent=False
        )
        # Counts the changes to the pixels, so that the picture follows the buttons as well.
        self._changes = widgets.IntText(value=0)
        self.buttons = {
            name: widgets.Button(description=name)
            for name in ("step", f"{MANY_STEPS} steps", "new pixels")
        }
        self.buttons["step"].on_click(lambda _: self.take_steps(1))
        self.buttons[f"{MANY_STEPS} steps"].on_click(lambda _: self.take_steps(MANY_STEPS))
        self.buttons["new pixels"].on_click(lambda _: self.scatter())
        self.pixel.observe(lambda _: self._rest(), names="value")
        self.move.observe(self._move, names="value")
        self._from = float(self.scene.angles[0])
        picture = live(
            lambda changes, **chosen: circle_forces(self.scene, **chosen),
            {
                "loss": self.loss,
                "temperature": self.temperature,
                "pixel": self.pixel,
                "times_temperature": self.times_temperature,
                "changes": self._changes,
            },
        )
        rows = [
            widgets.HBox([self.loss, self.temperature]),
            widgets.HBox([self.pixel, self.move]),
            widgets.HBox([*self.buttons.values(), self.times_temperature]),
        ]
        # The controls have rows of their own; of the live widget only the output is shown.
        self.widget = widgets.VBox([*rows, picture.children[-1]])

    def take_steps(self, count: int) -> None:
        """Let the forces of the chosen loss act, and redraw the moved pixels."""
        for _ in range(count):
            self.scene = circle.step(
                self.scene,
                self.loss.value,
                temperature=self.temperature.value,
                rate=self._rate * self.scene.pixels,
            )
        self.steps += count
        self._rest()

    def scatter(self) -> None:
        """New pixels, mixed all around the circle."""
        self._seed += 1
        self.scene = circle.scatter(**self._shape, seed=self._seed)
        self.steps = 0
        self._rest()

    def _rest(self) -> None:
        """Set *move it* back to 0, at the current position of the chosen pixel."""
        self._from = float(self.scene.angles[self.pixel.value])
        self.move.unobserve(self._move, names="value")
        self.move.value = 0.0
        self.move.observe(self._move, names="value")
        self._changes.value += 1

    def _move(self, change: Any) -> None:
        angles = self.scene.angles.copy()
        angles[self.pixel.value] = self._from + np.deg2rad(change["new"])
        self.scene = replace(self.scene, angles=angles)
        self._changes.value += 1

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget)
