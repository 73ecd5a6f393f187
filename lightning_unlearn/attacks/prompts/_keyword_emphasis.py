from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.attacks._base import BatchLoss
from lightning_unlearn.attacks.prompts._prompt_attack import PromptAttack
from lightning_unlearn.data import Encoding, QuestionAnswer
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_kind, check_whole
from lightning_unlearn.readouts import CausalLMReadout, Readout
from lightning_unlearn.runtime import eval_without_grad


class KeywordEmphasis(PromptAttack):
    r"""The words of the question on which the answer hangs most are named again behind it, with emphasis.

    A word's contribution is what the answer loses without it,

    .. math:: C(x_i, y) = \mathrm{LP}(x, y) - \mathrm{LP}(x \setminus x_i, y), \qquad
        \mathrm{LP}(x, y) = \frac{1}{T} \sum_k \log p(y_k \mid x, y_{<k})

    found by one forward pass over the question and itself without each of its words. This takes the right answer to find the
    words, so it is an auditor's attack; the prompt itself holds only words of the question. They are found on the first
    network that is asked, in a fit the original, and kept: control and model are asked in the same words. (A resumed fit
    finds them anew.)

    Args:
        encoding: How questions and answers become tokens: that of the data.
        numbers: How many words are emphasised.
        readout: How the network is run.

    Raises:
        ValueError: When it asks outside of the attack, where there is no network.

    Example:
        >>> from lightning_unlearn import TinyCausalLM
        >>> attack = KeywordEmphasis(Encoding("bundled"), numbers=[2])
        >>> row = QuestionAnswer("Who employs Ada?", "The post office", entity="Ada", source="row 0")
        >>> with attack(TinyCausalLM(hidden_size=32)) as points:
        ...     asked = [attack.asks([row], split="forget", point=k)[0].question for k in points]
        >>> asked[0].startswith("Who employs Ada? Pay close attention to these words:")
        True

    References:
        `Understanding the Dilemma of Unlearning for LLMs <https://arxiv.org/abs/2509.24675>`_, 2025: contribution tracking
        and the emphasis on key tokens; how many of them count is rebuilt from a summary.
    """

    unit = "words"

    def __init__(self, encoding: Encoding, numbers: Sequence[int] = (1, 3), readout: Readout | None = None) -> None:
        check_kind("encoding", encoding, Encoding, example='Encoding("bundled")')
        for number in numbers:
            check_whole("numbers", number)
        if not numbers:
            raise ValueError("`numbers` should hold at least one number of words. Found none.")
        self.encoding, self.numbers = encoding, tuple(sorted(numbers))
        self.readout = CausalLMReadout() if readout is None else readout
        self._at_hand: tuple[nn.Module, GradientEngine] | None = None
        self._ranked: dict[QuestionAnswer, list[str]] = {}

    @property
    @override
    def points(self) -> Sequence[int]:
        return self.numbers

    @override
    @contextmanager
    def __call__(
        self,
        network: nn.Module,
        *,
        batches: Iterable[Any] = (),
        loss: BatchLoss | None = None,
        engine: GradientEngine | None = None,
    ) -> Iterator[Iterator[float]]:
        self._at_hand = network, GradientEngine(network) if engine is None else engine
        try:
            yield iter(self.points)
        finally:
            self._at_hand = None

    @override
    def reword(self, row: QuestionAnswer, point: float) -> QuestionAnswer:
        if row not in self._ranked:
            self._ranked[row] = self._by_contribution(row)
        key = ", ".join(self._ranked[row][: int(point)])
        return replace(row, question=f"{row.question} Pay close attention to these words: {key}.")

    @override
    def wording(self, point: float) -> str:
        return f"Words on which the answer hangs most, named again behind the question: {int(point)}."

    def contributions(self, row: QuestionAnswer) -> Tensor:
        """What the mean log-likelihood of the answer loses without each word of the question, ``[words]`` on the CPU."""
        if self._at_hand is None:
            raise ValueError(
                "`KeywordEmphasis` should ask inside of the attack: `with attack(network) as points: ...`."
            )
        network, engine = self._at_hand
        words = row.question.split()
        without = [replace(row, question=" ".join(words[:i] + words[i + 1 :])) for i in range(len(words))]
        batch = self.encoding.collate()([self.encoding(one) for one in (row, *without)])
        # Every rank asks about every row: a sharded network runs in step, and all find the same words.
        with eval_without_grad(network):
            told = engine.forward(lambda b: self.readout(network, b), engine.to_device(batch))
            likelihood = -told.example_nll() / told.rows_per_example().clamp_min(1)
        return (likelihood[0] - likelihood[1:]).cpu()

    def _by_contribution(self, row: QuestionAnswer) -> list[str]:
        words = row.question.split()
        if len(words) < 2:
            return words
        order = self.contributions(row).argsort(descending=True, stable=True).tolist()
        bare = [words[i].strip(".,;:!?\"'()") for i in order]
        return list(dict.fromkeys(word for word in bare if word))
