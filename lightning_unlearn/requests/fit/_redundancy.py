from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lightning_unlearn.data import QuestionAnswer, Records, Similarity, TfIdf
from lightning_unlearn.functional.settings import check_between, check_kind, check_not_negative
from lightning_unlearn.requests._parsed import Parsed
from lightning_unlearn.requests._request_fit import Job
from lightning_unlearn.requests.fit._losses import row_losses


@dataclass(frozen=True)
class Dropped:
    """A row that was left out.

    Args:
        row: Its number in the request.
        similarity: To the row before it that it is most alike.
        difference: Of the loss of the request with it and without it.
    """

    row: int
    similarity: float
    difference: float


class RedundancyFilter:
    """Leaves out rows of a request that say again what was asked for already.

    A row goes if it is as alike as ``threshold`` to a row of an earlier request, or to one of the same request that stays,
    and if the loss of the request (the mean over its supervised tokens) moves by no more than ``tolerance`` without it. One
    row always stays. Only training leaves them out: gates and audits ask for all rows.

    In a request of many rows a single one hardly moves the mean, and the loss test lets nearly all that is alike go.

    Args:
        similarity: How alike two rows are; :class:`SentenceModel` for embeddings of a language model.
        threshold: From which on they are.
        tolerance: In nats a token.

    Example:
        >>> RedundancyFilter(threshold=0.8)
        RedundancyFilter(TfIdf(), threshold=0.8, tolerance=0.2)

    References:
        Xu et al., `FIT <https://arxiv.org/abs/2601.21682>`_, 2026. Its code compares pieces of text, the last of them 8
        characters long; here a row is a piece.
    """

    def __init__(self, similarity: Similarity | None = None, threshold: float = 0.9, tolerance: float = 0.2) -> None:
        self.similarity = TfIdf() if similarity is None else similarity
        check_kind("similarity", self.similarity, Similarity, example="TfIdf()")
        check_between("threshold", threshold, -1, 1)
        check_not_negative("tolerance", tolerance)
        self.threshold, self.tolerance = threshold, tolerance

    def __call__(self, job: Job) -> tuple[Records, list[Dropped]]:
        """The rows that stay, and those that do not, with why."""
        rows = job.request.records.questions()
        alike = self._alike(rows, [row for request in job.earlier for row in request.records.questions()])
        losses, tokens = row_losses(job.network, job.request.records, job.encoding)
        stay, dropped = list(range(len(rows))), []
        for number in range(len(rows)):
            # Of rows of the same request, those before it that stay.
            near = max([alike[number][0], *(alike[number][1][other] for other in stay if other < number)])
            others = [other for other in stay if other != number]
            if near < self.threshold or not others:
                continue
            with_it, without = (float(losses[kept].sum() / tokens[kept].sum()) for kept in (stay, others))
            if abs(with_it - without) <= self.tolerance:
                stay = others
                dropped.append(Dropped(number, round(near, 6), round(abs(with_it - without), 6)))
        return Parsed([rows[number] for number in stay]), dropped

    def _alike(self, rows: list[QuestionAnswer], before: list[QuestionAnswer]) -> list[tuple[float, list[float]]]:
        """Of each row, how alike it is to the nearest of ``before``, and to each of ``rows``."""
        texts = [f"{row.question} {row.answer}" for row in rows]
        found = self.similarity(texts, [*(f"{row.question} {row.answer}" for row in before), *texts]).tolist()
        return [(max(each[: len(before)], default=-1.0), each[len(before) :]) for each in found]

    def __repr__(self) -> str:
        return f"RedundancyFilter({self.similarity!r}, threshold={self.threshold}, tolerance={self.tolerance})"


def told(dropped: list[Dropped]) -> list[dict[str, Any]]:
    """For the ledger: numbers of rows, and nothing of what they say."""
    return [asdict(each) for each in dropped]
