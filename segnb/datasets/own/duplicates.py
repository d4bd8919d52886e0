"""Images that nearly equal one another, found by a difference hash of 128 bits.

The hash says, for 8x8 cells, whether brightness rises to the right and whether it rises downwards
(Krawetz, *Kind of Like That*, 2013). It survives scaling, compression and small changes of
brightness. Frames of a still camera and copies of one image have nearly equal hashes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image

from segnb.datasets.base import Bytes

Hash = npt.NDArray[np.bool_]

#: Of 128 bits, how many may differ. Unrelated photos differ in about 64.
MOST_BITS = 10

_CELLS = 8


def difference_hash(image: Bytes) -> Hash:
    """The hash of an image ``[H, W, 3]``: bool ``[128]``."""
    grey = Image.fromarray(image).convert("L")
    small = grey.resize((_CELLS + 1, _CELLS + 1), Image.Resampling.BOX)
    cells = np.asarray(small).astype(np.int16)
    right = cells[:-1, 1:] > cells[:-1, :-1]
    down = cells[1:, :-1] > cells[:-1, :-1]
    return np.concatenate([right.ravel(), down.ravel()])


def near_duplicates(
    hashes: Mapping[str, Mapping[str, Hash]], *, most: int = MOST_BITS
) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Pairs of images of different splits that nearly equal one another, the closest first.

    Args:
        hashes: Hashes by id, by split.
        most: How many bits may differ.

    Returns:
        Pairs of split and id: each image of a later split with the closest of an earlier one.
    """
    found = []
    for (name, ours), (other, theirs) in itertools.combinations(hashes.items(), 2):
        if not (ours and theirs):
            continue
        # The product of signs counts equal bits minus different ones.
        signs, other_signs = (
            np.array([*many.values()], dtype=np.float32) * 2 - 1 for many in (ours, theirs)
        )
        different = (signs.shape[1] - other_signs @ signs.T) / 2
        for index, match in enumerate(different.argmin(axis=1).tolist()):
            if (bits := float(different[index, match])) <= most:
                found.append((bits, (name, [*ours][match]), (other, [*theirs][index])))
    return [(one, other) for _, one, other in sorted(found)]
