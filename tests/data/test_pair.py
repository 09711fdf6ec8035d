import dataclasses
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import loginmea_fast.data as data
from loginmea_fast.errors import DataError


@pytest.fixture
def pair(tiny):
    return data.load(tiny())


def make_pair(num_links):
    """As many links as wanted; entity k of graph 1 is entity k of graph 2."""
    ids = torch.arange(2 * num_links)
    return data.AlignmentPair(
        name="made",
        uris=[str(i) for i in ids.tolist()],
        names=[str(i) for i in ids.tolist()],
        left_entities=ids[:num_links],
        right_entities=ids[num_links:],
        triples=torch.tensor([[0, 0, 1]]),
        num_left_triples=1,
        num_relations=1,
        links=torch.stack([ids[:num_links], ids[num_links:]], dim=1),
    )


@given(st.integers(2, 300), st.floats(0.01, 0.99), st.floats(0, 0.99), st.integers(0, 2**31))
def test_a_split_is_a_partition_that_repeats(num_links, seed_ratio, valid_ratio, seed):
    pair = make_pair(num_links)
    if int(num_links * seed_ratio + 1e-9) == 0:
        with pytest.raises(DataError, match="no link to train on"):
            pair.split(seed_ratio, valid_ratio, seed)
        return
    split = pair.split(seed_ratio, valid_ratio, seed)
    again = pair.split(seed_ratio, valid_ratio, seed)
    parts = [split.train, split.valid, split.test]
    assert sorted(torch.cat(parts).tolist()) == pair.links.tolist()
    assert all(map(torch.equal, parts, [again.train, again.valid, again.test]))
    seeds = len(split.train) + len(split.valid)
    assert seeds == int(num_links * seed_ratio + 1e-9)
    assert len(split.train) >= 1
    if valid_ratio > 0 and seeds > 1:
        assert len(split.valid) == max(1, int(seeds * valid_ratio + 1e-9))


def test_seeds_do_not_depend_on_the_validation_share():
    pair = make_pair(100)
    without, with_valid = pair.split(0.3, 0.0, 5), pair.split(0.3, 0.2, 5)
    assert torch.equal(without.test, with_valid.test)
    assert sorted(without.train.tolist()) == sorted(torch.cat([with_valid.train, with_valid.valid]).tolist())
    assert not torch.equal(pair.split(0.3, 0.0, 6).test, without.test)


def test_a_share_is_rounded_down_without_floating_point_slips():
    split = make_pair(100).split(0.29, 0.0)
    assert len(split.train) == 29


@pytest.mark.parametrize("ratio", [0, 1, -0.1, 1.5, float("nan"), float("inf")])
def test_seed_ratio_must_be_inside(pair, ratio):
    with pytest.raises(DataError, match=r"seed_ratio is .* inside \(0, 1\)"):
        pair.split(ratio)


@pytest.mark.parametrize("ratio", [1, -0.1, float("nan")])
def test_validation_share_must_be_inside(pair, ratio):
    with pytest.raises(DataError, match="validation share"):
        pair.split(0.5, ratio)


def test_no_test_pairs_left(pair):
    empty = pair.links[:0]
    with pytest.raises(DataError, match="no test link"):
        data.Split(pair.links, empty, empty)
    with pytest.raises(DataError, match="no link to train on"):
        data.Split(empty, empty, pair.links)


def test_official_split_is_the_default_and_a_ratio_overrules_it(pair):
    official = data.Split(pair.links[:1], pair.links[1:2], pair.links[2:])
    pair = dataclasses.replace(pair, official_split=official)
    assert pair.split() is official
    assert len(pair.split(0.5, 0).test) == 2


def test_default_share_is_the_fields():
    split = make_pair(1000).split()
    assert (len(split.train), len(split.valid), len(split.test)) == (285, 15, 700)


def test_summary_is_json_and_reports_coverage(pair):
    facts = json.loads(json.dumps(pair.summary()))
    assert facts["entities"] == [4, 4]
    assert facts["triples"] == [4, 3]
    assert facts["links"] == 4
    assert facts["attribute_types"] == 2
    assert facts["modalities"]["relation"]["present"] == [3, 4]
    assert facts["modalities"]["relation"]["storage"] == "sparse CSR"
    text = pair.describe()
    assert "4 + 4 entities, 4 + 3 triples, 4 relations, 4 links" in text
    assert "present for 75.0 % + 100.0 % of the entities" in text


def feature(values, present=None):
    present = torch.ones(values.shape[0], dtype=torch.bool) if present is None else present
    return data.Feature(values, present)


def test_features_are_checked(pair):
    assert feature(torch.ones(8, 2, dtype=torch.bfloat16)).width == 2
    with pytest.raises(DataError, match="floating-point matrix"):
        feature(torch.ones(8, 2, dtype=torch.int64))
    with pytest.raises(DataError, match="sparse_coo"):
        feature(torch.ones(8, 2).to_sparse_coo())
    with pytest.raises(DataError, match=r"presence mask must be bool \[8\]"):
        feature(torch.ones(8, 2), torch.ones(7, dtype=torch.bool))
    with pytest.raises(DataError, match=r"'image' has 7 rows.*8 entities"):
        pair.with_features({"image": feature(torch.ones(7, 2))})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_nan_and_infinity_name_the_row(value, dtype, sparse):
    values = torch.ones(9, 2, dtype=dtype)
    values[7, 1] = value
    with pytest.raises(DataError, match="entity 7 holds NaN or infinity"):
        feature(values.to_sparse_csr() if sparse else values)


def test_nonfinite_row_in_a_later_block(monkeypatch):
    from loginmea_fast.data.pair import first_nonfinite_row

    values = torch.zeros(3, 1 << 21)
    assert first_nonfinite_row(values) is None
    values[2, -1] = float("nan")
    assert first_nonfinite_row(values) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"uris": ["a"]}, "8 entities need as many uris and names"),
        ({"left_entities": torch.tensor([0, 1, 4, 4])}, "each once"),
        ({"left_entities": torch.tensor([0, 1, 4, 9])}, "0 to N - 1"),
        ({"triples": torch.zeros(2, 2, dtype=torch.int64)}, "triples must be int64"),
        ({"triples": torch.zeros(2, 3)}, "triples must be int64"),
        ({"triples": torch.tensor([[0, 9, 1]])}, "triples name an id outside 0 to 3"),
        ({"triples": torch.tensor([[0, 0, 8]])}, "triples name an id outside 0 to 7"),
        ({"links": torch.tensor([[0, -1]])}, "links name an id outside 0 to 7"),
    ],
)
def test_a_pair_made_by_hand_is_checked(pair, change, message):
    with pytest.raises(DataError, match=message):
        dataclasses.replace(pair, **change)


def test_feature_to_device_keeps_the_rest(pair):
    moved = pair.features["relation"].to("cpu")
    assert moved.description == pair.features["relation"].description
