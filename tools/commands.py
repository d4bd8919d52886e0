"""Commands beside the results, in step with the presets that they start from.

A row's ``command`` and ``changes`` say how its recipe differs from its preset. When a preset
changes, the recipe of an older row stays, and both are written again::

    python tools/commands.py

A test compares them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from segnb.results import ledger
from segnb.results.method import recipe_of

REPOSITORY = Path(__file__).resolve().parent.parent

#: The reported runs, and those that choices were made with.
LEDGERS = (
    ledger.ledger_path(REPOSITORY / "results"),
    ledger.ledger_path(REPOSITORY / "results" / "tuning"),
)


def refresh(row: ledger.Row) -> ledger.Row:
    """The row with the command that runs its recipe again from today's presets."""
    recipe = recipe_of(row)
    return {**row, "command": recipe.command(), "changes": recipe.changes()}


def main() -> int:
    """Write the commands of all ledgers again."""
    for path in LEDGERS:
        ledger.rewrite(path, lambda rows: [refresh(row) for row in rows])
        print(f"{path.relative_to(REPOSITORY)}: in step with the presets")
    return 0


if __name__ == "__main__":
    sys.exit(main())
