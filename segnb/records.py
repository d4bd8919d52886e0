"""Files that runs leave, read through one door: whole, of the declared type, or a clear error.

A schema is a type: a ``TypedDict`` for a JSON object, :data:`typing.Annotated` with
:class:`Within` or :class:`Like` for what a value must satisfy. :func:`check` compares a value with
it; :func:`read_json` and :func:`read_lines` do so for a file. The schemas stand beside the code
that writes the files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin

from segnb.errors import DataError


@dataclass(frozen=True)
class Within:
    """A range of numbers, ends included."""

    low: float = -math.inf
    high: float = math.inf

    def fits(self, value: Any) -> bool:
        """Whether a number lies in the range."""
        return bool(self.low <= value <= self.high)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{self.low:g} or more"
        return f"in {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Like:
    """A pattern that the whole text has to match, and its name in words."""

    pattern: str
    words: str

    def fits(self, value: Any) -> bool:
        """Whether a text matches."""
        return re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return self.words


Percent = Annotated[float, Within(0, 100)]
Count = Annotated[int, Within(0)]
Amount = Annotated[float, Within(0)]
Name = Annotated[str, Like(r"[^\x00-\x1f]+", "a text")]


class UnfitError(ValueError):
    """A value that is not of the declared type; says which key, and what it must be."""


def check(value: Any, hint: Any, where: str = "") -> None:
    """Check that a value read from JSON has a type; other keys of an object are let through.

    Args:
        value: Plain JSON types; tuples count as lists.
        hint: A type, a ``TypedDict``, a dataclass, or a combination of them.
        where: The key, for the message.

    Raises:
        UnfitError: It has not.
    """
    origin, inside = get_origin(hint), get_args(hint)
    if hint is Any:
        return
    if origin is Annotated:
        check(value, inside[0], where)
        for limit in inside[1:]:
            if value is not None and not limit.fits(value):
                _unfit(value, str(limit), where)
    elif origin in (typing.Union, types.UnionType):
        _check_any(value, inside, where)
    elif origin is Literal:
        if not any(value == one and type(value) is type(one) for one in inside):
            _unfit(value, f"one of {', '.join(map(str, inside))}", where)
    elif origin is dict:
        _need(value, dict, "an object", where)
        for key, one in value.items():
            check(one, inside[1], _inner(where, key))
    elif origin in (list, tuple):
        _check_list(value, origin, inside, where)
    elif isinstance(hint, type) and (typing.is_typeddict(hint) or dataclasses.is_dataclass(hint)):
        _check_object(value, hint, where)
    elif hint is float:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole or (isinstance(value, float) and math.isfinite(value))):
            _unfit(value, "a number", where)
    elif hint is int:
        if isinstance(value, bool) or not isinstance(value, int):
            _unfit(value, "a whole number", where)
    elif hint is type(None):
        if value is not None:
            _unfit(value, "null", where)
    else:
        words = {str: "a text", bool: "true or false"}
        if not isinstance(value, hint):
            _unfit(value, words.get(hint, getattr(hint, "__name__", str(hint))), where)


def _check_any(value: Any, hints: tuple[Any, ...], where: str) -> None:
    errors: list[UnfitError] = []
    for hint in hints:
        try:
            return check(value, hint, where)
        except UnfitError as error:
            errors.append(error)
    raise errors[0]


def _check_list(value: Any, origin: Any, inside: tuple[Any, ...], where: str) -> None:
    _need(value, (list, tuple), "a list", where)
    if origin is tuple and inside[-1] is not Ellipsis:
        if len(value) != len(inside):
            _unfit(value, f"a list of {len(inside)}", where)
        hints = inside
    else:
        hints = (inside[0],) * len(value)
    for index, (one, hint) in enumerate(zip(value, hints, strict=True)):
        check(one, hint, f"{where}[{index}]")


def _check_object(value: Any, hint: Any, where: str) -> None:
    _need(value, dict, "an object", where)
    hints, required = _fields(hint)
    for key, one in hints.items():
        if key in value:
            check(value[key], one, _inner(where, key))
        elif key in required:
            raise UnfitError(f"there is no {_inner(where, key)!r}")


_FIELDS: dict[Any, tuple[dict[str, Any], frozenset[str]]] = {}


def _fields(hint: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """Types of an object's keys, and the keys that it must have."""
    if hint not in _FIELDS:
        hints = typing.get_type_hints(hint, include_extras=True)
        required: frozenset[str] = getattr(hint, "__required_keys__", frozenset())
        _FIELDS[hint] = hints, frozenset(required)
    return _FIELDS[hint]


def _need(value: Any, kinds: Any, words: str, where: str) -> None:
    if not isinstance(value, kinds):
        _unfit(value, words, where)


def _inner(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _unfit(value: Any, words: str, where: str) -> NoReturn:
    shown = repr(value)
    shown = shown if len(shown) <= 40 else f"{shown[:40]}…"
    raise UnfitError(f"{where or 'it'} is {shown}; it must be {words}")


def read_bytes(path: Path, *, remedy: str) -> bytes:
    """The content of a file.

    Raises:
        DataError: It is missing or can't be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} is missing; {remedy}") from None
    except IsADirectoryError:
        raise DataError(
            f"{path} is a folder where a file should be; move it away, then {remedy}"
        ) from None
    except OSError as error:
        raise DataError(
            f"{path} can't be read ({error.strerror or error}): check its permissions and its "
            f"disk, then {remedy}"
        ) from error


def read_text(path: Path, *, remedy: str) -> str:
    """The text of a file in UTF-8, or in UTF-16 where its first bytes say so.

    Raises:
        DataError: It is missing, can't be read, or is no text.
    """
    content = read_bytes(path, remedy=remedy)
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path} line {line} is not UTF-8 text ({error.reason}); {remedy}") from (
            error
        )


def read_json(
    path: Path, hint: Any, *, remedy: str, also: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    """One JSON object of a declared type.

    Args:
        path: The file.
        hint: The type; see :func:`check`.
        remedy: What to do about a wrong file, as the end of a sentence.
        also: Another check, which raises :class:`UnfitError`.

    Raises:
        DataError: The file is missing, damaged, or of another type.
    """
    text = read_text(path, remedy=remedy)
    return _parse(text, hint, where=str(path), remedy=remedy, also=also)


def read_lines(
    path: Path,
    hint: Any,
    *,
    remedy: str,
    also: Callable[[dict[str, Any]], None] | None = None,
    cut: bool = False,
) -> list[dict[str, Any]]:
    """A file of one JSON object a line, without empty lines.

    Args:
        path: The file.
        hint: The type of each object.
        remedy: What to do about a wrong line, as the end of a sentence.
        also: Another check of each object, which raises :class:`UnfitError`.
        cut: Leave out a last line that a kill cut off: it has no end of line.

    Raises:
        DataError: The file is missing, or a line is damaged or of another type.
    """
    lines = read_text(path, remedy=remedy).split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            where = f"{path} line {number}"
            found.append(_parse(line, hint, where=where, remedy=remedy, also=also))
        except DataError:
            if cut and number == len(lines):
                break
            raise
    return found


def _parse(
    text: str,
    hint: Any,
    *,
    where: str,
    remedy: str,
    also: Callable[[dict[str, Any]], None] | None,
) -> dict[str, Any]:
    if re.match(r"(<{7}|={7}|>{7}|\|{7})( |\r?$)", text):
        raise DataError(
            f"{where} is a mark of a merge; delete the lines that start with <<<<<<<, |||||||, "
            "======= and >>>>>>>, and keep the other lines of both sides"
        )
    try:
        found = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error}); {remedy}") from error
    if not isinstance(found, dict):
        raise DataError(f"{where} is not a JSON object but {text.strip()[:40]!r}; {remedy}")
    try:
        check(found, hint)
        if also is not None:
            also(found)
    except UnfitError as error:
        raise DataError(f"{where}: {error}; {remedy}") from error
    return found


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a finite number")


def checksum(path: Path) -> str:
    """Sixteen hex digits over a file's content; for text whatever its line ends.

    Raises:
        OSError: The file can't be read.
    """
    content = path.read_bytes()
    if path.suffix in (".json", ".jsonl"):
        content = content.replace(b"\r\n", b"\n")  # as git writes them on Windows
    return hashlib.sha256(content).hexdigest()[:16]


def zip_fault(content: bytes) -> str | None:
    """What is wrong with a zip archive, the form of numpy's and torch's files; ``None`` if nothing.

    Every member of such an archive has a checksum. torch doesn't compare it.
    """
    import io
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            wrong = archive.testzip()
    except Exception as error:  # zipfile, zlib and struct each raise their own errors
        return f"no whole archive: {error}"
    return None if wrong is None else f"the checksum of {wrong} in it is off"


def same(one: Mapping[str, str] | None, other: Mapping[str, str] | None) -> bool:
    """Whether two runs read the same data, by the fingerprints of their splits.

    Rows from before there were fingerprints have none: they count as the same.
    """
    return not differing(one, other)


def differing(one: Mapping[str, str] | None, other: Mapping[str, str] | None) -> list[str]:
    """The splits whose data differ, of those that both fingerprints have."""
    if one is None or other is None:
        return []
    return [name for name in one if name in other and one[name] != other[name]]


def tell(line: str) -> None:
    """One line for the user on standard error, above a progress bar."""
    from tqdm import tqdm

    tqdm.write(f"segnb: {line}", file=sys.stderr)
