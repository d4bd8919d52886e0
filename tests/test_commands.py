"""Every command that a page or a notebook prints is one that can be given, where it is printed.

Those of the saved notebooks are given: from the notebooks' folder, with the folders and options
that are printed, at the size of the smoke tier.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from own_folder import make_folder
from tiny import Finished

from segnb import cli
from segnb.notebook import command

pytest_plugins = ["tiny"]

REPOSITORY = Path(__file__).parent.parent
PAGES = (
    "README.md",
    "data/README.md",
    "CONTRIBUTING.md",
    *sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "results").glob("*.md")),
)

#: What stands for what a notebook fills in.
FILLED = {"DATASET": "camvid", "WANTED": "camvid", "TIER": "quick", "name": "voc", "trained": "RUN"}

#: Words that a reader replaces by a value.
VALUES = {"NAME": "voc", "...": ""}

_COMMAND = re.compile(rf"segnb (?:{'|'.join(cli.COMMANDS)})\b(?:[^`#\n|]|\\\n)*")


def given(text: str) -> list[list[str]]:
    """The commands in a text, as words behind ``segnb``; a mere name of a command has one."""
    found = []
    for match in _COMMAND.finditer(text.replace("\\\n", " ")):
        line = match[0].partition("  ")[0].strip().rstrip(":,;.")
        line = re.sub(r" -->.*|[\"')].*", "", line)
        words = [VALUES.get(word, word) for word in shlex.split(line)[1:]]
        found.append([word for word in words if word])
    return found


def in_pages() -> Iterator[tuple[str, list[str]]]:
    for page in PAGES:
        text = (REPOSITORY / page).read_text(encoding="utf-8")
        inline = re.findall(r"`([^`\n]*segnb [^`]*)`", re.sub(r"```.*?```", "", text, flags=re.S))
        blocks = re.findall(r"```.*?```|<!-- begin: .*? -->", text, flags=re.S)
        for words in given("\n".join([*(one.replace("\n", " ") for one in inline), *blocks])):
            yield page, words


def in_notebooks() -> Iterator[tuple[str, list[str]]]:
    for source in sorted((REPOSITORY / "notebooks" / "src").glob("[0-9]*.py")):
        text = source.read_text(encoding="utf-8").replace("\n# ", " ")
        text = re.sub(r"\{(\w+)\}", lambda hole: FILLED.get(hole[1], hole[0]), text)
        text = text.replace('\\\\\\n"\nline += "', "")  # one line in two strings
        for words in given(text):
            yield source.name, words


SEEN = [*in_pages(), *in_notebooks()]


#: Commands that need a folder or a name: alone, they are mentioned and not given.
POSITIONAL = ("predict", "fetch", "finetune", "evaluate", "keep", "export")
POSITIONAL += ("describe", "check", "answer")


def test_there_are_commands_to_look_at() -> None:
    assert {words[0] for _, words in SEEN} >= {"run", "sweep", "table", "predict", "fetch"}
    assert {where for where, _ in SEEN} >= {"README.md", "00_start_here.py"}
    assert sum(len(words) > 1 for _, words in SEEN) > 20


@pytest.mark.parametrize(("where", "words"), SEEN, ids=lambda value: str(value)[:60])
def test_a_command_in_print_can_be_given(where: str, words: list[str]) -> None:
    name, *options = words
    if not options and name in POSITIONAL:
        return  # the name of a command, in a sentence
    cli._parse(cli.COMMANDS[name], name, options)


def test_advice_quotes_the_folders_that_it_names() -> None:
    """A name with a space must not fall apart in the shell."""
    folder = rf"`?segnb (?:{'|'.join({*POSITIONAL} - {'fetch'})}) \{{(?!shlex\.quote)"
    for path in sorted((REPOSITORY / "segnb").rglob("*.py")):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not re.search(folder, line), f"{path.name}: {line.strip()}"


def test_notebooks_print_commands_for_a_cell() -> None:
    """In a cell they begin with "!"; and those that train name folders, which lie one up."""
    for source in sorted((REPOSITORY / "notebooks" / "src").glob("[0-9]*.py")):
        text = source.read_text(encoding="utf-8")
        for line in text.splitlines():
            if re.search(r"(print|\+ )\(?.*\bsegnb (run|sweep|predict|fetch|table) ", line):
                assert "command(" in line or "!segnb" in line, f"{source.name}: {line}"
        for call in re.finditer(r"command\((\w+\.command\(\)|line,)[^\n]*", text):
            assert "runs=" in call[0], f"{source.name}: {call[0]}"
            assert "results=" in call[0], f"{source.name}: {call[0]}"


def test_a_command_names_folders_from_where_the_cell_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "segnb").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))  # the environment is activated
    line = command("segnb run --seed 1", runs=tmp_path / "my runs", results=tmp_path / "results")
    assert line == "!segnb run --seed 1 --runs '../my runs' --results ../results"
    options = cli._parse(cli.Run, "run", shlex.split(line)[2:])
    assert options.runs.resolve() == tmp_path / "my runs"
    assert command("segnb doctor") == "!segnb doctor"
    monkeypatch.setenv("PATH", "/bin")  # it is not
    beside = tmp_path / "my env" / "python"
    monkeypatch.setattr(sys, "executable", str(beside))
    assert command("segnb doctor") == "!segnb doctor"  # and there is none beside it
    beside.parent.mkdir()
    beside.with_name("segnb").touch()
    assert command("segnb doctor") == "!'../my env/segnb' doctor"


#: Options that only make a run longer or larger, and a network so small that it trains at once.
_SIZES = re.compile(r"--(size|crop|scale|encoder|decoder|architecture|pretrain\.|finetune\.).*")
_SMALL = shlex.split(
    "--size 32 48 --crop 32 32 --encoder-depth 3 --decoder-channels 16 --precision fp32 "
    "--pretrain.steps 2 --pretrain.warmup 1 --finetune.steps 2 --cpu --quiet"
)

_FOR_A_CELL = re.compile(r"!((?:accelerate launch|segnb)\b(?:[^\n\\]|\\\n)*)")


def shown() -> Iterator[tuple[str, str]]:
    """The lines for a cell in the saved notebooks' outputs."""
    for path in sorted((REPOSITORY / "notebooks").glob("[0-9]*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                text = output.get("text") or output.get("data", {}).get("text/plain", "")
                for match in _FOR_A_CELL.finditer("".join(text)):
                    yield path.stem, match[1].replace("\\\n", " ")


def at_smoke(words: list[str]) -> list[str]:
    """The words at the smallest size, with the made data set and one of several seeds."""
    options: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not options:
            options.append([])
        options[-1].append(word)
    kept = [one for one in options if not _SIZES.fullmatch(one[0])]
    few = {"--tier": ["smoke"], "--dataset": ["camvid"]}
    found = []
    for name, *values in kept:
        values = few.get(name, values[:1] if name in ("--seeds", "--fractions") else values)
        found += [name, *values]
    return found


@pytest.mark.parametrize(("where", "line"), list(shown()), ids=lambda value: str(value)[:50])
def test_a_line_for_a_cell_does_what_it_says(
    where: str,
    line: str,
    places: Path,
    one_thread: None,
    finished: Callable[..., Finished],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    monkeypatch.chdir(notebooks)
    _, _, whole = line.rpartition("segnb ")  # a launcher starts it in as many processes as asked
    name, *options = shlex.split(whole)
    if name in ("run", "sweep"):
        assert cli.main([name, *at_smoke(options), *_SMALL]) == 0
        flags = dict(itertools.pairwise(options))
        for flag in ("--runs", "--results"):
            folder = notebooks / flags[flag]
            assert tmp_path in folder.resolve().parents
            assert folder.resolve().relative_to(tmp_path).parts[0] in ("runs", "results")
            assert any(folder.iterdir())
    elif name == "predict":
        folder = notebooks / options[0]
        assert folder.resolve().parent == tmp_path / "runs"  # where notebook 00 keeps its runs
        shutil.copytree(finished("ce").folder, folder)
        shutil.copytree(places / "CamVid" / "val", notebooks / "MY_IMAGES")
        assert cli.main([name, *options, "--cpu"]) == 0
        assert len(list((notebooks / "PREDICTIONS").glob("*.mask.png"))) == 4
    elif name in ("check", "answer"):
        folder = make_folder(notebooks / options[0])
        given = cli._parse(cli.COMMANDS[name], name, options)
        written = given.sheet if name == "check" else given.place  # type: ignore[attr-defined]
        for place in (folder, written):
            assert place.resolve().relative_to(tmp_path).parts[0] == "runs"
        if name == "check":
            assert given() == 0
            assert written.is_file()
    elif name == "export":
        pytest.importorskip("onnxscript")
        folder = notebooks / options[0]
        shutil.copytree(finished("ce").folder, folder)
        assert cli.main([name, *options]) == 0
        assert (folder / "network.onnx").is_file()
    else:
        assert (name, options) == ("fetch", ["cityscapes"]), "how is this to be tried?"
        cli.main([name, *options])
        told = capsys.readouterr()
        assert "cityscapes-dataset.com" in told.out + told.err
        assert "Traceback" not in told.err
    inside = {path.name for path in notebooks.iterdir()}
    assert inside <= {"MY_IMAGES", "PREDICTIONS"}


def test_there_are_lines_to_give() -> None:
    lines = [line for _, line in shown()]
    assert {"run", "sweep", "predict", "fetch"} <= {
        re.sub(r".*segnb ", "", line).split()[0] for line in lines
    }
    for line in lines:
        assert ("--runs" in line) == bool(re.search(r"segnb (run|sweep) ", line)), line
