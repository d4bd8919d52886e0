"""The data sets that lie on disk: layouts, labels, splits, and errors that name file and value."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnb import datasets
from segnb.datasets import camvid, cityscapes, voc
from segnb.errors import DataError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGNB_CACHE", str(tmp_path / "cache"))


def image(path: Path, size: tuple[int, int] = (6, 8), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def mask(path: Path, values: np.ndarray | list[list[int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)


def striped(*labels: int, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    """Columns of each label in turn."""
    return np.tile(np.resize(np.array(labels, dtype=np.uint8), size[1]), (size[0], 1))


def make_camvid(root: Path, suffix: str = ".png") -> Path:
    folder = root / "CamVid"
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        for i in range(count):
            image(folder / split / f"{split}_{i}{suffix}", seed=i)
            mask(folder / f"{split}annot" / f"{split}_{i}.png", striped(i, 10, 11))
    return folder


def make_voc(root: Path, masks: dict[str, np.ndarray], *, train: list[str], val: list[str]) -> Path:
    folder = root / "VOCdevkit" / "VOC2012"
    palette = [value for colour in voc.INFO.palette for value in colour]
    for name, values in masks.items():
        image(folder / "JPEGImages" / f"{name}.jpg")
        path = folder / "SegmentationClass" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(values)
        picture.putpalette(palette)  # the devkit's masks are palette images
        picture.save(path)
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("".join(f"{name}\n" for name in train))
    (lists / "val.txt").write_text("".join(f"{name}\n" for name in val))
    return folder


def make_cityscapes(root: Path, values: np.ndarray) -> Path:
    folder = root / "cityscapes"
    for split, city in (("train", "aachen"), ("train", "bremen"), ("val", "munster")):
        for frame in ("000000_000019", "000001_000019"):
            name = f"{city}_{frame}"
            image(folder / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", values.shape)
            stem = folder / "gtFine" / split / city / name
            mask(stem.with_name(f"{name}_gtFine_labelIds.png"), values)
            image(stem.with_name(f"{name}_gtFine_color.png"), values.shape)
    return folder


def test_names_and_infos_agree() -> None:
    assert datasets.names() == ("shapes", "camvid", "voc", "voc-animals", "cityscapes")
    for name in datasets.names():
        about = datasets.info(name)
        assert about.name == name
        assert len(set(about.class_names)) == about.num_classes == len(about.palette)
        assert len(set(about.palette)) == about.num_classes
        assert about.licence
    assert [datasets.info(n).num_classes for n in datasets.names()[1:]] == [11, 21, 8, 19]
    assert [n for n in datasets.names() if "test" in datasets.get(n).splits] == ["shapes", "camvid"]


def test_the_voc_palette_is_the_devkits() -> None:
    palette = dict(zip(voc.INFO.class_names, voc.INFO.palette, strict=True))
    assert palette["background"] == (0, 0, 0)
    assert palette["aeroplane"] == (128, 0, 0)
    assert palette["person"] == (192, 128, 128)
    assert palette["tv monitor"] == (0, 64, 128)


def test_unknown_names_and_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data set 'ade20k'; there are shapes, camvid"):
        datasets.load("ade20k", "train")
    with pytest.raises(DataError, match="no split 'trainval'"):
        datasets.load("camvid", "trainval", root=tmp_path)  # type: ignore[arg-type]
    for name in ("voc", "voc-animals", "cityscapes"):
        with pytest.raises(DataError, match=f"{name} has no test split"):
            datasets.load(name, "test", root=tmp_path)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_camvid_matches_by_stem_and_makes_11_void(tmp_path: Path, suffix: str) -> None:
    make_camvid(tmp_path, suffix)
    train = datasets.load("camvid", "train", root=tmp_path)
    assert train.ids == ("train_0", "train_1", "train_2")
    assert (train.info.name, train.split, len(train)) == ("camvid", "train", 3)
    sample = train[1]
    assert sample.id == "train_1"
    assert sample.image.shape == (6, 8, 3)
    assert sample.image.dtype == sample.mask.dtype == np.uint8
    np.testing.assert_array_equal(sample.mask, striped(1, 10, 255))
    np.testing.assert_array_equal(train.mask(1), sample.mask)
    assert len(datasets.load("camvid", "val", root=tmp_path)) == 2


def test_grey_and_hidden_files_do_no_harm(tmp_path: Path) -> None:
    folder = make_camvid(tmp_path)
    Image.fromarray(np.full((6, 8), 77, dtype=np.uint8)).save(folder / "train" / "train_0.png")
    (folder / "train" / "._train_0.png").write_bytes(b"a file system's notes")
    (folder / "train" / "Thumbs.db").write_bytes(b"")
    train = datasets.load("camvid", "train", root=tmp_path)
    assert len(train) == 3
    assert (train[0].image == 77).all()


def test_the_data_root_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_camvid(tmp_path / "elsewhere")
    monkeypatch.setenv("SEGNB_DATA", str(tmp_path / "elsewhere"))
    assert len(datasets.load("camvid", "train")) == 3


@pytest.mark.parametrize("name", ["camvid", "voc", "voc-animals", "cityscapes"])
def test_a_missing_root_says_how_to_get_the_data(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError) as error:
        datasets.load(name, "train", root=tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "by hand" in str(error.value)
    if name != "cityscapes":
        assert f"segnb fetch {name.split('-')[0]}" in str(error.value)


def test_an_empty_split_is_an_error(tmp_path: Path) -> None:
    folder = make_camvid(tmp_path)
    for kind in ("val", "valannot"):
        shutil.rmtree(folder / kind)
        (folder / kind).mkdir()
    with pytest.raises(DataError, match=r"split 'val' is empty: .*CamVid/val names no images"):
        datasets.load("camvid", "val", root=tmp_path)


def test_a_missing_mask_or_image_is_named(tmp_path: Path) -> None:
    folder = make_camvid(tmp_path)
    (folder / "trainannot" / "train_1.png").unlink()
    with pytest.raises(DataError, match=r"mask of 'train_1' is missing.*trainannot/train_1\.png"):
        datasets.load("camvid", "train", root=tmp_path)
    (folder / "val" / "val_0.png").unlink()
    with pytest.raises(DataError, match=r"valannot/val_0\.png is a mask without an image"):
        datasets.load("camvid", "val", root=tmp_path)
    image(folder / "test" / "test_0.jpg")
    with pytest.raises(DataError, match=r"test_0\.jpg and .*test_0\.png have the same stem"):
        datasets.load("camvid", "test", root=tmp_path)


def test_sizes_that_differ_are_named(tmp_path: Path) -> None:
    folder = make_camvid(tmp_path)
    mask(folder / "trainannot" / "train_2.png", striped(0, size=(6, 9)))
    train = datasets.load("camvid", "train", root=tmp_path)
    with pytest.raises(DataError, match=r"train_2\.png is 9x6 but its image .*train_2\.png is 8x6"):
        train[2]
    assert train[1].id == "train_1"


def test_a_label_outside_the_classes_is_named(tmp_path: Path) -> None:
    folder = make_camvid(tmp_path)
    mask(folder / "trainannot" / "train_0.png", striped(3, 12))
    with pytest.raises(
        DataError, match=r"train_0\.png holds the label 12, .*camvid \(known values: 0-11, 255\)"
    ):
        datasets.load("camvid", "train", root=tmp_path)[0]


def test_a_mask_of_colours_is_refused(tmp_path: Path) -> None:
    folder = make_camvid(tmp_path)
    image(folder / "trainannot" / "train_0.png")
    with pytest.raises(DataError, match=r"train_0\.png can't be read .* RGB colours; a mask must"):
        datasets.load("camvid", "train", root=tmp_path)[0]


@pytest.mark.parametrize("keep", [0, 10, 0.6])
def test_a_truncated_image_is_named(tmp_path: Path, keep: float) -> None:
    folder = make_camvid(tmp_path, ".jpg")
    path = folder / "train" / "train_0.jpg"
    image(path, (60, 80))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if 0 < keep < 1 else int(keep)])
    with pytest.raises(DataError, match=r"train_0\.jpg can't be read as an image: .*damaged"):
        datasets.load("camvid", "train", root=tmp_path)[0]


def test_a_file_that_vanishes_later_is_named(tmp_path: Path) -> None:
    folder = make_camvid(tmp_path)
    train = datasets.load("camvid", "train", root=tmp_path)
    (folder / "train" / "train_0.png").unlink()
    with pytest.raises(DataError, match=r"train_0\.png .*there is no such file"):
        train[0]


def test_the_fingerprint_follows_the_files(tmp_path: Path) -> None:
    folder = make_camvid(tmp_path)
    first = datasets.load("camvid", "train", root=tmp_path).fingerprint
    assert datasets.load("camvid", "train", root=tmp_path).fingerprint == first
    assert datasets.load("camvid", "val", root=tmp_path).fingerprint != first
    mask(folder / "trainannot" / "train_0.png", striped(0, 1, 2, 3))
    assert datasets.load("camvid", "train", root=tmp_path).fingerprint != first


def test_voc_takes_train_aug_only_where_both_halves_are_there(tmp_path: Path) -> None:
    masks = {name: striped(0, 15, 255) for name in ("a", "b", "c")}
    folder = make_voc(tmp_path, masks, train=["a"], val=["b"])
    assert datasets.load("voc", "train", root=tmp_path).ids == ("a",)
    (folder / "ImageSets" / "Segmentation" / "train_aug.txt").write_text(
        "/JPEGImages/a.jpg /SegmentationClassAug/a.png\nc\n\n"
    )
    assert datasets.load("voc", "train", root=tmp_path).ids == ("a",)
    for name in ("a", "c"):
        mask(folder / "SegmentationClassAug" / f"{name}.png", striped(0, 12))
    train = datasets.load("voc", "train", root=tmp_path)
    assert train.ids == ("a", "c")
    np.testing.assert_array_equal(train[0].mask, striped(0, 12))
    val = datasets.load("voc", "val", root=tmp_path)
    np.testing.assert_array_equal(val[0].mask, striped(0, 15, 255))


def test_a_missing_list_and_a_listed_file_that_is_missing(tmp_path: Path) -> None:
    folder = make_voc(tmp_path, {"a": striped(0, 1)}, train=["a", "gone"], val=["a"])
    with pytest.raises(DataError, match=r"'gone' is missing: there is no file .*gone\.jpg"):
        datasets.load("voc", "train", root=tmp_path)
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("\n")
    with pytest.raises(DataError, match=r"'val' is empty: .*val\.txt names no images"):
        datasets.load("voc", "val", root=tmp_path)
    (folder / "ImageSets" / "Segmentation" / "val.txt").unlink()
    with pytest.raises(DataError, match=r"no list .*val\.txt"):
        datasets.load("voc", "val", root=tmp_path)


def test_voc_animals_keeps_and_renumbers_by_rule(tmp_path: Path) -> None:
    masks = {
        "zoo": striped(0, 3, 8, 10, 12, 13, 15, 17),
        "mixed": striped(0, 7, 12, 255),
        "car": striped(0, 7),
        "nothing": striped(0, 0),
    }
    make_voc(tmp_path, masks, train=list(masks), val=["zoo"])
    animals = datasets.load("voc-animals", "train", root=tmp_path)
    assert animals.info.class_names == (
        "background",
        "bird",
        "cat",
        "cow",
        "dog",
        "horse",
        "person",
        "sheep",
    )
    assert animals.ids == ("zoo", "mixed")
    np.testing.assert_array_equal(animals[0].mask, striped(*range(8)))
    np.testing.assert_array_equal(animals[1].mask, striped(0, 255, 4, 255))
    assert animals.fingerprint != datasets.load("voc", "train", root=tmp_path).fingerprint


def test_voc_animals_without_animals_is_empty(tmp_path: Path) -> None:
    make_voc(tmp_path, {"car": striped(0, 7)}, train=["car"], val=["car"])
    with pytest.raises(DataError, match="voc-animals: the split 'val' is empty"):
        datasets.load("voc-animals", "val", root=tmp_path)


def test_cityscapes_maps_label_ids_to_train_ids(tmp_path: Path) -> None:
    values = np.arange(36, dtype=np.uint8).reshape(6, 6)
    values[values > 33] = 255
    make_cityscapes(tmp_path, values)
    train = datasets.load("cityscapes", "train", root=tmp_path)
    assert train.ids == (
        "aachen_000000_000019",
        "aachen_000001_000019",
        "bremen_000000_000019",
        "bremen_000001_000019",
    )
    flat = train[0].mask.ravel()
    classes = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert [int(flat[label]) for label in classes] == list(range(19))
    assert all(flat[label] == 255 for label in range(36) if label not in classes)
    assert train.info.class_names[11] == "person"
    assert len(datasets.load("cityscapes", "val", root=tmp_path)) == 2


def test_cityscapes_passes_over_the_notes_of_a_mac(tmp_path: Path) -> None:
    folder = make_cityscapes(tmp_path, striped(7))
    for path in list(folder.rglob("*.png")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7" + bytes(200))
    train = datasets.load("cityscapes", "train", root=tmp_path)
    assert len(train) == 4
    assert len({sample.id for sample in (train[i] for i in range(4))}) == 4


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_voc_lists_from_windows(tmp_path: Path, encoding: str) -> None:
    masks = {name: striped(0, 15) for name in ("my photo", "my photo 2", "2007_000032")}
    folder = make_voc(tmp_path, masks, train=["x"], val=["x"])
    lists = folder / "ImageSets" / "Segmentation"
    (lists / "train.txt").write_text("my photo 2\r\n2007_000032  1\r\n", encoding=encoding)
    train = datasets.load("voc", "train", root=tmp_path)
    assert train.ids == ("my photo 2", "2007_000032")
    (lists / "train.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"train\.txt can't be read .*save it as UTF-8"):
        datasets.load("voc", "train", root=tmp_path)


def test_cityscapes_refuses_a_label_beyond_33(tmp_path: Path) -> None:
    make_cityscapes(tmp_path, striped(7, 34))
    with pytest.raises(DataError, match=r"labelIds\.png holds the label 34.*0-33, 255"):
        datasets.load("cityscapes", "val", root=tmp_path)[0]


def test_cityscapes_without_masks_names_the_first(tmp_path: Path) -> None:
    folder = make_cityscapes(tmp_path, striped(7))
    shutil.rmtree(folder / "gtFine" / "train" / "bremen")
    with pytest.raises(DataError, match=r"bremen_000000_000019_gtFine_labelIds\.png"):
        datasets.load("cityscapes", "train", root=tmp_path)


def test_importing_the_package_of_data_sets_loads_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, segnb.datasets as d; d.names(); d.info('camvid'); d.info('voc');"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_infos_say_where_the_data_come_from() -> None:
    for about in (camvid.INFO, voc.INFO, cityscapes.INFO):
        assert about.homepage.startswith("http")
