import dataclasses
import json

import numpy as np
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


def test_shares_are_numbers(pair):
    with pytest.raises(DataError, match=r"seed_ratio must be a number; got '0\.3'"):
        pair.split("0.3")


@pytest.mark.parametrize("ratio", [0, -0.1, 1.5, float("nan"), float("inf")])
def test_seed_ratio_must_be_a_share(pair, ratio):
    with pytest.raises(DataError, match=r"seed_ratio is .* above 0 and at most 1"):
        pair.split(ratio)


def test_every_link_may_be_a_seed():
    split = make_pair(100).split(1, 0.1)
    assert (len(split.train), len(split.valid), len(split.test)) == (90, 10, 0)


@pytest.mark.parametrize("ratio", [1, -0.1, float("nan")])
def test_validation_share_must_be_inside(pair, ratio):
    with pytest.raises(DataError, match="validation share"):
        pair.split(0.5, ratio)


def linked(links):
    """A pair with these links; entity k of graph 1 is k, of graph 2 is 50 + k."""
    pair = make_pair(50)
    return dataclasses.replace(pair, links=torch.tensor(links).reshape(-1, 2) + torch.tensor([0, 50]))


pairs_of_entities = st.tuples(st.integers(0, 49), st.integers(0, 49))


@given(
    st.lists(pairs_of_entities, min_size=2, max_size=60),
    st.floats(0.01, 1),
    st.floats(0, 0.99),
    st.integers(0, 99),
)
def test_no_entity_stands_on_two_sides_of_a_split(links, seed_ratio, valid_ratio, seed):
    pair = linked(links)
    try:
        split = pair.split(seed_ratio, valid_ratio, seed)
    except DataError as error:
        assert "no link to train on" in str(error) or "hang together" in str(error)  # noqa: PT017
        return
    parts = [split.train, split.valid, split.test]
    everything = torch.cat(parts).tolist()
    assert sorted(map(tuple, everything)) == sorted({(left, right + 50) for left, right in links})
    for one, other in ((0, 1), (0, 2), (1, 2)):
        for side in (0, 1):
            assert not torch.isin(parts[one][:, side], parts[other][:, side]).any()


def test_the_share_is_met_as_nearly_as_groups_allow():
    chains = [(3 * k + a, 3 * k + b) for k in range(16) for a, b in ((0, 0), (0, 1), (1, 1), (1, 2))]
    for seed in range(20):
        split = linked(chains).split(0.3, 0.2, seed)
        assert abs(len(split.train) + len(split.valid) - 19) <= 2, "groups are of four"
        assert len(split.valid) == 4


def test_links_that_all_hang_together_cannot_be_divided():
    star = linked([(0, k) for k in range(10)])
    with pytest.raises(DataError, match=r"10 links hang together .* seed_ratio=1"):
        star.split(0.3)
    assert len(star.split(1, 0).train) == 10


def test_the_split_of_one_to_one_links_is_the_one_it_was():
    """Runs on 1-to-1 data keep their links: a shuffle by the seed, then two cuts."""
    for seed in range(5):
        pair = make_pair(200)
        links = pair.links[torch.randperm(200, generator=torch.Generator().manual_seed(seed))]
        split = pair.split(0.3, 0.1, seed)
        assert torch.equal(torch.cat([split.valid, split.train, split.test]), links)
        assert (len(split.valid), len(split.train)) == (6, 54)


def test_a_split_made_by_hand_is_checked(pair):
    empty = pair.links[:0]
    assert len(data.Split(pair.links, empty, empty).test) == 0, "nothing to test is legal"
    with pytest.raises(DataError, match="no link to train on"):
        data.Split(empty, empty, pair.links)
    with pytest.raises(DataError, match=r"link \[0, 2\] of the test part .* Split.apart"):
        data.Split(pair.links[:2], empty, pair.links[:1])
    with pytest.raises(DataError, match="of the train part stands there already"):
        data.Split(pair.links[[0, 0]], empty, pair.links[1:])
    with pytest.raises(DataError, match=r"test links must be int64 \[\., 2\], not torch.float32 \[4, 2\]"):
        data.Split(pair.links[:1], empty, pair.links.float())


def test_parts_that_overlap_are_parted_with_a_note():
    train, valid, test = [[0, 5], [0, 5], [1, 6]], [[2, 6], [3, 7]], [[3, 8], [0, 9], [4, 9]]
    split, notes = data.Split.apart(train, valid, test)
    assert (split.train.tolist(), split.valid.tolist()) == ([[0, 5], [1, 6]], [[3, 7]])
    assert split.test.tolist() == [[4, 9]]
    assert notes == (
        "4 links of the official split stand twice or share an entity with an earlier part and are left out, "
        "the first is [0, 5] of its train part",
    )


def test_official_split_is_the_default_and_a_ratio_overrules_it(pair):
    official = data.Split(pair.links[:1], pair.links[1:2], pair.links[2:])
    pair = dataclasses.replace(pair, official_split=official)
    assert pair.split() is official
    assert len(pair.split(0.5, 0).test) == 2


def test_default_share_is_the_fields():
    split = make_pair(1000).split()
    assert (len(split.train), len(split.valid), len(split.test)) == (285, 15, 700)


def test_degrees_are_those_of_the_graph(pair):
    loops = torch.tensor([[0, 0, 0], [0, 0, 0], [0, 0, int(pair.left_entities[1])]])
    for triples in (pair.triples, torch.cat([loops, pair.triples]), pair.triples[:0]):
        left = int(torch.isin(triples[:, 0], pair.left_entities).sum())
        some = dataclasses.replace(pair, triples=triples, num_left_triples=left)
        assert torch.equal(some.degrees(), some.graph().degrees())


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
    from loginmea_fast.data.tables import first_nonfinite_row

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
        ({"links": torch.tensor([[0, 2], [2, 0]])}, "link 1, .*from graph 2 to graph 1.*swap its columns"),
        ({"links": torch.tensor([[0, 1]])}, "link 0, .*from graph 1 to graph 1.*correct or delete"),
        ({"links": torch.tensor([[2, 3]])}, "from graph 2 to graph 2"),
        ({"links": np.ones((2, 2))}, r"links must be int64 \[\., 2\], not ndarray of float64 \[2, 2\]"),
        ({"links": [[0, 2], [1]]}, "rows of different lengths"),
        ({"links": [0, 2]}, r"links must be int64 \[\., 2\], not list of int64 \[2\]"),
        ({"triples": torch.tensor([[0, 0, 2]])}, "triple 0, .* joins entities of both graphs"),
        ({"num_left_triples": 999}, "num_left_triples is 999, but 4 of the 7 triples belong to graph 1"),
        ({"num_left_triples": 3}, "num_left_triples is 3, but 4 of the 7"),
        ({"triples": torch.tensor([[2, 0, 3], [0, 0, 1]]), "num_left_triples": 1}, "do not come first"),
        ({"relation_names": ["knows"]}, "4 relations need as many relation_names, got 1"),
        ({"has_image": torch.ones(3, dtype=torch.bool)}, r"has_image must be bool \[8\]"),
        (
            {"attributes": data.AttributeTable(torch.tensor([9]), torch.tensor([0]), ["a"])},
            "attributes.entity must hold one id from 0 to 7",
        ),
        (
            {"attributes": data.AttributeTable(torch.tensor([0]), torch.tensor([1]), ["a"])},
            "attributes.kind must hold one id from 0 to 0",
        ),
    ],
)
def test_a_pair_made_by_hand_is_checked(pair, change, message):
    with pytest.raises(DataError, match=message):
        dataclasses.replace(pair, **change)


@pytest.mark.parametrize("make", [np.asarray, lambda t: np.asarray(t, dtype=np.uint32), torch.Tensor.tolist])
def test_arrays_and_lists_are_taken_as_they_come(pair, make):
    names = ("left_entities", "right_entities", "triples", "links")
    made = dataclasses.replace(pair, **{name: make(getattr(pair, name)) for name in names})
    for name in names:
        assert getattr(made, name).dtype == torch.int64
        assert torch.equal(getattr(made, name), getattr(pair, name))
    fixed = np.asarray(pair.links).copy()
    fixed.flags.writeable = False
    assert torch.equal(dataclasses.replace(pair, links=fixed[::-1]).links, pair.links.flip(0))


def test_the_same_link_twice_is_kept_once_with_a_note(pair):
    twice = dataclasses.replace(pair, links=torch.cat([pair.links, pair.links[1:3]]))
    assert torch.equal(twice.links, pair.links)
    assert twice.notes[-1].startswith("2 of 6 links repeat another, the first is [1, 3]")
    assert twice.with_features({}).notes == twice.notes, "said once"


def test_the_official_split_is_of_the_links(pair):
    split = data.Split(pair.links[:1], pair.links[:0], torch.tensor([[4, 3]]))
    with pytest.raises(
        DataError, match=r"link \[4, 3\] of the official split's test part is not among the links"
    ):
        dataclasses.replace(pair, official_split=split)


def test_feature_to_device_keeps_the_rest(pair):
    moved = pair.features["relation"].to("cpu")
    assert moved.description == pair.features["relation"].description


def test_a_pair_without_triples_has_a_graph_without_edges(pair):
    bare = dataclasses.replace(pair, triples=pair.triples[:0], num_left_triples=0, features={})
    graph = bare.graph()
    assert (graph.num_entities, graph.num_edges) == (pair.num_entities, 0)


def test_an_identifier_of_a_graph_is_one_entitys(pair):
    uris = list(pair.uris)
    uris[4] = uris[1]
    with pytest.raises(
        DataError, match="entities 1 and 4 of graph 1 are both called 'http://a/resource/Beta'"
    ):
        dataclasses.replace(pair, uris=uris)
    uris = list(pair.uris)
    uris[2] = uris[0]
    assert dataclasses.replace(pair, uris=uris).uris[2] == uris[0], "that of another graph is its own"
