"""Matrices in a file: embeddings and ranks are those of a matrix in memory, and memory does not grow with the file."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from loginmea_fast import AlignmentGraph, mapped, ops
from loginmea_fast.errors import LoginMEAError
from loginmea_fast.evaluation.embedding import JointEmbedding
from loginmea_fast.mapped import release, room_for
from loginmea_fast.nn import Ensemble, LoginMEA
from loginmea_fast.training.memory import measure_peak_memory
from tests.helpers.graphs import sizes_of, triples_of

CPU = torch.device("cpu")


@pytest.fixture
def in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "IN_MEMORY", 1)


@pytest.mark.parametrize("members", [1, 2])
def test_embeddings_and_ranks(members: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = AlignmentGraph.from_triples(*triples_of("random"))
    count = graph.num_entities
    torch.manual_seed(0)
    models = [
        LoginMEA(*sizes_of(graph), {"image": 5}, hidden_dim=8, aggregation="both") for _ in range(members)
    ]
    model = models[0] if members == 1 else Ensemble(models)
    embedding = JointEmbedding(model, {"image": torch.randn(count, 5)}, graph)
    everyone = torch.randperm(count)
    for rows in (everyone, everyone[:12], everyone[[3, 3, 5]]):
        expected = embedding.embed(rows)
        with monkeypatch.context() as context:
            context.setattr(mapped, "IN_MEMORY", 1)
            found = embedding.embed(rows)
        assert torch.equal(found, expected)
        for csls_k in (0, 1):
            ranks = ops.alignment_ranks(found, found.roll(1, 0), csls_k)
            again = ops.alignment_ranks(expected, expected.roll(1, 0), csls_k)
            assert torch.equal(ranks[0], again[0])


@pytest.mark.usefixtures("in_files")
def test_memory_does_not_grow_with_the_file() -> None:
    with measure_peak_memory(CPU) as memory:
        room = room_for(100_000, 512, torch.float32, CPU)
        for block in room.split(4096):
            block.fill_(1.0)
            release(block)
        assert sum(float(block.sum()) + (release(block) or 0) for block in room.split(4096)) == room.numel()
    assert memory.peak - memory.before < room.nbytes / 4


@pytest.mark.usefixtures("in_files")
def test_one_encoder_at_a_time_is_in_memory() -> None:
    count, width = 100_000, 128
    around = torch.arange(count)
    triples = torch.stack([around, around % 5, (around * 7 + 1) % count], 1)
    graph = AlignmentGraph.from_triples(triples, count, 5)
    features = {name: torch.rand(count, 8) for name in ("relation", "attribute", "image")}
    model = LoginMEA(count, 5, dict.fromkeys(features, 8), width, aggregation="channels")
    embedding = JointEmbedding(model, features, graph)
    embedding.embed(around[:10])  # the library is loaded
    with measure_peak_memory(CPU) as memory:
        embedding.embed(around)
    # Its three layers, what the first is made of, and moments of less.
    assert memory.peak - memory.before < 6 * 4 * count * width


@pytest.mark.usefixtures("in_files")
def test_ranking_reads_a_file_block_by_block() -> None:
    room = room_for(100_000, 512, torch.float32, CPU)
    for block in room.split(4096):
        block.normal_()
        release(block)
    pairs = torch.arange(50)[:, None].expand(-1, 2)
    ops.alignment_ranks(room[:100], room[100:200], pairs=pairs, backend="cpu")  # the library is loaded
    with measure_peak_memory(CPU) as memory:
        ranks = ops.alignment_ranks(room[:100], room[100:], pairs=pairs, backend="cpu")
    assert bool((ranks[0] > 1).any())
    assert memory.peak - memory.before < room.nbytes / 2


@pytest.mark.usefixtures("in_files")
def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(LoginMEAError, match=r"1,000 embeddings of 1,000 numbers need 0.0 GB .*TMPDIR"):
        room_for(1000, 1000, torch.float32, CPU)


def test_what_is_in_memory_is_let_alone() -> None:
    room = room_for(10, 10, torch.float32, CPU).fill_(2.0)
    release(room)
    assert bool((room == 2).all())
