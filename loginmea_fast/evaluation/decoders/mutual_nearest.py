"""Pairs each of which is the other's nearest; whoever is nobody's stays alone."""

from __future__ import annotations

from loginmea_fast.evaluation.decoders.base import Candidates, register_decoder

__all__: list[str] = []

register_decoder("mutual", Candidates.mutual, "csls", "pairs that are each other's nearest by CSLS")
