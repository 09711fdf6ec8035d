"""Modules: each operator as a layer, the two encoders, and the model."""

from loginmea_fast.nn.dropout import PooledDropout
from loginmea_fast.nn.ensemble import Ensemble, EntityModel, members_of
from loginmea_fast.nn.features import FeatureRows, Features, RawFeatures
from loginmea_fast.nn.graph_encoder import GraphEncoder, ReflectionLayers
from loginmea_fast.nn.local_to_global_encoder import LocalToGlobalEncoder, WeightedSum
from loginmea_fast.nn.loginmea import LoginMEA, LoginMEAOutput
from loginmea_fast.nn.low_rank_fusion import LowRankFusion
from loginmea_fast.nn.projection import FeatureProjection
from loginmea_fast.nn.relation_reflection_attention import RelationReflectionAttention

__all__ = [
    "Ensemble",
    "EntityModel",
    "FeatureProjection",
    "FeatureRows",
    "Features",
    "GraphEncoder",
    "LocalToGlobalEncoder",
    "LoginMEA",
    "LoginMEAOutput",
    "LowRankFusion",
    "PooledDropout",
    "RawFeatures",
    "ReflectionLayers",
    "RelationReflectionAttention",
    "WeightedSum",
    "members_of",
]
