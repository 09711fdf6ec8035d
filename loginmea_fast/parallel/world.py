"""The processes of a run on torch.distributed, and the one process that most runs are."""

from __future__ import annotations

import atexit
import math
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

from loginmea_fast.errors import ConfigError, LoginMEAError, LostOthersError

__all__ = ["ALONE", "World", "world"]

T = TypeVar("T")
TIMEOUT = "LOGINMEA_TIMEOUT"
_STARTS = "TORCHELASTIC_RESTART_COUNT"
_SECONDS = 600.0  # that a process waits for the others: longer than they are apart where all do the same
_YEAR = 365 * 24 * 3600.0


class World:
    """As many processes as torchrun has started, of which each does its part. Of one, everything here does nothing.

    What is called a collective is called by all processes, in the same order. It ends in all of them: with its result,
    or with an error where one has failed, is gone, or keeps the others waiting too long.

    Args:
        rank: number of this process.
        size: how many there are.
        patient: a group of all of them without a limit, in which they wait for what process 0 works out alone.
    """

    def __init__(self, rank: int = 0, size: int = 1, patient: dist.ProcessGroup | None = None) -> None:
        self.rank, self.size, self._patient = rank, size, patient

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
        with self.others():
            dist.all_gather_object(found, value)
        return found

    def together(self, work: Callable[[], T]) -> T:
        """Do it in every process; what one of them refuses, all refuse.

        Raises:
            Exception: of this process, whatever it is.
            LoginMEAError: what another says.
        """
        if self.size == 1:
            return work()
        result, error = None, None
        try:
            result = work()
        except Exception as failed:
            error = failed
        told = self.gather(None if error is None else _reason(error))
        if error is not None:
            raise error
        for rank, words in enumerate(told):
            if words is not None:
                raise LoginMEAError(f"process {rank} of {self.size}: {words}")
        return result  # type: ignore[return-value]

    def first(self, work: Callable[[], T]) -> T:
        """Do it in process 0 and tell the others what came out, be it an error.

        They wait for as long as process 0 is at it, but no longer than for anything else until it begins.

        Raises:
            Exception: of process 0, there.
            LoginMEAError: the same elsewhere, or what the exception says.
        """
        if self.size == 1:
            return work()
        with self.others():
            dist.broadcast(torch.zeros(1), 0)  # process 0 begins
        result, error, told = None, None, None
        if self.leads:
            try:
                result = work()
            except Exception as failed:
                error = failed
                ours = isinstance(failed, LoginMEAError)
                told = failed if ours else LoginMEAError(f"process 0 of {self.size}: {_reason(failed)}")
        box = [(result, told)]
        with self.others():
            dist.broadcast_object_list(box, src=0, group=self._patient)
        if error is not None:
            raise error
        result, told = box[0]
        if told is not None:
            raise told
        return result  # type: ignore[return-value]

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Check that all processes were started on the same.

        Raises:
            ConfigError: in all of them, with the first thing that differs.
        """
        told = self.gather(dict(facts))
        for rank, other in enumerate(told):
            for key in [*told[0], *other]:
                ours, theirs = (of.get(key, "absent") for of in (told[0], other))
                if ours != theirs:
                    raise ConfigError(
                        f"the processes were not started alike: {key} is {_short(ours)} in process 0 and "
                        f"{_short(theirs)} in process {rank}; start all with one command, on the same files "
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
            with self.others():
                dist.all_reduce(flat)
            for tensor, total in zip(alike, flat.split([t.numel() for t in alike]), strict=True):
                tensor.copy_(total.view_as(tensor))

    def broadcast(self, tensor: Tensor, source: int) -> Tensor:
        """What process `source` has, in place; a collective."""
        if self.size > 1 and tensor.numel():
            with self.others():
                dist.broadcast(tensor, source)
        return tensor

    def gather_tensors(self, tensor: Tensor, target: int) -> list[Tensor] | None:
        """Tensors of one shape of all processes, in process `target`; None elsewhere. A collective."""
        parts = [torch.empty_like(tensor) for _ in range(self.size)] if self.rank == target else None
        with self.others():
            dist.gather(tensor, parts, dst=target)
        return parts

    def collect(self, rows: Tensor, counts: Sequence[int]) -> Iterator[Tensor]:
        """Rows [counts[p], ...] of each process p in turn, in process 0; nothing elsewhere.

        A collective, which all processes must go through to the end.
        """
        if self.rank:
            with self.others():
                if len(rows):
                    dist.send(rows.contiguous(), 0)
            return
        yield rows
        for process, count in list(enumerate(counts))[1:]:
            part = rows.new_empty(count, *rows.shape[1:])
            with self.others():
                if count:
                    dist.recv(part, process)
            yield part

    def exchange(self, out: Tensor, rows: Tensor, received: Sequence[int], sent: Sequence[int]) -> Tensor:
        """Send `sent[p]` rows to each process p, one after the other, and fill `out` with those that it sends.

        Args:
            out: [sum of received, ...], contiguous.
            rows: [sum of sent, ...].
            received: rows that come from each process.
            sent: rows that go to each process.
        """
        with self.others():
            dist.all_to_all_single(out, rows.contiguous(), list(received), list(sent))
        return out

    @contextmanager
    def others(self) -> Iterator[None]:
        """Context in which what torch raises where another process is gone or late becomes one sentence.

        Raises:
            LostOthersError: another process is gone, or kept this one waiting for too long.
        """
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, LoginMEAError):
                raise
            why = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise LostOthersError(
                f"process {self.rank} of {self.size} has lost the others ({why}); the process that failed first says "
                "why, and a run goes on with --resume"
            ) from None


ALONE = World()
"""The world of a process that nobody started beside others."""

_joined: World | None = None


def world() -> World:
    """The processes that this one was started with by torchrun, or those of the script's own process group.

    `ALONE` where there are no others. The first call waits for all of them. `LOGINMEA_TIMEOUT` is how many seconds a
    process may keep the others waiting; a group of the script's own has its own limit.

    Raises:
        ConfigError: the environment is not torchrun's, or the script's group does not serve what the processes tell.
        LoginMEAError: the others do not come.
    """
    global _joined
    if _joined is None:
        found = _joined_by_script() if dist.is_initialized() else _join(os.environ)
        if found is ALONE:  # a script may begin its group later
            return ALONE
        _joined = found
    return _joined


def _joined_by_script() -> World:
    if dist.get_world_size() == 1:
        return ALONE
    if "cpu:" not in (backends := dist.get_backend_config()):
        raise ConfigError(
            f"the process group of this script has no backend for CPUs ({backends}), by which processes tell each "
            "other of links and errors; give init_process_group no backend, or 'cpu:gloo,cuda:nccl'"
        )
    return World(dist.get_rank(), dist.get_world_size(), _patient())


def _patient() -> dist.ProcessGroup:
    return dist.new_group(timeout=timedelta(seconds=_YEAR), backend="gloo")


def _join(environment: Mapping[str, str]) -> World:
    if environment.keys().isdisjoint({"RANK", "WORLD_SIZE"}):
        return ALONE
    size = _number(environment, "WORLD_SIZE", 1)
    if size == 1:
        return ALONE
    rank, local = (
        _number(environment, "RANK", 0, size - 1),
        _number(environment, "LOCAL_RANK", 0, default="0"),
    )
    _number(environment, "MASTER_PORT", 1, 65535)
    seconds = environment.get(TIMEOUT, str(_SECONDS))
    try:
        limit = float(seconds)
    except ValueError:
        limit = math.nan
    if not 1 <= limit <= _YEAR:
        raise ConfigError(
            f"{TIMEOUT} must be a number of seconds from 1 to {_YEAR:.0f}; got {_short(seconds)!r}"
        )
    timeout = timedelta(seconds=limit)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local % torch.cuda.device_count())
    try:
        store, _, _ = next(rendezvous("env://", timeout=timeout))
        # torchrun may keep its store when it starts processes again: where the dead listened is no longer asked for.
        store = PrefixStore(f"start {environment.get(_STARTS, '0')}", store)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            timeout=timeout,
            store=store,
            rank=rank,
            world_size=size,
        )
        patient = _patient()
    except (RuntimeError, ValueError) as error:
        raise LoginMEAError(
            f"process {rank} of {size} cannot join the others ({str(error).splitlines()[0][:200]}); start them "
            "with torchrun"
        ) from None
    atexit.register(_leave)
    return World(rank, size, patient)


def _number(
    environment: Mapping[str, str], name: str, least: int, most: int | None = None, default: str | None = None
) -> int:
    """A whole number that torchrun sets."""
    text = environment.get(name, default)
    try:
        value = int(text or "")
    except ValueError:
        value = least - 1
    if value < least or (most is not None and value > most):
        came = "is not set" if text is None else f"is {_short(text)!r}"
        span = f"from {least} to {most}" if most is not None else f"of {least} or more"
        raise ConfigError(
            f"{name} {came}, which takes a whole number {span}; start the processes with torchrun, which sets it, or "
            "unset RANK and WORLD_SIZE to train in one process"
        )
    return value


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _reason(error: Exception) -> str:
    if isinstance(error, LoginMEAError):
        return str(error)
    first = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
