"""The authors' parameter names, translated into ours (docs/model.md, The authors' parameter names)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from loginmea_fast.errors import InputError

__all__ = ["AuthorsState", "translate_authors_state"]

# Their modalities in the order in which they concatenate them, and the layer that projects each.
_MODALITIES = {"image": "img_fc", "relation": "rel_fc", "attribute": "att_fc"}
_UNUSED = re.compile(r"rel_fc_dual\.|e_encoder\.(emb_atten_cat|fusion)\.")


@dataclass
class AuthorsState:
    """The result of a translation.

    Attributes:
        parameters: our names and values.
        source: our name -> theirs.
        loaded: their names that were used.
        ignored: their names that their own forward pass never uses.
    """

    parameters: dict[str, Tensor] = field(default_factory=dict, repr=False)
    source: dict[str, str] = field(default_factory=dict, repr=False)
    loaded: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def translate_authors_state(
    state: Mapping[str, Tensor], modalities: Sequence[str], num_relations: int
) -> AuthorsState:
    """Translate a state dict of the authors' `MultiModalEncoderMrFusion`.

    Args:
        state: theirs.
        modalities: this model's modalities; theirs are image, relation and attribute.
        num_relations: R. Their relation table has 2 (R + 1) rows: ids are shifted by one, inverses stand at
            r + 1 + (R + 1).

    Raises:
        InputError: other modalities, a missing or an unknown name, or a relation table of another size.
    """
    if sorted(modalities) != sorted(_MODALITIES):
        raise InputError(
            f"the authors' model has the modalities {', '.join(_MODALITIES)}; "
            f"this one has {', '.join(modalities) or 'none'}"
        )
    result = AuthorsState()
    left = dict(state)

    def take(theirs: str) -> Tensor:
        if theirs not in left:
            raise InputError(
                f"the authors' state has no {theirs!r}; is it a state_dict() of MultiModalEncoderMrFusion?"
            )
        result.loaded.append(theirs)
        return left.pop(theirs)

    def put(ours: str, theirs: str, value: Tensor) -> None:
        result.parameters[ours] = value
        result.source[ours] = theirs

    for modality in modalities:
        for part in ("weight", "bias"):
            theirs = f"{_MODALITIES[modality]}.{part}"
            put(f"projections.{modality}.{part}", theirs, take(theirs))
    put("entity_embedding", "ent_embedding.weight", take("ent_embedding.weight"))
    relations = take("rel_embedding.weight")
    if relations.shape[0] != 2 * (num_relations + 1):
        raise InputError(
            f"rel_embedding.weight has {relations.shape[0]} rows; {num_relations} relations need "
            f"{2 * (num_relations + 1)}"
        )
    forward, inverse = relations.split(num_relations + 1)
    put("relation_embedding", "rel_embedding.weight", torch.cat([forward[1:], inverse[1:]]))

    for theirs, ours in (("e_encoder", "graph_encoder"), ("joint_encoder", "local_to_global")):
        depth = sum(name.startswith(f"{theirs}.attn_kernels.") for name in left)
        vectors = [take(f"{theirs}.attn_kernels.{layer}").reshape(-1) for layer in range(depth)]
        if not vectors:
            raise InputError(f"the authors' state has no '{theirs}.attn_kernels.0'")
        put(f"{ours}.layers.relation_vectors", f"{theirs}.attn_kernels", torch.stack(vectors))

    order = [list(_MODALITIES).index(modality) for modality in modalities]
    theirs = "joint_encoder.emb_atten_cat.weight"
    put("local_to_global.modality_logits", theirs, take(theirs).reshape(-1)[order])
    for position, index in enumerate(order):
        theirs = f"joint_encoder.fusion.factor_list.{index}"
        put(f"local_to_global.fusion.factor_list.{position}", theirs, take(theirs))
    for name in ("ent_attn.weight", "fusion_weights", "fusion_bias"):
        put(
            f"local_to_global.fusion.{name}",
            f"joint_encoder.fusion.{name}",
            take(f"joint_encoder.fusion.{name}"),
        )

    result.ignored = sorted(name for name in left if _UNUSED.match(name))
    if unknown := sorted(set(left) - set(result.ignored)):
        raise InputError(f"the authors' model has no parameter named {', '.join(unknown)}")
    return result
