"""The method of a run, as tables, figures and the explorer show it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import takewhile
from typing import Any, Literal

from segnb.methods import KINDS, LOSSES, same_compute
from segnb.recipe import Recipe, preset

#: The baselines over which gains are measured, the weakest first.
Baseline = Literal[
    "cross-entropy",
    "the same compute",
    "the same compute, undistorted",
    "cross-entropy in both stages",
    "cross-entropy from ImageNet",
]


@dataclass(frozen=True)
class Mark:
    """How a series is drawn; methods never differ by colour alone.

    Attributes:
        colour: Hex colour, from Okabe and Ito's set for all kinds of colour vision.
        marker: Matplotlib marker.
        line: Matplotlib line style.
        filled: Whether the marker is filled.
    """

    colour: str
    marker: str
    line: str = "-"
    filled: bool = True

    def keywords(self) -> dict[str, Any]:
        """Keyword arguments for matplotlib."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "markerfacecolor": self.colour if self.filled else "white",
            "markeredgecolor": self.colour,
            "markeredgewidth": 1.3,
        }


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method, and how it differs from the preset; its runs differ in labels and seed.

    Attributes:
        kind: Key of :data:`segnb.methods.KINDS`.
        form: Form of the contrastive loss. This and the next two are ``None`` without such a loss.
        scope: Where the keys come from.
        loss_map: Height and width of the embedding map in the loss if they differ from the
            preset's; empty for the network's own feature map.
        frozen: What stage 2 keeps from stage 1: the ``network`` except the classifier, or the
            ``statistics`` of BatchNorm.
        undistorted: A baseline of more compute, but without its colour distortion.
        distorted: The colours are distorted in the steps of cross-entropy too, where the preset
            leaves them alone.
        imagenet: The encoder starts from ImageNet weights.
    """

    kind: str
    form: str | None = None
    scope: str | None = None
    loss_map: tuple[int, ...] | None = None
    frozen: Literal["network", "statistics"] | None = None
    undistorted: bool = False
    distorted: bool = False
    imagenet: bool = False

    @classmethod
    def of(cls, run: Recipe | Mapping[str, Any]) -> Method:
        """The method of a recipe or a ledger row."""
        recipe = run if isinstance(run, Recipe) else recipe_of(run)
        found = cls(
            kind=recipe.method,
            # A baseline with another kind's compute is distorted as stage 1 is.
            distorted=recipe.finetune_distortion > 0 and recipe.kind.compute_of is None,
            imagenet=recipe.encoder_weights == "imagenet",
        )
        if recipe.has_stage1 and (recipe.freeze or recipe.freeze_statistics):
            found = replace(found, frozen="network" if recipe.freeze else "statistics")
        if not recipe.uses_contrastive:
            counts = "distortion" not in recipe.kind.unused
            return replace(found, undistorted=counts and recipe.distortion == 0)
        usual = preset(recipe.dataset, recipe.tier).loss_size
        return replace(
            found,
            form=recipe.form,
            scope=recipe.scope,
            loss_map=None if recipe.loss_size == usual else recipe.loss_size or (),
        )

    @cached_property
    def name(self) -> str:
        """The name in tables and legends: kind, form and scope, then all differences."""
        name = self.short_name
        if self.loss_map is not None:
            size = "x".join(map(str, self.loss_map))
            name += f", {size} cells" if size else ", cells of the feature map"
        if self.frozen:
            name += ", frozen" if self.frozen == "network" else ", frozen statistics"
        if self.undistorted:
            name += ", undistorted"
        if self.distorted:
            name += ", distorted" if self.kind == "ce" else ", stage 2 distorted"
        return name + (", ImageNet" if self.imagenet else "")

    @property
    def short_name(self) -> str:
        """Kind, form and scope."""
        loss = f" ({self.form}, {self.scope})" if self.form else ""
        return KINDS[self.kind].name + loss

    def __str__(self) -> str:
        return self.name

    @cached_property
    def order(self) -> tuple[int, int, str]:
        """Sort key: by kind, then the paper's form first and ``cross`` first, then by name."""
        loss = [*LOSSES].index((self.form, self.scope)) if self.form and self.scope else -1
        return [*KINDS].index(self.kind), loss, self.name

    @cached_property
    def baselines(self) -> dict[Baseline, Method]:
        """The baselines of this method's gains: not itself nor, for a baseline, a stronger one.

        The same compute means as many image passes; for pseudo-labels, those of both rounds.
        Cross-entropy in both stages differs from ``contrastive`` only in the loss of stage 1, so
        stage 2 freezes the same. ImageNet weights are compared with ImageNet weights, and a
        distorted stage 2 with cross-entropy whose colours are distorted as well. Stage 1 from
        scratch is also compared with ImageNet weights in its place, whatever those cost.
        """
        like = Method(kind="ce", imagenet=self.imagenet)
        same_steps = replace(like, distorted=self.distorted and self.kind != "ce")
        found: dict[Baseline, Method] = {"cross-entropy": same_steps}
        if (long := same_compute(self.kind)) is not None:
            found["the same compute"] = replace(like, kind=long)
            found["the same compute, undistorted"] = replace(like, kind=long, undistorted=True)
        if self.kind == "contrastive":
            two_stages = replace(same_steps, kind="ce_pretrained", frozen=self.frozen)
            found["cross-entropy in both stages"] = two_stages
            if not self.imagenet:
                found["cross-entropy from ImageNet"] = replace(same_steps, imagenet=True)
        return dict(takewhile(lambda one: one[1] != self, found.items()))

    @property
    def mark(self) -> Mark:
        """How the method is drawn: the preset's marker, but open if anything differs.

        Lines are dashed if the distortion differs, dotted with ImageNet weights or frozen parts,
        and dash-dotted for another embedding map in the loss.
        """
        kind = KINDS[self.kind]
        colour, marker, line = kind.colour, kind.marker, kind.line
        if self.form and self.scope:
            colour, marker = LOSSES[self.form, self.scope]
        if self.loss_map is not None:
            marker, line = "h", "-." if line == "-" else line
        if self.undistorted or self.distorted:
            line = "--"
        if self.frozen or self.imagenet:
            line = ":"
        if self.frozen == "statistics":
            marker = "p"
        differs = self != Method(kind=self.kind, form=self.form, scope=self.scope)
        return Mark(colour or "", marker, line, filled=kind.filled and not differs)


def recipe_of(row: Mapping[str, Any]) -> Recipe:
    """The recipe of a ledger row."""
    return _recipe(json.dumps(row["recipe"]))


@cache
def _recipe(text: str) -> Recipe:
    # Cached: a table needs each row's recipe many times, and parsing it takes a millisecond.
    return Recipe.from_dict(json.loads(text))
