from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import compress
from typing import Any

from torch import nn
from typing_extensions import override

from lightning_unlearn.audits._base import Audit, observations_of
from lightning_unlearn.audits._scores import in_data_order
from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.metrics import RefusalRate
from lightning_unlearn.models import load_tokenizer
from lightning_unlearn.observation import Observation
from lightning_unlearn.prediction import IGNORED
from lightning_unlearn.readouts import Readout, greedy_answers, has_answer, is_language_model
from lightning_unlearn.runtime import Misfit


class Generation(Audit):
    """Let the network answer by itself, and count refusals: ``refusals``, 1 for a refusal and 0 for any other answer.

    The question of a row is all that stands before its first label. Answers are decoded greedily, up to the model's own
    end token, the tokenizer's, or the special token that ends the answers of the data. On harmless questions
    of the same form as those that must go, as from :class:`DecoupledQuestion`, the mean is the safe-answer refusal rate
    (SARR).

    Args:
        tokenizer: As in :class:`QuestionAnswerData`.
        judge: What counts as a refusal. Defaults to ``RefusalRate()``.
        max_new_tokens: Longer answers are cut off there.

    Raises:
        ValueError: When it is run, if the network is no language model.

    Example:
        >>> audit = Generation("bundled", max_new_tokens=24)  # RecoveryCheck(audits=[Measure(), audit])
        >>> audit
        Generation(max_new_tokens=24)
    """

    def __init__(self, tokenizer: str, judge: RefusalRate | None = None, max_new_tokens: int = 64) -> None:
        check_whole("max_new_tokens", max_new_tokens)
        self.tokenizer = load_tokenizer(tokenizer)
        self.judge = RefusalRate() if judge is None else judge
        self.max_new_tokens = max_new_tokens

    @override
    def definitions(self) -> dict[str, str]:
        return {"refusals": self.judge.in_words}

    @override
    def __call__(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> list[Observation]:
        if not is_language_model(network):
            raise Misfit(
                "`Generation` should get a language model, which can answer. Found "
                f"`{type(network).__name__}`. Leave it out of `audits`."
            )
        ask = partial(
            greedy_answers,
            network,
            max_new_tokens=self.max_new_tokens,
            # Answers end at different lengths, but a sharded network must run equally often on every rank.
            in_step=engine.world_size > 1,
        )
        observations: list[Observation] = []
        about = {"higher_means_known": self.judge.higher_means_known, "bounds": (0.0, 1.0)}
        for split, probe in probes.items():
            observations += observations_of(split, probe, "refusals", self._verdicts(ask, probe, engine), **about)
        return observations

    def _verdicts(self, ask: Any, probe: Probe, engine: GradientEngine) -> list[float]:
        verdicts: dict[int, float] = {}
        for batch, index, counts in probe.batches:
            on_device = engine.to_device(batch)
            answers = engine.forward(partial(ask, end=self._ends(batch)), on_device)
            if counts:  # otherwise these examples belong to another rank, and are run here only to keep in step
                texts = [self.tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]
                asked = compress(index.tolist(), has_answer(on_device))
                verdicts |= {i: float(self.judge.is_refusal(text)) for i, text in zip(asked, texts, strict=True)}
        return in_data_order(verdicts)

    def _ends(self, batch: Any) -> set[int]:
        """The special tokens that end the answers of ``batch``, which may be a template's own, and the tokenizer's end."""
        added = self.tokenizer.added_tokens_decoder
        special = {*self.tokenizer.all_special_ids, *(token for token, about in added.items() if about.special)}
        last = {int(row[row != IGNORED][-1]) for row in batch["labels"] if (row != IGNORED).any()}
        return (last & special) | ({self.tokenizer.eos_token_id} - {None})
