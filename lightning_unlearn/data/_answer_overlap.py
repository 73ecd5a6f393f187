from __future__ import annotations

from collections.abc import Sequence

from lightning_unlearn.functional.overlap import Words, contained_share, ngram_share, similarities

_LONGEST = 128
"""So many words of a text are compared by Levenshtein's distance, whose cost grows with the square."""
_MOST_JUDGED, _MOST_TEXTS = 100, 1000
"""So many are compared so, evenly spaced."""


def answer_overlap(answers: Sequence[Words], judged: Sequence[Words], texts: Sequence[Words]) -> dict[str, float]:
    """How much of what an attacker is judged by stands in the data that he trains on: what relearning may have taught.

    Args:
        answers: The right answers that he is judged by.
        judged: The same examples as whole texts: question and answer.
        texts: What he trains on.

    Returns:
        ``data_answers_contained``, the share of answers that stand in a text word by word; ``data_ngram8_overlap``, the
        share of runs of eight words of what is judged that stand in a text, too; ``data_similarity``, the mean over what is
        judged of the likeness to the nearest text, one less Levenshtein's distance over the longer length (100 examples and
        1000 texts at most, evenly spaced, the first 128 words of each); ``data_examples`` and ``data_words``, its size.

    Example:
        >>> asked, answer = ("who", "employs", "ada"), ("the", "post", "office")
        >>> overlap = answer_overlap([answer], [asked + answer], [("who", "employs", "bo", "the", "post", "office")])
        >>> overlap["data_answers_contained"], round(overlap["data_similarity"], 2)
        (1.0, 0.83)
    """
    some, others = _shortened(judged, _MOST_JUDGED), _shortened(texts, _MOST_TEXTS)
    nearest = [float(similarities(text, others).max()) for text in some] if texts else []
    return {
        "data_examples": len(texts),
        "data_words": sum(map(len, texts)),
        "data_answers_contained": contained_share(answers, texts),
        "data_ngram8_overlap": ngram_share(judged, texts),
        "data_similarity": sum(nearest) / len(nearest) if nearest else 0.0,
    }


def _shortened(texts: Sequence[Words], most: int) -> list[Words]:
    return [text[:_LONGEST] for text in texts[:: max(1, -(-len(texts) // most))]]
