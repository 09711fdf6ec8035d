"""Modalities are called as people like, also as something that a module of torch has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import loginmea_fast as lf
from loginmea_fast import AlignmentGraph, LoginMEA
from loginmea_fast.nn.names import module_key
from tests.helpers.graphs import sizes_of, triples_of
from tests.training.synthetic import synthetic_pair

NAMES = (
    "half",
    "float",
    "type",
    "training",
    "items",
    "image.v2",
    "",
    "~",
    "~1",
    "graph",
    "fusion",
    "labels",
    "joined",
    "a b é/ü",
)


@pytest.fixture
def graph() -> AlignmentGraph:
    return AlignmentGraph.from_triples(*triples_of("random"))


def test_keys_differ_where_names_do_and_are_the_names_where_they_can_be() -> None:
    keys = [module_key(name) for name in NAMES]
    assert len(set(keys)) == len(NAMES)
    assert not any("." in key for key in keys)
    assert module_key("image") == "image"


@pytest.mark.parametrize("aggregation", ["channels", "fused", "both"])
def test_any_name(graph: AlignmentGraph, aggregation: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LoginMEA(*sizes_of(graph), dict.fromkeys(NAMES, 5), 6, aggregation=aggregation)
    torch.manual_seed(0)
    plain = LoginMEA(*sizes_of(graph), {f"m{i}": 5 for i in range(len(NAMES))}, 6, aggregation=aggregation)
    features = {name: torch.randn(graph.num_entities, 5) for name in NAMES}
    output = model(features, graph.view())
    same = plain({f"m{i}": features[name] for i, name in enumerate(NAMES)}, graph.view())
    assert torch.equal(output.joint, same.joint)
    assert list(output.modalities) == list(NAMES)
    parts = [name for name, _ in model.parts]
    assert len(set(parts)) == len(parts), "shares of different parts are told apart"
    model.save_pretrained(tmp_path, graph)
    again = LoginMEA.from_pretrained(tmp_path, graph)
    assert torch.equal(again(features, graph.view()).joint, output.joint)
    torch.compiler.reset()  # other tests' models count against the limit of recompilations
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(features, graph.view()).joint, output.joint)


@pytest.mark.parametrize("name", ["half", "image.v2", "graph"])
def test_a_run_of_any_name(name: str, tmp_path: Path) -> None:
    pair = synthetic_pair()
    features = {"relation": pair.features["relation"], name: pair.features["image"]}
    objectives = ["hard_sample", "modality_contrastive"]
    found = lf.fit(
        replace(pair, features=features), out=tmp_path / "run", epochs=1, hidden_dim=8, rounds=0,
        propagation="none", objectives=objectives, learned_weights=True, progress=False,
    )  # fmt: skip
    terms = next(record for record in found.history if record["event"] == "epoch")["terms"]
    assert len(terms) == 4, "the loss itself, both modalities and the graph"
    again = lf.runs.load_run(tmp_path / "run", replace(pair, features=features))
    assert torch.equal(again.embedding.embed(torch.arange(9)), found.embedding.embed(torch.arange(9)))
