"""Work in several processes on gloo, as torchrun would start them; each begins with torch imported."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
SECONDS = "60"  # that a collective may wait


def in_processes(count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(*arguments)` returns in each of `count` processes of one world."""
    found = answers(count, work, *arguments)
    errors = [answer for answer in found if isinstance(answer, Exception)]
    for error in sorted(errors, key=lambda error: "lost the others" in str(error)):
        raise error
    return found


def answers(
    count: int, work: Callable[..., Any], *arguments: Any, seconds: str = SECONDS, expected: int | None = None
) -> list[Any]:
    """The same, or the exception that it raised there; of the first `expected` processes alone, None of the others."""
    where = Path(work.__code__.co_filename).relative_to(_ROOT).with_suffix("")
    name = ".".join(where.parts), work.__name__  # pytest imports files by names of its own
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["loginmea_fast", "loginmea_fast.parallel", "loginmea_fast.runs"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes, ends = [], []
    for rank in range(count):
        end, theirs = context.Pipe()
        environment = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "LOGINMEA_TIMEOUT": seconds,
        }
        process = context.Process(target=_begin, args=(theirs, environment, name, arguments), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        ends.append(end)
    try:
        return [_answer(end, float(seconds) + 60) for end in ends[:expected]] + [None] * len(
            ends[expected or count :]
        )
    finally:
        for process in processes:
            process.join(10 if expected is None else 0)
            process.kill()


def _answer(end: Connection, seconds: float) -> Any:
    try:
        return pickle.loads(end.recv_bytes()) if end.poll(seconds) else TimeoutError("no answer")
    except EOFError as gone:
        return gone


def _begin(
    end: Connection, environment: dict[str, str], name: tuple[str, str], arguments: tuple[Any, ...]
) -> None:
    import torch

    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        result: Any = getattr(importlib.import_module(name[0]), name[1])(*arguments)
    except Exception as error:
        result = error
        result.add_note(traceback.format_exc())
    end.send_bytes(pickle.dumps(result))
    end.close()
