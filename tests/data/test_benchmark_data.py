"""The field's benchmarks themselves: counts that papers print, quirks that must load, time."""

import time

import pytest
import torch

import loginmea_fast.data as data
from loginmea_fast.errors import DataError

COUNTS = {
    "dbp15k/zh_en": ([19388, 19572], [70414, 95142], 15000),
    "dbp15k/fr_en": ([19661, 19993], [105998, 115722], 15000),
    "mmkb/FB15K_DB15K": ([14951, 12842], [592213, 89197], 12846),
    "contea/FR_EN": ([94451, 142234], [318115, 465126], 43182),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts(dataset, name):
    facts = data.load(dataset(name)).summary()
    assert (facts["entities"], facts["triples"], facts["links"]) == COUNTS[name]


def test_dbp15k_interleaves_ids_and_has_translated_names(dataset):
    pair = data.load(dataset("dbp15k/zh_en"), modalities=["relation", "attribute", "name"])
    assert pair.left_entities[0] == 0
    assert int(pair.left_entities.max()) > int(pair.right_entities.min())
    assert pair.words[1] == ["kim", "dae", "jung"]
    assert pair.feature_dims == {"relation": 2 * 3024, "attribute": 10908, "name": 4096}
    assert len(pair.attributes.types) == 8111 + 7173 - len({*_types(pair, 0)} & {*_types(pair, 1)})
    assert pair.notes == ()


def _types(pair, side):
    own = torch.isin(pair.attributes.entity, (pair.left_entities, pair.right_entities)[side])
    return pair.attributes.kind[own].unique().tolist()


def test_mmkb_links_four_entities_twice_and_loads_with_a_note(dataset):
    directory = dataset("mmkb/FB15K_DB15K")
    start = time.process_time()  # not the wall's: other work on the machine is no slowness of the reader
    pair = data.load(directory)
    assert time.process_time() - start < 10
    note, unlike = pair.notes
    assert "line 2091: entity 17040" in note
    assert "4 of 12,846 links" in note
    assert "attribute values are neither number nor date" in unlike
    assert list(pair.features) == ["relation", "attribute", "value"]
    assert pair.has_image.sum() == 13444 + 12837
    with pytest.raises(DataError, match="line 2091: entity 17040"):
        data.load(directory, max_repeated_links=0)


def test_contea_comes_with_its_split(dataset):
    pair = data.load(dataset("contea/FR_EN"), modalities=["relation"])
    split = pair.split()
    assert [len(split.train), len(split.valid), len(split.test)] == [3727, 1863, 37592]
    assert pair.attributes is None
    assert pair.notes == ()
