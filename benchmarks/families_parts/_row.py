from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from torch import nn

from families_parts._batches import ORDERS, Batch
from families_parts._build import build, configuration, not_for_text
from families_parts._causal import looks_ahead, own_loss_is_shifted
from families_parts._decoding import decoded
from families_parts._exactness import EXACT, Truth, differences, next_token, own, read
from families_parts._reach import shares
from lightning_unlearn.readouts import CausalLMReadout, PackedCausalLMReadout

TruthOf = Callable[[nn.Module, Batch], Truth]
READOUTS = {"plain": CausalLMReadout, "packed": PackedCausalLMReadout}


def row(family: str) -> dict[str, Any]:
    """All that is measured of a family; what fails is kept as its error."""
    start = time.perf_counter()
    found: dict[str, Any] = {"family": family}
    if reason := not_for_text(family):
        return {**found, "not built": reason}
    try:
        network = build(family)
        ahead = looks_ahead(network)
    except Exception as error:
        return {**found, "not built": _said(error)}
    found |= {
        "class": type(network).__name__,
        "parameters": sum(p.numel() for p in network.parameters()),
        "looks ahead": ahead,
        "refused": refusal(network),
        "as an encoder": _or_error(lambda: as_encoder(family)),
    }
    if not ahead:
        found["own loss is shifted"] = _or_error(lambda: own_loss_is_shifted(network))
        found["exact"] = exactness(network, found["own loss is shifted"] is True)
        found["generation"] = _or_error(lambda: decoded(network))
        found["shares"] = _or_error(lambda: shares(network))
    return {**found, "seconds": round(time.perf_counter() - start, 1)}


def refusal(network: nn.Module) -> str | None:
    """What ours says when it is given the network; ``None`` if it takes it."""
    try:
        readout = CausalLMReadout()
        readout(readout.find_network(deepcopy(network)), ORDERS["short first"][0])
    except ValueError as error:
        return str(error)
    return None


def as_encoder(family: str) -> str | None:
    """What ours says to a model of this family that is not a decoder; ``None`` if there is none, or it reads on causally."""
    if "is_decoder" not in vars(configuration(family)):
        return None
    network = build(family, is_decoder=False)
    return (refusal(network) or "taken") if looks_ahead(network) else None


def exactness(network: nn.Module, own_loss: bool) -> dict[str, Any]:
    """For each order and readout, the largest relative differences of loss and gradient, and what was packed."""
    truth_of = own if own_loss else next_token
    return {order: _or_error(lambda b=batches: _in_order(network, b, truth_of)) for order, batches in ORDERS.items()}


def _in_order(network: nn.Module, batches: list[Batch], truth_of: TruthOf) -> dict[str, Any]:
    truths = [truth_of(network, batch) for batch in batches]
    found = {name: _or_error(lambda k=kind: _worst(k(), network, batches, truths)) for name, kind in READOUTS.items()}
    for name, kind in READOUTS.items():
        if EXACT < max(found[name].get("loss", 0), found[name].get("gradient", 0)) < 100 * EXACT:
            found[name] = _in_float64(kind(), network, batches, truth_of) or found[name]
    return found


def _in_float64(
    readout: CausalLMReadout, network: nn.Module, batches: list[Batch], truth_of: TruthOf
) -> dict[str, Any] | None:
    """The same without rounding, which in some networks is larger than 1e-5; ``None`` if it runs in float32 only."""
    try:
        network = deepcopy(network).double()
        return {**_worst(readout, network, batches, [truth_of(network, b) for b in batches]), "float64": True}
    except Exception:  # an operation that does not exist in float64 may raise anything
        return None


def _worst(readout: CausalLMReadout, network: nn.Module, batches: list[Batch], truths: list[Truth]) -> dict[str, Any]:
    """The largest relative differences over batches that one readout sees in turn, and which of them it packed."""
    apart, packed = [], []
    for batch, truth in zip(batches, truths, strict=True):
        loss, gradient, was_packed = read(readout, network, batch)
        apart.append(differences(truth, (loss, gradient)))
        packed.append(was_packed)
    losses, gradients = zip(*apart, strict=True)
    return {"loss": _rounded(max(losses)), "gradient": _rounded(max(gradients)), "packed": packed}


def _rounded(number: float) -> float:
    return float(f"{number:.2g}")


def _or_error(measure: Callable[[], Any]) -> Any:
    try:
        return measure()
    except Exception as error:
        return {"error": _said(error)}


def _said(error: Exception) -> str:
    at = traceback.extract_tb(error.__traceback__)[-1]
    text = str(error).strip().replace("\n", " ")
    return f"{type(error).__name__}: {text[:300]} ({at.filename.rpartition('/')[2]}:{at.lineno})"
