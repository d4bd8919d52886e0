"""What is seen before training: shares, faults, near-duplicates; and the contact sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from own_folder import TEXT, make_folder, save
from PIL import Image

from segnb import cli, datasets, plots
from segnb.datasets.own.check import check
from segnb.datasets.own.duplicates import difference_hash, near_duplicates
from segnb.datasets.own.folds import write_folds
from segnb.errors import DataError


def photo(seed: int) -> np.ndarray:
    """A smooth photo: coarse noise, scaled up."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((40, 30), Image.Resampling.BICUBIC))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = make_folder(tmp_path / "mine")
    for index in range(8):
        save(photo(index), made / "images" / f"{index:02d}.jpg")
    return made


def test_a_good_folder(folder: Path) -> None:
    found = check(folder)
    assert found.faults == ()
    assert found.warnings == ()
    assert found.sizes == {(40, 30): 8}
    train, val = found.splits["train"], found.splits["val"]
    assert (train.images, train.labelled, val.images) == (6, 6, 2)
    assert train.seen == (6, 6)
    assert train.void == pytest.approx(2 / 30)
    assert train.shares == pytest.approx((25 / 40, 15 / 40))
    assert "ready: segnb run" in str(found)


def test_faults_are_listed_and_counted(folder: Path) -> None:
    (folder / "images" / "00.jpg").write_bytes(b"\xff\xd8 cut off")
    save(np.full((20, 20), 3, np.uint8), folder / "masks" / "01.png")
    save(np.full((30, 40), 8, np.uint8), folder / "masks" / "02.png")
    found = check(folder)
    text = "\n".join(found.faults)
    assert len(found.faults) == 3
    assert "00.jpg can't be read" in text
    assert "01.png is 20x20 but its image" in text
    assert "02.png holds 8" in text
    assert "ready" not in str(found)
    for index in range(3, 8):
        (folder / "images" / f"{index:02d}.jpg").write_bytes(b"")
    # Of a split that cannot be read at all, nothing is said about its labels.
    assert check(folder).faults[5:] == ("3 more files cannot be used",)


def test_missing_and_rare_classes_and_void(folder: Path) -> None:
    val = datasets.load(str(folder), "val").ids
    for name in val:
        save(np.full((30, 40), 3, np.uint8), folder / "masks" / f"{name}.png")
    (found,) = check(folder).warnings
    assert found == "val shows no leaf: what is missing cannot be scored there"
    for name in datasets.load(str(folder), "train").ids:
        scribble = np.full((30, 40), 9, np.uint8)
        scribble[4:6, 4:20] = 3
        save(scribble, folder / "masks" / f"{name}.png")
    warnings = " ".join(check(folder).warnings)
    assert "train shows no leaf: what is missing cannot be learned" in warnings
    assert "more than half of the pixels" in warnings
    # A rare class is named beside one that is missing.
    text = (folder / "dataset.toml").read_text()
    (folder / "dataset.toml").write_text(text + '[[classes]]\nname = "stem"\nvalue = 77\n')
    name = datasets.load(str(folder), "train").ids[0]
    scribble[10, 4:8] = 77
    save(scribble, folder / "masks" / f"{name}.png")
    warnings = " ".join(check(folder).warnings)
    assert "train shows no leaf" in warnings
    assert "only one or two images of train show stem" in warnings
    for name in val:
        save(np.full((30, 40), 9, np.uint8), folder / "masks" / f"{name}.png")
    assert "every pixel of val is void" in check(folder).faults[0]


def test_copies_across_splits_are_named(folder: Path) -> None:
    train, val = (datasets.load(str(folder), split).ids for split in ("train", "val"))
    copy = Image.open(folder / "images" / f"{train[0]}.jpg").resize((38, 28)).resize((40, 30))
    copy.save(folder / "images" / f"{val[0]}.jpg", quality=80)
    (warning,) = check(folder).warnings
    assert warning.startswith("1 image nearly the same as one of another split")
    assert f"{train[0]} (train) and {val[0]} (val)" in warning


def test_groups_across_given_splits_are_named(folder: Path) -> None:
    (folder / "val.txt").write_text("00\n05\n")
    group = "[splits]\nval = 'val.txt'\ngroup = '{}'\n"
    for expression, torn in ((r"^0", 1), (r"^\d\d", 0)):
        text = TEXT.replace("{name}", "leaves") + group.format(expression)
        (folder / "dataset.toml").write_text(text)
        warnings = [one for one in check(folder).warnings if "in several splits" in one]
        assert len(warnings) == torn, expression


def test_hashes_tell_copies_from_other_photos() -> None:
    hashes = [difference_hash(photo(seed)) for seed in range(30)]
    brighter = np.clip(photo(3).astype(int) + 12, 0, 255).astype(np.uint8)
    assert (difference_hash(brighter) ^ hashes[3]).sum() <= 10
    others = [(a ^ b).sum() for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(others) > 20
    many = {"train": {str(i): one for i, one in enumerate(hashes)}, "val": {}, "test": {}}
    assert near_duplicates(many) == []
    many["test"] = {"copy": difference_hash(brighter)}
    assert near_duplicates(many) == [(("train", "3"), ("test", "copy"))]


def test_turned_photos_are_counted(folder: Path) -> None:
    picture = Image.fromarray(photo(1).transpose(1, 0, 2))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "images" / "01.jpg", exif=exif)
    found = check(folder)
    assert found.faults == ()  # upright, it has the size of its mask
    assert "1 image with an orientation flag" in found.warnings[0]


def test_the_contact_sheet_shows_all_splits(folder: Path) -> None:
    picture = plots.folder_sheet(folder)
    titles = [axes.get_title() for axes in picture.figure.axes]
    assert sum("(train)" in title for title in titles) == 6
    assert sum("(val)" in title for title in titles) == 2
    assert "leaf" in picture.alt
    for path in (folder / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="`segnb check` says why"):
        plots.folder_sheet(folder)


def test_the_commands(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (folder / "dataset.toml").unlink()
    assert cli.main(["check", str(folder)]) == 1
    assert "`segnb describe" in capsys.readouterr().err
    assert cli.main(["describe", str(folder)]) == 0
    assert cli.main(["describe", str(folder)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert cli.main(["describe", str(folder), "--overwrite"]) == 0
    sheet = tmp_path / "sheet.png"
    assert cli.main(["check", str(folder), "--sheet", str(sheet)]) == 0
    assert sheet.is_file()


def test_folds_score_every_image_once(folder: Path, tmp_path: Path) -> None:
    folds = write_folds(folder, tmp_path / "folds")
    assert [(fold.train, fold.val) for fold in folds] == [(6, 2)] * 3 + [(7, 1)] * 2
    scored = [name for fold in folds for name in datasets.load(str(fold.folder), "val").ids]
    assert sorted(scored) == [f"{number:02d}" for number in range(8)]
    for fold in folds:
        train, val = (datasets.load(str(fold.folder), split) for split in ("train", "val"))
        assert (len(train), len(val)) == (fold.train, fold.val)
        assert train[0].mask.shape == (30, 40)
    assert len({datasets.get(str(fold.folder)).title for fold in folds}) == 5


def test_folds_keep_groups_and_the_test_split(tmp_path: Path) -> None:
    text = TEXT + "[splits]\ngroup = '^.'\ntest = 0.3\n"
    folder = make_folder(tmp_path / "mine", count=40, text=text)
    test = datasets.load(str(folder), "test").ids
    folds = write_folds(folder, tmp_path / "folds")
    assert len(folds) == 4 - len({name[0] for name in test})
    for fold in folds:
        assert datasets.load(str(fold.folder), "test").ids == test
        train, val = (datasets.load(str(fold.folder), split).ids for split in ("train", "val"))
        assert not {name[0] for name in train} & {name[0] for name in val}
