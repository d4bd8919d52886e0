"""``dataset.toml``: what a folder of your own says about itself, and the checks on it."""

from __future__ import annotations

import colorsys
import json
import re
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeAlias, get_args

from segnb.datasets.base import DatasetInfo, Split
from segnb.datasets.own.patterns import Pattern, pattern
from segnb.errors import DataError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: The file that makes a folder a data set.
FILE = "dataset.toml"

#: How labels are stored: class numbers in a picture, colours in a picture, COCO or LabelMe JSON.
Format = Literal["index", "colour", "coco", "labelme"]

#: What a value means that is neither a class nor in ``void``.
Other = Literal["refused", "void"]

Colour: TypeAlias = tuple[int, int, int]
#: What stands for a class: a number, a colour, or the name in a JSON file.
Value: TypeAlias = "int | Colour | str"

#: The value of a pixel that no polygon covers.
BACKGROUND = "_background_"

#: Share of the training images that becomes ``val`` unless the description names another.
VAL_SHARE = 0.2

#: Ids are stored in a byte, and 255 is void.
MOST_CLASSES = 255

_KEYS = ("name", "format", "void", "other", "licence", "homepage", "classes", "files", "splits")
#: Part of names of caches, runs and figures. ``@`` separates a name from a path in recipes.
_NAME = re.compile(r"\w([\w .-]{0,58}[\w-])?")


@dataclass(frozen=True, kw_only=True)
class OwnClass:
    """One class.

    Attributes:
        name: Its name.
        values: What stands for it in the masks; several values are merged into one class.
        colour: Its colour in pictures: red, green and blue, 0 to 255.
    """

    name: str
    values: tuple[Value, ...]
    colour: Colour


@dataclass(frozen=True, kw_only=True)
class Files:
    """Where images and their masks are.

    Attributes:
        images: A pattern (see :mod:`segnb.datasets.own.patterns`).
        masks: A pattern with the same star, or one COCO file; ``None`` for images without labels.
        split: The split of these images; ``None`` leaves it to ``[splits]``.
    """

    images: str
    masks: str | None
    split: Split | None = None


@dataclass(frozen=True, kw_only=True)
class Splits:
    """How images without a split of their own are divided.

    Attributes:
        lists: Text files of ids, by split.
        shares: Shares of the training images that become ``val`` and ``test``.
        group: A regular expression; images whose ids give the same text stay together.
        seed: Determines the division.
    """

    lists: Mapping[Split, str] = field(default_factory=dict)
    shares: Mapping[Split, float] = field(default_factory=dict)
    group: str | None = None
    seed: int = 0

    def group_of(self, image: str) -> str:
        """The clip, patient or tile of an image; an id without one stands alone."""
        found = re.search(self.group, image) if self.group else None
        if found is None:
            return image
        return found.group(1 if found.re.groups else 0) or image


@dataclass(frozen=True, kw_only=True)
class Description:
    """The content of a ``dataset.toml``.

    Attributes:
        name: The data set's name in recipes, tables and file names.
        format: How the labels are stored.
        classes: The classes, in the order of their ids.
        void: Values of pixels without a label.
        other: What all other values in a mask mean.
        files: Where images and masks are.
        splits: How images are divided.
        licence: Terms of use.
        homepage: A web page.
    """

    name: str
    format: Format
    classes: tuple[OwnClass, ...]
    void: tuple[Value, ...]
    files: tuple[Files, ...]
    other: Other = "refused"
    splits: Splits = Splits()
    licence: str = "Not stated."
    homepage: str = ""

    @property
    def info(self) -> DatasetInfo:
        """The description as all data sets have it."""
        return DatasetInfo(
            name=self.name,
            class_names=tuple(one.name for one in self.classes),
            palette=tuple(one.colour for one in self.classes),
            licence=self.licence,
            homepage=self.homepage,
        )

    @property
    def labels(self) -> dict[Value, int]:
        """The class id of every value in the masks, without void."""
        return {value: label for label, one in enumerate(self.classes) for value in one.values}

    @property
    def split_names(self) -> tuple[Split, ...]:
        """The splits that there are."""
        named = {one.split for one in self.files} | {*self.splits.lists} | {*self.splits.shares}
        return tuple(name for name in get_args(Split) if name in named | {"train", "val"})


def read_description(folder: Path) -> Description:
    """What a folder says about itself.

    Raises:
        DataError: There is no ``dataset.toml``, or something in it is wrong; one line that names
            the file, the key and the remedy.
    """
    path = folder / FILE
    try:
        stat = path.stat()
    except OSError:
        command = f"segnb describe {shlex.quote(str(folder))}"
        raise DataError(f"there is no {path}; `{command}` writes one") from None
    return _read(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _read(path: Path, time: int, size: int) -> Description:
    # Cached: a sweep makes hundreds of recipes, and each asks for the name.
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not TOML: {error}; correct that line") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    return _Reader(path).description(values)


def class_of(value: Value, labels: Mapping[Value, int], where: str) -> int:
    """The class id, or ``IGNORE``, of what stands for a class.

    Raises:
        DataError: It stands for none; ``where`` begins the message.
    """
    if value not in labels:
        raise DataError(
            f"{where} is {value!r}, which is neither a class nor void in dataset.toml; add a class "
            f"with that value, or add it to void"
        )
    return labels[value]


def default_colours(count: int, taken: Collection[Colour] = ()) -> list[Colour]:
    """Colours for classes without one, all different, and different from those taken."""
    found: list[Colour] = []
    step = 0
    while len(found) < count:
        # Steps of the golden angle keep neighbours apart, however many there are.
        hue, light = (0.58 + step * 0.618034) % 1, (0.55, 0.40, 0.72)[step // 8 % 3]
        red, green, blue = colorsys.hls_to_rgb(hue, light, 0.65)
        colour = round(255 * red), round(255 * green), round(255 * blue)
        if colour not in taken and colour not in found:
            found.append(colour)
        step += 1
    return found


def is_name(text: str) -> bool:
    """Whether a text may be the name of a data set."""
    return _NAME.fullmatch(text) is not None


def to_toml(description: Description, *, notes: Mapping[str, str] | None = None) -> str:
    """The text of a ``dataset.toml``.

    Args:
        description: Its content.
        notes: Comments to put after the lines of classes, by class name.
    """
    notes = notes or {}
    lines = [
        "# What this folder says about itself. `segnb describe` wrote it; correct what is wrong,",
        "# then `segnb check` shows what segnb makes of it.",
        f"name = {_toml(description.name)}",
        f"licence = {_toml(description.licence)}",
    ]
    if description.homepage:
        lines.append(f"homepage = {_toml(description.homepage)}")
    lines += [
        "",
        f"format = {_toml(description.format)}  # {_FORMATS[description.format]}",
        f"void = {_toml(list(description.void))}  # values of pixels without a label",
        *(
            [f"other = {_toml(description.other)}  # the meaning of all values not named here"]
            if description.other != "refused"
            else []
        ),
        "",
        "# The * stands for the same text in both.",
    ]
    for files in description.files:
        lines += ["[[files]]", f"images = {_toml(files.images)}"]
        lines += [f"masks = {_toml(files.masks)}"] if files.masks else []
        lines += [f"split = {_toml(files.split)}"] if files.split else []
        lines.append("")
    splits = description.splits
    if splits.lists or splits.shares or splits.group:
        lines.append("[splits]")
        lines += [f"{name} = {_toml(path)}  # a list of ids" for name, path in splits.lists.items()]
        for name, share in splits.shares.items():
            lines.append(f"{name} = {share:g}  # share of the images that no other line places")
        if splits.group:
            lines.append(
                f"group = {_toml(splits.group)}  # what it finds in an id stays on one side"
            )
        lines += [f"seed = {splits.seed}", ""]
    lines.append("# In the order of the class ids: 0, 1, 2, …")
    for one in description.classes:
        value = one.values[0] if len(one.values) == 1 else list(one.values)
        note = f"  # {notes[one.name]}" if one.name in notes else ""
        lines += [
            "[[classes]]",
            f"name = {_toml(one.name)}{note}",
            f"value = {_toml(value)}",
            f"colour = {_toml(one.colour)}",
            "",
        ]
    return "\n".join(lines)


_FORMATS: dict[Format, str] = {
    "index": "each pixel of a mask holds the number of its class",
    "colour": "each pixel of a mask holds the colour of its class",
    "coco": "polygons and run lengths in a COCO file",
    "labelme": "polygons in one LabelMe file an image",
}


def _toml(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    # TOML's strings are JSON's, but for one character that JSON leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


class _Reader:
    """Checks the values of one file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fail(self, key: str, problem: str, remedy: str) -> NoReturn:
        raise DataError(f"{self.path}: {key} {problem}; {remedy}")

    def known(self, table: Mapping[str, Any], keys: Sequence[str], where: str = "") -> None:
        for key in table:
            if key not in keys:
                self.fail(f"{where}{key}", "is no known key", f"known are {', '.join(keys)}")

    def text(self, table: Mapping[str, Any], key: str, where: str = "", usual: str = "") -> str:
        value = table.get(key, usual)
        if not isinstance(value, str) or any(ord(letter) < 32 for letter in value):
            self.fail(f"{where}{key}", f"is {value!r}", "write one line in quotation marks")
        return value

    def description(self, table: Mapping[str, Any]) -> Description:
        self.known(table, _KEYS)
        name = self.text(table, "name")
        if not is_name(name):
            self.fail(
                "name",
                f"is {name!r}" if "name" in table else "is missing",
                "write 1 to 60 letters, digits, spaces, '.', '-' or '_', for it becomes part of "
                "file names",
            )
        found = self.text(table, "format", usual="index")
        if found not in get_args(Format):
            self.fail("format", f"is {found!r}", f"choose one of {', '.join(get_args(Format))}")
        form: Format = found  # type: ignore[assignment]
        void = self.values(table.get("void", []), "void", form, many=True)
        other = self.text(table, "other", usual="refused")
        if other not in get_args(Other):
            self.fail("other", f"is {other!r}", f"choose one of {', '.join(get_args(Other))}")
        if other != "refused" and form in ("coco", "labelme"):
            self.fail("other", f"is {other!r}", f"remove it, for {form} has names, not values")
        files = self.files(table, form)
        classes = self.classes(table, form, void)
        if form == "index" and "void" not in table:
            # As in most data sets; but in masks of 0 and 255, 255 is the object.
            void = () if any(255 in one.values for one in classes) else (255,)
        return Description(
            name=name,
            format=form,
            classes=classes,
            void=void,
            other=other,  # type: ignore[arg-type]
            files=files,
            splits=self.splits(table, files),
            licence=self.text(table, "licence", usual="Not stated."),
            homepage=self.text(table, "homepage"),
        )

    def tables(self, table: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
        found = table.get(key, [])
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            self.fail(key, "is no list of tables", f"write each one below a line [[{key}]]")
        return found

    def files(self, table: Mapping[str, Any], form: Format) -> tuple[Files, ...]:
        found = []
        for number, one in enumerate(self.tables(table, "files"), 1):
            where = f"files {number}, "
            self.known(one, ("images", "masks", "split"), where)
            images = self.text(one, "images", where)
            masks = self.text(one, "masks", where) if "masks" in one else None
            self.pattern(images, f"{where}images")
            if masks is None:
                pass  # images without labels
            elif form != "coco":
                self.pattern(masks, f"{where}masks")
            elif not masks.lower().endswith(".json"):
                self.fail(
                    f"{where}masks", f"is {masks!r}", "name one COCO file, which ends in .json"
                )
            found.append(Files(images=images, masks=masks, split=self.split(one, where)))
        if not found:
            self.fail(
                "files",
                "is missing",
                'say where images and masks are: [[files]], images = "images/*", masks = "masks/*"',
            )
        return tuple(found)

    def pattern(self, text: str, key: str) -> Pattern:
        try:
            return pattern(self.path.parent, text)
        except ValueError as error:
            self.fail(key, f"is {text!r}", str(error))

    def split(self, table: Mapping[str, Any], where: str) -> Split | None:
        found = table.get("split")
        if found is not None and found not in get_args(Split):
            self.fail(f"{where}split", f"is {found!r}", f"choose {', '.join(get_args(Split))}")
        return found  # type: ignore[no-any-return]

    def classes(
        self, table: Mapping[str, Any], form: Format, void: Sequence[Value]
    ) -> tuple[OwnClass, ...]:
        given = self.tables(table, "classes")
        if not 2 <= len(given) <= MOST_CLASSES:
            self.fail(
                "classes",
                f"has {len(given)} entries",
                f"list 2 to {MOST_CLASSES} classes, the background as one of them",
            )
        names: dict[str, str] = {}
        owners: dict[Value, str] = {}
        colours: dict[Colour, str] = {}
        rows: list[tuple[str, tuple[Value, ...], Colour | None]] = []
        for number, one in enumerate(given, 1):
            name = self.text(one, "name", f"classes {number}, ")
            where = f"class {name!r}, " if name.strip() else f"classes {number}, "
            self.known(one, ("name", "value", "colour"), where)
            if not name.strip():
                self.fail(f"{where}name", f"is {name!r}", "give the class a name")
            if name in names:
                self.fail(f"{where}name", "is there twice", "give each class another name")
            if "value" not in one:
                self.fail(f"{where}value", "is missing", "write what stands for it in the masks")
            values = self.values(one["value"], f"{where}value", form)
            for value in values:
                if value in void:
                    self.fail(f"{where}value", f"{value!r} is void too", "remove it from one")
                if value in owners:
                    self.fail(
                        f"{where}value",
                        f"{value!r} is also that of {owners[value]!r}",
                        "give each class values of its own",
                    )
                owners[value] = name
            colour = self.colour(one["colour"], f"{where}colour") if "colour" in one else None
            if colour is None and form == "colour":
                (colour, *_) = values  # type: ignore[assignment]
            if colour is not None and colour in colours:
                self.fail(
                    f"{where}colour",
                    f"{list(colour)} is also that of {colours[colour]!r}",
                    "change one, for pictures could not tell them apart",
                )
            names[name] = name
            if colour is not None:
                colours[colour] = name
            rows.append((name, values, colour))
        spare = iter(default_colours(len(rows), colours))
        return tuple(
            OwnClass(name=name, values=values, colour=colour or next(spare))
            for name, values, colour in rows
        )

    def values(
        self, given: Any, key: str, form: Format, *, many: bool = False
    ) -> tuple[Value, ...]:
        one_colour = form == "colour" and isinstance(given, list) and not _is_list_of_lists(given)
        listed = isinstance(given, list) and not (one_colour and given)
        if many and not listed:
            example = {"index": "[255]", "colour": "[[0, 0, 0]]"}.get(form, '["ignore"]')
            self.fail(key, f"is {given!r}", f"write a list of values, such as {example}")
        if not many and given == []:
            self.fail(key, "is empty", "write what stands for the class in the masks")
        return tuple(self.value(one, key, form) for one in (given if listed else [given]))

    def value(self, given: Any, key: str, form: Format) -> Value:
        if form == "index":
            if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given <= 65535:
                self.fail(key, f"is {given!r}", "write a number that a mask can hold, 0 to 65535")
            return given
        if form == "colour":
            return self.colour(given, key)
        if not isinstance(given, str) or not given:
            self.fail(
                key,
                f"is {given!r}",
                f'write a name from the JSON file, or "{BACKGROUND}" for pixels without a polygon',
            )
        return given

    def colour(self, given: Any, key: str) -> Colour:
        numbers = isinstance(given, list) and [type(one) for one in given] == [int] * 3
        if not numbers or not all(0 <= one <= 255 for one in given):
            self.fail(key, f"is {given!r}", "write red, green and blue, such as [128, 0, 0]")
        red, green, blue = given
        return red, green, blue

    def splits(self, table: Mapping[str, Any], files: Sequence[Files]) -> Splits:
        given = table.get("splits", {})
        if not isinstance(given, dict):
            self.fail("splits", f"is {given!r}", "write its keys below a line [splits]")
        self.known(given, (*get_args(Split), "group", "seed"), "splits, ")
        placed = {one.split for one in files}
        lists: dict[Split, str] = {}
        shares: dict[Split, float] = {}
        for name in get_args(Split):
            if name not in given:
                continue
            key, value = f"splits, {name}", given[name]
            if name in placed:
                self.fail(key, f"is given, but files have the split {name!r} too", "remove one")
            if isinstance(value, str):
                lists[name] = self.text(given, name, "splits, ")
            elif name == "train":
                self.fail(key, f"is {value!r}", "name a list of ids, or leave it out: all the rest")
            elif isinstance(value, bool) or not isinstance(value, (int, float)):
                self.fail(key, f"is {value!r}", "write a share such as 0.2, or name a list of ids")
            elif not 0 < value < 1:
                self.fail(key, f"is {value!r}", "write a share above 0 and below 1, such as 0.2")
            else:
                shares[name] = float(value)
        if "val" not in {*placed, *lists, *shares}:
            shares = {"val": VAL_SHARE, **shares}
        if sum(shares.values()) >= 1:
            self.fail("splits", "leaves nothing to train on", "lower the shares of val and test")
        group = given.get("group")
        if group is not None:
            try:
                re.compile(group)
            except (re.error, TypeError) as error:
                self.fail(
                    "splits, group",
                    f"is {group!r} ({error})",
                    r"write a regular expression in single quotation marks, such as '(.+)_\d+$'",
                )
        seed = given.get("seed", 0)
        if not isinstance(seed, int) or isinstance(seed, bool):
            self.fail("splits, seed", f"is {seed!r}", "write a whole number")
        return Splits(lists=lists, shares=shares, group=group, seed=seed)


def _is_list_of_lists(given: list[Any]) -> bool:
    return any(isinstance(one, list) for one in given)
