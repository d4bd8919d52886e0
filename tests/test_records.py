"""Typed readers: what a file may hold, and the words for what it may not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from segnb.errors import DataError
from segnb.experiments.probe import read_preview
from segnb.records import Like, Percent, UnfitError, Within, check, read_json, read_lines, zip_fault
from segnb.training.checkpoint import load_weights, read_weights, save_weights


class Inner(TypedDict):
    count: Annotated[int, Within(1, 9)]


class Outer(TypedDict, total=False):
    name: Annotated[str, Like("[a-z]+", "small letters")]
    parts: dict[str, list[Percent | None]]
    pair: tuple[int, int]
    kind: Literal["a", "b", 8]
    inner: Inner
    flag: bool


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"name": "x", "unknown": object},
        {"parts": {"val": [0, 100.0, None], "test": []}},
        {"pair": [1, 2], "kind": 8, "flag": True, "inner": {"count": 9}},
    ],
)
def test_what_fits(value: dict[str, Any]) -> None:
    check(value, Outer)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"name": "X1"}, "name is 'X1'; it must be small letters"),
        ({"name": None}, "name is None; it must be a text"),
        ({"parts": {"val": [1, 101]}}, "parts.val[1] is 101; it must be in 0 to 100"),
        ({"parts": {"val": [math.nan]}}, "parts.val[0] is nan; it must be a number"),
        ({"parts": {"val": [math.inf]}}, "must be a number"),
        ({"parts": {"val": [True]}}, "must be a number"),
        ({"parts": [1]}, "parts is [1]; it must be an object"),
        ({"pair": [1]}, "pair is [1]; it must be a list of 2"),
        ({"pair": [1, 2.0]}, "pair[1] is 2.0; it must be a whole number"),
        ({"kind": "c"}, "kind is 'c'; it must be one of a, b, 8"),
        ({"inner": {}}, "there is no 'inner.count'"),
        ({"inner": {"count": True}}, "inner.count is True; it must be a whole number"),
        ({"inner": {"count": 10}}, "inner.count is 10; it must be in 1 to 9"),
        ({"flag": 1}, "flag is 1; it must be true or false"),
        ({"name": "A" * 99}, "…; it must be small letters"),
        ([], "it is []; it must be an object"),
    ],
)
def test_what_does_not_fit_is_named_with_its_key(value: Any, words: str) -> None:
    with pytest.raises(UnfitError) as caught:
        check(value, Outer)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not JSON"),
        (b'{"flag": tru', "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"parts": {"val": [NaN]}}', "NaN is not a finite number"),
        (b'{\n"name": "\xff"}', "line 2 is not UTF-8 text"),
        (b"<<<<<<< HEAD\n{}", "is a mark of a merge"),
        (b'{"flag": 3}', "flag is 3"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_the_remedy(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_json(path, Outer, remedy="write it again")
    said = str(caught.value)
    assert said.startswith(str(path))
    assert words in said
    assert "\n" not in said
    assert "write it again" in said or "merge" in said


def test_a_file_that_is_not_there_or_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"file\.json is missing; write it"):
        read_json(tmp_path / "file.json", Outer, remedy="write it")
    with pytest.raises(DataError, match=r"is a folder where a file should be; move it away, then"):
        read_json(tmp_path, Outer, remedy="write it")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_that_another_program_saved_again_is_read(
    tmp_path: Path, encoding: str, end: str
) -> None:
    path = tmp_path / "file.jsonl"
    path.write_bytes(f'{{"name": "a"}}{end}{end}{{"name": "b"}}{end}'.encode(encoding))
    assert read_lines(path, Outer, remedy="") == [{"name": "a"}, {"name": "b"}]


def test_only_a_last_line_may_be_cut(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    path.write_text('{"name": "a"}\n{"na')
    assert read_lines(path, Outer, remedy="", cut=True) == [{"name": "a"}]
    for text in ('{"name": "a"}\n{"na\n', '{"na\n{"name": "a"}\n'):
        path.write_text(text)
        with pytest.raises(DataError, match="is not JSON"):
            read_lines(path, Outer, remedy="", cut=True)


# --- weights -------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_weights(path, torch.nn.BatchNorm1d(3), recipe={"seed": 1}, data=None)
    return path


def test_weights_carry_what_is_stored_with_them(weights: Path) -> None:
    state, about = read_weights(weights, remedy="")
    assert about == {"recipe": {"seed": 1}, "data": None}
    assert state.keys() == load_file(weights).keys()  # other programs read them too
    assert load_weights(weights, torch.nn.BatchNorm1d(3)) == about


def test_every_flipped_bit_in_weights_is_noticed(weights: Path) -> None:
    content = weights.read_bytes()
    for place in range(len(content)):
        weights.write_bytes(content[:place] + bytes([content[place] ^ 2]) + content[place + 1 :])
        with pytest.raises(DataError, match="train again"):
            load_weights(weights, torch.nn.BatchNorm1d(3), remedy="train again")


def _header(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


@pytest.mark.parametrize("keep", [True, False], ids=["with its checksum", "of an earlier version"])
def test_weights_that_are_not_finite_are_refused(weights: Path, keep: bool) -> None:
    state = load_file(weights)
    state["weight"][1] = float("nan")
    weights.write_bytes(save(state, metadata=_header(weights) if keep else None))
    words = "checksum is off" if keep else "weight is not finite"
    with pytest.raises(DataError, match=words):
        load_weights(weights, torch.nn.BatchNorm1d(3))


def test_weights_of_an_earlier_version_are_read(weights: Path) -> None:
    weights.write_bytes(save(load_file(weights)))
    assert read_weights(weights, remedy="")[1] == {}


def test_a_checksum_that_is_gone_is_a_damage(weights: Path) -> None:
    known = _header(weights)
    del known["sha256"]
    weights.write_bytes(save(load_file(weights), metadata=known))
    with pytest.raises(DataError, match="checksum is off"):
        read_weights(weights, remedy="")


# --- previews ------------------------------------------------------------------------------------


def arrays(**changes: Any) -> dict[str, np.ndarray]:
    found = {
        "ids": np.array(["a", "b"]),
        "predictions": np.zeros((2, 3, 4), np.uint8),
        "labels": np.zeros(5, np.uint8),
        "embeddings_initial": np.zeros((5, 2), np.float16),
        **changes,
    }
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": None}, "there is no 'labels'"),
        ({"predictions": np.zeros((1, 3, 4), np.uint8)}, "2 ids for 1 predictions"),
        ({"predictions": np.zeros((2, 3), np.uint8)}, "predictions is uint8"),
        ({"predictions": np.zeros((2, 3, 4))}, "predictions is float64"),
        ({"embeddings_initial": np.zeros((4, 2), np.float16)}, "not those of its labels"),
        ({"embeddings_initial": np.full((5, 2), np.nan, np.float16)}, "is not finite"),
        ({"ids": np.array([1, 2])}, "ids is int64"),
    ],
)
def test_a_preview_of_other_arrays_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    path = tmp_path / "preview.npz"
    np.savez_compressed(path, **arrays())
    assert read_preview(path, remedy="").keys() == arrays().keys()
    np.savez_compressed(path, **arrays(**changes))
    with pytest.raises(DataError, match=words):
        read_preview(path, remedy="run again")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:100],
        lambda content: content[:-5],
        lambda content: b"<!DOCTYPE html>",
        lambda content: content[:60] + bytes([content[60] ^ 1]) + content[61:],
    ],
)
def test_a_damaged_preview_is_one_line(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "preview.npz"
    np.savez_compressed(path, **arrays())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"preview\.npz is damaged .*; run again"):
        read_preview(path, remedy="run again")


def test_a_flipped_bit_in_a_checkpoints_tensor_is_noticed(tmp_path: Path) -> None:
    """torch reads it without a word."""
    path = tmp_path / "a.pt"
    torch.save({"a": torch.arange(1000)}, path)
    content = path.read_bytes()
    assert zip_fault(content) is None
    place = content.index(np.arange(500, 502).tobytes())
    spoilt = content[:place] + b"\x07" + content[place + 1 :]
    path.write_bytes(spoilt)
    assert not torch.equal(torch.load(path, weights_only=True)["a"], torch.arange(1000))
    assert "checksum" in (zip_fault(spoilt) or "")


def test_json_is_written_as_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"pair": [1, 2]}))
    assert read_json(path, Outer, remedy="") == {"pair": [1, 2]}
