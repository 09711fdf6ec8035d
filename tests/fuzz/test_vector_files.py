"""Files of vectors against thousands of damaged copies: a feature with a row an entity, or one sentence.

A share of the cases of `make fuzz`; see test_readers.py.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import loginmea_fast.data as data
from loginmea_fast.errors import DataError
from tests.data.conftest import TINY, write_files
from tests.data.test_vector_files import IDS, KINDS, PACK, ROWS, URIS, by_key
from tests.fuzz.mutations import CASES, DAMAGED, SECONDS

FILES = (*KINDS, ".npz.sparse", ".pt.old", *(kind + pack for kind in KINDS for pack in PACK))


def _write(path, packing: str) -> bytes:
    """A sound file of the kind, as bytes."""
    if packing == "sparse":
        np.savez(path, format=b"csc", indptr=[0, 1, 2, 3], indices=[0, 1, 2], data=[1.0, 2, 3], shape=[8, 3])
    elif packing == "old":
        both = {"ids": torch.tensor(IDS), "features": torch.from_numpy(ROWS)}
        torch.save(both, path, _use_new_zipfile_serialization=False)
    else:
        by_key(path, URIS)
    content = path.read_bytes()
    return PACK[f".{packing}"](content) if f".{packing}" in PACK else content


@pytest.mark.timeout(0)
def test_a_damaged_file(tmp_path_factory) -> None:
    directory = write_files(tmp_path_factory.getbasetemp() / "damaged", TINY)
    sound = {}
    for kind in FILES:
        _, plain, *packing = kind.split(".")
        sound[kind] = plain, _write(tmp_path_factory.getbasetemp() / f"sound.{plain}", "".join(packing))

    @settings(max_examples=max(1, CASES // 5), suppress_health_check=list(HealthCheck), database=None)
    @given(st.data())
    def case(draw: st.DataObject) -> None:
        plain, content = sound[draw.draw(st.sampled_from(FILES))]
        number = st.integers(0, 1 << 16)
        step = st.tuples(st.sampled_from(sorted(DAMAGED)), number, number)
        for mutation, a, b in draw.draw(st.lists(step, max_size=3)):
            content = DAMAGED[mutation](content, a, b)
        path = tmp_path_factory.getbasetemp() / f"vectors.{plain}"
        path.write_bytes(content)
        start = time.process_time()
        said = ""
        try:
            pair = data.load(directory, modalities=["image"], vectors={"image": path})
        except DataError as error:
            said = str(error)
        else:
            feature = pair.features["image"]
            assert pair.num_entities == len(feature.values) == len(feature.present) == 8
        assert time.process_time() - start < SECONDS
        assert "\n" not in said
        assert len(said.replace(str(path), "")) < 900

    case()
