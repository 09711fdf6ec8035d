import pytest
import torch

import loginmea_fast.data as data
from loginmea_fast.data.names import display_name, name_words, ngram_bag, word_bag
from loginmea_fast.errors import DataError


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("http://zh.dbpedia.org/resource/利物浦足球俱乐部", "利物浦足球俱乐部"),
        ("<http://dbpedia.org/resource/Breakfast_at_Tiffany's_(film)>", "Breakfast at Tiffany's (film)"),
        ("http://dbpedia.org/resource/AC/DC", "AC/DC"),
        ("http://www.wikidata.org/entity/Q42", "Q42"),
        ("http://example.org/thing#Part_1", "Part 1"),
        ("http://example.org/S%C3%A3o_Tom%C3%A9/", "São Tomé"),
        ("/m/06rf7", "06rf7"),
        ("kg1/7", "7"),
        ("#", "#"),
    ],
)
def test_display_name(uri, name):
    assert display_name(uri) == name


def test_words_are_the_translated_ones_where_there_are_any(tiny):
    words = name_words(data.load(tiny()))
    assert words[0] == ["alpha"]
    assert words[2] == ["al", "pha"]
    assert words[4] == ["gamma", "ray"]


def test_exact_bigrams_are_the_authors_character_feature():
    feature = ngram_bag([["abab"], ["ba", "a"], []], sizes=(2,), buckets=None)
    # abab: ab twice, ba once; ba: ba once; rows of length one, a nameless entity has none.
    expected = torch.tensor([[2.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    expected[0] /= 5**0.5
    torch.testing.assert_close(feature.values.to_dense(), expected)
    assert feature.present.tolist() == [True, True, False]


def test_hashing_folds_the_exact_columns():
    words = [["liverpool", "club"], ["clube"], ["x"]]
    hashed = ngram_bag(words, buckets=64)
    assert hashed.width == 64
    assert hashed.values.to_dense()[:2].norm(dim=1).tolist() == pytest.approx([1, 1])
    assert torch.equal(hashed.values.to_dense(), ngram_bag(words, buckets=64).values.to_dense())
    wide = ngram_bag(words, buckets=1 << 20).values
    exact = ngram_bag(words, buckets=None).values
    assert (wide @ wide.to_dense().T)[0, 1] == pytest.approx(float((exact @ exact.to_dense().T)[0, 1]))


def test_word_bag():
    feature = word_bag([["new", "york"], ["york"]])
    torch.testing.assert_close(feature.values.to_dense(), torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, 1.0]]))


def test_lone_surrogates_in_translated_names(tiny):
    pair = data.load(tiny(translated_names_json='[[0, ["\\ud800x"]]]'), modalities=["name", "word"])
    assert bool(pair.features["name"].present[0])


@pytest.mark.parametrize(("sizes", "buckets"), [((), 8), ((0,), 8), ((2,), 0)])
def test_sizes_and_buckets_are_checked(sizes, buckets):
    with pytest.raises(DataError, match="must be positive"):
        ngram_bag([["a"]], sizes, buckets)


def test_no_names_at_all():
    feature = ngram_bag([[], []], buckets=None)
    assert feature.values.shape == (2, 1)
    assert feature.num_present == 0
