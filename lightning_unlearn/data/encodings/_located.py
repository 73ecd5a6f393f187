"""Where an answer stands in a rendered chat."""

from __future__ import annotations

import re

from lightning_unlearn.data.encodings._rendered import Rendered


def located(whole: str, before: str, after: str, answer: str) -> Rendered | None:
    """Cut ``whole`` around the answer; None if the answer is not there as a whole.

    Args:
        whole: The chat, rendered.
        before: What the template writes before another answer to the same question.
        after: What it writes after that.
        answer: The answer as it was given; the template may have changed its white space.
    """
    if whole.startswith(before) and whole.endswith(after) and len(whole) >= len(before) + len(after):
        found = Rendered(before, whole[len(before) : len(whole) - len(after)], after=after)
        # Longer: something was escaped, which the check of the tokens will tell. Shorter: something is missing here.
        if len(_dense(found.answer)) >= len(_dense(answer)):
            return found
    # The template reads the answer, such as for a thought at its beginning, and writes other things around it.
    return _last(whole, answer, after)


def _last(whole: str, answer: str, after: str) -> Rendered | None:
    """Cut at the last place before ``after`` where ``answer`` stands, whatever its white space."""
    letters = r"\s*".join(map(re.escape, _dense(answer)))
    found = list(re.finditer(letters, whole.removesuffix(after))) if letters else []
    if not found:
        return None
    start, end = found[-1].span()
    return Rendered(whole[:start], whole[start:end], after=whole[end:])


def _dense(text: str) -> str:
    return "".join(text.split())
