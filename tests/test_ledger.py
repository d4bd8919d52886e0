"""The ledger: whole lines, each recipe once, however many write to it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from tiny import SERVER, ledger_row

from segnb.errors import DataError
from segnb.recipe import Recipe
from segnb.results import ledger


def row(seed: int, **values: object) -> ledger.Row:
    return ledger_row(Recipe(seed=seed), **values)


def test_no_ledger_is_an_empty_one(tmp_path: Path) -> None:
    assert ledger.read(tmp_path / "ledger.jsonl") == []


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledger.jsonl"
    rows = [row(seed) for seed in range(3)]
    for one in rows:
        ledger.add(path, one)
    assert ledger.read(path) == rows
    assert ledger.read(str(path)) == rows


def test_a_row_of_the_same_recipe_gives_way(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    for one in (row(0, miou_val=1.0), row(1), row(0, miou_val=2.0)):
        ledger.add(path, one)
    assert [(r["seed"], r["miou_val"]) for r in ledger.read(path)] == [(1, 10.0), (0, 2.0)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"dataset": "shapes"', "line 2 is not JSON"),
        ("[1, 2]", "line 2 is not a JSON object"),
        ("7", "line 2 is not a JSON object"),
        ('{"dataset": "shapes"}', "line 2: there is no"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "ledger.jsonl"
    text = f"{json.dumps(row(0))}\n{line}\n{json.dumps(row(1))}\n"
    path.write_text(text)
    for act in (lambda: ledger.read(path), lambda: ledger.add(path, row(2))):
        with pytest.raises(DataError) as caught:
            act()
        assert words in str(caught.value)
        assert str(path) in str(caught.value)
        assert "correct or delete that line" in str(caught.value)
    assert path.read_text() == text  # nothing is lost by trying


def test_empty_lines_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text(f"\n{json.dumps(row(0))}\n\n")
    assert ledger.read(path) == [row(0)]


@pytest.mark.parametrize("name", ledger.REQUIRED)
def test_every_field_is_needed(tmp_path: Path, name: str) -> None:
    one = row(0)
    del one[name]
    with pytest.raises(DataError, match=f"needs '{name}'"):
        ledger.add(tmp_path / "ledger.jsonl", one)
    assert not (tmp_path / "ledger.jsonl").exists()


def test_a_write_that_fails_leaves_the_old_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger.add(path, row(0))

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        ledger.add(path, row(1))
    monkeypatch.undo()
    assert ledger.read(path) == [row(0)]
    assert {p.name for p in tmp_path.iterdir()} <= {"ledger.jsonl", "ledger.jsonl.lock"}


def add_many(path: Path, start: int, count: int) -> None:
    for seed in range(start, start + count):
        ledger.add(path, row(seed))


def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    writers = [SERVER.Process(target=add_many, args=(path, start, 25)) for start in (0, 100)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        ledger.read(path)  # a reader sees whole lines at all times
        time.sleep(0.01)
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    seeds = sorted(one["seed"] for one in ledger.read(path))
    assert seeds == [*range(25), *range(100, 125)]


# --- rows that are no rows ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": None}, "seed is None"),
        ({"seed": 1.5}, "seed is 1.5; it must be a whole number"),
        ({"miou_val": 1e9}, "miou_val is 1000000000.0; it must be in 0 to 100"),
        ({"miou_val": "10"}, "miou_val is '10'; it must be a number"),
        ({"iou": {"val": [20.0, None, 10.0]}}, "miou_val is 10.0, but its IoUs have the mean 15"),
        ({"recipe_hash": "../../outside"}, "it must be ten hex digits"),
        ({"recipe_hash": "0123456789"}, "by its recipe"),
        ({"method": "ce"}, "method is 'ce', but 'contrastive' by its recipe"),
        ({"seed": 7}, "seed is 7, but 0 by its recipe"),
        ({"fraction": 0.5}, "fraction is 0.5, but 1.0 by its recipe"),
        ({"log": "/etc/passwd"}, "must be the path of a log"),
        ({"steps": 9, "stages": {"a": {"step": 6, "seconds": 1.0, "loss": 1.0}}}, "stages have 6"),
        ({"data": {"train": "x"}}, "must be sixteen hex digits"),
        ({"version": None}, "version is None"),
    ],
)
def test_a_field_that_cannot_be_is_named(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text(json.dumps(row(1)) + "\n" + json.dumps({**row(0), **changes}) + "\n")
    with pytest.raises(DataError) as caught:
        ledger.read(path)
    assert str(caught.value).startswith(f"{path} line 2: ")
    assert words in str(caught.value)
    with pytest.raises(DataError, match="not a row for the ledger"):
        ledger.add(tmp_path / "new" / "ledger.jsonl", {**row(0), **changes})
    assert not (tmp_path / "new" / "ledger.jsonl").exists()


def test_a_row_of_a_later_version_is_told(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    later = {**row(0), "recipe": {**Recipe().to_dict(), "colour": 1}}
    path.write_text(json.dumps(later) + "\n")
    with pytest.raises(DataError, match=r"no field 'colour'.*later version of segnb"):
        ledger.read(path)


def test_the_marks_of_a_merge_are_told_and_both_sides_count(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    one, two = (json.dumps(row(seed)) for seed in (0, 1))
    path.write_text(f"<<<<<<< HEAD\n{one}\n=======\n{two}\n>>>>>>> other\n")
    with pytest.raises(DataError, match="line 1 is a mark of a merge; delete the lines"):
        ledger.read(path)
    path.write_text(f"{one}\n{two}\n")  # as it says
    assert len(ledger.read(path)) == 2


def test_a_line_that_both_sides_of_a_merge_have_is_one_run(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ours, theirs, both = (row(seed) for seed in range(3))
    spaced = json.dumps(both, indent=None, separators=(", ", ":  "))
    lines = [json.dumps(both), json.dumps(ours), spaced, json.dumps(theirs)]
    path.write_text("\n".join(lines) + "\n")
    assert ledger.read(path) == [both, ours, theirs]
    ledger.add(path, row(3))
    assert len(path.read_text().splitlines()) == 4


def test_a_ledger_that_is_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    shared, link = tmp_path / "shared" / "all.jsonl", tmp_path / "ledger.jsonl"
    shared.touch()
    link.symlink_to(shared)
    ledger.add(link, row(0))
    assert link.is_symlink()
    assert ledger.read(shared) == ledger.read(link) == [row(0)]
    assert (tmp_path / "shared" / "all.jsonl.lock").exists()  # others lock it by its own name
    shared.parent.rename(tmp_path / "gone")
    for act in (lambda: ledger.read(link), lambda: ledger.add(link, row(1))):
        with pytest.raises(DataError, match="which isn't there"):
            act()


def test_a_row_on_other_data_stays(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    one, two = (row(0, data={"train": letter * 16, "val": "c" * 16}) for letter in "ab")
    for new in (one, two):
        ledger.add(path, new)
    assert ledger.read(path) == [one, two]
    assert ledger.find([one, two], one["recipe_hash"], one["data"]) == one
    assert ledger.find([one, two], one["recipe_hash"]) == two
    assert ledger.named(two, [one])["log"] != ledger.named(one, [])["log"]
    ledger.add(path, row(0))  # unknown data count as the same
    assert ledger.read(path) == [row(0)]
