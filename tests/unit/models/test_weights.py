"""Another model's weights are found in any file, matched by name, swapped in, and swapped back to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from _language_models import adapted, batch, family, train_adapter
from _modules import SomebodysModule
from _ranks import run_ranks
from safetensors.torch import save_file, save_model
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from lightning_unlearn import Quantize, UnlearningModule
from lightning_unlearn.attacks import code_flips
from lightning_unlearn.edits import NegateTaskVector
from lightning_unlearn.models import load_weights, match_weights, read_weights, swapped_weights
from lightning_unlearn.models._weights import plain_key
from lightning_unlearn.runtime import checksum
from lightning_unlearn.selectors import TopUpdate


def other(**kwargs: Any) -> nn.Module:
    return family("llama", seed=1, **kwargs)


def says(network: nn.Module) -> Tensor:
    with torch.no_grad():
        return network.eval()(**{k: v for k, v in batch().items() if k != "labels"}).logits


def plain_checkpoint(network: nn.Module, folder: Path) -> str:
    torch.save(network.state_dict(), folder / "control.pt")
    return str(folder / "control.pt")


def lightning_checkpoint(network: nn.Module, folder: Path) -> str:
    state = UnlearningModule(network).state_dict()
    assert all(name.startswith("network.") for name in state)
    torch.save({"state_dict": state, "global_step": 3, "hyper_parameters": {}}, folder / "control.ckpt")
    return str(folder / "control.ckpt")


def safetensors_file(network: nn.Module, folder: Path) -> str:
    save_model(network, str(folder / "control.safetensors"))
    return str(folder / "control.safetensors")


def hugging_face_folder(network: Any, folder: Path) -> str:
    network.save_pretrained(folder / "whole")
    return str(folder / "whole")


def sharded_folder(network: Any, folder: Path) -> str:
    network.save_pretrained(folder / "parts", max_shard_size="4KB")
    assert len(list((folder / "parts").glob("*.safetensors"))) > 1
    return str(folder / "parts")


FILES: list[Callable[[Any, Path], str]] = [
    plain_checkpoint,
    lightning_checkpoint,
    safetensors_file,
    hugging_face_folder,
    sharded_folder,
]


@pytest.mark.parametrize("write", FILES, ids=lambda write: write.__name__)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("mixed", [False, True], ids=["plain", "inside autocast"])
def test_a_network_with_them_says_what_the_other_says(
    write: Callable[[Any, Path], str], tied: bool, mixed: bool, tmp_path: Path
) -> None:
    def tie(network: Any) -> Any:
        if tied:
            network.lm_head.weight = network.model.embed_tokens.weight
            network.config.tie_word_embeddings = True
        return network

    network, another = tie(family("llama")), tie(other())
    path, before = write(another, tmp_path), checksum(network)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        own = says(network)
        with swapped_weights(network, load_weights(path, network)):
            assert torch.equal(says(network), says(another))
        assert torch.equal(says(network), own)
    assert checksum(network) == before


class Tied(nn.Module):
    """`safetensors` keeps the one weight under the name that is first in the alphabet."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False)
        self.down.weight = self.up.weight


@pytest.mark.parametrize("name", ["up.weight", "down.weight", "net.down.weight"])
def test_a_tied_weight_is_found_under_any_of_its_names(name: str, tmp_path: Path) -> None:
    network, path = Tied(), str(tmp_path / "other.safetensors")
    base = torch.randn(32, 32)
    save_file({name: base}, path)
    change = (network.up.weight.detach().double() - base.double()).abs().float()
    assert torch.equal(TopUpdate(path).scores(network)["up.weight"], change)
    (flips,) = code_flips(network, path, Quantize(4)).values()
    assert flips.flipped > 0.5
    NegateTaskVector(base=path)(network)
    assert torch.allclose(network.down.weight, base)


def test_they_are_put_back_after_an_exception_too() -> None:
    network, parameters = family("llama"), dict(family("llama").named_parameters())
    before = checksum(network)
    objects = {name: id(p) for name, p in network.named_parameters()}
    with pytest.raises(KeyboardInterrupt), swapped_weights(network, match_weights(other().state_dict(), network)):
        assert checksum(network) != before
        raise KeyboardInterrupt
    assert checksum(network) == before
    assert {name: id(p) for name, p in network.named_parameters()} == objects
    assert all(torch.equal(p, parameters[name]) for name, p in network.named_parameters())


def test_buffers_are_swapped_where_the_file_has_them() -> None:
    network, another = (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(2))
    another(torch.randn(8, 2))
    state, own = another.state_dict(), network[1].running_mean.clone()
    with swapped_weights(network, match_weights(state, network)):
        assert torch.equal(network[1].running_mean, another[1].running_mean)
    assert torch.equal(network[1].running_mean, own)
    without = {name: value for name, value in state.items() if "running" not in name}
    with swapped_weights(network, match_weights(without, network)):
        assert torch.equal(network[1].running_mean, own)


@pytest.mark.parametrize("given", ["bare", "adapter"])
def test_an_adapter_adds_nothing_to_weights_without_one_and_takes_those_with(given: str) -> None:
    network = family("llama", lora=True)
    another = other(lora=given == "adapter")
    before = checksum(network)
    with swapped_weights(network, match_weights(another.state_dict(), network)):
        torch.testing.assert_close(says(network), says(another))
        trainable = [p for p in network.parameters() if p.requires_grad]
        network(**batch()).loss.backward()  # still what an attacker would train
        assert any(p.grad.abs().sum() > 0 for p in trainable)
    assert checksum(network) == before


def test_modules_that_peft_saves_get_the_weights_too() -> None:
    network = adapted(family("llama"), modules_to_save=["lm_head"])
    another = other()
    with swapped_weights(network, match_weights(another.state_dict(), network)):
        torch.testing.assert_close(says(network), says(another))


def test_whatever_does_not_fit_is_named_in_one_error() -> None:
    state = dict(SomebodysModule().state_dict())
    state["extra.weight"] = state.pop("head.bias")
    state["head.weight"] = state["head.weight"][:2]
    with pytest.raises(
        ValueError,
        match=r"`SomebodysModule` of the same size.* Found in the file: 1 missing \(head.bias\); 1 left over "
        r"\(extra.weight\); 1 of another shape \(head.weight \(2, 16\) instead of \(5, 16\)\). Give a model of the same",
    ):
        match_weights(state, SomebodysModule(), source="the file")


def test_an_adapter_in_the_file_alone_is_left_over() -> None:
    with pytest.raises(ValueError, match=r"8 left over \(.*lora_A.* with its adapter, if any, merged"):
        match_weights(other(lora=True).state_dict(), family("llama"))


def test_adapters_that_cannot_be_switched_off_by_their_factors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"4 missing \(.*lora_magnitude_vector"):
        match_weights(other().state_dict(), adapted(family("llama"), use_dora=True))


def test_rounded_weights_are_refused() -> None:
    network = nn.Linear(2, 2)
    network.weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"Found that `weight` of `weights` is not the network's. .*without `quantiz"):
        match_weights({}, network)


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"existing file or folder. Found nothing at 'nowhere'"):
        read_weights("nowhere")
    (tmp_path / "other").mkdir()
    save_file({"x": torch.ones(1)}, tmp_path / "other" / "rank0.safetensors")
    with pytest.raises(ValueError, match=r"Found `rank0.safetensors` in .* Gather a sharded checkpoint"):
        read_weights(tmp_path / "other")
    for name in ("broken.safetensors", "broken.ckpt"):
        Path(name).write_text("no weights at all")
        with pytest.raises(ValueError, match=rf"Found '{name}', which cannot be read: .* Save the weights alone"):
            read_weights(name)
    torch.save({"state_dict": {"epoch": 3}}, "empty.ckpt")
    with pytest.raises(ValueError, match=r"should hold tensors by name.* Found none in 'empty.ckpt'"):
        read_weights("empty.ckpt")


def test_a_checkpoint_runs_no_code() -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return Path.touch, (Path("harm"),)

    torch.save({"state_dict": {"x": torch.ones(1)}, "more": Harmful()}, "harmful.ckpt")
    with pytest.raises(ValueError, match=r"Found 'harmful.ckpt', which cannot be read"):
        read_weights("harmful.ckpt")
    assert not Path("harm").exists()


def test_parts_of_a_folder_are_those_its_index_names(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "one.safetensors")
    save_file({"b": torch.zeros(1)}, tmp_path / "stray.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    assert list(read_weights(tmp_path)) == ["a"]


@pytest.mark.filterwarnings("ignore")  # torch's own, about its first FSDP
def test_each_process_of_fsdp2_writes_its_own_shards() -> None:
    given = batch()
    expected = says(other())

    def on_rank(rank: int, world_size: int) -> tuple[Tensor, bool]:
        torch.distributed.init_process_group("gloo")
        mesh = init_device_mesh("cpu", (world_size,))
        network = family("llama").eval()
        for part in (*network.model.layers, network):
            fully_shard(part, mesh=mesh)
        with torch.no_grad():
            network(**given)  # whose gathered weights stay, until they are let go of
        before = checksum(network)
        with swapped_weights(network, match_weights(other().state_dict(), network)):
            there = says(network)
        return there, checksum(network) == before

    for there, restored in run_ranks(on_rank):
        torch.testing.assert_close(there, expected)
        assert restored


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`")
@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}], ids=str)
def test_an_adapter_alone_goes_around_the_base_that_is_there(options: dict[str, Any], tmp_path: Path) -> None:
    targets = ["q_proj", "embed_tokens"]
    network, another = (adapted(family("llama"), targets, **options) for _ in range(2))
    train_adapter(another)
    another.save_pretrained(tmp_path)
    with swapped_weights(network, load_weights(tmp_path, network)):
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, another.state_dict()[name]), name
    assert not any("layers" in name and "lora_" not in name for name in load_weights(tmp_path, network))


def test_an_adapter_alone_is_no_control_of_a_base_that_is_trained(tmp_path: Path) -> None:
    network = adapted(family("llama"))
    network.save_pretrained(tmp_path)
    next(p for name, p in network.named_parameters() if "norm" in name).requires_grad_(True)
    with pytest.raises(ValueError, match="missing"):
        load_weights(tmp_path, network)


def test_nested_adapters_of_experts_are_told_apart() -> None:
    names = [f"experts.{inner}lora_A.default.weight" for inner in ("", "base_layer.", "base_layer.base_layer.")]
    assert len({plain_key(name) for name in names}) == 3
    assert plain_key("experts.base_layer.base_layer.gate_up_proj") == "experts.gate_up_proj"
    assert plain_key("base_model.model.q_proj.base_layer.weight") == "q_proj.weight"
