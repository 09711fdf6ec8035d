"""Raw features to modality embeddings, x_m = f_m W_m + b_m (docs/model.md), without making a feature dense or wide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loginmea_fast.errors import InputError
from loginmea_fast.graph import View
from loginmea_fast.nn.features import FeatureRows, RawFeatures
from loginmea_fast.ops._dispatch import operator
from loginmea_fast.ops.graph_mean import csr_product

__all__ = ["FeatureProjection"]

# Rows of features are taken and widened this many at a time: 8 MB at 2,048 columns.
_ROWS = 1024


class FeatureProjection(nn.Linear):
    """A linear layer for raw features of any kind: dense float32, dense half precision, sparse CSR, or rows in a file.

    Sparse features are transposed once for the gradient, and again when torch has changed them in place; a change
    through a NumPy view goes unseen.

    Args:
        in_features: columns of the raw feature.
        out_features: d_m, width of the modality embedding.
        bias: whether b_m is there; without it an entity that has nothing is embedded as zero.
    """

    def forward(self, features: RawFeatures, view: View | None = None) -> Tensor:
        """Project `features` [rows, in_features] to [rows, out_features] in the dtype of the weight.

        Of features with a row an entity a view takes those of its entities, [view.num_entities, out_features].

        Raises:
            InputError: the features have another width.
        """
        if len(features.shape) != 2 or features.shape[1] != self.in_features:
            raise InputError(
                f"features must have shape [rows, {self.in_features}]; got {list(features.shape)}. "
                "The model was built for other features"
            )
        if not isinstance(features, Tensor):
            return self._project_stored(features, view)
        if features.layout == torch.sparse_csr:
            return self._project_sparse(features, view)
        if view is not None and view.entities is not None:
            if 2 * view.num_entities > features.shape[0]:
                # To copy most of the features would cost more than to project the others with them.
                return view.take(self(features))
            return _project_narrow(features, self.weight, self._bias(), view.entities)
        if features.dtype == self.weight.dtype:
            return F.linear(features, self.weight, self.bias)
        return _project_narrow(features, self.weight, self._bias())

    def _bias(self) -> Tensor:
        return self.weight.new_zeros(self.out_features) if self.bias is None else self.bias

    # torch.compile cannot trace sparse tensors; the product is one call of the vendor's library with or without it.
    @torch.compiler.disable
    def _project_sparse(self, features: Tensor, view: View | None) -> Tensor:
        projected = csr_product(features, self.weight.t(), view)
        return projected if self.bias is None else projected + self.bias

    @torch.compiler.disable
    def _project_stored(self, features: FeatureRows, view: View | None) -> Tensor:
        rows = None if view is None else view.entities
        projected: Tensor = _ProjectStored.apply(self.weight, self._bias(), features, rows)
        return projected


class _ProjectStored(torch.autograd.Function):
    """Rows that are read block by block, times weight^T plus bias; read again for the gradient of the weight."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, features: FeatureRows, rows: Tensor | None) -> Tensor:
        ctx.features, ctx.rows = features, rows
        return _product(features, weight, bias, rows)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _weight_gradient(ctx.features, grad, ctx.rows), grad.sum(0), None, None


@operator("narrow_projection")
def _project_narrow(features: Tensor, weight: Tensor, bias: Tensor, rows: Tensor | None = None) -> Tensor:
    """Features of any dtype, or some rows of them, times weight^T plus bias: taken and widened block by block."""
    return _product(features, weight, bias, rows)


def _product(features: RawFeatures, weight: Tensor, bias: Tensor, rows: Tensor | None) -> Tensor:
    result = weight.new_empty(features.shape[0] if rows is None else len(rows), weight.shape[0])
    for start, block in _blocks(features, rows, weight):
        torch.addmm(bias, block, weight.t(), out=result[start : start + _ROWS])
    return result


def _weight_gradient(features: RawFeatures, grad: Tensor, rows: Tensor | None) -> Tensor:
    total = grad.new_zeros(grad.shape[1], features.shape[1])
    for start, block in _blocks(features, rows, grad):
        total.addmm_(grad[start : start + _ROWS].t(), block)
    return total


def _blocks(features: RawFeatures, rows: Tensor | None, like: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The first row of each block, and the block in the dtype of `like` and on its device."""
    if rows is not None and not isinstance(features, Tensor):
        rows = rows.cpu()
    for start in range(0, features.shape[0] if rows is None else len(rows), _ROWS):
        place = slice(start, start + _ROWS)
        yield start, (features[place] if rows is None else features[rows[place]]).to(like)


@_project_narrow.register_fake
def _(features: Tensor, weight: Tensor, bias: Tensor, rows: Tensor | None = None) -> Tensor:
    return weight.new_empty((features if rows is None else rows).shape[0], weight.shape[0])


@operator("narrow_projection_backward")
def _project_narrow_backward(features: Tensor, grad: Tensor, rows: Tensor | None = None) -> Tensor:
    return _weight_gradient(features, grad, rows)


@_project_narrow_backward.register_fake
def _(features: Tensor, grad: Tensor, rows: Tensor | None = None) -> Tensor:
    return grad.new_empty(grad.shape[1], features.shape[1])


def _save_features(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[3])


def _narrow_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    features, rows = ctx.saved_tensors
    return None, _project_narrow_backward(features, grad, rows), grad.sum(0), None


_project_narrow.register_autograd(_narrow_gradient, setup_context=_save_features)
