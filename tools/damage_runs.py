"""A campaign of damage: every file that a run leaves, damaged in many ways, under each command.

A tiny sweep is trained once. Each case takes a fresh copy of it, damages one file, and gives one
command that reads the file. What then happens is counted::

    python tools/damage_runs.py [--every N] [--only TEXT] [--show]

``right``
    The command did as without the damage.
``told``
    It said in words what is wrong and mended it, or ended with one line whose remedy, followed to
    its end, led to the result without damage.
``traceback``, ``silent``, ``dead end``, ``lost``
    Faults: an error that is no sentence; another result without a word; a remedy that does not
    help; a row of the ledger that is gone.
``unseen``
    Another result without a word, where no check can know better: a value that could be right.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

Damage = Callable[[Path], None]

#: Flags of the tiny recipe.
TINY = shlex.split(
    "--dataset camvid --tier smoke --size 32 48 --crop 32 32 --encoder-depth 3 "
    "--decoder-channels 16 --fraction 0.5 --pretrain.steps 2 --pretrain.warmup 1 "
    "--finetune.steps 2 --precision fp32"
)


# --- damage to any file --------------------------------------------------------------------------


def _put(path: Path, content: bytes) -> None:
    # Copies of the sweep share their files by hard links: never write into one.
    path.unlink()
    path.write_bytes(content)


def _changed(change: Callable[[bytes], bytes]) -> Damage:
    return lambda path: _put(path, change(path.read_bytes()))


def _flipped(share: float) -> Damage:
    def flip(content: bytes) -> bytes:
        place = min(int(len(content) * share), len(content) - 1)
        return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]

    return _changed(flip)


def _missing(path: Path) -> None:
    path.unlink()


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere/at/all")


ANY: dict[str, Damage] = {
    "missing": _missing,
    "empty": _changed(lambda _: b""),
    "cut in half": _changed(lambda content: content[: len(content) // 2]),
    "cut by 9 bytes": _changed(lambda content: content[:-9]),
    "zeros": _changed(lambda content: bytes(len(content))),
    "a web page": _changed(lambda _: b"<!DOCTYPE html><title>404</title>\n"),
    "a folder": _folder,
    "a dangling link": _dangling,
    "too long": _changed(lambda content: content + content[:50]),
}

FLIPS = {f"bit at {share:.0%}": _flipped(share) for share in (0.001, 0.03, 0.2, 0.5, 0.8, 0.99)}


# --- damage to text ------------------------------------------------------------------------------

TEXT: dict[str, Damage] = {
    "UTF-16": _changed(lambda content: content.decode().encode("utf-16")),
    "a byte-order mark": _changed(lambda content: b"\xef\xbb\xbf" + content),
    "CRLF": _changed(lambda content: content.replace(b"\n", b"\r\n")),
    "a byte that is no text": _changed(lambda content: content[:40] + b"\xff" + content[41:]),
    "a list": _changed(lambda _: b"[1, 2]\n"),
    "null": _changed(lambda _: b"null\n"),
    "marks of a merge": _changed(
        lambda content: b"<<<<<<< HEAD\n" + content + b"=======\n" + content + b">>>>>>> x\n"
    ),
    "deeply nested": _changed(lambda _: b"[" * 100_000),
}


def _edited(change: Callable[[dict], None], line: int | None = None) -> Damage:
    """Change the object of a JSON file, or that of one line."""

    def edit(path: Path) -> None:
        text = path.read_text()
        if line is None:
            value = json.loads(text)
            change(value)
            _put(path, json.dumps(value, indent=1).encode())
            return
        lines = text.splitlines()
        value = json.loads(lines[line])
        change(value)
        lines[line] = json.dumps(value)
        _put(path, ("\n".join(lines) + "\n").encode())

    return edit


def _with(key: str, value: object) -> Callable[[dict], None]:
    return lambda found: found.update({key: value})


def _without(key: str) -> Callable[[dict], None]:
    return lambda found: found.pop(key, None)


def _fields(line: int | None = None, **values: object) -> dict[str, Damage]:
    return {f"{k} {v!r:.20}": _edited(_with(k, v), line) for k, v in values.items()}


def _lacking(*keys: str, line: int | None = None) -> dict[str, Damage]:
    return {f"no {key}": _edited(_without(key), line) for key in keys}


# --- damage to arrays ----------------------------------------------------------------------------


def _weights(change: Callable[[dict], object], *, keep: bool = False) -> Damage:
    def edit(path: Path) -> None:
        from safetensors import safe_open
        from safetensors.torch import load, save

        with safe_open(path, "pt") as file:
            known = file.metadata()
        state = load(path.read_bytes())
        change(state)
        _put(path, save(state, metadata=known if keep else None))

    return edit


def _not_a_number(state: dict) -> None:
    name = next(name for name, value in state.items() if value.is_floating_point())
    state[name] = state[name] * float("nan")


def _scaled(state: dict) -> None:
    name = next(name for name, value in state.items() if value.is_floating_point())
    state[name] = state[name] * 1.5


WEIGHTS = {
    "NaN": _weights(_not_a_number),
    "NaN, checksum kept": _weights(_not_a_number, keep=True),
    "scaled, checksum kept": _weights(_scaled, keep=True),
    "a tensor less": _weights(lambda state: state.popitem()),
    "no tensor": _weights(lambda state: state.clear()),
}


def _arrays(change: Callable[[dict], object]) -> Damage:
    def edit(path: Path) -> None:
        with np.load(path) as file:
            arrays = dict(file)
        change(arrays)
        path.unlink()
        with path.open("wb") as stream:
            np.savez_compressed(stream, **arrays)

    return edit


ARRAYS = {
    "no predictions": _arrays(_without("predictions")),
    "no labels": _arrays(_without("labels")),
    "predictions of floats": _arrays(lambda a: a.update(predictions=a["predictions"] * 1.0)),
    "an image less": _arrays(lambda a: a.update(predictions=a["predictions"][1:])),
    "embeddings of NaN": _arrays(
        lambda a: a.update(embeddings_initial=a["embeddings_initial"] * np.float16("nan"))
    ),
}


def _checkpoint(change: Callable[[dict], object]) -> Damage:
    def edit(path: Path) -> None:
        import torch

        content = torch.load(path, weights_only=True)
        change(content)
        path.unlink()
        torch.save(content, path)

    return edit


CHECKPOINT = {
    "of another run": _checkpoint(_with("key", "0123456789/finetune")),
    "no step": _checkpoint(_without("step")),
    "no network": _checkpoint(_without("network")),
    "step 99": _checkpoint(_with("step", 99)),
    "step 'one'": _checkpoint(_with("step", "one")),
    "step 0.5": _checkpoint(_with("step", 0.5)),
    "seconds -1": _checkpoint(_with("seconds", -1.0)),
    "seconds NaN": _checkpoint(_with("seconds", float("nan"))),
    "NaN": _checkpoint(lambda content: _not_a_number(content["network"])),
    "a list": lambda path: _checkpoint_list(path),
    "rows of text": _checkpoint(_with("rows", ["x"])),
    "no optimiser": _checkpoint(_with("optimizer", {})),
}


def _checkpoint_list(path: Path) -> None:
    import torch

    path.unlink()
    torch.save([1, 2], path)


# --- the sweep -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A copy of the sweep: data, cache, runs and results in one folder."""

    home: Path

    def run(self, method: str = "contrastive", seed: int = 0) -> Path:
        """The folder of a run."""
        return next((self.home / "runs").glob(f"camvid-smoke-{method}-s{seed}-*"))

    def command(self, words: str) -> list[str]:
        """The words of a command, with the folders of this place."""
        name, *rest = shlex.split(words.format(run=self.run() if "{run}" in words else ""))
        flags = {"runs": "--runs", "results": "--results"}
        with_data = ["--data", str(self.home / "data"), "--cpu", "--quiet"]
        where = [word for key, flag in flags.items() for word in (flag, str(self.home / key))]
        if name in ("run", "sweep", "pretrain"):
            return [name, *TINY, *rest, *where, *with_data]
        if name == "finetune":
            return [name, *rest, "--results", str(self.home / "results"), *with_data]
        if name == "evaluate":
            return [name, *rest, *with_data]
        if name == "predict":
            photo = next((self.home / "data/CamVid/val").iterdir())
            return [name, *rest, str(photo), "--out", str(self.home / "out"), "--cpu"]
        return [name, *rest, "--results", str(self.home / "results")]


@dataclass(frozen=True)
class Said:
    """What a command did: its exit code (``None`` for a traceback) and its words."""

    code: int | None
    out: str
    err: str


def call(words: list[str]) -> Said:
    """Give a command in this process."""
    from segnb.cli import main

    out, err = io.StringIO(), io.StringIO()
    code: int | None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as end:
            code = int(end.code or 0)
        except Exception:
            code = None
            err.write(traceback.format_exc())
    return Said(code, out.getvalue(), err.getvalue())


def make_sweep(home: Path) -> Place:
    """Train the sweep: three runs, one stopped after stage 1, one with a checkpoint."""
    _make_camvid(home / "data")
    place = Place(home)
    _environment(place)
    for words in (
        "sweep --methods ce contrastive --seeds 0",
        "run --method ce --seed 1",
        "pretrain --method contrastive --seed 1",
    ):
        said = call(place.command(words))
        assert said.code == 0, said
    _stop_in_stage_2(place)
    return place


def _stop_in_stage_2(place: Place) -> None:
    from segnb.experiments import runs
    from segnb.recipe import Recipe
    from segnb.training import TrainingStopped

    values = json.loads((place.run("ce") / "recipe.json").read_text())
    recipe = Recipe.from_dict({**values, "seed": 2})
    with contextlib.suppress(TrainingStopped):
        runs.run(
            recipe,
            runs=place.home / "runs",
            results=None,
            root=place.home / "data",
            cpu=True,
            progress_bar=False,
            should_stop=lambda: True,
        )
    assert list(place.run("ce", 2).glob("*.pt"))


def _make_camvid(root: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (12, 3))
    for number, (split, count) in enumerate({"train": 8, "val": 3, "test": 2}.items()):
        for index in range(count):
            draw = np.random.default_rng([number, index])
            bands = np.append(draw.permutation(11)[:5], 11)
            mask = np.tile(np.repeat(bands, 10).astype(np.uint8), (45, 1))
            image = np.clip(colours[mask] + draw.normal(0, 20, (45, 60, 3)), 0, 255)
            for folder, pixels in ((split, image.astype(np.uint8)), (f"{split}annot", mask)):
                path = root / "CamVid" / folder / f"{split}_{index:02d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)


def _environment(place: Place) -> None:
    os.environ["SEGNB_CACHE"] = str(place.home / "cache")
    os.environ["SEGNB_DATA"] = str(place.home / "data")


def copy(place: Place, home: Path) -> Place:
    """A fresh copy, by hard links where the disk has them."""
    shutil.rmtree(home, ignore_errors=True)
    for part in ("runs", "results", "cache"):
        shutil.copytree(place.home / part, home / part, copy_function=os.link)
    # Data keep their place: a cache knows them by path.
    (home / "data").symlink_to(place.home / "data")
    return Place(home)


# --- the cases -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One damage to one file, and a command that reads it.

    Attributes:
        kind: The kind of file.
        damage: The damage's name.
        command: The command, ``{run}`` for the folder of the contrastive run.
        file: The file in a copy of the sweep.
        act: The damage.
        unseen: Whether no check can notice it.
    """

    kind: str
    damage: str
    command: str
    file: Callable[[Place], Path]
    act: Damage
    unseen: bool = False

    def __str__(self) -> str:
        return f"{self.kind}: {self.damage} | {self.command}"


RUN, OTHER = "run --method contrastive --seed 0", "run --method contrastive --seed 1"
FINETUNE, EVALUATE, PREDICT = "finetune {run}", "evaluate {run}", "predict {run}"
STOPPED, SIBLING = "run --method ce --seed 2", "run --method contrastive --seed 0 --freeze"
TABLE, SWEEP = "table", "sweep --methods ce contrastive --seeds 0"


def _in_run(name: str) -> Callable[[Place], Path]:
    return lambda place: place.run() / name


def _copy_of(name: str, method: str, seed: int) -> Damage:
    def take(path: Path) -> None:
        home = path.parent.parent.parent
        _put(path, (Place(home).run(method, seed) / name).read_bytes())

    return take


def cases() -> list[Case]:
    """All cases."""
    return [*_of_runs(), *_of_training(), *_of_results(), *_of_cache()]


def _of_runs() -> Iterator[Case]:
    of_recipe = {
        **_fields(seed="x", size=5, temperature=-1, later=1, method="magic", pretrain=None),
        **_fields(fraction=7, tier=["quick"], flip="yes", dataset="camvjd"),
        "seed of another run": _edited(_with("seed", 1)),
    }
    of_row = {
        **_fields(seed=None, miou_val=1e9, miou_test="much", steps=-1, recipe_hash="../../x"),
        **_fields(recipe_hash="0123456789", iou=[], labelled=0, stages={}, miou_val=3.25),
        **_fields(recipe={"later": 1}, data={"train": 3}, seconds=1e9, files=None),
        **_lacking("miou_val", "recipe", "iou"),
        "of another run": _copy_of("metrics.json", "ce", 1),
    }
    of_ids = {
        **_fields(labelled="all", missing=-1, train=0, evaluated=3, data=4),
        **_lacking("labelled"),
        "of another run": _copy_of("ids.json", "ce", 1),
    }
    of_machine = {
        **_fields(started=3, device=None, torch=[]),
        **_lacking("started", "commit"),
        "of another run": _copy_of("environment.json", "ce", 1),
    }
    of_log = {
        **_fields(0, step="one", loss=None, stage=4, seconds=-1),
        **_lacking("step", line=0),
        "of another run": _copy_of("log.jsonl", "ce", 1),
        "a line less": _changed(lambda content: content[content.index(b"\n") + 1 :]),
    }
    taken = {"of another run": _copy_of("preview.npz", "ce", 1)}
    other = {"of another run": _copy_of("weights.safetensors", "ce", 1)}
    of_stage = {**_fields(rows=3, decides=[], weights=None, environment={}), **_lacking("rows")}
    for name, damages, commands in (
        ("recipe.json", {**ANY, **TEXT, **of_recipe}, (RUN, FINETUNE, EVALUATE)),
        ("metrics.json", {**ANY, **TEXT, **of_row}, (RUN, FINETUNE)),
        ("ids.json", {**ANY, **TEXT, **of_ids}, (RUN,)),
        ("environment.json", {**ANY, **TEXT, **of_machine}, (RUN,)),
        ("log.jsonl", {**ANY, **TEXT, **of_log}, (RUN,)),
        ("preview.npz", {**ANY, **FLIPS, **ARRAYS, **taken}, (RUN,)),
        ("weights.safetensors", {**ANY, **FLIPS, **WEIGHTS, **other}, (EVALUATE, RUN, PREDICT)),
        ("pretrained.safetensors", {**ANY, **FLIPS, **WEIGHTS}, (RUN,)),
        ("pretrained.json", {**ANY, **TEXT, **of_stage}, (RUN,)),
    ):
        for damage, act in damages.items():
            for command in commands:
                yield Case(name, damage, command, _in_run(name), act)


def _of_training() -> Iterator[Case]:
    def checkpoint(place: Place) -> Path:
        return place.run("ce", 2) / "finetune.pt"

    for damage, act in {**ANY, **FLIPS, **CHECKPOINT}.items():
        yield Case("checkpoint", damage, STOPPED, checkpoint, act)
    for name in ("ids.json", "environment.json", "recipe.json", "log.jsonl"):
        for damage, act in {**ANY, **TEXT}.items():
            yield Case(
                f"{name} of a stopped run",
                damage,
                STOPPED,
                lambda place, name=name: place.run("ce", 2) / name,
                act,
            )
    for damage, act in {**ANY, **TEXT}.items():
        yield Case(
            "log.jsonl after stage 1",
            damage,
            OTHER,
            lambda place: place.run("contrastive", 1) / "log.jsonl",
            act,
        )

    def stored(name: str) -> Callable[[Place], Path]:
        def find(place: Place) -> Path:
            key = json.loads((place.run() / "pretrained.json").read_text())["key"]
            return place.home / "runs" / "stage1" / key / name

        return find

    for name, damages in (
        ("pretrained.safetensors", {**ANY, **FLIPS}),
        ("pretrained.json", {**ANY, **TEXT}),
    ):
        for damage, act in damages.items():
            yield Case(f"stored {name}", damage, SIBLING, stored(name), act)


def _of_results() -> Iterator[Case]:
    def ledger(place: Place) -> Path:
        return place.home / "results" / "ledger.jsonl"

    damages = {
        **ANY,
        **TEXT,
        **_fields(0, seed=None, miou_val=1e9, miou_test=-3, method="magic", dataset="camvjd"),
        **_fields(0, recipe_hash="xyz", recipe={"later": 1}, iou={"val": ["a"]}, labelled=1.5),
        **_fields(0, seconds="long", steps=999, log="../../x", temperature=9.0, version=None),
        **_lacking("seed", "recipe", "miou_val", line=0),
    }
    for damage, act in damages.items():
        for command in (TABLE, SWEEP, "run --method ce --seed 1"):
            # Without a ledger there is nothing to print, which is no fault.
            if not (damage in ("missing", "empty") and command == TABLE):
                yield Case("ledger", damage, command, ledger, act)


def _of_cache() -> Iterator[Case]:
    def memory(place: Place) -> Path:
        return next((place.home / "cache" / "contents").glob("*-train.json"))

    def measured(place: Place) -> Path:
        return sorted((place.home / "runs" / "measured").iterdir())[0]

    for damage, act in {**ANY, **TEXT}.items():
        yield Case("fingerprints", damage, RUN, memory, act)
    for damage, act in {**ANY, **FLIPS}.items():
        yield Case("measurements", damage, SIBLING, measured, act)


# --- judging -------------------------------------------------------------------------------------


def _numbers(said: Said) -> str:
    """What a command found: its last lines, without times and paths; or its error."""
    if said.code != 0:
        return said.err
    text = re.sub(r"[\d.]+ (s|min|h)\b", "T", said.out)
    lines = [line for line in text.splitlines() if re.search(r"mIoU|\|  |\d\.\d", line)]
    kept = [re.sub(r".*(mIoU val)", r"\1", line) for line in lines if "passes" not in line]
    return "\n".join(line for line in kept if "segnb" not in line and "recipes" not in line)


def _rows(place: Place) -> dict[str, tuple[object, ...]]:
    """What the ledger says, by recipe; broken lines are left out."""
    path = place.home / "results" / "ledger.jsonl"
    found = {}
    with contextlib.suppress(OSError, ValueError):
        wide = path.read_bytes().startswith(b"\xff\xfe")
        for line in path.read_text(encoding="utf-16" if wide else "utf-8-sig").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                kept = ("seed", "method", "miou_val", "miou_test", "labelled", "steps")
                found[row["recipe_hash"]] = tuple(row[name] for name in kept)
    return found


def _remedied(place: Place, path: Path, said: Said) -> None:
    """Do what an error about a file says."""
    line = said.err.strip().splitlines()[-1]
    if number := re.search(r"line (\d+)", line):
        if "merge" in line:
            marks = ("<<<<<<<", "|||||||", "=======", ">>>>>>>")
            kept = [one for one in path.read_text().splitlines() if not one.startswith(marks)]
        else:
            lines = path.read_bytes().split(b"\n")
            del lines[int(number[1]) - 1]
            kept = [one.decode(errors="replace") for one in lines]
        _put(path, ("\n".join(kept).strip() + "\n").encode())
    elif "move it away" in line:
        path.rename(path.with_name("moved"))
    elif "remove the link" in line or re.search(r"delete it\b", line):
        path.unlink()
    for words in re.findall(r"`(segnb [^`]+)`", line):
        if words == "segnb run":
            call(place.command(RUN))
        else:
            _, name, *rest = shlex.split(words)
            if name == "finetune":
                call(place.command(FINETUNE))
            elif name == "run":
                call(["run", *rest, *place.command("run")[len(TINY) + 1 :]])


def _add_again(place: Place) -> None:
    """Repeat the commands of the sweep's runs, which add rows that had to be deleted."""
    for method, seed in (("ce", 0), ("contrastive", 0), ("ce", 1)):
        call(place.command(f"run --method {method} --seed {seed}"))


def _differs(said: Said, case: Case, numbers: str) -> bool:
    """Whether a command found something else than without damage."""
    if case.command == SWEEP:
        # It may have to add rows again, and tells each; the rows themselves are compared.
        return said.code != 0
    return _numbers(said) != numbers


class Judge:
    """Judges cases against what each command says without damage."""

    def __init__(self, sweep: Place, scratch: Path) -> None:
        self.sweep, self.scratch = sweep, scratch
        self._wanted: dict[str, tuple[str, dict[str, tuple[object, ...]]]] = {}

    def wanted(self, command: str) -> tuple[str, dict[str, tuple[object, ...]]]:
        """The numbers and the rows of a command without damage."""
        if command not in self._wanted:
            place = copy(self.sweep, self.scratch)
            _environment(place)
            said = call(place.command(command))
            assert said.code == 0 or command == TABLE, said  # these are no preset's own recipes
            self._wanted[command] = _numbers(said), _rows(place)
        return self._wanted[command]

    def __call__(self, case: Case) -> tuple[str, str]:
        """The verdict, and what was said."""
        numbers, rows = self.wanted(case.command)
        place = copy(self.sweep, self.scratch)
        _environment(place)
        path = case.file(place)
        words = place.command(case.command)
        before = _rows(place)
        case.act(path)
        said = call(words)
        if said.code is None:
            return "traceback", said.err.strip().splitlines()[-1]
        told = said.err.strip() or re.sub(r"(?s).*\n(?=the stage 1 in)", "", said.out)
        if said.code != 0 and _numbers(said) != numbers:
            if len(said.err.strip().splitlines()) > 3 or not said.err.strip():
                return "traceback", said.err
            _remedied(place, path, said)
            if case.kind == "ledger":
                _add_again(place)
            again = call(words)
            if again.code is None:
                return "traceback", again.err.strip().splitlines()[-1]
            if _differs(again, case, numbers):
                return "dead end", f"{told} -> {again.err.strip() or _numbers(again)}"
            verdict = "told"
        elif _differs(said, case, numbers):
            return ("unseen" if case.unseen else "silent"), _numbers(said)
        else:
            verdict = "told" if said.err.strip() or "is not used" in said.out else "right"
        if case.kind == "ledger":
            _add_again(place)
            rows = {**before, **rows}
        after = _rows(place)
        if lost := [name for name in rows if after.get(name) != rows[name]]:
            if case.command in (EVALUATE, PREDICT, TABLE) and case.kind != "ledger":
                return verdict, told
            return "lost", f"{lost}: {told}"
        return verdict, told


def main(words: list[str] | None = None) -> int:
    """Run the campaign; 1 if it found a fault."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="Take every N-th case.")
    parser.add_argument("--only", default="", help="Only cases whose name has this text.")
    parser.add_argument("--show", action="store_true", help="Print every case.")
    options = parser.parse_args(words)
    chosen = [case for case in cases() if options.only in str(case)][:: options.every]
    with tempfile.TemporaryDirectory(prefix="damage-") as folder:
        judge = Judge(make_sweep(Path(folder) / "sweep"), Path(folder) / "copy")
        found: Counter[str] = Counter()
        for case in chosen:
            verdict, said = judge(case)
            found[verdict] += 1
            if options.show or verdict not in ("right", "told", "unseen"):
                print(f"{verdict:>9}  {case}\n           {said[:300]}", flush=True)
    kinds = len({(case.kind, case.damage) for case in chosen})
    print(f"{len(chosen)} cases, {kinds} kinds of damage: {dict(found)}")
    return int(bool(found.keys() - {"right", "told", "unseen"}))


if __name__ == "__main__":
    sys.exit(main())
