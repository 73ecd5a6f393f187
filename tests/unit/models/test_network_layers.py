"""One place answers what a network's layers are: matrices, whatever holds them, blocks, adapters, head, compiled parts."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from torch.testing import assert_close
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    JetMoeConfig,
    JetMoeForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.pytorch_utils import Conv1D

from lightning_unlearn.models.layers import (
    Matrix,
    adapters_around,
    base_model,
    blocks,
    covered_share,
    dequantized,
    eager_if_compiled,
    eager_if_inside_compiled,
    input_embedding,
    is_compiled,
    is_low_bit,
    is_tied,
    low_rank_factors,
    matrices,
    only_adds,
    output_head,
    output_heads,
    own_matrices,
    placed_matrices,
    plain_name,
    trained_share,
)

SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
EXPERTS: dict[str, Any] = {**SIZES, "num_local_experts": 4}


def llama(tied: bool = False) -> Any:
    return LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied))


def gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=2, n_head=2))


def lora(network: Any = None, **options: Any) -> Any:
    network = llama() if network is None else network
    defaults = {"r": 2, "target_modules": "all-linear", "task_type": "CAUSAL_LM", "init_lora_weights": False}
    config = LoraConfig(**{**defaults, "fan_in_fan_out": isinstance(network, GPT2LMHeadModel), **options})
    return get_peft_model(network, config)


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv(x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.first, self.second = nn.Sequential(Residual(4), Residual(4)), nn.Sequential(Residual(4), Residual(4))
        self.head = nn.Linear(4, 2)


class Bare(nn.Module):
    """Parameters of no known layer: a token, positions, a router, and a vector for each of several experts."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.positions = nn.Parameter(torch.randn(1, 5, 6))
        self.router = nn.Parameter(torch.randn(3, 6))
        self.router_bias = nn.Parameter(torch.randn(3, 6))
        self.steps = nn.Parameter(torch.arange(6).view(2, 3), requires_grad=False)


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 3)), nn.utils.spectral_norm(nn.Linear(3, 3)).eval())


def tied_stack() -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    network[2].weight = network[0].weight
    return network


def compiled() -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network[1].compile(backend="eager")
    return torch.compile(network, backend="eager")  # type: ignore[return-value]


def transposed_convolutions() -> nn.Module:
    return nn.Sequential(nn.ConvTranspose1d(4, 6, 3), nn.ConvTranspose2d(6, 4, 2, groups=2))


NETWORKS: dict[str, Callable[[], Any]] = {
    "linear": lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1)),
    "bilinear": lambda: nn.Bilinear(3, 4, 2),
    "gpt2": gpt2,
    "llama": llama,
    "tied llama": lambda: llama(tied=True),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**EXPERTS)),
    "gpt-oss": lambda: GptOssForCausalLM(GptOssConfig(**EXPERTS, head_dim=8)),
    "llama4": lambda: Llama4ForCausalLM(
        Llama4TextConfig(**EXPERTS, intermediate_size_mlp=24, head_dim=8, interleave_moe_layer_step=1)
    ),
    "jetmoe": lambda: JetMoeForCausalLM(
        JetMoeConfig(
            vocab_size=32,
            hidden_size=16,
            num_hidden_layers=2,
            num_key_value_heads=1,
            kv_channels=8,
            intermediate_size=24,
            num_local_experts=4,
        )
    ),
    "convolutions": lambda: nn.Sequential(nn.Conv1d(4, 6, 3, groups=2), nn.Conv2d(3, 4, 2), nn.Conv3d(1, 2, 2)),
    "transposed convolutions": transposed_convolutions,
    "resnet": ResNet,
    "lstm": lambda: nn.LSTM(3, 6, 2, bidirectional=True, proj_size=2),
    "gru cell": lambda: nn.GRUCell(3, 4),
    "attention": lambda: nn.MultiheadAttention(4, 2),
    "attention of several sizes": lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Conv1d(2, 3, 2)), nn.Linear(3, 2)),
    "weight norm of an lstm": lambda: parametrizations.weight_norm(nn.LSTM(3, 4), "weight_hh_l0"),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(4, 3)),
    "old norms": old_weight_norm,
    "pruned": lambda: prune.l1_unstructured(nn.Linear(4, 3), "weight", amount=5),
    "embeddings": lambda: nn.ModuleList([nn.Embedding(5, 3), nn.EmbeddingBag(4, 3)]),
    "bare": Bare,
    "tied stack": tied_stack,
    "lora": lora,
    "lora of gpt2": lambda: lora(gpt2()),
    "dora": lambda: lora(use_dora=True),
    "lora of an embedding": lambda: lora(target_modules=["embed_tokens", "q_proj"]),
    "compiled": compiled,
}
every_network = pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def is_vector(name: str, p: Tensor) -> bool:
    """What need not be found: biases, class tokens, lengths of rows, integers."""
    return "bias" in name or p.squeeze().dim() < 2 or not p.is_floating_point()


# Matrices


@every_network
def test_each_parameter_of_two_or_more_axes_is_found_once(build: Callable[[], nn.Module]) -> None:
    network = build()
    found = [p for matrix in matrices(network) for p in matrix.parameters]
    assert len({id(p) for p in found}) == len(found) > 0
    missed = {n for n, p in network.named_parameters() if not is_vector(n, p)} - {
        n for n, p in network.named_parameters() if any(p is f for f in found)
    }
    assert missed == set()


@every_network
def test_names_lead_to_the_weights(build: Callable[[], nn.Module]) -> None:
    network = build()
    for matrix in matrices(network):
        assert network.get_submodule(matrix.layer) is matrix.module
        assert matrix.name == ".".join([*filter(None, [matrix.layer]), matrix.storage.name])
        layer = network.eval().get_submodule(matrix.layer)
        for hook in layer._forward_pre_hooks.values():  # old norms and pruning compute the weight there
            hook(layer, None)
        assert_close(getattr(layer, matrix.storage.name), matrix.tensor)


@every_network
def test_looking_changes_nothing(build: Callable[[], nn.Module]) -> None:
    network = build().train()
    before, modes = copy.deepcopy(network.state_dict()), [m.training for m in network.modules()]
    for matrix in matrices(network):
        matrix.rows()
    assert [m.training for m in network.modules()] == modes
    after = network.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)


@every_network
def test_what_is_written_is_what_is_read(build: Callable[[], nn.Module]) -> None:
    network = build().eval()
    for matrix in matrices(network):
        addresses = [p.data_ptr() for p in matrix.parameters]
        rows, shape = matrix.rows().detach().clone(), matrix.tensor.shape
        matrix.write_(rows)
        assert_close(matrix.rows(), rows)  # constraints are kept by what obeys them
        if matrix.storage.keeps_any_value:
            fresh = torch.randn_like(matrix.rows())
            matrix.write_(fresh)
            assert_close(matrix.rows(), fresh)
            matrix.write_(matrix.view() * 2)
            assert_close(matrix.rows(), fresh * 2)
        assert matrix.tensor.shape == shape
        assert [p.data_ptr() for p in matrix.parameters] == addresses


def test_views_of_parameters_are_in_their_memory() -> None:
    for build in NETWORKS.values():
        for matrix in matrices(build()):
            if not matrix.is_computed:
                assert matrix.view().data_ptr() == matrix.tensor.data_ptr()
                assert matrix.tensor is matrix.parameters[0]


def the_matrix(network: nn.Module, name: str = "weight") -> Matrix:
    (found,) = (m for m in matrices(network) if m.name == name)
    return found


def no_bias(layer: Any) -> Any:
    nn.init.zeros_(layer.bias)
    return layer.eval()


LINEAR: dict[str, Callable[[], Any]] = {
    "Linear": lambda: nn.Linear(6, 4),
    "Conv1D": lambda: Conv1D(4, 6),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(6, 4)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(6, 4)),
    "pruned": lambda: prune.l1_unstructured(nn.Linear(6, 4), "weight", amount=7),
}


@pytest.mark.parametrize("build", LINEAR.values(), ids=LINEAR)
def test_rows_do_to_inputs_what_a_linear_layer_does(build: Callable[[], Any]) -> None:
    layer, x = no_bias(build()), torch.randn(3, 6)
    with torch.no_grad():
        assert_close(x @ the_matrix(layer).rows().T, layer(x))


def test_rows_do_to_patches_what_a_convolution_does() -> None:
    layer, x = no_bias(nn.Conv2d(3, 5, (2, 3))), torch.randn(2, 3, 6, 7)
    patches = F.unfold(x, (2, 3))
    assert_close((the_matrix(layer).rows() @ patches).view(2, 5, 5, 5), layer(x))


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_spreads_each_input_by_its_outputs(groups: int) -> None:
    layer, x = no_bias(nn.ConvTranspose2d(4, 6, 1, groups=groups)), torch.randn(2, 4, 3, 3)
    weight = the_matrix(layer).view()[..., 0, 0]
    weight = weight if groups > 1 else weight[None]
    parts = x.unflatten(1, (groups, 4 // groups))
    expected = torch.einsum("goi,bgihw->bgohw", weight, parts).flatten(1, 2)
    assert_close(layer(x), expected)
    assert the_matrix(layer).rows().shape == (6, 4 // groups)


def test_a_recurrent_layer_s_rows_are_its_gates() -> None:
    layer, x = nn.RNN(3, 4, bias=False), torch.randn(1, 1, 3)
    h = torch.randn(1, 1, 4)
    into, over = the_matrix(layer, "weight_ih_l0").rows(), the_matrix(layer, "weight_hh_l0").rows()
    assert_close(layer(x, h)[0], torch.tanh(x @ into.T + h @ over.T))
    assert the_matrix(nn.LSTM(3, 4), "weight_ih_l0").rows().shape == (16, 3)


@pytest.mark.parametrize("name", ["mixtral", "gpt-oss", "llama4"])
def test_the_rows_of_one_expert_do_what_it_does(name: str) -> None:
    """By the biases' shapes, or by running the experts on tokens that all go to one of them."""
    network = NETWORKS[name]().eval()
    up, down = (next(m for m in matrices(network) if m.name.endswith(f"experts.{end}")) for end in UP_DOWN)
    experts: Any = up.module
    nn.init.normal_(up.tensor)
    nn.init.normal_(down.tensor)
    for part in ("gate_up_proj_bias", "down_proj_bias"):
        if hasattr(experts, part):
            nn.init.zeros_(getattr(experts, part))
    x = 0.1 * torch.randn(5, 16)
    first, second = up.view()[2], down.view()[2]  # of the third expert
    assert (first.shape, second.shape) == ((48, 16), (16, 24))
    expected = gated(name, experts, x @ first.T) @ second.T
    with torch.no_grad():
        if name == "llama4":
            ours = torch.zeros(4, 5, 16)
            ours[2] = x
            output = experts(ours.flatten(0, 1)).view(4, 5, 16)[2]
        else:
            output = experts(x, torch.full((5, 1), 2), torch.ones(5, 1))
    assert_close(output, expected)
    assert up.layout.is_certain


UP_DOWN = ("gate_up_proj", "down_proj")


def gated(name: str, experts: Any, hidden: Tensor) -> Tensor:
    if name == "gpt-oss":
        return experts._apply_gate(hidden)
    gate, up = hidden.chunk(2, dim=-1)
    return experts.act_fn(gate) * up


class Experts(nn.Module):
    def __init__(self, up: tuple[int, int], down: tuple[int, int], **attributes: Any) -> None:
        super().__init__()
        self.gate_up_proj, self.down_proj = nn.Parameter(torch.randn(3, *up)), nn.Parameter(torch.randn(3, *down))
        self.__dict__.update(attributes)


@pytest.mark.parametrize(
    ("experts", "inputs_first", "certain"),
    [
        (Experts((8, 6), (6, 4), hidden_size=6), False, True),
        (Experts((6, 8), (4, 6), hidden_size=6), True, True),
        (Experts((6, 12), (6, 6), hidden_size=6), True, True),  # the square one is as its neighbour
        (Experts((12, 6), (6, 6), hidden_dim=6), False, True),
        (Experts((6, 6), (6, 6), hidden_size=6), False, False),
        (Experts((6, 6), (6, 6), hidden_size=6, is_transposed=True), True, True),
        (Experts((6, 8), (4, 6)), False, False),
    ],
    ids=["outputs first", "inputs first", "one square", "one square, outputs first", "all square", "told", "no width"],
)
def test_the_axes_of_experts_are_told_by_sizes_or_called_uncertain(
    experts: Experts, inputs_first: bool, certain: bool
) -> None:
    for matrix in matrices(experts):
        assert matrix.layout.kind == "experts"
        assert (matrix.layout.order == (0, 2, 1)) == inputs_first
        assert matrix.layout.is_certain == certain


def test_tied_weights_are_named_once_and_placed_twice() -> None:
    network = llama(tied=True)
    assert [m.name for m in matrices(network) if m.layer in ("lm_head", "model.embed_tokens")] == [
        "model.embed_tokens.weight"
    ]
    assert {m.name for m in placed_matrices(network)} - {m.name for m in matrices(network)} == {"lm_head.weight"}


def test_flattened_weights_are_found_and_said_not_to_be_whole() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    network[0].weight = nn.Parameter(torch.zeros(6))
    network[1].weight = None
    assert [(m.name, m.is_whole) for m in matrices(network)] == [
        ("0.weight", False),
        ("1.weight", False),
        ("2.weight", True),
    ]


def test_the_share_counts_weights() -> None:
    network = nn.Sequential(nn.Linear(9, 1), nn.LayerNorm(1), nn.Embedding(4, 2))
    found = matrices(network)
    assert covered_share(network, found) == 17 / 20
    assert covered_share(network, found[:1]) == 9 / 20
    assert covered_share(network, [*found, *found]) == 17 / 20
    assert covered_share(nn.ReLU(), []) == 0
    mixtral = NETWORKS["mixtral"]()
    experts = [m for m in matrices(mixtral) if m.layout.kind == "experts"]
    by_hand = sum(p.numel() for p in mixtral.parameters() if p.dim() == 3) / sum(
        p.numel() for p in mixtral.parameters()
    )
    assert covered_share(mixtral, experts) == pytest.approx(by_hand)


# Few bits


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_rows_in_few_bits_are_what_the_layer_multiplies_by(kind: str) -> None:
    bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes stores weights in few bits")
    if kind == "int8":
        layer = bnb.nn.Linear8bitLt(64, 32, bias=False, has_fp16_weights=False).to("cpu")
    else:
        layer = bnb.nn.Linear4bit(64, 32, bias=False, quant_type=kind).to("cpu")
    x = torch.randn(3, 64)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of casts
        outputs = layer(x)
    matrix = the_matrix(layer)
    assert matrix.is_low_bit
    assert matrix.is_whole
    assert matrix.rows().shape == (32, 64)
    assert_close(x @ matrix.rows().float().T, outputs, rtol=1e-4, atol=1e-4)
    assert covered_share(layer, [matrix]) == 1
    with pytest.raises(NotImplementedError, match="should be stored in full. Found `weight` of a `Linear.*in few bits"):
        matrix.write_(matrix.rows())


class Packed(Tensor):
    """As tensors of torchao: under a floating dtype, with values of their own."""

    def dequantize(self) -> Tensor:
        return torch.full(self.shape, 3.0)


def test_tensors_that_know_their_values_are_in_few_bits() -> None:
    layer = nn.Linear(3, 2)
    layer.weight = nn.Parameter(torch.zeros(2, 3).as_subclass(Packed))
    assert the_matrix(layer).is_low_bit
    assert_close(the_matrix(layer).rows().as_subclass(Tensor), torch.full((2, 3), 3.0))
    assert not is_low_bit(torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(NotImplementedError, match="should be those of bitsandbytes.*Found `Tensor` of torch.int8"):
        dequantized(torch.zeros(2, dtype=torch.int8), layer)


# Parametrizations


def test_a_parametrization_without_an_inverse_is_read_and_refuses_to_be_written() -> None:
    class Squared(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x**2

    layer = nn.Linear(3, 2)
    parametrize.register_parametrization(layer, "weight", Squared())
    matrix = the_matrix(layer)
    assert_close(matrix.rows(), layer.parametrizations.weight.original**2)
    with pytest.raises(NotImplementedError, match="should have a `right_inverse`. Found `Squared` of `weight`"):
        matrix.write_(matrix.rows())


def test_pruned_weights_stay_pruned() -> None:
    layer = prune.l1_unstructured(nn.Linear(4, 3), "weight", amount=5)
    matrix = the_matrix(layer)
    matrix.write_(torch.ones(3, 4))
    assert torch.equal(matrix.rows(), layer.weight_mask)


# Wrappers


def outline(network: nn.Module) -> list[Any]:
    return [(m.layout, [p.data_ptr() for p in m.parameters]) for m in matrices(network) if m.factor_of is None]


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"target_modules": ["c_attn"]}], ids=str)
def test_adapters_change_names_only(options: dict[str, Any]) -> None:
    network = gpt2()
    before, stack = outline(network), list(blocks(network).values())
    wrapped = lora(network, **options)
    assert outline(wrapped) == before
    assert list(blocks(wrapped).values()) == stack
    assert base_model(wrapped) is network


@pytest.mark.parametrize(
    "wrap", [lambda n: torch.compile(n, backend="eager"), lambda n: n.compile(backend="eager") or n]
)
def test_compiling_changes_names_only(wrap: Callable[[nn.Module], nn.Module]) -> None:
    network = llama(tied=True)
    before, stack, names = outline(network), blocks(network), [m.name for m in matrices(network)]
    wrapped = wrap(network)
    assert outline(wrapped) == before
    assert {plain_name(name): block for name, block in blocks(wrapped).items()} == stack
    assert [plain_name(m.name) for m in matrices(wrapped)] == names
    assert base_model(wrapped) is network
    assert is_tied(wrapped)


# Blocks

BLOCKS: dict[str, list[str]] = {
    "linear": [],
    "gpt2": ["transformer.h.0", "transformer.h.1"],
    "llama": ["model.layers.0", "model.layers.1"],
    "mixtral": ["model.layers.0", "model.layers.1"],
    "lora": ["base_model.model.model.layers.0", "base_model.model.model.layers.1"],
    "resnet": ["first.0", "first.1", "second.0", "second.1"],
    "compiled": ["_orig_mod.0", "_orig_mod.1"],
    "lstm": [],
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_what_a_network_repeats(name: str) -> None:
    network = NETWORKS[name]()
    found = blocks(network)
    assert list(found) == BLOCKS[name]
    assert all(network.get_submodule(key) is block for key, block in found.items())


def test_an_encoder_decoder_has_both_stacks_and_one_layer_is_a_block_too() -> None:
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=9, d_model=4, d_kv=2, d_ff=4, num_layers=1, num_heads=2))
    assert list(blocks(t5)) == ["encoder.block.0", "decoder.block.0"]


def test_blocks_of_several_classes_with_a_common_base_are_alike() -> None:
    class Layer(nn.Linear):
        pass

    class Other(nn.Linear):
        pass

    network = nn.ModuleDict(
        {"layers": nn.ModuleList([Layer(2, 2), Other(2, 2), parametrizations.weight_norm(Layer(2, 2))])}
    )
    assert list(blocks(network)) == ["layers.0", "layers.1", "layers.2"]


def test_experts_in_a_list_are_no_blocks() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(8))

    assert list(blocks(nn.ModuleList([Layer(), Layer()]))) == ["0", "1"]


# Adapters


def test_adapters_are_known_by_the_layers_inside_them() -> None:
    network = lora()
    layer = network.base_model.model.model.layers[0].mlp.up_proj
    assert adapters_around(network)[layer.base_layer] == (layer,)
    (weight, first, second) = (m for m in matrices(network) if "layers.0.mlp.up_proj" in m.name)
    assert (weight.adapters, weight.factor_of) == ((layer,), None)
    assert (first.factor_of, second.factor_of) == (layer, layer)
    assert (first.adapters, second.adapters) == ((), ())


def test_low_rank_factors_are_those_of_active_plain_adapters() -> None:
    network = lora(target_modules=["q_proj"])
    layer = network.base_model.model.model.layers[1].self_attn.q_proj
    pair = list(low_rank_factors(network))[1]
    assert pair.adapter is layer
    assert network.get_submodule(pair.name) is pair.first is layer.lora_A["default"]
    x = torch.randn(3, 16)
    scaled = layer.scaling["default"] * pair.second(pair.first(x))
    assert_close(scaled, layer(x) - layer.base_layer(x), rtol=1e-4, atol=1e-5)
    network.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"]))
    network.set_adapter("other")
    assert {pair.name.rpartition(".")[2] for pair in low_rank_factors(network)} == {"other"}
    assert list(low_rank_factors(lora(use_dora=True))) == []


@pytest.mark.parametrize(
    ("options", "adds"),
    [({}, True), ({"use_rslora": True}, True), ({"use_dora": True}, False), ({"lora_bias": True}, False)],
)
def test_which_adapters_only_add(options: dict[str, Any], adds: bool) -> None:
    network = lora(gpt2(), target_modules=["c_attn"], **options)
    assert {only_adds(pair) for around in adapters_around(network).values() for pair in around} == {adds}


# Head


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda n: n,
        lambda n: lora(n, target_modules=["q_proj"]),
        lambda n: torch.compile(n, backend="eager"),
        lambda n: torch.compile(lora(n, target_modules=["q_proj"]), backend="eager"),
    ],
    ids=["bare", "lora", "compiled", "compiled lora"],
)
def test_head_and_embedding_are_found_and_whether_they_are_tied(wrap: Callable[[Any], Any], tied: bool) -> None:
    network = llama(tied)
    wrapped = wrap(network)
    assert output_head(wrapped) is network.lm_head
    assert input_embedding(wrapped) is network.model.embed_tokens
    assert is_tied(wrapped) == tied
    assert set(output_heads(wrapped)) == {network.lm_head}


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings:UserWarning")
def test_an_adapter_around_one_end_leaves_it_tied(target: str) -> None:
    network = lora(llama(tied=True), target_modules=[target])
    assert is_tied(network)
    assert not is_tied(lora(llama(tied=False), target_modules=[target]))


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings:UserWarning", "ignore:.*tied:UserWarning")
def test_a_trained_copy_of_the_head_is_not_tied_unless_it_is_switched_off() -> None:
    network = lora(llama(tied=True), target_modules=["q_proj"], modules_to_save=["lm_head"])
    head: Any = output_head(network)
    copied = head.modules_to_save["default"].weight is not network.get_input_embeddings().weight
    assert is_tied(network) == (not copied)
    with network.disable_adapter():
        assert is_tied(network)


def test_a_network_that_does_not_tell_has_neither() -> None:
    network = nn.Linear(2, 2)
    assert output_head(network) is input_embedding(network) is None
    assert not is_tied(network)


# Compiled parts


def test_compiled_parts_run_eagerly_where_it_matters() -> None:
    calls: list[str] = []

    def backend(graph: Any, inputs: Any) -> Any:
        def run(*args: Any) -> Any:
            calls.append("compiled")
            return graph(*args)

        return run

    class Doubled(nn.Module):  # torch does not compile its own modules alone
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    network = nn.Sequential(Doubled(), Doubled())
    assert not is_compiled(network)
    network[0].compile(backend=backend)
    assert is_compiled(network)
    x = torch.ones(1, 2)
    for context, expected in [
        (nullcontext(), ["compiled"]),
        (eager_if_compiled(network), []),
        (eager_if_inside_compiled(network, network[0]), []),
        (eager_if_inside_compiled(network, network[1]), ["compiled"]),
        (eager_if_inside_compiled(network, None), ["compiled"]),
    ]:
        calls.clear()
        with context:
            network(x)
        assert calls == expected


@pytest.mark.parametrize("family", ["Roberta", "Camembert", "XLMRoberta", "Data2VecText"])
def test_of_a_head_with_a_dense_layer_only_the_last_part_is_the_head(family: str) -> None:
    sizes = {k: SIZES[k] for k in ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")}
    config = getattr(transformers, f"{family}Config")(**sizes, num_hidden_layers=1, is_decoder=True)
    network = getattr(transformers, f"{family}ForCausalLM")(config)
    assert set(output_heads(network)) == {network.lm_head.decoder}


def test_a_head_that_no_method_gives_is_known_by_its_name() -> None:
    network = nn.ModuleDict({"body": nn.Linear(2, 2), "lm_head": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 9))})
    assert set(output_heads(network)) == set(network["lm_head"].modules())


class NamedExperts(nn.Module):
    """Three experts whose matrices are called as in Mixtral's own code: `w2` goes back to the width."""

    def __init__(self, flattened: bool, back: str = "w2") -> None:
        super().__init__()
        self.num_experts, self.hidden_size = 3, 5
        first, last = torch.randn(3, 4, 5), torch.randn(3, 5, 4)
        self.w1 = nn.Parameter(first.flatten(0, 1) if flattened else first)
        self.register_parameter(back, nn.Parameter(first.flatten(0, 1) if flattened else last))


@pytest.mark.parametrize("back", ["w2", "wo", "down_proj", "output_weight"])
@pytest.mark.parametrize("flattened", [False, True])
def test_the_matrix_of_experts_that_goes_back_to_the_width_is_known_by_its_name(flattened: bool, back: str) -> None:
    found = {m.name: m for m in matrices(NamedExperts(flattened, back))}
    assert all(m.layout.is_certain for m in found.values())
    assert {name: tuple(m.view().shape) for name, m in found.items()} == {"w1": (3, 4, 5), back: (3, 5, 4)}
    for matrix in found.values():
        assert torch.equal(matrix.layout.undone(matrix.view()), matrix.tensor)
        before = matrix.tensor.detach().clone()
        matrix.write_(matrix.rows())
        assert torch.equal(matrix.tensor, before)


def test_a_router_and_positions_beside_experts_are_no_experts() -> None:
    network = NamedExperts(flattened=True)
    network.router, network.odd = nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(7, 5))
    kinds = {m.name: m.layout.kind for m in matrices(network)}
    assert kinds == {"w1": "experts", "w2": "experts", "router": "other", "odd": "other"}


def test_shares_are_of_what_trains_itself_or_through_an_adapter() -> None:
    network = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8), nn.Conv1d(8, 8, 1), nn.Linear(8, 8))
    assert [m.name for m in own_matrices(network)] == ["1.weight", "2.weight", "3.weight"]
    assert trained_share(network) == 1
    network.requires_grad_(False)
    assert trained_share(network) == 0
    adapted = get_peft_model(network, LoraConfig(r=2, target_modules=["1"]))
    assert trained_share(adapted) == pytest.approx(1 / 3)
    with adapted.disable_adapter():
        assert trained_share(adapted) == 0
