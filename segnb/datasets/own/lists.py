"""Lists of classes as annotation tools write them: ``labelmap.txt``, ``class_dict.csv`` and others.

A line holds a name and a colour (``road:128,64,128::``, ``128 64 128 road``, ``road,128,64,128``),
a name and a number (``3, leaf``), or a name alone, whose number is that of its line.
"""

from __future__ import annotations

import re
from pathlib import Path

from segnb.datasets.own.description import Value

_COLOUR = re.compile(r"(?<![\w.])(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})(?![\w.])")
_NUMBER = re.compile(r"^\s*(\d{1,5})\s*[\s,:;=]\s*(\D.*)$|^\s*(\D.*?)\s*[\s,:;=]\s*(\d{1,5})\s*$")
#: Larger files are no lists of classes.
_MOST_BYTES = 65536
#: Names of classes that mean: no label.
_VOID = re.compile(r"^_*(void|un-?label|ignore|don.?t.?care|unknown$|no.?label)", re.IGNORECASE)


def read_classes(path: Path) -> dict[Value, str]:
    """The names in a list of classes by colour or number; empty if it is no such list."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            return {}
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return {}
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("#", "//"))]
    coloured: dict[Value, str] = {}
    numbered: dict[Value, str] = {}
    for line in lines:
        if found := _COLOUR.search(line):
            red, green, blue = (int(one) for one in found.groups())
            name = _name(line[: found.start()]) or _name(line[found.end() :])
            if name and max(red, green, blue) < 256:
                coloured[red, green, blue] = name
        elif found := _NUMBER.match(line):
            number, after, before, last = found.groups()
            numbered[int(number or last)] = _name(after or before)
    if coloured:
        return coloured
    if numbered:
        return numbered
    if path.stem.lower() in ("classes", "labels", "class_names", "classnames", "names"):
        return dict(enumerate(lines))
    return {}


def is_void(name: str) -> bool:
    """Whether the name of a class says that its pixels have no label."""
    return _VOID.search(name) is not None


def _name(text: str) -> str:
    return text.strip(" \t,:;=\"'")
