"""Names of layers and parameters for an adapter, compared with those of the network."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

_SHOWN = 8
ALL_LINEAR = "all-linear"
_OF_LAYERS = ("target_modules", "exclude_modules", "modules_to_save")
_OF_PATTERNS = ("rank_pattern", "alpha_pattern")


def refuse_unknown(network: nn.Module, settings: Mapping[str, Any]) -> None:
    """Refuse names that the network does not have, and say which come close.

    Args:
        network: Before it has the adapter.
        settings: Of the adapter: which names are meant by ``target_modules`` and the like.

    Raises:
        ValueError: If one of a list, or a pattern, names nothing in ``network``.
    """
    modules = [name for name, _ in network.named_modules() if name]
    for argument in _OF_LAYERS:
        targets = settings[argument] or []
        for target in [targets] if isinstance(targets, str) else targets:
            if target != ALL_LINEAR and not _named(modules, target, is_pattern=isinstance(targets, str)):
                _refuse(argument, "layers", target, _advice(network, target, argument))
    for target in settings["target_parameters"] or []:
        names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
        if not _named(names, target, is_pattern=False):
            # Of experts, a mixture's parameters come first. The end of a name is what is given.
            ends = {end for name, p in network.named_parameters() if p.dim() > 2 for end in _ends(name)}
            _refuse("target_parameters", "parameters", target, _listed(target, ends or {_ends(n)[0] for n in names}))
    for argument in _OF_PATTERNS:
        for key in settings[argument] or {}:
            # As PEFT: `key` is the end of a name, or a pattern of one.
            if not any(re.match(rf"(.*\.)?({key})$", name) for name in modules):
                _refuse(argument, "layers", key, _advice(network, key, argument))


def unfit(network: nn.Module) -> list[str]:
    """Names of linear layers that PEFT takes among all, and that then fail.

    Routers and grouped layers of transformers are subclasses of ``nn.Linear`` with another forward pass, and kernels of
    state-space mixers read the weight of ``out_proj`` past the layer, so PEFT refuses it.
    """
    named = dict(network.named_modules())
    foreign = [name for name, module in named.items() if _has_another_forward(module)]
    read = [f"{name}.out_proj" for name, module in named.items() if hasattr(module, "A_log")]
    return [*foreign, *(name for name in read if name in named)]


def _has_another_forward(module: nn.Module) -> bool:
    kind = type(module)
    ours = isinstance(module, nn.Linear) and kind.__module__.startswith("transformers.models.")
    return ours and kind.forward is not nn.Linear.forward


def _refuse(argument: str, what: str, found: str, advice: str) -> None:
    raise ValueError(
        f"`{argument}` should name {what} of the network. Found {found!r}, which none of them is called. {advice}"
    )


def check_targets(argument: str, targets: Any, *, may_be_pattern: bool = True) -> None:
    """Refuse what cannot be names of layers, or a pattern that is none."""
    allowed: Any = str | list | tuple | set if may_be_pattern else list | tuple | set
    whole = f'"{ALL_LINEAR}", ' if argument == "target_modules" else ""
    choices = f"{whole}a list of names, or a regular expression" if may_be_pattern else "a list of names"
    if not isinstance(targets, allowed) or not targets or not all(isinstance(t, str) for t in targets):
        raise ValueError(f"`{argument}` should be {choices}. Found `{targets!r}`.")
    try:
        re.compile(targets if isinstance(targets, str) else "")
    except re.error as error:
        raise ValueError(
            f"`{argument}` should be a regular expression, or a list of names. Found `{targets!r}`: {error}."
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
            f"`{unsupported[1]}`. {_advice(network, str(targets), 'target_modules')}"
        ) from None


def _named(names: list[str], target: str, *, is_pattern: bool) -> bool:
    if is_pattern:
        return any(re.fullmatch(target, name) for name in names)
    return any(name == target or name.endswith(f".{target}") for name in names)


def _has_matrix(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.dim() > 1


def _advice(network: nn.Module, target: str, argument: str) -> str:
    ends = {name.rpartition(".")[2] for name, module in network.named_modules() if name and _has_matrix(module)}
    return _listed(target, ends) + (f' Or use "{ALL_LINEAR}".' if argument == "target_modules" else "")


def _ends(name: str) -> tuple[str, str]:
    """The last two parts of a name, as experts are given, and the last."""
    parts = name.split(".")
    return ".".join(parts[-2:]), parts[-1]


def _listed(target: str, known: Collection[str]) -> str:
    ends = sorted(known)
    close = get_close_matches(target, ends, n=3, cutoff=0.5)
    shown = close or ends[:_SHOWN]
    more = "" if close or len(ends) <= _SHOWN else ", ..."
    return f"{'Close' if close else 'It has'}: " + ", ".join(f"`{end}`" for end in shown) + f"{more}."
