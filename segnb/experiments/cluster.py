"""Recipes side by side on a Ray cluster: every task is one Ray task.

What a node runs is sent by value, and imports segnb only there: a node without it can say so. The
driver alone tries again what was lost, because it knows what can go on where.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import secrets
import time
from collections import Counter
from pathlib import Path
from typing import Any

from segnb.datasets.base import cache_root
from segnb.device import usable_cores
from segnb.errors import ConfigError
from segnb.experiments import stage1
from segnb.experiments.node import Job, code_digest, data_files
from segnb.experiments.tasks import Event, Task
from segnb.files import write_atomic
from segnb.records import tell

#: Bytes of a data set that are sent as one object.
PART = 64 * 2**20

#: How many stage 1s stay in the object store beside those that tasks wait for: recipes that share
#: one come one after another.
STAGES = 8

#: Seconds that a node waits between two looks at what the driver wants.
ASK_SECONDS = 1.0

#: What Ray says when a task is lost, and what it means.
_LOSSES = {
    "NodeDiedError": "its node died",
    "LocalRayletDiedError": "its node died",
    "WorkerCrashedError": "its process died",
    "OutOfMemoryError": "its node ran out of memory",
    "OutOfDiskError": "its node ran out of disk",
    "ObjectStoreFullError": "its node ran out of object store",
    "TaskUnschedulableError": "its node is gone",
}


class Cluster:
    """Has tasks done on a Ray cluster.

    Args:
        address: The cluster's address, or ``auto`` for one that runs on this machine; ``None``
            starts one on this machine, which ends with the sweep. A process that is connected to a
            cluster stays so.
        num_cpus: Cores for each task.
        num_gpus: GPUs for each task; by default 1 where the cluster has GPUs.
        cpu: Use no GPU.
        weights: Bring weights back from nodes that don't share the folder of the runs.

    Raises:
        ConfigError: Ray is not installed, there is no such cluster, or no node has the resources.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        num_cpus: int = 1,
        num_gpus: float | None = None,
        cpu: bool = False,
        weights: bool = False,
    ) -> None:
        self._ray = _import_ray()
        self._mine = not self._ray.is_initialized()
        if self._mine:
            _connect(self._ray, address)
        self._weights = weights
        self._resources = {"CPU": float(num_cpus)}
        gpus = self._ray.cluster_resources().get("GPU", 0.0)
        given = float(gpus > 0) if num_gpus is None else num_gpus
        self._resources["GPU"] = 0.0 if cpu else given
        self._need_resources(local=address is None and self._mine)
        self._run, board = _sent_by_value(self._ray)
        # With the driver, so that no other node can take it along.
        self._board = board.options(
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            scheduling_strategy=self._on(self._ray.get_runtime_context().get_node_id()),
        ).remote()
        self._tasks: dict[Any, Task] = {}
        self._begun: set[int] = set()
        self._pinned: Counter[str] = Counter()
        # Pairs of a node and what it refuses: a node may lack one data set or split list alone.
        self._refused: set[tuple[str, _Need]] = set()
        self._marks: dict[Path, str] = {}
        self._stages: dict[str, Any] = {}
        self._files: dict[str, list[Any]] = {}
        self._stopped = False

    def has_room(self) -> bool:
        """Always: Ray's queue lets a cluster that grows on demand see what there is to do."""
        return True

    def submit(self, task: Task) -> None:
        """Give a task to Ray."""
        where = self._strategy(task)
        job = Job(
            task=task,
            mark=self._mark(task.runs),
            code=code_digest(),
            home=Path.cwd(),
            cache=cache_root().absolute(),
            weights=self._weights,
        )
        files = self._files.get(task.recipe.dataset, [])
        run = self._run.options(
            name=f"{task.recipe.method}-{task.recipe.hash}",
            num_cpus=self._resources["CPU"],
            num_gpus=self._resources["GPU"],
            max_retries=0,
            scheduling_strategy=where,
        )
        # In lists, references are not fetched before a node asks for them.
        self._begun.discard(task.number)
        reference = run.remote(pickle.dumps(job), self._held(task), files, self._board)
        self._tasks[reference] = task

    def events(self, seconds: float) -> list[Event]:
        """What was heard, after waiting for at most ``seconds``."""
        if not self._tasks:
            time.sleep(seconds)
            return []
        ended, _ = self._ray.wait([*self._tasks], num_returns=1, timeout=seconds)
        if ended:
            ended, _ = self._ray.wait([*self._tasks], num_returns=len(self._tasks), timeout=0)
        news = self._ray.get(self._board.take.remote(self._stopped))
        running = {task.number for task in self._tasks.values()}
        heard: list[Event] = [one for one in map(pickle.loads, news) if one.number in running]
        self._begun |= {event.number for event in heard if event.kind == "begun"}
        for reference in ended:
            end = self._end(reference)
            heard += [] if end is None else [end]
        return heard

    def stop(self) -> None:
        """Ask running tasks to end with a checkpoint, and drop those that wait for a node."""
        self._stopped = True  # the next look at the board says so
        for reference, task in self._tasks.items():
            if task.number not in self._begun:
                self._ray.cancel(reference)

    def close(self) -> None:
        """Cancel what runs, and leave the cluster."""
        for reference in self._tasks:
            with contextlib.suppress(Exception):  # it has ended, or the cluster is gone
                self._ray.cancel(reference, force=True)
        self._tasks.clear()
        for runs, mark in self._marks.items():
            (runs / mark).unlink(missing_ok=True)
        self._marks.clear()
        with contextlib.suppress(Exception):
            self._ray.kill(self._board)
        if self._mine:
            self._ray.shutdown()

    def _end(self, reference: Any) -> Event | None:
        """The end of a Ray task; ``None`` if the task was given to Ray again."""
        task, errors = self._tasks.pop(reference), self._ray.exceptions
        try:
            word, node, content = self._ray.get(reference)
        except errors.TaskCancelledError:
            return Event(number=task.number, kind="stopped")
        except errors.RayTaskError as error:
            return Event(number=task.number, kind="fault", text=str(error))
        except errors.RayError as error:
            name = type(error).__name__
            text = _LOSSES.get(name) or f"its node was lost ({name})"
            return Event(number=task.number, kind="lost", text=text)
        if word == "end":
            end: Event = content
            return end
        if self._stopped:
            return Event(number=task.number, kind="stopped")
        if word == "no data":
            return self._send_data(task)
        if (node, _need(task)) not in self._refused:
            tell(content)
        self._refused.add((node, _need(task)))
        return self._again(task, content)

    def _again(self, task: Task, why: str) -> Event | None:
        """Give a task to a node that did not refuse it; without one, it fails."""
        if not self._good_nodes(task):
            return Event(number=task.number, kind="failed", text=why)
        self.submit(task)
        return None

    def _send_data(self, task: Task) -> Event | None:
        name = task.recipe.dataset
        if name not in self._files:
            self._files[name] = self._parts(task)
        if not self._files[name]:
            text = f"{name}: a node has no such data, and there are no files to send"
            return Event(number=task.number, kind="failed", text=text)
        self.submit(task)
        return None

    def _parts(self, task: Task) -> list[Any]:
        """A data set in the object store, in parts."""
        parts: list[Any] = []
        part: dict[str, bytes] = {}
        size = total = 0
        for name, path in data_files(task):
            part[name] = path.read_bytes()
            size, total = size + len(part[name]), total + len(part[name])
            if size >= PART:
                parts.append(self._ray.put(part))
                part, size = {}, 0
        if part:
            parts.append(self._ray.put(part))
        title = task.recipe.dataset_title
        tell(f"{title} is sent to nodes that lack it ({total / 1e6:,.0f} MB)")
        return parts

    def _held(self, task: Task) -> list[Any]:
        """Each stage 1 of a recipe that the driver has, in the object store."""
        if not task.recipe.has_stage1:
            return []
        found = []
        for folder in stage1.kept(task.recipe, task.runs):
            if folder.name not in self._stages:
                names = (stage1.WEIGHTS, stage1.RECORD)
                pair = tuple((folder / name).read_bytes() for name in names)
                self._stages[folder.name] = self._ray.put(pair)
                for old in [*self._stages][:-STAGES]:
                    del self._stages[old]
            found.append(self._stages[folder.name])
        return found

    def _mark(self, runs: Path) -> str:
        """A file by which nodes that share the folder of the runs know it."""
        if runs not in self._marks:
            self._marks[runs] = f".driver-{secrets.token_hex(8)}"
            write_atomic(runs / self._marks[runs], "Nodes that see this file share the folder.\n")
        return self._marks[runs]

    def _strategy(self, task: Task) -> Any:
        """Where a task may run: anywhere, until a node refuses its like."""
        if not any(need == _need(task) for _, need in self._refused):
            return "DEFAULT"
        good = self._good_nodes(task)
        if not good:
            return "DEFAULT"
        node = min(good, key=lambda one: self._pinned[one])
        self._pinned[node] += 1
        return self._on(node)

    def _good_nodes(self, task: Task) -> list[str]:
        return [
            node["NodeID"]
            for node in self._ray.nodes()
            if node["Alive"] and (node["NodeID"], _need(task)) not in self._refused
            if self._fits(node)
        ]

    def _fits(self, node: dict[str, Any]) -> bool:
        return all(node["Resources"].get(name, 0.0) >= n for name, n in self._resources.items())

    def _need_resources(self, *, local: bool) -> None:
        if any(self._fits(node) for node in self._ray.nodes() if node["Alive"]):
            return
        words = f"{self._resources['CPU']:g} cores and {self._resources['GPU']:g} GPUs"
        if local:
            self._ray.shutdown()
            raise ConfigError(
                f"this machine has no {words} for a recipe: lower --num-cpus and --num-gpus"
            )
        tell(f"no node of the cluster has {words}: the sweep waits until one joins")

    def _on(self, node: str) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node_id=node, soft=False)


#: What a node must have for a task: the data set, its size, and the split list.
_Need = tuple[str, tuple[int, int], str | None]


def _need(task: Task) -> _Need:
    return task.recipe.dataset, task.recipe.size, task.listed


def _import_ray() -> Any:
    # No usage statistics are sent, unless the user asks for it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            f'--ray needs Ray ({error}): pip install "segnb[ray]"; without it, --workers runs '
            "recipes side by side on this machine"
        ) from error
    return ray


def _connect(ray: Any, address: str | None) -> None:
    options: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
    if address is None:
        options |= {"include_dashboard": False, "num_cpus": usable_cores()}
    try:
        ray.init(address or "local", **options)
    except Exception as error:  # Ray raises errors of many kinds, some of them bare
        reason = " ".join(str(error).split()).partition(". ")[0]
        if address is None:
            raise ConfigError(
                f"Ray doesn't start on this machine ({reason}). It gives up after half a minute: "
                "try again when less is running here"
            ) from error
        causes: list[BaseException] = [error]
        while (cause := causes[-1].__cause__) is not None:
            causes.append(cause)
        if any(type(one).__name__ == "AuthenticationError" for one in causes):
            raise ConfigError(
                f"the Ray cluster at {address} asks for a token: set RAY_AUTH_MODE=token, and copy "
                "~/.ray/auth_token from its first machine"
            ) from error
        raise ConfigError(
            f"there is no Ray cluster at {address} ({reason}); `ray start --head` starts one on a "
            "machine, and --ray without an address one for this sweep"
        ) from error


def _sent_by_value(ray: Any) -> tuple[Any, Any]:
    """What runs on nodes: a task, and the board on which tasks leave news for the driver."""
    seconds = ASK_SECONDS

    def on_node(packed: bytes, stages: list[Any], files: list[Any], board: Any) -> Any:
        import pickle
        import socket
        import time

        import ray

        node = ray.get_runtime_context().get_node_id()
        where = f"node {socket.gethostname()} ({ray.util.get_node_ip_address()})"
        try:
            from segnb.experiments.node import NoDataError, RefusedError, work

            job = pickle.loads(packed)
        except (ImportError, AttributeError) as error:
            return "refused", node, f"{where} can't run segnb ({error}); install the driver's there"
        news: list[bytes] = []
        asked: list[Any] = []
        state = {"stop": False, "last": 0.0}

        def leave() -> None:
            asked.append(board.leave.remote(news[:]))
            news.clear()
            state["last"] = time.monotonic()

        def hear(*, wait: bool) -> None:
            try:
                if asked and (wait or ray.wait(asked[-1:], timeout=0)[0]):
                    state["stop"] = bool(ray.get(asked[-1])) or bool(state["stop"])
                    asked.clear()
            except ray.exceptions.RayError:  # the driver is gone
                state["stop"] = True

        def say(event: Any) -> None:
            news.append(pickle.dumps(event))
            if event.kind == "begun":
                leave()

        def should_stop() -> bool:
            hear(wait=False)
            if not asked and time.monotonic() - state["last"] >= seconds:
                leave()
            return bool(state["stop"])

        try:
            end = work(
                job,
                say=say,
                should_stop=should_stop,
                stages=lambda: ray.get(stages),
                files=lambda: map(ray.get, files),
            )
        except RefusedError as error:
            return "refused", node, f"{where} refuses: {error}"
        except NoDataError:
            return "no data", node, ""
        leave()
        hear(wait=True)
        return "end", node, end

    class Board:
        def __init__(self) -> None:
            self.news: list[bytes] = []
            self.stopped = False

        def leave(self, news: list[bytes]) -> bool:
            self.news += news
            return self.stopped

        def take(self, stop: bool) -> list[bytes]:
            # Told each time: a board that died has forgotten it.
            self.stopped = stop
            news, self.news = self.news, []
            return news

    return ray.remote(on_node), ray.remote(Board)
