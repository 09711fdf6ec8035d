"""`save`: a pair as a directory in any layout that can be written."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from loginmea_fast.data.formats import ReadOptions, get_format
from loginmea_fast.data.pair import AlignmentPair
from loginmea_fast.data.rdf_terms import bare_iri
from loginmea_fast.data.subset import feature_rows
from loginmea_fast.data.tables import Feature
from loginmea_fast.data.vectors import entities_digest
from loginmea_fast.errors import DataError

__all__ = ["new_directory", "save"]

_REBUILT = ("relation", "attribute", "name", "word")


def save(pair: AlignmentPair, directory: str | os.PathLike[str], format: str = "dbp15k") -> list[str]:
    """Writes a pair; reading it again gives the same pair.

    ``relation``, ``attribute``, ``name`` and ``word`` features are not written, since loading builds them from
    the files; every other modality becomes ``features_<modality>.safetensors``, gaps filled as they are, with its
    presence mask. The directory appears whole or not at all.

    Args:
        pair: what to write.
        directory: must not exist yet, or be empty.
        format: "dbp15k" keeps everything and the entity ids. "openea", "csv", "parquet", "ntriples" and "turtle" name
            entities by their uri, so ids change with the next reading. The last two spell labels that are no IRIs as
            urn:label: with escapes, which reading takes back, and do without angle brackets around IRIs.

    Returns:
        What the layout could not hold, one sentence each.

    Raises:
        DataError: the directory is in use, the layout cannot be written or cannot hold this pair, or the disk
            refuses; nothing is left behind.
    """
    entry = get_format(format)
    if entry.write is None:
        raise DataError(f"the layout {format!r} can be read but not written; use dbp15k or openea")
    with new_directory(directory) as scratch:
        lost = entry.write(pair, scratch)
        if len(pair.rejected):
            lost.append(f"which {len(pair.rejected):,} pairs are rejected: no layout has a place for that")
        written = entry.read(scratch, ReadOptions(max_repeated_links=1.0))
        order = _same_entities(pair, written)
        for modality, feature in pair.features.items():
            if modality not in _REBUILT:
                file = scratch / f"features_{modality}.safetensors"
                _write_feature(feature, order, file, entities_digest(written.uris))
    return lost


@contextmanager
def new_directory(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """A directory to write into, which becomes `directory` when the block ends well, and else is gone.

    Raises:
        DataError: `directory` is there and not empty, or the disk refuses.
    """
    target = Path(directory)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise DataError(f"{target} exists already; choose another directory or remove it")
    scratch: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        yield scratch
        scratch.chmod(0o755)
        scratch.replace(target)
    except OSError as error:
        raise DataError(
            f"{target} cannot be written ({error.strerror or error}); nothing was left there"
        ) from None
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _same_entities(pair: AlignmentPair, written: AlignmentPair) -> torch.Tensor:
    """For every entity id of ``written`` the id it has in ``pair``: the two layouts may number differently."""
    order = torch.empty(pair.num_entities, dtype=torch.int64)
    sides = ((pair.left_entities, written.left_entities), (pair.right_entities, written.right_entities))
    if pair.uris == written.uris:
        return torch.arange(pair.num_entities)
    for before, after in sides:
        by_uri = {pair.uris[entity]: entity for entity in before.tolist()}
        for uri in list(by_uri):
            by_uri.setdefault(bare_iri(uri) or uri, by_uri[uri])  # RDF does without angle brackets
        order[after] = torch.tensor([by_uri[written.uris[entity]] for entity in after.tolist()])
    return order


def _write_feature(feature: Feature, order: torch.Tensor, path: Path, entities: str) -> None:
    from safetensors.torch import save_file

    own = feature_rows(feature, order)
    if own.is_sparse:
        tensors = {
            "indptr": own.values.crow_indices(),
            "indices": own.values.col_indices(),
            "data": own.values.values(),
            "shape": torch.tensor(own.values.shape),
        }
    else:
        tensors = {"features": own.values.cpu(), "present": own.present}
    save_file(tensors, path, metadata={"description": feature.description, "entities": entities})
    path.chmod(0o644)  # safetensors leaves it to its owner alone
