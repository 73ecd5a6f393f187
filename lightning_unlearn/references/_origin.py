"""Everything that decides the likelihoods a network gives to examples, as plain values."""

from __future__ import annotations

from hashlib import blake2b
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import checksum, on_every_rank

_VOLATILE = {"_name_or_path", "transformers_version"}  # change from place to place, and change no likelihood


def origin_of(network: nn.Module, readout: Readout) -> dict[str, Any]:
    """Weights, architecture, readout, and the precision a pass would run in right now; the same on every rank.

    Example:
        >>> from lightning_unlearn.readouts import ClassificationReadout
        >>> sorted(origin_of(nn.Linear(1, 1), ClassificationReadout()))
        ['architecture', 'precision', 'readout', 'versions', 'weights']
    """
    shards = on_every_rank(f"{checksum(network):016x}")
    return {
        # Replicas have equal checksums: one will do, so that a run on more devices finds the same cache.
        "weights": shards[:1] if len(set(shards)) == 1 else shards,
        "architecture": f"{type(network).__name__} {blake2b(_architecture(network).encode(), digest_size=8).hexdigest()}",
        "readout": f"{type(readout).__module__}.{type(readout).__qualname__}({_settings(readout)})",
        "precision": _precision(next((p.device.type for p in network.parameters()), "cpu")),
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }


def _architecture(network: nn.Module) -> str:
    """Layers, and what a Hugging Face configuration says beyond them: number of heads, attention, soft caps."""
    config: Any = getattr(network, "config", None)
    settings = {k: v for k, v in config.to_dict().items() if k not in _VOLATILE} if hasattr(config, "to_dict") else {}
    return f"{network}\n{sorted((k, str(v)) for k, v in settings.items())}"


def _settings(readout: Readout) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in sorted(vars(readout).items()) if name[0] != "_")


def _precision(device: str) -> str:
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return f"autocast {dtype} on {device}, matrix products {torch.get_float32_matmul_precision()}"
