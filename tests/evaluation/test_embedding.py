from __future__ import annotations

import pytest
import torch

from loginmea_fast import AlignmentGraph, LoginMEA
from loginmea_fast.evaluation.embedding import JointEmbedding, StoredEmbedding, shares_of
from loginmea_fast.nn import Ensemble
from tests.helpers.graphs import sizes_of


def test_shares_by_hand() -> None:
    rows = torch.tensor([[0.6, 0.0, 0.8], [0.6, 0.8, 0.0], [0.0, 0.6, 0.8], [-0.6, 0.0, 0.8]])
    embedding = StoredEmbedding(rows, [("graph", 1), ("name", 1), ("graph", 1)])
    found = shares_of(embedding, torch.tensor([0, 0, 1, 0]), torch.tensor([1, 2, 2, 3]))
    assert found["graph"].tolist() == pytest.approx([1, 1, 0, 1])  # the last: 0.64 - 0.36 speaks for it
    assert found["name"].tolist() == pytest.approx([0, 0, 1, 0])
    assert shares_of(StoredEmbedding(rows), torch.tensor([1]), torch.tensor([3]))["embedding"].tolist() == [0]


@pytest.mark.parametrize("aggregation", ["channels", "fused", "both"])
@pytest.mark.parametrize("members", [1, 2])
def test_parts_are_those_of_the_joint_embedding(aggregation: str, members: int) -> None:
    triples = torch.tensor([[0, 0, 1], [1, 1, 2], [2, 0, 3], [3, 1, 0]])
    graph = AlignmentGraph.from_triples(triples, 4, 2)
    models = [
        LoginMEA(
            *sizes_of(graph),
            {"image": 5, "name": 3},
            hidden_dim=4,
            aggregation=aggregation,
            backend="reference",
        )
        for _ in range(members)
    ]
    features = {"image": torch.rand(4, 5), "name": torch.rand(4, 3)}
    model = models[0] if members == 1 else Ensemble(models)
    embedding = JointEmbedding(model, features, graph)
    rows = embedding.embed(torch.arange(4))
    assert sum(width for _, width in embedding.parts) == rows.shape[1] == model.embedding_dim
    left, right = torch.tensor([0, 1]), torch.tensor([2, 3])
    found = shares_of(embedding, left, right)
    torch.testing.assert_close(sum(found.values()), torch.ones(2, dtype=torch.float64))
    graph_part = model(features, graph.view()).graph
    assert graph_part is not None
    own = torch.linalg.vecdot(graph_part[left], graph_part[right])
    assert set(found) == {"graph", "image", "name"} | ({"fusion"} if aggregation != "channels" else set())
    assert bool(((own > 0) == (found["graph"] > 0)).all())
