from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Subspace(ABC):
    """Chooses which inputs of a layer are protected, from the inputs it is given on data that must stay.

    Inputs are summarised batch by batch, and not kept.
    """

    @abstractmethod
    def summary(self, inputs: Tensor) -> Tensor:
        """Summarise some inputs. The sum of two summaries is that of both batches, also across processes.

        Args:
            inputs: ``[n, d]`` float64.
        """

    @abstractmethod
    def protected(self, summary: Tensor) -> tuple[Tensor, bool]:
        """Choose the protected directions from a summary, those with the most energy first.

        Args:
            summary: Sum over batches, and mean over processes: the choice must not depend on its scale.

        Returns:
            Orthonormal columns, ``[d, k]`` float64; and whether these are all that should be protected.
        """

    def __repr__(self) -> str:
        """The class and its settings."""
        public = {name: value for name, value in vars(self).items() if name[0] != "_"}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in public.items())})"
