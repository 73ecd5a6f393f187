from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class SavedParts:
    """The parts of an `Unlearn` that have a state of their own, under their names in the checkpoint.

    Args:
        **parts: Each has ``state_dict`` and ``load_state_dict``; ``None`` for a part that does not exist.
    """

    def __init__(self, **parts: Any) -> None:
        self._parts = {name: part for name, part in parts.items() if part is not None}

    def state_dict(self) -> dict[str, Any]:
        """The state of each part. Some gather shards, so every rank must call it."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what ``state`` holds. A part that had no state when it was saved is left as it is."""
        for name, part in self._parts.items():
            if state.get(name):
                part.load_state_dict(state[name])
