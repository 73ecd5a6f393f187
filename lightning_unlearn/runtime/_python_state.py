"""What modules keep as plain attributes: counters, lists, hidden states, states of metrics, own random generators."""

from __future__ import annotations

import operator
import random
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any
from weakref import ProxyType, ReferenceType

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_unlearn.runtime._kept_tensors import KeptTensors
from lightning_unlearn.runtime._sharding import local

_LONG = 1000
"""A list of more entries is a record of steps past: its entries are put back, but what is inside of them is not."""

_UNCHANGING = {bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, torch.layout}
_UNCHANGING |= {FunctionType, BuiltinFunctionType, MethodType, type, range, slice}
_UNCHANGING |= {ProxyType, ReferenceType}
_TORCHS_OWN = frozenset(vars(nn.Module())) - {"training"}  # parameters, buffers, submodules, hooks
_HOOKS_OF_PASSES = [name for name in vars(nn.Module()) if re.fullmatch(r"_(forward|backward)(_pre)?_hooks\w*", name)]


class PythonState:
    """Remembers the plain attributes of all modules in ``module``, and puts them back.

    Put back are: which object an attribute holds, and that there were no others; the entries of lists, dictionaries, sets
    and deques; the values of arrays and of tensors without a graph; random generators; train and eval modes. It follows
    collections, and objects that hold nothing but data, such as a running average. Objects stay the same: others may
    refer to them. A tensor with a graph is put back as it is, graph included, and its values are not copied.

    Hooks of passes that were registered since are taken off: transformers registers some in the first pass that needs them,
    and keeps in an attribute that it did. Without the attribute it would do so again, and record each hidden state twice.

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
        self._namespaces: list[tuple[dict[str, Any], dict[str, Any], int, Collection[str]]] = []
        self._mappings: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self._others: list[Callable[[], object]] = []
        self._next_hook = RemovableHandle.next_id  # they are numbered, in the order in which they are registered
        tensors: list[Tensor] = []
        seen: dict[int, Any] = {}  # the objects themselves, or an id could be given to another one
        left = self._modules(module, seen)
        while left:
            value = left.pop()
            if id(value) in seen:
                continue
            seen[id(value)] = value
            if isinstance(value, Tensor):
                tensors += [value] if _has_values(value) else []
            elif isinstance(value, nn.Module):
                left += self._modules(value, seen)  # one that hides in a list, for example
            else:
                left += [part for part in self._inside(value) if type(part) not in _UNCHANGING]
        self._tensors = KeptTensors(tensors)

    def put_back(self) -> None:
        """Put everything back."""
        if RemovableHandle.next_id != self._next_hook:
            self._take_off_new_hooks()
        for now, then, length, of_torch in self._namespaces:
            if len(now) == length and all(map(operator.is_, map(now.get, then), then.values())):
                continue
            for name in now.keys() - then.keys() - _TORCHS_OWN - set(of_torch):
                del now[name]
            now.update({name: value for name, value in then.items() if name not in of_torch})
        for here, entries in self._mappings:
            if not _has_same_values(here, entries):
                # The methods of the base class: a `Counter` adds in `update`, and others refuse it.
                kind: Any = OrderedDict if isinstance(here, OrderedDict) else dict
                kind.clear(here)
                kind.update(here, entries)
        for put_back in self._others:
            put_back()
        self._tensors.put_back()

    def _take_off_new_hooks(self) -> None:
        for now, *_ in self._namespaces:
            for hooks in filter(None, map(now.get, _HOOKS_OF_PASSES)):
                for number in [number for number in hooks if number >= self._next_hook]:
                    del hooks[number]

    def _modules(self, module: nn.Module, seen: dict[int, Any]) -> list[Any]:
        """Remember the attributes of all modules in ``module``. Returns those that could change in place."""
        # In a network with adapters there are thousands of modules, each with some twenty attributes of torch's own: the
        # work on them is left to operations on whole collections.
        left: list[Any] = []
        for part in module.modules():
            seen[id(part)] = part
            if type(part).__name__ == "FullyShardedDataParallel":
                continue  # its attributes are those of the pass that is running
            now = part.__dict__
            then = {name: now[name] for name in now.keys() - _TORCHS_OWN}
            # FSDP1 lets a plain attribute stand in for a parameter while it is gathered.
            self._namespaces.append((now, then, len(now), tuple(part._parameters)))
            left += [value for value in then.values() if type(value) not in _UNCHANGING]
        return left

    def _inside(self, value: Any) -> Iterable[Any]:
        """Remember the entries of ``value``. Returns those that could change in place."""
        if isinstance(value, dict):
            self._mappings.append((value, dict(value)))
            return value.values()
        if isinstance(value, (list, deque)):
            self._others.append(_of_sequence(value))
            return value if len(value) <= _LONG else ()
        if isinstance(value, tuple):
            return value
        if isinstance(value, set):
            self._others.append(_of_set(value))
        elif (put_back := _of_numbers(value)) is not None:
            self._others.append(put_back)
        elif _holds_data(value):
            now = value.__dict__
            self._namespaces.append((now, dict(now), len(now), ()))
            return list(now.values())
        return ()


def _has_same_values(now: Mapping[Any, Any], then: Mapping[Any, Any]) -> bool:
    """Whether two mappings hold the same objects, in the same order. Without a loop in Python, for there are many."""
    same = operator.is_
    return len(now) == len(then) and all(map(same, now, then)) and all(map(same, now.values(), then.values()))


def _of_sequence(now: Any) -> Callable[[], None]:
    then = list(now)

    def put_back() -> None:
        now.clear()
        now.extend(then)

    return put_back


def _of_set(now: set[Any]) -> Callable[[], None]:
    then = set(now)

    def put_back() -> None:
        if now != then:
            now.clear()
            now.update(then)

    return put_back


def _of_numbers(value: Any) -> Callable[[], object] | None:
    """What puts back an array or a random generator; ``None`` for anything else."""
    if isinstance(value, np.ndarray):
        if not value.flags.writeable:
            return None
        array = value.copy()
        return lambda: np.copyto(value, array)
    if isinstance(value, torch.Generator):
        numbers = value.get_state()
        return lambda: value.set_state(numbers)
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
