"""`generate`: a synthetic data set from the command line."""

from __future__ import annotations

from loginmea_fast import data


def test_a_data_set_is_made_and_trained_on(call, tmp_path) -> None:
    found = call(
        "generate", tmp_path / "out", "--entities", "400", "--relations", "20", "--vectors", "image=8"
    )
    assert found.status == 0, found.err
    assert "out: synthetic, 200 + 200 entities, " in found.out
    assert "image: float16 vectors of 8 numbers for 80% of the entities" in found.out
    assert list(data.load(tmp_path / "out").features) == ["image", "relation", "attribute"]
    trained = call(
        "train", tmp_path / "out", "--hidden-dim", "8", "--epochs", "1", "--quiet", "--out", tmp_path / "run"
    )
    assert trained.status == 0, trained.err


def test_as_json(call, tmp_path) -> None:
    found = call("generate", tmp_path / "out", "--entities", "100", "--json", "--seed", "7")
    assert (found.json["entities"], found.json["seed"], found.json["links"]) == (100, 7, 38)
    assert len(found.json["triples"]) == 2


def test_bad_arguments(call, tmp_path) -> None:
    call("generate", tmp_path / "out").check_error("--entities")
    call("generate", tmp_path / "out", "--entities", "2").check_error("entities must be from 4")
    call("generate", tmp_path / "out", "--entities", "100", "--vectors", "image").check_error(
        "--vectors takes MODALITY=WIDTH", "got 'image'"
    )
    assert not (tmp_path / "out").exists()
