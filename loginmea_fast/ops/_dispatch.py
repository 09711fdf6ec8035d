"""What every operator does before a kernel starts: check its arguments and choose a backend.

`choose_backend` is called inside the body of each `torch.library.custom_op`, which torch.compile does not trace, so
choosing (environment variables, logging, looking for a compiler) never breaks a graph.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, List, NamedTuple  # noqa: UP035 see _LISTS

import torch
from torch import Tensor
from torch.autograd import forward_ad

from loginmea_fast.errors import BackendError, BuildError, InputError, OutOfMemoryError
from loginmea_fast.graph import AlignmentGraph, View
from loginmea_fast.log import log

__all__ = [
    "BACKENDS",
    "FLOATS",
    "Choice",
    "autocast_dtype",
    "check_backend_name",
    "check_float",
    "check_graph",
    "check_same_device",
    "check_same_dtype",
    "check_shape",
    "choose_backend",
    "cuda_kernels",
    "misplaced",
    "missing_backend",
    "native_reason",
    "operator",
    "triton_reason",
    "under_autocast",
    "watch_choices",
]

BACKENDS = ("auto", "reference", "cpu", "triton", "cuda")
FLOATS = (torch.float32, torch.float64, torch.bfloat16)
OLDEST_CARD = 8, 0  # compute capability: products of bfloat16 and TF32, and copies that run beside them

_said: set[tuple[str, ...]] = set()


class Choice(NamedTuple):
    """Which backend answered a call of `op`, and by name why the faster ones did not."""

    op: str
    backend: str
    passed_over: dict[str, str]


_watchers: list[list[Choice]] = []


@contextmanager
def watch_choices() -> Iterator[list[Choice]]:
    """Collect every choice made while the block runs; `loginmea-fast doctor` reports them."""
    choices: list[Choice] = []
    _watchers.append(choices)
    try:
        yield choices
    finally:
        _watchers[:] = [other for other in _watchers if other is not choices]


def check_backend_name(backend: str) -> None:
    """Raise `InputError` unless `backend` is one of `BACKENDS`."""
    if backend not in BACKENDS:
        raise InputError(f"backend must be one of {', '.join(BACKENDS)}; got {backend!r}")


def choose_backend(
    op: str,
    requested: str,
    candidates: Mapping[str, Callable[[], str | None]],
) -> str:
    """Name the backend that serves this call of `op`.

    Args:
        op: operator name, for messages.
        requested: `"auto"`, `"reference"` or a name in `candidates`. `"auto"` reads LOGINMEA_BACKEND first.
        candidates: backends from fastest to slowest; each value returns None where the backend can serve this call,
            else the reason why not. `"reference"` always serves and is not listed.

    Raises:
        BackendError: a backend asked for by name cannot serve.
    """
    if requested == "auto":
        requested = os.environ.get("LOGINMEA_BACKEND", "auto")
    check_backend_name(requested)
    if requested == "reference":
        return _chosen(op, "reference", {})
    if requested != "auto":
        reason = (
            candidates[requested]()
            if requested in candidates
            else (f"the operator has no such backend, but {', '.join(('reference', *candidates))}")
        )
        if reason is not None:
            raise BackendError(f"{op}: backend {requested!r} cannot serve this call: {reason}")
        return _chosen(op, requested, {})
    passed_over: dict[str, str] = {}
    for name, reason_of in candidates.items():
        reason = reason_of()
        if reason is None:
            break
        passed_over[name] = reason
    else:
        name = "reference"
    _say_once(op, name, passed_over)
    return _chosen(op, name, passed_over)


def _chosen(op: str, name: str, passed_over: dict[str, str]) -> str:
    for choices in _watchers:
        choices.append(Choice(op, name, passed_over))
    return name


def _say_once(op: str, chosen: str, passed_over: Mapping[str, str]) -> None:
    why = "; ".join(f"{name}: {reason}" for name, reason in passed_over.items())
    if (op, chosen, why) in _said:
        return
    _said.add((op, chosen, why))
    log.debug("%s runs on %s%s", op, chosen, f" ({why})" if why else "")


def misplaced(tensor: Tensor, device_type: str) -> str | None:
    """Why kernels for `device_type` ("cpu" or "cuda") cannot take a tensor from where it is, or None."""
    if tensor.device.type != device_type:
        return f"needs tensors on {device_type}, these are on {tensor.device}"
    if device_type == "cuda" and (found := capability(tensor)) < OLDEST_CARD:
        needed, has = (".".join(map(str, version)) for version in (OLDEST_CARD, found))
        name = torch.cuda.get_device_name(tensor.device)
        return f"needs a card of compute capability {needed} or later, {tensor.device} ({name}) has {has}"
    return None


def native_reason(tensor: Tensor, device_type: str) -> str | None:
    """Why the native library of `device_type` ("cpu" or "cuda") cannot serve `tensor`, or None. Builds it on first use.

    A library that cannot be had is worth one warning a process, because the plain formula that answers instead is much
    slower.
    """
    if (wrong := misplaced(tensor, device_type)) is not None:
        return wrong
    from loginmea_fast import native

    try:
        library = native.load(device_type)
        return library.card_reason() or None if device_type == "cuda" else None
    except BuildError as error:
        reason = str(error)
    if ("native", device_type) not in _said:
        _said.add(("native", device_type))
        warnings.warn(
            f"loginmea_fast: no native {device_type} library ({reason}); the plain PyTorch formula answers instead, "
            "which is much slower",
            RuntimeWarning,
            stacklevel=2,
        )
    return reason


def missing_backend(backend: str) -> str | None:
    """Why no operator can run on a backend on this machine; None where nothing is known. Builds nothing."""
    if backend == "triton":
        try:
            import triton  # noqa: F401
        except ImportError:
            return "Triton is not installed"
    elif backend in ("cpu", "cuda"):
        from loginmea_fast import native

        return native.unavailable(backend)
    return None


def triton_reason(tensor: Tensor) -> str | None:
    """Why Triton cannot serve `tensor`, or None: CUDA tensors, or any under TRITON_INTERPRET=1."""
    if (reason := missing_backend("triton")) is not None:
        return reason
    if os.environ.get("TRITON_INTERPRET") == "1":
        if tensor.dtype == torch.bfloat16:
            return "Triton's interpreter is wrong in bfloat16"
        return None
    return misplaced(tensor, "cuda")


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """The dtype in which an operator computes under autocast, or None outside of it.

    Autocast's own, or float32 where that is float16, which the operators have no kernels for.
    """
    device = tensor.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return None
    dtype = torch.get_autocast_dtype(device)
    return dtype if dtype in FLOATS else torch.float32


def under_autocast(*tensors: Any) -> list[Any]:
    """Arguments as they are, but in float32 where a product under autocast left them in float16."""

    def take(tensor: Any) -> Any:
        narrow = isinstance(tensor, Tensor) and tensor.dtype == torch.float16
        return tensor.float() if narrow and autocast_dtype(tensor) is not None else tensor

    return [take(tensor) for tensor in tensors]


_LISTS = List[Tensor]  # noqa: UP006 torch 2.6 knows no `list[Tensor]`
# Inductor of before takes a tensor that a kernel only reads for one that it has written, as in PyTorch's issue 183575,
# and reuses its memory: gradients of a compiled model were wrong under 2.6 and 2.7, and are right under 2.13.
_MISPLACING = torch.__version__ < "2.13"  # compares numbers, not letters


def operator(name: str) -> Callable[[Callable[..., Any]], Any]:
    """Register a function of tensors as `torch.ops.loginmea_fast.<name>`: what stands around every operator's body.

    The card of its tensors is the current one, to which Triton, CUDA C++ and cuBLAS launch, whichever it was before.
    Autocast has done its part when it cast the arguments; it must not round the sums as well. A card without room for
    the results or a workspace is one error, which leaves nothing behind for the next call.
    """

    def register(body: Callable[..., Any]) -> Any:
        @functools.wraps(body)
        def served(*arguments: Any) -> Any:
            device = _device_of(arguments)
            card = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
            with card, torch.autocast(device.type, enabled=False):
                try:
                    return body(*arguments)
                except torch.OutOfMemoryError as error:
                    size = sum(tensor.nbytes for tensor in _tensors_in(arguments)) / 2**20
                    raise OutOfMemoryError(
                        f"{name}: {device} is out of memory for the results or the workspace of a call with "
                        f"{size:,.0f} MiB of arguments ({str(error).splitlines()[0]}); pass fewer rows a call or a "
                        "narrower dtype, or free some"
                    ) from None
                except ValueError as error:
                    if isinstance(error, InputError):
                        raise
                    raise InputError(f"{name}: {error}") from error  # a launch that no card takes

        hints = body.__annotations__
        for of, hint in hints.items():
            hints[of] = _LISTS if hint == "list[Tensor]" else hint
        schema = torch.library.infer_schema(body, mutates_args=())
        defined = torch.library.custom_op(f"loginmea_fast::{name}", served, mutates_args=(), schema=schema)
        if _MISPLACING:
            register_fake = defined.register_fake
            defined.register_fake = lambda fake: register_fake(_in_own_place(fake))  # type: ignore[method-assign]
        return defined

    return register


def _in_own_place(fake: Callable[..., Any]) -> Callable[..., Any]:
    """A fake, which torch.compile calls while it traces, that has inductor give every result memory of its own.

    From then on, in the whole process: inductor reads its switch when the tracing has ended.
    """

    @functools.wraps(fake)
    def traced(*arguments: Any) -> Any:
        from torch._inductor import config

        config.inplace_buffers = False
        return fake(*arguments)

    return traced


def _tensors_in(arguments: Iterable[Any]) -> Iterator[Tensor]:
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, list | tuple):
            yield from _tensors_in(argument)


def _device_of(arguments: Iterable[Any]) -> torch.device:
    """The card among the tensors, which may read others from memory; else where they all are."""
    devices = [tensor.device for tensor in _tensors_in(arguments)]
    return next((device for device in devices if device.type != "cpu"), devices[0])


def capability(tensor: Tensor) -> tuple[int, int]:
    """The compute capability of the tensor's card."""
    return torch.cuda.get_device_capability(tensor.device)


def cuda_kernels(tensor: Tensor) -> tuple[Any, int]:
    """The native CUDA kernels, and the stream of the tensor's card on which PyTorch works now."""
    from loginmea_fast import native

    return native.load("cuda"), torch.cuda.current_stream(tensor.device).cuda_stream


def check_float(name: str, tensor: Tensor, allowed: Sequence[torch.dtype] = FLOATS) -> None:
    """Raise unless `tensor` is a plain tensor of one of the `allowed` dtypes.

    Raises:
        InputError: no tensor, or another dtype.
        BackendError: a tensor inside a transform of `torch.func` or forward-mode differentiation.
    """
    if not isinstance(tensor, Tensor):
        raise InputError(f"{name} must be a tensor; got {type(tensor).__name__}")
    if not torch.compiler.is_compiling() and (transform := _transform_of(tensor)):
        raise BackendError(
            f"{name} is inside {transform}, which the native kernels of this operator cannot follow; differentiate "
            "with backward() or torch.autograd.grad, or use the plain formula in loginmea_fast.reference"
        )
    if tensor.dtype not in allowed:
        names = ", ".join(str(d).removeprefix("torch.") for d in allowed)
        raise InputError(
            f"{name} must have dtype {names}; got {str(tensor.dtype).removeprefix('torch.')}. Convert it with .to()"
        )


def _transform_of(tensor: Tensor) -> str | None:
    """Which transform of torch has wrapped the tensor: its results would be refused deep inside, or wrong."""
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return "a transform of torch.func (vmap, grad, vjp, jvp, ...)"
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None:
        return "forward-mode differentiation"
    return None


def check_graph(graph: object) -> None:
    """Raise `InputError` unless `graph` is an `AlignmentGraph`; PyTorch Geometric's tensors are the likely mistake."""
    if not isinstance(graph, AlignmentGraph):
        raise InputError(
            f"graph must be an AlignmentGraph, made by AlignmentGraph.from_triples or, of edge_index and edge_type, by "
            f"AlignmentGraph.from_edges; got {type(graph).__name__}"
        )


def check_view(graph: object, layers: int | None = None) -> View:
    """A view as it is, or a graph's view of everything.

    Raises:
        InputError: neither, or a view of another number of `layers`.
    """
    if not isinstance(graph, View):
        check_graph(graph)
        assert isinstance(graph, AlignmentGraph)
        return graph.view()
    if graph.blocks and layers is not None and len(graph.blocks) != layers:
        raise InputError(
            f"the view is of {len(graph.blocks)} layers and {layers} are to be walked; make it with "
            f"graph.view(rows, depth={layers})"
        )
    return graph


def check_shape(name: str, tensor: Tensor, expected: Sequence[int | None], meaning: str) -> None:
    """Raise `InputError` unless `tensor` has the `expected` shape; None admits any size.

    Args:
        name: the argument's name.
        tensor: what came.
        expected: sizes, None where any will do.
        meaning: the shape in symbols, for the message, for example `"[entities, width]"`.
    """
    shape = tuple(tensor.shape)
    if len(shape) != len(expected) or any(
        e is not None and e != s for e, s in zip(expected, shape, strict=True)
    ):
        wanted = "[" + ", ".join("any" if e is None else str(e) for e in expected) + "]"
        raise InputError(f"{name} must have shape {wanted} = {meaning}; got {list(shape)}")


def check_same_device(**tensors: Tensor | None) -> None:
    """Raise `InputError` unless all given tensors are on one device."""
    present = {name: t.device for name, t in tensors.items() if t is not None}
    if len(set(present.values())) > 1:
        where = ", ".join(f"{name} on {device}" for name, device in present.items())
        raise InputError(f"all tensors must be on one device; got {where}. Move them with .to()")


def check_same_dtype(**tensors: Tensor | None) -> None:
    """Raise `InputError` unless all given tensors have one dtype."""
    present = {name: t.dtype for name, t in tensors.items() if t is not None}
    if len(set(present.values())) > 1:
        what = ", ".join(f"{name} {str(dtype).removeprefix('torch.')}" for name, dtype in present.items())
        raise InputError(f"all tensors must have one dtype; got {what}. Convert them with .to()")
