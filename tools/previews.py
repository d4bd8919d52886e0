"""Bring the previews of a ledger's folder into their lean form (:mod:`segnb.results.previews`).

::

    python tools/previews.py [RESULTS]     those that are lean already stay as they are

Features of runs that no map is drawn of are left out: pictures show one seed, so of runs that
differ only in the seed, the lowest keeps its features. Files of features that no preview names any
more are removed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from segnb.results import ledger, previews
from segnb.results.method import recipe_of


def convert(results: Path) -> int:
    """Write the previews of a ledger's rows again where needed; returns how many."""
    folder, count = results / "previews", 0
    named: set[str] = set()
    whole: set[str] = set()  # recipes but for their seed
    for row in sorted(ledger.read(results / "ledger.jsonl"), key=lambda row: int(row["seed"])):
        path = folder / f"{ledger.file_name(row)}.npz"
        if not path.is_file():
            continue
        but_for_seed = recipe_of(row).replace(seed=0).hash
        features = previews.drawn(row["method"]) and but_for_seed not in whole
        whole.add(but_for_seed)
        arrays = _arrays(path)
        stages = [value for key, value in arrays.items() if key.startswith("embeddings_")]
        if stages and not (features and any(map(previews.is_stored, stages))):
            previews.store(folder, path.stem, arrays, features=features)
            count += 1
    for path in folder.glob("*.npz"):
        named |= {str(value) for value in _arrays(path).values() if previews.is_stored(value)}
    for path in (folder / previews.FEATURES).glob("*.npz"):
        if path.stem not in named:
            path.unlink()
    return count


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """What a preview's own file holds."""
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def main() -> int:
    """The command line; returns the exit code."""
    results = Path(sys.argv[1] if len(sys.argv) > 1 else "results")
    folder = results / "previews"
    before = sum(path.stat().st_size for path in folder.rglob("*.npz"))
    count = convert(results)
    after = sum(path.stat().st_size for path in folder.rglob("*.npz"))
    print(f"{count} previews written again: {before / 1e6:.1f} MB before, {after / 1e6:.1f} MB now")
    return 0


if __name__ == "__main__":
    sys.exit(main())
