"""Hidden states of several layers at once: what the model itself gives out, and no more of it run than needed."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.distributed as dist
from _language_models import WIDTH, adapted, batch, family, train_adapter
from _ranks import run_ranks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing import assert_close

from lightning_unlearn import CausalLMReadout, FrozenCopy
from lightning_unlearn.objectives import RMU, ActivationMatch
from lightning_unlearn.readouts import HiddenStateReadout, LayersReadout, PackedCausalLMReadout, PairedReadout
from lightning_unlearn.references import AdapterDisabled

BLOCKS = {"llama": r"layers\.\d", "gpt2": r"h\.\d", "gemma2": r"layers\.\d", "opt": r"layers\.\d", "phi": r"layers\.\d"}
MLPS = {name: rf"{block}\.mlp" for name, block in BLOCKS.items() if name != "opt"}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_reads_what_readouts_of_one_layer_read(name, side):
    network, rows = family(name).eval(), batch(side)
    single = [BLOCKS[name].replace(r"\d", str(number)) for number in (0, 1)]
    prediction = LayersReadout([BLOCKS[name]])(network, rows)
    alone = [HiddenStateReadout(layer)(network, rows) for layer in single]
    assert torch.equal(prediction.features, torch.stack([a.features for a in alone], dim=1))
    assert torch.equal(prediction.labels, alone[0].labels)
    assert torch.equal(prediction.example, alone[0].example)
    assert prediction.logits.shape == (len(prediction.labels), 0)
    assert prediction.batch_size == 3


@pytest.mark.parametrize("name", MLPS)
def test_outputs_of_mlps_are_what_blocks_add_last(name):
    network, rows = family(name).eval(), batch()
    outputs: list[torch.Tensor] = []
    for block in (m for n, m in network.named_modules() if n.endswith(".mlp")):
        block.register_forward_hook(lambda _m, _a, output: outputs.append(output))
    prediction = LayersReadout([MLPS[name]])(network, rows)
    chosen = rows["labels"] != -100
    assert len(outputs) == 2
    assert torch.equal(prediction.features, torch.stack([o[chosen] for o in outputs], dim=1))


def test_layers_come_in_the_order_they_are_named_and_once():
    network, rows = family("llama").eval(), batch()
    names = ["layers.1", r"layers\.[01]", "layers.0.mlp"]
    readout = LayersReadout(names)
    assert list(readout.find_layers(network)) == ["model.layers.1", "model.layers.0", "model.layers.0.mlp"]
    prediction = readout(network, rows)
    for place, layer in enumerate(["layers.1", "layers.0", "layers.0.mlp"]):
        assert torch.equal(prediction.features[:, place], HiddenStateReadout(layer)(network, rows).features)


def test_layers_behind_the_last_are_not_run_and_get_no_gradient():
    network = family("llama")
    ran: list[str] = []
    for name, module in network.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    before = [len(m._forward_hooks) for m in network.modules()]
    readout = LayersReadout(["layers.0.self_attn.o_proj", "layers.0.mlp.down_proj"])
    readout(network, batch()).features.square().sum().backward()
    assert "model.layers.0.mlp.down_proj" in ran
    assert not {"model.layers.0.mlp", "model.layers.0", "model.layers.1", "model.norm", "lm_head", ""} & set(ran)
    with_gradient = {name for name, p in network.named_parameters() if p.grad is not None}
    assert with_gradient == {n for n, _ in network.named_parameters() if n.startswith(("model.layers.0.", "model.emb"))}
    assert [len(m._forward_hooks) for m in network.modules()] == before
    with pytest.raises(IndexError, match="index out of range"):
        readout(network, {**batch(), "input_ids": batch()["input_ids"] + 99})
    assert [len(m._forward_hooks) for m in network.modules()] == before


def test_the_original_is_the_network_without_its_adapter_or_a_frozen_copy():
    readout = LayersReadout([r"layers\.[01]\.mlp"])
    expected = readout(family("llama").eval(), batch()).features
    network = adapted(family("llama"))
    reference = AdapterDisabled()
    reference.attach(network)
    train_adapter(network)
    assert_close(reference(readout, batch()).features, expected)
    assert not torch.allclose(readout(network, batch()).features, expected)

    network, copy = family("llama"), FrozenCopy()
    copy.attach(network)
    with torch.no_grad():
        network.model.layers[0].mlp.down_proj.weight.mul_(2)
    assert torch.equal(copy(readout, batch()).features, expected)
    assert not torch.allclose(readout(network, batch()).features, expected)


def test_compiled_networks_are_read_too():
    readout, network = LayersReadout([r"layers\.[01]\.mlp"]), family("llama").eval()
    expected = readout(network, batch()).features
    network.model.layers[0].compile(backend="eager")
    assert_close(readout(network, batch()).features, expected)
    network.compile(backend="eager")
    assert_close(readout(network, batch()).features, expected)


def test_padding_changes_nothing():
    network, readout = family("llama").eval(), LayersReadout([r"layers\.[01]\.mlp"])
    assert_close(readout(network, batch(width=14)).features, readout(network, batch()).features)
    assert readout.keys(batch(width=14)) == readout.keys(batch()) == CausalLMReadout().keys(batch())


def test_pairs_are_read_one_after_the_other():
    network, readout = family("llama").eval(), LayersReadout([r"layers\.[01]"])
    prediction = PairedReadout(readout)(network, {**batch(), "companion": batch(rows=(1, 2, 0))})
    alone = readout(network, batch()).features
    assert_close(prediction.features[: len(alone)], alone)
    assert prediction.split_by_example()[0].features.shape == (6, 2, WIDTH)
    assert isinstance(readout.for_measuring(), PackedCausalLMReadout)
    assert readout.find_network(nn.ModuleDict({"inside": network})) is network


@pytest.mark.parametrize("layers", [[], "layers.1"])
def test_what_is_no_list_of_layers_is_refused(layers):
    with pytest.raises(ValueError, match=r'`layers` should be a list of names, such as `\["layers.2", "layers.3"\]`'):
        LayersReadout(layers)


def test_layers_that_cannot_be_read_together_are_refused():
    network = family("llama")
    with pytest.raises(ValueError, match=r"Found none for 'layers.7'. There are `model.layers.0`, `model.layers.1`"):
        LayersReadout(["layers.0", "layers.7"]).find_network(network)
    with pytest.raises(ValueError, match=r"`layers` should be a regular expression. Found `layers = '\('"):
        LayersReadout(["("])
    with pytest.raises(ValueError, match="should be of one width. Found hidden states of 8 and 16 dimensions"):
        LayersReadout(["layers.0", "layers.0.self_attn.k_proj"])(network, batch())
    with pytest.raises(ValueError, match=r"`model.rotary_emb` should give a hidden state per position"):
        LayersReadout(["rotary_emb", "layers.0"])(network, batch())


def test_objectives_of_one_layer_refuse_several_and_a_match_takes_their_mean():
    network, other = family("llama"), family("llama", seed=1)
    prediction, original = (LayersReadout([r"layers\.[01]"])(n, batch()) for n in (network, other))
    with pytest.raises(
        ValueError, match=r"`RMU` should get hidden states of one layer, \[N, D\]. Found shape \(8, 2, 16\)"
    ):
        RMU()(prediction)
    singles = [
        ActivationMatch()(*(HiddenStateReadout(layer)(n, batch()) for n in (network, other)))
        for layer in ("layers.0", "layers.1")
    ]
    assert_close(ActivationMatch()(prediction, original), sum(singles) / 2)
    assert ActivationMatch()(prediction, prediction.detach()) == 0
    with pytest.raises(
        ValueError, match=r"the same layers: hidden states of shape \(8, 2, 16\), .* Found \(8, 1, 16\)"
    ):
        ActivationMatch()(prediction, HiddenStateReadout("layers.0")(other, batch()))


INSIDE = [[r"layers\.0\.mlp"], [r"layers\.[01]\.mlp"], ["layers.0", "layers.1.self_attn.o_proj"]]


def gradients(network, layers):
    network.zero_grad()
    LayersReadout(layers)(network, batch()).features.square().sum().backward()
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {name: getattr(g, "full_tensor", g.clone)() for name, g in found.items()}


def sharded_gradients(rank, world_size, *, whole):
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    mesh = init_device_mesh("cpu", (world_size,))
    network = family("llama")
    for block in [] if whole else network.model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    found = [{n: g.clone() for n, g in gradients(network, layers).items()} for layers in INSIDE]
    dist.destroy_process_group()
    return found


@pytest.mark.parametrize("whole", [False, True], ids=["by block", "as a whole"])
def test_layers_inside_a_sharded_block_get_the_gradients_of_one_process(whole):
    """FSDP2 gathers a block's weights for the backward pass when a gradient reaches its output."""
    expected = [gradients(family("llama"), layers) for layers in INSIDE]
    for found in run_ranks(partial(sharded_gradients, whole=whole)):
        for sharded, single in zip(found, expected, strict=True):
            assert sharded.keys() >= single.keys()
            for name, gradient in sharded.items():  # what stands behind a layer, in the same shard, has a zero
                assert_close(gradient, single.get(name, torch.zeros_like(gradient)))
