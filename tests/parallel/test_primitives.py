"""Rows that processes exchange, gather and rank are those of one process, with their gradients."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from loginmea_fast import ops
from loginmea_fast.errors import InputError
from loginmea_fast.nn.graph_encoder import GraphEncoder
from loginmea_fast.parallel import Shards, World, world
from loginmea_fast.parallel.exchange import Gather
from loginmea_fast.parallel.search import SpreadRows
from loginmea_fast.parallel.shards import SharedRows
from loginmea_fast.training.objectives.base import Batch
from loginmea_fast.training.objectives.contrastive import info_nce
from loginmea_fast.training.sharing import followers_of
from tests.helpers.compare import assert_close
from tests.parallel.processes import in_processes
from tests.training.synthetic import synthetic_pair


def _encoder(width: int, depth: int) -> GraphEncoder:
    torch.manual_seed(3)
    return GraphEncoder(width, depth)


def _inputs(graph: Any, width: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    table = torch.randn(graph.num_entities, width, generator=generator)
    relations = torch.randn(2 * graph.num_relations, width, generator=generator)
    return table, relations


def encoded(rows: list[int], depth: int = 2) -> tuple[Tensor, ...]:
    """Rows that this process was asked for, and gradients of its own table rows, relations and vectors."""
    graph = synthetic_pair().graph()
    table, relations = _inputs(graph)
    relations.requires_grad_()
    encoder = _encoder(8, depth)
    there = world()
    asked = torch.tensor(rows)
    if there.size == 1:
        own = table.clone().requires_grad_()
        reflectors = ops.relation_reflectors(relations, graph)
        out = encoder(own, reflectors, graph.view(depth=depth))[asked]
        entities = torch.arange(len(table))
    else:
        shards = Shards(there, graph)
        own = shards.take(table).requires_grad_()
        view = shards.view(asked, depth)
        reflectors = ops.relation_reflectors(relations, view.graph)
        out = view.gather(encoder(own, reflectors, view))
        entities = shards.own
    # Each process has a part of the loss, with a gradient to all rows.
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    part = there.part(len(asked))
    (out * weights)[part].square().sum().backward()
    gradients = [relations.grad, encoder.layers.relation_vectors.grad]
    there.sum_(gradients)
    return out.detach(), entities, own.grad, *gradients


@pytest.fixture(scope="module")
def alone() -> dict[str, tuple[Tensor, ...]]:
    return all_encoded()


@pytest.mark.parametrize("count", [2, 4])
def test_layers_across_processes_are_those_of_one(alone: dict[str, tuple[Tensor, ...]], count: int) -> None:
    for found in in_processes(count, all_encoded):
        for name in alone:
            out, entities, own, *gradients = found[name]
            expected, _, table, *theirs = alone[name]
            assert_close(out, expected, name)
            assert_close(own, table[entities], name)
            for gradient, other in zip(gradients, theirs, strict=True):
                assert_close(gradient, other, name)


def all_encoded() -> dict[str, tuple[Tensor, ...]]:
    return {
        "few": encoded([0, 7, 41, 63]),
        "one layer": encoded([0, 7, 41, 63], depth=1),
        "three layers": encoded([63, 7], depth=3),
        "repeated": encoded([7, 0, 7, 41, 7]),
        "all": encoded(list(range(80))),
    }


def formed() -> list[tuple[int, int, int]]:
    """Of each layer for one entity: the rows that this process writes, reads of its own, and fetches."""
    shards = Shards(world(), synthetic_pair(2000, degree=2).graph())
    layers = shards.view(torch.tensor([5]), 3).layers
    return [
        (
            layer.edges.num_rows,
            layer.read if isinstance(layer.read, int) else len(layer.read),
            layer.exchange.wanted,
        )
        for layer in layers
    ]


def test_a_layer_forms_what_somebody_asks_for_and_no_more() -> None:
    graph = synthetic_pair(2000, degree=2).graph()
    whole = [block.destinations for block in graph.view(torch.tensor([5]), 3).blocks]
    found = in_processes(2, formed)
    written = [sum(told[layer][0] for told in found) for layer in range(3)]
    assert written == whole
    assert written[0] < graph.num_entities / 4
    for told in found:
        assert all(later[1] <= earlier[0] for earlier, later in pairwise(told))


def made_anew() -> tuple[Tensor, Tensor, str]:
    """Layers whose activations are formed again for the gradient, and what a view of other layers gives."""
    graph = synthetic_pair().graph()
    table, relations = _inputs(graph)
    encoder, shards = _encoder(8, 2), Shards(world(), graph)
    view = shards.view(torch.tensor([0, 7, 41]))
    reflectors = ops.relation_reflectors(relations, view.graph)
    gradients = []
    for run in (encoder, partial(checkpoint, encoder, use_reentrant=False)):
        own = shards.take(table).requires_grad_()
        run(own, reflectors, view).square().sum().backward()
        gradients.append(own.grad)
    try:
        encoder(shards.take(table), reflectors, shards.view(torch.tensor([0]), 3))
    except InputError as error:
        return *gradients, str(error)
    return *gradients, ""


def test_layers_may_be_formed_again_and_ask_for_a_view_of_theirs() -> None:
    for once, again, told in in_processes(2, made_anew):
        assert_close(again, once, "gradient")
        assert told.startswith("the view is of 3 layers, the model has 2")


def shared() -> tuple[Tensor, Tensor, Tensor]:
    pair = synthetic_pair()
    graph = pair.graph()
    group_of = torch.full((graph.num_entities,), -1)
    for side in pair.links[:15].unbind(1):
        group_of[side] = torch.arange(15)
    table, _ = _inputs(graph)
    there = world()
    if there.size == 1:
        rows, gradient = table.clone(), table.clone() + 1
        sharing: Any = SharedRows(*followers_of(group_of), torch.device("cpu"))
        own = torch.arange(len(table))
    else:
        shards = Shards(there, graph)
        rows, gradient = shards.take(table), shards.take(table) + 1
        sharing, own = shards.shared_rows(*followers_of(group_of)), shards.own
    sharing.spread(rows)
    sharing.collect(gradient)
    return own, rows, gradient


@pytest.mark.parametrize("count", [2, 4])
def test_rows_of_links_are_one_parameter_across_processes(count: int) -> None:
    _, rows, gradient = shared()
    for own, theirs, summed in in_processes(count, shared):
        assert torch.equal(theirs, rows[own])
        assert_close(summed, gradient[own], "gradient")


def ranked(csls_k: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Ranks of links of which some share entities, among rows of which some are zero or alike."""
    generator = torch.Generator().manual_seed(1)
    rows = [F.normalize(torch.randn(n, 12, generator=generator), dim=1) for n in (61, 47)]
    rows[0][5] = 0
    rows[1][9] = rows[1][8]
    rows = [side.to(dtype) for side in rows]
    pairs = torch.stack([torch.arange(30), torch.arange(30) + 3], 1)
    pairs = torch.cat([pairs, torch.tensor([[0, 40], [50, 3], [31, 31]])])
    there = world()
    if there.size == 1:
        found = ops.alignment_ranks(*rows, csls_k, pairs=pairs)
    else:
        owners = [torch.randint(0, there.size, (len(side),), generator=generator) for side in rows]
        left, right = (
            SpreadRows(there, side[owner == there.rank], owner)
            for side, owner in zip(rows, owners, strict=True)
        )
        assert torch.equal(left[3:40].gathered(), rows[0][3:40])
        found = left.ranks(right, csls_k, pairs)
    return *found, *found.ties


@pytest.mark.parametrize("count", [2, 4])
def test_ranks_are_merged_over_processes(count: int) -> None:
    for told in in_processes(count, all_ranked):
        for found, expected in zip(told, all_ranked(), strict=True):
            for mine, theirs in zip(found, expected, strict=True):
                assert torch.equal(mine, theirs)


def all_ranked() -> list[tuple[Tensor, ...]]:
    return [ranked(k, dtype) for k in (0, 10) for dtype in (torch.float32, torch.bfloat16)]


UNEVEN = (
    (
        (3, 57),
        (23, 24),
    ),  # left rows, right rows of each process: fewer of one side than neighbours in the means
    ((9, 51), (45, 2)),
    ((0, 60), (46, 1)),
    ((30, 30), (4099, 30)),  # the second block of process 0 has three rows
)


def ranked_unevenly() -> list[tuple[Tensor, ...]]:
    there, found = world(), []
    for counts in UNEVEN:
        generator = torch.Generator().manual_seed(2)
        rows = [torch.randn(sum(count), 12, generator=generator) for count in counts]
        pairs = torch.stack([torch.arange(40), torch.arange(40) + 5], 1)
        if there.size == 1:
            told = ops.alignment_ranks(*rows, 10, pairs=pairs)
        else:
            left, right = (
                SpreadRows(
                    there,
                    side.split(list(count))[there.rank],
                    torch.arange(2).repeat_interleave(torch.tensor(count)),
                )
                for side, count in zip(rows, counts, strict=True)
            )
            told = left.ranks(right, 10, pairs)
        found.append((*told, *told.ties))
    return found


def test_ranks_are_those_of_one_process_however_few_rows_a_process_has() -> None:
    expected = ranked_unevenly()
    for told in in_processes(2, ranked_unevenly):
        for counts, found, theirs in zip(UNEVEN, told, expected, strict=True):
            for mine, alone in zip(found, theirs, strict=True):
                assert torch.equal(mine, alone), counts


def test_a_gather_without_rows_of_a_process_still_has_its_gradient() -> None:
    gradients = []
    for rows, gradient in in_processes(2, gathered_from_one):
        assert rows.tolist() == [[1.0], [2.0]]
        gradients.append(None if gradient is None else gradient.tolist())
    assert gradients == [[[2.0], [2.0]], None]


def gathered_from_one() -> tuple[Tensor, Tensor | None]:
    there = world()
    own = torch.tensor([[1.0], [2.0]])[: 0 if there.rank else 2].requires_grad_()
    rows = Gather(there, torch.zeros(2, dtype=torch.int64))(own)
    rows.sum().backward()
    return rows.detach(), own.grad if len(own) else None


@pytest.mark.parametrize("bidirectional", [False, True])
def test_shares_of_links_with_one_entity_add_up(bidirectional: bool) -> None:
    rows = torch.randn(10, 6, generator=torch.Generator().manual_seed(4))
    same = torch.tensor([[0, 3], [3, 0], [1, 4], [4, 1]])  # across the parts of both processes

    def loss(part: slice | None) -> tuple[Tensor, Tensor]:
        x = rows.clone().requires_grad_()
        batch = Batch(slice(0, 5), slice(5, 10), slice(10, 10), same, part)
        found = info_nce(x, batch, 0.1, bidirectional, "auto")
        found.backward()
        return found.detach(), x.grad

    shares = [loss(World(rank, 2).part(5)) for rank in range(2)]
    for found, expected in zip(zip(*shares, strict=True), loss(None), strict=True):
        assert_close(sum(found), expected, "sum of shares")
