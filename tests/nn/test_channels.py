"""Channels: each modality through layers of its own, held to the formula in plain torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from loginmea_fast import LoginMEA
from loginmea_fast.errors import ConfigError, InputError
from loginmea_fast.ops import relation_reflectors
from loginmea_fast.reference import relation_reflection_attention as reference
from tests.helpers.graphs import sizes_of
from tests.training.synthetic import synthetic_pair

PAIR = synthetic_pair()
GRAPH = PAIR.graph()
FEATURES = {name: feature.values for name, feature in PAIR.features.items()}
DIMS = {name: feature.width for name, feature in PAIR.features.items()}


def build(aggregation="channels", **options):
    torch.manual_seed(3)
    return LoginMEA(*sizes_of(GRAPH), DIMS, hidden_dim=8, rank=2, aggregation=aggregation, **options)


def test_a_channel_is_tanh_of_the_projection_and_its_layers():
    model = build()
    dense = FEATURES["relation"].to_dense()
    u = relation_reflectors(model.relation_embedding, GRAPH)
    z = torch.tanh(dense @ model.projections["relation"].weight.t())
    expected = [z]
    for vector in model.channels.layers["relation"].relation_vectors:
        z = torch.tanh(reference.relation_reflection_attention(z, u, u @ vector, GRAPH))
        expected.append(z)
    output = model(FEATURES, GRAPH.view())
    assert output.unnormalized.shape == (80, model.embedding_dim) == (80, 3 * 3 * 8)
    torch.testing.assert_close(output.unnormalized[:, 24:48], torch.cat(expected, 1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output.joint, F.normalize(output.unnormalized, dim=1))
    torch.testing.assert_close(model.joint_rows(FEATURES, GRAPH.view()), output.joint)


def test_both_stand_side_by_side():
    both, channels, fused = build("both"), build(), build("fused")
    # Without what the fused model has beside its two layers: the graph encoder's 24 columns and z_0 of two modalities.
    assert both.embedding_dim == channels.embedding_dim + fused.embedding_dim - 24 - 2 * 8
    assert both(FEATURES, GRAPH.view()).joint.shape == (80, both.embedding_dim)
    assert not any("modality_logits" in name for name, _ in both.named_parameters())
    assert both.parts == [("graph", 24), ("relation", 24), ("image", 24), ("fusion", 16)]


def test_every_parameter_of_a_channel_has_a_gradient():
    model = build("both")
    model(FEATURES, GRAPH.view()).unnormalized.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_hidden_entities_have_no_embedding_of_their_own():
    model = build()
    hidden = torch.tensor([0, 5, 41])
    got = model(FEATURES, GRAPH.view(), hidden=hidden).joint
    with torch.no_grad():
        model.entity_embedding[hidden] = 0
    torch.testing.assert_close(got, model(FEATURES, GRAPH.view()).joint)


def test_hidden_entities_that_are_none_are_named():
    with pytest.raises(InputError, match=r"hidden\[1\] is entity 80, outside \[0, 80\)"):
        build()(FEATURES, GRAPH.view(), hidden=torch.tensor([3, 80]))


def test_an_absent_modality_is_nothing():
    model = build()
    present = {"image": torch.ones(80, dtype=torch.bool)}
    present["image"][:7] = False
    out = model(FEATURES, GRAPH.view(), present=present).unnormalized
    changed = {**FEATURES, "image": FEATURES["image"].clone()}
    changed["image"][:7] = 5.0
    torch.testing.assert_close(out, model(changed, GRAPH.view(), present=present).unnormalized)
    assert not out[:7, 48:56].any(), "z_0 of an image that is not there"


def test_dropout_drops_in_training_alone_and_again_for_the_same_step():
    model = build(dropout=0.5)
    model.eval()
    whole = model(FEATURES, GRAPH.view()).unnormalized
    model.train()
    model.dropout.set_step(4)
    first = model(FEATURES, GRAPH.view()).unnormalized
    share = (first == 0).double().mean()
    assert 0.4 < share < 0.6
    kept = first != 0
    torch.testing.assert_close(first[kept], 2 * whole[kept])
    model.dropout.set_step(4)
    assert torch.equal(first, model(FEATURES, GRAPH.view()).unnormalized)
    model.dropout.set_step(5)
    assert not torch.equal(first, model(FEATURES, GRAPH.view()).unnormalized)


def test_a_renewed_model_has_the_same_shapes_and_other_parameters():
    model = build("both", dropout=0.1)
    other = model.renewed()
    assert other.arguments == model.arguments
    for name, value in model.state_dict().items():
        assert other.state_dict()[name].shape == value.shape
    assert not torch.equal(other.entity_embedding, model.entity_embedding)


def test_channels_are_kept_by_a_saved_model(tmp_path):
    model = build()
    model.save_pretrained(tmp_path / "m", GRAPH)
    again = LoginMEA.from_pretrained(tmp_path / "m", GRAPH)
    torch.testing.assert_close(
        again.joint_rows(FEATURES, GRAPH.view()), model.joint_rows(FEATURES, GRAPH.view())
    )


def test_what_does_not_go_together_is_named():
    with pytest.raises(ConfigError, match="aggregation must be one of channels, fused, both; got 'none'"):
        build("none")
    with pytest.raises(ConfigError, match="channels are as wide as the layers, 8"):
        build(modality_dims={"image": 4})
