"""One run: a recipe in, a folder and a ledger row out.

A run's folder contains its recipe, the machine, the ids it used, the log, the metrics and the
weights. Every step is skipped if its output exists already, so a run is resumed by starting it
again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

import segnb
from segnb import datasets, evaluation
from segnb.datasets import IGNORE, DatasetInfo, SegmentationDataset, WorkingSet, described
from segnb.device import describe
from segnb.errors import ConfigError, DataError
from segnb.experiments import stage1
from segnb.experiments.probe import Probe
from segnb.files import claimed, write_atomic, write_json
from segnb.metrics.segmentation import Score
from segnb.models import SegmentationNetwork, build_network
from segnb.recipe import Recipe
from segnb.results import ledger
from segnb.training import Session, finetune, make_accelerator, pretrain, pseudo_label
from segnb.training.checkpoint import load_weights, save_weights
from segnb.training.log import LogRow
from segnb.training.randomness import derive_seed
from segnb.views import CELL_RULE
from segnb.weights import imagenet_source

T = TypeVar("T")

RUNS = Path("runs")


@dataclass(frozen=True)
class Splits:
    """The images of a run.

    Attributes:
        train: All training images; labels outside ``labelled`` are not used.
        labelled: Ids whose labels are used.
        missing: How many ids of a split list are not in the data set.
        evaluated: The reported splits, ``val`` first, with their working sets.
        subsets: Parts of each reported split that are scored separately as well: ids by the part's
            name, by the split's name.
    """

    train: WorkingSet
    labelled: tuple[str, ...]
    missing: int
    evaluated: dict[str, tuple[SegmentationDataset, WorkingSet]]
    subsets: dict[str, dict[str, frozenset[str]]]

    @property
    def labelled_set(self) -> WorkingSet:
        """The labelled training images."""
        return self.train.subset(self.labelled)


def load_splits(recipe: Recipe, *, root: Path | None = None, progress_bar: bool = True) -> Splits:
    """The images of a recipe, at its working resolution.

    Raises:
        ConfigError: No image is left for pseudo-labels, or there is no such drive to hold out.
        DataError: A file is missing or wrong, or no pixel of a split has a label.
    """
    train = datasets.load(recipe.dataset, "train", root=root, size=recipe.size)
    held_out = _held_out(recipe, train)
    used = tuple(name for name in train.ids if name not in held_out)
    missing = 0
    if recipe.split_list is None:
        labelled = datasets.labelled_ids(train, recipe.fraction, seed=recipe.seed, among=set(used))
    else:
        listed = datasets.read_split_list(Path(recipe.split_list), train)
        labelled, missing = listed.ids, listed.missing
    evaluated: dict[str, tuple[SegmentationDataset, WorkingSet]] = {}
    for name in datasets.get(recipe.dataset).splits:
        if name == "train":
            continue
        split = datasets.load(recipe.dataset, name, root=root, size=recipe.size)
        data = datasets.working_set(split, size=recipe.size, progress_bar=progress_bar)
        evaluated[name] = (split, data)
    if recipe.kind.rounds > 1 and len(labelled) == len(used):
        raise ConfigError(
            f"all {len(labelled)} training images are labelled, so none is left for pseudo-labels: "
            "use a smaller fraction, or the method 'contrastive'"
        )
    whole = datasets.working_set(train, size=recipe.size, progress_bar=progress_bar)
    if held_out:
        evaluated["held_out"] = (train, whole.subset(held_out))
    drive = datasets.get(recipe.dataset).drive
    subsets = {name: _by_drive(name, data, used, drive) for name, (_, data) in evaluated.items()}
    splits = Splits(whole.subset(used), labelled, missing, evaluated, subsets)
    _need_labels(splits.labelled_set, "labelled training")
    for split_name, (_, data) in evaluated.items():
        _need_labels(data, split_name)
        for part, ids in subsets[split_name].items():
            _need_labels(data.subset(sorted(ids)), part)
    return splits


def _held_out(recipe: Recipe, train: SegmentationDataset) -> tuple[str, ...]:
    """Ids of the training images of the drive that the recipe sets aside."""
    if recipe.hold_out is None:
        return ()
    drive = datasets.get(recipe.dataset).drive
    if drive is None:
        raise ConfigError(f"hold_out: {recipe.dataset} has no drives; leave it out")
    drives = Counter(map(drive, train.ids))
    if drives[recipe.hold_out] in (0, len(train)):
        known = ", ".join(f"{name} ({count})" for name, count in drives.items())
        raise ConfigError(
            f"hold_out is {recipe.hold_out!r}; {recipe.dataset}'s training images come from the "
            f"drives {known}, of which one can be set aside"
        )
    return tuple(name for name in train.ids if drive(name) == recipe.hold_out)


def _by_drive(
    name: str, data: WorkingSet, train: Sequence[str], drive: Callable[[str], str] | None
) -> dict[str, frozenset[str]]:
    """Ids of a split by whether the training images include their drive; empty if all agree."""
    if drive is None:
        return {}
    known = set(map(drive, train))
    seen = frozenset(image for image in data.ids if drive(image) in known)
    unseen = frozenset(data.ids) - seen
    return {f"{name}_seen": seen, f"{name}_unseen": unseen} if seen and unseen else {}


def _need_labels(data: WorkingSet, what: str) -> None:
    if not any(bool((mask != IGNORE).any()) for mask in data.masks):
        raise DataError(
            f"{data.info.name}: every pixel of the {len(data)} {what} images is void; check that "
            "their masks contain the class ids listed in data/README.md"
        )


def run_folder(recipe: Recipe, runs: Path = RUNS) -> Path:
    """The folder of a recipe's run."""
    name = f"{recipe.dataset_title}-{recipe.tier}-{recipe.method}-s{recipe.seed}-{recipe.hash}"
    return runs / name


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
            split list that changed since the run started, another process working on the run, or
            an unreadable ledger.
    """
    if until == "pretrain" and not recipe.has_stage1:
        raise ConfigError(f"method {recipe.method!r} has no stage 1")
    if results is not None:
        # Better to fail now than after training.
        results.mkdir(parents=True, exist_ok=True)
        ledger.read(ledger.ledger_path(results))
    folder = run_folder(recipe, runs)
    _check_split_list(recipe, folder, root=root)
    accelerator = make_accelerator(recipe.precision, cpu=cpu)
    finished = folder / "metrics.json"
    if not finished.exists():
        splits = load_splits(recipe, root=root, progress_bar=progress_bar)
        session = Session(
            accelerator=accelerator,
            folder=folder,
            progress_bar=progress_bar,
            on_log=on_log,
            should_stop=should_stop,
        )
        with _claimed(folder) if accelerator.is_main_process else contextlib.nullcontext():
            # Another process may have finished it while this one read the images.
            if accelerator.is_main_process and not finished.exists():
                _describe(folder, recipe, splits, session)
            accelerator.wait_for_everyone()
            if not finished.exists():
                measured = within_memory(
                    recipe,
                    lambda: _train_and_measure(recipe, splits, session, folder, until=until),
                )
                if measured is None:
                    return None
                if accelerator.is_main_process:
                    write_json(finished, measured)
    if accelerator.is_main_process:
        # The run is finished, so its checkpoints are no longer needed; the weights stay.
        for checkpoint in folder.glob("*.pt"):
            checkpoint.unlink()
        if results is not None:
            publish(folder, _read_json(finished), results)
    accelerator.wait_for_everyone()
    return _read_json(finished)


def publish(folder: Path, row: ledger.Row, results: Path) -> None:
    """Copy a finished run's small files to the ledger's folder, then add its row."""
    name = row["recipe_hash"]
    for source, target in (
        ("log.jsonl", f"logs/{name}.jsonl"),
        ("ids.json", f"logs/{name}.ids.json"),
        ("environment.json", f"logs/{name}.environment.json"),
        ("preview.npz", f"previews/{name}.npz"),
    ):
        write_atomic(results / target, (folder / source).read_bytes())
    ledger.add(ledger.ledger_path(results), row)


def load_network(folder: Path, *, weights: str = "weights") -> SegmentationNetwork:
    """The trained network of a run folder.

    Args:
        folder: A run's folder.
        weights: ``weights`` (after stage 2) or ``pretrained`` (after stage 1).
    """
    recipe = read_recipe(folder)
    # All weights come from the file, so there is nothing to fetch.
    network = build_network(recipe.replace(encoder_weights=None))
    if weights == "pretrained" and recipe.uses_contrastive:
        network.attach_projection()
    else:
        network.attach_classifier(read_info(folder).num_classes)
    load_weights(folder / f"{weights}.safetensors", network)
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
    recipe = read_recipe(folder)
    splits = load_splits(recipe, root=root, progress_bar=progress_bar)
    if split not in splits.evaluated:
        raise ConfigError(
            f"{folder} has no split {split!r} to score; it has {', '.join(splits.evaluated)}"
        )
    dataset, data = splits.evaluated[split]
    session = Session(accelerator=make_accelerator(recipe.precision, cpu=cpu))
    network, subsets = load_network(folder), splits.subsets[split]
    score = evaluation.evaluate(network, dataset, data, session=session, subsets=subsets)
    return dataset.info, score


def read_recipe(folder: Path) -> Recipe:
    """The recipe of a run folder.

    Raises:
        DataError: The folder holds no run, or one that this version cannot read.
    """
    path = folder / "recipe.json"
    if not path.exists():
        raise DataError(f"{folder} holds no run: there is no recipe.json in it")
    try:
        return Recipe.from_dict(_read_json(path))
    except ValueError as error:
        raise DataError(f"{path} is no recipe of this version: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); delete it and run again") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} holds no JSON object; delete it and run again")
    return found


def _claimed(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Reserve a run for one process: two would write the same log and checkpoints."""

    def refuse() -> None:
        raise ConfigError(f"another process is working on {folder}; wait for it to finish")

    return claimed(folder, busy=refuse)


def _check_split_list(recipe: Recipe, folder: Path, *, root: Path | None) -> None:
    """Check that the split list, which a recipe knows only by name, has not changed."""
    used = folder / "ids.json"
    if recipe.split_list is None or not used.exists():
        return
    train = datasets.load(recipe.dataset, "train", root=root, size=recipe.size)
    listed = datasets.read_split_list(Path(recipe.split_list), train)
    if list(listed.ids) != _read_json(used)["labelled"]:
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


def _describe(folder: Path, recipe: Recipe, splits: Splits, session: Session) -> None:
    path = folder / "environment.json"
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    machine = dataclasses.asdict(describe(session.device))
    # A resumed run started earlier.
    machine["started"] = _read_json(path).get("started", now) if path.exists() else now
    machine["segnb"] = segnb.__version__
    machine["commit"] = _commit()
    machine["processes"] = session.accelerator.num_processes
    if recipe.encoder_weights is not None:
        machine["encoder_weights"] = imagenet_source(recipe.encoder)
    ids = {
        "labelled": splits.labelled,
        "missing": splits.missing,
        "train": len(splits.train.ids),
        "evaluated": {name: len(data.ids) for name, (_, data) in splits.evaluated.items()},
    }
    write_json(folder / "recipe.json", recipe.to_dict())
    described.copy(recipe.dataset, folder)
    write_json(path, machine)
    write_json(folder / "ids.json", ids)


def _train_and_measure(
    recipe: Recipe,
    splits: Splits,
    session: Session,
    folder: Path,
    *,
    until: Literal["pretrain", "end"],
) -> ledger.Row | None:
    probe = Probe(splits.labelled_set, splits.evaluated["val"][1], session)
    logs: list[list[LogRow]] = []
    shared: stage1.Record | None = None

    network = initial_network(recipe)
    probe.measure("initial", network)
    if recipe.has_stage1:
        shared = stage1.train_or_take(network, splits.labelled_set, recipe, session=session)
        logs.append(shared["rows"])
        probe.measure("pretrained", network)
        if until == "pretrain":
            return None
    logs.append(finetune(network, splits.labelled_set, recipe, session=session))

    if recipe.kind.rounds > 1:
        union = _with_pseudo_labels(network, recipe, splits, session)
        network = initial_network(recipe)
        logs.append(pretrain(network, union, recipe, session=session, name="pretrain-pseudo"))
        logs.append(finetune(network, union, recipe, session=session, name="finetune-pseudo"))
    if not session.is_main:
        return {}

    save_weights(folder / "weights.safetensors", network)
    probe.measure("finetuned", network)
    scores: dict[str, Score] = {}
    for name, (split, data) in splits.evaluated.items():
        subsets = splits.subsets[name]
        score = evaluation.evaluate(network, split, data, session=session, subsets=subsets)
        scores |= {name: score, **score.subsets}
    probe.save(folder / "preview.npz", network)
    begun = _read_json(folder / "environment.json")
    return _row(recipe, splits, session, begun, logs, scores, probe.values, shared)


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


def _row(
    recipe: Recipe,
    splits: Splits,
    session: Session,
    begun: dict[str, Any],
    logs: Sequence[list[LogRow]],
    scores: dict[str, Score],
    measured: dict[str, dict[str, float | None]],
    shared: stage1.Record | None,
) -> ledger.Row:
    contrastive = recipe.uses_contrastive
    machine = describe(session.device)
    last_rows = [rows[-1] for rows in logs if rows]
    return {
        "dataset": recipe.dataset_title,
        "tier": recipe.tier,
        "method": recipe.method,
        "form": recipe.form if contrastive else None,
        "scope": recipe.scope if contrastive else None,
        "fraction": recipe.fraction if recipe.split_list is None else None,
        "labelled": len(splits.labelled),
        "seed": recipe.seed,
        "temperature": recipe.temperature if contrastive else None,
        "miou_test": None,
        **score_fields(scores),
        **measured["finetuned"],
        "compactness": measured,
        "cell_rule": CELL_RULE,
        "steps": sum(row["step"] for row in last_rows),
        "seconds": round(sum(row["seconds"] for row in last_rows), 1),
        "stages": {
            row["stage"]: {k: row[k] for k in ("step", "seconds", "loss")} for row in last_rows
        },
        "image_passes": recipe.image_passes(),
        "stage1": None if shared is None else stage1.of_row(shared, recipe),
        "device": machine.name,
        "processes": session.accelerator.num_processes,
        "torch": machine.torch,
        "precision": session.precision,
        "recipe_hash": recipe.hash,
        "recipe": recipe.to_dict(),
        "changes": recipe.changes(),
        "command": recipe.command(),
        "started": begun["started"],
        # The commit of the code that was loaded then; the checkout may have changed since.
        "commit": begun["commit"],
        "version": segnb.__version__,
        "log": f"logs/{recipe.hash}.jsonl",
    }


def score_fields(scores: Mapping[str, Score]) -> dict[str, Any]:
    """The fields of scores in a row: ``miou_NAME`` of each split or part, and the details."""
    ious = {
        name: [None if value is None else round(value, 2) for value in score.iou]
        for name, score in scores.items()
    }
    return {
        **{f"miou_{name}": round(score.miou, 3) for name, score in scores.items()},
        "iou": ious,
        "pixel_accuracy": {k: round(s.pixel_accuracy, 3) for k, s in scores.items()},
    }


def _commit() -> str | None:
    """The commit of a source checkout, with ``+`` if the package was changed; else ``None``.

    A run writes into ``results/``, which is tracked too, but that does not change the code.
    """
    try:
        # The package may be installed in an environment inside a checkout of something else.
        _git("ls-files", "--error-unmatch", "--", Path(__file__).name)
        commit = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")


def _git(*words: str) -> str:
    found = subprocess.run(
        ["git", *words],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return found.stdout.strip()
