"""The one comparison of a result with the float64 reference; itself tested in tests/helpers/test_compare.py."""

from __future__ import annotations

import torch
from torch import Tensor

# dtype -> (elementwise bound relative to the row's scale, relative L2 error).
# float64: a few hundred roundings of 1.1e-16 in a sum of a few thousand terms.
# float32: the same count of roundings of 6e-8; kernels measure 1e-7 to 1e-6 in L2.
# bfloat16: inputs and outputs are rounded to 8 bits (3.9e-3 a rounding), sums are float32; two roundings in sequence.
TOLERANCE: dict[torch.dtype, tuple[float, float]] = {
    torch.float64: (1e-11, 1e-12),
    torch.float32: (3e-5, 5e-6),
    torch.bfloat16: (4e-2, 8e-3),
}


def assert_close(
    actual: Tensor,
    reference: Tensor,
    name: str,
    dtype: torch.dtype | None = None,
    bounds: tuple[float, float] | None = None,
) -> None:
    """Hold `actual` to the float64 `reference`: shape, NaN pattern, elements, relative L2 and zero rows.

    Args:
        actual: what a backend computed, any float dtype.
        reference: the truth in float64, same shape.
        name: what is compared, for the message.
        dtype: which row of `TOLERANCE` applies; by default the dtype of `actual`.
        bounds: (elementwise, relative L2) in place of the table's, where the operator's docs derive another.
    """
    dtype = actual.dtype if dtype is None else dtype
    assert actual.shape == reference.shape, (
        f"{name}: shape {tuple(actual.shape)}, expected {tuple(reference.shape)}"
    )
    element_bound, l2_bound = TOLERANCE[dtype] if bounds is None else bounds
    a = actual.detach().to("cpu", torch.float64)
    r = reference.detach().to("cpu", torch.float64)
    assert torch.equal(a.isnan(), r.isnan()), (
        f"{name}: NaN where the reference has none, or the other way round"
    )
    finite = r.isfinite()
    assert torch.equal(a[~finite].nan_to_num(), r[~finite].nan_to_num()), f"{name}: infinities differ"
    a, r = a.where(finite, 0.0), r.where(finite, 0.0)
    if a.numel() == 0:
        return
    scale = r.abs().max()
    if scale == 0:
        assert a.abs().max() <= element_bound, f"{name}: expected zeros, got up to {a.abs().max():.3e}"
        return
    worst = ((a - r).abs().max() / scale).item()
    assert worst <= element_bound, (
        f"{name}: elementwise error {worst:.3e} of the largest value, bound {element_bound:.0e}"
    )
    l2 = ((a - r).norm() / r.norm()).item()
    assert l2 <= l2_bound, f"{name}: relative L2 error {l2:.3e}, bound {l2_bound:.0e}"
    if r.dim() == 2 and r.shape[1] > 0:
        lost = (a.abs().amax(1) == 0) & (r.abs().amax(1) > scale * 1e-10)
        assert not lost.any(), f"{name}: row {int(lost.nonzero()[0, 0])} is zero where the reference's is not"
