"""Schedule, memory and progress."""

from __future__ import annotations

import io
import logging
import mmap

import pytest
import torch

from loginmea_fast.training.config import Config
from loginmea_fast.training.memory import measure_peak_memory
from loginmea_fast.training.progress import Progress
from loginmea_fast.training.schedule import learning_rate


def test_cosine_rises_then_falls_to_a_hundredth():
    config = Config(epochs=100, warmup_epochs=10, lr=2.0)
    rates = [learning_rate(config, epoch) for epoch in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == 2.0
    assert rates[55] == pytest.approx(2.0 * (0.01 + 0.99 / 2))
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.02 < rates[-1] < 0.03


def test_constant_and_the_shortest_runs():
    assert {learning_rate(Config(schedule="constant", warmup_epochs=0, lr=3.0), e) for e in range(60)} == {
        3.0
    }
    assert learning_rate(Config(epochs=1, warmup_epochs=5, lr=3.0), 0) == 3.0
    assert learning_rate(Config(epochs=1, warmup_epochs=0, lr=3.0), 0) == 3.0


def test_peak_memory_sees_what_a_block_held_for_a_moment():
    with measure_peak_memory(torch.device("cpu")) as memory:
        # Mapped afresh: the allocator might serve a tensor from memory that earlier tests left resident.
        held = mmap.mmap(-1, 64 << 20)
        held[:: mmap.PAGESIZE] = b"x" * (len(held) // mmap.PAGESIZE)
        held.close()
    assert 60 << 20 < memory.peak - memory.before < 100 << 20
    with measure_peak_memory(torch.device("cpu")) as memory:
        pass
    assert memory.peak - memory.before < 30 << 20, "the mark is set back before each block"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_where_there_is_no_terminal(caplog):
    caplog.set_level(logging.INFO)
    progress = Progress(50, 10, stream=io.StringIO())
    for done in range(11, 50):
        progress.epoch(0.5, done)
    progress.say("validation Hits@1 0.5")
    progress.epoch(0.25, 50)
    progress.close()
    lines = caplog.messages
    assert len(lines) == 3, "the first, the event and the last: the rest came within ten seconds"
    assert lines[0].startswith("epoch 11/50: loss 0.5000 [")
    assert lines[1].startswith("epoch 49/50: validation")
    assert lines[2].startswith("epoch 50/50: loss 0.2500 [")
    assert "s left" in lines[2]


def test_a_bar_on_a_terminal():
    stream = Terminal()
    progress = Progress(5, 1, stream=stream)
    progress.epoch(0.5, 2)
    progress.say("hello")
    progress.epoch(0.5, 5)
    progress.close()
    assert "training:" in stream.getvalue()
    assert "5/5" in stream.getvalue()
    assert "hello" in stream.getvalue()


def test_silence():
    stream = Terminal()
    progress = Progress(3, 0, enabled=False, stream=stream)
    progress.epoch(0.5, 1)
    progress.say("hello")
    progress.close()
    assert stream.getvalue() == ""
