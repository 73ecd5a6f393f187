from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from inspect import signature
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 64


@cache
def _sizes() -> dict[str, Any]:
    return yaml.safe_load((Path(__file__).parent / "sizes.yaml").read_text())


def families() -> list[str]:
    """Every family with a causal language model in the transformers that is installed."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def not_for_text(family: str) -> str | None:
    """Why a family is no language model that can be built by itself; ``None`` if it is."""
    return _sizes()["not for text"].get(family)


def build(family: str, *, seed: int = 0, **changes: Any) -> nn.Module:
    """A tiny model of a family, in evaluation mode and float32, with noise on every parameter.

    Args:
        family: As transformers calls it, its ``model_type``.
        seed: Of the weights.
        changes: Of its configuration, beside those of ``sizes.yaml``.
    """
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(configuration(family, **changes)).float()
        with torch.no_grad():
            for parameter in network.parameters():  # else norms are all one, and biases all zero
                parameter.add_(0.05 * torch.randn_like(parameter))
    return network.eval()


def configuration(family: str, **changes: Any) -> PreTrainedConfig:
    """The configuration of a tiny model, from the general sizes and those of this family."""
    return _small(CONFIG_MAPPING[family], changes)


def _small(kind: type[PreTrainedConfig], own: Mapping[str, Any]) -> PreTrainedConfig:
    """A configuration of ``kind`` with small numbers, and those inside it likewise."""
    sizes = _sizes()
    own = {**sizes["kinds"].get(kind.model_type, {}), **own}
    usual = kind()
    fields = {name: value for name, value in vars(usual).items() if name in signature(kind).parameters}
    inner = {name: value for name, value in fields.items() if isinstance(value, PreTrainedConfig)}
    count = own.get("num_hidden_layers") or _layers(fields)
    settings = {name: value for name, value in sizes["every"].items() if name in fields}
    for mark, more in sizes["with"].items():
        settings |= {name: value for name, value in more.items() if mark in fields and name in fields}
    settings |= {name: count for name in sizes["counts of layers"] if name in fields}
    settings |= {name: list(islice(cycle(dict.fromkeys(fields[name])), count)) for name in _by_layer(fields)}
    settings |= {name: value for name, value in own.items() if name not in inner}
    settings |= {name: _small(type(value), own.get(name) or {}) for name, value in inner.items()}
    return kind(**settings)


def _by_layer(fields: Mapping[str, Any]) -> list[str]:
    """Settings that name a kind for each layer."""
    return [k for k, v in fields.items() if "type" in k and isinstance(v, list) and v and isinstance(v[0], str)]


def _layers(fields: Mapping[str, Any]) -> int:
    """Enough layers for one of each kind, and two at least."""
    return max([2, *(len({*fields[name]}) for name in _by_layer(fields))])


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
