"""Runs of one network from scratch and from ImageNet, as the ledger holds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from segnb.axes import value_of
from segnb.errors import ConfigError
from segnb.recipe import preset
from segnb.results import ledger
from segnb.results.method import Method, recipe_of
from segnb.results.overview import comparable, main_methods, own_fields
from segnb.results.table import select


def starts(rows: Sequence[ledger.Row], *, dataset: str, tier: str) -> list[ledger.Row]:
    """The main methods of one network, from scratch and from ImageNet.

    Both starts share everything but the weights and the rate of stage 1, which is chosen for each.
    Of several networks and lengths of training, it is the one that most contrastive runs from
    ImageNet have.

    Args:
        rows: The ledger.
        dataset: Which data set.
        tier: Which tier.

    Raises:
        ConfigError: No contrastive run starts from ImageNet.
    """
    recipes = [recipe_of(row) for row in select(rows, dataset=dataset, tier=tier)]
    studies = Counter(
        tuple((name, value_of(recipe, name)) for name in own_fields(recipe))
        for recipe in recipes
        if recipe.method == "contrastive" and recipe.encoder_weights == "imagenet"
    )
    if not studies:
        raise ConfigError(f"no contrastive run on {dataset} at {tier} starts from ImageNet")
    [(fields, _)] = studies.most_common(1)
    usual = preset(recipes[0].dataset, recipes[0].tier)
    varied: dict[str, set[Any]] = {name: {value} for name, value in fields}
    for name in ("encoder_weights", "pretrain.lr"):
        varied.setdefault(name, set()).add(value_of(usual, name))
    found = comparable(rows, dataset=dataset, tier=tier, varied=varied)
    main = {Method.of(row) for row in main_methods(found)}
    return [row for row in found if replace(Method.of(row), imagenet=False) in main]
