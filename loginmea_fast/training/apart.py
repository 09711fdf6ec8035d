"""The output of a model divided into batches, so that each costs what its own rows cost, forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor

from loginmea_fast.nn import LoginMEAOutput

__all__ = ["ApartRows"]


class ApartRows:
    """Rows of an output that batches have to themselves; their gradients meet in one of the whole.

    A slice of the output has a gradient of all its rows, nearly all of them zero: with as many batches as there are
    links to divide, the time of a step would grow with the square of the links. And what a batch keeps for its
    gradient is let go before the next begins.

    Args:
        output: of the model; its graph is walked back once, by `backward`.
    """

    def __init__(self, output: LoginMEAOutput) -> None:
        self._output = output
        self._whole = [t for t in _tensors(output) if t.requires_grad]
        self._gradients: list[Tensor | None] = [None] * len(self._whole)
        self._own: list[Tensor] = []
        self._places: tuple[slice, ...] = ()

    def take(self, places: tuple[slice, slice, slice]) -> tuple[LoginMEAOutput, tuple[slice, slice, slice]]:
        """The rows of a batch, left, right and further ones, by themselves, and where each kind stands among them."""
        self._places, self._own = places, []

        def cut(rows: Tensor) -> Tensor:
            own = torch.cat([rows.detach()[place] for place in places])
            if rows.requires_grad:
                self._own.append(own.requires_grad_())
            return own

        joint, graph, modalities, unnormalized = self._output
        output = LoginMEAOutput(
            cut(joint),
            None if graph is None else cut(graph),
            {name: cut(x) for name, x in modalities.items()},
            None if unnormalized is None else cut(unnormalized),
        )
        left, right, further = (place.stop - place.start for place in places)
        return output, (
            slice(0, left),
            slice(left, left + right),
            slice(left + right, left + right + further),
        )

    def collect(self) -> None:
        """Put the gradients of the rows last taken, by now known, where they belong."""
        for number, own in enumerate(self._own):
            if own.grad is None:
                continue  # of a field that no objective read
            whole = self._gradients[number]
            if whole is None:
                whole = self._gradients[number] = torch.zeros_like(self._whole[number])
            first = 0
            for place in self._places:
                size = place.stop - place.start
                whole[place] += own.grad[first : first + size]
                first += size

    def backward(self) -> None:
        """Walk the output's graph back."""
        known = [(t, g) for t, g in zip(self._whole, self._gradients, strict=True) if g is not None]
        torch.autograd.backward([t for t, _ in known], [g for _, g in known])


def _tensors(output: LoginMEAOutput) -> list[Tensor]:
    """In the order in which `ApartRows.take` goes through them."""
    fields = [output.joint, output.graph, *output.modalities.values(), output.unnormalized]
    return [field for field in fields if field is not None]
