from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.divergence import js_divergence_from_label
from lightning_unlearn.functional.likelihood import mean_or_zero, place_in_example
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.models import load_tokenizer
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.prediction import Likelihood, Prediction


class JensUn(Objective):
    r"""Say the tokens of a refusal where the answer stands, by a divergence that cannot run away.

    .. math:: \frac{1}{N} \sum_{n=1}^{N} \mathrm{JSD}(e_{r(n)}, p_n), \quad
        \mathrm{JSD}(e_r, p) = \log 2 - \tfrac{1}{2} [(1 + p_r) \log(1 + p_r) - p_r \log p_r]

    The refusal's tokens :math:`r` are taken in turn, over and over, for as long as the answer is; what the network
    reads stays the answer itself. The loss is between 0 and log 2. What must stay may be held by
    :class:`JSDToReference`.

    **It starts slowly.** The slope in :math:`\log p_r` is :math:`\tfrac{1}{2} p_r \log \frac{p_r}{1 + p_r}`, and so
    vanishes where the refusal is unlikely: with two tokens the gradient's length is 0.15 at a probability of 0.1, 7e-4
    at 1e-4 and 1e-5 at 1e-6, while cross-entropy has 1.4 throughout. The authors train by Adam alone, which divides by
    its own scale, and with a retain loss of zero gradient at the start. Beside an ordinary retain loss it drowns. Give
    it an optimizer of its own, ``Unlearn(JensUn(...), optimizer=torch.optim.AdamW)``, or train on :class:`Refusals`
    first, by :class:`CrossEntropy`, until the refusal's probability is above 0.01.

    Args:
        target: The refusal, as a text, or as token ids (of classifiers, class ids).
        tokenizer: For a text, the network's: a name as in :class:`Encoding`.

    Raises:
        ValueError: If a text comes without a tokenizer, or an id is beyond the network's logits.

    Example:
        >>> prediction = Prediction(torch.zeros(3, 4), torch.tensor([1, 2, 0]), torch.tensor([0, 0, 1]), batch_size=2)
        >>> JensUn(target=[3])(prediction)
        tensor(0.3804)
        >>> JensUn("No idea", tokenizer="bundled").tokens.shape
        torch.Size([5])

    References:
        Singh et al., `Unlearning That Lasts <https://arxiv.org/abs/2509.02820>`_ (JensUn), 2025, and its public code,
        which keeps probabilities above 1e-9. The closed form needs no such bound, and is right below it.
    """

    tokens: Tensor

    def __init__(self, target: str | list[int] = "No idea", tokenizer: str | None = None) -> None:
        super().__init__()
        ids = _ids(target, tokenizer)
        if not ids:
            raise ValueError(f"`target` should have at least one token. Found `target = {target!r}`.")
        for token in ids:
            check_whole("target", token, least=0, why=": token ids")
        self.target = target
        self.tokenizer = tokenizer
        self._largest = max(ids)
        self.register_buffer("tokens", torch.tensor(ids), persistent=False)

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        if self._largest >= student.scores.shape[-1]:
            raise ValueError(
                f"`target` should be below {student.scores.shape[-1]}, the number of logits. Found {self._largest}. "
                "Use the tokenizer that belongs to the network."
            )
        refusal = self.tokens.to(student.example.device)[place_in_example(student.example) % len(self.tokens)]
        return mean_or_zero(js_divergence_from_label(student.scores, refusal))


def _ids(target: str | list[int], tokenizer: str | None) -> list[int]:
    if not isinstance(target, str):
        return list(target)
    if tokenizer is None:
        raise ValueError(
            f"`tokenizer` should be given with a text. Found `target = {target!r}` and `tokenizer = None`. Name the "
            "network's tokenizer, as for `Encoding`, or give token ids."
        )
    ids: list[int] = load_tokenizer(tokenizer)(target, add_special_tokens=False)["input_ids"]
    return ids
