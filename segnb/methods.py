"""The methods that are compared: one entry for each kind.

A new kind is one more entry in :data:`KINDS`. Recipes, the command line, tables, figures and the
explorer take its name, compute, order and style from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

#: Okabe and Ito's colours, chosen to suit all kinds of colour vision.
BLUE, SKY, GREEN = "#0072B2", "#56B4E9", "#009E73"
ORANGE, RED, PINK, GREY = "#E69F00", "#D55E00", "#CC79A7", "#4d4d4d"

#: Fields of the contrastive loss, and fields that say what stage 2 keeps from stage 1.
_LOSS_FIELDS = frozenset({"form", "scope", "temperature", "loss_size", "loss_backend"})
_FREEZE_FIELDS = frozenset({"freeze", "freeze_statistics"})


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of method.

    Attributes:
        name: Its name in tables and legends.
        stage_one: The loss of stage 1, before the network gets a new head; ``None`` if there is
            no stage 1.
        rounds: How often both stages are trained, each round on the pseudo-labels of the last.
        compute_of: For a cross-entropy baseline, the kind whose image passes and colour
            distortion it matches.
        colour: Hex colour; ``None`` takes colour and marker from the loss's form and scope.
        marker: Matplotlib marker.
        line: Matplotlib line style.
        filled: Whether the marker is filled.
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
            # A baseline that matches another kind takes its compute and distortion from these.
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

#: Colour and marker for each form and scope of the contrastive loss, in table order.
LOSSES: dict[tuple[str, str], tuple[str, str]] = {
    ("paper", "cross"): (BLUE, "^"),
    ("paper", "within"): (SKY, "v"),
    ("paper", "batch"): (PINK, "<"),
    ("official", "cross"): (GREEN, "D"),
    ("official", "within"): (RED, "P"),
}

if TYPE_CHECKING:
    MethodName: TypeAlias = str
else:  # the command line offers the registered kinds
    MethodName = Literal[tuple(KINDS)]


def same_compute(name: str) -> str | None:
    """The cross-entropy baseline with as many image passes; such a baseline matches itself."""
    matched = KINDS[name].compute_of or name
    return next((other for other, kind in KINDS.items() if kind.compute_of == matched), None)
