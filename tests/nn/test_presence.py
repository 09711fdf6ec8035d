"""Which entities have a modality reaches the model: an absent one has no weight anywhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from loginmea_fast import AlignmentGraph, LoginMEA
from loginmea_fast.errors import InputError
from loginmea_fast.nn import Features
from tests.helpers.graphs import sizes_of, triples_of

DIMS = {"image": 11, "relation": 7, "attribute": 7}
VARIANTS = (
    {},
    {"use_adaptive_weights": False},
    {"use_local_fusion": False},
    {"use_low_rank": False},
    {"use_global_aggregation": False},
)


@pytest.fixture
def graph() -> AlignmentGraph:
    return AlignmentGraph.from_triples(*triples_of("random"))


def given(graph: AlignmentGraph) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    values = {m: torch.randn(graph.num_entities, c) for m, c in DIMS.items()}
    present = {m: torch.rand(graph.num_entities) > 0.4 for m in ("image", "attribute")}
    present["image"][3] = present["attribute"][3] = False
    return values, present


def build(graph: AlignmentGraph, **variant: bool) -> LoginMEA:
    torch.manual_seed(1)
    return LoginMEA(*sizes_of(graph), DIMS, hidden_dim=6, rank=3, **variant)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("rows", [None, [3, 0, 39]], ids=["all", "rows"])
def test_what_an_absent_row_holds_makes_no_difference(graph, variant, rows) -> None:
    model, (values, present) = build(graph, **variant), given(graph)
    where = graph.view(None if rows is None else torch.tensor(rows))
    results = []
    for filling in (0.0, 1e3):
        filled = {
            m: torch.where(present[m][:, None], v, filling) if m in present else v for m, v in values.items()
        }
        model.zero_grad()
        joint = model(filled, where, present).joint
        joint.square().mul(torch.linspace(-1, 1, joint.shape[1])).sum().backward()
        results.append([joint.detach(), *(p.grad.clone() for n, p in model.named_parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
        assert a.isfinite().all()
    assert not torch.equal(results[0][0], model(values, where).joint)


def test_the_weights_of_the_present_add_up_to_one(graph) -> None:
    """z_0 holds unit rows times their weights: one modality alone has all of it, none leaves zeros."""
    model, (values, _) = build(graph, use_graph_encoder=False), given(graph)
    present = {m: torch.zeros(graph.num_entities, dtype=torch.bool) for m in DIMS}
    present["image"][:5] = True
    z_0, *_ = model.local_to_global(
        [model.projections[m](v) for m, v in values.items()],
        model_reflectors(model, graph),
        graph,
        present=torch.stack([present[m] for m in DIMS], 1),
    )
    image, others = z_0[:, :6].atanh(), z_0[:, 6:]
    torch.testing.assert_close(image[:5].norm(dim=1), torch.ones(5))
    assert image[5:].eq(0).all()
    assert others.eq(0).all()


def model_reflectors(model: LoginMEA, graph: AlignmentGraph) -> Tensor:
    from loginmea_fast.ops import relation_reflectors

    return relation_reflectors(model.relation_embedding, graph)


def test_features_bring_their_presence_along(graph) -> None:
    model, (values, present) = build(graph), given(graph)
    together = Features(values, present)
    assert torch.equal(
        model(together, graph.view()).joint, model(values, graph.view(), present=present).joint
    )
    assert torch.equal(model(together, graph.view(), present={}).joint, model(values, graph.view()).joint)
    everybody = {m: torch.ones(graph.num_entities, dtype=torch.bool) for m in DIMS}
    torch.testing.assert_close(
        model(Features(values, everybody), graph.view()).joint, model(values, graph.view()).joint
    )


def test_presence_compiles(graph) -> None:
    model, (values, present) = build(graph), given(graph)
    together, rows = Features(values, present), torch.tensor([1, 2, 3])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(together, graph.view(rows)).joint, model(together, graph.view(rows)).joint
    )


def test_masks_that_do_not_fit(graph) -> None:
    model, (values, present) = build(graph), given(graph)
    with pytest.raises(
        InputError, match="present names sound, but the modalities are image, relation, attribute"
    ):
        model(values, graph.view(), present={"sound": present["image"]})
    with pytest.raises(InputError, match=r"present\['image'\] must be bool \[40\].*got float32 \[40\]"):
        model(values, graph.view(), present={"image": present["image"].float()})
    with pytest.raises(InputError, match=r"one flag an entity; got bool \[39\]"):
        model(values, graph.view(), present={"image": present["image"][:-1]})
