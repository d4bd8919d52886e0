"""What is installed here: versions from the packages' metadata, and the commit of a checkout."""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement


def version(package: str) -> str | None:
    """The installed version of a package, or ``None``."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def requirements(package: str) -> list[Requirement]:
    """What an installed package requires on this system, without extras."""
    from packaging.requirements import Requirement

    if version(package) is None:
        return []
    found = map(Requirement, metadata.requires(package) or [])
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]


def is_met(requirement: Requirement) -> bool:
    """Whether the installed version is enough: "2.6.0+cpu" counts as 2.6.0, as do nightlies."""
    here = version(requirement.name)
    return here is not None and requirement.specifier.contains(here, prereleases=True)


def commit() -> str | None:
    """The commit of a source checkout, with ``+`` if the package was changed; else ``None``.

    A run writes into ``results/``, which is tracked too, but that does not change the code.
    """
    try:
        # The package may be installed in an environment inside a checkout of something else.
        _git("ls-files", "--error-unmatch", "--", Path(__file__).name)
        head = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changed else "")


def _git(*words: str) -> str:
    found = subprocess.run(
        ["git", *words],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return found.stdout.strip()
