from __future__ import annotations

from collections.abc import Mapping, Sequence

from typing_extensions import override

from lightning_unlearn.audits._scoring_audit import Scores, ScoringAudit
from lightning_unlearn.audits.membership._blind import BlindBaseline, blind_baseline
from lightning_unlearn.audits.membership._comparison import Comparison
from lightning_unlearn.audits.membership._logits import refuse_without_logits
from lightning_unlearn.audits.membership._trained_on import refuse_trained_on
from lightning_unlearn.data import Probe
from lightning_unlearn.functional.settings import check_between, check_named
from lightning_unlearn.metrics import KnowledgeMetric, Loss, MinK, MinKPlusPlus, TokenNLL, ZlibRatio
from lightning_unlearn.models import load_tokenizer
from lightning_unlearn.observation import BLIND, Observation
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import Misfit


class Membership(ScoringAudit):
    r"""Whether the network gives away which examples were to go: membership inference against a holdout.

    For each score, from the one forward pass that all scores share:

    - ``membership_auc_<score>``: how often a forget example looks more like training data than a holdout example, with a
      95 % interval (both sets resampled, whole entities at a time). 0.5 is a model that gives nothing away. Near 1 the
      examples are still known. **Near 0 is as bad:** they look *less* known than what nobody was trained on.
    - ``advantage_<score>``: :math:`2 |AUC - 0.5|`.
    - ``tpr_at_1pct_<score>`` and ``tpr_at_0.1pct_<score>``: the share of forget examples that are recognised while that
      share of the holdout is taken for members, with the interval of Clopper and Pearson. It takes examples as independent,
      and the threshold as given; with fewer than 100 (1000) holdout examples, none of them may be taken.

    The report compares all this with a control, and gives PrivLeak for comparison with published tables.

    **The holdout** has to be of the same kind as the forget split: the same form, length and time, drawn at random. Sets
    that differ, such as articles from before and after a date, are told apart without any model. So a classifier that sees
    tokens and lengths only is tested on both first (``blind_auc``), and a holdout that it recognises is refused.

    It is a split among the probes, in code or in YAML: ``RecoveryCheck(probes={"holdout": ...})``, or
    ``ForgetRetainData(probes={"holdout": ...})``, or what another datamodule's ``probe_dataloaders`` gives::

        recovery:
          probes:
            holdout:
              class_path: lightning_unlearn.QuestionAnswerData
              init_args: {records: {path: never_trained_on.jsonl}, encoding: {tokenizer: ...}}

    Args:
        scores: By name. Defaults to ``loss``, ``zlib``, ``min_k`` and ``min_k_plus_plus``; to ``loss`` alone where the
            readout gives the user's own loss and no likelihood.
        holdout: Name of the split of examples that nobody was trained on.
        tokenizer: For the default ``zlib``: compress text instead of token ids, see :class:`ZlibRatio`.
        false_positive_rates: Shares of the holdout that may be taken for members.
        most_blind: The holdout is refused if the blind classifier's AUC is above this with its whole interval; 1 refuses
            none.

    Raises:
        Misfit: If there is no holdout, it shares examples with the forget or the retain split, or the blind classifier
            recognises it. It ends the fit before the first step.

    Example:
        >>> sorted(Membership({"loss": TokenNLL()}, false_positive_rates=[0.01]).definitions())
        ['advantage_loss', 'blind_auc', 'membership_auc_loss', 'tpr_at_1pct_loss']

    References:
        Loss: Yeom et al., `Privacy Risk in Machine Learning <https://arxiv.org/abs/1709.01604>`_, 2018. TPR at a low FPR:
        Carlini et al., `Membership Inference Attacks From First Principles <https://arxiv.org/abs/2112.03570>`_, 2022.
    """

    def __init__(
        self,
        scores: dict[str, KnowledgeMetric] | None = None,
        holdout: str = "holdout",
        tokenizer: str | None = None,
        false_positive_rates: Sequence[float] = (0.01, 0.001),
        most_blind: float = 0.6,
    ) -> None:
        if scores is not None:
            check_named("scores", scores, KnowledgeMetric, example='{"loss": TokenNLL()}')
            if not scores:
                raise ValueError("`scores` should hold at least one metric. Found none. Leave it out for the defaults.")
        check_between("most_blind", most_blind, 0.5, 1)
        self.holdout, self.most_blind = holdout, most_blind
        self.compare = Comparison(holdout, tuple(false_positive_rates))
        self.given, self.tokenizer = scores, tokenizer
        text_of = None if tokenizer is None else load_tokenizer(tokenizer).decode
        self._likelihoods = {
            "loss": TokenNLL(),
            "zlib": ZlibRatio(text_of),
            "min_k": MinK(),
            "min_k_plus_plus": MinKPlusPlus(),
        }
        self._own_loss: dict[str, KnowledgeMetric] = {"loss": Loss()}
        self._seen: Mapping[str, KnowledgeMetric] = {}
        self._blind: dict[tuple[str, str], BlindBaseline | None] = {}

    @override
    def definitions(self) -> dict[str, str]:
        blind = (
            "How well a classifier that sees the texts but not the model tells what must go from the examples that nobody "
            "was trained on. It should be at chance, 0.5: otherwise the two sets differ by themselves."
        )
        words = {BLIND: blind}
        for name, metric in (self.given or self._seen or self._likelihoods).items():
            words |= self.compare.definitions(name, metric.in_words)
        return words

    @override
    def metrics(self, readout: Readout) -> Mapping[str, KnowledgeMetric]:
        if self.given is None:
            self._seen = self._likelihoods if readout.gives_logits else self._own_loss
            return self._seen
        refuse_without_logits(self.given, readout)
        return self.given

    @override
    def refuse(self, probes: Mapping[str, Probe]) -> None:
        self.compare.refuse_missing(probes, "Membership")
        refuse_trained_on(self.holdout, probes)
        self._refuse_recognised(self._told_blindly(probes))

    @override
    def conclude(self, scores: Mapping[str, Scores], probes: Mapping[str, Probe]) -> list[Observation]:
        if not self._blind:  # called without a check, which refuses before it looks
            self.refuse(probes)
        found = self._seen_blindly(probes)
        for name, metric in (self.given or self._seen).items():
            of_splits = {split: of_split[name] for split, of_split in scores.items()}
            found += self.compare(name, of_splits, probes, higher_means_known=metric.higher_means_known)
        return found

    def _seen_blindly(self, probes: Mapping[str, Probe]) -> list[Observation]:
        if (blind := self._told_blindly(probes)) is None:
            return []
        about = {"higher_means_known": True, "bounds": (0.0, 1.0), "interval": blind.interval}
        return [Observation(BLIND, self.compare.both, blind.auc, **about)]  # type: ignore[arg-type]

    def _told_blindly(self, probes: Mapping[str, Probe]) -> BlindBaseline | None:
        """Of these texts, which may be in the words of an attack by prompt; found once."""
        forget, holdout = probes["forget"], probes[self.holdout]
        key = forget.content_hash, holdout.content_hash
        if key not in self._blind:
            self._blind[key] = blind_baseline(forget, holdout)
        return self._blind[key]

    def _refuse_recognised(self, blind: BlindBaseline | None) -> None:
        if blind is None or blind.interval[0] <= self.most_blind:
            return
        raise Misfit(
            f"`{self.holdout}` should hold examples of the same kind as the forget split: the same form, length and time. "
            f"Found that a classifier which never saw the model tells them apart by their tokens and lengths (AUC "
            f"{blind.auc:.2f}, at least {blind.interval[0]:.2f}): membership could not be told from form. Draw both sets at "
            "random from one source before training; or raise `most_blind`, and compare with a control only."
        )
