"""What is installed here, by the packages' own records; nothing is imported to find out."""

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
    """What an installed package asks for on this system, extras left out."""
    from packaging.requirements import Requirement

    if version(package) is None:
        return []
    found = map(Requirement, metadata.requires(package) or [])
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]


def is_met(requirement: Requirement) -> bool:
    """Whether what is installed will do: "2.6.0+cpu" is 2.6.0, and a nightly build counts."""
    here = version(requirement.name)
    return here is not None and requirement.specifier.contains(here, prereleases=True)
