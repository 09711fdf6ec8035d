from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loginmea_fast import AlignmentGraph, LoginMEA
from loginmea_fast.errors import ConfigError
from loginmea_fast.training.config import Config
from loginmea_fast.training.keys import KEYS
from loginmea_fast.training.presets import PRESETS
from loginmea_fast.training.spelling import parse_overrides
from tests.helpers.graphs import sizes_of

OTHER = Config(
    path='data "zh"\t\\en\x7f é',
    format="dbp15k",
    modalities=("relation", "image"),
    vectors={"image": "a=b,c.npy", "voice": ("../c.npz", "d.npz"), "a_b": "e"},
    bags="counts",
    bag_size=5,
    name_attributes=("label", "name"),
    fold=3,
    seed_ratio=0.123456789012345,
    valid_ratio=0.0,
    split_seed=5,
    hidden_dim=48,
    members=3,
    aggregation="both",
    scale_features=False,
    rank=3,
    depth=1,
    objectives=("contrastive", "hard_sample:0.5"),
    learned_weights=True,
    hard_scale=10.0,
    hard_samples=100,
    attention="triple",
    use_local_fusion=False,
    use_adaptive_weights=False,
    use_low_rank=False,
    use_global_aggregation=False,
    use_graph_encoder=False,
    missing="neighbors",
    preset="authors",
    updates=2,
    optimizer="adamw",
    dropout=0.5,
    share_seeds=False,
    rounds=0,
    certainty=0.5,
    epochs=7,
    batch_size=11,
    lr=1e-05,
    weight_decay=0.5,
    schedule="constant",
    warmup_epochs=1,
    grad_clip=2,
    init_from="runs/first",
    temperature=0.07,
    bidirectional=False,
    bootstrap=True,
    bootstrap_start=1,
    bootstrap_every=3,
    bootstrap_window=4,
    max_comparisons=1,
    partitions=3,
    propagation="none",
    late_names=False,
    late_pairs=False,
    propagation_width=64,
    whitening=0.25,
    eval_every=2,
    patience=5,
    compat="authors",
    csls_k=0,
    candidates="all",
    decoder="sinkhorn",
    decoder_k=7,
    seed=2**32 - 1,
    device="cpu",
    dtype="bfloat16",
    backend="reference",
    recompute=True,
    compile=True,
    tensorboard=True,
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
    same = [name for name in KEYS if getattr(OTHER, name) == getattr(Config(), name)]
    assert same == [], "the round trip must cover every key"


@given(
    st.floats(min_value=0, exclude_min=True, max_value=1e300), st.integers(0, 2**32 - 1), st.text(max_size=20)
)
def test_toml_round_trip_of_any_value(tmp_path_factory, lr, seed, path):
    config = Config(lr=lr, seed=seed, path=path)
    file = tmp_path_factory.mktemp("c") / "config.toml"
    file.write_bytes(config.to_toml().encode())
    assert Config.load(file) == config


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.one_of(st.text(min_size=1), st.lists(st.text(min_size=1), min_size=1, max_size=3).map(tuple)),
        min_size=1,
        max_size=3,
    )
)
def test_toml_round_trip_of_any_files(tmp_path_factory, vectors):
    config = Config(vectors=vectors)
    file = tmp_path_factory.mktemp("c") / "config.toml"
    file.write_bytes(config.to_toml().encode())
    assert Config.load(file) == config


def test_a_file_of_the_version_before_is_read(tmp_path):
    """`vectors` was a list of 'modality=file', and unset keys were comments."""
    file = tmp_path / "config.toml"
    file.write_text('[data]\nvectors = ["image=a=b.npy", "voice=c.npz"]  # files\n# path is unset  # where\n')
    assert Config.load(file) == Config(vectors={"image": "a=b.npy", "voice": "c.npz"})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_editors_mark_their_encoding(tmp_path, encoding, end):
    file = tmp_path / "config.toml"
    file.write_bytes(f'[data]{end}path = "é"{end}'.encode(encoding))
    assert Config.load(file) == Config(path="é")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("lr = 1\npath = 'é'".encode("latin-1"), r"c\.toml, line 2: not valid UTF-8; save the file as UTF-8"),
        ("lr = 1".encode("utf-16-le"), r"c\.toml: not valid TOML .*save the file as UTF-8"),
        (b"\xff\xfel", r"c\.toml, line 1: not valid UTF-16; save the file as UTF-8"),
    ],
)
def test_other_encodings_are_named(tmp_path, content, message):
    file = tmp_path / "c.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        Config.load(file)


def test_optional_keys_default_to_unset():
    """TOML has no null, so an unset key is written as a comment; that is exact only where the default is None."""
    assert [key.name for key in KEYS.values() if key.optional and key.default is not None] == []


@pytest.mark.parametrize("name", [key.name for key in KEYS.values() if key.optional])
def test_an_optional_key_may_be_given_as_unset(name):
    assert getattr(Config(**{name: None}), name) is None


def test_overrides_take_the_type_of_the_key():
    values = parse_overrides(
        [
            "lr=0.001",
            "training.epochs=3",
            "modalities=relation, attribute",
            "bootstrap=True",
            "threads=none",
            "path=8",
            "vectors=image=a, b.npz,text=c=d.npy,text=e",
        ]
    )
    assert values == {
        "lr": 0.001,
        "epochs": 3,
        "modalities": ("relation", "attribute"),
        "bootstrap": True,
        "threads": None,
        "path": "8",
        "vectors": {"image": "a, b.npz", "text": ("c=d.npy", "e")},
    }
    assert parse_overrides(['vectors={image = "a,b=c", text = ["d"]}', 'modalities=["A b", "c,d"]']) == {
        "vectors": {"image": "a,b=c", "text": ["d"]},
        "modalities": ["A b", "c,d"],
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
        ({"epochs": 1.5}, "'epochs' must be a whole number of at least 1; got 1.5"),
        ({"epochs": True}, "'epochs' must be a whole number"),
        ({"epochs": 0}, "at least 1"),
        ({"seed_ratio": 0.0}, "above 0 and at most 1; got 0.0"),
        ({"seed_ratio": 1.5}, "above 0 and at most 1"),
        ({"seed_ratio": -0.5}, "above 0 and at most 1"),
        ({"seed_ratio": 1, "compat": "authors"}, "chooses the epoch by the test links"),
        ({"decoder": "sinkhoorn"}, "decoder must be one of .*sinkhorn, all; got 'sinkhoorn'"),
        ({"decoder_k": 0}, "of at least 1; got 0"),
        ({"lr": float("nan")}, "above 0"),
        ({"lr": "fast"}, "'lr' must be a number above 0; got 'fast'"),
        ({"dtype": "float16"}, "one of 'float32', 'bfloat16'"),
        ({"compat": "theirs"}, "must be 'authors'; got 'theirs'"),
        ({"bootstrap": 1}, "true or false"),
        ({"modalities": "relation"}, "a list of names"),
        ({"modalities": []}, "a list of names"),
        ({"modalities": ["image", "image"]}, "names one twice"),
        ({"vectors": ["image"]}, "entries 'modality=file'; got 'image'"),
        ({"vectors": ["=image.npy"]}, "entries 'modality=file'"),
        ({"vectors": {}}, "a table of files by modality; got {}"),
        ({"vectors": {"image": []}}, "a table of files by modality"),
        ({"vectors": {"image": 3}}, "a table of files by modality"),
        ({"path": 3}, "'path' must be text; got 3"),
        ({"dtype": "x" * 10**6}, r"got 'x{199}\.\.\.$"),
        ({"path": "embedded", "format": "openea"}, "one layout; leave format out"),
        ({"path": "embedded", "fold": 2}, "no prepared splits; leave fold out"),
        ({"device": "mps"}, "'mps' is not supported: .* use 'cpu'"),
        ({"device": "mps:0"}, "is not supported"),
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
        ("lr=fast", "must be a number above 0; got 'fast'"),
        ("epochs=ten", "must be a whole number"),
        ("modalities=,", "a list of names"),
    ],
)
def test_bad_overrides_are_named(override, message):
    with pytest.raises(ConfigError, match=message):
        Config().override([override])


@pytest.mark.parametrize("key", ["hidden_dim", "rank", "depth"])
def test_configuration_and_model_draw_the_same_line(key):
    low = int(KEYS[key].expected.removeprefix("a whole number of at least "))
    graph = AlignmentGraph.from_triples(torch.tensor([[0, 0, 1]]), 2, 1)
    assert LoginMEA(*sizes_of(graph), {"image": 3}, **{key: low}) is not None
    assert getattr(Config.build({key: low}), key) == low
    with pytest.raises(ConfigError, match=f"{key}.* must be at least {low}; got {low - 1}"):
        LoginMEA(*sizes_of(graph), {"image": 3}, **{key: low - 1})
    with pytest.raises(ConfigError, match=f"{key}.* must be a whole number of at least {low}; got {low - 1}"):
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
    file.write_text("lr = 0")
    with pytest.raises(ConfigError, match=r"c\.toml: configuration key 'lr' must be a number above 0; got 0"):
        Config.load(file)
    with pytest.raises(ConfigError, match=r"^configuration key 'lr' must be a number above 0; got -1"):
        Config.load(file, ["lr=-1"])


def test_authors_values_are_taken_unless_given():
    config = Config.build({"training": {"compat": "authors"}}, epochs=5)
    assert (config.epochs, config.lr, config.bootstrap_every, config.valid_ratio) == (5, 5e-4, 5, 0.0)
    assert not config.bidirectional


def test_a_preset_chosen_later_fills_what_was_not_given():
    config = Config(lr=0.25).override(compat="authors")
    assert config == Config.build(compat="authors", lr=0.25)
    assert (config.lr, config.epochs, config.valid_ratio) == (0.25, 1000, 0.0)
    assert Config(lr=0.25).override(preset="authors") == config


def test_a_key_beside_its_preset_wins_and_is_named():
    config = Config(preset="best", epochs=20, lr=0.1, rounds=3, csls_k=5)
    assert (config.epochs, config.rounds) == (20, 3)
    assert config.beside_preset() == ["epochs=20", "lr=0.1", "csls_k=5"]
    assert Config(preset="best", rounds=0).beside_preset() == ["rounds=0"]
    assert Config(epochs=20, csls_k=5).beside_preset() == [], "defaults are no preset"


def test_whatever_a_preset_sets_is_named_beside_it():
    config = Config(preset="loginmea", bag_size=500, bags="types", valid_ratio=0.05)
    assert config.beside_preset() == ["bags=types", "bag_size=500"]
    assert Config(preset="authors", csls_k=10).beside_preset() == ["csls_k=10"]
    assert Config(compat="authors", csls_k=10).beside_preset() == ["csls_k=10"]
    assert Config(preset="authors", csls_k=3, valid_ratio=0.0).beside_preset() == []


def test_keys_beside_the_default_are_named_where_it_was_asked_for():
    assert Config(preset="default", rounds=0, bag_size=500).beside_preset() == ["bag_size=500", "rounds=0"]
    assert Config(preset="default").override(csls_k=5).beside_preset() == ["csls_k=5"]
    assert Config(preset="default", rounds=3).beside_preset() == []
    assert Config.build(preset="default").beside_preset() == []


@pytest.mark.parametrize("preset", PRESETS)
def test_what_no_preset_speaks_of_is_not_named_beside_one(preset):
    config = Config(
        preset=preset,
        path="data",
        modalities=["name"],
        vectors={"image": "a.npz"},
        seed_ratio=0.2,
        split_seed=1,
        decoder="all",
        candidates="all",
        seed=3,
        device="cpu",
        threads=2,
        compile=True,
        tensorboard=True,
    )
    assert config.beside_preset() == []


def test_what_is_unset_is_what_the_preset_says(tmp_path):
    config = Config(preset="loginmea", bag_size=None, objectives=None)
    assert (config.bag_size, config.objectives) == (1000, ("contrastive",))
    (tmp_path / "c.toml").write_text(config.to_toml(), encoding="utf-8")
    assert Config.load(tmp_path / "c.toml") == config


def test_a_configuration_does_not_change():
    with pytest.raises(ValueError, match="frozen"):
        Config().epochs = 3


def test_file_and_overrides_meet_before_the_preset(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("[training]\nlr = 0.25\n")
    config = Config.load(file, ["compat=authors"])
    assert (config.lr, config.epochs) == (0.25, 1000)


def test_what_is_no_configuration_is_refused_by_whoever_takes_one():
    import loginmea_fast as lf
    from tests.training.synthetic import synthetic_pair

    pair = synthetic_pair()
    for call in (
        lambda given: lf.fit(pair, given),
        lambda given: lf.align(pair, config=given),
        lf.runs.load_pair,
    ):
        with pytest.raises(
            ConfigError, match=r"config must be a Config, as Config.load\(file\) .*; got dict"
        ):
            call({"epochs": 3})
    assert Config.of(None, {"epochs": 3}) == Config(epochs=3)
    assert Config.of(Config(lr=0.1), {"epochs": 3}) == Config(lr=0.1, epochs=3)
