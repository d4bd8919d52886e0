"""Scores by drive for runs that finished before rows held them.

Scores the weights of run folders on test once more and writes the parts of test that train's
drives were and were not filmed on into the run's metrics and its ledger row::

    python tools/by_drive.py runs/camvid-quick-*

Everything else in the row stays. A run without weights, or whose test score does not come out as
its row has it, is named and left as it is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from segnb.errors import DataError, SegnbError
from segnb.experiments import runs
from segnb.experiments.folder import read_row
from segnb.experiments.row import score_fields
from segnb.files import write_atomic
from segnb.results import ledger

#: Points that two computations of one score may differ by: another machine rounds otherwise.
TOLERANCE = 0.1


def add_scores(
    folder: Path, results: Path, *, root: Path | None = None, cpu: bool = False
) -> ledger.Row:
    """Put the scores by drive into a run's ``metrics.json`` and ledger row, which is returned."""
    path = folder / "metrics.json"
    if not path.exists() or not (folder / "weights.safetensors").exists():
        raise DataError(f"{folder} holds no finished run with its weights")
    row = read_row(path, runs.read_recipe(folder))
    _, score = runs.score_again(folder, "test", root=root, cpu=cpu, progress_bar=False)
    if not score.subsets:
        raise DataError(
            f"{row['dataset']}: train holds all drives of test, or none; nothing to add"
        )
    if abs(score.miou - row["miou_test"]) > TOLERANCE:
        raise DataError(
            f"{folder}: test comes out as {score.miou:.3f}, its row has {row['miou_test']:.3f}; "
            "the weights, the data or the arithmetic are others"
        )

    def merged(old: ledger.Row) -> ledger.Row:
        if old["recipe_hash"] != row["recipe_hash"]:
            return old
        fields = score_fields(dict(score.subsets))
        details = {name: {**old[name], **fields.pop(name)} for name in ("iou", "pixel_accuracy")}
        return {**old, **fields, **details}

    held: ledger.Row = merged(row)
    write_atomic(path, json.dumps(held, indent=1) + "\n")
    ledger.rewrite(ledger.ledger_path(results), lambda rows: [merged(old) for old in rows])
    return held


def main(words: Sequence[str] | None = None) -> int:
    """Add the scores of each folder; 1 where some could not be added."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--results", type=Path, default=ledger.RESULTS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args(words)
    failed = 0
    for folder in options.folders:
        try:
            row = add_scores(folder, options.results, root=options.data, cpu=options.cpu)
        except SegnbError as error:
            print(error, file=sys.stderr)
            failed += 1
            continue
        print(
            f"{folder}: test {row['miou_test']:.1f}, drives of train {row['miou_test_seen']:.1f}, "
            f"other drives {row['miou_test_unseen']:.1f}"
        )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
