"""Checkers of the notebooks' exercises: they tell what is wrong and hint, and give nothing away.

A checker is a function ``check_NAME(answer)`` in one of this package's modules, each named after
what its notebook is about; all of them can be imported from here. It raises :class:`Hint` where the
answer is not right yet. In a notebook, ``judge(check_NAME, answer)`` prints the hint instead, so
that the cells after an unsolved exercise still run.
"""

from __future__ import annotations

import copy
import pkgutil
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

Answer = Callable[..., Any]
Check = Callable[[Answer], None]


class Hint(Exception):
    """What is wrong with an answer, and a nudge towards what would be right."""


def judge(check: Check, answer: Answer) -> None:
    """Print what a checker says of an answer.

    Args:
        check: One of the checkers.
        answer: The reader's function.
    """
    try:
        check(answer)
    except Hint as hint:
        print(f"Not yet: {hint}")
    else:
        print(f"Right: {answer.__name__} does what it should.")


def call(answer: Answer, /, *arguments: Any, **options: Any) -> Any:
    """Call an answer on copies of the arguments, so that it cannot spoil what comes after.

    Raises:
        Hint: It raised an error, or returned nothing.
    """
    try:
        value = answer(*copy.deepcopy(arguments), **copy.deepcopy(options))
    except Exception as error:
        raise Hint(
            f"{answer.__name__} stopped with {type(error).__name__}: {error}. "
            "Call it yourself in a cell of its own to see in which line."
        ) from error
    if value is None or value is ...:
        raise Hint(f"{answer.__name__} returns nothing yet. Does it end with a return?")
    return value


def need(right: bool, hint: str) -> None:
    """Raise a :class:`Hint` unless something is right."""
    if not right:
        raise Hint(hint)


def need_close(value: Any, wanted: Any, hint: str, *, tolerance: float = 1e-4) -> None:
    """Raise a :class:`Hint` unless numbers agree.

    Args:
        value: What the answer gave: a number, a list, an array or a tensor.
        wanted: What is right.
        hint: What to say where they differ. The right value is never told.
        tolerance: Largest difference, relative to the wanted value where that is above 1.
    """
    found, right = numbers(value), numbers(wanted)
    need(
        found.shape == right.shape,
        f"the result has shape {found.shape}, but it should have {right.shape}.",
    )
    need(bool(np.isfinite(found[np.isfinite(right)]).all()), f"the result is not finite. {hint}")
    need(
        bool(np.allclose(found, right, rtol=tolerance, atol=tolerance, equal_nan=True)),
        hint,
    )


def numbers(value: Any) -> np.ndarray:
    """A number, list, array or tensor as a float64 array.

    Raises:
        Hint: It is none of these.
    """
    if hasattr(value, "detach"):
        value = value.detach().double().cpu()
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise Hint(f"the result is a {type(value).__name__}, not numbers.") from None


def __getattr__(name: str) -> Check:
    # A checker's module is found when it is asked for: some of them need torch, this file does not.
    if name.startswith("check_"):
        for module in pkgutil.iter_modules(__path__):
            found = vars(import_module(f"{__name__}.{module.name}")).get(name)
            if found is not None:
                check: Check = found
                return check
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
