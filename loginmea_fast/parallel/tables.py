"""Tables that lie divided among processes, on disk: written shard by shard, read by any number of processes.

torch.distributed.checkpoint writes each process's rows into a safetensors file of its own, as the part of a DTensor
sharded by rows, and cuts them anew for as many processes as read them. Nothing is pickled. All files of a checkpoint
stand in one directory, which must be one for all processes.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loginmea_fast.errors import CheckpointError, LoginMEAError
from loginmea_fast.parallel.shards import Shards

__all__ = ["read_tables", "write_tables"]


def write_tables(directory: Path, tables: Mapping[str, Tensor], shards: Shards) -> dict[str, Any]:
    """Write own rows [n, d] of tables into an empty directory; a collective.

    Returns:
        What `read_tables` needs to know, JSON-ready, in every process.

    Raises:
        CheckpointError: they cannot be written.
    """
    from torch.distributed.checkpoint.state_dict_saver import save

    with _told(f"cannot write {directory}", "make room there and go on with --resume"), shards.world.others():
        save(
            {name: _divided(table.detach(), shards) for name, table in tables.items()},
            storage_writer=_storage().HuggingFaceStorageWriter(str(directory), save_distributed=True),
        )
    return shards.world.first(
        lambda: {
            "files": {file.name: file.stat().st_size for file in sorted(directory.iterdir())},
            "tables": {
                name: [[shards.num_entities, *table.shape[1:]], str(table.dtype).removeprefix("torch.")]
                for name, table in tables.items()
            },
        }
    )


def read_tables(
    directory: Path, described: Mapping[str, Any], order: Tensor, shards: Shards | None, remedy: str
) -> dict[str, Tensor]:
    """Tables [N, d] in the order of entities, or of `shards` the own rows; then a collective.

    Args:
        directory: where `write_tables` wrote them.
        described: what it returned.
        order: int64 [N], the entity of each row in the files.
        shards: who reads which rows; None for one process.
        remedy: what to do about a damaged one, for the error.

    Raises:
        CheckpointError: a file is missing or cut short.
    """
    for name, size in described["files"].items():
        file = directory / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing, one shard of the checkpoint; {remedy}")
        if (now := file.stat().st_size) != size:
            raise CheckpointError(
                f"{file} is cut short or damaged: it has {now:,} bytes of {size:,}; {remedy}"
            )
    shapes = {name: (shape, getattr(torch, dtype)) for name, (shape, dtype) in described["tables"].items()}
    if shards is not None and torch.equal(order, shards.order):
        own = {
            name: torch.empty(shards.num_rows, *shape[1:], dtype=dtype, device=shards.device)
            for name, (shape, dtype) in shapes.items()
        }
        with shards.world.others():
            _load({name: _divided(table, shards) for name, table in own.items()}, directory, remedy, False)
        return own
    whole = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in shapes.items()}
    _load(whole, directory, remedy, True)
    entities = order if shards is None else order.argsort()[shards.own]
    ordered = {}
    for name in shapes:
        table = whole.pop(name)  # let go of before the next one is copied
        ordered[name] = (
            torch.empty_like(table).index_copy_(0, order, table) if shards is None else table[entities]
        )
    return ordered


def _load(tables: dict[str, Any], directory: Path, remedy: str, alone: bool) -> None:
    from torch.distributed.checkpoint.state_dict_loader import load

    with _told(f"{directory} cannot be read", remedy):
        load(tables, storage_reader=_storage().HuggingFaceStorageReader(str(directory)), no_dist=alone)


def _divided(table: Tensor, shards: Shards) -> Tensor:
    """Own rows as the part of a table with a row an entity, a DTensor."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Shard

    mesh = DeviceMesh(table.device.type, torch.arange(shards.world.size))
    shape = torch.Size([shards.num_entities, *table.shape[1:]])
    return DTensor.from_local(
        table, mesh, [Shard(0)], run_check=False, shape=shape, stride=table.contiguous().stride()
    )


def _storage() -> Any:
    try:
        from torch.distributed.checkpoint import hf_storage
    except ImportError:
        raise LoginMEAError(
            f"checkpoints of several processes need torch 2.8 or newer; this is {torch.__version__}"
        ) from None
    return hf_storage


@contextmanager
def _told(what: str, remedy: str) -> Iterator[None]:
    """What torch raises or warns of, as one sentence.

    Raises:
        CheckpointError: a process could not write or read.
        BaseException: a signal that came meanwhile, as its handler raised it: torch takes it for a failure.
    """
    from torch.distributed.checkpoint.api import CheckpointException  # no Exception, in all versions of torch

    level = logging.getLogger("torch.distributed.checkpoint").level
    logging.getLogger("torch.distributed.checkpoint").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            yield
    except LoginMEAError:
        raise
    except (CheckpointException, Exception) as error:
        reasons = [reason for reason, _ in getattr(error, "failures", {}).values()] or [error]
        for reason in reasons:
            if isinstance(reason, LoginMEAError) or not isinstance(reason, Exception):
                raise reason from None
        why = (str(reasons[0]).strip().splitlines() or [type(reasons[0]).__name__])[0][:200]
        raise CheckpointError(f"{what}: {why}; {remedy}") from None
    finally:
        logging.getLogger("torch.distributed.checkpoint").setLevel(level)
