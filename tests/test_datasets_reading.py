"""Image and mask files: each is read right, in one way everywhere, or refused in one line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnb import datasets
from segnb.datasets import IGNORE, DatasetInfo
from segnb.datasets.paired import Pair, PairedDataset
from segnb.datasets.reading import (
    IMAGE_SUFFIXES,
    read_colours,
    read_image,
    read_mask,
    read_numbers,
    read_palette,
    visible_files,
)
from segnb.errors import DataError
from segnb.predict import _read
from tools import damage_images

INFO = DatasetInfo("mine", ("ground", "toy"), ((0, 0, 0), (200, 0, 0)), "-", "-")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGNB_CACHE", str(tmp_path / "cache"))


def test_odd_and_damaged_files_are_right_or_refused(tmp_path: Path) -> None:
    found = damage_images.campaign(tmp_path, short=True)
    assert len(found) > 300
    faults = [(case.name, outcome, words) for _, case, outcome, words in found if outcome.isupper()]
    assert faults == []
    # Refusing everything would be easy: these have one right reading.
    for kind in ("turned", "16 bits: PNG", "grey PNG", "palette PNG", "mode", "preview", "TIFF: 8"):
        outcomes = {outcome for _, case, outcome, _ in found if case.name.startswith(kind)}
        assert outcomes == {"right"}, kind


def saved(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]
    return path


def pair_of(folder: Path, image: np.ndarray, mask: np.ndarray, **options: object) -> Pair:
    folder.mkdir(exist_ok=True)
    return Pair("a", saved(folder / "a.jpg", image, **options), saved(folder / "a.mask.png", mask))


def test_training_and_predictions_see_the_photo_that_was_labelled(tmp_path: Path) -> None:
    upright = np.zeros((64, 64, 3), np.uint8)
    upright[:32] = 255
    mask = (upright[..., 0] > 0).astype(np.uint8)
    stored = damage_images.STORED[3](upright)
    pair = pair_of(tmp_path, stored, mask, exif=damage_images.with_flag(3))
    sample = PairedDataset(INFO, "train", [pair], source=tmp_path)[0]
    assert sample.image[sample.mask == 1].min() > 200
    assert sample.image[sample.mask == 0].max() < 50
    np.testing.assert_array_equal(_read(pair.image).image, sample.image)


def test_a_mask_of_the_unturned_photo_has_another_size(tmp_path: Path) -> None:
    pair = pair_of(
        tmp_path,
        np.zeros((40, 60, 3), np.uint8),
        np.zeros((40, 60), np.uint8),
        exif=damage_images.with_flag(6),
    )
    with pytest.raises(DataError, match=r"a\.mask\.png is 60x40 but its image .* is 40x60"):
        PairedDataset(INFO, "train", [pair], source=tmp_path)[0]


def test_what_is_no_regular_file_is_named_and_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("/nowhere/b.png")
    os.mkfifo(tmp_path / "pipe.png")
    words = {
        "folder": "it is not a file",
        "pipe": "it is not a file",
        "link": "it is a link to /nowhere/b.png, which is not there",
        "gone": "there is no such file",
    }
    good = saved(tmp_path / "good.png", np.zeros((4, 4), np.uint8))
    for name, reason in words.items():
        path = tmp_path / f"{name}.png"
        for read in (read_image, read_mask):
            with pytest.raises(DataError, match=f"{name}.png can't be read as .*: {reason}"):
                read(path)
        for pair in (Pair("a", path, good), Pair("a", good, path)):
            with pytest.raises(DataError, match=rf"of 'a' is missing: .*{name}\.png"):
                PairedDataset(INFO, "train", [pair], source=tmp_path)


def test_a_file_that_may_not_be_read_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.png", np.zeros((4, 4), np.uint8))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"a\.png can't be read as an image: permission denied$"):
        read_image(path)


def test_images_beyond_the_limit_are_called_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "vast.png", np.zeros((2000, 1100), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    for read in (read_image, read_mask):
        with pytest.raises(DataError, match=r"more than 2 million pixels.* cut it into tiles"):
            read(path)


def test_lists_of_files_pass_over_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "._a.png", ".DS_Store", "notes.txt", "c.heic"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in visible_files(tmp_path)] == ["a.png", "b.JPG"]
    assert [path.name for path in visible_files(tmp_path, (".txt",))] == ["notes.txt"]
    with pytest.raises(DataError, match=r"folder .*gone can't be read"):
        visible_files(tmp_path / "gone")
    assert all(suffix == suffix.lower() for suffix in IMAGE_SUFFIXES)


def test_numbers_colours_and_palettes_of_masks(tmp_path: Path) -> None:
    ids = np.array([[0, 300], [65535, 2]], np.uint16)
    assert read_numbers(saved(tmp_path / "wide.png", ids)).tolist() == ids.tolist()
    with pytest.raises(DataError, match=r"wide\.png .* the value 65535; class ids are 0 to 254"):
        read_mask(tmp_path / "wide.png")
    colours = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    path = saved(tmp_path / "colours.png", colours)
    np.testing.assert_array_equal(read_colours(path), colours)
    assert read_palette(path) is None
    path = tmp_path / "palette.png"
    path.write_bytes(damage_images.palette_png(np.eye(3, dtype=np.uint8), [(1, 2, 3), (4, 5, 6)]))
    assert (read_palette(path) or [])[:2] == [(1, 2, 3), (4, 5, 6)]
    assert read_colours(path)[0, 0].tolist() == [4, 5, 6]
    header = damage_images.chunk(b"IHDR", b"\0\0\0\1\0\0\0\1\x10\2\0\0\0")
    data = damage_images.chunk(b"IDAT", damage_images.zlib.compress(b"\0" + b"\1\2" * 3))
    deep = b"\x89PNG\r\n\x1a\n" + header + data + damage_images.chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(deep)
    with pytest.raises(DataError, match=r"deep\.png .*do not have 8 bits each"):
        read_colours(tmp_path / "deep.png")
    saved(tmp_path / "lossy.png", colours, format="JPEG")
    with pytest.raises(DataError, match=r"lossy\.png .*it is a JPEG file"):
        read_colours(tmp_path / "lossy.png")


def test_a_renumbered_voc_mask_is_refused(tmp_path: Path) -> None:
    palette = [value for colour in datasets.info("voc").palette for value in colour]
    mask = Image.fromarray(np.resize(np.array([0, 15], np.uint8), (8, 16)))
    mask.putpalette(palette)
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    Image.new("RGB", (16, 8)).save(folder / "JPEGImages" / "x.jpg")
    (folder / "ImageSets" / "Segmentation" / "train.txt").write_text("x\n")
    path = folder / "SegmentationClass" / "x.png"
    mask.save(path)
    assert set(datasets.load("voc", "train", root=tmp_path).mask(0).ravel()) == {0, 15}
    mask.remap_palette([0, 15]).save(path)  # the same colours on a screen
    with pytest.raises(DataError, match=r"x\.png .* value 1 in the colour of 15, so .*renumbered"):
        datasets.load("voc", "train", root=tmp_path).mask(0)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({1: 1, 2: 2}, "map the mask value 2 to 2, but its 2 classes are numbered from 0 to 1"),
        ({0: -1, 1: 0}, "map the mask value 0 to -1"),
        ({0: 256}, "to 256"),
        ({300: 0}, "labels name 300; mask values are 0 to 255"),
        ({-1: 255, 0: 0}, "labels name -1"),
        ({1: "toy"}, "map the mask value 1 to 'toy'"),
        ({"1": 0}, "labels name '1'"),
        ({0: True}, "to True"),
    ],
)
def test_labels_that_are_no_classes_are_refused_at_once(
    tmp_path: Path, labels: dict[int, int], words: str
) -> None:
    pair = pair_of(tmp_path, np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match=f"mine: .*{words}"):
        PairedDataset(INFO, "train", [pair], labels=labels, source=tmp_path)


def test_255_is_void_unless_it_is_said_to_be_a_class(tmp_path: Path) -> None:
    mask = np.array([[0, 255]], np.uint8)
    pair = pair_of(tmp_path, np.zeros((1, 2, 3), np.uint8), mask)
    plain = PairedDataset(INFO, "train", [pair], labels={0: 0, 1: 1}, source=tmp_path)
    assert plain.mask(0).tolist() == [[0, IGNORE]]
    binary = PairedDataset(INFO, "train", [pair], labels={0: 0, 255: 1}, source=tmp_path)
    assert binary.mask(0).tolist() == [[0, 1]]
    assert plain.fingerprint != binary.fingerprint


def test_ids_are_unique_and_paths_may_be_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, mask = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    one, two = pair_of(tmp_path / "one", image, mask), pair_of(tmp_path / "two", image, mask)
    for twice in ([one, two], [one, one]):
        with pytest.raises(DataError, match=r"one/a\.jpg and .*/a\.jpg have the same id 'a'"):
            PairedDataset(INFO, "train", twice, source=tmp_path)
    text = Pair("a", str(one.image), str(one.mask))  # type: ignore[arg-type]
    assert len(PairedDataset(INFO, "train", [text], source=tmp_path)) == 1
    monkeypatch.setenv("HOME", str(tmp_path))
    home = Pair("a", "~/one/a.jpg", "~/one/a.mask.png")  # type: ignore[arg-type]
    assert PairedDataset(INFO, "train", [home], source=tmp_path)[0].mask.shape == (4, 4)
    with pytest.raises(DataError, match="no split 'training'"):
        PairedDataset(INFO, "training", [one], source=tmp_path)  # type: ignore[arg-type]


def test_an_edit_that_keeps_size_and_date_changes_the_fingerprint(tmp_path: Path) -> None:
    pair = pair_of(tmp_path, np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8))
    bitmap = pair._replace(mask=saved(tmp_path / "a.bmp", np.zeros((4, 4), np.uint8)))
    os.utime(bitmap.mask, (0, 0))
    dataset = PairedDataset(INFO, "train", [bitmap], source=tmp_path)
    before = dataset.fingerprint
    assert dataset.fingerprint == before
    saved(bitmap.mask, np.ones((4, 4), np.uint8))
    os.utime(bitmap.mask, (0, 0))
    assert dataset.fingerprint != before
    bitmap.mask.unlink()
    with pytest.raises(DataError, match=r"a\.bmp .*there is no such file"):
        _ = dataset.fingerprint
