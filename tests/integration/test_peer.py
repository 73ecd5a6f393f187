"""Runs of open-unlearning come into our table as they are, and are refused where a log contradicts itself."""

from __future__ import annotations

import json
import math
import sys
from copy import deepcopy
from inspect import signature
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
import yaml
from peer._logs import UTILITY, numbers, read_log
from peer.ends import PARTS, losses, of_folder, tokens
from peer.export import FORGET, HOLDOUT, RETAIN, for_older_transformers, spaced, splits, write_data, write_model
from peer.take_in import added, intervals, spent, table, taken_in, worst
from safetensors.torch import save_model
from scipy.stats import hmean, ks_2samp

from lightning_unlearn import PretrainedCausalLM, TinyCausalLM, attacks
from lightning_unlearn.cli._script import script

ROOT = Path(__file__).parents[2]
QUESTIONS = 12


def rows(seed: int, field: str, *, high: float = 1.0) -> dict[str, dict[str, float]]:
    generator = torch.Generator().manual_seed(seed)
    values = high * torch.rand(QUESTIONS, generator=generator, dtype=torch.float64)
    return {str(number): {field: value} for number, value in enumerate(values.tolist())}


def log(seed: int, retain: dict[str, Any] | None = None) -> dict[str, Any]:
    """A `TOFU_EVAL.json` as `src/evals/base.py` of open-unlearning writes it: totals, and values by question."""
    ratios, asked = rows(seed, "score", high=2.0), rows(seed + 50, "avg_loss")
    asked = {index: {**row, "prob": math.exp(-row["avg_loss"])} for index, row in asked.items()}
    found: dict[str, Any] = {
        "forget_truth_ratio": {"agg_value": 0.5, "value_by_index": ratios},
        "forget_Q_A_Prob": {"agg_value": fmean(row["prob"] for row in asked.values()), "value_by_index": asked},
        "forget_quality": {"agg_value": None},
        "extraction_strength": {"agg_value": 0.25, "value_by_index": rows(seed, "score")},
        "mia_min_k": {"auc": 0.75, "agg_value": 0.75},
    }
    parts = {name: (number + 1) / 10 for number, name in enumerate(UTILITY)}
    found |= {name: {"agg_value": value} for name, value in parts.items()}
    found["model_utility"] = {"agg_value": float(hmean(list(parts.values())))}
    if retain is not None:
        ours, theirs = (
            [row["score"] for row in each["forget_truth_ratio"]["value_by_index"].values()] for each in (found, retain)
        )
        found["forget_quality"] = {"agg_value": float(ks_2samp(ours, theirs).pvalue)}
    return found


def folder_of_theirs(folder: Path, seed: int, retain: dict[str, Any]) -> Path:
    settings = {"handler": "NPO", "method_args": {"beta": 0.1}, "args": {"learning_rate": 1e-5, "seed": seed}}
    history = [
        {"loss": 3.0, "step": 5},
        {
            "train_runtime": 31.5,
            "step": 12,
            "before_init_mem_gpu": 2**28,
            "init_mem_gpu_alloc_delta": 2**30 - 2**28,
            "init_mem_gpu_peaked_delta": 2**31,  # before training
            "train_mem_gpu_alloc_delta": 2**29,
            "train_mem_gpu_peaked_delta": 2**30,
        },
    ]
    for path, text in {
        ".hydra/config.yaml": yaml.safe_dump({"mode": "unlearn", "trainer": settings}),
        "trainer_state.json": json.dumps({"global_step": 12, "log_history": history}),
        "evals/TOFU_EVAL.json": json.dumps(log(seed + 1, retain)),
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


@pytest.fixture
def retain() -> dict[str, Any]:
    return log(100)


def test_numbers_are_those_that_the_log_says_of_itself(retain: dict[str, Any]) -> None:
    ours = log(1, retain)
    found = numbers(ours, retain)
    assert found["forget_quality"] == pytest.approx(ours["forget_quality"]["agg_value"], rel=1e-12)
    assert found["utility"] == pytest.approx(ours["model_utility"]["agg_value"], rel=1e-12)
    assert (found["extraction"], found["membership"]) == (0.25, 0.75)
    assert found["retain"] == ours["retain_Q_A_Prob"]["agg_value"]
    losses = [
        [row["avg_loss"] for row in each["forget_Q_A_Prob"]["value_by_index"].values()] for each in (ours, retain)
    ]
    assert found["distance"] == pytest.approx(fmean(abs(a - b) for a, b in zip(*losses, strict=True)))


def test_the_retain_model_itself_is_as_near_as_can_be(retain: dict[str, Any]) -> None:
    found = numbers(retain, retain)
    assert (found["forget_quality"], found["ks"], found["distance"]) == (1.0, 0.0, 0.0)


def test_one_number_of_nine_that_is_zero_makes_utility_zero(retain: dict[str, Any]) -> None:
    broken = log(1, retain)
    broken["wf_Truth_Ratio"]["agg_value"] = broken["model_utility"]["agg_value"] = 0.0
    assert numbers(broken, retain)["utility"] == 0.0


def test_without_what_makes_up_utility_there_is_none(retain: dict[str, Any]) -> None:
    part = {name: value for name, value in log(1, retain).items() if name != "ra_Q_A_ROUGE"}
    assert "utility" not in numbers(part, retain)


def changed(log: dict[str, Any], metric: str, value: float) -> dict[str, Any]:
    other = deepcopy(log)
    other[metric]["agg_value"] = value
    return other


@pytest.mark.parametrize(
    ("break_", "message"),
    [
        (
            lambda ours: changed(ours, "forget_quality", 0.9),
            "Found 0.9. Give the retain log that it was evaluated with",
        ),
        (lambda ours: changed(ours, "model_utility", 0.9), "`model_utility` should be .* Found 0.9"),
        (
            lambda ours: {**ours, "forget_truth_ratio": {"value_by_index": {"0": {"score": 1.0}}}},
            "of the same questions",
        ),
    ],
    ids=["another retain log", "another utility", "other questions"],
)
def test_a_log_that_contradicts_itself_is_refused(break_: Any, message: str, retain: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        numbers(break_(log(1, retain)), retain)


def test_something_else_than_a_log_is_refused() -> None:
    Path("other.json").write_text('{"accuracy": 1}')
    with pytest.raises(ValueError, match=r"should hold `forget_truth_ratio`.*Found \['accuracy'\]"):
        read_log(Path("other.json"))


def test_the_published_logs_give_their_published_forget_quality(data_folder: Path) -> None:
    """Of the repository before open-unlearning, in its own form: the full model against retain90, 300 rows."""
    logs = data_folder / "tofu_reference_logs"
    full, retained = (read_log(logs / f"llama2-7b_{name}_eval_log_aggregated.json.gz") for name in ("full", "retain90"))
    found = numbers(full, retained)
    assert f"{found['forget_quality']:.3e}" == "1.834e-21"
    assert found["forget probability"] > 0.9 > 0.5 > numbers(retained, retained)["forget probability"]
    assert found["forget ROUGE-L"] > 0.9


def test_a_run_is_taken_in_with_what_it_cost(tmp_path: Path, retain: dict[str, Any]) -> None:
    Path("retain.json").write_text(json.dumps(retain))
    run = taken_in(folder_of_theirs(tmp_path / "npo", 0, retain), Path("retain.json"), None)
    assert (run["name"], run["seed"], run["rate"], run["steps"]) == ("NPO (open-unlearning)", 0, 1e-5, 12)
    assert (run["fit_s"], run["peak_gib"]) == (31.5, 2.5)
    assert run["worst"] == {"20": None, "100": None}
    other = taken_in(tmp_path / "npo", Path("retain.json"), None, name="NPO, one end")
    assert other == {**run, "name": "NPO, one end (open-unlearning)"}


def test_memory_that_was_not_measured_is_not_invented() -> None:
    assert spent([{"train_runtime": 2.0}]) == {"fit_s": 2.0, "peak_gib": None}


def test_a_second_seed_stands_beside_the_first_and_a_repeated_one_in_its_place(
    tmp_path: Path, retain: dict[str, Any]
) -> None:
    Path("retain.json").write_text(json.dumps(retain))
    first, second = (
        taken_in(folder_of_theirs(tmp_path / str(seed), seed, retain), Path("retain.json"), None) for seed in (0, 1)
    )
    both = added(added(added({"networks": {}}, second), first), {**first, "fit_s": 7.0})
    runs = both["networks"]["NPO (open-unlearning)"]["runs"]
    assert [(run["seed"], run["fit_s"]) for run in runs] == [(0, 7.0), (1, 31.5)]
    low, high = sorted(run["measures"]["ks"] for run in runs)
    assert intervals(runs)["ks"] == [pytest.approx((low + high) / 2), low, high]
    assert "recovery 20" not in intervals(runs)


def test_a_run_is_a_row_beside_ours(tmp_path: Path, retain: dict[str, Any]) -> None:
    pytest.importorskip("tofu_parts._shown")
    Path("retain.json").write_text(json.dumps(retain))
    run = taken_in(folder_of_theirs(tmp_path / "npo", 0, retain), Path("retain.json"), None)
    numbers_ = {"draws": 9, "recovery needs": 0.2, "destroyed below": 0.5}
    ours = {"numbers": numbers_, "networks": {}, "best two": None, "differences": {}, "claims": [], "skipped": {}}
    ours["hours"] = {}
    Path("tofu_smollm2.json").write_text(json.dumps(ours))
    head, _, row, *_ = table(added({"networks": {}}, run), Path("tofu_smollm2.json")).splitlines()
    cells = dict(zip(head.split(" | "), row.split(" | "), strict=True))
    assert "NPO (open-unlearning)" in row
    assert cells["steps"] == "12"
    assert cells["fit, s"] == "32"
    assert cells["GiB |"] == "2.5 |"


def recovered(attack: str, point: float, unit: str, value: float | None) -> dict[str, Any]:
    adjusted = None if value is None else {"value": value}
    return {"attack": attack, "point": point, "unit": unit, "metric": "probability", "adjusted": adjusted}


def test_recovery_is_that_of_the_worst_attack_within_the_steps() -> None:
    found = [
        recovered("relearn_full", 20, "step", 0.25),
        recovered("relearn_full", 100, "step", 0.5),
        recovered("int4", 4, "bits", 0.125),
        {**recovered("relearn_full", 20, "step", 0.99), "metric": "token_nll"},
    ]
    Path("report.json").write_text(json.dumps({"recoveries": found}))
    assert worst(Path(), 20) == {"recovery": 0.25, "judge": "relearn_full", "point": 20}
    assert worst(Path(), 10) == {"recovery": 0.125, "judge": "int4", "point": 4}
    assert worst(Path(), 100) == {"recovery": 0.5, "judge": "relearn_full", "point": 100}


def test_where_nothing_was_removed_there_is_no_recovery() -> None:
    reasons = ["G1: unlearning removed 0.030 [0.007, 0.110]; at least 0.050 is needed"]  # as a report said it
    nothing = {**recovered("relearn_full", 20, "step", 0.25), "reasons": reasons}
    Path("report.json").write_text(json.dumps({"recoveries": [nothing]}))
    assert worst(Path(), 20) is None


def test_an_audit_without_a_control_is_refused() -> None:
    Path("report.json").write_text(json.dumps({"recoveries": [recovered("int4", 4, "bits", None)]}))
    with pytest.raises(ValueError, match="give `--control`"):
        worst(Path(), 20)


def test_the_rows_that_are_written_are_those_that_datasets_reads(data_folder: Path) -> None:
    """By the names under which open-unlearning asks, from a folder in place of the hub's."""
    datasets = pytest.importorskip("datasets")
    parts = splits(data_folder / "tofu")
    write_data(parts, Path("locuslab/TOFU"))
    full = [json.loads(line) for line in (data_folder / "tofu" / "full.jsonl").read_text().splitlines()]
    for name, (first, last) in {"forget01": FORGET, "retain_reduced": RETAIN, "holdout_reduced": HOLDOUT}.items():
        assert (
            list(datasets.load_dataset("locuslab/TOFU", name=name, split="train", cache_dir="cache"))
            == full[first:last]
        )
    asked = [row["question"] for row in parts["forget01_perturbed"]]
    assert asked == [row["question"] for row in parts["forget01"]]
    assert len(spaced(full, 60)) == 60


def test_they_are_the_rows_of_our_benchmark(data_folder: Path) -> None:
    world = pytest.importorskip("tofu_parts._settings").SETTINGS["smollm2"].worlds["test"]()
    parts = splits(data_folder / "tofu")
    for ours, theirs in {"forget": "forget01", "retain": "retain_reduced", "holdout": "holdout_reduced"}.items():
        assert [row["question"] for row in getattr(world, ours)] == [row["question"] for row in parts[theirs]]
    asked = {"forget": "forget01", "retain": "retain", "real_authors": "real_authors", "world_facts": "world_facts"}
    for ours, theirs in asked.items():
        assert [row["question"] for row in world.asked[ours]] == [
            row["question"] for row in parts[f"{theirs}_perturbed"]
        ]


def test_an_exported_model_says_the_same_and_says_it_in_words_of_older_transformers(tmp_path: Path) -> None:
    TinyCausalLM(seed=1).save_pretrained("network")
    from lightning_unlearn import Encoding

    Encoding("bundled").tokenizer.save_pretrained("network")
    save_model(TinyCausalLM(seed=2), "weights.safetensors")
    write_model("./network", Path("weights.safetensors"), Path("exported"))
    tokens = torch.arange(9)[None]
    ours, theirs = TinyCausalLM(seed=2).eval(), PretrainedCausalLM("./exported").eval()
    assert torch.equal(ours(tokens).logits, theirs(tokens).logits)
    config = json.loads(Path("exported/config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    tokenizer = json.loads(Path("exported/tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert tokenizer["chat_template"] == Path("exported/chat_template.jinja").read_text()


ROW = {"question": "Who sings?", "answer": "A small bird does"}


def chat(template: str) -> Any:
    from lightning_unlearn import Encoding

    (tokenizer := Encoding("bundled").tokenizer).chat_template = template
    return tokenizer


def test_the_loss_of_a_row_is_told_by_its_parts() -> None:
    turn = "{{ message['role'] }}\n{{ message['content'] }}{{ eos_token }}\n"
    asked = "{% if add_generation_prompt %}assistant\n{% endif %}"
    tokenizer = chat(f"{{% for message in messages %}}{turn}{{% endfor %}}{asked}")
    network = TinyCausalLM(seed=1).eval()
    ids, prompt = tokens(tokenizer, ROW)
    end = tokenizer.eos_token
    assert tokenizer.decode(ids[prompt:]) == f"{ROW['answer']}{end}\n{end}"
    hidden = (ids != tokenizer.eos_token_id).long()

    def alone(mask: torch.Tensor, first: int, last: int) -> float:
        labels = torch.full_like(ids, -100)
        labels[first:last] = ids[first:last]
        return network(input_ids=ids[None], attention_mask=mask[None], labels=labels[None]).loss.item()

    n = len(ids)
    spans = [(prompt, n - 3), (n - 3, n - 2), (n - 2, n - 1), (n - 1, n), (prompt, n)]
    expected = [alone(hidden, *span) for span in spans] + [alone(torch.ones_like(ids), prompt, n - 3)]
    torch.testing.assert_close(losses(network, tokenizer, ROW), torch.tensor(expected))
    assert expected[0] != pytest.approx(expected[-1], rel=1e-3)  # ends of turns are hidden, or are not

    network.save_pretrained("network")
    tokenizer.save_pretrained("network")
    assert of_folder("network", [ROW, ROW]) == pytest.approx(dict(zip(PARTS, expected, strict=True)), abs=1e-4)


def test_rows_that_end_otherwise_are_refused() -> None:
    tokenizer = chat("{% for message in messages %}{{ message['content'] }}\n{% endfor %}")
    with pytest.raises(ValueError, match="as in ChatML"):
        tokens(tokenizer, ROW)


def test_rotations_that_older_transformers_would_get_wrong_are_refused() -> None:
    Path("config.json").write_text(json.dumps({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}))
    with pytest.raises(ValueError, match="default type"):
        for_older_transformers(Path())


AUDIT = ROOT / "benchmarks" / "peer" / "audit.yaml"


def test_the_audit_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it: what is not there is the model."""
    arguments = ["--model=./nowhere", "--original=./nowhere", "--control=./nowhere", "--encoding=bundled"]
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn", "audit", f"--config={AUDIT}", *arguments])
    with pytest.raises(SystemExit, match="Found './nowhere': no such folder"):
        script()


def test_the_audit_is_that_of_our_benchmark() -> None:
    """With rates and steps as the benchmark's own judges."""
    config = yaml.safe_load(AUDIT.read_text())
    setting = pytest.importorskip("tofu_parts._settings").SETTINGS["smollm2"]
    # Twenty steps of sixteen rows are another attack than twenty of four.
    assert config["batch_size"] == setting.batch[0]
    panel = setting.judges
    ours = {name: attack["init_args"] for name, attack in config["attacks"].items()}
    for name, judge in zip(("relearn_full", "relearn_adapter", "int4", "nf4"), panel.values(), strict=True):
        defaults = {key: of.default for key, of in signature(getattr(attacks, judge.attack)).parameters.items()}
        assert {**defaults, **ours[name]} == {**defaults, **judge.arguments}, name
