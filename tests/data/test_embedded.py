import re
import time

import pytest
import torch

import loginmea_fast.data as data
from loginmea_fast.data import loading


@pytest.fixture(scope="module")
def pair():
    return data.load_embedded()


def kinds(pair, entities):
    return [pair.uris[entity].split(":")[1].split("/")[0] for entity in entities.tolist()]


def test_size_on_disk_and_time_to_load(pair):
    files = list(loading.EMBEDDED.iterdir())
    assert sum(path.stat().st_size for path in files) < 3_000_000
    seconds = []  # of this thread's computing: on a busy machine the clock measures the others as well
    for _ in range(3):
        start = time.thread_time()
        data.load_embedded()
        seconds.append(time.thread_time() - start)
    assert min(seconds) < 1


def test_counts_are_those_of_its_readme(pair):
    readme = (loading.EMBEDDED / "README.md").read_text(encoding="utf-8")
    left, right = kinds(pair, pair.left_entities), kinds(pair, pair.right_entities)
    present = pair.features["image"].present
    for count in (
        f"| {len(left):,} | {len(right):,} |",
        f"{left.count('country')} countries, {left.count('city'):,} cities",
        f"{right.count('country')} countries, {right.count('capital')} capitals",
        f"| {int(present[pair.left_entities].sum())} | {int(present[pair.right_entities].sum())} |",
        f"{len(pair.links):,} links",
    ):
        assert count in readme, count
    linked = kinds(pair, pair.links[:, 0])
    for kind, plural in [("country", "countries"), ("city", "capitals"), ("timezone", "time zones")]:
        assert f"{linked.count(kind)} {plural}" in readme


def test_links_join_entities_of_one_kind_and_each_once(pair):
    same = {"city": "capital"}
    left, right = kinds(pair, pair.links[:, 0]), kinds(pair, pair.links[:, 1])
    assert [same.get(kind, kind) for kind in left] == right
    assert pair.notes == ()
    for column in pair.links.T:
        assert len(column.unique()) == len(column)


FIELDS = {
    "areakm2",
    "population",
    "phone",
    "postalcoderegex",
    "latitude",
    "longitude",
    "alternatenames",
    "admin1code",
}
FIELDS |= {"area", "demonym", "callingCodes", "translations", "geoJSON", "wiki", "latlng", "capital_latlng"}


def test_identifiers_that_aligned_the_sources_are_in_no_feature(pair):
    """Attributes say which fields a source fills, or a number's bucket; a code's value would be neither."""
    bucket = re.compile(r"(area|population|inhabitants|latitude|longitude) [ab]-?\d+")
    assert [kind for kind in pair.attributes.types if kind not in FIELDS and not bucket.fullmatch(kind)] == []
    uri = re.compile(r"(geonames|countryinfo):[a-z]+/\d+/.+")
    assert all(uri.fullmatch(text) for text in pair.uris)
    countries = [name for name, text in zip(pair.names, pair.uris, strict=True) if ":country/" in text]
    assert min(map(len, countries)) > 3


def test_structure_and_features_align_far_better_than_chance(pair):
    """Anchors, attributes and images spread along edges: no learning, and most counterparts are near the top."""
    split = pair.split(0.3, 0.0)
    graph = pair.graph()
    source, destination = graph.edge_index()
    degree = torch.bincount(source, minlength=pair.num_entities).clamp(min=1)
    weight = (degree[source] * degree[destination]).float().rsqrt()
    size = (pair.num_entities,) * 2
    edges = torch.stack([destination, source])
    spread = torch.sparse_coo_tensor(edges, weight, size, check_invariants=True)
    anchors = torch.zeros(pair.num_entities, len(split.train))
    for column in split.train.T:
        anchors[column, torch.arange(len(split.train))] = 1
    unit = torch.nn.functional.normalize
    parts, spread_once = [], anchors
    for _ in range(3):
        spread_once = spread @ spread_once
        parts.append(unit(spread_once))
    parts.append(unit(pair.features["attribute"].values.to_dense()))
    parts.append(pair.features["image"].values.float())
    joint = unit(torch.cat(parts, dim=1))
    similarity = joint[split.test[:, 0]] @ joint[split.test[:, 1]].T
    rank = (similarity > similarity.diag()[:, None]).sum(dim=1)
    chance = 10 / len(split.test)
    assert (rank < 10).float().mean() > 0.7 > 50 * chance


def test_names_are_a_modality_apart(pair):
    assert list(pair.features) == ["image", "relation", "attribute"]
    named = data.load_embedded("image,relation,attribute,name")
    assert list(named.features)[-1] == "name"
    assert named.names[0] == "Andorra"
