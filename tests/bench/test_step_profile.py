"""What the profile of a step calls its operators, and that it leaves nothing out."""

from __future__ import annotations

import pytest
from torch.profiler import ProfilerActivity, profile

from bench.step_profile import name_of, operators, shares
from loginmea_fast import ops
from tests.ops.test_relation_reflection_attention import make_graph, make_inputs


@pytest.mark.parametrize(
    ("event", "name"),
    [
        ("loginmea_fast::sparse_product", ("sparse_product", True)),
        ("loginmea_fast::relation_reflection_layers_backward", ("relation_reflection_layers", True)),
        ("GeneratedBackwardFor_loginmea_fast_contrastive_loss_default", ("contrastive_loss", True)),
        (
            "autograd::engine::evaluate_function: GeneratedBackwardFor_loginmea_fast_contrastive_loss_defaultBackward",
            ("contrastive_loss", True),
        ),
        ("autograd::engine::evaluate_function: IndexSelectBackward0", ("index_select", False)),
        ("aten::index_select", ("index_select", False)),
        ("autograd::engine::evaluate_function: _KeysBackward", ("keys", False)),
        ("Optimizer.step#RMSprop.step", ("optimiser, RMSprop", False)),
    ],
)
def test_forward_and_backward_have_one_name(event: str, name: tuple[str, bool]) -> None:
    assert name_of(event) == name


def test_shares_add_up_to_the_step() -> None:
    graph = make_graph("random")
    inputs = make_inputs(graph, 8).map(lambda t: t.requires_grad_())
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        out = ops.relation_reflection_layers(inputs.x, inputs.reflectors, inputs.set_logits, graph)
        out.square().sum().backward()
    found = operators(profiler.events(), 1)
    ours = next(row for row in found if row["operator"] == "relation_reflection_layers")
    assert ours["own"]
    assert ours["calls"] == 2, "forward and backward, once each"
    step = 2 * sum(row["seconds"] for row in found)
    rows = shares(step, found)
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert rows[-1]["share"] == pytest.approx(0.5), "what no operator accounts for"
