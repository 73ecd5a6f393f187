from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.attacks._base import Attack, BatchLoss, Need
from lightning_unlearn.attacks._held import hooks
from lightning_unlearn.attacks._perturbed import refuse_flattened
from lightning_unlearn.attacks._runs_as_original import RunsAsOriginal
from lightning_unlearn.data import FactSplit
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_kind
from lightning_unlearn.models.layers import blocks, eager_if_compiled, one_module
from lightning_unlearn.runtime import eval_without_grad


class AblateDirection(RunsAsOriginal, Attack):
    r"""Take out of hidden states the one direction in which unlearning has moved them, layer by layer. No step is trained.

    .. math:: h \leftarrow h - \langle h, d_l \rangle \, d_l, \qquad
        d_l = \frac{\delta_l}{\lVert \delta_l \rVert}, \qquad \delta_l = \mathbb{E} \, h_l^\theta - \mathbb{E} \, h_l^{0}

    The means are over all positions of the attacker's data but padding, of this model and of the original. Forgetting that
    only adds something to the states, such as a signal to refuse or to say noise, is undone by it. It costs two passes over
    the attacker's data, and needs a model that still knows: it asks whether the knowledge is there, as an audit does, not
    what a stranger can do.

    The attacker's data should not be what the model is judged by: give ``facts``, or data of their own. Where a layer's
    states did not move, as before the first step, nothing changes, not one bit.

    Args:
        layers: Each the name of one layer, or the end of its name, as a regular expression: ``["layers.7"]``. It gives
            hidden states, ``[B, D]`` or ``[B, T, D]``. ``None`` for every block of the network.
        data: In checks, the name of its data in ``RecoveryCheck(attack_data={name: data})``, or in a datamodule; ``None``
            for those that attacks take otherwise.
        facts: In checks, find the directions on some of the facts only, and be judged by the others.
        original: Weights of the original, where no fit shows it: a Lightning checkpoint, a ``.safetensors`` file, or a
            Hugging Face folder.

    Raises:
        ValueError: If there is no data, the network has no blocks, a layer is not found or gives no hidden states, or the
            original is not known.
        NotImplementedError: Under FSDP1 and DeepSpeed.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> _ = layer.weight.data.copy_(torch.eye(2)), layer.bias.data.zero_()
        >>> network, attack = nn.Sequential(layer), AblateDirection(["0"])
        >>> attack.see_original(network)
        >>> _ = layer.bias.data.copy_(torch.tensor([0.0, 5.0]))
        >>> x = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
        >>> with attack(network, batches=[x], loss=lambda x: network(x).sum()) as points:
        ...     list(points), network(x).tolist()
        ([1], [[1.0, 0.0], [3.0, 0.0]])

    References:
        Łucki et al., `An Adversarial Perspective on Machine Unlearning for AI Safety <https://arxiv.org/abs/2409.18025>`_,
        2024; the projection is that of Arditi et al., `Refusal in Language Models Is Mediated by a Single Direction
        <https://arxiv.org/abs/2406.11717>`_, 2024, eq. 4.
    """

    family: ClassVar[str] = "latent"
    unit: ClassVar[str] = "layers"
    needs_data: Need | None = "attack"

    def __init__(
        self,
        layers: list[str] | None = None,
        *,
        data: str | None = None,
        facts: FactSplit | None = None,
        original: str | None = None,
    ) -> None:
        if isinstance(layers, str) or layers == []:
            raise ValueError(f'`layers` should be a list of names, such as ["layers.7"]. Found `layers = {layers!r}`.')
        if facts is not None:
            check_kind("facts", facts, FactSplit, example="FactSplit(share=0.5)")
        super().__init__(original)
        self.layers, self.data, self.facts = layers, data, facts

    @override
    @contextmanager
    def __call__(
        self,
        network: nn.Module,
        *,
        batches: Iterable[Any] = (),
        loss: BatchLoss | None = None,
        engine: GradientEngine | None = None,
    ) -> Iterator[Iterator[int]]:
        engine, own, layers = GradientEngine(network) if engine is None else engine, list(batches), self._found(network)
        refuse_flattened(engine, "`AblateDirection`")
        if not own or loss is None:
            raise ValueError(
                "`AblateDirection` should get batches to find directions on, and a loss that runs the network. Found "
                f"{len(own)} batches and {'no' if loss is None else 'a'} loss. Give `ForgetRetainData` forget or attack "
                "data."
            )
        if not self.has_own_frozen_weights(network):
            raise ValueError(
                "`AblateDirection` should find weights that no training changes as the original has them. Found others: of "
                "a control, or of an attack around this one. Give `original`, the path of its weights."
            )
        with torch.inference_mode(False):
            now = _mean_states(network, layers, own, loss, engine)
            with self.as_original(network):
                before = _mean_states(network, layers, own, loss, engine)
        # A compiled graph would not know of the hooks.
        with hooks() as handles, eager_if_compiled(network):
            for layer, here, there in zip(layers, now, before, strict=True):
                handles.append(layer.register_forward_hook(_ablating(here - there)))
            yield iter((len(layers),))

    def _found(self, network: nn.Module) -> list[nn.Module]:
        if self.layers is not None:
            return [one_module(network, name) for name in self.layers]
        if found := list(blocks(network).values()):
            return found
        raise ValueError(
            f"`AblateDirection` should find blocks, modules that repeat in a list. Found none in "
            f"`{type(network).__name__}`. Name some `layers`."
        )


def _mean_states(
    network: nn.Module, layers: Sequence[nn.Module], batches: Iterable[Any], loss: BatchLoss, engine: GradientEngine
) -> list[Tensor]:
    """The mean of what each layer gives, ``[D]`` float64, over the batches of all ranks. Collective."""
    sums: list[Tensor | None] = [None] * len(layers)

    def adding(place: int, batch: Any) -> Any:
        def add(_: nn.Module, args: Any, output: Any) -> None:
            rows = _rows(_states(output), batch).double()
            # The last number counts rows.
            of_batch = torch.cat([rows.sum(0), rows.new_tensor([len(rows)])])
            own = sums[place]
            sums[place] = of_batch if own is None else own + of_batch

        return add

    with eval_without_grad(network), eager_if_compiled(network):
        for batch in batches:
            with hooks() as handles:
                handles += [layer.register_forward_hook(adding(place, batch)) for place, layer in enumerate(layers)]
                engine.forward(loss, batch)
    return [_mean(engine, own) for own in sums]


def _mean(engine: GradientEngine, own: Tensor | None) -> Tensor:
    if own is None:
        raise ValueError("Each of `layers` should run on the batches of the attacker. Found one that did not.")
    total = engine.average(own)
    return total[:-1] / total[-1]


def _states(output: Any) -> Tensor:
    states = output[0] if isinstance(output, tuple) and output else output
    if not isinstance(states, Tensor) or states.dim() not in (2, 3) or not states.is_floating_point():
        found = f"shape {list(states.shape)}" if isinstance(states, Tensor) else f"a {type(states).__name__}"
        raise ValueError(
            f"Each of `layers` should give hidden states, [B, D] or [B, T, D]. Found {found}. Name whole blocks."
        )
    return states


def _rows(states: Tensor, batch: Any) -> Tensor:
    """States of all positions but padding, ``[N, D]``."""
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    if states.dim() == 3 and isinstance(mask, Tensor) and mask.shape == states.shape[:2]:
        return states[mask.bool()]
    return states.flatten(0, -2)


def _ablating(moved: Tensor) -> Any:
    length = moved.norm()
    # Not divided by a tiny number: where nothing moved there is no direction, and nothing to take out.
    direction = moved / length if length > 0 else None

    def ablate(_: nn.Module, args: Any, output: Any) -> Any:
        if direction is None:
            return output
        states = _states(output)
        own = direction.to(torch.promote_types(states.dtype, torch.float32))
        with torch.autocast(states.device.type, enabled=False):
            wide = states.to(own.dtype)
            ablated = (wide - (wide @ own)[..., None] * own).to(states.dtype)
        return (ablated, *output[1:]) if isinstance(output, tuple) else ablated

    return ablate
