"""What a node of a cluster does around a task: its own checks, what was sent, what goes back.

A node uses the driver's folder of runs if it sees it: that is a shared file system. Otherwise it
trains in a temporary folder, and what it leaves there goes back to the driver. It refuses to train
with other code or on other data than the driver's.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import segnb
from segnb import datasets
from segnb.datasets.base import cache_root
from segnb.errors import DataError, SegnbError
from segnb.experiments import stage1
from segnb.experiments.fingerprint import OfFiles, fingerprint
from segnb.experiments.folder import chosen
from segnb.experiments.tasks import Event, Task, list_digest, perform
from segnb.files import locked, write_atomic
from segnb.records import differing
from segnb.results.ledger import data_name

#: Endings of the files of a data set's folder that are sent beside its images and masks.
TEXTS = frozenset({".txt", ".toml", ".json", ".csv", ".xml", ".md"})


@dataclass(frozen=True, kw_only=True)
class Job:
    """A task, and what a node must know of the driver.

    Attributes:
        task: The task.
        mark: A file that the driver wrote into its folder of runs: who sees it shares the folder.
        code: :func:`code_digest` of the driver.
        home: The driver's working folder.
        cache: The driver's cache.
        weights: Whether the weights go back too.
    """

    task: Task
    mark: str
    code: str
    home: Path
    cache: Path
    weights: bool


class RefusedError(SegnbError):
    """This node can't do the task, and another one may."""


class NoDataError(SegnbError):
    """This node lacks the data, which can be sent."""


#: The files of a data set by their paths under the data root.
Files = Mapping[str, bytes]


def work(
    job: Job,
    *,
    say: Callable[[Event], None],
    should_stop: Callable[[], bool],
    stages: Callable[[], Sequence[tuple[bytes, bytes]]],
    files: Callable[[], Iterable[Files]],
) -> Event:
    """Do a task on this node.

    Args:
        job: The task.
        say: Called with events while it runs.
        should_stop: Called after every step.
        stages: Returns weights and record of each stage 1 that the driver has for the recipe.
        files: Returns the data set, in parts; nothing as long as it was not asked for.

    Returns:
        The event that ends the task.

    Raises:
        RefusedError: The node has other code, other data or another split list.
        NoDataError: The node lacks the data.
    """
    task = job.task
    if code_digest() != job.code:
        raise RefusedError(
            f"its segnb ({segnb.__version__}, {Path(segnb.__file__).parent}) has other code than "
            "the driver's; install the same version there"
        )
    shared = (task.runs / job.mark).exists()
    # By the user's number, which has no name in some containers.
    user = os.getuid() if hasattr(os, "getuid") else "here"
    place = Path(tempfile.gettempdir()) / f"segnb-{user}"
    runs = task.runs if shared else place / "runs"
    with _at(job.home), _environment(SEGNB_CACHE=str(_cache(job, place))):
        _check_split_list(job)
        root = _data(job, place, files)
        with _environment(SEGNB_DATA=str(root)):
            if not shared:
                for weights, record in stages():
                    stage1.put(runs, weights, record)
            its = replace(task, runs=runs, root=root)
            end = perform(its, say=say, should_stop=should_stop)
    if shared or end.kind != "done":
        return end
    folder = chosen(task.recipe, runs, task.data)[0]
    if task.shares_stage1:
        found = {name: (folder / name).read_bytes() for name in (stage1.WEIGHTS, stage1.RECORD)}
        return replace(end, files=found)
    found = {path.name: path.read_bytes() for path in folder.iterdir() if _goes_back(path, job)}
    # A disk is soon full of runs that lie elsewhere too.
    shutil.rmtree(folder, ignore_errors=True)
    return replace(end, files=found)


def _goes_back(path: Path, job: Job) -> bool:
    if not path.is_file() or path.name.startswith("."):
        return False
    return job.weights or not (path.suffix == ".safetensors" or path.name == stage1.RECORD)


@cache
def code_digest() -> str:
    """A hash of the package's modules."""
    folder = Path(segnb.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(repr(path.relative_to(folder).as_posix()).encode())
        digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def _check_split_list(job: Job) -> None:
    try:
        same = list_digest(job.task.recipe) == job.task.listed
    except DataError:
        same = False
    if not same:
        raise RefusedError(
            f"it has no split list {job.task.recipe.split_list}, or another one; put the driver's "
            "there, at the same path"
        )


def _data(job: Job, place: Path, files: Callable[[], Iterable[Files]]) -> Path:
    """The data root: the driver's path, this node's own, or a copy of what was sent."""
    task = job.task
    assert task.root is not None
    sent = place / "data" / f"{task.recipe.dataset_title}-{data_name(task.data)}"
    if _differing(task, sent) == []:
        return sent
    own = os.environ.get("SEGNB_DATA")
    found = {root: _differing(task, root) for root in (task.root, *([Path(own)] if own else []))}
    for root, splits in found.items():
        if splits == []:
            return root
    for root, splits in found.items():
        if splits is not None:
            raise RefusedError(
                f"the files of {', '.join(splits)} of {task.recipe.dataset_title} in {root} are "
                "not the driver's; copy those there, or move these away and the driver's are sent"
            )
    written = 0
    with locked(sent.parent / f"{sent.name}.lock"):
        for part in files():
            for name, content in part.items():
                write_atomic(sent / name, content)
                written += 1
    if not written:
        raise NoDataError(task.recipe.dataset)
    if _differing(task, sent) != []:
        raise RefusedError(f"the data that it was sent did not arrive whole in {sent}")
    return sent


def _differing(task: Task, root: Path) -> list[str] | None:
    """The splits that differ from the driver's; ``None`` if there are no such data."""
    with _environment(SEGNB_DATA=str(root)):
        try:
            return differing(task.data, fingerprint(task.recipe, root=root))
        except DataError:
            return None


def _cache(job: Job, place: Path) -> Path:
    """Where decoded images go: as on the driver if that is here, else a temporary folder."""
    if os.environ.get("SEGNB_CACHE"):
        return cache_root()
    if job.cache.parent.is_dir() and os.access(job.cache.parent, os.W_OK):
        return job.cache
    return place / "cache"


def data_files(task: Task) -> Iterator[tuple[str, Path]]:
    """The files of a task's data set, by their paths under a data root.

    Those are the images and masks of its splits and the texts in its folder; nothing of a data set
    that is drawn.
    """
    entry = datasets.get(task.recipe.dataset)
    if not entry.folder:
        return
    assert task.root is not None
    folder = task.root / entry.folder  # that of a data set of one's own is absolute
    under = entry.title if "@" in entry.name else entry.folder
    wanted = {path for path in folder.rglob("*") if path.suffix.lower() in TEXTS}
    for split in entry.splits:
        data = entry.load(split, root=task.root, size=task.recipe.size)
        if isinstance(data, OfFiles):
            wanted |= {*data.contents()[1]}
    for path in sorted(wanted):
        if path.is_file():
            yield (Path(under) / path.relative_to(folder)).as_posix(), path


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _at(home: Path) -> Iterator[None]:
    """Work in the driver's folder where this node has it: a split list may have a relative path."""
    if not home.is_dir():
        yield
        return
    before = Path.cwd()
    os.chdir(home)
    try:
        yield
    finally:
        os.chdir(before)
