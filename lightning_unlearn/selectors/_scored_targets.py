from __future__ import annotations

from torch import nn
from typing_extensions import override

from lightning_unlearn.functional.settings import check_kind
from lightning_unlearn.models import Targets
from lightning_unlearn.models._lora_targets import unfit
from lightning_unlearn.models.layers import is_linear, output_heads, own_matrices, plain_name
from lightning_unlearn.selectors._base import Selector
from lightning_unlearn.selectors._chosen import Choice


class ScoredTargets(Targets):
    """The linear layers whose weights a selector scores highest get an adapter: ``LoRA(target_modules=ScoredTargets(...))``.

    They are chosen when the adapter is made, before there is a fit: only by selectors that need no data, such as
    :class:`ConditionNumber`, :class:`LastLayers`, :class:`TopUpdate` and the control, :class:`Random`. To choose by data,
    put an adapter on all layers and give the selector to :class:`TrainOnly`: it trains those factors alone. The output head
    gets none, as with ``"all-linear"``, nor do weights in few bits, which no selector scores before there is an adapter.

    Args:
        selector: Scores weights, by tensor.
        choice: Chooses among the scores of linear layers, and of no others.

    Raises:
        ValueError: If the selector needs data; when the adapter is made, if it scores single elements, or nothing is chosen.

    Example:
        >>> from lightning_unlearn.models import LoRA, TinyCausalLM
        >>> from lightning_unlearn.selectors import LastLayers, TopLayers
        >>> network = TinyCausalLM(hidden_size=16, num_hidden_layers=3)
        >>> adapted = LoRA(r=2, target_modules=ScoredTargets(LastLayers(), TopLayers(1))).wrap(network)
        >>> {name.split(".layers.")[1][0] for name, p in adapted.named_parameters() if p.requires_grad}
        {'2'}
    """

    def __init__(self, selector: Selector, choice: Choice) -> None:
        check_kind("selector", selector, Selector, example="ConditionNumber()")
        check_kind("choice", choice, Choice, example="TopShare(0.2)")
        if selector.needs_forget or selector.needs_retain:
            raise ValueError(
                "`ScoredTargets` should get a selector that needs no data: an adapter is made before there are any. Found "
                f"`{type(selector).__name__}`. Put an adapter on all layers, and use `TrainOnly(selector=...)`."
            )
        self.selector, self.choice = selector, choice

    @override
    def names(self, network: nn.Module) -> list[str]:
        heads, unfitting = set(output_heads(network)), set(unfit(network))
        linear = [m for m in own_matrices(network) if is_linear(m.module) and m.module not in heads]
        names = {plain_name(m.name): plain_name(m.layer) for m in linear if m.layer not in unfitting}
        scores = {name: score for name, score in self.selector.scores(network).items() if plain_name(name) in names}
        if any(score.dim() for score in scores.values()):
            raise ValueError(
                f"`ScoredTargets` should get one score for each tensor. Found one for each element, of "
                f'`{type(self.selector).__name__}`. Use `by="tensor"`.'
            )
        chosen = [names[plain_name(name)] for name, is_chosen in self.choice(scores).items() if is_chosen]
        if not chosen:
            raise ValueError(
                f"`ScoredTargets` should choose a linear layer for the adapter. Found none among {len(scores)} that "
                f"`{type(self.selector).__name__}` scores. Choose more."
            )
        return chosen
