"""The ledger: one JSON line for each finished run, which only runs write."""

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

#: Fields that every row has.
REQUIRED = (
    *("dataset", "tier", "method", "form", "scope", "fraction", "labelled", "seed", "temperature"),
    *("miou_val", "miou_test", "iou"),
    *("intra", "inter", "fisher", "silhouette", "knn_miou", "probe_miou"),
    *("steps", "seconds", "device", "recipe_hash", "version"),
)

#: A finished run whose folder still exists adds its row again when its command is repeated.
_REPAIR = "correct or delete that line; the command of its run writes it again"


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
        where = f"{source} line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{where} is not JSON ({error}); {_REPAIR}") from error
        if not isinstance(row, dict):
            raise DataError(f"{where} is not a row but {line.strip()[:40]!r}; {_REPAIR}")
        if missing := [name for name in REQUIRED if name not in row]:
            raise DataError(f"{where} has no {missing[0]!r}; {_REPAIR}")
        rows.append(row)
    return rows


def add(path: Path, row: Row) -> None:
    """Add a row; it replaces one of the same recipe.

    Raises:
        DataError: The row lacks a field.
    """
    if missing := [name for name in REQUIRED if name not in row]:
        raise DataError(f"a ledger row needs {missing[0]!r}")
    same = row["recipe_hash"]
    rewrite(path, lambda rows: [*(old for old in rows if old["recipe_hash"] != same), row])


def rewrite(path: Path, change: Callable[[list[Row]], list[Row]]) -> None:
    """Replace the ledger's rows by what ``change`` makes of them.

    The file is locked, so that several sweeps can share it, and renamed into place, so that a
    reader never sees half of it.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        write_atomic(path, "".join(json.dumps(row) + "\n" for row in change(read(path))))
