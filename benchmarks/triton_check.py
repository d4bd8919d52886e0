"""Check and time the Triton back end on this machine's NVIDIA GPU, and sweep its tiles.

    python -m benchmarks.triton_check                  # everything, some minutes
    python -m benchmarks.triton_check --parts values times

Three tables: errors against float64 with their limits, times of the forward and backward pass
against the plain form and its ``torch.compile``, and times by tile shape. Without a GPU,
``TRITON_INTERPRET=1`` and ``--pixels 72 --batch 1`` run the first two on the CPU, which shows that
this script works but nothing about speed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from segnb.losses import official, plain
from segnb.losses.backends import FLOAT32_LIMIT, TF32_LIMIT, LossBackend
from segnb.losses.pixels import IGNORED, Pixels
from segnb.losses.triton import launch
from segnb.losses.triton import operators as kernels
from segnb.losses.triton.launch import Tiles

TEMPERATURE = 0.07
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
#: Operands: type of the features, whether tf32 is allowed, limits of the relative errors of
#: values and gradients against float64 on the same (rounded) features.
OPERANDS = {
    "fp32": (torch.float32, False, FLOAT32_LIMIT, FLOAT32_LIMIT),
    "tf32": (torch.float32, True, TF32_LIMIT, TF32_LIMIT),
    "bf16": (torch.bfloat16, False, 1e-6, 4e-3),
    "fp16": (torch.float16, False, 1e-6, 2e-3),
}
if DEVICE.type == "cpu":
    del OPERANDS["bf16"]  # the interpreter multiplies it wrongly


# ------------------------------------------------------------------------------------- inputs


def unit_features(batch: int, size: int, width: int, dtype: torch.dtype, *, seed: int) -> Tensor:
    """Random unit features: their similarities are spread around 0."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, size, width, generator=generator)
    return torch.nn.functional.normalize(features, dim=2).to(DEVICE, dtype)


def label_maps(kind: str, batch: int, side: int, *, seed: int) -> Tensor:
    """Label maps ``[batch, side, side]``: ``dense``, ``street`` or ``voc``.

    ``street``: bands and many small regions of 14 classes; ``voc``: background and two objects;
    ``dense``: eight vertical stripes, so that every row holds every class.
    """
    generator = torch.Generator().manual_seed(seed)
    maps = torch.zeros(batch, side, side, dtype=torch.int64)
    if kind == "dense":
        maps[:] = torch.arange(side) * 8 // side
        return maps.to(DEVICE)

    def draw(high: int) -> int:
        return int(torch.randint(high, (), generator=generator))

    for one in maps:
        if kind == "street":
            heights = (0.0, 0.12, 0.55, 0.62)
            for label, start in enumerate(heights):
                one[int(start * side) :] = label
        for number in range(24 if kind == "street" else 2):
            size = side // 6 if kind == "street" else side // 2
            height, width = 1 + draw(size), 1 + draw(size)
            if kind == "voc":
                height, width = height + side // 4, width + side // 4
            top, left = draw(max(1, side - height)), draw(max(1, side - width))
            label = 4 + draw(10) if kind == "street" else 1 + number
            one[top : top + height, left : left + width] = label
    return maps.to(DEVICE)


def pair_inputs(kind: str, batch: int, pixels: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Labels and image numbers ``[batch, pixels]``: two images, or one for ``dense``."""
    side = int((pixels / (1 if kind == "dense" else 2)) ** 0.5)
    if kind == "dense":
        labels = label_maps(kind, batch, side + 1, seed=seed).flatten(1)[:, :pixels]
        return labels, torch.zeros_like(labels)
    maps = label_maps(kind, 2 * batch, side, seed=seed).view(batch, 2, side * side)
    images = torch.arange(2, device=DEVICE)[None, :, None].expand_as(maps)
    return maps.flatten(1), images.flatten(1)


def needed_share(labels: Tensor, images: Tensor) -> float:
    """The share of all pairs that the official form needs."""
    same = labels[:, :, None] == labels[:, None, :]
    return float((same | (images[:, :, None] == images[:, None, :])).float().mean())


# -------------------------------------------------------------------------------------- values


def pixels_of(features: Tensor, labels: Tensor) -> Pixels:
    """Pixels as the losses pass them to a back end."""
    wide = features if features.dtype == torch.float64 else features.float()
    return Pixels(features=wide, labels=labels, temperature=TEMPERATURE, dtype=features.dtype)


def relative(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm."""
    size = expected.norm()
    return float((actual.double() - expected).norm() / size) if size > 0 else 0.0


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid tf32 products in the block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def check_values(pixels: int, width: int) -> bool:
    """Print errors of every form and operand type against float64; True if all are in limits."""
    print(f"\n## Errors against float64, {pixels} pixels, {width} channels\n")
    print("| form | operands | values | limit | gradients | limit | repeats bit for bit |  |")
    print("| --- " * 8 + "|")
    labels, images = pair_inputs("street", 1, pixels, seed=3)
    labels = labels.masked_fill(torch.rand(labels.shape, device=DEVICE) < 0.1, IGNORED)
    size = labels.shape[1]
    good = True

    def masked(features: Tensor) -> Pixels:
        return pixels_of(features, labels)

    forms: dict[str, Callable[[LossBackend, Tensor, Tensor], Tensor]] = {
        "paper within": lambda to, a, k: to.logsumexp_form(masked(a), masked(k), None),
        "paper cross": lambda to, a, k: to.logsumexp_form(masked(a), masked(k), masked(k.flip(2))),
        "supcon": lambda to, a, k: to.logsumexp_form(masked(a), None, None),
        "official cross": lambda to, a, k: to.official_form(masked(a), images),
    }
    for name, loss in forms.items():
        for operands, (dtype, allow, value_limit, gradient_limit) in OPERANDS.items():
            inputs = [unit_features(1, size, width, dtype, seed=s) for s in (0, 1)]
            runs = []
            for _ in range(2):
                a, k = (f.clone().requires_grad_() for f in inputs)
                with tf32(allow):
                    value = loss(kernels, a, k)
                    value.backward()  # type: ignore[no-untyped-call]
                runs.append((value.detach(), a.grad, k.grad))
            a, k = (f.double().requires_grad_() for f in inputs)
            expected = loss(plain, a, k)
            expected.backward()  # type: ignore[no-untyped-call]
            value_error = relative(runs[0][0], expected.detach())
            gradient_error = max(
                relative(got, wanted)
                for got, wanted in zip(runs[0][1:], (a.grad, k.grad), strict=True)
                if got is not None and wanted is not None
            )
            repeats = all(
                x is y or (x is not None and y is not None and torch.equal(x, y))
                for x, y in zip(*runs, strict=True)
            )
            kept = value_error < value_limit and gradient_error < gradient_limit and repeats
            good &= kept
            print(
                f"| {name} | {operands} | {value_error:.1e} | {value_limit:.0e} "
                f"| {gradient_error:.1e} | {gradient_limit:.0e} | {'yes' if repeats else 'NO'} "
                f"| {'' if kept else 'TOO LARGE'} |",
                flush=True,
            )
    return good


# --------------------------------------------------------------------------------------- times


def milliseconds(call: Callable[[], object], *, repeats: int) -> tuple[float, float]:
    """Least and median time of a call on the device, after two warm-up calls."""
    times = []
    for number in range(repeats + 2):
        if DEVICE.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            call()
            end.record()
            end.synchronize()
            taken = start.elapsed_time(end)
        else:
            began = time.perf_counter()
            call()
            taken = 1000 * (time.perf_counter() - began)
        if number >= 2:
            times.append(taken)
    return min(times), statistics.median(times)


def peak(call: Callable[[], object]) -> float:
    """GiB of device memory that a call takes on top of what is in use."""
    if DEVICE.type != "cuda":
        return 0.0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def official_step(features: Tensor, labels: Tensor, images: Tensor) -> Callable[[], None]:
    """Forward and backward pass of the official form through the operators."""

    def step() -> None:
        features.grad = None
        kernels.official_form(pixels_of(features, labels), images).backward()  # type: ignore[no-untyped-call]

    return step


def supcon_step(features: Tensor, labels: Tensor) -> Callable[[], None]:
    """Forward and backward pass of SupCon: the logsumexp of a set against itself, all pairs."""

    def step() -> None:
        features.grad = None
        kernels.logsumexp_form(pixels_of(features, labels), None, None).backward()  # type: ignore[no-untyped-call]

    return step


def plain_step(features: Tensor, labels: Tensor, loss: Callable[..., Tensor]) -> Callable[[], None]:
    """The plain form, a pair at a time to fit in memory; ``dense`` is split into two halves."""
    half = features.shape[1] // 2

    def step() -> None:
        features.grad = None
        for f, y in zip(features[:, None], labels[:, None], strict=True):
            loss(f[:, :half], f[:, half:], y[:, :half], y[:, half:], backend="plain").backward()  # type: ignore[no-untyped-call]

    return step


def report_times(batch: int, pixels: int, width: int, repeats: int) -> None:
    """Print forward and backward times by labels and operands, and the plain form's."""
    print(f"\n## Forward and backward, B = {batch}, N = {pixels}, D = {width}\n")
    print("| labels | share of pairs | what | operands | min, ms | median, ms | TFLOP/s | GiB |")
    print("| --- " * 8 + "|")
    for kind in ("dense", "street", "voc"):
        labels, images = pair_inputs(kind, batch, pixels, seed=5)
        share = needed_share(labels[:1], images[:1])
        size = labels.shape[1]

        def row(
            what: str,
            operands: str,
            step: Callable[[], None],
            share: float,
            count: int,
            kind: str = kind,
            size: int = size,
        ) -> None:
            least, median = milliseconds(step, repeats=count)
            rate = 6 * size**2 * width * batch * share / least / 1e9
            print(
                f"| {kind} | {share:.2f} | {what} | {operands} | {least:.2f} | {median:.2f} "
                f"| {rate:.0f} | {peak(step):.2f} |",
                flush=True,
            )

        for operands, (dtype, allow, _, _) in OPERANDS.items():
            features = unit_features(batch, size, width, dtype, seed=0).requires_grad_()
            with tf32(allow):
                row("official", operands, official_step(features, labels, images), share, repeats)
                if kind == "dense":
                    row("supcon", operands, supcon_step(features, labels), 1.0, repeats)
        if DEVICE.type == "cuda":
            features = unit_features(batch, size, width, torch.float32, seed=0).requires_grad_()
            few = max(2, repeats // 8)
            for operands, allow in (("fp32", False), ("tf32", True)):
                with tf32(allow):
                    step = plain_step(features, labels, official.cross_image_loss)
                    row("plain, eager", operands, step, 1.0, few)
                    compiled = torch.compile(official.cross_image_loss)
                    step = plain_step(features, labels, compiled)
                    row("plain, torch.compile", operands, step, 1.0, few)
            features = features.detach().bfloat16().requires_grad_()
            step = plain_step(features, labels, official.cross_image_loss)
            row("plain, eager", "bf16", step, 1.0, few)


# --------------------------------------------------------------------------------------- sweep

FORWARD_CUTS = (
    (128, 64, 8, 2),
    (128, 64, 8, 3),
    (128, 64, 8, 4),
    (128, 32, 8, 4),
    (128, 32, 4, 3),
    (128, 64, 4, 3),
    (64, 64, 4, 2),
    (64, 64, 4, 3),
    (256, 32, 8, 3),
    (256, 64, 8, 2),
    (256, 64, 8, 3),
    (256, 64, 16, 3),
)
BACKWARD_CUTS = (
    (128, 64, 8, 2),
    (128, 64, 8, 3),
    (128, 64, 8, 4),
    (128, 32, 8, 3),
    (128, 32, 8, 4),
    (128, 32, 8, 6),
    (64, 64, 4, 2),
    (64, 32, 4, 3),
    (64, 64, 8, 3),
    (64, 32, 8, 3),
    (128, 64, 16, 3),
    (256, 32, 16, 2),
)
FORWARD_TILES, BACKWARD_TILES = (
    [Tiles(rows=r, columns=c, warps=w, stages=s) for r, c, w, s in cuts]
    for cuts in (FORWARD_CUTS, BACKWARD_CUTS)
)


def passes(
    features: Tensor, labels: Tensor, images: Tensor
) -> Iterator[tuple[str, Callable[..., object], list[Tiles]]]:
    """Every pass over these pixels: name, function of ``tiles``, and the tiles to try."""
    options: dict[str, Any] = {"temperature": TEMPERATURE}
    rules: dict[str, Any] = {"pairs": "not_self"}
    backward: dict[str, Any] = {
        "width": features.shape[2],
        "dtype": features.dtype,
        "temperature": TEMPERATURE,
    }
    grad = torch.full(labels.shape, 1.0 / labels.numel(), device=DEVICE)

    forward = partial(launch.official_anchor_losses, features, labels, images, **options)
    yield "official forward", forward, FORWARD_TILES
    _, packed, state = forward()
    yield (
        "official backward",
        partial(launch.official_anchor_losses_backward, grad, packed, state, **backward),
        BACKWARD_TILES,
    )
    forward_lse = partial(launch.masked_logsumexp, features, None, labels, None, **options, **rules)
    yield "logsumexp forward", forward_lse, FORWARD_TILES
    lse, packed, same = forward_lse()
    yield (
        "logsumexp backward",
        partial(launch.masked_logsumexp_backward, grad, lse, packed, same, **backward, **rules),
        BACKWARD_TILES,
    )


def sweep(batch: int, pixels: int, width: int, repeats: int, dtype: torch.dtype) -> None:
    """Print each pass's time by tile shape, and the forward pass's time to sort and pack."""
    print(f"\n## Tiles, {dtype}, B = {batch}, N = {pixels}, D = {width}: median, ms\n")
    print("| pass | labels | rows x keys, warps, stages | ms |")
    print("| --- " * 4 + "|")
    for kind in ("dense", "street", "voc"):
        labels, images = pair_inputs(kind, batch, pixels, seed=5)
        features = unit_features(batch, labels.shape[1], width, dtype, seed=0)
        packing = partial(launch.pack, features, labels, images)
        print(f"| sort and pack | {kind} | | {milliseconds(packing, repeats=repeats)[1]:.3f} |")
        for name, call, choices in passes(features, labels, images):
            # A logsumexp over all pairs does not depend on the labels.
            for tiles in choices if kind == "dense" or "official" in name else ():
                try:
                    run = partial(call, tiles=tiles)
                    taken = f"{milliseconds(run, repeats=repeats)[1]:.3f}"
                except Exception as error:  # tiles too large for the chip are a row too
                    taken = type(error).__name__
                cut = f"{tiles.rows} x {tiles.columns}, {tiles.warps}, {tiles.stages}"
                print(f"| {name} | {kind} | {cut} | {taken} |", flush=True)


def main() -> None:
    """Run the chosen parts; fail if an error is above its limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ("values", "times", "sweep")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--pixels", type=int, default=8450)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    if DEVICE.type == "cuda":
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    good = True
    if "values" in options.parts:
        for pixels, width in ((min(options.pixels, 1250), 64), (options.pixels, options.width)):
            good &= check_values(pixels, width)
    if "times" in options.parts:
        report_times(options.batch, options.pixels, options.width, options.repeats)
    if "sweep" in options.parts:
        sweep(options.batch, options.pixels, options.width, options.repeats, torch.bfloat16)
    if not good:
        raise SystemExit("some errors are above their limits")


if __name__ == "__main__":
    main()
