from __future__ import annotations

from collections.abc import Callable, Mapping

from lightning_unlearn.audits._replies import Reply, accepted_answers
from lightning_unlearn.audits._scores import observed
from lightning_unlearn.audits.leakage.scores import ContainsAnswer
from lightning_unlearn.audits.leakage.styles import AnswerStyle
from lightning_unlearn.data import Probe
from lightning_unlearn.functional.settings import check_named
from lightning_unlearn.observation import Observation


class SaidInStyles:
    """Whether facts that are not said as asked are said in another style.

    Args:
        styles: By name.
    """

    def __init__(self, styles: Mapping[str, AnswerStyle]) -> None:
        check_named("styles", styles, AnswerStyle, example='{"brief": Phrased("{question} Be brief.")}')
        if not styles:
            raise ValueError(
                "`styles` should hold at least one style. Found none. Leave it out, or use the default ones."
            )
        self.styles = styles

    def definitions(self) -> dict[str, str]:
        """The meaning of each metric."""
        return {
            **{f"style_{name}": style.in_words for name, style in self.styles.items()},
            "any_style": "How often the model says the right answer in at least one style of asking.",
            "superficial": "How often the model says the right answer in some other style, and not as it was asked.",
        }

    def observe(
        self, split: str, probe: Probe, as_asked: Mapping[int, Reply], ask: Callable[[Probe], dict[int, Reply]]
    ) -> list[Observation]:
        """Ask ``probe`` in each style. Collective.

        Args:
            split: Name of the probe.
            probe: With rows in words.
            as_asked: What was said to its own questions.
            ask: Asks a probe.
        """
        observations: list[Observation] = []
        right = accepted_answers(probe, as_asked)
        plain = {number: ContainsAnswer()(reply.text, right[number]) for number, reply in as_asked.items()}
        elsewhere = dict.fromkeys(plain, 0.0)
        for name, style in self.styles.items():
            asked = style.ask(probe.rows or ())
            replies = ask(probe.asked([each.row for each in asked]))
            known = {n: float(judge(reply.text)) for n, reply in replies.items() if (judge := asked[n].known)}
            texts = {number: reply.text for number, reply in replies.items()}
            observations += observed(split, probe, f"style_{name}", known, texts=texts)
            if not style.by_chance:
                elsewhere |= {number: max(score, elsewhere.get(number, 0.0)) for number, score in known.items()}
        anywhere = {number: max(score, plain.get(number, 0.0)) for number, score in elsewhere.items()}
        beyond = {number: score - plain.get(number, 0.0) for number, score in anywhere.items()}
        observations += observed(split, probe, "any_style", anywhere)
        return observations + observed(split, probe, "superficial", beyond)
