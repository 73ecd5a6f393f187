"""One request after another: resumed, undone, looked at again, and what was tampered with is noticed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from _request_sequences import (
    PEOPLE,
    files_of,
    ledger_of,
    plain_fit,
    requests,
    rows,
    sequence,
    tiny,
    tiny_with_adapter,
)
from safetensors.torch import load_file
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn import FIT, GroupSparse, RegLoRA, UnlearningModule
from lightning_unlearn.requests import (
    AdaptersAlone,
    Job,
    Request,
    RequestFit,
    WholeWeights,
    in_effect,
)
from lightning_unlearn.transforms import protected_by


class Stopping(RequestFit):
    """Stops every other time, when a fit has just changed the network."""

    def __init__(self, fit: RequestFit) -> None:
        self.fit, self.calls = fit, 0

    @override
    def network(self) -> nn.Module:
        return self.fit.network()

    @override
    def forget_(self, job: Job) -> Mapping[str, Any]:
        told = self.fit.forget_(job)
        self.calls += 1
        if self.calls % 2:
            raise KeyboardInterrupt
        return told

    @override
    def settings(self) -> Mapping[str, Any]:
        return self.fit.settings()


class Seen(RequestFit):
    """Stretches the head, and remembers what it got."""

    def __init__(self, moves: Mapping[str, float] | None = None) -> None:
        self.jobs: list[Job] = []
        self.moves = dict(moves or {})

    @override
    def network(self) -> nn.Module:
        return tiny()

    @override
    @torch.no_grad()
    def forget_(self, job: Job) -> dict[str, Any]:
        self.jobs.append(job)
        job.network.get_output_embeddings().weight.mul_(self.moves.get(job.request.id, 1.01))  # type: ignore[operator]
        return {"rows": len(job.request.records.questions())}

    @override
    def settings(self) -> dict[str, Any]:
        return {"fit": "Seen"}


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("keeping", [WholeWeights(), AdaptersAlone()], ids=repr)
def test_stopped_within_each_request_it_goes_on_to_the_same_ledger_and_weights(keeping: Any, tmp_path: Path) -> None:
    fit = plain_fit(tiny_with_adapter)
    whole = sequence(tmp_path / "whole", fit, keeping=keeping).run(requests(3))
    stopping = Stopping(fit)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            sequence(tmp_path / "parts", stopping, keeping=keeping).run(requests(3))
    assert sequence(tmp_path / "parts", stopping, keeping=keeping).run(requests(3)) == whole
    assert ledger_of(tmp_path / "parts") == ledger_of(tmp_path / "whole")
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")


@pytest.mark.slow
def test_adapters_alone_give_the_weights_that_were_merged_bit_for_bit_in_smaller_files(tmp_path: Path) -> None:
    fit = plain_fit(tiny_with_adapter)
    merged = sequence(tmp_path / "merged", fit)
    alone = sequence(tmp_path / "alone", fit, keeping=AdaptersAlone())
    ours, theirs = merged.run(requests(3)), alone.run(requests(3))
    assert [entry.after for entry in ours] == [entry.after for entry in theirs]
    for request in requests(3):
        assert equal(merged.weights(request.id), alone.weights(request.id))
    assert len({entry.after for entry in ours}) == 4
    sizes = [sum(map(len, list(files_of(tmp_path / name).values())[1:])) for name in ("alone", "merged")]
    assert sizes[0] < sizes[1] / 4


def test_undo_gives_the_weights_of_any_request_and_says_so_in_the_ledger(tmp_path: Path) -> None:
    one = sequence(tmp_path, Seen())
    one.run(requests(1))
    then = {requests(1)[0].id: one.weights()}
    for number in (2, 3):
        one.run(requests(number))
        then[requests(number)[-1].id] = one.weights()
    before = ledger_of(tmp_path)
    second = requests(2)[-1].id
    assert equal(one.undo(second), then[second])
    assert ledger_of(tmp_path).startswith(before)
    assert equal(one.weights(), then[second])
    entry = one.folder.checked_entries()[-1]
    assert (entry.kind, entry.request, entry.after) == ("undo", second, one.folder.checked_entries()[2].after)
    with pytest.raises(ValueError, match="should be in effect"):
        one.undo(requests(3)[-1].id)


def test_what_was_undone_is_carried_out_again_to_the_same_weights(tmp_path: Path) -> None:
    one = sequence(tmp_path, Seen())
    first = one.run(requests(3))
    weights = one.weights()
    assert equal(one.undo(), one.folder.start_weights())
    assert one.folder.checked_entries()[-1].after == first[0].after
    assert equal(one.weights(), one.folder.start_weights())
    again = one.run(requests(3))
    assert equal(one.weights(), weights)
    assert [entry.after for entry in in_effect(again)] == [entry.after for entry in first]
    assert len(again) == 8  # nothing was taken out


def test_no_fit_gets_a_retain_row_that_any_request_names_also_none_to_come(tmp_path: Path) -> None:
    fit = Seen()
    sequence(tmp_path, fit).run(requests(4))
    asked = {request.id for request in requests(4)}
    assert len(fit.jobs) == 4
    for job in fit.jobs:
        retained = job.retain.questions()
        assert not {row.entity for row in retained} & asked
        assert len(retained) == 120 - 24


@pytest.mark.parametrize("kind", [plain_fit, partial(FIT, tiny, layers=1, trainer={"accelerator": "cpu"})])
def test_what_must_stay_is_shown_in_batches_of_its_own_size(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []

    def see(self: Any, batch: Any, batch_idx: int) -> None:
        shown.append(len(batch["input_ids"]))

    monkeypatch.setattr(UnlearningModule, "on_train_batch_start", see)
    sequence(tmp_path, kind(epochs=2, batch_size=3, retain_batch_size=24)).run(requests(1))
    assert shown == [24] * (2 * 6 // 3)


def test_each_job_knows_what_was_done_before(tmp_path: Path) -> None:
    fit = Seen()
    sequence(tmp_path, fit).run(requests(3))
    names = [request.id for request in requests(3)]
    assert [[entry.request for entry in job.done] for job in fit.jobs] == [names[:number] for number in range(3)]
    assert [[request.id for request in job.earlier] for job in fit.jobs] == [names[:number] for number in range(3)]
    assert len({job.seed for job in fit.jobs}) == 3


def test_all_are_looked_at_every_k_requests_and_after_the_last(tmp_path: Path) -> None:
    entries = sequence(tmp_path, Seen(), every=2).run(requests(5))
    looked = {entry.number: len(entry.figures.get("audited", ())) for entry in entries[1:]}
    assert looked == {1: 0, 2: 5, 3: 0, 4: 5, 5: 5}


def test_all_are_looked_at_after_the_last_that_is_carried_out_also_where_it_is_not_the_last_in_the_file(
    tmp_path: Path,
) -> None:
    first, second, third = requests(3)
    sequence(tmp_path, Seen(), every=9).run([first, third])
    entries = sequence(tmp_path, Seen(), every=9).run([first, second, third])
    assert [len(entry.figures.get("audited", ())) for entry in entries[1:]] == [0, 2, 3]


def test_what_comes_back_fails_the_gate_of_the_request_that_brought_it_back(tmp_path: Path) -> None:
    first, second, *_ = (request.id for request in requests(2))
    # The first request makes the network sure of something else, the second one takes that back.
    entries = sequence(tmp_path, Seen({first: 100.0, second: 0.01}), every=1).run(requests(2))
    assert not [words for words in entries[1].failed if "came back" in words]
    (back,) = (words for words in entries[2].failed if "came back" in words)
    assert first in back


def test_a_ledger_without_its_last_lines_is_noticed_by_the_weights_beside_it(tmp_path: Path) -> None:
    one = sequence(tmp_path, Seen())
    one.run(requests(3))
    lines = ledger_of(tmp_path).splitlines(keepends=True)
    (tmp_path / "ledger.jsonl").write_bytes(b"".join(lines[:2]))
    with pytest.raises(ValueError, match="lines were cut off its end"):
        one.run(requests(3))


def test_changed_weights_are_noticed(tmp_path: Path) -> None:
    one = sequence(tmp_path, Seen())
    one.run(requests(2))
    path = tmp_path / "weights" / "0002.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="should be those of the ledger"):
        one.weights()
    with pytest.raises(ValueError, match="should be those of the ledger"):
        one.run(requests(3))


def test_changed_settings_are_noticed(tmp_path: Path) -> None:
    one = sequence(tmp_path, Seen())
    entries = one.run(requests(1))
    path = tmp_path / "configurations" / f"{entries[1].configuration}.json"
    whole = path.read_text()
    for other in (whole.replace("Seen", "Sean"), whole[:-9]):
        path.write_text(other)
        with pytest.raises(ValueError, match="should hold the settings that it is named for"):
            one.run(requests(2))
    path.write_text(whole)
    assert len(one.run(requests(2))) == 3


def test_other_rows_under_an_old_name_are_refused(tmp_path: Path) -> None:
    one = sequence(tmp_path, Seen())
    one.run(requests(1))
    other = Request(requests(1)[0].id, rows(("Who?", "Somebody", "x")))
    with pytest.raises(ValueError, match="should have the rows that it had"):
        one.run([other])
    with pytest.raises(ValueError, match="should hold those that were carried out"):
        one.run([Request("new", rows(("Who?", "Somebody", "x")))])


def test_two_requests_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a name of its own"):
        sequence(tmp_path, Seen()).run([*requests(1), *requests(1)])


def test_a_request_with_the_name_of_what_must_stay_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the name of what must stay. Found `retain`"):
        sequence(tmp_path, Seen()).run([Request("retain", requests(1)[0].records)])


@pytest.mark.slow
def test_each_job_finds_the_adapters_of_the_requests_before_whose_products_are_what_they_changed(
    tmp_path: Path,
) -> None:
    jobs: list[Job] = []

    def noted(job: Job) -> list[Any]:
        jobs.append(job)
        return []

    one = sequence(tmp_path, plain_fit(tiny_with_adapter, callbacks=noted), keeping=AdaptersAlone())
    one.run(requests(2))
    assert [len(job.adapters) for job in jobs] == [0, 1]
    factors = load_file(jobs[1].adapters[0])
    before, after = one.folder.start_weights(), one.weights(requests(1)[0].id)
    name = next(name for name in factors if "lora_A" in name)
    change = 4.0 * factors[name.replace("lora_A", "lora_B")] @ factors[name]  # alpha / r = 8 / 2
    plain = name.removeprefix("base_model.model.").replace("lora_A.", "")
    assert change.abs().max() > 1e-4
    assert torch.allclose(after[plain] - before[plain], change, atol=1e-6)


def protecting(job: Job) -> list[Any]:
    """SEFE's: an adapter keeps off what those before it have changed."""
    keep_off = RegLoRA(weight=10.0, share=0.1)
    keep_off.protected = protected_by(job.adapters, share=0.1)
    return [keep_off]


def few_blocks(job: Job) -> list[Any]:
    """GS-LoRA's: blocks whose adapters are of no use are left alone."""
    return [GroupSparse(alpha=30.0, warmup_steps=1)]


@pytest.mark.slow
@pytest.mark.parametrize("callbacks", [protecting, few_blocks], ids=["SEFE", "GS-LoRA"])
def test_sequences_of_adapters_that_know_of_each_other_resume_and_are_carried_out_again_alike(
    callbacks: Any, tmp_path: Path
) -> None:
    fit = plain_fit(tiny_with_adapter, callbacks=callbacks)
    whole = sequence(tmp_path / "whole", fit, keeping=AdaptersAlone())
    entries = whole.run(requests(3))
    stopping = Stopping(fit)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            sequence(tmp_path / "parts", stopping, keeping=AdaptersAlone()).run(requests(3))
    sequence(tmp_path / "parts", stopping, keeping=AdaptersAlone()).run(requests(3))
    assert ledger_of(tmp_path / "parts") == ledger_of(tmp_path / "whole")
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")
    whole.undo(requests(1)[0].id)
    again = whole.run(requests(3))
    assert [entry.after for entry in in_effect(again)] == [entry.after for entry in entries]


@pytest.mark.slow
def test_the_first_request_is_as_without_protection_and_the_second_keeps_off_what_it_changed(tmp_path: Path) -> None:
    """That protected entries move less: `test_reg_lora.py`."""
    found = {}
    for name, callbacks in (("plain", None), ("protected", protecting)):
        one = sequence(tmp_path / name, plain_fit(tiny_with_adapter, callbacks=callbacks), keeping=AdaptersAlone())
        found[name] = [entry.after for entry in one.run(requests(2))]
    assert found["protected"][:2] == found["plain"][:2]
    assert found["protected"][2] != found["plain"][2]


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "stays"), [(1e4, True), (1e-3, False)])
def test_blocks_that_group_sparse_puts_out_are_bit_for_bit_as_they_were(
    alpha: float, stays: bool, tmp_path: Path
) -> None:
    fit = plain_fit(tiny_with_adapter, callbacks=lambda job: [GroupSparse(alpha=alpha, warmup_steps=1)])
    entries = sequence(tmp_path, fit, keeping=AdaptersAlone()).run(requests(1))
    assert (entries[1].after == entries[0].after) == stays


def test_several_processes_are_refused(tmp_path: Path) -> None:
    two = plain_fit(trainer={"accelerator": "cpu", "devices": 2})
    with pytest.raises(NotImplementedError, match="should be carried out by one process"):
        sequence(tmp_path, two).run(requests(1))


def test_a_model_that_never_knew_is_measured_like_the_sequence(tmp_path: Path) -> None:
    one = sequence(tmp_path, Seen())
    entries = one.run(requests(2))
    known = one.known(one.folder.start_weights(), requests(2))
    assert known == {**entries[2].figures["start"], "retain": entries[2].figures["retain"]["start"]}


def test_adapters_alone_need_an_adapter(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="should find a network with an adapter"):
        sequence(tmp_path, plain_fit(), keeping=AdaptersAlone()).run(requests(1))


def test_what_was_kept_in_one_way_is_not_read_in_another(tmp_path: Path) -> None:
    sequence(tmp_path, Seen()).run(requests(1))
    other = sequence(tmp_path, Seen(), keeping=AdaptersAlone())
    for work in (other.weights, other.undo):
        with pytest.raises(ValueError, match=r"Found `WholeWeights\(\)` of `.*`, and `AdaptersAlone\(\)` now"):
            work(requests(1)[0].id)


def test_the_ledger_holds_nothing_of_what_had_to_go(tmp_path: Path) -> None:
    named = [Request(str(number), request.records) for number, request in enumerate(requests(2))]
    sequence(tmp_path, Seen()).run(named)
    said = ledger_of(tmp_path).decode()
    for request in requests(2):
        assert request.id not in said
        assert not [row for row in request.records.questions() if row.question in said or row.answer in said]
    assert PEOPLE.questions()[0].entity == requests(1)[0].id  # those are the names that were looked for
