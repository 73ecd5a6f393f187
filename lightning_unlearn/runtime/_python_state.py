"""What modules keep as plain attributes: counters, lists, hidden states, states of metrics, own random generators."""

from __future__ import annotations

import operator
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any
from weakref import ProxyType, ReferenceType

import numpy as np
import torch
from torch import Tensor, nn

from lightning_unlearn.runtime._kept_tensors import KeptTensors
from lightning_unlearn.runtime._sharding import local

_LONG = 1000
"""A list of more entries is a record of steps past: its entries are put back, but what is inside of them is not."""

_UNCHANGING = {bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, torch.layout}
_UNCHANGING |= {FunctionType, BuiltinFunctionType, MethodType, type, range, slice}
_UNCHANGING |= {ProxyType, ReferenceType}
_TORCHS_OWN = frozenset(vars(nn.Module())) - {"training"}  # parameters, buffers, submodules, hooks
_MISSING = object()


class PythonState:
    """Remembers the plain attributes of all modules in ``module``, and puts them back.

    Put back are: which object an attribute holds, and that there were no others; the entries of lists, dictionaries, sets
    and deques; the values of arrays and of tensors without a graph; random generators; train and eval modes. It follows
    collections, and objects that hold nothing but data, such as a running average. Objects stay the same: others may
    refer to them. A tensor with a graph is put back as it is, graph included, and its values are not copied.

    Nothing is copied that is not written to, but for tensors, arrays, and the references in collections.

    Example:
        >>> module = nn.Linear(1, 1)
        >>> module.seen = seen = [1]
        >>> state = PythonState(module)
        >>> module.seen.append(2)
        >>> module.hidden = torch.zeros(1)
        >>> state.put_back()
        >>> module.seen is seen, seen, hasattr(module, "hidden")
        (True, [1], False)
    """

    def __init__(self, module: nn.Module) -> None:
        self._namespaces: list[tuple[dict[str, Any], dict[str, Any], frozenset[str]]] = []
        self._others: list[Callable[[], None]] = []
        tensors: list[Tensor] = []
        seen: dict[int, Any] = {}  # the objects themselves, or an id could be given to another one
        left: list[Any] = list(module.modules())
        while left:
            value = left.pop()
            if type(value) in _UNCHANGING or id(value) in seen:
                continue
            seen[id(value)] = value
            if isinstance(value, Tensor):
                tensors += [value] if _has_values(value) else []
            else:
                left.extend(self._inside(value))
        self._tensors = KeptTensors(tensors)

    def put_back(self) -> None:
        """Put everything back."""
        for now, then, of_torch in self._namespaces:
            for name in [name for name in now if name not in then and name not in of_torch]:
                del now[name]
            for name, value in then.items():
                if now.get(name, _MISSING) is not value:
                    now[name] = value
        for put_back in self._others:
            put_back()
        self._tensors.put_back()

    def _inside(self, value: Any) -> Iterator[Any]:
        """Remember the entries of ``value``, and give those that could change in place."""
        if isinstance(value, nn.Module):
            # A module in a list, or hidden behind one: its own modules are not among those we started with.
            yield from value.children() if type(value).__name__ != "FullyShardedDataParallel" else ()
            # FSDP1 lets a plain attribute stand in for a parameter while it is gathered.
            yield from self._attributes(value.__dict__, _TORCHS_OWN.union(value._parameters))
        elif isinstance(value, (list, deque)):
            self._others.append(_of_sequence(value))
            yield from value if len(value) <= _LONG else ()
        elif isinstance(value, dict):
            self._others.append(_of_mapping(value))
            yield from value.values()
        elif isinstance(value, set):
            self._others.append(_of_set(value))
        elif isinstance(value, tuple):
            yield from value
        elif (put_back := _of_numbers(value)) is not None:
            self._others.append(put_back)
        elif _holds_data(value):
            yield from self._attributes(value.__dict__, frozenset())

    def _attributes(self, now: dict[str, Any], of_torch: frozenset[str]) -> list[Any]:
        then = {name: value for name, value in now.items() if name not in of_torch}
        self._namespaces.append((now, then, of_torch))
        return list(then.values())


def _of_sequence(now: Any) -> Callable[[], None]:
    then = list(now)

    def put_back() -> None:
        now.clear()
        now.extend(then)

    return put_back


def _of_mapping(now: dict[Any, Any]) -> Callable[[], None]:
    then = dict(now)
    # The methods of the base class: a `Counter` adds in `update`, and others refuse it.
    kind: Any = OrderedDict if isinstance(now, OrderedDict) else dict

    def put_back() -> None:
        same = operator.is_
        if len(now) == len(then) and all(map(same, now, then)) and all(map(same, now.values(), then.values())):
            return
        kind.clear(now)
        kind.update(now, then)

    return put_back


def _of_set(now: set[Any]) -> Callable[[], None]:
    then = set(now)

    def put_back() -> None:
        if now != then:
            now.clear()
            now.update(then)

    return put_back


def _of_numbers(value: Any) -> Callable[[], None] | None:
    """What puts back an array or a random generator; ``None`` for anything else."""
    if isinstance(value, np.ndarray):
        array = value.copy()
        return lambda: np.copyto(value, array)
    if isinstance(value, torch.Generator):
        numbers = value.get_state()
        return lambda: value.set_state(numbers) and None
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator.state
        return lambda: setattr(value.bit_generator, "state", bits)
    if isinstance(value, np.random.RandomState):
        old = value.get_state()
        return lambda: value.set_state(old)
    if isinstance(value, random.Random):
        state = value.getstate()
        return lambda: value.setstate(state)
    return None


_LIBRARIES = {"torch", "lightning", "pytorch_lightning", "transformers", "peft", "bitsandbytes", "torchao"}
_DATA = (*_UNCHANGING, Tensor, np.ndarray, np.generic, list, tuple, dict, set, frozenset, deque)


def _has_values(tensor: Tensor) -> bool:
    """Whether a tensor's values may change in place: not with a graph, and not where FSDP1 has freed what it looks at."""
    return not tensor.requires_grad and tensor.layout is torch.strided and local(tensor).untyped_storage().nbytes() > 0


def _holds_data(value: Any) -> bool:
    """Whether an object is a mere holder of data, as a running average is, and not of a library that has its own use."""
    held = getattr(value, "__dict__", None)
    if type(held) is not dict or type(value).__module__.partition(".")[0] in _LIBRARIES:
        return False
    return bool(held) and all(isinstance(v, _DATA) for v in held.values())
