"""A network with its adapter folded into its weights."""

from __future__ import annotations

import warnings
from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from lightning_unlearn.models._weights import plain_key
from lightning_unlearn.models.adapters import refuse_merging
from lightning_unlearn.models.layers import (
    base_model,
    dequantized,
    in_adapter,
    input_embedding,
    is_low_bit,
    is_transposed,
    output_head,
)
from lightning_unlearn.runtime import eval_without_grad

_PROBED = 16  # tokens, from all over the vocabulary
_HALF = (torch.bfloat16, torch.float16)
_LOST = 0.5  # of the change, from which on another network than the trained one is written


def merged(network: nn.Module) -> nn.Module:
    """A plain copy of a network of PEFT, with the active adapter in its weights; ``network`` stays as it is.

    What is tied is copied first where an adapter is on one side alone: PEFT would change both. A base in few bits is
    dequantised, and the adapter added without rounding again. Both are compared by what they say to a few tokens, unless
    they read none.

    Args:
        network: A ``peft.PeftModel`` with an adapter that can be merged.

    Raises:
        ValueError: If the copy does not say what ``network`` says, or rounding takes most of what training has changed.
        NotImplementedError: If it has an adapter of ours, which is no matrix.
    """
    refuse_merging(network)
    with warnings.catch_warnings():
        # PEFT's, of what is taken care of here.
        warnings.filterwarnings("ignore", r".*`tie_word_embeddings=(True|False)`", UserWarning)
        plain = _merged(network)
    _tie_equal_(plain)
    if _reads_tokens(network):
        _refuse_other_answers(plain, network)
    return plain


def _reads_tokens(network: nn.Module) -> bool:
    """Whether it can be asked: of sound or images only, as Whisper reads, we have none that fit."""
    return getattr(base_model(network), "main_input_name", "input_ids") == "input_ids"


def _merged(network: nn.Module) -> nn.Module:
    copy: Any = _built_anew(network) if _cannot_be_copied(network) else deepcopy(network)
    _untie_adapted_(copy)
    plain: nn.Module = copy.merge_and_unload()
    return plain


def _cannot_be_copied(network: Any) -> bool:
    """Whether a copy would not do: it would be in few bits, too. And PEFT computes factors of a tied head from others."""
    ties = any(getattr(config, "ensure_weight_tying", False) for config in network.peft_config.values())
    return ties or any(is_low_bit(p) for p in network.parameters())


def _built_anew(network: Any) -> Any:
    """The same adapter around a base of plain weights, on the CPU."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    base, name = network.get_base_model(), network.active_adapter
    adapter = deepcopy(network.peft_config[name])
    adapter.init_lora_weights = True  # PiSSA would take its part out of the base a second time
    config = deepcopy(base.config)
    for part in {id(c): c for c in (config, config.get_text_config())}.values():
        part.__dict__.pop("quantization_config", None)
    with isolate_rng():  # both draw initial weights
        plain = type(base)._from_config(config, dtype=config.dtype or torch.float32)
        plain.load_state_dict(_plain_weights(base, plain))
        adapter.fan_in_fan_out = any(is_transposed(module) for module in plain.modules())
        wrapped = get_peft_model(plain, adapter, adapter_name=name)
    set_peft_model_state_dict(wrapped, get_peft_model_state_dict(network, adapter_name=name), adapter_name=name)
    return wrapped


def _plain_weights(base: nn.Module, plain: nn.Module) -> dict[str, Tensor]:
    weights, known = {}, base.state_dict().keys()
    for prefix, module in base.named_modules(remove_duplicate=False):
        for name, tensor in {**module._parameters, **module._buffers}.items():
            full = f"{prefix}.{name}".removeprefix(".")
            if tensor is None or full not in known or in_adapter(full):
                continue
            key = plain_key(full)
            if is_low_bit(tensor) and isinstance(tensor, nn.Parameter):
                tensor = dequantized(tensor, module)
                # GPT-2 holds weights as [in, out], but in few bits as [out, in].
                tensor = tensor.T if is_transposed(plain.get_submodule(key.rpartition(".")[0])) else tensor
            weights[key] = tensor
    return weights


def _untie_adapted_(network: nn.Module) -> None:
    """Give each layer with an adapter weights of its own, if it shares them."""
    adapted = {id(m.get_base_layer()) for m in network.modules() if hasattr(m, "get_base_layer")}  # type: ignore[operator]
    users: dict[int, list[nn.Module]] = {}
    for module in network.modules():
        for tensor in module._parameters.values():
            users.setdefault(id(tensor), []).append(module)
    for module in network.modules():
        for name, tensor in module._parameters.items():
            if tensor is not None and id(module) in adapted and len(users[id(tensor)]) > 1:
                users[id(tensor)].remove(module)
                setattr(module, name, nn.Parameter(tensor.detach().clone(), tensor.requires_grad))


def _tie_equal_(network: nn.Module) -> None:
    """Tie a head and embeddings that were untied for merging, and have come out equal."""
    head: Any = output_head(network)
    embedding: Any = input_embedding(network)
    one, other = getattr(head, "weight", None), getattr(embedding, "weight", None)
    was_tied = getattr(network.config, "tie_word_embeddings", False)
    if was_tied and one is not None and other is not None and one.shape == other.shape and torch.equal(one, other):
        head.weight = embedding.weight


def _refuse_other_answers(plain: Any, network: Any) -> None:
    device, rows = next(network.parameters()).device, network.config.get_text_config().vocab_size
    tokens = torch.linspace(0, rows - 1, _PROBED, device=device).long()[None]
    if next(plain.parameters()).device != device:
        plain.to(device)
    with eval_without_grad(network), eval_without_grad(plain):
        ours, theirs = (_answers(n, tokens) for n in (network, plain))
    error = (theirs - ours).norm()
    if not ours.isfinite().all():  # a network that diverged says nothing that could be compared
        return
    if not error <= (most := _tolerance(network)) * ours.norm():
        raise ValueError(
            f"A merged network should say what the network with its adapter says, to {most:g} of its logits. Found "
            f"{(error / ours.norm()).item():.2g}. Save the adapter without merging it: `SavePretrained(folder)`."
        )
    if plain.dtype in _HALF and error > _LOST * (ours - _without_adapter(network, tokens)).norm():
        raise ValueError(
            f"Merged weights should keep what training has changed. Found that more than half of it is lost when they are "
            f'rounded to {plain.dtype}. Load the base with `dtype="float32"`, or save the adapter without merging it.'
        )


def _answers(network: Any, tokens: Tensor) -> Tensor:
    # An encoder-decoder is shown the same tokens on both sides: T5 would make up none for its decoder.
    base: Any = base_model(network)
    decoder = {"decoder_input_ids": tokens} if base.config.is_encoder_decoder else {}
    logits: Tensor = network(input_ids=tokens, **decoder, use_cache=False).logits.float()
    return logits


def _without_adapter(network: Any, tokens: Tensor) -> Tensor:
    flags = [(p, p.requires_grad) for p in network.parameters()]
    try:
        with eval_without_grad(network), network.disable_adapter():
            return _answers(network, tokens)
    finally:
        for p, flag in flags:  # PEFT makes the whole adapter trainable, also what was frozen
            p.requires_grad_(flag)


def _tolerance(network: nn.Module) -> float:
    """Of the norm of logits: merged weights are rounded, and a layer in few bits rounds its inputs as well."""
    is_rounded = any(is_low_bit(p) or p.dtype in _HALF for p in network.parameters())
    return 0.1 if is_rounded else 1e-3
