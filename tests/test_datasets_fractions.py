"""Label fractions: nested, class-covering, the same everywhere; split lists; holding out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segnb.datasets import DatasetInfo, Sample, holdout, labelled_ids, read_split_list
from segnb.datasets.fractions import class_presence, covering_order
from segnb.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGNB_CACHE", str(tmp_path / "cache"))


class Made:
    """A data set whose image ``i`` shows the classes ``shown[i]``."""

    def __init__(self, shown: list[set[int]], classes: int, prefix: str = "image_") -> None:
        colours = tuple((c, c, c) for c in range(classes))
        self.info = DatasetInfo("made", tuple(f"c{c}" for c in range(classes)), colours, "-", "-")
        self.split = "train"
        self.shown = shown
        self.ids = tuple(f"{prefix}{i:03d}" for i in range(len(shown)))
        self.fingerprint = f"{abs(hash(repr(shown))):x}"
        self.reads = 0

    def __len__(self) -> int:
        return len(self.ids)

    def mask(self, index: int) -> np.ndarray:
        self.reads += 1
        return np.array([[*sorted(self.shown[index]), 255]], dtype=np.uint8)

    def __getitem__(self, index: int) -> Sample:
        mask = self.mask(index)
        return Sample(np.zeros((*mask.shape, 3), dtype=np.uint8), mask, self.ids[index])


def classes_in(dataset: Made, ids: tuple[str, ...]) -> set[int]:
    return set().union(*(dataset.shown[dataset.ids.index(name)] for name in ids))


def skewed(count: int = 64) -> Made:
    """Class 0 everywhere, each of the others in few images."""
    return Made([{0} | ({1 + i % 5} if i % 9 == 0 else set()) for i in range(count)], 6)


@settings(deadline=None)
@given(
    presence=hnp.arrays(np.bool_, st.tuples(st.integers(1, 30), st.integers(1, 6))),
    seed=st.integers(0, 2**32),
)
def test_the_order_is_whole_and_covers_first(presence: np.ndarray, seed: int) -> None:
    ids = [f"i{k}" for k in range(len(presence))]
    order = covering_order(ids, presence, seed=seed)
    assert sorted(order) == list(range(len(ids)))
    there = presence.any(axis=0)
    # Each new image brings a class, so as many images as classes are always enough.
    room = min(len(ids), int(there.sum()))
    np.testing.assert_array_equal(presence[order[:room]].any(axis=0), there)
    seen = np.zeros_like(there)
    for index in order:
        if not (there & ~seen).any():
            break
        assert (presence[index] & ~seen).any(), "an image that brings nothing before all is there"
        seen |= presence[index]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None
)
@given(
    small=st.floats(0.01, 1),
    large=st.floats(0.01, 1),
    seed=st.integers(0, 5),
)
def test_fractions_are_nested(small: float, large: float, seed: int) -> None:
    small, large = sorted((small, large))
    dataset = skewed()
    inner, outer = (labelled_ids(dataset, f, seed=seed) for f in (small, large))
    assert set(inner) <= set(outer)
    assert len(inner) == max(1, int(small * 64 + 0.5))
    if len(inner) >= 6:
        assert classes_in(dataset, inner) == set(range(6))


def test_ids_come_in_the_data_sets_order_and_differ_by_seed() -> None:
    dataset = skewed()
    chosen = [labelled_ids(dataset, 0.25, seed=seed) for seed in range(3)]
    assert all(list(ids) == sorted(ids) and len(ids) == 16 for ids in chosen)
    assert len(set(chosen)) == 3
    assert labelled_ids(dataset, 0.25, seed=1) == chosen[1]


def test_the_choice_is_the_same_on_every_machine() -> None:
    # The two smallest of `printf "0:image_00$i" | sha256sum`; a change here changes all results.
    dataset = Made([{0}] * 8, 1)
    assert labelled_ids(dataset, 0.25, seed=0) == ("image_002", "image_007")


def test_at_least_one_image_and_at_most_all() -> None:
    dataset = skewed(10)
    assert len(labelled_ids(dataset, 1e-9, seed=0)) == 1
    assert labelled_ids(dataset, 1.0, seed=0) == dataset.ids


@pytest.mark.parametrize("fraction", [0, -0.5, 1.01, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match="fraction is"):
        labelled_ids(skewed(), fraction, seed=0)


def test_masks_are_read_once(tmp_path: Path) -> None:
    dataset = skewed()
    labelled_ids(dataset, 0.1, seed=0)
    assert dataset.reads == 64
    labelled_ids(dataset, 0.2, seed=5)
    assert dataset.reads == 64
    kept = list((tmp_path / "cache" / "presence").glob("*.npy"))
    assert len(kept) == 1
    np.testing.assert_array_equal(
        class_presence(dataset), [[c in shown for c in range(6)] for shown in dataset.shown]
    )


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with pytest.raises(DataError, match=r"cannot write the cache .*file.*SEGNB_CACHE"):
        class_presence(skewed(), cache=in_the_way)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: bytes(len(content)),
        lambda content: content[:-5] + bytes([content[-5] ^ 1]) + content[-4:],
        lambda content: b"no array",
        lambda content: content[:-4],
    ],
)
def test_damaged_notes_of_classes_are_made_again_and_said(
    tmp_path: Path, damage: Callable[[bytes], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = skewed()
    wanted = class_presence(dataset)
    (path,) = (tmp_path / "cache" / "presence").glob("*.npy")
    path.write_bytes(damage(path.read_bytes()))
    np.testing.assert_array_equal(class_presence(dataset), wanted)
    assert f"the cache {path} is damaged and is built again" in capsys.readouterr().err
    assert dataset.reads == 128
    class_presence(dataset)
    assert dataset.reads == 128


def test_ids_need_not_be_valid_text() -> None:
    dataset = named("caf\udce9", "tea", "milk")
    assert len(labelled_ids(dataset, 0.4, seed=0)) == 1


def test_holdout_parts_the_ids() -> None:
    ids = tuple(f"i{k}" for k in range(20))
    rest, aside = holdout(ids, 5, seed=3)
    assert len(aside) == 5
    assert sorted(rest + aside) == sorted(ids)
    assert holdout(ids, 5, seed=3) == (rest, aside)
    assert holdout(ids, 5, seed=4)[1] != aside
    for count in (0, 20):
        with pytest.raises(ConfigError, match=f"hold out {count} of 20"):
            holdout(ids, count, seed=0)


def named(*ids: str) -> Made:
    dataset = Made([{0}] * len(ids), 1)
    dataset.ids = ids
    return dataset


@pytest.mark.parametrize(
    "line",
    [
        "2007_000032",
        "JPEGImages/2007_000032.jpg SegmentationClass/2007_000032.png",
        "/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png",
        "JPEGImages/2007_000032.jpg,SegmentationClass/2007_000032.png",
        "  VOC 2012\\JPEGImages\\2007_000032.jpg , x.png",
        "\ufeff2007_000032\r",
        "2007_000032.JPG\tmask.png",
    ],
)
def test_lines_of_split_lists(tmp_path: Path, line: str) -> None:
    path = tmp_path / "labeled.txt"
    path.write_text(f"{line}\n# a remark\n\n2012_999999\n2012_999999\n", encoding="utf-8")
    found = read_split_list(path, named("2007_000027", "2007_000032"))
    assert found.ids == ("2007_000032",)
    assert found.missing == 1


@pytest.mark.parametrize(
    ("line", "known", "found"),
    [
        ("beach 1.jpg", ("beach", "beach 1"), "beach 1"),
        ("beach 1", ("beach", "beach 1"), "beach 1"),
        ("beach 1.jpg", ("beach",), None),
        ("beach 1", ("beach",), None),
        ("beach 1.jpg beach 1.png", ("beach", "1", "beach 1"), "beach 1"),
        ("photos/beach 1.jpg masks/beach 1.png", ("beach", "beach 1"), "beach 1"),
        ("photos/b.jpg masks/a.png", ("a", "b"), "b"),
        ("a,b.jpg", ("a", "a,b"), "a,b"),
        ("a,b.jpg", ("a",), None),
        ("a,a", ("a",), "a"),
        ('"beach 2.jpg"', ("beach 2",), "beach 2"),
        ("x.y.z", ("x.y.z", "x.y"), "x.y.z"),
        ("x.y.z.jpg", ("x.y.z", "x.y"), "x.y.z"),
        ("a.png.jpg", ("a", "a.png"), "a.png"),
        ("2007_000032  1", ("2007_000032",), "2007_000032"),
        ("2007_000032 -1", ("2007_000032",), "2007_000032"),
        ("C:\\data\\my set\\a.tif C:\\data\\my masks\\a.png", ("a",), "a"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_names_in_lists_may_hold_spaces_commas_and_dots(
    tmp_path: Path, line: str, known: tuple[str, ...], found: str | None, encoding: str
) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"{line}\r\nsure.jpg\r\n", encoding=encoding)
    outcome = read_split_list(path, named(*known, "sure"))
    assert outcome.ids == ((found, "sure") if found else ("sure",))
    assert outcome.missing == (0 if found else 1)


def test_lists_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    for content in ("caf\xe9".encode("latin-1"), "a".encode("utf-16-le"), b"\x89PNG\r\n\x1a\n\0"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"list\.txt .*save it as UTF-8"):
            read_split_list(path, named("a"))


def test_cityscapes_lines_of_split_lists(tmp_path: Path) -> None:
    path = tmp_path / "labeled.txt"
    path.write_text(
        "leftImg8bit/train/jena/jena_000078_000019_leftImg8bit.png "
        "gtFine/train/jena/jena_000078_000019_gtFine_labelTrainIds.png\n"
        "leftImg8bit/train/ulm/ulm_000010_000019_leftImg8bit.png,x\n"
    )
    found = read_split_list(path, named("ulm_000010_000019", "jena_000078_000019"))
    assert found.ids == ("jena_000078_000019", "ulm_000010_000019")
    assert found.missing == 0


def test_a_list_that_fits_nothing_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "labeled.txt"
    path.write_text("a b\nc d\n")
    with pytest.raises(
        DataError, match=r"labeled\.txt names 2 images \(its first is 'a b'\), none"
    ):
        read_split_list(path, named("x"))
    path.write_text("")
    with pytest.raises(DataError, match="names 0 images, none"):
        read_split_list(path, named("x"))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"labeled\.txt can't be read"):
        read_split_list(path, named("x"))
    with pytest.raises(DataError, match=r"no list .*gone\.txt"):
        read_split_list(tmp_path / "gone.txt", named("x"))
