"""A small pair of graphs in which most entities can be told apart: graph 2 is graph 1 renumbered, with triples lost."""

from __future__ import annotations

from dataclasses import replace

import torch

from loginmea_fast.data import AlignmentPair, Feature
from loginmea_fast.data.tables import ValueTable
from loginmea_fast.data.values import value_feature


def synthetic_pair(count: int = 40, degree: int = 4, relations: int = 6, seed: int = 0) -> AlignmentPair:
    """`count` entities a side; modalities 'relation' (sparse, all present) and 'image' (dense, some missing)."""
    generator = torch.Generator().manual_seed(seed)
    triples = torch.stack(
        [
            torch.randint(0, count, (count * degree,), generator=generator),
            torch.randint(0, relations, (count * degree,), generator=generator),
            torch.randint(0, count, (count * degree,), generator=generator),
        ],
        1,
    )
    renumbered = torch.randperm(count, generator=generator)
    right = torch.stack(
        [renumbered[triples[:, 0]] + count, triples[:, 1], renumbered[triples[:, 2]] + count], 1
    )
    right = right[torch.rand(len(right), generator=generator) < 0.9]
    both = torch.cat([triples, right])
    bag = torch.zeros(2 * count, 2 * relations)
    bag[both[:, 0], both[:, 1]] = 1
    bag[both[:, 2], both[:, 1] + relations] = 1
    picture = torch.randn(count, 16, generator=generator)
    images = torch.empty(2 * count, 16)
    images[:count] = picture + 0.3 * torch.randn(count, 16, generator=generator)
    images[renumbered + count] = picture + 0.3 * torch.randn(count, 16, generator=generator)
    present = torch.rand(2 * count, generator=generator) < 0.8
    images[~present] = images[present].mean(0)
    everyone = torch.ones(2 * count, dtype=torch.bool)
    return AlignmentPair(
        name="synthetic",
        uris=[f"entity:{i}" for i in range(2 * count)],
        names=[f"entity {i}" for i in range(2 * count)],
        left_entities=torch.arange(count),
        right_entities=torch.arange(count, 2 * count),
        triples=both,
        num_left_triples=len(triples),
        num_relations=relations,
        links=torch.stack([torch.arange(count), renumbered + count], 1),
        features={
            "relation": Feature(bag.to_sparse_csr(), everyone, "relation bag"),
            "image": Feature(images, present, "noise around a picture"),
        },
    )


def thinned(pair: AlignmentPair, share: float, seed: int = 0) -> AlignmentPair:
    """The pair with a share of its triples, drawn apart for each graph: what is told of an entity differs."""
    kept = torch.rand(len(pair.triples), generator=torch.Generator().manual_seed(seed)) < share
    own = int(kept[: pair.num_left_triples].sum())
    return replace(pair, triples=pair.triples[kept], num_left_triples=own)


def with_values(pair: AlignmentPair, links: torch.Tensor) -> AlignmentPair:
    """The pair with the modality 'value': who learns from `links` takes its attributes a and b for the same.

    Entities of `links` alone have numbers by a on the left and b on the right, which agree. By c the left ones have
    those of others, so that tokens of b and c part where b is taken for a.
    """
    numbers = [f"{100 + 7 * place}" for place in range(len(links))]
    left, right = links.unbind(1)
    table = ValueTable(
        torch.cat([left, right, left]),
        torch.arange(3).repeat_interleave(len(links)),
        [*numbers, *numbers, *numbers[1:], numbers[0]],
        ["a", "b", "c"],
    )
    feature, _ = value_feature(table, pair.num_entities)
    return replace(pair, values=table, features={**pair.features, "value": feature})
