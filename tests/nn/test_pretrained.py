"""A model written and read back, and what is said where that cannot be."""

from __future__ import annotations

import json

import pytest
import torch

from loginmea_fast import AlignmentGraph, LoginMEA
from loginmea_fast.errors import CheckpointError, InputError
from tests.helpers.graphs import sizes_of, triples_of

DIMS = {"image": 11, "attribute": 7}


@pytest.fixture
def graph() -> AlignmentGraph:
    return AlignmentGraph.from_triples(*triples_of("random"))


@pytest.fixture
def model(graph: AlignmentGraph) -> LoginMEA:
    return LoginMEA(
        *sizes_of(graph),
        DIMS,
        6,
        3,
        1,
        "triple",
        {"image": 5},
        use_adaptive_weights=False,
        compute_dtype=torch.bfloat16,
    )


def features_of(graph: AlignmentGraph) -> dict[str, torch.Tensor]:
    return {name: torch.randn(graph.num_entities, columns) for name, columns in DIMS.items()}


def test_what_is_written_is_read_back(model: LoginMEA, graph: AlignmentGraph, tmp_path) -> None:
    model.save_pretrained(tmp_path / "deep" / "model", graph)
    assert {file.name for file in (tmp_path / "deep" / "model").iterdir()} == {
        "model.json",
        "model.safetensors",
    }
    state = torch.get_rng_state()
    again = LoginMEA.from_pretrained(tmp_path / "deep" / "model", graph)
    assert torch.equal(torch.get_rng_state(), state)
    features = features_of(graph)
    assert torch.equal(again(features, graph.view()).joint, model(features, graph.view()).joint)
    assert again.arguments == model.arguments
    wide = LoginMEA.from_pretrained(tmp_path / "deep" / "model", graph, compute_dtype=torch.float32)
    assert wide(features, graph.view()).joint.dtype == torch.float32


def test_an_ablation_is_read_back(graph: AlignmentGraph, tmp_path) -> None:
    model = LoginMEA(*sizes_of(graph), {}, 6, use_local_fusion=False)
    model.save_pretrained(tmp_path, graph)
    model.save_pretrained(tmp_path, graph)
    assert torch.equal(
        LoginMEA.from_pretrained(tmp_path, graph)({}, graph.view()).joint, model({}, graph.view()).joint
    )


def test_another_graph_is_refused(model: LoginMEA, graph: AlignmentGraph, tmp_path) -> None:
    model.save_pretrained(tmp_path, graph)
    triples, entities, relations = triples_of("random")
    with pytest.raises(CheckpointError, match=r"of another graph: num_entities is .*init_from"):
        LoginMEA.from_pretrained(tmp_path, AlignmentGraph.from_triples(triples, entities + 1, relations))
    with pytest.raises(CheckpointError, match="of another graph: digest is"):
        LoginMEA.from_pretrained(tmp_path, AlignmentGraph.from_triples(triples[1:], entities, relations))


def change(tmp_path, **values) -> None:
    file = tmp_path / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_what_cannot_be_read_is_one_sentence(model: LoginMEA, graph: AlignmentGraph, tmp_path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            LoginMEA.from_pretrained(tmp_path, graph)

    refused(r"holds no model: it has no model\.json")
    model.save_pretrained(tmp_path, graph)
    change(tmp_path, version=2)
    refused("has version 2, this loginmea_fast reads up to 1; upgrade")
    change(tmp_path, version=1, format="other")
    refused("was not written by save_pretrained")
    model.save_pretrained(tmp_path, graph)
    change(tmp_path, arguments=model.arguments | {"hidden_dim": 7})
    refused("does not describe a model of this version")
    change(tmp_path, arguments=model.arguments | {"colour": 7})
    refused("does not describe a model of this version: .*colour")
    other = LoginMEA(*sizes_of(graph), DIMS, 6, 3, 1, "triple", {"image": 5}, use_adaptive_weights=False)
    other.save_pretrained(tmp_path / "other", graph)
    (tmp_path / "other" / "model.safetensors").replace(tmp_path / "model.safetensors")
    refused("are not of one model")
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    refused("missing or damaged")
    (tmp_path / "model.json").write_text("{")
    refused("cannot be read")


def test_where_nothing_can_be_written(model: LoginMEA, graph: AlignmentGraph, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write the model to"):
        model.save_pretrained(tmp_path / "file", graph)


def test_what_is_no_graph_is_named(model: LoginMEA, graph: AlignmentGraph, tmp_path) -> None:
    model.save_pretrained(tmp_path / "model", graph)
    with pytest.raises(InputError, match="graph must be an AlignmentGraph"):
        LoginMEA.from_pretrained(tmp_path / "model", torch.zeros(2, 3))
    with pytest.raises(InputError, match="graph must be an AlignmentGraph"):
        model.save_pretrained(tmp_path / "model", torch.zeros(2, 3))
    other = AlignmentGraph.from_triples(*triples_of("hub"))
    with pytest.raises(InputError, match=r"has 300 entities and 4 relations, the model was built for 40 and"):
        model.save_pretrained(tmp_path / "model", other)
