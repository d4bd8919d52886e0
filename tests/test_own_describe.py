"""What is found in folders as annotation tools leave them, and that masks come out the same."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from own_folder import make_folder, save
from PIL import Image

from segnb import datasets
from segnb.datasets import IGNORE
from segnb.datasets.own.describe import describe, group_of, look, rename_classes
from segnb.datasets.own.description import BACKGROUND, FILE, read_description
from segnb.datasets.own.lists import is_void, read_classes
from segnb.errors import ConfigError, DataError

Mask = npt.NDArray[np.uint8]

SIZE = (24, 36)
NAMES = ("soil", "leaf", "stem")
COLOURS = ((110, 80, 50), (40, 150, 40), (200, 40, 200))
COUNT = 8


def photo(number: int) -> npt.NDArray[np.uint8]:
    noise = np.random.default_rng(number).integers(0, 256, (*SIZE, 3))
    return noise.astype(np.uint8)


def truth(number: int) -> Mask:
    """Bands of the classes 0 to 2, and a row that is void."""
    mask = np.zeros(SIZE, np.uint8)
    mask[:, 5 + number : 14 + number] = 1
    mask[8:16, 20:30] = 2
    mask[0] = IGNORE
    return mask


def pictures(folder: Path, *, ending: str = ".jpg", start: int = 0, count: int = COUNT) -> None:
    for number in range(start, start + count):
        save(photo(number), folder / f"p{number:02d}{ending}")


def check_masks(folder: Path, *, names: Sequence[str] = NAMES) -> None:
    """All masks hold the true classes, whatever their ids."""
    info = datasets.info(str(folder))
    ids = np.full(256, IGNORE)
    ids[: len(names)] = [info.class_names.index(name) for name in names]
    seen = 0
    for split in datasets.get(str(folder)).splits:
        data = datasets.load(str(folder), split)
        for index, name in enumerate(data.ids):
            number = int(name.rpartition("p")[2][:2])
            assert (data[index].mask == ids[truth(number)]).all(), name
            seen += 1
    assert seen == COUNT


def read_all(folder: Path, *, only: str | None = None) -> None:
    """Read every image of a folder, or just one."""
    for split in datasets.get(str(folder)).splits:
        data = datasets.load(str(folder), split)
        for index, name in enumerate(data.ids):
            if only in (None, name):
                data[index]


def indexed(folder: Path, values: Sequence[int], void: int, dtype: Any = np.uint8) -> None:
    table = np.zeros(256, dtype)
    table[: len(values)] = values
    table[IGNORE] = void
    for number in range(COUNT):
        save(table[truth(number)], folder / f"p{number:02d}.png")


def coloured(folder: Path, *, name: str = "p{:02d}.png", alpha: bool = False) -> None:
    table = np.zeros((256, 3), np.uint8)
    table[: len(COLOURS)] = COLOURS
    table[IGNORE] = 255, 255, 255
    for number in range(COUNT):
        picture = table[truth(number)]
        if alpha:
            picture = np.dstack([picture, np.full(SIZE, 200, np.uint8)])
        save(picture, folder / name.format(number))


def test_numbers_in_twin_folders(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    indexed(tmp_path / "masks", (0, 4, 7), 255)
    found = describe(tmp_path)
    about = found.description
    assert (found.images, found.labelled, about.format) == (COUNT, COUNT, "index")
    assert [one.name for one in about.classes] == ["class 0", "class 4", "class 7"]
    assert about.void == (255,)
    assert [(one.images, one.masks) for one in about.files] == [("images/*", "masks/*")]
    assert found.shares["void"] == pytest.approx(1 / SIZE[0])
    assert sum(found.shares.values()) == pytest.approx(1)
    assert "class 4" in str(found)
    check_masks(tmp_path, names=[one.name for one in about.classes])
    with pytest.raises(DataError, match="is there already; edit it"):
        describe(tmp_path)
    assert describe(tmp_path, overwrite=True).description == about


def test_numbers_of_16_bits_and_a_list_of_names(tmp_path: Path) -> None:
    pictures(tmp_path / "photos")
    indexed(tmp_path / "labels", (1, 300, 40000), 65535, np.uint16)
    (tmp_path / "classes.txt").write_text("1: soil\n300: leaf\n40000: stem\n65535: void\n")
    found = describe(tmp_path)
    assert found.description.void == (65535,)
    assert "the names of the classes are those of classes.txt" in found.notes
    check_masks(tmp_path)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("labelmap.txt", "{name}:{r},{g},{b}::\n"),
        ("class_dict.csv", "{name},{r},{g},{b}\n"),
        ("label_colors.txt", "{r} {g} {b}\t\t{name}\n"),
    ],
)
def test_colours_and_a_list_of_them(tmp_path: Path, file: str, line: str) -> None:
    pictures(tmp_path / "JPEGImages")
    coloured(tmp_path / "SegmentationClass", alpha=file == "class_dict.csv")
    coloured(tmp_path / "SegmentationObject")
    rows = [*zip(NAMES, COLOURS, strict=True), ("void", (255, 255, 255)), ("sky", (1, 2, 3))]
    text = "# label:color_rgb:parts:actions\n" + "".join(
        line.format(name=name, r=r, g=g, b=b) for name, (r, g, b) in rows
    )
    (tmp_path / file).write_text(text)
    found = describe(tmp_path)
    about = found.description
    assert about.format == "colour"
    assert about.files[0].masks == "SegmentationClass/*"
    assert [one.name for one in about.classes] == [*NAMES]
    assert tuple(one.colour for one in about.classes) == COLOURS
    assert about.void == ((255, 255, 255),)
    assert any("no mask read shows sky" in note for note in found.notes)
    check_masks(tmp_path)


def test_scribbles(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    for number in range(COUNT):
        scribble = np.zeros(SIZE, np.uint8)
        scribble[4, 3:9], scribble[9, 3:12] = 1, 2
        save(scribble, tmp_path / "masks" / f"p{number:02d}.png")
    found = describe(tmp_path)
    (note,) = (one for one in found.notes if "scribbles" in one)
    assert note.startswith("0 fills 98 % of the masks")
    # What the note says works.
    text = (tmp_path / FILE).read_text()
    start = text.index("[[classes]]")
    text = text[:start] + text[text.index("[[classes]]", start + 1) :]
    (tmp_path / FILE).write_text(text.replace("void = []", "void = [0]"))
    mask = datasets.load(str(tmp_path), "train")[0].mask
    assert np.bincount(mask.ravel(), minlength=256)[[0, 1, IGNORE]].tolist() == [6, 9, 849]


def test_values_of_one_name_are_one_class(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    indexed(tmp_path / "masks", (0, 4, 7), 255)
    (tmp_path / "classes.txt").write_text("0 background\n4 plant\n7 plant\n")
    about = describe(tmp_path).description
    assert [(one.name, one.values) for one in about.classes] == [
        ("background", (0,)),
        ("plant", (4, 7)),
    ]
    assert datasets.info(str(tmp_path)).class_names == ("background", "plant")


@pytest.mark.parametrize("ending", ["_mask", ".mask", "_L", "annot"])
def test_masks_beside_their_images(tmp_path: Path, ending: str) -> None:
    pictures(tmp_path, ending=".png")
    for number in range(COUNT):
        save(truth(number), tmp_path / f"p{number:02d}{ending}.png")
    about = describe(tmp_path).description
    assert [(one.images, one.masks) for one in about.files] == [("*", f"*{ending}")]
    check_masks(tmp_path, names=("class 0", "class 1", "class 2"))


def palette(colours: Sequence[tuple[int, int, int]]) -> list[int]:
    """A full palette, so that Pillow writes 8 bits."""
    flat = [value for colour in colours for value in colour]
    return flat + [0] * (768 - len(flat))


def test_palettes(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    for number in range(COUNT):
        mask = Image.fromarray(truth(number)).convert("P")
        mask.putpalette(palette(COLOURS))
        (tmp_path / "masks").mkdir(exist_ok=True)
        mask.save(tmp_path / "masks" / f"p{number:02d}.png")
    about = describe(tmp_path).description
    assert about.format == "index"
    assert tuple(one.colour for one in about.classes) == COLOURS
    check_masks(tmp_path, names=[one.name for one in about.classes])

    # A program has sorted the colours of one file: the colours are right, the numbers are not.
    mask = Image.open(tmp_path / "masks" / "p03.png")
    numbers = np.array([2, 1, 0, *range(3, 256)], np.uint8)[np.asarray(mask)]
    turned = Image.fromarray(numbers).convert("P")
    turned.putpalette(palette(COLOURS[::-1]))
    turned.save(tmp_path / "masks" / "p03.png")
    found = look(tmp_path)
    assert found.description.format == "colour"
    assert any("palettes of the masks differ" in note for note in found.notes)


def test_folders_of_splits_and_of_clips(tmp_path: Path) -> None:
    for split, start, count in (("train", 0, 4), ("val", 4, 2), ("test", 6, 2)):
        pictures(tmp_path / split, start=start, count=count)
        for number in range(start, start + count):
            save(truth(number), tmp_path / f"{split}annot" / f"p{number:02d}.png")
    about = describe(tmp_path).description
    assert [(one.images, one.masks, one.split) for one in about.files] == [
        ("test/*", "testannot/*", "test"),
        ("train/*", "trainannot/*", "train"),
        ("val/*", "valannot/*", "val"),
    ]
    check_masks(tmp_path, names=("class 0", "class 1", "class 2"))

    clips = tmp_path / "clips"
    for number in range(COUNT):
        name = f"clip{number // 2}/p{number:02d}"
        save(photo(number), clips / "images" / f"{name}.jpg")
        save(truth(number), clips / "masks" / f"{name}.png")
    about = describe(clips).description
    assert [(one.images, one.masks) for one in about.files] == [("images/**", "masks/**")]
    assert about.splits.group is not None
    assert about.splits.group_of("clip1/p03") == "clip1"
    check_masks(clips, names=("class 0", "class 1", "class 2"))


def test_two_values_are_background_and_foreground(tmp_path: Path) -> None:
    pictures(tmp_path / "img")
    for number in range(COUNT):
        save((truth(number) == 1).astype(np.uint8) * 255, tmp_path / "mask" / f"p{number:02d}.png")
    about = describe(tmp_path).description
    assert [(one.name, one.values) for one in about.classes] == [
        ("background", (0,)),
        ("foreground", (255,)),
    ]
    assert datasets.load(str(tmp_path), "train")[0].mask.max() == 1


def test_what_cannot_be_described_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        look(tmp_path / "none")
    with pytest.raises(DataError, match="holds no images"):
        look(tmp_path)
    pictures(tmp_path / "images")
    with pytest.raises(DataError, match="8 images, but no labels"):
        look(tmp_path)
    for number in range(COUNT):
        save(truth(number) * 0, tmp_path / "masks" / f"p{number:02d}.png")
    with pytest.raises(DataError, match="the labels hold 1 class;"):
        look(tmp_path)


def runs(mask: npt.NDArray[np.bool_]) -> list[int]:
    """COCO's run lengths, column by column, beginning with zeros."""
    flat = mask.ravel(order="F").astype(int)
    ends = [*np.flatnonzero(np.diff(np.r_[0, flat])).tolist(), len(flat)]
    return [int(one) for one in np.diff([0, *ends])]


def write_coco(folder: Path, *, name: str = "{:s}", path: str = "annotations.json") -> None:
    values: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
    values["categories"] = [{"id": 9 - i, "name": name} for i, name in enumerate(NAMES)]
    for number in range(COUNT):
        file = name.format(f"p{number:02d}.jpg")
        image = {"id": 100 + number, "file_name": file, "height": SIZE[0], "width": SIZE[1]}
        values["images"].append(image)
        for label in range(len(NAMES)):
            shape = {"size": [*SIZE], "counts": runs(truth(number) == label)}
            values["annotations"].append(
                {
                    "id": len(values["annotations"]),
                    "image_id": 100 + number,
                    "category_id": 9 - label,
                    "segmentation": shape,
                }
            )
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(json.dumps(values))


def change_coco(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "annotations.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("name", ["{:s}", "images/{:s}", "images\\{:s}", "/label/studio/{:s}"])
def test_coco_run_lengths(tmp_path: Path, name: str) -> None:
    pictures(tmp_path / "images")
    write_coco(tmp_path, name=name)
    found = describe(tmp_path)
    about = found.description
    assert about.format == "coco"
    assert [one.name for one in about.classes] == [*NAMES]
    assert any("have no shape: they are void" in note for note in found.notes)
    check_masks(tmp_path)


def test_coco_polygons_and_background(tmp_path: Path) -> None:
    pictures(tmp_path / "images", count=2)
    write_coco(tmp_path)

    def polygons(values: dict[str, Any]) -> None:
        values["images"] = values["images"][:2]
        square = [[10, 4, 20, 4, 20, 12, 10, 12]]
        later = [[16, 4, 24, 4, 24, 12, 16, 12]]
        values["annotations"] = [
            {"id": 1, "image_id": 100, "category_id": 9, "segmentation": square},
            {"id": 2, "image_id": 100, "category_id": 8, "segmentation": later},
        ]

    change_coco(tmp_path, polygons)
    about = describe(tmp_path).description
    assert [(one.name, one.values) for one in about.classes] == [
        ("background", (BACKGROUND,)),
        ("soil", ("soil",)),
        ("leaf", ("leaf",)),
    ]
    wanted = np.zeros(SIZE, np.uint8)
    wanted[4:12, 10:20] = 1
    wanted[4:12, 16:24] = 2  # the later one lies on top
    masks = {
        name: data[index].mask
        for data in (datasets.load(str(tmp_path), split) for split in ("train", "val"))
        for index, name in enumerate(data.ids)
    }
    assert (masks["p00"] == wanted).all()
    assert (masks["p01"] == 0).all()  # it is in the file, so it was looked at


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda v: v["categories"].append({"id": 1, "name": "x"}) or
         v["annotations"][0].update(category_id=1), "is 'x', which is neither a class nor void"),
        (lambda v: v["annotations"][0].update(segmentation=[]), "is a box without a shape"),
        # pycocotools alone would draw four numbers as a box.
        (lambda v: v["annotations"][0].update(segmentation=[[1, 2, 9, 9]]), "needs three points"),
        (lambda v: v["annotations"][0].update(segmentation=[[1, 2]]), "needs three points"),
        (lambda v: v["annotations"][0].update(segmentation=[["a"] * 6]), "cannot be drawn"),
        (
            lambda v: v["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, 6, 7]]),
            "odd number of coordinates",
        ),
        (lambda v: v["annotations"][0].update(segmentation={"size": [3, 3], "counts": [9]}),
         "cannot be drawn"),
        (lambda v: v["annotations"][0].update(segmentation={"size": [*SIZE]}), "cannot be drawn"),
        (lambda v: v["annotations"][0].update(category_id=77),
         r"annotations\[0\].category_id is 77, the id of none of its categories"),
        (lambda v: v["annotations"][2].update(image_id="a"), r"annotations\[2\].image_id is 'a'"),
        (lambda v: v["annotations"][1].pop("image_id"), r"no 'annotations\[1\].image_id'"),
        (lambda v: v["images"][0].pop("height"), r"there is no 'images\[0\].height'"),
        (lambda v: v["images"][0].update(width=0), r"images\[0\].width is 0; it must be 1 or more"),
        (lambda v: v["images"][0].update(file_name="gone.jpg"), "names 'gone.jpg', which is not"),
        (lambda v: v["images"][1].update(id=100), "two of its images have one id"),
        (lambda v: v["images"].append({**v["images"][0], "id": 5}), "two entries for"),
        (lambda v: v.pop("images"), "there is no 'images'"),
    ],
)  # fmt: skip
def test_damaged_coco_is_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], complaint: str
) -> None:
    pictures(tmp_path / "images")
    write_coco(tmp_path)
    describe(tmp_path)
    change_coco(tmp_path, change)
    with pytest.raises(DataError, match=complaint) as error:
        read_all(tmp_path)
    assert "annotations.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_coco_says_which_package_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    pictures(tmp_path / "images")
    write_coco(tmp_path)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ConfigError, match=r'pip install "segnb\[annotations\]"'):
        look(tmp_path)


def test_coco_files_of_splits(tmp_path: Path) -> None:
    write_coco(tmp_path, path="all.json")
    whole = json.loads((tmp_path / "all.json").read_text())
    (tmp_path / "all.json").unlink()
    for split, numbers in (("train", range(5)), ("valid", range(5, 8))):
        pictures(tmp_path / split, start=numbers.start, count=len(numbers))
        ids = {100 + number for number in numbers}
        part = {
            "images": [one for one in whole["images"] if one["id"] in ids],
            "annotations": [one for one in whole["annotations"] if one["image_id"] in ids],
            "categories": whole["categories"],
        }
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(part))
    about = describe(tmp_path).description
    assert [(one.images, one.masks, one.split) for one in about.files] == [
        ("train/*", "train/_annotations.coco.json", "train"),
        ("valid/*", "valid/_annotations.coco.json", "val"),
    ]
    check_masks(tmp_path)


def test_coco_of_every_kind(tmp_path: Path) -> None:
    """Run lengths as numbers and as text, a crowd, polygons in parts, and ids that are texts."""
    from pycocotools import mask as tools

    pictures(tmp_path / "images", count=3)
    write_coco(tmp_path)
    left, right = np.zeros(SIZE, np.uint8, order="F"), np.zeros(SIZE, np.uint8, order="F")
    left[:, :9], right[:, 30:] = 1, 1
    text = tools.encode(left)

    def every_kind(values: dict[str, Any]) -> None:
        values["images"] = [{**one, "id": str(one["id"])} for one in values["images"][:3]]
        parts = [[10, 4, 20, 4, 20, 12, 10, 12], [22, 4, 26, 4, 26, 12, 22, 12]]
        crowd = {"size": [*SIZE], "counts": runs(right == 1)}
        compressed = {"size": [*SIZE], "counts": text["counts"].decode()}
        values["annotations"] = [
            {"id": 1, "image_id": "100", "category_id": 9, "segmentation": compressed},
            {"id": 2, "image_id": "100", "category_id": 8, "segmentation": crowd, "iscrowd": 1},
            {"id": 3, "image_id": "100", "category_id": 7, "segmentation": parts},
        ]

    change_coco(tmp_path, every_kind)
    describe(tmp_path)
    wanted = np.zeros(SIZE, np.uint8)
    wanted[left == 1], wanted[right == 1] = 1, 2
    wanted[4:12, 10:20] = wanted[4:12, 22:26] = 3
    for split in ("train", "val"):
        data = datasets.load(str(tmp_path), split)  # type: ignore[arg-type]
        if "p00" in data.ids:
            assert (data[data.ids.index("p00")].mask == wanted).all()


def labelme(path: Path, shapes: Sequence[dict[str, Any]]) -> None:
    values = {"shapes": shapes, "imagePath": f"{path.stem}.jpg", "imageData": None}
    path.write_text(json.dumps({**values, "imageHeight": SIZE[0], "imageWidth": SIZE[1]}))


def test_labelme_masks(tmp_path: Path) -> None:
    pictures(tmp_path)
    for number in range(COUNT):
        shapes = []
        for label, name in enumerate(NAMES):
            stream = io.BytesIO()
            Image.fromarray(truth(number) == label).save(stream, "PNG")
            mask = base64.b64encode(stream.getvalue()).decode()
            corners = [[0, 0], [SIZE[1] - 1, SIZE[0] - 1]]
            shapes.append({"label": name, "shape_type": "mask", "points": corners, "mask": mask})
        labelme(tmp_path / f"p{number:02d}.json", shapes)
    assert describe(tmp_path).description.format == "labelme"
    check_masks(tmp_path)


def test_labelme_shapes(tmp_path: Path) -> None:
    pictures(tmp_path, count=2)
    square = [[10, 4], [19, 4], [19, 11], [10, 11]]
    four = [[32, 16], [34, 16], [34, 22], [32, 22]]
    shapes = [
        {"label": "a", "shape_type": "polygon", "points": square},
        {"label": "b", "shape_type": "rectangle", "points": [[30, 20], [25, 15]]},
        {"label": "b", "shape_type": "rectangle", "points": four},
        {"label": "a", "shape_type": "rotation", "points": [[x - 20, y] for x, y in four]},
        {"label": "b", "shape_type": "circle", "points": [[5, 18], [5, 20]]},
        {"label": "__ignore__", "shape_type": "linestrip", "points": [[0, 0], [35, 0]]},
        {"label": "a", "shape_type": "point", "points": [[30, 8]]},
    ]
    for name in ("p00", "p01"):
        labelme(tmp_path / f"{name}.json", shapes)
    about = describe(tmp_path).description
    assert [one.name for one in about.classes] == ["background", "a", "b"]
    assert about.void == ("__ignore__",)
    mask = datasets.load(str(tmp_path), "train")[0].mask
    assert (mask[6:12, 10:20] == 1).all()
    assert (mask[15:21, 25:31] == 2).all()
    assert (mask[16:23, 32:35] == 2).all()
    assert (mask[16:23, 12:15] == 1).all()
    assert mask[18, 5] == 2
    assert mask[0, 3] == IGNORE
    assert mask[8, 30] == 1
    assert mask[22, 18] == 0

    shapes[0]["points"] = square[:2]
    labelme(tmp_path / "p00.json", shapes)
    labelme(tmp_path / "p01.json", [{**shapes[1], "label": "new"}])
    for name, complaint in (("p00", "shape 1, a polygon, cannot"), ("p01", "shape 1 is 'new'")):
        with pytest.raises(DataError, match=complaint):
            read_all(tmp_path, only=name)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda v: v.pop("imageHeight"), "there is no 'imageHeight'; correct it"),
        (lambda v: v.update(imageWidth=None), "imageWidth is None; it must be a whole number"),
        (lambda v: v["shapes"][0].pop("label"), r"there is no 'shapes\[0\].label'"),
        (lambda v: v["shapes"][0].update(points=[[1]]), r"shapes\[0\].points\[0\] is \[1\]"),
        (lambda v: v["shapes"][0].update(shape_type="star"), "a star, cannot be drawn"),
        (lambda v: v["shapes"][0].update(shape_type="mask"), "a mask, cannot be drawn"),
        (lambda v: v["shapes"][0].update(shape_type="circle"), "a circle, cannot be drawn"),
        (lambda v: v["shapes"][0].update(shape_type="rectangle", points=[]), "cannot be drawn"),
        (lambda v: v["shapes"][0].update(shape_type="line", points=[]), "cannot be drawn"),
    ],
)
def test_damaged_labelme_is_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], complaint: str
) -> None:
    pictures(tmp_path, count=3)
    shape = {"label": "a", "shape_type": "polygon", "points": [[1, 1], [9, 1], [9, 9], [1, 9]]}
    for number in range(3):
        labelme(tmp_path / f"p{number:02d}.json", [shape])
    describe(tmp_path)
    path = tmp_path / "p01.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match=complaint) as error:
        read_all(tmp_path, only="p01")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_classes_get_other_names(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    before = read_description(folder)
    rename_classes(folder, ["earth", "green"])
    after = read_description(folder)
    assert after.info.class_names == ("earth", "green")
    assert (after.labels, after.files, after.void) == (before.labels, before.files, before.void)
    for names in (["a"], ["a", "a"], ["a", "b", "c"]):
        with pytest.raises(DataError, match="has 2 classes, so it takes as many different names"):
            rename_classes(folder, names)


@pytest.mark.parametrize(
    ("ids", "group"),
    [
        ([f"clip{c}_{f:04d}" for c in range(5) for f in range(4)], ("clip2_0003", "clip2")),
        ([f"a{c}_jpg.rf.{f}e5" for c in range(5) for f in range(3)], ("a2_jpg.rf.1e5", "a2")),
        ([f"scene{c}_{y}_{x}" for c in range(4) for y in range(2) for x in range(3)],
         ("scene1_0_2", "scene1")),
        ([f"patient-{c}-slice{f}" for c in range(4) for f in range(3)],
         ("patient-2-slice1", "patient-2")),
        ([f"day{c}/{f}" for c in range(4) for f in range(3)], ("day1/2", "day1")),
        ([f"IMG_{n:04d}" for n in range(40)], None),
        ([f"{n:06d}" for n in range(40)], None),
        (["beach", "wood", "my dog", "café"], None),
    ],
)  # fmt: skip
def test_names_that_look_like_clips(ids: list[str], group: tuple[str, str] | None) -> None:
    import re

    found = group_of(ids)
    if group is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(found, group[0]).group(1) == group[1]  # type: ignore[union-attr]


def test_lists_of_classes(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    for text, found in (
        ("Pixel Value, Class\n0, background\n1, leaf\n", {0: "background", 1: "leaf"}),
        ("soil\nleaf\n", {0: "soil", 1: "leaf"}),
        ("name,r,g,b\na b,1,2,3\n", {(1, 2, 3): "a b"}),
        ("64 128 64\tAnimal\r\n", {(64, 128, 64): "Animal"}),
        ("", {}),
    ):
        path.write_text(text)
        assert read_classes(path) == found
    path.write_bytes(b"\xff\xfe\x00")
    assert read_classes(path) == {}
    assert all(map(is_void, ("Void", "unlabelled", "Unlabeled", "ignore", "__ignore__")))
    assert not any(map(is_void, ("voiding cell", "avoid", "leaf")[1:]))


def test_lists_of_ids_are_found(tmp_path: Path) -> None:
    pictures(tmp_path / "JPEGImages")
    indexed(tmp_path / "SegmentationClass", (0, 1, 2), 255)
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, numbers in (("train", range(5)), ("val", range(5, 8))):
        (lists / f"{split}.txt").write_text("".join(f"p{number:02d}\n" for number in numbers))
    about = describe(tmp_path).description
    assert set(about.splits.lists) == {"train", "val"}
    assert datasets.load(str(tmp_path), "val").ids == ("p05", "p06", "p07")


def test_images_without_labels_are_noted(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / FILE).unlink()
    pictures(folder / "more")
    assert any("the images in more have no labels" in note for note in look(folder).notes)


def test_a_sample_does_not_lose_listed_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segnb.datasets.own import describe as module

    monkeypatch.setattr(module, "SAMPLE", 4)
    pictures(tmp_path / "images")
    coloured(tmp_path / "masks")
    rows = [*zip(NAMES, COLOURS, strict=True), ("void", (255, 255, 255)), ("sky", (1, 2, 3))]
    text = "".join(f"{name},{r},{g},{b}\n" for name, (r, g, b) in rows)
    (tmp_path / "class_dict.csv").write_text(text)
    found = describe(tmp_path)
    assert found.read == 4
    assert [one.name for one in found.description.classes] == [*NAMES, "sky"]
    check_masks(tmp_path)


@pytest.mark.parametrize("name", ["camvid", "shapes"])
def test_a_folder_called_like_a_registered_set_gets_a_name_of_its_own(
    tmp_path: Path, name: str
) -> None:
    folder = make_folder(tmp_path / name)
    (folder / "dataset.toml").unlink()
    assert describe(folder).description.name == f"{name}-own"
    assert len(datasets.load(str(folder), "train")) > 0


def _through_jpeg(mask: Image.Image, quality: int) -> Image.Image:
    stored = io.BytesIO()
    mask.save(stored, "JPEG", quality=quality)
    return Image.open(stored).convert(mask.mode)


def _resized(mask: Image.Image, how: Image.Resampling) -> Image.Image:
    width, height = mask.size
    return mask.resize((width * 3 // 4, height * 3 // 4), how).resize((width, height), how)


SMOOTHED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, fine": lambda mask: _through_jpeg(mask, 92),
    "JPEG, coarse": lambda mask: _through_jpeg(mask, 75),
    "bilinear": lambda mask: _resized(mask, Image.Resampling.BILINEAR),
    "bicubic": lambda mask: _resized(mask, Image.Resampling.BICUBIC),
}


def large_truth(number: int) -> Mask:
    return np.kron(truth(number) % IGNORE, np.ones((4, 4), np.uint8))


IDS, GREY = (0, 4, 7), (0, 90, 200)


@pytest.mark.parametrize(
    ("values", "how"),
    # JPEG changes ids beyond recognition.
    [*product([COLOURS, GREY], SMOOTHED), (IDS, "bilinear"), (IDS, "bicubic")],
)
def test_smoothed_masks_are_told_and_their_blends_are_void(
    tmp_path: Path, values: Any, how: str
) -> None:
    table = np.array(values, np.uint8)
    for number in range(COUNT):
        noise = np.random.default_rng(number).integers(0, 256, (96, 144, 3))
        save(noise.astype(np.uint8), tmp_path / "images" / f"p{number:02d}.png")
        mask = SMOOTHED[how](Image.fromarray(table[large_truth(number)]))
        save(np.asarray(mask), tmp_path / "masks" / f"p{number:02d}.png")
    found = describe(tmp_path)
    assert any("the edges in the masks are smoothed" in note for note in found.notes)
    assert found.description.other == "void"
    assert 'other = "void"' in (tmp_path / FILE).read_text()
    assert found.shares["void"] > 0.01
    assert sum(found.shares.values()) == pytest.approx(1)
    ids = [found.description.classes.index(one) for one in found.description.classes]
    assert ids == [0, 1, 2]
    order = np.argsort([_nearest(one.values[0], values) for one in found.description.classes])
    for split in datasets.get(str(tmp_path)).splits:
        data = datasets.load(str(tmp_path), split)
        for index, name in enumerate(data.ids):
            mask = data[index].mask
            known = mask != IGNORE
            true = order[large_truth(int(name[1:]))]
            assert known.mean() > 0.4
            assert (mask[known] == true[known]).mean() > 0.98, name


def _nearest(value: Any, values: Sequence[Any]) -> int:
    apart = [np.abs(np.subtract(value, one)).max() for one in values]
    return int(np.argmin(apart))


@pytest.mark.parametrize("kind", ["points", "thin", "small"])
def test_points_lines_and_small_objects_are_no_blends(tmp_path: Path, kind: str) -> None:
    draw = np.random.default_rng(0)
    for number in range(COUNT):
        save(photo(number), tmp_path / "images" / f"p{number:02d}.png")
        mask = np.full(SIZE, 255, np.uint8)
        mask[:, :8] = 0
        if kind == "points":
            for value in range(1, 12):
                mask[draw.integers(1, 23), draw.integers(9, 35)] = value
        elif kind == "thin":
            mask[3::5, 9:] = 1
            mask[:, 9:] = np.where(mask[:, 9:] == 255, 2, mask[:, 9:])
        else:
            for value in range(1, 8):
                mask[3 * value - 2 : 3 * value + 1, 10 + value : 14 + value] = value
        save(mask, tmp_path / "masks" / f"p{number:02d}.png")
    found = look(tmp_path)
    assert found.description.other == "refused"
    assert not any("smoothed" in note for note in found.notes)


def test_other_values_are_refused_unless_the_file_says_void(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    indexed(tmp_path / "masks", (0, 4, 7), 255)
    describe(tmp_path)
    toml = tmp_path / FILE
    text = toml.read_text()
    indexed(tmp_path / "masks", (0, 4, 9), 255)  # 9 stands for what was 7
    with pytest.raises(DataError, match='add it to void, or write other = "void"'):
        read_all(tmp_path)
    toml.write_text(text.replace("\nformat", '\nother = "void"\nformat'))
    data = datasets.load(str(tmp_path), "train")
    number = int(data.ids[0][1:])
    expected = np.array([0, 1, IGNORE, *[IGNORE] * 253], np.uint8)[truth(number)]
    np.testing.assert_array_equal(data[0].mask, expected)
    toml.write_text(text.replace("\nformat", '\nother = "zero"\nformat'))
    with pytest.raises(DataError, match="other is 'zero'; choose one of refused, void"):
        read_description(tmp_path)


def _save_text(text: str) -> Callable[[Path, Mask], None]:
    return lambda path, mask: path.write_text(text)


UNFOUND: dict[str, tuple[str, Callable[[Path, Mask], None], str]] = {
    "YOLO": (
        "labels/p{:02d}.txt",
        _save_text("0 0.1 0.1 0.5 0.1 0.5 0.5"),
        "8 .txt files with names that fit, of a kind that segnb does not read; export masks",
    ),
    "NumPy": ("masks/p{:02d}.npy", lambda path, mask: np.save(path, mask), "8 .npy files"),
    "JPEG": (
        "masks/p{:02d}.jpg",
        lambda path, mask: Image.fromarray(mask).save(path),
        "it is a JPEG file",
    ),
    "capital letters": (
        "masks/P{:02d}.png",
        lambda path, mask: Image.fromarray(mask).save(path),
        "masks/P00.png and images/p00.png differ in capital letters",
    ),
    "another ending": (
        "masks/p{:02d}_final.png",
        lambda path, mask: Image.fromarray(mask).save(path),
        "masks/p00_final.png seems to belong to images/p00.png; rename the masks",
    ),
    "unreadable": (
        "masks/p{:02d}.png",
        lambda path, mask: Image.fromarray(np.dstack([mask, mask]), "LA").save(path),
        "masks/p00.png can't be read as a mask: its colours",
    ),
    "photos": (
        "masks/p{:02d}.png",
        lambda path, mask: save(photo(3), path),
        "masks/p00.png fits images/p00.png, but looks like a photo",
    ),
    "damaged COCO": (
        "annotations{:02d}.json",
        _save_text('{"images": [], "annotations": [{"area": NaN}], "categories": []}'),
        "annotations00.json",
    ),
    "more images": (
        "images/p00_{:d}.png",
        lambda path, mask: save(photo(3), path),
        "masks in a folder of their own or with an ending such as _mask",
    ),
    "nothing": (
        "notes/{:02d}.md",
        _save_text("to do"),
        "masks in a folder of their own or with an ending such as _mask",
    ),
}


@pytest.mark.parametrize("kind", UNFOUND)
def test_labels_that_cannot_be_found_are_explained(tmp_path: Path, kind: str) -> None:
    name, write, said = UNFOUND[kind]
    pictures(tmp_path / "images", ending=".png")
    for number in range(COUNT):
        path = tmp_path / name.format(number)
        path.parent.mkdir(exist_ok=True)
        write(path, truth(number))
    with pytest.raises(DataError, match="no labels that fit were found: ") as told:
        describe(tmp_path)
    assert said in str(told.value)


def test_several_masks_of_an_image_are_explained(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    for number in range(COUNT):
        for name in ("cat", "dog"):
            save(truth(number), tmp_path / "masks" / f"p{number:02d}_{name}.png")
    said = (
        r"p00_cat\.png and masks/p00_dog\.png both seem to belong to images/p00\.jpg; segnb takes"
    )
    with pytest.raises(DataError, match=said):
        describe(tmp_path)
