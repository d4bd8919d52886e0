"""Stage 1, trained once and shared by recipes that differ only in stage 2.

A stage 1 is trained in its own folder beside the runs, ``stage1/KEY``. The key is a hash of
everything that determines its weights. Every run that needs it copies it into its own folder and
then no longer needs the store. A record beside the weights contains the parts of the key, the log
and a checksum. It is written last, so weights without a record count as incomplete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import torch
from tqdm.auto import tqdm

import segnb
from segnb.datasets import WorkingSet
from segnb.device import describe
from segnb.errors import DataError
from segnb.files import claimed, write_atomic, write_json, write_json_lines
from segnb.losses.backends import noted
from segnb.models import SegmentationNetwork
from segnb.recipe import Recipe
from segnb.records import Name, check, read_json
from segnb.training import Session, TrainingStopped, finetune, pretrain
from segnb.training.checkpoint import load_weights, save_weights
from segnb.training.log import LogFields, LogRow, TrainingLog

#: The folder of all stage 1s, in the folder of the runs.
STORE = "stage1"

#: Increase this with any change of the code that changes what stage 1 learns: stored weights are
#: then no longer used.
CODE = 1

#: The name of stage 1 in the log, for both methods of pre-training.
NAME = "pretrain"

WEIGHTS, RECORD = "pretrained.safetensors", "pretrained.json"

#: Seconds between two checks whether another process has finished a stage 1.
POLL_SECONDS = 0.5

Record = dict[str, Any]


class _Environment(TypedDict):
    started: Name
    commit: str | None
    torch: Name


class RecordFields(TypedDict):
    """What the record of a stage 1 must have."""

    key: Name
    decides: dict[str, Any]
    recipe_hash: Name
    labelled: list[Name]
    rows: list[LogFields]
    scaler: dict[str, Any] | None
    weights: Name
    environment: _Environment


def train_or_take(
    network: SegmentationNetwork, data: WorkingSet, recipe: Recipe, *, session: Session
) -> Record:
    """Bring ``network`` to the end of stage 1, by training it or by loading stored weights.

    The weights are the same to the last bit either way. If another process is training this stage
    1, wait for it; if that process dies, continue from its last checkpoint.

    Args:
        network: The untrained network; changed in place.
        data: The labelled images.
        recipe: A recipe that has a stage 1.
        session: Its folder is the run's own, inside the folder of all runs. The rows of stage 1
            are added to the run's log.

    Returns:
        The record: ``key``, ``rows`` of the log, ``recipe_hash`` of the run that trained it and
        its ``environment``.

    Raises:
        SegnbError: As :func:`segnb.training.train_stage`.
    """
    folder = session.folder
    assert folder is not None
    decides = _decides(data, recipe, session)
    # A resumed run keeps the stage 1 that it started with, even on another machine.
    same_run = {name: decides[name] for name in ("recipe", "data")}
    record = _load(folder, network, data, recipe, session, same_run)
    if record is None:
        key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
        store = folder.parent / STORE / key
        with _claimed(store, session):
            session.accelerator.wait_for_everyone()
            record = _load(store, network, data, recipe, session, decides)
            if record is None:
                record = _train(store, network, data, recipe, session, decides)
            elif session.is_main:
                _say(f"stage 1 {key}: taken from {store}")
            if session.is_main:
                write_atomic(folder / WEIGHTS, (store / WEIGHTS).read_bytes())
                write_json(folder / RECORD, record)
    _into_log(session, record["rows"])
    return record


def held(runs: Path) -> set[str]:
    """Hashes of the stage 1 recipes in the store of a runs folder, from any machine."""
    found: set[str] = set()
    for path in (runs / STORE).glob(f"*/{RECORD}"):
        with contextlib.suppress(DataError, KeyError):
            found.add(read_json(path, RecordFields, remedy="")["decides"]["recipe"])
    return found


def kept(recipe: Recipe, runs: Path) -> list[Path]:
    """Folders of the store with a stage 1 of this recipe, from any machine and on any images."""
    found: list[Path] = []
    for path in sorted((runs / STORE).glob(f"*/{RECORD}")):
        with contextlib.suppress(DataError, KeyError):
            record = read_json(path, RecordFields, remedy="")
            if record["decides"]["recipe"] == recipe.stage1().hash:
                found.append(path.parent)
    return found


def put(runs: Path, weights: bytes, record: bytes) -> None:
    """Add a stage 1 that was trained elsewhere to the store; nothing if it is there.

    Args:
        runs: Folder of the runs.
        weights: The content of :data:`WEIGHTS`.
        record: The content of :data:`RECORD`.

    Raises:
        DataError: They do not belong together, or the store can't be written.
    """
    held = json.loads(record)
    check(held, RecordFields)
    if held["weights"] != hashlib.sha256(weights).hexdigest():
        raise DataError(f"stage 1 {held['key']} was damaged on its way; repeat the command")
    store = runs / STORE / held["key"]
    if (store / RECORD).exists():
        return
    with claimed(store, busy=lambda: time.sleep(POLL_SECONDS)):
        write_atomic(store / WEIGHTS, weights)
        write_atomic(store / RECORD, record)


def of_row(record: Record, recipe: Recipe) -> dict[str, Any]:
    """The stage 1 entry of a ledger row; a shared stage counts its steps and seconds in full."""
    environment = record["environment"]
    return {
        "key": record["key"],
        "shared": record["recipe_hash"] != recipe.hash,
        "seconds": record["rows"][-1]["seconds"] if record["rows"] else 0.0,
        **{name: environment[name] for name in ("started", "commit", "torch")},
    }


def _decides(data: WorkingSet, recipe: Recipe, session: Session) -> dict[str, Any]:
    """Everything that determines the weights: the recipe, the pixels and the arithmetic."""
    return {
        "recipe": recipe.stage1().hash,
        "data": data.digest(),
        "precision": session.precision,
        "processes": session.accelerator.num_processes,
        "device": describe(session.device).name,
        "torch": torch.__version__,
        "segnb": segnb.__version__,
        "code": CODE,
    }


def _load(
    folder: Path,
    network: SegmentationNetwork,
    data: WorkingSet,
    recipe: Recipe,
    session: Session,
    decides: dict[str, Any],
) -> Record | None:
    """Load the stage 1 of a folder if it is complete and the right one; otherwise say why not."""
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        record = read_json(path, RecordFields, remedy="")
        whole = record["weights"] == _checksum(folder / WEIGHTS)
        wanted = decides.items() <= record["decides"].items()
    except (OSError, DataError):
        whole = wanted = False
    if not (whole and wanted):
        if session.is_main:
            what = "of another recipe, other images or other arithmetic" if whole else "damaged"
            _say(f"the stage 1 in {folder} is {what}: it is not used, but trained again")
        return None
    if recipe.uses_contrastive:
        network.attach_projection()
    else:
        network.attach_classifier(data.info.num_classes)
    # The state that training leaves, so that measurements agree to the last bit.
    session.place(network)
    load_weights(folder / WEIGHTS, network)
    if record["scaler"] is not None and session.accelerator.scaler is not None:
        session.accelerator.scaler.load_state_dict(record["scaler"])
    return record


def _train(
    store: Path,
    network: SegmentationNetwork,
    data: WorkingSet,
    recipe: Recipe,
    session: Session,
    decides: dict[str, Any],
) -> Record:
    """Train in the store's folder, or continue from a checkpoint there, and store the result."""
    _into_log(session, TrainingLog(store / "log.jsonl").rows)
    log = session.log()

    def on_log(row: LogRow) -> None:
        # The run's own log should show stage 1 during training.
        log.append(row)
        if session.on_log is not None:
            session.on_log(row)

    inside = dataclasses.replace(session, folder=store, on_log=on_log)
    work = pretrain if recipe.uses_contrastive else finetune
    with noted() as backends:
        rows = work(network, data, recipe.stage1(), session=inside, name=NAME)
    scaler = session.accelerator.scaler
    record: Record = {
        "key": store.name,
        "decides": decides,
        "recipe_hash": recipe.hash,
        "labelled": data.ids,
        "rows": rows,
        "backends": sorted(backends),
        "scaler": None if scaler is None else scaler.state_dict(),
    }
    if session.is_main:
        assert session.folder is not None
        save_weights(store / WEIGHTS, network)
        record["weights"] = _checksum(store / WEIGHTS)
        record["environment"] = json.loads((session.folder / "environment.json").read_text())
        write_json(store / RECORD, record)
        for name in (f"{NAME}.pt", "log.jsonl"):
            (store / name).unlink(missing_ok=True)
    return record


def _into_log(session: Session, rows: list[LogRow]) -> None:
    """Replace the run's own rows of stage 1 by ``rows``."""
    log = session.log()
    if log.path is None or log.rows[: len(rows)] == rows:
        return
    others = [row for row in log.rows if row["stage"] != NAME]
    write_json_lines(log.path, [*rows, *others])


@contextlib.contextmanager
def _claimed(store: Path, session: Session) -> Iterator[None]:
    """Reserve the store's folder; with several processes, the first one does."""
    announced = False

    def wait() -> None:
        nonlocal announced
        if not announced:
            _say(f"waiting for stage 1 {store.name}: another process is training it in {store}")
            announced = True
        if session.should_stop is not None and session.should_stop():
            raise TrainingStopped(f"stopped while waiting for stage 1 in {store}")
        time.sleep(POLL_SECONDS)

    with claimed(store, busy=wait) if session.is_main else contextlib.nullcontext():
        yield


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _say(line: str) -> None:
    # Print above a progress bar, not into it.
    tqdm.write(line)
