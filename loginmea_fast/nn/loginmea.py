"""LoginMEA, the whole model (Su et al., ECAI 2024; docs/model.md)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from loginmea_fast.errors import CheckpointError, ConfigError, InputError
from loginmea_fast.graph import AlignmentGraph, View
from loginmea_fast.mapped import normalize, release
from loginmea_fast.nn.authors import AuthorsState, translate_authors_state
from loginmea_fast.nn.dropout import PooledDropout
from loginmea_fast.nn.features import Features, RawFeatures, presence_of
from loginmea_fast.nn.graph_encoder import GraphEncoder
from loginmea_fast.nn.local_to_global_encoder import LocalToGlobalEncoder
from loginmea_fast.nn.modality_channels import ModalityChannels
from loginmea_fast.nn.names import module_key, part_of_modality
from loginmea_fast.nn.pretrained import Pretrained, describe_graph
from loginmea_fast.nn.projection import FeatureProjection
from loginmea_fast.ops import relation_reflectors
from loginmea_fast.ops._dispatch import check_graph

__all__ = ["LoginMEA", "LoginMEAOutput"]

_BLOCK = 4096  # rows that are written at a time
_RECOMPUTED = 1 << 15  # entities whose modalities are made anew at a time
AGGREGATIONS = ("channels", "fused", "both")
_COMPUTE_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


class LoginMEAOutput(NamedTuple):
    """What the model returns for the entities that were asked for.

    Attributes:
        joint: [B, D], J = [graph encoder | channels | local-to-global encoder], as far as the model has them, rows
            normalised (docs/model.md, Joint embedding).
        graph: [B, (L + 1) d], the graph encoder's part before normalisation; None without the graph encoder.
        modalities: modality -> [B, d_m], projected features x_m.
        unnormalized: [B, D], `joint` before its rows are divided by their lengths, which autograd keeps anyway; None
            where nobody reads it.
    """

    joint: Tensor
    graph: Tensor | None
    modalities: dict[str, Tensor]
    unnormalized: Tensor | None = None


class LoginMEA(nn.Module):
    """Joint embeddings of the entities of two multi-modal knowledge graphs.

    The graph is not part of it: every call is given a view of one, on the model's device.

    Args:
        num_entities: N, of both graphs.
        num_relations: R, before inverses.
        feature_dims: modality -> columns of its raw features, in the order in which modalities are concatenated. May be
            empty: the graph encoder alone then embeds the entities.
        hidden_dim: d.
        rank: K of the low-rank interaction.
        depth: L, layers of each encoder.
        attention: `"relation"` (the authors' code) or `"triple"`.
        modality_dims: modality -> d_m where it is not `hidden_dim`; for "fused" alone.
        aggregation: how modalities meet the graph: `"fused"`, by the local-to-global encoder, as the paper has it;
            `"channels"`, each through layers of its own (`ModalityChannels`); `"both"`, side by side, where z_0 is that
            of the channels.
        dropout: share of the elements of the joint embedding that a forward pass in training drops.
        use_graph_encoder: False for the paper's ablation without it; the others likewise.
        use_local_fusion: see `LocalToGlobalEncoder`.
        use_adaptive_weights: see `LocalToGlobalEncoder`.
        use_low_rank: see `LocalToGlobalEncoder`.
        use_global_aggregation: see `LocalToGlobalEncoder`.
        backend: of every operator.
        compute_dtype: dtype of activations; parameters stay as they are. bfloat16 halves memory.
        recompute: what is fused is projected again for the gradient, block by block, in place of being kept: less
            memory, more time, the same numbers to rounding. Channels keep no projection anyway.

    Raises:
        ConfigError: sizes below one, nothing left to embed entities with, or an unknown modality in `modality_dims`.
    """

    def __init__(
        self,
        num_entities: int,
        num_relations: int,
        feature_dims: Mapping[str, int],
        hidden_dim: int = 300,
        rank: int = 8,
        depth: int = 2,
        attention: str = "relation",
        modality_dims: Mapping[str, int] | None = None,
        aggregation: str = "fused",
        dropout: float = 0.0,
        use_graph_encoder: bool = True,
        use_local_fusion: bool = True,
        use_adaptive_weights: bool = True,
        use_low_rank: bool = True,
        use_global_aggregation: bool = True,
        backend: str = "auto",
        compute_dtype: torch.dtype = torch.float32,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("num_entities", num_entities), ("num_relations", num_relations)):
            if not isinstance(value, int) or value < 0:
                came = value if isinstance(value, int) else type(value).__name__
                raise ConfigError(f"{name} must be a number, as graph.{name} is; got {came}")
        for name, value in (("hidden_dim", hidden_dim), ("rank", rank), ("depth", depth)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1; got {value}")
        if compute_dtype not in _COMPUTE_DTYPES:
            raise ConfigError(f"compute_dtype must be float32, float64 or bfloat16; got {compute_dtype}")
        if not feature_dims and not use_graph_encoder:
            raise ConfigError("without the graph encoder the model needs at least one modality; got none")
        widths = dict(modality_dims or {})
        if unknown := set(widths) - set(feature_dims):
            raise ConfigError(
                f"modality_dims names {sorted(unknown)}, but the modalities are {list(feature_dims)}"
            )
        if aggregation not in AGGREGATIONS:
            raise ConfigError(f"aggregation must be one of {', '.join(AGGREGATIONS)}; got {aggregation!r}")
        if aggregation != "fused" and any(width != hidden_dim for width in widths.values()):
            raise ConfigError(
                f"channels are as wide as the layers, {hidden_dim}; leave modality_dims out, or aggregate by 'fused'"
            )
        self.arguments = {
            "feature_dims": dict(feature_dims),
            "hidden_dim": hidden_dim,
            "rank": rank,
            "depth": depth,
            "attention": attention,
            "modality_dims": widths,
            "aggregation": aggregation,
            "dropout": dropout,
            "use_graph_encoder": use_graph_encoder,
            "use_local_fusion": use_local_fusion,
            "use_adaptive_weights": use_adaptive_weights,
            "use_low_rank": use_low_rank,
            "use_global_aggregation": use_global_aggregation,
            "compute_dtype": str(compute_dtype).removeprefix("torch."),
        }
        self.num_entities = num_entities
        self.num_relations = num_relations
        self.depth = depth
        self.compute_dtype = compute_dtype
        self.backend = backend
        self.recompute = recompute
        self.modalities = tuple(feature_dims)
        self.modality_dims = [widths.get(name, hidden_dim) for name in feature_dims]
        self.projections = nn.ModuleDict(
            {
                module_key(name): FeatureProjection(columns, width, bias=aggregation == "fused")
                for (name, columns), width in zip(feature_dims.items(), self.modality_dims, strict=True)
            }
        )
        self.channels: ModalityChannels | None = None
        if feature_dims and aggregation != "fused":
            self.channels = ModalityChannels(self.modalities, hidden_dim, depth, attention, backend)
            for weight in self.projections.parameters():
                nn.init.xavier_uniform_(weight)
        self.local_to_global = (
            LocalToGlobalEncoder(
                self.modality_dims,
                hidden_dim,
                rank,
                depth,
                attention,
                use_local_fusion=use_local_fusion,
                use_adaptive_weights=use_adaptive_weights,
                use_low_rank=use_low_rank,
                use_global_aggregation=use_global_aggregation,
                z_0=aggregation == "fused",
                backend=backend,
            )
            if feature_dims and aggregation != "channels"
            else None
        )
        self.dropout = PooledDropout(dropout)
        self.entity_embedding: nn.Parameter | None = None
        self.graph_encoder: GraphEncoder | None = None
        if use_graph_encoder:
            self.entity_embedding = nn.Parameter(torch.empty(num_entities, hidden_dim))
            self.graph_encoder = GraphEncoder(hidden_dim, depth, attention, backend)
        reflects = use_graph_encoder or use_global_aggregation or self.channels is not None
        self.relation_embedding = (
            nn.Parameter(torch.empty(2 * num_relations, hidden_dim)) if reflects else None
        )
        for table in (self.entity_embedding, self.relation_embedding):
            if table is not None:
                nn.init.xavier_uniform_(table)

    @property
    def parts(self) -> list[tuple[str, int]]:
        """What stands side by side in the joint embedding, and in how many columns: graph, modalities, their fusion."""
        found: list[tuple[str, int]] = []
        names = [part_of_modality(name) for name in self.modalities]
        if self.graph_encoder is not None:
            depth, d = self.graph_encoder.layers.relation_vectors.shape
            found.append(("graph", (depth + 1) * d))
        if self.channels is not None:
            width = self.channels.output_width // len(self.modalities)
            found += [(name, width) for name in names]
        if self.local_to_global is not None:
            first = self.local_to_global.z_0_width(self.modality_dims)
            found += zip(names, self.modality_dims, strict=True) if first else ()
            found.append(("fusion", self.local_to_global.output_width(self.modality_dims) - first))
        return found

    @property
    def embedding_dim(self) -> int:
        """D, columns of the joint embedding."""
        return sum(width for _, width in self.parts)

    def forward(
        self,
        features: Mapping[str, RawFeatures],
        view: View,
        present: Mapping[str, Tensor] | None = None,
        hidden: Tensor | None = None,
    ) -> LoginMEAOutput:
        """Embed entities.

        Args:
            features: modality -> raw features [N, columns], dense (float32, float16, bfloat16), sparse CSR, or rows of
                a file (`data.FeatureStore`).
            view: of whom, and what of the graph that depends on: `graph.view(rows, model.depth)` for example of a batch
                of links, `graph.view()` of everything.
            present: modality -> bool [N], which entities have it; an absent modality gets no weight, and one that is
                not named is everybody's. None for what `features` bring along (`Features`), else for all.
            hidden: int64, entities whose own embedding counts as zero in this pass: they are known by their
                neighbours and modalities alone.

        Returns:
            `LoginMEAOutput`.

        Raises:
            InputError: a modality is missing, has the wrong number of rows or columns, a mask does not fit, an
                entity to hide is out of range, or the view is of another graph or depth, or on another device.
        """
        projected: dict[str, Tensor] = {}
        parts = [view.gather(part) for part in self._parts(features, view, present, projected, hidden)]
        projected = {name: view.gather(x) for name, x in projected.items()}
        graph_part = None if self.graph_encoder is None else parts[0]
        unnormalized = self.dropout(torch.cat(parts, 1))
        joint = F.normalize(unnormalized, dim=1, eps=1e-12)
        return LoginMEAOutput(joint, graph_part, projected, unnormalized)

    @torch.no_grad()
    def joint_rows(
        self,
        features: Mapping[str, RawFeatures],
        view: View,
        present: Mapping[str, Tensor] | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """The joint embedding alone, [B, D], without a gradient: each part is written in its place and let go.

        The arguments are those of `forward`, and so are the numbers; `out` [B, D] is filled where it is given.
        """
        self._check_view(view)
        once, again = view.once()  # rows are taken as they are written, not all at once
        joint, first = out, 0
        for part in self._parts(features, once, present, None):
            if joint is None:
                joint = part.new_empty(len(part if again is None else again), self.embedding_dim)
            for start in range(0, len(joint), _BLOCK):
                block = slice(start, start + _BLOCK)
                joint[block, first : first + part.shape[1]] = part[block if again is None else again[block]]
                release(joint[block])
            first += part.shape[1]
            del part  # or it would stand beside the next until that is formed
        assert joint is not None, "a model has a part"
        return normalize(joint)

    def _check_view(self, view: View) -> None:
        if not isinstance(view, View):
            raise InputError(
                f"a model takes a view: graph.view() of everything, graph.view(rows) of some entities; got "
                f"{type(view).__name__}"
            )
        check_graph(view.graph)
        self._check_sizes(view.num_all, view.graph.num_relations)
        if view.blocks and len(view.blocks) != self.depth:
            raise InputError(
                f"the view is of {len(view.blocks)} layers, the model has {self.depth}; make it by "
                f"graph.view(rows, depth={self.depth})"
            )
        if (own := next(self.parameters()).device) != view.device:
            raise InputError(
                f"the view is on {view.device}, the model on {own}; make it of graph.to({str(own)!r})"
            )

    def check_graph(self, graph: AlignmentGraph) -> None:
        """Raise `InputError` unless it is a graph of as many entities and relations as the model's tables have."""
        check_graph(graph)
        self._check_sizes(graph.num_entities, graph.num_relations)

    def _check_sizes(self, *sizes: int) -> None:
        if sizes != (self.num_entities, self.num_relations):
            raise InputError(
                f"the graph has {sizes[0]:,} entities and {sizes[1]:,} relations, the model was built for "
                f"{self.num_entities:,} and {self.num_relations:,}; give the graph that it is of"
            )

    def _parts(
        self,
        features: Mapping[str, RawFeatures],
        view: View,
        present: Mapping[str, Tensor] | None,
        projected: dict[str, Tensor] | None,
        hidden: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """The parts of J [B, .], the graph encoder's first; `projected`, where given, gets the modalities [B, d_m]."""
        self._check_view(view)
        self._check_features(features, view.num_held)
        if present is None:
            present = features.present if isinstance(features, Features) else {}
        has = presence_of(self.modalities, present, view.num_held, view.device)
        dtype = self.compute_dtype
        reflectors = None
        if self.relation_embedding is not None:
            reflectors = relation_reflectors(self.relation_embedding, view.graph).to(dtype)
        if self.graph_encoder is not None:
            assert self.entity_embedding is not None
            assert reflectors is not None
            own: Tensor = self.entity_embedding
            if hidden is not None:
                own = own.index_fill(0, view.held(hidden, "hidden"), 0.0)
            yield self.graph_encoder(own, reflectors, view)
        everyone = has
        has = None if has is None else view.take(has)
        recompute = self.recompute and not torch.compiler.is_compiling()
        asks = projected is not None or self.local_to_global is not None
        projected = {} if projected is None else projected
        whole: list[Tensor] = []  # what a fusion reads at once; else each is let go after its channel
        for number, name in enumerate(self.modalities):
            if self.channels is None and recompute:
                break
            x = self._project(features, name, view)
            if asks:  # a slice would keep all of x
                projected[name] = x if view.rows is None else view.first(x).clone()
            if self.local_to_global is not None and not recompute:
                whole.append(x)
            if self.channels is not None:
                assert reflectors is not None
                own = x if has is None else x * has[:, number, None]
                del x
                part = self.channels(name, own, reflectors, view)
                del own
                yield part
                del part
        if self.local_to_global is None:
            return
        if whole:
            yield from self.local_to_global(whole, reflectors, view, has)
            return
        asked = view.asked()
        for name in self.modalities:
            if name not in projected:
                projected[name] = asked.first(self._project(features, name, asked))
        first = [projected[name] for name in self.modalities]
        some = None if has is None else view.first(has)
        if self.local_to_global.layers is None:
            few = None if everyone is None else asked.take(everyone)
            fused = asked.first(self._fused_by_blocks(features, asked, few))
        else:
            fused = self._fused_by_blocks(features, view, has)
        yield from self.local_to_global.of_fused(first, fused, reflectors, view, some)

    def _project(self, features: Mapping[str, RawFeatures], name: str, view: View) -> Tensor:
        """x_m [n_0, d_m] of the entities of a view."""
        x: Tensor = self.projections[module_key(name)](features[name], view)
        return x.to(self.compute_dtype)

    def _fused_by_blocks(self, features: Mapping[str, RawFeatures], view: View, has: Tensor | None) -> Tensor:
        """What the fusion makes of the entities of a view, [n_0, d]; no x_m is kept for the gradient, but made anew."""
        encoder = self.local_to_global
        assert encoder is not None

        def fuse(part: View, present: Tensor | None) -> Tensor:
            fused: Tensor = encoder.fusion(
                [self._project(features, m, part) for m in self.modalities], present
            )
            return fused

        found = [
            checkpoint(
                fuse,
                part,
                None if has is None else has[start : start + part.num_entities],
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for start, part in view.parts(_RECOMPUTED)
        ]
        return found[0] if len(found) == 1 else torch.cat(found)

    def load_authors_state_dict(self, state: Mapping[str, Tensor]) -> AuthorsState:
        """Take over the parameters of the authors' `MultiModalEncoderMrFusion` (docs/model.md).

        Args:
            state: their `state_dict()`.

        Returns:
            Which of their names were loaded and which were ignored because their forward pass never uses them.

        Raises:
            InputError: a name is missing, unknown, or has a shape that does not fit this model.
        """
        translated = translate_authors_state(state, self.modalities, self.num_relations)
        own = self.state_dict()
        if missing := sorted(set(own) - set(translated.parameters)):
            raise InputError(
                f"the authors' model has nothing for {', '.join(missing)}: build this model with attention='relation' "
                "and no ablation"
            )
        for name, value in translated.parameters.items():
            theirs = translated.source[name]
            if name not in own:
                raise InputError(
                    f"{theirs} has no place in this model; build it with the authors' depth and modalities"
                )
            if own[name].shape != value.shape:
                raise InputError(
                    f"{theirs} gives {name} the shape {list(value.shape)}, this model has {list(own[name].shape)}"
                )
        self.load_state_dict(translated.parameters)
        return translated

    def save_pretrained(self, directory: str | os.PathLike[str], graph: AlignmentGraph) -> None:
        """Write model.safetensors and, beside it, model.json with what builds the model again.

        Args:
            directory: made where it is not there; files of these names in it are replaced.
            graph: what the model was trained on; a digest of it is written, because a row of the table of entities
                says nothing in another.

        Raises:
            InputError: the graph has other numbers of entities or relations than the model.
            CheckpointError: they cannot be written.
        """
        self.check_graph(graph)
        Pretrained(self.arguments, describe_graph(graph), self.state_dict()).write(directory)

    def renewed(self) -> LoginMEA:
        """A model like this one with new parameters, on its device."""
        own = {"compute_dtype": self.compute_dtype, "backend": self.backend, "recompute": self.recompute}
        arguments: dict[str, Any] = {**self.arguments, **own}
        model = type(self)(self.num_entities, self.num_relations, **arguments)
        return model.to(next(self.parameters()).device)

    @classmethod
    def from_pretrained(
        cls,
        directory: str | os.PathLike[str],
        graph: AlignmentGraph,
        backend: str = "auto",
        compute_dtype: torch.dtype | None = None,
    ) -> LoginMEA:
        """The model that `save_pretrained` wrote, on the device of its graph.

        Args:
            directory: what `save_pretrained` was given.
            graph: what the model was trained on; neither its entities nor its triples may have changed.
            backend: of every operator.
            compute_dtype: dtype of activations; as it was unless given.

        Raises:
            CheckpointError: a file is missing, damaged or of a newer version, or the model is of another graph.
        """
        found = Pretrained.read(directory)
        if "members" in found.arguments:
            raise CheckpointError(
                f"{directory} holds an ensemble of {found.arguments['members']} models; read it with "
                "Ensemble.from_pretrained"
            )
        return found.build(
            directory,
            graph,
            lambda arguments: cls(graph.num_entities, graph.num_relations, **arguments),
            backend=backend,
            compute_dtype=compute_dtype,
        )

    def _check_features(self, features: Mapping[str, RawFeatures], rows: int) -> None:
        device = next(self.parameters()).device
        for name in self.modalities:
            if name not in features:
                raise InputError(f"features of modality {name!r} are missing; got {list(features)}")
            if features[name].shape[0] != rows:
                raise InputError(
                    f"features of modality {name!r} must have one row an entity, {rows}; "
                    f"got {features[name].shape[0]}"
                )
            # Rows in a file or in a store are read on the host and sent.
            if isinstance(rows_of := features[name], Tensor) and rows_of.device != device:
                raise InputError(
                    f"features of modality {name!r} are on {rows_of.device}, the model on {device}; move them with "
                    f"features[{name!r}].to({str(device)!r})"
                )
