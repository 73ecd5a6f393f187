"""Which weights an attack, an adapter or a guard reaches, seen from outside: by what changes, not by what ours says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from families_parts._batches import batch
from families_parts._forward import forward
from lightning_unlearn import CrossEntropy, LoRA, Prune, Quantize, Relearn
from lightning_unlearn.guards import input_layers
from lightning_unlearn.readouts import CausalLMReadout

Reached = dict[str, bool]
_DATA = batch(12, [12, 20], shared=2)
_INPUTS = {name: _DATA[name] for name in ("input_ids", "attention_mask")}


def shares(network: nn.Module) -> dict[str, Any]:
    """For each way to change weights, the share that ours says it reaches, and the share that it does.

    Shares are of all numbers in parameters with two axes or more, without embeddings and weights tied to them; for
    ``quantize``, ``prune`` and ``lora``, which leave it alone on purpose, without the output head, too.
    """
    found: dict[str, Any] = {}
    for name, (measure, head) in _MEASURES.items():
        try:
            said, reached = measure(deepcopy(network))
            found[name] = {"said": None if said is None else round(said, 3), **share(network, reached, head=head)}
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {error}"[:200]}
    return found


def share(network: nn.Module, reached: Reached, *, head: bool) -> dict[str, Any]:
    """Of the weights that count, the share that was reached, and the names of the largest that were not."""
    sizes = counted(network, head=head)
    missed = sorted((name for name in sizes if not reached.get(name)), key=lambda name: -sizes[name])
    total = sum(sizes.values())
    true = 1 - sum(sizes[name] for name in missed) / total if total else 1.0
    return {"true": round(true, 3), "missed": missed[:3]}


def counted(network: nn.Module, *, head: bool) -> dict[str, int]:
    """Name and size of each parameter with two axes longer than 1; shared ones once, embeddings not."""
    embeddings = {id(p) for m in network.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    outputs = network.get_output_embeddings() if not head else None
    left_out = embeddings | ({id(p) for p in outputs.parameters()} if outputs is not None else set())
    text = _used(network)
    return {
        name: p.numel()
        for name, p in network.named_parameters()
        if sum(n > 1 for n in p.shape) > 1 and id(p) not in left_out and name in text
    }


def _used(network: nn.Module) -> set[str]:
    """Names of the parameters that text goes through: a model of images and sound has others beside."""
    network.zero_grad()
    CrossEntropy()(CausalLMReadout()(network, _DATA)).backward()
    used = {name for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    with torch.no_grad():  # states that recurrent layers carry along would hold the graph, and could not be copied
        forward(network, **_INPUTS)
    return used


def reached(original: nn.Module, live: nn.Module) -> Reached:
    """For each parameter of ``original``, whether ``live`` computes with something else in its place.

    Either its value differs, or its module, if no module inside of it has weights, answers otherwise to the same inputs.
    """
    calls = _calls(original, live)
    found = {}
    for name, old in original.named_parameters():
        owner, _, own = name.rpartition(".")
        new = getattr(_within(live, owner), own, None)
        differs = isinstance(new, Tensor) and new.shape == old.shape and not torch.equal(new, old)
        found[name] = differs or calls.get(owner, False)
    return found


def _calls(original: nn.Module, live: nn.Module) -> dict[str, bool]:
    """For each module that alone holds its weights, whether it answers otherwise than in ``original`` to the same inputs."""
    leaves = {
        name: m for name, m in original.named_modules() if not any(True for c in m.children() for _ in c.parameters())
    }
    differs: dict[str, bool] = {}
    carried: dict[str, dict[str, Any]] = {}

    def note(name: str, module: nn.Module) -> None:
        # Some recurrent layers carry states from pass to pass, as plain attributes.
        carried[name] = {k: v for k, v in vars(module).items() if v is None or isinstance(v, Tensor)}

    def compare(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        known = vars(leaves[name])
        known.update({k: v for k, v in carried[name].items() if k in known})
        again = leaves[name](*deepcopy(args), **deepcopy(kwargs))
        pairs = zip(_tensors(again), _tensors(output), strict=True)
        differs[name] = differs.get(name, False) or not all(torch.equal(one, other) for one, other in pairs)

    with ExitStack() as stack, torch.no_grad():
        for name in leaves:
            module = _within(live, name)
            before = module.register_forward_pre_hook(lambda m, _, name=name: note(name, m))
            after = module.register_forward_hook(
                lambda _, a, k, out, name=name: compare(name, a, k, out), with_kwargs=True
            )
            stack.callback(before.remove)
            stack.callback(after.remove)
        forward(live, **_INPUTS)
    return differs


def _tensors(output: Any) -> list[Tensor]:
    """Routers give several."""
    return [part for part in (output if isinstance(output, tuple) else (output,)) if isinstance(part, Tensor)]


def _within(network: nn.Module, name: str) -> Any:
    """A module by its name from before peft layers were put around some."""
    module: Any = network
    for part in filter(None, name.split(".")):
        while part not in module._modules and "base_layer" in module._modules:
            module = module.base_layer
        module = getattr(module, part)
    return module


def _attacked(attack: Any) -> Callable[[nn.Module], tuple[float | None, Reached]]:
    def measure(network: nn.Module) -> tuple[float | None, Reached]:
        original, readout = deepcopy(network), CausalLMReadout()
        said = attack.share_reached(network)
        with attack(network, batches=[_DATA], loss=lambda b: CrossEntropy()(readout(network, b))) as points:
            for _ in points:
                pass
            return said, reached(original, network)

    return measure


def _adapted(network: nn.Module) -> tuple[None, Reached]:
    original = deepcopy(network)
    wrapped: Any = LoRA(r=2).wrap(network)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in wrapped.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return None, reached(original, wrapped.get_base_model())


def _guarded(network: nn.Module) -> tuple[None, Reached]:
    covered = {id(p) for layer in input_layers(network, list(network.parameters())) for p in layer.parts}
    return None, {name: id(p) in covered for name, p in network.named_parameters()}


_MEASURES: dict[str, tuple[Callable[[nn.Module], tuple[float | None, Reached]], bool]] = {
    "quantize": (_attacked(Quantize(bits=3)), False),
    "prune": (_attacked(Prune(0.3)), False),
    "adapter": (_attacked(Relearn(steps=2, lr=0.1)), True),
    "full": (_attacked(Relearn(steps=2, lr=0.1, mode="full")), True),
    "lora": (_adapted, False),
    "subspace": (_guarded, True),
}
