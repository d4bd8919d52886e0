"""Checkers of notebook 09: the time left, and the largest batch that fits."""

from __future__ import annotations

from segnb.checks import Answer, call, need_cases, need_close


def check_time_left(time_left: Answer) -> None:
    """Judge ``time_left(log, total_steps) -> seconds``."""

    def log(*points: tuple[int, float]) -> list[dict[str, float]]:
        return [{"step": step, "seconds": seconds} for step, seconds in points]

    need_close(
        call(time_left, log((1, 30.0), (10, 39.0), (20, 49.0)), 120),
        100.0,
        "from the first row to the last, 19 steps took 19 seconds; 100 steps are left.",
        mistakes=[
            (245, "the first step took much longer than the others (a network is compiled, caches "
             "are filled), and your answer spreads that time over all remaining steps."),
        ],
    )  # fmt: skip
    cases = [
        ((log((1, 5.0), (10, 14.0), (100, 104.0)), 100), 0.0,
         "when all steps are done, nothing is left."),
        ((log((50, 900.0), (60, 920.0)), 110), 100.0,
         "the log of a resumed run need not begin at step 1."),
    ]  # fmt: skip
    need_cases(time_left, cases)


def check_largest_batch(largest_batch: Answer) -> None:
    """Judge ``largest_batch(batches, peaks, memory) -> batch``."""
    # 2 GiB whatever the batch, and 0.5 GiB an image.
    batches, peaks = [2, 4, 8], [3.0, 4.0, 6.0]
    divided = (
        "all memory was divided by the memory per image of one measurement. Part of that, the "
        "weights and the optimiser, is needed only once, however many images there are."
    )
    need_close(
        call(largest_batch, batches, peaks, 16.0),
        24,
        "a straight line through the measurements gives the fixed part and what each image adds. "
        "With nine tenths of the memory, how many images fit, as an even number?",
        mistakes=[
            *((wrong, divided) for wrong in (16 / 0.75, 21, 20)),
            (28, "that fills the memory to the last byte; leave a tenth of it free."),
        ],
    )
    cases = [
        ((batches, peaks, 5.5), 4, "the batch must be even and must fit: round down."),
        ((batches, peaks, 1.0), 0, "where not even two images fit, the answer is 0."),
    ]
    need_cases(largest_batch, cases)
