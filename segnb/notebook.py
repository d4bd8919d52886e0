"""What the notebooks share: their tier, project paths, and what Colab needs.

The build inserts each notebook's first code cell (``notebooks/src/_setup.py``): on Colab it fetches
the repository and installs segnb, then calls :func:`install_missing`; elsewhere it does nothing.
"""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import cast, get_args

from segnb import datasets, installed
from segnb.errors import ConfigError, DataError
from segnb.recipe import Recipe, Tier

#: Colab's own packages that are never replaced: the rest of its image depends on them.
KEPT = ("torch", "torchvision", "torchaudio", "numpy", "pandas")


def tier() -> Tier:
    """The size a notebook runs at: ``gpu`` where torch sees a GPU, else ``quick``.

    The environment variable ``SEGNB_TIER`` overrides it.

    Raises:
        ConfigError: The variable names no tier.
    """
    import torch

    name = os.environ.get("SEGNB_TIER") or ("gpu" if torch.cuda.is_available() else "quick")
    if name not in get_args(Tier):
        raise ConfigError(f"SEGNB_TIER is {name!r}; set it to one of {', '.join(get_args(Tier))}")
    return cast(Tier, name)


def live_dataset(tier: Tier) -> str:
    """The data set that a notebook trains on: photographs for a GPU, drawn scenes otherwise.

    Args:
        tier: The notebook's tier.

    Returns:
        ``camvid``, else ``voc``, at the tier ``gpu`` if it is in the data folder; else ``shapes``.
    """
    if tier == "gpu":
        for name in datasets.NOTEBOOK_PHOTOGRAPHS:
            try:
                datasets.load(name, "train")
            except DataError:
                continue
            return name
    return "shapes"


def announce(recipes: Mapping[str, Recipe]) -> None:
    """Print where and how long the cells below will train, before they do.

    A few steps of every recipe are timed, which takes seconds.

    Args:
        recipes: What will be trained, by the name to print.
    """
    from segnb.device import describe
    from segnb.experiments.cost import estimate_cost, readable_seconds

    first = next(iter(recipes.values()))
    height, width = first.size
    print(f"Tier {first.tier} on {describe()}.")
    print(f"Images: {first.dataset_title}, at {height}x{width} pixels.")
    costs = {name: estimate_cost(recipe) for name, recipe in recipes.items()}
    wide = max(map(len, costs))
    for name, cost in costs.items():
        print(f"{name:{wide}}  {cost}")
    total = sum(cost.seconds for cost in costs.values())
    print(f"Training takes about {readable_seconds(total)} in all, if nothing else is running.")


def project_path(name: str) -> Path:
    """A path inside the repository, whichever of its folders the notebook runs in.

    Args:
        name: Relative to the repository's root, such as ``results/ledger.jsonl``. Outside a
            checkout of segnb it is relative to the working folder.

    Raises:
        ConfigError: This is Colab, and the set-up cell was not run since the last restart.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "segnb" / "recipe.py").is_file() and (folder / "pyproject.toml").is_file():
            return folder / name
    if in_colab():
        # There the working folder is forgotten at a restart, and the ledger would seem empty.
        raise ConfigError(
            "the set-up cell was not run since the last start: run the cell 'Set-up' at the top "
            "first, then this one again"
        )
    return here / name


def command(line: str, **folders: Path) -> str:
    """A command as a cell of the running notebook takes it: copy it, paste it, run it.

    Args:
        line: The command from the project's folder, such as ``segnb run --dataset camvid``.
        folders: The folders that it works in, by flag (``runs``, ``results``).

    Returns:
        The line behind an exclamation mark, with the folders' paths from the working folder; where
        the shell does not find the program, because the notebook's environment is not activated,
        with the path of that as well.
    """
    program = line.split()[0]
    own = Path(sys.executable).with_name(program)
    if shutil.which(program) is None and own.exists():
        line = shlex.quote(os.path.relpath(own)) + line.removeprefix(program)
    flags = {name: os.path.relpath(path) for name, path in folders.items()}
    words = [word for name, path in flags.items() for word in (f"--{name}", path)]
    return " ".join([f"!{line}", shlex.join(words)]).strip()


def in_colab() -> bool:
    """Whether this process is a Colab kernel."""
    return "google.colab" in sys.modules


def own_folder(given: str | Path | None, into: Path) -> Path | None:
    """The reader's folder of images, wherever it comes from.

    Args:
        given: A folder, or a zip file of one; ``"upload"`` asks for a zip file on Colab; ``None``
            for no folder.
        into: Where a zip file is unpacked.

    Returns:
        The folder; ``None`` without one.

    Raises:
        ConfigError: There is no such folder, or the file is no zip file.
    """
    if given is None:
        return None
    if given == "upload":
        if not in_colab():
            raise ConfigError(
                'FOLDER = "upload" is for Colab; in JupyterLab, drag a zip file of the folder into '
                "the list of files on the left, and set FOLDER to its name"
            )
        names = list(importlib.import_module("google.colab.files").upload())
        if not names:
            raise ConfigError("nothing was uploaded: run the cell again and choose a zip file")
        given = names[0]
    path = Path(given).expanduser()
    if path.is_dir():
        return path
    if not path.is_file():
        raise ConfigError(f"there is no folder and no zip file {path}; correct FOLDER")
    target = into / path.stem
    shutil.rmtree(target, ignore_errors=True)
    try:
        shutil.unpack_archive(path, target)
    except Exception as error:  # zipfile, zlib and tarfile raise their own
        raise ConfigError(f"{path} can't be unpacked ({error}); make the zip file again") from error
    # A zip file made of a folder holds that one folder.
    inside = [one for one in target.iterdir() if one.name != "__MACOSX"]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else target


def install_missing() -> list[str]:
    """Install what segnb needs and this environment lacks, without replacing :data:`KEPT`.

    Returns:
        The requirements that were installed.

    Raises:
        ConfigError: One of :data:`KEPT` itself is missing or too old.
    """
    missing = [one for one in installed.requirements("segnb") if not installed.is_met(one)]
    for one in missing:
        if one.name in KEPT:
            raise ConfigError(
                f"segnb needs {one}, and this runtime has {installed.version(one.name)}; choose a "
                "newer runtime (segnb does not replace it, other packages here depend on it)"
            )
    wanted = [f"{one.name}{one.specifier}" for one in missing]
    if wanted:
        with tempfile.TemporaryDirectory() as folder:
            constraints = Path(folder) / "keep.txt"
            kept = [f"{name}=={here}\n" for name in KEPT if (here := installed.version(name))]
            constraints.write_text("".join(kept))
            command = [sys.executable, "-m", "pip", "install", "--quiet"]
            subprocess.run([*command, "--constraint", str(constraints), *wanted], check=True)
        importlib.invalidate_caches()
    return wanted
