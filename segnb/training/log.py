"""The training log: one JSON object per line, appended during training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from segnb.files import write_json_lines

LogRow = dict[str, Any]


class TrainingLog:
    """Rows of ``{"stage", "step", "loss", "lr", "images_per_s", "seconds"}``.

    After an interruption, rows past the last checkpoint are dropped: those steps run again.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows: list[LogRow] = [] if path is None else read_log(path)

    def resume(self, stage: str, step: int) -> None:
        """Drop rows of ``stage`` after ``step``, and a line that was cut off by a kill."""
        self.rows = [row for row in self.rows if row["stage"] != stage or row["step"] <= step]
        if self.path is not None and self.path.exists():
            write_json_lines(self.path, self.rows)

    def append(self, row: LogRow) -> None:
        """Add one row."""
        self.rows.append(row)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as stream:
                stream.write(json.dumps(row) + "\n")


def read_log(path: Path) -> list[LogRow]:
    """Rows of a log, without a last line that was cut off by a kill."""
    if not path.exists():
        return []
    rows: list[LogRow] = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
