"""Files that are whole or not there."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest

from segnb import files
from segnb.errors import DataError
from segnb.files import atomic_path, claimed, locked, need_writable, sweep_halves, write_atomic


def test_text_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_atomic(path, "ä\n")
    assert path.read_bytes() == "ä\n".encode()
    write_atomic(str(path), b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert os.listdir(path.parent) == ["file"]


def test_until_it_is_whole_the_old_content_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_path(path) as side:
        side.write_text("new")
        assert path.read_text() == "old"
        assert side.parent == path.parent
    assert path.read_text() == "new"


def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with atomic_path(path) as side:
            side.write_text("ne")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_files_are_as_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_atomic(tmp_path / "atomic", "x")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")}
    assert len(modes) == 1


def test_a_writer_that_makes_a_private_file_of_its_own_changes_nothing(tmp_path: Path) -> None:
    """As safetensors does: it writes elsewhere and renames onto the path it was given."""
    (tmp_path / "plain").touch()
    with atomic_path(tmp_path / "atomic") as side:
        private = tmp_path / "private"
        private.touch(mode=0o600)
        private.rename(side)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")}
    assert len(modes) == 1


# --- disks that lack something ------------------------------------------------------------------


def refuse(code: int) -> Any:
    def answer(*_: object, **__: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return answer


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_permissions_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr("os.chmod", refuse(code))
    write_atomic(tmp_path / "file", "x")
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_that_cannot_flush_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr("os.fsync", refuse(code))
    write_atomic(tmp_path / "file", "x")
    assert (tmp_path / "file").read_text() == "x"
    monkeypatch.setattr("os.fsync", refuse(errno.EIO))  # that is a failure
    with pytest.raises(OSError, match="Input/output"):
        write_atomic(tmp_path / "file", "y")
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_used_with_a_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: int,
) -> None:
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(files, "_WARNED", set())
    monkeypatch.setattr(fcntl, "flock", refuse(code))
    done = []
    for _ in range(2):
        with claimed(tmp_path, busy=lambda: pytest.fail("nobody holds it")):
            done.append(1)
        with locked(tmp_path / "x.lock"):
            done.append(2)
    assert done == [1, 2, 1, 2]
    said = capsys.readouterr().err
    assert said.count("has no file locks") == 1
    assert str(tmp_path) in said


def test_a_lock_that_is_refused_for_another_reason_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", refuse(errno.EIO))
    with pytest.raises(OSError, match="Input/output"), locked(tmp_path / "x.lock"):
        pass


# --- links ---------------------------------------------------------------------------------------


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    link, target = tmp_path / "file", tmp_path / "shared" / "file"
    link.symlink_to(target)
    write_atomic(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert os.listdir(tmp_path / "shared") == ["file"]


def test_a_link_to_a_disk_that_is_gone_is_named(tmp_path: Path) -> None:
    link = tmp_path / "file"
    link.symlink_to("/nowhere/at/all")
    with pytest.raises(DataError, match="is a link to /nowhere/at/all, which isn't there"):
        write_atomic(link, "new")
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    with pytest.raises(DataError, match="is a link to"):
        write_atomic(circle, "new")


# --- halves --------------------------------------------------------------------------------------


def test_halves_are_swept_and_nothing_else(tmp_path: Path) -> None:
    kept = {".lock", ".gitignore", ".DS_Store", ".vscode", "file.part", ".a.b"}
    halves = {".weights.safetensors.abcd1234.part", ".log.jsonl.a_c4e6g8"}
    for name in kept | halves:
        (tmp_path / name).touch()
    sweep_halves(tmp_path)
    assert set(os.listdir(tmp_path)) == kept | halves  # another process may be writing them
    sweep_halves(tmp_path, older_than=0)
    assert set(os.listdir(tmp_path)) == kept
    sweep_halves(tmp_path / "missing")


def test_old_halves_of_a_shared_folder_are_swept(tmp_path: Path) -> None:
    half = tmp_path / ".ledger.jsonl.abcd1234.part"
    half.touch()
    old = time.time() - 2 * files.HALF_SECONDS
    os.utime(half, (old, old))
    sweep_halves(tmp_path)
    assert not half.exists()


def test_what_a_kill_leaves_is_known_as_a_half(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "file") as side:
        assert files._HALF.fullmatch(side.name)


# --- told before the work ------------------------------------------------------------------------


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    need_writable(tmp_path / "new" / "file")
    assert os.listdir(tmp_path / "new") == []
    (tmp_path / "plain").touch()
    with pytest.raises(DataError, match="can't be written"):
        need_writable(tmp_path / "plain" / "file")
    with pytest.raises(DataError, match="is a folder where a file should be"):
        need_writable(tmp_path / "new")
    with pytest.raises(DataError, match="is a folder where a file should be"):
        write_atomic(tmp_path / "new", "x")
