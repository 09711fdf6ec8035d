"""Values of attributes: what is read as what, which values match, what is counted, and how far values alone get."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import loginmea_fast.data as data
from loginmea_fast.data.tables import ValueTable
from loginmea_fast.data.values import holds_numbers, read_values, value_feature
from loginmea_fast.errors import DataError


def table(*rows: tuple[int, str, str]) -> ValueTable:
    kinds = list(dict.fromkeys(kind for _, kind, _ in rows))
    return ValueTable(
        torch.tensor([entity for entity, _, _ in rows]),
        torch.tensor([kinds.index(kind) for _, kind, _ in rows]),
        [text for _, _, text in rows],
        kinds,
    )


def likeness(values: ValueTable, entities: int, links: torch.Tensor | None = None) -> torch.Tensor:
    rows = value_feature(values, entities, links)[0].values.to_dense()
    return rows @ rows.T


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("12", "12.0"),
        ("1,234", "1234"),
        ('"1959"^^<http://www.w3.org/2001/XMLSchema#gYear>', "1959.0"),
        ('"7"@en', "7"),
        ("1.75 m", "1.75"),
        ('"1.75"^^<http://dbpedia.org/datatype/metre>', "1.75"),
        ('"1959+01:00"^^<http://www.w3.org/2001/XMLSchema#gYear>', "1959"),
        ("-3e2", "-300"),
        ("1982-05-03", "1982-05-03T00:00:00Z"),
        ("1982-05-03", '"1982-05-03"^^<http://www.w3.org/2001/XMLSchema#date>'),
    ],
)
def test_one_value_in_two_writings(left: str, right: str) -> None:
    same = likeness(table((0, "a", left), (1, "b", right), (2, "a", "987654")), 20)
    assert same[0, 1] == pytest.approx(float(same[0, 0]))
    assert same[0, 2] == 0


def test_close_numbers_match_in_part_the_closer_the_more() -> None:
    numbers = ("1000", "1000.05", "1000.6", "1006", "1060", "1600")
    like = likeness(table(*((i, "a", number) for i, number in enumerate(numbers))), 50)
    assert (like[0, :5].diff() < 0).all()
    assert like[0, 5] == 0


def test_decimal_years_are_dates() -> None:
    """FB15K's 1912.66666667 is September; one attribute of twelfths makes all its values dates."""
    rows = [(0, "born", "1912.66666667"), (1, "birthDate", "1912-09-21"), (2, "birthDate", "1912-08-21")]
    like = likeness(table(*rows), 50)
    assert like[0, 1] > like[0, 2] > 0
    # The same digits among lengths in metres are no date.
    other = [(0, "length", "1912.66666667"), (3, "length", "17.3"), *rows[1:]]
    assert likeness(table(*other), 50)[0, 1] < like[0, 1]


def test_a_date_matches_its_year() -> None:
    like = likeness(table((0, "a", "1982"), (1, "b", "1982-05-03"), (2, "b", "1990-05-03")), 50)
    assert like[0, 1] > like[0, 2]


def test_a_date_before_year_0_matches_as_one_after() -> None:
    """Its day, its month and its year, each by tokens that are worth the same; -0001-12 is the month before 0000-01."""
    likes = []
    for year, of_the_month, of_the_year in (
        ("0044", "0044-03", "0044"),
        ("-0044", "-0044-03", "-0044"),
        ("-0001", "-0001-03", "-0001"),
    ):
        date = f"{year}-03-15"
        rows = [
            (0, "a", date),
            (1, "b", date),
            (2, "b", of_the_month),
            (3, "b", of_the_year),
            (4, "a", "7000"),
        ]
        likes.append(likeness(table(*rows), 50)[0])
    day, month, year = likes[0][1:4].tolist()
    assert day > month > year > 0
    # What a date is less alike to its bare year by, the buckets: they are of another width there.
    for like in likes[1:]:
        assert like[1] - like[2] == pytest.approx(day - month)
        assert like[2] > like[3] > 0
    last = likeness(table((0, "a", "-0001-12-31"), (1, "b", "-0001-12"), (2, "b", "-0001-11")), 50)[0]
    assert last[1] > last[2]


def test_a_decimal_year_before_0_meets_the_date() -> None:
    """-43.83333333 is March of -0044, where the attribute is one of decimal years."""
    recent = [(i, "born", f"{1900 + i}.66666667") for i in range(3, 23)]
    rows = [(0, "born", "-43.83333333"), (1, "birthDate", "-0044-03-15"), (2, "birthDate", "-0044-04-15")]
    like = likeness(table(*rows, *recent), 50)
    alone = likeness(table((0, "length", "-43.83333333"), *rows[1:]), 50)
    assert like[0, 1] > like[0, 2] > 0
    assert like[0, 2] > alone[0, 2], "the year is shared as well"


def test_rare_values_weigh_more() -> None:
    rows = [(i, "a", "7") for i in range(10)] + [(0, "b", "123456"), (1, "b", "123456")]
    like = likeness(table(*rows), 12)
    assert like[0, 1] > 5 * like[0, 2] > 0


def test_links_tell_which_attributes_mean_the_same() -> None:
    """Born and died in one year: by the value alone left 4 is like both, by attribute like its own."""
    years = [(i, "birth", str(1900 + 7 * i)) for i in range(5)] + [(5, "death", "1928")]
    others = [(10 + i, "born", str(1900 + 7 * i)) for i in range(5)] + [(15, "died", "1928")]
    values = table(*years, *others)
    known = torch.tensor([[0, 10], [1, 11], [2, 12]])
    alone, told = likeness(values, 20), likeness(values, 20, known)
    assert alone[4, 14] == alone[4, 15] > 0
    assert told[4, 14] > 0
    assert told[4, 15] == 0
    assert torch.equal(likeness(values, 20, known[:2]), alone)


def test_what_is_left_out_is_counted() -> None:
    rows = [
        (0, "name", "Ada"),
        (0, "when", "1815-13-01"),
        (0, "speed", "INF"),
        (1, "speed", "NaN"),
        (1, "speed", "1e999"),
        (0, "length", "3 km"),
        (1, "length", "3 mi"),
        (1, "length", "3"),
    ]
    feature, notes = value_feature(table(*rows), 4)
    assert feature.present.tolist() == [True, True, False, False]
    assert len(notes) == 3
    assert notes[0].startswith("2 of 8 attribute values are neither number nor date")
    assert notes[1].startswith("3 of 8 attribute values are infinite or NaN")
    assert "1 attributes have values in mixed units, the first is 'length' (km 1, mi 1, none 1)" in notes[2]


def test_a_name_that_is_a_number_is_no_value() -> None:
    """Films called 1984 and 300 made a modality of numbers that nobody had."""
    names = [
        (0, "label", "1984"),
        (1, "label", "300"),
        (2, "label", "Alien"),
        (3, "label", "Brazil"),
        (4, "label", "M"),
    ]
    assert not holds_numbers(table(*names))
    with pytest.raises(DataError, match="none of 5 attribute values"):
        value_feature(table(*names), 5)
    feature, notes = value_feature(table(*names, (1, "minutes", "117"), (2, "minutes", "117")), 5)
    assert feature.present.tolist() == [False, True, True, False, False]
    assert any(
        "2 of 7 attribute values are numbers or dates of attributes that are mostly" in n for n in notes
    )


def test_no_number_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="none of 1 attribute values is a number or a date, the first is 'x'"):
        value_feature(table((0, "a", "x")), 2)


@pytest.mark.parametrize(
    "text", ["0", "-0.0", "1e-320", "1e308", "-1e308", "0001-01-01", "-0044-03-15", "9" * 30]
)
def test_extreme_numbers_have_finite_rows(text: str) -> None:
    feature, _ = value_feature(table((0, "a", text), (1, "b", text), (2, "a", "3")), 9)
    assert feature.num_present == 2


def test_values_of_a_directory(tiny_openea) -> None:
    pair = data.load(tiny_openea(), modalities=["value"])
    # Ages 12 and 13 share cells of the coarse grid alone; the size of z is a number that nobody else has.
    feature = pair.features["value"]
    assert feature.is_sparse
    by_uri = {uri: bool(feature.present[entity]) for entity, uri in enumerate(pair.uris)}
    assert by_uri["http://a/x"]
    assert by_uri["http://b/x"]
    assert any("1 of 4 attribute values are neither number nor date" in note for note in pair.notes)


def test_a_directory_without_values(tiny) -> None:
    with pytest.raises(DataError, match="no attr_triples_1 or attr_triples_2"):
        data.load(tiny(), modalities=["value"])


def test_values_follow_their_entity_however_it_is_spelt(tiny) -> None:
    directory = tiny(attr_triples_1="<http://a/resource/Alpha> \tage\t12\nhttps://a/resource/Beta\tage\t13\n")
    assert read_values(Path(directory), data.load(directory)).entity.tolist() == [0, 1]


def test_unknown_entities_are_read_past(tiny) -> None:
    directory = tiny(attr_triples_1="http://a/resource/Alpha\tage\t12\nhttp://a/resource/Omega\tage\t13\n")
    found = read_values(Path(directory), data.load(directory))
    assert (found.entity.tolist(), found.texts, found.unknown) == ([0], ["12"], 1)


def test_fb15k_db15k_by_values_alone(dataset) -> None:
    """Untrained, by the product of rows: crude tokens find 18 % of all links, 20 % known links more."""
    directory = dataset("mmkb/FB15K_DB15K")
    pair = data.load(directory, modalities=["value"])
    split = pair.split(0.2)

    def found(feature: data.Feature) -> float:
        from scipy.sparse import csr_matrix

        m = feature.values
        rows = csr_matrix((m.values().numpy(), m.col_indices().numpy(), m.crow_indices().numpy()), m.shape)
        scores = (rows[split.test[:, 0].numpy()] @ rows[split.test[:, 1].numpy()].T).toarray()
        # Of equally good ones the first counts, which chance alone makes the right one.
        return float((scores.argmax(1) == np.arange(len(scores))).mean())

    alone = found(pair.features["value"])
    told = found(value_feature(read_values(directory, pair), pair.num_entities, split.train)[0])
    assert alone > 0.17
    assert told > alone + 0.03
