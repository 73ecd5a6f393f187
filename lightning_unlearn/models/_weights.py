"""Another model's weights, matched to a network by name, and swapped in place."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from lightning_unlearn.functional.text import visible
from lightning_unlearn.models._weight_files import read_weights
from lightning_unlearn.models.layers import in_adapter, input_embedding, is_low_bit, output_head
from lightning_unlearn.models.layers._names import WRAPPERS
from lightning_unlearn.runtime import drop_copies, local, uninterrupted

_WRAPPERS = re.compile(
    rf"(?:(?<=\.)|^)(?:{'|'.join(WRAPPERS)}|base_model\.model|base_layer(?!\.(?:base_layer\.)*lora_)|original_module|modules_to_save\.\w+)\."
)
_ADAPTERS_NAME = re.compile(r"(\blora_[A-Za-z_]+)\.(?!weight$|bias$)\w+")
_ADAPTER = re.compile(r"(?:^|\.)lora_")
_SECOND_FACTOR = re.compile(r"(?:^|\.)lora_(?:B|embedding_B)(?:\.|$)")  # with these at zero, the adapter adds nothing


def load_weights(path: str | Path, network: nn.Module) -> dict[str, Tensor]:
    """Read the weights of another model of the same kind.

    Names are compared without the prefixes of PEFT, ``torch.compile``, FSDP and a LightningModule. Weights without an
    adapter fit a network with one, too: they go into its base, and the adapter is set to add nothing. An adapter alone fits
    a network with a frozen base, and is taken for one of the same base. A base in few bits cannot take other values: there,
    it is an adapter alone, or one with the same base.

    Args:
        path: A Lightning checkpoint, a ``.safetensors`` file, or a Hugging Face folder, also of an adapter.
        network: The network they are for.

    Returns:
        Tensors on the CPU, by the names of ``network``, for :func:`swapped_weights`.

    Raises:
        FileNotFoundError: If there is nothing at ``path``.
        ValueError: If weights are missing, left over or of another shape, or others than those that are rounded for good.
    """
    return match_weights(read_weights(path), network, source=f"`{path}`")


def match_weights(weights: Mapping[str, Tensor], network: nn.Module, *, source: str = "`weights`") -> dict[str, Tensor]:
    """Find in ``weights`` the value of each parameter and buffer of ``network``, by the names of ``network``.

    Args:
        weights: Tensors by name, as in a ``state_dict``.
        network: The network they are for.
        source: Where they come from, for errors.

    Raises:
        ValueError: As :func:`load_weights`.

    Example:
        >>> sorted(match_weights({"net.weight": torch.ones(2, 3), "net.bias": torch.ones(2)}, nn.Linear(3, 2)))
        ['bias', 'weight']
    """
    own = _own_tensors(network)
    given = without_prefix(
        {plain_key(name): value for name, value in weights.items()}, [plain_key(name) for name in own]
    )
    if alone := _adapter_alone(network, own, given):
        own = alone
    else:
        rounded = _refuse_other_rounding(network, own, given, source)
        own = {name: tensor for name, tensor in own.items() if name not in rounded}
        given = {name: value for name, value in given.items() if name not in {plain_key(n) for n in rounded}}
    adapter_given = any(_ADAPTER.search(name) for name in given)
    matched: dict[str, Tensor] = {}
    for name, tensor in own.items():
        if _ADAPTER.search(name) and not adapter_given:
            # The first factor keeps its own values: it does not matter while the second is zero.
            if _SECOND_FACTOR.search(name):
                matched[name] = torch.zeros(tensor.shape, dtype=torch.float32)
        elif (value := given.get(plain_key(name))) is not None:
            matched[name] = value
    _refuse_misfits(matched, given, own, network, source)
    return matched


@contextmanager
def swapped_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Give ``network`` other weights, in place. Afterwards it has its own again, bit for bit, also after an exception.

    Parameters stay the same objects, so optimizers, hooks and wrappers are not affected. Under FSDP2 each process writes
    its own shards.

    Args:
        network: The live network, whose weights are kept on the CPU meanwhile.
        weights: From :func:`load_weights` or :func:`match_weights`.

    Example:
        >>> layer = nn.Linear(3, 2, bias=False)
        >>> own = layer.weight.detach().clone()
        >>> with swapped_weights(layer, {"weight": torch.ones(2, 3)}):
        ...     print(layer.weight.sum().item())
        6.0
        >>> torch.equal(layer.weight, own)
        True
    """
    own = _own_tensors(network)
    # By identity: a tied weight has several names, but is saved and written once.
    pairs = {id(own[name]): (own[name], value) for name, value in weights.items()}
    drop_copies(network)  # FSDP2's gathered copy would hide what is written into the shards
    saved = [(tensor, local(tensor).detach().to("cpu", copy=True)) for tensor, _ in pairs.values()]
    try:
        with torch.inference_mode(False), torch.no_grad():
            for tensor, value in pairs.values():
                local(tensor).copy_(_share(value, tensor))
        yield
    finally:
        with uninterrupted(), torch.inference_mode(False), torch.no_grad():
            drop_copies(network)
            for tensor, value in saved:
                local(tensor).copy_(value)


def _refuse_other_rounding(
    network: nn.Module, own: Mapping[str, Tensor], given: Mapping[str, Tensor], source: str
) -> set[str]:
    """Refuse weights in few bits that are not the network's: packed codes cannot be copied over. Returns their names."""
    rounded = {name for name, p in network.named_parameters(remove_duplicate=False) if is_low_bit(p)}
    # Scales are in the state, but are no parameters.
    state = {n: v for n, v in network.state_dict().items() if n in rounded or n not in own} if rounded else {}
    for name, value in state.items():
        other = given.get(plain_key(name))
        if other is None or not torch.equal(other.cpu(), value.cpu()):
            raise ValueError(
                "Weights should be swapped in a network of floating-point parameters, or be those of an adapter of the same "
                f"base in the same few bits. Found that `{plain_key(name)}` of {source} is not the network's. Give another "
                "adapter of this base (`SavePretrained(folder)`), load the network without `quantization`, or leave the "
                "control out."
            )
    return set(state)


def _adapter_alone(network: nn.Module, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of ``network`` an adapter's own file is for, if ``given`` is of one and the base stays as it is; else nothing.

    PEFT writes embeddings that have an adapter beside it.
    """
    ends = [m for m in (input_embedding(network), output_head(network)) if m is not None]
    embeddings = {id(p) for module in ends for p in module.parameters()}
    of_adapter = {name for name in own if in_adapter(name)}
    beside = {n for n, t in own.items() if id(t) in embeddings and plain_key(n) in given and "original_module" not in n}
    of_base = {plain_key(n) for n in own.keys() - of_adapter - beside} - {plain_key(n) for n in of_adapter}
    frozen = not any(p.requires_grad and not in_adapter(name) for name, p in network.named_parameters())
    if not frozen or of_base & given.keys() or not any(_ADAPTER.search(name) for name in given):
        return {}
    return {name: tensor for name, tensor in own.items() if name in of_adapter | beside}


def _own_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers, under each of their names: a file may hold a tied weight under any of them."""
    saved = network.state_dict().keys()
    buffers = {n: b for n, b in network.named_buffers(remove_duplicate=False) if n in saved}
    return {**dict(network.named_parameters(remove_duplicate=False)), **buffers}


def plain_key(name: str) -> str:
    """A name without the prefixes of PEFT, ``torch.compile`` and FSDP, and as PEFT writes it: without the adapter's own."""
    return _ADAPTERS_NAME.sub(r"\1", _WRAPPERS.sub("", name)).replace("_magnitude_vector.weight", "_magnitude_vector")


def without_prefix(given: Mapping[str, Tensor], own: Iterable[str] | nn.Module) -> dict[str, Tensor]:
    """``given`` without the prefix that fits most names of ``own``, such as a LightningModule's name for its network.

    Or with it, if it is ``own`` that has one: weights of the bare network for a module that wraps it. Where ``own`` is a
    network, a tied weight is given under each of its names: a file may hold it under any of them.

    Example:
        >>> without_prefix({"network.bias": torch.ones(1)}, ["bias"])
        {'bias': tensor([1.])}
        >>> without_prefix({"bias": torch.ones(1)}, ["network.bias"])
        {'network.bias': tensor([1.])}
    """
    if isinstance(own, nn.Module):
        return _under_each_name(given, dict(own.named_parameters(remove_duplicate=False)))
    own = list(own)
    prefix = _prefix(given, own)
    if prefix is None:
        inner = _prefix(own, given) or ""
        return {f"{inner}{name}": value for name, value in given.items()}
    return {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}


def _under_each_name(given: Mapping[str, Tensor], own: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    found = without_prefix(given, own)
    held = {id(own[name]): value for name, value in found.items() if name in own}
    return {**{name: held[id(p)] for name, p in own.items() if id(p) in held}, **found}


def _prefix(outer: Iterable[str], inner: Iterable[str]) -> str | None:
    """What stands before most names of ``inner`` in ``outer``; ``None`` if none of them is there."""
    inner = list(inner)
    ends = Counter(
        name.removesuffix(mine) for name in outer for mine in inner if name == mine or name.endswith(f".{mine}")
    )
    return max(ends, key=lambda p: ends[p], default=None)


def _refuse_misfits(
    matched: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    network: nn.Module,
    source: str,
) -> None:
    reached = {id(own[name]) for name in matched}  # a tied weight is there if any of its names is
    # An adapter's weights may be missing, since it is set to add nothing; but not DoRA's magnitudes, which scale the base.
    adapter = {name for name in own if _ADAPTER.search(name) and "magnitude" not in name}
    parameters = {name: p for name, p in network.named_parameters() if name in own}
    missing = [plain_key(name) for name, p in parameters.items() if id(p) not in reached and name not in adapter]
    ignored = getattr(network, "_keys_to_ignore_on_load_unexpected", None) or []
    known = {plain_key(name) for name in own}
    left_over = [name for name in given if name not in known and not any(re.search(key, name) for key in ignored)]
    shapes = [
        f"{plain_key(name)} {tuple(value.shape)} instead of {tuple(own[name].shape)}"
        for name, value in matched.items()
        if value.shape != own[name].shape
    ]
    problems = [
        f"{len(names)} {what} ({visible(', '.join(names[:3]))}{', ...' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("left over", left_over), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise ValueError(
            f"Weights should be those of a `{type(network).__name__}` of the same size, by the same names. Found in "
            f"{source}: {'; '.join(problems)}. Give a model of the same class and settings, with its adapter, if any, "
            "merged (`SavePretrained(merge_adapter=True)`)."
        )


def _share(value: Tensor, tensor: Tensor) -> Tensor:
    """The part of ``value`` that belongs to this process: all of it, or the shard that it holds of ``tensor``."""
    if not isinstance(tensor, DTensor):
        return value
    whole = value.to(tensor.device, tensor.dtype)
    # `src_data_rank=None`: every process has read the whole file, so nothing needs to be sent.
    return distribute_tensor(whole, tensor.device_mesh, tensor.placements, src_data_rank=None).to_local()
