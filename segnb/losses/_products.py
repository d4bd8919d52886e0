"""Which library multiplies float32 matrices on the CPU.

MKL is at the peak of Intel's processors, whose maker it has; on others oneDNN is faster at the same
accuracy. The setting that reaches oneDNN lets some processors round to bfloat16: a probe of the
accuracy tells them apart. Measured in ``benchmarks/NOTES.md``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from segnb.device import is_intel_processor

#: Largest error of a product of unit vectors that still counts as float32.
FLOAT32_ERROR = 1e-6


@contextmanager
def fast_products(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Send float32 products on the CPU to oneDNN where that costs no accuracy."""
    setting = _setting() if device.type == "cpu" and dtype == torch.float32 else None
    if setting is None:
        yield
        return
    with _precision(setting):
        yield


@contextmanager
def _precision(setting: str) -> Iterator[None]:
    switch = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = switch.fp32_precision
    switch.fp32_precision = setting
    try:
        yield
    finally:
        switch.fp32_precision = before


@functools.cache
def _setting() -> str | None:
    """The setting that reaches oneDNN with float32 accuracy on this machine, or None."""
    switch = getattr(torch.backends.mkldnn, "matmul", None)
    if not torch._C._has_mkldnn or not hasattr(switch, "fp32_precision"):
        return None
    if torch._C.has_mkl and is_intel_processor():
        # No faster there, and oneDNN keeps the kernels of every shape of tile: 90 MiB of them.
        return None
    generator = torch.Generator().manual_seed(0)
    first, second = torch.nn.functional.normalize(
        torch.randn(2, 256, 256, generator=generator), dim=2
    )
    exact = first.double() @ second.double().T
    with _precision("bf16"):
        error = float((first @ second.T - exact).abs().max())
    return "bf16" if error < FLOAT32_ERROR else None
