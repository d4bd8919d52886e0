"""The Triton back end on machines without a GPU: the interpreter, and the compiler's word.

Triton's interpreter runs the kernels on the CPU; its compiler makes code for GPUs that are not
here, and says how many registers it spills. Where there is an NVIDIA GPU,
``benchmarks/triton_check.py`` checks values, gradients and times on it.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from segnb.errors import ConfigError
from segnb.losses import official
from segnb.losses.triton import launch

HERE = Path(__file__).parent


def report():
    """``benchmarks/triton_report.py``, which is no part of the package."""
    path = HERE.parent / "benchmarks" / "triton_report.py"
    spec = importlib.util.spec_from_file_location("triton_report", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_values_and_gradients_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONWARNINGS": "ignore"}
    # A worker of pytest-xdist must not make its child one too.
    environment = {k: v for k, v in environment.items() if not k.startswith("PYTEST_")}
    outcome = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist"),
            str(HERE / "test_losses_triton_interpreter.py"),
        ],
        env=environment,
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout[-8000:] + outcome.stderr[-2000:]
    assert " passed" in outcome.stdout
    assert "skipped" not in outcome.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "operands", "variant", "spills"),
    [
        (90, "bf16", "logsumexp_forward", 0),
        (90, "bf16", "logsumexp_one_set", 0),
        (90, "bf16", "official_forward", 0),
        (90, "bf16", "official_backward", 0),
        # None with the compiler that torch 2.15 brings, 96 bytes with that of torch 2.14.
        (90, "tf32", "official_backward", 96),
        (90, "fp32", "official_forward", 0),
        # Three parts of an fp32 row do not all fit; this is what is left over.
        (90, "fp32", "official_backward", 512),
        (80, "bf16", "official_forward", 0),
        (80, "bf16", "official_backward", 0),
        (86, "bf16", "official_backward", 0),
    ],
)
def test_kernels_fit_the_chip(arch, operands, variant, spills, tmp_path, monkeypatch):
    """Hardly a register spilled at 256 channels, shared memory fits, tensor cores used."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiler = report()
    took = compiler.compile_kernel(
        variant,
        arch=arch,
        operands=operands,
        width=256,
        tiles=compiler.chosen_tiles(variant, arch=arch, operands=operands, width=256),
    )
    assert took.spilled <= spills
    assert took.shared <= compiler.SHARED_MEMORY[arch]
    assert took.matrix_instruction.startswith("wgmma" if arch == 90 else "mma.sync")


def test_turing_gets_no_tensor_cores():
    """Why the back end refuses compute capability 7.5: the compiler makes plain arithmetic."""
    compiler = report()
    took = compiler.compile_kernel(
        "logsumexp_forward",
        arch=75,
        operands="fp16",
        width=64,
        tiles=compiler.Tiles(rows=32, columns=32, warps=4, stages=1),
    )
    assert took.matrix_instruction.startswith("none")


@pytest.mark.parametrize(
    ("features", "word"),
    [
        pytest.param(torch.zeros(1, 2, 8, dtype=torch.float64), "float64", id="float64"),
        pytest.param(torch.zeros(1, 2, 1000), "1000", id="too wide"),
        pytest.param(torch.zeros(1, 2, 8), "cpu", id="no GPU"),
    ],
)
def test_says_why_it_cannot_be_used(features, word):
    assert word in launch.unsupported_reason(features, features.dtype)
    labels = torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(ConfigError, match=word):
        official.within_image_loss(features, labels, backend="triton")


def test_says_when_triton_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert (
        launch.unsupported_reason(torch.zeros(1, 2, 8), torch.float32) == "Triton is not installed"
    )
