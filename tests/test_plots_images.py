from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from segnb.datasets import info
from segnb.datasets.base import DatasetInfo
from segnb.errors import DataError
from segnb.plots import (
    Picture,
    colour_mask,
    contact_sheet,
    embedding_maps,
    overlay,
    predictions,
    save,
    tsne,
    views,
)

INFO = DatasetInfo(
    name="toys",
    class_names=("floor", "ball", "cube"),
    palette=((10, 20, 30), (200, 0, 0), (0, 0, 200)),
    licence="",
    homepage="",
)
IMAGE = np.full((6, 8, 3), 100, dtype=np.uint8)
MASK = np.zeros((6, 8), dtype=np.uint8)
MASK[:3, :4] = 1
MASK[5] = 255


def legend_names(figure: Picture) -> list[list[str]]:
    return [[text.get_text() for text in legend.get_texts()] for legend in figure.figure.legends]


def titles(figure: Picture) -> list[str]:
    return [axes.get_title() for axes in figure.figure.axes if axes.get_title()]


def test_colours_are_the_palette_and_void_is_none_of_them() -> None:
    coloured = colour_mask(MASK, INFO)
    assert coloured.shape == (6, 8, 3)
    assert tuple(coloured[0, 0]) == INFO.palette[1]
    assert tuple(coloured[4, 7]) == INFO.palette[0]
    assert tuple(coloured[5, 0]) not in INFO.palette
    assert np.array_equal(colour_mask(torch.from_numpy(MASK).long(), INFO), coloured)


@pytest.mark.parametrize("label", [3, 254, -1])
def test_label_outside_the_classes_is_named(label: int) -> None:
    with pytest.raises(DataError, match=f"toys: the mask holds class {label};"):
        colour_mask(np.full((2, 2), label, dtype=np.int64), INFO)


def test_overlay_blends_and_leaves_void_alone() -> None:
    blend = overlay(IMAGE, MASK, INFO, opacity=0.5)
    assert blend[0, 0].tolist() == [150, 50, 50]
    assert blend[5, 0].tolist() == [100, 100, 100]
    assert np.array_equal(overlay(IMAGE, MASK, INFO, opacity=0), IMAGE)
    tensor = torch.from_numpy(IMAGE).permute(2, 0, 1) / 255
    assert np.array_equal(overlay(tensor, MASK, INFO, opacity=0.5), blend)


def test_overlay_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"image \(6, 8\) and mask \(3, 8\)"):
        overlay(IMAGE, MASK[:3], INFO)
    with pytest.raises(ValueError, match="opacity is 2"):
        overlay(IMAGE, MASK, INFO, opacity=2)
    with pytest.raises(ValueError, match=r"an image is \[H, W, 3\]"):
        overlay(IMAGE[..., 0], MASK, INFO)


def test_predictions_show_who_is_right_where() -> None:
    wrong = np.zeros_like(MASK)
    figure = predictions(
        [IMAGE, IMAGE], [MASK, wrong], {"good": [MASK, wrong], "poor": [wrong, wrong]}, INFO
    )
    assert len(figure.figure.axes) == 8
    assert titles(figure) == ["image", "truth", "good", "poor"]
    # 12 of the 40 labelled pixels are ball; void counts nowhere.
    captions = [axes.get_xlabel() for axes in figure.figure.axes if axes.get_xlabel()]
    assert captions == ["100 % right", "70 % right", "100 % right", "100 % right"]
    assert legend_names(figure) == [["floor", "ball", "void"]]
    assert "good 100, 100; poor 70, 100" in figure.alt
    shown = figure.figure.axes[2].images[0].get_array()
    assert np.array_equal(shown, colour_mask(MASK, INFO))
    assert figure.figure.axes[2].images[0].get_interpolation() == "nearest"


def test_all_rows_share_a_legend_of_several_lines() -> None:
    many = info("voc")
    busy = np.arange(12, dtype=np.uint8).repeat(4).reshape(6, 8)
    other = busy + 9
    drawn = predictions([IMAGE] * 3, [busy, busy, other], {"m": [busy, busy, other]}, many)
    assert legend_names(drawn) == [[*many.class_names]]
    drawn.png()  # lays the legend out
    (legend,) = drawn.figure.legends
    foot, box = drawn.figure.axes[-1].get_window_extent(), legend.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= drawn.figure.bbox.x1
    assert 0 <= box.y0 < box.y1 < foot.y0


def test_all_void_image_has_no_share() -> None:
    void = np.full_like(MASK, 255)
    assert "m –" in predictions([IMAGE], [void], {"m": [MASK]}, INFO).alt


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="2 images but 1 for 'm'"):
        predictions([IMAGE] * 2, [MASK] * 2, {"m": [MASK]}, INFO)
    with pytest.raises(ValueError, match="no images"):
        contact_sheet([], [], INFO)
    with pytest.raises(ValueError, match="1 images but 2 for 'titles'"):
        contact_sheet([IMAGE], [MASK], INFO, titles=["a", "b"])


def test_contact_sheet() -> None:
    figure = contact_sheet([IMAGE] * 5, [MASK] * 5, INFO, titles=list("abcde"), columns=3)
    assert len(figure.figure.axes) == 10
    assert titles(figure) == list("abcde")
    assert legend_names(figure) == [["floor", "ball", "void"]]
    assert "5 images of toys" in figure.alt


def test_panels_do_not_overlap() -> None:
    # Neighbours of different shape, one of them upright.
    images = [IMAGE, IMAGE.transpose(1, 0, 2), IMAGE]
    masks = [MASK, MASK.T, MASK]
    figure = predictions(images, masks, {"a": masks}, INFO)
    boxes = [axes.get_position() for axes in figure.figure.axes]
    assert all(0 <= box.x0 < box.x1 <= 1.001 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)
    assert not any(
        a.x0 < b.x1 - 1e-6 and b.x0 < a.x1 - 1e-6 and a.y0 < b.y1 - 1e-6 and b.y0 < a.y1 - 1e-6
        for i, a in enumerate(boxes)
        for b in boxes[i + 1 :]
    )


def test_views() -> None:
    figure = views([IMAGE, IMAGE], {"strength 1": torch.rand(2, 3, 6, 8)})
    assert len(figure.figure.axes) == 4
    assert titles(figure) == ["original", "strength 1"]
    assert figure.alt == "2 images, one a row, as they are and as: strength 1."
    assert views([IMAGE], {"a": [IMAGE]}).alt == "One image as it is and as: a."


def test_embedding_maps_colour_by_class() -> None:
    labels = np.array([0, 1, 1, 2])
    xy = np.arange(8.0).reshape(4, 2)
    figure = embedding_maps({"before": (xy, labels), "after": (xy[:2], labels[:2])}, INFO)
    assert titles(figure) == ["before", "after"]
    drawn = figure.figure.axes[0].collections[0]
    colour_at = {
        tuple(p): tuple(c[:3])
        for p, c in zip(drawn.get_offsets(), drawn.get_facecolors(), strict=True)
    }
    for point, label in zip(xy, labels, strict=True):
        assert colour_at[tuple(point)] == pytest.approx(np.array(INFO.palette[label]) / 255)
    assert "before, 4 pixels; after, 2 pixels" in figure.alt


def test_classes_are_named_at_their_medians_and_apart() -> None:
    labels = np.repeat([0, 1, 2], 5)
    xy = np.array([[0.0, 0.0], [0.1, 0.1], [9.0, 9.0]])[labels]
    xy[0] = 100.0  # an outlier does not pull its class's name away
    figure = embedding_maps({"a": (xy, labels), "b": (xy[:5], labels[:5])}, INFO)
    first, second = figure.figure.axes
    assert {text.get_text(): tuple(text.xy) for text in first.texts} == {
        "floor": (0.0, 0.0), "ball": (0.1, 0.1), "cube": (9.0, 9.0)
    }  # fmt: skip
    assert [text.get_text() for text in second.texts] == ["floor"]
    figure.png()  # moves the names apart
    boxes = [text.get_window_extent().padded(-1) for text in first.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(first.bbox.padded(1).contains(*corner) for b in boxes for corner in (b.min, b.max))


def test_class_names_are_dark_enough_to_read() -> None:
    pale = dataclasses.replace(INFO, palette=((255, 255, 200), (0, 0, 60), (128, 128, 128)))
    (axes,) = embedding_maps({"a": (np.eye(3, 2), [0, 1, 2])}, pale).figure.axes
    names = {text.get_text(): np.array(text.get_color()) for text in axes.texts}
    assert all(colour @ (0.299, 0.587, 0.114) <= 0.34 for colour in names.values())
    assert names["ball"] == pytest.approx(np.array([0, 0, 60]) / 255)  # was dark already


def test_embedding_maps_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="no embeddings"):
        embedding_maps({}, INFO)
    with pytest.raises(ValueError, match=r"'a': positions are \(3, 2\), labels \(2,\)"):
        embedding_maps({"a": (np.zeros((3, 2)), np.zeros(2))}, INFO)


def test_tsne_keeps_neighbours_and_repeats_itself() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    points = np.eye(3, 10)[labels] + 0.05 * generator.normal(size=(60, 10))
    xy = tsne(points, seed=3, perplexity=8)
    assert xy.shape == (60, 2)
    assert np.array_equal(xy, tsne(torch.from_numpy(5 * points), seed=3, perplexity=8)) or (
        np.allclose(xy, tsne(5 * points, seed=3, perplexity=8), atol=1e-3)
    )
    gaps = np.linalg.norm(xy[:, None] - xy[None], axis=-1)
    np.fill_diagonal(gaps, np.inf)
    assert (labels[gaps.argmin(1)] == labels).all()


def test_tsne_started_at_random_depends_on_the_seed() -> None:
    points = np.random.default_rng(0).normal(size=(40, 5))
    first, again, other = (
        tsne(points, seed=seed, perplexity=5, start="random") for seed in (0, 0, 1)
    )
    assert np.allclose(first, again, atol=1e-3)
    assert not np.allclose(first, other, atol=1.0)


def test_tsne_of_points_all_alike_is_one_point() -> None:
    """Its solver would crash the process, and with it a notebook's kernel."""
    for embeddings in (np.ones((40, 8)), np.zeros((40, 8)), 3.0 * np.ones((40, 1))):
        np.testing.assert_array_equal(tsne(embeddings), np.zeros((40, 2)))


@pytest.mark.parametrize("shape", [(40, 1), (40, 2), (4, 8)])
def test_tsne_of_few_channels_or_points(shape: tuple[int, int]) -> None:
    points = np.random.default_rng(0).normal(size=shape)
    places = tsne(points, perplexity=3)
    assert places.shape == (len(points), 2)
    assert np.isfinite(places).all()


def test_tsne_refuses_with_a_reason() -> None:
    with pytest.raises(ValueError, match="at most 5000"):
        tsne(np.zeros((5001, 2)))
    with pytest.raises(ValueError, match=r"perplexity is 30\.0; it must be below the 10 points"):
        tsne(np.zeros((10, 2)))
    with pytest.raises(ValueError, match="not finite"):
        tsne(np.full((40, 2), np.nan))


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_saved_files_are_whole_alike_and_carry_the_alt_text(ending: str, tmp_path: Path) -> None:
    def draw() -> Picture:
        return embedding_maps({"a": (np.arange(8.0).reshape(4, 2), [0, 1, 1, 2])}, INFO)

    first, second = tmp_path / f"one.{ending}", tmp_path / f"two.{ending}"
    save(draw(), first)
    save(draw(), second)
    assert first.read_bytes() == second.read_bytes()
    assert b"Pixel embeddings of toys" in first.read_bytes()
    assert b"atplotlib v" not in first.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"one.{ending}", f"two.{ending}"]


def test_other_endings_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.png or \.svg"):
        save(views([IMAGE], {}), tmp_path / "figure.jpg")
    assert list(tmp_path.iterdir()) == []
