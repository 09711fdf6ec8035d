"""LoginMEA as its authors formulate it, from the mathematics: every edge tensor and every rank product is materialised.

The baseline of the benchmarks and the truth of the drop-in test: parameter names and shapes are those of their code, so
that a state dict of this model stands for one of theirs. What their forward pass never uses exists here too, unused.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loginmea_fast import AlignmentGraph


class AuthorsAttention(nn.Module):
    """Layers of relation-reflection attention over materialised [E, d] tensors, optionally after fusion."""

    def __init__(self, width: int, depth: int, modalities: int, rank: int) -> None:
        super().__init__()
        self.attn_kernels = nn.ParameterList(
            nn.init.xavier_uniform_(torch.empty(width, 1)) for _ in range(depth)
        )
        self.emb_atten_cat = AuthorsModalityWeights(modalities)
        self.fusion = AuthorsFusion(width, modalities, rank)

    def layers(self, z: Tensor, relations: Tensor, edges: AuthorsEdges) -> list[Tensor]:
        outputs = []
        for kernel in self.attn_kernels:
            mean = torch.sparse.mm(edges.relation_mean, relations)  # [E, d], once a layer
            u = F.normalize(mean, dim=1)
            x = z[edges.source]
            message = x - 2 * (x * u).sum(1, keepdim=True) * u
            logits = torch.sparse_coo_tensor(
                torch.stack([edges.destination, edges.source]),
                (u @ kernel).squeeze(1),
                (edges.num_entities, edges.num_entities),
                is_coalesced=True,
            )
            weights = torch.sparse.softmax(logits, dim=1).values()
            total = torch.zeros_like(z).index_add_(0, edges.destination, message * weights[:, None])
            z = torch.tanh(total)
            outputs.append(z)
        return outputs


class AuthorsEdges:
    """Edge lists as their loader makes them: one row an edge, relation means as a sparse [E, 2R'] matrix.

    Args:
        graph: the graph.
        relation_rows: row of the relation table of each of the 2R relation ids.
        table_rows: rows of the relation table.
        dtype: of the matrices' values.
    """

    def __init__(
        self, graph: AlignmentGraph, relation_rows: Tensor, table_rows: int, dtype: torch.dtype
    ) -> None:
        self.num_entities = graph.num_entities
        self.source, self.destination = graph.edge_index()
        ptr, sets = graph.set_rel_ptr, graph.dst_set.long()
        size = ptr.diff()[sets]
        edge = torch.repeat_interleave(torch.arange(graph.num_edges), size)
        offset = torch.arange(len(edge)) - torch.repeat_interleave(size.cumsum(0) - size, size)
        member = ptr[:-1][sets][edge] + offset
        count = graph.set_count[member].to(dtype)
        total = torch.zeros(graph.num_edges, dtype=dtype).index_add_(0, edge, count)
        self.relation_mean = torch.sparse_coo_tensor(
            torch.stack([edge, relation_rows[graph.set_relation[member].long()]]),
            count / total[edge],
            (graph.num_edges, table_rows),
        ).coalesce()
        neighbors = torch.cat(
            [torch.stack([self.destination, self.source]), torch.arange(self.num_entities).expand(2, -1)], 1
        )
        neighbors = neighbors.unique(dim=1)
        degree = torch.bincount(neighbors[0], minlength=self.num_entities).to(dtype)
        self.neighbor_mean = torch.sparse_coo_tensor(
            neighbors, 1 / degree[neighbors[0]], (self.num_entities, self.num_entities), is_coalesced=True
        )


class AuthorsModalityWeights(nn.Module):
    """Concatenation of normalised modalities under a softmax of learned scalars."""

    def __init__(self, modalities: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(modalities, 1))

    def forward(self, xs: list[Tensor]) -> Tensor:
        weights = self.weight.softmax(0)
        return torch.cat([w * F.normalize(x) for w, x in zip(weights, xs, strict=True)], 1)


class AuthorsFusion(nn.Module):
    """Adaptive low-rank fusion over materialised [K, N, d] products."""

    def __init__(self, width: int, modalities: int, rank: int) -> None:
        super().__init__()
        self.ent_attn = nn.Linear(width, 1, bias=False)
        self.factor_list = nn.ParameterList(
            nn.init.xavier_normal_(torch.empty(rank, width + 1, width)) for _ in range(modalities)
        )
        self.fusion_weights = nn.Parameter(nn.init.xavier_normal_(torch.empty(1, rank)))
        self.fusion_bias = nn.Parameter(torch.zeros(1, width))

    def forward(self, xs: list[Tensor]) -> Tensor:
        weights = self.ent_attn(torch.tanh(torch.stack(xs, 1))).squeeze(-1).softmax(-1)
        product: Tensor | float = 1.0
        for m, (x, factor) in enumerate(zip(xs, self.factor_list, strict=True)):
            t = F.normalize(x) * weights[:, m, None]
            one = torch.ones(len(t), 1, dtype=t.dtype)
            product = product * torch.matmul(torch.cat([one, t], 1), factor)
        assert isinstance(product, Tensor)
        return torch.matmul(self.fusion_weights, product.permute(1, 0, 2)).squeeze(1) + self.fusion_bias


class AuthorsModel(nn.Module):
    """The whole model; `forward` returns the joint embedding before normalisation, [N, D].

    Args:
        graph: both knowledge graphs.
        image_dim: columns of the image features; relation and attribute bags have `bag_dim`.
        width: d.
        rank: K.
        depth: L.
        bag_dim: columns of the bags, 1,000 in their code.
        dtype: of parameters and graph.
    """

    def __init__(
        self,
        graph: AlignmentGraph,
        image_dim: int,
        width: int = 300,
        rank: int = 8,
        depth: int = 2,
        bag_dim: int = 1000,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        half = graph.num_relations + 1  # ids are shifted by one, row 0 of each half is unused
        self.rel_fc = nn.Linear(bag_dim, width)
        self.att_fc = nn.Linear(bag_dim, width)
        self.img_fc = nn.Linear(image_dim, width)
        self.ent_embedding = nn.Embedding(graph.num_entities, width)
        self.rel_embedding = nn.Embedding(2 * half, width)
        nn.init.xavier_uniform_(self.ent_embedding.weight)
        nn.init.xavier_uniform_(self.rel_embedding.weight)
        self.rel_fc_dual = nn.Linear(2 * half, width)
        self.e_encoder = AuthorsAttention(width, depth, 3, rank)
        self.joint_encoder = AuthorsAttention(width, depth, 3, rank)
        ids = torch.arange(graph.num_relations)
        self.edges = AuthorsEdges(graph, torch.cat([ids + 1, ids + 1 + half]), 2 * half, dtype)
        self.to(dtype)

    def forward(self, image: Tensor, relation: Tensor, attribute: Tensor) -> Tensor:
        xs = [self.img_fc(image), self.rel_fc(relation), self.att_fc(attribute)]
        table = self.rel_embedding.weight
        z = torch.tanh(torch.sparse.mm(self.edges.neighbor_mean, self.ent_embedding.weight))
        graph = [z, *self.e_encoder.layers(z, table, self.edges)]
        joint = self.joint_encoder
        early = torch.tanh(joint.emb_atten_cat(xs))
        return torch.cat([*graph, early, *joint.layers(torch.tanh(joint.fusion(xs)), table, self.edges)], 1)
