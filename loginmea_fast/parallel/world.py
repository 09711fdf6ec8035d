"""The processes of a run on torch.distributed, and the one process that most runs are."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from loginmea_fast.errors import ConfigError, LoginMEAError

__all__ = ["ALONE", "World", "world"]

T = TypeVar("T")
TIMEOUT = "LOGINMEA_TIMEOUT"
_STARTS = "TORCHELASTIC_RESTART_COUNT"
_SECONDS = 600.0  # that a process waits for the others: longer than any of them works by itself


class World:
    """As many processes as torchrun has started, of which each does its part. Of one, everything here does nothing.

    What is called a collective is called by all processes, in the same order. It ends in all of them: with its result,
    or with an error where one has failed, is gone, or keeps the others waiting too long.

    Args:
        rank: number of this process.
        size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def leads(self) -> bool:
        """Whether this is the process that prints, logs, locks and writes records."""
        return self.rank == 0

    @property
    def restarted(self) -> bool:
        """Whether torchrun has started the processes again, after one had failed."""
        return self.size > 1 and os.environ.get(_STARTS, "0") != "0"

    def part(self, count: int) -> slice:
        """The share of this process in `count` things that all know, about as many for each."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    # What is told.

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in their order; a collective."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with self._others():
            dist.all_gather_object(found, value)
        return found

    def together(self, work: Callable[[], T]) -> T:
        """Do it in every process; what one of them refuses, all refuse.

        Raises:
            LoginMEAError: of this process, or what another says.
        """
        if self.size == 1:
            return work()
        result, error = None, None
        try:
            result = work()
        except LoginMEAError as refused:
            error = refused
        told = self.gather(None if error is None else str(error))
        if error is not None:
            raise error
        for rank, words in enumerate(told):
            if words is not None:
                raise LoginMEAError(f"process {rank} of {self.size}: {words}")
        return result  # type: ignore[return-value]

    def first(self, work: Callable[[], T]) -> T:
        """Do it in process 0 and tell the others what came out, be it an error."""
        if self.size == 1:
            return work()
        found: tuple[T | None, LoginMEAError | None] = (None, None)
        if self.leads:
            try:
                found = work(), None
            except LoginMEAError as refused:
                found = None, refused
        box = [found]
        with self._others():
            dist.broadcast_object_list(box, src=0)
        result, error = box[0]
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Check that all processes were started on the same.

        Raises:
            ConfigError: in all of them, with the first thing that differs.
        """
        told = self.gather(dict(facts))
        for rank, other in enumerate(told):
            for key, value in told[0].items():
                if other.get(key) != value:
                    raise ConfigError(
                        f"the processes were not started alike: {key} is {_short(value)} in process 0 and "
                        f"{_short(other.get(key))} in process {rank}; start all with one command, on the same files "
                        "and versions"
                    )

    def any(self, *flags: bool) -> list[bool]:
        """Whether any process says so, of each flag; a collective."""
        if self.size == 1:
            return list(flags)
        told = torch.tensor(flags, dtype=torch.int32)
        self.sum_([told])
        return [bool(flag) for flag in told]

    # What is computed.

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Sum over the processes, in place and with the same bits in all; tensors of one dtype in one exchange."""
        if self.size == 1:
            return
        kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for tensor in tensors:
            kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
        for alike in kinds.values():
            flat = alike[0].reshape(-1) if len(alike) == 1 else torch.cat([t.reshape(-1) for t in alike])
            flat = flat.contiguous()
            with self._others():
                dist.all_reduce(flat)
            for tensor, total in zip(alike, flat.split([t.numel() for t in alike]), strict=True):
                tensor.copy_(total.view_as(tensor))

    def broadcast(self, tensor: Tensor, source: int) -> Tensor:
        """What process `source` has, in place; a collective."""
        if self.size > 1 and tensor.numel():
            with self._others():
                dist.broadcast(tensor, source)
        return tensor

    def gather_tensors(self, tensor: Tensor, target: int) -> list[Tensor] | None:
        """Tensors of one shape of all processes, in process `target`; None elsewhere. A collective."""
        parts = [torch.empty_like(tensor) for _ in range(self.size)] if self.rank == target else None
        with self._others():
            dist.gather(tensor, parts, dst=target)
        return parts

    def collect(self, rows: Tensor, counts: Sequence[int]) -> list[Tensor] | None:
        """Rows [counts[p], ...] of each process p, in process 0; None elsewhere. A collective."""
        if self.rank:
            with self._others():
                if len(rows):
                    dist.send(rows.contiguous(), 0)
            return None
        parts = [rows]
        for process, count in list(enumerate(counts))[1:]:
            part = rows.new_empty(count, *rows.shape[1:])
            with self._others():
                if count:
                    dist.recv(part, process)
            parts.append(part)
        return parts

    def exchange(self, out: Tensor, rows: Tensor, received: Sequence[int], sent: Sequence[int]) -> Tensor:
        """Send `sent[p]` rows to each process p, one after the other, and fill `out` with those that it sends.

        Args:
            out: [sum of received, ...], contiguous.
            rows: [sum of sent, ...].
            received: rows that come from each process.
            sent: rows that go to each process.
        """
        with self._others():
            dist.all_to_all_single(out, rows.contiguous(), list(received), list(sent))
        return out

    @contextmanager
    def _others(self) -> Iterator[None]:
        """What torch raises where another process is gone or late, as one sentence."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, LoginMEAError):
                raise
            why = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise LoginMEAError(
                f"process {self.rank} of {self.size} has lost the others ({why}); the process that failed first says "
                "why, and a run goes on with --resume"
            ) from None


ALONE = World()
"""The world of a process that nobody started beside others."""

_joined: World | None = None


def world() -> World:
    """The processes that this one was started with by torchrun; `ALONE` where it was not.

    The first call waits for all of them. `LOGINMEA_TIMEOUT` is how many seconds a process may keep the others waiting.

    Raises:
        ConfigError: the environment is not torchrun's.
        LoginMEAError: the others do not come.
    """
    global _joined
    if _joined is None:
        _joined = _join(os.environ)
    return _joined


def _join(environment: Mapping[str, str]) -> World:
    size = environment.get("WORLD_SIZE", "1")
    if size == "1" or "RANK" not in environment:
        return ALONE
    found = World(int(environment["RANK"]), int(size))
    seconds = environment.get(TIMEOUT, str(_SECONDS))
    try:
        timeout = timedelta(seconds=float(seconds))
    except ValueError:
        raise ConfigError(f"{TIMEOUT} must be a number of seconds; got {seconds!r}") from None
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(environment.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    try:
        store, rank, count = next(rendezvous("env://", timeout=timeout))
        # torchrun may keep its store when it starts processes again: where the dead listened is no longer asked for.
        store = PrefixStore(f"start {environment.get(_STARTS, '0')}", store)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            timeout=timeout,
            store=store,
            rank=rank,
            world_size=count,
        )
    except (RuntimeError, ValueError) as error:
        raise LoginMEAError(
            f"process {found.rank} of {size} cannot join the others ({str(error).splitlines()[0][:200]}); start them "
            "with torchrun"
        ) from None
    atexit.register(_leave)
    return found


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
