"""The model against the authors' formulation, its ablations, and its inputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench._authors import AuthorsModel
from loginmea_fast import AlignmentGraph, LoginMEA
from loginmea_fast.errors import ConfigError, InputError
from tests.helpers.compare import assert_close
from tests.helpers.graphs import sizes_of, triples_of

DIMS = {"image": 11, "relation": 7, "attribute": 7}


@pytest.fixture
def graph() -> AlignmentGraph:
    return AlignmentGraph.from_triples(*triples_of("random"))


def features_of(
    graph: AlignmentGraph, dims: dict[str, int] = DIMS, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {m: torch.randn(graph.num_entities, c, generator=generator).to(dtype) for m, c in dims.items()}


def authors_model(graph: AlignmentGraph, dtype: torch.dtype = torch.float64) -> AuthorsModel:
    """A model of theirs whose fusion is at a scale where errors would show."""
    torch.manual_seed(0)
    model = AuthorsModel(graph, image_dim=11, width=6, rank=3, bag_dim=7, dtype=dtype)
    with torch.no_grad():
        for factor in model.joint_encoder.fusion.factor_list:
            factor.normal_(std=0.7)
        model.joint_encoder.emb_atten_cat.weight.normal_()
        for table in (model.ent_embedding.weight, model.rel_embedding.weight):
            table.normal_()
    return model


def drop_in(graph: AlignmentGraph, theirs: AuthorsModel, order: list[str]) -> LoginMEA:
    model = LoginMEA(*sizes_of(graph), {m: DIMS[m] for m in order}, hidden_dim=6, rank=3)
    model.load_authors_state_dict(theirs.state_dict())
    return model


def test_drop_in_gives_the_same_joint_embedding(graph: AlignmentGraph) -> None:
    theirs = authors_model(graph)
    ours = drop_in(graph, theirs, ["image", "relation", "attribute"])
    features = features_of(graph)
    wanted = torch.nn.functional.normalize(theirs(**{m: f.double() for m, f in features.items()}))
    assert_close(ours(features, graph.view()).joint, wanted, "joint")


def test_drop_in_with_modalities_in_another_order(graph: AlignmentGraph) -> None:
    theirs = authors_model(graph)
    features = features_of(graph)
    same = drop_in(graph, theirs, ["image", "relation", "attribute"])(features, graph.view()).joint
    other = drop_in(graph, theirs, ["attribute", "image", "relation"])(features, graph.view()).joint
    # z_0 of the aggregation concatenates in another order; similarities, which are all that is used, are equal.
    torch.testing.assert_close(other @ other.T, same @ same.T)


def test_drop_in_gives_the_same_gradients(graph: AlignmentGraph) -> None:
    theirs = authors_model(graph)
    ours = LoginMEA(*sizes_of(graph), DIMS, hidden_dim=6, rank=3, compute_dtype=torch.float64).double()
    names = ours.load_authors_state_dict(theirs.state_dict())
    features = features_of(graph, dtype=torch.float64)
    direction = torch.randn(graph.num_entities, ours.embedding_dim, dtype=torch.float64)
    (ours(features, graph.view()).joint * direction).sum().backward()
    (torch.nn.functional.normalize(theirs(**features)) * direction).sum().backward()
    wanted = LoginMEA(*sizes_of(graph), DIMS, hidden_dim=6, rank=3).double()
    wanted.load_authors_state_dict(
        {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in theirs.named_parameters()}
    )
    for (name, parameter), truth in zip(ours.named_parameters(), wanted.parameters(), strict=True):
        assert parameter.grad is not None, name
        assert_close(
            parameter.grad, truth.detach(), f"{name} from {names.source[name]}", bounds=(1e-9, 1e-10)
        )


def test_authors_names_loaded_and_ignored(graph: AlignmentGraph) -> None:
    theirs = authors_model(graph)
    result = LoginMEA(*sizes_of(graph), DIMS, hidden_dim=6, rank=3).load_authors_state_dict(
        theirs.state_dict()
    )
    assert {n.split(".")[0] for n in result.ignored} == {"rel_fc_dual", "e_encoder"}
    assert sorted(result.loaded + result.ignored) == sorted(theirs.state_dict())


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {n: p for n, p in state.items() if n != name}


def test_authors_state_that_does_not_fit(graph: AlignmentGraph) -> None:
    state = authors_model(graph).state_dict()
    model = LoginMEA(*sizes_of(graph), DIMS, hidden_dim=6, rank=3)
    before = {n: p.clone() for n, p in model.state_dict().items()}
    with pytest.raises(InputError, match=r"no 'img_fc.weight'"):
        model.load_authors_state_dict(without(state, "img_fc.weight"))
    with pytest.raises(InputError, match="no parameter named extra"):
        model.load_authors_state_dict({**state, "extra": torch.zeros(1)})
    with pytest.raises(InputError, match=r"rel_embedding.weight has 13 rows"):
        model.load_authors_state_dict({**state, "rel_embedding.weight": torch.zeros(13, 6)})
    with pytest.raises(InputError, match=r"img_fc.weight gives"):
        model.load_authors_state_dict({**state, "img_fc.weight": torch.zeros(6, 12)})
    with pytest.raises(InputError, match=r"has no 'e_encoder.attn_kernels.0'"):
        model.load_authors_state_dict({n: p for n, p in state.items() if "e_encoder.attn" not in n})
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())
    with pytest.raises(InputError, match="the modalities image, relation, attribute"):
        LoginMEA(*sizes_of(graph), {"image": 11}, hidden_dim=6).load_authors_state_dict(state)
    with pytest.raises(InputError, match="neighbor_vectors"):
        LoginMEA(*sizes_of(graph), DIMS, hidden_dim=6, rank=3, attention="triple").load_authors_state_dict(
            state
        )
    with pytest.raises(InputError, match="no place in this model"):
        LoginMEA(
            *sizes_of(graph), DIMS, hidden_dim=6, rank=3, use_graph_encoder=False
        ).load_authors_state_dict(state)


VARIANTS = [
    {},
    {"attention": "triple"},
    {"use_graph_encoder": False},
    {"use_local_fusion": False},
    {"use_adaptive_weights": False},
    {"use_low_rank": False},
    {"use_low_rank": False, "use_adaptive_weights": False},
    {"use_global_aggregation": False},
    {"use_graph_encoder": False, "use_global_aggregation": False},
    {"depth": 1},
    {"depth": 3},
    {"modality_dims": {"image": 4}, "use_adaptive_weights": False},
]


@pytest.mark.parametrize(
    "dims", [DIMS, {"relation": 7}, {**DIMS, "name": 5, "text": 3}], ids=["three", "one", "five"]
)
@pytest.mark.parametrize(
    "variant", VARIANTS, ids=lambda v: ",".join(f"{k}={x}" for k, x in v.items()) or "full"
)
def test_variants_train_every_parameter(graph: AlignmentGraph, dims: dict[str, int], variant: dict) -> None:
    if "image" in variant.get("modality_dims", {}) and "image" not in dims:
        variant = {**variant, "modality_dims": {"relation": 4}}
    torch.manual_seed(0)
    model = LoginMEA(*sizes_of(graph), dims, hidden_dim=6, rank=3, **variant)
    rows = torch.tensor([3, 0, 39])
    out = model(features_of(graph, dims), graph.view(rows, model.depth))
    assert out.joint.shape == (3, model.embedding_dim)
    torch.testing.assert_close(out.joint.norm(dim=1), torch.ones(3))
    (out.joint * torch.randn_like(out.joint)).sum().backward()
    lone = len(dims) == 1  # softmax over one modality is 1: its score cannot matter
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if not (lone and ("ent_attn" in name or name.endswith("modality_logits"))):
            assert parameter.grad.abs().max() > 0, name


def test_rows_are_rows_of_the_whole(graph: AlignmentGraph) -> None:
    model = LoginMEA(*sizes_of(graph), DIMS, hidden_dim=6, rank=3)
    features, rows = features_of(graph), torch.tensor([7, 7, 1])
    whole, some = model(features, graph.view()), model(features, graph.view(rows))
    torch.testing.assert_close(some.joint, whole.joint[rows])
    torch.testing.assert_close(some.graph, whole.graph[rows])
    for m in DIMS:
        torch.testing.assert_close(some.modalities[m], whole.modalities[m][rows])


class _Matrices(TorchDispatchMode):
    """Notes the memory of every result of one shape that owns what it shows."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.kept = shape, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and tuple(result.shape) == self.shape and 0 not in result.stride():
            self.kept.append(result)  # kept, so that no memory is given out twice
        return result

    @property
    def count(self) -> int:
        return len({t.untyped_storage().data_ptr() for t in self.kept})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dims", [DIMS, {}])
def test_joint_rows_are_one_matrix_and_the_same_numbers(
    graph: AlignmentGraph, dims: dict[str, int], dtype: torch.dtype
) -> None:
    model = LoginMEA(*sizes_of(graph), dims, hidden_dim=6, rank=3, compute_dtype=dtype)
    features, rows = features_of(graph, dims), torch.arange(graph.num_entities - 1)
    expected = model(features, graph.view(rows)).joint
    with _Matrices((len(rows), model.embedding_dim)) as formed:
        joint = model.joint_rows(features, graph.view(rows))
    assert torch.equal(joint, expected)
    assert not joint.requires_grad
    assert formed.count == (1 if dims else 2), "without modalities the only part is as wide"
    assert torch.equal(model.joint_rows(features, graph.view()), model(features, graph.view()).joint)


def test_structure_alone(graph: AlignmentGraph) -> None:
    out = LoginMEA(*sizes_of(graph), {}, hidden_dim=6)({}, graph.view())
    assert out.joint.shape == (graph.num_entities, 18)
    assert out.modalities == {}


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "csr"])
def test_other_kinds_of_features_give_the_same(graph: AlignmentGraph, kind: str) -> None:
    model = LoginMEA(*sizes_of(graph), DIMS, hidden_dim=6, rank=3)
    stored = {m: (f * (f > 0)) for m, f in features_of(graph).items()}
    if kind == "csr":
        given, same = {m: f.to_sparse_csr() for m, f in stored.items()}, stored
    else:
        given = {m: f.to(getattr(torch, kind)) for m, f in stored.items()}
        same = {m: f.float() for m, f in given.items()}
    grads = []
    for features in (given, same):
        model.zero_grad()
        joint = model(features, graph.view()).joint
        (joint * torch.linspace(-1, 1, joint.numel()).view_as(joint)).sum().backward()
        grads.append((joint, *[p.grad.clone() for p in model.parameters()]))
    for got, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("variant", [{}, {"use_low_rank": False}], ids=["fusion", "weighted sum"])
def test_a_modality_of_any_length_counts_by_its_direction(graph: AlignmentGraph, variant: dict) -> None:
    model = LoginMEA(
        *sizes_of(graph),
        {"image": 6, "relation": 6},
        hidden_dim=6,
        rank=3,
        use_adaptive_weights=False,
        **variant,
    )
    with torch.no_grad():
        for projection in model.projections.values():
            projection.bias.zero_()
    features = features_of(graph, {"image": 6, "relation": 6})
    expected = model(features, graph.view()).joint
    for factor in (1e-30, 1e30):
        scaled = model({**features, "image": features["image"] * factor}, graph.view()).joint
        torch.testing.assert_close(scaled, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_activations_stay_close(graph: AlignmentGraph) -> None:
    torch.manual_seed(0)
    model = LoginMEA(*sizes_of(graph), DIMS, hidden_dim=6, rank=3)
    truth = model(features_of(graph), graph.view()).joint
    model.compute_dtype = torch.bfloat16
    joint = model(features_of(graph), graph.view()).joint
    assert joint.dtype == torch.bfloat16
    joint.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    assert (joint.float() - truth).abs().max() < 0.03


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_entities": -1}, "num_entities must be a number, as graph.num_entities is; got -1"),
        ({"num_relations": {"image": 11}}, "num_relations must be a number, .*; got dict"),
        ({"hidden_dim": 0}, "hidden_dim must be at least 1"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"attention": "dot"}, "attention must be one of relation, triple"),
        ({"compute_dtype": torch.float16}, "compute_dtype"),
        ({"modality_dims": {"sound": 3}}, "sound"),
        ({"modality_dims": {"image": 3}, "use_low_rank": False}, "must be 6 wide"),
        ({"feature_dims": {}, "use_graph_encoder": False}, "at least one modality"),
    ],
)
def test_bad_configuration(graph: AlignmentGraph, arguments: dict, message: str) -> None:
    sizes = {"num_entities": graph.num_entities, "num_relations": graph.num_relations}
    with pytest.raises(ConfigError, match=message):
        LoginMEA(**{**sizes, "feature_dims": DIMS, "hidden_dim": 6, **arguments})


def test_bad_features(graph: AlignmentGraph) -> None:
    model = LoginMEA(*sizes_of(graph), DIMS, hidden_dim=6, rank=3)
    features = features_of(graph)
    with pytest.raises(InputError, match=r"modality 'image' are missing"):
        model(without(features, "image"), graph.view())
    with pytest.raises(InputError, match="one row an entity, 40; got 39"):
        model({**features, "relation": features["relation"][:-1]}, graph.view())
    with pytest.raises(InputError, match=r"shape \[rows, 11\]"):
        model({**features, "image": features["image"][:, :4]}, graph.view())
