"""The notebooks are in step with their sources, clean, and run; so does what makes them."""

from __future__ import annotations

import ast
import base64
import contextlib
import importlib
import inspect
import io
import os
import shutil
import subprocess
import sys
import time
import types
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

from segnb import installed
from segnb import notebook as helpers
from segnb.errors import ConfigError
from segnb.recipe import preset
from tools import notebooks, pack
from tools.notebooks import NotebookError

SOURCES = sorted(notebooks.SOURCES.glob("[0-9]*.py"))

each_source = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


# The series itself


@each_source
def test_source_and_notebook_are_in_step(source: Path) -> None:
    assert notebooks.differences(source) == [], "run: python tools/notebooks.py build"


@each_source
def test_the_saved_notebook_is_clean(source: Path) -> None:
    saved = nbformat.read(notebooks.target(source), as_version=4)
    assert notebooks.faults(saved) == []
    pictures = [
        output
        for cell in saved.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert pictures, "a reader on GitHub sees no picture"


@each_source
def test_imports_and_set_up_are_folded_under_a_title(source: Path) -> None:
    codes = [cell for cell in notebooks.make(source).cells if cell.cell_type == "code"]
    folded = [cell for cell in codes if "folded" in cell.metadata.get("tags", [])]
    titles = [cell.source.split("\n", 1)[0] for cell in folded]
    assert titles[:2] == ["# @title Set-up", "# @title Imports"]
    assert set(titles[2:]) <= {"# @title Draw it"}, "code that only draws may be folded"
    for node in ast.parse(folded[1].source).body:
        assert isinstance(node, ast.Import | ast.ImportFrom), "only imports are folded away"


def test_no_notebook_without_a_source() -> None:
    made = {notebooks.target(source) for source in SOURCES}
    assert set(notebooks.SOURCES.parent.glob("*.ipynb")) <= made


@pytest.mark.slow
@each_source
def test_it_runs_alone_at_smoke(source: Path) -> None:
    notebook = notebooks.make(source)
    start = time.monotonic()
    notebooks.execute(notebook, name=source.name, tier="smoke", timeout=120)
    assert time.monotonic() - start < 120, "two minutes on two cores is what a notebook may take"
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in codes)


# Exercises


@dataclass(frozen=True)
class Exercise:
    """A stub and its solution, with the imports of the cells before them."""

    where: str
    name: str
    imports: str
    stub: str
    solution: str

    def function(self, code: str) -> Callable[..., Any]:
        """The function a cell defines, made with the notebook's imports and nothing else."""
        names = [node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]
        space: dict[str, Any] = {}
        exec(self.imports + "\n" + code, space)
        found: Callable[..., Any] = space[names[-1]]
        return found


def exercises(source: Path) -> Iterator[Exercise]:
    imports: list[str] = []
    stubs: dict[str, str] = {}
    before: dict[str, str] = {}
    for cell in notebooks.make(source).cells[1:]:
        if cell.cell_type != "code":
            continue
        first = cell.source.split("\n", 1)[0]
        if first.startswith("# EXERCISE "):
            name = first.removeprefix("# EXERCISE ").strip()
            stubs[name], before[name] = cell.source, "\n".join(imports)
        elif first.startswith("# SOLUTION "):
            name = first.removeprefix("# SOLUTION ").strip()
            where = f"{source.stem}: {name}"
            assert "solution" in cell.metadata.get("tags", []), f"{where}: not tagged"
            assert name in stubs, f"{where}: a solution without an exercise"
            yield Exercise(where, name, before[name], stubs.pop(name), cell.source)
        with contextlib.suppress(SyntaxError):  # a cell with shell commands imports nothing
            imports += [
                ast.unparse(node)
                for node in ast.parse(cell.source).body
                if isinstance(node, ast.Import | ast.ImportFrom)
            ]
    assert not stubs, f"{source.stem}: exercises without a solution: {sorted(stubs)}"


EXERCISES = [exercise for source in SOURCES for exercise in exercises(source)]

each_exercise = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda each: each.where)


@each_exercise
def test_a_stub_fails_its_checker_and_the_solution_passes(exercise: Exercise) -> None:
    checks = importlib.import_module("segnb.checks")
    check = getattr(checks, f"check_{exercise.name}")
    with pytest.raises(checks.Hint) as hint:
        check(exercise.function(exercise.stub))
    assert str(hint.value).strip(), "a hint says something"
    check(exercise.function(exercise.solution))


@each_exercise
def test_stub_and_solution_have_one_signature(exercise: Exercise) -> None:
    stub, solution = (exercise.function(code) for code in (exercise.stub, exercise.solution))
    assert stub.__name__ == solution.__name__
    assert inspect.signature(stub) == inspect.signature(solution)


# What makes them


def png(picture: Image.Image) -> str:
    """A picture as a notebook holds it."""
    content = io.BytesIO()
    picture.save(content, "PNG", compress_level=1)
    return base64.b64encode(content.getvalue()).decode()


PNG = png(Image.new("L", (4, 3)))

SOURCE = """\
# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # A title

# %% [markdown]
# Why this cell.

# %%
import os
import sys

print(os.environ["SEGNB_TIER"], os.getcwd(), hex(2**40))
print("careful", file=sys.stderr)

# %% [markdown]
# Your turn.

# %%
# EXERCISE double
def double(x: float) -> float:
    ...

# %% [markdown]
# A way to do it.

# %% tags=["solution"]
# SOLUTION double
def double(x: float) -> float:
    return 2 * x
"""


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """A folder like the repository's with one source; returns the source."""
    folder = tmp_path / "notebooks" / "src"
    folder.mkdir(parents=True)
    text = notebooks.SETUP.read_text(encoding="utf-8")
    (folder / "_setup.py").write_text(notebooks._REPO_LINE.sub('REPO = ""', text))
    source = folder / "00_made.py"
    source.write_text(SOURCE)
    return source


def setup_of(source: Path) -> Path:
    return source.parent / "_setup.py"


def test_a_source_becomes_an_executed_clean_notebook_in_step(
    series: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = notebooks.make(series, setup_of(series))
    notebooks.execute(notebook, name="made", tier="smoke", timeout=60)
    notebooks.save(notebook, notebooks.target(series))
    assert notebooks.differences(series, setup_of(series)) == []

    saved = nbformat.read(notebooks.target(series), as_version=4)
    kinds = [cell.cell_type for cell in saved.cells]
    assert kinds == ["markdown", "markdown", "code"] + ["markdown", "code"] * 3
    assert saved.cells[2].source.startswith("# @title Set-up\nREPO = ")
    folded = {"jupyter": {"source_hidden": True}, "cellView": "form"}
    assert saved.cells[2].metadata == {"tags": ["folded"], **folded}
    assert saved.cells[4].metadata == {}
    assert saved.cells[2].outputs == []
    printed = saved.cells[4].outputs[0].text
    assert printed == "smoke ./notebooks 0x...\n"
    assert len(saved.cells[4].outputs) == 1, "the error stream is not saved"
    assert "careful" in capsys.readouterr().err, "but it is shown to whoever builds"
    assert saved.cells[-1].metadata == {"tags": ["solution"], **folded}
    assert set(saved.metadata) == {"kernelspec", "language_info"}
    assert str(Path.home()) not in notebooks.target(series).read_text()


def test_making_is_repeatable_and_ids_are_stable(series: Path) -> None:
    first = notebooks.make(series, setup_of(series))
    assert first == notebooks.make(series, setup_of(series))
    ids = [cell.id for cell in first.cells]
    assert len(set(ids)) == len(ids)
    series.write_text(SOURCE.replace("# Your turn.", "# Your turn, then."))
    changed = [cell.id for cell in notebooks.make(series, setup_of(series)).cells]
    assert sum(a != b for a, b in zip(ids, changed, strict=True)) == 1


def test_equal_cells_get_ids_of_their_own(series: Path) -> None:
    series.write_text(SOURCE + "\n# %% [markdown]\n# Your turn.\n")
    notebook = notebooks.make(series, setup_of(series))
    nbformat.validate(notebook)


def test_a_changed_source_is_seen(series: Path) -> None:
    assert notebooks.differences(series, setup_of(series)) == ["00_made.ipynb is missing"]
    write_as_executed(series)
    assert notebooks.differences(series, setup_of(series)) == []
    series.write_text(SOURCE.replace("2 * x", "x + x"))
    assert "cell 8 differs in its source" in notebooks.differences(series, setup_of(series))[0]
    series.write_text(SOURCE + "\n# %% [markdown]\n# More.\n")
    assert "9 cells, its source makes 10" in notebooks.differences(series, setup_of(series))[0]


def test_changed_markdown_is_taken_over_and_outputs_stay(series: Path) -> None:
    with pytest.raises(NotebookError, match="is missing; build it"):
        notebooks.take_prose(series, setup_of(series))
    write_as_executed(series)
    before = nbformat.read(notebooks.target(series), as_version=4)
    series.write_text(SOURCE.replace("# Your turn.", "# Now it is your turn."))
    assert notebooks.differences(series, setup_of(series)) != []
    notebooks.take_prose(series, setup_of(series))
    assert notebooks.differences(series, setup_of(series)) == []
    after = nbformat.read(notebooks.target(series), as_version=4)
    codes = [[c for c in one.cells if c.cell_type == "code"] for one in (before, after)]
    assert codes[0] == codes[1]
    assert any("Now it is your turn." in cell.source for cell in after.cells)
    series.write_text(SOURCE.replace("2 * x", "x + x"))
    with pytest.raises(NotebookError, match=r"00_made.ipynb: its code has changed; build it"):
        notebooks.take_prose(series, setup_of(series))
    assert nbformat.read(notebooks.target(series), as_version=4) == after


def write_as_executed(source: Path) -> None:
    notebook = notebooks.make(source, setup_of(source))
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(codes):
        cell.execution_count = number + 1
    notebooks.save(notebook, notebooks.target(source))


def test_a_failing_cell_is_named_with_its_error(series: Path) -> None:
    series.write_text("# %% [markdown]\n# # T\n\n# %%\nraise ValueError('no positives')\n")
    with pytest.raises(NotebookError, match=r"made(.|\n)*ValueError: no positives"):
        notebooks.execute(notebooks.make(series, setup_of(series)), name="made", tier="smoke")


def test_a_source_needs_a_title(series: Path) -> None:
    series.write_text("# %%\n1\n")
    with pytest.raises(NotebookError, match=r"00_made\.py.*title"):
        notebooks.make(series, setup_of(series))


def made_with(output: dict[str, Any]) -> nbformat.NotebookNode:
    cell = nbformat.v4.new_code_cell("x", execution_count=1)
    display = {"metadata": {}, "output_type": "display_data"}
    whole = output if "output_type" in output else {**display, **output}
    cell.outputs = [nbformat.from_dict(whole)]
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("Why."), cell])


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        ({"data": {notebooks._WIDGET: {"model_id": "1"}}}, "widget"),
        ({"data": {"image/png": PNG}}, "alt text"),
        ({"data": {"text/plain": "/home/ann/segnb/x.py"}}, "/home/ann/segnb/x.py"),
        ({"data": {"text/html": "<b>/usr/lib/site-packages/a.py</b>"}}, "site-packages"),
        ({"data": {"text/plain": "x" * 3_000_001}}, "3.0 MB"),
        (
            {"output_type": "error", "ename": "KeyError", "evalue": "", "traceback": []},
            "KeyError",
        ),
    ],
)
def test_what_must_not_be_saved_is_refused(
    output: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    with pytest.raises(NotebookError, match=f"bad.ipynb.*{fault}"):
        notebooks.save(made_with(output), tmp_path / "bad.ipynb")
    assert list(tmp_path.iterdir()) == []


def test_an_address_is_no_path_of_a_machine(tmp_path: Path) -> None:
    notebook = made_with({"data": {"text/plain": "see https://example.org/home/ann or a/tmp/b"}})
    assert notebooks.faults(notebook) == []


def test_a_picture_with_alt_text_is_welcome(tmp_path: Path) -> None:
    metadata_ = {"image/png": {"alt": "Two curves"}}
    notebooks.save(
        made_with({"data": {"image/png": PNG}, "metadata": metadata_}), tmp_path / "x.ipynb"
    )
    assert (tmp_path / "x.ipynb").is_file()


@pytest.mark.parametrize("alpha", [255, 128])
def test_pictures_are_packed_without_loss(alpha: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 99, (40, 60, 4), dtype=np.uint8) // 50
    pixels[..., 3] = alpha
    before = png(Image.fromarray(pixels))
    after = notebooks.lean(before)
    assert len(after) < len(before)
    assert notebooks.lean(after) == after
    with Image.open(io.BytesIO(base64.b64decode(after))) as picture:
        assert picture.mode == ("RGB" if alpha == 255 else "RGBA")
        np.testing.assert_array_equal(np.asarray(picture.convert("RGBA")), pixels)


def test_code_without_a_reason_and_widget_metadata_are_faults() -> None:
    notebook = made_with({"data": {"text/plain": "x"}})
    notebook.metadata["widgets"] = {}
    del notebook.cells[0]
    notebook.cells[0].execution_count = None
    found = "\n".join(notebooks.faults(notebook))
    assert "widgets" in found
    assert "says why" in found
    assert "not executed" in found


def test_widgets_without_state_leave_a_line_and_progress_bars_nothing() -> None:
    notebook = made_with(
        {"data": {notebooks._WIDGET: {"model_id": "1"}, "text/plain": "HBox(children=())"}}
    )
    bar = {notebooks._WIDGET: {"model_id": "2"}, "text/plain": " 10%|#   | 1/10 [00:01<00:09]"}
    notebook.cells[1].outputs.append(nbformat.v4.new_output("display_data", data=bar))
    notebook.metadata["widgets"] = {"state": {}}
    notebooks.clean(notebook, {})
    (left,) = notebook.cells[1].outputs
    assert left.data == {"text/plain": notebooks._INTERACTIVE}
    assert "widgets" not in notebook.metadata


def test_the_longest_path_is_taken_out_first() -> None:
    notebook = made_with({"data": {"text/plain": "/a/b/c.txt and /a/d.txt"}})
    notebooks.clean(notebook, {"/a": "~", "/a/b": "."})
    assert notebook.cells[1].outputs[0].data["text/plain"] == "./c.txt and ~/d.txt"


def test_badges_reach_set_up_notebooks_and_readme(series: Path, tmp_path: Path) -> None:
    write_as_executed(series)
    page = tmp_path / "README.md"
    page.write_text("| 00 | <!-- colab: 00_made --><!-- end colab --> |\n")
    for repo in ("ann/segnb", "bob/other.name"):
        notebooks.write_badges(repo, setup_of(series), page)
        assert notebooks.repository_name(setup_of(series)) == repo
        assert notebooks.differences(series, setup_of(series)) == []
        saved = nbformat.read(notebooks.target(series), as_version=4)
        assert f"github/{repo}/blob/main/notebooks/00_made.ipynb" in saved.cells[0].source
        assert saved.cells[4].execution_count == 2, "outputs stay"
        assert page.read_text().count("colab-badge.svg") == 1
        assert repo in page.read_text()


@pytest.mark.parametrize("repo", ["", "segnb", "a/b/c", 'a/b"\nimport os'])
def test_a_badge_needs_owner_and_name(repo: str, series: Path, tmp_path: Path) -> None:
    with pytest.raises(NotebookError, match="not owner/name"):
        notebooks.write_badges(repo, setup_of(series), tmp_path / "README.md")


def test_badges_do_not_hide_that_a_notebook_is_late(series: Path, tmp_path: Path) -> None:
    write_as_executed(series)
    series.write_text(SOURCE.replace("2 * x", "x + x"))
    with pytest.raises(NotebookError, match="rebuild first"):
        notebooks.write_badges("ann/segnb", setup_of(series), tmp_path / "README.md")


def test_sources_are_found_by_the_beginning_of_their_name(series: Path) -> None:
    assert notebooks.sources(["00"], series.parent) == [series]
    assert notebooks.sources([], series.parent) == [series]
    with pytest.raises(NotebookError, match="'42'"):
        notebooks.sources(["42"], series.parent)


def test_exercises_are_found_with_their_solutions(
    series: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebooks.make, "__defaults__", (setup_of(series),))
    (found,) = exercises(series)
    assert found.name == "double"
    assert found.function(found.solution)(4) == 8
    assert found.function(found.stub)(4) is None
    series.write_text(SOURCE.replace("# SOLUTION double", "# SOLUTION other"))
    with pytest.raises(AssertionError, match="without an exercise"):
        list(exercises(series))


# The set-up cell


@pytest.fixture
def colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """A machine that looks like Colab; the commands that were run on it."""
    commands: list[list[str]] = []

    def run(command: Sequence[object], check: bool) -> None:
        commands.append([str(word) for word in command])
        if "clone" in commands[-1]:
            copy_repository(Path(commands[-1][-1]))

    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("SEGNB_DATA", "")
    monkeypatch.delenv("SEGNB_DATA")
    monkeypatch.chdir(tmp_path)
    yield commands
    os.environ.pop("SEGNB_DATA", None)


def copy_repository(to: Path) -> None:
    for name in ("notebooks", "segnb"):
        (to / name).mkdir(parents=True)
    for name in ("pyproject.toml", "segnb/recipe.py"):
        shutil.copy(notebooks.REPOSITORY / name, to / name)


def zipped(path: Path) -> Path:
    """A zip of the project as GitHub makes it: in one outer folder."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("pyproject.toml", "segnb/recipe.py", "notebooks/x"):
            archive.writestr(f"segnb-main/{name}", "")
    return path


def setup_code(content: Path, repo: str) -> str:
    text = notebooks._REPO_LINE.sub(f'REPO = "{repo}"', notebooks.SETUP.read_text(), count=1)
    return text.replace("/content", str(content))


def test_set_up_does_nothing_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("ran something"))
    here = Path.cwd()
    exec(setup_code(tmp_path, "ann/segnb"), {})
    assert Path.cwd() == here
    assert list(tmp_path.iterdir()) == []


def test_set_up_on_colab_clones_and_installs_without_dependencies(
    tmp_path: Path, colab: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    exec(setup_code(tmp_path, "ann/segnb"), {})
    told = capsys.readouterr().out
    assert "Fetching github.com/ann/segnb" in told
    assert f"Set-up is done: the project is in {tmp_path / 'segnb'}" in told
    clone, init, chosen, install = colab
    assert "https://github.com/ann/segnb" in clone
    assert init[-2:] == ["init", "--no-cone"]
    assert chosen[-4:] == ["/*", *(f"!{one}" for one in pack.unused())]
    assert "--no-deps" in install
    assert install[-1] == str(tmp_path / "segnb")
    assert Path.cwd() == tmp_path / "segnb" / "notebooks"
    assert os.environ["SEGNB_DATA"] == str(tmp_path / "segnb" / "data")


def test_set_up_on_colab_prefers_an_uploaded_copy(tmp_path: Path, colab: list[list[str]]) -> None:
    zipped(tmp_path / "my-segnb-main.zip")
    exec(setup_code(tmp_path, ""), {})
    (install,) = colab
    assert install[-1] == str(tmp_path / "segnb" / "segnb-main")
    assert Path.cwd() == tmp_path / "segnb" / "segnb-main" / "notebooks"


def test_set_up_on_colab_without_an_address_says_what_to_do(
    tmp_path: Path, colab: list[list[str]]
) -> None:
    with pytest.raises(RuntimeError, match=r"Download ZIP.*upload it"):
        exec(setup_code(tmp_path, ""), {})
    assert colab == []


@pytest.mark.parametrize("kind", ["empty", "cut", "other"])
def test_an_upload_that_is_no_good_is_named_and_may_be_replaced(
    tmp_path: Path, colab: list[list[str]], capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    path = zipped(tmp_path / "segnb.zip")
    if kind == "other":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("other/pyproject.toml", "")
    else:
        path.write_bytes(path.read_bytes()[:60] if kind == "cut" else b"")
    with pytest.raises(RuntimeError, match="upload it"):
        exec(setup_code(tmp_path, ""), {})
    assert f"{path} does not hold the whole project" in capsys.readouterr().out
    assert not (tmp_path / "segnb").exists()
    zipped(path)
    exec(setup_code(tmp_path, ""), {})
    assert Path.cwd() == tmp_path / "segnb" / "segnb-main" / "notebooks"


def test_an_address_that_cannot_be_reached_is_told_and_an_upload_asked_for(
    tmp_path: Path,
    colab: list[list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(command: Sequence[object], check: bool) -> None:
        (tmp_path / "segnb" / "half").mkdir(parents=True)
        raise subprocess.CalledProcessError(128, [str(word) for word in command])

    monkeypatch.setattr(subprocess, "run", fails)
    with pytest.raises(RuntimeError, match="upload it"):
        exec(setup_code(tmp_path, "ann/gone"), {})
    assert "github.com/ann/gone can't be reached" in capsys.readouterr().out
    assert not (tmp_path / "segnb").exists()


class Drive(types.ModuleType):
    """A Drive that is mounted by making its folder, or declined."""

    def __init__(self, declined: bool) -> None:
        super().__init__("google.colab.drive")
        self.declined = declined

    def mount(self, place: str) -> None:
        if self.declined:
            raise ValueError("mount failed")
        (Path(place) / "MyDrive" / "segnb").mkdir(parents=True)


@pytest.mark.parametrize("declined", [False, True])
def test_with_drive_the_copy_is_looked_for_there_and_runs_are_kept_there(
    tmp_path: Path, colab: list[list[str]], capsys: pytest.CaptureFixture[str], declined: bool
) -> None:
    sys.modules["google.colab"].drive = Drive(declined)  # type: ignore[attr-defined]
    zipped(tmp_path / "segnb.zip")
    own = tmp_path / "drive" / "MyDrive" / "segnb"
    if not declined:
        Drive(False).mount(str(tmp_path / "drive"))
        zipped(own / "segnb.zip")
        sys.modules["google.colab"].drive.mount = lambda place: None  # type: ignore[attr-defined]
    exec(setup_code(tmp_path, "").replace("DRIVE = False", "DRIVE = True"), {})
    told = capsys.readouterr().out
    runs = Path.cwd().parent / "runs"
    if declined:
        assert "Drive is not used (mount failed)" in told
        assert f"Unpacking {tmp_path / 'segnb.zip'}" in told
        assert not runs.exists()
    else:
        assert f"Unpacking {own / 'segnb.zip'}" in told
        assert runs.resolve() == own / "runs"
        assert f"runs are kept in {own / 'runs'}" in told


def test_a_restart_without_set_up_is_told(
    tmp_path: Path, colab: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="set-up cell was not run"):
        helpers.project_path("results/ledger.jsonl")
    copy_repository(tmp_path)
    assert helpers.project_path("results") == tmp_path / "results"


# segnb.notebook


def test_tier_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGNB_TIER", raising=False)
    for gpu, expected in ((False, "quick"), (True, "gpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        assert helpers.tier() == expected
    monkeypatch.setenv("SEGNB_TIER", "smoke")
    assert helpers.tier() == "smoke"
    monkeypatch.setenv("SEGNB_TIER", "huge")
    with pytest.raises(ConfigError, match=r"'huge'.*smoke, quick"):
        helpers.tier()


def test_a_gpu_trains_on_photographs_once_they_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGNB_DATA", str(tmp_path))
    assert helpers.live_dataset("gpu") == "shapes"
    for folder, mode in (("train", "RGB"), ("trainannot", "L")):
        (tmp_path / "CamVid" / folder).mkdir(parents=True)
        Image.new(mode, (8, 6)).save(tmp_path / "CamVid" / folder / "a.png")
    assert helpers.live_dataset("gpu") == "camvid"
    assert helpers.live_dataset("quick") == "shapes"


def test_a_notebook_announces_what_it_will_train(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = preset("shapes", "smoke")
    helpers.announce({method: recipe.replace(method=method) for method in ("ce", "contrastive")})
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("Tier smoke on ")
    assert told[1] == "Images: shapes, at 48x64 pixels."
    assert [line.split()[0] for line in told[2:4]] == ["ce", "contrastive"]
    assert told[4].startswith("Training takes about ")


def test_project_path_finds_the_repository_from_its_notebooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(notebooks.SOURCES.parent)
    assert helpers.project_path("results") == notebooks.REPOSITORY / "results"
    monkeypatch.chdir(tmp_path)
    assert helpers.project_path("results") == tmp_path / "results"


def zipped_images(path: Path, inside: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{inside}images/a.txt", "one")
        archive.writestr(f"{inside}masks/a.txt", "")
        archive.writestr("__MACOSX/images/._a.txt", "")
    return path


def test_an_own_folder_may_be_a_zip_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    into = tmp_path / "into"
    assert helpers.own_folder(None, into) is None
    assert helpers.own_folder(str(tmp_path), into) == tmp_path
    for inside in ("", "leaves/", "other leaves/"):
        found = helpers.own_folder(zipped_images(tmp_path / "my leaves.zip", inside), into)
        assert found is not None
        assert found.is_relative_to(into)
        assert (found / "images" / "a.txt").read_text() == "one"
        # What was unpacked before is gone.
        assert len([*into.rglob("a.txt")]) == 2
    monkeypatch.chdir(tmp_path)
    asked = types.ModuleType("google.colab.files")
    asked.upload = lambda: {"my leaves.zip": b""}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setitem(sys.modules, "google.colab.files", asked)
    assert helpers.own_folder("upload", into) == into / "my leaves" / "other leaves"
    asked.upload = dict  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="nothing was uploaded"):
        helpers.own_folder("upload", into)


def test_an_own_folder_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no folder and no zip file .*gone"):
        helpers.own_folder(tmp_path / "gone", tmp_path)
    with pytest.raises(ConfigError, match="is for Colab; in JupyterLab, drag"):
        helpers.own_folder("upload", tmp_path)
    whole = zipped_images(tmp_path / "a.zip", "").read_bytes()
    for content in (b"", whole[:60], whole.replace(b"one", b"two")):
        (tmp_path / "a.zip").write_bytes(content)
        with pytest.raises(ConfigError, match=r"a\.zip can't be unpacked \(.*make the zip file"):
            helpers.own_folder(tmp_path / "a.zip", tmp_path / "into")


def lacking(versions: dict[str, str | None]) -> Callable[[str], str | None]:
    def version(name: str) -> str | None:
        return versions[name] if name in versions else metadata.version(name)

    return version


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of the pip command that was run, then the lines of its constraints."""
    found: list[str] = []

    def run(command: Sequence[str], *, check: bool) -> None:
        assert check
        found.extend(command)
        found.extend(Path(command[command.index("--constraint") + 1]).read_text().split("\n"))

    monkeypatch.setattr(helpers.subprocess, "run", run)
    return found


def test_install_missing_takes_only_what_is_missing(
    pip: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = ["torch>=2.6", "numpy>=1.26", "tyro>=0.9", "accelerate>=1.0", 'ruff>=1; extra == "dev"']
    monkeypatch.setattr(metadata, "requires", lambda _: needs)
    versions = {"tyro": None, "accelerate": "0.30", "torch": "2.9.0+cu126", "pandas": "2.2.2"}
    monkeypatch.setattr(installed, "version", lacking({**versions, "torchaudio": None}))
    assert helpers.install_missing() == ["tyro>=0.9", "accelerate>=1.0"]
    assert pip[pip.index("--constraint") + 2 :][:2] == ["tyro>=0.9", "accelerate>=1.0"]
    assert "torch==2.9.0+cu126" in pip
    assert "pandas==2.2.2" in pip
    assert not any(word.startswith("torchaudio") for word in pip)


def test_install_missing_does_nothing_when_all_is_there(
    pip: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: ["tyro>=0.9"])
    assert helpers.install_missing() == []
    assert pip == []


@pytest.mark.parametrize("version", ["2.1.0", None])
def test_install_missing_never_replaces_torch(
    version: str | None, pip: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: ["torch>=2.6"])
    monkeypatch.setattr(installed, "version", lacking({"torch": version}))
    with pytest.raises(ConfigError, match=r"torch>=2\.6.*newer runtime"):
        helpers.install_missing()
    assert pip == []
