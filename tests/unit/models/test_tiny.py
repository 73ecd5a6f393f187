"""A tiny network is a function of its seed, and YAML can build it wherever a module is expected."""

import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser
from torch import nn
from transformers import LlamaForCausalLM

from lightning_unlearn.models import TinyCausalLM

PATH = "lightning_unlearn.models.TinyCausalLM"


def weights(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def built(parser, init_args):
    config = parser.parse_object({"network": {"class_path": PATH, "init_args": init_args}})
    return parser.instantiate(config).network


def test_same_seed_same_weights():
    assert torch.equal(weights(TinyCausalLM(seed=3)), weights(TinyCausalLM(seed=3)))
    assert not torch.equal(weights(TinyCausalLM(seed=3)), weights(TinyCausalLM(seed=4)))


def test_random_numbers_are_left_as_found_and_do_not_matter():
    torch.manual_seed(1)
    first, drawn = weights(TinyCausalLM()), torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))
    assert torch.equal(first, weights(TinyCausalLM()))


def test_default_size():
    network = TinyCausalLM()
    assert sum(parameter.numel() for parameter in network.parameters()) == 648_064
    assert network.training
    assert network.dtype == torch.float32


@pytest.mark.parametrize("hidden_size", [8, 40, 96, 256])
@pytest.mark.parametrize("num_hidden_layers", [1, 2])
def test_sizes_can_be_chosen(hidden_size, num_hidden_layers):
    network = TinyCausalLM(hidden_size=hidden_size, num_hidden_layers=num_hidden_layers)
    states = network(torch.tensor([[1, 2, 3]]), output_hidden_states=True).hidden_states
    assert len(states) == 1 + num_hidden_layers
    assert states[-1].shape == (1, 3, hidden_size)


def test_saved_network_loads_as_a_plain_llama(tmp_path):
    network = TinyCausalLM(hidden_size=16, num_hidden_layers=1)
    network.save_pretrained(tmp_path)
    assert torch.equal(weights(LlamaForCausalLM.from_pretrained(tmp_path)), weights(network))


@pytest.mark.parametrize("hidden_size", [0, 12, -8])
def test_odd_width_is_refused(hidden_size):
    with pytest.raises(ValueError, match=f"multiple of 8. Found `hidden_size = {hidden_size}`"):
        TinyCausalLM(hidden_size=hidden_size)


@pytest.fixture(params=["argument", "subclass"])
def parser(request):
    parser = ArgumentParser(exit_on_error=False)
    if request.param == "argument":
        parser.add_argument("--network", type=nn.Module)
    else:
        parser.add_subclass_arguments(nn.Module, "network")
    return parser


def test_yaml_builds_it_by_class_path(parser):
    network = built(parser, {"hidden_size": 16, "num_hidden_layers": 1, "seed": 5})
    assert torch.equal(weights(network), weights(TinyCausalLM(hidden_size=16, num_hidden_layers=1, seed=5)))


def test_yaml_refuses_an_unknown_argument(parser):
    with pytest.raises(ArgumentError, match="'width' is not accepted"):
        built(parser, {"width": 16})
