"""Checkers for the notebooks' exercises: they say what is wrong, and hint without giving it away.

A checker is a function ``check_NAME(answer)`` in one of this package's modules, each named after
the topic of its notebook; all of them can be imported from here. It raises :class:`Hint` while the
answer is wrong. In a notebook, ``judge(check_NAME, answer)`` prints the hint instead, so that the
cells after an unsolved exercise still run.
"""

from __future__ import annotations

import copy
import pkgutil
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import numpy as np

Answer = Callable[..., Any]
Check = Callable[[Answer], None]
#: What an answer is called with, the right value, and the hint for any other.
Case = tuple[tuple[Any, ...], Any, str]


class Hint(Exception):
    """What is wrong with an answer, and a nudge towards what would be right."""


def judge(check: Check, answer: Answer) -> None:
    """Print a checker's verdict on the reader's function."""
    try:
        check(answer)
    except Hint as hint:
        print(f"Not yet: {hint}")
    else:
        print(f"Right: {answer.__name__} does what it should.")


def call(answer: Answer, /, *arguments: Any, **options: Any) -> Any:
    """Call an answer on copies of the arguments, so that it can't change what later checks use.

    Raises:
        Hint: The answer raised an error or returned nothing.
    """
    try:
        value = answer(*copy.deepcopy(arguments), **copy.deepcopy(options))
    except Exception as error:
        raise Hint(
            f"{answer.__name__} stopped with {type(error).__name__}: {error}. "
            "Call it yourself in a new cell to see which line fails."
        ) from error
    if value is None or value is ...:
        raise Hint(f"{answer.__name__} returns nothing yet. Does it end with a return?")
    return value


def need(right: bool, hint: str) -> None:
    """Raise a :class:`Hint` unless something is right."""
    if not right:
        raise Hint(hint)


def need_close(
    value: Any,
    wanted: Any,
    hint: str,
    *,
    mistakes: Iterable[tuple[Any, str]] = (),
    tolerance: float = 1e-4,
) -> None:
    """Raise a :class:`Hint` unless numbers agree.

    Args:
        value: What the answer returned: a number, a list, an array or a tensor.
        wanted: The right value, which is never shown.
        hint: What to say if they differ.
        mistakes: Values that common mistakes give, each with its own hint.
        tolerance: Largest difference, relative to the right value where that is above 1.
    """
    right = numbers(wanted)
    found = numbers(value, right.shape)

    def is_close(other: Any) -> bool:
        return np.allclose(found, numbers(other), rtol=tolerance, atol=tolerance, equal_nan=True)

    need(bool(np.isfinite(found[np.isfinite(right)]).all()), f"the result is not finite: {hint}")
    if not is_close(right):
        raise Hint(next((special for wrong, special in mistakes if is_close(wrong)), hint))


def need_cases(answer: Answer, cases: Iterable[Case]) -> None:
    """Call an answer on each case in turn; the first wrong result raises that case's hint."""
    for arguments, wanted, hint in cases:
        need_close(call(answer, *arguments), wanted, hint)


def numbers(value: Any, shape: tuple[int, ...] | None = None, what: str = "") -> np.ndarray:
    """A number, list, array or tensor as a float64 array.

    Raises:
        Hint: It is none of these, or not of ``shape``; ``what`` then says what belongs there.
    """
    if hasattr(value, "detach"):
        value = value.detach().double().cpu()
    try:
        found = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise Hint(f"the result is a {type(value).__name__}, not numbers.") from None
    if shape not in (None, found.shape):
        wanted = f"have shape {shape}" if shape else "be a single number"
        what = what and f": {what}"
        raise Hint(f"the result has shape {found.shape}, but it should {wanted}{what}.")
    return found


def __getattr__(name: str) -> Check:
    # Modules are imported only on demand: some need torch, this file does not.
    if name.startswith("check_"):
        for module in pkgutil.iter_modules(__path__):
            found = vars(import_module(f"{__name__}.{module.name}")).get(name)
            if found is not None:
                check: Check = found
                return check
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
