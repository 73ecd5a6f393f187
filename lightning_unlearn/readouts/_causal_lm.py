from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.prediction import IGNORED, Prediction
from lightning_unlearn.readouts._base import Readout, content_key


class CausalLMReadout(Readout):
    """Run a Hugging Face causal language model, bare or wrapped by PEFT, and read it at supervised positions only.

    The hidden states are gathered at the positions that predict a label *before* the output head: a batch of ``B`` rows
    of ``T`` tokens, ``N`` of them supervised, costs ``N x V`` logits instead of ``B x T x V``. This is done by a hook on
    the head for the length of one call, so whatever the model does behind its head (scaling, soft caps) still happens.
    Where the head cannot be found, or does not see one hidden state per position, the full logits are computed and
    gathered: the same to rounding.

    A batch is a mapping with ``input_ids [B, T]`` and ``labels [B, T]`` (not shifted, -100 where not supervised);
    ``attention_mask`` and whatever else the model's ``forward`` takes go through.

    Args:
        keep_features: Keep the gathered hidden states as ``Prediction.features``.

    References:
        Label convention: `Hugging Face, causal language modelling
        <https://huggingface.co/docs/transformers/tasks/language_modeling>`_.
    """

    def __init__(self, keep_features: bool = False) -> None:
        self.keep_features = keep_features

    @override
    def find_network(self, module: nn.Module) -> nn.Module:
        """The first PEFT or Hugging Face model inside ``module``, outermost first."""
        for candidate in module.modules():
            if is_language_model(candidate):
                return candidate
        raise ValueError(
            f"`CausalLMReadout` should find a Hugging Face model inside the module. Found none in `{type(module).__name__}`."
            " Use the readout that fits your network, for example `ClassificationReadout()`."
        )

    @override
    def __call__(self, network: nn.Module, batch: Any) -> Prediction:
        labels = _labels(batch)
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        supervised = labels[:, 1:] != IGNORED
        head = _output_head(network)
        gathered: list[Tensor] = []
        with _gathering(head, supervised, gathered), _eager_if_compiled(network):
            logits = network(**inputs, use_cache=False).logits
        if logits.dim() == 3:
            logits = logits[:, :-1][supervised]
        example = supervised.nonzero()[:, 0]
        features = gathered[0] if self.keep_features and gathered else None
        return Prediction(logits, labels[:, 1:][supervised], example, batch_size=len(labels), features=features)

    @override
    def keys(self, batch: Any) -> list[str]:
        labels = _labels(batch).cpu()
        tokens = batch["input_ids"].cpu()
        mask = batch.get("attention_mask")
        present = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.cpu().bool()
        return [content_key(t[p], y[p]) for t, y, p in zip(tokens, labels, present, strict=True)]


def is_language_model(module: nn.Module) -> bool:
    """Whether ``module`` is a Hugging Face model with a language-model head, or a PEFT model around one."""
    from transformers import PreTrainedModel

    if hasattr(module, "peft_config") and hasattr(module, "get_base_model"):
        return True
    return isinstance(module, PreTrainedModel) and _output_head(module) is not None


def _labels(batch: Any) -> Tensor:
    if not isinstance(batch, Mapping) or "input_ids" not in batch or "labels" not in batch:
        found = f"a mapping with keys {list(batch)}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
        raise ValueError(
            f"A batch should be a mapping with `input_ids` and `labels`. Found {found}. "
            "`QuestionAnswerData` makes such batches; or return them from your own `collate_fn`."
        )
    labels: Tensor = batch["labels"]
    return labels


def _output_head(network: nn.Module) -> nn.Module | None:
    try:
        head = network.get_output_embeddings()  # type: ignore[operator]  # a method of every Hugging Face model
    except (AttributeError, NotImplementedError):
        return None
    return head if isinstance(head, nn.Module) else None


@contextmanager
def _gathering(head: nn.Module | None, supervised: Tensor, gathered: list[Tensor]) -> Iterator[None]:
    """Let ``head`` see only the hidden states at ``supervised [B, T-1]`` positions."""

    def gather(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden = args[0] if args else None
        positions = (supervised.shape[0], supervised.shape[1] + 1)
        if not isinstance(hidden, Tensor) or hidden.dim() != 3 or tuple(hidden.shape[:2]) != positions:
            return None
        gathered.append(hidden[:, :-1][supervised])
        return gathered[-1], *args[1:]

    handle = None if head is None else head.register_forward_pre_hook(gather)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def _eager_if_compiled(network: nn.Module) -> AbstractContextManager[Any]:
    """A hook put on an already compiled module is silently ignored, so compiled parts run eagerly here."""
    compiled = any(getattr(m, "_compiled_call_impl", None) is not None for m in network.modules())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()
