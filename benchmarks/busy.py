"""Images a second of stage 2 beside other programs, with and without watching the threads.

Each line is a process of its own, which trains for some seconds; the second half counts. The other
programs are endless loops of one thread each. :mod:`segnb.training.threads` says what is watched.

    python -m benchmarks.busy [--others 1] [--seconds 60] [--dataset camvid] [--tier quick]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Literal, get_args

Threads = Literal["watched", "all", "one"]


def train(dataset: str, tier: str, threads: Threads, seconds: float) -> dict[str, float]:
    """Images a second in the second half of some seconds of training, and the threads at its end.

    The environment must not choose a number of threads.
    """
    import torch

    from segnb.experiments.runs import initial_network
    from segnb.experiments.splits import load_splits
    from segnb.recipe import preset
    from segnb.training import Session, TrainingStopped, finetune, make_accelerator

    recipe = preset(dataset, tier)  # type: ignore[arg-type]
    stage = dataclasses.replace(recipe.finetune, steps=1_000_000)
    recipe = recipe.replace(method="ce", fraction=1.0, finetune=stage)
    data = load_splits(recipe, progress_bar=False).labelled_set
    if threads == "one":
        torch.set_num_threads(1)
    if threads == "all":
        os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # chosen: not watched
    begun = time.perf_counter()
    ends: list[float] = []
    at_end = [0]

    def should_stop() -> bool:
        ends.append(time.perf_counter() - begun)
        at_end[0] = torch.get_num_threads()
        return ends[-1] > seconds

    session = Session(
        accelerator=make_accelerator(recipe.precision, cpu=True),
        progress_bar=False,
        should_stop=should_stop,
    )
    with contextlib.suppress(TrainingStopped):
        finetune(initial_network(recipe), data, recipe, session=session)
    late = [end for end in ends if end > seconds / 2]
    steps, took = len(late) - 1, late[-1] - late[0]
    speed = steps * recipe.finetune.batch / took if steps else len(ends) / ends[-1]
    return {"images_per_s": speed, "threads": at_end[0]}


@contextlib.contextmanager
def others(count: int) -> Iterator[None]:
    """Other programs that use a core each."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for one in busy:
            one.kill()
            one.wait()


def main() -> None:
    """Print a table of images a second."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--others", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--dataset", default="camvid")
    parser.add_argument("--tier", default="quick")
    parser.add_argument("--threads", choices=get_args(Threads), help="measure this alone, as JSON")
    options = parser.parse_args()
    words = (options.dataset, options.tier)
    if options.threads is not None:
        print(json.dumps(train(*words, options.threads, options.seconds)))
        return
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    print("| other programs | threads | images a second | threads at the end |")
    print("| ---: | --- | ---: | ---: |")
    for count in (0, options.others):
        for threads in get_args(Threads):
            command = [sys.executable, "-m", "benchmarks.busy", *sys.argv[1:], "--threads", threads]
            with others(count):
                said = subprocess.run(
                    command, env=environment, check=True, capture_output=True, text=True
                ).stdout
            found = json.loads(said.splitlines()[-1])
            speed, end = found["images_per_s"], found["threads"]
            print(f"| {count} | {threads} | {speed:.1f} | {end} |", flush=True)


if __name__ == "__main__":
    main()
