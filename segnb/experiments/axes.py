"""Axes of a sweep: fields of a recipe by name, and their values read from words."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Sequence
from typing import Any, get_args, get_origin, get_type_hints

from segnb.errors import ConfigError
from segnb.recipe import Recipe, Stage


def changed(base: Recipe, changes: dict[str, Any]) -> Recipe:
    """A recipe with changed fields, those of a stage under names with a dot.

    All at once, as the checks of a stage look at several of its fields.
    """
    plain = {name: value for name, value in changes.items() if "." not in name}
    stages: dict[str, dict[str, Any]] = {}
    for name in changes.keys() - plain.keys():
        stage, _, inner = name.partition(".")
        stages.setdefault(stage, {})[inner] = changes[name]
    for stage, inside in stages.items():
        plain[stage] = dataclasses.replace(getattr(base, stage), **inside)
    return base.replace(**plain)


def axis(words: Sequence[str]) -> tuple[str, list[Any]]:
    """A field's name and the values that it takes in a sweep, from ``finetune.steps 25 50``.

    Numbers may be shares (``1/8``), the parts of a pair are joined by a comma (``96,128``), and
    ``none`` is no value at all.

    Raises:
        ConfigError: There is no such field, no value, or a value that the field does not take.
    """
    fields = _fields()
    # A label: it names the preset that the other fields started from.
    del fields["tier"]
    name, values = (words[0], words[1:]) if words else ("", ())
    if name == "tier":
        raise ConfigError("--vary tier: a tier is a preset's name; choose one with --tier")
    inner = [other for other in fields if other.startswith(f"{name}.")]
    if inner:
        raise ConfigError(f"--vary {name}: a stage as a whole; vary one of {', '.join(inner)}")
    if name not in fields:
        raise ConfigError(f"--vary: a recipe has no field {name!r}; it has {', '.join(fields)}")
    if not values:
        raise ConfigError(
            f"--vary {name}: give its values after it; it takes {_takes(fields[name])}"
        )
    found = []
    for word in values:
        try:
            found.append(_value(fields[name], word))
        except ValueError:
            raise ConfigError(f"--vary {name}: {word!r} is not {_takes(fields[name])}") from None
    return name, found


def _fields() -> dict[str, Any]:
    """Type of every field that a sweep can vary, by its name; a stage's own after a dot."""
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(Recipe).items():
        if hint is Stage:
            found |= {f"{name}.{inner}": of for inner, of in get_type_hints(Stage).items()}
        else:
            found[name] = hint
    return found


def _value(hint: Any, word: str) -> Any:
    """A word as a value of a type.

    Raises:
        ValueError: It is none.
    """
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if word.lower() == "none":
            return None
        return _value(next(of for of in inside if of is not type(None)), word)
    if origin is typing.Literal or hint is bool:
        choices = {str(choice).lower(): choice for choice in inside or (True, False)}
        if word.lower() not in choices:
            raise ValueError(word)
        return choices[word.lower()]
    if origin is tuple:
        parts = [_value(of, part) for of, part in zip(inside, word.split(","), strict=True)]
        return tuple(parts)
    if hint is float:
        return number(word)
    return hint(word)


def _takes(hint: Any) -> str:
    """What :func:`_value` makes of a type, in words."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        first = next(of for of in inside if of is not type(None))
        return f"{_takes(first)}, or none"
    if origin is typing.Literal or hint is bool:
        return "one of " + ", ".join(str(choice).lower() for choice in inside or (True, False))
    if origin is tuple:
        return f"{len(inside)} numbers with commas, such as {','.join(['1'] * len(inside))}"
    return {int: "a whole number", float: "a number or a share such as 1/8"}.get(hint, "a word")


def number(word: str) -> float:
    """A number or a share, ``1/8``: so tables and figures name fractions.

    Raises:
        ValueError: It is neither.
    """
    above, stroke, below = word.partition("/")
    if not stroke:
        return float(word)
    if float(below) == 0:
        raise ValueError(f"{word} divides by zero")
    return float(above) / float(below)
