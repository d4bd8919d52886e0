"""The choice of the back end, and the Triton back end behind the public names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segnb.losses import _core, _reference, _tiled, supcon_loss
from segnb.losses._inputs import pixel_set


@pytest.mark.parametrize(("size", "module"), [(30, _reference), (2000, _tiled)])
def test_auto_takes_tiles_for_many_pairs_on_the_cpu(size, module):
    pixels = pixel_set(
        torch.randn(1, size, 4), torch.zeros(1, size, dtype=torch.long), normalize=True
    )
    assert _core.choose_backend("auto", pixels, size) is module


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_triton_without_a_gpu_says_why():
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("the interpreter stands in for the GPU")
    with pytest.raises(ValueError, match=r"backend='triton' cannot be used: .* not on cpu"):
        supcon_loss(torch.randn(4, 3), torch.tensor([0, 0, 1, 1]), backend="triton")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_all_forms_through_the_triton_interpreter(dtype):
    """In a process of its own: the interpreter must be chosen before Triton is imported."""
    pytest.importorskip("triton")
    program = f"""
import torch
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_losses import FORMS, forms, relative_error, value_and_gradients

for form in FORMS:
    function, features = forms((40, 33, 21), 16, 3, dtype=torch.{dtype})[form]
    for reduction in ("mean", "none"):
        got = value_and_gradients(
            lambda *f: function(*f, backend="triton", reduction=reduction), *features)
        exact = value_and_gradients(
            lambda *f: function(*f, backend="reference", reduction=reduction),
            *(f.double() for f in features))
        errors = [relative_error(a, b) for a, b in zip(got, exact)]
        assert errors[0] < {1e-6 if dtype == "float32" else 1e-5}, (form, reduction, errors)
        assert max(errors) < {2e-6 if dtype == "float32" else 2e-3}, (form, reduction, errors)
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_edge_cases_through_the_triton_interpreter():
    """The edge cases of ``test_losses.py`` that are not in float64, with the Triton back end."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    # A worker of pytest-xdist must not make its child one too.
    environment = {k: v for k, v in environment.items() if not k.startswith("PYTEST_")}
    cases = (
        "degenerate or small_temperature or float16 or autocast or maps_and_lists or strided "
        "or laid_out or subnormal or not_finite or compiles_without"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist"),
            *("-W", "ignore::RuntimeWarning", "-k", f"triton and ({cases})"),
            str(Path(__file__).with_name("test_losses.py")),
        ],
        env=environment,
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_import_is_light():
    """Importing the losses must not import Triton nor start CUDA."""
    program = (
        "import sys, segnb.losses, torch; "
        "assert 'triton' not in sys.modules; assert not torch.cuda.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
