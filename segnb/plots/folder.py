"""Pictures about a folder of your own: its contact sheet, and the curve of an answer."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from segnb import datasets
from segnb.datasets.base import Bytes
from segnb.datasets.cache import letterbox
from segnb.datasets.own.check import SHEET_IMAGES, sheet_samples
from segnb.errors import DataError
from segnb.experiments.answer import Answer
from segnb.methods import KINDS
from segnb.plots.images import contact_sheet
from segnb.plots.style import WIDTH, Picture, new_figure, styled
from segnb.results.method import Method

#: Longest side of an image on the sheet, in pixels.
_SIDE = 320

#: Room beside the first and the last number of images, as a factor.
_MARGIN = 1.25


def folder_sheet(folder: Path, *, most: int = SHEET_IMAGES) -> Picture:
    """Images of all splits above their masks, in the colours of the classes.

    Images that cannot be read are passed over; :func:`segnb.datasets.own.check.check` names them.

    Args:
        folder: A folder with a ``dataset.toml``.
        most: How many images.

    Raises:
        DataError: ``dataset.toml`` is wrong, or no image can be read.
    """
    name = str(Path(folder).resolve())
    images: list[Bytes] = []
    masks: list[Bytes] = []
    titles: list[str] = []
    for split, indices in sheet_samples(Path(folder), most=most).items():
        data = datasets.load(name, split)  # type: ignore[arg-type]
        for index in indices:
            try:
                sample = data[index]
            except DataError:
                continue
            image, mask = letterbox(sample.image, sample.mask, (_SIDE, _SIDE))
            images.append(image)
            masks.append(mask)
            titles.append(f"{sample.id} ({split})")
    if not images:
        raise DataError(f"none of the images of {folder} can be read; `segnb check` says why")
    return contact_sheet(images, masks, datasets.info(name), titles=titles)


def answer_curve(found: Answer) -> Picture:
    """mIoU over the number of labelled images: a dot for each repeat, a line through the means.

    Repeats may score other images, so the means are those of repeats that all numbers have.
    """
    held = [by_seed for by_count in found.scores.values() for by_seed in by_count.values()]
    shared = set.intersection(*(set(by_seed) for by_seed in held))
    said = []
    with styled():
        figure = new_figure(0.78 * WIDTH, 3.4)
        axes = figure.subplots()
        for kind, by_count in found.scores.items():
            two_stages = KINDS[kind].stage_one == "contrastive"
            method = (
                Method(kind=kind, form="official", scope="cross")
                if two_stages
                else Method(kind=kind)
            )
            counts = sorted(by_count)
            means = [fmean(by_count[count][seed] for seed in shared) for count in counts]
            axes.plot(counts, means, label=KINDS[kind].name, **method.mark.keywords())
            dots = [(count, value) for count in counts for value in by_count[count].values()]
            axes.plot(*zip(*dots, strict=True), ".", color=method.mark.colour, alpha=0.4)
            points = [f"{mean:.1f} at {n}" for n, mean in zip(counts, means, strict=True)]
            said.append(f"{KINDS[kind].name}: {', '.join(points)}.")
        axes.set(xlabel="labelled images", ylabel="mIoU, %, images not trained on")
        counts = sorted({count for by_count in found.scores.values() for count in by_count})
        axes.set_xscale("log")
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        axes.set_xlim(counts[0] / _MARGIN, counts[-1] * _MARGIN)
        figure.legend(loc="outside lower center", ncols=2)
        return Picture(figure, f"mIoU on {found.title} over labelled images. {' '.join(said)}")
