"""Sampled answers have the right distribution, are those of each question asked alone, and leave no trace."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from _language_models import FAMILIES, PROMPTS, batch, family
from _ranks import run_ranks
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from lightning_unlearn.readouts import Draws, _draws, sampled_answers
from lightning_unlearn.runtime import checksum

END = 2
SEEDS = (11, 12, 13)


def questions() -> list[list[int]]:
    rows = batch()["input_ids"].tolist()
    return [rows[row][: PROMPTS[row]] for row in (0, 1)]  # the last row is all prompt


def drawn_alone(network: nn.Module, question: list[int], draws: Draws, ends: set[int], length: int) -> list[int]:
    """The whole text through the network again for every token: neither cache, nor padding, nor mask."""
    text: list[int] = list(question)
    with torch.no_grad():
        for step in range(length):
            token = int(draws.choose(network(input_ids=torch.tensor([text])).logits[:, -1], step))
            if token in ends:
                break
            text.append(token)
    return text[len(question) :]


def alone(network: nn.Module, length: int = 7, end: int = END, **settings: Any) -> list[list[int]]:
    own = getattr(network.generation_config, "eos_token_id", None)
    ends = {end, *([] if own is None else [own])}
    rows = zip(questions(), SEEDS, strict=False)
    return [drawn_alone(network.eval(), asked, Draws([seed], **settings), ends, length) for asked, seed in rows]


def drawn(network: nn.Module, data: Any, length: int = 7, end: int = END, **settings: Any) -> list[list[int]]:
    said = sampled_answers(network, data, Draws(SEEDS, **settings), end=[end], max_new_tokens=length)
    return [answer.tolist() for answer in said]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", FAMILIES)
def test_answers_are_those_of_each_question_asked_alone(name: str, side: str, lora: bool) -> None:
    network = family(name, lora=lora)
    assert drawn(network, batch(side, width=11)) == alone(network)


@pytest.mark.parametrize("settings", [{"temperature": 0.3}, {"temperature": 5.0}, {"top_p": 0.6}], ids=str)
def test_so_they_are_at_every_temperature(settings: dict[str, float]) -> None:
    network = family("llama")
    assert drawn(network, batch("left", width=11), **settings) == alone(network, **settings)
    assert alone(network, **settings) != alone(network, temperature=1.7)


def wrong(*_: Any, input_ids: Tensor, **__: Any) -> Tensor:
    return torch.cat([input_ids, torch.full((len(input_ids), 7), 5)], dim=1)


def refused(*_: Any, **__: Any) -> Tensor:
    raise AttributeError("no cache")


def padding_counts(network: nn.Module) -> Callable[..., Tensor]:
    """`generate` of a network that takes padding for text: what it draws from are other logits."""
    right = network.generate

    def generate(*args: Any, attention_mask: Tensor, **kwargs: Any) -> Tensor:
        return right(*args, attention_mask=torch.ones_like(attention_mask), **kwargs)

    return generate


@pytest.mark.parametrize("generate", [wrong, refused, None], ids=["wrong", "refused", "padding counts"])
def test_answers_are_right_where_generate_is_wrong_or_refuses(
    generate: Callable[..., Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = family("llama").eval()
    expected = alone(network)
    monkeypatch.setattr(network, "generate", generate or padding_counts(network))
    assert drawn(network, batch("left", width=11)) == expected


def chances(network: nn.Module, question: list[int], length: int) -> dict[tuple[int, ...], float]:
    """The probability of every answer of at most ``length`` tokens: by going through all of them."""
    tokens = range(network.config.vocab_size)
    with torch.no_grad():
        found: dict[tuple[int, ...], float] = {}
        for answer in product(tokens, repeat=length):
            cut = answer[: answer.index(END)] if END in answer else answer
            if cut + (END,) * (length - len(cut)) != answer:
                continue  # the same answer, with something behind its end
            said = [*cut, END][:length]
            logits = network(input_ids=torch.tensor([[*question, *said]])).logits[0].double().log_softmax(-1)
            places = range(len(question) - 1, len(question) + len(said) - 1)
            found[cut] = float(torch.stack([logits[at, t] for at, t in zip(places, said, strict=True)]).sum().exp())
    return found


def test_every_answer_of_a_tiny_vocabulary_comes_as_often_as_it_should() -> None:
    """An oracle that draws nothing: the probability of each of all answers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        network = LlamaForCausalLM(LlamaConfig(vocab_size=5, max_position_embeddings=16, pad_token_id=0, **sizes))
        network.lm_head.weight.data.mul_(20)  # far from uniform
    network.generation_config.eos_token_id = None
    expected = chances(network.eval(), [3, 1], 3)
    assert sum(expected.values()) == pytest.approx(1)
    n = 6000
    data = {"input_ids": torch.tensor([[3, 1, 4]] * n), "labels": torch.tensor([[-100, -100, 4]] * n)}
    said = sampled_answers(network, data, Draws(range(n)), end=[END], max_new_tokens=3)
    counts: dict[tuple[int, ...], int] = {}
    for answer in said:
        counts[tuple(answer.tolist())] = counts.get(tuple(answer.tolist()), 0) + 1
    assert set(counts) <= set(expected)
    for answer, p in expected.items():
        spread = (p * (1 - p) / n) ** 0.5
        assert abs(counts.get(answer, 0) / n - p) < 4.5 * spread + 1 / n


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 1.0])
def test_temperature_and_top_p_are_those_of_transformers(temperature: float, top_p: float) -> None:
    """Shares of 20000 draws from one distribution, and those of its warpers."""
    torch.manual_seed(0)
    logits = 2 * torch.randn(1, 8)
    warped = TemperatureLogitsWarper(temperature)(None, logits)
    expected = TopPLogitsWarper(top_p)(None, warped).softmax(-1)[0] if top_p < 1 else warped.softmax(-1)[0]
    n = 20_000
    chosen = Draws(range(n), temperature, top_p).choose(logits.expand(n, -1), step=3)
    shares = chosen.bincount(minlength=8) / n
    assert (shares[expected == 0] == 0).all()
    assert (shares - expected).abs().max() < 4.5 * 0.5 / n**0.5


@pytest.mark.parametrize("top_p", [0.3, 0.9])
def test_a_large_vocabulary_is_not_sorted_and_draws_the_same(top_p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once peaked, so that a few tokens reach the share, and once so flat that they do not."""
    for spread in (4.0, 0.01):
        logits = spread * torch.randn(5, 2000, generator=torch.Generator().manual_seed(0))
        draws = Draws(range(5), top_p=top_p)
        chosen = draws.choose(logits, 0)
        with monkeypatch.context() as patched:
            patched.setattr(_draws, "_LIKELIEST", 2000)
            assert torch.equal(draws.choose(logits, 0), chosen)
        kept = TopPLogitsWarper(top_p)(None, logits).softmax(-1).gather(1, chosen[:, None])
        assert (kept > 0).all()


def test_numbers_differ_by_row_and_token_and_are_the_same_again() -> None:
    logits = torch.zeros(50, 1000)
    draws = Draws(range(50))
    steps = torch.stack([draws.choose(logits, step) for step in range(6)])
    assert len(steps.unique()) > 240  # of 300, in 1000
    assert torch.equal(steps, torch.stack([Draws(range(50)).choose(logits, step) for step in range(6)]))
    assert torch.equal(Draws([7]).choose(logits[:1], 2), steps[2, 7:8])


def test_algorithms_may_have_to_be_deterministic() -> None:
    logits = torch.randn(4, 9)
    free = Draws(range(4)).choose(logits, 0)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(Draws(range(4)).choose(logits, 0), free)
    finally:
        torch.use_deterministic_algorithms(False)


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
    drawn(network, data, 3)
    assert seen() == before
    assert all(torch.equal(data[name], batch()[name]) for name in data)


def test_an_encoder_decoder_samples_too() -> None:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    torch.manual_seed(0)
    network = T5ForConditionalGeneration(
        T5Config(vocab_size=9, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, **sizes)
    ).eval()
    data = {"input_ids": torch.tensor([[3, 4, 1]] * 2), "labels": torch.tensor([[5, 1]] * 2)}
    draws = Draws([4, 5])
    said = sampled_answers(network, data, draws, end=[], max_new_tokens=6)
    for row, answer in enumerate(said):
        read = torch.tensor([[0]])
        with torch.no_grad():
            for step in range(6):
                logits = network(input_ids=data["input_ids"][:1], decoder_input_ids=read).logits[:, -1]
                read = torch.cat([read, Draws([draws.seeds[row]]).choose(logits, step)[:, None]], dim=1)
        whole = read[0, 1:].tolist()
        assert answer.tolist() == (whole[: whole.index(1)] if 1 in whole else whole)


def test_ranks_draw_the_same_and_decide_together_what_to_make_anew() -> None:
    def on_rank(rank: int, world_size: int) -> tuple[list[list[int]], int]:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=world_size)
        network, passes = family("llama").eval(), []
        right = network.generate

        def sometimes_wrong(*args: Any, **kwargs: Any) -> Tensor:
            return right(*args, **kwargs).clamp(max=5 if rank else 99)

        network.generate = sometimes_wrong
        network.register_forward_pre_hook(lambda *_: passes.append(rank))
        # One rank wants fewer tokens: it goes on as long as the other.
        settings = {"end": [END], "max_new_tokens": 7 - rank, "in_step": True}
        said = sampled_answers(network, batch(), Draws(SEEDS), **settings)
        return [answer.tolist() for answer in said], len(passes)

    expected = alone(family("llama"))
    assert max(max(answer) for answer in expected) > 5
    for said, passes in run_ranks(on_rank):
        assert said == expected
        assert passes == 7 + 7  # of `generate`, and of those made anew


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperature": 0.0}, "`temperature` should be positive and finite. Found `temperature = 0.0`"),
        ({"top_p": 0.0}, "`top_p` should be between 1e-06 and 1. Found `top_p = 0.0`"),
        ({"top_p": 1.5}, "`top_p` should be between 1e-06 and 1. Found `top_p = 1.5`"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Draws((), **settings)
