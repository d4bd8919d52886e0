"""The working set: letterboxed, mapped from disk, whole or absent, the same for all processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tqdm.contrib.concurrent
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segnb.datasets import IGNORE, DatasetInfo, Sample, cache, working_set
from segnb.datasets.cache import letterbox
from segnb.datasets.fractions import class_presence
from segnb.errors import DataError

INFO = DatasetInfo("made", ("a", "b", "c"), ((0, 0, 0), (9, 9, 9), (200, 0, 0)), "-", "-")


class Made:
    """Images of several sizes; image ``i`` is filled with 40 + i, its halves are two classes."""

    def __init__(self, sizes: list[tuple[int, int]], fingerprint: str = "first") -> None:
        self.info = INFO
        self.split = "train"
        self.sizes = sizes
        self.ids = tuple(f"id{i}" for i in range(len(sizes)))
        self.fingerprint = fingerprint
        self.reads = 0
        self.broken: int | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def mask(self, index: int) -> np.ndarray:
        mask = np.zeros(self.sizes[index], dtype=np.uint8)
        mask[:, mask.shape[1] // 2 :] = 2
        return mask

    def __getitem__(self, index: int) -> Sample:
        self.reads += 1
        if index == self.broken:
            raise DataError(f"id{index} is damaged")
        image = np.full((*self.sizes[index], 3), 40 + index, dtype=np.uint8)
        return Sample(image, self.mask(index), self.ids[index])


def test_images_are_fitted_into_the_top_left_corner(tmp_path: Path) -> None:
    dataset = Made([(40, 80), (90, 30), (16, 16), (7, 5)])
    found = working_set(dataset, size=(32, 48), cache=tmp_path)
    assert found.ids == dataset.ids
    assert found.info is INFO
    assert found.images.shape == (4, 3, 32, 48)
    assert found.masks.shape == (4, 32, 48)
    assert found.images.dtype == found.masks.dtype == torch.uint8
    assert found.extents.tolist() == [[24, 48], [32, 11], [32, 32], [32, 23]]
    for i, (h, w) in enumerate(found.extents.tolist()):
        assert (found.images[i, :, :h, :w] == 40 + i).all()
        assert (found.images[i, :, h:] == 0).all()
        assert (found.images[i, :, :, w:] == 0).all()
        assert set(found.masks[i, :h, :w].unique().tolist()) == {0, 2}
        assert (found.masks[i, h:] == IGNORE).all()
        assert (found.masks[i, :, w:] == IGNORE).all()
    assert len(found) == 4


@settings(deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    seed=st.integers(0, 99),
)
def test_letterbox_makes_no_label_and_keeps_the_aspect(
    height: int, width: int, size: tuple[int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.choice(np.array([0, 3, 7, 255], dtype=np.uint8), (height, width))
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    small, labels = letterbox(image, mask, size)
    assert small.shape == (*labels.shape, 3)
    assert set(np.unique(labels)) <= set(np.unique(mask))
    h, w = labels.shape
    assert h <= size[0]
    assert w <= size[1]
    assert h == size[0] or w == size[1]
    scale = min(size[0] / height, size[1] / width)
    assert abs(h - height * scale) <= 1
    assert abs(w - width * scale) <= 1


def test_shrinking_does_not_alias() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    small, _ = letterbox(stripes, np.zeros((64, 64), dtype=np.uint8), (8, 8))
    assert np.abs(small.astype(int) - 127).max() < 20


def test_a_second_call_reads_the_cache_alone(tmp_path: Path) -> None:
    dataset = Made([(20, 30)] * 6)
    first = working_set(dataset, size=(16, 16), cache=tmp_path)
    assert dataset.reads == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = working_set(dataset, size=(16, 16), cache=tmp_path)
    assert dataset.reads == 6
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.masks, again.masks)
    working_set(dataset, size=(16, 24), cache=tmp_path)
    assert dataset.reads == 12
    working_set(Made([(20, 30)] * 6, "second"), size=(16, 16), cache=tmp_path)
    folders = [p for p in (tmp_path / "working").iterdir() if p.is_dir()]
    assert len(folders) == 3


def test_writing_to_the_tensors_leaves_the_files_alone(tmp_path: Path) -> None:
    dataset = Made([(20, 30)] * 2)
    first = working_set(dataset, size=(16, 16), cache=tmp_path)
    first.images.zero_()
    first.masks.fill_(1)
    again = working_set(dataset, size=(16, 16), cache=tmp_path)
    assert (again.images[0, :, :5, :5] == 40).all()
    assert not (again.masks == 1).any()


def test_the_cache_root_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEGNB_CACHE", raising=False)
    monkeypatch.setenv("SEGNB_DATA", str(tmp_path / "data"))
    working_set(Made([(8, 8)]), size=(8, 8))
    assert (tmp_path / "data" / ".cache" / "working").is_dir()
    monkeypatch.setenv("SEGNB_CACHE", str(tmp_path / "fast"))
    working_set(Made([(8, 8)]), size=(8, 8))
    assert (tmp_path / "fast" / "working").is_dir()


def test_subset_with_masks_and_to(tmp_path: Path) -> None:
    dataset = Made([(20, 30)] * 5)
    whole = working_set(dataset, size=(16, 16), cache=tmp_path)
    some = whole.subset(["id3", "id1"])
    assert some.ids == ("id3", "id1")
    assert torch.equal(some.images, whole.images[[3, 1]])
    assert torch.equal(some.extents, whole.extents[[3, 1]])
    # All of them are no copy: of large sets there is no room for one.
    assert whole.subset(whole.ids).images.data_ptr() == whole.images.data_ptr()
    asked = working_set(dataset, size=(16, 16), ids=["id3", "id1"], cache=tmp_path)
    assert torch.equal(asked.masks, some.masks)
    with pytest.raises(DataError, match=r"made: 'id9' is not among the 5 images .*\(1 such ids\)"):
        whole.subset(["id0", "id9"])

    other = torch.ones_like(some.masks)
    assert torch.equal(some.with_masks(other).masks, other)
    assert torch.equal(some.with_masks(other).images, some.images)
    for wrong in (other.long(), other[:1]):
        with pytest.raises(ValueError, match=r"must be torch\.uint8 \(2, 16, 16\)"):
            some.with_masks(wrong)

    moved = some.to("meta")
    assert {t.device.type for t in (moved.images, moved.masks, moved.extents)} == {"meta"}


def test_a_build_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    dataset = Made([(20, 30)] * 8)
    dataset.broken = 5
    with pytest.raises(DataError, match="id5 is damaged"):
        working_set(dataset, size=(16, 16), cache=tmp_path)
    assert [p for p in (tmp_path / "working").iterdir() if p.is_dir()] == []
    dataset.broken = None
    assert len(working_set(dataset, size=(16, 16), cache=tmp_path)) == 8


def test_what_a_killed_build_left_is_cleared_away(tmp_path: Path) -> None:
    dataset = Made([(20, 30)] * 2)
    working_set(dataset, size=(16, 16), cache=tmp_path)
    (whole,) = (p for p in (tmp_path / "working").iterdir() if p.is_dir())
    left = whole.with_name(f".{whole.name}.x1y2z3w4")
    whole.rename(left)
    assert len(working_set(dataset, size=(16, 16), cache=tmp_path)) == 2
    assert [p for p in (tmp_path / "working").iterdir() if p.is_dir()] == [whole]


def entry(root: Path) -> Path:
    """The one folder of arrays in a cache."""
    (found,) = (p for p in (root / "working").iterdir() if p.is_dir())
    return found


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def _as_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("no folder")


_DAMAGES = {
    **{
        f"{name} {how}": (lambda folder, name=name, do=do: do(folder / name))
        for name in ("images.npy", "masks.npy", "extents.npy", "seal.json")
        for how, do in {
            "halved": lambda path: os.truncate(path, path.stat().st_size // 2),
            "emptied": lambda path: os.truncate(path, 0),
            "gone": Path.unlink,
            "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
            "text": lambda path: path.write_text("no array"),
            "longer": lambda path: path.write_bytes(path.read_bytes() * 2),
        }.items()
        # What follows an array in its file does no harm.
        if not (how == "longer" and name != "seal.json")
    },
    "flipped pixel": lambda folder: _flip(folder / "images.npy", -1),
    "flipped label": lambda folder: _flip(folder / "masks.npy", -1),
    "flipped extent": lambda folder: _flip(folder / "extents.npy", -8),
    "other shape": lambda folder: np.save(folder / "masks.npy", np.zeros((1, 2), np.uint8)),
    "other kind": lambda folder: np.save(folder / "masks.npy", np.zeros((3, 16, 16), np.int16)),
    "objects": lambda folder: np.save(folder / "masks.npy", np.array([None]), allow_pickle=True),
    "a list": lambda folder: (folder / "seal.json").write_text("[]"),
    "no keys": lambda folder: (folder / "seal.json").write_text("{}"),
    "no folder": _as_file,
    "an empty folder": lambda folder: [path.unlink() for path in folder.iterdir()],
}


@pytest.mark.parametrize("damage", _DAMAGES)
def test_a_damaged_cache_is_built_again_and_said(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = Made([(20, 30)] * 3)
    first = working_set(dataset, size=(16, 16), cache=tmp_path)
    wanted = first.digest()
    assert capsys.readouterr().err == ""
    folder = entry(tmp_path)
    del first
    _DAMAGES[damage](folder)
    assert working_set(dataset, size=(16, 16), cache=tmp_path).digest() == wanted
    assert f"the cache {folder} is damaged and is built again" in capsys.readouterr().err
    reads = dataset.reads
    assert working_set(dataset, size=(16, 16), cache=tmp_path).digest() == wanted
    assert dataset.reads == reads
    assert capsys.readouterr().err == ""


def test_a_copied_cache_is_checked_once_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Made([(20, 30)] * 3)
    working_set(dataset, size=(16, 16), cache=tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    sums = []
    real = cache._sum
    monkeypatch.setattr(cache, "_sum", lambda *given: sums.append(1) or real(*given))
    for _ in range(2):
        working_set(dataset, size=(16, 16), cache=tmp_path / "b")
        assert len(sums) == 3
    assert dataset.reads == 3


@pytest.mark.parametrize(
    "name",
    ["../up", "/abs", "a/b", "", ".", "..", "x" * 300, "caf\udce9", "a\nb", "Straße: 50%?[x]"],
)
def test_no_name_of_a_set_leads_out_of_the_cache(tmp_path: Path, name: str) -> None:
    root = tmp_path / "deep" / "cache"
    dataset = Made([(20, 30)] * 2)
    dataset.info = replace(INFO, name=name)
    working_set(dataset, size=(16, 16), cache=root)
    class_presence(dataset, cache=root)
    assert {path.name for path in tmp_path.rglob("*") if path.is_dir()} >= {"working", "presence"}
    outside = [p for p in tmp_path.rglob("*") if root not in (p, *p.parents)]
    assert outside == [tmp_path / "deep"]
    assert not entry(root).name.startswith(".")


def test_two_sets_never_share_a_cache(tmp_path: Path) -> None:
    for name in ("a b", "a-b", "a/b"):
        dataset = Made([(20, 30)])
        dataset.info = replace(INFO, name=name)
        working_set(dataset, size=(16, 16), cache=tmp_path)
        assert dataset.reads == 1


def test_halves_of_other_caches_are_swept_unless_they_are_being_built(tmp_path: Path) -> None:
    for kind in ("working", "presence"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / ".old-entry.abcdefgh").mkdir()
        (tmp_path / kind / ".old-entry.abcdefgh" / "images.npy").write_bytes(b"half")
        (tmp_path / kind / ".old.npy.abcdefgh.part").write_bytes(b"half")
        (tmp_path / kind / ".keep").write_bytes(b"somebody's own")
        (tmp_path / kind / ".busy.abcdefgh").write_bytes(b"being built")
    dataset = Made([(20, 30)])
    held = [FileLock(tmp_path / kind / "busy.lock") for kind in ("working", "presence")]
    for lock in held:
        lock.acquire()
    working_set(dataset, size=(16, 16), cache=tmp_path)
    class_presence(dataset, cache=tmp_path)
    for lock in held:
        lock.release()
    for kind in ("working", "presence"):
        hidden = {path.name for path in (tmp_path / kind).glob(".*")}
        assert hidden == {".keep", ".busy.abcdefgh"}


def test_files_that_change_while_the_cache_is_built_are_told(tmp_path: Path) -> None:
    class Changing(Made):
        def __getitem__(self, index: int) -> Sample:
            self.fingerprint = f"after {index}"
            return super().__getitem__(index)

    with pytest.raises(DataError, match=r"files of made train changed .* repeat the command"):
        working_set(Changing([(20, 30)] * 2), size=(16, 16), cache=tmp_path)
    assert [p for p in (tmp_path / "working").iterdir() if p.is_dir()] == []


def test_labels_that_are_no_classes_do_not_enter_a_cache(tmp_path: Path) -> None:
    class Wrong(Made):
        wrong: Any = 3

        def mask(self, index: int) -> np.ndarray:
            return super().mask(index) + np.asarray(self.wrong)

    dataset = Wrong([(20, 30)])
    dataset.wrong = np.uint8(3)
    with pytest.raises(DataError, match=r"mask of 'id0' is uint8 with labels up to 5.* 0 to 2"):
        working_set(dataset, size=(16, 16), cache=tmp_path)
    with pytest.raises(DataError, match=r"mask of 'id0' has the label 3; classes are 0 to 2"):
        class_presence(dataset, cache=tmp_path)
    dataset.wrong = np.int64(0)
    with pytest.raises(DataError, match=r"mask of 'id0' is int64"):
        working_set(dataset, size=(16, 16), cache=tmp_path)


def test_a_cache_on_a_disk_without_permissions_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, mode: int) -> None:
        if self.is_dir():
            raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    assert len(working_set(Made([(20, 30)] * 2), size=(16, 16), cache=tmp_path)) == 2


def test_a_disk_that_cannot_map_files_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Made([(20, 30)] * 2)
    working_set(dataset, size=(16, 16), cache=tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(19, "No such device")

    monkeypatch.setattr(np, "memmap", refuse)
    monkeypatch.setattr("numpy.lib._format_impl.memmap", refuse, raising=False)
    monkeypatch.setattr("numpy.lib.format.open_memmap", refuse)
    with pytest.raises(DataError, match=r"cache .*; set SEGNB_CACHE to a folder on a local disk"):
        working_set(dataset, size=(16, 16), cache=tmp_path)


def test_a_full_or_locked_disk_is_said_before_it_hurts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with pytest.raises(DataError, match=r"cannot write the cache .*SEGNB_CACHE"):
        working_set(Made([(8, 8)]), size=(8, 8), cache=in_the_way)

    class Usage:
        free = 10

    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(DataError, match=r"needs 0\.0 GB and the disk has 0\.0 GB free"):
        working_set(Made([(8, 8)]), size=(8, 8), cache=tmp_path)


@pytest.mark.parametrize("size", [(0, 8), (8, -1)])
def test_a_size_of_nothing_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="size is"):
        working_set(Made([(8, 8)]), size=size, cache=tmp_path)


_BUILD = """
import json, sys, hashlib
from pathlib import Path
from segnb import datasets
root, cache = Path(sys.argv[1]), Path(sys.argv[2])
dataset = datasets.load("camvid", "train", root=root)
built = 0
read = type(dataset).__getitem__
def counted(self, index):
    global built
    built += 1
    return read(self, index)
type(dataset).__getitem__ = counted
print("ready", flush=True)
sys.stdin.readline()
found = datasets.working_set(dataset, size=(96, 128), cache=cache)
print(json.dumps([built, hashlib.sha256(found.images.numpy().tobytes()).hexdigest()]))
"""


def test_of_two_processes_one_builds_and_both_read_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "CamVid"
    rng = np.random.default_rng(0)
    for i in range(40):
        for kind, pixels in (
            ("train", rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)),
            ("trainannot", rng.integers(0, 12, (120, 160), dtype=np.uint8)),
        ):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f"{i}.png")
    command = [sys.executable, "-c", _BUILD, str(tmp_path), str(tmp_path / "cache")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen(command, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    answers = [json.loads(worker.communicate(timeout=120)[0]) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert sorted(answer[0] for answer in answers) == [0, 40]
    assert answers[0][1] == answers[1][1]
    assert len([p for p in (tmp_path / "cache" / "working").iterdir() if p.is_dir()]) == 1


@pytest.mark.parametrize("wanted", [True, False])
def test_the_progress_bar_can_be_left_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wanted: bool,
) -> None:
    real = tqdm.contrib.concurrent.thread_map

    def at_once(*given: Any, delay: float, **options: Any) -> Any:
        return real(*given, mininterval=0, **options)

    monkeypatch.setattr(tqdm.contrib.concurrent, "thread_map", at_once)
    working_set(Made([(16, 16)] * 3), size=(16, 16), cache=tmp_path, progress_bar=wanted)
    assert ("made train at 16x16" in capsys.readouterr().err) is wanted
