"""Which library multiplies float32 matrices on the CPU."""

from __future__ import annotations

import pytest
import torch

from segnb.losses.tiled import operators

needs_switch = pytest.mark.skipif(
    not hasattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision"),
    reason="this torch has no switch for oneDNN products",
)


@needs_switch
def test_products_stay_with_mkl_where_it_is_at_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "is_intel_processor", lambda: True)
    monkeypatch.setattr(torch._C, "has_mkl", True)
    assert operators._setting.__wrapped__() is None
    # Without MKL the probe decides, on Intel too.
    monkeypatch.setattr(torch._C, "has_mkl", False)
    monkeypatch.setattr(operators, "FLOAT32_ERROR", 1.0)
    assert operators._setting.__wrapped__() == "bf16"


@needs_switch
def test_a_setting_that_rounds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "is_intel_processor", lambda: False)
    monkeypatch.setattr(operators, "FLOAT32_ERROR", 0.0)
    assert operators._setting.__wrapped__() is None


@needs_switch
def test_the_switch_is_put_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    switch = torch.backends.mkldnn.matmul
    before = switch.fp32_precision
    monkeypatch.setattr(operators, "_setting", lambda: "bf16")
    seen = []

    def fail() -> None:
        with operators.fast_products(torch.zeros(4, 2)):
            seen.append(switch.fp32_precision)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen == ["bf16"]
    assert switch.fp32_precision == before
    with operators.fast_products(torch.zeros(4, 2, dtype=torch.float64)):
        assert switch.fp32_precision == before


@needs_switch
def test_large_sets_leave_no_kernels_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    switch = torch.backends.mkldnn.matmul
    before = switch.fp32_precision
    monkeypatch.setattr(operators, "_setting", lambda: "bf16")
    monkeypatch.setattr(operators, "ONEDNN_PIXELS", 8)
    for pixels, wanted in ((8, "bf16"), (9, before)):
        with operators.fast_products(torch.zeros(2, pixels, 3)):
            assert switch.fp32_precision == wanted
