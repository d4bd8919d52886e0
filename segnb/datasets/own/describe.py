"""Looks at a folder of images and labels, and proposes its ``dataset.toml``."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from segnb.datasets.base import IGNORE, Split
from segnb.datasets.own import smoothed
from segnb.datasets.own.annotations import (
    colour_codes,
    numbers_of,
    shape_mask,
    shape_names,
    value_of,
)
from segnb.datasets.own.description import (
    BACKGROUND,
    FILE,
    MOST_CLASSES,
    Colour,
    Description,
    Format,
    Other,
    OwnClass,
    Splits,
    Value,
    default_colours,
    read_description,
    to_toml,
)
from segnb.datasets.own.lists import is_void, read_classes
from segnb.datasets.own.patterns import walk
from segnb.datasets.own.scan import Item, find, read_list
from segnb.datasets.own.sources import SPLITS, find_sources
from segnb.datasets.reading import read_palette
from segnb.errors import DataError
from segnb.files import write_atomic
from segnb.words import counted

#: At most this many masks are read, spread evenly over the folder.
SAMPLE = 300

#: How names show what belongs together; the first that fits is proposed.
_GROUPS = (
    r"^(.+?)[_.](?:jpe?g|png)\.rf\.",  # copies that Roboflow made of one image
    r"^(.+)/[^/]+$",  # a folder a clip
    r"^(.+?)[_-]?[xr]?\d+[_-][yc]?\d+$",  # tiles: scene_0_512
    r"^(.+?)[_-]?(?:frame|slice|img|image|tile|f|z|t)?[_-]?\d+$",  # frames: clip07_0012
)
#: Fewer groups than this can hardly be divided.
_FEWEST_GROUPS = 3

#: Below this share, pixels that no shape covers were left out by accident, or are void.
_BACKGROUND_SHARE = 0.1

#: From this share on, one value may stand for what was not labelled.
_MOSTLY = 0.9

#: The border of objects in PASCAL VOC and in what CVAT exports in its format.
_VOC_VOID = (224, 224, 192)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found in a folder.

    Attributes:
        folder: The folder.
        description: The proposed description.
        images: Number of images.
        labelled: How many have labels.
        read: How many labels were read to count pixels.
        shares: Share of the pixels read by class name, and ``void``.
        notes: What a reader should know or decide, one sentence each.
    """

    folder: Path
    description: Description
    images: int
    labelled: int
    read: int
    shares: Mapping[str, float]
    notes: tuple[str, ...]

    @property
    def toml(self) -> str:
        """The text of the ``dataset.toml``."""
        notes = {name: f"{100 * share:.2g} % of pixels" for name, share in self.shares.items()}
        return to_toml(self.description, notes=notes)

    def __str__(self) -> str:
        about = self.description
        lines = [
            f"{counted(self.images, 'image')}, {self.labelled} of them with labels ({about.format})"
        ]
        for files in about.files:
            split = f"  ({files.split})" if files.split else ""
            lines.append(f"  {files.images}  {files.masks or 'without labels'}{split}")
        lines.append(f"classes, with their share of the pixels of {counted(self.read, 'mask')}:")
        for one in about.classes:
            values = ", ".join(map(str, one.values))
            lines.append(
                f"  {one.name:<24} {values:<18} {100 * self.shares.get(one.name, 0):5.1f} %"
            )
        void = ", ".join(map(str, about.void))
        lines.append(f"  {'void':<24} {void:<18} {100 * self.shares.get('void', 0):5.1f} %")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


def describe(folder: Path, *, overwrite: bool = False) -> Found:
    """Look at a folder, and write its ``dataset.toml``.

    Args:
        folder: The folder.
        overwrite: Replace a ``dataset.toml`` that is there.

    Raises:
        DataError: There is a ``dataset.toml`` already, or no images with labels were found.
    """
    if (folder / FILE).exists() and not overwrite:
        raise DataError(
            f"{folder / FILE} is there already; edit it, or replace it with --overwrite"
        )
    found = look(folder)
    write_atomic(folder / FILE, found.toml)
    return found


def rename_classes(folder: Path, names: Sequence[str]) -> None:
    """Give the classes in a ``dataset.toml`` other names; comments in the file are lost.

    Args:
        folder: The folder.
        names: One name a class, in the order of the class ids.

    Raises:
        DataError: There are more or fewer classes, or two of one name.
    """
    about = read_description(folder)
    if len(names) != len(about.classes) or len(set(names)) < len(names):
        raise DataError(
            f"{folder / FILE} has {len(about.classes)} classes, so it takes as many different "
            f"names, not {', '.join(map(repr, names))}"
        )
    classes = tuple(replace(one, name=name) for one, name in zip(about.classes, names, strict=True))
    write_atomic(folder / FILE, to_toml(replace(about, classes=classes)))


def look(folder: Path) -> Found:
    """Look at a folder, without writing anything.

    Raises:
        DataError: There are no images with labels, or they cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    files = list(walk(folder, deep=True))
    notes: list[str] = []
    form, sources = find_sources(folder, files, notes)
    about = Description(
        name=_name_of(folder), format=form, classes=(), void=(), files=tuple(sources)
    )
    items = [item for source in sources for item in find(folder, about, source)]
    labelled = [item for item in items if item.labels is not None]
    sample = [labelled[i * len(labelled) // SAMPLE] for i in range(SAMPLE)]
    sample = sample if len(labelled) > SAMPLE else labelled
    blended = 0
    if form in ("index", "colour"):
        form, counts, colours, blended = _values(sample, notes)
        named = _class_list(
            [p for p in files if p.suffix.lower() in (".txt", ".csv")], form, counts, colours, notes
        )
        if len(sample) < len(labelled):
            # A mask that was not read may show them.
            counts = {**dict.fromkeys(named, 0), **counts}
    else:
        counts, colours, named = _shapes(sample), {}, {}
    classes, void = _classes(form, counts, colours, named, notes)
    other: Other = "void" if blended else "refused"
    about = replace(about, format=form, classes=classes, void=void, other=other)
    about = replace(about, splits=_splits(folder, about, files, items, notes))
    owner = {value: one.name for one in classes for value in one.values}
    total = sum(counts.values()) + blended
    shares = +Counter({"void": blended})
    for value, count in counts.items():
        shares[owner.get(value, "void")] += count
    return Found(
        folder=folder,
        description=about,
        images=len(items),
        labelled=len(labelled),
        read=len(sample),
        shares={name: count / total for name, count in shares.items()},
        notes=tuple(notes),
    )


def _name_of(folder: Path) -> str:
    from segnb import datasets

    words = re.sub(r"[^\w .-]+", "-", folder.resolve().name)[:40].strip(" .-") or "images"
    return f"{words}-own" if words in datasets.names() else words


def _values(
    sample: Sequence[Item], notes: list[str]
) -> tuple[Format, dict[Value, int], dict[Value, Colour], int]:
    """The encoding of masks, their pixels by value, the colours of palettes, and blended pixels."""
    paths = [item.labels for item in sample if item.labels is not None]
    palettes = [read_palette(path) for path in paths]
    form: Format = "index"
    colours: dict[Value, Colour] = {}
    shown = [palette for palette in palettes if palette]
    if shown:
        longest = max(shown, key=len)
        if all(palette == longest[: len(palette)] for palette in shown):
            colours = dict(enumerate(longest))
        else:
            form = "colour"
            notes.append(
                "the palettes of the masks differ from file to file, so their colours count, not "
                "their numbers"
            )
    counts: Counter[int] = Counter()
    blends: set[int] = set()
    if form == "index":
        try:
            counts, blends = smoothed.count(map(numbers_of, paths), colours=False)
            # The numbers of a palette are names; a blend has a colour, not a number in between.
            blends = set() if shown else blends
        except DataError:
            form = "colour"
    if form == "colour":
        colours = {}
        counts, blends = smoothed.count(map(colour_codes, paths), colours=True)
    blended = sum(counts.pop(value) for value in blends)
    if blends:
        share = 100 * blended / (blended + counts.total())
        notes.append(
            f"the edges in the masks are smoothed: {len(blends)} values ({share:.2g} % of the "
            f"pixels) are blends of others, and void by the line `other`. Better export the masks "
            f"again without smoothing, and not through JPEG. If one of these classes is a blend "
            f"too, remove it"
        )
    return form, {value_of(code, form): count for code, count in counts.items()}, colours, blended


def _class_list(
    files: Iterable[Path],
    form: Format,
    counts: Mapping[Value, int],
    colours: Mapping[Value, Colour],
    notes: list[str],
) -> dict[Value, tuple[str, Colour | None]]:
    """Names, and colours if there are any, from a list of classes that covers most values."""
    best: dict[Value, tuple[str, Colour | None]] = {}
    source = None
    for path in files:
        listed = read_classes(path)
        named: dict[Value, tuple[str, Colour | None]] = {}
        for value, name in listed.items():
            if isinstance(value, tuple) and form == "index":
                # A palette says which number has the colour.
                numbers = [number for number in counts if colours.get(number) == value]
                named |= dict.fromkeys(numbers, (name, value))
            elif isinstance(value, tuple) == (form == "colour"):
                named[value] = name, value if isinstance(value, tuple) else None
        if len(named.keys() & counts.keys()) > len(best.keys() & counts.keys()):
            best, source = named, path
    if source is None or 2 * len(best.keys() & counts.keys()) < len(counts):
        return {}
    notes.append(f"the names of the classes are those of {source.name}")
    return best


def _shapes(sample: Sequence[Item]) -> dict[Value, int]:
    """Pixels by name of a shape; those without a shape count as background."""
    names = shape_names(sample)
    if len(names) > MOST_CLASSES:
        raise DataError(
            f"the shapes have {len(names)} names; segnb takes at most {MOST_CLASSES} classes"
        )
    labels: dict[Value, int] = {name: number for number, name in enumerate(names)}
    labels.setdefault(BACKGROUND, IGNORE)
    counts: Counter[Value] = Counter()
    for item in sample:
        found = np.bincount(shape_mask(item, labels).ravel(), minlength=IGNORE + 1)
        counts.update({value: int(found[label]) for value, label in labels.items()})
    return dict(counts)


def _classes(
    form: Format,
    counts: Mapping[Value, int],
    colours: Mapping[Value, Colour],
    named: Mapping[Value, tuple[str, Colour | None]],
    notes: list[str],
) -> tuple[tuple[OwnClass, ...], tuple[Value, ...]]:
    if form in ("coco", "labelme"):
        rows, void = _named_shapes(counts, notes)
    else:
        rows, void = _named_values(form, counts, colours, named, notes)
    if not 2 <= len(rows) <= IGNORE:
        raise DataError(
            f"the labels hold {counted(len(rows), 'class', 'classes')}; segnb takes 2 to {IGNORE}. "
            + (
                "Masks whose edges were blurred hold many values: export them as PNG without "
                "smoothing"
                if len(rows) > IGNORE
                else "Are all pixels of one value?"
            )
        )
    taken: set[Colour] = set()
    own: list[Colour | None] = []
    for _, _, colour in rows:
        own.append(None if colour in taken else colour)
        taken |= {colour} if colour else set()
    spare = iter(default_colours(len(rows), taken))
    classes = tuple(
        OwnClass(name=name, values=values, colour=colour or next(spare))
        for (name, values, _), colour in zip(rows, own, strict=True)
    )
    return classes, void


_Row = tuple[str, tuple[Value, ...], "Colour | None"]


def _named_shapes(
    counts: Mapping[Value, int], notes: list[str]
) -> tuple[list[_Row], tuple[Value, ...]]:
    total = sum(counts.values())
    bare = counts.get(BACKGROUND, 0) / total
    rows: list[_Row] = []
    void: list[Value] = []
    plain = next((n for n in counts if str(n).lower() == "background"), None)
    covered = [name for name in counts if name not in (BACKGROUND, plain)]
    share = f"{100 * bare:.2g} % of the pixels have no shape"
    if bare >= _BACKGROUND_SHARE or (bare and len(covered) < 2 and plain is None):
        if bare >= _MOSTLY and len(covered) > 1:
            notes.append(
                f"{share}: they are taken for background; if they are just not labelled, as with "
                f'scribbles or points, remove "{BACKGROUND}", and they are void'
            )
        values = (BACKGROUND,) if plain is None else (plain, BACKGROUND)
        rows.append(("background", values, _usual_colour("background")))
    else:
        if plain is not None:
            rows.append((str(plain), (plain,), None))
        if bare:
            notes.append(f'{share}: they are void; if they are a class, give it "{BACKGROUND}"')
    for name in covered:
        if is_void(str(name)):
            void.append(name)
        else:
            rows.append((str(name), (name,), None))
    return rows, tuple(void)


def _named_values(
    form: Format,
    counts: Mapping[Value, int],
    colours: Mapping[Value, Colour],
    named: Mapping[Value, tuple[str, Colour | None]],
    notes: list[str],
) -> tuple[list[_Row], tuple[Value, ...]]:
    rows: dict[str, tuple[tuple[Value, ...], Colour | None]] = {}
    void: list[Value] = []
    listed = [value for value in named if value in counts]
    # In the order of the list, then in that of the values.
    values = [*listed, *sorted((v for v in counts if v not in named), key=repr)]
    if form == "index":
        values = sorted(values)  # type: ignore[type-var]
    two = form == "index" and len(values) == 2 and 0 in values and not named
    for value in values:
        name, colour = named.get(value, ("", colours.get(value)))
        usual = value == _VOC_VOID or (value == IGNORE and len(values) > 2)
        if is_void(name) if name else usual:
            void.append(value)
            continue
        if isinstance(value, tuple):
            name, colour = name or f"class {'-'.join(map(str, value))}", value
        elif two:
            name = "foreground" if value else "background"
        row = rows.get(name or f"class {value}")
        # A list of classes may give several values one name.
        rows[name or f"class {value}"] = (
            ((*row[0], value), row[1]) if row else ((value,), colour or _usual_colour(name))
        )
    missing = [
        name for value, (name, _) in named.items() if value not in counts and not is_void(name)
    ]
    if missing:
        notes.append(f"no mask read shows {', '.join(missing)}, so they are no classes here")
    value, most = max(counts.items(), key=lambda one: one[1])
    share = most / sum(counts.values())
    if share >= _MOSTLY and value not in void and len(values) > 2:
        notes.append(
            f"{value} fills {100 * share:.2g} % of the masks; if it means not labelled, as with "
            f"scribbles or points, move it to `void`"
        )
    elif form == "index" and not void and not named and len(values) > 2:
        notes.append("if one of these values means void (often the last or 255), move it to `void`")
    return [(name, *row) for name, row in rows.items()], tuple(void)


def _usual_colour(name: str) -> Colour | None:
    """Grey for the background, so that objects stand out; ``None`` leaves it to the others."""
    return (60, 60, 60) if name.lower() == "background" else None


def _splits(
    folder: Path,
    about: Description,
    files: Iterable[Path],
    items: Sequence[Item],
    notes: list[str],
) -> Splits:
    ids = [item.id for item in items if item.labels is not None]
    placed = {one.split for one in about.files} - {None}
    lists: dict[Split, str] = {}
    for path in () if placed else files:
        split = SPLITS.get(path.stem.lower())
        if path.suffix.lower() == ".txt" and split and split not in lists:
            with contextlib.suppress(DataError):  # a list of other things
                if read_list(path, ids):
                    lists[split] = path.relative_to(folder).as_posix()
    group = group_of(ids)
    splits = Splits(lists=lists, group=group)
    if group:
        names = sorted({splits.group_of(name) for name in ids})
        shown = ", ".join(map(repr, names[:3]))
        notes.append(
            f"by their names, the images are of {len(names)} clips, patients or places ({shown}, "
            f"…), each of which stays in one split; if they are not, remove `group`"
        )
    if "val" in placed or "val" in lists:
        return splits
    if "test" in placed or "test" in lists or len(ids) < 100:
        return replace(splits, shares={"val": 0.25})
    return replace(splits, shares={"val": 0.2, "test": 0.2})


def group_of(ids: Iterable[str]) -> str | None:
    """A regular expression for what belongs together, if the names look like it.

    Names look like it if they fall into at least three groups, most of which have several images.
    """
    ids = list(ids)
    for expression in _GROUPS:
        found = [re.search(expression, name) for name in ids]
        groups = Counter(one.group(1) for one in found if one)
        if (
            len(groups) >= _FEWEST_GROUPS
            and groups.total() >= 0.9 * len(ids)
            and 2 * len(groups) <= groups.total()
        ):
            return expression
    return None
