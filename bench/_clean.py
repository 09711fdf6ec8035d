"""LoginMEA written cleanly in PyTorch, on the parameters of our model: what a careful reimplementation comes to.

Unlike the authors' formulation it reflects by relation sets, walks the graph with gathers and index_add, and forms only
the rows of the joint embedding that the batch needs. It still materialises edges x width and rank x rows x width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from loginmea_fast import AlignmentGraph, LoginMEA

__all__ = ["CleanModel"]


class CleanModel:
    """The forward pass of a `LoginMEA` with three dense modalities, in plain PyTorch.

    Args:
        model: whose parameters are used.
        graph: the graph.
    """

    def __init__(self, model: LoginMEA, graph: AlignmentGraph) -> None:
        self.model = model
        self.num_entities, self.num_sets = graph.num_entities, graph.num_relation_sets
        self.source, self.destination = graph.edge_index()
        self.edge_set = graph.dst_set.long()
        self.set_of = torch.repeat_interleave(torch.arange(graph.num_relation_sets), graph.set_rel_ptr.diff())
        self.relation, self.count = graph.set_relation.long(), graph.set_count
        own = torch.arange(graph.num_entities)
        pairs = torch.stack([torch.cat([self.destination, own]), torch.cat([self.source, own])])
        self.around, self.neighbor = pairs.unique(dim=1)
        self.degree = torch.bincount(self.around, minlength=graph.num_entities)[:, None]

    def layers(self, z: Tensor, reflectors: Tensor, vectors: Tensor) -> list[Tensor]:
        """Layers of relation-reflection attention over gathered [E, d] messages."""
        out = []
        for v in vectors:
            u = reflectors[self.edge_set]
            x = z[self.source]
            message = x - 2 * (x * u).sum(1, keepdim=True) * u
            logits = (reflectors @ v)[self.edge_set]
            # Logits are at most |v|, and a softmax does not change with what is taken off them all.
            powers = (logits - v.norm().detach()).exp()
            total = torch.zeros(self.num_entities).index_add(0, self.destination, powers)
            weights = (powers / total[self.destination])[:, None]
            z = torch.tanh(torch.zeros_like(z).index_add(0, self.destination, message * weights))
            out.append(z)
        return out

    def joint(self, features: dict[str, Tensor], rows: Tensor) -> Tensor:
        """Rows of the joint embedding."""
        model = self.model
        relations, entities = model.relation_embedding, model.entity_embedding
        weighted = relations[self.relation] * self.count[:, None]
        reflectors = F.normalize(
            torch.zeros(self.num_sets, relations.shape[1]).index_add(0, self.set_of, weighted)
        )
        z = torch.zeros_like(entities).index_add(0, self.around, entities[self.neighbor]) / self.degree
        z = torch.tanh(z)
        parts = [z, *self.layers(z, reflectors, model.graph_encoder.layers.relation_vectors)]
        xs = [
            F.linear(features[name], model.projections[name].weight, model.projections[name].bias)
            for name in model.modalities
        ]
        joint = model.local_to_global
        weights = joint.modality_logits.softmax(0)
        early = torch.cat([w * F.normalize(x[rows]) for w, x in zip(weights, xs, strict=True)], 1)
        fused = torch.tanh(self.fuse(xs))
        late = self.layers(fused, reflectors, joint.layers.relation_vectors)
        return torch.cat([*(p[rows] for p in parts), torch.tanh(early), *(z[rows] for z in late)], 1)

    def fuse(self, xs: list[Tensor]) -> Tensor:
        """Adaptive low-rank fusion over [K, N, d] products."""
        fusion = self.model.local_to_global.fusion
        attention = torch.stack([torch.tanh(x) @ fusion.ent_attn.weight[0] for x in xs], 1).softmax(1)
        product = None
        for m, (x, factor) in enumerate(zip(xs, fusion.factor_list, strict=True)):
            t = F.normalize(x) * attention[:, m, None]
            term = t @ factor[:, 1:] + factor[:, :1]
            product = term if product is None else product * term
        return torch.einsum("k,knd->nd", fusion.fusion_weights[0], product) + fusion.fusion_bias
