"""The map of steps: which runs are in it, what its cells say, its pictures and its buttons."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_sweep
import numpy as np
import pytest
from matplotlib.patches import Rectangle

from segnb import cli, plots
from segnb.errors import ConfigError
from segnb.plots import Picture
from segnb.recipe import Recipe, preset
from segnb.results import ledger
from segnb.results.step_map import RIVALS, StepMap, step_map, step_table
from segnb.widgets.step_map import StepMapExplorer, cell_parts

pytest_plugins = ["tiny"]

USUAL = preset("shapes", "smoke").replace(form="official")
SHORT, LONG = 3, 6
CELL = (64, LONG, SHORT)


def recipe(
    method: str, *, pretrain: int, finetune: int, seed: int = 0, fraction: float = 1 / 8
) -> Recipe:
    return USUAL.replace(
        method=method,
        seed=seed,
        fraction=fraction,
        pretrain=replace(USUAL.pretrain, steps=pretrain),
        finetune=replace(USUAL.finetune, steps=finetune),
    )


#: By method and steps of both stages, mIoU on val at seed 0.
VALUES = {
    ("ce", 0, SHORT): 20.0,
    ("ce", 0, LONG): 30.0,
    ("contrastive", LONG, SHORT): 33.0,
    ("contrastive", LONG, LONG): 34.0,
    ("ce_pretrained", LONG, SHORT): 40.0,
    ("ce_pretrained", LONG, LONG): 41.5,
}


def made_rows() -> list[ledger.Row]:
    rows = []
    for (method, pretrain, finetune), value in VALUES.items():
        for seed, shift in enumerate((0.0, 1.0, -1.0)):
            row = made_sweep.made_row(
                recipe(method, pretrain=pretrain, finetune=finetune, seed=seed)
            )
            # The contrastive runs scatter a little beside the others'.
            own = 0.5 * seed if method == "contrastive" else 0.0
            rows.append(row | {"miou_val": value + shift + own, "precision": "bf16"})
    return rows


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("steps") / "results"
    made_sweep.write_rows(folder, made_rows())
    return folder


@pytest.fixture
def found() -> StepMap:
    return step_map(made_rows(), dataset="shapes", tier="smoke")


def test_gains_are_paired_by_seed_over_either_rival(found: StepMap) -> None:
    fine = found.gain(*CELL, over="the same fine-tuning", measure="miou_val")
    assert fine is not None
    assert (fine.seeds, fine.mean) == (3, pytest.approx(13.5))
    assert fine.low == pytest.approx(13.5 - 4.3027 * 0.5 / np.sqrt(3), abs=1e-3)
    compute = found.gain(*CELL, over="the same compute", measure="miou_val")
    assert compute is not None
    assert compute.mean == pytest.approx(-6.5)
    assert found.gain(*CELL, over="the same compute", measure="miou_test") is None


def test_a_seed_without_its_rival_is_left_out() -> None:
    rows = [row for row in made_rows() if (row["method"], row["seed"]) != ("ce", 2)]
    gained = step_map(rows, dataset="shapes", tier="smoke").gain(
        *CELL, over="the same fine-tuning", measure="miou_val"
    )
    assert gained is not None
    assert (gained.seeds, gained.interval) == (2, None)


def test_axes_and_the_largest_cell(found: StepMap) -> None:
    assert found.cells == [(64, LONG, SHORT), (64, LONG, LONG)]
    assert (found.axis(0), found.axis(1), found.axis(2)) == ((64,), (LONG,), (SHORT, LONG))
    assert found.axis(2, labelled=16) == ()
    best = found.largest(over="the same fine-tuning", measure="miou_val")
    assert best is not None
    assert best[0] == CELL


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.5},
        {"loss_size": (9, 9)},
        {"scope": "within"},
        {"form": "paper"},
        {"finetune": replace(USUAL.finetune, steps=SHORT, lr=0.3)},
        {"pretrain": replace(USUAL.pretrain, steps=LONG, lr=0.3)},
        {"distortion": 0.3},
    ],
)
def test_a_run_that_differs_in_more_is_not_in_the_map(change: dict[str, Any]) -> None:
    other = recipe("contrastive", pretrain=LONG, finetune=SHORT, seed=9).replace(**change)
    row = made_sweep.made_row(other) | {"miou_val": 99.0, "precision": "bf16"}
    held = step_map([*made_rows(), row], dataset="shapes", tier="smoke")
    assert 9 not in held.values("contrastive", *CELL, measure="miou_val")


def test_runs_of_one_length_in_another_arithmetic_are_no_map() -> None:
    others = [recipe("contrastive", pretrain=LONG, finetune=SHORT, seed=s) for s in range(3)]
    others += [recipe("ce", pretrain=0, finetune=SHORT, seed=s) for s in range(3)]
    rows = [
        made_sweep.made_row(one.replace(precision="fp32")) | {"miou_val": 99.0, "precision": "fp32"}
        for one in others
    ]
    held = step_map([*made_rows(), *rows], dataset="shapes", tier="smoke")
    assert held.values("ce", *CELL, measure="miou_val") == {0: 20.0, 1: 21.0, 2: 19.0}


def test_a_seed_counts_in_its_own_arithmetic_and_pairs_no_other() -> None:
    """Two machines shared the seeds; the last one also repeated a run of the first's."""
    fp32 = {"precision": "fp32"}
    second = [
        made_sweep.made_row(
            recipe(method, pretrain=pretrain, finetune=finetune, seed=7).replace(**fp32)
        )
        | {"miou_val": value + (4.0 if method == "contrastive" else 0.0), **fp32}
        for (method, pretrain, finetune), value in VALUES.items()
    ]
    repeated = recipe("ce", pretrain=0, finetune=SHORT, seed=0).replace(**fp32)
    stray = made_sweep.made_row(repeated) | {"miou_val": 99.0, **fp32}
    foreign = recipe("ce", pretrain=0, finetune=SHORT, seed=7)
    other = made_sweep.made_row(foreign) | {"miou_val": 99.0, "precision": "bf16"}
    held = step_map([*made_rows(), *second, stray, other], dataset="shapes", tier="smoke")
    assert held.values("ce", *CELL, measure="miou_val") == {0: 20.0, 1: 21.0, 2: 19.0, 7: 20.0}
    gained = held.gain(*CELL, over="the same fine-tuning", measure="miou_val")
    assert gained is not None
    assert (gained.seeds, gained.mean) == (4, pytest.approx((3 * 13.5 + 17) / 4))


def test_a_stage_1_with_one_length_of_stage_2_is_no_line() -> None:
    lone = made_sweep.made_row(recipe("contrastive", pretrain=2, finetune=SHORT))
    held = step_map(
        [*made_rows(), lone | {"miou_val": 31.0, "precision": "bf16"}],
        dataset="shapes",
        tier="smoke",
    )
    assert held.axis(1) == (LONG,)


def test_without_two_lengths_there_is_no_map() -> None:
    rows = [row for row in made_rows() if row["recipe"]["finetune"]["steps"] == SHORT]
    with pytest.raises(ConfigError, match=r"no map of steps for shapes.*segnb sweep --vary"):
        step_map(rows, dataset="shapes", tier="smoke")
    with pytest.raises(ConfigError, match="no map of steps"):
        step_map([], dataset="camvid", tier="quick")


def test_the_sentence_says_way_size_and_seeds(found: StepMap) -> None:
    said = found.in_words(CELL, measure="miou_val")
    assert said == (
        "With 64 labelled images, 6 steps of stage 1 and 3 of stage 2, the contrastive stage 1 is "
        "13.5 points ahead of cross-entropy of the same fine-tuning (+12.3 to +14.7, 3 seeds) and "
        "6.5 points behind cross-entropy of the same compute (-7.7 to -5.3, 3 seeds), in mIoU, val."
    )
    assert "not yet compared" in found.in_words(CELL, measure="miou_test")


def test_the_table_has_a_line_a_rival(found: StepMap, capsys: pytest.CaptureFixture[str]) -> None:
    text = step_table(found, measures=["miou_val", "miou_test"])
    assert "| 64 (1/8) | the same fine-tuning | 6 | +13.5 (+12.3 to +14.7) | +4.5" in text
    assert "| 64 (1/8) | the same compute | 6 | -6.5 (-7.7 to -5.3) | -7.0" in text
    assert "test" not in text


def test_the_table_ends_with_what_fewer_labels_change(found: StepMap) -> None:
    assert " less " not in step_table(found, measures=["miou_val"])
    runs = dict(found.runs)
    for (kind, labelled, pretrain, finetune), held in found.runs.items():
        # With fewer labels the contrastive runs are 2, 3 and 4 points worse; seed 9 has no partner.
        lost = {seed: 2.0 + seed if kind == "contrastive" else 0.0 for seed in held}
        few = {s: {**row, "miou_val": row["miou_val"] - lost[s]} for s, row in held.items()}
        runs[kind, labelled // 2, pretrain, finetune] = {**few, 9: few[0]}
        runs[kind, labelled * 2, pretrain, finetune] = held
    fractions = {**found.fractions, 32: 1 / 16, 128: 1 / 4}
    several = replace(found, runs=runs, fractions=fractions)
    lines = step_table(several, measures=["miou_val"]).splitlines()[-4:]
    for line, start in zip(
        lines, itertools.product(("32 less 64", "32 less 128"), RIVALS), strict=True
    ):
        assert line.startswith(f"| {' | '.join(start)} | 6 | -3.0 (-5.5 to -0.5) |")


def test_the_command_prints_the_table(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["table", "--show", "steps", "--results", str(results)]
    assert cli.main([*words, "--dataset", "shapes", "--tier", "smoke"]) == 0
    assert "+13.5 (+12.3 to +14.7)" in capsys.readouterr().out
    assert cli.main(words) != 0
    assert "--show steps needs --dataset" in capsys.readouterr().err


def test_the_heat_map_shows_every_cell_and_marks_the_chosen(found: StepMap) -> None:
    picture = plots.step_map(found, measure="miou_val", chosen=CELL)
    left, right = picture.figure.axes
    assert [text.get_text() for text in left.texts][:2] == ["+13.5", "±1.2"]
    assert "-6.5" in [text.get_text() for text in right.texts]
    assert "+13.5 at 6 and 3 steps" in picture.alt
    patches = [p for p in left.patches if isinstance(p, Rectangle)]
    assert [p.get_linewidth() > 2 for p in patches] == [True, False]
    # Gains are blue, losses orange.
    (red, _, blue, _), (red2, _, blue2, _) = (a.patches[0].get_facecolor() for a in (left, right))
    assert blue > red
    assert red2 > blue2


def test_a_cell_without_a_rival_is_drawn_empty() -> None:
    rows = [row for row in made_rows() if row["method"] != "ce_pretrained"]
    found = step_map(rows, dataset="shapes", tier="smoke")
    picture = plots.step_map(found, measure="miou_val")
    assert {text.get_text() for text in picture.figure.axes[1].texts} == {"–"}
    assert "over the same compute: not run" in picture.alt


def test_curves_have_a_line_a_start(found: StepMap) -> None:
    picture = plots.step_curves(found, 64, measures=["miou_val"], chosen=(LONG, SHORT))
    axes = picture.figure.axes[0]
    lines = {str(line.get_label()): line for line in axes.lines}
    assert list(np.asarray(lines["from scratch"].get_ydata())) == [20.0, 30.0]
    assert list(np.asarray(lines["after 6 steps, contrastive"].get_ydata())) == [33.5, 34.5]
    assert list(np.asarray(lines["after 6 steps, cross-entropy"].get_xdata())) == [SHORT, LONG]


def test_a_seed_that_one_start_lacks_moves_no_curve(found: StepMap) -> None:
    extra = {**found.runs["ce", 64, 0, LONG][0], "miou_val": 99.0}
    runs = {**found.runs, ("ce", 64, 0, LONG): {**found.runs["ce", 64, 0, LONG], 7: extra}}
    more = replace(found, runs=runs)
    pictures = [plots.step_curves(one, 64, measures=["miou_val"]) for one in (found, more)]
    assert pictures[0].alt == pictures[1].alt
    assert "64 labelled images" in pictures[0].figure.axes[0].get_title()


def test_a_seed_that_one_length_lacks_bends_no_curve(found: StepMap) -> None:
    added = {
        (kind, 64, pretrain, SHORT): {
            **found.runs[kind, 64, pretrain, SHORT],
            7: {**found.runs[kind, 64, pretrain, SHORT][0], "miou_val": 99.0},
        }
        for kind, _, pretrain, finetune in found.runs
        if finetune == SHORT
    }
    more = replace(found, runs={**found.runs, **added})
    pictures = [plots.step_curves(one, 64, measures=["miou_val"]) for one in (found, more)]
    assert pictures[0].alt == pictures[1].alt


def test_a_press_shows_what_is_behind_the_cell(found: StepMap, results: Path) -> None:
    explorer = StepMapExplorer(found, results=results)
    assert explorer.cell == CELL  # the largest gain
    explorer.update()
    other = (64, LONG, LONG)
    explorer.buttons[other].click()
    assert explorer.cell == other
    twin = cell_parts(found, other, results, measure="miou_val")
    assert list(explorer.shown) == list(twin) == ["sentence", "curves", "predictions", "embeddings"]
    assert explorer.shown["sentence"] == twin["sentence"]
    for name in ("curves", "predictions", "embeddings"):
        shown, wanted = explorer.shown[name], twin[name]
        assert isinstance(shown, Picture), shown
        assert isinstance(wanted, Picture), wanted
        assert shown.alt == wanted.alt


def test_the_switch_changes_the_numbers_on_the_buttons(found: StepMap, results: Path) -> None:
    explorer = StepMapExplorer(found, results=results)
    explorer.update()
    assert explorer.buttons[CELL].description == "+13.5"
    explorer.over.value = "the same compute"
    assert explorer.buttons[CELL].description == "-6.5"
    with pytest.raises(KeyError):
        explorer.choose((1, 2, 3))


def test_a_missing_preview_is_said_in_its_place(found: StepMap, tmp_path: Path) -> None:
    parts = cell_parts(found, CELL, tmp_path, measure="miou_val")
    assert "is missing" in str(parts["predictions"])
    assert isinstance(parts["curves"], Picture)


def test_numbers_can_be_read_on_their_cells(found: StepMap, results: Path) -> None:
    explorer = StepMapExplorer(found, results=results)
    explorer.update()
    styles = {button.style.button_color: button.style for button in explorer.buttons.values()}
    assert len(styles) > 1
    inks = {style.text_color for style in styles.values()}
    assert inks == {"#ffffff", "#222222"}
    widths = {button.layout.border.split()[0] for button in explorer.buttons.values()}
    assert widths == {"3px"}, "the chosen cell's number stays where it is"
