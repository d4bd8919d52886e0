"""The ledger: one JSON line for each finished run; only runs add rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segnb.errors import DataError
from segnb.files import write_json_lines

Row = dict[str, Any]

#: The folder of the repository's reported results.
RESULTS = Path("results")

#: Fields that every row has.
REQUIRED = (
    *("dataset", "tier", "method", "form", "scope", "fraction", "labelled", "seed", "temperature"),
    *("miou_val", "miou_test", "iou"),
    *("intra", "inter", "fisher", "silhouette", "knn_miou", "probe_miou"),
    *("steps", "seconds", "device", "recipe_hash", "version"),
)

#: Repeating the command of a finished run adds its row again if the run's folder still exists.
_REPAIR = "correct or delete that line; repeating the run's command adds it again"


def ledger_path(results: Path) -> Path:
    """The ledger of a results folder."""
    return results / "ledger.jsonl"


def read(path: Path | str = RESULTS / "ledger.jsonl") -> list[Row]:
    """All rows, oldest first; none if there is no ledger yet.

    Raises:
        DataError: A line is not a row; the message has its number.
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
    """Add a row, replacing any of the same recipe.

    Raises:
        DataError: The row lacks a field.
    """
    if missing := [name for name in REQUIRED if name not in row]:
        raise DataError(f"a ledger row needs {missing[0]!r}")
    same = row["recipe_hash"]
    rewrite(path, lambda rows: [*(old for old in rows if old["recipe_hash"] != same), row])


def rewrite(path: Path, change: Callable[[list[Row]], list[Row]]) -> None:
    """Replace the ledger's rows by the result of ``change``.

    The file is locked, so that several sweeps can share it, and renamed into place, so that a
    reader never sees a partial file.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        write_json_lines(path, change(read(path)))
