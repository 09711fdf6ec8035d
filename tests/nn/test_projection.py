"""Features of every kind, whole and by a view, forward and gradient, against the plain product."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from loginmea_fast import AlignmentGraph, LoginMEA
from loginmea_fast.data import FeatureStore
from loginmea_fast.mapped import MappedMatrix
from loginmea_fast.nn import FeatureProjection, RawFeatures, loginmea
from tests.helpers.graphs import sizes_of, triples_of

COLUMNS, WIDTH = 40, 12
KINDS = ("float32", "float16", "bfloat16", "sparse", "file, float32", "file, float16")


def features(kind: str, rows: int, folder: Path) -> tuple[RawFeatures, Tensor]:
    """Features of a kind, and their values."""
    values = torch.randn(rows, COLUMNS, generator=torch.Generator().manual_seed(2))
    if kind == "sparse":
        values = values * (values > 1)
        return values.to_sparse_csr(), values
    values = values.to(getattr(torch, kind.removeprefix("file, ")))
    if not kind.startswith("file"):
        return values, values.float()
    path = folder / f"rows-{rows}-{values.dtype}.npy"
    np.save(path, values.numpy())
    matrix = MappedMatrix(path, values.dtype, (rows, COLUMNS), path.stat().st_size - values.nbytes)
    return FeatureStore(matrix, torch.arange(rows)), values.float()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_forward_and_gradient(kind: str, whole: bool, bias: bool, tmp_path: Path) -> None:
    graph = AlignmentGraph.from_triples(*triples_of("random"))
    given, values = features(kind, graph.num_entities, tmp_path)
    view = graph.view() if whole else graph.view(torch.tensor([3, 1]), depth=1)
    layer = FeatureProjection(COLUMNS, WIDTH, bias=bias)
    found = layer(given, view)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(3))
    (found * weights).sum().backward()
    plain = torch.nn.Linear(COLUMNS, WIDTH, bias=bias).double()
    plain.load_state_dict(layer.state_dict())
    expected = plain(view.take(values.double()))
    (expected * weights).sum().backward()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    for parameter, other in zip(layer.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad.double(), other.grad, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("aggregation", ["channels", "fused", "both"])
def test_a_model_learns_from_rows_in_a_file_as_from_rows_in_memory(aggregation: str, tmp_path: Path) -> None:
    graph = AlignmentGraph.from_triples(*triples_of("random"))
    left, values = features("file, float16", graph.num_entities, tmp_path)
    bag, _ = features("sparse", graph.num_entities, tmp_path)
    torch.manual_seed(0)
    model = LoginMEA(
        *sizes_of(graph), {"image": COLUMNS, "relation": COLUMNS}, hidden_dim=WIDTH, aggregation=aggregation
    )

    def gradients(image: RawFeatures) -> Iterator[Tensor]:
        model.zero_grad(set_to_none=True)
        out = model({"image": image, "relation": bag}, graph.view(torch.tensor([4, 0, 2])))
        (out.joint * torch.arange(1.0, out.joint.shape[1] + 1)).sum().backward()
        yield out.joint
        yield from (p.grad.clone() for p in model.parameters() if p.grad is not None)

    for found, expected in zip(gradients(left), gradients(values.half()), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("aggregation", ["fused", "both"])
@pytest.mark.parametrize("keys", [{}, {"use_low_rank": False}, {"use_global_aggregation": False}])
@pytest.mark.parametrize("rows", [[4, 0, 2], [3, 3, 1], None])
def test_what_is_made_anew_for_the_gradient_is_what_was_kept(
    aggregation: str,
    keys: dict[str, bool],
    rows: list[int] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Modalities of every kind, some of them absent, projected again block by block."""
    monkeypatch.setattr(loginmea, "_RECOMPUTED", 3)
    graph = AlignmentGraph.from_triples(*triples_of("random"))
    given = {f"of_{k}": features(k, graph.num_entities, tmp_path)[0] for k in KINDS}
    present = {"of_sparse": torch.arange(graph.num_entities) % 3 > 0}
    wanted = graph.view(None if rows is None else torch.tensor(rows))
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        dims = dict.fromkeys(given, COLUMNS)
        model = LoginMEA(
            *sizes_of(graph), dims, WIDTH, rank=2, aggregation=aggregation, recompute=recompute, **keys
        )
        assert model.renewed().recompute == recompute
        out = model(given, wanted, present)
        (out.joint * torch.arange(1.0, out.joint.shape[1] + 1)).sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        found.append((out.joint, out.modalities, gradients, model.joint_rows(given, wanted, present)))
    (joint, modalities, gradients, looked), kept = found[1], found[0]
    torch.testing.assert_close((joint, modalities, looked), (kept[0], kept[1], kept[3]), rtol=1e-5, atol=1e-5)
    for name, expected in kept[2].items():
        assert (gradients[name] is None) == (expected is None), name
        if expected is not None:
            assert (gradients[name] - expected).norm() <= 1e-5 * expected.norm(), name
