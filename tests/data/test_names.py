import pytest
import torch

import loginmea_fast.data as data
from loginmea_fast.data.names import display_name, name_words, ngram_bag, tfidf_bag, word_bag
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


def test_tfidf_is_that_of_scikit_learn():
    text = pytest.importorskip("sklearn.feature_extraction.text")
    words = [["new", "york"], ["york"], ["yorkshire", "york", "york"], []]
    feature = tfidf_bag(words, (2, 3))
    texts = [f" {' '.join(own)} " if own else "" for own in words]
    counter = text.CountVectorizer(analyzer="char", ngram_range=(2, 3), lowercase=False)
    counts = torch.tensor(counter.fit_transform(texts).toarray(), dtype=torch.float64)
    having = (counts > 0).sum(0)
    weights = torch.where(counts > 0, 1 + counts.log(), 0.0) * (4 / having).log()
    rows = weights / weights.norm(dim=1, keepdim=True).clamp_min(1e-12)
    expected = rows[:, having > 1]
    order = sorted(range(feature.width), key=lambda c: feature.values.to_dense()[:, c].tolist())
    theirs = sorted(range(feature.width), key=lambda c: expected[:, c].float().tolist())
    torch.testing.assert_close(feature.values.to_dense()[:, order], expected[:, theirs].float())
    assert feature.present.tolist() == [True, True, True, False]


def test_tfidf_sees_where_words_end_and_what_is_rare():
    like = tfidf_bag(
        [["ann", "lee"], ["annlee"], ["ann", "leeds"], ["zoe", "lee"], ["ann"]]
    ).values.to_dense()
    like = like @ like.T
    assert like[0, 2] > like[0, 1]
    with pytest.raises(DataError, match="must be positive"):
        tfidf_bag([["a"]], (0, 2))


def test_tfidf_finds_more_of_zh_en_than_counts(dataset):
    pair = data.load(dataset("dbp15k/zh_en"), modalities=["name", "name_tfidf"])
    links = pair.links[:2000]

    def found(feature):
        left, right = (feature.values.to_dense()[ids] for ids in links.unbind(1))
        return float(((left @ right.T).argmax(1) == torch.arange(len(links))).float().mean())

    assert found(pair.features["name_tfidf"]) > found(pair.features["name"]) + 0.01


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
