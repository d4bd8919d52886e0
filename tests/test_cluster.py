"""Recipes on a Ray cluster: two nodes on the loopback interface, each with one core."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from own_folder import make_folder
from test_side_by_side import same_numbers, swept
from tiny import tiny_recipe

from segnb import cli
from segnb.errors import ConfigError
from segnb.experiments import cluster as on_ray
from segnb.experiments import node, runs, sweep
from segnb.experiments.node import Job, NoDataError, RefusedError, work
from segnb.experiments.tasks import Event, Task, list_digest
from segnb.recipe import Recipe, Stage
from segnb.results import ledger
from segnb.training.log import read_log

pytest_plugins = ["tiny"]
pytestmark = pytest.mark.usefixtures("one_thread", "places")

#: Twelve recipes: three stage 1s that two share, and six recipes without one.
GRID = sweep.grid(
    tiny_recipe(), **{"method": ["ce", "contrastive"], "finetune.steps": [3, 6], "seed": [0, 1, 2]}
)

#: A recipe that no machine can train.
BAD = tiny_recipe("ce", finetune=Stage(steps=3, batch=1))


# --- what a node does, in this process ------------------------------------------------------------


def job_of(recipe: Recipe, folder: Path, root: Path, **changes: Any) -> Job:
    data, _ = runs.data_today(recipe, root=root)
    assert data is not None
    task = Task(
        number=1,
        recipe=recipe,
        until="end",
        data=data,
        listed=list_digest(recipe),
        runs=folder / "runs",
        root=root,
        cpu=True,
    )
    values: dict[str, Any] = {
        "task": task,
        "mark": ".mark",
        "code": node.code_digest(),
        "home": Path.cwd(),
        "cache": folder / "cache",
        "weights": False,
    }
    return Job(**{**values, **changes})


def done(job: Job, **changes: Any) -> Event:
    values: dict[str, Any] = {
        "say": lambda _: None,
        "should_stop": lambda: False,
        "stages": list,
        "files": list,
    }
    return work(job, **{**values, **changes})


@pytest.fixture
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of a node."""
    place = tmp_path / "node"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    monkeypatch.delenv("SEGNB_CACHE")
    return place


def test_a_node_with_other_code_refuses(tmp_path: Path, tiny_root: Path) -> None:
    with pytest.raises(RefusedError, match="other code than the driver's"):
        done(job_of(tiny_recipe("ce"), tmp_path, tiny_root, code="other"))


def test_a_node_with_another_split_list_refuses(tmp_path: Path, tiny_root: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("train_00\n")
    recipe = tiny_recipe("ce", split_list=str(listed))
    job = job_of(recipe, tmp_path, tiny_root)
    listed.write_text("train_01\n")
    with pytest.raises(RefusedError, match=r"no split list .*list\.txt"):
        done(job)
    listed.unlink()
    with pytest.raises(RefusedError, match="no split list"):
        done(job)


def test_a_node_whose_data_differ_refuses(tmp_path: Path, tiny_root: Path) -> None:
    job = job_of(tiny_recipe("ce"), tmp_path, tiny_root)
    other = {**job.task.data, "val": "0" * 16}
    with pytest.raises(
        RefusedError, match=r"the files of val of camvid in .* are not the driver's"
    ):
        done(replace(job, task=replace(job.task, data=other)))


def test_a_node_is_sent_the_data_that_it_lacks_and_gives_its_files_back(
    tmp_path: Path, tiny_root: Path, own_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(pretrain=Stage(steps=1, batch=4), finetune=Stage(steps=1, batch=4))
    there = job_of(recipe, tmp_path, tiny_root, weights=True)
    sent = {name: path.read_bytes() for name, path in node.data_files(there.task)}
    assert len(sent) == 2 * (12 + 4 + 3)
    away = replace(there, task=replace(there.task, root=tmp_path / "nowhere"))
    monkeypatch.setenv("SEGNB_DATA", str(tmp_path / "nor here"))
    with pytest.raises(NoDataError):
        done(away)
    spoilt = {**sent, next(iter(sent)): b""}
    with pytest.raises(RefusedError, match="did not arrive whole"):
        done(away, files=lambda: [spoilt])
    end = done(away, files=lambda: [sent])
    assert end.kind == "done", end.text
    assert end.row is not None
    assert end.row["data"] == there.task.data
    names = {"recipe.json", "metrics.json", "log.jsonl", "weights.safetensors", "preview.npz"}
    assert names <= end.files.keys()
    assert not (tmp_path / "runs").exists()  # it does not share the driver's folder
    (store,) = own_place.glob("*/runs/stage1/*")
    assert [path.name for path in own_place.glob("*/runs/camvid-*")] == []  # it went back
    # The stage 1 alone goes back too, and what was sent of it is not trained again.
    only = replace(away, task=replace(away.task, until="pretrain"))
    stage = done(only)
    assert stage.files.keys() == {"pretrained.safetensors", "pretrained.json"}
    shutil.rmtree(store.parent)
    shutil.rmtree(next(own_place.glob("*/runs/camvid-*")))
    pair = (stage.files["pretrained.safetensors"], stage.files["pretrained.json"])
    said: list[Event] = []
    again = done(replace(away, weights=False), stages=lambda: [pair], say=said.append)
    assert again.row is not None
    same_numbers(again.row, end.row)
    assert any("taken from" in event.text for event in said)
    assert not {name for name in again.files if name.startswith(("weights", "pretrained"))}


def test_a_folder_of_ones_own_is_sent_under_its_name(
    tmp_path: Path, own_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path / "there")
    recipe = tiny_recipe("ce", dataset=str(folder), fraction=1.0)
    job = job_of(recipe, tmp_path, tmp_path)
    sent = {name: path.read_bytes() for name, path in node.data_files(job.task)}
    assert all(name.startswith(f"{recipe.dataset_title}/") for name in sent)
    folder.rename(tmp_path / "gone")
    monkeypatch.setenv("SEGNB_DATA", str(tmp_path / "nowhere"))
    end = done(job, files=lambda: [sent])
    assert end.kind == "done", end.text


def test_a_drawn_data_set_needs_no_files(tmp_path: Path) -> None:
    recipe = tiny_recipe("ce", dataset="shapes")
    assert list(node.data_files(job_of(recipe, tmp_path, tmp_path).task)) == []


def test_without_ray_there_is_one_line_that_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["--tier", "smoke", "--results", str(tmp_path), "--runs", str(tmp_path), "--ray"]
    assert cli.main(["sweep", *words]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert 'pip install "segnb[ray]"' in told


#: How much less of a busy machine Ray's tasks get; Ray's own default is 15.
NICENESS = "RAY_worker_niceness"

#: An address of the loopback interface that Ray does not replace by the machine's own.
LOOPBACK = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"

#: How often a node may be started.
START_TRIES = 3


# --- a cluster ------------------------------------------------------------------------------------


class Nodes:
    """A cluster of two nodes on the loopback interface."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster()
        self.head = self.add()
        self.second: Any = self.add()
        self.cluster.connect()

    def add(self) -> Any:
        for left in reversed(range(START_TRIES)):
            try:
                return self.cluster.add_node(
                    num_cpus=1, include_dashboard=False, node_ip_address=LOOPBACK
                )
            except Exception as error:  # Ray gives a node half a minute, whatever else runs here
                if not left or "timed out" not in str(error):
                    raise


@pytest.fixture(scope="module")
def nodes(tiny_root: Path) -> Iterator[Nodes]:
    """Two nodes; they look for data where this process does."""
    ray = pytest.importorskip("ray", reason='needs Ray: pip install "segnb[ray]"')
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "RAY_AUTH_MODE": "disabled",  # nobody but this machine reaches its loopback interface
            "RAY_USAGE_STATS_ENABLED": "0",
            NICENESS: os.environ.get(NICENESS, "0"),
            "RAY_health_check_period_ms": "500",
            "OMP_NUM_THREADS": "1",
            "SEGNB_DATA": str(tiny_root),
            "SEGNB_CACHE": str(tiny_root / ".cache"),
        }.items():
            patch.setenv(name, value)
        made = Nodes()
        try:
            yield made
        finally:
            ray.shutdown()
            made.cluster.shutdown()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path) -> dict[str, ledger.Row]:
    """The rows of the plain sweep."""
    home = tmp_path_factory.mktemp("plain")
    options: dict[str, Any] = {"cpu": True, "progress_bar": False, "say": lambda _: None}
    sweep.sweep(GRID, runs=home / "runs", results=home, root=tiny_root, **options)
    return {row["recipe_hash"]: row for row in ledger.read(home / "ledger.jsonl")}


def test_a_grid_gives_the_rows_of_the_plain_sweep(
    nodes: Nodes, plain: dict[str, ledger.Row], tmp_path: Path
) -> None:
    """A node is killed in the middle, which loses nothing; a recipe that fails is told."""
    began: list[str] = []

    class Killing(on_ray.Cluster):
        def events(self, seconds: float) -> list[Event]:
            found = super().events(seconds)
            began.extend(str(one.number) for one in found if one.kind == "begun")
            if len(began) >= 4 and nodes.second is not None:
                nodes.cluster.remove_node(nodes.second, allow_graceful=False)
                nodes.second = None
            return found

    try:
        failed, said, rows = swept(Killing(cpu=True), tmp_path, [*GRID, BAD])
    finally:
        nodes.second = nodes.second or nodes.add()
    assert [("batch 1" in str(error)) for error in failed] == [True], failed
    assert any("; it begins again" in line for line in said), said
    assert {row["recipe_hash"] for row in rows} == plain.keys()
    assert len(plain) == 12
    for row in rows:
        same_numbers(row, plain[row["recipe_hash"]])
    assert not list((tmp_path / "runs").glob(".driver-*"))


def test_an_interrupted_sweep_goes_on(nodes: Nodes, tmp_path: Path) -> None:
    recipe = tiny_recipe("ce", finetune=Stage(steps=400, batch=4))
    log = runs.run_folder(recipe, tmp_path / "runs") / "log.jsonl"

    class Interrupted(on_ray.Cluster):
        def events(self, seconds: float) -> list[Event]:
            found = super().events(seconds)
            if not self._stopped and read_log(log):
                raise KeyboardInterrupt
            return found

    with pytest.raises(KeyboardInterrupt):
        swept(Interrupted(cpu=True), tmp_path, [recipe])
    assert (log.parent / "finetune.pt").exists()
    before = read_log(log)
    assert before[-1]["step"] < 400
    failed, _, rows = swept(on_ray.Cluster(cpu=True), tmp_path, [recipe])
    assert failed == []
    assert rows[0]["steps"] == 400
    # Every step once: it went on from the checkpoint.
    steps = [row["step"] for row in read_log(log)]
    assert steps == sorted(set(steps))
    assert read_log(log)[: len(before)] == before


def test_nodes_without_the_drivers_folders_send_what_they_made(
    nodes: Nodes,
    plain: dict[str, ledger.Row],
    tmp_path: Path,
) -> None:
    recipes = [recipe for recipe in GRID if recipe.has_stage1 and recipe.seed == 0]

    class Apart(on_ray.Cluster):
        """No node finds the mark in the folder of the runs."""

        def _mark(self, runs: Path) -> str:
            return ".no-such-mark"

    failed, _, rows = swept(Apart(cpu=True, weights=True), tmp_path, recipes)
    assert failed == []
    for row in rows:
        same_numbers(row, plain[row["recipe_hash"]])
    for recipe in recipes:
        folder = runs.run_folder(recipe, tmp_path / "runs")
        assert runs.inspect(folder, recipe, rows[0]["data"]).wrong == {}
    assert len(list((tmp_path / "runs" / "stage1").iterdir())) == 1
    assert len(list((tmp_path / "previews").glob("*.npz"))) == 2


def test_if_all_nodes_refuse_the_recipes_fail_with_the_reason(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "code_digest", lambda: "other")
    failed, _, rows = swept(on_ray.Cluster(cpu=True), tmp_path, GRID[:2])
    assert len(failed) == 2
    assert all("refuses: its segnb" in str(error) for error in failed)
    assert rows == []


def test_a_cluster_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason='needs Ray: pip install "segnb[ray]"')
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def init(*_: object, **__: object) -> None:
        raise ConnectionError("Could not reach the cluster. More words.\nAnd lines.")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ConfigError, match=r"no Ray cluster at 10\.0\.0\.1:6379 \(Could not reach"):
        on_ray.Cluster("10.0.0.1:6379")
    with pytest.raises(ConfigError, match=r"Ray doesn't start on this machine \(Could not"):
        on_ray.Cluster()
