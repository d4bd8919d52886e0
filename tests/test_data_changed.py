"""A run is its recipe and its data: the same command after images or masks have changed."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import ledger_row, make_camvid, tiny_recipe

from segnb import cli, datasets
from segnb.datasets.base import Sample
from segnb.datasets.own.describe import describe
from segnb.errors import ConfigError, DataError
from segnb.experiments import fingerprint, runs, sweep
from segnb.recipe import Recipe, Stage
from segnb.results import ledger, overview, table

pytest_plugins = ["tiny"]
pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = Stage(steps=1, batch=4, lr=0.05)
RECIPE = tiny_recipe("ce", finetune=SHORT)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data of this test's own, and a cache."""
    monkeypatch.setenv("SEGNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return make_camvid(tmp_path / "data")


def other_masks(root: Path, split: str = "train") -> None:
    """Masks with every class but void replaced by the next one."""
    for path in (root / "CamVid" / f"{split}annot").iterdir():
        mask = np.asarray(Image.open(path))
        Image.fromarray(np.where(mask < 11, (mask + 3) % 11, mask).astype(np.uint8)).save(path)


def run(root: Path, recipe: Recipe = RECIPE, **options: Any) -> Any:
    home = root.parent
    options = {"root": root, "cpu": True, "progress_bar": False, **options}
    return runs.run(recipe, runs=home / "runs", results=home / "results", **options)


def held(root: Path) -> list[ledger.Row]:
    return ledger.read(ledger.ledger_path(root.parent / "results"))


# --- the fingerprint ---------------------------------------------------------------------------


def of(root: Path) -> dict[str, str]:
    return fingerprint.fingerprint(RECIPE, root=root)


def test_the_same_files_elsewhere_and_later_are_the_same_data(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(root, copy)  # other times
    assert of(root) == of(copy)
    assert of(root).keys() == {"train", "val", "test"}


@pytest.mark.parametrize("kind", ["train", "trainannot"])
def test_one_pixel_makes_other_data(root: Path, kind: str) -> None:
    before = of(root)
    path = root / "CamVid" / kind / "train_05.png"
    pixels = np.asarray(Image.open(path)).copy()
    pixels[3, 3] = 0 if kind == "train" else 1
    Image.fromarray(pixels).save(path)
    after = of(root)
    assert [name for name in before if before[name] != after[name]] == ["train"]


def test_an_edit_that_keeps_size_and_time_is_seen(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "_SETTLED", 0.0)
    before = of(root)
    path = root / "CamVid" / "trainannot" / "train_00.png"
    state, content = path.stat(), bytearray(path.read_bytes())
    time.sleep(0.02)  # the clock of files ticks every few milliseconds
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    now = path.stat()
    assert (now.st_size, now.st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    assert of(root)["train"] != before["train"]


def test_unchanged_files_are_read_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "_SETTLED", -1.0)
    first = of(root)
    read: list[Path] = []
    true = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path), true(path))[1])
    assert of(root) == first
    assert not [path for path in read if path.suffix == ".png"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"check": 1, "files": {}}', '{"files": 3}'])
def test_a_damaged_memory_of_hashes_is_no_memory(
    root: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "_SETTLED", -1.0)
    first = of(root)
    for path in (root.parent / "cache" / "contents").iterdir():
        path.write_text(text)
    assert of(root) == first


def test_drawn_data_have_a_fingerprint_of_their_pixels() -> None:
    recipe = Recipe(dataset="shapes", tier="smoke", size=(32, 32), crop=(32, 32))
    found = fingerprint.fingerprint(recipe)
    assert found == fingerprint.fingerprint(recipe)
    assert len(set(found.values())) == len(found)
    assert found != fingerprint.fingerprint(recipe.replace(size=(48, 48)))


@pytest.mark.parametrize("part", ["images", "masks"])
def test_every_file_of_an_own_folder_counts(root: Path, part: str) -> None:
    folder = root.parent / "own"
    for number in range(24):
        image = np.full((8, 8, 3), 5 * number, np.uint8)
        mask = np.indices((8, 8)).sum(0).astype(np.uint8) % 2
        for name, values in (("images", image), ("masks", mask)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(folder / name / f"{number:02}.png")
    describe(folder)

    def prints() -> dict[str, str]:
        return {
            split: fingerprint.of_split(datasets.load(str(folder), split))
            for split in datasets.get(str(folder)).splits
        }

    first = prints()
    for path in sorted((folder / part).iterdir()):
        before = path.read_bytes()
        Image.fromarray(255 * (np.asarray(Image.open(path)) == 0).astype(np.uint8)).save(path)
        assert prints() != first, path.name
        path.write_bytes(before)
    assert prints() == first


def test_of_data_that_are_no_files_every_sample_counts() -> None:
    class Made:
        def __init__(self, changed: int | None = None) -> None:
            self.info, self.split = datasets.info("shapes"), "train"
            self.ids = tuple(map(str, range(40)))
            self.fingerprint = f"made-{changed}"
            self.changed = changed

        def __len__(self) -> int:
            return len(self.ids)

        def __getitem__(self, index: int) -> Sample:
            image = np.full((4, 4, 3), 9 if index == self.changed else 0, np.uint8)
            return Sample(image, image[..., 0], self.ids[index])

        def mask(self, index: int) -> Any:
            return self[index].mask

    found = {fingerprint.of_split(Made(changed)) for changed in (None, *range(40))}
    assert len(found) == 41


def test_an_image_that_is_gone_is_named(root: Path) -> None:
    data = datasets.load("camvid", "train", root=root)
    path = root / "CamVid" / "train" / "train_00.png"
    path.unlink()
    with pytest.raises(DataError, match=r"train_00\.png"):
        fingerprint.of_split(data)


# --- the same command again ----------------------------------------------------------------------


def test_corrected_masks_make_another_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = run(root)
    assert old["data"] == of(root)
    other_masks(root)
    assert capsys.readouterr().err == ""
    new = run(root)
    said = capsys.readouterr().err
    assert "on other data (the files of train differ)" in said
    assert len(said.strip().splitlines()) == 1
    assert new["data"] == of(root) != old["data"]
    assert new["stages"]["finetune"]["loss"] != old["stages"]["finetune"]["loss"]
    # Both rows stay, each with files of its own.
    assert held(root) == [old, new]
    assert new["log"] != old["log"]
    for row in (old, new):
        assert (root.parent / "results" / row["log"]).exists()
    folder = runs.find_folder(RECIPE, root.parent / "runs", root=root)
    assert folder.name.startswith(runs.run_folder(RECIPE).name + "-")
    assert json.loads((folder / "metrics.json").read_text())["data"] == new["data"]
    # Again: each finds its own.
    assert run(root) == new
    assert held(root) == [old, new]


def test_another_root_with_more_images_is_not_reported_as_the_first(
    root: Path, tmp_path: Path
) -> None:
    first = run(root)
    more = make_camvid(tmp_path / "more")
    for kind in ("train", "trainannot"):
        for path in list((more / "CamVid" / kind).iterdir()):
            shutil.copy(path, path.with_name(f"more_{path.name}"))
    row = run(more)
    assert (first["labelled"], row["labelled"]) == (6, 12)


def test_stage_1_is_not_mixed_with_corrected_masks(root: Path) -> None:
    recipe = tiny_recipe(pretrain=Stage(steps=1, batch=4), finetune=SHORT)
    assert run(root, recipe, until="pretrain") is None
    folder = runs.run_folder(recipe, root.parent / "runs")
    options = {"root": root, "results": root.parent / "results", "cpu": True}
    other_masks(root)
    with pytest.raises(ConfigError, match="the files of train have changed since") as caught:
        runs.finish(folder, progress_bar=False, **options)
    assert f"`{recipe.command()} --runs {root.parent / 'runs'} --data {root}`" in str(caught.value)
    row = run(root, recipe)  # as it says
    assert row["data"] == of(root)
    assert not (folder / "metrics.json").exists()


def test_finish_takes_the_folder_of_the_other_data_too(root: Path) -> None:
    recipe = tiny_recipe(pretrain=Stage(steps=1, batch=4), finetune=SHORT)
    run(root, recipe, until="pretrain")
    other_masks(root)
    assert run(root, recipe, until="pretrain") is None
    folder = runs.find_folder(recipe, root.parent / "runs", root=root)
    options = {"root": root, "results": root.parent / "results", "cpu": True}
    row = runs.finish(folder, progress_bar=False, **options)
    assert row["data"] == of(root)
    assert (folder / "metrics.json").exists()


def test_a_finished_run_whose_data_changed_keeps_its_row_where_its_folder_is_named(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = run(root)
    other_masks(root, "val")
    folder = runs.run_folder(RECIPE, root.parent / "runs")
    again = runs.finish(folder, root=root, results=root.parent / "results", cpu=True)
    assert again == row
    assert "the files of val have changed since" in capsys.readouterr().err


def test_evaluate_says_that_the_data_are_others(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(root)
    words = ["evaluate", str(runs.run_folder(RECIPE, root.parent / "runs")), "--data", str(root)]
    words += ["--cpu", "--quiet"]
    assert cli.main(words) == 0
    assert capsys.readouterr().err == ""
    other_masks(root, "val")
    assert cli.main(words) == 0
    assert "the files of val have changed since" in capsys.readouterr().err


def test_a_finished_run_without_its_data_stands_and_says_so(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = run(root)
    shutil.rmtree(root)
    assert run(root) == row
    assert "whether its data have changed is unknown" in capsys.readouterr().err


def test_a_row_and_a_folder_of_an_earlier_version_count_as_the_same_data(root: Path) -> None:
    row = run(root)
    folder = runs.run_folder(RECIPE, root.parent / "runs")
    old = {name: value for name, value in row.items() if name not in ("data", "files")}
    (folder / "metrics.json").write_text(json.dumps(old))
    ids = json.loads((folder / "ids.json").read_text())
    del ids["data"]
    (folder / "ids.json").write_text(json.dumps(ids))
    ledger.rewrite(ledger.ledger_path(root.parent / "results"), lambda _: [old])
    other_masks(root)
    # Its weights know better, but nothing of it is rewritten.
    (folder / "weights.safetensors").write_bytes(_without_metadata(folder))
    assert run(root) == old
    assert held(root) == [old]
    assert sweep.remaining([RECIPE], root.parent / "results", root=root) == []


def _without_metadata(folder: Path) -> bytes:
    from safetensors.torch import load_file, save

    content: bytes = save(load_file(folder / "weights.safetensors"))
    return content


# --- sweeps --------------------------------------------------------------------------------------


def test_a_sweep_runs_anew_what_the_ledger_holds_on_other_data(root: Path) -> None:
    results, said = root.parent / "results", []
    row = ledger_row(RECIPE, data=of(root))
    ledger.add(ledger.ledger_path(results), row)
    options: dict[str, Any] = {"root": root, "say": said.append}
    assert sweep.remaining([RECIPE], results, **options) == []
    assert said == []
    other_masks(root, "test")
    assert sweep.remaining([RECIPE], results, **options) == [RECIPE]
    assert said == ["1 in the ledger on other data (the files of test differ): they run again"]


def test_a_sweep_says_that_another_back_end_trains_nothing(root: Path) -> None:
    results, said = root.parent / "results", []
    recipe = tiny_recipe()
    ledger.add(ledger.ledger_path(results), ledger_row(recipe, data=of(root)))
    tiled = recipe.replace(loss_backend="tiled")
    assert sweep.remaining([tiled], results, root=root, say=said.append) == []
    assert "another --loss-backend: nothing is trained" in said[0]


# --- tables --------------------------------------------------------------------------------------


def rows_on(*data: str | None) -> list[ledger.Row]:
    """Rows of seeds 0, 1 … on data of that name, and one of earlier versions for ``None``."""
    found = []
    for seed, name in enumerate(data):
        row = ledger_row(tiny_recipe("ce", seed=seed), miou_val=10.0 * (seed + 1))
        found.append(row if name is None else {**row, "data": {"train": name * 16}})
    return found


def test_rows_are_parted_by_their_data_and_unknown_ones_join_the_first() -> None:
    rows = rows_on("a", None, "b", "a")
    assert table.by_data(rows) == [[rows[2]], [rows[0], rows[1], rows[3]]]
    assert table.by_data(rows[:3]) == [[rows[0], rows[1]], [rows[2]]]
    assert table.by_data(rows_on(None, None)) == [rows_on(None, None)]
    assert table.by_data([]) == []


def test_runs_on_different_data_are_never_averaged() -> None:
    with pytest.raises(ConfigError, match="different data"):
        table.groups(rows_on("a", "b"))
    (group,) = table.groups(rows_on("a", None))
    assert group.summary.mean == 15


def test_each_data_has_a_table_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "preset", lambda *_: tiny_recipe())
    text = overview.tables(rows_on("a", "b", "a"))
    assert "data 1 of 2" in text
    assert "data 2 of 2" in text
    assert "| 6 (1/2) | cross-entropy | 1 | 20.0 |" in text
    assert "| 6 (1/2) | cross-entropy | 2 | 20.0 ± 14.1 |" in text
    assert "data 1" not in overview.tables(rows_on("a", None))


# --- the words of a finished run -----------------------------------------------------------------


@pytest.fixture
def words(root: Path) -> Callable[..., list[str]]:
    def given(*more: str) -> list[str]:
        home = root.parent
        recipe = tiny_recipe(pretrain=Stage(steps=1, batch=4), finetune=SHORT)
        places = ["--runs", str(home / "runs"), "--results", str(home / "results")]
        return [*recipe.command().split()[1:], *places, "--data", str(root), "--cpu", *more]

    return given


def test_a_finished_run_says_that_nothing_was_trained(
    root: Path, words: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words("--quiet")) == 0
    assert "nothing was trained" not in capsys.readouterr().out
    assert held(root)[0]["loss_backend"] == "plain"
    assert cli.main(words("--quiet")) == 0
    out = capsys.readouterr().out
    assert "was finished before: nothing was trained\n" in out
    assert cli.main(words("--quiet", "--loss-backend", "tiled")) == 0
    out = capsys.readouterr().out
    assert "nothing was trained with --loss-backend tiled; its loss was computed by plain" in out
    assert len(held(root)) == 1


def test_the_back_end_that_computed_is_named(root: Path) -> None:
    recipe = tiny_recipe(
        pretrain=Stage(steps=1, batch=4), finetune=SHORT, seed=1, loss_backend="tiled"
    )
    assert run(root, recipe)["loss_backend"] == "tiled"
    assert run(root)["loss_backend"] is None


def test_a_back_end_that_this_machine_lacks_is_one_line(
    words: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words("--quiet", "--loss-backend", "triton")) == 1
    said = capsys.readouterr().err
    assert "use backend='tiled'" in said
    assert len(said.strip().splitlines()) == 1
