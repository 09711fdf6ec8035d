"""Synthetic data sets: the same files for the same seed, the shape that was asked for, and what cannot be made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from loginmea_fast import data
from loginmea_fast.data import Synthetic, generate, synthetic
from loginmea_fast.errors import DataError, InputError

SMALL = Synthetic(3000, relations=40, vectors={"image": 6}, seed=5)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made") / "small"
    generate(directory, SMALL)
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_the_same_seed_gives_the_same_files(made: Path, tmp_path: Path) -> None:
    generate(tmp_path / "again", SMALL)
    assert contents(tmp_path / "again") == contents(made)
    generate(tmp_path / "other", Synthetic(3000, relations=40, vectors={"image": 6}, seed=6))
    other = contents(tmp_path / "other")
    same = [name for name, content in contents(made).items() if other[name] == content]
    assert same == ["ent_ids_1", "ent_ids_2"]


def test_it_is_read_as_what_was_asked_for(made: Path) -> None:
    pair = data.load(made)
    assert (len(pair.left_entities), len(pair.right_entities), len(pair.links)) == (1500, 1500, 1125)
    assert pair.num_relations == 80
    left = pair.num_left_triples
    for count in (left, len(pair.triples) - left):
        assert count / 1500 == pytest.approx(8.0, rel=0.15)
    assert list(pair.features) == ["image", "relation", "attribute"]
    present = pair.features["image"].present
    assert present.float().mean().item() == pytest.approx(0.8, abs=0.03)
    assert pair.features["image"].values.dtype == torch.float16
    assert "synthetic" in (made / "README.md").read_text()


def test_linked_entities_know_the_same_facts(made: Path) -> None:
    """As `kept` and `noise` say: a triple of one graph is the other's too with the chance 0.8 x 0.95^2."""
    pair = data.load(made, modalities=["image", "relation"])
    counterpart = dict(pair.links.tolist())
    left, right = (
        pair.triples[: pair.num_left_triples].tolist(),
        pair.triples[pair.num_left_triples :].tolist(),
    )
    known = {(h, t) for h, _, t in right}
    both = [(h, t) for h, _, t in left if h in counterpart and t in counterpart]
    found = np.mean([(counterpart[h], counterpart[t]) in known for h, t in both])
    assert 0.65 < found < 0.85
    # Vectors of linked entities are blurred views of one; those of others have nothing in common.
    vectors = torch.nn.functional.normalize(pair.features["image"].values.float())
    has = pair.features["image"].present
    a, b = pair.links[has[pair.links].all(1)].t()
    assert (vectors[a] * vectors[b]).sum(1).mean() > 0.3
    assert (vectors[a] * vectors[b.roll(1)]).sum(1).mean().abs() < 0.1


def test_tails_follow_a_power_law_and_relations_zipf(tmp_path: Path) -> None:
    generate(tmp_path / "large", Synthetic(40_000, exponent=2.5, relations=100, attributes=0))
    pair = data.load(tmp_path / "large")
    assert pair.attributes is None
    left = pair.triples[: pair.num_left_triples]
    degree = torch.bincount(left[:, 2]).sort(descending=True).values.double()
    # The k-th busiest of n has a share of about k^(-1 / (gamma - 1)): a line in logarithms.
    rank = torch.arange(10.0, 1000.0).double()
    x, y = rank.log(), degree[10:1000].log()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    assert slope.item() == pytest.approx(-1 / 1.5, abs=0.08)
    often = torch.bincount(left[:, 1]).sort(descending=True).values.double()
    assert (often[0] / often[9]).item() == pytest.approx(10, rel=0.2)


def test_chunks_leave_no_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "_ENTITIES", 256)
    monkeypatch.setattr(synthetic, "_TRIPLES", 1000)
    generate(tmp_path / "cut", SMALL)
    pair = data.load(tmp_path / "cut")
    assert (pair.num_entities, len(pair.links)) == (3000, 1125)
    assert len(pair.triples) / 3000 == pytest.approx(8.0, rel=0.15)
    assert pair.features["image"].present.float().mean().item() == pytest.approx(0.8, abs=0.03)


def test_a_directory_that_is_in_use(made: Path) -> None:
    before = contents(made)
    with pytest.raises(DataError, match="exists already; choose another directory"):
        generate(made, SMALL)
    assert contents(made) == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"entities": 3}, "entities must be from 4 to 100,000,000; got 3"),
        ({"overlap": 1.5}, "overlap must be from 0.0 to 1.0; got 1.5"),
        ({"overlap": 0.0}, "an overlap of 0 links none of 50 entities of each graph; raise it"),
        ({"exponent": 2.0}, "exponent must be from 2.05 to 100.0; got 2.0"),
        ({"vectors": {"a/b": 3}}, "a name of letters and a width from 1 to 65,536; got 'a/b' of width 3"),
        ({"vectors": {"image": 0}}, "got 'image' of width 0"),
    ],
)
def test_what_cannot_be_made(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Synthetic(**{"entities": 100, **wrong})


@pytest.mark.parametrize("entities", [4, 5, 7])
@pytest.mark.parametrize("overlap", [0.5, 1.0])
def test_the_smallest(tmp_path: Path, entities: int, overlap: float) -> None:
    made = generate(tmp_path / "out", Synthetic(entities, overlap=overlap, vectors={"image": 1}))
    assert made["links"] == round(overlap * (entities // 2))
    assert len((tmp_path / "out" / "ent_ids_1").read_text().splitlines()) == entities // 2
