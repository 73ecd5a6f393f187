"""Likelihoods on disk: exact, found again by what decides them, never taken from another model, never half a line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from _full_disk import room_for
from _language_models import adapted, batch, family
from _modules import SomebodysModule, examples, quiet
from _ranks import run_ranks
from lightning.pytorch.strategies import DDPStrategy
from tokenizers.models import BPE
from torch import nn
from torch.utils.data import DataLoader

from lightning_unlearn import (
    NPO,
    CachedLogLikelihood,
    CausalLMReadout,
    ClassificationReadout,
    Encoding,
    FileRecords,
    LoaderSettings,
    PackedCausalLMReadout,
    Prediction,
    QuestionAnswerData,
    TinyCausalLM,
    Unlearn,
)
from lightning_unlearn.references._cache_file import CacheFile, _sum
from lightning_unlearn.references._origin import origin_of
from lightning_unlearn.runtime import checksum

READOUT = CausalLMReadout()
BATCHES = [batch(rows=(0,)), batch(rows=(1, 2))]


@contextmanager
def counting(network: nn.Module, fail_at: int | None = None) -> Iterator[list[int]]:
    """Numbers of the forward passes of ``network``, the last of which is interrupted if told so."""
    calls: list[int] = []

    def count(*_: Any) -> None:
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        calls.append(len(calls))

    handle = network.register_forward_pre_hook(count)
    try:
        yield calls
    finally:
        handle.remove()


def swept(folder: str | None, readout: CausalLMReadout = READOUT, network: nn.Module | None = None) -> Any:
    reference = CachedLogLikelihood(folder=folder)
    reference.attach(network if network is not None else family("llama"))
    reference.sweep(readout, BATCHES)
    return reference


def alike(a: CachedLogLikelihood, b: CachedLogLikelihood) -> bool:
    return a.known.keys() == b.known.keys() and all(torch.equal(a.known[k], b.known[k]) for k in a.known)


def files(folder: str = "cache") -> list[Path]:
    return sorted(Path(folder).iterdir())


def passes(folder: str, network: nn.Module | None = None) -> int:
    """How many batches a sweep had to compute."""
    network = network if network is not None else family("llama")
    with counting(network) as calls:
        swept(folder, network=network)
    return len(calls)


def test_a_second_sweep_computes_nothing_and_knows_the_same_to_the_bit() -> None:
    assert passes("cache") == 2
    assert passes("cache") == 0
    assert alike(swept("cache"), swept(None))
    assert len(files()) == 1
    assert swept("cache")(READOUT, batch()).token_nll().dtype == torch.float32


def test_an_example_that_comes_again_is_not_computed_again() -> None:
    reference = CachedLogLikelihood("cache")
    reference.attach(family("llama"))
    with counting(reference.network) as calls:
        reference.sweep(READOUT, [batch(), batch("left", rows=(2, 0), width=13)])
    assert len(calls) == 1
    assert len(reference) == 3


def test_awkward_numbers_and_keys_come_back_to_the_bit() -> None:
    bits = torch.randint(-(2**31), 2**31, (4096,), dtype=torch.int64).to(torch.int32)
    values = {
        'é\n"{}': bits.view(torch.float32),
        "none": torch.empty(0),
        "special": torch.tensor([0.0, -0.0, torch.inf]),
    }
    with CacheFile(".", {}) as file:
        file.append(values)
    read = CacheFile(".", {}).known
    assert read.keys() == values.keys()
    assert all(torch.equal(read[k].view(torch.int32), values[k].view(torch.int32)) for k in values)


def test_an_interrupted_sweep_goes_on_where_it_stopped() -> None:
    network = family("llama")
    with counting(network, fail_at=1), pytest.raises(KeyboardInterrupt):
        swept("cache", network=network)
    assert passes("cache") == 1
    assert alike(swept("cache"), swept(None))
    assert len(files()) == 2  # what the first run wrote is left alone


def test_wherever_a_write_was_cut_off_nothing_wrong_is_known() -> None:
    whole = swept("cache")
    (path,) = files()
    content = path.read_bytes()
    seen = set()
    for length in [*range(0, len(content), 7), len(content) - 1]:
        path.write_bytes(content[:length])
        known = CacheFile("cache", origin_of(whole.network, READOUT)).known
        assert all(torch.equal(known[k], whole.known[k]) for k in known)
        seen.add(len(known))
    assert seen == {0, 1, 2}
    assert alike(swept("cache"), whole)


def damage_number(text: str) -> str:
    content = json.loads(text.split("\n")[1])[1]
    return text.replace(content, content.translate(str.maketrans("ABCD", "BCDA")), 1)


DAMAGE = {
    "a number": (damage_number, "Found 1 damaged lines"),
    "a line": (lambda text: text.replace('\n["', "\n[", 1), "Found 1 damaged lines"),
    "a line of another kind": (lambda text: text.replace("\n", '\n"abc"\n', 1), "Found 1 damaged lines"),
    "bytes that are no text": (lambda text: text.replace("\n", "\n\x00\udcff\n", 1), "Found 1 damaged lines"),
    "the head": (lambda text: text.replace("precision", "precisely", 1), "Found 4 damaged lines"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_file_is_said_to_be_and_computed_again(what: str) -> None:
    whole = swept("cache")
    (path,) = files()
    damage, message = DAMAGE[what]
    path.write_bytes(damage(path.read_text()).encode("utf-8", "surrogateescape"))
    with pytest.warns(UserWarning, match=message):
        again = swept("cache")
    assert alike(again, whole)


FOREIGN: dict[str, Callable[[Path], object]] = {
    "a directory": lambda path: (path.unlink(), path.mkdir()),
    "a link to nowhere": lambda path: (path.unlink(), path.symlink_to("nowhere")),
}
SILENT: dict[str, Callable[[Path], object]] = {  # nothing is lost that was whole: what a killed writer leaves
    "no bytes": lambda path: path.write_bytes(b""),
    "half a head": lambda path: path.write_bytes(path.read_bytes()[:20]),
}
GARBAGE: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "deep brackets": lambda path: path.write_bytes(path.read_bytes() + b"[" * 100_000 + b"\n"),
    "a key that is none": lambda path: path.write_text(path.read_text() + with_key([1]), "ascii"),
    "another network's": lambda path: (
        swept("other", network=family("llama", seed=3)),
        files("other")[0].replace(path),
    ),
}


def with_key(key: Any) -> str:
    return json.dumps([key, "", _sum(key, "")]) + "\n"


@pytest.mark.parametrize("what", FOREIGN)
def test_what_cannot_be_read_is_named_and_computed_again(what: str) -> None:
    whole = swept("cache")
    (path,) = files()
    FOREIGN[what](path)
    with pytest.warns(
        UserWarning, match=rf"`{path}` should be a file of likelihoods\. Found .*: they are computed again"
    ):
        again = swept("cache")
    assert alike(again, whole)


@pytest.mark.parametrize("what", SILENT)
def test_what_a_killed_writer_left_is_made_up_for(what: str) -> None:
    whole = swept("cache")
    SILENT[what](files()[0])
    assert passes("cache") == 2
    assert alike(swept("cache"), whole)


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_is_named_and_never_used(what: str) -> None:
    whole = swept("cache")
    (path,) = files()
    GARBAGE[what](path)
    with pytest.warns(UserWarning, match=rf"`{path}` should hold likelihoods .* damaged lines"):
        again = swept("cache")
    assert alike(again, whole)


def test_only_the_owner_may_read_it() -> None:
    swept("cache")
    assert [path.stat().st_mode & 0o777 for path in files()] == [0o600]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9])
def test_a_disk_that_fills_up_costs_other_runs_the_values_and_not_this_one(share: float) -> None:
    """Before the head, within it, or in a line: the run goes on, and what is on disk is never wrong."""
    whole = swept("whole")
    room = int(share * files("whole")[0].stat().st_size)
    reference = CachedLogLikelihood("cache")
    reference.attach(family("llama"))
    with (
        room_for(room),
        pytest.warns(UserWarning, match=r"should be kept in `cache` for other runs. Found .*too large"),
    ):
        reference.sweep(READOUT, BATCHES)
    assert alike(reference, whole)
    assert alike(swept("cache"), whole)


def changed(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        next(network.parameters()).view(-1)[3].mul_(-1)
    return network


def other_heads() -> nn.Module:
    network = family("llama")
    network.config.rms_norm_eps = 1e-3
    return network


OTHERS: dict[str, Any] = {
    "one sign of one weight": {"network": lambda: changed(family("llama"))},
    "another seed": {"network": lambda: family("llama", seed=1)},
    "another architecture of the same weights": {"network": other_heads},
    "half precision": {"network": lambda: family("llama").bfloat16()},
    "an adapter": {"network": lambda: adapted(family("llama"))},
    "another readout": {"readout": PackedCausalLMReadout},
    "another setting of the readout": {"readout": lambda: CausalLMReadout(keep_features=True)},
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_another_model_said_is_not_used(what: str) -> None:
    swept("cache")
    settings = {name: make() for name, make in OTHERS[what].items()}
    other = swept("cache", **settings)
    assert len(files()) == 2
    expected = swept(None, **{**settings, "network": other.network})
    assert alike(other, expected)


def encoded(letters: bool = False, template: Any = "chat", answer: str = "answer") -> list[Any]:
    """Two rows of the bundled people, by a tokenizer or a template of one's own."""
    encoding = Encoding("bundled", template=template)
    if letters:  # another tokenizer: the same vocabulary, and words fall apart into letters
        encoding.tokenizer.backend_tokenizer.model = BPE(encoding.tokenizer.get_vocab(), [])
    records = FileRecords("bundled:people", rows=(0, 2), answer=answer)
    return list(QuestionAnswerData(records, encoding, LoaderSettings(batch_size=1)).val_dataloader())


@pytest.mark.parametrize(
    "other",
    [{"letters": True}, {"template": "plain"}, {"answer": "paraphrase"}],
    ids=["tokenizer", "template", "answers"],
)
def test_what_was_said_of_other_tokens_is_not_used(other: dict[str, Any]) -> None:
    """Neither another tokenizer nor other data: examples are known by their tokens and labels."""
    network = TinyCausalLM(hidden_size=16, num_hidden_layers=1)

    def sweep(batches: list[Any], folder: str | None) -> tuple[CachedLogLikelihood, int]:
        reference = CachedLogLikelihood(folder)
        reference.attach(network)
        with counting(network) as calls:
            reference.sweep(READOUT, batches)
        return reference, len(calls)

    first, _ = sweep(encoded(), "cache")
    assert sweep(encoded(), "cache")[1] == 0
    with pytest.raises(KeyError, match="has it changed since the checkpoint"):
        first(READOUT, encoded(**other)[0])
    second, computed = sweep(encoded(**other), "cache")
    assert computed == 2
    assert alike(second, sweep(encoded(**other), None)[0])
    assert not set(first.known) & set(second.known)


def test_what_was_said_in_another_precision_is_not_used() -> None:
    plain = swept("cache")
    with torch.autocast("cpu", torch.bfloat16):
        mixed = swept("cache")
        assert alike(mixed, swept(None))
    assert not alike(mixed, plain)
    assert alike(swept("cache"), plain)


def test_the_name_is_the_same_wherever_the_model_came_from(tmp_path: Path) -> None:
    network = family("llama")
    network.save_pretrained(tmp_path / "saved")
    swept("cache", network=network)
    loaded = type(network).from_pretrained(tmp_path / "saved")
    assert checksum(loaded) == checksum(network)
    assert passes("cache", network=loaded) == 0


def test_a_second_fit_with_another_network_does_not_see_the_first() -> None:
    reference = CachedLogLikelihood("cache")
    for seed in (0, 1):
        reference.attach(family("llama", seed=seed))
        reference.sweep(READOUT, BATCHES)
        assert alike(reference, swept(None, network=family("llama", seed=seed)))


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_computed(folder: str) -> None:
    Path("file").touch()
    reference = CachedLogLikelihood(folder)
    with pytest.raises(
        OSError,
        match=rf"`folder` should be a folder that can be written\. Found `{folder}`.*`CachedLogLikelihood\(\)` keeps",
    ):
        reference.attach(family("llama"))


def test_attaching_leaves_an_empty_folder_and_no_folder_means_no_file() -> None:
    CachedLogLikelihood("deep/down").attach(nn.Linear(1, 1))
    swept(None)
    assert [p.name for p in Path().rglob("*")] == ["deep", "down"]


def test_two_runs_at_once_do_not_disturb_each_other() -> None:
    with CacheFile(".", {}) as a, CacheFile(".", {}) as b:
        a.append({"x": torch.ones(2), "y": torch.ones(1)})
        b.append({"x": torch.ones(2), "z": torch.ones(3)})
        b.append({"x": torch.zeros(2)})
    assert {k: v.tolist() for k, v in CacheFile(".", {}).known.items()} == {"x": [1, 1], "y": [1], "z": [1, 1, 1]}


def fit(rank: int, world_size: int, folder: str | None) -> Any:
    unlearn = Unlearn(
        NPO(beta=0.5),
        reference=CachedLogLikelihood(folder),
        readout=Once(),
        forget=DataLoader(examples(2, n=12), batch_size=4 // world_size),
    )
    module = SomebodysModule("adamw")
    trainer = quiet(
        strategy=DDPStrategy(find_unused_parameters=True) if world_size > 1 else "auto",
        devices=world_size,
        max_steps=2,
        callbacks=[unlearn],
    )
    trainer.fit(module, DataLoader(examples(1, n=16), batch_size=4 // world_size))
    computed = unlearn.readout.looks
    return (
        computed,
        unlearn._original.loss.reference.known,
        {n: p.detach().clone() for n, p in module.named_parameters()},
    )


class Once(ClassificationReadout):
    """How often it looked."""

    def __init__(self) -> None:
        super().__init__()
        self._looks = 0

    @property
    def looks(self) -> int:
        return self._looks

    def for_measuring(self) -> ClassificationReadout:
        return ClassificationReadout()  # the fit compares it with the loss: those looks do not count

    def __call__(self, network: nn.Module, data: Any) -> Prediction:
        self._looks += not torch.is_grad_enabled()
        return super().__call__(network, data)


@pytest.mark.parametrize("world_size", [1, 2])
def test_ranks_write_one_cache_and_share_it(world_size: int, tmp_path: Path) -> None:
    folder = str(tmp_path / "cache")

    def ranks(kept: str | None) -> list[Any]:
        if world_size == 1:
            return [fit(0, 1, kept)]
        return run_ranks(lambda rank, world: fit(rank, world, kept))

    without, first, second = ranks(None), ranks(folder), ranks(folder)
    assert [r[0] for r in without] == [3] * world_size
    assert [r[0] for r in first] == [3] * world_size
    assert [r[0] for r in second] == [0] * world_size
    assert len(files(folder)) == world_size
    for (_, known, parameters), *others in zip(without, first, second, strict=True):
        for _, known_there, parameters_there in others:
            assert len(known_there) == 12
            assert all(torch.equal(known[k], known_there[k]) for k in known)
            assert all(torch.equal(parameters[n], parameters_there[n]) for n in parameters)


def test_what_two_ranks_wrote_serves_one(tmp_path: Path) -> None:
    folder = str(tmp_path / "cache")
    run_ranks(lambda rank, world: fit(rank, world, folder))
    assert fit(0, 1, folder)[0] == 0


def test_ranks_that_know_different_things_look_together(tmp_path: Path) -> None:
    """As on machines that do not share a disk: a sharded network must be run on all ranks, or on none."""

    def on_rank(rank: int, world_size: int) -> Any:
        torch.distributed.init_process_group("gloo")
        reference = CachedLogLikelihood(str(tmp_path / str(rank)))
        reference.attach(family("llama"))
        origin = origin_of(reference.network, READOUT)
        if rank == 0:
            with CacheFile(str(tmp_path / "0"), origin) as file:
                file.append({key: torch.zeros(1) for key in READOUT.keys(BATCHES[0])})
        with counting(reference.network) as calls:
            reference.sweep(READOUT, BATCHES)
        return len(calls)

    assert run_ranks(on_rank) == [2, 2]


def test_resuming_does_not_need_the_files(tmp_path: Path) -> None:
    reference = swept(str(tmp_path / "cache"))
    for path in files(str(tmp_path / "cache")):
        path.unlink()
    resumed = CachedLogLikelihood(str(tmp_path / "elsewhere"))
    resumed.attach(family("llama", seed=5))
    resumed.load_state_dict(reference.state_dict())
    assert alike(resumed, reference)


def test_random_numbers_are_left_alone() -> None:
    state = torch.get_rng_state()
    swept("cache", network=(network := family("llama")))
    before = checksum(network)
    swept("cache", network=network)
    assert torch.equal(torch.get_rng_state(), state)
    assert checksum(network) == before


def test_a_file_says_where_its_values_come_from() -> None:
    swept("cache")
    head = json.loads(files()[0].read_text().splitlines()[0])
    assert set(head) == {"format", "weights", "architecture", "readout", "precision", "versions"}
    assert head["readout"] == "lightning_unlearn.readouts._causal_lm.CausalLMReadout(keep_features=False)"
    assert head["versions"]["torch"] == version("torch")
