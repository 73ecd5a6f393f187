from __future__ import annotations

import re

from torch import nn

from lightning_unlearn.models.layers._blocks import blocks
from lightning_unlearn.models.layers._names import plain_name


def one_module(network: nn.Module, pattern: str) -> nn.Module:
    r"""The one module whose name, or the end of whose name between dots, a regular expression fits.

    Wrappers of ``torch.compile``, FSDP1 and checkpointing do not count as parts of a name.

    Args:
        network: Where to look.
        pattern: As a user gives it as ``layer``: ``"layers.7"``, ``r"h\.7"``.

    Raises:
        ValueError: If it fits no module, or several, or is no regular expression.

    Example:
        >>> one_module(nn.Sequential(nn.Linear(1, 2), nn.ReLU()), "1")
        ReLU()
    """
    try:
        compiled = re.compile(rf"(.*\.)?(?:{pattern})")
    except re.error as error:
        raise ValueError(f"`layer` should be a regular expression. Found `layer = {pattern!r}`: {error}.") from error
    named: dict[str, nn.Module] = {plain_name(name): module for name, module in network.named_modules()}
    fitting = [name for name in named if compiled.fullmatch(name)]
    if len(fitting) == 1:
        return named[fitting[0]]
    candidates = ", ".join(f"`{plain_name(name)}`" for name in (fitting or list(blocks(network)))[:20])
    raise ValueError(
        f"`layer` should fit the name of one module. Found {len(fitting)} with `layer = {pattern!r}`. "
        f"{'They are' if fitting else 'There are'} {candidates}."
    )
