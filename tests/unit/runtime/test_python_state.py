"""What modules keep as plain attributes is put back, the same objects, whatever kind they are of."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_unlearn.runtime import KeptTensors, PythonState


class Holder:
    def __init__(self) -> None:
        self.value, self.parts = 1, {"inner": [1, 2]}


def with_graph() -> torch.Tensor:
    return torch.ones(2, requires_grad=True) * 2


# Name, the attribute, and what a pass might do to it in place.
CHANGES: dict[str, tuple[Any, Any]] = {
    "list": (lambda: [1, 2], lambda v: v.append(3)),
    "list of lists": (lambda: [[1], [2]], lambda v: v[0].append(3)),
    "long list": (lambda: list(range(5000)), lambda v: v.append(3)),
    "dictionary": (lambda: {"a": 1}, lambda v: v.update(a=2, b=3)),
    "dictionary of tensors": (lambda: {"a": torch.ones(2)}, lambda v: v["a"].mul_(2)),
    "ordered dictionary": (lambda: OrderedDict(a=1, b=2), lambda v: v.move_to_end("a")),
    "default dictionary": (lambda: defaultdict(list), lambda v: v["new"].append(1)),
    "set": (lambda: {1, 2}, lambda v: v.add(3)),
    "tuple of tensors": (lambda: (torch.ones(2), torch.zeros(1)), lambda v: v[1].add_(1)),
    "tensor": (lambda: torch.ones(2), lambda v: v.add_(1)),
    "tensor, resized": (lambda: torch.ones(2), lambda v: v.resize_(5)),
    "tensor, other data": (lambda: torch.ones(2), lambda v: setattr(v, "data", torch.zeros(3))),
    "tensor, expanded": (lambda: torch.ones(2, 1).expand(2, 3), lambda v: v[:, :1].mul_(2)),
    "array": (lambda: np.ones(2), lambda v: v.fill(3)),
    "holder of data": (Holder, lambda v: (setattr(v, "value", 2), v.parts["inner"].append(3))),
    "namespace": (lambda: SimpleNamespace(count=1), lambda v: setattr(v, "count", 2)),
    "module in a list": (lambda: [nn.BatchNorm1d(2)], lambda v: (setattr(v[0], "calls", 1), v[0].eval())),
    "generator": (lambda: torch.Generator().manual_seed(1), lambda v: torch.rand(3, generator=v)),
    "numpy's generator": (lambda: np.random.default_rng(1), lambda v: v.random(3)),
}


def content(value: Any) -> Any:
    """By value, to compare with later: an oracle that knows each kind."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.tolist()
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, np.random.Generator):
        return str(value.bit_generator.state)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return [(k, content(v)) for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return [content(v) for v in value]
    if isinstance(value, nn.Module):
        return value.training, [name for name in vars(value) if name == "calls"]
    return content(vars(value)) if hasattr(value, "__dict__") else repr(value)


@pytest.mark.parametrize("kind", CHANGES)
def test_what_changed_in_place_is_put_back_into_the_same_object(kind: str) -> None:
    make, change = CHANGES[kind]
    module = nn.Sequential(nn.Linear(1, 1))
    module[0].kept = kept = make()
    before = content(kept)
    state = PythonState(module)
    change(kept)
    assert content(kept) != before
    state.put_back()
    assert module[0].kept is kept
    assert content(kept) == before


def test_what_cannot_be_written_to_is_left_alone() -> None:
    module = nn.Linear(1, 1)
    module.table = np.broadcast_to(np.ones(1), 3)
    state = PythonState(module)
    state.put_back()
    assert module.table.tolist() == [1, 1, 1]


def test_other_objects_and_new_and_missing_attributes() -> None:
    module = nn.Linear(1, 1)
    module.hidden, module.count, module.gone = hidden, _, _ = with_graph(), 1, None
    state = PythonState(module)
    module.hidden, module.count, module.new = with_graph(), 2, torch.ones(1)
    del module.gone
    state.put_back()
    assert module.hidden is hidden
    assert hidden.grad_fn is not None
    assert module.count == 1
    assert not hasattr(module, "new")
    assert module.gone is None


def test_modes_of_each_module() -> None:
    module = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    state = PythonState(module)
    module.train()
    state.put_back()
    assert [m.training for m in module.modules()] == [True, True, False]


def test_weights_and_submodules_are_not_its_business() -> None:
    module = nn.Sequential(nn.Linear(1, 1))
    state = PythonState(module)
    module.append(nn.ReLU())
    module[0].weight.data.fill_(3)
    state.put_back()
    assert len(module) == 2
    assert module[0].weight.item() == 3


HOOKS = {
    "_forward_hooks": lambda m: m.register_forward_hook(lambda *_, **__: None, with_kwargs=True, always_call=True),
    "_forward_pre_hooks": lambda m: m.register_forward_pre_hook(lambda *_, **__: None, with_kwargs=True),
    "_backward_hooks": lambda m: m.register_full_backward_hook(lambda *_: None),
    "_backward_pre_hooks": lambda m: m.register_full_backward_pre_hook(lambda *_: None),
}


@pytest.mark.parametrize("kind", HOOKS)
def test_new_hooks_are_taken_off_and_the_others_stay(kind: str) -> None:
    module = nn.Sequential(nn.Linear(1, 1))
    first = HOOKS[kind](module[0])
    before = {name: list(value) for name, value in vars(module[0]).items() if "hooks" in name}
    state = PythonState(module)
    second, third = HOOKS[kind](module[0]), HOOKS[kind](module)
    assert list(getattr(module[0], kind)) == [first.id, second.id]
    state.put_back()
    assert {name: list(value) for name, value in vars(module[0]).items() if "hooks" in name} == before
    assert list(getattr(module[0], kind)) == [first.id]
    assert not getattr(module, kind)
    second.remove()  # by whoever has registered it, when it is gone already
    third.remove()
    module(torch.ones(1, 1, requires_grad=True)).sum().backward()


def test_hooks_that_a_first_pass_registers_are_registered_once() -> None:
    """As transformers does, to record hidden states: an attribute says that they are there."""

    class Recording(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.seen = nn.Linear(1, 1), []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not hasattr(self, "installed"):
                self.layer.register_forward_hook(lambda *_: self.seen.append(1))
                self.installed = True
            return self.layer(x)

    module = Recording()
    state = PythonState(module)
    module(torch.ones(1, 1))
    state.put_back()
    assert module.seen == []
    module(torch.ones(1, 1))
    assert module.seen == [1]


def test_a_graph_that_has_saved_a_tensor_stays_valid() -> None:
    weight, factor = torch.ones(2, requires_grad=True), torch.full((2,), 3.0)
    out = (weight * factor).sum()
    kept = KeptTensors([factor])
    factor.data.add_(1)
    kept.put_back()
    out.backward()  # torch would refuse it, had the version of `factor` moved
    assert weight.grad is not None
    assert weight.grad.tolist() == [3, 3]


def test_tensors_made_in_inference_mode_and_snapshots_taken_there() -> None:
    module = nn.Linear(1, 1)
    with torch.inference_mode():
        module.seen = torch.ones(2)
        module.other = [torch.ones(1)]
        state = PythonState(module)
        module.seen.add_(1)
        module.other[0].add_(1)
    state.put_back()
    assert module.seen.tolist() == [1, 1]
    assert module.other[0].tolist() == [1]
