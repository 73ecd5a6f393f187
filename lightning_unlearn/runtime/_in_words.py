"""What an object was made with, in words, to tell whether it would do the same again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_unlearn.runtime._checksum import checksum, tensor_checksum


def in_words(value: Any) -> str:
    """Type and public attributes of an object, and theirs: the same words in each process, other ones of other settings.

    Of tensors and networks their bits, of functions and classes the name, of anything else that has no attributes the type
    alone. What a metric has counted does not count.

    Example:
        >>> from lightning_unlearn.audits import Measure
        >>> from lightning_unlearn.metrics import Loss, TokenNLL
        >>> in_words(Measure({"loss": Loss()})) == in_words(Measure({"loss": Loss()}))
        True
        >>> in_words(Measure({"loss": Loss()})) == in_words(Measure({"loss": TokenNLL()}))
        False
    """
    return _words(value, ())


def _words(value: Any, around: tuple[int, ...]) -> str:
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None), PurePath, re.Pattern)):
        return repr(value)
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, (np.ndarray, np.generic)):
        return f"{value.dtype}{value.shape}{_words(value.tolist(), around)}"
    if id(value) in around:
        return "..."
    around = (*around, id(value))
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_words(k, around)}: {_words(v, around)}' for k, v in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(_words(item, around) for item in value)})"
    if isinstance(value, Set):
        return f"{{{', '.join(sorted(_words(item, around) for item in value))}}}"
    if isinstance(value, Tensor):
        return f"{value.dtype}{tuple(value.shape)}#{tensor_checksum(value.detach())}"
    if isinstance(value, partial):
        return f"partial({_words([value.func, value.args, value.keywords], around)})"
    if (name := getattr(value, "__qualname__", None)) is not None:  # a class or a function
        return f"{value.__module__}.{name}"
    return f"{type(value).__qualname__}({', '.join(f'{k}={_words(v, around)}' for k, v in _settings(value).items())})"


def _settings(value: Any) -> dict[str, Any]:
    if isinstance(value, nn.Module) and not isinstance(value, Metric):
        return {"layers": repr(value), "weights": checksum(value)}
    if hasattr(value, "name_or_path"):  # a tokenizer: its tables are as long as a book
        return {name: getattr(value, name, None) for name in ("name_or_path", "vocab_size", "chat_template")}
    named = vars(value) if hasattr(value, "__dict__") else {}
    if is_dataclass(value):
        named = {f.name: getattr(value, f.name) for f in fields(value)}  # those with slots, too
    counted = value._defaults if isinstance(value, Metric) else ()
    return {name: of for name, of in named.items() if name[0] != "_" and name not in counted}
