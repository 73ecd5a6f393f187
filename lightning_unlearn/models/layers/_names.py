from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatch

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Attributes by which ``torch.compile``, FSDP1 and activation checkpointing hold the module that they wrap."""

_WRAPPED = re.compile(rf"({'|'.join(WRAPPERS)})(\.|$)")


def plain_name(name: str) -> str:
    """The name of a module or parameter without what ``torch.compile``, FSDP1 and checkpointing put into it.

    Example:
        >>> plain_name("_orig_mod.layers.0._checkpoint_wrapped_module.weight")
        'layers.0.weight'
    """
    return _WRAPPED.sub("", name).removesuffix(".")


def name_fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of ``fnmatch`` patterns fits a full name, or any part of it between dots.

    Example:
        >>> name_fits("layers.0.q_proj", ["q_*"]), name_fits("layers.0.q_proj", ["layers.0"])
        (True, False)
    """
    return any(fnmatch(part, pattern) for pattern in patterns for part in (name, *name.split(".")))
