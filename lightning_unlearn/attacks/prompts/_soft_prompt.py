from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.attacks._base import BatchLoss
from lightning_unlearn.attacks._held import frozen, hooks
from lightning_unlearn.attacks.prompts._prompt_attack import PromptAttack
from lightning_unlearn.data import Encoding, FileRecords, QuestionAnswer, Records
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_kind, check_positive, check_whole
from lightning_unlearn.models.layers import input_embedding
from lightning_unlearn.runtime import eval_mode

_FILLER = " !"
_BATCH = 8


class SoftPrompt(PromptAttack):
    r"""A row of ``!`` behind each question, with trained embeddings: one prompt for all questions. No weight changes.

    .. math:: \delta \leftarrow \delta - \eta \, \bar e \, \mathrm{sign}\, \nabla_\delta \mathcal{L}_\mathrm{CE}

    with :math:`\bar e` the root mean square of the embeddings. It is trained on questions about others, with their answers:
    it asks for an answer, and cannot hold the ones that are judged. A prompt trained on the judged answers would elicit
    anything from any model; even this one may bring out what a control says as well, so read it beside the control.

    Args:
        records: The questions it is trained on, none of which may be judged as ``forget``.
        encoding: How questions and answers become tokens: that of the data.
        steps: After how many steps of training it is tried.
        tokens: How many ``!`` there are; a tokenizer may make several tokens of one.
        lr: Length of a step, relative to the size of embeddings.

    Raises:
        ValueError: If the network shows no embeddings of its tokens, there is no loss, the tokenizer does not write a row of
            ``!`` in one way, or a question it is trained on is judged as ``forget``.

    Example:
        >>> others = FileRecords("bundled:people", entity="entity", where={"group": ["retain"]})
        >>> attack = SoftPrompt(others, Encoding("bundled"), steps=[5], tokens=3)
        >>> attack.wording(5)
        '3 trained marks behind the question; steps on questions about others: 5.'

    References:
        Schwinn et al., `Soft Prompt Threats <https://arxiv.org/abs/2402.09063>`_, 2024, the universal attack; `Soft Token
        Attacks Cannot Reliably Audit Unlearning <https://arxiv.org/abs/2502.15836>`_, 2025, on what it does not show.
    """

    unit = "step"

    def __init__(
        self,
        records: FileRecords | Records,
        encoding: Encoding,
        steps: Sequence[int] = (10, 100),
        tokens: int = 20,
        lr: float = 0.05,
    ) -> None:
        check_kind("records", records, Records, example='FileRecords("people.jsonl", entity="name")')
        check_kind("encoding", encoding, Encoding, example='Encoding("bundled")')
        for number in steps:
            check_whole("steps", number)
        if not steps:
            raise ValueError("`steps` should hold at least one number of steps. Found none.")
        check_whole("tokens", tokens)
        check_positive("lr", lr)
        self.records, self.encoding = records, encoding
        self.steps, self.tokens, self.lr = tuple(sorted(steps)), tokens, lr

    @property
    @override
    def points(self) -> Sequence[int]:
        return self.steps

    @override
    def reword(self, row: QuestionAnswer, point: float) -> QuestionAnswer:
        return replace(row, question=row.question + _FILLER * self.tokens)

    @override
    def reword_all(
        self, rows: Sequence[QuestionAnswer], *, split: str, point: float
    ) -> Sequence[QuestionAnswer | None]:
        trained_on = {row.question for row in self.records.questions()}
        if split == "forget" and (judged := [row.source for row in rows if row.question in trained_on]):
            raise ValueError(
                f"`records` of `SoftPrompt` should not be judged as `forget`: a prompt may hold their answers. Found "
                f"{judged[0]} among them. Give questions about others."
            )
        return super().reword_all(rows, split=split, point=point)

    @override
    def wording(self, point: float) -> str:
        return f"{self.tokens} trained marks behind the question; steps on questions about others: {int(point)}."

    @override
    def planned(self) -> tuple[int, int]:
        return len(self.steps), self.steps[-1]

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
        embedding = input_embedding(network)
        if embedding is None or loss is None:
            raise ValueError(
                "`SoftPrompt` should get a network that shows the embedding of its tokens, and a loss. Found "
                f"`{type(network).__name__}` and `loss = {loss}`. Use a causal language model of transformers."
            )
        soft = _Soft(self._filler())
        with hooks() as handles:
            handles.append(embedding.register_forward_hook(soft.hook))
            yield self._train(network, soft, loss, GradientEngine(network) if engine is None else engine)

    def _train(self, network: nn.Module, soft: _Soft, loss: BatchLoss, engine: GradientEngine) -> Iterator[float]:
        rows = [self.reword(row, 0) for row in self.records.questions()]
        encoded, collate = [self.encoding(row) for row in rows], self.encoding.collate()
        if not all((soft.places(one["input_ids"]) >= 0).any() for one in encoded):
            raise ValueError(
                f"The tokenizer should write {_FILLER!r} behind each question in the same way. "
                f"`{self.encoding.tokenizer.name_or_path}` does not: take another number of `tokens`, or leave it out."
            )
        data = cycle([collate(encoded[i : i + _BATCH]) for i in range(0, len(encoded), _BATCH)])
        for step in range(1, self.steps[-1] + 1):
            # A check may run in validation, where Lightning is in inference mode.
            with torch.inference_mode(False), torch.enable_grad(), frozen(network), eval_mode(network):
                self._step(soft, engine.to_device(next(data)), loss, engine)
            if step in self.steps:
                yield step

    def _step(self, soft: _Soft, batch: Any, loss: BatchLoss, engine: GradientEngine) -> None:
        if soft.delta is None:
            with torch.no_grad():
                engine.forward(loss, batch)  # shows the shape
        if soft.delta is None:
            raise ValueError("`SoftPrompt` should see tokens in the embedding of the network. Found none of its own.")
        (gradient,), _ = engine.row(loss, [batch], [soft.delta])
        if gradient is None:
            raise ValueError("The loss of the attacker should depend on the prompt. Found that it does not.")
        with torch.no_grad():
            soft.delta.sub_(gradient.sign(), alpha=self.lr * soft.size)

    def _filler(self) -> list[int]:
        """The tokens of the row of ``!``, as they stand behind a question."""
        plain, filled = (
            self.encoding.tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in ("Who?", "Who?" + _FILLER * self.tokens)
        )
        return list(filled[len(plain) :])


class _Soft:
    """Adds a vector to the embedding of each token of a row of fillers, zeros at first."""

    def __init__(self, filler: Sequence[int]) -> None:
        self._filler = filler
        self.delta: Tensor | None = None
        self.size = 0.0

    def hook(self, _: nn.Module, args: Any, embedded: Tensor) -> Tensor:
        place = self.places(args[0])
        here = place >= 0
        if self.delta is None and here.any():
            self.size = embedded.detach().float().square().mean().sqrt().item()
            shape = len(self._filler), embedded.shape[-1]
            self.delta = torch.zeros(shape, device=embedded.device, requires_grad=True, dtype=torch.float32)
        if self.delta is None:
            return embedded
        added = self.delta[place.clamp_min(0)].to(embedded.dtype)
        return torch.where(here[..., None], embedded + added, embedded)

    def places(self, ids: Tensor) -> Tensor:
        """Of each token its place in the row of fillers; -1 for other tokens."""
        place, length = torch.full_like(ids, -1), len(self._filler)
        if ids.shape[-1] < length:
            return place
        begins = (ids.unfold(-1, length, 1) == ids.new_tensor(self._filler)).all(-1)
        for number in range(length):
            place[..., number : number + begins.shape[-1]][begins] = number
        return place
