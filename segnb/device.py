"""This machine, and the arithmetic its hardware supports.

Nothing here runs at import. No CUDA call is made until a function is called, so that a notebook
can still start several processes afterwards.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from segnb import installed
from segnb.errors import ConfigError
from segnb.recipe import Precision

ResolvedPrecision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Machine:
    """The machine that a run uses.

    Attributes:
        device: ``cuda``, ``mps`` or ``cpu``: the best that torch can use here.
        name: Name of the GPU, or of the CPU with its vector unit, which servers of one name can
            differ in.
        devices: How many devices of this kind there are (1 for ``mps`` and ``cpu``).
        memory: Bytes of memory on the device; main memory for ``mps`` and ``cpu``.
        cores: CPU cores that this process may use.
        python: Version of Python.
        torch: Version of torch.
        torchvision: Version of torchvision; ``None`` if it is not installed.
        precision: The arithmetic that ``precision="auto"`` means here.
        precision_reason: Why.
    """

    device: str
    name: str
    devices: int
    memory: int
    cores: int
    python: str
    torch: str
    torchvision: str | None
    precision: ResolvedPrecision
    precision_reason: str

    def __str__(self) -> str:
        several = f"{self.devices} x " if self.devices > 1 else ""
        return (
            f"{several}{self.name} ({self.device}, {self.memory / 2**30:.1f} GiB), "
            f"{self.cores} CPU cores, Python {self.python}, torch {self.torch}, "
            f"{self.precision}"
        )


def best_device() -> torch.device:
    """The device to train on: a CUDA or ROCm GPU, else Apple's GPU, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def describe(device: torch.device | str | None = None) -> Machine:
    """Describe this machine; initialises CUDA if there is a GPU.

    Args:
        device: The device to describe; by default the best one.
    """
    chosen = best_device() if device is None else torch.device(device)
    if chosen.type == "cuda":
        properties = torch.cuda.get_device_properties(chosen)
        name, memory = properties.name, properties.total_memory
        devices = torch.cuda.device_count()
    else:
        name, memory, devices = _processor_name(), machine_memory(), 1
    precision, reason = _decide("auto", chosen)
    return Machine(
        device=chosen.type,
        name=name,
        devices=devices,
        memory=memory,
        cores=usable_cores(),
        python=platform.python_version(),
        torch=torch.__version__,
        torchvision=installed.version("torchvision"),
        precision=precision,
        precision_reason=reason,
    )


def choose_precision(requested: Precision, device: torch.device | str) -> ResolvedPrecision:
    """The arithmetic to train with, given what the device supports in hardware.

    ``auto`` uses bf16 where there is hardware for it (it needs no loss scaling), fp16 on older
    GPUs, and fp32 elsewhere. The contrastive loss itself is always computed in fp32.

    Raises:
        ConfigError: The device does not support the precision, or would only emulate it.
    """
    return _decide(requested, torch.device(device))[0]


def emulated(precision: ResolvedPrecision, device: torch.device | str) -> str | None:
    """What to tell of a precision that the CPU computes in software; ``None`` if it does not."""
    if precision != "bf16" or torch.device(device).type != "cpu" or _bf16_hardware():
        return None
    return (
        "this CPU has no fast bf16 arithmetic: training in 'bf16' can take twenty times as long "
        "as in 'fp32'; choose 'fp32' or 'auto' unless it must be bf16"
    )


def memory_format(precision: ResolvedPrecision, device: torch.device | str) -> torch.memory_format:
    """The order in memory in which convolutions train fastest.

    That is channels last, but not in fp32 on a CPU with AVX2 alone: there, the gradients of dilated
    convolutions have a fast kernel for contiguous maps only.
    """
    on_cpu = torch.device(device).type == "cpu"
    if on_cpu and precision == "fp32" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        return torch.contiguous_format
    return torch.channels_last


def usable_cores() -> int:
    """CPU cores that this process may use; a container may have fewer than the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def physical_cores() -> int:
    """The machine's cores, counting those with two hardware threads once."""
    import psutil

    return psutil.cpu_count(logical=False) or usable_cores()


def is_intel_processor() -> bool:
    """Whether Linux reports an Intel CPU; false on other systems."""
    return _cpuinfo("vendor_id") == "GenuineIntel"


def machine_memory() -> int:
    """Bytes of main memory that this process may use, within a container's limit."""
    import psutil

    total = int(psutil.virtual_memory().total)
    limit = Path("/sys/fs/cgroup/memory.max")
    try:
        return min(total, int(limit.read_text()))
    except (OSError, ValueError):  # not Linux, no such cgroup, or "max": no limit
        return total


def _decide(requested: Precision, device: torch.device) -> tuple[ResolvedPrecision, str]:
    if requested not in get_args(Precision):
        raise ConfigError(f"precision is {requested!r}; it must be one of {get_args(Precision)}")
    if requested == "fp32":  # works everywhere: no need to query the GPU
        return "fp32", "as requested"
    if device.type == "cuda":
        with torch.cuda.device(device):
            # GPUs before Ampere claim to support bf16, but emulate it, slower than fp32.
            has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        if requested == "bf16" and not has_bf16:
            raise ConfigError(
                f"precision 'bf16' would only be emulated on {torch.cuda.get_device_name(device)}, "
                "slower than fp32; use 'fp16' or 'auto'"
            )
        if requested == "auto":
            if has_bf16:
                return "bf16", "this GPU supports bf16, which needs no loss scaling"
            return "fp16", "this GPU has no bf16 arithmetic; fp16 with loss scaling"
    elif device.type == "cpu":
        if requested == "fp16":
            raise ConfigError(
                "precision 'fp16' is for GPUs, and this run is on the CPU; use 'auto', 'fp32' or "
                "'bf16'"
            )
        if requested == "auto":
            if feature := _bf16_hardware():
                return "bf16", f"this CPU supports bf16 ({feature})"
            return "fp32", "this CPU has no bf16 arithmetic that is faster than fp32"
    elif requested == "auto":
        return "fp32", f"mixed precision is not reliable on {device.type}"
    else:
        raise ConfigError(
            f"precision {requested!r} is not supported on {device.type!r}; use 'fp32' or 'auto'"
        )
    return requested, "as requested"


def _bf16_hardware() -> str | None:
    """The bf16 unit of this CPU, if it is faster than the CPU's fp32 arithmetic.

    AMX is. AVX-512 BF16 counts only on AMD's CPUs: on an Intel server whose virtual machine hides
    AMX, products and convolutions in bf16 ran at half the speed of fp32.

    This relies on Linux's list of CPU flags. Other systems count as having no such unit: fp32 is
    always correct, only slower.
    """
    flags = _cpuinfo("flags").split()
    if "amx_bf16" in flags:
        return "AMX"
    if "avx512_bf16" in flags and not is_intel_processor():
        return "AVX-512 BF16"
    return None


def _cpuinfo(field: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


def _processor_name() -> str:
    name = _cpuinfo("model name") or platform.processor() or platform.machine()
    capability = torch.backends.cpu.get_cpu_capability()
    unit = _bf16_hardware() or ("" if capability == "DEFAULT" else capability)
    return f"{name}, {unit}" if unit else name
