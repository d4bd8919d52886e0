"""What a comparison on an own folder says; and an own folder all the way to an ONNX file."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_folder import make_folder
from PIL import Image
from scipy.stats import t
from tiny import ledger_row, tiny_recipe

from segnb import cli, datasets, plots
from segnb.datasets.own.folds import Fold
from segnb.errors import ConfigError, DataError
from segnb.experiments import answer as answers
from segnb.experiments.answer import METHODS, PairedGain, conclude
from segnb.experiments.runs import read_info, run, run_folder
from segnb.predict import predict_folder
from segnb.recipe import Recipe, preset
from segnb.results import ledger
from segnb.results.overview import tables

pytest_plugins = ["tiny"]
pytestmark = pytest.mark.usefixtures("one_thread")

FOLDS = [Fold(Path(str(number)), 40, 10) for number in range(5)]


def comparisons(
    means: dict[str, float], *, seeds: int, fraction: float = 1.0, noise: float = 0.5
) -> list[list[ledger.Row]]:
    """Rows of three methods with this mean mIoU, the same up and down in all of them and noise."""
    rows = []
    for seed in range(seeds):
        shared = 5.0 * math.sin(seed)
        rows.append(
            [
                ledger_row(
                    tiny_recipe(method, seed=seed, fraction=fraction),  # type: ignore[arg-type]
                    fraction=fraction,
                    labelled=round(40 * fraction),
                    miou_val=means[method] + shared + noise * (-1) ** (seed + number),
                )
                for number, method in enumerate(METHODS)
            ]
        )
    return rows


def said(rows: list[list[ledger.Row]], folds: list[Fold] | None = None) -> answers.Answer:
    return conclude(rows, folds=folds or [], title="leaves", runs=Path("runs"))


def test_what_is_better_beyond_doubt_is_recommended() -> None:
    found = said(comparisons({"ce": 40, "ce_long": 45, "contrastive": 52}, seeds=5), FOLDS)
    assert found.use == "contrastive"
    first, second, third = found.sentences
    assert first.startswith("Use contrastive: mIoU 5")
    assert "40 labelled images" in first
    assert "worth it" in second
    assert "95 % interval" in second
    assert "takes more time" in third
    assert found.run.name.startswith("camvid-smoke-contrastive-s0-")
    assert "5-fold cross-validation" in str(found)


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_repeats_promise_nothing(seeds: int) -> None:
    found = said(comparisons({"ce": 40, "ce_long": 45, "contrastive": 52}, seeds=seeds))
    assert found.use == "ce"
    assert "nothing that takes longer was shown to be better" in found.sentences[0]
    assert "too few for an interval), so it is open" in found.sentences[1]


def test_the_cheapest_wins_a_draw_and_a_loss_is_said() -> None:
    draw = said(comparisons({"ce": 50, "ce_long": 50, "contrastive": 50}, seeds=5, noise=3))
    assert draw.use == "ce"
    assert "undecided" in draw.sentences[1]
    loss = said(comparisons({"ce": 40, "ce_long": 55, "contrastive": 45}, seeds=5))
    assert loss.use == "ce_long"
    assert "not worth it" in loss.sentences[1]


def test_labels_are_compared_repeat_by_repeat() -> None:
    whole = comparisons({"ce": 50, "ce_long": 50, "contrastive": 50}, seeds=3)
    part = comparisons({"ce": 40, "ce_long": 40, "contrastive": 40}, seeds=3, fraction=0.25)
    found = said(whole + part)
    assert found.labels is not None
    assert found.labels.differences == pytest.approx((10, 10, 10))
    assert found.sentences[2].startswith("40 labelled images beside 10: +10.0 points")
    assert "more labels are likely to help" in found.sentences[2]
    picture = plots.answer_curve(found)
    assert "cross-entropy: " in picture.alt
    # A repeat that only one number of images has is a dot, and moves no line.
    more = comparisons({"ce": 90, "ce_long": 90, "contrastive": 90}, seeds=4)[3:]
    assert plots.answer_curve(said(whole + part + more)).alt == picture.alt


def test_folds_widen_the_interval() -> None:
    values = (1.0, 3.0, 2.0, 4.0, 2.5)
    plain = PairedGain(method="ce_long", over="ce", differences=values)
    half = t.ppf(0.975, 4) * statistics.stdev(values) / math.sqrt(5)
    assert plain.interval == pytest.approx((2.5 - half, 2.5 + half))
    folded = PairedGain(method="ce_long", over="ce", differences=values, overlap=0.25)
    wider = t.ppf(0.975, 4) * statistics.stdev(values) * math.sqrt(1 / 5 + 0.25)
    assert folded.interval == pytest.approx((2.5 - wider, 2.5 + wider))


def tiny(recipe: Recipe, **changes: Any) -> Recipe:
    small = tiny_recipe()
    names = ("size", "crop", "encoder_depth", "decoder_channels", "pretrain", "finetune")
    same = {name: getattr(small, name) for name in names}
    return recipe.replace(precision="fp32", **same, **changes)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A folder and a run of it; the folder is then moved and its classes are renamed."""
    home = tmp_path_factory.mktemp("own")
    folder = make_folder(home / "first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGNB_CACHE", str(home / "cache"))
        patch.setenv("SEGNB_DATA", str(home / "data"))
        recipe = tiny(preset(str(folder), "smoke"), method="ce", fraction=0.5)
        options: dict[str, Any] = {"cpu": True, "progress_bar": False}
        row = run(recipe, runs=home / "runs", results=home / "results", **options)
        assert row is not None
        assert (row["dataset"], row["labelled"]) == ("leaves", 3)
        folder.rename(home / "second")
        again = tiny(preset(str(home / "second"), "smoke"), method="ce", fraction=0.5)
        assert run_folder(again, home / "runs") == run_folder(recipe, home / "runs")
        yield home, run_folder(recipe, home / "runs")


def test_a_run_outlives_a_move_of_its_folder(own: tuple[Path, Path], tmp_path: Path) -> None:
    home, folder = own
    assert folder.name.startswith("leaves-smoke-ce-s0-")
    assert read_info(folder).class_names == ("soil", "leaf")
    photos = home / "second" / "images"
    list(predict_folder(folder, photos, tmp_path, cpu=True))
    classes = np.asarray(Image.open(next(tmp_path.glob("**/00.classes.png"))))
    assert classes.shape == (30, 40)
    assert classes.max() <= 1
    rows = ledger.read(home / "results" / "ledger.jsonl")
    assert Recipe.from_dict(rows[0]["recipe"]).hash == rows[0]["recipe_hash"]
    with pytest.raises(ConfigError, match="the ledger holds no runs"):
        tables(rows, dataset=str(home / "second"))  # a recipe of its own, not the preset's


def test_images_without_labels_get_pseudo_labels(own: tuple[Path, Path], tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "some", name="some")
    for name in ("00", "01", "02"):
        (folder / "masks" / f"{name}.png").unlink()
    recipe = tiny(preset(str(folder), "smoke"), method="pseudo", fraction=1.0)
    row = run(recipe, runs=tmp_path / "runs", results=None, cpu=True, progress_bar=False)
    assert row is not None
    assert row["labelled"] == 4
    assert row["miou_val"] is not None


def test_an_exported_file_says_the_same_as_torch(own: tuple[Path, Path], tmp_path: Path) -> None:
    import onnxruntime as ort

    from segnb.export import export, read_metadata

    home, folder = own
    with pytest.raises(DataError, match="--images"):
        export(folder, tmp_path / "a.onnx")  # the data set was moved
    with pytest.raises(DataError, match="contains no images"):
        export(folder, tmp_path / "a.onnx", images=tmp_path)
    assert not (tmp_path / "a.onnx").exists()
    done = export(folder, tmp_path / "a.onnx", images=home / "second" / "images")
    assert done.agreement > 0.999
    assert done.difference < 1e-4
    about = read_metadata(done.path)
    assert about["classes"] == ["soil", "leaf"]
    assert str(home) not in str(about)

    # By the words in the file, without segnb.
    height, width = about["height"], about["width"]
    with Image.open(home / "second" / "images" / "03.jpg") as photo:
        scale = min(height / photo.height, width / photo.width)
        small = photo.resize(
            (round(photo.width * scale), round(photo.height * scale)), Image.Resampling.BILINEAR
        )
    batch = np.zeros((1, 3, height, width), np.float32)
    batch[0, :, : small.height, : small.width] = np.asarray(small).transpose(2, 0, 1)
    session = ort.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"images": batch})
    scores = torch.from_numpy(scores[:, :, : small.height, : small.width])
    full = torch.nn.functional.interpolate(
        scores, size=(30, 40), mode="bilinear", align_corners=False
    )
    list(predict_folder(folder, home / "second" / "images" / "03.jpg", tmp_path, cpu=True))
    classes = np.asarray(Image.open(next(tmp_path.glob("**/03.classes.png"))))
    assert (full[0].argmax(0).numpy() == classes).mean() > 0.999


def test_versions_that_cannot_export_are_named(
    own: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from segnb.export import export

    def fails(*_: Any, **__: Any) -> None:
        raise TypeError("Expected an int, got a boolean.\nStep 3 of 3")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(ConfigError, match=r"\(Expected an int.*\); pip .*--upgrade") as error:
        export(own[1], images=own[0] / "second" / "images")
    assert "\n" not in str(error.value)
    assert not (own[1] / "network.onnx").exists()


def test_export_without_its_packages(
    own: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from segnb.export import export

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r'pip install "segnb\[onnx\]"'):
        export(own[1])


def test_a_comparison_within_a_budget(
    own: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = own[0] / "second"
    base = tiny(preset(str(folder), "smoke"), method="ce", form="official", fraction=1.0)
    monkeypatch.setattr(answers, "_ROUNDS", ((1.0, range(1)), (0.5, range(1))))
    lines: list[str] = []
    options: dict[str, Any] = {"place": tmp_path / "answer", "cpu": True, "progress_bar": False}
    options["recipe"] = base
    found = answers.answer(folder, minutes=10, say=lines.append, **options)
    assert found.folds == 5
    assert set(found.scores) == set(METHODS)
    assert {len(by_count) for by_count in found.scores.values()} == {2}
    assert (found.run / "weights.safetensors").is_file()
    assert (
        datasets.get(
            Recipe.from_dict(ledger.read(tmp_path / "answer" / "ledger.jsonl")[0]["recipe"]).dataset
        ).title
        == "leaves.fold-0-0"
    )
    # Again, it only reads; and without any time, it says so.
    assert answers.answer(folder, minutes=0, say=lines.append, **options) == found
    with pytest.raises(ConfigError, match="0 minutes are too few"):
        answers.answer(
            folder, minutes=0, say=lines.append, **{**options, "place": tmp_path / "other"}
        )
    # On other images, it is another comparison.
    (folder / "images" / "00.jpg").write_bytes((folder / "images" / "01.jpg").read_bytes())
    with pytest.raises(ConfigError, match="too short for one comparison"):
        answers.answer(folder, minutes=0, say=lines.append, **options)
    (tmp_path / "answer" / "plan.json").write_text("{")
    with pytest.raises(DataError, match=r"plan\.json is not JSON.*remove it"):
        answers.answer(folder, minutes=9, say=lines.append, **options)


def test_the_time_decides_the_steps(
    own: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Cost:
        seconds = 1000.0

    monkeypatch.setattr(answers, "estimate_cost", lambda *_, **__: Cost())
    usual = answers.usual_recipe(own[0] / "second")

    def base(minutes: float, place: Path, comparisons: int = 3) -> Recipe:
        return answers._planned(usual, place, minutes, comparisons, cpu=True, say=print)

    assert base(1000, tmp_path / "a").pretrain.steps == usual.pretrain.steps
    half = base(9000 / 60 / 0.7 / 2, tmp_path / "b")
    assert half.pretrain.steps == usual.pretrain.steps // 2
    assert half.finetune.steps == usual.finetune.steps // 2
    assert base(1000, tmp_path / "b") == half  # the plan is kept
    assert base(9000 / 60 / 0.7, tmp_path / "d", 6) == half
    with pytest.raises(ConfigError, match=r"1 minutes are too few for this machine: give it \d+"):
        base(1, tmp_path / "c")
    least = answers.least_minutes(usual, margin=1.0)
    short, _ = answers.shortened(usual, least)
    assert min(short.pretrain.steps, short.finetune.steps) >= 40
    with pytest.raises(ConfigError, match=f"give it {least} or more"):
        answers.shortened(usual, least - 1)
    assert answers.least_minutes(usual) > least
    assert cli.main(["answer", str(tmp_path)]) == 1
    assert "there is no data set" in capsys.readouterr().err
