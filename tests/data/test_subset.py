from __future__ import annotations

from dataclasses import replace

import torch

from loginmea_fast import data
from loginmea_fast.data.subset import without_entities


def test_it_is_the_pair_that_was_never_told_of_them() -> None:
    left = [("a", "r", "b"), ("b", "r", "c"), ("c", "s", "a")]
    right = [("x", "r", "y"), ("y", "r", "z")]
    said = [("a", "size", "1"), ("b", "size", "2"), ("c", "name", "C")]
    pair = data.AlignmentPair.from_labeled_triples(
        left, right, [("a", "x"), ("b", "y")], attributes=(said, [("z", "size", "2"), ("z", "name", "C")])
    )
    place = pair.uris.index
    pair = replace(pair, rejected=[[place("a"), place("z")], [place("b"), place("z")]])
    gone = torch.tensor([place("a"), place("y")])
    found, number = without_entities(pair, gone)
    assert found.uris == ["b", "c", "x", "z"]
    assert number[gone].tolist() == [-1, -1]
    assert [found.uris[number[pair.uris.index(uri)]] for uri in found.uris] == found.uris
    assert found.left_entities.tolist() == [0, 1]
    assert [(found.uris[h], found.uris[t]) for h, _, t in found.triples.tolist()] == [("b", "c")]
    assert found.num_left_triples == 1
    assert len(found.links) == 0
    assert [(found.uris[a], found.uris[b]) for a, b in found.rejected.tolist()] == [("b", "z")]
    assert found.attributes is not None
    assert found.values is not None
    assert [found.uris[entity] for entity in found.values.entity.tolist()] == ["b", "c", "z", "z"]
    assert found.values.texts == ["2", "C", "2", "C"]
    kept = number >= 0
    for name, feature in pair.features.items():
        assert torch.equal(found.features[name].values.to_dense(), feature.values.to_dense()[kept])
        assert torch.equal(found.features[name].present, feature.present[kept])


def test_nobody_gone_is_the_pair_itself() -> None:
    pair = data.load_embedded()
    found, number = without_entities(pair, torch.empty(0, dtype=torch.int64))
    assert found is pair
    assert torch.equal(number, torch.arange(pair.num_entities))


def test_dense_features_keep_their_rows() -> None:
    pair = data.load_embedded()
    found, number = without_entities(pair, pair.left_entities[::3])
    image = pair.features["image"]
    assert torch.equal(found.features["image"].values, image.values[number >= 0])
