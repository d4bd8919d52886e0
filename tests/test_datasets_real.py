"""The real data sets, where ``SEGNB_DATA`` points at them: every pair loads."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from segnb import datasets
from segnb.datasets import camvid
from segnb.datasets.base import data_root

pytestmark = pytest.mark.skipif("SEGNB_DATA" not in os.environ, reason="SEGNB_DATA is not set")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGNB_CACHE", str(tmp_path / "cache"))


def need(folder: str) -> None:
    if not (data_root() / folder).is_dir():
        pytest.skip(f"{folder} is not in SEGNB_DATA")


def test_all_of_camvid_loads_and_opens_in_milliseconds() -> None:
    need("CamVid")
    for split, count in camvid.COUNTS.items():
        dataset = datasets.load("camvid", split)
        assert len(dataset) == count
        found = datasets.working_set(dataset, size=(96, 128))
        assert (found.extents == found.extents.new_tensor([96, 128])).all()
        assert set(found.masks.unique().tolist()) == {*range(11), 255}
        began = time.perf_counter()
        datasets.working_set(dataset, size=(96, 128))
        assert time.perf_counter() - began < 0.5
    assert dataset[0].image.shape == (360, 480, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["voc", "voc-animals"])
def test_all_of_voc_loads(name: str) -> None:
    need("VOCdevkit/VOC2012")
    for split in ("train", "val"):
        dataset = datasets.load(name, split)  # type: ignore[arg-type]
        found = datasets.working_set(dataset, size=(64, 64))
        values = set(found.masks.unique().tolist())
        assert values <= {*range(dataset.info.num_classes), 255}
        if name == "voc-animals":
            assert values == {*range(8), 255}
        small = datasets.labelled_ids(dataset, 1 / 16, seed=0)
        assert set(small) <= set(datasets.labelled_ids(dataset, 1 / 4, seed=0))
        shown = [np.unique(dataset.mask(dataset.ids.index(i))) for i in small]
        everywhere = {c for c in values if c != 255}
        assert everywhere <= set(np.concatenate(shown).tolist())


def test_shared_split_lists_are_read_and_their_gaps_counted() -> None:
    need("VOCdevkit/VOC2012")
    lists = data_root() / "splits" / "pascal"
    if not lists.is_dir():
        pytest.skip("there are no split lists")
    train = datasets.load("voc", "train")
    for path in lists.glob("*/labeled.txt"):
        found = datasets.read_split_list(path, train)
        named = len(set(path.read_text().split("\n")) - {""})
        assert len(found.ids) + found.missing == named
        assert set(found.ids) <= set(train.ids)
