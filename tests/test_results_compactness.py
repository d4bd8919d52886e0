"""What finished runs say about compactness."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segnb.recipe import Recipe
from segnb.results.compactness import (
    correlation,
    correlations_table,
    fisher_table,
    spearman,
)


def row(miou: float, fisher: float | None, **changes: Any) -> dict[str, Any]:
    rule = changes.pop("cell_rule", None)
    recipe = Recipe(dataset="shapes", tier="quick", **changes)
    return {
        "method": recipe.method,
        "labelled": 16,
        "seed": recipe.seed,
        "miou_val": miou,
        "fisher": fisher,
        "recipe": recipe.to_dict(),
        **({"cell_rule": rule} if rule else {}),
    }


def test_spearman() -> None:
    x = np.array([1.0, 2.0, 3.0, 10.0])
    assert spearman(x, x**3) == pytest.approx(1.0)
    assert spearman(x, -x) == pytest.approx(-1.0)
    assert spearman(x, np.ones(4)) is None
    # Both rise with the group, but inside each group they go against each other.
    a = np.array([1.0, 2.0, 3.0, 11.0, 12.0, 13.0])
    b = np.array([3.0, 2.0, 1.0, 13.0, 12.0, 11.0])
    whole = spearman(a, b)
    assert whole is not None
    assert whole > 0.5
    assert spearman(a, b, within=np.array([0, 0, 0, 1, 1, 1])) == pytest.approx(-1.0)


def test_spearman_within_groups_is_that_of_ranks_taken_group_by_group() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        # Rounded, so that there are ties.
        x, y = generator.normal(size=(2, 40)).round(1)
        within = np.array([f"group {number}" for number in generator.integers(0, 6, 40)])
        ranks = np.zeros((2, 40))
        for group in set(within):
            here = within == group
            for side, values in zip(ranks, (x[here], y[here]), strict=True):
                place = [(values < one).sum() + (values == one).sum() / 2 for one in values]
                side[here] = np.array(place) - np.mean(place)
        expected = (ranks[0] * ranks[1]).sum() / np.sqrt((ranks**2).sum(1).prod())
        assert spearman(x, y, within=within) == pytest.approx(expected)


def test_a_trend_between_methods_is_not_one_within_them() -> None:
    # Cross-entropy has the lower mIoU and the lower ratio; inside each method they go opposite.
    rows = [row(30.0 - i, 1.0 + i, seed=i, method="ce") for i in range(6)]
    rows += [row(60.0 - i, 20.0 + i, seed=i, method="contrastive") for i in range(6)]
    between = correlation(rows, "fisher", among="equal labels")
    inside = correlation(rows, "fisher")
    assert between.rho is not None
    assert between.rho > 0.4
    assert inside.rho == pytest.approx(-1.0)
    assert inside.beyond_chance
    assert inside.runs == 12


def test_runs_whose_cells_are_labelled_otherwise_are_not_ranked_together() -> None:
    # The newer rule shifts the ratio of every run by 10 and changes nothing else.
    rows = [row(30.0 - i, 1.0 + i, seed=i) for i in range(5)]
    rows += [row(40.0 - i, 11.0 + i, seed=5 + i, cell_rule="aligned corners") for i in range(5)]
    assert correlation(rows, "fisher", among="equal labels").rho > 0.4  # type: ignore[operator]
    assert correlation(rows, "fisher").rho == pytest.approx(-1.0)
    table = fisher_table([{**one, "compactness": {"finetuned": one}} for one in rows])
    assert "| at its middle | 5 | – | – | 1.00 to 5.00 |" in table
    assert "| aligned corners | 5 | – | – | 11.00 to 15.00 |" in table


def test_chance_is_what_shuffles_within_the_groups_reach() -> None:
    generator = np.random.default_rng(1)
    methods = ["ce", "contrastive", "ce_long"]
    rows = [
        row(float(generator.normal()), float(generator.normal()), seed=seed, method=method)
        for method in methods
        for seed in range(4)
    ]
    found = correlation(rows, "fisher")
    assert correlation(rows, "fisher") == found  # the same shuffles each time
    x, y = (np.array([one[key] for one in rows]) for key in ("fisher", "miou_val"))
    within = np.array([one["method"] for one in rows])
    assert found.rho == pytest.approx(spearman(x, y, within=within))
    reached = []
    for _ in range(1000):
        mixed = y.copy()
        for method in methods:
            mixed[within == method] = generator.permutation(y[within == method])
        reached.append(abs(spearman(x, mixed, within=within) or 0.0))
    assert found.chance == pytest.approx(np.quantile(reached, 0.95), abs=0.08)
    # Fewer runs in a group reach more by chance.
    assert correlation(rows[:4], "fisher").chance > found.chance


def test_without_variation_there_is_no_correlation() -> None:
    rows = [row(30.0, float(seed), seed=seed) for seed in range(6)]
    found = correlation(rows, "fisher")
    assert found.rho is None
    assert not found.beyond_chance
    assert "| – |" in correlations_table(rows, measures=("miou_val",))


def test_the_table_leaves_out_what_too_few_runs_have() -> None:
    rows = [row(30.0 + seed, float(seed), seed=seed) for seed in range(6)]
    rows += [row(50.0, None, seed=9)]
    table = correlations_table(rows, measures=("miou_val", "miou_test"))
    assert table.count("Fisher ratio") == 1  # none of them has a test split
    assert "| 6 | **+1.00**" in table
    assert "silhouette" not in table
    assert correlations_table(rows[:3], measures=("miou_val",)) == ""
    assert fisher_table(rows) == ""
