"""Tables in Markdown that come from the ledger alone.

A block names the command whose output it holds::

    <!-- begin: segnb table --dataset shapes -->
    ...
    <!-- end -->

``python tools/readme.py`` writes every block of the pages again; a test compares them. Another one
looks whether an interval or a correlation that the text around the blocks quotes stands in one.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from segnb.files import write_atomic

REPOSITORY = Path(__file__).resolve().parent.parent

#: Pages that hold tables made from the ledger.
PAGES = tuple(REPOSITORY / name for name in ("README.md", "results/README.md", "results/tables.md"))

_BLOCK = re.compile(
    r"(?P<begin><!-- begin: (?P<command>[^\n]*?) -->\n)(?P<body>.*?)(?P<end><!-- end -->)",
    re.DOTALL,
)


#: A rank correlation. Gains have one decimal, values of a recipe no sign.
_CORRELATION = re.compile(r"(?<![\w.])[+-]\d\.\d\d(?!\d)")

#: An interval of gains: one of its ends has a sign. Ranges of other numbers have none.
_INTERVAL = re.compile(r"(?P<low>[+-]?\d+\.\d)\s+to\s+(?P<high>[+-]?\d+\.\d)")


def run(command: str) -> str:
    """Standard output of a ``segnb table`` command.

    Raises:
        ValueError: The command is another one, or fails.
    """
    words = shlex.split(command)
    if words[:2] != ["segnb", "table"]:
        raise ValueError(f"a block may hold the output of `segnb table ...` only, not {command!r}")
    call = "import sys; from segnb.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", call, *words[1:]],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    if done.returncode != 0:
        raise ValueError(f"{command!r} failed: {done.stderr.strip()}")
    return done.stdout


def refresh(text: str, output_of: Callable[[str], str] = run) -> str:
    """The text with every block's content made again.

    Args:
        text: Markdown.
        output_of: Gives the output of a block's command.

    Raises:
        ValueError: A block is opened and not closed, or its command fails.
    """
    opened, closed = text.count("<!-- begin: "), text.count("<!-- end -->")
    if opened != closed or opened != len(_BLOCK.findall(text)):
        raise ValueError(f"{opened} blocks are opened and {closed} closed")

    def made(match: re.Match[str]) -> str:
        body = output_of(match["command"]).strip("\n")
        return f"{match['begin']}\n{body}\n\n{match['end']}"

    return _BLOCK.sub(made, text)


def unbacked(text: str, tables: str) -> list[str]:
    """Intervals of gains, and correlations, that a text quotes and no table holds.

    "A behind B by -1 to 3" is backed by a table's "B over A -3 to 1".

    Args:
        text: Markdown; what stands in its own blocks is not asked for.
        tables: Markdown in whose blocks they should stand.

    Returns:
        Each as it stands in the text.
    """

    def intervals(of: str) -> list[tuple[str, float, float]]:
        return [(m[0], float(m["low"]), float(m["high"])) for m in _INTERVAL.finditer(of)]

    blocks = "".join(match["body"] for match in _BLOCK.finditer(tables))
    held = {(low, high) for _, low, high in intervals(blocks)}
    held |= {(-high, -low) for low, high in held}
    own = _BLOCK.sub("", text)
    correlations = set(_CORRELATION.findall(blocks))
    return [
        " ".join(quoted.split())
        for quoted, low, high in intervals(own)
        if set("+-") & set(quoted) and (low, high) not in held
    ] + [quoted for quoted in _CORRELATION.findall(own) if quoted not in correlations]


def main() -> int:
    """Write the blocks of all pages again."""
    for path in PAGES:
        old = path.read_text(encoding="utf-8")
        new = refresh(old)
        write_atomic(path, new)
        state = "tables written again" if new != old else "already in step"
        print(f"{path.relative_to(REPOSITORY)}: {state}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
