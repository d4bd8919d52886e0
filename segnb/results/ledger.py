"""The ledger: one JSON line for each finished run; only runs add rows.

A run is its recipe and its data. A row's ``data`` holds a fingerprint of each split that was read
(:mod:`segnb.experiments.fingerprint`); rows of earlier versions have none, and count as having
read the same data.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypedDict

from segnb.errors import DataError
from segnb.files import behind_link, locked, write_json_lines
from segnb.records import (
    Amount,
    Count,
    Like,
    Name,
    Percent,
    UnfitError,
    Within,
    check,
    read_lines,
    same,
)
from segnb.results.method import recipe_of

Row = dict[str, Any]

#: The folder of the repository's reported results.
RESULTS = Path("results")

Hash = Annotated[str, Like("[0-9a-f]{10}", "ten hex digits")]
Checksum = Annotated[str, Like("[0-9a-f]{16}", "sixteen hex digits")]
LogPath = Annotated[str, Like(r"logs/[0-9a-f]{10}(-[0-9a-f]{6})?\.jsonl", "the path of a log")]
IoUs = dict[str, list[Percent | None]]


class StageFields(TypedDict):
    """One stage of a row."""

    step: Count
    seconds: Amount
    loss: float


class _Required(TypedDict):
    dataset: Name
    tier: Name
    method: Name
    form: str | None
    scope: str | None
    fraction: Annotated[float, Within(0, 1)] | None
    labelled: Annotated[int, Within(1)]
    seed: int
    temperature: Amount | None
    miou_val: Percent
    miou_test: Percent | None
    iou: IoUs
    intra: float | None
    inter: float | None
    fisher: float | None
    silhouette: float | None
    knn_miou: Percent | None
    probe_miou: Percent | None
    steps: Count
    seconds: Amount
    device: Name
    recipe_hash: Hash
    recipe: dict[str, Any]
    version: Name


class RowFields(_Required, total=False):
    """What a row must have, and the types of what it may have."""

    miou_test_seen: Percent | None
    miou_test_unseen: Percent | None
    miou_held_out: Percent | None
    pixel_accuracy: dict[str, Percent]
    compactness: dict[str, dict[str, float | None]]
    stages: dict[str, StageFields]
    image_passes: Count
    stage1: dict[str, Any] | None
    processes: Annotated[int, Within(1)]
    precision: str
    loss_backend: str | None
    changes: dict[str, Any]
    command: str
    started: str
    commit: str | None
    log: LogPath
    data: dict[str, Checksum]
    files: dict[str, Checksum]


#: Fields that every row has.
REQUIRED = tuple(sorted(RowFields.__required_keys__))

#: Repeating the command of a run adds its row again: it is trained again if its folder is gone.
_REPAIR = "correct or delete that line; repeating the run's command adds it again"


def ledger_path(results: Path) -> Path:
    """The ledger of a results folder."""
    return results.expanduser() / "ledger.jsonl"


def read(path: Path | str = RESULTS / "ledger.jsonl") -> list[Row]:
    """All rows, oldest first; none if there is no ledger yet.

    A line that stands in the file again, as after a merge, is no other run.

    Raises:
        DataError: A line is not a row; the message has its number.
    """
    source = behind_link(Path(path).expanduser())
    if not source.exists():
        return []
    if source.is_dir():
        raise DataError(
            f"{source} is a folder where a file should be; move it away: repeating the runs' "
            "commands adds their rows again"
        )
    rows = read_lines(source, RowFields, remedy=_REPAIR, also=need_agreement)
    return list({json.dumps(row, sort_keys=True): row for row in rows}.values())


def need_agreement(row: Mapping[str, Any]) -> None:
    """Check that the fields of a row agree with its recipe, and with each other.

    Raises:
        UnfitError: Two of them don't.
    """
    _need_sums(row)
    try:
        recipe = recipe_of(row)
    except ValueError as error:
        said = str(error).partition("; it has")[0]
        raise UnfitError(
            f"its recipe can't be read ({said}); if a later version of segnb wrote it, update "
            "segnb: git pull, pip install -e ."
        ) from error
    except DataError as error:
        if "@" in row["recipe"]["dataset"]:
            return  # a folder of one's own that isn't on this machine
        raise UnfitError(str(error)) from error
    told = {name: getattr(recipe, name) for name in ("tier", "method", "seed")}
    told |= {"dataset": recipe.dataset_title, "recipe_hash": recipe.hash}
    if row["fraction"] is not None:
        told["fraction"] = recipe.fraction
    if row["temperature"] is not None:
        told["temperature"] = recipe.temperature
    if row.get("image_passes") is not None:
        told["image_passes"] = recipe.image_passes()
    for name, value in told.items():
        if row[name] != value:
            raise UnfitError(f"{name} is {row[name]!r}, but {value!r} by its recipe")
    _need_sums(row)


def _need_sums(row: Mapping[str, Any]) -> None:
    for split, values in row["iou"].items():
        known = [value for value in values if value is not None]
        stated = row.get(f"miou_{split}")
        if known and stated is not None:
            mean = math.fsum(known) / len(known)
            # IoUs are rounded to two decimals.
            if abs(mean - stated) > 0.01:
                raise UnfitError(f"miou_{split} is {stated}, but its IoUs have the mean {mean:.3f}")
    stages = row.get("stages")
    if stages:
        steps = sum(stage["step"] for stage in stages.values())
        if steps != row["steps"]:
            raise UnfitError(f"steps is {row['steps']}, but its stages have {steps}")
        seconds = math.fsum(stage["seconds"] for stage in stages.values())
        if abs(seconds - row["seconds"]) > 0.1:
            raise UnfitError(f"seconds is {row['seconds']}, but its stages took {seconds:.2f}")
    final = (row.get("compactness") or {}).get("finetuned", {})
    for name, value in final.items():
        if row.get(name) != value:
            raise UnfitError(f"{name} is {row.get(name)}, but {value} by its compactness")


def find(
    rows: Iterable[Row], recipe_hash: str, data: Mapping[str, str] | None = None
) -> Row | None:
    """The newest row of a recipe on the same data.

    Args:
        rows: The ledger.
        recipe_hash: The recipe.
        data: Fingerprints of the splits; ``None`` takes a row of any data.
    """
    found = [
        row for row in rows if row["recipe_hash"] == recipe_hash and same(row.get("data"), data)
    ]
    return found[-1] if found else None


def add(path: Path, row: Row) -> Row:
    """Add a row, replacing any of the same recipe on the same data; returns it as it was added.

    Where the ledger has a row of the recipe on other data, both stay, and the new row's files get
    a name of their own (:func:`file_name`).

    Raises:
        DataError: The row lacks a field, or has a wrong one.
    """
    for name in REQUIRED:
        if name not in row:
            raise DataError(f"a ledger row needs {name!r}")
    try:
        check(row, RowFields)
        need_agreement(row)
    except UnfitError as error:
        raise DataError(f"this is not a row for the ledger: {error}") from error

    def added(rows: list[Row]) -> list[Row]:
        kept = [
            old
            for old in rows
            if old["recipe_hash"] != row["recipe_hash"]
            or not same(old.get("data"), row.get("data"))
        ]
        return [*kept, row]

    rewrite(path, added)
    return row


def named(row: Row, rows: Iterable[Row]) -> Row:
    """The row, with a name for its log that no row of the same recipe on other data has."""
    others = {
        file_name(old)
        for old in rows
        if old["recipe_hash"] == row["recipe_hash"] and not same(old.get("data"), row.get("data"))
    }
    name = row["recipe_hash"]
    if name in others:
        name = f"{name}-{data_name(row['data'])}"
    return {**row, "log": f"logs/{name}.jsonl"}


def file_name(row: Mapping[str, Any]) -> str:
    """The name of a row's files in the folder of the ledger, without their endings."""
    return Path(row["log"]).stem if row.get("log") else str(row["recipe_hash"])


def data_name(data: Mapping[str, str]) -> str:
    """Six hex digits for the fingerprints of all splits."""
    text = repr(sorted(data.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def rewrite(path: Path, change: Callable[[list[Row]], list[Row]]) -> None:
    """Replace the ledger's rows by the result of ``change``.

    The file is locked, so that several sweeps can share it, and renamed into place, so that a
    reader never sees a partial file. A symbolic link is written through.
    """
    target = behind_link(path)
    with locked(target.with_name(f"{target.name}.lock")):
        write_json_lines(target, change(read(target)))
