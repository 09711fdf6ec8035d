"""A small pair in DBP15K's layout, written file by file, so that a test can damage one of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

# Ids interleave as in DBP15K: graph 1 has 0, 1, 4, 6 and graph 2 has 2, 3, 5, 7. Entity 6 has no triple.
TINY = {
    "ent_ids_1": "0\thttp://a/resource/Alpha\n1\thttp://a/resource/Beta\n4\thttp://a/resource/Gamma_Ray\n6\thttp://a/resource/D%C3%A9lta\n",
    "ent_ids_2": "2\thttp://b/resource/Alpha\n3\thttp://b/resource/Beta\n5\thttp://b/resource/Gamma\n7\thttp://b/resource/Delta\n",
    "triples_1": "0\t0\t1\n1\t0\t4\n0\t1\t0\n0\t0\t1\n",
    "triples_2": "2\t2\t3\n3\t2\t5\n5\t3\t7\n",
    "ill_ent_ids": "0\t2\n1\t3\n4\t5\n6\t7\n",
    "training_attrs_1": "http://a/resource/Alpha\tsize\tage\nhttp://a/resource/Beta\tage\tage\n",
    "training_attrs_2": "http://b/resource/Alpha\tage\n",
    "translated_names.json": '[[0, ["alpha"]], [2, ["Al", "pha"]]]',
}

OPENEA = {
    "rel_triples_1": "http://a/x\thttp://a/r\thttp://a/y\nhttp://a/y\thttp://a/s\thttp://a/x\n",
    "rel_triples_2": "http://b/x\thttp://a/r\thttp://b/y\n",
    "attr_triples_1": "http://a/x\tage\t12\nhttp://a/z\tage\ta\tvalue\twith tabs\n",
    "attr_triples_2": "http://b/x\tage\t13\nhttp://b/z\tsize\t1\n",
    "ent_links": "http://a/x\thttp://b/x\nhttp://a/y\thttp://b/y\nhttp://a/z\thttp://b/z\n",
    "721_5fold/1/train_links": "http://a/x\thttp://b/x\n",
    "721_5fold/1/valid_links": "http://a/y\thttp://b/y\n",
    "721_5fold/1/test_links": "http://a/z\thttp://b/z\n",
}


def write_files(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return directory


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Path]:
    """`tiny(triples_1="...")` writes the small pair with that file replaced; None leaves a file out."""

    def build(**replaced: str | None) -> Path:
        names = {name.replace(".", "_"): name for name in TINY}
        files = TINY | {names.get(key, key): text for key, text in replaced.items()}
        return write_files(
            tmp_path / "tiny", {name: text for name, text in files.items() if text is not None}
        )

    return build


@pytest.fixture
def tiny_openea(tmp_path: Path) -> Callable[..., Path]:
    """The same in OpenEA's layout; keys may be paths."""

    def build(replaced: dict[str, str | None] | None = None) -> Path:
        files = OPENEA | (replaced or {})
        return write_files(
            tmp_path / "openea", {name: text for name, text in files.items() if text is not None}
        )

    return build
