from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Subspace(ABC):
    """Which inputs of a layer are protected, told from the inputs it was given on data that must stay.

    Inputs stream by, and are not kept.
    """

    @abstractmethod
    def summary(self, inputs: Tensor) -> Tensor:
        """What is to be remembered of some inputs. Those of several batches, and of several processes, add up.

        Args:
            inputs: ``[n, d]`` float64.
        """

    @abstractmethod
    def protected(self, summary: Tensor) -> tuple[Tensor, bool]:
        """The protected directions of all inputs that ``summary`` is of, by how much there is of them.

        Returns:
            Orthonormal columns, ``[d, k]`` float64; and whether these are all that should be protected.
        """

    def __repr__(self) -> str:
        """The class and its settings."""
        public = {name: value for name, value in vars(self).items() if name[0] != "_"}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in public.items())})"
