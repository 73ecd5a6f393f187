from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate

from typing_extensions import override

from lightning_unlearn.data.records import FileRecords, MarkedAnswer, QuestionAnswer, Record, Records
from lightning_unlearn.data.relearning._chosen import ChosenRecords
from lightning_unlearn.functional.overlap import contained_share, ngram_share, words_of
from lightning_unlearn.functional.settings import check_between, check_kind, check_whole


class TraceJudge(ABC):
    """Which steps of a chain of thought tell what must go. No model is called in here: verdicts of one are read by field."""

    @abstractmethod
    def __call__(self, steps: Sequence[str], record: Record, row: QuestionAnswer) -> list[bool]:
        """A verdict on each of ``steps``; ``row`` is the question with its final answer."""


class GivenVerdicts(TraceJudge):
    """Verdicts that stand in a field: a list with one for each step, as a person or a model has written them.

    Args:
        field: The field.

    Example:
        >>> row = QuestionAnswer("Who?", "Ada", entity="Ada", source="row 0")
        >>> GivenVerdicts("tells")(["Ada.", "So."], Record({"tells": [True, False]}, 0, "row 0"), row)
        [True, False]
    """

    def __init__(self, field: str = "verdicts") -> None:
        self.field = field

    @override
    def __call__(self, steps: Sequence[str], record: Record, row: QuestionAnswer) -> list[bool]:
        given = record[self.field]
        if not isinstance(given, list) or len(given) != len(steps):
            raise ValueError(
                f"`{self.field}` of {record.source} should be a list with one verdict for each of {len(steps)} steps. Found "
                f"{given!r}."
            )
        return [bool(verdict) for verdict in given]


class TellsAnswer(TraceJudge):
    """A step tells if it holds the final answer word by word, or shares runs of words with it.

    Args:
        share: Least share of the answer's runs of ``n`` words.
        n: Words in a run.

    Example:
        >>> row = QuestionAnswer("Where?", "in Sandrel Point", entity="Ada", source="row 0")
        >>> TellsAnswer()(["She was born in Sandrel Point.", "So there."], Record({}, 0, "row 0"), row)
        [True, False]
    """

    def __init__(self, share: float = 0.5, n: int = 2) -> None:
        check_between("share", share, 0, 1)
        check_whole("n", n)
        self.share, self.n = share, n

    @override
    def __call__(self, steps: Sequence[str], record: Record, row: QuestionAnswer) -> list[bool]:
        answer = words_of(row.answer)
        told = [words_of(step) for step in steps]
        whole = (bool(answer) and contained_share([answer], [words]) == 1 for words in told)
        runs = (len(answer) >= self.n and ngram_share([answer], [words], self.n) >= self.share for words in told)
        return [bool(one or other) for one, other in zip(whole, runs, strict=True)]


class Majority(TraceJudge):
    """What more than half of several judges say.

    Args:
        judges: An odd number of them.
    """

    def __init__(self, judges: Sequence[TraceJudge]) -> None:
        if len(judges) % 2 == 0:
            raise ValueError(f"`judges` should be an odd number of judges. Found {len(judges)}.")
        self.judges = tuple(judges)

    @override
    def __call__(self, steps: Sequence[str], record: Record, row: QuestionAnswer) -> list[bool]:
        verdicts = [judge(steps, record, row) for judge in self.judges]
        return [2 * sum(of_step) > len(verdicts) for of_step in zip(*verdicts, strict=True)]


class ReasoningSpans(ChosenRecords):
    r"""Chains of thought of which only the steps that tell what must go are forgotten, and the answer with them.

    The answer of a row is its steps, joined, and the final answer; marked, and so supervised, are the steps that a judge
    names, and the final answer. All else is read, and neither learnt nor forgotten. For replacements of those steps, see
    :class:`RewrittenTrace`.

    Args:
        records: Rows with a list of steps, which may be texts or objects with ``text``.
        judge: Which steps tell. Defaults to :class:`TellsAnswer`.
        trace: Field with the steps.
        form: How thought and answer are put together.

    Raises:
        ValueError: If a row has no list of steps.

    Example:
        >>> from lightning_unlearn.data import InMemoryRecords
        >>> thought = ["The question is about Ada.", " She was born at sea.", " So:"]
        >>> rows = InMemoryRecords([{"question": "Where was Ada born?", "trace": thought, "answer": "born at sea"}])
        >>> row = ReasoningSpans(rows).questions()[0]
        >>> [row.answer[slice(*span)] for span in row.spans]
        [' She was born at sea.', 'born at sea']

    References:
        Le et al., `Selective Forgetting for Large Reasoning Models <https://arxiv.org/abs/2604.03571>`_, 2026; rebuilt from
        its abstract. Its judges are language models with retrieval; here they are an interface.
    """

    def __init__(
        self,
        records: FileRecords | Records,
        judge: TraceJudge | None = None,
        trace: str = "trace",
        form: str = "{trace} {answer}",
    ) -> None:
        check_kind("records", records, Records, example='FileRecords("traces.jsonl")')
        if judge is not None:
            check_kind("judge", judge, TraceJudge, example="TellsAnswer()")
        before, found, rest = form.partition("{trace}")
        between, also, after = rest.partition("{answer}")
        if not found or not also:
            raise ValueError(f"`form` should hold `{{trace}}` and then `{{answer}}`. Found `form = {form!r}`.")
        super().__init__(records)
        self.judge, self.trace, self.form = TellsAnswer() if judge is None else judge, trace, form
        self._around = (before, between, after)

    @property
    @override
    def name(self) -> str:
        return self.pool.name

    @override
    def choose(self, records: list[Record]) -> list[Record]:
        return records

    @override
    def parse(self, record: Record) -> MarkedAnswer:
        row, steps = self.pool.parse(record), self._steps(record)
        before, between, after = self._around
        verdicts = self.judge(steps, record, row)
        parts = [before, *steps, between, row.answer, after]
        marked = [False, *verdicts, False, True, False]
        ends = list(accumulate(map(len, parts)))
        spans = tuple(
            (end - len(part), end) for part, end, one in zip(parts, ends, marked, strict=True) if one and part
        )
        return MarkedAnswer(row.question, "".join(parts), row.entity, row.source, row.before, spans=spans)

    def _steps(self, record: Record) -> list[str]:
        steps = record[self.trace]
        told = (
            [step.get("text") if isinstance(step, dict) else step for step in steps] if isinstance(steps, list) else []
        )
        texts = [text for text in told if isinstance(text, str)]
        if not texts or len(texts) < len(told):
            raise ValueError(
                f"`{self.trace}` of {record.source} should be a list of steps: texts, or objects with `text`. Found "
                f"`{type(steps).__name__}`."
            )
        return texts
