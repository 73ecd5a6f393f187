"""How far a network has moved from its original on neutral data: what forgetting may cost."""

from lightning_unlearn.disruption._disruption import Disruption, refuse_without_logits
from lightning_unlearn.disruption._known_original import KnownOriginal
from lightning_unlearn.disruption._neutral import neutral_batches, spare_neutral
from lightning_unlearn.disruption._snapshot import Snapshot

__all__ = ["Disruption", "KnownOriginal", "Snapshot", "neutral_batches", "refuse_without_logits", "spare_neutral"]
