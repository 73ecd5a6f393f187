"""How protected gradients are kept."""

from lightning_unlearn.guards.storages._storage import Storage, stored

__all__ = ["Storage", "stored"]
