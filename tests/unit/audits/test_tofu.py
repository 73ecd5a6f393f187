"""TOFU's numbers against a model that is run by hand, word for word; what is compared with whom; and what it costs."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from functools import cache
from math import exp, prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import hmean
from torch import nn

from lightning_unlearn import CausalLMReadout, Encoding, FileRecords, TinyCausalLM
from lightning_unlearn.audits import Measure, Membership, ScoringAudit, SharedScores
from lightning_unlearn.audits._replies import Reply
from lightning_unlearn.audits.tofu import TOFU, _answers, alternatives, tofu_probes, tofu_scores, tofu_summary
from lightning_unlearn.data import Probe, QuestionAnswer
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.metrics import ExactMemorization
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import PackedCausalLMReadout, Readout
from lightning_unlearn.runtime import Misfit, checksum

ENCODING = Encoding("bundled")
WRONG = 3
MOST = 6
UTILITY = ("retain", "real_authors", "world_facts")


def rows(first: int, last: int, *, paraphrased: bool = False) -> list[dict[str, Any]]:
    """Questions with the answers of others as wrong ones."""
    people = FileRecords("bundled:people", entity="entity").questions()
    return [
        {
            "question": people[n].question,
            "answer": people[n].answer,
            "entity": people[n].entity,
            "perturbed_answer": [people[n + 20 * k].answer for k in range(1, 1 + WRONG)],
            **({"paraphrased_answer": f"It is {people[n].answer}."} if paraphrased else {}),
        }
        for n in range(first, last)
    ]


SPLITS = {
    "forget": rows(0, 5, paraphrased=True),
    "retain": rows(6, 10, paraphrased=True),
    "real_authors": rows(12, 15),
    "world_facts": rows(18, 21),
}


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = TinyCausalLM(hidden_size=32, num_hidden_layers=1)
        for p in made.parameters():  # otherwise all answers are about equally likely
            p.data.normal_(std=0.3)
    return made.eval()


def probes(splits: dict[str, Any] = SPLITS, readout: Readout | None = None) -> dict[str, Probe]:
    return tofu_probes(splits, ENCODING, readout, batch_size=4)


def scored(net: nn.Module, of: dict[str, Probe] | None = None, **settings: Any) -> dict[str, dict[str, list[Any]]]:
    return tofu_scores(
        net,
        CausalLMReadout(),
        of or probes(),
        ENCODING.tokenizer,
        max_new_tokens=settings.pop("most", MOST),
        **settings,
    )


def logits_by_hand(net: nn.Module, question: str, answer: str) -> list[tuple[list[float], int]]:
    """Scores of all tokens, and the right one, at each place of an answer: one row alone, in float64."""
    row = ENCODING(QuestionAnswer(question, answer, entity="", source=""))
    with torch.no_grad():
        logits = net(input_ids=row["input_ids"][None]).logits[0].tolist()
    labels = row["labels"].tolist()
    return [(logits[place - 1], label) for place, label in enumerate(labels) if label != -100]


def probability_by_hand(net: nn.Module, question: str, answer: str) -> float:
    of_tokens = [exp(scores[label]) / sum(map(exp, scores)) for scores, label in logits_by_hand(net, question, answer)]
    return prod(of_tokens) ** (1 / len(of_tokens))


def expected_by_hand(net: nn.Module, row: dict[str, Any]) -> dict[str, float]:
    p = probability_by_hand(net, row["question"], row["answer"])
    right = probability_by_hand(net, row["question"], row.get("paraphrased_answer", row["answer"]))
    wrong = [probability_by_hand(net, row["question"], answer) for answer in row["perturbed_answer"]]
    hits = [s.index(max(s)) == label for s, label in logits_by_hand(net, row["question"], row["answer"])]
    by_itself = next((n for n, hit in enumerate(reversed(hits)) if not hit), len(hits))
    return {
        "answer_probability": p,
        "truth_ratio": prod(wrong) ** (1 / len(wrong)) / right,
        "option_probability": p / (p + sum(wrong)),
        "exact_memorization": sum(hits) / len(hits),
        "extraction_strength": by_itself / len(hits),
    }


@pytest.mark.parametrize("readout", [CausalLMReadout(), PackedCausalLMReadout()], ids=repr)
def test_scores_are_those_of_each_answer_run_alone_in_float64(readout: Readout) -> None:
    net = network()
    found = tofu_scores(net, readout, probes(readout=readout), ENCODING.tokenizer, max_new_tokens=1)
    net = net.double()
    for split, of_split in SPLITS.items():
        for number, row in enumerate(of_split):
            for name, value in expected_by_hand(net, row).items():
                assert found[split][name][number] == pytest.approx(value, rel=1e-4), (split, name)
        assert found[split]["entities"] == [row["entity"] for row in of_split]


def greedy_by_hand(net: nn.Module, question: str) -> str:
    """Token by token, without a cache, padding or other rows."""
    row = ENCODING(QuestionAnswer(question, "x", entity="", source=""))
    asked = row["input_ids"][: int((row["labels"] != -100).nonzero()[0])].tolist()
    end, said = int(row["labels"][-1]), []
    while len(said) < MOST:
        with torch.no_grad():
            token = int(net(input_ids=torch.tensor([asked + said])).logits[0, -1].argmax())
        if token == end:
            break
        said.append(token)
    return str(ENCODING.tokenizer.decode(said, skip_special_tokens=True))


def test_answers_are_the_first_choices() -> None:
    net = network()
    found = scored(net)
    assert len({text for of in found.values() for text in of["texts"]}) > 3
    for split, of_split in SPLITS.items():
        assert found[split]["texts"] == [greedy_by_hand(net, row["question"]) for row in of_split]


def test_rouge_is_of_the_answers_that_were_given() -> None:
    def saying(net: nn.Module, probe: Probe, *args: Any, **kwargs: Any) -> Any:
        return replies

    right = [row["answer"] for row in SPLITS["forget"]]
    said = [right[0], f"{right[1]} {right[1]}", "", "so so so so", f"I say {right[4].upper()}"]
    replies = {number: Reply(text, (), (), ()) for number, text in enumerate(said)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_answers, "greedy_replies", saying)
        found = scored(network(), probes({"forget": SPLITS["forget"]}))["forget"]
    assert found["rouge_l_recall"] == [1, 1, 0, 0, 1]
    assert found["rouge_l_f"][:4] == pytest.approx([1, 2 / 3, 0, 0])
    assert 0 < found["rouge_l_f"][4] < 1
    assert found["fluency"][2:4] == [0, 0]
    assert found["texts"] == said


def longest(some: Sequence[str], others: Sequence[str]) -> int:
    """The longest common subsequence by its recursion from the end, and not by rows of a table."""

    @cache
    def from_(i: int, j: int) -> int:
        if i == len(some) or j == len(others):
            return 0
        return max(from_(i + 1, j), from_(i, j + 1), (some[i] == others[j]) + from_(i + 1, j + 1))

    return from_(0, 0)


@pytest.mark.parametrize("seed", [0, 1])
def test_rouge_l_f_is_that_of_an_independent_common_subsequence(seed: int) -> None:
    """Of answers in words that no stem changes, in another order and repeated: F = 2 LCS / (n said + n right)."""
    generator = random.Random(seed)
    vocabulary = ["oslo", "the", "in", "a", "sea", "red", "old", "fox", "van", "six"]
    right = [[generator.choice(vocabulary) for _ in range(generator.randint(1, 12))] for _ in range(5)]
    said = [[generator.choice(vocabulary) for _ in range(generator.randint(1, 12))] for _ in range(5)]
    rows = [{**row, "answer": " ".join(words)} for row, words in zip(SPLITS["forget"], right, strict=True)]
    replies = {number: Reply(" ".join(words), (), (), ()) for number, words in enumerate(said)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_answers, "greedy_replies", lambda *args, **kwargs: replies)
        found = scored(network(), probes({"forget": rows}))["forget"]
    by_hand = [2 * longest(s, r) / (len(s) + len(r)) for s, r in zip(said, right, strict=True)]
    assert found["rouge_l_f"] == pytest.approx(by_hand, rel=1e-12)
    assert len(set(by_hand)) > 3


def count(net: nn.Module, run: Callable[[], Any]) -> int:
    passes: list[int] = []
    handle = net.register_forward_hook(lambda *_: passes.append(1))
    run()
    handle.remove()
    return len(passes)


def test_all_that_is_known_of_given_answers_costs_one_pass_over_each_batch() -> None:
    net, of, readout = network(), probes(), CausalLMReadout()
    batches = sum(len(probe.batches) for probe in of.values())
    assert set(of) == {
        *SPLITS,
        *(f"{split}_perturbed" for split in SPLITS),
        "forget_paraphrased",
        "retain_paraphrased",
    }
    audit = TOFU("bundled", max_new_tokens=MOST)
    about: dict[str, Any] = {"readout": readout, "probes": of, "engine": GradientEngine(net)}
    audit.see_control(net, **about)
    generating = count(net, lambda: audit.besides(net, **about))
    assert generating > 0
    assert count(net, lambda: audit(net, **about)) == batches + generating
    # Others that score the same answers are served by the same passes.
    memorised = Measure({"memorised": ExactMemorization()})
    audits: list[ScoringAudit] = [Measure(), audit, memorised, Membership(holdout="retain")]
    shared = SharedScores(audits, net, readout, of, GradientEngine(net))
    assert count(net, lambda: [shared.conclusion_of(each) for each in audits]) == batches + generating


def test_a_model_compared_with_itself_is_a_retain_model() -> None:
    scores = scored(network())
    found = tofu_summary(scores, json.loads(json.dumps(scores)))
    assert found["forget_quality"] == found["forget_degree"] == found["retain_utility"] == 1
    assert found["forget_ks"] == found["retain_model_distance"] == 0


def by_hand(scores: dict[str, Any], retained: dict[str, Any]) -> dict[str, float]:
    def mean(split: str, name: str, of: dict[str, Any] = scores) -> float:
        return sum(of[split][name]) / len(of[split][name])

    def overall(split: str, of: dict[str, Any]) -> float:
        names = ("answer_probability", "rouge_l_recall", "exact_memorization")
        return prod(mean(split, name, of) for name in names) ** (1 / 3)

    nine = {}
    for split in UTILITY:
        kind = "answer_probability" if split == "retain" else "option_probability"
        nine[f"{split}_probability"] = mean(split, kind)
        nine[f"{split}_rouge_l_recall"] = mean(split, "rouge_l_recall")
        ratios = scores[split]["truth_ratio"]
        nine[f"{split}_truth_ratio"] = sum(1 - r for r in ratios if r < 1) / len(ratios)
    pairs = zip(scores["forget"]["answer_probability"], retained["forget"]["answer_probability"], strict=True)
    ratios = scores["forget"]["truth_ratio"]
    return {
        **nine,
        "model_utility": 9 / sum(1 / value for value in nine.values()),
        "forget_truth_ratio": sum(min(r, 1 / r) for r in ratios) / len(ratios),
        "forget_probability": mean("forget", "answer_probability"),
        "forget_degree": max(0, 1 - abs(overall("forget", scores) / overall("forget", retained) - 1)),
        "retain_utility": max(0, 1 - abs(overall("retain", scores) / overall("retain", retained) - 1)),
        "retain_model_distance": sum(abs(torch.tensor(a / b).log().item()) for a, b in pairs) / len(ratios),
        "forget_fluency": mean("forget", "fluency"),
    }


def made_up(seed: int, n: int = 12) -> dict[str, dict[str, list[Any]]]:
    """Scores of a model that does not exist."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, dict[str, list[Any]]] = {}
    for split in SPLITS:
        shares = torch.rand(8, n, generator=generator, dtype=torch.float64).clamp_min(0.01)
        names = ("answer_probability", "option_probability", "extraction_strength", "exact_memorization")
        names += ("rouge_l_recall", "rouge_l_f", "fluency")
        found[split] = {name: shares[i].tolist() for i, name in enumerate(names)}
        found[split]["token_nll"] = (-shares[0].log()).tolist()
        found[split]["truth_ratio"] = (2 * shares[7]).tolist()
        found[split]["entities"] = [str(i // 3) for i in range(n)]
    return found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_summary_is_that_of_the_definitions(seed: int) -> None:
    scores, retained = made_up(seed), made_up(seed + 10)
    found = tofu_summary(scores, retained)
    for name, value in by_hand(scores, retained).items():
        assert found[name] == pytest.approx(value, rel=1e-5), name  # `torch.tensor(...)` by hand is float32
    assert 0 < found["forget_quality"] < 1
    assert set(found) >= {"forget_ks", "forget_rouge_l_f", "forget_extraction_strength", "forget_exact_memorization"}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_model_utility_is_scipys_harmonic_mean_of_nine(seed: int) -> None:
    scores = made_up(seed)
    found = tofu_summary(scores, made_up(seed + 10))
    probability = {
        "retain": "answer_probability",
        "real_authors": "option_probability",
        "world_facts": "option_probability",
    }
    nine = [
        value
        for split, name in probability.items()
        for value in (
            np.mean(scores[split][name]),
            np.mean(scores[split]["rouge_l_recall"]),
            np.maximum(0, 1 - np.asarray(scores[split]["truth_ratio"])).mean(),
        )
    ]
    assert len(nine) == 9
    assert found["model_utility"] == pytest.approx(hmean(nine), rel=1e-12)


@pytest.mark.parametrize("split", UTILITY)
@pytest.mark.parametrize("name", ["rouge_l_recall", "probability", "truth_ratio"])
def test_utility_is_zero_if_one_of_nine_is(split: str, name: str) -> None:
    scores = made_up(0)
    full = {"probability": "answer_probability" if split == "retain" else "option_probability"}.get(name, name)
    scores[split][full] = [2.0 if name == "truth_ratio" else 0.0] * 12
    found = tofu_summary(scores, made_up(1))
    assert found[f"{split}_{name}"] == found["model_utility"] == 0


def test_truth_ratios_that_do_not_overlap_have_the_least_forget_quality() -> None:
    scores, retained = made_up(0, n=40), made_up(1, n=40)
    scores["forget"]["truth_ratio"] = [0.01 * i for i in range(40)]
    retained["forget"]["truth_ratio"] = [1.0 + i for i in range(40)]
    assert f"{tofu_summary(scores, retained)['forget_quality']:.2e}" == "1.86e-23"


def test_too_much_forgetting_is_as_far_from_the_retain_model_as_too_little() -> None:
    retained = made_up(0)
    far = {}
    for sign in (1, -1):
        scores = made_up(0)
        scores["forget"]["token_nll"] = [nll + sign * 0.5 for nll in retained["forget"]["token_nll"]]
        far[sign] = tofu_summary(scores, retained)["retain_model_distance"]
    assert far[1] == pytest.approx(far[-1]) == pytest.approx(0.5)


def test_a_missing_retain_model_is_an_error_and_never_a_number() -> None:
    scores = made_up(0)
    for nothing in (None, {}, {"retain": scores["retain"]}, {"forget": {"token_nll": [1.0]}}):
        with pytest.raises(ValueError, match=r"scores of the retain model on `forget`.*Make them by `tofu_scores`"):
            tofu_summary(scores, nothing)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"scores of the model on `forget`, with truth ratios.*`forget_perturbed`"):
        tofu_summary({"retain": scores["retain"]}, scores)
    net = network()
    about: dict[str, Any] = {"readout": CausalLMReadout(), "probes": probes(), "engine": GradientEngine(net)}
    with pytest.raises(Misfit, match=r"retain model to compare with\. Found neither a control nor a file.*control="):
        TOFU("bundled", max_new_tokens=1)(net, **about)


def test_forget_questions_without_wrong_answers_are_refused() -> None:
    net = network()
    of = {split: probe for split, probe in probes().items() if split != "forget_perturbed"}
    about: dict[str, Any] = {"readout": CausalLMReadout(), "probes": of, "engine": GradientEngine(net)}
    with pytest.raises(Misfit, match=r"wrong answers to the questions of `forget`.*`forget_perturbed`.*`alternatives`"):
        TOFU("bundled", max_new_tokens=1).see_control(net, **about)


def test_a_retain_model_that_was_asked_something_else_is_refused() -> None:
    retained = made_up(1)
    retained["forget"]["entities"] = retained["forget"]["entities"][::-1]
    with pytest.raises(ValueError, match=r"same questions of `forget`.*Make its scores anew"):
        tofu_summary(made_up(0), retained)
    with pytest.raises(ValueError, match=r"same questions of `forget`.*Found 9.*of the model 12"):
        tofu_summary(made_up(0), made_up(1, n=9))


def values(observations: list[Observation]) -> dict[tuple[str, str], float]:
    return {(o.split, o.metric): o.value for o in observations}


def test_the_audit_observes_what_the_functions_say(tmp_path: Path) -> None:
    net, other, of = network(0), network(1), probes()
    about: dict[str, Any] = {"readout": CausalLMReadout(), "probes": of, "engine": GradientEngine(net)}
    scores, retained = scored(net), scored(other)
    (tmp_path / "retain.json").write_text(json.dumps(retained))
    from_file = TOFU("bundled", retain=str(tmp_path / "retain.json"), max_new_tokens=MOST)
    shown = TOFU("bundled", max_new_tokens=MOST)
    shown.see_control(other, **about)
    assert (from_file.needs_control, shown.needs_control) == (False, True)
    found = from_file(net, **about)
    assert shown(net, **about) == found
    summary = tofu_summary(scores, retained)
    observed = values(found)
    for name in ("forget_quality", "forget_ks", "forget_degree", "retain_model_distance"):
        assert observed["forget", name] == pytest.approx(summary[name])
    for name in ("retain_utility", "model_utility"):
        assert observed["retain", name] == pytest.approx(summary[name])
    assert observed["forget", "truth_ratio_near_one"] == pytest.approx(summary["forget_truth_ratio"])
    assert observed["world_facts", "truth_ratio_true_better"] == pytest.approx(summary["world_facts_truth_ratio"])
    assert observed["retain", "rouge_l_recall"] == pytest.approx(summary["retain_rouge_l_recall"])
    texts = [o.texts for o in found if (o.split, o.metric) == ("forget", "rouge_l_recall")]
    assert texts == [scores["forget"]["texts"]]


def test_a_file_that_holds_no_scores_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"`retain` should be a JSON file.*Found no file at 'nowhere.json'"):
        TOFU("bundled", retain="nowhere.json")
    for content in ("no json", "[1]", '{"forget": {}}'):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(ValueError, match=r"truth ratios of the split `forget`\. Found something else"):
            TOFU("bundled", retain=str(tmp_path / "other.json"))


def test_of_open_unlearning_leaves_the_last_token_out() -> None:
    ours, theirs = scored(network(), most=1), scored(network(), most=1, compat="open-unlearning")
    net = network().double()
    for number, row in enumerate(SPLITS["forget"]):
        hits = [s.index(max(s)) == label for s, label in logits_by_hand(net, row["question"], row["answer"])][:-1]
        assert theirs["forget"]["exact_memorization"][number] == pytest.approx(sum(hits) / len(hits), rel=1e-6)
        assert theirs["forget"]["extraction_strength"][number] >= 1 / len(hits) - 1e-12
    assert ours["forget"]["extraction_strength"] != theirs["forget"]["extraction_strength"]
    assert ours["forget"]["truth_ratio"] == pytest.approx(theirs["forget"]["truth_ratio"], rel=1e-3)


def test_nothing_changes_and_half_precision_says_about_the_same() -> None:
    net = network().train()
    before = checksum(net)
    exact = scored(net, most=1)
    assert checksum(net) == before
    assert net.training
    rough = scored(network().bfloat16(), most=1)
    assert rough["forget"]["token_nll"] == pytest.approx(exact["forget"]["token_nll"], rel=2e-2)


def test_alternatives_follow_their_questions() -> None:
    found = alternatives("forget", rows(0, 2, paraphrased=True))
    assert [row["question"] for row in found["forget_perturbed"]] == [
        row["question"] for row in found["forget"] for _ in range(WRONG)
    ]
    assert [row["entity"] for row in found["forget_paraphrased"]] == [row["entity"] for row in found["forget"]]
    assert set(alternatives("retain", [{"question": "q", "answer": "a"}])) == {"retain"}
    uneven = rows(0, 2)
    uneven[1]["perturbed_answer"] = ["one"]
    with pytest.raises(ValueError, match=r"as many answers of a kind.*with 1 and with 3 for `forget_perturbed`"):
        alternatives("forget", uneven)


def test_other_answers_that_are_not_as_many_are_refused() -> None:
    of = probes({"forget": SPLITS["forget"]})
    fewer = probes({"forget": SPLITS["forget"][:4]})
    with pytest.raises(ValueError, match=r"`forget_perturbed`.*Found 12 rows.*for 5 questions"):
        scored(network(), {**of, "forget_perturbed": fewer["forget_perturbed"]}, most=1)
    with pytest.raises(ValueError, match=r"`forget_paraphrased`.*Found 4 rows.*for 5 questions"):
        scored(network(), {**of, "forget_paraphrased": fewer["forget_paraphrased"]}, most=1)
