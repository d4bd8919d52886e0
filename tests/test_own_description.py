"""``dataset.toml``: what it says, each fault in one line, and the splits that follow from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from own_folder import TEXT, make_folder, save

from segnb import datasets
from segnb.datasets import IGNORE
from segnb.datasets.own.description import (
    FILE,
    Description,
    Files,
    OwnClass,
    Splits,
    default_colours,
    read_description,
    to_toml,
)
from segnb.datasets.own.patterns import ENDINGS, pattern
from segnb.datasets.own.scan import divide
from segnb.datasets.reading import IMAGE_SUFFIXES
from segnb.errors import DataError


def test_a_folder_is_a_data_set(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine")
    info = datasets.info(str(folder))
    assert (info.name, info.class_names) == ("leaves", ("soil", "leaf"))
    assert len(set(info.palette)) == 2
    train, val = (datasets.load(str(folder), split) for split in ("train", "val"))
    assert (len(train), len(val)) == (6, 2)
    assert not set(train.ids) & set(val.ids)
    sample = train[0]
    assert sample.image.shape == (30, 40, 3)
    assert np.unique(sample.mask).tolist() == [0, 1, IGNORE]
    assert (sample.mask[:2] == IGNORE).all()
    with pytest.raises(DataError, match="has no test split"):
        datasets.load(str(folder), "test")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('name = "{name}"', "", "name is missing; write 1 to 60 letters"),
        ('"{name}"', '"../away"', "name is '../away'; write 1 to 60 letters"),
        ('"leaf"', '"le\\naf"', r"classes 2, name is 'le\\naf'; write one line"),
        ('"images/*"', '"im\\u0000/*"', "images is 'im.*write one line"),
        ("void = [9]", 'void = [9]\nsplits = {val = "a\\tb"}', "splits, val is 'a"),
        ('"{name}"', '"a@b"', "name is 'a@b'"),
        ('"{name}"', '"/abs"', "name is '/abs'"),
        ('"{name}"', "3", "name is 3; write one line in quotation marks"),
        ('"{name}"', f'"{"x" * 70}"', "name is 'xxx"),
        ('"index"', '"png"', "format is 'png'; choose one of index, colour, coco, labelme"),
        ("value = 200", "value = 3", "class 'leaf', value 3 is also that of 'soil'"),
        ("value = 200", "value = 9", "class 'leaf', value 9 is void too; remove it"),
        ("value = 200", "value = -1", "class 'leaf', value is -1; write a number"),
        ("value = 200", "value = 70000", "value is 70000; write a number"),
        ("value = 200", "value = true", "value is True; write a number"),
        ("value = 200", 'value = "leaf"', "value is 'leaf'; write a number"),
        ("value = 200", "value = []", "value is empty"),
        ("value = 200", "", "class 'leaf', value is missing"),
        ("value = 200", "value = 200\ncolour = [1, 2]", r"colour is \[1, 2\]; write red"),
        ("value = 200", "value = 200\ncolour = [1, 2, 256]", "colour is"),
        ("value = 200", "value = 200\ncolor = [1, 2, 3]", "color is no known key; known are name"),
        ('"leaf"', '"soil"', "class 'soil', name is there twice"),
        ('"leaf"', '" "', "classes 2, name is ' '"),
        ('[[classes]]\nname = "leaf"\nvalue = 200', "", "classes has 1 entries; list 2 to 255"),
        ("void = [9]", "void = 9", r"void is 9; write a list of values, such as \[255\]"),
        ("void = [9]", "viod = [9]", "viod is no known key"),
        ('"images/*"', '"images/"', "files 1, images is 'images/'; write one"),
        ('"images/*"', '"images/*/*"', "files 1, images is 'images/.*write one"),
        ('"images/*"', r"'images\*'", "write / between folders"),
        ("[[files]]", "[files]", r"files is no list of tables; write each one below a line"),
        ('masks = "masks/*"', 'masks = "masks/*"\nsplit = "dev"', "split is 'dev'; choose train"),
        ("void = [9]", "void = [9]\nsplits = {val = 1.5}", "splits, val is 1.5; write a share"),
        ("void = [9]", "void = [9]\nsplits = {train = 0.5}", "splits, train is 0.5; name a list"),
        ("void = [9]", "void = [9]\nsplits = {val = 0.6, test = 0.5}", "leaves nothing to train"),
        ("void = [9]", "void = [9]\nsplits = {group = '('}", r"splits, group is '\('"),
        ("void = [9]", "void = [9]\nsplits = {seed = 'x'}", "splits, seed is 'x'"),
        ("void = [9]", "void = [9", "is not TOML: .*line"),
    ],
)
def test_every_fault_is_one_line(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert old in TEXT
    (tmp_path / FILE).write_text(TEXT.replace(old, new, 1).replace("{name}", "leaves"))
    with pytest.raises(DataError, match=complaint) as error:
        datasets.get(str(tmp_path))
    assert str(error.value).startswith(str(tmp_path / FILE))
    assert "\n" not in str(error.value)


def test_a_mask_with_an_unknown_value_says_what_to_add(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    save(np.full((30, 40), 7, np.uint8), folder / "masks" / "00.png")
    splits = [datasets.load(str(folder), split) for split in ("train", "val")]
    (data,) = [split for split in splits if "00" in split.ids]
    with pytest.raises(DataError, match=r"00\.png holds 7 .* add a class with value = 7"):
        data[data.ids.index("00")]


def test_the_text_says_the_same_again(tmp_path: Path) -> None:
    about = Description(
        name="a b",
        format="colour",
        classes=(
            OwnClass(name='the "first"', values=((1, 2, 3), (4, 5, 6)), colour=(0, 0, 0)),
            OwnClass(name="größer", values=((255, 0, 0),), colour=(255, 0, 0)),
        ),
        void=((9, 9, 9),),
        files=(Files(images="a/**", masks="b/**_mask"), Files(images="c/*", masks=None)),
        splits=Splits(lists={"test": "t.txt"}, shares={"val": 0.25}, group=r"^(.+)_\d+$", seed=4),
        licence="CC0.",
        homepage="https://example.org",
    )
    (tmp_path / FILE).write_text(to_toml(about, notes={"größer": "3 %"}), encoding="utf-8")
    assert read_description(tmp_path) == about


def test_masks_of_0_and_255_have_no_void(tmp_path: Path) -> None:
    text = TEXT.replace("void = [9]\n", "").replace("value = 200", "value = 255")
    (tmp_path / FILE).write_text(text.replace("{name}", "leaves"))
    assert read_description(tmp_path).void == ()
    (tmp_path / FILE).write_text(TEXT.replace("void = [9]\n", "").replace("{name}", "leaves"))
    assert read_description(tmp_path).void == (255,)


def test_colours_are_all_different() -> None:
    taken = default_colours(3)
    found = default_colours(255, taken)
    assert len({*found, *taken}) == 258


@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        ("images/*", "images/a.jpg", "a"),
        ("images/*", "images/a.b.PNG", "a.b"),
        ("images/*", "images/clip/a.jpg", None),
        ("images/**", "images/clip/a.jpg", "clip/a"),
        ("images/*.jpg", "images/a.png", None),
        ("masks/*_mask", "masks/a_mask.png", "a"),
        ("masks/*_mask", "masks/a.png", None),
        ("masks/*.mask", "masks/a.mask.png", "a"),
        ("*", "a.jpg", "a"),
        ("img_*", "img_7.jpg", "7"),
        ("../else/*", "../else/a.jpg", "a"),
        ("images/*", "images/notes.txt", None),
    ],
)
def test_patterns(tmp_path: Path, text: str, name: str, found: str | None) -> None:
    import os

    path = Path(os.path.normpath(tmp_path / name))
    assert pattern(tmp_path, text).id_of(path) == found


def test_endings_are_those_of_the_reader() -> None:
    assert ENDINGS == IMAGE_SUFFIXES


def test_hidden_files_are_passed_over_and_doubles_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    for name in ("images/._00.jpg", "masks/._00.png"):
        (folder / name).write_bytes(b"resource fork")
    assert len(datasets.load(str(folder), "train")) == 6
    save(np.zeros((30, 40, 3), np.uint8), folder / "images" / "00.png")
    with pytest.raises(DataError, match=r"00\.jpg and .*00\.png differ only in their endings"):
        datasets.load(str(folder), "train")


def test_a_mask_without_an_image_is_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / "images" / "03.jpg").unlink()
    with pytest.raises(DataError, match=r"03\.png labels no image: there is no .*03"):
        datasets.load(str(folder), "train")


def test_images_without_masks_are_trained_on_but_never_labelled(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    for name in ("00", "01", "02"):
        (folder / "masks" / f"{name}.png").unlink()
    train, val = (datasets.load(str(folder), split) for split in ("train", "val"))
    assert {"00", "01", "02"} < set(train.ids)
    assert not {"00", "01", "02"} & set(val.ids)
    chosen = datasets.labelled_ids(train, 1.0, seed=0, cache=tmp_path / "cache")
    assert set(chosen) == set(train.ids) - {"00", "01", "02"}
    assert (train[train.ids.index("01")].mask == IGNORE).all()


def test_lists_of_ids_place_images(tmp_path: Path) -> None:
    text = TEXT + '[splits]\ntrain = "train.txt"\nval = "val.txt"\n'
    folder = make_folder(tmp_path, text=text)
    (folder / "train.txt").write_text("\ufeffimages/00.jpg\n# a comment\n\n01\r\n", "utf-8")
    (folder / "val.txt").write_text("02.jpg\n")
    assert datasets.load(str(folder), "train").ids == ("00", "01")
    assert datasets.load(str(folder), "val").ids == ("02",)
    (folder / "val.txt").write_text("02\n01\n")
    with pytest.raises(DataError, match=r"val\.txt: '01' is in the list of train too"):
        datasets.load(str(folder), "val")
    (folder / "val.txt").write_text("02\n77\n")
    with pytest.raises(DataError, match=r"val\.txt line 2: there is no image '77'"):
        datasets.load(str(folder), "val")


def test_frames_of_a_clip_stay_together(tmp_path: Path) -> None:
    text = TEXT + "[splits]\ngroup = '^(.+)_'\nval = 0.3\ntest = 0.2\n"
    folder = make_folder(tmp_path, text=text, count=12)
    for kind in ("images", "masks"):
        for path in sorted((folder / kind).iterdir()):
            number = int(path.stem)
            path.rename(path.with_name(f"clip{number // 3}_{number % 3}{path.suffix}"))
    clips = [
        {name.partition("_")[0] for name in datasets.load(str(folder), split).ids}
        for split in ("train", "val", "test")
    ]
    assert sum(map(len, clips)) == len(set().union(*clips)) == 4
    assert datasets.get(str(folder)).drive("clip2_1") == "clip2"  # type: ignore[misc]
    # A group that is everything cannot be divided.
    (folder / FILE).write_text((folder / FILE).read_text().replace("'^(.+)_'", "'^clip'"))
    with pytest.raises(DataError, match="1 groups cannot be divided into train and val"):
        datasets.load(str(folder), "train")


def test_a_division_depends_on_the_seed_alone() -> None:
    groups = {
        f"g{number}": [f"{number}-{i}" for i in range(1 + number % 4)] for number in range(20)
    }
    stay, aside = divide(groups, 0.25, seed=0)
    assert sorted([*stay, *aside]) == sorted(groups)
    total = sum(map(len, groups.values()))
    assert abs(sum(len(groups[name]) for name in aside) - total / 4) <= 2
    assert divide(dict(reversed(groups.items())), 0.25, seed=0) == (stay, aside)
    assert divide(groups, 0.25, seed=1) != (stay, aside)
    for share in (0.001, 0.999):
        stay, aside = divide(groups, share, seed=0)
        assert stay
        assert aside
