"""The images of a run: which are labelled, which are reported on, and in which parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from segnb import datasets
from segnb.datasets import IGNORE, SegmentationDataset, WorkingSet
from segnb.errors import ConfigError, DataError
from segnb.recipe import Recipe


@dataclass(frozen=True)
class Splits:
    """The images of a run.

    Attributes:
        train: All training images; labels outside ``labelled`` are not used.
        labelled: Ids whose labels are used.
        missing: How many ids of a split list are not in the data set.
        evaluated: The reported splits, ``val`` first, with their working sets.
        subsets: Parts of each reported split that are scored separately as well: ids by the part's
            name, by the split's name.
    """

    train: WorkingSet
    labelled: tuple[str, ...]
    missing: int
    evaluated: dict[str, tuple[SegmentationDataset, WorkingSet]]
    subsets: dict[str, dict[str, frozenset[str]]]

    @property
    def labelled_set(self) -> WorkingSet:
        """The labelled training images."""
        return self.train.subset(self.labelled)


def load_splits(recipe: Recipe, *, root: Path | None = None, progress_bar: bool = True) -> Splits:
    """The images of a recipe, at its working resolution.

    Raises:
        ConfigError: No image is left for pseudo-labels, or there is no such drive to hold out.
        DataError: A file is missing or wrong, or no pixel of a split has a label.
    """
    train = datasets.load(recipe.dataset, "train", root=root, size=recipe.size)
    held_out = _held_out(recipe, train)
    used = tuple(name for name in train.ids if name not in held_out)
    missing = 0
    if recipe.split_list is None:
        labelled = datasets.labelled_ids(train, recipe.fraction, seed=recipe.seed, among=set(used))
    else:
        listed = datasets.read_split_list(Path(recipe.split_list).expanduser(), train)
        labelled, missing = listed.ids, listed.missing
    evaluated: dict[str, tuple[SegmentationDataset, WorkingSet]] = {}
    for name in datasets.get(recipe.dataset).splits:
        if name == "train":
            continue
        split = datasets.load(recipe.dataset, name, root=root, size=recipe.size)
        data = datasets.working_set(split, size=recipe.size, progress_bar=progress_bar)
        evaluated[name] = (split, data)
    if recipe.kind.rounds > 1 and len(labelled) == len(used):
        raise ConfigError(
            f"all {len(labelled)} training images are labelled, so none is left for pseudo-labels: "
            "use a smaller fraction, or the method 'contrastive'"
        )
    whole = datasets.working_set(train, size=recipe.size, progress_bar=progress_bar)
    if held_out:
        evaluated["held_out"] = (train, whole.subset(held_out))
    drive = datasets.get(recipe.dataset).drive
    subsets = {name: _by_drive(name, data, used, drive) for name, (_, data) in evaluated.items()}
    splits = Splits(whole.subset(used), labelled, missing, evaluated, subsets)
    _need_labels(splits.labelled_set, "labelled training")
    for split_name, (_, data) in evaluated.items():
        _need_labels(data, split_name)
        for part, ids in subsets[split_name].items():
            _need_labels(data.subset(sorted(ids)), part)
    return splits


def _held_out(recipe: Recipe, train: SegmentationDataset) -> tuple[str, ...]:
    """Ids of the training images of the drive that the recipe sets aside."""
    if recipe.hold_out is None:
        return ()
    drive = datasets.get(recipe.dataset).drive
    if drive is None:
        raise ConfigError(f"hold_out: {recipe.dataset_title} has no drives; leave it out")
    drives = Counter(map(drive, train.ids))
    if drives[recipe.hold_out] in (0, len(train)):
        known = ", ".join(f"{name} ({count})" for name, count in drives.items())
        raise ConfigError(
            f"hold_out is {recipe.hold_out!r}; {recipe.dataset_title}'s training images come from "
            f"the drives {known}, of which one can be set aside"
        )
    return tuple(name for name in train.ids if drive(name) == recipe.hold_out)


def _by_drive(
    name: str, data: WorkingSet, train: Sequence[str], drive: Callable[[str], str] | None
) -> dict[str, frozenset[str]]:
    """Ids of a split by whether the training images include their drive; empty if all agree."""
    if drive is None:
        return {}
    known = set(map(drive, train))
    seen = frozenset(image for image in data.ids if drive(image) in known)
    unseen = frozenset(data.ids) - seen
    return {f"{name}_seen": seen, f"{name}_unseen": unseen} if seen and unseen else {}


def _need_labels(data: WorkingSet, what: str) -> None:
    if not any(bool((mask != IGNORE).any()) for mask in data.masks):
        raise DataError(
            f"{data.info.name}: every pixel of the {len(data)} {what} images is void; check that "
            "their masks contain the class ids listed in data/README.md"
        )
