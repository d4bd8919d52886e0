"""The command line: the same recipes and functions as in the notebooks.

Everything that takes time to import is imported by the command that needs it.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from segnb import datasets
from segnb.errors import SegnbError
from segnb.methods import MethodName
from segnb.recipe import DatasetName, Form, Recipe, Scope, Tier, preset
from segnb.results.table import MEASURE_NAMES, Measure, MeasuredSplit

#: Label fraction of ``segnb reproduce``: 16 of the 512 images of shapes.
REPRODUCE_FRACTION = 1 / 32


@dataclass(frozen=True, kw_only=True)
class Results:
    """Where results are.

    Attributes:
        results: The ledger, logs, previews and figures.
    """

    results: Path = Path("results")


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where data sets are.

    Attributes:
        data: The data root; by default $SEGNB_DATA, or ./data.
    """

    data: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Device:
    """What to compute on.

    Attributes:
        cpu: Use the processor even where there is a GPU.
    """

    cpu: bool = False


@dataclass(frozen=True, kw_only=True)
class Bars:
    """What is shown meanwhile.

    Attributes:
        quiet: No progress bars.
    """

    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class Training(Bars, Device, Data, Results):
    """What training needs to know of its surroundings."""

    def named(self) -> dict[str, Any]:
        """The same as arguments of :func:`segnb.experiments.runs.run`."""
        return {
            "results": self.results,
            "root": self.data,
            "cpu": self.cpu,
            "progress_bar": not self.quiet,
        }


@dataclass(frozen=True, kw_only=True)
class Places(Training):
    """The same, and where runs are.

    Attributes:
        runs: Run folders: checkpoints, weights, logs.
    """

    runs: Path = Path("runs")

    def named(self) -> dict[str, Any]:
        """The same as arguments of :func:`segnb.experiments.runs.run`."""
        return {**super().named(), "runs": self.runs}


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
    """Every combination of the choices, skipping what the ledger holds; stage 1 is shared.

    Attributes:
        vary: A field of the recipe and its values, `--vary finetune.steps 25 50 100`; again for
            each further field. The flags below are the same for the fields most often varied.
        methods: Methods to run; by default the recipe's.
        fractions: Label fractions.
        seeds: Seeds.
        temperatures: Temperatures.
        forms: Forms of the loss.
        scopes: Scopes of the loss.
        dry_run: Only say what is left.
    """

    vary: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction] = ()
    methods: tuple[MethodName, ...] = ()
    fractions: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()
    temperatures: tuple[float, ...] = ()
    forms: tuple[Form, ...] = ()
    scopes: tuple[Scope, ...] = ()
    dry_run: bool = False


@dataclass(frozen=True)
class Campaign(Places):
    """Full-resolution runs for a lent GPU, the most telling first; give it again to go on.

    Attributes:
        minutes: Time to train; a run under way is stopped with a checkpoint.
        tier: The size; `--tier smoke` rehearses the list at toy size.
        dry_run: Only list what is left.
    """

    minutes: float = 8.0
    tier: Tier = "colab"
    dry_run: bool = False


@dataclass(frozen=True)
class Finetune(Training):
    """Finish the run of a folder: stage 2 and evaluation.

    Attributes:
        folder: A run's folder, as `segnb pretrain` leaves it.
    """

    folder: tyro.conf.Positional[Path]


@dataclass(frozen=True)
class Evaluate(Bars, Device, Data):
    """Score a finished run's weights again.

    Attributes:
        folder: A run's folder.
        split: Which split; the drive that the recipe holds out is one.
    """

    folder: tyro.conf.Positional[Path]
    split: Literal["val", "test", "held_out"] = "val"


@dataclass(frozen=True)
class Predict(Device):
    """Coloured masks and overlays for a folder of images.

    Attributes:
        folder: A run's folder.
        images: A folder of images, or one image.
        out: Where the pictures go.
    """

    folder: tyro.conf.Positional[Path]
    images: tyro.conf.Positional[Path]
    out: Path = Path("predictions")


@dataclass(frozen=True)
class Table(Results):
    """Tables from the ledger.

    Attributes:
        dataset: Only this data set.
        tier: Only this tier.
        classes: The IoU of each class on this split, in place of mIoU and gains.
        measures: Where mIoU is shown: test also as drives that train holds, and others.
        brief: One line for each number of labelled images: three methods and two gains.
    """

    dataset: DatasetName | None = None
    tier: Tier | None = None
    classes: MeasuredSplit | None = None
    measures: tuple[Measure, ...] = ("miou_val", "miou_test")
    brief: bool = False


@dataclass(frozen=True)
class Figures(Data, Results):
    """Draw the figures of one data set and tier from the ledger.

    Attributes:
        dataset: Which data set; its validation images are needed.
        tier: Which tier.
    """

    dataset: DatasetName
    tier: Tier = "quick"


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
class Fetch(Data):
    """Put a data set into the data root, or say how to do it by hand.

    Attributes:
        dataset: Which one.
    """

    dataset: tyro.conf.Positional[DatasetName]


@dataclass(frozen=True)
class Doctor(Data):
    """What was found on this machine, and what to do about what is wrong."""


def run(options: Run) -> int:
    """Train and measure one recipe."""
    return _run(options, until="end")


def pretrain(options: Pretrain) -> int:
    """Stage 1 alone."""
    return _run(options, until="pretrain")


def _run(options: Run, *, until: Literal["pretrain", "end"]) -> int:
    from segnb.experiments import runs
    from segnb.experiments.cost import estimate_cost
    from segnb.weights import imagenet_source

    recipe, places = options.recipe, options.places
    folder = runs.run_folder(recipe, places.runs)
    if not (folder / "metrics.json").exists():
        print(f"{recipe.command()}\n{estimate_cost(recipe, cpu=places.cpu)}\n{folder}")
        if recipe.encoder_weights is not None:
            print(imagenet_source(recipe.encoder))
    row = runs.run(recipe, until=until, **places.named())
    print(f"stage 1 is done: segnb finetune {folder}" if row is None else _said(row))
    return 0


def finetune(options: Finetune) -> int:
    """Finish the run of a folder."""
    from segnb.experiments import runs

    recipe = runs.read_recipe(options.folder)
    wanted = runs.run_folder(recipe, options.folder.parent)
    if wanted.resolve() != options.folder.resolve():
        raise SegnbError(f"{options.folder} was renamed; its recipe's folder is {wanted.name}")
    row = runs.run(recipe, runs=options.folder.parent, **options.named())
    assert row is not None
    print(_said(row))
    return 0


def sweep(options: Sweep) -> int:
    """Run a grid of recipes."""
    from segnb.experiments.axes import axis
    from segnb.experiments.sweep import grid, in_order, plan, remaining, sweep

    given: dict[str, Sequence[Any]] = {
        "method": options.methods,
        "fraction": options.fractions,
        "seed": options.seeds,
        "temperature": options.temperatures,
        "form": options.forms,
        "scope": options.scopes,
    }
    given = {name: values for name, values in given.items() if values}
    for words in options.vary:
        name, values = axis(words)
        if name in given:
            raise SegnbError(f"{name} is varied twice; give all of its values at once")
        given[name] = values
    recipes = grid(options.recipe, **given)
    if options.dry_run:
        left = in_order(remaining(recipes, options.places.results))
        print(plan(recipes, left, runs=options.places.runs))
        for recipe in left:
            print(recipe.command())
        return 0
    return int(bool(sweep(recipes, **options.places.named())))


def campaign(options: Campaign) -> int:
    """Work through the list of runs for a GPU."""
    from segnb.experiments.campaign import campaign, recipes
    from segnb.experiments.sweep import remaining

    if options.dry_run:
        for recipe in remaining(recipes(options.tier), options.results):
            print(recipe.command())
        return 0
    campaign(minutes=options.minutes, tier=options.tier, **options.named())
    return 0


def evaluate(options: Evaluate) -> int:
    """Score weights again."""
    from segnb.experiments import runs

    info, score = runs.score_again(
        options.folder,
        options.split,
        root=options.data,
        cpu=options.cpu,
        progress_bar=not options.quiet,
    )
    for name, value in zip(info.class_names, score.iou, strict=True):
        print(f"{name:>16}  {'–' if value is None else f'{value:5.1f}'}")
    print(f"{'mIoU':>16}  {score.miou:5.1f}\n{'pixel accuracy':>16}  {score.pixel_accuracy:5.1f}")
    for name, part in score.subsets.items():
        print(f"{part.miou:5.1f}  {MEASURE_NAMES[f'miou_{name}']}")
    return 0


def predict(options: Predict) -> int:
    """Segment a folder of images."""
    from segnb.predict import predict_folder

    for path in predict_folder(options.folder, options.images, options.out, cpu=options.cpu):
        print(path)
    return 0


def table(options: Table) -> int:
    """Print the tables of the ledger."""
    from segnb.results import ledger
    from segnb.results.overview import tables

    rows = ledger.read(ledger.ledger_path(options.results))
    print(
        tables(
            rows,
            dataset=options.dataset,
            tier=options.tier,
            classes=options.classes,
            measures=options.measures,
            brief=options.brief,
        )
    )
    return 0


def figures(options: Figures) -> int:
    """Draw the ledger."""
    from segnb import plots
    from segnb.report import ledger_figures
    from segnb.results import ledger

    drawn = ledger_figures(
        ledger.read(ledger.ledger_path(options.results)),
        options.results,
        dataset=options.dataset,
        tier=options.tier,
        root=options.data,
    )
    for name, picture in drawn.items():
        path = options.results / "figures" / f"{options.dataset}-{options.tier}-{name}.png"
        plots.save(picture, path)
        print(path)
    return 0


def reproduce(options: Reproduce) -> int:
    """The paper's comparison on one data set."""
    from segnb.experiments.sweep import grid, sweep
    from segnb.report import write_report
    from segnb.results import ledger

    places = options.places
    recipes = grid(
        preset(options.dataset, options.tier).replace(fraction=options.fraction),
        method=["ce", "ce_long", "contrastive"],
        seed=options.seeds,
    )
    failed = sweep(recipes, **places.named())
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

    fetch(datasets.get(options.dataset), root=options.data)
    return 0


def doctor(options: Doctor) -> int:
    """Look at the machine."""
    from segnb.doctor import doctor

    return doctor(options.data)


#: Each word, its options and what carries them out.
COMMANDS: dict[str, tuple[type[Any], Callable[[Any], int]]] = {
    "reproduce": (Reproduce, reproduce),
    "run": (Run, run),
    "pretrain": (Pretrain, pretrain),
    "finetune": (Finetune, finetune),
    "evaluate": (Evaluate, evaluate),
    "sweep": (Sweep, sweep),
    "campaign": (Campaign, campaign),
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


def _leave_group() -> None:
    """Processes that trained together part in order; NCCL warns where they do not."""
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _command(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        return _overview()
    if words[0] not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"segnb: there is no command {words[0]!r}; there are {known}", file=sys.stderr)
        return 2
    options, act = COMMANDS[words[0]]
    try:
        code = act(_parse(options, words[0], words[1:]))
        _leave_group()
        return code
    except SegnbError as error:
        print(f"segnb: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        # Recipes check their own values; anything else is a fault of ours, with its traceback.
        if not str(error).startswith("recipe:"):
            raise
        print(f"segnb: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in _FILE_TROUBLE:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"segnb: {where}{error.strerror}; {_FILE_TROUBLE[error.errno]}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


_NO_ROOM = "free some, then give the same command again: a run goes on where it stopped"
_NO_RIGHT = "name a place that you may write to"
_NO_FOLDER = "a file lies where a folder should be, or a folder where a file should be"

#: What to do where the system refuses to read or write a file; other refusals are faults of ours.
_FILE_TROUBLE = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.EROFS: _NO_RIGHT,
    errno.EEXIST: _NO_FOLDER,
    errno.ENOTDIR: _NO_FOLDER,
    errno.EISDIR: _NO_FOLDER,
}


def _parse(options: type[Any], name: str, words: list[str]) -> Any:
    """Parse the words of one command; a recipe starts from the preset that they name."""
    default: Any = tyro.MISSING_NONPROP
    if issubclass(options, Run):
        first = argparse.ArgumentParser(
            prog=f"segnb {name}", usage="%(prog)s [options]", add_help=False, allow_abbrev=False
        )
        first.add_argument("--dataset", default="shapes")
        first.add_argument("--tier", choices=get_args(Tier), default="quick")
        chosen, _ = first.parse_known_args(words)
        default = options(recipe=preset(chosen.dataset, chosen.tier))
    kept = {} if default is tyro.MISSING_NONPROP else {"default": default}
    with _shares():
        parsed = tyro.cli(options, args=words, prog=f"segnb {name}", **kept)
    if getattr(parsed, "dataset", None) is not None:
        datasets.get(parsed.dataset)  # a wrong name is reported before any work
    return parsed


def _shares() -> tyro.constructors.ConstructorRegistry:
    """What lets a number be given as a share, ``1/8``: so tables and figures name fractions."""
    from segnb.experiments.axes import number

    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def real(
        info: tyro.constructors.PrimitiveTypeInfo,
    ) -> tyro.constructors.PrimitiveConstructorSpec[float] | None:
        if info.type is not float:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="FLOAT",
            instance_from_str=lambda words: number(words[0]),
            is_instance=lambda value: isinstance(value, (float, int)),
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def _overview() -> int:
    lines = ["usage: segnb COMMAND [options]      segnb COMMAND --help", ""]
    for name, (options, _) in COMMANDS.items():
        lines.append(f"  {name:<10} {(options.__doc__ or '').splitlines()[0]}")
    print("\n".join(lines))
    return 0


def _said(row: dict[str, Any]) -> str:
    test = "" if row["miou_test"] is None else f", test {row['miou_test']:.1f}"
    return (
        f"mIoU val {row['miou_val']:.1f}{test} with {row['labelled']} labelled images, "
        f"{row['steps']} steps, {row['seconds']:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
