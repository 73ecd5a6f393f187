"""Answers are the first choices one after another, as of each question asked alone, and asking leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from _language_models import FAMILIES, PROMPTS, batch, family
from _ranks import run_ranks
from torch import nn

from lightning_unlearn import (
    Encoding,
    FileRecords,
    LoaderSettings,
    QuestionAnswerData,
    TinyCausalLM,
)
from lightning_unlearn.readouts import greedy_answers
from lightning_unlearn.readouts._decoding import Asked, _are_first
from lightning_unlearn.runtime import checksum

END = 2


def asked_alone(network: nn.Module, question: list[int], ends: set[int], length: int) -> list[int]:
    """The whole text through the network again for every token: neither cache, nor padding, nor mask."""
    text: list[int] = list(question)
    with torch.no_grad():
        for _ in range(length):
            token = int(network(input_ids=torch.tensor([text])).logits[0, -1].argmax())
            if token in ends:
                break
            text.append(token)
    return text[len(question) :]


def questions() -> list[list[int]]:
    rows = batch()["input_ids"].tolist()
    return [rows[row][: PROMPTS[row]] for row in (0, 1)]  # the last row is all prompt


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", FAMILIES)
def test_answers_are_those_of_each_question_asked_alone(name: str, side: str, lora: bool) -> None:
    network = family(name, lora=lora)
    said = greedy_answers(network, batch(side, width=11), end=[END], max_new_tokens=7)
    own = network.generation_config.eos_token_id
    ends = {END, *([] if own is None else [own])}
    expected = [asked_alone(network.eval(), question, ends, 7) for question in questions()]
    assert [answer.tolist() for answer in said] == expected


@pytest.mark.parametrize("masked", [True, False])
def test_an_answer_stops_at_what_ends_it_and_at_the_longest_allowed(masked: bool) -> None:
    network = family("llama").eval()
    whole = [asked_alone(network, question, set(), 7) for question in questions()]
    for end in {token for answer in whole for token in answer}:
        network.generation_config.eos_token_id = None
        expected = [answer[: answer.index(end)] if end in answer else answer for answer in whole]
        said = [
            answer.tolist() for answer in greedy_answers(network, batch(masked=masked), end=[end], max_new_tokens=7)
        ]
        assert said == expected
        network.generation_config.eos_token_id = [end, 1]  # the model's own end counts as well
        own = [answer.tolist() for answer in greedy_answers(network, batch(masked=masked), end=[1], max_new_tokens=7)]
        assert own == [answer[: answer.index(1)] if 1 in answer else answer for answer in expected]
    network.generation_config.eos_token_id = None
    endless = [answer.tolist() for answer in greedy_answers(network, batch(masked=masked), end=[], max_new_tokens=7)]
    assert endless == whole
    short = greedy_answers(network, batch(masked=masked), end=[22], max_new_tokens=2)
    assert all(len(answer) <= 2 for answer in short)


def test_what_the_model_would_rather_do_than_say_its_first_choice_does_not_count() -> None:
    network = family("llama")
    expected = [asked_alone(network.eval(), question, {END}, 7) for question in questions()]
    for name, value in {
        "do_sample": True,
        "temperature": 2.0,
        "top_k": 3,
        "top_p": 0.5,
        "repetition_penalty": 5.0,
        "num_beams": 3,
        "no_repeat_ngram_size": 1,
        "min_new_tokens": 6,
    }.items():
        setattr(network.generation_config, name, value)
    network.generation_config.eos_token_id = None
    said = greedy_answers(network, batch(), end=[END], max_new_tokens=7)
    assert [answer.tolist() for answer in said] == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("forced_eos_token_id", END),
        ("suppress_tokens", [*range(3, 20)]),
        ("begin_suppress_tokens", [*range(3, 20)]),
        ("bad_words_ids", [[token] for token in range(3, 20)]),
        ("exponential_decay_length_penalty", (1, 9.0)),
        ("cache_implementation", "static"),
        ("max_length", 4),
        ("max_time", 0.0),
        ("stop_strings", ["a"]),
        ("return_dict_in_generate", True),
        ("use_cache", False),
        ("pad_token_id", None),
        ("somebodys_own_setting", 3),
    ],
)
def test_no_setting_that_comes_with_a_model_changes_an_answer(name: str, value: Any) -> None:
    network = family("llama")
    expected = [asked_alone(network.eval(), question, {END}, 7) for question in questions()]
    network.generation_config.eos_token_id = None
    setattr(network.generation_config, name, value)
    said = greedy_answers(network, batch(), end=[END], max_new_tokens=7)
    assert [answer.tolist() for answer in said] == expected
    assert getattr(network.generation_config, name) == value


def wrong(*_: Any, input_ids: torch.Tensor, **__: Any) -> torch.Tensor:
    return torch.cat([input_ids, torch.full((len(input_ids), 7), 5)], dim=1)


def refused(*_: Any, **__: Any) -> torch.Tensor:
    raise AttributeError("no cache")


@pytest.mark.parametrize("generate", [wrong, refused])
def test_answers_are_right_where_generate_is_wrong_or_refuses(
    generate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = family("llama").eval()
    network.generation_config.eos_token_id = [4]
    whole = [asked_alone(network, question, set(), 7) for question in questions()]
    monkeypatch.setattr(network, "generate", generate)
    for end in {END, whole[0][2]}:
        said = greedy_answers(network, batch("left", width=11), end=[end], max_new_tokens=7)
        assert [answer.tolist() for answer in said] == [
            asked_alone(network, question, {end, 4}, 7) for question in questions()
        ]
    assert network.generation_config.eos_token_id == [4]


def test_ranks_decide_together_what_to_make_anew() -> None:
    """One of them would be content with what `generate` gave, and would leave the other alone in the next pass."""

    def on_rank(rank: int, world_size: int) -> tuple[list[list[int]], int]:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=world_size)
        network, passes = family("llama").eval(), []
        right = network.generate

        def sometimes_wrong(*args: Any, **kwargs: Any) -> torch.Tensor:
            return right(*args, **kwargs).clamp(max=5 if rank else 99)

        network.generate = sometimes_wrong
        network.register_forward_pre_hook(lambda *_: passes.append(rank))
        said = greedy_answers(network, batch(), end=[END], max_new_tokens=7, in_step=True)
        return [answer.tolist() for answer in said], len(passes)

    expected = [asked_alone(family("llama").eval(), question, {END}, 7) for question in questions()]
    assert max(max(answer) for answer in expected) > 5
    for said, passes in run_ranks(on_rank):
        assert said == expected
        assert passes == 7 + 1 + 7  # of `generate`, of the look at its answers, and of those made anew


def test_an_answer_that_is_a_close_second_is_not_taken_for_the_first_choice() -> None:
    network = family("gpt2").eval()
    question = torch.tensor(questions()[0])
    first = asked_alone(network, question.tolist(), set(), 1)
    with torch.no_grad():
        second = network(input_ids=question[None]).logits[0, -1].topk(2).indices[1]
        assert _are_first(network, Asked([question], {}), [torch.tensor(first)])
        assert not _are_first(network, Asked([question], {}), [second[None]])


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_asking_leaves_no_trace(lora: bool) -> None:
    network = family("llama", lora=lora).train()
    network.get_input_embeddings().eval()
    for p in network.parameters():
        p.grad = torch.ones_like(p) if p.requires_grad else None

    def seen() -> Any:
        modes = [m.training for m in network.modules()]
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()]
        grads = [(id(p.grad), p.requires_grad) for p in network.parameters()]
        configs = (network.generation_config.to_dict(), network.config.to_dict())
        return checksum(network), modes, hooks, grads, configs, torch.get_rng_state().tolist(), torch.is_grad_enabled()

    before, data = seen(), batch()
    greedy_answers(network, data, end=[END], max_new_tokens=3)
    assert seen() == before
    assert all(torch.equal(data[name], batch()[name]) for name in data)


def test_a_question_without_an_answer_is_not_asked() -> None:
    network = family("llama")
    assert greedy_answers(network, batch(rows=(2, 2)), end=[END]) == []
    alone = greedy_answers(network, batch(rows=(0,)), end=[END], max_new_tokens=3)
    assert [a.tolist() for a in greedy_answers(network, batch(rows=(2, 0)), end=[END], max_new_tokens=3)] == [
        a.tolist() for a in alone
    ]


@pytest.mark.parametrize("side", ["right", "left"])
def test_text_that_is_supervised_all_through_is_asked_by_its_first_token(side: str) -> None:
    network, data = family("llama").eval(), batch(side, width=11, rows=(0, 1))
    data["labels"] = torch.where(data["attention_mask"] > 0, data["input_ids"], -100)
    said = greedy_answers(network, data, end=[END], max_new_tokens=4)
    expected = [asked_alone(network, question[:1], {END}, 4) for question in questions()]
    assert [answer.tolist() for answer in said] == expected


def test_the_question_of_a_bundled_row_ends_where_the_assistant_speaks() -> None:
    data = QuestionAnswerData(FileRecords("bundled:people"), Encoding("bundled"), LoaderSettings(batch_size=2))
    heard: list[str] = []
    network = TinyCausalLM(hidden_size=16, num_hidden_layers=1)
    network.register_forward_pre_hook(
        lambda _, __, kwargs: heard.extend(data.encoding.tokenizer.batch_decode(kwargs["input_ids"])), with_kwargs=True
    )
    greedy_answers(
        network, next(iter(data.val_dataloader())), end=[data.encoding.tokenizer.eos_token_id], max_new_tokens=1
    )
    asked = heard[:2]  # afterwards the answers are read once more, to see whether they are first choices
    assert all(text.endswith("<|assistant|>") for text in asked)
    assert all("Where" in text or "What" in text for text in asked)


def test_what_is_no_batch_of_tokens_gets_one_clear_error() -> None:
    with pytest.raises(ValueError, match=r"a mapping with `input_ids` and `labels`. Found a tuple"):
        greedy_answers(family("llama"), (torch.ones(1), torch.ones(1)), end=[END])
