"""What is installed here, read from the packages' metadata without importing them."""

from __future__ import annotations

from importlib import metadata
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
