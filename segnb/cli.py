"""The command line: the same recipes and functions as in the notebooks.

Everything that takes time to import is imported by the command that needs it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from segnb.errors import SegnbError
from segnb.recipe import DatasetName, Form, Method, Recipe, Scope, Tier, preset

#: Label fraction of ``segnb reproduce``: 16 of the 512 images of shapes.
REPRODUCE_FRACTION = 1 / 32


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where things are.

    Attributes:
        runs: Run folders: checkpoints, weights, logs.
        results: The ledger, logs, previews and figures.
        data: The data root; by default $SEGNB_DATA, or ./data.
        cpu: Use the processor even where there is a GPU.
        quiet: No progress bars.
    """

    runs: Path = Path("runs")
    results: Path = Path("results")
    data: Path | None = None
    cpu: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Run:
    """Train and measure one recipe; run it again to resume it.

    --dataset and --tier choose a preset; every other flag changes one field of it.
    """

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    places: Annotated[Places, tyro.conf.arg(name="")] = field(default_factory=Places)


@dataclass(frozen=True)
class Pretrain(Run):
    """Stage 1 of a recipe alone; `segnb finetune FOLDER` goes on from there."""


@dataclass(frozen=True)
class Sweep(Run):
    """Every combination of the choices, skipping what the ledger holds.

    Attributes:
        methods: Methods to run; by default the recipe's.
        fractions: Label fractions.
        seeds: Seeds.
        temperatures: Temperatures.
        forms: Forms of the loss.
        scopes: Scopes of the loss.
        dry_run: Only say what is left.
    """

    methods: tuple[Method, ...] = ()
    fractions: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()
    temperatures: tuple[float, ...] = ()
    forms: tuple[Form, ...] = ()
    scopes: tuple[Scope, ...] = ()
    dry_run: bool = False


@dataclass(frozen=True)
class Finetune:
    """Finish the run of a folder: stage 2 and evaluation.

    Attributes:
        folder: A run's folder, as `segnb pretrain` leaves it.
    """

    folder: tyro.conf.Positional[Path]
    places: Annotated[Places, tyro.conf.arg(name="")] = field(default_factory=Places)


@dataclass(frozen=True)
class Evaluate:
    """Score a finished run's weights again.

    Attributes:
        folder: A run's folder.
        split: Which split.
    """

    folder: tyro.conf.Positional[Path]
    split: Literal["val", "test"] = "val"
    places: Annotated[Places, tyro.conf.arg(name="")] = field(default_factory=Places)


@dataclass(frozen=True)
class Predict:
    """Coloured masks and overlays for a folder of images.

    Attributes:
        folder: A run's folder.
        images: A folder of images, or one image.
        out: Where the pictures go.
    """

    folder: tyro.conf.Positional[Path]
    images: tyro.conf.Positional[Path]
    out: Path = Path("predictions")
    places: Annotated[Places, tyro.conf.arg(name="")] = field(default_factory=Places)


@dataclass(frozen=True)
class Table:
    """Tables from the ledger.

    Attributes:
        dataset: Only this data set.
        tier: Only this tier.
    """

    dataset: DatasetName | None = None
    tier: Tier | None = None
    places: Annotated[Places, tyro.conf.arg(name="")] = field(default_factory=Places)


@dataclass(frozen=True)
class Figures:
    """Draw the figures of one data set and tier from the ledger.

    Attributes:
        dataset: Which data set; its validation images are needed.
        tier: Which tier.
    """

    dataset: DatasetName
    tier: Tier = "quick"
    places: Annotated[Places, tyro.conf.arg(name="")] = field(default_factory=Places)


@dataclass(frozen=True)
class Reproduce:
    """Cross-entropy, cross-entropy with the same compute, and the paper's method; table, figures.

    Attributes:
        dataset: Which data set.
        tier: Which size.
        fraction: Label fraction.
        seeds: Seeds; three or more make an interval.
    """

    dataset: DatasetName = "shapes"
    tier: Tier = "quick"
    fraction: float = REPRODUCE_FRACTION
    seeds: tuple[int, ...] = (0,)
    places: Annotated[Places, tyro.conf.arg(name="")] = field(
        default_factory=lambda: Places(results=Path("runs/reproduce"))
    )


@dataclass(frozen=True)
class Fetch:
    """Put a data set into the data root, or say how to do it by hand.

    Attributes:
        dataset: Which one.
    """

    dataset: tyro.conf.Positional[DatasetName]
    places: Annotated[Places, tyro.conf.arg(name="")] = field(default_factory=Places)


@dataclass(frozen=True)
class Doctor:
    """What was found on this machine, and what to do about what is wrong."""

    places: Annotated[Places, tyro.conf.arg(name="")] = field(default_factory=Places)


def run(options: Run) -> int:
    """Train and measure one recipe."""
    return _run(options, until="end")


def pretrain(options: Pretrain) -> int:
    """Stage 1 alone."""
    return _run(options, until="pretrain")


def _run(options: Run, *, until: Literal["pretrain", "end"]) -> int:
    from segnb import runs
    from segnb.cost import foretell

    recipe, places = options.recipe, options.places
    folder = runs.run_folder(recipe, places.runs)
    if not (folder / "metrics.json").exists():
        print(f"{recipe.command()}\n{foretell(recipe, cpu=places.cpu)}\n{folder}")
    row = runs.run(recipe, until=until, **_run_places(places))
    print(f"stage 1 is done: segnb finetune {folder}" if row is None else _said(row))
    return 0


def finetune(options: Finetune) -> int:
    """Finish the run of a folder."""
    from segnb import runs

    recipe, places = runs.read_recipe(options.folder), options.places
    wanted = runs.run_folder(recipe, options.folder.parent)
    if wanted.resolve() != options.folder.resolve():
        raise SegnbError(f"{options.folder} was renamed; its recipe's folder is {wanted.name}")
    row = runs.run(recipe, **{**_run_places(places), "runs": options.folder.parent})
    assert row is not None
    print(_said(row))
    return 0


def sweep(options: Sweep) -> int:
    """Run a grid of recipes."""
    from segnb.sweep import grid, remaining, sweep

    given = {
        "method": options.methods,
        "fraction": options.fractions,
        "seed": options.seeds,
        "temperature": options.temperatures,
        "form": options.forms,
        "scope": options.scopes,
    }
    recipes = grid(options.recipe, **{name: values for name, values in given.items() if values})
    if options.dry_run:
        left = remaining(recipes, options.places.results)
        print(f"{len(recipes)} recipes, {len(left)} to run")
        for recipe in left:
            print(recipe.command())
        return 0
    return int(bool(sweep(recipes, **_run_places(options.places))))


def evaluate(options: Evaluate) -> int:
    """Score weights again."""
    from segnb import datasets, evaluation, runs
    from segnb.training import make_accelerator
    from segnb.training.loop import Session

    recipe, places = runs.read_recipe(options.folder), options.places
    split = datasets.load(recipe.dataset, options.split, root=places.data, size=recipe.size)
    session = Session(accelerator=make_accelerator(recipe.precision, cpu=places.cpu))
    score = evaluation.evaluate(
        runs.load_network(options.folder),
        split,
        datasets.working_set(split, size=recipe.size),
        device=session.accelerator.device,
        autocast=session.autocast,
    )
    for name, value in zip(split.info.class_names, score.iou, strict=True):
        print(f"{name:>16}  {'–' if value is None else f'{value:5.1f}'}")
    print(f"{'mIoU':>16}  {score.miou:5.1f}\n{'pixel accuracy':>16}  {score.pixel_accuracy:5.1f}")
    return 0


def predict(options: Predict) -> int:
    """Segment a folder of images."""
    from segnb.predict import predict_folder

    places = options.places
    for path in predict_folder(options.folder, options.images, options.out, cpu=places.cpu):
        print(path)
    return 0


def table(options: Table) -> int:
    """Print the tables of the ledger."""
    from segnb import ledger
    from segnb.summary import tables

    rows = ledger.read(ledger.ledger_path(options.places.results))
    print(tables(rows, dataset=options.dataset, tier=options.tier))
    return 0


def figures(options: Figures) -> int:
    """Draw the ledger."""
    from segnb import ledger, plots
    from segnb.report import ledger_figures

    places = options.places
    drawn = ledger_figures(
        ledger.read(ledger.ledger_path(places.results)),
        places.results,
        dataset=options.dataset,
        tier=options.tier,
        root=places.data,
    )
    for name, picture in drawn.items():
        path = places.results / "figures" / f"{options.dataset}-{options.tier}-{name}.png"
        plots.save(picture, path)
        print(path)
    return 0


def reproduce(options: Reproduce) -> int:
    """The paper's comparison on one data set."""
    from segnb import ledger
    from segnb.report import write_report
    from segnb.sweep import grid, sweep

    places = options.places
    recipes = grid(
        preset(options.dataset, options.tier).replace(fraction=options.fraction),
        method=["ce", "ce_long", "contrastive"],
        seed=options.seeds,
    )
    failed = sweep(recipes, **_run_places(places))
    if failed:
        return 1
    held = {row["recipe_hash"]: row for row in ledger.read(ledger.ledger_path(places.results))}
    rows = [held[recipe.hash] for recipe in recipes]
    print("\n" + write_report(rows, places.results, root=places.data))
    print(f"\nfigures: {places.results / 'figures'}")
    return 0


def fetch(options: Fetch) -> int:
    """Fetch a data set."""
    from segnb.datasets.fetch import fetch

    fetch(options.dataset, root=options.places.data)
    return 0


def doctor(options: Doctor) -> int:
    """Look at the machine."""
    from segnb.doctor import doctor

    return doctor(options.places.data)


#: Each word, its options and what carries them out.
COMMANDS: dict[str, tuple[type[Any], Callable[[Any], int]]] = {
    "reproduce": (Reproduce, reproduce),
    "run": (Run, run),
    "pretrain": (Pretrain, pretrain),
    "finetune": (Finetune, finetune),
    "evaluate": (Evaluate, evaluate),
    "sweep": (Sweep, sweep),
    "table": (Table, table),
    "figures": (Figures, figures),
    "predict": (Predict, predict),
    "fetch": (Fetch, fetch),
    "doctor": (Doctor, doctor),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code.

    Errors that a user can act on are one line on standard error, without a traceback.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Several processes do the same, and one of them tells it.
    silent = contextlib.redirect_stdout(io.StringIO())
    first = os.environ.get("RANK", "0") == "0"
    try:
        with contextlib.nullcontext() if first else silent:
            try:
                return _command(words)
            finally:
                sys.stdout.flush()
    except BrokenPipeError:
        # Who reads has left, as `head` does; Python would say so once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _command(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        return _overview()
    if words[0] not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"segnb: there is no command {words[0]!r}; there are {known}", file=sys.stderr)
        return 2
    options, act = COMMANDS[words[0]]
    try:
        return act(_parse(options, words[0], words[1:]))
    except SegnbError as error:
        print(f"segnb: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        # Recipes check their own values; anything else is a fault of ours, with its traceback.
        if not str(error).startswith("recipe:"):
            raise
        print(f"segnb: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parse(options: type[Any], name: str, words: list[str]) -> Any:
    """Parse the words of one command; a recipe starts from the preset that they name."""
    default: Any = tyro.MISSING_NONPROP
    if issubclass(options, Run):
        first = argparse.ArgumentParser(
            prog=f"segnb {name}", usage="%(prog)s [options]", add_help=False, allow_abbrev=False
        )
        first.add_argument("--dataset", choices=get_args(DatasetName), default="shapes")
        first.add_argument("--tier", choices=get_args(Tier), default="quick")
        chosen, _ = first.parse_known_args(words)
        default = options(recipe=preset(chosen.dataset, chosen.tier))
    kept = {} if default is tyro.MISSING_NONPROP else {"default": default}
    return tyro.cli(options, args=words, prog=f"segnb {name}", **kept)


def _overview() -> int:
    lines = ["usage: segnb COMMAND [options]      segnb COMMAND --help", ""]
    for name, (options, _) in COMMANDS.items():
        lines.append(f"  {name:<10} {(options.__doc__ or '').splitlines()[0]}")
    print("\n".join(lines))
    return 0


def _run_places(places: Places) -> dict[str, Any]:
    return {
        "runs": places.runs,
        "results": places.results,
        "root": places.data,
        "cpu": places.cpu,
        "progress_bar": not places.quiet,
    }


def _said(row: dict[str, Any]) -> str:
    test = "" if row["miou_test"] is None else f", test {row['miou_test']:.1f}"
    return (
        f"mIoU val {row['miou_val']:.1f}{test} with {row['labelled']} labelled images, "
        f"{row['steps']} steps, {row['seconds']:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
