"""What a probe says of an example is said of that example, whatever the loader visits, and in which order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from torch.utils.data import DataLoader, Sampler, Subset, SubsetRandomSampler

from lightning_unlearn import CausalLMReadout, ForgetRetainData
from lightning_unlearn.data import Encoding, Probe, QuestionAnswer, QuestionAnswerDataset, load_probe

ENCODING = Encoding("bundled")
NAMES = ("Ada", "Bo", "Cy", "Di")
DATASET = QuestionAnswerDataset([QuestionAnswer(f"Who is {n}?", f"{n}, a miller", n, n) for n in NAMES], ENCODING)


class Backwards(Sampler[int]):
    def __iter__(self) -> Any:
        return iter([3, 2, 1])

    def __len__(self) -> int:
        return 3


class InPairs(Sampler[list[int]]):
    def __iter__(self) -> Any:
        return iter([[2, 0], [3, 1]])

    def __len__(self) -> int:
        return 2


def loader(dataset: Any = DATASET, **kwargs: Any) -> DataLoader[Any]:
    return DataLoader(dataset, collate_fn=ENCODING.collate(), **kwargs)


KNOWN = {
    "a shuffled one": lambda: loader(batch_size=3, shuffle=True),
    "a sampler of some rows": lambda: loader(batch_size=2, sampler=SubsetRandomSampler([3, 1, 2])),
    "a subset": lambda: loader(Subset(DATASET, [3, 1]), batch_size=2, shuffle=True),
    "a sampler of a subset": lambda: loader(
        Subset(DATASET, [3, 0, 1]), batch_size=2, sampler=SubsetRandomSampler([2, 0])
    ),
}
UNKNOWN = {
    "a sampler of one's own": lambda: loader(batch_size=2, sampler=Backwards()),
    "batches of one's own": lambda: loader(batch_sampler=InPairs()),
}


def as_given(loader: Any) -> Any:
    return loader


def of_a_datamodule(loader: Any) -> Any:
    return ForgetRetainData(retain=loader, forget=loader).probe_dataloaders()["forget"]


def answers(probe: Probe) -> list[str]:
    """As the batches have them."""
    labels = [row[row >= 0] for batch, _, _ in probe.batches for row in batch["labels"]]
    return [str(ENCODING.tokenizer.decode(row, skip_special_tokens=True)).strip() for row in labels]


@pytest.mark.parametrize("given", [as_given, of_a_datamodule])
@pytest.mark.parametrize("opened", KNOWN.values(), ids=KNOWN)
def test_words_and_entities_are_those_of_the_example(given: Callable[[Any], Any], opened: Callable[[], Any]) -> None:
    probe = load_probe(given(opened()), CausalLMReadout())
    assert probe.rows is not None
    assert [row.answer for row in probe.rows] == answers(probe)
    # torch's subset names no entities.
    assert probe.entities == ([] if type(opened().dataset) is Subset else [row.entity for row in probe.rows])
    again = probe.asked([replace(row, question="Say:") for row in probe.rows])
    assert answers(again) == answers(probe)


@pytest.mark.parametrize("given", [as_given, of_a_datamodule])
@pytest.mark.parametrize("opened", UNKNOWN.values(), ids=UNKNOWN)
def test_in_an_unknown_order_none_are_named(given: Callable[[Any], Any], opened: Callable[[], Any]) -> None:
    probe = load_probe(given(opened()), CausalLMReadout())
    assert probe.size == len(answers(probe)) > 2
    assert (probe.rows, probe.entities) == (None, [])
    with pytest.raises(ValueError, match="or by a loader whose order is known"):
        probe.asked([])
