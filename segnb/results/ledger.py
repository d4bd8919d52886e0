"""The ledger: one JSON line a finished run, written by runs alone, read by tables and plots."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segnb.errors import DataError
from segnb.files import write_atomic

Row = dict[str, Any]

#: Where the repository keeps its reported results.
RESULTS = Path("results")

#: What every row holds, at least.
REQUIRED = (
    "dataset",
    "tier",
    "method",
    "form",
    "scope",
    "fraction",
    "labelled",
    "seed",
    "temperature",
    "miou_val",
    "miou_test",
    "iou",
    "intra",
    "inter",
    "fisher",
    "silhouette",
    "knn_miou",
    "probe_miou",
    "steps",
    "seconds",
    "device",
    "recipe_hash",
    "version",
)


#: A finished run whose folder is still there adds its row again when its command is given again.
_MEND_LINE = "mend or delete that line; its run's command writes it again"


def ledger_path(results: Path) -> Path:
    """The ledger of a results folder."""
    return results / "ledger.jsonl"


def read(path: Path | str = RESULTS / "ledger.jsonl") -> list[Row]:
    """All rows, oldest first; none where there is no ledger yet.

    Raises:
        DataError: A line that is not a row, with its number.
    """
    source = Path(path)
    if not source.exists():
        return []
    rows: list[Row] = []
    for number, line in enumerate(source.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{source} line {number} is not JSON ({error}); {_MEND_LINE}"
            ) from error
        if not isinstance(row, dict):
            raise DataError(
                f"{source} line {number} is not a row but {line.strip()[:40]!r}; {_MEND_LINE}"
            )
        missing = [name for name in REQUIRED if name not in row]
        if missing:
            raise DataError(f"{source} line {number} has no {missing[0]!r}; {_MEND_LINE}")
        rows.append(row)
    return rows


def add(path: Path, row: Row) -> None:
    """Add a row; one of the same recipe gives way to it.

    Raises:
        DataError: The row lacks a field.
    """
    missing = [name for name in REQUIRED if name not in row]
    if missing:
        raise DataError(f"a ledger row needs {missing[0]!r}")
    rewrite(
        path, lambda rows: [old for old in rows if old["recipe_hash"] != row["recipe_hash"]] + [row]
    )


def rewrite(path: Path, change: Callable[[list[Row]], list[Row]]) -> None:
    """Write the rows that ``change`` makes of those that are held.

    The file is locked, so that several sweeps can share a ledger, and renamed into place, so
    that a reader never sees half of it.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        write_atomic(path, "".join(json.dumps(row) + "\n" for row in change(read(path))))
