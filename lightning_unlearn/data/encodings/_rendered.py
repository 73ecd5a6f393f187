from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rendered:
    """A row as text, cut where supervision begins and ends.

    Args:
        before: All that the network reads before the answer: earlier turns, the question, the header of the answer.
        answer: The answer, as it is written there.
        end: What ends its turn, such as ``<|im_end|>``; empty where only the ``eos_token`` can.
        after: What is written after that, such as a line break.
    """

    before: str
    answer: str
    end: str = ""
    after: str = ""

    @property
    def text(self) -> str:
        """Up to the end of the answer's turn."""
        return self.before + self.answer + self.end
