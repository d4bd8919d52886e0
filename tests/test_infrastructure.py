"""The repository keeps its own promises: layers, imports, links, floors, sizes, tables."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import segnb
from segnb import datasets
from segnb.cli import Run, _parse
from segnb.recipe import preset
from segnb.results import ledger
from tools import commands, readme

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "segnb"

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the import contracts of a folder's pyproject.toml against the packages in it."""
    code = "from importlinter.cli import lint_imports_command as c; c(['--no-cache'])"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_imports_go_one_way() -> None:
    done = lint_imports(REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("recipe", "def f():\n    import segnb.cli\n", "is not allowed to import segnb.cli"),
        ("losses/paper", "from segnb import plots\n", "is not allowed to import segnb.plots"),
        ("stray", "", "segnb.stray"),
        ("losses/plain", "import segnb.losses.tiled\n", "to import segnb.losses.tiled"),
    ],
)  # fmt: skip
def test_a_forbidden_import_is_seen(
    tmp_path: Path, module: str, source: str, complaint: str
) -> None:
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    for path in [*PACKAGE.rglob("*.py")]:
        copy = tmp_path / path.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text("")
    assert lint_imports(tmp_path).returncode == 0
    (tmp_path / "segnb" / f"{module}.py").write_text(source)
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert complaint in done.stdout


def test_data_sets_are_listed_in_their_registry_alone() -> None:
    """Elsewhere a name may be a default or an example; three of them are a second list."""
    lists = {}
    for path in MODULES:
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        found = {node.value for node in nodes if isinstance(node, ast.Constant)}
        if "datasets" not in path.parts and len(found & set(datasets.names())) >= 3:
            lists[str(path)] = found & set(datasets.names())
    assert lists == {}


def _fresh(code: str, cwd: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=cwd
    )
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]


def test_import_is_light(tmp_path: Path) -> None:
    _fresh(
        "import sys, segnb, segnb.recipe, segnb.errors, segnb.files, segnb.doctor, segnb.datasets\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'sklearn', 'ipywidgets'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)",
        tmp_path,
    )


def test_importing_everything_touches_no_card_network_or_file(tmp_path: Path) -> None:
    names = [
        "segnb." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for path in MODULES
        if path.name != "__main__.py"
    ]
    _fresh(
        "import importlib, socket, sys\n"
        "def no(*_, **__): raise RuntimeError('network at import')\n"
        "socket.socket.connect = socket.getaddrinfo = no\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name.removesuffix('.__init__'))\n"
        "import torch\n"
        "assert not torch.cuda.is_initialized(), 'CUDA was touched at import'\n",
        tmp_path,
    )
    assert list(tmp_path.iterdir()) == []


def documents() -> list[Path]:
    found = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("data/*.md")]
    found += [*REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("results/**/*.md")]
    return sorted([*found, *REPOSITORY.glob("notebooks/src/*.py")])


def links(text: str) -> list[str]:
    """Targets of Markdown and HTML links and images, code left out."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    marked = re.findall(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)", text)
    return marked + re.findall(r"<(?:a|img)\s[^>]*?(?:href|src)=\"([^\"]+)\"", text)


def slug(heading: str) -> str:
    """The anchor GitHub makes of a heading."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+\s+(.+)$", text, flags=re.MULTILINE)}


def broken_links(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    base = path.parent
    if path.suffix == ".py":
        # Only the Markdown cells of a notebook's source; it is read from one folder up.
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("# "))
        base = path.parent.parent
    broken = []
    for link in links(text):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (base / name).resolve() if name else path
        inside = target.is_relative_to(REPOSITORY) or not path.is_relative_to(REPOSITORY)
        found = inside and target.exists()
        if found and anchor and target.suffix == ".md":
            found = anchor in anchors(target)
        if not found:
            broken.append(link)
    return broken


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_somewhere(path: Path) -> None:
    assert broken_links(path) == []


def test_the_link_test_sees_links(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading, here\n[a](there.md) [b](missing.md) ![c](no.png) [d](#a-heading-here)\n"
        '[e](#nowhere) <img src="gone.svg" alt="x"> [f](https://example.org) `[g](code.md)`\n'
    )
    (tmp_path / "there.md").write_text("x")
    assert broken_links(page) == ["missing.md", "no.png", "#nowhere", "gone.svg"]


def project() -> dict[str, object]:
    with (REPOSITORY / "pyproject.toml").open("rb") as stream:
        found: dict[str, object] = tomllib.load(stream)["project"]
    return found


def requirements() -> dict[str, Requirement]:
    tables = project()
    optional = tables["optional-dependencies"]
    assert isinstance(optional, dict)
    lines = [*tables["dependencies"], *(line for group in optional.values() for line in group)]  # type: ignore[misc]
    found = [Requirement(line) for line in lines]
    return {each.name: each for each in found if each.name != "segnb"}


@pytest.mark.parametrize("name", sorted(requirements()))
def test_floors_never_pins(name: str) -> None:
    operators = {part.operator for part in requirements()[name].specifier}
    assert operators == {">="}, f"{requirements()[name]}: a floor, no pin and no ceiling"


def test_every_floor_of_the_package_has_a_reason() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    block = text.split("\ndependencies = [", 1)[1].split("\n]", 1)[0]
    bare = [line for line in block.splitlines() if '"' in line and "#" not in line]
    assert bare == []


#: What the package imports without asking for it, and who brings it.
BROUGHT_ALONG = {
    "IPython": "ipykernel",
    "timm": "segmentation-models-pytorch, whose encoders tu-… are timm's",
    "triton": "torch where there are graphics cards; imported only where it is found",
}


def foreign(path: Path) -> set[str]:
    """Top-level modules from other projects that a file imports anywhere, functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {"segnb"}


def test_what_is_imported_is_asked_for() -> None:
    asked = {canonicalize_name(name) for name in requirements()}
    owners = packages_distributions()
    unasked = {
        f"{path.relative_to(REPOSITORY)}: {module}"
        for path in MODULES
        for module in foreign(path) - BROUGHT_ALONG.keys()
        # An extra that isn't installed has no owner here; its package is named as its module.
        if not asked & {canonicalize_name(owner) for owner in owners.get(module, (module,))}
    }
    assert not unasked, "name them in pyproject.toml and environment.yml"


def test_the_import_test_sees_imports(tmp_path: Path) -> None:
    source = "import os\nfrom segnb import x\ndef f():\n    from scipy.stats import t\n"
    (tmp_path / "module.py").write_text(source)
    assert foreign(tmp_path / "module.py") == {"scipy"}


#: Packages whose name on conda-forge differs.
CONDA_NAMES = {
    "torch": "pytorch",
    "matplotlib": "matplotlib-base",
    "playwright": "playwright-python",
}


def test_environment_is_in_step_with_pyproject() -> None:
    text = (REPOSITORY / "environment.yml").read_text(encoding="utf-8")
    environment = yaml.safe_load(text)
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    have = set(environment["dependencies"])
    wanted = requirements()
    # Left to pip, whose commands the comment gives.
    optional = project()["optional-dependencies"]
    assert isinstance(optional, dict)
    lines = [*optional["imagenet"], *optional["ray"]]
    on_pypi = [str(wanted.pop(Requirement(line).name)) for line in lines]
    assert re.findall(r'^#   pip install "(.+)"$', text, flags=re.MULTILINE) == on_pypi
    want = {
        f"{CONDA_NAMES.get(name, name)}{requirement.specifier}"
        for name, requirement in wanted.items()
    }
    want |= {f"python{project()['requires-python']}", "pip"}
    assert have == want


def test_versions_agree() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == segnb.__version__ == project()["version"]
    assert "2012.06985" in str(citation["preferred-citation"])


def tracked() -> list[Path]:
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    return [REPOSITORY / name for name in done.stdout.split("\0") if name]


def test_no_large_file_is_tracked() -> None:
    large = [
        str(path.relative_to(REPOSITORY))
        for path in tracked()
        if path.is_file() and path.stat().st_size > 3_000_000
    ]
    assert large == []


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("make") is None:
        pytest.skip("no make here")
    for name in ("Makefile", "pyproject.toml"):
        if not (folder / name).exists():
            shutil.copy(REPOSITORY / name, folder)
    # The tests themselves may run under make, whose flags are not meant for this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--no-print-directory", *words]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_an_old_python_is_refused_with_a_way_out(tmp_path: Path) -> None:
    done = make(tmp_path, "test", "PYTHON=false")
    assert done.returncode != 0
    assert "3.10 or newer" in done.stderr
    assert "make test PYTHON=" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_an_environment_is_made_once_and_again_when_requirements_change(tmp_path: Path) -> None:
    assert "pip install" in make(tmp_path, "--dry-run", "test").stdout
    ready = tmp_path / ".venv" / ".ready"
    ready.parent.mkdir()
    ready.touch()
    again = make(tmp_path, "--dry-run", "test").stdout
    assert "pip install" not in again
    assert again.count("\n") == 4, "ruff twice, mypy, pytest"
    os.utime(tmp_path / "pyproject.toml", (ready.stat().st_mtime + 9,) * 2)
    assert "pip install" in make(tmp_path, "--dry-run", "test").stdout


@pytest.mark.parametrize("path", readme.PAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_tables_come_from_the_ledger(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "<!-- begin: segnb table" in text, f"{path} shows no results"
    assert readme.refresh(text) == text, "run: python tools/readme.py"


@pytest.mark.parametrize("path", readme.PAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_quoted_intervals_and_correlations_stand_in_a_table(path: Path) -> None:
    tables = "".join(page.read_text(encoding="utf-8") for page in readme.PAGES)
    quoted = readme.unbacked(path.read_text(encoding="utf-8"), tables)
    assert quoted == [], "no table of the pages holds these"


def test_a_drifted_interval_is_seen() -> None:
    table = "<!-- begin: segnb table -->\n| +0.8 (-1.1 to +2.6) |\n<!-- end -->\n"
    told = "0.8 ahead (-1.1\n  to +2.6), the other behind (-2.6 to +1.1). Fisher 2.2 to 3.9.\n"
    assert readme.unbacked(told + table, table) == []
    assert readme.unbacked("0.8 ahead (-1.1 to\n+2.7)\n" + table, table) == ["-1.1 to +2.7"]


def test_a_drifted_correlation_is_seen() -> None:
    table = "<!-- begin: segnb table -->\n| **-0.41** (0.26) | +0.31 (0.34) |\n<!-- end -->\n"
    assert readme.unbacked("It is -0.41 there (+0.31 here), with a rate of 0.05.\n", table) == []
    assert readme.unbacked("It is -0.29, a gain of +1.3 apart.\n" + table, table) == ["-0.29"]


@pytest.mark.parametrize(
    "path", commands.LEDGERS, ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_commands_of_results_run_their_recipes(path: Path) -> None:
    rows = ledger.read(path)
    assert rows, f"{path} holds no rows"
    for row in rows:
        assert commands.refresh(row) == row, "run: python tools/commands.py"
    # Parsing takes long: of commands that differ in the seed alone, one stands for all.
    alike = {re.sub(r" --seed \d+", "", row["command"]): row for row in rows}
    for row in alike.values():
        words = shlex.split(row["command"])
        assert _parse(Run, words[1], words[2:]).recipe.hash == row["recipe_hash"]


def test_a_changed_preset_changes_the_command_and_not_the_recipe() -> None:
    recipe = preset("camvid", "quick").replace(temperature=0.5)
    stale = {"recipe": recipe.to_dict(), "command": "segnb run", "changes": {}, "miou_val": 30.0}
    fresh = commands.refresh(stale)
    assert fresh["command"] == "segnb run --dataset camvid --tier quick --temperature 0.5"
    assert fresh["changes"] == {"temperature": 0.5}
    assert {**fresh, "command": "segnb run", "changes": {}} == stale


def test_a_drifted_table_is_seen() -> None:
    text = "a\n<!-- begin: segnb table -->\n\n| old |\n\n<!-- end -->\nb\n"
    made = readme.refresh(text, lambda command: f"| {command} |\n")
    assert made == "a\n<!-- begin: segnb table -->\n\n| segnb table |\n\n<!-- end -->\nb\n"
    assert readme.refresh(made, lambda command: f"| {command} |\n") == made


@pytest.mark.parametrize(
    "text",
    [
        "<!-- begin: segnb table -->\n| x |\n",
        "| x |\n<!-- end -->\n",
        "<!-- begin: segnb table -->\n<!-- begin: segnb table -->\n<!-- end -->\n<!-- end -->\n",
    ],
)
def test_a_block_that_does_not_close_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="opened"):
        readme.refresh(text, lambda _: "")


def test_only_the_ledgers_table_fills_a_block() -> None:
    with pytest.raises(ValueError, match="segnb table"):
        readme.run("rm -rf /")


def test_the_workflow_calls_what_exists() -> None:
    path = REPOSITORY / ".github" / "workflows" / "ci.yml"
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"] is True
    jobs = workflow["jobs"]
    allowed = SpecifierSet(str(project()["requires-python"]))
    pythons = jobs["test"]["strategy"]["matrix"]["python"]
    assert pythons
    assert all(isinstance(python, str) and python in allowed for python in pythons)
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    called = {match for command in commands for match in re.findall(r"make (\w+)", command)}
    assert called == {"test", "setup"}
    assert called <= set(re.findall(r"^(\w+):", makefile, flags=re.MULTILINE))
    scripts = {match for command in commands for match in re.findall(r"tools/\w+\.py", command)}
    assert scripts == {"tools/notebooks.py"}
    assert all((REPOSITORY / script).is_file() for script in scripts)
