"""Products of matrices in Triton, of any strides, one or several at once, with the epilogue of logits."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from loginmea_fast.kernels._grid import grid
from torch import Tensor

__all__ = ["multiply", "of_float32"]


@triton.jit
def _product(
    a, b, c, row_scale, column_scale, row_inverse, bias, m, n, k,
    a_each, a_row, a_inner, b_each, b_inner, b_column, c_each, c_row,
    SCALE: tl.constexpr, BIAS: tl.constexpr, ADD: tl.constexpr, ROUND: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """c_mn (+)= sum_k a_mk b_kn; SCALE, BIAS: times row_m column_n, plus inverse_m bias_n; ROUND: in bfloat16."""
    # Tiles go in groups of GROUP rows of tiles, so that neighbours in time share operands in L2.
    tiles_m, tiles_n = tl.cdiv(m, BM), tl.cdiv(n, BN)
    number = tl.program_id(1).to(tl.int64)  # of the product
    a, b, c = a + number * a_each, b + number * b_each, c + number * c_each
    first = tl.program_id(0) // (GROUP * tiles_n) * GROUP
    rows = min(tiles_m - first, GROUP)
    within = tl.program_id(0) % (GROUP * tiles_n)
    im = (first + within % rows).to(tl.int64) * BM + tl.arange(0, BM)
    jn = (within // rows).to(tl.int64) * BN + tl.arange(0, BN)
    total = tl.zeros([BM, BN], tl.float32)
    for start in range(0, k, BK):
        kk = start + tl.arange(0, BK).to(tl.int64)
        a_mask, b_mask = (im < m)[:, None] & (kk < k)[None, :], (kk < k)[:, None] & (jn < n)[None, :]
        at = tl.load(a + im[:, None] * a_row + kk[None, :] * a_inner, mask=a_mask, other=0.0)  # [BM, BK]
        bt = tl.load(b + kk[:, None] * b_inner + jn[None, :] * b_column, mask=b_mask, other=0.0)  # [BK, BN]
        if ROUND:
            at, bt = at.to(tl.bfloat16), bt.to(tl.bfloat16)
        total = tl.dot(at, bt, total, input_precision=PRECISION)
    if SCALE:
        total *= tl.load(row_scale + im, mask=im < m, other=0.0)[:, None]
        total *= tl.load(column_scale + jn, mask=jn < n, other=0.0)[None, :]
    if BIAS:
        inverse = tl.load(row_inverse + im, mask=im < m, other=0.0)
        total += inverse[:, None] * tl.load(bias + jn, mask=jn < n, other=0.0)[None, :]
    where = c + im[:, None] * c_row + jn[None, :]
    mask = (im < m)[:, None] & (jn < n)[None, :]
    if ADD:
        total += tl.load(where, mask=mask, other=0.0)
    tl.store(where, total, mask=mask)


def of_float32(precision: str) -> str:
    """What `tl.dot` makes of float32 operands; for "ieee" three TF32 products, whose sum keeps 21 bits.

    On NVIDIA's tensor cores they take a fraction of the time of multiplying one by one. Not every other vendor's card
    has TF32: there all products are exact.
    """
    if torch.version.hip is not None:
        return "ieee"
    return "tf32x3" if precision == "ieee" else "tf32"


def multiply(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    precision: str,
    logits: tuple[Tensor, Tensor, Tensor, Tensor | None] | None = None,
    add: bool = False,
) -> None:
    """Multiply a [m, k] and b [k, n], of any strides, into c [m, n]; or G of each, with a first dimension more.

    `logits`: u_b / tau_b, v_j, 1 / tau_b and bias_j or None, with which c becomes logits.
    """
    a, b, c = (matrix if matrix.dim() == 3 else matrix[None] for matrix in (a, b, c))
    (count, m, k), n = a.shape, b.shape[2]
    rounded = precision == "bfloat16" or b.dtype == torch.bfloat16
    row_scale, column_scale, inverse, bias = (c, c, c, None) if logits is None else logits
    exact = precision == "ieee" and not rounded
    columns = 64 if exact else 128  # the parts of operands that are rounded want registers
    _product[grid(triton.cdiv(m, 128) * triton.cdiv(n, columns), count)](
        a, b, c, row_scale, column_scale, inverse, c if bias is None else bias, m, n, k,
        *a.stride(), *b.stride(), c.stride(0), c.stride(1),
        SCALE=logits is not None, BIAS=bias is not None, ADD=add, ROUND=rounded,
        PRECISION=of_float32(precision),
        BM=128, BN=columns, BK=64 if a.dtype == b.dtype == torch.bfloat16 else 32, GROUP=8, num_warps=8, num_stages=3,
    )  # fmt: skip
