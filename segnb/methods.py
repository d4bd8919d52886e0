"""The kinds of method that are compared, one entry each; everything else asks here.

A new kind is one more entry of :data:`KINDS`: recipes, the command line, tables, figures and the
explorer take its name, compute, order and look from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

#: Okabe and Ito's colours, made for all kinds of colour vision.
BLUE, SKY, GREEN = "#0072B2", "#56B4E9", "#009E73"
ORANGE, RED, PINK, GREY = "#E69F00", "#D55E00", "#CC79A7", "#4d4d4d"

#: Fields of the contrastive loss, and of what stage 2 keeps of a stage 1 before it.
_LOSS_FIELDS = frozenset({"form", "scope", "temperature", "loss_size", "loss_backend"})
_FREEZE_FIELDS = frozenset({"freeze", "freeze_statistics"})


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of method.

    Attributes:
        name: What tables and legends call it.
        stage_one: What the network is trained with before the stage that is compared, and before
            it gets a new head; ``None`` where that stage is all.
        rounds: How often the stages are trained, each round on the last one's pseudo-labels.
        compute_of: For a baseline of cross-entropy, the kind whose image passes and colour
            distortion it gets.
        colour: Hex colour; ``None`` takes colour and marker of the loss's form and scope.
        marker: Matplotlib marker.
        line: Matplotlib line style.
        filled: Whether its marker is filled.
    """

    name: str
    stage_one: Literal["contrastive", "cross-entropy"] | None = None
    rounds: int = 1
    compute_of: str | None = None
    colour: str | None = None
    marker: str = "o"
    line: str = "-"
    filled: bool = True

    @property
    def unused(self) -> frozenset[str]:
        """Fields of a recipe that cannot change the result of this kind."""
        fields = frozenset() if self.rounds > 1 else frozenset({"pseudo_threshold"})
        if self.stage_one != "contrastive":
            fields |= _LOSS_FIELDS
        if self.stage_one is None:
            fields |= _FREEZE_FIELDS
            # The compute and distortion of the stages that they match decide for some baselines.
            fields |= frozenset() if self.compute_of else frozenset({"pretrain", "distortion"})
        return fields


#: All kinds, in the order of tables and legends.
KINDS: dict[str, Kind] = {
    "ce": Kind(name="cross-entropy", colour=GREY, marker="o"),
    "ce_long": Kind(
        name="cross-entropy, same compute", compute_of="contrastive", colour=ORANGE, marker="s"
    ),
    "ce_double": Kind(
        name="cross-entropy, compute of two rounds",
        compute_of="pseudo",
        colour=ORANGE,
        marker="X",
        line="-.",
    ),
    "ce_pretrained": Kind(
        name="cross-entropy in both stages",
        stage_one="cross-entropy",
        colour=GREY,
        marker="p",
        line="-.",
    ),
    "contrastive": Kind(name="contrastive", stage_one="contrastive"),
    "pseudo": Kind(
        name="pseudo-labels", stage_one="contrastive", rounds=2, line="--", filled=False
    ),
}

#: Colour and marker of each form and scope of the contrastive loss, in the order of tables.
LOSSES: dict[tuple[str, str], tuple[str, str]] = {
    ("paper", "cross"): (BLUE, "^"),
    ("paper", "within"): (SKY, "v"),
    ("paper", "batch"): (PINK, "<"),
    ("official", "cross"): (GREEN, "D"),
    ("official", "within"): (RED, "P"),
}

if TYPE_CHECKING:
    MethodName: TypeAlias = str
else:  # the command line offers what is registered
    MethodName = Literal[tuple(KINDS)]


def same_compute(name: str) -> str | None:
    """The cross-entropy baseline with as many image passes as this kind; itself for such a one."""
    matched = KINDS[name].compute_of or name
    return next((other for other, kind in KINDS.items() if kind.compute_of == matched), None)
