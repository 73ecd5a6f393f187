from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.audits.inside._as_original import AuditByOriginal, refuse_flat
from lightning_unlearn.audits.inside._numbered import numbered_observation
from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.observation import Observation
from lightning_unlearn.prediction import IGNORED
from lightning_unlearn.readouts import Readout, greedy_answers, has_answer, is_language_model
from lightning_unlearn.runtime import Misfit, eval_without_grad, on_every_rank


class IdempotenceDrift(AuditByOriginal):
    r"""Hand what the model says back to the original: would it have said so?

    .. math:: \frac1T \sum_t \log p_\theta(a_t) - \log p_0(a_t), \qquad a = \text{the model's own greedy answer}

    in nats per token: 0 for the original itself, and for a model that has not drifted where nothing should change. It is
    about what should have stayed: of every split but ``forget``. It sees drift that scores of the right answers do not:
    other words, another style, sudden refusals.

    A fit shows it the original, as :class:`KnowledgeDepth`. Outside of one there is ``original``.

    Args:
        original: Weights of the original, where no fit shows it, as for :class:`KnowledgeDepth`.
        max_new_tokens: Longer answers are cut off there.

    Raises:
        ValueError: When it is run, if the network is no language model, or the original is not known; under FSDP1 and
            DeepSpeed.

    Example:
        >>> IdempotenceDrift(max_new_tokens=16)
        IdempotenceDrift(max_new_tokens=16)

    References:
        The distance of IDER, `Idempotent experience replay <https://github.com/YutingLi0606/Idempotent-Continual-Learning>`_,
        whose second pass goes through the old model; carried over to language models by us.
    """

    def __init__(self, original: str | None = None, max_new_tokens: int = 32) -> None:
        super().__init__(original)
        check_whole("max_new_tokens", max_new_tokens)
        self.max_new_tokens = max_new_tokens

    @override
    def definitions(self) -> dict[str, str]:
        return {
            "idempotence_drift": "How much surer this model is of its own answers than the original is of them; 0 means "
            "that the original would have said the same."
        }

    @override
    def __call__(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> list[Observation]:
        if not is_language_model(network):
            raise Misfit(
                f"`IdempotenceDrift` should get a language model, which can answer. Found `{type(network).__name__}`. Leave "
                "it out of `audits`."
            )
        refuse_flat(engine, "IdempotenceDrift")
        if not self.can_be_original(network):
            return []
        kept = {split: probe for split, probe in probes.items() if split != "forget"}
        said = {
            split: [self._said(network, readout, batch, engine) for batch, _, _ in p.batches]
            for split, p in kept.items()
        }

        def nll(batch: Any) -> Tensor:
            with eval_without_grad(network):
                prediction = engine.forward(lambda b: readout(network, b), engine.to_device(batch))
                return (prediction.example_nll() / prediction.rows_per_example()).cpu().double()

        now = {split: [nll(batch) for batch in batches] for split, batches in said.items()}
        with self.as_original(network):
            before = {split: [nll(batch) for batch in batches] for split, batches in said.items()}
        return [o for split, probe in kept.items() for o in _observed(split, probe, now[split], before[split])]

    def _said(self, network: nn.Module, readout: Readout, batch: Any, engine: GradientEngine) -> Any:
        """The questions of ``batch``, with what the network answers."""
        on_device = engine.to_device(batch)
        answers = iter(
            engine.forward(
                lambda b: greedy_answers(
                    network,
                    b,
                    end=_end(batch),
                    max_new_tokens=self.max_new_tokens,
                    in_step=engine.world_size > 1,
                ),
                on_device,
            )
        )
        nothing = torch.empty(0, dtype=torch.int64)
        return readout.with_answers(batch, [next(answers).cpu() if asked else nothing for asked in has_answer(batch)])


def _end(batch: Any) -> set[int]:
    """The token that ends every answer of the data, if there is one."""
    last = {int(row[row != IGNORED][-1]) for row in batch["labels"] if (row != IGNORED).any()}
    return last if len(last) == 1 else set()


def _observed(split: str, probe: Probe, now: list[Tensor], before: list[Tensor]) -> list[Observation]:
    drift: dict[int, float] = {}
    for (_, index, counts), mine, original in zip(probe.batches, now, before, strict=True):
        if counts:  # else these examples belong to another rank
            found = dict(zip(index.tolist(), (original - mine).tolist(), strict=True))
            drift |= {number: value for number, value in found.items() if value == value}  # NaN: it said nothing
    of_all = {number: value for share in on_every_rank(drift) for number, value in share.items()}
    about = {"higher_means_known": False}
    return [numbered_observation(split, probe, "idempotence_drift", of_all, **about)] if of_all else []
