"""The command line: the same recipes and functions as in the notebooks.

A command is a dataclass: its fields are the options, and calling it does the work. Each command
imports what it needs, so that slow imports do not delay the others.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import errno
import io
import os
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, get_args

import tyro
from tyro.conf import Positional, arg

from segnb import datasets
from segnb.errors import SegnbError
from segnb.methods import MethodName
from segnb.recipe import DatasetName, Form, Recipe, Scope, Tier, preset
from segnb.results.overview import Shown
from segnb.results.table import MEASURE_NAMES, Measure

if TYPE_CHECKING:
    from segnb.experiments.tasks import Executor

#: Label fraction of ``segnb reproduce``: 16 of the 512 images in shapes.
REPRODUCE_FRACTION = 1 / 32

ResultsFolder = Annotated[Path, arg(help="Folder of the ledger, logs, previews and figures.")]
RunsFolder = Annotated[Path, arg(help="Folder of the runs: checkpoints, weights, logs.")]
DataFolder = Annotated[
    Path | None, arg(help="Folder of the data sets; by default $SEGNB_DATA, or ./data.")
]
Cpu = Annotated[bool, arg(help="Use the CPU even if there is a GPU.")]
Quiet = Annotated[bool, arg(help="Show no progress bars.")]


class Command(Protocol):
    """One command with its options."""

    def __call__(self) -> int:
        """Run the command; returns the exit code."""
        ...


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The folders of a run, and its device."""

    results: ResultsFolder = Path("results")
    data: DataFolder = None
    cpu: Cpu = False
    quiet: Quiet = False

    def arguments(self) -> dict[str, Any]:
        """These options as arguments of :func:`segnb.experiments.runs.run`."""
        return {
            "results": self.results,
            "root": self.data,
            "cpu": self.cpu,
            "progress_bar": not self.quiet,
        }


@dataclass(frozen=True, kw_only=True)
class Run(RunOptions):
    """Train and measure one recipe; repeat the command to resume it.

    --dataset and --tier choose a preset; every other flag changes one field of it.
    """

    recipe: Annotated[Recipe, arg(name="")]
    runs: RunsFolder = Path("runs")

    def __call__(self) -> int:
        return _train(self, until="end")


@dataclass(frozen=True, kw_only=True)
class Pretrain(Run):
    """Run only stage 1 of a recipe; `segnb finetune FOLDER` continues from there."""

    def __call__(self) -> int:
        return _train(self, until="pretrain")


def _train(options: Run, *, until: Literal["pretrain", "end"]) -> int:
    from segnb.experiments import runs
    from segnb.experiments.cost import estimate_cost
    from segnb.experiments.sweep import outcome
    from segnb.weights import imagenet_source

    recipe = options.recipe
    folder = runs.find_folder(recipe, options.runs, root=options.data)
    before = runs.finished_row(folder, recipe)
    if before is None:
        print(f"{recipe.command()}\n{estimate_cost(recipe, cpu=options.cpu)}\n{folder}")
        if recipe.encoder_weights is not None:
            print(imagenet_source(recipe.encoder))
        if ignored := recipe.changes_without_effect():
            print(f"note: {recipe.kind.name} does not use {', '.join(ignored)}")
    row = runs.run(recipe, until=until, runs=options.runs, **options.arguments())
    done = f"stage 1 is done: segnb finetune {shlex.quote(str(folder))}"
    print(done if row is None else outcome(row))
    if row is not None and before is not None and _same_run(row, before):
        print(f"{folder} was finished before: nothing was trained{_back_end(recipe, row)}")
    return 0


def _same_run(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two rows are of one training; the name of the log may differ."""
    return {**one, "log": "", "files": ""} == {**other, "log": "", "files": ""}


def _back_end(recipe: Recipe, row: Mapping[str, Any]) -> str:
    """What to say if the given back end of the loss is not the one of the row."""
    if not recipe.uses_contrastive or recipe.loss_backend == row["recipe"]["loss_backend"]:
        return ""
    computed = row.get("loss_backend") or row["recipe"]["loss_backend"]
    return (
        f" with --loss-backend {recipe.loss_backend}; its loss was computed by {computed}. Back "
        "ends agree up to rounding, so they share a run: name another --runs and --results to "
        "compare them"
    )


@dataclass(frozen=True, kw_only=True)
class Sweep(Run):
    """Run every combination of the given values that the ledger lacks, sharing stage 1.

    Attributes:
        vary: A field of the recipe and its values, `--vary finetune.steps 25 50 100`; repeat for
            more fields. The flags below are short forms for the most common fields.
        methods: Methods; by default the recipe's.
        fractions: Label fractions.
        seeds: Seeds.
        temperatures: Temperatures.
        forms: Forms of the loss.
        scopes: Scopes of the loss.
        dry_run: Only list what is left to run.
        workers: Run so many recipes side by side on this machine; each gets an equal share of the
            cores, and one of the GPUs in turn.
        ray: Run the recipes on a Ray cluster: at this address, `auto` for one that runs on this
            machine, or alone for a new one on this machine. Needs `pip install "segnb[ray]"`.
        num_cpus: With --ray, cores for each recipe.
        num_gpus: With --ray, GPUs for each recipe: with 0.25, four recipes share one. By default
            1 where the cluster has GPUs.
        weights: With --ray, bring the weights back too from nodes that don't share --runs.
    """

    vary: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction] = ()
    methods: tuple[MethodName, ...] = ()
    fractions: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()
    temperatures: tuple[float, ...] = ()
    forms: tuple[Form, ...] = ()
    scopes: tuple[Scope, ...] = ()
    dry_run: bool = False
    workers: int | None = None
    ray: Annotated[tuple[str, ...] | None, arg(metavar="[ADDRESS]")] = None
    num_cpus: int = 1
    num_gpus: float | None = None
    weights: bool = False

    def __call__(self) -> int:
        from segnb.axes import axes, value_of
        from segnb.experiments.sweep import grid, in_order, plan, remaining, sweep

        short = ("method", "fraction", "seed", "temperature", "form", "scope")
        values: dict[str, Sequence[Any]] = {
            name: given for name in short if (given := getattr(self, f"{name}s"))
        }
        for name, given in axes(self.vary).items():
            if name in values:
                raise SegnbError(f"{name} is varied twice; give all of its values at once")
            values[name] = given
        usual = preset(self.recipe.dataset, self.recipe.tier)
        for name in values.keys() - {"dataset"}:
            given, own = value_of(self.recipe, name), value_of(usual, name)
            if given != own:
                raise SegnbError(f"{name} is both set to {given} and varied; leave one out")
        recipes = grid(self.recipe, **values)
        if self.dry_run:
            left = in_order(remaining(recipes, self.results, root=self.data, say=print))
            print(plan(recipes, left, runs=self.runs))
            for recipe in left:
                print(recipe.command())
            return 0
        executor = self._executor()
        if executor is None:
            return int(bool(sweep(recipes, runs=self.runs, **self.arguments())))
        from segnb.experiments.side_by_side import sweep_side_by_side

        failed = sweep_side_by_side(recipes, executor, runs=self.runs, **self.arguments())
        return int(bool(failed))

    def _executor(self) -> Executor | None:
        """What does the recipes side by side; ``None`` without --workers and --ray."""
        from segnb.errors import ConfigError

        if self.ray is None and (self.num_gpus is not None or self.num_cpus != 1 or self.weights):
            raise ConfigError("--num-cpus, --num-gpus and --weights are for --ray")
        if self.ray is not None and self.workers is not None:
            raise ConfigError("--workers is for this machine and --ray for a cluster: use one")
        if self.workers is not None:
            from segnb.experiments.processes import Processes

            return Processes(self.workers, cpu=self.cpu)
        if self.ray is None:
            return None
        if len(self.ray) > 1:
            raise ConfigError(f"--ray takes one address, not {' '.join(self.ray)}")
        from segnb.experiments.cluster import Cluster

        return Cluster(
            *self.ray,
            num_cpus=self.num_cpus,
            num_gpus=self.num_gpus,
            cpu=self.cpu,
            weights=self.weights,
        )


@dataclass(frozen=True, kw_only=True)
class Campaign(RunOptions):
    """Full-resolution runs for a borrowed GPU, most informative first; repeat it to continue.

    Attributes:
        minutes: Time limit for training; an unfinished run is stopped with a checkpoint.
        tier: The size; `--tier smoke` rehearses the list at toy size.
        dry_run: Only list what is left to run.
    """

    minutes: float = 8.0
    tier: Tier = "colab"
    runs: RunsFolder = Path("runs")
    dry_run: bool = False

    def __call__(self) -> int:
        from segnb.experiments.campaign import campaign, recipes
        from segnb.experiments.sweep import remaining

        if self.dry_run:
            for recipe in remaining(recipes(self.tier), self.results, root=self.data):
                print(recipe.command())
        else:
            campaign(minutes=self.minutes, tier=self.tier, runs=self.runs, **self.arguments())
        return 0


@dataclass(frozen=True, kw_only=True)
class Finetune(RunOptions):
    """Finish the run in a folder: stage 2 and evaluation.

    Attributes:
        folder: A run's folder, such as `segnb pretrain` leaves.
    """

    folder: Positional[Path]

    def __call__(self) -> int:
        from segnb.experiments import runs
        from segnb.experiments.sweep import outcome

        print(outcome(runs.finish(self.folder, **self.arguments())))
        return 0


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Score the weights of a finished run again.

    Attributes:
        folder: A run's folder.
        split: Which split; `held_out` is the drive that the recipe sets aside.
    """

    folder: Positional[Path]
    split: Literal["val", "test", "held_out"] = "val"
    data: DataFolder = None
    cpu: Cpu = False
    quiet: Quiet = False

    def __call__(self) -> int:
        from segnb.experiments import runs

        info, score = runs.score_again(
            self.folder, self.split, root=self.data, cpu=self.cpu, progress_bar=not self.quiet
        )
        for name, value in zip(info.class_names, score.iou, strict=True):
            print(f"{name:>16}  {'–' if value is None else f'{value:5.1f}'}")
        print(f"{'mIoU':>16}  {score.miou:5.1f}")
        print(f"{'pixel accuracy':>16}  {score.pixel_accuracy:5.1f}")
        for name, part in score.subsets.items():
            print(f"{part.miou:5.1f}  {MEASURE_NAMES[f'miou_{name}']}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Copy a finished run's networks, in half precision, to those that come with the repository.

    Attributes:
        folder: A run's folder.
        into: The folder of the kept networks; there is one of each data set.
    """

    folder: Positional[Path]
    into: Path = Path("results/networks")

    def __call__(self) -> int:
        from segnb.experiments.kept import keep

        print(keep(self.folder, self.into))
        return 0


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Write coloured masks and overlays for a folder of images.

    Attributes:
        folder: A run's folder.
        images: A folder of images, or one image.
        out: Folder for the pictures.
    """

    folder: Positional[Path]
    images: Positional[Path]
    out: Path = Path("predictions")
    cpu: Cpu = False

    def __call__(self) -> int:
        from segnb.datasets.reading import IMAGE_SUFFIXES
        from segnb.predict import left_out, predict_folder

        if others := [path.name for path in left_out(self.images)]:
            print(
                f"segnb: left out: {', '.join(others)}; only {', '.join(IMAGE_SUFFIXES)} are read: "
                "convert them first",
                file=sys.stderr,
            )
        for path in predict_folder(self.folder, self.images, self.out, cpu=self.cpu):
            print(path)
        return 0


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a run's network as an ONNX file, and compare it with torch on real images.

    Attributes:
        folder: A run's folder.
        out: The file; by default network.onnx in the run's folder.
        images: Folder of images to compare on; by default validation images of the data set.
    """

    folder: Positional[Path]
    out: Path | None = None
    images: Path | None = None

    def __call__(self) -> int:
        from segnb.export import export

        print(export(self.folder, self.out, images=self.images))
        return 0


@dataclass(frozen=True, kw_only=True)
class Table:
    """Print tables from the ledger.

    Attributes:
        dataset: Only this data set.
        tier: Only this tier.
        show: Which table. comparison: means and gains of every method. brief: one line per number
            of labelled images, with three methods and two gains. classes: the IoU of each class.
            compactness: how far each stage gathers the classes, and whether tighter classes go
            along with a higher mIoU. steps: the gain by the lengths of both stages, which needs
            ``--dataset``; without ``--tier`` it is of the quick tier.
        measures: Which mIoUs to show, for example that of test images from drives seen in
            training. ``brief`` and ``classes`` show the last one that has values.
        vary: Show runs with other values of a field than the preset's, `--vary encoder
            tu-tf_efficientnet_lite0`; repeat for more fields.
    """

    dataset: DatasetName | None = None
    tier: Tier | None = None
    show: Shown | Literal["steps"] = "comparison"
    measures: tuple[Measure, ...] = ("miou_val", "miou_test")
    vary: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction] = ()
    results: ResultsFolder = Path("results")

    def __call__(self) -> int:
        from segnb.axes import axes
        from segnb.errors import ConfigError
        from segnb.results import ledger
        from segnb.results.overview import not_compared, tables
        from segnb.results.step_map import step_map, step_table

        rows = ledger.read(ledger.ledger_path(self.results))
        held = {row["dataset"] for row in rows}
        if self.dataset is not None and datasets.title(self.dataset) not in held:
            datasets.get(self.dataset)  # a wrong name is not just one without runs
        if self.show == "steps":
            if self.dataset is None or self.vary:
                raise ConfigError("--show steps needs --dataset, and does not go with --vary")
            found = step_map(rows, dataset=self.dataset, tier=self.tier or "quick")
            print(step_table(found, measures=self.measures))
            return 0
        varied = axes(self.vary)
        text = tables(
            rows,
            dataset=self.dataset,
            tier=self.tier,
            show=self.show,
            measures=self.measures,
            varied=varied,
        )
        print(text)
        others = not_compared(rows, dataset=self.dataset, tier=self.tier, varied=varied)
        if others:
            print(f"\nNot shown: {others}.", file=sys.stderr)
        return 0


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Draw the figures of one data set and tier from the ledger.

    Attributes:
        dataset: Which data set; its validation images are needed.
        tier: Which tier.
    """

    dataset: DatasetName
    tier: Tier = "quick"
    results: ResultsFolder = Path("results")
    data: DataFolder = None

    def __call__(self) -> int:
        from segnb import plots
        from segnb.report import ledger_figures
        from segnb.results import ledger

        drawn = ledger_figures(
            ledger.read(ledger.ledger_path(self.results)),
            self.results,
            dataset=self.dataset,
            tier=self.tier,
            root=self.data,
        )
        for name, picture in drawn.items():
            path = (
                self.results / "figures" / f"{datasets.title(self.dataset)}-{self.tier}-{name}.png"
            )
            plots.save(picture, path)
            print(path)
        return 0


@dataclass(frozen=True, kw_only=True)
class Reproduce(RunOptions):
    """Compare cross-entropy, the same with equal compute, and the paper's method.

    Attributes:
        dataset: Which data set.
        tier: Which tier.
        fraction: Label fraction.
        seeds: Seeds; a confidence interval needs three or more.
    """

    dataset: DatasetName = "shapes"
    tier: Tier = "quick"
    fraction: float = REPRODUCE_FRACTION
    seeds: tuple[int, ...] = (0,)
    runs: RunsFolder = Path("runs")
    results: ResultsFolder = Path("runs/reproduce")

    def __call__(self) -> int:
        from segnb.experiments.runs import data_today
        from segnb.experiments.sweep import grid, sweep
        from segnb.report import write_report
        from segnb.results import ledger

        recipes = grid(
            preset(self.dataset, self.tier).replace(fraction=self.fraction),
            method=["ce", "ce_long", "contrastive"],
            seed=self.seeds,
        )
        if sweep(recipes, runs=self.runs, **self.arguments()):
            return 1
        held = ledger.read(ledger.ledger_path(self.results))
        data, _ = data_today(recipes[0], root=self.data)
        rows = [row for recipe in recipes if (row := ledger.find(held, recipe.hash, data))]
        print("\n" + write_report(rows, self.results, root=self.data))
        print(f"\nfigures: {self.results / 'figures'}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Describe:
    """Look at a folder of your own images and masks, and write its dataset.toml.

    Attributes:
        folder: The folder.
        overwrite: Replace a dataset.toml that is there.
    """

    folder: Positional[Path]
    overwrite: bool = False

    def __call__(self) -> int:
        from segnb.datasets.described import FILE
        from segnb.datasets.own.describe import describe

        print(describe(self.folder, overwrite=self.overwrite))
        command = f"segnb check {shlex.quote(str(self.folder))}"
        print(f"{self.folder / FILE}: correct it, then `{command}`")
        return 0


@dataclass(frozen=True, kw_only=True)
class Check:
    """Show what will go wrong with a folder of your own, and a contact sheet of it.

    Attributes:
        folder: A folder with a dataset.toml.
        sheet: The contact sheet; by default NAME-sheet.png here.
    """

    folder: Positional[Path]
    sheet: Path | None = None
    quiet: Quiet = False

    def __call__(self) -> int:
        from segnb import plots
        from segnb.datasets.own.check import check

        found = check(self.folder, progress_bar=not self.quiet)
        print(found)
        path = self.sheet or Path(f"{found.info.name}-sheet.png")
        plots.save(plots.folder_sheet(self.folder), path)
        print(f"contact sheet: {path}")
        return int(bool(found.faults))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Say what to use on a folder of your own, from a comparison within a time budget.

    Repeat the command to continue: more time gives more repeats.

    Attributes:
        folder: A folder with a dataset.toml.
        minutes: The time.
        tier: The size of network and images.
        place: Folder for runs, ledger and folds; by default answers/NAME.
    """

    folder: Positional[Path]
    minutes: float = 60.0
    tier: Tier = "quick"
    place: Path | None = None
    cpu: Cpu = False
    quiet: Quiet = False

    def __call__(self) -> int:
        from segnb import plots
        from segnb.experiments.answer import answer, usual_recipe

        found = answer(
            self.folder,
            minutes=self.minutes,
            recipe=usual_recipe(self.folder, self.tier),
            place=self.place,
            cpu=self.cpu,
            progress_bar=not self.quiet,
        )
        path = found.run.parent.parent / "curve.png"
        plots.save(plots.answer_curve(found), path)
        print(f"\n{found}\nCurve: {path}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """Download a data set, or explain how to get it by hand.

    Attributes:
        dataset: Which one.
    """

    dataset: Positional[DatasetName]
    data: DataFolder = None

    def __call__(self) -> int:
        from segnb.datasets.fetch import fetch

        fetch(datasets.get(self.dataset), root=self.data)
        return 0


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Check this machine, and say how to fix any problems."""

    data: DataFolder = None

    def __call__(self) -> int:
        from segnb.doctor import doctor

        return doctor(self.data)


#: Every command, by the word that calls it.
COMMANDS: dict[str, type[Command]] = {
    "reproduce": Reproduce,
    "run": Run,
    "pretrain": Pretrain,
    "finetune": Finetune,
    "evaluate": Evaluate,
    "keep": Keep,
    "sweep": Sweep,
    "campaign": Campaign,
    "table": Table,
    "figures": Figures,
    "predict": Predict,
    "export": Export,
    "describe": Describe,
    "check": Check,
    "answer": Answer,
    "fetch": Fetch,
    "doctor": Doctor,
}


#: Signs of tables and messages in ASCII.
_PLAIN = {"–": "-", "±": "+-", "τ": "tau", "×": "x", "…": "..."}


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What a console shows for signs that it lacks."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign, "?") for sign in lacking), error.end


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code.

    Errors that a user can fix are one line on standard error, without a traceback.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    codecs.register_error("segnb", _plain)
    for stream in (sys.stdout, sys.stderr):
        # Code pages of Windows lack τ or ±, and file names may hold bytes that are no text. A
        # sign in ASCII is better than an error after hours of work.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="segnb")
    # If several processes do the same, only the first one prints.
    silent = contextlib.redirect_stdout(io.StringIO())
    first = os.environ.get("RANK", "0") == "0"
    try:
        with contextlib.nullcontext() if first else silent, warnings.catch_warnings():
            # Pillow warns of damaged metadata, which some cameras write; the pixels are whole.
            warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
            try:
                return _command(words)
            finally:
                sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has exited; Python would report that again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _leave_group() -> None:
    """Destroy the process group, if there is one; otherwise NCCL prints a warning."""
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _command(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print("usage: segnb COMMAND [options]      segnb COMMAND --help\n")
        for name, options in COMMANDS.items():
            print(f"  {name:<10} {(options.__doc__ or '').splitlines()[0]}")
        return 0
    if words[0] not in COMMANDS:
        return _fail(f"there is no command {words[0]!r}; there are {', '.join(COMMANDS)}", code=2)
    try:
        code: int = _parse(COMMANDS[words[0]], words[0], words[1:])()
        _leave_group()
        return code
    except SegnbError as error:
        return _fail(str(error))
    except ValueError as error:
        # Recipes check their own values; any other ValueError is a bug and keeps its traceback.
        if not str(error).startswith("recipe:"):
            raise
        return _fail(str(error), code=2)
    except OSError as error:
        if error.errno not in _FILE_ERRORS:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        return _fail(f"{where}{error.strerror}; {_FILE_ERRORS[error.errno]}")
    except KeyboardInterrupt:
        return 130


def _fail(message: str, *, code: int = 1) -> int:
    print(f"segnb: {message}", file=sys.stderr)
    return code


_DISK_FULL = "free some space, then repeat the command: a run resumes where it stopped"
_NO_PERMISSION = "choose a folder that you may write to"
_DISK_FAILS = "the disk or the way to it fails; check it, then repeat the command"
_NOT_A_FOLDER = "there is a file where a folder should be, or a folder where a file should be"

#: What to do if the system refuses to read or write a file; other errors are bugs.
_FILE_ERRORS = {
    errno.ENOSPC: _DISK_FULL,
    errno.EDQUOT: _DISK_FULL,
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.EROFS: _NO_PERMISSION,
    errno.EEXIST: _NOT_A_FOLDER,
    errno.ENOTDIR: _NOT_A_FOLDER,
    errno.EISDIR: _NOT_A_FOLDER,
    errno.EIO: _DISK_FAILS,
    errno.ESTALE: _DISK_FAILS,
    errno.ENODEV: _DISK_FAILS,
    errno.ENOTCONN: _DISK_FAILS,
    errno.ETIMEDOUT: _DISK_FAILS,
    errno.EFBIG: "this disk, or `ulimit -f`, allows no larger file; choose another folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "these links lead in a circle; remove one of them",
}


def _parse(options: type[Any], name: str, words: list[str]) -> Any:
    """Parse the options of one command; a recipe starts from the preset they choose."""
    default: dict[str, Any] = {}
    if issubclass(options, Run):
        first = argparse.ArgumentParser(
            prog=f"segnb {name}", usage="%(prog)s [options]", add_help=False, allow_abbrev=False
        )
        first.add_argument("--dataset", default="shapes")
        first.add_argument("--tier", choices=get_args(Tier), default="quick")
        chosen, _ = first.parse_known_args(words)
        default = {"default": options(recipe=preset(chosen.dataset, chosen.tier))}
    with _values():
        parsed = tyro.cli(options, args=words, prog=f"segnb {name}", **default)
    if getattr(parsed, "dataset", None) is not None and options is not Table:
        datasets.get(parsed.dataset)  # a wrong name is reported before any work
    return parsed


def _values() -> tyro.constructors.ConstructorRegistry:
    """How words become numbers and paths.

    A number may be a fraction such as ``1/8``, as tables and figures write it. ``~`` in a path is
    the home folder: in ``--runs=~/x`` the shell leaves it as it is.
    """
    from segnb.axes import number

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

    @registry.primitive_rule
    def path(
        info: tyro.constructors.PrimitiveTypeInfo,
    ) -> tyro.constructors.PrimitiveConstructorSpec[Path] | None:
        if info.type is not Path:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="PATH",
            instance_from_str=lambda words: Path(words[0]).expanduser(),
            is_instance=lambda value: isinstance(value, Path),
            str_from_instance=lambda value: [str(value)],
        )

    return registry


if __name__ == "__main__":
    sys.exit(main())
