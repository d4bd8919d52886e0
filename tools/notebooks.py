"""Make ``notebooks/*.ipynb`` from ``notebooks/src/*.py`` (py:percent), and check them.

::

    python tools/notebooks.py build [NAME ...] [--tier quick]   execute and write the .ipynb
    python tools/notebooks.py prose [NAME ...]                  take changed Markdown over
    python tools/notebooks.py check [NAME ...]                  is every .ipynb in step?
    python tools/notebooks.py run [NAME ...] --tier smoke       execute, write nothing
    python tools/notebooks.py badges OWNER/NAME                 write the repository's address

A notebook is executed in a scratch copy of the folder it belongs to, so that no run of it can
change the repository's ledger. What is saved holds no widget state, no machine's paths and no
timings; a widget leaves a picture of its controls and what its output areas showed.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import copy
import hashlib
import io
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbclient.output_widget import OutputWidget
from nbformat import NotebookNode
from PIL import Image
from traitlets.config import Config

from segnb.files import write_atomic

if __package__:
    from tools import widget_pictures
else:  # started as a script, which finds its neighbours alone
    import widget_pictures

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = REPOSITORY / "notebooks" / "src"
SETUP = SOURCES / "_setup.py"

#: GitHub shows no notebook it finds too large, and a reader waits for every byte.
MOST_BYTES = 3_000_000

#: What a saved output must not hold: a place that exists on one machine only.
MACHINE_PATHS = re.compile(
    r"(?<![\w.])(?:/home/|/root/|/Users/|/tmp/|/private/var/|/content/|[A-Z]:\\Users\\)[^\s\"']*"
    r"|/site-packages/[^\s\"']*"
)

_WIDGET = "application/vnd.jupyter.widget-view+json"
_WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
_INTERACTIVE = "(interactive: run this cell to see it)"
_PROGRESS = re.compile(r"\d+%\||\[\d+:\d+<|it/s\]")
_ADDRESS = re.compile(r"\b0x[0-9a-f]{8,}\b")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_REPO_LINE = re.compile(r'^REPO = "(.*?)"', re.MULTILINE)
_REPO_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_README_BADGE = re.compile(r"(<!-- colab: (\w+) -->).*?(<!-- end colab -->)")


class NotebookError(Exception):
    """A notebook that does not run, is out of step or holds what it must not."""


def sources(names: Iterable[str] = (), folder: Path = SOURCES) -> list[Path]:
    """The sources of the series in order, or those named (``03`` is enough of a name).

    Raises:
        NotebookError: There is none of that name.
    """
    found = sorted(folder.glob("[0-9]*.py"))
    chosen = []
    for name in names:
        hits = [path for path in found if path.stem.startswith(name.removesuffix(".py"))]
        if not hits:
            raise NotebookError(f"no source in {folder.name}/ begins with {name!r}")
        chosen += hits
    return chosen or found


def target(source: Path) -> Path:
    """Where the notebook made from a source lies."""
    return source.parent.parent / f"{source.stem}.ipynb"


def repository_name(setup: Path = SETUP) -> str:
    """``owner/name`` on GitHub as the set-up cell has it; empty before it is known."""
    match = _REPO_LINE.search(setup.read_text(encoding="utf-8"))
    if match is None:
        raise NotebookError(f'{setup.name} has no line REPO = "..."')
    return match[1]


def badge(repo: str, name: str) -> str:
    """Markdown of the badge that opens a notebook in Colab; empty without a repository."""
    if not repo:
        return ""
    address = f"https://colab.research.google.com/github/{repo}/blob/main/notebooks/{name}.ipynb"
    return (
        f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({address})"
    )


def make(source: Path, setup: Path = SETUP) -> NotebookNode:
    """The notebook of a source, not executed: title, badge, set-up cells, the rest.

    Cell ids come from the cells' text, so that a rebuild changes only what changed.

    Raises:
        NotebookError: The source does not begin with a Markdown cell.
    """
    text = source.read_text(encoding="utf-8")
    cells = jupytext.reads(text, fmt="py:percent").cells
    if not cells or cells[0].cell_type != "markdown" or not cells[0].source.startswith("# "):
        raise NotebookError(f"{source.name}: the first cell must be Markdown with the title")
    inserted = jupytext.reads(setup.read_text(encoding="utf-8"), fmt="py:percent").cells
    cells[0].source += "\n\n" + badge(repository_name(setup), source.stem)
    cells[0].source = cells[0].source.rstrip()
    seen: dict[str, int] = {}
    made = []
    for cell in [cells[0], *inserted, *cells[1:]]:
        fresh = (
            nbformat.v4.new_markdown_cell(cell.source)
            if cell.cell_type == "markdown"
            else nbformat.v4.new_code_cell(cell.source)
        )
        fresh.metadata.update(_cell_metadata(cell.metadata.get("tags", [])))
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        fresh.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        made.append(fresh)
    return nbformat.v4.new_notebook(
        cells=made,
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
        },
    )


def _cell_metadata(tags: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"tags": list(tags)} if tags else {}
    if {"folded", "solution"} & set(tags):
        found["jupyter"] = {"source_hidden": True}  # JupyterLab
        found["cellView"] = "form"  # Colab
    return found


class _OutputWidget(OutputWidget):
    """An output area that keeps to itself what it shows.

    nbclient's own sends every picture back to the kernel, over the socket it is waiting at for
    the cell's reply. With a large picture it then misses the reply and waits for ever.
    """

    def sync_state(self) -> None:
        """Send nothing: no cell here asks an output area what is in it."""


def _kernel_sockets(folder: Path) -> Config:
    """Lets a kernel talk through files of a folder of its own.

    The ports that it would take otherwise are looked for first and bound later; of two notebooks
    that start at one time the second may find one taken, and its kernel dies.
    """
    if os.name == "nt":
        return Config()
    # A short name: the system allows about a hundred letters for the whole path.
    own = {"transport": "ipc", "connection_file": str(folder / "k.json")}
    return Config(ConnectionFileMixin=own)


def execute(notebook: NotebookNode, *, name: str, tier: str, timeout: int | None = None) -> None:
    """Run a notebook in place, in a scratch copy of the repository's results.

    Args:
        notebook: What :func:`make` gave; its outputs are filled in.
        name: What to call it in messages.
        tier: ``SEGNB_TIER`` of the kernel.
        timeout: Seconds for any one cell; ``None`` for no limit.

    Raises:
        NotebookError: A cell failed or took too long.
    """
    with tempfile.TemporaryDirectory(prefix="segnb-notebook-") as scratch:
        folder = Path(scratch).resolve() / "notebooks"
        folder.mkdir()
        shutil.copy(REPOSITORY / "pyproject.toml", folder.parent)
        if (REPOSITORY / "results").is_dir():
            shutil.copytree(REPOSITORY / "results", folder.parent / "results")
        # The package itself is the installed one; this marks the copy as a checkout of it.
        (folder.parent / "segnb").mkdir()
        shutil.copy(REPOSITORY / "segnb" / "recipe.py", folder.parent / "segnb")
        environment = dict(os.environ, SEGNB_TIER=tier, MPLBACKEND=_INLINE)
        environment.setdefault("SEGNB_DATA", str(REPOSITORY / "data"))
        # As in an activated environment: lines for a cell name programs without their paths.
        programs = [str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]
        environment["PATH"] = os.pathsep.join(programs)
        client = NotebookClient(
            notebook,
            config=_kernel_sockets(Path(scratch)),
            timeout=timeout,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            # nbclient loses its way in Output widgets without; clean() draws it and takes it out.
            store_widget_state=True,
            resources={"metadata": {"path": str(folder)}},
        )
        client.widget_registry = {"@jupyter-widgets/output": {"OutputModel": _OutputWidget}}
        try:
            asyncio.run(client.async_execute(env=environment))
        except CellExecutionError as error:
            plain = _COLOUR.sub("", str(error))
            raise NotebookError(f"{name}: a cell failed\n{plain}") from error
        except CellTimeoutError as error:
            raise NotebookError(f"{name}: a cell took more than {timeout} s\n{error}") from error
        finally:
            words = {scratch: ".", str(Path(scratch).resolve()): ".", **_own_paths(environment)}
            clean(notebook, words)


_INLINE = "module://matplotlib_inline.backend_inline"


def _own_paths(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        environment["SEGNB_DATA"]: "data",
        str(REPOSITORY): ".",
        sys.prefix: "<python>",
        str(Path.home()): "~",
    }


def clean(notebook: NotebookNode, paths: Mapping[str, str]) -> None:
    """Take out of the outputs what belongs to one machine or one moment, in place.

    A widget leaves a picture of its controls, and then what its Output widgets show. Progress bars
    and the error stream (warnings, with paths) leave nothing; the latter is printed here.

    Args:
        notebook: An executed notebook.
        paths: Paths on this machine, and the word that replaces each.
    """
    widgets = notebook.metadata.get("widgets", {}).get(_WIDGET_STATE, {})
    states = {
        model_id: {**held, "state": _scrub_traits(held["state"], paths)}
        for model_id, held in widgets.get("state", {}).items()
    }
    for key in [key for key in notebook.metadata if key not in ("kernelspec", "language_info")]:
        del notebook.metadata[key]
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata.pop("execution", None)
            cell.outputs = _cleaned(cell.outputs, states, paths)


def _cleaned(
    outputs: Iterable[NotebookNode], states: Mapping[str, Any], paths: Mapping[str, str]
) -> list[NotebookNode]:
    own = []
    for output in outputs:
        if output.output_type == "stream" and output.name == "stderr":
            if not _PROGRESS.search(output.text):
                print(output.text.rstrip(), file=sys.stderr)
            continue
        if output.output_type == "stream":
            output.text = _scrub(output.text, paths)
        data = output.get("data", {})
        for kind in [kind for kind in data if kind.startswith("text/")]:
            data[kind] = _scrub(data[kind], paths)
        if _WIDGET not in data or not _PROGRESS.search(data.get("text/plain", "")):
            own.append(output)
    kept: list[NotebookNode] = []
    for output in own:
        if _WIDGET not in output.get("data", {}):
            kept.append(output)
            continue
        model_id = output.data[_WIDGET]["model_id"]
        # Without the widget itself, which could be shown in its own Output widget.
        others = {key: state for key, state in states.items() if key != model_id}
        held = copy.deepcopy(widget_pictures.held_outputs(model_id, states))
        shown = _cleaned(map(nbformat.from_dict, held), others, paths)
        picture = widget_pictures.draw(model_id, states) if model_id in states else None
        if picture is not None or not shown:
            kept.append(_still(output, picture))
        seen = [_content(other) for other in [*own, *kept]]
        kept += [one for one in shown if _content(one) not in seen]
    return kept


def _content(output: NotebookNode) -> tuple[Any, Any]:
    return output.get("data"), output.get("text")


def _still(view: NotebookNode, picture: widget_pictures.WidgetPicture | None) -> NotebookNode:
    """The output of a widget without the widget."""
    view.data, view.metadata = NotebookNode({"text/plain": _INTERACTIVE}), NotebookNode()
    if picture is not None:
        view.data = NotebookNode(
            {
                "image/png": base64.b64encode(picture.png).decode("ascii"),
                "text/plain": f"{_INTERACTIVE}\n{picture.alt}",
            }
        )
        shown = {"alt": picture.alt, "width": picture.width, "height": picture.height}
        view.metadata["image/png"] = NotebookNode(shown)
    return view


def _scrub_traits(value: Any, paths: Mapping[str, str]) -> Any:
    """The state of a widget, scrubbed; what Output widgets hold is cleaned as outputs are."""
    if isinstance(value, str):
        return _scrub(value, paths)
    if isinstance(value, list | tuple):
        return [_scrub_traits(one, paths) for one in value]
    if isinstance(value, Mapping):
        return {
            name: one if name == "outputs" else _scrub_traits(one, paths)
            for name, one in value.items()
        }
    return value


def _scrub(text: str, paths: Mapping[str, str]) -> str:
    for path in sorted(paths, key=len, reverse=True):
        text = text.replace(path, paths[path])
    return _ADDRESS.sub("0x...", text)


def faults(notebook: NotebookNode) -> list[str]:
    """What must not be in a saved notebook: widget state, machine's paths, failed cells, pictures
    without alt text, code without a word before it, too many bytes."""
    found = []
    extra = sorted(set(notebook.metadata) - {"kernelspec", "language_info"})
    if extra:
        found.append(f"metadata {extra}")
    before = None
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            found += [f"cell {number}: {fault}" for fault in _cell_faults(cell)]
            # A folded cell draws what the cell before it has computed.
            draws = before is not None and cell.metadata.get("jupyter", {}).get("source_hidden")
            if not draws and (before is None or before.cell_type != "markdown"):
                found.append(f"cell {number}: no Markdown cell before it says why")
        before = cell
    size = len(nbformat.writes(notebook).encode())
    if size > MOST_BYTES:
        found.append(f"{size / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:.0f} MB")
    return found


def _cell_faults(cell: NotebookNode) -> list[str]:
    found = []
    if cell.execution_count is None:
        found.append("not executed")
    if "execution" in cell.metadata:
        found.append("timings")
    for output in cell.outputs:
        texts = [output.get("text", ""), *output.get("traceback", [])]
        for kind, data in output.get("data", {}).items():
            if kind.startswith("text/"):
                texts.append(data)
            if kind == _WIDGET:
                found.append("a widget without its state")
            if kind.startswith("image/") and not output.metadata.get(kind, {}).get("alt"):
                found.append("a picture without alt text: end the cell with a segnb.plots.Picture")
        if output.output_type == "error" and "raises-exception" not in cell.metadata.get(
            "tags", []
        ):
            found.append(f"failed with {output.ename}")
        found += [
            f"a machine's path: {hit[:200]}" for hit in MACHINE_PATHS.findall("\n".join(texts))
        ]
    return found


def differences(source: Path, setup: Path = SETUP) -> list[str]:
    """How the notebook on disk differs from its source, outputs aside; empty when in step."""
    path = target(source)
    if not path.is_file():
        return [f"{path.name} is missing"]
    want, have = make(source, setup), nbformat.read(path, as_version=4)
    found = []
    if len(want.cells) != len(have.cells):
        found.append(f"{path.name}: {len(have.cells)} cells, its source makes {len(want.cells)}")
    for number, (ours, theirs) in enumerate(zip(want.cells, have.cells, strict=False)):
        found += [
            f"{path.name}: cell {number} differs in its {key}"
            for key in ("cell_type", "source", "id", "metadata")
            if ours[key] != theirs.get(key)
        ]
    if want.metadata != have.metadata:
        found.append(f"{path.name}: its metadata differ")
    return found


def lean(png: str) -> str:
    """The same pixels in fewer bytes: without an alpha channel that hides nothing, packed best.

    Args:
        png: The file in base64, as notebooks hold it; the result is, too.
    """
    content, packed = base64.b64decode(png), io.BytesIO()
    with Image.open(io.BytesIO(content)) as picture:
        opaque = picture.mode == "RGBA" and picture.getextrema()[3] == (255, 255)
        (picture.convert("RGB") if opaque else picture).save(packed, "PNG", optimize=True)
    return base64.b64encode(min(content, packed.getvalue(), key=len)).decode("ascii")


def save(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook, whole or not at all; its pictures are packed (:func:`lean`).

    Raises:
        NotebookError: It holds what it must not (:func:`faults`).
    """
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = lean(output.data["image/png"])
    wrong = faults(notebook)
    if wrong:
        raise NotebookError("\n".join(f"{path.name}: {fault}" for fault in wrong))
    nbformat.validate(notebook)
    write_atomic(path, nbformat.writes(notebook) + "\n")


def take_prose(source: Path, setup: Path = SETUP) -> None:
    """Take the Markdown cells of a source over into its notebook; code and outputs stay.

    Raises:
        NotebookError: There is no notebook yet, or its code differs, so its outputs may, too.
    """
    path = target(source)
    if not path.is_file():
        raise NotebookError(f"{path.name} is missing; build it")
    notebook, saved = make(source, setup), nbformat.read(path, as_version=4)
    ours, theirs = ([c for c in n.cells if c.cell_type == "code"] for n in (notebook, saved))
    if [cell.source for cell in ours] != [cell.source for cell in theirs]:
        raise NotebookError(f"{path.name}: its code has changed; build it")
    for cell, executed in zip(ours, theirs, strict=True):
        cell.outputs, cell.execution_count = executed.outputs, executed.execution_count
    save(notebook, path)


def write_badges(repo: str, setup: Path = SETUP, readme: Path = REPOSITORY / "README.md") -> None:
    """Write the repository's address into the set-up cell, the notebooks and the README.

    Notebooks that were in step stay so, with their outputs. In the README a badge stands between
    ``<!-- colab: NN_name -->`` and ``<!-- end colab -->``.

    Raises:
        NotebookError: ``repo`` is no ``owner/name``, or a notebook is out of step.
    """
    if not _REPO_NAME.fullmatch(repo):
        raise NotebookError(f"{repo!r} is not owner/name")
    built = [source for source in sources(folder=setup.parent) if target(source).is_file()]
    late = [fault for source in built for fault in differences(source, setup)]
    if late:
        raise NotebookError("rebuild first:\n" + "\n".join(late))
    text = setup.read_text(encoding="utf-8")
    write_atomic(setup, _REPO_LINE.sub(f'REPO = "{repo}"', text, count=1))
    for source in built:
        notebook = nbformat.read(target(source), as_version=4)
        for old, new in zip(notebook.cells, make(source, setup).cells, strict=True):
            old.source, old.id = new.source, new.id
        write_atomic(target(source), nbformat.writes(notebook) + "\n")
    if readme.is_file():
        text = readme.read_text(encoding="utf-8")
        write_atomic(
            readme, _README_BADGE.sub(lambda at: f"{at[1]}{badge(repo, at[2])}{at[3]}", text)
        )


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="tools/notebooks.py", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    words = parser.add_subparsers(dest="word", required=True)
    for word, tier in (("build", "quick"), ("run", "smoke"), ("prose", None), ("check", None)):
        each = words.add_parser(word)
        each.add_argument("names", nargs="*", help="beginnings of names; all without any")
        if tier:
            each.add_argument("--tier", default=os.environ.get("SEGNB_TIER", tier))
    words.add_parser("badges").add_argument("repo", help="owner/name on GitHub")
    options = parser.parse_args(arguments)
    try:
        if options.word == "badges":
            write_badges(options.repo)
            return 0
        chosen = sources(options.names)
        if options.word == "check":
            late = [fault for source in chosen for fault in differences(source)]
            print("\n".join(late) or f"{len(chosen)} notebooks in step")
            return int(bool(late))
        if options.word == "prose":
            for source in chosen:
                take_prose(source)
            return 0
        for source in chosen:
            start = time.monotonic()
            notebook = make(source)
            execute(notebook, name=source.name, tier=options.tier)
            if options.word == "build":
                save(notebook, target(source))
            print(f"{source.stem}: {time.monotonic() - start:.0f} s at tier {options.tier}")
    except NotebookError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
