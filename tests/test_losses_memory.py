"""Memory of the tiles grows linearly in the number of pixels, up to 100,000."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from pathlib import Path
import torch
import torch.nn.functional as F
from segnb.losses import official, paper, supcon_loss

def peak(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))

def step(pixels):
    half, channels = pixels // 2, 16
    features = [F.normalize(torch.randn(1, half, channels), dim=2).requires_grad_() for _ in "12"]
    # Many classes, most pairs negatives of the other image: few tiles, every kind of tile.
    labels = [torch.randint(0, 200, (1, half)) for _ in "12"]
    before = peak("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    if sys.argv[1] == "official cross":
        official.cross_image_loss(*features, *labels, backend="tiled").backward()
    elif sys.argv[1] == "paper within":
        paper.within_image_loss(*features, *labels, backend="tiled").backward()
    else:
        both, all_labels = torch.cat(features, dim=1), torch.cat(labels, dim=1)
        supcon_loss(both, all_labels, backend="tiled").backward()
    return (peak("VmHWM") - before) / 1024

torch.set_num_threads(1)
step(2000)
print(*(step(int(pixels)) for pixels in sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is read as Linux tells it"
)
@pytest.mark.parametrize("form", ["official cross", "paper within", "supcon"])
def test_memory_is_linear_up_to_100_000_pixels(form):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, form, "25000", "100000"],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    smaller, larger = (float(mib) for mib in done.stdout.split())
    # One matrix of all pairs would take 38,000 MiB; the features take 6. Up to 32,768 pixels oneDNN
    # may keep a kernel for each shape of tile: 310 MiB seen at 25,000, with 200 classes.
    assert larger < 5 * max(smaller, 10.0)
    assert larger < 300
