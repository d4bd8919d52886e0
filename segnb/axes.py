"""Fields of a recipe by name, and their values parsed from words: the axes of sweeps and tables."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any, get_args, get_origin, get_type_hints

from segnb.errors import ConfigError
from segnb.recipe import Recipe, Stage


def changed(base: Recipe, changes: dict[str, Any]) -> Recipe:
    """A recipe with changed fields; a dot separates a stage from its field.

    All changes are made at once, because the checks of a stage involve several fields.
    """
    plain = {name: value for name, value in changes.items() if "." not in name}
    stages: dict[str, dict[str, Any]] = {}
    for name in changes.keys() - plain.keys():
        stage, _, inner = name.partition(".")
        stages.setdefault(stage, {})[inner] = changes[name]
    for stage, inside in stages.items():
        plain[stage] = dataclasses.replace(getattr(base, stage), **inside)
    return base.replace(**plain)


def value_of(recipe: Recipe, name: str) -> Any:
    """The value of a field; a dot separates a stage from its field."""
    return functools.reduce(getattr, name.split("."), recipe)


def axis(words: Sequence[str]) -> tuple[str, list[Any]]:
    """A field's name and its values, from words such as ``finetune.steps 25 50``.

    Numbers may be fractions (``1/8``), a comma joins the parts of a pair (``96,128``), and
    ``none`` means ``None``.

    Raises:
        ConfigError: There is no such field, no value, or a value that the field does not take.
    """
    fields = _fields()
    # The tier is only a label for the preset that the other fields started from.
    del fields["tier"]
    name, values = (words[0], words[1:]) if words else ("", ())
    if name == "tier":
        raise ConfigError("--vary tier: a tier is a preset's name; choose one with --tier")
    inner = [other for other in fields if other.startswith(f"{name}.")]
    if inner:
        raise ConfigError(f"--vary {name}: this is a whole stage; vary one of {', '.join(inner)}")
    if name not in fields:
        raise ConfigError(f"--vary: a recipe has no field {name!r}; it has {', '.join(fields)}")
    takes = _takes(fields[name])
    if not values:
        raise ConfigError(f"--vary {name}: give values after the name; it takes {takes}")
    found = []
    for word in values:
        try:
            found.append(_value(fields[name], word))
        except ValueError:
            raise ConfigError(f"--vary {name}: {word!r} is not {takes}") from None
    return name, found


def axes(vary: Iterable[Sequence[str]]) -> dict[str, list[Any]]:
    """Several fields and their values, from the words of each ``--vary``.

    Raises:
        ConfigError: A field is there twice; or see :func:`axis`.
    """
    found: dict[str, list[Any]] = {}
    for words in vary:
        name, values = axis(words)
        if name in found:
            raise ConfigError(f"{name} is varied twice; give all of its values at once")
        found[name] = values
    return found


def _fields() -> dict[str, Any]:
    """The type of every field by name; the fields of a stage follow a dot."""
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
        ValueError: The word is no such value.
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
        parts = zip(inside, word.split(","), strict=True)
        return tuple(_value(of, part) for of, part in parts)
    return number(word) if hint is float else hint(word)


def _takes(hint: Any) -> str:
    """The values that :func:`_value` accepts for a type, in words."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        first = next(of for of in inside if of is not type(None))
        return f"{_takes(first)}, or none"
    if origin is typing.Literal or hint is bool:
        return "one of " + ", ".join(str(choice).lower() for choice in inside or (True, False))
    if origin is tuple:
        return f"{len(inside)} numbers with commas, such as {','.join(['1'] * len(inside))}"
    names = {int: "a whole number", float: "a number or a fraction such as 1/8"}
    return names.get(hint, "a word")


def number(word: str) -> float:
    """A number, or a fraction such as ``1/8``, as tables and figures write it.

    Raises:
        ValueError: It is neither.
    """
    above, slash, below = word.partition("/")
    if not slash:
        return float(word)
    if float(below) == 0:
        raise ValueError(f"{word} divides by zero")
    return float(above) / float(below)
