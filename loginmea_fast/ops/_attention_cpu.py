"""Relation-reflection attention on the CPU: calls of the native kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from loginmea_fast.derived import Derived
from loginmea_fast.ops._attention_chain import Chain, Gradients

__all__ = ["relation_reflection_backward", "relation_reflection_forward"]

_streams: Derived[list[Tensor]] = Derived()


def _stream(chain: Chain) -> list[Tensor]:
    """Edges by destination as the CPU walks them, 12 bytes each: made once, and kept for as long as the graph.

    The blocks of a view lie in the order of the walk already.
    """
    (dst_ptr, dst_source, dst_set, *_, visit_order), *more = chain.graphs
    if more or not visit_order.numel():
        return []

    def make() -> list[Tensor]:
        from loginmea_fast import native

        stream = [torch.empty_like(dst_ptr), *(torch.empty_like(dst_source) for _ in range(3))]
        addresses = _addresses(chain.graphs[0]), *_addresses(stream)
        sets, threads = len(chain.reflectors), torch.get_num_threads()
        native.load("cpu").relation_reflection_stream(chain.sizes(), sets, *addresses, threads)
        return stream

    return _streams.of(dst_set, [dst_ptr, dst_source, dst_set, visit_order], make)


def relation_reflection_forward(chain: Chain, set_logits: Tensor | None) -> None:
    from loginmea_fast import native

    stream = _stream(chain)  # held here: of tensors of inference mode nothing is kept
    native.load("cpu").relation_reflection_forward(
        native.dtype_code(chain.reflectors.dtype),
        chain.sizes(), *chain.reflectors.shape,
        [t for graph in chain.graphs for t in _addresses(graph)], _addresses(stream),
        _addresses(chain.z), [t.stride(0) for t in chain.z],
        chain.reflectors.data_ptr(), native.address(set_logits),
        native.address(chain.relation_vectors), native.address(chain.neighbor_vectors), chain.activation == "tanh",
        chain.logits.data_ptr(), chain.lse[0].data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip


def relation_reflection_backward(
    chain: Chain, grads: Sequence[Tensor | None], activates: bool = False
) -> Gradients:
    from loginmea_fast import native

    dx = chain.reflectors.new_empty(chain.z[0].shape)
    du, dc = torch.empty_like(chain.reflectors), torch.empty_like(chain.logits)
    dv, dw = (
        dc.new_empty(0 if t is None else len(t), dx.shape[1])
        for t in (chain.relation_vectors, chain.neighbor_vectors)
    )
    native.load("cpu").relation_reflection_backward(
        native.dtype_code(chain.reflectors.dtype),
        chain.sizes(), *chain.reflectors.shape,
        [t for graph in chain.graphs for t in _addresses(graph)],
        [native.address(t) for t in grads], [0 if t is None else t.stride(0) for t in grads],
        _addresses(chain.z), [t.stride(0) for t in chain.z],
        chain.lse[0].data_ptr(), chain.logits.data_ptr(), chain.reflectors.data_ptr(),
        native.address(chain.relation_vectors), native.address(chain.neighbor_vectors), chain.activation == "tanh",
        activates, dx.data_ptr(), du.data_ptr(), dc.data_ptr(), dv.data_ptr(), dw.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return dx, du, dc, dv, dw


def _addresses(tensors: Sequence[Tensor]) -> list[int]:
    return [t.data_ptr() for t in tensors]
