from typing import Any

from torch import nn
from typing_extensions import override

from lightning_unlearn.functional.modes import looking
from lightning_unlearn.prediction import Prediction
from lightning_unlearn.readouts import Readout
from lightning_unlearn.references._base import Reference


class AdapterDisabled(Reference):
    """The original model is the same network with its PEFT adapter switched off: no memory at all.

    Right only while nothing but the adapter is trained, and the adapter started as the identity; :meth:`attach` refuses
    anything else.

    Raises:
        ValueError: If the network has no adapter, trains base weights, or its adapter has been trained before.
    """

    @override
    def attach(self, network: nn.Module) -> None:
        if (problem := why_adapter_is_not_enough(network)) is not None:
            raise ValueError(
                f"`AdapterDisabled` should get a network of which only a fresh PEFT adapter is trained. Found {problem}. "
                "Use `CachedLogLikelihood()` or `FrozenCopy()` as the reference."
            )
        super().attach(network)

    @override
    def __call__(self, readout: Readout, batch: Any) -> Prediction:
        with looking(self.network), self.network.disable_adapter():  # type: ignore[operator]  # PeftModel's
            return readout(self.network, batch)


def why_adapter_is_not_enough(network: nn.Module) -> str | None:
    """Why switching the adapter off would not give the original model back; ``None`` if it would."""
    if not hasattr(network, "peft_config") or not hasattr(network, "disable_adapter"):
        return f"`{type(network).__name__}`, which has no PEFT adapter"
    trained = [name for name, p in network.named_parameters() if p.requires_grad]
    base = [name for name in trained if "lora_" not in name and "modules_to_save" not in name]
    if base:
        return f"{len(base)} trained parameters outside the adapter, `{base[0]}` first"
    # An adapter that was fine-tuned before is part of the original: its B is no longer zero.
    used = [name for name, p in network.named_parameters() if "lora_B" in name and bool(p.detach().any())]
    return f"an adapter that has been trained already (`{used[0]}` is not zero)" if used else None
