from __future__ import annotations

from abc import ABC, abstractmethod

from typing_extensions import override

from lightning_unlearn.functional.settings import check_positive


class Passes(ABC):
    """Whether a forget micro-batch is run in the pass of the retain micro-batch, where that gives the same gradient."""

    @abstractmethod
    def join(self, *, activations: int, gradient: int) -> bool:
        """Decide for one pair of micro-batches.

        Args:
            activations: Bytes that backward needs of the retain micro-batch, as measured on the first one of the fit, and
                scaled by tokens.
            gradient: Bytes of one gradient of all trained parameters.
        """

    def __repr__(self) -> str:
        """Name and settings, as they are written in code."""
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({settings})"


class CheaperPass(Passes):
    r"""One pass wherever that has the lower peak of memory.

    Two passes hold a gradient :math:`G` while the activations of the second are alive, one pass holds the activations
    :math:`A` of both micro-batches and no gradient yet:

    .. math:: A_r + A_f \le \max(A_r, G + A_f) \iff A_r \le G \quad (A_f > 0)

    The gradients of activations and logits come on top, and are larger in one pass: hence half of that by default. With
    :math:`A_r = 0.83 \, G` (SmolLM2-135M in float32, 4 + 4 rows, on a CPU) one pass took 0.9 of the time of two, and 1.02 of
    the memory (``benchmarks/README.md``).

    Args:
        share: One pass is taken up to ``share`` times :math:`G`, positive. A large one pays memory for time, as with LoRA,
            whose gradients are small.

    Example:
        >>> CheaperPass().join(activations=200, gradient=500), CheaperPass().join(activations=300, gradient=500)
        (True, False)
    """

    def __init__(self, share: float = 0.5) -> None:
        check_positive("share", share)
        self.share = share

    @override
    def join(self, *, activations: int, gradient: int) -> bool:
        return activations <= self.share * gradient


class TwoPasses(Passes):
    """Always a pass of its own for each.

    Example:
        >>> TwoPasses().join(activations=0, gradient=500)
        False
    """

    @override
    def join(self, *, activations: int, gradient: int) -> bool:
        return False
