"""Time and memory of the contrastive losses, beside other implementations and a counted floor.

    python -m benchmarks.loss            # minutes to tens of minutes
    python -m benchmarks.loss --quick    # small sizes

Contenders take turns, so that a busy moment of the machine hits all alike; the least and the
median time are kept. On the CPU the clock is the processor time of this single-threaded process.
Memory allocation is tuned for all (without it the plain forms would be several times slower),
which takes a restart of the program. Writes ``loss_benchmark.md``, ``.json`` and ``.png``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segnb.device import describe
from segnb.losses import official, paper, supcon_loss

TEMPERATURE = 0.07
CHANNELS = 256
VOID = 255
#: By default glibc returns large blocks to the system at once and pays for them in page faults.
TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "60000000000", "OMP_NUM_THREADS": "1"}
#: Shares of the classes in two street scenes, and the share of void pixels.
STREET = (
    (0.42, 0.24, 0.16, 0.08, 0.05, 0.03, 0.01, 0.01),
    (0.45, 0.18, 0.20, 0.06, 0.02, 0.05, 0.03, 0.01),
)
STREET_VOID = 0.1
#: Most pixels for the plain forms, which hold several matrices of all pairs.
MOST_PLAIN_PIXELS = 8450

Contender = Callable[[], Tensor]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One contender at one size, forward and backward.

    Attributes:
        form: The loss.
        contender: The implementation.
        pixels: Anchors and keys of one pair of images together.
        pairs: Pairs of images.
        device: ``cpu`` or ``cuda``.
        dtype: Type of the features.
        least_ms: Least time.
        median_ms: Median time.
        memory_mib: Peak memory above what was held before.
        floor_ms: Time for the counted operations or bytes at the device's measured rates.
        value: The loss, to show that all compute the same.
    """

    form: str
    contender: str
    pixels: int
    pairs: int
    device: str
    dtype: str
    least_ms: float
    median_ms: float
    memory_mib: float
    floor_ms: float
    value: float


# -------------------------------------------------------------------------------------- inputs


@dataclass(frozen=True)
class Inputs:
    """Features ``[B, n, D]`` and labels ``[B, n]`` of three views."""

    features: tuple[Tensor, Tensor, Tensor]
    labels: tuple[Tensor, Tensor, Tensor]

    def pair(self, b: int) -> Inputs:
        """One pair of images (or three views) of the batch."""
        part = slice(b, b + 1)
        return Inputs(
            tuple(f[part] for f in self.features),  # type: ignore[arg-type]
            tuple(y[part] for y in self.labels),  # type: ignore[arg-type]
        )


def street_labels(size: int, shares: tuple[float, ...], void: float, seed: int) -> Tensor:
    """A street-like label map with exact class shares, in shuffled order."""
    edges = torch.tensor(shares).cumsum(0)[:-1] * (1 - void) * size
    index = torch.arange(size)
    labels = torch.bucketize(index.float(), edges, right=True)
    labels[index >= (1 - void) * size] = VOID
    return labels[torch.randperm(size, generator=torch.Generator().manual_seed(seed))]


def make_inputs(
    form: str, size: int, pairs: int, device: torch.device, dtype: torch.dtype
) -> Inputs:
    """Two (or three) images of half the pixels each. Void pixels only for the official form."""
    generator = torch.Generator().manual_seed(0)
    half = size // 2
    void = STREET_VOID if form.startswith("official") else 0.0

    def one(index: int) -> tuple[Tensor, Tensor]:
        features = F.normalize(torch.randn(pairs, half, CHANNELS, generator=generator), dim=2)
        labels = torch.stack(
            [street_labels(half, STREET[index % 2], void, 10 * b + index) for b in range(pairs)]
        )
        return features.to(device, dtype).requires_grad_(), labels.to(device)

    (f1, y1), (f2, y2), (f3, y3) = (one(i) for i in range(3))
    return Inputs((f1, f2, f3), (y1, y2, y3))


# ---------------------------------------------------------------------------------- contenders


def contenders(
    form: str, inputs: Inputs, *, with_plain: bool, compiled: bool
) -> dict[str, Contender]:
    """Every implementation of a form, as a function that gives the loss of these inputs."""
    found: dict[str, Contender] = {"tiled": lambda: _loss(form, inputs, "tiled")}
    if inputs.features[0].is_cuda:
        found["triton"] = lambda: _loss(form, inputs, "triton")
    if with_plain:
        # One pair at a time, to fit in memory.
        parts = [inputs.pair(b) for b in range(len(inputs.labels[0]))]

        def plain(loss: Callable[[str, Inputs, Any], Tensor]) -> Tensor:
            return torch.stack([loss(form, part, "plain") for part in parts]).mean()

        found["plain"] = lambda: plain(_loss)
        if compiled:
            fast = torch.compile(_loss)
            found["plain, compiled"] = lambda: plain(fast)
        if form == "supcon":
            found["pytorch-metric-learning"] = _metric_learning(inputs)
    return found


def _metric_learning(inputs: Inputs) -> Contender:
    from pytorch_metric_learning.losses import SupConLoss

    loss = SupConLoss(temperature=TEMPERATURE)

    def run() -> Tensor:
        sets = zip(torch.cat(inputs.features[:2], 1), torch.cat(inputs.labels[:2], 1), strict=True)
        values = [loss(f, y) for f, y in sets]
        result: Tensor = torch.stack(values).mean()
        return result

    return run


# ------------------------------------------------------------------------------------- measure


def clock(device: torch.device) -> float:
    """Seconds; on the CPU the processor time of this process."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def step(contender: Contender) -> float:
    """Forward and backward."""
    loss = contender()
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def take_turns(
    runs: dict[str, Contender], repeats: int, device: torch.device
) -> dict[str, tuple[float, list[float]]]:
    """Value and times of each contender: a warm-up each, then in turns."""
    values = {name: step(run) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = clock(device)
            step(run)
            times[name].append((clock(device) - start) * 1e3)
    return {name: (values[name], times[name]) for name in runs}


def peak_memory(form: str, contender: str, size: int, pairs: int, device: torch.device) -> float:
    """MiB above what was held before; on the CPU in a process of its own."""
    if device.type == "cpu":
        command = [sys.executable, "-m", "benchmarks.loss", "--memory-of", form, contender]
        done = subprocess.run([*command, str(size)], capture_output=True, text=True, check=True)
        return float(done.stdout.split()[-1])
    inputs = make_inputs(form, size, pairs, device, torch.bfloat16)
    run = contenders(form, inputs, with_plain=True, compiled="compiled" in contender)[contender]
    step(run)
    for feature in inputs.features:
        feature.grad = None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step(run)
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def print_memory(form: str, contender: str, size: int) -> None:
    """Print by how many MiB the peak resident set grows in one step; for a fresh process."""
    device = torch.device("cpu")
    small = make_inputs(form, 600, 1, device, torch.float32)
    step(contenders(form, small, with_plain=True, compiled="compiled" in contender)[contender])
    inputs = make_inputs(form, size, 1, device, torch.float32)
    run = contenders(form, inputs, with_plain=True, compiled="compiled" in contender)[contender]
    before = resident_kib("VmRSS")
    # On Linux this restarts the peak, which otherwise includes the parent process's.
    Path("/proc/self/clear_refs").write_text("5")
    step(run)
    print((resident_kib("VmHWM") - before) / 1024)


def resident_kib(field: str) -> int:
    """Resident memory of this process, now (``VmRSS``) or at its peak (``VmHWM``); Linux."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


# ---------------------------------------------------------------------------------------- floor


@dataclass(frozen=True)
class Machine:
    """Measured rates of the device: operations and bytes a second."""

    operations: float
    bytes: float


def measure_machine(device: torch.device, dtype: torch.dtype) -> Machine:
    """The rate of a product of the tiles' shape (large on a GPU) and of a copy."""
    rows, cols, repeat = (512, 1024, 20) if device.type == "cpu" else (8192, 8192, 50)
    a = torch.randn(rows, CHANNELS, device=device, dtype=dtype)
    b = torch.randn(cols, CHANNELS, device=device, dtype=dtype)
    out = torch.empty(rows, cols, device=device, dtype=dtype)
    source = torch.randn(1 << 26, device=device)
    target = torch.empty_like(source)

    def best(run: Callable[[], object], repeat: int) -> float:
        times = []
        for _ in range(8):
            start = clock(device)
            for _ in range(repeat):
                run()
            times.append((clock(device) - start) / repeat)
        return min(times)

    product = best(lambda: torch.mm(a, b.T, out=out), repeat)
    copy = best(lambda: target.copy_(source), 2)
    return Machine(2 * rows * cols * CHANNELS / product, 2 * source.numel() * 4 / copy)


def products(form: str, inputs: Inputs, device: torch.device) -> float:
    """Products of two pixels that the mathematics needs, forward and backward.

    A set against itself is symmetric: on the CPU half of the scores are enough.
    """
    half = 0.5 if device.type == "cpu" else 1.0
    total = 0.0
    for b in range(len(inputs.labels[0])):
        y = [labels[b].cpu() for labels in inputs.labels]
        n = len(y[0])
        if form == "paper within":
            total += 3 * n * n
        elif form == "paper cross":
            total += 3 * (n * n + _same(y[0], y[2]))
        elif form == "supcon":
            total += (2 * half + 1) * (2 * n) ** 2
        else:
            valid = [labels[labels != VOID] for labels in y[:2]]
            negatives = sum(len(v) ** 2 - _same(v, v) for v in valid)
            everything = torch.cat(valid)
            positives = _same(everything, everything)
            total += (2 * half + 1) * negatives + (half + 1) * positives
    return total


def _same(first: Tensor, second: Tensor) -> float:
    classes = int(max(first.max(), second.max())) + 1
    counts = (torch.bincount(labels, minlength=classes).double() for labels in (first, second))
    return float(torch.dot(*counts))


def floor_ms(form: str, inputs: Inputs, machine: Machine) -> float:
    """The least time for the counted products, or for reading features and writing gradients."""
    device = inputs.features[0].device
    operations = 2 * CHANNELS * products(form, inputs, device)
    bytes_moved = sum(2 * f.numel() * f.element_size() for f in inputs.features)
    return max(operations / machine.operations, bytes_moved / machine.bytes) * 1e3


# -------------------------------------------------------------------------------------- results


def measure(
    sizes: dict[str, list[int]], device: torch.device, repeats: int, *, compiled: bool
) -> list[Measurement]:
    """All forms at all sizes."""
    dtype, pairs = (torch.float32, 1) if device.type == "cpu" else (torch.bfloat16, 8)
    machine = measure_machine(device, dtype)
    print(f"{machine.operations / 1e9:.0f} GFLOP/s, {machine.bytes / 1e9:.1f} GB/s measured")
    results = []
    for form, form_sizes in sizes.items():
        for size in form_sizes:
            inputs = make_inputs(form, size, pairs, device, dtype)
            # Compiling takes a minute for each size on the CPU: only the largest is compiled.
            largest = size == max(s for s in form_sizes if s <= MOST_PLAIN_PIXELS)
            runs = contenders(
                form,
                inputs,
                with_plain=size <= MOST_PLAIN_PIXELS,
                compiled=compiled and (largest or device.type == "cuda"),
            )
            for name, (value, times) in take_turns(runs, repeats, device).items():
                result = Measurement(
                    form=form,
                    contender=name,
                    pixels=size,
                    pairs=pairs,
                    device=device.type,
                    dtype=str(dtype).removeprefix("torch."),
                    least_ms=min(times),
                    median_ms=statistics.median(times),
                    memory_mib=peak_memory(form, name, size, pairs, device),
                    floor_ms=floor_ms(form, inputs, machine),
                    value=value,
                )
                print(
                    f"{form:15} {name:24} N={size:6} least {result.least_ms:9.1f} ms  median "
                    f"{result.median_ms:9.1f}  floor {result.floor_ms:8.1f}  "
                    f"+{result.memory_mib:7.0f} MiB  loss {value:.6f}",
                    flush=True,
                )
                results.append(result)
    return results


def accuracy() -> dict[str, float]:
    """Largest relative error of value and gradient over all forms, by type, against float64."""
    errors = {}
    for dtype in (torch.float32, torch.bfloat16):
        value_error = gradient_error = 0.0
        for form in ("official cross", "paper within", "paper cross", "supcon"):
            inputs = make_inputs(form, 2000, 1, torch.device("cpu"), dtype)
            exact = Inputs(
                tuple(f.detach().double().requires_grad_() for f in inputs.features),  # type: ignore[arg-type]
                inputs.labels,
            )
            results = []
            for given, backend in ((inputs, "tiled"), (exact, "plain")):
                loss = _loss(form, given, backend)
                wanted = given.features[: 3 if form == "paper cross" else 2]
                results.append((loss.detach(), torch.autograd.grad(loss, wanted)))
            (value, gradients), (true_value, true_gradients) = results
            value_error = max(value_error, float((value - true_value).abs() / true_value))
            for gradient, true in zip(gradients, true_gradients, strict=True):
                error = float((gradient.double() - true).norm() / true.norm())
                gradient_error = max(gradient_error, error)
        name = str(dtype).removeprefix("torch.")
        errors[f"value, {name}"], errors[f"gradient, {name}"] = value_error, gradient_error
    return errors


def _loss(form: str, inputs: Inputs, backend: Any) -> Tensor:
    f, y = inputs.features, inputs.labels
    if form == "official cross":
        return official.cross_image_loss(*f[:2], *y[:2], backend=backend)
    if form == "paper within":
        return paper.within_image_loss(*f[:2], *y[:2], backend=backend)
    if form == "paper cross":
        return paper.cross_image_loss(*f, *y, backend=backend)
    return supcon_loss(torch.cat(f[:2], dim=1), torch.cat(y[:2], dim=1), backend=backend)


def goals(results: list[Measurement], errors: dict[str, float]) -> list[tuple[str, str, str]]:
    """The goals: what, the minimum, and what was measured here."""

    def ratio(form: str, slow: str, fast: str, device: str = "cpu") -> str:
        rows = [r for r in results if r.form == form and r.device == device]
        sizes = [r.pixels for r in rows if r.contender == slow]
        if not sizes:
            return "not measured"
        found = {r.contender: r for r in rows if r.pixels == max(sizes)}
        if fast not in found:
            return "not measured"
        fraction = found[fast].least_ms / found[fast].floor_ms
        return (
            f"{found[slow].least_ms / found[fast].least_ms:.1f}x "
            f"({found[slow].least_ms:.0f} / {found[fast].least_ms:.0f} ms, N {max(sizes)}, "
            f"{fraction:.2f} of floor, +{found[fast].memory_mib:.0f} MiB)"
        )

    gpu = any(r.device == "cuda" for r in results)

    def on_gpu(text: Callable[[], str]) -> str:
        return text() if gpu else "open: no GPU at hand"

    def triton_time(form: str) -> str:
        row = max(
            (r for r in results if r.contender == "triton" and r.form == form),
            key=lambda r: r.pixels,
        )
        return (
            f"{row.least_ms:.2f} ms, {row.memory_mib:.0f} MiB "
            f"({form}, N {row.pixels}, B {row.pairs})"
        )

    return [
        (
            "values and gradients against float64",
            "1e-6; 5e-7 in fp32, 2e-3 in bf16",
            ", ".join(f"{name} {error:.1e}" for name, error in errors.items()),
        ),
        (
            "CPU, one thread, official cross against plain",
            "6x, +64 MiB",
            ratio("official cross", "plain", "tiled"),
        ),
        (
            "CPU, SupCon against pytorch-metric-learning",
            "3x",
            ratio("supcon", "pytorch-metric-learning", "tiled"),
        ),
        ("CPU, paper within against plain", "3x", ratio("paper within", "plain", "tiled")),
        ("CPU, paper cross against plain", "3x", ratio("paper cross", "plain", "tiled")),
        (
            "H200, bf16, B 8, dense",
            "2.8 ms, under 0.3 GB",
            # SupCon needs every pair, whatever the labels.
            on_gpu(lambda: triton_time("supcon")),
        ),
        ("H200, street-like labels", "1.5 ms", on_gpu(lambda: triton_time("official cross"))),
        (
            "H200 against eager plain",
            "20x",
            on_gpu(lambda: ratio("official cross", "plain", "triton", "cuda")),
        ),
        (
            "H200 against compiled plain",
            "8x",
            on_gpu(lambda: ratio("official cross", "plain, compiled", "triton", "cuda")),
        ),
    ]


def as_markdown(results: list[Measurement], rows: list[tuple[str, str, str]]) -> str:
    """The goals and all measurements."""
    processor = describe("cpu").name
    lines = [
        "# The contrastive loss, timed",
        "",
        f"Written by `python -m benchmarks.loss`. torch {torch.__version__}, {processor}, "
        "one thread on the CPU (processor time), forward and backward, "
        f"{CHANNELS} channels, temperature {TEMPERATURE}, street-like labels, tuned malloc. "
        '"Pixels a pair" (N) counts both sides of a comparison: 8450 is two maps of 65x65. '
        '"Floor" is the time that the counted operations take at the machine\'s measured rate. '
        "MiB is the extra memory at the peak.",
        "",
        "| goal | at least | measured |",
        "| --- | --- | --- |",
        *(f"| {a} | {b} | {c} |" for a, b, c in rows),
        "",
        "| form | contender | device | pixels a pair | pairs | least ms | median ms | floor ms "
        "| peak MiB |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {r.form} | {r.contender} | {r.device} {r.dtype} | {r.pixels} | {r.pairs} "
        f"| {r.least_ms:.1f} | {r.median_ms:.1f} | {r.floor_ms:.1f} | {r.memory_mib:.0f} |"
        for r in results
    ]
    return "\n".join(lines) + "\n"


def draw(results: list[Measurement], path: Path) -> None:
    """Time and memory against pixels, on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    names = list(dict.fromkeys(r.contender for r in results))
    colours = {name: f"C{i}" for i, name in enumerate(names)}
    keys = list(dict.fromkeys((r.device, r.form) for r in results))
    figure, axes = plt.subplots(2, len(keys), figsize=(4 * len(keys), 7), squeeze=False)
    for column, (device, form) in enumerate(keys):
        rows = [r for r in results if (r.device, r.form) == (device, form)]
        for name in dict.fromkeys(r.contender for r in rows):
            points = sorted(
                (r.pixels, r.least_ms, r.memory_mib) for r in rows if r.contender == name
            )
            pixels, times, memory = zip(*points, strict=True)
            axes[0, column].loglog(pixels, times, "o-", color=colours[name], label=name)
            axes[1, column].loglog(
                pixels, [max(m, 0.1) for m in memory], "o-", color=colours[name], label=name
            )
        floors = sorted({(r.pixels, r.floor_ms) for r in rows})
        axes[0, column].loglog(*zip(*floors, strict=True), "k:", label="counted floor")
        axes[0, column].set_title(f"{form}, {device}")
        axes[0, column].set_ylabel("least time [ms]")
        axes[1, column].set_ylabel("peak memory [MiB]")
        axes[1, column].set_xlabel("pixels of a pair of images")
        axes[0, column].legend(fontsize=7)
        for row in (0, 1):
            axes[row, column].set_xticks(sorted({r.pixels for r in rows}))
            axes[row, column].xaxis.set_major_formatter(ScalarFormatter())
            axes[row, column].xaxis.set_minor_formatter(NullFormatter())
            axes[row, column].grid(True, which="both", alpha=0.2)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small sizes, no compiled contender")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--memory-of", nargs=3, metavar=("FORM", "CONTENDER", "PIXELS"))
    options = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in TUNED.items()):
        # malloc reads its settings when the process starts.
        arguments = [sys.executable, "-m", "benchmarks.loss", *sys.argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, **TUNED})
    torch.set_num_threads(1)
    if options.memory_of:
        form, contender, pixels = options.memory_of
        print_memory(form, contender, int(pixels))
        return

    sizes = [578, 2048] if options.quick else [1058, 2312, 4232, 8450]
    cpu_sizes = {
        "official cross": sizes if options.quick else [*sizes, 33282],
        "paper within": sizes,
        "paper cross": sizes,
        "supcon": sizes,
    }
    results = []
    if options.device != "cuda":
        results += measure(
            cpu_sizes, torch.device("cpu"), options.repeats, compiled=not options.quick
        )
    if options.device != "cpu" and torch.cuda.is_available():
        cuda_sizes = dict.fromkeys(cpu_sizes, sizes)
        results += measure(cuda_sizes, torch.device("cuda"), options.repeats, compiled=True)
    rows = goals(results, accuracy())
    text = as_markdown(results, rows)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "loss_benchmark.md").write_text(text)
    (options.out / "loss_benchmark.json").write_text(
        json.dumps([asdict(r) for r in results], indent=1) + "\n"
    )
    draw(results, options.out / "loss_benchmark.png")
    print("\n".join(f"{a:48} {b:34} {c}" for a, b, c in rows))


if __name__ == "__main__":
    main()
