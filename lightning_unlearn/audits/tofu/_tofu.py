from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase
from typing_extensions import override

from lightning_unlearn.audits._scoring_audit import Scores, ScoringAudit, SharedScores
from lightning_unlearn.audits.tofu._answers import answered
from lightning_unlearn.audits.tofu._found import DEFINITIONS, found_in
from lightning_unlearn.audits.tofu._questions import TofuScores, of_questions
from lightning_unlearn.audits.tofu._retained import load_retained
from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.compat import Compat, check_compat
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.metrics import ExactMemorization, ExtractionStrength, KnowledgeMetric, TokenNLL
from lightning_unlearn.models import load_tokenizer
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import Misfit


class TOFU(ScoringAudit):
    r"""The metrics of the TOFU benchmark, and how far the network is from one that never knew.

    Asked are the splits ``forget``, ``retain``, ``real_authors`` and ``world_facts``, as far as they are there. Beside each,
    ``<split>_perturbed`` holds wrong answers to the same questions, as many for each, and ``<split>_paraphrased`` the right
    answer in other words: :func:`alternatives` makes all three. Of each question:

    - ``answer_probability``, per token, and ``option_probability`` among the wrong answers;
    - ``truth_ratio_near_one``, ``truth_ratio_true_better`` and ``truth_ratio_true_share``, the three forms in which the truth
      ratio is published;
    - ``extraction_strength`` and ``exact_memorization``;
    - of the answer that the network gives by itself, decoded greedily: ``rouge_l_recall``, ``rouge_l_f`` and ``fluency``
      (:func:`~lightning_unlearn.functional.fluency.ngram_entropy`).

    And of the network: ``forget_quality``, ``forget_ks``, ``forget_degree`` and ``retain_model_distance``, on ``forget``;
    ``model_utility`` and ``retain_utility``, on ``retain``. See :func:`tofu_summary`.

    All that is known of given answers comes from one forward pass per batch, which is shared with other audits of right
    answers. Answers are generated in passes of their own.

    **The retain model** is the control of the :class:`RecoveryCheck`, which is asked once more for it, before anything
    else. Without a control it is a file with the scores of such a model, as :func:`tofu_scores` gives them, by ``json.dump``.

    Args:
        tokenizer: As in :class:`QuestionAnswerData`.
        retain: Path of a JSON file with the scores of a retain model. Defaults to asking the control.
        max_new_tokens: Longer answers are cut off there.
        compat: ``"open-unlearning"`` gives the numbers of its tables: the last token of an answer counts for neither
            extraction strength nor memorisation, and more small things that :class:`ExtractionStrength`,
            :func:`truth_ratio` and :func:`stemmed_words` tell of.

    Raises:
        ValueError: If there is neither a control nor a file; if a split with other answers has another number of rows.

    Example:
        >>> TOFU("bundled", max_new_tokens=24)  # RecoveryCheck(audits=[TOFU(...)], control="runs/retain-only", probes=...)
        TOFU(max_new_tokens=24)

    References:
        Maini et al., `TOFU <https://arxiv.org/abs/2401.06121>`_, 2024; Dorna et al., `OpenUnlearning
        <https://arxiv.org/abs/2506.12618>`_, 2025.
    """

    def __init__(
        self,
        tokenizer: str | PreTrainedTokenizerBase,
        retain: str | None = None,
        max_new_tokens: int = 64,
        compat: Compat | None = None,
    ) -> None:
        check_compat(compat)
        check_whole("max_new_tokens", max_new_tokens)
        self.tokenizer = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
        self.retain = retain
        self.max_new_tokens = max_new_tokens
        self.compat = compat
        self._retained: TofuScores | None = None if retain is None else load_retained(retain)
        self._metrics: dict[str, KnowledgeMetric] = metrics_of_answers(compat)

    @property
    @override
    def needs_control(self) -> bool:
        return self.retain is None

    @override
    def definitions(self) -> dict[str, str]:
        return dict(DEFINITIONS)

    @override
    def see_control(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> None:
        if self.retain is None:
            self._retained = self.of_questions(network, readout=readout, probes=probes, engine=engine)

    def of_questions(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> dict[str, dict[str, list[Any]]]:
        """Scores of each question, by split: see :func:`tofu_scores`, which needs no engine. Collective."""
        scores = SharedScores([self], network, readout, probes, engine).scores_of(self)
        return of_questions(scores, probes, self.compat)

    @override
    def metrics(self, readout: Readout) -> Mapping[str, KnowledgeMetric]:
        if not readout.gives_logits:
            raise Misfit(
                f"`TOFU` should get probabilities of answers. Found `{readout!r}`, which gives the loss of "
                "`training_step` and nothing else. Leave it out of `audits`, or give `RecoveryCheck` a `readout`."
            )
        return self._metrics

    @override
    def besides(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> Mapping[str, Mapping[str, list[Any]]]:
        about = {"max_new_tokens": self.max_new_tokens, "compat": self.compat}
        return answered(network, probes, engine, self.tokenizer, **about)

    @override
    def conclude(self, scores: Mapping[str, Scores], probes: Mapping[str, Probe]) -> list[Observation]:
        if self._retained is None:
            raise Misfit(
                "`TOFU` should have a retain model to compare with. Found neither a control nor a file with its scores. Give "
                '`RecoveryCheck(control="...")`, the weights of a model that was trained without what must go, or '
                '`TOFU(..., retain="scores.json")`, its scores from `tofu_scores`. For probabilities and answers alone use '
                "`Measure` and `Generation`."
            )
        return found_in(of_questions(scores, probes, self.compat), self._retained, probes)


def metrics_of_answers(compat: Compat | None) -> dict[str, KnowledgeMetric]:
    """What one pass over given answers is scored by."""
    return {
        "token_nll": TokenNLL(),
        "extraction_strength": ExtractionStrength(compat=compat),
        "exact_memorization": ExactMemorization(compat=compat),
    }
