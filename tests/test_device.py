"""What a machine is asked for, and what it is given."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest
import torch

import segnb.device as device
from segnb.device import (
    ResolvedPrecision,
    choose_precision,
    describe,
    emulated,
    memory_format,
)
from segnb.errors import ConfigError


def test_describe_tells_this_machine() -> None:
    machine = describe("cpu")
    assert machine.device == "cpu"
    assert machine.torch == torch.__version__
    assert machine.cores >= 1
    assert machine.memory > 2**28
    assert machine.precision in get_args(ResolvedPrecision)
    assert machine.name in str(machine)
    assert "torch" in str(machine)


def test_describe_takes_the_best_device_by_itself() -> None:
    assert describe().device == device.best_device().type


@pytest.mark.parametrize(
    ("vendor", "flags", "precision"),
    [
        ("AuthenticAMD", "sse4_2 avx2 avx512f", "fp32"),
        ("AuthenticAMD", "avx512f avx512_bf16", "bf16"),
        ("GenuineIntel", "avx512f avx512_bf16", "fp32"),
        ("GenuineIntel", "avx512_bf16 amx_tile amx_bf16", "bf16"),
        ("", "", "fp32"),
    ],
)
def test_bf16_on_a_processor_only_with_fast_hardware(
    vendor: str, flags: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"vendor_id": vendor, "flags": flags, "model name": "a processor"}
    monkeypatch.setattr(device, "_cpuinfo", known.__getitem__)
    assert choose_precision("auto", "cpu") == precision
    assert describe("cpu").precision == precision


@pytest.mark.parametrize(
    ("flags", "capability", "name"),
    [
        ("avx512_bf16", "AVX512", "AMD EPYC, AVX-512 BF16"),
        ("avx2", "AVX2", "AMD EPYC, AVX2"),
        ("", "DEFAULT", "AMD EPYC"),
    ],
)
def test_servers_of_one_name_are_told_apart_by_their_vector_unit(
    flags: str, capability: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"vendor_id": "AuthenticAMD", "flags": flags, "model name": "AMD EPYC"}
    monkeypatch.setattr(device, "_cpuinfo", known.__getitem__)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert describe("cpu").name == name


def test_a_system_without_a_list_of_flags_stays_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_file(*_: object, **__: object) -> str:
        raise FileNotFoundError("/proc/cpuinfo")

    monkeypatch.setattr(device.Path, "read_text", no_file)
    assert choose_precision("auto", "cpu") == "fp32"
    assert "no bf16" in describe("cpu").precision_reason


@pytest.mark.parametrize("name", ["cpu", "cuda", "mps"])
def test_fp32_is_always_granted(name: str) -> None:
    assert choose_precision("fp32", name) == "fp32"


def test_bf16_asked_for_is_granted_on_a_processor() -> None:
    assert choose_precision("bf16", "cpu") == "bf16"


@pytest.mark.parametrize(("flags", "slow"), [("avx2", True), ("avx512_bf16", False)])
def test_bf16_in_software_is_called_slow(
    flags: str, slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"vendor_id": "AuthenticAMD", "flags": flags}
    monkeypatch.setattr(device, "_cpuinfo", known.__getitem__)
    said = emulated("bf16", "cpu")
    assert (said is not None) == slow
    assert said is None or ("'bf16'" in said and "'fp32'" in said)
    assert emulated("fp32", "cpu") is None
    assert emulated("bf16", "cuda") is None


@pytest.mark.parametrize(
    ("precision", "name", "capability", "last"),
    [
        ("fp32", "cpu", "AVX2", False),
        ("fp32", "cpu", "AVX512", True),
        ("bf16", "cpu", "AVX2", True),
        ("fp32", "cuda", "AVX2", True),
    ],
)
def test_maps_lie_as_convolutions_train_fastest(
    precision: ResolvedPrecision,
    name: str,
    capability: str,
    last: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    expected = torch.channels_last if last else torch.contiguous_format
    assert memory_format(precision, name) == expected


def test_fp16_on_a_processor_is_refused_with_a_way_out() -> None:
    with pytest.raises(ConfigError, match=r"'fp16'.*CPU.*'auto'"):
        choose_precision("fp16", "cpu")


def test_apples_gpu_stays_in_fp32() -> None:
    assert choose_precision("auto", "mps") == "fp32"
    with pytest.raises(ConfigError, match="mps"):
        choose_precision("bf16", "mps")


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(ConfigError, match="fp8"):
        choose_precision("fp8", "cpu")  # type: ignore[arg-type]


class _Card:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp16")])
def test_a_card_is_asked_without_emulation(
    has_bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(*, including_emulation: bool = True) -> bool:
        return True if including_emulation else has_bf16

    monkeypatch.setattr(torch.cuda, "device", lambda _: _Card())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    assert choose_precision("auto", "cuda") == expected
    assert choose_precision("fp16", "cuda") == "fp16"
    if has_bf16:
        assert choose_precision("bf16", "cuda") == "bf16"
    else:
        with pytest.raises(ConfigError, match="Tesla T4"):
            choose_precision("bf16", "cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_real_card_is_described() -> None:
    machine = describe("cuda")
    assert machine.name == torch.cuda.get_device_name()
    assert machine.memory > 2**30
    assert machine.precision in ("bf16", "fp16")


def test_import_touches_no_cuda() -> None:
    code = "import segnb.device, torch; raise SystemExit(int(torch.cuda.is_initialized()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
