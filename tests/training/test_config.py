from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loginmea_fast import AlignmentGraph, LoginMEA
from loginmea_fast.errors import ConfigError
from loginmea_fast.training.config import Config, parse_overrides

OTHER = Config(
    path='data "zh"\t\\en\x7f é',
    format="dbp15k",
    modalities=("relation", "image"),
    vectors=("image=a=b.npy", "voice=../c.npz"),
    bag_size=5,
    fold=3,
    seed_ratio=0.123456789012345,
    valid_ratio=0.0,
    hidden_dim=64,
    rank=3,
    depth=1,
    attention="triple",
    use_local_fusion=False,
    use_adaptive_weights=False,
    use_low_rank=False,
    use_global_aggregation=False,
    use_graph_encoder=False,
    epochs=7,
    batch_size=11,
    lr=1e-05,
    weight_decay=0,
    schedule="constant",
    warmup_epochs=0,
    grad_clip=2,
    temperature=0.07,
    bidirectional=False,
    bootstrap=True,
    bootstrap_start=1,
    bootstrap_every=3,
    bootstrap_window=4,
    eval_every=2,
    patience=5,
    compat="authors",
    csls_k=0,
    candidates="all",
    seed=2**32 - 1,
    device="cpu",
    dtype="bfloat16",
    backend="reference",
    compile=True,
    threads=2,
)


@pytest.mark.parametrize(
    "config", [Config(), OTHER, Config.build(compat="authors")], ids=["default", "other", "authors"]
)
def test_toml_round_trip_is_exact(tmp_path, config):
    file = tmp_path / "config.toml"
    file.write_text(config.to_toml(), encoding="utf-8")
    assert Config.load(file) == config


def test_other_differs_from_the_default_in_every_key():
    same = [f.name for f in dataclasses.fields(Config) if getattr(OTHER, f.name) == getattr(Config(), f.name)]
    assert same == [], "the round trip must cover every key"


@given(
    st.floats(min_value=0, exclude_min=True, max_value=1e300), st.integers(0, 2**32 - 1), st.text(max_size=20)
)
def test_toml_round_trip_of_any_value(tmp_path_factory, lr, seed, path):
    config = Config(lr=lr, seed=seed, path=path)
    file = tmp_path_factory.mktemp("c") / "config.toml"
    file.write_bytes(config.to_toml().encode())
    assert Config.load(file) == config


def test_optional_keys_default_to_unset():
    """TOML has no null, so an unset key is written as a comment; that is exact only where the default is None."""
    for field in dataclasses.fields(Config):
        if getattr(OTHER, field.name) is not None and "None" in str(field.type):
            assert field.default is None, field.name


def test_overrides_take_the_type_of_the_key():
    values = parse_overrides(
        [
            "lr=0.001",
            "training.epochs=3",
            "modalities=relation, attribute",
            "bootstrap=True",
            "threads=none",
            "path=8",
        ]
    )
    assert values == {
        "lr": 0.001,
        "epochs": 3,
        "modalities": ("relation", "attribute"),
        "bootstrap": True,
        "threads": None,
        "path": "8",
    }
    assert Config().override(["lr=1"], epochs=9) == Config(lr=1.0, epochs=9)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rat": 1}, "unknown configuration key 'learning_rat'"),
        ({"epoch": 1}, "did you mean 'epochs'"),
        ({"training": {"ecpohs": 1}}, "did you mean 'epochs'"),
        ({"trainin": {"epochs": 1}}, r"did you mean \[training\]"),
        ({"model": {"epochs": 1}}, r"belongs to \[training\], not \[model\]"),
        ({"epochs": 1.5}, "'epochs' must be a whole number; got 1.5"),
        ({"epochs": True}, "'epochs' must be a whole number"),
        ({"epochs": 0}, "at least 1"),
        ({"seed_ratio": 0.0}, "strictly between 0 and 1; got 0.0"),
        ({"seed_ratio": 1.0}, "strictly between 0 and 1"),
        ({"seed_ratio": -0.5}, "strictly between 0 and 1"),
        ({"lr": float("nan")}, "above 0"),
        ({"lr": "fast"}, "'lr' must be a number; got 'fast'"),
        ({"dtype": "float16"}, "one of 'float32', 'bfloat16'"),
        ({"compat": "theirs"}, "one of 'authors'"),
        ({"bootstrap": 1}, "true or false"),
        ({"modalities": "relation"}, "a list of names"),
        ({"modalities": []}, "a list of names"),
        ({"modalities": ["image", "image"]}, "names one twice"),
        ({"vectors": ["image"]}, "entries 'modality=file'; got 'image'"),
        ({"vectors": ["=image.npy"]}, "entries 'modality=file'"),
        ({"compat": "authors", "valid_ratio": 0.1}, "needs valid_ratio=0"),
    ],
)
def test_bad_values_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        Config.build(values)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr", "is not key=value"),
        ("lrr=1", "did you mean 'lr'"),
        ("data.lr=1", r"belongs to \[training\]"),
        ("lr=fast", "must be a number; got 'fast'"),
        ("epochs=ten", "must be a whole number"),
        ("modalities=,", "a list of names"),
    ],
)
def test_bad_overrides_are_named(override, message):
    with pytest.raises(ConfigError, match=message):
        Config().override([override])


@pytest.mark.parametrize("key", ["hidden_dim", "rank", "depth"])
def test_configuration_and_model_draw_the_same_line(key):
    low = Config.__dataclass_fields__[key].metadata["low"]
    graph = AlignmentGraph.from_triples(torch.tensor([[0, 0, 1]]), 2, 1)
    assert LoginMEA(graph, {"image": 3}, **{key: low}) is not None
    assert getattr(Config.build({key: low}), key) == low
    with pytest.raises(ConfigError, match=f"{key}.* must be at least {low}; got {low - 1}"):
        LoginMEA(graph, {"image": 3}, **{key: low - 1})
    with pytest.raises(ConfigError, match=f"{key}.* must be at least {low}; got {low - 1}"):
        Config.build({key: low - 1})


def test_bad_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml: no such configuration file"):
        Config.load(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        Config.load(tmp_path)
    file = tmp_path / "c.toml"
    file.write_text("lr = = 3")
    with pytest.raises(ConfigError, match=r"c\.toml: not valid TOML .*line 1"):
        Config.load(file)
    file.write_text("[training]\nlearnrate = 3")
    with pytest.raises(ConfigError, match=r"c\.toml: unknown configuration key 'learnrate'"):
        Config.load(file)


def test_authors_values_are_taken_unless_given():
    config = Config.build({"training": {"compat": "authors"}}, epochs=5)
    assert (config.epochs, config.lr, config.bootstrap_every, config.valid_ratio) == (5, 5e-4, 5, 0.0)
    assert not config.bidirectional


def test_file_and_overrides_meet_before_the_preset(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("[training]\nlr = 0.25\n")
    config = Config.load(file, ["compat=authors"])
    assert (config.lr, config.epochs) == (0.25, 1000)
