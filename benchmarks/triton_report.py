"""Registers, spills and shared memory of the loss kernels, without needing the GPU.

    python -m benchmarks.triton_report                     # the tiles the package chooses
    python -m benchmarks.triton_report --arch 90 --kernel official_backward --tiles 128,64,8,3

The kernels are compiled for the named architectures (Hopper 90, Ampere 80 and 86, Turing 75), and
the assembler reports what they use. A kernel that spills, or needs more shared memory than the
chip has, should be changed before it is timed.
"""

from __future__ import annotations

import argparse
import itertools
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from segnb.losses.triton import kernels
from segnb.losses.triton.launch import Pass, Tiles, tiles_for

#: Shared memory a program can have, in bytes, by compute capability.
SHARED_MEMORY = {75: 64 << 10, 80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10}
#: Operand types: Triton's name, bytes, parts of a feature.
OPERANDS = {
    "bf16": ("bf16", 2, 1),
    "fp16": ("fp16", 2, 1),
    "tf32": ("fp32", 4, 1),
    "fp32": ("bf16", 2, 3),
}
#: Kernel and compile-time constants by the name used here.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "logsumexp_forward": ("logsumexp_forward", {"PAIRS": "all"}),
    "logsumexp_forward_same": ("logsumexp_forward", {"PAIRS": "same"}),
    "logsumexp_anchors": ("logsumexp_backward", {"PAIRS": "all", "TERMS": "rows"}),
    "logsumexp_keys": ("logsumexp_backward", {"PAIRS": "all", "TERMS": "cols"}),
    "logsumexp_one_set": ("logsumexp_backward", {"PAIRS": "not_self", "TERMS": "both"}),
    "official_forward": ("official_forward", {}),
    "official_backward": ("official_backward", {}),
}

_POINTERS = {
    "order": "*i32",
    "plan": "*i32",
    "negative_plan": "*i32",
    "positive_plan": "*i32",
    "keys": "*i64",
    "row_keys": "*i64",
    "col_keys": "*i64",
}
_OPERAND_POINTERS = ("rows", "cols", "packed", "features")
_INTEGERS = ("size", "row_size", "padded", "row_padded", "col_padded", "width")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one compiled kernel uses.

    Attributes:
        registers: Registers per thread.
        spilled: Bytes of local memory per thread: its stack, where spilled registers go.
        shared: Bytes of shared memory per program.
        matrix_instruction: The tensor-core instruction it uses.
    """

    registers: int
    spilled: int
    shared: int
    matrix_instruction: str


def compile_kernel(
    variant: str, *, arch: int, operands: str, width: int, tiles: Tiles
) -> Resources:
    """Compile one kernel for an architecture and read what it uses.

    Args:
        variant: A key of ``VARIANTS``.
        arch: Compute capability times ten.
        operands: A key of ``OPERANDS``.
        width: Padded number of channels.
        tiles: How the kernel cuts the matrix of pairs.
    """
    name, constants = VARIANTS[variant]
    kernel = getattr(kernels, name)
    element, _, parts = OPERANDS[operands]
    constants = {
        **constants,
        "BM": tiles.rows,
        "BN": tiles.columns,
        "D": width,
        "PARTS": parts,
    }
    signature = {}
    for argument in kernel.arg_names:
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument in _OPERAND_POINTERS:
            signature[argument] = f"*{element}"
        elif argument in _INTEGERS:
            signature[argument] = "i32"
        elif argument == "c":
            signature[argument] = "fp32"
        elif argument == "out" and name.endswith("backward"):
            signature[argument] = f"*{element}"
        else:
            signature[argument] = _POINTERS.get(argument, "*fp32")
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, argument in enumerate(kernel.arg_names)
        if signature[argument].startswith("*") or argument == "width"
    }
    compiled = triton.compile(
        ASTSource(kernel, signature, constexprs=constants, attrs=aligned),
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": tiles.warps, "num_stages": tiles.stages},
    )
    return _read(compiled)


def chosen_tiles(variant: str, *, arch: int, operands: str, width: int) -> Tiles:
    """The tiles that the package chooses."""
    kind: Pass = "forward" if "forward" in variant else "backward"
    _, itemsize, parts = OPERANDS[operands]
    return tiles_for(
        kind, width=width, itemsize=itemsize, parts=parts, shared_memory=SHARED_MEMORY[arch]
    )


def _read(compiled: Any) -> Resources:
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as binary:
        binary.write(compiled.asm["cubin"])
        binary.flush()
        usage = subprocess.run(
            [str(tools / "cuobjdump"), "--dump-resource-usage", binary.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    instruction = re.search(r"wgmma\.mma_async\S*|mma\.sync\S*", compiled.asm["ptx"])
    return Resources(
        registers=_number("REG", usage),
        spilled=_number("STACK", usage) + _number("LOCAL", usage),
        shared=int(compiled.metadata.shared),
        matrix_instruction=instruction[0] if instruction else "none (plain arithmetic)",
    )


def _number(name: str, usage: str) -> int:
    found = re.search(rf"\b{name}:(\d+)", usage)
    if found is None:
        raise ValueError(f"the compiled kernel's resource usage lacks {name}: {usage}")
    return int(found[1])


def main() -> None:
    """Print one row for each kernel, architecture, operand type and width."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, nargs="+", default=[90, 80, 86])
    parser.add_argument("--kernel", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--operands", nargs="+", choices=OPERANDS, default=["bf16", "tf32"])
    parser.add_argument("--width", type=int, nargs="+", default=[256])
    parser.add_argument("--tiles", nargs="+", help="rows,columns,warps,stages; one or more")
    options = parser.parse_args()
    print(
        "| arch | kernel | operands | D | rows x keys, warps, stages | registers | spilled, B "
        "| shared, KiB | matrix instruction |"
    )
    print("| --- " * 9 + "|")
    for arch, operands, width, variant in itertools.product(
        options.arch, options.operands, options.width, options.kernel
    ):
        choices = [chosen_tiles(variant, arch=arch, operands=operands, width=width)]
        if options.tiles:
            choices = [
                Tiles(rows=int(r), columns=int(c), warps=int(w), stages=int(s))
                for r, c, w, s in (text.split(",") for text in options.tiles)
            ]
        for tiles in choices:
            cut = f"{tiles.rows} x {tiles.columns}, {tiles.warps}, {tiles.stages}"
            head = f"| {arch} | {variant} | {operands} | {width} | {cut} "
            try:
                took = compile_kernel(
                    variant, arch=arch, operands=operands, width=width, tiles=tiles
                )
            except Exception as error:  # tiles that do not compile are a row too
                print(f"{head}| does not compile: {str(error).splitlines()[0][:80]} |", flush=True)
                continue
            shared = f"{took.shared / 1024:.0f}"
            if took.shared > SHARED_MEMORY[arch]:
                shared += " (too much)"
            print(
                f"{head}| {took.registers} | {took.spilled} | {shared} "
                f"| {took.matrix_instruction} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
