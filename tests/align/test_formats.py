"""The format that a pair is kept in changes none of its matches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import loginmea_fast as lf
from loginmea_fast.data import AlignmentPair

SUFFIXES = {"turtle": ".ttl", "ntriples": ".nt", "csv": "", "parquet": ""}
METHODS: dict[str, dict[str, Any]] = {
    "propagate": {"method": "propagate", "propagation_width": 64},
    "model": {"preset": "fast", "epochs": 2, "hidden_dim": 16, "propagation_width": 64, "threads": 1},
}


@pytest.fixture(scope="module")
def embedded() -> AlignmentPair:
    return lf.data.load_embedded()


def aligned(embedded: AlignmentPair, folder: Path, format: str, method: str) -> lf.Alignment:
    lf.data.save(embedded.with_features({}), folder / format, format)
    sides = [lf.data.read_graph(folder / format / f"{side}{SUFFIXES[format]}") for side in ("left", "right")]
    order = torch.randperm(len(embedded.links), generator=torch.Generator().manual_seed(0))
    seeds = [(embedded.uris[a], embedded.uris[b]) for a, b in embedded.links[order[:300]].tolist()]
    pair = AlignmentPair.from_labeled_triples(sides[0], sides[1], seeds)
    return lf.align(pair, folds=1, progress=False, **METHODS[method])


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_embedded_pair_from_any_format(embedded: AlignmentPair, tmp_path: Path, method: str) -> None:
    first, *others = (aligned(embedded, tmp_path, format, method).columns(every=True) for format in SUFFIXES)
    assert len(first["left"]) > 1000
    for other in others:
        assert other == first


def test_rdf_in_the_order_of_its_entities_gets_no_list_of_them(tmp_path: Path) -> None:
    pair = AlignmentPair.from_labeled_triples([("a", "r", "b"), ("b", "r", "c")], [("x", "r", "y")])
    lf.data.save(pair, tmp_path / "plain", "ntriples")
    assert "Resource" not in (tmp_path / "plain" / "left.nt").read_text()
    turned = AlignmentPair.from_labeled_triples(
        [("a", "r", "b"), ("b", "r", "c")], [("x", "r", "y")], entities=(["c", "b", "a"], None)
    )
    lf.data.save(turned, tmp_path / "turned", "ntriples")
    assert lf.data.read_graph(tmp_path / "turned" / "left.nt").entities == turned.uris[:3]
