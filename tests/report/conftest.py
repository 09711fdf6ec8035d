from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

import loginmea_fast as lf
from loginmea_fast.runs import fit
from loginmea_fast.training import Config
from tests.align.graphs import write_graphs
from tests.training.synthetic import synthetic_pair, thinned

HOSTILE = "<img src=x onerror=\"document.title='ran'\"><script>document.title='ran'</script>"


@pytest.fixture(scope="session")
def found() -> lf.Alignment:
    """An alignment in which many are doubtful, one entity has a name that would run, another a formula."""
    pair = thinned(replace(synthetic_pair(400, degree=5, relations=12), features={}), 0.5)
    names, uris = list(pair.names), list(pair.uris)
    entity = int(pair.links[150, 0])
    names[entity] = HOSTILE
    uris[int(pair.links[151, 0])] = "=1+1\t@x"
    uris[int(pair.links[152, 0])] = '"Weird Al" Yankovic'
    pair = replace(pair, names=names, uris=uris)
    return lf.align(
        pair,
        method="propagate",
        seeds=pair.links[:60],
        pivots=False,
        propagation_width=64,
        backend="reference",
    )


@pytest.fixture(scope="session")
def directory(found: lf.Alignment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "found"
    found.save(path)
    return path


@pytest.fixture(scope="session")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An alignment of two graphs that came with a folder of pictures; one of them is no picture any more."""
    folder = tmp_path_factory.mktemp("pictured")
    write_graphs(folder, 100)
    left, right = (lf.data.read_graph(folder / f"{side}.nt") for side in ("left", "right"))
    (folder / "pictures").mkdir()
    for number, uri in enumerate([*left.entities[:70], *right.entities]):
        place = folder / "pictures" / f"{quote(uri, safe='')}.png"
        picture = Image.effect_noise((300, 200), 90 + number % 7)
        picture.save(place)
    pair = lf.AlignmentPair.from_labeled_triples(
        left, right, lf.data.read_seeds(folder / "seeds.tsv"), vectors={"image": folder / "pictures"}
    )
    found = lf.align(pair, method="propagate", propagation_width=64, pivots=False, backend="reference")
    shown = [
        entity for match in zip(found.left.tolist(), found.right.tolist(), strict=True) for entity in match
    ]
    pair.pictures[next(entity for entity in shown if entity in pair.pictures)].write_text("gone")
    found.save(folder / "found")
    return folder / "found"


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "run"
    config = Config(hidden_dim=8, epochs=2, rounds=1, seed_ratio=0.4, hard_samples=20, propagation_width=64)
    fit(synthetic_pair(), config, path, progress=False)
    return path
