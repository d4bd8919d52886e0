"""The campaign: an honest list, worked through in slots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import ledger_row, make_camvid

from segnb import cli
from segnb.errors import DataError
from segnb.experiments import campaign, sweep
from segnb.recipe import Recipe
from segnb.results import ledger
from segnb.training import TrainingStopped

pytest_plugins = ["tiny"]
pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_method_stands_beside_both_controls_with_three_seeds() -> None:
    found = campaign.recipes()
    assert len({recipe.hash for recipe in found}) == len(found)
    for start in range(0, len(found), 9):
        comparison = found[start : start + 9]
        assert len({(recipe.dataset, recipe.fraction) for recipe in comparison}) == 1
        assert {(recipe.method, recipe.seed) for recipe in comparison} == {
            (method, seed) for method in ("ce", "ce_long", "contrastive") for seed in (0, 1, 2)
        }
    assert all(recipe.encoder == "resnet50" and min(recipe.crop) >= 320 for recipe in found)
    # The rehearsal is the same list at toy size.
    toy = campaign.recipes("smoke")
    assert [(r.dataset, r.fraction, r.method, r.seed) for r in toy] == [
        (r.dataset, r.fraction, r.method, r.seed) for r in found
    ]


class Slots:
    """Stands in for the training: each run takes so many looks at the clock."""

    def __init__(self, looks: int) -> None:
        self.looks = looks
        self.done: dict[str, int] = {}
        self.finished: list[Recipe] = []

    def __call__(self, recipe: Recipe, *, results: Path, should_stop: Any, **_: Any) -> ledger.Row:
        if recipe.dataset != "camvid":
            raise DataError(f"{recipe.dataset} is not there")
        while self.done.get(recipe.hash, 0) < self.looks:
            if should_stop():
                raise TrainingStopped("stopped at a step")
            self.done[recipe.hash] = self.done.get(recipe.hash, 0) + 1
        row = ledger_row(recipe, seconds=60.0)
        ledger.add(ledger.ledger_path(results), row)
        self.finished.append(recipe)
        return row


def test_slots_work_through_the_list_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = Slots(looks=4)
    monkeypatch.setattr(sweep, "run", slots)
    clock = iter(range(10_000))
    monkeypatch.setattr(campaign.time, "monotonic", lambda: float(next(clock)))
    lines: list[str] = []
    left = [
        campaign.campaign(minutes=10 / 60, say=lines.append, results=tmp_path) for _ in range(20)
    ]
    wanted = [recipe for recipe in campaign.recipes() if recipe.dataset == "camvid"]
    assert slots.finished == wanted
    assert left == sorted(left, reverse=True)
    assert left[-1] == len(campaign.recipes()) - len(wanted)
    text = "\n".join(lines)
    assert "time is up: stopped at a step" in text
    assert "failed: voc-animals is not there" in text
    assert f"{left[-1]} of 45 recipes left" in text


def test_the_command_trains_stops_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(campaign, "COMPARISONS", (("camvid", 1.0),))
    root = make_camvid(tmp_path / "data")
    words = ["--tier", "smoke", "--cpu", "--quiet", "--data", str(root)]
    words += ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    assert cli.main(["campaign", *words, "--minutes", "0"]) == 0
    assert "9 of 9 recipes left" in capsys.readouterr().out
    assert cli.main(["campaign", *words, "--dry-run"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 9
    assert cli.main(["campaign", *words]) == 0
    assert "all 9 recipes are in the ledger" in capsys.readouterr().out
    rows = ledger.read(ledger.ledger_path(tmp_path / "results"))
    assert len(rows) == 9
    assert cli.main(["campaign", *words, "--dry-run"]) == 0
    assert capsys.readouterr().out == ""
