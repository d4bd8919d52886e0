"""One run: a recipe in, a folder and a ledger row out.

A run's folder contains its recipe, the machine, the ids it used, the log, the metrics and the
weights. Every step is skipped if its output exists already, so a run is resumed by starting it
again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch

import segnb
from segnb import datasets, evaluation
from segnb.datasets import DatasetInfo, WorkingSet, described
from segnb.device import describe, emulated
from segnb.errors import ConfigError, DataError
from segnb.experiments import stage1
from segnb.experiments.fingerprint import Fingerprint, fingerprint
from segnb.experiments.folder import (
    FILES,
    RUNS,
    STAGE1_FILES,
    Environment,
    Ids,
    Started,
    again,
    chosen,
    data_of,
    inspect,
    need_own,
    published,
    read_recipe,
    read_row,
    restore,
    run_folder,
    weights_of,
)
from segnb.experiments.probe import Probe
from segnb.experiments.row import row_of
from segnb.experiments.splits import Splits, load_splits
from segnb.files import (
    claimed,
    need_writable,
    sweep_halves,
    write_atomic,
    write_json,
    write_json_lines,
)
from segnb.installed import commit
from segnb.losses.backends import noted
from segnb.metrics.segmentation import Score
from segnb.models import SegmentationNetwork, build_network
from segnb.recipe import Recipe
from segnb.records import checksum, differing, read_json, tell
from segnb.results import ledger, previews
from segnb.training import Session, finetune, make_accelerator, pretrain, pseudo_label
from segnb.training.checkpoint import load_weights, save_weights
from segnb.training.log import LogRow, read_log
from segnb.training.randomness import derive_seed
from segnb.weights import imagenet_source

__all__ = [
    "RUNS",
    "BusyError",
    "data_today",
    "find_folder",
    "finish",
    "finished_row",
    "initial_network",
    "load_network",
    "need_results",
    "publish",
    "read_recipe",
    "run",
    "run_folder",
    "score_again",
    "within_memory",
]

T = TypeVar("T")


class BusyError(ConfigError):
    """Another process is working on the run."""


def find_folder(recipe: Recipe, runs: Path = RUNS, *, root: Path | None = None) -> Path:
    """The folder of a recipe's run on today's data, whether it exists or not."""
    return chosen(recipe, runs, data_today(recipe, root=root)[0])[0]


def finished_row(folder: Path, recipe: Recipe) -> ledger.Row | None:
    """The row of a finished run; ``None`` if it is not finished, or its row is damaged."""
    try:
        return read_row(folder / "metrics.json", recipe)
    except DataError:
        return None


def data_today(
    recipe: Recipe, *, root: Path | None = None
) -> tuple[Fingerprint | None, DataError | None]:
    """The fingerprint of a recipe's data; ``None`` and the reason if they can't be read."""
    try:
        return fingerprint(recipe, root=root), None
    except DataError as error:
        return None, error


def initial_network(recipe: Recipe) -> SegmentationNetwork:
    """The network before any training; the same for every method at the same seed."""
    torch.manual_seed(derive_seed(recipe.seed, "network"))
    return build_network(recipe)


def run(
    recipe: Recipe,
    *,
    runs: Path = RUNS,
    results: Path | None = ledger.RESULTS,
    root: Path | None = None,
    cpu: bool = False,
    progress_bar: bool = True,
    on_log: Callable[[LogRow], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    until: Literal["pretrain", "end"] = "end",
) -> ledger.Row | None:
    """Train and measure a recipe, or finish what an earlier call started.

    Args:
        recipe: The recipe.
        runs: Folder of the runs.
        results: Folder for the finished row and its log; ``None`` keeps them in the run folder.
        root: Folder of the data sets.
        cpu: Use the CPU even if there is a GPU.
        progress_bar: Show progress.
        on_log: Called with every row of the training log.
        should_stop: Called after every step; returning true stops with a checkpoint.
        until: ``pretrain`` stops after stage 1; the next call continues from there.

    Returns:
        The ledger row; ``None`` after stage 1 alone.

    Raises:
        SegnbError: Bad input, too little memory, a loss that is not finite, a requested stop, a
            split list that changed since the run started, another process working on the run
            (:class:`BusyError`), results that can't be written, or an unreadable ledger.
    """
    data, missing = data_today(recipe, root=root)
    folder, differ = chosen(recipe, runs, data)
    if differ:
        tell(
            f"{run_folder(recipe, runs)} holds this recipe's run on other data (the files of "
            f"{', '.join(differ)} differ); on today's data it is another run, in {folder}"
        )
    return _run(
        recipe,
        folder,
        data,
        missing,
        results=results,
        root=root,
        cpu=cpu,
        progress_bar=progress_bar,
        on_log=on_log,
        should_stop=should_stop,
        until=until,
    )


def finish(
    folder: Path, *, results: Path | None = ledger.RESULTS, root: Path | None = None, **options: Any
) -> ledger.Row:
    """Finish the run in a folder, on the data that it was started with.

    Args:
        folder: A run's folder.
        results: As in :func:`run`.
        root: As in :func:`run`.
        **options: As in :func:`run`.

    Raises:
        ConfigError: The folder was renamed, or the data have changed since the run was started.
        SegnbError: As in :func:`run`.
    """
    folder = folder.expanduser()
    recipe = read_recipe(folder, say=tell)
    expected = run_folder(recipe, folder.parent).name
    data, missing = data_today(recipe, root=root)
    recorded = data_of(folder)
    names = {expected} if recorded is None else {expected, _other_name(expected, recorded)}
    if folder.resolve().name not in names:
        raise ConfigError(f"{folder} was renamed; rename it to {expected} again")
    if differ := differing(recorded, data):
        state = inspect(folder, recipe, recorded)
        if state.row is None or state.wrong:
            command = f"{recipe.command()} --runs {shlex.quote(str(folder.parent))}"
            if root is not None:
                command += f" --data {shlex.quote(str(root))}"
            raise ConfigError(
                f"the files of {', '.join(differ)} have changed since {folder} was started, and a "
                f"run must not mix both: `{command}` trains all of it on today's data"
            )
        tell(
            f"{folder} is finished; the files of {', '.join(differ)} have changed since, so its "
            "row is that of the old ones"
        )
        data = recorded
    row = _run(recipe, folder, data, missing, results=results, root=root, **options)
    assert row is not None  # run to the end
    return row


def _other_name(name: str, data: Fingerprint) -> str:
    return f"{name}-{ledger.data_name(data)}"


def _run(
    recipe: Recipe,
    folder: Path,
    data: Fingerprint | None,
    missing: DataError | None,
    *,
    results: Path | None,
    root: Path | None = None,
    cpu: bool = False,
    progress_bar: bool = True,
    on_log: Callable[[LogRow], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    until: Literal["pretrain", "end"] = "end",
) -> ledger.Row | None:
    """:func:`run` in a given folder; ``missing`` says why the data are unknown."""
    if until == "pretrain" and not recipe.has_stage1:
        raise ConfigError(f"method {recipe.method!r} has no stage 1")
    if results is not None:
        results = results.expanduser()
        need_results(results, recipe)
    _check_split_list(recipe, folder, root=root)
    accelerator = make_accelerator(recipe.precision, cpu=cpu)
    main = accelerator.is_main_process
    finished = folder / "metrics.json"
    kept = _mended(recipe, folder, data, results) if main and finished.exists() else None
    accelerator.wait_for_everyone()
    if not finished.exists():
        splits = load_splits(recipe, root=root, progress_bar=progress_bar)
        session = Session(
            accelerator=accelerator,
            folder=folder,
            progress_bar=progress_bar,
            on_log=on_log,
            should_stop=should_stop,
        )
        if main and (slow := emulated(session.precision, session.device)):
            tell(slow)
        with _claimed(folder) if main else contextlib.nullcontext():
            # Another process may have finished it while this one read the images.
            if main and not finished.exists():
                _describe(folder, recipe, splits, session, data)
            accelerator.wait_for_everyone()
            if not finished.exists():
                measured = within_memory(
                    recipe,
                    lambda: _train_and_measure(recipe, splits, session, folder, data, until=until),
                )
                if measured is None:
                    return None
                if main:
                    stays = measured if kept is None else kept
                    write_json(finished, {**stays, "files": _checksums(folder, recipe)})
    elif missing is not None and main:
        tell(f"{folder} is finished; whether its data have changed is unknown: {missing}")
    row = read_row(finished, recipe) if main else None
    if main and row is not None:
        # The run is finished, so its checkpoints are no longer needed; the weights stay.
        for checkpoint in folder.glob("*.pt"):
            checkpoint.unlink()
        if results is not None:
            row = publish(folder, row, results)
    accelerator.wait_for_everyone()
    return row or read_row(finished, recipe)


def need_results(results: Path, recipe: Recipe) -> None:
    """Check that a run can be published: better to fail now than after training.

    Raises:
        DataError: A file can't be written, or the ledger can't be read.
    """
    path = ledger.ledger_path(results)
    small = [*published({"recipe_hash": recipe.hash}).values(), f"previews/{recipe.hash}.npz"]
    need_writable(path, *(results / one for one in small))
    ledger.read(path)


def _mended(
    recipe: Recipe, folder: Path, data: Fingerprint | None, results: Path | None
) -> ledger.Row | None:
    """Check a finished run. If a file is wrong, say so and make the run unfinished again.

    Small files come back from the folder of the ledger. Otherwise the run is measured again from
    its weights, or trained again if those or its log are wrong.

    Returns:
        The run's row if it can stay as it is.
    """
    state = inspect(folder, recipe, data)
    if not state.wrong:
        return None
    with _claimed(folder):
        restored = [] if results is None else restore(folder, results, state)
        for name in restored:
            tell(f"{state.wrong.pop(name)}; it is copied from {results}")
        if set(state.wrong) == {"recipe.json"}:
            tell(f"{state.wrong['recipe.json'].partition('; ')[0]}; it is written again")
            write_json(folder / "recipe.json", recipe.to_dict())
        elif state.wrong:
            lost = state.wrong.keys() & {"weights.safetensors", "log.jsonl", *STAGE1_FILES}
            what = "the run is trained again" if lost else "it is made again from the weights"
            for said in state.wrong.values():
                tell(f"{said.partition('; ')[0]}; {what}")
            for name in {*state.wrong, "metrics.json"} | ({*FILES} if lost else set()):
                _remove(folder / name)
            return None if lost else state.row
    return None


def _remove(path: Path) -> None:
    """Remove a file; a folder in its place is moved aside."""
    if path.is_dir() and not path.is_symlink():
        path.rename(path.with_name(f"{path.name}.moved"))
    else:
        path.unlink(missing_ok=True)


def _checksums(folder: Path, recipe: Recipe) -> dict[str, str]:
    names = [*FILES, *(STAGE1_FILES if recipe.has_stage1 else ())]
    return {name: checksum(folder / name) for name in names}


def publish(folder: Path, row: ledger.Row, results: Path) -> ledger.Row:
    """Copy a finished run's small files to the ledger's folder, then add its row.

    Returns:
        The row as it was added: its log has another name where the ledger holds a row of the
        same recipe on other data.
    """
    path = ledger.ledger_path(results)
    held = ledger.read(path)
    row = ledger.named(row, held)
    for source, target in published(row).items():
        write_atomic(results / target, (folder / source).read_bytes())
    with np.load(folder / "preview.npz", allow_pickle=False) as preview:
        previews.store(
            results / "previews",
            ledger.file_name(row),
            dict(preview),
            features=previews.drawn(row["method"]),
        )
    if row not in held:
        ledger.add(path, row)
    for inside in (results, results / "logs", results / "previews", results / "figures"):
        sweep_halves(inside)
    return row


def load_network(folder: Path, *, weights: str = "weights") -> SegmentationNetwork:
    """The trained network of a run folder.

    Args:
        folder: A run's folder.
        weights: ``weights`` (after stage 2) or ``pretrained`` (after stage 1).

    Raises:
        DataError: The folder contains no run, or the weights are missing, damaged, not finite or
            of another run.
    """
    recipe = read_recipe(folder, say=tell)
    path = folder / f"{weights}.safetensors"
    # All weights come from the file, so there is nothing to fetch.
    network = build_network(recipe.replace(encoder_weights=None))
    if weights == "pretrained" and recipe.uses_contrastive:
        network.attach_projection()
    else:
        network.attach_classifier(read_info(folder).num_classes)
    about = load_weights(path, network, remedy=again(folder))
    if weights == "weights":
        need_own(about, path, recipe, None, remedy=again(folder))
    return network.eval()


def read_info(folder: Path) -> DatasetInfo:
    """The classes that the network of a run folder was trained for.

    Raises:
        DataError: The folder holds no run, or its data set is unknown.
    """
    return described.info_of_copy(folder) or datasets.info(read_recipe(folder).dataset)


def score_again(
    folder: Path,
    split: str,
    *,
    root: Path | None = None,
    cpu: bool = False,
    progress_bar: bool = True,
) -> tuple[DatasetInfo, Score]:
    """Score a finished run's weights on one of its reported splits; also returns the data set.

    Raises:
        DataError: The folder contains no run, or files of the data set are missing.
        ConfigError: The run's recipe has no such split.
    """
    folder = folder.expanduser()
    recipe = read_recipe(folder, say=tell)
    today, _ = data_today(recipe, root=root)
    read = "train" if split == "held_out" else split
    if read in differing(data_of(folder), today):
        tell(
            f"the files of {read} have changed since {folder} was scored, so its row has other "
            "numbers"
        )
    splits = load_splits(recipe, root=root, progress_bar=progress_bar)
    if split not in splits.evaluated:
        raise ConfigError(
            f"{folder} has no split {split!r} to score; it has {', '.join(splits.evaluated)}"
        )
    dataset, data = splits.evaluated[split]
    network = load_network(folder)
    session = Session(accelerator=make_accelerator(recipe.precision, cpu=cpu))
    subsets = splits.subsets[split]
    score = evaluation.evaluate(network, dataset, data, session=session, subsets=subsets)
    return dataset.info, score


def _claimed(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Reserve a run for one process: two would write the same log and checkpoints."""

    def refuse() -> None:
        raise BusyError(f"another process is working on {folder}; wait for it to finish")

    return claimed(folder, busy=refuse)


def _check_split_list(recipe: Recipe, folder: Path, *, root: Path | None) -> None:
    """Check that the split list, which a recipe knows only by name, has not changed."""
    used = folder / "ids.json"
    if recipe.split_list is None or not used.exists():
        return
    try:
        before = read_json(used, Ids, remedy="it is written again")["labelled"]
    except DataError as error:
        tell(str(error))
        return
    train = datasets.load(recipe.dataset, "train", root=root, size=recipe.size)
    listed = datasets.read_split_list(Path(recipe.split_list).expanduser(), train)
    if list(listed.ids) != before:
        raise ConfigError(
            f"{recipe.split_list} has changed since {folder} was started with it; give the new "
            "list another name, or delete that folder"
        )


def within_memory(recipe: Recipe, work: Callable[[], T]) -> T:
    """Return what ``work`` returns.

    Raises:
        ConfigError: The device has too little memory for the recipe; says what to reduce.
    """
    try:
        return work()
    except torch.OutOfMemoryError as error:
        lacking = str(error)
    # Not raised inside the handler: the original error's frames would keep the memory.
    batches = f"--finetune.batch {recipe.finetune.batch}"
    if recipe.uses_contrastive:
        batches = f"--pretrain.batch {recipe.pretrain.batch} or {batches}"
    crop = " ".join(map(str, recipe.crop))
    first = lacking.split("\n")[0]
    raise ConfigError(
        f"the device has too little memory for this recipe; reduce {batches}, or --crop {crop} "
        f"({first})"
    )


def _describe(
    folder: Path, recipe: Recipe, splits: Splits, session: Session, data: Fingerprint | None
) -> None:
    path = folder / "environment.json"
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    machine = dataclasses.asdict(describe(session.device))
    try:
        # A resumed run started earlier.
        machine["started"] = read_json(path, Started, remedy="").get("started", now)
    except DataError:
        machine["started"] = now
    machine["segnb"] = segnb.__version__
    machine["commit"] = commit()
    machine["processes"] = session.accelerator.num_processes
    if recipe.encoder_weights is not None:
        machine["encoder_weights"] = imagenet_source(recipe.encoder)
    ids = {
        "labelled": splits.labelled,
        "missing": splits.missing,
        "train": len(splits.train.ids),
        "evaluated": {name: len(one.ids) for name, (_, one) in splits.evaluated.items()},
    }
    if data is not None:
        ids["data"] = data
    write_json(folder / "recipe.json", recipe.to_dict())
    described.copy(recipe.dataset, folder)
    write_json(path, machine)
    write_json(folder / "ids.json", ids)


def _train_and_measure(
    recipe: Recipe,
    splits: Splits,
    session: Session,
    folder: Path,
    data: Fingerprint | None,
    *,
    until: Literal["pretrain", "end"],
) -> ledger.Row | None:
    probe = Probe(splits.labelled_set, splits.evaluated["val"][1], session)
    network = initial_network(recipe)
    if until == "end":
        probe.measure("initial", network)
    about = _trained_before(recipe, folder, data)
    if about is None:
        trained = _train(recipe, network, splits, session, folder, data, probe, until=until)
        if trained is None:
            return None
        network, about = trained
    else:
        if recipe.has_stage1:
            probe.measure("pretrained", _on_device(folder, session, weights="pretrained"))
        network = _on_device(folder, session)
    if not session.is_main:
        return {}

    probe.measure("finetuned", network)
    scores: dict[str, Score] = {}
    for name, (split, one) in splits.evaluated.items():
        subsets = splits.subsets[name]
        score = evaluation.evaluate(network, split, one, session=session, subsets=subsets)
        scores |= {name: score, **score.subsets}
    probe.save(folder / "preview.npz", network)
    begun = read_json(folder / "environment.json", Environment, remedy=again(folder))
    return row_of(
        recipe,
        splits,
        session,
        begun=begun,
        about=about,
        scores=scores,
        measured=probe.values,
    )


def _train(
    recipe: Recipe,
    network: SegmentationNetwork,
    splits: Splits,
    session: Session,
    folder: Path,
    data: Fingerprint | None,
    probe: Probe,
    *,
    until: Literal["pretrain", "end"],
) -> tuple[SegmentationNetwork, dict[str, Any]] | None:
    """Train all stages and save the weights.

    Returns:
        The network, and what is stored with its weights (nothing in other processes than the
        first); ``None`` after stage 1 alone.
    """
    logs: list[list[LogRow]] = []
    shared: stage1.Record | None = None
    with noted() as backends:
        if recipe.has_stage1:
            shared = stage1.train_or_take(network, splits.labelled_set, recipe, session=session)
            logs.append(shared["rows"])
            backends |= set(shared.get("backends", ()))
            if until == "pretrain":
                return None
            probe.measure("pretrained", network)
        logs.append(finetune(network, splits.labelled_set, recipe, session=session))

        if recipe.kind.rounds > 1:
            union = _with_pseudo_labels(network, recipe, splits, session)
            network = initial_network(recipe)
            logs.append(pretrain(network, union, recipe, session=session, name="pretrain-pseudo"))
            logs.append(finetune(network, union, recipe, session=session, name="finetune-pseudo"))
    if not session.is_main:
        return network, {}
    last_rows = [rows[-1] for rows in logs if rows]
    about = {
        "recipe": recipe.to_dict(),
        "data": data,
        "stages": {
            row["stage"]: {k: row[k] for k in ("step", "seconds", "loss")} for row in last_rows
        },
        "stage1": None if shared is None else stage1.of_row(shared, recipe),
        # Of several, the one that computed last is not the whole truth.
        "loss_backend": " and ".join(sorted(backends)) or None,
    }
    # What the row says is in the checkpoints; the log must not say less.
    write_json_lines(folder / "log.jsonl", [row for rows in logs for row in rows])
    save_weights(folder / "weights.safetensors", network, **about)
    return network, about


def _trained_before(
    recipe: Recipe, folder: Path, data: Fingerprint | None
) -> dict[str, Any] | None:
    """What is stored with the weights of a folder, if nothing of the run has to be trained."""
    paths = {name: folder / name for name in ("weights.safetensors", "log.jsonl", *STAGE1_FILES)}
    if not paths["weights.safetensors"].exists():
        return None
    if recipe.has_stage1 and not all(paths[name].exists() for name in STAGE1_FILES):
        return None
    try:
        about = weights_of(paths["weights.safetensors"], recipe, data, remedy="")
        rows = read_log(paths["log.jsonl"], last=False)
    except DataError:
        return None
    ends = {row["stage"]: row["step"] for row in rows}
    stages = about.get("stages", {})
    return about if stages and all(ends.get(k) == v["step"] for k, v in stages.items()) else None


def _on_device(folder: Path, session: Session, *, weights: str = "weights") -> SegmentationNetwork:
    """A stored network in the state that training leaves."""
    network = load_network(folder, weights=weights)
    session.place(network)
    return network


def _with_pseudo_labels(
    network: SegmentationNetwork, recipe: Recipe, splits: Splits, session: Session
) -> WorkingSet:
    """All training images: the labelled ones with their labels, the others with predictions."""
    known = set(splits.labelled)
    rows = [row for row, name in enumerate(splits.train.ids) if name not in known]
    unlabelled = splits.train.subset([splits.train.ids[row] for row in rows])
    scores = evaluation.score_maps(network, unlabelled, session=session)
    predicted = pseudo_label(unlabelled, scores, threshold=recipe.pseudo_threshold)
    masks = splits.train.masks.clone()
    masks[rows] = predicted.masks
    return splits.train.with_masks(masks)
