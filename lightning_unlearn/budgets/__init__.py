"""What a fit may cost: it stops where what must stay would be disrupted more than is allowed."""

from lightning_unlearn.budgets._disruption_budget import DisruptionBudget

__all__ = ["DisruptionBudget"]
