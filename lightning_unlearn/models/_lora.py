from __future__ import annotations

from dataclasses import dataclass

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from lightning_unlearn.functional.settings import check_positive, check_whole
from lightning_unlearn.models._extras import require
from lightning_unlearn.models._lora_reach import warn_of_few_weights
from lightning_unlearn.models._lora_targets import check_targets, explained, refuse_unknown_targets
from lightning_unlearn.models.layers import is_transposed


@dataclass(frozen=True)
class LoRA:
    r"""Train a low-rank change of the weights instead of the weights.

    .. math:: W' = W + \frac{\alpha}{r} B A

    ``B`` starts at zero, so at first the adapter adds nothing. With the adapter switched off, the network is the original
    model, at no cost in memory.

    Args:
        r: Rank, positive.
        alpha: Numerator of the scale.
        dropout: Of the adapter's input, in [0, 1).
        target_modules: Which layers: ``"all-linear"`` (all but the output head), the ends of their names as a list, or a
            regular expression of their full names.
        seed: Of ``A``; random states stay as they were.

    References:
        Hu et al., `LoRA <https://arxiv.org/abs/2106.09685>`_, 2021, section 4.1.
    """

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("r", self.r)
        check_positive("alpha", self.alpha)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` should be in [0, 1). Found `dropout = {self.dropout}`.")
        check_targets(self.target_modules)

    def wrap(self, network: nn.Module) -> nn.Module:
        """Freeze a transformers model and put the adapter around its layers, in place.

        Args:
            network: A causal language model.

        Returns:
            A ``peft.PeftModel``, only whose low-rank factors are trainable.

        Raises:
            ValueError: If ``target_modules`` names something that ``network`` does not have, or that has no weight matrix.
        """
        require("peft", purpose="`lora`")
        from peft import LoraConfig, get_peft_model

        refuse_unknown_targets(network, self.target_modules)
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.target_modules,
            # GPT-2's `Conv1D` holds weights as [in, out]; PEFT has to know.
            fan_in_fan_out=any(is_transposed(module) for module in network.modules()),
        )
        with explained(network, self.target_modules), isolate_rng():
            torch.manual_seed(self.seed)
            wrapped: nn.Module = get_peft_model(network, config)
        warn_of_few_weights(wrapped, self.target_modules)
        return wrapped
