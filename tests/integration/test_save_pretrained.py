"""What comes out of the fit loads back into what the user had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from _full_disk import room_for
from _modules import quiet
from _ranks import run_ranks
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.testing import assert_close
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightning_unlearn import (
    NPO,
    ApplyEdit,
    DisruptionBudget,
    Encoding,
    FileRecords,
    FinetuneFirst,
    ForgetRetainData,
    LoaderSettings,
    LoRA,
    QuestionAnswerData,
    RecoveryCheck,
    RobustnessReport,
    SavePretrained,
    TinyCausalLM,
    Unlearn,
    UnlearningModule,
    WriteReport,
)
from lightning_unlearn.edits import Edit
from lightning_unlearn.models import refuse_other_weights

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


def people(group: str) -> QuestionAnswerData:
    records = FileRecords("bundled:people", where={"group": [group]})
    return QuestionAnswerData(records, Encoding("bundled"), LoaderSettings(batch_size=6))


def unlearned(network: Any, *callbacks: Any) -> UnlearningModule:
    module = UnlearningModule(network, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2))
    data = ForgetRetainData(retain=people("retain"), forget=people("forget"))
    quiet(callbacks=[Unlearn(NPO()), *callbacks], max_steps=2).fit(module, datamodule=data)
    return module


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        return network.eval()(torch.arange(8)[None]).logits


def tiny() -> Any:
    return TinyCausalLM(hidden_size=32, num_hidden_layers=1)


def test_plain_model_loads_back(tmp_path: Path) -> None:
    module = unlearned(tiny(), SavePretrained(str(tmp_path)))
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert_close(logits(again), logits(module.network), rtol=0, atol=0)
    assert set(again.state_dict()) == set(tiny().state_dict())
    assert (logits(again) - logits(tiny())).abs().max() > 1e-3  # and it is the unlearned one


def test_a_folder_in_the_home_folder_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    check = RecoveryCheck(attacks={}, every_n_epochs=0)
    unlearned(tiny(), check, WriteReport("~/report"), SavePretrained("~/model"))
    assert (tmp_path / "home" / "model" / "config.json").is_file()
    assert (tmp_path / "home" / "report" / "report.json").is_file()
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("place", range(3))
def test_wherever_it_stands_it_writes_the_weights_that_the_fit_hands_back(place: int, tmp_path: Path) -> None:
    """An edit at the end costs too much, and the budget takes it back when the fit ends."""
    budget = DisruptionBudget(kl=1e3, every=1, on_exceed="restore", batches=1)
    budget_and_edit = [budget, ApplyEdit(Spoil(), when="end")]
    module = unlearned(tiny(), *budget_and_edit[:place], SavePretrained(str(tmp_path)), *budget_and_edit[place:])
    assert budget.exceeded_at is not None
    written = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert_close(logits(written), logits(module.network), rtol=0, atol=0)


class Spoil(Edit):
    """Logits so far apart that no divergence is within a budget."""

    def new_values(self, network: Any, **data: Any) -> Any:
        for name, param in network.named_parameters():
            if "norm" in name:
                yield name, param.detach() * 1e6


def test_adapter_loads_back(tmp_path: Path) -> None:
    from peft import PeftModel

    module = unlearned(LoRA(r=4).wrap(tiny()), SavePretrained(str(tmp_path)))
    again = PeftModel.from_pretrained(tiny(), tmp_path)
    assert_close(logits(again), logits(module.network), rtol=0, atol=0)


def test_merged_adapter_loads_back_as_a_plain_model_and_the_live_one_keeps_its_adapter(tmp_path: Path) -> None:
    module = unlearned(LoRA(r=4).wrap(tiny()), SavePretrained(str(tmp_path), merge_adapter=True))
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert_close(logits(again), logits(module.network), rtol=0, atol=1e-5)
    assert any("lora_" in name for name, _ in module.network.named_parameters())


class Last(Callback):
    """What a user put behind ours."""

    def __init__(self) -> None:
        self.did: list[str] = []

    def on_fit_end(self, *args: Any) -> None:
        self.did.append("on_fit_end")

    def teardown(self, *args: Any) -> None:
        self.did.append("teardown")


@pytest.mark.parametrize("merge_adapter", [False, True])
def test_a_disk_that_fills_up_is_said_at_the_very_end_and_costs_nothing_else(
    merge_adapter: bool, tmp_path: Path
) -> None:
    class Full(SavePretrained):
        def on_fit_end(self, *args: Any) -> None:
            with room_for(10_000):
                super().on_fit_end(*args)

    last = Last()
    module = UnlearningModule(LoRA(r=4).wrap(tiny()) if merge_adapter else tiny())
    first = Full(str(tmp_path / "model"), merge_adapter=merge_adapter)
    callbacks = [first, Unlearn(NPO()), RecoveryCheck(), WriteReport(str(tmp_path / "report")), last]
    data = ForgetRetainData(retain=people("retain"), forget=people("forget"))
    with pytest.raises(
        OSError, match=r"have written the network to `.*model`\. Found .*still in memory.*save_pretrained"
    ):
        quiet(callbacks=callbacks, max_steps=2).fit(module, datamodule=data)
    assert RobustnessReport.load(tmp_path / "report").run["steps"] == 2
    assert last.did == ["on_fit_end", "teardown"]
    again = SavePretrained(str(tmp_path / "again"), merge_adapter=merge_adapter)
    again.on_fit_end(module.trainer, module)  # the way out
    assert_close(
        logits(AutoModelForCausalLM.from_pretrained(tmp_path / "again")), logits(module.network), rtol=0, atol=1e-5
    )


def test_the_tokenizer_of_the_data_is_beside_it(tmp_path: Path) -> None:
    unlearned(tiny(), SavePretrained(str(tmp_path)))
    text = "Where does she live?"
    wanted = Encoding("bundled").tokenizer(text).input_ids
    assert AutoTokenizer.from_pretrained(tmp_path)(text).input_ids == wanted


def test_files_are_as_small_as_asked(tmp_path: Path) -> None:
    module = unlearned(tiny(), SavePretrained(str(tmp_path), max_shard_size="50KB"))
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(module.network))


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True` and a tied layer")
@pytest.mark.parametrize("options", [{"target_modules": ["embed_tokens"]}, {"modules_to_save": ["lm_head"]}], ids=str)
def test_a_merged_folder_of_a_tied_head_is_the_network_that_was_trained(options: Any, tmp_path: Path) -> None:
    module = unlearned(LoRA(r=4, **options).wrap(tiny()), SavePretrained(str(tmp_path), merge_adapter=True))
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert_close(logits(again), logits(module.network), rtol=0, atol=1e-5)
    assert again.lm_head.weight is not again.model.embed_tokens.weight
    assert module.network.get_base_model().lm_head is not again.lm_head


def test_a_folder_that_holds_another_network_is_said_at_the_very_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network: Any = tiny()
    save = network.save_pretrained

    def another(*args: Any, **kwargs: Any) -> None:
        with torch.no_grad():
            network.lm_head.weight.neg_()
            save(*args, **kwargs)
            network.lm_head.weight.neg_()

    monkeypatch.setattr(network, "save_pretrained", another)
    last = Last()
    with pytest.raises(
        OSError, match=r"Found ValueError: The folder should load as the network .*`model\.embed_tokens\.weight`"
    ):
        unlearned(network, SavePretrained(str(tmp_path)), last)
    assert last.did == ["on_fit_end", "teardown"]


def test_where_merging_fails_the_adapter_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft import PeftModel

    monkeypatch.setattr("lightning_unlearn.models._merged._tolerance", lambda _: -1.0)
    network = LoRA(r=4).wrap(tiny())
    with pytest.raises(OSError, match="Found ValueError: A merged network should say what"):
        unlearned(network, SavePretrained(str(tmp_path), merge_adapter=True))
    assert torch.equal(logits(PeftModel.from_pretrained(tiny(), tmp_path)), logits(network))


def test_an_adapter_whose_base_was_taught_is_not_written_alone(tmp_path: Path) -> None:
    teach = FinetuneFirst(epochs=1, lr=1e-2)
    with pytest.raises(ValueError, match=r"`FinetuneFirst` has fine-tuned the base, .* Set `merge_adapter=True`"):
        unlearned(LoRA(r=4).wrap(tiny()), teach, SavePretrained(str(tmp_path)))
    module = unlearned(LoRA(r=4, use_dora=True).wrap(tiny()), teach, SavePretrained(str(tmp_path), merge_adapter=True))
    assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(module.network), rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no `validation_step`")
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True)], ids=["adapter over whole", "the reverse"])
def test_a_folder_with_the_other_form_is_refused_before_the_fit(
    first: bool, second: bool, late: bool, tmp_path: Path
) -> None:
    """Loaded together, a merged model and its adapter are neither of the two networks."""

    def make() -> Any:
        return LoRA(r=2).wrap(tiny())

    unlearned(make(), SavePretrained(str(tmp_path), merge_adapter=first))
    found = "config.json" if first else "adapter_config.json"
    again = SavePretrained(str(tmp_path), merge_adapter=second)
    module = Built(make) if late else UnlearningModule(make())
    with pytest.raises(ValueError, match=rf"`folder` should be empty.* Found `{found}`"):
        quiet(callbacks=[again], max_steps=1).fit(
            module, ForgetRetainData(retain=people("retain"), forget=people("forget"))
        )
    unlearned(make(), SavePretrained(str(tmp_path), merge_adapter=first))  # what is replaced may be there


def test_an_adapter_of_prompts_cannot_be_merged(tmp_path: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model

    network = get_peft_model(tiny(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ValueError, match="Found one that has none: `PromptTuningConfig`. Leave `merge_adapter` out"):
        unlearned(network, SavePretrained(str(tmp_path), merge_adapter=True))


class Built(LightningModule):
    """Its network is there only after `setup`, or is compiled."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def configure_model(self) -> None:
        self.net = self.make()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.net(**batch).loss
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


@pytest.mark.parametrize("kind", ["adapter", "compiled"])
def test_networks_that_are_built_late_or_compiled_are_written(kind: str, tmp_path: Path) -> None:
    make = {"adapter": lambda: LoRA(r=2).wrap(tiny()), "compiled": lambda: torch.compile(tiny(), backend="eager")}
    module = Built(make[kind])
    saving = SavePretrained(str(tmp_path), merge_adapter=kind == "adapter")
    rows = [{name: torch.arange(3, 9) for name in ("input_ids", "labels")}] * 4
    quiet(callbacks=[saving], max_steps=2).fit(module, DataLoader(rows, 2))
    assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(module.net), rtol=0, atol=1e-5)


def test_a_sharded_network_is_gathered_written_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By FSDP2, whose classes are its own; transformers empties the weights that it is given to write."""

    def on_rank(rank: int, world_size: int) -> tuple[str, list[bool]]:
        dist.init_process_group("gloo")
        network: Any = tiny()
        expected = logits(network)
        fully_shard(network)
        state = get_model_state_dict(network, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        compared = []
        if rank == 0:
            monkeypatch.setattr(
                "lightning_unlearn.callbacks._save_pretrained.refuse_other_weights",
                lambda folder, net, given: (refuse_other_weights(folder, net, given), compared.append(len(given) > 5)),
            )
            SavePretrained(str(tmp_path))._write(network, state)
            compared.append(torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), expected))
        dist.barrier()
        return type(network).__name__, compared

    assert run_ranks(on_rank) == [("FSDPLlamaForCausalLM", [True, True]), ("FSDPLlamaForCausalLM", [])]
