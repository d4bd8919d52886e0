"""Checkers of notebook 00: a fair comparison, and what several seeds allow us to say."""

from __future__ import annotations

from segnb.checks import Answer, call, need, need_close
from segnb.recipe import VIEWS_PER_STEP


def check_fair_steps(fair_steps: Answer) -> None:
    """Judge ``fair_steps(pretrain_steps, pretrain_batch, finetune_steps, finetune_batch)``."""
    need(
        call(fair_steps, 0, 8, 300, 8) == 300,
        "without a stage 1 the two methods are the same: its own fine-tuning steps are fair.",
    )
    for case in ((1000, 8, 300, 8), (100, 4, 50, 8), (10, 3, 5, 8)):
        pretrain_steps, pretrain_batch, finetune_steps, finetune_batch = case
        found = call(fair_steps, *case)
        need(
            isinstance(found, int),
            f"steps are whole numbers; yours are {found!r}. Does your division give a float?",
        )
        images = pretrain_steps * pretrain_batch
        extra, rest = divmod(VIEWS_PER_STEP * images, finetune_batch)
        mistakes = [
            (finetune_steps - (-images // finetune_batch), "how often does an image go through the "
             "network in one step of stage 1? It is compared with its own distorted view."),
            (finetune_steps + VIEWS_PER_STEP * pretrain_steps, "the two stages have different "
             "batch sizes here. Count images, not steps."),
            (finetune_steps + extra, "the images of stage 1 do not fill a whole number of steps "
             "here; round in the control's favour."),
        ]  # fmt: skip
        need_close(
            found,
            finetune_steps + extra + bool(rest),
            f"{found} is not right for {pretrain_steps} steps of {pretrain_batch} and then "
            f"{finetune_steps} of {finetune_batch}. How many images pass through the network in "
            "stage 1, and how many steps of stage 2 is that?",
            mistakes=mistakes,
        )


def check_verdict(verdict: Answer) -> None:
    """Judge ``verdict(ours, baseline) -> "better" | "worse" | "can't tell"``."""
    words = ("better", "worse", "can't tell")
    for ours, baseline, right, hint in (
        ([30.0, 31.0, 30.5], [20.0, 21.2, 20.4], "better",
         "ten points ahead with every seed is not called better."),
        ([20.0, 21.2, 20.4], [30.0, 31.0, 30.5], "worse",
         "ten points behind with every seed is not called worse."),
        ([30.0], [20.0], "can't tell",
         "one seed each gives a verdict. However large the difference, how do you know what the "
         "next seed would say?"),
        ([25.0, 31.0, 28.0], [26.0, 27.5, 27.8], "can't tell",
         "a mean difference of about one point, with seeds that disagree by several, gives a "
         "verdict. Is 0 inside the interval?"),
        ([21.0, 31.0, 41.0], [20.0, 30.1, 39.9], "better",
         "each seed is ahead by about one point, but the seeds themselves differ widely, and you "
         "can't tell. The runs are paired: take the differences first."),
    ):  # fmt: skip
        found = call(verdict, ours, baseline)
        need(found in words, f"the answer must be one of {', '.join(words)}; it is {found!r}.")
        need(found == right, hint)
