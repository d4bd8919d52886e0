"""Words in messages."""

from __future__ import annotations


def counted(count: int, thing: str, things: str = "") -> str:
    """A number and its noun: ``1 image``, ``2 images``.

    Args:
        count: How many.
        thing: The noun for one.
        things: The noun for several; ``thing`` with an s if it is left out.
    """
    return f"{count:,} {thing if count == 1 else things or f'{thing}s'}"
