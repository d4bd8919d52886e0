"""Panels: one training at a time, stopped and resumed, errors in sight, twins that agree."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import made_sweep
import pytest
from made_sweep import BASE, FRACTIONS, TEMPERATURES
from tiny import STEPS, Finished, tiny_recipe

from segnb.errors import ConfigError, DataError
from segnb.experiments.runs import run_folder
from segnb.plots import Picture, styled
from segnb.plots.style import new_figure
from segnb.recipe import Recipe, Stage, preset
from segnb.training import TrainingStopped
from segnb.training.log import read_log
from segnb.widgets import training
from segnb.widgets.explorer import (
    FRACTIONS as OFFERED,
)
from segnb.widgets.explorer import (
    Explorer,
    answer,
    find_sweep,
    point,
    run_pictures,
    slider_values,
    sweep_overview,
)
from segnb.widgets.training import (
    TrainingPanel,
    TrainingThread,
    current,
    picture_html,
    planned_steps,
    steps_taken,
    train,
)

if importlib.util.find_spec("jupytext") is not None:
    from tools import notebooks

pytest_plugins = ["tiny"]
pytestmark = pytest.mark.usefixtures("one_thread", "nothing_left_running")

SECONDS = 60.0


@pytest.fixture
def nothing_left_running() -> Iterator[None]:
    yield
    left = current()
    if left is not None:
        left.stop()
        assert left.wait(SECONDS)


def until(condition: Callable[[], object]) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


class SlowRun:
    """Stands in for :func:`~segnb.experiments.runs.run`: only :meth:`step` lets a step through."""

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.at_once = 0
        self.most_at_once = 0
        self.error: Exception | None = None

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            self.gate.release()

    def __call__(
        self,
        recipe: Recipe,
        *,
        runs: Path,
        results: Path | None,
        root: Path | None,
        cpu: bool,
        progress_bar: bool = True,
        on_log: Callable[[Any], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> dict[str, Any]:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            folder = run_folder(recipe, runs)
            folder.mkdir(parents=True, exist_ok=True)
            log = folder / "log.jsonl"
            done = len(log.read_text().splitlines()) if log.exists() else 0
            for step in range(done + 1, recipe.finetune.steps + 1):
                assert self.gate.acquire(timeout=SECONDS)
                if self.error is not None:
                    raise self.error
                row = {"stage": "finetune", "step": step, "loss": 1 / step}
                row |= {"lr": 0.1, "images_per_s": 1.0, "seconds": 1.0}
                with log.open("a") as stream:
                    stream.write(json.dumps(row) + "\n")
                if on_log is not None:
                    on_log(row)
                if should_stop is not None and should_stop() and step < recipe.finetune.steps:
                    raise TrainingStopped(f"stopped at step {step}")
            return {"miou_val": 12.34, "recipe_hash": recipe.hash}
        finally:
            self.at_once -= 1


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> SlowRun:
    made = SlowRun()
    monkeypatch.setattr(training, "run", made)
    return made


RECIPE = preset("shapes", "smoke").replace(method="ce", finetune=Stage(steps=3, batch=4))


def picture(alt: str = "a picture") -> Picture:
    with styled():
        figure = new_figure(1, 1)
        return Picture(figure, alt)


# What is planned


def test_planned_steps_are_those_of_the_log(finished: Callable[..., Finished]) -> None:
    for method in ("ce_long", "pseudo"):
        found = finished(method)
        rows = read_log(found.folder / "log.jsonl")
        planned = planned_steps(found.recipe)
        assert list(dict.fromkeys(row["stage"] for row in rows)) == list(planned)
        assert steps_taken(rows) == sum(planned.values()) == found.row["steps"]


def test_no_log_is_no_step() -> None:
    assert steps_taken([]) == 0


# Training in a thread


def test_two_trainings_are_never_under_way_at_once(slow: SlowRun, tmp_path: Path) -> None:
    first, second = (TrainingThread(RECIPE.replace(seed=seed), runs=tmp_path) for seed in (0, 1))
    first.start()
    with pytest.raises(ConfigError, match="another training"):
        second.start()
    with pytest.raises(ConfigError, match="another training"):
        first.start()
    with pytest.raises(ConfigError, match="another training"):
        train(RECIPE, runs=tmp_path)
    assert (second.state, current()) == ("idle", first)
    slow.step(3)
    assert first.wait(SECONDS)
    assert (first.state, current()) == ("finished", None)
    slow.step(3)
    second.start()
    assert second.wait(SECONDS)
    assert slow.most_at_once == 1


def test_many_threads_that_start_at_once_start_one(slow: SlowRun, tmp_path: Path) -> None:
    started = []

    def start(seed: int) -> None:
        with contextlib.suppress(ConfigError):
            one = TrainingThread(RECIPE.replace(seed=seed), runs=tmp_path)
            one.start()
            started.append(one)

    threads = [threading.Thread(target=start, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert len(started) == 1
    slow.step(3)
    assert started[0].wait(SECONDS)


@pytest.mark.parametrize(
    ("error", "message", "traced"),
    [
        (DataError("no folder x"), "no folder x", False),
        (RuntimeError("CUDA <out> of memory"), "RuntimeError: CUDA <out> of memory", True),
    ],
)
def test_a_failure_is_told_and_the_place_is_free_again(
    error: Exception, message: str, traced: bool, slow: SlowRun, tmp_path: Path
) -> None:
    slow.error = error
    panel = TrainingPanel(RECIPE, runs=tmp_path)
    panel.run()
    slow.step()
    assert panel.training.wait(SECONDS)
    assert (panel.training.state, panel.training.message) == ("failed", message)
    assert panel.bar.bar_style == "danger"
    assert message.replace("<", "&lt;").replace(">", "&gt;") in panel.status.value
    assert ("Traceback" in panel.status.value) == traced
    assert not panel.run_button.disabled
    slow.error = None
    slow.step(3)
    panel.run()
    assert panel.training.wait(SECONDS)
    assert panel.training.state == "finished"
    assert "failed" not in panel.status.value


def test_a_training_hears_of_a_stop_it_was_asked_for_while_preparing(
    slow: SlowRun, tmp_path: Path
) -> None:
    one = TrainingThread(RECIPE, runs=tmp_path)
    one.start()
    one.stop()
    assert one.stopping
    slow.step()
    assert one.wait(SECONDS)
    assert (one.state, one.message) == ("stopped", "stopped at step 1")
    slow.step(2)
    one.start()
    assert one.wait(SECONDS)
    assert one.state == "finished", "a stop is for one training, not for the next too"


# The panel


def test_buttons_say_what_can_be_done(slow: SlowRun, tmp_path: Path) -> None:
    panel = TrainingPanel(RECIPE, runs=tmp_path)
    assert (panel.run_button.disabled, panel.stop_button.disabled) == (False, True)
    assert "ready, 3 steps" in panel.status.value
    panel.run_button.click()
    assert (panel.run_button.disabled, panel.stop_button.disabled) == (True, False)
    slow.step()
    until(lambda: panel.bar.value == 1)
    assert panel.bar.max == 3
    panel.stop_button.click()
    assert panel.stop_button.disabled
    assert "stopping after this step" in panel.status.value
    slow.step()
    assert panel.training.wait(SECONDS)
    assert (panel.run_button.disabled, panel.stop_button.disabled) == (False, True)
    assert panel.run_button.description == "Go on"
    assert "stopped at step 2" in panel.status.value
    slow.step()
    panel.run_button.click()
    assert panel.training.wait(SECONDS)
    assert "finished: mIoU 12.3" in panel.status.value
    assert (panel.bar.value, panel.bar.bar_style) == (3, "success")
    assert panel.run_button.description == "Run"


def test_pictures_go_up_whole(
    slow: SlowRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "REDRAW_SECONDS", 0.0)
    panel = TrainingPanel(RECIPE, runs=tmp_path, outcome=lambda _: [picture("what came of it")])
    seen: list[str] = []
    panel.figure.observe(lambda change: seen.append(change["new"]), names="value")
    slow.step(3)
    panel.run()
    assert panel.training.wait(SECONDS)
    assert len(seen) >= 2
    assert all(one.count("<img ") == one.count("data:image/png;base64,iVBOR") for one in seen)
    assert all(one.endswith('">') for one in seen)
    assert seen[-1].count("<img ") == 2
    assert 'alt="what came of it"' in seen[-1]


def test_an_outcome_that_cannot_be_drawn_is_told(slow: SlowRun, tmp_path: Path) -> None:
    def outcome(_: Any) -> list[Picture]:
        raise DataError("the preview is missing")

    panel = TrainingPanel(RECIPE, runs=tmp_path, outcome=outcome)
    slow.step(3)
    panel.run()
    assert panel.training.wait(SECONDS)
    assert "the preview is missing" in panel.figure.value
    assert "finished" in panel.status.value


def test_a_panel_made_anew_takes_over_the_training_under_way(slow: SlowRun, tmp_path: Path) -> None:
    first = TrainingPanel(RECIPE, runs=tmp_path)
    first.run()
    slow.step()
    until(lambda: first.bar.value == 1)
    again = TrainingPanel(RECIPE, runs=tmp_path)
    assert again.training is first.training
    assert (again.bar.value, again.run_button.disabled) == (1, True)
    again.stop()
    slow.step()
    assert first.training.wait(SECONDS)
    assert "stopped at step 2" in again.status.value
    assert "stopped at step 2" in first.status.value


def test_a_panel_in_a_new_kernel_finds_what_was_done(slow: SlowRun, tmp_path: Path) -> None:
    before = TrainingPanel(RECIPE, runs=tmp_path)
    before.run()
    slow.step()
    until(lambda: before.bar.value == 1)
    assert before.figure.value == "", "one point is no curve"
    before.stop()
    slow.step()
    assert before.training.wait(SECONDS)
    after = TrainingPanel(RECIPE, runs=tmp_path)  # knows the folder alone
    assert after.training is not before.training
    assert "from an earlier session" in after.status.value
    assert (after.bar.value, after.run_button.description) == (2, "Go on")
    assert "<img " in after.figure.value


def test_another_choice_waits_for_the_training_under_way(slow: SlowRun, tmp_path: Path) -> None:
    panel = TrainingPanel(RECIPE, runs=tmp_path)
    panel.run()
    slow.step()
    until(lambda: panel.bar.value == 1)
    panel.recipe = RECIPE.replace(seed=7)
    assert panel.training.recipe == RECIPE
    assert "moved on" in panel.status.value
    panel.run()  # a click that was on its way
    assert "another training" in panel.status.value
    slow.step(2)
    assert panel.training.wait(SECONDS)
    slow.step(3)
    panel.run()
    assert panel.training.recipe == panel.recipe == RECIPE.replace(seed=7)
    assert panel.training.wait(SECONDS)
    assert panel.training.state == "finished"


def test_words_in_pictures_are_escaped() -> None:
    assert 'alt="a &lt;b&gt; &quot;c&quot;"' in picture_html(picture('a <b> "c"'))


@pytest.mark.usefixtures("places")
def test_stopped_and_gone_on_with_is_as_if_never_stopped(
    finished: Callable[..., Finished], tmp_path: Path
) -> None:
    whole = finished("contrastive")
    panel = TrainingPanel(whole.recipe, runs=tmp_path, cpu=True)
    panel.run()
    panel.stop()
    assert panel.training.wait(SECONDS)
    assert panel.training.state == "stopped", panel.status.value
    assert 0 < panel.bar.value < 2 * STEPS
    panel.run()
    assert panel.training.wait(SECONDS)
    assert panel.training.row is not None
    assert panel.training.row["iou"] == whole.row["iou"]
    assert panel.training.row["intra"] == whole.row["intra"]


@pytest.mark.usefixtures("places")
def test_missing_data_show_in_the_panel(tmp_path: Path) -> None:
    panel = TrainingPanel(tiny_recipe("ce"), runs=tmp_path, root=tmp_path / "nowhere", cpu=True)
    panel.run()
    assert panel.training.wait(SECONDS)
    assert "nowhere" in panel.status.value
    assert "Traceback" not in panel.status.value


# The explorer


@pytest.fixture(scope="module")
def sweep_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("sweep") / "results"
    made_sweep.write_sweep(results)
    return results


@pytest.fixture(scope="module")
def rows(sweep_folder: Path) -> list[dict[str, Any]]:
    return training.ledger.read(sweep_folder / "ledger.jsonl")


def test_the_widest_sweep_is_found_with_its_baselines(rows: list[dict[str, Any]]) -> None:
    other = BASE.replace(decoder_channels=64, fraction=1.0)
    stray = {**made_sweep.made_row(other), "miou_val": 99.0}
    stray_baseline = made_sweep.made_row(other.replace(method="ce"))
    found = find_sweep([stray, stray_baseline, *rows])
    assert found is not None
    assert len(found.rows) == len(rows)
    assert (found.fractions, found.temperatures) == (FRACTIONS, TEMPERATURES)
    assert {row["method"] for row in found.rows} == {"ce", "ce_long", "contrastive"}
    assert found.base == BASE.replace(fraction=found.base.fraction)


def test_a_run_repeated_in_another_arithmetic_stands_in_the_sweep_once(
    rows: list[dict[str, Any]],
) -> None:
    asked = BASE.replace(fraction=1 / 8, precision="fp32")
    again = {**made_sweep.made_row(asked), "precision": "fp32"}
    others = [{**row, "precision": "fp32"} for row in rows]
    twin = next(row for row in others if row["recipe_hash"] == asked.replace(precision="auto").hash)
    twin["precision"] = "bf16"
    found = find_sweep([*others, again])
    assert found is not None
    assert found.base.precision == "auto"
    assert len(found.rows) == len(rows)
    assert again in found.rows
    assert twin not in found.rows


def test_of_two_sweeps_as_wide_the_presets_own_is_taken() -> None:
    older = [made_sweep.made_row(BASE.replace(decoder_channels=64, seed=seed)) for seed in range(3)]
    own = made_sweep.made_row(BASE)
    found = find_sweep([*older, own])
    assert found is not None
    assert found.rows == (own,)


def test_rows_of_other_forms_and_of_split_lists_do_not_belong_to_the_sweep(
    rows: list[dict[str, Any]],
) -> None:
    official = made_sweep.made_row(BASE.replace(form="official"))
    listed = {**made_sweep.made_row(BASE.replace(split_list="x.txt")), "fraction": None}
    found = find_sweep([*rows, official, listed])
    assert found is not None
    assert official not in found.rows
    assert {row["form"] for row in found.rows} == {None, "paper"}
    assert listed not in found.rows


def test_the_overview_counts_the_seeds_of_every_series(rows: list[dict[str, Any]]) -> None:
    text = sweep_overview(find_sweep(rows))
    assert "| method | τ | 1/32 | 1/16 | 1/8 |" in text
    assert "| cross-entropy | – | 2 | 2 | 2 |" in text
    assert "| contrastive (paper, cross) | 0.2 | – | 2 | 2 |" in text
    assert "holds no sweep" in sweep_overview(None)


def test_no_sweep_is_none(rows: list[dict[str, Any]]) -> None:
    assert find_sweep([]) is None
    assert find_sweep(rows, dataset="voc") is None
    assert find_sweep([row for row in rows if row["method"] != "contrastive"]) is None


def test_sliders_offer_the_sweep_or_something_to_try(rows: list[dict[str, Any]]) -> None:
    assert slider_values(find_sweep(rows)) == (FRACTIONS, TEMPERATURES)
    assert slider_values(None)[0] == OFFERED
    one = [row for row in rows if row["fraction"] == FRACTIONS[0]]
    fractions, temperatures = slider_values(find_sweep(one))
    assert set(OFFERED) <= set(fractions)
    assert 0.07 in temperatures


def test_sliders_and_plain_variables_make_one_recipe(
    rows: list[dict[str, Any]], sweep_folder: Path, tmp_path: Path
) -> None:
    explorer = Explorer(find_sweep(rows), BASE, results=sweep_folder, runs=tmp_path)
    for fraction, temperature in itertools.product(FRACTIONS, TEMPERATURES):
        explorer.fraction.unobserve_all()
        explorer.temperature.unobserve_all()
        explorer.fraction.value, explorer.temperature.value = fraction, temperature
        assert explorer.recipe == point(BASE, fraction=fraction, temperature=temperature)
        assert explorer.recipe == BASE.replace(fraction=fraction, temperature=temperature)


def test_a_slider_changes_what_is_shown_and_what_run_trains(
    rows: list[dict[str, Any]], sweep_folder: Path, tmp_path: Path
) -> None:
    sweep = find_sweep(rows)
    explorer = Explorer(sweep, BASE, results=sweep_folder, runs=tmp_path)
    explorer.fraction.value = FRACTIONS[1]
    explorer.temperature.value = TEMPERATURES[1]
    assert explorer.panel.recipe == explorer.recipe
    assert explorer.panel.training.recipe == explorer.recipe
    twin = answer(sweep, sweep_folder, fraction=FRACTIONS[1], temperature=TEMPERATURES[1])
    assert list(explorer.shown) == list(twin)
    for name, part in twin.items():
        shown = explorer.shown[name]
        assert isinstance(part, str) == isinstance(shown, str) == (name == "numbers"), part
        if isinstance(part, Picture) and isinstance(shown, Picture):
            assert part.alt == shown.alt
        else:
            assert part == shown
    assert "1/16 of the labels, τ 0.2" in str(twin["numbers"])
    assert "32 (1/16)" in str(twin["numbers"])


def test_the_chosen_place_is_marked_in_both_curves(
    rows: list[dict[str, Any]], sweep_folder: Path
) -> None:
    parts = answer(find_sweep(rows), sweep_folder, fraction=1 / 8, temperature=0.2)
    for name, where in (("labels", 64), ("temperatures", 0.2)):
        part = parts[name]
        assert isinstance(part, Picture)
        assert "Marked: 1/8 of the labels, τ 0.2" in part.alt
        upright = [line for line in part.figure.axes[0].lines if line.get_linewidth() == 6]
        assert [line.get_xdata()[0] for line in upright] == [where]


def test_a_place_without_a_run_says_so_and_keeps_the_curves(
    rows: list[dict[str, Any]], sweep_folder: Path
) -> None:
    place = {"fraction": FRACTIONS[0], "temperature": TEMPERATURES[-1]}
    parts = answer(find_sweep(rows), sweep_folder, **place)
    for name in ("numbers", "embeddings"):
        assert "no contrastive run at 1/32 of the labels, τ 0.2" in str(parts[name])
    # The baselines of that fraction are there all the same.
    assert "| 16 (1/32) | cross-entropy, same compute | 2 |" in str(parts["numbers"])
    assert "contrastive (" not in str(parts["numbers"])
    for name in ("labels", "predictions"):
        assert isinstance(parts[name], Picture)
    assert "does at 1/16, 1/8" in str(parts["temperatures"])
    nowhere = answer(find_sweep(rows), sweep_folder, fraction=1.0, temperature=0.07)
    assert "no contrastive run at all" in str(nowhere["predictions"])
    assert "|" not in str(nowhere["numbers"])


def test_sliders_reach_fractions_that_have_baselines_alone(rows: list[dict[str, Any]]) -> None:
    left = [r for r in rows if r["fraction"] != FRACTIONS[1] or r["method"] != "contrastive"]
    sweep = find_sweep(left)
    assert sweep is not None
    assert sweep.fractions == FRACTIONS


def test_methods_are_shown_at_a_seed_they_share(
    rows: list[dict[str, Any]], sweep_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: dict[str, int] = {}

    def keep(chosen: Sequence[dict[str, Any]], *_: Any) -> str:
        seeds.update({row["method"]: row["seed"] for row in chosen})
        return ""

    monkeypatch.setattr("segnb.widgets.explorer.predictions_of", keep)
    left = [row for row in rows if (row["method"], row["seed"]) != ("contrastive", 0)]
    answer(find_sweep(left), sweep_folder, fraction=1 / 8, temperature=0.07)
    assert seeds == {"ce": 1, "ce_long": 1, "contrastive": 1}


def test_a_missing_preview_is_told_in_its_place(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    parts = answer(find_sweep(rows), tmp_path, fraction=1 / 8, temperature=0.07)
    assert "previews" in str(parts["predictions"])
    assert "again" in str(parts["embeddings"])
    assert isinstance(parts["labels"], Picture)


def test_without_a_ledger_the_explorer_offers_the_live_run(tmp_path: Path) -> None:
    explorer = Explorer(None, BASE, results=tmp_path, runs=tmp_path)
    explorer.update()
    assert "no sweep here yet" in str(explorer.shown["numbers"])
    explorer.temperature.value = 0.5
    assert explorer.panel.recipe.temperature == 0.5


@pytest.mark.usefixtures("places")
def test_a_live_run_shows_what_came_of_it(
    finished: Callable[..., Finished], tiny_root: Path, tmp_path: Path
) -> None:
    done = finished("contrastive")
    pictures = run_pictures(done.row, done.results, root=tiny_root)
    assert len(pictures) == 2
    assert "after stage 1" in pictures[1].alt


# The notebook of the explorer


@pytest.mark.skipif(importlib.util.find_spec("jupytext") is None, reason="needs jupytext")
def test_the_sliders_and_their_twin_in_the_notebook_agree(
    monkeypatch: pytest.MonkeyPatch, sweep_folder: Path
) -> None:
    monkeypatch.setenv("SEGNB_TIER", "smoke")
    (source,) = notebooks.sources(["07"])
    space: dict[str, Any] = {}
    for cell in notebooks.make(source).cells:
        if cell.cell_type != "code":
            continue
        code = cell.source
        if "RESULTS = " in code:
            code += f"\nfrom pathlib import Path\nRESULTS = Path({str(sweep_folder)!r})"
        exec(code, space)
        if "explorer" in space and "recipe" in space:
            break
    explorer = space["explorer"]
    explorer.fraction.value, explorer.temperature.value = space["FRACTION"], space["TEMPERATURE"]
    assert explorer.recipe == space["recipe"]


# Colab's ipywidgets


def test_the_version_that_was_asked_for_is_tested() -> None:
    import ipywidgets

    wanted = os.environ.get("SEGNB_TEST_IPYWIDGETS", "")
    assert ipywidgets.__version__.startswith(wanted)


@pytest.mark.slow
def test_all_this_works_with_the_ipywidgets_of_colab(tmp_path: Path) -> None:
    if os.environ.get("SEGNB_TEST_IPYWIDGETS"):
        pytest.skip("this is that environment")
    older = tmp_path / "older"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", older]
    try:
        subprocess.run(
            [*install, "ipywidgets==7.7.*", "ipython_genutils", "ipykernel<7"],
            check=True,
            capture_output=True,
            timeout=120,
        )
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"ipywidgets 7.7 cannot be had here ({type(error).__name__})")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(older), os.environ.get("PYTHONPATH", "")]),
        "SEGNB_TEST_IPYWIDGETS": "7.7.",
    }
    for name in [name for name in environment if name.startswith("PYTEST_")]:
        del environment[name]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__],
        env=environment,
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
