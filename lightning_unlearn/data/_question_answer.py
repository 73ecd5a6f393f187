from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler
from transformers import PreTrainedTokenizerBase
from typing_extensions import override

from lightning_unlearn.data._encoding import Encoding, Template, load_tokenizer, pad_right, pad_right_hiding
from lightning_unlearn.data._rows import QuestionAnswer, Record, read_records, select
from lightning_unlearn.data._shuffle import EpochShuffle
from lightning_unlearn.functional.compat import Compat, check_compat

Batch = dict[str, Tensor]


class QuestionAnswerDataset(Dataset[Batch]):
    """Encoded questions and answers, each ``{"input_ids": [T], "labels": [T]}`` with -100 on the prompt.

    Args:
        rows: What to ask and to answer.
        tokenizer: Any Hugging Face tokenizer.
        encoding: Template, length and date.

    Example:
        >>> rows = [QuestionAnswer("Who employs Ada?", "The post office", entity="Ada", source="row 0")]
        >>> QuestionAnswerDataset(rows, load_tokenizer("bundled")).entities
        ['Ada']
    """

    def __init__(
        self,
        rows: Sequence[QuestionAnswer],
        tokenizer: PreTrainedTokenizerBase,
        encoding: Encoding = Encoding(),  # noqa: B008  # frozen
    ) -> None:
        self.rows = tuple(rows)
        self._examples = [encoding(row, tokenizer) for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        return self._examples[index]

    @property
    def entities(self) -> list[str]:
        """Whom or what each row is about."""
        return [row.entity for row in self.rows]


class QuestionAnswerData(LightningDataModule):
    """Questions and answers for a causal language model, supervised on the answer and on its end of turn.

    Batches hold ``input_ids``, ``attention_mask`` and ``labels``, ``[B, T]`` int64, padded on the right; the labels are
    unshifted as in Hugging Face and -100 on prompt and padding. Training, validation and test loaders go over the
    same rows, only the first shuffled.

    Args:
        path: A ``.json`` or ``.jsonl`` file, ``bundled:people``, or the id of a Hugging Face data set.
        tokenizer: A folder or a hub id; ``"bundled"`` is the small one that comes with the package.
        question: Field with the question.
        answer: Field with the answer.
        entity: Field naming whom a row is about, or how many consecutive rows of the file are about one. By default
            every row is about something else.
        where: Keep the rows whose field, as text, is one of the listed values: ``{"group": ["forget"]}``.
        rows: Of those keep a half-open range, as in a Python slice: ``(0, 40)``, ``(-400, None)``.
        template: ``"chat"`` for the tokenizer's chat template, ``"plain"`` for ``Question: ...`` and ``Answer: ...`` on
            two lines.
        max_length: Longer rows lose their end, in tokens.
        date: What chat templates are told that today is, ``YYYY-MM-DD``. It should never change within a study.
        batch_size: Rows per batch.
        shuffle: Whether the training loader shuffles.
        seed: Of the order; across several devices Lightning's own sampler decides it.
        num_workers: Worker processes of each loader.
        subset: Configuration of a Hugging Face data set.
        split: Split of a Hugging Face data set.
        compat: ``"open-unlearning"`` masks as its published models were trained and measured: the tokenizer's padding
            token, or the end of turn where it has none, is hidden wherever it stands, in the middle of a prompt too.

    Example:
        >>> data = QuestionAnswerData("bundled:people", "bundled", entity="entity", where={"group": ["forget"]})
        >>> data.setup("fit")
        >>> sorted(set(data.dataset.entities))
        ['Maribel Okonvane', 'Renzo Dappleworth', 'Ysolde Tamarisk']
        >>> sorted(next(iter(data.train_dataloader())))
        ['attention_mask', 'input_ids', 'labels']
    """

    def __init__(
        self,
        path: str,
        tokenizer: str,
        *,
        question: str = "question",
        answer: str = "answer",
        entity: int | str | None = None,
        where: dict[str, list[str]] | None = None,
        rows: tuple[int | None, int | None] | None = None,
        template: Template = Encoding.template,
        max_length: int = Encoding.max_length,
        date: str = Encoding.date,
        batch_size: int = 8,
        shuffle: bool = True,
        seed: int = 0,
        num_workers: int = 0,
        subset: str | None = None,
        split: str = "train",
        compat: Compat | None = None,
    ) -> None:
        super().__init__()
        check_compat(compat)
        if isinstance(entity, int) and entity < 1:
            raise ValueError(f"`entity` should be a field or a positive number of rows. Found `entity = {entity}`.")
        # Plain attributes, not `save_hyperparameters`: LightningCLI hands nested data modules each other's.
        self.path = path
        self.tokenizer = tokenizer
        self.question = question
        self.answer = answer
        self.entity = entity
        self.where = where
        self.rows = rows
        self.encoding = Encoding(template, max_length, date)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.num_workers = num_workers
        self.subset = subset
        self.split = split
        self.compat = compat

    @cached_property
    def loaded_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer named by ``tokenizer``."""
        return load_tokenizer(self.tokenizer)

    @cached_property
    def dataset(self) -> QuestionAnswerDataset:
        """The selected rows, encoded."""
        return QuestionAnswerDataset(
            [record.parse(question=self.question, answer=self.answer, entity=self.entity) for record in self._records],
            self.loaded_tokenizer,
            self.encoding,
        )

    @cached_property
    def _records(self) -> list[Record]:
        """The selected rows, as they were read."""
        records = read_records(self.path, subset=self.subset, split=self.split)
        kept = select(records, where=self.where, rows=self.rows)
        if not kept:
            raise ValueError(
                f"`where` and `rows` should keep at least one of the {len(records)} rows of `{self.path}`. Found none "
                f"with `where = {self.where}` and `rows = {self.rows}`."
            )
        return kept

    @override
    def setup(self, stage: str) -> None:
        _ = self.dataset

    @override
    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader(shuffle=self.shuffle)

    @override
    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(shuffle=False)

    @override
    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader(shuffle=False)

    def _loader(self, *, shuffle: bool) -> DataLoader[Batch]:
        return DataLoader(
            self.dataset,
            batch_size=self.batch_size,
            sampler=EpochShuffle(self.dataset, seed=self.seed) if shuffle else SequentialSampler(self.dataset),
            num_workers=self.num_workers,
            collate_fn=self._collate(),
            # Without a generator of its own every pass would advance the global RNG.
            generator=torch.Generator().manual_seed(self.seed),
        )

    def _collate(self) -> Callable[[list[Batch]], Batch]:
        tokenizer = self.loaded_tokenizer
        if self.compat is None:
            # Any padding id will do: mask and labels hide it.
            return partial(pad_right, pad_token_id=tokenizer.pad_token_id or 0)
        hidden = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        if hidden is None:
            raise ValueError(
                f"The tokenizer should have a padding or an end-of-turn token. `{tokenizer.name_or_path}` has neither: use "
                "`compat=None`."
            )
        return partial(pad_right_hiding, pad_token_id=hidden)
