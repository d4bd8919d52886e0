"""Previews beside the ledger: few bytes, the same pictures, and those of earlier versions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import ledger_row, tiny_recipe

from segnb.errors import DataError
from segnb.methods import MethodName
from segnb.report import embedding_points, read_preview
from segnb.results import ledger, previews
from segnb.widgets.explorer import embeddings_of
from tools.previews import convert

STAGES = ("initial", "pretrained", "finetuned")


def made(seed: int = 0, per_class: int = 60) -> dict[str, np.ndarray]:
    """A preview as a run leaves it: three classes, features of a ReLU."""
    draw = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3, dtype=np.uint8), per_class)
    features = {
        f"embeddings_{stage}": np.maximum(
            draw.normal(size=(len(labels), 24)) + 2 * np.eye(24)[labels], 0
        ).astype(np.float16)
        for stage in STAGES
    }
    predictions = draw.integers(0, 3, (6, 32, 32), dtype=np.uint8)
    return {"ids": np.array(["a", "b"]), "predictions": predictions, "labels": labels, **features}


def row(name: str) -> dict[str, str]:
    return {"recipe_hash": name, "command": "segnb run --seed 1"}


def ledger_of(results: Path, **methods: MethodName) -> dict[str, str]:
    """A ledger with a row of each method; the names of their previews."""
    names = {}
    for seed, (name, method) in enumerate(methods.items()):
        held = ledger_row(tiny_recipe(method, seed=seed))
        ledger.add(results / "ledger.jsonl", held)
        names[name] = str(held["recipe_hash"])
    return names


def neighbours(features: np.ndarray) -> list[set[int]]:
    apart = np.linalg.norm(features[:, None] - features[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    return [set(one) for one in np.argsort(apart, axis=1)[:, :10].tolist()]


def test_what_pictures_show_stays_and_features_keep_their_neighbours(tmp_path: Path) -> None:
    whole = made()
    previews.store(tmp_path, "one", whole)
    found = previews.read(tmp_path, "one")
    few = np.concatenate([np.arange(c * 60, c * 60 + previews.PIXELS) for c in range(3)])
    for name in ("ids", "predictions"):
        np.testing.assert_array_equal(found[name], whole[name])
    np.testing.assert_array_equal(found["labels"], whole["labels"][few])
    for stage in STAGES:
        true = whole[f"embeddings_{stage}"][few].astype(np.float32)
        read = found[f"embeddings_{stage}"]
        assert read.dtype == np.float32
        assert np.abs(read - true).max() <= true.max() / 255
        assert np.array_equal(read == 0, true < true.max() / 510)
        kept = [len(a & b) for a, b in zip(neighbours(read), neighbours(true), strict=True)]
        assert np.mean(kept) > 9.7


def test_a_network_that_runs_share_is_stored_once(tmp_path: Path) -> None:
    one, two = made(0), made(1)
    two["embeddings_initial"] = one["embeddings_initial"]
    previews.store(tmp_path, "one", one)
    previews.store(tmp_path, "two", two)
    assert len(list((tmp_path / previews.FEATURES).iterdir())) == 5
    first, second = previews.read(tmp_path, "one"), previews.read(tmp_path, "two")
    np.testing.assert_array_equal(first["embeddings_initial"], second["embeddings_initial"])


@pytest.mark.parametrize("stages", [STAGES, ("finetuned",), ()])
def test_runs_without_a_stage_or_without_labelled_pixels(
    tmp_path: Path, stages: tuple[str, ...]
) -> None:
    arrays = made(per_class=0)
    kept = {f"embeddings_{stage}" for stage in stages} | {"ids", "predictions", "labels"}
    previews.store(tmp_path, "one", {name: arrays[name] for name in kept})
    found = previews.read(tmp_path, "one")
    assert set(found) == kept
    for stage in stages:
        assert found[f"embeddings_{stage}"].shape == (0, 24)


def test_earlier_previews_are_read_and_converted_once(tmp_path: Path) -> None:
    folder = tmp_path / "previews"
    folder.mkdir()
    (old,) = ledger_of(tmp_path, old="contrastive").values()
    whole = made()
    np.savez_compressed(folder / f"{old}.npz", **whole)
    before = (folder / f"{old}.npz").stat().st_size
    found = read_preview(row(old), tmp_path)
    np.testing.assert_array_equal(found["embeddings_initial"], whole["embeddings_initial"])
    assert convert(tmp_path) == 1
    held = {path: path.read_bytes() for path in folder.rglob("*.npz")}
    assert sum(map(len, held.values())) < 0.7 * before
    assert convert(tmp_path) == 0
    assert {path: path.read_bytes() for path in folder.rglob("*.npz")} == held
    assert len(read_preview(row(old), tmp_path)["labels"]) == 3 * previews.PIXELS


def test_features_that_no_map_shows_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "previews"
    names = ledger_of(tmp_path, shown="contrastive", other="ce", early="ce_long")
    one, two = made(0), made(1)
    two["embeddings_initial"] = one["embeddings_initial"]
    previews.store(folder, names["shown"], one)
    previews.store(folder, names["other"], two)  # as earlier versions did
    np.savez_compressed(folder / f"{names['early']}.npz", **made(2))
    assert convert(tmp_path) == 2
    assert len(list((folder / previews.FEATURES).iterdir())) == 3  # those of the run that is shown
    for name, whole in (("other", two), ("early", made(2))):
        found = read_preview(row(names[name]), tmp_path)
        assert set(found) == {"ids", "predictions"}
        np.testing.assert_array_equal(found["predictions"], whole["predictions"])
        assert embedding_points(found) == {}
    assert set(read_preview(row(names["shown"]), tmp_path)) == set(one)
    assert convert(tmp_path) == 0


def test_of_several_seeds_the_lowest_keeps_its_features(tmp_path: Path) -> None:
    folder = tmp_path / "previews"
    rows = [ledger_row(tiny_recipe("contrastive", seed=seed)) for seed in (2, 1)]
    rows.append(ledger_row(tiny_recipe("contrastive", seed=2, temperature=0.3)))
    for number, held in enumerate(rows):
        ledger.add(tmp_path / "ledger.jsonl", held)
        previews.store(folder, str(held["recipe_hash"]), made(number))
    assert convert(tmp_path) == 1
    kept = [set(read_preview(held, tmp_path)) for held in rows]
    assert kept == [{"ids", "predictions"}, set(made()), set(made())]
    with pytest.raises(DataError, match="no features of this run; `segnb run"):
        embeddings_of({**rows[0], "command": "segnb run --seed 2"}, tmp_path)
    assert convert(tmp_path) == 0


@pytest.mark.parametrize("damage", ["gone", "cut", "features gone", "features cut"])
def test_what_is_missing_or_damaged_is_one_line(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "previews"
    previews.store(folder, "one", made())
    features = next((folder / previews.FEATURES).iterdir())
    path = features if "features" in damage else folder / "one.npz"
    if "gone" in damage:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="`segnb run --seed 1` makes it again") as error:
        read_preview(row("one"), tmp_path)
    assert "\n" not in str(error.value)
