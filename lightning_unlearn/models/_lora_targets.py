"""Names of layers for an adapter, compared with those of the network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

_SHOWN = 8
ALL_LINEAR = "all-linear"


def refuse_unknown_targets(network: nn.Module, targets: Any) -> None:
    """Refuse target modules that the network does not have, and say which come close.

    Raises:
        ValueError: If one of a list, or a pattern, names no module of ``network``.
    """
    names = [name for name, _ in network.named_modules() if name]
    for target in [targets] if isinstance(targets, str) else targets:
        if target != ALL_LINEAR and not _named(names, target, is_pattern=isinstance(targets, str)):
            raise ValueError(
                f"`target_modules` should name layers of the network. Found {target!r}, which none of them is called. "
                f"{_advice(network, target)}"
            )


def check_targets(targets: Any) -> None:
    """Refuse target modules that are no names, or a pattern that is none."""
    if not isinstance(targets, str | list | tuple | set) or not targets or not all(isinstance(t, str) for t in targets):
        raise ValueError(
            f'`target_modules` should be "{ALL_LINEAR}", a list of names, or a regular expression. Found `{targets!r}`.'
        )
    try:
        re.compile(targets if isinstance(targets, str) else "")
    except re.error as error:
        raise ValueError(
            f"`target_modules` should be a regular expression, or a list of names. Found `{targets!r}`: {error}."
        ) from error


@contextmanager
def explained(network: nn.Module, targets: Any) -> Iterator[None]:
    """Say in one sentence which layer cannot have an adapter: PEFT prints the layer, with all that is in it."""
    try:
        yield
    except ValueError as error:
        unsupported = re.match(r"Target module (\w+)\(", str(error))
        if unsupported is None:
            raise
        # Not `from error`: its text is what is to be spared.
        raise ValueError(
            f"`target_modules` should name layers with a weight matrix. Found `{targets!r}`, which names a "
            f"`{unsupported[1]}`. {_advice(network, str(targets))}"
        ) from None


def _named(names: list[str], target: str, *, is_pattern: bool) -> bool:
    if is_pattern:
        return any(re.fullmatch(target, name) for name in names)
    return any(name == target or name.endswith(f".{target}") for name in names)


def _has_matrix(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.dim() > 1


def _advice(network: nn.Module, target: str) -> str:
    ends = sorted({name.rpartition(".")[2] for name, module in network.named_modules() if name and _has_matrix(module)})
    close = get_close_matches(target, ends, n=3, cutoff=0.5)
    shown = close or ends[:_SHOWN]
    more = "" if close or len(ends) <= _SHOWN else ", ..."
    listed = ", ".join(f"`{end}`" for end in shown) + more
    return f'{"Close" if close else "Its layers"}: {listed}. Or use "{ALL_LINEAR}".'
