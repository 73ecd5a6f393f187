"""What somebody has set for all of torch changes no fit of ours, as it changes none of Lightning's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import quiet

from lightning_unlearn import (
    NPO,
    DisruptionBudget,
    Encoding,
    FinetuneFirst,
    ForgetRetainData,
    InMemoryRecords,
    LoaderSettings,
    Quantize,
    QuestionAnswerData,
    RecoveryCheck,
    Relearn,
    StepGuard,
    TinyCausalLM,
    Unlearn,
    UnlearningModule,
    WriteReport,
)
from lightning_unlearn.bundled import bundled_path
from lightning_unlearn.runtime import checksum

ROWS = [json.loads(line) for line in (Path(bundled_path()) / "people.jsonl").read_text().splitlines()]


def data(group: str) -> QuestionAnswerData:
    rows = [row for row in ROWS if row["group"] == group][:12]
    return QuestionAnswerData(InMemoryRecords(rows, entity="entity"), Encoding("bundled"), LoaderSettings(batch_size=4))


def fitted(set_globally: Callable[[], AbstractContextManager[None]], folder: Path) -> tuple[int, Any]:
    """The weights after a fit with most of what there is, and what its report has seen."""
    pl.seed_everything(0, verbose=False)
    module = UnlearningModule(TinyCausalLM(seed=0), optimizer=partial(torch.optim.AdamW, lr=1e-3))
    callbacks = [
        FinetuneFirst(epochs=1, control=True),
        Unlearn(NPO(), under={"relearn": Relearn(steps=2, mode="full")}, under_every=2),
        StepGuard(),
        DisruptionBudget(data("retain"), kl=5.0, every=2),
        RecoveryCheck({"adapter": Relearn(steps=2), "int4": Quantize(4)}),
        WriteReport(str(folder)),
    ]
    both = ForgetRetainData(retain=data("retain"), forget=data("forget"))
    with set_globally():
        quiet(callbacks=callbacks, max_steps=4, max_epochs=-1).fit(module, datamodule=both)
    return checksum(module), json.loads((folder / "report.json").read_text())["observations"]


@contextmanager
def set_to(setter: Callable[[Any], None], value: Any, usual: Any) -> Iterator[None]:
    setter(value)
    try:
        yield
    finally:
        setter(usual)


SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "double by default": partial(set_to, torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16 by default": partial(set_to, torch.set_default_dtype, torch.bfloat16, torch.float32),
    "no gradients": partial(torch.set_grad_enabled, False),
    "deterministic": partial(set_to, torch.use_deterministic_algorithms, True, False),
    "anomalies are looked for": torch.autograd.detect_anomaly,
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Any]:
    return fitted(nullcontext, tmp_path_factory.mktemp("expected"))


@pytest.mark.parametrize("how", SETTINGS)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_a_fit_and_what_it_sees_are_the_same_to_the_bit(how: str, expected: tuple[int, Any], tmp_path: Path) -> None:
    assert fitted(SETTINGS[how], tmp_path) == expected
