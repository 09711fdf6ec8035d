"""What others have published on the same data and share of known links, for the plots; none was measured here."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["PUBLISHED", "Published"]


class Published(NamedTuple):
    """One figure of a paper.

    Attributes:
        name: of the method.
        hits: Hits@1.
        sees: what it uses beside relations.
    """

    name: str
    hits: float
    sees: str


PUBLISHED = {
    "zh_en": (
        Published("Dual-AMN", 0.731, "structure"),
        Published("LightEA-I", 0.812, "structure, bootstrapped, Sinkhorn"),
        Published("UMAEA", 0.800, "attributes and images"),
        Published("LoginMEA", 0.877, "attributes and images, bootstrapped"),
    ),
    "FB15K_DB15K 20 %": (
        Published("LoginMEA", 0.536, "attributes and images"),
        Published("TIDEA", 0.592, "attributes and images"),
    ),
}
"""Task -> figures. None of the papers gives seconds on a machine that could be compared."""
