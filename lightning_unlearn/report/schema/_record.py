from dataclasses import dataclass, field
from typing import Any

from lightning_unlearn.observation import Change, Cost


@dataclass(frozen=True)
class Method:
    """How the knowledge was removed, and what that touched.

    Args:
        kind: ``"global"`` if most weights were changed, ``"local"`` if few were, ``"architecture"`` if parts were added (an
            adapter) and the weights that were there stayed, ``"none"`` if nothing changed; empty if it was not measured.
        guarantee: ``"none"``: what is shown was measured, and no theorem stands behind it.
        objective: What was minimised, in words.
        edits: Edits that were made at once, by their names.
        declared: Share of all weights that the fit might change: those that were trainable.
        measured: Share of all weights that really differ from the original's, estimated from a sample of each tensor.
        undeclared: Tensors that changed, though they were not trainable and no edit was made.
    """

    kind: str = ""
    guarantee: str = "none"
    objective: str = ""
    edits: list[str] = field(default_factory=list)
    declared: float | None = None
    measured: float | None = None
    undeclared: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Record:
    """What somebody needs who wants to check a report, or to make it again.

    Args:
        weights: For each model, a 64-bit hash of the bits of all weights and buffers on each process, as
            ``lightning_unlearn.runtime.checksum`` gives it. It tells models apart; it does not protect against forgery.
        config_hash: SHA-256 of the configuration; empty if there is none.
        code: Version and hash of this package; commit of the folder the run was started in, and whether it was changed.
        seeds: Seeds by what they are of.
        budget: Steps, epochs and batches of the fit; seconds of the fit with its checks, of all attacks, of all other looks.
        method: How the knowledge was removed, declared and measured.
        changes: How far each tensor is from the original's.
        costs: What each attack cost.
        not_claimed: What this report says nothing about.
    """

    weights: dict[str, list[str]] = field(default_factory=dict)
    config_hash: str = ""
    code: dict[str, Any] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)
    budget: dict[str, float] = field(default_factory=dict)
    method: Method = field(default_factory=Method)
    changes: list[Change] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    not_claimed: list[str] = field(default_factory=list)
