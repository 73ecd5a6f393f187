from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from lightning_unlearn.prediction import Likelihood


class Exchange(NamedTuple):
    """The question of an example, and its right answer.

    Args:
        question: Token ids, ``[n]``; empty where a question is no text.
        answer: Token ids, ``[m]``, or a class id, ``[1]``; empty for an example that is not supervised.
    """

    question: Tensor
    answer: Tensor


class Readout(ABC):
    """How to run one kind of network on one kind of batch, and which of its outputs are supervised.

    Attributes:
        gives_logits: Whether it gives a :class:`Prediction`, as objectives and metrics that need logits want it, or only
            how likely the labels were.

    Example:
        >>> from lightning_unlearn import Prediction
        >>> class TwoInputs(Readout):
        ...     def __call__(self, network, batch):
        ...         left, right, labels = batch
        ...         example = torch.arange(len(labels))
        ...         return Prediction(network(left, right), labels, example, batch_size=len(labels))
        ...     def keys(self, batch):
        ...         return [content_key(*example) for example in zip(*batch)]
        >>> TwoInputs()(nn.Bilinear(2, 3, 4), (torch.zeros(5, 2), torch.zeros(5, 3), torch.zeros(5).long())).logits.shape
        torch.Size([5, 4])
    """

    gives_logits: ClassVar[bool] = True

    def __repr__(self) -> str:
        """Name and settings, as they are written in code. Logs and messages distinguish readouts by it."""
        settings = ((name, value) for name, value in vars(self).items() if name[0] != "_" and value is not None)
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in settings)})"

    def find_network(self, module: nn.Module) -> nn.Module:
        """The part of the user's module this readout runs. Defaults to the module itself, through its ``forward``."""
        return module

    @abstractmethod
    def __call__(self, network: nn.Module, batch: Any) -> Likelihood:
        """Run ``network`` on ``batch``: one row per supervised token (or per image), in the order of the examples."""

    @abstractmethod
    def keys(self, batch: Any) -> list[str]:
        """A key of the content of each example, ``B`` of them. It does not depend on padding or position in the batch.

        References cache by it.
        """

    def contents(self, batch: Any) -> list[str]:
        """A key of each example, by which forget examples among the retain data are found. Defaults to :meth:`keys`."""
        return self.keys(batch)

    def exchanges(self, batch: Any) -> list[Exchange] | None:
        """Question and right answer of each example, ``B`` of them. ``None``, the default, if a batch has no such parts."""
        return None

    def with_answers(self, batch: Any, answers: Sequence[Tensor]) -> Any:
        """The questions of ``batch`` with other answers, as :meth:`exchanges` gives them, ``B`` of them.

        Raises:
            NotImplementedError: If :meth:`exchanges` gives ``None``.
        """
        raise NotImplementedError(
            f"`{type(self).__name__}` should override `exchanges` and `with_answers` together. Found neither. "
            "Leave `Specificity` out."
        )

    def present(self, batch: Any) -> Tensor | None:
        """Which positions of ``batch`` are not padding, ``[B, T]`` bool; ``None``, the default, if none is."""
        return None

    def unpacked(self) -> Readout:
        """A readout that runs a batch row by row, as hooks on layers need it. Defaults to this one."""
        return self

    @property
    def why_not_cached(self) -> str | None:
        """Why likelihoods cannot be kept by :meth:`keys`; ``None``, the default, if they can."""
        return None

    def settled(self, network: nn.Module, batch: Any) -> Readout:
        """This readout, once it has asked what it has to know of ``network``. Defaults to this one.

        Collective: passes over ``batch``, on the device of the network.
        """
        return self

    def for_mean(self) -> Readout:
        """A cheaper readout of which only the mean over all rows is right. Defaults to this one."""
        return self

    def for_measuring(self) -> Readout:
        """The readout for metrics and attacks, if this one serves an objective only. Defaults to this one."""
        return self


def content_key(*tensors: Tensor) -> str:
    """Hash shapes and bytes of ``tensors``.

    Example:
        >>> import torch
        >>> content_key(torch.tensor([1, 2])) == content_key(torch.tensor([1, 2]))
        True
        >>> content_key(torch.tensor([1, 2])) == content_key(torch.tensor([[1, 2]]))
        False
    """
    digest = blake2b(digest_size=8)
    for tensor in tensors:
        array = tensor.detach().cpu().contiguous()
        # Without shapes, two tensors with the same bytes, cut at different places, would have one key.
        digest.update(f"{array.dtype}{tuple(array.shape)}".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes() if array.numel() else b"")
    return digest.hexdigest()
