"""Stage 1, trained once: recipes that differ in stage 2 alone share it.

A stage 1 is trained in a folder of its own beside the runs, ``stage1/KEY``, under a key made of
all that decides its weights. Every run that needs it copies it into its own folder, which is
complete without the store from then on. A record beside the weights holds the key's parts, the
log and a checksum; it is written last, so weights without one are not taken for whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

import segnb
from segnb.datasets import WorkingSet
from segnb.device import describe
from segnb.files import claimed, write_atomic
from segnb.models import SegmentationNetwork
from segnb.recipe import Recipe
from segnb.training import Session, TrainingStopped, finetune, pretrain
from segnb.training.checkpoint import load_weights, save_weights
from segnb.training.log import LogRow, read_log

#: The folder of all stage 1s, in the folder of the runs.
STORE = "stage1"

#: Raise it with any change of the code that changes what stage 1 learns: what was trained before
#: is then left alone.
CODE = 1

#: Stage 1 in the log, in both methods of pre-training.
NAME = "pretrain"

WEIGHTS, RECORD = "pretrained.safetensors", "pretrained.json"

#: Seconds between two looks at a stage 1 that another process is training.
POLL_SECONDS = 0.5

Record = dict[str, Any]


def train_or_take(
    network: SegmentationNetwork, data: WorkingSet, recipe: Recipe, *, session: Session
) -> Record:
    """Bring ``network`` to the end of stage 1: trained here, or taken from where it was.

    The weights are the same to the last bit either way. Where another process is training this
    stage 1, it is waited for; if it dies, its last checkpoint is taken over.

    Args:
        network: The untrained network; changed in place.
        data: The labelled images.
        recipe: A recipe that has a stage 1.
        session: Its folder is the run's own, inside the folder of all runs. The rows of stage 1
            go into the run's log.

    Returns:
        The record: ``key``, ``rows`` of the log, ``recipe_hash`` of the run that trained it and
        its ``environment``.

    Raises:
        SegnbError: As :func:`segnb.training.train_stage`.
    """
    folder = session.folder
    assert folder is not None
    decides = _decides(data, recipe, session)
    # A run that goes on keeps the stage 1 that it began with, on whatever machine it goes on.
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
                write_atomic(folder / RECORD, json.dumps(record, indent=1) + "\n")
    _into_log(session, record["rows"])
    return record


def held(runs: Path) -> set[str]:
    """Hashes of the stage 1 recipes that the store of a runs folder holds, on any machine."""
    found: set[str] = set()
    for path in (runs / STORE).glob(f"*/{RECORD}"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found.add(json.loads(path.read_text())["decides"]["recipe"])
    return found


def of_row(record: Record, recipe: Recipe) -> dict[str, Any]:
    """What a ledger row says of its stage 1; its steps and seconds count as if trained for it."""
    environment = record["environment"]
    return {
        "key": record["key"],
        "shared": record["recipe_hash"] != recipe.hash,
        "seconds": record["rows"][-1]["seconds"] if record["rows"] else 0.0,
        **{name: environment[name] for name in ("started", "commit", "torch")},
    }


def _decides(data: WorkingSet, recipe: Recipe, session: Session) -> dict[str, Any]:
    """All that decides the weights: what is trained, on which pixels, by which arithmetic."""
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
    """The stage 1 of a folder, if it is whole and the wanted one; one line says where it is not."""
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text())
        whole = record["weights"] == _checksum(folder / WEIGHTS)
        wanted = decides.items() <= record["decides"].items()
        rows, scaler = list(record["rows"]), record["scaler"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = wanted = False
    if not (whole and wanted):
        if session.is_main:
            what = "of another recipe, other images or other arithmetic" if whole else "damaged"
            _say(f"the stage 1 in {folder} is {what}: it is not used but trained again")
        return None
    if recipe.uses_contrastive:
        network.attach_projection()
    else:
        network.attach_classifier(data.info.num_classes)
    # As training leaves it, so that it measures the same to the last bit.
    network.to(device=session.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    load_weights(folder / WEIGHTS, network)
    if scaler is not None and session.accelerator.scaler is not None:
        session.accelerator.scaler.load_state_dict(scaler)
    return {**record, "rows": rows}


def _train(
    store: Path,
    network: SegmentationNetwork,
    data: WorkingSet,
    recipe: Recipe,
    session: Session,
    decides: dict[str, Any],
) -> Record:
    """Train in the store's folder, or go on there from a checkpoint, and leave a whole result."""
    _into_log(session, read_log(store / "log.jsonl"))
    log = session.log()

    def on_log(row: LogRow) -> None:
        # The run's own log shows its stage 1 while it is trained.
        log.append(row)
        if session.on_log is not None:
            session.on_log(row)

    inside = dataclasses.replace(session, folder=store, on_log=on_log)
    work = pretrain if recipe.uses_contrastive else finetune
    rows = work(network, data, recipe.stage1(), session=inside, name=NAME)
    scaler = session.accelerator.scaler
    record: Record = {
        "key": store.name,
        "decides": decides,
        "recipe_hash": recipe.hash,
        "labelled": data.ids,
        "rows": rows,
        "scaler": None if scaler is None else scaler.state_dict(),
    }
    if session.is_main:
        assert session.folder is not None
        save_weights(store / WEIGHTS, network)
        record["weights"] = _checksum(store / WEIGHTS)
        record["environment"] = json.loads((session.folder / "environment.json").read_text())
        write_atomic(store / RECORD, json.dumps(record, indent=1) + "\n")
        for name in (f"{NAME}.pt", "log.jsonl"):
            (store / name).unlink(missing_ok=True)
    return record


def _into_log(session: Session, rows: list[LogRow]) -> None:
    """Make ``rows`` the run's own rows of stage 1."""
    log = session.log()
    if log.path is None or log.rows[: len(rows)] == rows:
        return
    others = [row for row in log.rows if row["stage"] != NAME]
    write_atomic(log.path, "".join(json.dumps(row) + "\n" for row in [*rows, *others]))


@contextlib.contextmanager
def _claimed(store: Path, session: Session) -> Iterator[None]:
    """Hold the store's folder; of several processes the first one does."""
    announced = False

    def wait() -> None:
        nonlocal announced
        if not announced:
            _say(f"waiting for stage 1 {store.name}, which another process trains in {store}")
            announced = True
        if session.should_stop is not None and session.should_stop():
            raise TrainingStopped(f"stopped while waiting for stage 1 in {store}")
        time.sleep(POLL_SECONDS)

    with claimed(store, busy=wait) if session.is_main else contextlib.nullcontext():
        yield


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _say(line: str) -> None:
    # Past a progress bar, not through it.
    tqdm.write(line)
