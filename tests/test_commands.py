"""Every command that a page or a notebook prints is one that can be given, where it is printed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from segnb import cli
from segnb.notebook import command

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
        text = text.replace('\\\\\\n"\nwhole += "', "")  # one line in two strings
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


def test_notebooks_print_commands_for_a_cell() -> None:
    """In a cell they begin with "!"; and those that train name folders, which lie one up."""
    for source in sorted((REPOSITORY / "notebooks" / "src").glob("[0-9]*.py")):
        text = source.read_text(encoding="utf-8")
        for line in text.splitlines():
            if re.search(r"(print|\+ )\(?.*\bsegnb (run|sweep|predict|fetch|table) ", line):
                assert "command(" in line or "!segnb" in line, f"{source.name}: {line}"
        for call in re.finditer(r"command\((\w+\.command\(\)|whole)[^\n]*", text):
            assert "runs=" in call[0], f"{source.name}: {call[0]}"
            assert "results=" in call[0], f"{source.name}: {call[0]}"


def test_a_command_names_folders_from_where_the_cell_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    line = command("segnb run --seed 1", runs=tmp_path / "my runs", results=tmp_path / "results")
    assert line == "!segnb run --seed 1 --runs '../my runs' --results ../results"
    options = cli._parse(cli.Run, "run", shlex.split(line)[2:])
    assert options.runs.resolve() == tmp_path / "my runs"
    assert command("segnb doctor") == "!segnb doctor"
