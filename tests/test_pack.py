"""The copy that a user carries to Colab: small, whole, and without what git does not know."""

from __future__ import annotations

import json
import subprocess
import sys
import types
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tools import notebooks, pack

REPOSITORY = notebooks.REPOSITORY

pytestmark = pytest.mark.skipif(
    not (REPOSITORY / ".git").exists(), reason="this copy is no checkout of git"
)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "dist" / "segnb.zip"
    size = pack.pack(path)
    assert size == path.stat().st_size < pack.MOST_BYTES == 20_000_000
    return path


def test_the_zip_holds_what_the_notebooks_read(packed: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        names = set(archive.namelist())
        for source in notebooks.sources():
            cells = json.loads(archive.read(f"segnb/notebooks/{source.stem}.ipynb"))["cells"]
            assert cells
            assert not any(cell.get("outputs") for cell in cells)
    for wanted in (
        "pyproject.toml",
        "README.md",  # pip reads it
        "segnb/recipe.py",
        "results/ledger.jsonl",
        "results/networks/shapes/weights.safetensors",
    ):
        assert f"segnb/{wanted}" in names
    rows = map(json.loads, (REPOSITORY / "results" / "ledger.jsonl").read_text().splitlines())
    for row in rows:
        assert f"segnb/results/{row['log']}" in names
        assert f"segnb/results/previews/{Path(row['log']).stem}.npz" in names
    assert not [name for name in names if name.startswith(("segnb/results/figures", "segnb/runs"))]


def test_a_zip_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pack, "files", lambda _: [Path("pyproject.toml")])
    monkeypatch.setattr(pack, "MOST_BYTES", 1000)
    with pytest.raises(pack.PackError, match=r"more than 0; add what .* UNUSED in _setup\.py"):
        pack.pack(tmp_path / "segnb.zip")
    assert list(tmp_path.iterdir()) == []


def test_only_what_git_tracks_is_packed(tmp_path: Path) -> None:
    with pytest.raises(pack.PackError, match="no checkout of git"):
        pack.files(tmp_path)
    home = made_repository(tmp_path / "home")
    (home / "secret.txt").write_text("not added")
    (home / "segnb" / "gone.py").unlink()
    assert sorted(path.as_posix() for path in pack.files(home)) == [
        "notebooks/src/00_a.py",
        "pyproject.toml",
        "results/ledger.jsonl",
        "segnb/recipe.py",
    ]


def made_repository(home: Path) -> Path:
    """A small repository with the kinds of files that a copy leaves out."""
    for name in (
        "pyproject.toml",
        "segnb/recipe.py",
        "segnb/gone.py",
        "results/ledger.jsonl",
        "results/figures/a.png",
        "results/tuning/ledger.jsonl",
        "results/tuning/logs/a.jsonl",
        "notebooks/00_a.ipynb",
        "notebooks/src/00_a.py",
    ):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(name)
    for words in (
        ("init", "--quiet"),
        ("config", "uploadpack.allowFilter", "true"),
        ("add", "."),
        ("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "-m", "made"),
    ):
        subprocess.run(["git", "-C", str(home), *words], check=True)
    return home


@pytest.mark.parametrize("lean", [True, False])
def test_a_clone_on_colab_leaves_out_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lean: bool
) -> None:
    """Also from a server that can't filter, which then sends everything."""
    home = made_repository(tmp_path / "home")
    if not lean:
        subprocess.run(["git", "-C", home, "config", "--unset", "uploadpack.allowFilter"])
    real = subprocess.run

    def run(command: Sequence[Any], *, check: bool) -> Any:
        if command[0] != "git":
            return None  # pip
        words = [
            str(word).replace("https://github.com/ann/home", f"file://{home}") for word in command
        ]
        return real(words, check=check, capture_output=True)

    (tmp_path / "content").mkdir()
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("SEGNB_DATA", "set, to be put back")
    monkeypatch.chdir(tmp_path)
    setup = notebooks._REPO_LINE.sub('REPO = "ann/home"', notebooks.SETUP.read_text(), count=1)
    exec(setup.replace("/content", str(tmp_path / "content")), {})
    copy = tmp_path / "content" / "segnb"
    found = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    assert {name for name in found if not name.startswith(".git/")} == {
        "notebooks/src/00_a.py",
        "pyproject.toml",
        "results/ledger.jsonl",
        "segnb/gone.py",
        "segnb/recipe.py",
    }
    assert Path.cwd() == copy / "notebooks"
