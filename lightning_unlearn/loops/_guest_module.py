from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn
from typing_extensions import override

Loss = Callable[[nn.Module, Any], Tensor]
"""From a network and a batch to the loss, a scalar."""


class GuestModule(pl.LightningModule):
    """A network that is trained by somebody else's loop, as callbacks see it.

    Args:
        network: The network, as it is without the wrappers of that loop.
        loss: The loss that the loop minimises, by which readouts are checked; ``None`` if it is not known.
        around: Collections to which the loss writes, such as lists of metrics. Extra passes put their entries back.
    """

    def __init__(self, network: nn.Module, loss: Loss | None = None, around: Sequence[Any] = ()) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.around = list(around)

    @override
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's own output."""
        return self.network(*args, **kwargs)

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of the loop."""
        if self.loss is None:
            raise NotImplementedError(
                "The loss of your loop should be known for this. Found none. Give `loss=lambda network, batch: ...`, or a "
                "`readout`."
            )
        return self.loss(self.network, batch)


class ForgettingGuest(GuestModule):
    """A :class:`GuestModule` that brings the forget data along, as a LightningModule may.

    Args:
        network: The network.
        loss: The loss of the loop.
        around: Collections to which it writes.
        forget: The loader of what must go.
    """

    def __init__(self, network: nn.Module, loss: Loss | None, around: Sequence[Any], forget: Iterable[Any]) -> None:
        super().__init__(network, loss, around)
        self._forget = forget

    def forget_dataloader(self) -> Iterable[Any]:
        """What must go."""
        return self._forget
