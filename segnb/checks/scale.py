"""Checkers of notebook 09: time that is left, and the largest batch that fits."""

from __future__ import annotations

from segnb.checks import Answer, call, need, need_close


def check_time_left(time_left: Answer) -> None:
    """Judge ``time_left(log, total_steps) -> seconds``."""

    def rows(*points: tuple[int, float]) -> list[dict[str, float]]:
        return [{"step": step, "seconds": seconds} for step, seconds in points]

    slow_start = rows((1, 30.0), (10, 39.0), (20, 49.0))
    found = call(time_left, slow_start, 120)
    need(
        abs(float(found) - 245) > 1,
        "the first step took much longer than the others (a network is compiled, caches are "
        "filled), and your answer lets it count for all steps to come.",
    )
    need_close(
        found,
        100.0,
        "from the first row to the last 19 steps took 19 seconds; 100 steps are left.",
    )
    need_close(
        call(time_left, rows((1, 5.0), (10, 14.0), (100, 104.0)), 100),
        0.0,
        "when all steps are done nothing is left.",
    )
    need_close(
        call(time_left, rows((50, 900.0), (60, 920.0)), 110),
        100.0,
        "the log of a run that was resumed need not begin at step 1.",
    )


def check_largest_batch(largest_batch: Answer) -> None:
    """Judge ``largest_batch(batches, peaks, memory) -> batch``."""
    # 2 GiB whatever the batch, 0.5 GiB an image.
    batches, peaks = [2, 4, 8], [3.0, 4.0, 6.0]
    found = call(largest_batch, batches, peaks, 16.0)
    need(
        float(found) not in (16 / 0.75, 21, 20),
        "all memory was divided by memory per image of one measurement. Part of it, the weights "
        "and the optimiser, is there once, however many images there are.",
    )
    need(float(found) != 28, "that fills the memory to the last byte; leave a tenth of it free.")
    need_close(
        found,
        24,
        "a straight line through the measurements gives what is there anyway and what an image "
        "adds. With nine tenths of the memory, how many images fit, as an even number?",
        tolerance=1e-9,
    )
    need_close(
        call(largest_batch, batches, peaks, 5.5),
        4,
        "the batch must be even and must fit: round down.",
        tolerance=1e-9,
    )
    need_close(
        call(largest_batch, batches, peaks, 1.0),
        0,
        "where not even two images fit, the answer is 0.",
        tolerance=1e-9,
    )
