"""The training log: one JSON object per line, appended during training.

It is for the eye: what a row of the ledger says comes from checkpoints, which hold their stage's
rows too. A log that was cut or lost is written again from them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

from segnb.errors import DataError
from segnb.files import flush, write_json_lines
from segnb.records import Amount, Name, Within, read_lines

LogRow = dict[str, Any]


class LogFields(TypedDict):
    """What a row of the log must have."""

    stage: Name
    step: Annotated[int, Within(1)]
    loss: float
    lr: Amount
    images_per_s: Amount
    seconds: Amount


class TrainingLog:
    """Rows of ``{"stage", "step", "loss", "lr", "images_per_s", "seconds"}``.

    After an interruption, rows past the last checkpoint are dropped: those steps run again. A log
    that can't be read is started again.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        try:
            self.rows: list[LogRow] = [] if path is None else read_log(path)
        except DataError:
            self.rows = []

    def resume(self, stage: str, rows: Sequence[LogRow]) -> None:
        """Replace the rows of ``stage`` by those that belong to its checkpoint."""
        others = [row for row in self.rows if row["stage"] != stage]
        self.rows = [*others, *rows]
        if self.path is not None and (self.rows or self.path.exists()):
            write_json_lines(self.path, self.rows)

    def append(self, row: LogRow) -> None:
        """Add one row."""
        self.rows.append(row)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as stream:
                stream.write(json.dumps(row) + "\n")

    def sync(self) -> None:
        """Write all rows to the disk, before a checkpoint that counts on them."""
        if self.path is not None and self.path.exists():
            with self.path.open("rb") as stream:
                flush(stream.fileno())


def read_log(
    path: Path, *, remedy: str = "delete it: training writes it again", last: bool = True
) -> list[LogRow]:
    """Rows of a log, without a last line that was cut off by a kill; none if there is no log.

    Args:
        path: The file.
        remedy: What to do about a damaged line, as the end of a sentence.
        last: Let a cut last line pass; a finished run's log has none.

    Raises:
        DataError: Another line is damaged, or is no row.
    """
    if not path.exists() and last:
        return []
    return read_lines(path, LogFields, remedy=remedy, cut=last)
