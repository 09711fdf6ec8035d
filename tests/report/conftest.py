from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import loginmea_fast as lf
from loginmea_fast.runs import fit
from loginmea_fast.training import Config
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
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "run"
    config = Config(hidden_dim=8, epochs=2, rounds=1, seed_ratio=0.4, hard_samples=20, propagation_width=64)
    fit(synthetic_pair(), config, path, progress=False)
    return path
