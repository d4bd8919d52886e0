"""Predictions for a folder of images."""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny import Finished

from segnb import datasets
from segnb.cli import main
from segnb.datasets.reading import read_image
from segnb.errors import DataError
from segnb.predict import _classes, _read, left_out, predict_folder

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


def test_broken_images_are_named_and_the_others_done(
    photos: Path, tmp_path: Path, finished: Callable[..., Finished]
) -> None:
    (photos / "tall.PNG").write_bytes((photos / "tall.PNG").read_bytes()[:300])
    (photos / "grey.webp").write_bytes(b"no image")
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"grey\.webp can't be read .*tall\.PNG can't be read"):
        list(predict_folder(finished("ce").folder, photos, out, cpu=True))
    assert {path.name.split(".")[0] for path in out.iterdir()} == {"wide"}


def test_what_is_not_there_is_named(
    photos: Path, tmp_path: Path, finished: Callable[..., Finished]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    run = finished("ce").folder
    with pytest.raises(DataError, match=r"empty contains no images.*\.jpg"):
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


def test_sixteen_bits_of_grey_are_scaled_and_not_cut_off(tmp_path: Path) -> None:
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    for ending in ("png", "tif"):
        path = tmp_path / f"deep.{ending}"
        Image.fromarray(values).save(path)
        assert _read(path).image[0, :, 0].tolist() == [0, 1, 128, 255]
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(DataError, match=r"float\.tif .* floating-point numbers"):
        _read(tmp_path / "float.tif")


def test_a_photo_is_read_the_way_up_that_it_was_taken(tmp_path: Path) -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = 255
    photo = Image.fromarray(pixels)
    exif = photo.getexif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    photo.save(tmp_path / "turned.png", exif=exif)
    image = _read(tmp_path / "turned.png").image
    assert image.shape == (32, 16, 3)
    assert (image[:16] == 255).all()


def test_damaged_metadata_of_a_camera_is_passed_over_without_a_word(
    tmp_path: Path, finished: Callable[..., Finished], capsys: pytest.CaptureFixture[str]
) -> None:
    # A photo to be turned by half, with the text of one more tag cut off.
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, 3, 0) + struct.pack(
        "<HHII", 0x010F, 2, 200, 60000
    )
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (48, 32)).save(tmp_path / "photos" / "a.jpg", exif=exif)
    folder = str(finished("ce").folder)
    words = [folder, str(tmp_path / "photos"), "--out", str(tmp_path / "out"), "--cpu"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert main(["predict", *words]) == 0
        assert not [one for one in caught if "PIL" in one.filename]
        # The photo is of the kind that is meant.
        read_image(tmp_path / "photos" / "a.jpg")
        assert any("PIL" in one.filename for one in caught)
    assert "a.overlay.png" in capsys.readouterr().out


def test_an_image_too_large_for_the_reader_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "vast.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"vast\.png can't be read"):
        _read(tmp_path / "vast.png")


def test_classes_one_by_one_are_those_of_all_at_once() -> None:
    scores = torch.randn(5, 6, 7, generator=torch.Generator().manual_seed(0))
    scores[:, 0] = 0  # a tie, which goes to the first
    full = F.interpolate(scores[None], size=(31, 29), mode="bilinear", align_corners=False)
    assert torch.equal(_classes(scores, (31, 29)), full[0].argmax(0).byte())


def test_into_the_folder_of_the_photos_again_and_again(
    photos: Path, finished: Callable[..., Finished]
) -> None:
    run = finished("ce").folder
    first = list(predict_folder(run, photos, photos, cpu=True))
    held = {path.name for path in photos.iterdir()}
    assert list(predict_folder(run, photos, photos, cpu=True)) == first
    assert {path.name for path in photos.iterdir()} == held


@pytest.mark.parametrize("kind", ["classes", "mask", "overlay"])
@pytest.mark.parametrize("beside", [True, False])
def test_somebodys_own_file_is_never_replaced(
    photos: Path, tmp_path: Path, finished: Callable[..., Finished], kind: str, beside: bool
) -> None:
    out = photos if beside else tmp_path / "masks"
    out.mkdir(exist_ok=True)
    own = out / f"wide.{kind}.png"
    Image.new("L", (70, 50)).save(own)
    before = own.read_bytes(), len(list(out.iterdir()))
    with pytest.raises(DataError, match=rf"wide\.{kind}\.png is in the way.*--out"):
        list(predict_folder(finished("ce").folder, photos, out, cpu=True))
    assert (own.read_bytes(), len(list(out.iterdir()))) == before


def test_pictures_of_other_kinds_are_named_and_hidden_files_passed_over(
    photos: Path, tmp_path: Path, finished: Callable[..., Finished]
) -> None:
    for name in ("IMG_2.HEIC", "b.jxl", "c.svg", "._wide.jpg", ".DS_Store", "notes.txt"):
        (photos / name).write_bytes(b"x")
    assert [path.name for path in left_out(photos)] == ["IMG_2.HEIC", "b.jxl", "c.svg"]
    assert left_out(photos / "wide.jpg") == []
    assert len(list(predict_folder(finished("ce").folder, photos, tmp_path / "o", cpu=True))) == 3
    for path in ("wide.jpg", "tall.PNG", "grey.webp"):
        (photos / path).unlink()
    with pytest.raises(DataError, match=r"no images that can be read, only IMG_2\.HEIC, b\.jxl"):
        list(predict_folder(finished("ce").folder, photos, tmp_path / "o", cpu=True))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_or_a_link_to_nothing_is_not_waited_for(
    photos: Path, tmp_path: Path, finished: Callable[..., Finished]
) -> None:
    os.mkfifo(photos / "pipe.png")
    (photos / "link.png").symlink_to("/nowhere/x.png")
    (photos / "folder.png").mkdir()
    told = []
    with pytest.raises(DataError, match=r"folder\.png.*link\.png.*pipe\.png can't be read"):
        told.extend(predict_folder(finished("ce").folder, photos, tmp_path / "out", cpu=True))
    assert len(list((tmp_path / "out").glob("*.overlay.png"))) == 3
