"""The two stages: what a step computes, what it may change, and what it must not see."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny import STEPS, Finished, tiny_recipe
from torch import Tensor

from segnb.datasets import IGNORE, WorkingSet
from segnb.errors import ConfigError, SegnbError
from segnb.experiments import runs
from segnb.experiments.runs import initial_network
from segnb.experiments.splits import Splits, load_splits
from segnb.losses import official, paper
from segnb.methods import KINDS
from segnb.recipe import Recipe, Stage
from segnb.training import (
    Session,
    contrastive_loss,
    finetune,
    make_accelerator,
    pretrain,
    pseudo_label,
)
from segnb.training.batches import Batches
from segnb.training.randomness import batch_indices, step_generator
from segnb.training.schedule import learning_rate
from segnb.training.stages import cross_entropy
from segnb.views import nearest_labels

pytest_plugins = ["tiny"]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def session() -> Session:
    return Session(accelerator=make_accelerator("fp32", cpu=True), progress_bar=False)


@pytest.fixture
def splits(places: Path) -> Splits:
    return load_splits(tiny_recipe())


def tensors(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


# --- order, rate, views ---------------------------------------------------------------------


@given(
    count=st.integers(1, 40), batch=st.integers(1, 50), steps=st.integers(1, 8), seed=st.integers(0)
)
def test_every_epoch_holds_every_image_once(count: int, batch: int, steps: int, seed: int) -> None:
    drawn = torch.cat(
        [batch_indices(count, step=step, batch=batch, seed=seed) for step in range(steps)]
    )
    assert len(drawn) == steps * batch
    for start in range(0, len(drawn) - count + 1, count):
        assert sorted(drawn[start : start + count].tolist()) == list(range(count))


def test_the_order_depends_on_the_seed() -> None:
    one, other = (batch_indices(30, step=0, batch=30, seed=seed) for seed in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("schedule", ["poly", "cosine"])
def test_the_rate_rises_then_falls_to_nearly_nothing(schedule: Any) -> None:
    stage = Stage(steps=100, lr=0.3, warmup=10, schedule=schedule)
    rates = [learning_rate(stage, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.03)
    assert rates[9] == rates[10] == pytest.approx(0.3)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.01


def test_processes_share_a_batch_without_overlap(splits: Splits) -> None:
    recipe = tiny_recipe()

    def share(process: int, processes: int) -> Tensor:
        # No augmentation, so that images can be told apart.
        plain = recipe.replace(scale=(1.0, 1.0), flip=False, crop=recipe.size)
        batches = Batches(
            data=splits.train, recipe=plain, batch=6, process=process, processes=processes
        )
        images, _ = batches.at(2, torch.Generator().manual_seed(0))
        return images

    whole, first, second = share(0, 1), share(0, 2), share(1, 2)
    assert torch.equal(whole[0::2], first)
    assert torch.equal(whole[1::2], second)


@pytest.mark.parametrize(
    ("length", "count", "expected"),
    [
        (5, 3, [0, 2, 4]),
        (5, 5, [0, 1, 2, 3, 4]),
        (9, 3, [0, 4, 8]),
        (3, 5, [0, 0, 1, 2, 2]),
        (4, 1, [0]),
    ],
)
def test_labels_are_taken_where_aligned_features_lie(
    length: int, count: int, expected: list[int]
) -> None:
    masks = torch.arange(length).repeat(1, 2, 1)
    assert nearest_labels(masks, (2, count))[0, 0].tolist() == expected
    assert nearest_labels(masks.transpose(1, 2), (count, 2))[0, :, 0].tolist() == expected


def test_labels_follow_features_that_are_resized_with_aligned_corners() -> None:
    # A ramp of labels and the same ramp as a feature stay together to half a label.
    masks = torch.arange(33).repeat(1, 17, 1)
    ramp = masks[:, None].float()
    for size in ((17, 33), (9, 13), (5, 33), (4, 6)):
        features = torch.nn.functional.interpolate(
            ramp, size=size, mode="bilinear", align_corners=True
        )
        assert (features[:, 0] - nearest_labels(masks, size)).abs().max() <= 0.5


# --- losses of a step -----------------------------------------------------------------------


def unit(*shape: int, seed: int) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=1)


@given(count=st.integers(2, 9), seed=st.integers(0, 2**31))
def test_the_paper_form_never_pairs_an_image_with_itself(count: int, seed: int) -> None:
    first, second = unit(count, 4, 2, 2, seed=0), unit(count, 4, 2, 2, seed=1)
    # Labels tell the images apart: what the loss gets as other labels says who the other is.
    labels = torch.arange(count)[:, None, None].expand(count, 2, 2)
    pairs: list[tuple[Tensor, ...]] = []

    def spy(*arguments: Tensor, **options: Any) -> Tensor:
        pairs.append(arguments)
        return torch.zeros(())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper, "cross_image_loss", spy)
        generator = torch.Generator().manual_seed(seed)
        contrastive_loss(first, second, labels, tiny_recipe(), generator=generator)
    anchors, keys, others, anchor_labels, key_labels, other_labels = pairs[0]
    assert torch.equal(anchors, first)
    assert torch.equal(keys, second)
    assert torch.equal(anchor_labels, key_labels)
    partner = other_labels[:, 0, 0]
    assert (partner != torch.arange(count)).all()
    assert sorted(partner.tolist()) == list(range(count))
    assert torch.equal(others, second[partner])


def test_the_official_form_pairs_by_a_permutation_that_may_have_fixed_points() -> None:
    count = 4
    first, second = unit(count, 4, 2, 2, seed=0), unit(count, 4, 2, 2, seed=1)
    labels = torch.arange(count)[:, None, None].expand(count, 2, 2)
    seen = []

    def spy(one: Tensor, other: Tensor, mine: Tensor, theirs: Tensor, **_: Any) -> Tensor:
        assert torch.equal(one, first)
        partner = theirs[:, 0, 0]
        assert torch.equal(other, second[partner])
        assert sorted(partner.tolist()) == list(range(count))
        seen.append((partner == torch.arange(count)).any().item())
        return torch.zeros(())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(official, "cross_image_loss", spy)
        for seed in range(20):
            generator = torch.Generator().manual_seed(seed)
            recipe = tiny_recipe(form="official")
            contrastive_loss(first, second, labels, recipe, generator=generator)
    assert set(seen) == {True, False}


@pytest.mark.parametrize(
    ("form", "scope"),
    [(f, s) for f in ("paper", "official") for s in ("within", "cross", "batch")][:-1],
)
def test_the_step_computes_the_loss_that_the_recipe_names(form: Any, scope: Any) -> None:
    first, second = unit(3, 8, 3, 3, seed=0), unit(3, 8, 3, 3, seed=1)
    labels = torch.randint(0, 3, (3, 3, 3), generator=torch.Generator().manual_seed(2))
    recipe = tiny_recipe(form=form, scope=scope, temperature=0.3)
    value = contrastive_loss(
        first, second, labels, recipe, generator=torch.Generator().manual_seed(3)
    )
    generator, tau = torch.Generator().manual_seed(3), {"temperature": 0.3}
    if scope == "batch":
        both, twice = torch.cat([first, second]), torch.cat([labels, labels])
        expected = paper.batch_loss(both, twice, **tau)
    elif scope == "within" and form == "paper":
        expected = paper.within_image_loss(first, second, labels, labels, **tau)
    elif scope == "within":
        expected = official.within_image_loss(first, labels, **tau)
        expected = expected + official.within_image_loss(second, labels, **tau)
    elif form == "paper":
        shift = int(torch.randint(1, 3, (1,), generator=generator))
        order = torch.arange(3).roll(shift)
        expected = paper.cross_image_loss(
            first, second, second[order], labels, labels, labels[order], **tau
        )
    else:
        order = torch.randperm(3, generator=generator)
        expected = official.cross_image_loss(first, second[order], labels, labels[order], **tau)
    torch.testing.assert_close(value, expected)


def test_cross_entropy_is_the_mean_over_labelled_pixels() -> None:
    scores = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    masks = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    masks[0, :2] = IGNORE
    expected = torch.nn.functional.cross_entropy(scores, masks, ignore_index=IGNORE)
    torch.testing.assert_close(cross_entropy(scores, masks), expected)


def test_cross_entropy_of_nothing_is_zero_with_zero_gradient() -> None:
    scores = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = cross_entropy(scores, torch.full((1, 2, 2), IGNORE))
    loss.backward()
    assert loss.item() == 0
    assert scores.grad is not None
    assert scores.grad.abs().max() == 0


# --- stages ---------------------------------------------------------------------------------


def test_stage_one_trains_everything_and_leaves_no_classifier(
    splits: Splits, session: Session
) -> None:
    recipe = tiny_recipe(pretrain=Stage(steps=2, batch=4, lr=0.1))
    network = initial_network(recipe)
    before = tensors(network.backbone)
    rows = pretrain(network, splits.labelled_set, recipe, session=session)
    after = tensors(network.backbone)
    assert {name for name in before if torch.equal(before[name], after[name])} == set()
    assert network.head.state_dict().keys() == {
        f"layers.{place}.{kind}" for place in (0, 2, 4) for kind in ("weight", "bias")
    }
    assert [row["step"] for row in rows] == [1, 2]
    assert {"stage", "step", "loss", "lr", "images_per_s", "seconds"} <= rows[0].keys()


@pytest.mark.parametrize("freeze", [False, True])
def test_freezing_keeps_the_backbone_with_its_statistics(
    splits: Splits, session: Session, freeze: bool
) -> None:
    recipe = tiny_recipe(freeze=freeze, finetune=Stage(steps=2, batch=4, weight_decay=0.1))
    network = initial_network(recipe)
    before = tensors(network.backbone)
    finetune(network, splits.labelled_set, recipe, session=session)
    after = tensors(network.backbone)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == (set() if freeze else set(before))


def test_frozen_statistics_are_those_of_stage_one(splits: Splits, session: Session) -> None:
    recipe = tiny_recipe(freeze_statistics=True, finetune=Stage(steps=2, batch=4, weight_decay=0.1))
    network = initial_network(recipe)
    pretrain(network, splits.labelled_set, recipe, session=session)
    before = tensors(network.backbone)
    finetune(network, splits.labelled_set, recipe, session=session)
    after = tensors(network.backbone)
    kept = {name for name in before if torch.equal(before[name], after[name])}
    ends = ("running_mean", "running_var", "num_batches_tracked")
    assert kept == {name for name in before if name.endswith(ends)}


@pytest.mark.parametrize("field", ["freeze", "freeze_statistics"])
def test_cross_entropy_alone_is_never_frozen(splits: Splits, session: Session, field: str) -> None:
    two = Stage(steps=2, batch=4, weight_decay=0.1)
    recipe = tiny_recipe("ce", finetune=two).replace(**{field: True})
    network = initial_network(recipe)
    before = tensors(network.backbone)
    finetune(network, splits.labelled_set, recipe, session=session)
    after = tensors(network.backbone)
    assert not any(torch.equal(before[name], after[name]) for name in before)


def test_stage_two_forgets_how_the_head_of_stage_one_was_drawn(
    splits: Splits, session: Session
) -> None:
    """The classifier and the views of stage 2 are those of the baseline, at the same seed."""
    none = Stage(steps=0, batch=4)
    heads = []
    for method in ("ce", "contrastive"):
        recipe = tiny_recipe(method, pretrain=none, finetune=Stage(steps=2, batch=4))
        network = initial_network(recipe)
        if method == "contrastive":
            pretrain(network, splits.labelled_set, recipe, session=session)
        finetune(network, splits.labelled_set, recipe, session=session)
        heads.append(tensors(network))
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_the_network_is_trained_in_the_order_in_memory_that_the_session_chose(
    order: torch.memory_format, splits: Splits, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segnb.training.session.memory_format", lambda *_: order)
    recipe = tiny_recipe()
    network = initial_network(recipe)
    pretrain(network, splits.labelled_set, recipe, session=session)
    maps = [p for p in network.backbone.parameters() if p.dim() == 4 and min(p.shape[1:]) > 1]
    assert maps
    assert all(p.is_contiguous(memory_format=order) for p in maps)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_both_stages_compute_in_the_chosen_precision(
    splits: Splits, precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(
        pretrain=Stage(steps=1, batch=4), finetune=Stage(steps=1, batch=4), precision=precision
    )
    session = Session(accelerator=make_accelerator(precision, cpu=True), progress_bar=False)
    network = initial_network(recipe)
    seen: list[torch.dtype] = []
    network.backbone.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    pretrain(network, splits.labelled_set, recipe, session=session)
    finetune(network, splits.labelled_set, recipe, session=session)
    wanted = torch.float32 if precision == "fp32" else torch.bfloat16
    assert seen == [wanted, wanted]
    # Outside of training the network computes as it came.
    network.eval()(torch.zeros(1, 3, 32, 32))
    assert seen[-1] == torch.float32
    assert all(p.dtype == torch.float32 for p in network.parameters())


def test_stage_one_sees_the_image_and_its_distortion_with_one_label_map(
    splits: Splits, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(pretrain=Stage(steps=1, batch=4), distortion=0.0)
    seen: list[Tensor] = []
    network = initial_network(recipe)
    network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pretrain(network, splits.labelled_set, recipe, session=session)
    assert seen[0].shape == (8, 3, 32, 32)
    # Without distortion the second view is the first: the crop is shared.
    assert torch.equal(seen[0][:4], seen[0][4:])
    network = initial_network(recipe)
    network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pretrain(network, splits.labelled_set, recipe.replace(distortion=1.0), session=session)
    assert torch.equal(seen[1][:4], seen[0][:4])
    assert not torch.equal(seen[1][4:], seen[0][4:])


@pytest.mark.parametrize(
    ("method", "distorted"), [("ce", False), ("ce_long", True), ("ce_double", True)]
)
def test_only_the_long_baselines_are_distorted(
    splits: Splits, session: Session, method: Any, distorted: bool
) -> None:
    stage = Stage(steps=1, batch=4)
    recipe = tiny_recipe(method, pretrain=Stage(steps=0, batch=4), finetune=stage)
    seen: list[Tensor] = []
    for strength in (0.0, 1.0):
        network = initial_network(recipe)
        network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        changed = recipe.replace(distortion=strength)
        finetune(network, splits.labelled_set, changed, session=session)
    assert torch.equal(seen[0], seen[1]) != distorted


@pytest.mark.parametrize("batch", [1])
@pytest.mark.parametrize("method", ["ce", "contrastive"])
def test_a_batch_of_one_is_refused(
    splits: Splits, session: Session, method: Any, batch: int
) -> None:
    stage = Stage(steps=1, batch=batch)
    recipe = tiny_recipe(method, pretrain=stage, finetune=stage)
    train: Callable[..., Any] = pretrain if method == "contrastive" else finetune
    with pytest.raises(ConfigError, match=r"batch 1 over 1 process.*at least 2"):
        train(initial_network(recipe), splits.labelled_set, recipe, session=session)


def test_a_live_listener_gets_every_row(splits: Splits, session: Session) -> None:
    heard: list[dict[str, Any]] = []
    recipe = tiny_recipe()
    rows = finetune(
        initial_network(recipe),
        splits.labelled_set,
        recipe,
        session=replace(session, on_log=heard.append),
    )
    assert heard == rows
    assert [row["step"] for row in rows] == [1, STEPS]


# --- who may see which label ----------------------------------------------------------------


def test_all_methods_have_the_same_labels(finished: Callable[..., Finished]) -> None:
    used = {
        method: json.loads((finished(method).folder / "ids.json").read_text())["labelled"]
        for method in KINDS
    }
    assert len(used["ce"]) == 6
    assert all(ids == used["ce"] for ids in used.values())


def _without(data: WorkingSet, known: tuple[str, ...]) -> WorkingSet:
    """The same images with nonsense for the labels that a run may not see."""
    masks = data.masks.clone()
    for row, name in enumerate(data.ids):
        if name not in known:
            masks[row] = 3
    return data.with_masks(masks)


@pytest.mark.parametrize("method", ["ce", "contrastive", "pseudo"])
def test_training_sees_no_label_but_the_labelled_images(
    splits: Splits,
    session: Session,
    method: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    finished: Callable[..., Finished],
) -> None:
    """Nonsense in all other masks, of val and test too, gives the very same weights."""
    recipe: Recipe = tiny_recipe(method)
    spoilt = replace(
        splits,
        train=_without(splits.train, splits.labelled),
        evaluated={
            name: (split, _without(data, ())) for name, (split, data) in splits.evaluated.items()
        },
    )
    monkeypatch.setattr(runs, "load_splits", lambda *_, **__: spoilt)
    runs.run(recipe, runs=tmp_path, results=None, cpu=True, progress_bar=False)
    mine, theirs = (
        load_file(folder / "weights.safetensors")
        for folder in (runs.run_folder(recipe, tmp_path), finished(method).folder)
    )
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


# --- pseudo-labels --------------------------------------------------------------------------


def scores_of(data: WorkingSet, classes: Tensor, margin: float) -> Iterator[tuple[int, Tensor]]:
    for index, (height, width) in enumerate(data.extents.tolist()):
        one_hot = torch.nn.functional.one_hot(classes, data.info.num_classes).permute(2, 0, 1)
        yield index, margin * one_hot[:, :height, :width].float()


def test_pseudo_labels_are_the_predictions_and_padding_stays_void(splits: Splits) -> None:
    data = splits.train
    classes = torch.randint(0, 11, (32, 48), generator=torch.Generator().manual_seed(0))
    made = pseudo_label(data, scores_of(data, classes, 9.0))
    height, width = data.extents[0].tolist()
    assert (height, width) == (32, 43)  # 45 x 60 letterboxed into 32 x 48
    assert torch.equal(made.masks[0, :height, :width].long(), classes[:height, :width])
    assert (made.masks[:, :, width:] == IGNORE).all()
    assert torch.equal(made.images, data.images)


def test_pseudo_labels_below_the_threshold_are_void(splits: Splits) -> None:
    data = splits.train
    classes = torch.zeros(32, 48, dtype=torch.long)
    # One score of 3 among ten of 0: a confidence of e³ / (e³ + 10) = 0.668.
    kept = pseudo_label(data, scores_of(data, classes, 3.0), threshold=0.66)
    dropped = pseudo_label(data, scores_of(data, classes, 3.0), threshold=0.67)
    assert (kept.masks[:, :32, :43] == 0).all()
    assert (dropped.masks == IGNORE).all()


def test_pseudo_labels_need_images_without_a_label(places: Path, tmp_path: Path) -> None:
    from segnb.errors import ConfigError

    recipe = tiny_recipe("pseudo", fraction=1.0)
    with pytest.raises(ConfigError, match="all 12 training images are labelled"):
        runs.run(recipe, runs=tmp_path, results=None, cpu=True, progress_bar=False)


def test_a_step_draws_the_same_numbers_whenever_it_runs() -> None:
    once = torch.rand(3, generator=step_generator(0, "pretrain", 7, 0))
    torch.rand(100)
    again = torch.rand(3, generator=step_generator(0, "pretrain", 7, 0))
    assert torch.equal(once, again)
    for other in ((1, "pretrain", 7, 0), (0, "finetune", 7, 0), (0, "pretrain", 8, 0)):
        assert not torch.equal(once, torch.rand(3, generator=step_generator(*other)))


# --- what is told -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["paper", "official"])
def test_stage_1_without_a_positive_pair_says_so_once(
    form: Any, splits: Splits, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    long = Stage(steps=21, batch=4, lr=0.05)
    recipe = tiny_recipe(form=form, pretrain=long)
    data = splits.labelled_set
    empty = data.with_masks(torch.full_like(data.masks, IGNORE))
    rows = pretrain(initial_network(recipe), empty, recipe, session=session)
    assert {row["loss"] for row in rows} == {0.0}
    told = capsys.readouterr().out
    assert told.count("has seen no positive pair in its first 10 steps") == 1
    pretrain(initial_network(recipe), data, recipe, session=session)
    assert "positive pair" not in capsys.readouterr().out


@pytest.mark.parametrize("form", ["paper", "official"])
def test_stage_1_that_diverges_is_told_as_stage_2_is(
    form: Any, splits: Splits, session: Session
) -> None:
    wild = Stage(steps=40, batch=4, lr=1e12)
    recipe = tiny_recipe(form=form, pretrain=wild, finetune=wild)
    for stage in (pretrain, finetune):
        with pytest.raises(SegnbError, match=r"not finite|is (nan|inf)") as error:
            stage(initial_network(recipe), splits.labelled_set, recipe, session=session)
        assert "lower the learning rate" in str(error.value)


def test_another_default_type_is_told_before_anything_is_done() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(ConfigError, match=r"float64.*set_default_dtype\(torch\.float32\)"):
            make_accelerator("fp32", cpu=True)
    finally:
        torch.set_default_dtype(torch.float32)
