"""Rules for what a step may do to protected losses."""

from lightning_unlearn.guards.rules._base import Rule
from lightning_unlearn.guards.rules._monitor import Monitor
from lightning_unlearn.guards.rules._no_change import NoChange
from lightning_unlearn.guards.rules._no_increase import NoIncrease

__all__ = ["Monitor", "NoChange", "NoIncrease", "Rule"]
