"""Make ``dist/segnb.zip``: the project as a user carries it to Colab.

::

    python tools/pack.py

It holds every file that git tracks but what the notebooks can do without: the saved outputs of the
notebooks themselves, which are made again from their sources, figures, and the runs that choices
were made with. The set-up cell names these (``UNUSED``), and leaves them out of a clone as well.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat

from segnb.files import atomic_path

if __package__:
    from tools import notebooks
else:  # started as a script, which finds its neighbours alone
    import notebooks

REPOSITORY = notebooks.REPOSITORY

#: A zip that takes longer to upload is refused: then something new is too large.
MOST_BYTES = 20_000_000

_UNUSED = re.compile(r"^UNUSED = (\[.*?\])", re.MULTILINE)

#: The same for all files, so that equal content makes equal bytes.
_DATE = (2000, 1, 1, 0, 0, 0)


class PackError(Exception):
    """There is no checkout to pack, or the zip is too large."""


def unused(setup: Path = notebooks.SETUP) -> list[str]:
    """Patterns of the paths that the notebooks can do without, as git reads them."""
    match = _UNUSED.search(setup.read_text(encoding="utf-8"))
    if match is None:
        raise PackError(f"{setup.name} has no line UNUSED = [...]")
    return [str(one) for one in ast.literal_eval(match[1])]


def files(repository: Path = REPOSITORY) -> list[Path]:
    """The tracked files that belong into the zip, relative to the repository.

    Raises:
        PackError: This is no checkout of git.
    """
    without = [f":(exclude,glob){one.strip('/')}" for one in unused()]
    command = ["git", "ls-files", "-z", "--", ".", *without]
    found = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    if found.returncode:
        raise PackError(f"{repository} is no checkout of git: {found.stderr.strip()}")
    paths = [Path(name) for name in found.stdout.split("\0") if name]
    return [path for path in paths if (repository / path).is_file()]


def pack(target: Path, repository: Path = REPOSITORY) -> int:
    """Write the zip; return its size in bytes.

    Raises:
        PackError: This is no checkout of git, or the zip would be too large.
    """
    content = {path.as_posix(): (repository / path).read_bytes() for path in files(repository)}
    for source in notebooks.sources():
        made = nbformat.writes(notebooks.make(source))
        content[f"notebooks/{source.stem}.ipynb"] = (made + "\n").encode()
    with atomic_path(target) as side:
        with zipfile.ZipFile(side, "w") as archive:
            for name, value in sorted(content.items()):
                about = zipfile.ZipInfo(f"segnb/{name}", _DATE)
                about.external_attr = 0o644 << 16
                archive.writestr(about, value, zipfile.ZIP_DEFLATED, 9)
        size = side.stat().st_size
        if size > MOST_BYTES:
            raise PackError(
                f"the zip would have {size / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:.0f}; add "
                f"what the notebooks can do without to UNUSED in {notebooks.SETUP.name}"
            )
    return size


def main() -> int:
    """The command line; returns the exit code."""
    target = REPOSITORY / "dist" / "segnb.zip"
    try:
        size = pack(target)
    except PackError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{target}: {size / 1e6:.1f} MB. Upload it to Colab, then run the set-up cell.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
