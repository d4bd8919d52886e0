"""A described folder of made images: bands of two classes and a strip of void."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

TEXT = """
name = "{name}"
format = "index"
void = [9]
[[files]]
images = "images/*"
masks = "masks/*"
[[classes]]
name = "soil"
value = 3
[[classes]]
name = "leaf"
value = 200
"""


def make_folder(folder: Path, *, name: str = "leaves", count: int = 8, text: str = TEXT) -> Path:
    """A folder with ``dataset.toml``, ``images/*.jpg`` and ``masks/*.png``."""
    for index in range(count):
        values = np.full((30, 40), 3, np.uint8)
        values[:, 10 + index : 25 + index] = 200
        values[:2] = 9
        save(values, folder / "masks" / f"{index:02d}.png")
        noise = np.random.default_rng(index).integers(0, 60, (30, 40, 3))
        photo = np.where(values[..., None] == 200, [40, 150, 40], [110, 80, 50]) + noise
        save(photo.astype(np.uint8), folder / "images" / f"{index:02d}.jpg")
    (folder / "dataset.toml").write_text(text.replace("{name}", name))
    return folder


def save(pixels: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path
