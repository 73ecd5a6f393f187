from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_unlearn.models.layers import plain_name
from lightning_unlearn.runtime import local, tensor_checksum


@dataclass
class Original:
    """What a parameter or buffer held. Found by module and name, since moving a module replaces its buffers.

    Args:
        module: The module that owns it.
        name: Its name there.
        path: Its full name in the network.
        value: The copy, of the local shard.
    """

    module: nn.Module
    name: str
    path: str
    value: Tensor

    @property
    def is_parameter(self) -> bool:
        """Whether it is a parameter, and no buffer."""
        return isinstance(self.tensor(), nn.Parameter)

    def found(self) -> Tensor | None:
        """The parameter or buffer as it is now; ``None`` if it is gone, or has another shape."""
        tensor = self.module._parameters.get(self.name, self.module._buffers.get(self.name))
        return None if tensor is None or local(tensor).shape != self.value.shape else tensor

    def tensor(self) -> Tensor:
        """The parameter or buffer as it is now, which must be there."""
        if (tensor := self.found()) is None:
            raise ValueError(
                f"`{self.path}` should stay a tensor of shape {tuple(self.value.shape)}, as when `FrozenCopy` copied it. "
                "Found that it was replaced during the fit. Change the architecture before the fit, or use "
                "`CachedLogLikelihood()` as the reference."
            )
        return tensor

    def now(self) -> Tensor:
        """Its memory now."""
        # `.data` does not raise the version counter. A graph that saved this tensor would otherwise refuse its backward
        # pass, although the values are back in place by then.
        return local(self.tensor()).data

    def checksum(self) -> int:
        """A hash of the copy, in the precision of the network: a trainer converts the module after `setup`."""
        return tensor_checksum(self.value.to(self.now().dtype))


def copied(network: nn.Module, wanted: Callable[[Tensor], bool], *, on_cpu: bool) -> list[Original]:
    """Copies of the parameters and floating-point buffers that are ``wanted``. Tied weights are copied once."""
    # Tensors made in inference mode could not be used outside of it.
    with torch.inference_mode(False), torch.no_grad():
        return [
            Original(module, name, path, _copy(tensor, on_cpu))
            for module, name, path, tensor in _tensors(network)
            if wanted(tensor)
        ]


def moves(tensor: Tensor) -> bool:
    """Whether training changes it: buffers, and parameters that are not frozen."""
    return tensor.requires_grad or not isinstance(tensor, nn.Parameter)


def copy_of(network: nn.Module, path: str, value: Tensor, *, on_cpu: bool) -> Original | None:
    """A saved copy of the parameter at ``path``; ``None`` if the network has none there."""
    for module, name, found, tensor in _tensors(network):
        if found == path:
            return Original(module, name, path, value if on_cpu else value.to(tensor.device))
    return None


def _copy(tensor: Tensor, on_cpu: bool) -> Tensor:
    held = local(tensor).detach()
    return held.to("cpu", copy=True) if on_cpu else held.clone()


def _tensors(network: nn.Module) -> Iterator[tuple[nn.Module, str, str, Tensor]]:
    seen: set[int] = set()
    for prefix, module in network.named_modules():
        buffers = {n: b for n, b in module._buffers.items() if b is not None and b.is_floating_point()}
        params = {n: p for n, p in module._parameters.items() if p is not None}
        for name, tensor in {**params, **buffers}.items():
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield module, name, plain_name(f"{prefix}.{name}".removeprefix(".")), tensor
