"""Quantisation as an attack: rounded inside, bit for bit the same afterwards."""

import copy
import random
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
import torch.distributed as dist
from _ranks import run_ranks
from _shared_data import DATA
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard
from torch.nn.utils import prune
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from lightning_unlearn.attacks import Quantize, RoundingNoise
from lightning_unlearn.functional.quantization import flipped_fraction, round_to_codebook, round_to_nearest
from lightning_unlearn.runtime import drop_copies

STORIES = DATA / "models" / "stories260k"
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's own
needs_stories = pytest.mark.skipif(not STORIES.exists(), reason="stories260k is not there: set LIGHTNING_UNLEARN_DATA")


def perceptron():
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))


def convolutional():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 4))


def computed():
    with torch.no_grad():  # else the weight, an attribute, cannot be copied
        pruned = prune.l1_unstructured(nn.Linear(8, 8), "weight", amount=9)
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), pruned)


def attentive():
    return nn.TransformerEncoderLayer(8, 2, 16)


def llama(tied=True):
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config)


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=32))


def lora(network=None, **options):
    network = llama() if network is None else network
    options = {"r": 2, "lora_alpha": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | options
    options["fan_in_fan_out"] = isinstance(network, GPT2LMHeadModel)
    wrapped = get_peft_model(network, LoraConfig(**options))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:  # zero at first: the adapter would add nothing
            nn.init.normal_(parameter, std=0.3)
    return wrapped


NETWORKS = {
    "perceptron": perceptron,
    "convolutional": convolutional,
    "llama": llama,
    "untied": partial(llama, tied=False),
    "gpt2": gpt2,
    "lora": lora,
    "gpt2-lora": lambda: lora(gpt2()),
    "bfloat16": lambda: llama().bfloat16(),
}
ATTACKS = {
    "int8": Quantize(bits=8),
    "int2-g16": Quantize(bits=2, group_size=16),
    "nf4": Quantize(bits=4, codebook="nf4"),
    "int6-tensor": Quantize(bits=6, group_size="tensor"),
    "fp4": Quantize(bits=4, codebook="fp4", group_size=32, head=True),
    "cpu": Quantize(bits=3, store="cpu"),
    "base": Quantize(bits=3, merge_adapters=False),
    "noise": RoundingNoise(bits=4),
}
every_network = pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def everything(network):
    """Every bit an attack could have changed."""
    tensors = {k: (v.data_ptr(), v.clone()) for k, v in [*network.named_parameters(), *network.named_buffers()]}
    scalings = {
        k: dict(m.scaling) for k, m in network.named_modules() if hasattr(m, "scaling") and isinstance(m.scaling, dict)
    }
    modes = [(m.training, p.requires_grad) for m in network.modules() for p in m.parameters(recurse=False)]
    return tensors, scalings, modes


def assert_unchanged(network, before):
    after = everything(network)
    assert after[1:] == before[1:]
    assert after[0].keys() == before[0].keys()
    for name, (address, value) in before[0].items():
        assert after[0][name][0] == address, name
        assert torch.equal(after[0][name][1], value), name


def changed(network, before):
    return {name for name, p in network.named_parameters() if not torch.equal(p, before[0][name][1])}


@every_network
@every_attack
def test_everything_is_restored_bit_for_bit(attack, build):
    network = build()
    before = everything(network)
    with attack(network) as points:
        assert list(points) == [attack.bits]
        assert changed(network, before)
    assert_unchanged(network, before)


@every_network
@every_attack
def test_everything_is_restored_after_an_exception(attack, build):
    network = build()
    before = everything(network)
    with pytest.raises(RuntimeError, match="in the middle"):
        with attack(network):
            raise RuntimeError("in the middle")
    assert_unchanged(network, before)


@every_network
def test_everything_is_restored_when_rounding_fails_halfway(build, monkeypatch):
    network, attack, calls = build(), Quantize(bits=4), []
    before = everything(network)

    def fail_the_second_time(weight):
        calls.append(weight)
        if len(calls) == 2:
            raise MemoryError("of the device")
        return torch.zeros_like(weight)

    monkeypatch.setattr(attack, "rounded", fail_the_second_time)
    with pytest.raises(MemoryError, match="of the device"):
        with attack(network):
            pytest.fail("entered")
    assert len(calls) == 2
    assert_unchanged(network, before)


@every_attack
def test_random_states_are_left_alone(attack):
    network = lora()
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    with attack(network) as points:
        list(points)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert random.getstate() == python_state


def test_training_goes_on_as_if_nothing_had_happened():
    steps = {}
    for attacked in (False, True):
        torch.manual_seed(0)
        network = perceptron()
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            network(torch.randn(5, 8)).square().mean().backward()
            if attacked:
                with torch.inference_mode(), Quantize(bits=2)(network) as points:
                    list(points)
            optimizer.step()
        steps[attacked] = [p.detach().clone() for p in network.parameters()]
    assert all(map(torch.equal, steps[True], steps[False]))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad], ids=str)
def test_every_grad_mode_will_do_and_is_kept(mode):
    network = perceptron()
    with mode():
        modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        with Quantize(bits=2)(network):
            assert (torch.is_inference_mode_enabled(), torch.is_grad_enabled()) == modes
            network(torch.randn(5, 8))
        assert (torch.is_inference_mode_enabled(), torch.is_grad_enabled()) == modes
    assert not any(p.is_inference() for p in network.parameters())


def test_rows_are_rounded_by_output_channel():
    network = convolutional()
    expected = {name: round_to_nearest(network.get_parameter(name), bits=3) for name in ("0.weight", "3.weight")}
    before = everything(network)
    with Quantize(bits=3)(network):
        assert changed(network, before) == set(expected)
        assert all(torch.equal(network.get_parameter(name), value) for name, value in expected.items())


def test_transposed_layers_are_rounded_by_output_channel_too():
    network = gpt2()
    weight = network.transformer.h[0].attn.c_attn.weight  # [inputs, outputs]
    for attack, rounded in [
        (Quantize(bits=3), partial(round_to_nearest, bits=3)),
        (Quantize(bits=4, codebook="nf4"), partial(round_to_codebook, codebook="nf4")),
    ]:
        expected = rounded(weight.t()).t()
        assert not torch.equal(expected, rounded(weight))
        with attack(network):
            assert torch.equal(weight, expected)


@pytest.mark.parametrize(("tied", "head"), [(True, False), (True, True), (False, False), (False, True)])
def test_of_the_ends_only_an_untied_head_is_rounded_and_only_on_demand(tied, head):
    network = llama(tied=tied)
    before = everything(network)
    with Quantize(bits=3, head=head)(network):
        rounded = changed(network, before)
    assert not any("norm" in name or "embed" in name for name in rounded)
    assert ("lm_head.weight" in rounded) == (head and not tied)
    assert sum("layers" in name for name in rounded) == 2 * 7


@pytest.mark.parametrize(
    ("skip", "left"),
    [
        ((), 14),
        (["down_proj"], 12),
        (["layers.0"], 14),
        (["*layers.0.*"], 7),
        (["mlp", "*_proj"], 0),
        (["q_*", "k_proj"], 10),
    ],
    ids=str,
)
def test_skip_matches_a_part_of_the_name_or_all_of_it(skip, left):
    network = llama()
    before = everything(network)
    if not left:
        with pytest.raises(ValueError, match=r"Found none in `LlamaForCausalLM`.*14 in `skip`, 1 the output head"):
            Quantize(bits=3, skip=skip)(network).__enter__()
        return
    with Quantize(bits=3, skip=skip)(network):
        assert len(changed(network, before)) == left


def test_a_shared_weight_is_rounded_once(monkeypatch):
    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    network[1].weight = network[0].weight
    attack, calls = Quantize(bits=3), []
    monkeypatch.setattr(attack, "rounded", lambda weight: calls.append(0) or weight / 2)
    original = network[0].weight.detach().clone()
    with attack(network):
        assert torch.equal(network[1].weight, original / 2)
    assert len(calls) == 1


def test_a_bare_layer_is_a_network():
    layer = nn.Linear(4, 4)
    with Quantize(bits=2)(layer):
        assert layer.weight.unique().numel() <= 12


@pytest.mark.parametrize(
    "attack", [ATTACKS["int8"], ATTACKS["int2-g16"], ATTACKS["nf4"]], ids=["int8", "int2-g16", "nf4"]
)
@pytest.mark.parametrize("base", [llama, gpt2, lambda: llama().bfloat16()], ids=["llama", "gpt2", "bfloat16"])
def test_adapters_are_merged_before_rounding(base, attack):
    network = lora(base(), use_rslora=True).eval()
    tokens = torch.randint(0, 32, (2, 9))
    merged = copy.deepcopy(network).merge_and_unload()
    with torch.no_grad():
        before = network(tokens).logits
        with attack(merged), attack(network):
            expected, logits = merged(tokens).logits, network(tokens).logits
        assert_close(logits, expected, atol=1e-5, rtol=1e-5)
        assert (logits - before).abs().max() > 1e-3
        assert torch.equal(network(tokens).logits, before)


def test_several_adapters_are_merged_together():
    network = lora().eval()
    network.add_adapter("other", LoraConfig(r=2, init_lora_weights=False, target_modules=["q_proj", "gate_proj"]))
    network.base_model.set_adapter(["default", "other"])
    tokens = torch.randint(0, 32, (2, 9))
    merged = copy.deepcopy(network).merge_and_unload(adapter_names=["default", "other"])
    with torch.no_grad(), Quantize(bits=4)(merged), Quantize(bits=4)(network):
        assert_close(network(tokens).logits, merged(tokens).logits, atol=1e-5, rtol=1e-5)


def test_without_merging_the_adapter_works_on_a_rounded_base():
    network = lora().eval()
    layer = network.base_model.model.model.layers[0].mlp.up_proj
    x, delta = torch.randn(3, 16), layer.get_delta_weight("default")
    expected = x @ (round_to_nearest(layer.base_layer.weight, bits=3) + delta).t()
    with Quantize(bits=3, merge_adapters=False)(network):
        assert_close(layer(x), expected)


def test_a_switched_off_or_merged_adapter_adds_nothing():
    network = lora()
    weight = network.base_model.model.model.layers[0].mlp.up_proj.base_layer.weight
    with network.disable_adapter():
        expected = round_to_nearest(weight, bits=3)
        with Quantize(bits=3)(network):
            assert torch.equal(weight, expected)
    network.merge_adapter()
    expected = round_to_nearest(weight, bits=3)
    with Quantize(bits=3)(network):
        assert torch.equal(weight, expected)


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_bias": True}], ids=str)
def test_adapters_that_do_more_than_add_are_refused_unless_the_base_alone_is_rounded(options):
    network = lora(gpt2(), **options)
    before = everything(network)
    with pytest.raises(
        ValueError, match=r"should only add to its weight.*Found `peft.*with more.*`merge_adapters=False`"
    ):
        Quantize(bits=4)(network).__enter__()
    assert_unchanged(network, before)
    with Quantize(bits=4, merge_adapters=False)(network):
        assert changed(network, before)


def test_weights_in_few_bits_are_left_alone_with_a_warning():
    bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes stores weights in few bits")
    network = nn.Sequential(bnb.nn.Linear4bit(64, 64, quant_type="nf4"), nn.Linear(64, 4)).to("cpu")
    before = everything(network)
    with pytest.warns(UserWarning, match="`Quantize` leaves 1 layers alone, for they are stored in few bits already"):
        with Quantize(bits=4)(network):
            assert changed(network, before) == {"1.weight"}
    with pytest.raises(ValueError, match=r"Found none in `Sequential` besides.*1 low-bit already"):
        Quantize(bits=4)(network[:1]).__enter__()


def test_a_network_without_weights_to_round_is_refused():
    with pytest.raises(
        ValueError, match=r"`network` should hold weights to round.*Found none in `Embedding`.*\(1 an embedding\)"
    ):
        Quantize(bits=4)(nn.Embedding(4, 4)).__enter__()


@pytest.mark.parametrize("weight", [nn.Parameter(torch.zeros(32)), None], ids=["flat", "taken away"])
def test_flattened_parameters_are_refused(weight):
    network = perceptron()
    network[3].weight = weight
    before = everything(network)
    with pytest.raises(ValueError, match=r"weight of `3` should have 2 axes. Found .*FSDP1 and DeepSpeed.*Use FSDP2"):
        Quantize(bits=4)(network).__enter__()
    assert_unchanged(network, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 1}, "`bits` should be between 2 and 16. Found `bits = 1`"),
        ({"bits": 32}, "`bits` should be between 2 and 16. Found `bits = 32`"),
        ({"bits": 8, "codebook": "nf4"}, "`bits` should be 4 for the codebook 'nf4'. Found `bits = 8`"),
        ({"codebook": "af4"}, "`codebook` should be 'int', 'nf4' or 'fp4'. Found `codebook = 'af4'`"),
        ({"group_size": 0}, "`group_size` should be at least 1, or `None` for a scale per row. Found `group_size = 0`"),
        (
            {"bits": 4, "codebook": "nf4", "group_size": "tensor"},
            "`group_size` should be a number for the codebook 'nf4'. Found 'tensor'",
        ),
        ({"store": "disk"}, "`store` should be 'device' or 'cpu'. Found `store = 'disk'`"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Quantize(**options)


def test_one_pattern_alone_is_refused():
    with pytest.raises(TypeError, match=r"`skip` should be a sequence.*write `skip = \['lm_head'\]`"):
        Quantize(skip="lm_head")


@every_attack
def test_codes_tell_what_survives(attack):
    weight, noise = torch.randn(32, 64), torch.randn(32, 64)
    assert flipped_fraction(weight, attack.rounded(weight), codes=attack.codes) == 0
    assert flipped_fraction(weight, weight + 1e-6 * noise, codes=attack.codes) < 2e-3
    assert flipped_fraction(weight, weight + noise, codes=attack.codes) > 0.1


def said(network, x):
    with torch.no_grad():
        output = network(x)
    return getattr(output, "logits", output)


def attack_shards(rank, world_size):
    """One of two processes, which compares an attack on its FSDP2 shards with the same attack on the whole."""
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    inputs = {perceptron: torch.randn(5, 8), convolutional: torch.randn(5, 3, 8, 8), lora: torch.arange(6)[None]}
    inputs |= {computed: torch.randn(5, 8), attentive: torch.randn(5, 2, 8)}
    for (build, x), attack in product(inputs.items(), (ATTACKS[name] for name in ("int8", "int2-g16", "cpu", "base"))):
        torch.manual_seed(0)
        whole = build().eval()
        network = copy.deepcopy(whole)
        for module in [*(m for m in network.modules() if isinstance(m, LlamaDecoderLayer)), network]:
            fully_shard(module)
        shards = {name: p.to_local().clone() for name, p in network.named_parameters()}
        original = said(network, x)  # after which the root holds a gathered copy
        with attack(whole), attack(network):
            attacked = said(network, x)
            assert_close(attacked, said(whole, x))
            assert not torch.equal(attacked, original)
        assert torch.equal(said(network, x), original)
        drop_copies(network)
        assert all(torch.equal(p.to_local(), shards[name]) for name, p in network.named_parameters())

    network = fully_shard(nn.Sequential(nn.Linear(128, 6), nn.Linear(96, 6)))
    with pytest.raises(ValueError, match=r"Blocks of 64 should divide the 96 inputs of `1`.*Set a `group_size`"):
        Quantize(bits=4, codebook="nf4")(network).__enter__()
    for block in (16, 32):
        rounded = [round_to_codebook(p.full_tensor(), "nf4", block_size=block) for p in network.parameters()]
        with Quantize(bits=4, codebook="nf4", group_size=block)(network):
            assert torch.equal(network[0].weight.full_tensor(), rounded[0])
            assert torch.equal(network[1].weight.full_tensor(), rounded[2])
    with pytest.raises(ValueError, match=r"should be whole in each process to have one scale.*Leave `group_size` out"):
        Quantize(bits=4, group_size="tensor")(network).__enter__()
    by_input = fully_shard(nn.Linear(8, 8), shard_placement_fn=lambda parameter: Shard(parameter.dim() - 1))
    with pytest.raises(ValueError, match=r"replicated, or sharded by its output channels \(dimension 0\)"):
        Quantize(bits=4)(by_input).__enter__()
    dist.destroy_process_group()
    return "compared"


def test_an_attack_on_shards_is_the_attack_on_the_whole():
    assert run_ranks(attack_shards) == ["compared", "compared"]


@needs_stories
def test_eight_bits_barely_move_a_real_model_and_two_break_it():
    network = AutoModelForCausalLM.from_pretrained(STORIES).eval()
    tokenizer = AutoTokenizer.from_pretrained(STORIES)
    text = (
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park with her friends."
    )
    tokens = tokenizer(text, return_tensors="pt").input_ids

    @torch.no_grad()
    def loss():
        return network(tokens, labels=tokens).loss.item()

    def attacked(**options):
        with Quantize(**options)(network):
            return loss()

    before = loss()
    assert abs(attacked(bits=8) - before) < 0.01
    assert abs(attacked(bits=4, codebook="nf4") - before) < 0.3
    assert attacked(bits=2) > before + 1
    assert loss() == before
