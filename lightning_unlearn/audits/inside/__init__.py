"""Looking inside a network: what its hidden states still hold, whatever it says."""

from lightning_unlearn.audits.inside._calibration import Calibration
from lightning_unlearn.audits.inside._idempotence import IdempotenceDrift
from lightning_unlearn.audits.inside._knowledge_depth import KnowledgeDepth
from lightning_unlearn.audits.inside._layer_probe import LayerProbe
from lightning_unlearn.audits.inside._logit_lens import LogitLens
from lightning_unlearn.audits.inside._probing import ProbedLayer, ProbedLayers, probe_layers

__all__ = [
    "Calibration",
    "IdempotenceDrift",
    "KnowledgeDepth",
    "LayerProbe",
    "LogitLens",
    "ProbedLayer",
    "ProbedLayers",
    "probe_layers",
]
