"""The one-file example runs, and its loss and mIoU are those of independent code."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from segnb.losses import paper

PATH = Path(__file__).resolve().parent.parent / "examples" / "minimal.py"


@pytest.fixture(scope="module")
def minimal() -> ModuleType:
    spec = importlib.util.spec_from_file_location("minimal", PATH)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_stands_alone_and_is_short() -> None:
    source = PATH.read_text(encoding="utf-8")
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or ".").split(".")[0])
    assert imported - sys.stdlib_module_names == {"torch", "numpy"}
    code = [line for line in source.splitlines() if line.strip()]
    assert len(code) <= 230, "lines that are not blank"


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_its_loss_is_the_papers(minimal: ModuleType, cross: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes, features, labels = (9, 7, 6), [], []
    for size in sizes:
        values = torch.randn(3, size, 5, generator=generator, dtype=torch.float64)
        features.append(F.normalize(values, dim=2).requires_grad_())
        labels.append(torch.randint(4, (3, size), generator=generator))
        labels[-1][torch.rand(3, size, generator=generator) < 0.2] = minimal.IGNORE
    labels[0][0] = 3  # a class that its keys lack, in any of the two
    labels[1][0] = labels[2][0] = 1
    labels[1][1] = minimal.IGNORE  # an image without a key
    labels[1][2][labels[1][2] == 2] = 0  # a class that only the other image has
    labels[2][2][:2] = labels[0][2][:2] = 2
    used = 3 if cross else 2
    mine = minimal.contrastive_loss(
        *list(zip(features, labels, strict=True))[:used], temperature=0.1
    )
    form = paper.cross_image_loss if cross else paper.within_image_loss
    expected = form(*features[:used], *labels[:used], temperature=0.1, backend="plain")
    torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-12)
    gradients = torch.autograd.grad(mine, features[:used])
    wanted = torch.autograd.grad(expected, features[:used])
    torch.testing.assert_close(gradients, wanted, rtol=1e-8, atol=1e-12)
    assert any(gradient.abs().max() > 0.01 for gradient in gradients)


def test_its_miou_is_a_hand_count(minimal: ModuleType) -> None:
    truth = torch.tensor([[0, 0, 0, 1], [1, 2, minimal.IGNORE, 2]])
    guess = torch.tensor([[0, 0, 1, 1], [1, 0, 4, 2]])
    # 0: 2 of 4, 1: 2 of 3, 2: 1 of 2; classes 3 and 4 occur nowhere that counts.
    assert minimal.mean_iou(guess, truth) == pytest.approx(100 * (2 / 4 + 2 / 3 + 1 / 2) / 3)


def test_scenes_come_from_their_seed_and_hold_every_class(minimal: ModuleType) -> None:
    images, masks = minimal.draw_scenes(16, seed=3)
    again, _ = minimal.draw_scenes(16, seed=3)
    other, _ = minimal.draw_scenes(16, seed=4)
    assert images.equal(again)
    assert not images.equal(other)
    assert set(masks.unique().tolist()) == {0, 1, 2, 3, 4, minimal.IGNORE}
    assert 0 <= images.min() < images.max() <= 1


def test_it_runs_and_reports_what_it_measured(
    minimal: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    try:
        minimal.main(
            ["--labelled", "2", "--pretrain-steps", "2", "--steps", "2", "--seeds", "0", "5"]
        )
    finally:
        torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("mean")[1].replace("each", "").split() for line in lines[1:4]]
    for mean, *each in rows:
        assert len(each) == 2
        assert float(mean) == pytest.approx(sum(map(float, each)) / 2, abs=0.11)
    for row, number in zip(rows[:2], (0, 1), strict=True):
        gain = float(lines[-1].split(" points")[number].split()[-1])
        assert gain == pytest.approx(float(rows[2][0]) - float(row[0]), abs=0.11)
