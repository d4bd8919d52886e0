"""Bring the previews of a ledger's folder into their lean form (:mod:`segnb.results.previews`).

::

    python tools/previews.py [RESULTS]     those that are lean already stay as they are
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from segnb.results import previews


def convert(folder: Path) -> int:
    """Write the previews of a folder again where needed; returns how many."""
    count = 0
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        stages = [value for key, value in arrays.items() if key.startswith("embeddings_")]
        if stages and not any(map(previews.is_stored, stages)):
            previews.store(folder, path.stem, arrays)
            count += 1
    return count


def main() -> int:
    """The command line; returns the exit code."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "results") / "previews"
    before = sum(path.stat().st_size for path in folder.rglob("*.npz"))
    count = convert(folder)
    after = sum(path.stat().st_size for path in folder.rglob("*.npz"))
    print(f"{count} previews written again: {before / 1e6:.1f} MB before, {after / 1e6:.1f} MB now")
    return 0


if __name__ == "__main__":
    sys.exit(main())
