"""The folder of a run: its name, its files, and whether they are whole and its own.

A run is its recipe and its data, so a folder belongs to one fingerprint of the data. A finished
run's row holds a checksum of every other file. Folders of earlier versions have neither: their
files are read, and count as the run's own.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

from segnb.errors import DataError
from segnb.experiments.fingerprint import Fingerprint
from segnb.experiments.probe import read_preview
from segnb.files import write_atomic
from segnb.recipe import Recipe
from segnb.records import (
    Count,
    Name,
    UnfitError,
    Within,
    check,
    checksum,
    differing,
    read_json,
    same,
)
from segnb.results import ledger
from segnb.training.checkpoint import read_weights
from segnb.training.log import read_log

RUNS = Path("runs")

#: Files that every finished run has beside its row, ``metrics.json``.
FILES = ("environment.json", "ids.json", "log.jsonl", "preview.npz", "weights.safetensors")

#: Files of a run that has a stage 1.
STAGE1_FILES = ("pretrained.safetensors", "pretrained.json")

_NAME = re.compile(r".*-([0-9a-f]{10})(-[0-9a-f]{6})?")


class Environment(TypedDict):
    """``environment.json``: the machine, and the code."""

    device: Name
    name: Name
    torch: Name
    started: Name
    commit: str | None


class Started(TypedDict, total=False):
    """What a run that goes on takes over from an earlier ``environment.json``."""

    started: Name


class _Ids(TypedDict):
    labelled: list[Name]
    missing: Count
    train: Annotated[int, Within(1)]
    evaluated: dict[str, Count]


class Ids(_Ids, total=False):
    """``ids.json``: the labelled images, the size of the splits, and their fingerprints."""

    data: dict[str, ledger.Checksum]


class About(TypedDict):
    """What is stored with a run's weights: enough to make its row again."""

    recipe: dict[str, Any]
    data: dict[str, ledger.Checksum] | None
    stages: dict[str, ledger.StageFields]
    stage1: dict[str, Any] | None
    loss_backend: str | None


def run_folder(recipe: Recipe, runs: Path = RUNS) -> Path:
    """The folder of a recipe's run; on other data than it was started with, see :func:`chosen`."""
    name = f"{recipe.dataset_title}-{recipe.tier}-{recipe.method}-s{recipe.seed}-{recipe.hash}"
    return runs.expanduser() / name


def chosen(recipe: Recipe, runs: Path, data: Fingerprint | None) -> tuple[Path, list[str]]:
    """The folder of a recipe's run on the given data.

    Args:
        recipe: The recipe.
        runs: Folder of the runs.
        data: The fingerprint of the data; ``None`` if unknown.

    Returns:
        The folder; and the splits in which the data differ from those of the recipe's first run,
        which then keeps its folder.
    """
    first = run_folder(recipe, runs)
    differ = differing(data_of(first), data)
    if data is None or not differ:
        return first, []
    return first.with_name(f"{first.name}-{ledger.data_name(data)}"), differ


def data_of(folder: Path) -> Fingerprint | None:
    """The fingerprint of the data that a run was started with; ``None`` if it is unknown."""
    for name, hint in (("ids.json", Ids), ("metrics.json", ledger.RowFields)):
        try:
            data = read_json(folder / name, hint, remedy="").get("data")
        except DataError:
            continue
        if data is not None:
            return dict(data)
    return None


def again(folder: Path) -> str:
    """What mends a run's folder, as the end of a sentence."""
    return f"`segnb finetune {shlex.quote(str(folder))}` makes it again"


def read_recipe(folder: Path, *, say: Callable[[str], None] = lambda _: None) -> Recipe:
    """The recipe of a run folder; from its row or its weights if ``recipe.json`` is damaged.

    Args:
        folder: A run's folder; it may have been given another name.
        say: Called with a line if the recipe comes from another file.

    Raises:
        DataError: The folder holds no run, or one that this version cannot read.
    """
    named = _NAME.fullmatch(folder.name)
    errors: list[DataError] = []
    found: dict[str, Recipe] = {}
    for name, read in (
        ("recipe.json", _stated),
        ("metrics.json", _by_row),
        ("weights.safetensors", _by_weights),
    ):
        try:
            recipe = read(folder / name)
        except DataError as error:
            errors.append(error)
            continue
        if recipe is None:
            continue
        if named is None or recipe.hash == named[1]:
            if name != "recipe.json":
                stated = errors[0] if errors else f"{folder / 'recipe.json'} is of another run"
                say(f"{stated}; the recipe is taken from {name}")
            return recipe
        found[name] = recipe
    if found:
        # The folder has another run's name, or a copy of another run's recipe.
        hashes = {recipe.hash for recipe in found.values()}
        if len(hashes) == 1:
            return next(iter(found.values()))
        raise DataError(
            f"{' and '.join(str(folder / name) for name in found)} are of different runs; take "
            "the files from one of them"
        )
    if not (folder / "recipe.json").exists():
        raise DataError(
            f"{folder} holds no run: there is no recipe.json in it; if it held one, the run's "
            "`segnb run` command makes it again"
        )
    raise errors[0]


def _stated(path: Path) -> Recipe | None:
    remedy = "the run's `segnb run` command writes it again"
    return _recipe(read_json(path, dict[str, Any], remedy=remedy), path, remedy)


def _by_row(path: Path) -> Recipe | None:
    if not path.exists():
        return None
    row = read_json(path, ledger.RowFields, remedy="")
    return _recipe(row["recipe"], path, "")


def _by_weights(path: Path) -> Recipe | None:
    if not path.exists():
        return None
    _, about = read_weights(path, remedy="")
    return _recipe(about["recipe"], path, "") if "recipe" in about else None


def _recipe(values: dict[str, Any], path: Path, remedy: str) -> Recipe:
    try:
        return Recipe.from_dict(values)
    except ValueError as error:
        raise DataError(f"{path} is not a recipe of this version: {error}; {remedy}") from error


def read_row(path: Path, recipe: Recipe) -> ledger.Row:
    """The row in a run's ``metrics.json``.

    Raises:
        DataError: It is missing or damaged, or of another run.
    """
    remedy = again(path.parent)
    row = read_json(path, ledger.RowFields, remedy=remedy, also=ledger.need_agreement)
    if row["recipe_hash"] != recipe.hash:
        raise DataError(f"{path} is of the run {row['recipe_hash']}, not {recipe.hash}; {remedy}")
    return row


@dataclass(frozen=True)
class State:
    """What a run's folder holds.

    Attributes:
        row: The row of the finished run; ``None`` if it is not finished, or its row is wrong.
        wrong: What is wrong, by the name of the file.
    """

    row: ledger.Row | None
    wrong: dict[str, str]


def inspect(folder: Path, recipe: Recipe, data: Fingerprint | None) -> State:
    """Whether every file of a finished run is there, readable and its own.

    Args:
        folder: A run's folder.
        recipe: Its recipe.
        data: Today's data; ``None`` if unknown.
    """
    row: ledger.Row | None = None
    wrong: dict[str, str] = {}
    try:
        row = read_row(folder / "metrics.json", recipe)
        if not same(row.get("data"), data):
            raise DataError(f"{folder / 'metrics.json'} is of a run on other data")
    except DataError as error:
        row, wrong["metrics.json"] = None, str(error)
    try:
        stated = _stated(folder / "recipe.json")
        if stated is None or stated.hash != recipe.hash:
            wrong["recipe.json"] = f"{folder / 'recipe.json'} is of another run"
    except DataError as error:
        wrong["recipe.json"] = str(error)
    sums: Mapping[str, str] = (row or {}).get("files", {})
    names = [*FILES, *(name for name in STAGE1_FILES if name in sums)]
    for name in names:
        try:
            if name in sums:
                _need_checksum(folder / name, sums[name])
            else:
                _need_readable(folder / name, recipe, row, data)
        except DataError as error:
            wrong[name] = str(error)
    return State(row, wrong)


def _need_checksum(path: Path, wanted: str) -> None:
    try:
        found = checksum(path)
    except OSError as error:
        words = "is missing" if isinstance(error, FileNotFoundError) else f"can't be read ({error})"
        raise DataError(f"{path} {words}") from error
    if found != wanted:
        raise DataError(f"{path} is damaged or of another run: its checksum is off")


def _need_readable(
    path: Path, recipe: Recipe, row: ledger.Row | None, data: Fingerprint | None
) -> None:
    """Read a file whose checksum is not known."""
    remedy = again(path.parent)
    if path.name == "environment.json":
        read_json(path, Environment, remedy=remedy)
    elif path.name == "ids.json":
        read_json(path, Ids, remedy=remedy)
    elif path.name == "log.jsonl":
        last = {one["stage"]: one["step"] for one in read_log(path, remedy=remedy, last=False)}
        stages = (row or {}).get("stages") or {}
        if any(last.get(name) != stage["step"] for name, stage in stages.items()):
            raise DataError(f"{path} is cut, or of another run; {remedy}")
    elif path.name == "preview.npz":
        read_preview(path, remedy=remedy)
    else:
        weights_of(path, recipe, data, remedy=remedy)


def weights_of(
    path: Path, recipe: Recipe, data: Fingerprint | None, *, remedy: str
) -> dict[str, Any]:
    """What is stored with a run's weights; nothing with those of earlier versions.

    Raises:
        DataError: The weights are missing, damaged, not finite, or of another run.
    """
    _, about = read_weights(path, remedy=remedy)
    need_own(about, path, recipe, data, remedy=remedy)
    return about


def need_own(
    about: dict[str, Any], path: Path, recipe: Recipe, data: Fingerprint | None, *, remedy: str
) -> None:
    """Check that what is stored with weights is of this run; earlier versions stored nothing.

    Raises:
        DataError: It is of another run.
    """
    if not about:
        return
    try:
        check(about, About)
        its = Recipe.from_dict(about["recipe"]).hash
    except (UnfitError, ValueError) as error:
        raise DataError(f"weights {path}: {error}; {remedy}") from error
    if its != recipe.hash:
        raise DataError(f"weights {path} are of the run {its}, not {recipe.hash}; {remedy}")
    if not same(about["data"], data):
        raise DataError(f"weights {path} were trained on other data; {remedy}")


def restore(folder: Path, results: Path, state: State) -> list[str]:
    """Copy files that are wrong from the folder of the ledger, where their checksum is right.

    Returns:
        The names of the files that are right again.
    """
    if state.row is None:
        return []
    restored = []
    for name, target in published(state.row).items():
        source, wanted = results / target, state.row.get("files", {}).get(name)
        if name in state.wrong and wanted and source.is_file() and checksum(source) == wanted:
            write_atomic(folder / name, source.read_bytes())
            restored.append(name)
    return restored


def published(row: ledger.Row) -> dict[str, str]:
    """Where a run's small files lie in the folder of the ledger, by their names in its own.

    Not the preview, which is kept there in a leaner form (:mod:`segnb.results.previews`).
    """
    name = ledger.file_name(row)
    return {
        "log.jsonl": f"logs/{name}.jsonl",
        "ids.json": f"logs/{name}.ids.json",
        "environment.json": f"logs/{name}.environment.json",
    }
