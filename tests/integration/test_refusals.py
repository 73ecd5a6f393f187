"""Wrong input is answered by one clear error: what should be, what was found, the way out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import SomebodysModule, examples, loader, quiet
from _ranks import run_ranks
from _sharded_fits import FSDP1OnCPU
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch.utils.data import DataLoader, Subset, TensorDataset

from lightning_unlearn import (
    NPO,
    AdapterDisabled,
    Attack,
    Bounded,
    CachedLogLikelihood,
    CyclicOrder,
    Encoding,
    FileRecords,
    FinetuneFirst,
    ForgetRetainData,
    FrozenCopy,
    GradientAscent,
    HalfSpace,
    KLToReference,
    Objective,
    Quantize,
    QuestionAnswerData,
    RandomOrder,
    RecoveryCheck,
    Refresh,
    Relearn,
    SavePretrained,
    SignGate,
    StepGuard,
    TinyCausalLM,
    Unlearn,
    UnlearningModule,
    WriteReport,
)


def fit(unlearn: Any = None, module: Any = None, retain: Any = None, *callbacks: Any, **kwargs: Any) -> pl.Trainer:
    unlearn = Unlearn(GradientAscent(), forget=loader(seed=2)) if unlearn is None else unlearn
    trainer = quiet(callbacks=[unlearn, *callbacks], **kwargs)
    trainer.fit(SomebodysModule() if module is None else module, loader(seed=1) if retain is None else retain)
    return trainer


def none_of(data: Any) -> DataLoader[Any]:
    return DataLoader(Subset(data, []), batch_size=4)


def labelled(*labels: int, batch_size: int = 2) -> DataLoader[Any]:
    x = torch.randn(len(labels), 8, generator=torch.Generator().manual_seed(7))
    return DataLoader(TensorDataset(x, torch.tensor(labels)), batch_size=batch_size)


# Forget and retain data


def test_nothing_to_forget() -> None:
    with pytest.raises(
        ValueError, match=r"should find what to forget.*Found `trainer.datamodule = None`.*ForgetRetainData\("
    ):
        fit(Unlearn(GradientAscent()))


@pytest.mark.parametrize("objective", [GradientAscent(), NPO()], ids=repr)
def test_empty_forget_set(objective: Objective) -> None:
    with pytest.raises(ValueError, match=r"forget set should hold at least one example\. Found none\. Check its path"):
        fit(Unlearn(objective, forget=none_of(examples(2))))


@pytest.mark.parametrize("order", [RandomOrder(), CyclicOrder(), None])
def test_empty_forget_set_of_split_data(order: Any) -> None:
    data = ForgetRetainData(retain=loader(seed=1), forget=none_of(examples(2)), order=order)
    with pytest.raises(ValueError, match="forget set should hold at least one example"):
        quiet(callbacks=[Unlearn(GradientAscent())]).fit(SomebodysModule(), datamodule=data)


def test_forget_data_of_no_known_kind() -> None:
    with pytest.raises(
        ValueError, match=r"forget data should come as a `DataLoader`, several of them, or .*Found `int`"
    ):
        fit(Unlearn(GradientAscent(), forget=3))  # type: ignore[arg-type]


def test_no_retain_data() -> None:
    with pytest.raises(
        ValueError, match=r"should find retain data: what the fit trains on.*Found no training data.*`trainer"
    ):
        quiet(callbacks=[Unlearn(GradientAscent(), forget=loader(seed=2))]).fit(SomebodysModule())


@pytest.mark.filterwarnings("ignore:Total length of")
@pytest.mark.parametrize("order", [RandomOrder(), None])
def test_empty_retain_set(order: Any) -> None:
    data = ForgetRetainData(retain=none_of(examples(1)), forget=loader(seed=2), order=order)
    with pytest.raises(
        ValueError, match=r"retain set should hold at least one (example|batch)\. Found none.*Check its path"
    ):
        quiet(callbacks=[Unlearn(GradientAscent())]).fit(SomebodysModule(), datamodule=data)


def test_no_batches_on_purpose_is_fine() -> None:
    assert fit(limit_train_batches=0).global_step == 0
    assert fit(max_epochs=0).global_step == 0


def test_forget_and_retain_share_examples() -> None:
    with pytest.raises(
        ValueError, match=r"should share no example\. Found \d+ in both.*Take what must go out of the data"
    ):
        fit(Unlearn(GradientAscent(), forget=loader(seed=1)))


# What is in a batch


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        (
            {"x": torch.zeros(2, 8)},
            r"Found a mapping with keys \['x'\].*ClassificationReadout\(inputs=\.\.\., labels=\.\.\.\)",
        ),
        ([torch.zeros(2, 8)], "two parts, inputs and labels, .* Found a list of 1"),
        ([torch.zeros(2, 8), torch.zeros(2)], r"class ids, int64 of shape \[B\]. Found torch.float32"),
    ],
)
def test_a_batch_without_labels(batch: Any, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        fit(Unlearn(GradientAscent(), forget=[batch]))


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_a_batch_without_labels_for_a_language_model() -> None:
    module = UnlearningModule(TinyCausalLM(hidden_size=16, num_hidden_layers=1))
    retain = [{"input_ids": torch.ones(1, 4, dtype=torch.long), "labels": torch.ones(1, 4, dtype=torch.long)}]
    forget = [{"input_ids": torch.zeros(1, 4, dtype=torch.long)}]
    with pytest.raises(
        ValueError, match=r"`input_ids` and `labels`\. Found a mapping with keys \['input_ids'\].*collate_fn"
    ):
        fit(Unlearn(NPO(), forget=forget), module, retain)


@pytest.mark.filterwarnings("ignore:The forget gradient should not be zero")  # said before, as one of its causes
@pytest.mark.parametrize("objective", [GradientAscent(), NPO()], ids=repr)
@pytest.mark.parametrize("steps", [{"max_epochs": 2}, {"max_steps": 1}], ids=str)
def test_all_labels_ignored(objective: Objective, steps: dict[str, int]) -> None:
    """After one time around, or at the end if that comes before."""
    seen = min(steps.get("max_steps", 3), 3)
    message = rf"at least one supervised label\. Found none in {seen} batches: every label is -100.*Check what masks"
    with pytest.raises(ValueError, match=message):
        fit(Unlearn(objective, forget=labelled(*[-100] * 6)), **steps)


@pytest.mark.filterwarnings("ignore:The forget gradient should not be zero")  # said before, as one of its causes
def test_all_labels_ignored_in_data_without_a_length() -> None:
    class Rows(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter([(torch.ones(8), torch.tensor(-100))])

    with pytest.raises(ValueError, match=r"Found none in 6 batches"):
        fit(Unlearn(GradientAscent(), forget=DataLoader(Rows())))


@pytest.mark.parametrize("objective", [GradientAscent(), NPO()], ids=repr)
def test_one_batch_without_a_label_among_others_is_fine(objective: Objective) -> None:
    module = SomebodysModule()
    trainer = fit(Unlearn(objective, forget=labelled(-100, -100, 3, 1, 0, 2)), module)
    assert trainer.global_step == 6
    assert all(p.isfinite().all() for p in module.parameters())


def test_an_unsupervised_step_leaves_the_retain_gradient_alone() -> None:
    alone, module = SomebodysModule("sgd"), SomebodysModule("sgd")
    quiet(max_steps=1).fit(alone, loader(seed=1))
    with pytest.raises(ValueError, match="supervised label"):  # at the end; the step was taken
        fit(Unlearn(GradientAscent(), forget=labelled(*[-100] * 6)), module, max_steps=1)
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), module.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore:The forget gradient should not be zero")  # said before, as one of its causes
def test_ranks_agree_on_whether_anything_is_supervised() -> None:
    def train(rank: int, world_size: int, labels: list[int]) -> Any:
        module = SomebodysModule()
        forget = Unlearn(GradientAscent(), forget=labelled(*labels, batch_size=1))
        strategy = DDPStrategy(find_unused_parameters=True)
        fit(forget, module, strategy=strategy, devices=world_size)
        return [p.detach().clone() for p in module.parameters()]

    first, second = run_ranks(lambda rank, world: train(rank, world, [-100, -100, -100, 3]))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

    def refused(rank: int, world_size: int) -> str:
        with pytest.raises(ValueError, match="supervised label") as error:
            train(rank, world_size, [-100] * 4)
        return str(error.value)

    first, second = run_ranks(refused)
    assert first == second


def people(path: str = "bundled:people", **kwargs: Any) -> QuestionAnswerData:
    return QuestionAnswerData(FileRecords(path, **kwargs), Encoding("bundled"))


def learn(forget: Any) -> None:
    module = UnlearningModule(TinyCausalLM(hidden_size=16, num_hidden_layers=1))
    data = ForgetRetainData(retain=people(where={"group": ["retain"]}), forget=forget)
    quiet(callbacks=[Unlearn(NPO())], max_steps=1).fit(module, datamodule=data)


def test_unknown_field() -> None:
    with pytest.raises(ValueError, match=r"row 0 of `bundled:people` should have the field `reply`\. It has `"):
        learn(people(answer="reply"))


def test_filter_that_keeps_nothing() -> None:
    with pytest.raises(ValueError, match=r"should keep at least one of the 120 rows.*Found none with `where = "):
        learn(people(where={"group": ["nobody"]}))


def test_missing_and_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"should be an existing file\. Found `path = 'nowhere.jsonl'`"):
        learn(people(path="nowhere.jsonl"))
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"should be a readable UTF-8 text file\. Found `path = 'bytes.jsonl'`"):
        learn(people(path="bytes.jsonl"))
    (tmp_path / "half.jsonl").write_text(json.dumps({"question": "?", "answer": "!"}) + '\n{"question": ')
    with pytest.raises(ValueError, match="Line 2 is broken"):
        learn(people(path="half.jsonl"))


# Objectives and references


class NotANumber(Objective):
    """Goes wrong at its third step."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def forward(self, student: Any, reference: Any = None) -> torch.Tensor:
        self.steps += 1
        return student.logits.mean() * (float("nan") if self.steps == 3 else 1.0)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_loss_that_is_not_a_number(accumulate: int, tmp_path: Path) -> None:
    """What was written before is kept, and no hook stays behind."""
    keep = ModelCheckpoint(tmp_path / "ckpt", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    module = SomebodysModule()
    unlearn = Unlearn(NotANumber(), forget=loader(seed=2))
    trainer = quiet(
        callbacks=[unlearn, keep], logger=logger, enable_checkpointing=True, accumulate_grad_batches=accumulate
    )
    done = 2 if accumulate == 1 else 1
    message = rf"forget loss should be finite\. Found NaN or infinity at step {done} .*Lower the.*`Bounded\("
    with pytest.raises(FloatingPointError, match=message):
        trainer.fit(module, loader(seed=1))

    assert sorted(path.name for path in (tmp_path / "ckpt").iterdir()) == [f"step={n + 1}.ckpt" for n in range(done)]
    last = torch.load(tmp_path / "ckpt" / f"step={done}.ckpt", weights_only=True)["state_dict"]
    assert all(
        torch.equal(last[name], value) for name, value in module.state_dict().items()
    )  # the bad step was not taken
    assert "unlearn/forget" in (Path(logger.log_dir) / "metrics.csv").read_text()
    assert not trainer.optimizers[0]._optimizer_step_post_hooks
    assert "log" not in vars(module)


class WithoutGraph(Objective):
    def forward(self, student: Any, reference: Any = None) -> torch.Tensor:
        return student.logits.detach().mean()


class PerExample(Objective):
    def forward(self, student: Any, reference: Any = None) -> torch.Tensor:
        return student.example_nll()


@pytest.mark.parametrize(
    ("objective", "found"), [(WithoutGraph(), r"shape \(\), `requires_grad = False`"), (PerExample(), r"shape \(4,\)")]
)
def test_objective_that_is_no_scalar_of_the_network(objective: Objective, found: str) -> None:
    with pytest.raises(ValueError, match=rf"should return a scalar that depends on the network\. Found {found}.*mean"):
        fit(Unlearn(objective, forget=loader(seed=2)))


def test_objective_that_is_none() -> None:
    with pytest.raises(TypeError, match=r"`objective` should be an `Objective`, such as `NPO\(\)`\. Found the class"):
        Unlearn(GradientAscent)  # type: ignore[arg-type]


@pytest.mark.parametrize("weight", [-1.0, 0.0, float("nan"), float("inf")])
def test_weight_that_is_not_positive(weight: float) -> None:
    with pytest.raises(ValueError, match=rf"`weight` should be positive and finite.*Found `weight = {weight}`"):
        Unlearn(GradientAscent(), weight=weight)


def test_reference_that_knows_too_little() -> None:
    unlearn = Unlearn(KLToReference(), reference=CachedLogLikelihood(), forget=loader(seed=2))
    with pytest.raises(ValueError, match=r"whole distribution\. Found `CachedLogLikelihood`.*Use `FrozenCopy\(\)`"):
        fit(unlearn)


def test_adapter_that_is_not_there() -> None:
    unlearn = Unlearn(NPO(), reference=AdapterDisabled(), forget=loader(seed=2))
    with pytest.raises(ValueError, match=r"Found `SomebodysModule`, which has no adapter\. Use `CachedLogLikelihood"):
        fit(unlearn)


def test_reference_for_data_that_changes() -> None:
    class Augmented(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> Any:
            return torch.randn(8), torch.tensor(index % 5)

    with pytest.raises(KeyError, match=r"augmented at random.*Use `FrozenCopy\(\)`"):
        fit(Unlearn(NPO(), forget=DataLoader(Augmented(), batch_size=4)))


def test_frozen_copy_of_flat_parameters() -> None:
    def refused(rank: int, world_size: int) -> str:
        unlearn = Unlearn(KLToReference(), reference=FrozenCopy(), forget=loader(seed=2))
        strategy = FSDP1OnCPU(auto_wrap_policy={torch.nn.Linear})
        with pytest.raises(
            NotImplementedError, match=r"Found `FSDPStrategy` \(FSDP1\).*Use `ModelParallelStrategy`"
        ) as error:
            fit(unlearn, strategy=strategy, devices=world_size)
        return str(error.value)

    assert len(set(run_ranks(refused))) == 1


# The fit


def test_manual_optimization() -> None:
    module = SomebodysModule()
    module.automatic_optimization = False
    with pytest.raises(
        NotImplementedError, match=r"automatic_optimization = False` in `SomebodysModule`\. Let Lightning"
    ):
        fit(module=module)


def test_deepspeed() -> None:
    class DeepSpeedStrategy(SingleDeviceStrategy):
        """Stands for Lightning's, which needs a package that is not here."""

    with pytest.raises(
        NotImplementedError, match=r"Found `DeepSpeedStrategy`.*missing: extra passes.*Use `strategy='ddp'`"
    ):
        fit(strategy=DeepSpeedStrategy(device=torch.device("cpu")))


class Optimized(SomebodysModule):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters())


@pytest.mark.parametrize(
    ("kwargs", "found"),
    [
        ({"projector": HalfSpace()}, r"Unlearn\(projector=HalfSpace\(\)\)"),
        ({"under": {"int4": Quantize(bits=4)}, "under_retain": True}, r"Unlearn\(under_retain=True\)"),
    ],
    ids=["projector", "under attack"],
)
def test_what_needs_the_retain_gradient_alone_comes_first(kwargs: Any, found: str) -> None:
    """After another `Unlearn` it would take what that one has merged for the gradient of the retain data."""
    first, needy = Unlearn(NPO(0.3), forget=loader(seed=2)), Unlearn(NPO(0.5), forget=loader(seed=2), **kwargs)
    with pytest.raises(
        NotImplementedError, match=rf"`{found}` should find the retain .* Found `Unlearn\(NPO\(beta=0.3"
    ):
        quiet(callbacks=[first, needy]).fit(SomebodysModule(), loader(seed=1))
    quiet(callbacks=[needy, first], max_steps=1).fit(SomebodysModule(), loader(seed=1))
    first.optimizer = torch.optim.SGD  # it merges nothing
    quiet(callbacks=[first, needy], max_steps=1).fit(SomebodysModule(), loader(seed=1))


def test_lbfgs() -> None:
    with pytest.raises(NotImplementedError, match=r"Found `LBFGS`\. Use `AdamW` or `SGD`"):
        fit(module=Optimized(torch.optim.LBFGS))


class Lookup(pl.LightningModule):
    """An embedding by sparse gradients, from which a classifier reads."""

    def __init__(self, sparse: bool = True, is_frozen: bool = False) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(10, 6, sparse=sparse).requires_grad_(not is_frozen)
        self.head = torch.nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(x))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def looked_up(first: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(first, first + 4), torch.arange(4)), batch_size=2)


SPARSE: dict[str, Any] = {
    "Unlearn": lambda: Unlearn(Bounded(GradientAscent(), bound=3.0), forget=looked_up(5)),
    "Refresh": lambda: Refresh(),
    "StepGuard": lambda: StepGuard(retain=looked_up(0)),
    "SignGate": lambda: SignGate(retain=looked_up(0)),
}


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_gradients(name: str) -> None:
    with pytest.raises(
        NotImplementedError, match=f"`{name}` should find gradients that are dense. Found `embedding`, an"
    ):
        fit(SPARSE[name](), Lookup(), looked_up(0), max_steps=2)
    for module in (Lookup(is_frozen=True), Lookup(sparse=False)):
        fit(SPARSE[name](), module, looked_up(0), max_steps=2)


@pytest.mark.filterwarnings("ignore:.*configure_optimizers` returned `None`")
def test_no_optimizer() -> None:
    with pytest.raises(ValueError, match=r"should find the optimizer of the module\. Found none.*Return one"):
        fit(module=Optimized(lambda parameters: None))


class Bypassing(SomebodysModule):
    """Steps the optimizer itself, so that the trainer never says that it is about to."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        optimizer_closure()
        getattr(optimizer, "_optimizer", optimizer).step()


def test_steps_that_no_forget_gradient_was_merged_into() -> None:
    """Without this a run would look like unlearning, and be fine-tuning."""
    with pytest.raises(RuntimeError, match=r"Found 6 steps, of which 0 did.*Does `optimizer_step`"):
        fit(module=Bypassing())


@pytest.mark.parametrize("settings", [{"log_every_n_steps": 0}, {"barebones": True}], ids=str)
@pytest.mark.filterwarnings("ignore:.*barebones")
def test_a_trainer_that_logs_nothing_is_fine(settings: dict[str, Any]) -> None:
    defaults = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    kwargs = {"max_epochs": 1, "accelerator": "cpu"} if "barebones" in settings else {**defaults, **QUIET}
    trainer = pl.Trainer(callbacks=[Unlearn(GradientAscent(), forget=loader(seed=2))], **kwargs, **settings)
    trainer.fit(SomebodysModule(), loader(seed=1))
    assert trainer.global_step == 6


QUIET = {"enable_progress_bar": False, "enable_model_summary": False}


# Checks and what is written


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Quantize(bits=99), "`bits` should be between 2 and 16. Found `bits = 99`"),
        (lambda: Quantize(bits=8, codebook="nf4"), "bits"),
        (lambda: Relearn(steps=-1), "`steps` should be at least 0.* Found `steps = -1`"),
        (lambda: Relearn(lr=0.0), "`lr` should be positive.* Found .*`lr = 0.0`"),
        (lambda: Relearn(mode="sideways"), '`mode` should be "adapter" or "full"'),  # type: ignore[arg-type]
        (lambda: RecoveryCheck({"none": Quantize()}), '`attacks` should not use the name "none"'),
        (lambda: RecoveryCheck(every_n_steps=-1), "should be at least 0. Found .*`every_n_steps = -1`"),
        (lambda: FinetuneFirst(epochs=0), "`epochs` should be at least 1.* Found `epochs = 0`"),
    ],
)
def test_settings_that_make_no_sense(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


class Failing(Attack):
    family, unit = "failing", "step"

    @contextmanager
    def __call__(self, network: Any, **kwargs: Any) -> Iterator[Iterator[int]]:
        raise RuntimeError("out of luck")
        yield iter([0])


def test_attack_that_fails_is_named_and_the_fit_goes_on(tmp_path: Path) -> None:
    check = RecoveryCheck({"unlucky": Failing(), "int4": Quantize(bits=4)})
    with pytest.warns(
        UserWarning, match="Attack `unlucky` failed, and the fit goes on without it: RuntimeError: out of luck"
    ):
        trainer = fit(None, None, None, check, WriteReport(str(tmp_path)))
    assert trainer.global_step == 6
    assert {look.attack for look in check.observations} == {"none", "int4"}
    assert (tmp_path / "report.html").exists()


def test_attack_without_data() -> None:
    check = RecoveryCheck({"relearn": Relearn(steps=1)}, attack_data=[])
    with pytest.warns(
        UserWarning, match=r"`relearn` failed.*ValueError: `Relearn` should get batches and a loss.*Found 0"
    ):
        fit(None, None, None, check)


def test_checks_without_anything_to_check() -> None:
    with pytest.raises(ValueError, match="`RecoveryCheck` should find what to forget"):
        quiet(callbacks=[RecoveryCheck({"int4": Quantize()})]).fit(SomebodysModule(), loader(seed=1))


WRITERS: dict[str, Any] = {
    "report": lambda folder: WriteReport(folder),
    "pretrained": lambda folder: SavePretrained(folder),
    "teach": lambda folder: FinetuneFirst(epochs=1, folder=folder),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_folder_that_cannot_be_written(writer: str, tmp_path: Path) -> None:
    """Before the first step, not after hours: even root cannot make a folder inside a file."""
    (tmp_path / "file").write_text("")
    module = SomebodysModule()
    before = [p.detach().clone() for p in module.parameters()]
    data = ForgetRetainData(retain=loader(seed=1), forget=loader(seed=2))
    callbacks = [WRITERS[writer](str(tmp_path / "file" / "folder")), Unlearn(GradientAscent()), RecoveryCheck()]
    with pytest.raises(
        OSError, match=r"`folder` should be a folder that can be written\. Found `.*file/folder`.*another one"
    ):
        quiet(callbacks=callbacks).fit(module, datamodule=data)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_teaching_without_split_data() -> None:
    with pytest.raises(ValueError, match=r"`FinetuneFirst` should find a `ForgetRetainData`\. Found `NoneType`"):
        quiet(callbacks=[FinetuneFirst(epochs=1)]).fit(SomebodysModule(), loader(seed=1))


def test_what_cannot_be_saved_as_a_language_model(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="should find a Hugging Face model inside the module. Found none in `SomebodysModule`"
    ):
        fit(None, None, None, SavePretrained(str(tmp_path)))
