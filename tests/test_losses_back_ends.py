"""The choice of the back end, and the Triton back end behind the public names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from segnb.errors import ConfigError
from segnb.losses import backends, official, plain, supcon_loss
from segnb.losses.pixels import Pixels
from segnb.losses.tiled import operators as tiled
from segnb.losses.triton import operators as triton


def pixels(size: int, device: str = "cpu") -> Pixels:
    return Pixels(
        features=torch.empty(1, size, 4, device=device),
        labels=torch.zeros(1, size, dtype=torch.long, device=device),
        temperature=0.07,
        dtype=torch.float32,
    )


@pytest.mark.parametrize(("size", "module"), [(30, plain), (2000, tiled)])
def test_auto_takes_tiles_for_many_pairs_on_the_cpu(size, module):
    assert backends.choose_backend("auto", "official", pixels(size), size) is module


def test_auto_takes_the_kernels_on_cards_that_have_passed_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(triton, "unsupported_reason", lambda features, dtype: None)
    checked = []
    monkeypatch.setattr(backends, "check_triton", lambda *which: checked.append(which))
    with FakeTensorMode():
        many = pixels(2000, "cuda")
        assert backends.choose_backend("auto", "official", many, 2000) is tiled
        monkeypatch.setattr(backends, "CHECKED_CAPABILITIES", frozenset({(8, 0)}))
        assert backends.choose_backend("auto", "official", many, 2000) is tiled
        assert not checked
        monkeypatch.setattr(backends, "CHECKED_CAPABILITIES", frozenset({(9, 0)}))
        assert backends.choose_backend("auto", "official", many, 2000) is triton
        assert [form for _, form in checked] == ["official"]


@pytest.fixture
def kernels(monkeypatch):
    """Back ``triton`` by the plain form, up to what the test does to its results."""
    monkeypatch.setattr(triton, "unsupported_reason", lambda features, dtype: None)
    calls = []

    def spoil(change):
        def spoilt(right):
            def wrong(*arguments):
                calls.append(arguments)
                return change(right(*arguments))

            return wrong

        monkeypatch.setattr(triton, "logsumexp_form", spoilt(plain.logsumexp_form))
        monkeypatch.setattr(triton, "official_form", spoilt(plain.official_form))
        return calls

    monkeypatch.setattr(backends, "_CHECKED", set())
    return spoil


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 1.001 * gradient


def does_not_compile(loss):
    raise RuntimeError("out of resource: shared memory\nand more")


@pytest.mark.parametrize("loss", [supcon_loss, official.within_image_loss])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda loss: 1.001 * loss, "wrong value or gradient"),
        (WrongGradient.apply, "wrong value or gradient"),
        (lambda loss: torch.nan * loss, "wrong value or gradient .*nan"),
        (does_not_compile, "do not run .RuntimeError: out of resource: shared memory"),
    ],
    ids=["wrong value", "wrong gradient", "nan", "no compilation"],
)
def test_kernels_that_fail_their_check_are_never_used(loss, change, words, kernels):
    kernels(change)
    features, labels = torch.randn(1, 4, 3), torch.tensor([[0, 0, 1, 1]])
    with pytest.raises(ConfigError, match=f"{words}.* on cpu; use backend='tiled'") as error:
        loss(features, labels, backend="triton")
    assert "\n" not in str(error.value)


def test_kernels_are_checked_once_a_device_and_form(kernels):
    calls = kernels(lambda loss: loss)
    features, labels = torch.randn(1, 4, 3), torch.tensor([[0, 0, 1, 1]])
    counts = []
    for _ in range(2):
        for loss in (supcon_loss, official.within_image_loss):
            with torch.no_grad():
                loss(features, labels, backend="triton")
            counts.append(len(calls))
    # Two problems of the logsumexp form, one of the official form, and each loss itself.
    assert counts == [3, 5, 6, 7]


def test_losses_of_single_anchors_come_from_the_plain_form():
    features, labels = torch.randn(1, 40, 3), torch.arange(40)[None] % 3
    results = [
        supcon_loss(features, labels, reduction="none", backend=name) for name in ("plain", "tiled")
    ]
    assert torch.equal(*results)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_triton_without_a_gpu_says_why():
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("the interpreter stands in for the GPU")
    with pytest.raises(ConfigError, match=r"backend='triton' cannot be used: .* not on cpu"):
        supcon_loss(torch.randn(4, 3), torch.tensor([0, 0, 1, 1]), backend="triton")


def need_interpreter():
    """Skip where Triton's interpreter lacks what the kernels use: that of torch 2.6 has no int1."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    if not hasattr(interpreter.InterpreterBuilder, "get_int1_ty"):
        pytest.skip("the interpreter of this Triton knows no int1; its compiler does")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_all_forms_through_the_triton_interpreter(dtype):
    """In a process of its own: the interpreter must be chosen before Triton is imported."""
    need_interpreter()
    program = f"""
import torch
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_losses import FORMS, forms, relative_error, value_and_gradients

for form in FORMS:
    function, features = forms((40, 33, 21), 16, 3, dtype=torch.{dtype})[form]
    got = value_and_gradients(lambda *f: function(*f, backend="triton"), *features)
    exact = value_and_gradients(
        lambda *f: function(*f, backend="plain"), *(f.double() for f in features))
    errors = [relative_error(a, b) for a, b in zip(got, exact)]
    assert errors[0] < {1e-6 if dtype == "float32" else 1e-5}, (form, errors)
    assert max(errors) < {2e-6 if dtype == "float32" else 2e-3}, (form, errors)
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
    need_interpreter()
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    # A worker of pytest-xdist must not make its child one too.
    environment = {k: v for k, v in environment.items() if not k.startswith("PYTEST_")}
    cases = (
        "degenerate or small_temperature or float16 or autocast or maps_and_lists or strided "
        "or laid_out or not_finite or compiles_without"
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
