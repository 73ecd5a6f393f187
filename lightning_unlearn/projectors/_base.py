from abc import ABC, abstractmethod

from torch import Tensor, nn


class Projector(nn.Module, ABC):
    """How the gradients of forgetting and retaining are merged: from their Gramian to their weights.

    Row 0 is the forget gradient, rows 1 to m - 1 are retain gradients. Lengths and angles of the rows are all in the
    ``m x m`` Gramian. It is summed over shards beforehand, so a projector is the same code with sharded parameters.
    """

    @abstractmethod
    def forward(self, gramian: Tensor) -> Tensor:
        """Choose the weights.

        Args:
            gramian: Inner products of the rows, ``[m, m]`` float64, symmetric, positive semi-definite.

        Returns:
            ``[m]`` float64; the merged gradient is the sum of the rows times these.
        """
