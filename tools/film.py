"""The film at the top of the README: pixels on a circle under four losses.

::

    python tools/film.py

It is the film of notebook 00, with the same pixels and steps.
"""

from __future__ import annotations

import sys
from pathlib import Path

from segnb import circle
from segnb.files import write_atomic
from segnb.plots import circle_film

TARGET = Path(__file__).resolve().parent.parent / "results" / "figures" / "forces.png"
LOSSES: tuple[circle.Loss, ...] = ("infonce", "paper", "official", "cross-entropy")


def main() -> int:
    """Write the film."""
    scene = circle.scatter(classes=3, pixels=4, seed=1)
    films = [
        (loss, circle.train(scene, loss, steps=240, temperature=0.3, rate=0.6)) for loss in LOSSES
    ]
    film = circle_film(films, temperature=0.3)
    write_atomic(TARGET, film.png)
    print(f"{TARGET.name}: {film.alt}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
