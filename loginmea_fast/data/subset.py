"""A pair without some of its entities, as if the files had never named them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from loginmea_fast.data.bags import sparse_csr
from loginmea_fast.data.feature_store import FeatureStore
from loginmea_fast.data.pair import AlignmentPair
from loginmea_fast.data.tables import AttributeTable, Feature, ValueTable

__all__ = ["feature_rows", "without_entities"]


def feature_rows(feature: Feature, entities: Tensor) -> Feature:
    """A feature of `entities` alone, int64 [B], in their order; on the CPU."""
    present = feature.present.cpu()[entities]
    feature = replace(feature, pictures={})  # whose ids were others
    if isinstance(feature.values, FeatureStore):
        return replace(feature, values=feature.values.taken(entities), present=present)
    values = feature.values.cpu()
    if not feature.is_sparse:
        return replace(feature, values=values[entities].contiguous(), present=present)
    crow, columns, entries = values.crow_indices(), values.col_indices(), values.values()
    lengths = crow.diff()[entities]
    indptr = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    # Entry k of a new row is entry k of the old row that stands in its place.
    take = torch.arange(int(indptr[-1])) + torch.repeat_interleave(crow[:-1][entities] - indptr[:-1], lengths)
    shape = len(entities), feature.width
    return replace(feature, values=sparse_csr(indptr, columns[take], entries[take], shape), present=present)


def without_entities(pair: AlignmentPair, gone: Tensor) -> tuple[AlignmentPair, Tensor]:
    """The pair without some entities, their triples, links, attributes and values; features keep their columns.

    Args:
        pair: the whole.
        gone: int64 [G], ids; none leaves the pair as it is.

    Returns:
        The pair, without an official split, and int64 [N], the new id of every old one, -1 of those that are gone.
    """
    stays = torch.ones(pair.num_entities, dtype=torch.bool)
    stays[gone] = False
    number = torch.where(stays, stays.cumsum(0) - 1, -1)
    if not len(gone):
        return pair, number
    kept = stays.nonzero()[:, 0]
    ids = kept.tolist()
    whole = stays[pair.triples[:, ::2]].all(1)
    triples = pair.triples[whole].clone()
    triples[:, ::2] = number[triples[:, ::2]]
    attributes, values = pair.attributes, pair.values
    if attributes is not None:
        own = stays[attributes.entity]
        attributes = AttributeTable(number[attributes.entity[own]], attributes.kind[own], attributes.types)
    if values is not None:
        own = stays[values.entity]
        texts = [text for text, said in zip(values.texts, own.tolist(), strict=True) if said]
        values = ValueTable(number[values.entity[own]], values.kind[own], texts, values.kinds)
    reduced = replace(
        pair,
        uris=[pair.uris[entity] for entity in ids],
        names=[pair.names[entity] for entity in ids],
        left_entities=number[pair.left_entities[stays[pair.left_entities]]],
        right_entities=number[pair.right_entities[stays[pair.right_entities]]],
        triples=triples,
        num_left_triples=int(whole[: pair.num_left_triples].sum()),
        links=number[pair.links[stays[pair.links].all(1)]],
        official_split=None,
        rejected=number[pair.rejected[stays[pair.rejected].all(1)]],
        attributes=attributes,
        values=values,
        words=None
        if pair.words is None
        else {int(number[e]): own for e, own in pair.words.items() if stays[e]},
        has_image=None if pair.has_image is None else pair.has_image[kept],
        file_ids=None if pair.file_ids is None else pair.file_ids[kept],
        features={name: feature_rows(feature, kept) for name, feature in pair.features.items()},
    )
    return reduced, number
