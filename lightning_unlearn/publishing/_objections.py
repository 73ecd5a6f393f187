"""What stands against publishing a model with a report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from lightning_unlearn.report import RobustnessReport
from lightning_unlearn.runtime import checksum

WEIGHTS = "weights"
"""Name of the objection that the report is of other weights."""
_OF_A_COPY = ("G3", "G7")


def objections(report: RobustnessReport, networks: Iterator[nn.Module]) -> dict[str, str]:
    """Why a model should not be published with this report, by a name under which one can do so all the same.

    Each failed gate is one, but for G3 and G7: they judge copies that were attacked, not the model that is published. The
    last is that the report is of other weights, by the hash in its record.

    Args:
        report: What was found.
        networks: The model in each form in which it may have been looked at.
    """
    found: dict[str, str] = {}
    for gate in report.gates:
        if gate.status == "fail" and gate.code not in _OF_A_COPY:
            reason = f"{gate.claim}: no. Found: {gate.reason}"
            found[gate.code] = f"{found[gate.code]}; {gate.reason}" if gate.code in found else reason
    if (other := _other_weights(report, networks)) is not None:
        found[WEIGHTS] = other
    return found


def _other_weights(report: RobustnessReport, networks: Iterator[nn.Module]) -> str | None:
    known: Any = report.record.weights.get("unlearned")
    if not known:
        return "The report is of these weights: not known. It has no hash of the model that it is of"
    hashes = []
    for network in networks:
        hashes.append(f"{checksum(network):016x}")
        if {hashes[-1]} == set(known):  # of every process, if each has all of them
            return None
    return (
        f"The report is of these weights: no. Found the hash {' or '.join(dict.fromkeys(hashes))}, and "
        f"{', '.join(known)} in the report. An adapter that was merged after the report, and a fit of several shards, have "
        "other hashes: audit the folder itself"
    )
