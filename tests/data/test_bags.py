"""Bags against the loops by which the authors' `Load.py` defines them, written out anew in a few lines."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import loginmea_fast.data as data
from loginmea_fast.data.bags import attribute_bag, relation_bag
from loginmea_fast.data.scaling import scale_rows


def dense(feature):
    return feature.values.to_dense().numpy()


def relation_loop(triples, num_entities, top):
    columns = {
        relation: i for i, (relation, _) in enumerate(Counter(r for _, r, _ in triples).most_common(top))
    }
    bag = np.zeros((num_entities, top), dtype=np.float32)
    for head, relation, tail in triples:
        if relation in columns:
            bag[head, columns[relation]] += 1
            bag[tail, columns[relation]] += 1
    return bag


def attribute_loop(occurrences, num_entities, top):
    counts = Counter()
    for _, kind in occurrences:
        counts[kind] += 1
    columns = {kind: i for i, (kind, _) in enumerate(counts.most_common(top))}
    bag = np.zeros((num_entities, top), dtype=np.float32)
    for entity, kind in occurrences:
        if kind in columns:
            bag[entity, columns[kind]] = 1
    return bag


def types_loop(triples, num_entities, top):
    kept = [relation for relation, _ in Counter(r for _, r, _ in triples).most_common(top)]
    bag = np.zeros((num_entities, 2 * len(kept)), dtype=np.float32)
    for head, relation, tail in triples:
        if relation in kept:
            bag[head, kept.index(relation)] = 1
            bag[tail, kept.index(relation) + len(kept)] = 1
    return bag


rows = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 5)), min_size=1, max_size=60)


@given(rows, st.integers(1, 9))
def test_relation_types_are_the_loop(triples, top):
    np.testing.assert_array_equal(
        dense(relation_bag(torch.tensor(triples), 6, top, kind="types")), types_loop(triples, 6, top)
    )
    assert relation_bag(torch.tensor(triples), 6, None, kind="types").width == 2 * len(
        {r for _, r, _ in triples}
    )


def test_rows_are_scaled_to_one_size():
    dense_rows = torch.tensor([[3.0, -4.0], [0.0, 0.0], [0.0, 2.0]])
    sparse = scale_rows(dense_rows.to_sparse_csr())
    torch.testing.assert_close(sparse.to_dense(), torch.tensor([[3 / 7, -4 / 7], [0, 0], [0, 1]]))
    torch.testing.assert_close(scale_rows(dense_rows), torch.tensor([[0.6, -0.8], [0, 0], [0, 1]]))
    assert scale_rows(dense_rows.half()).dtype == torch.float16


@given(rows, st.integers(1, 9))
def test_relation_bag_is_the_loop(triples, top):
    feature = relation_bag(torch.tensor(triples), 6, top, width=top)
    expected = relation_loop(triples, 6, top)
    assert np.array_equal(dense(feature), expected)
    assert np.array_equal(feature.present.numpy(), expected.any(axis=1))


@given(rows, st.integers(1, 9))
def test_attribute_bag_is_the_loop(triples, top):
    occurrences = [(entity, kind) for entity, kind, _ in triples]
    entity, kind = torch.tensor(occurrences).T.contiguous()
    names = [str(i) for i in range(7)]
    feature = attribute_bag(data.AttributeTable(entity, kind, names), 6, top, width=top)
    assert np.array_equal(dense(feature), attribute_loop(occurrences, 6, top))


def test_width_is_what_is_kept_or_the_authors_thousand(tiny):
    directory = tiny()
    plain = data.load(directory, bags="counts")
    theirs = data.load(directory, compat="authors")
    assert plain.feature_dims == {"relation": 4, "attribute": 2}
    assert theirs.feature_dims == {"relation": 1000, "attribute": 1000}
    assert data.load(directory, bag_size=1).feature_dims == {"relation": 2, "attribute": 1}
    for modality in plain.features:
        width = plain.features[modality].width
        assert np.array_equal(dense(theirs.features[modality])[:, :width], dense(plain.features[modality]))


def test_bags_are_sparse_and_a_self_loop_counts_twice(tiny):
    features = data.load(tiny(), bags="counts").features
    assert all(feature.is_sparse and feature.values.dtype == torch.float32 for feature in features.values())
    # Relation 0 has three triples, relation 2 and then 1 and 3 fewer; entity 0 is head of two and its own neighbour.
    assert dense(features["relation"])[0].tolist() == [2, 0, 2, 0]
    assert features["relation"].present.tolist() == [True] * 6 + [False, True]


@pytest.mark.parametrize("name", ["dbp15k/zh_en", "mmkb/FB15K_DB15K"])
def test_bags_of_real_data_are_the_loops(dataset, name):
    pair = data.load(dataset(name), compat="authors")
    expected = relation_loop(pair.triples.tolist(), pair.num_entities, 1000)
    assert np.array_equal(dense(pair.features["relation"]), expected)
    table = pair.attributes
    occurrences = list(zip(table.entity.tolist(), table.kind.tolist(), strict=True))
    assert np.array_equal(
        dense(pair.features["attribute"]), attribute_loop(occurrences, pair.num_entities, 1000)
    )
