"""Predictions for a folder of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import Finished

from segnb import datasets
from segnb.errors import DataError
from segnb.predict import predict_folder

pytest_plugins = ["tiny"]
pytestmark = pytest.mark.usefixtures("one_thread", "places")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos of different shapes and kinds, and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(folder / "wide.jpg")
    Image.fromarray(draw.integers(0, 256, (90, 20, 3), dtype=np.uint8)).save(folder / "tall.PNG")
    Image.fromarray(draw.integers(0, 256, (33, 33), dtype=np.uint8)).save(folder / "grey.webp")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_three_files_an_image_at_its_own_size(
    photos: Path, tmp_path: Path, finished: Callable[..., Finished]
) -> None:
    out = tmp_path / "out"
    told = list(predict_folder(finished("ce").folder, photos, out, cpu=True))
    assert [path.name for path in told] == [
        f"{name}.overlay.png" for name in ("grey", "tall", "wide")
    ]
    names = {path.name for path in out.iterdir()}
    kinds = ("classes", "mask", "overlay")
    assert names == {f"{n}.{k}.png" for n in ("wide", "tall", "grey") for k in kinds}
    info = datasets.info("camvid")
    for name, size in (("wide", (50, 70)), ("tall", (90, 20)), ("grey", (33, 33))):
        classes = np.asarray(Image.open(out / f"{name}.classes.png"))
        mask = np.asarray(Image.open(out / f"{name}.mask.png"))
        assert classes.shape == size
        assert classes.max() < info.num_classes
        assert (mask == np.array(info.palette)[classes]).all()
        assert np.asarray(Image.open(out / f"{name}.overlay.png")).shape == (*size, 3)


def test_one_image_and_again_over_the_first_outcome(
    photos: Path, tmp_path: Path, finished: Callable[..., Finished]
) -> None:
    first = list(predict_folder(finished("ce").folder, photos / "wide.jpg", tmp_path, cpu=True))
    before = (tmp_path / "wide.classes.png").read_bytes()
    assert first == list(
        predict_folder(finished("ce").folder, photos / "wide.jpg", tmp_path, cpu=True)
    )
    assert (tmp_path / "wide.classes.png").read_bytes() == before


def test_a_broken_image_is_named(
    photos: Path, tmp_path: Path, finished: Callable[..., Finished]
) -> None:
    (photos / "wide.jpg").write_bytes((photos / "wide.jpg").read_bytes()[:300])
    with pytest.raises(DataError, match=r"wide\.jpg can't be read as an image"):
        list(predict_folder(finished("ce").folder, photos, tmp_path / "out", cpu=True))


def test_what_is_not_there_is_named(
    photos: Path, tmp_path: Path, finished: Callable[..., Finished]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    run = finished("ce").folder
    with pytest.raises(DataError, match=r"empty holds no images.*\.jpg"):
        list(predict_folder(run, empty, tmp_path / "out", cpu=True))
    with pytest.raises(DataError, match="nowhere is not there"):
        list(predict_folder(run, tmp_path / "nowhere", tmp_path / "out", cpu=True))
    with pytest.raises(DataError, match="holds no run"):
        list(predict_folder(photos, photos, tmp_path / "out", cpu=True))


def test_two_images_of_one_name_are_refused(
    photos: Path, tmp_path: Path, finished: Callable[..., Finished]
) -> None:
    Image.new("RGB", (20, 20)).save(photos / "wide.png")
    with pytest.raises(DataError, match=r"wide\.jpg and .*wide\.png"):
        list(predict_folder(finished("ce").folder, photos, tmp_path / "out", cpu=True))
