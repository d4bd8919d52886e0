"""Fewer threads on a busy machine, with a clock and a machine made for the test."""

from __future__ import annotations

import os

import pytest
import torch

from segnb.training import threads
from segnb.training.threads import Threads, watched


class Machine:
    """Seconds of a step by number of threads, and how often a second cores are lost."""

    def __init__(self, most: int, seconds: dict[int, float], lost: float) -> None:
        self.now, self.gone = 0.0, 0.0
        self.seconds, self.lost = seconds, lost
        self.crowded = False  # whether one thread loses its core as well
        self.number, self.history = most, [most]
        self.threads = Threads(
            most, use=self.use, clock=lambda: self.now, lost=lambda: int(self.gone)
        )

    def use(self, number: int) -> None:
        self.number = number
        self.history.append(number)

    def run(self, until: float) -> float:
        """Steps a second until this moment."""
        begun, steps = self.now, 0
        while self.now < until:
            took = self.seconds[self.number]
            self.now += took
            # A process with one thread on a machine with two cores is left alone.
            self.gone += took * self.lost * (self.number > 1 or self.crowded)
            self.threads.after_step()
            steps += 1
        return steps / (self.now - begun)


def test_a_machine_of_its_own_keeps_its_threads() -> None:
    machine = Machine(2, {2: 0.06, 1: 0.1}, lost=3)
    machine.run(600)
    assert machine.history == [2]


def test_it_steps_down_while_another_program_runs_and_up_again() -> None:
    machine = Machine(2, {2: 2.0, 1: 0.13}, lost=300)
    assert machine.run(30) > 5  # 0.5 steps a second before
    assert machine.number == 1
    busy = machine.run(300)
    assert busy > 0.8 / 0.13  # looking whether it is over costs little
    machine.seconds, machine.lost = {2: 0.06, 1: 0.1}, 0
    machine.run(machine.now + 2 * threads.LATE)
    assert machine.number == 2
    before = len(machine.history)
    machine.run(machine.now + 600)
    assert len(machine.history) == before


def test_more_threads_are_not_tried_while_all_cores_are_taken() -> None:
    machine = Machine(2, {2: 5.0, 1: 0.6}, lost=300)
    machine.crowded = True
    machine.run(900)
    assert machine.history == [2, 1]
    machine.seconds, machine.lost = {2: 0.06, 1: 0.1}, 0
    machine.run(machine.now + 2 * threads.LATE)
    assert machine.number == 2


def test_it_stays_where_fewer_threads_are_no_faster() -> None:
    machine = Machine(4, {4: 0.1, 2: 0.2, 1: 0.4}, lost=300)
    machine.run(600)
    assert machine.number == 4
    assert set(machine.history) == {4, 2}
    assert len(machine.history) < 30


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "MKL_NUM_THREADS", ""])
def test_a_number_that_somebody_chose_is_left_alone(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "Threads", lambda *_, **__: pytest.fail("watched"))
    cores = 2
    if variable:
        monkeypatch.setenv(variable, "2")
    else:
        cores = 8  # torch.set_num_threads(2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(threads, "usable_cores", lambda: cores)
    monkeypatch.setattr(threads, "physical_cores", lambda: cores)
    with watched(torch.device("cpu")) as after_step:
        after_step()


def test_the_number_is_as_before_when_training_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert "OMP_NUM_THREADS" not in os.environ
    used: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    with pytest.raises(KeyError), watched(torch.device("cpu")):
        raise KeyError
    if threads._counter() is not None:
        assert used == [2]
    with watched(torch.device("meta")) as after_step:
        after_step()
