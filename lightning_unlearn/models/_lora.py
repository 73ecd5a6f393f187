from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn
from typing_extensions import override

from lightning_unlearn.functional.settings import check_positive, check_whole
from lightning_unlearn.models._extras import require
from lightning_unlearn.models._lora_reach import warn_of_few_weights
from lightning_unlearn.models._lora_targets import ALL_LINEAR, check_targets, explained, refuse_unknown, unfit
from lightning_unlearn.models._targets import Targets
from lightning_unlearn.models.adapters._base import Adapter
from lightning_unlearn.models.layers import is_low_bit, is_transposed

_FROM_THE_BASE = r"olora|pissa(_niter_\d+)?"
_STARTS = rf"True|False|gaussian|orthogonal|{_FROM_THE_BASE}"


@dataclass(frozen=True)
class LoRA(Adapter):
    r"""Train a low-rank change of the weights instead of the weights.

    .. math:: W' = W + \frac{\alpha}{r} B A

    ``B`` starts at zero, so at first the adapter adds nothing. With the adapter switched off, the network is the original
    model, at no cost in memory.

    Args:
        r: Rank, positive.
        alpha: Numerator of the scale.
        dropout: Of the adapter's input, in [0, 1).
        target_modules: Which layers: ``"all-linear"`` (all but the output head), the ends of their names as a list, or a
            regular expression of their full names; or :class:`ScoredTargets`, which chooses them by a selector. With
            ``target_parameters``, the empty list is none.
        seed: Of ``A``; random states stay as they were.
        use_dora: Train the norm of each output's weights apart from their direction (DoRA).
        modules_to_save: Modules that are trained in full, as copies, such as ``["lm_head"]``. A copy of a head that is tied
            to the embeddings is a head of its own.
        exclude_modules: Layers that are left out, given as ``target_modules``.
        target_parameters: The ends of names of parameters that are in no linear layer, such as the experts of a mixture:
            ``["experts.gate_up_proj", "experts.down_proj"]``.
        rank_pattern: Other ranks, by the ends of layers' names or regular expressions of them.
        alpha_pattern: Other scales, likewise.
        bias: Whether biases are trained as well, in the base: ``"all"`` of them, or those of the layers with an adapter,
            ``"lora_only"``. Then switching the adapter off does not give the original.
        init_lora_weights: How it starts: ``True`` and ``"gaussian"`` add nothing. ``"pissa"``, ``"pissa_niter_16"`` and
            ``"olora"`` take a part of the weights out of the base, so that switching the adapter off does not give the
            original; then its likelihoods are cached, or the adapter's start is copied. See PEFT, also for
            ``"orthogonal"``.
        ensure_weight_tying: Whether what is done to one of a tied pair, head and embeddings, is done to the other as well.

    References:
        Hu et al., `LoRA <https://arxiv.org/abs/2106.09685>`_, 2021, section 4.1. Liu et al., `DoRA
        <https://arxiv.org/abs/2402.09353>`_, 2024, section 4.1. Meng et al., `PiSSA <https://arxiv.org/abs/2404.02948>`_,
        2024, section 3.
    """

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: str | list[str] | Targets = "all-linear"
    seed: int = 0
    use_dora: bool = False
    modules_to_save: list[str] | None = None
    exclude_modules: str | list[str] | None = None
    target_parameters: list[str] | None = None
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    bias: Literal["none", "all", "lora_only"] = "none"
    init_lora_weights: bool | str = True
    ensure_weight_tying: bool = False

    def __post_init__(self) -> None:
        check_whole("r", self.r)
        check_positive("alpha", self.alpha)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` should be in [0, 1). Found `dropout = {self.dropout}`.")
        is_chosen_later = isinstance(self.target_modules, Targets)
        if not is_chosen_later and (self.target_modules != [] or not self.target_parameters):
            check_targets("target_modules", self.target_modules)
        for name in ("modules_to_save", "exclude_modules", "target_parameters"):
            if getattr(self, name) is not None:
                check_targets(name, getattr(self, name), may_be_pattern=name == "exclude_modules")
        _check_patterns(self.rank_pattern, self.alpha_pattern)
        self._check_choices()

    def _check_choices(self) -> None:
        if self.bias not in ("none", "all", "lora_only"):
            raise ValueError(f'`bias` should be "none", "all" or "lora_only". Found `bias = {self.bias!r}`.')
        if not re.fullmatch(_STARTS, str(self.init_lora_weights)):
            raise ValueError(
                '`init_lora_weights` should be `True`, `False`, "gaussian", "orthogonal", "olora", "pissa" or '
                f'"pissa_niter_16". Found `{self.init_lora_weights!r}`. For one that needs data or settings of its own, use '
                "`peft.get_peft_model` by hand: any network with an adapter is taken."
            )
        if self.target_parameters and (self.dropout or self.use_dora):
            raise ValueError(
                "`target_parameters` should come without `dropout` and `use_dora`, which PEFT does not have for them. Found "
                f"`dropout = {self.dropout}`, `use_dora = {self.use_dora}`. Leave them out, or the parameters."
            )

    @override
    def wrap(self, network: nn.Module) -> nn.Module:
        """Freeze a transformers model and put the adapter around its layers, in place.

        Args:
            network: A causal language model.

        Returns:
            A ``peft.PeftModel``, only whose low-rank factors are trainable, and what was asked for beside them.

        Raises:
            ValueError: If an argument names something that ``network`` does not have, or that has no weight matrix, or if
                the adapter is to start with a part of weights in few bits.
        """
        if isinstance(self.target_modules, Targets):
            # A pattern: the ends of names, as in a list, might be those of other layers as well.
            pattern = "|".join(re.escape(name) for name in self.target_modules.names(network))
            return replace(self, target_modules=pattern).wrap(network)
        require("peft", purpose="`lora`")
        from peft import LoraConfig, get_peft_model

        refuse_unknown(network, vars(self))
        self._refuse_rounded(network)
        # PEFT gives a language model's wrapper to what generates, and a plain one to what does not.
        task = "CAUSAL_LM" if hasattr(network, "prepare_inputs_for_generation") else None
        config = LoraConfig(task_type=task, **self._options(network))
        with explained(network, self.target_modules), isolate_rng():
            torch.manual_seed(self.seed)
            wrapped: nn.Module = get_peft_model(network, config)
        warn_of_few_weights(wrapped, self.target_modules)
        return wrapped

    def _options(self, network: nn.Module) -> dict[str, Any]:
        own = {name: value for name, value in vars(self).items() if name not in ("alpha", "dropout", "seed")}
        if self.target_modules == ALL_LINEAR and not isinstance(self.exclude_modules, str):
            own["exclude_modules"] = [*(self.exclude_modules or ()), *unfit(network)] or None
        return {
            # Copied, since PEFT adds to some of them: a tied head to the modules that are trained in full.
            **{name: deepcopy(value) for name, value in own.items() if value is not None},
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            # GPT-2's `Conv1D` holds weights as [in, out]; PEFT has to know.
            "fan_in_fan_out": any(is_transposed(module) for module in network.modules()),
        }

    def _refuse_rounded(self, network: nn.Module) -> None:
        takes = re.fullmatch(_FROM_THE_BASE, str(self.init_lora_weights))
        if takes and any(is_low_bit(p) for p in network.parameters()):
            raise ValueError(
                f"`init_lora_weights` should add nothing to weights in few bits. Found {self.init_lora_weights!r}, which "
                "takes a part out of them. Leave it out, or load the network without `quantization`."
            )
        on_cpu = any(type(p).__name__ == "Int8Params" and p.device.type == "cpu" for p in network.parameters())
        if self.use_dora and on_cpu:
            raise ValueError(
                "`use_dora` should be for weights whose norms can be computed. Found int8 weights on the CPU, whose scales "
                'PEFT loses there at the first step. Load the network with `quantization="nf4"`, or on a GPU.'
            )


def _check_patterns(ranks: Mapping[str, Any] | None, alphas: Mapping[str, Any] | None) -> None:
    for name, pattern in (("rank_pattern", ranks), ("alpha_pattern", alphas)):
        if pattern is not None:
            check_targets(name, list(pattern), may_be_pattern=False)
        for key, value in (pattern or {}).items():
            (check_whole if pattern is ranks else check_positive)(f"{name}[{key!r}]", value)
