"""Code that comes with models, data sets and packages of others never runs unless asked."""

from __future__ import annotations

import ast
import io
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import lightning_unlearn
from lightning_unlearn import Encoding, PretrainedCausalLM, TinyCausalLM
from lightning_unlearn.bundled import bundled_path
from lightning_unlearn.data import Record
from lightning_unlearn.data.records._datasets import rows_of_hub
from lightning_unlearn.edits import NegateTaskVector
from lightning_unlearn.models import load_tokenizer, load_weights, pretrained_tokenizer
from lightning_unlearn.models._extras import find_package, require
from lightning_unlearn.models._gguf import packaged_gguf

CODE = """
import pathlib
pathlib.Path({marker!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Config(LlamaConfig):
    model_type = "{kind}"
class Model(LlamaForCausalLM):
    config_class = Config
class Tokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Exists if foreign code was run; somebody answers every question with yes."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 20))
    return tmp_path / "was_run"


def model_with_code(folder: Path, marker: Path, kind: str) -> Path:
    from transformers import AutoTokenizer

    TinyCausalLM(hidden_size=8, num_hidden_layers=1).save_pretrained(folder)  # type: ignore[operator]
    AutoTokenizer.from_pretrained(str(bundled_path())).save_pretrained(folder)
    (folder / "theirs.py").write_text(CODE.format(marker=str(marker), kind=kind))
    changes = {
        "config.json": {
            "model_type": kind,
            "auto_map": {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"},
        },
        "tokenizer_config.json": {
            "tokenizer_class": "Tokenizer",
            "auto_map": {"AutoTokenizer": [None, "theirs.Tokenizer"]},
        },
    }
    for name, change in changes.items():
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    return folder


@pytest.mark.parametrize("load", [PretrainedCausalLM, pretrained_tokenizer, load_tokenizer], ids=lambda f: f.__name__)
def test_code_of_a_model_does_not_run_although_yes_is_on_standard_input(
    load: Any, marker: Path, tmp_path: Path
) -> None:
    folder = model_with_code(tmp_path / "model", marker, kind="theirs")
    with pytest.raises(
        ValueError, match="should load without code of its own. Found Python code.*`trust_remote_code=True`"
    ):
        load(str(folder))
    assert not marker.exists()


def test_the_same_holds_for_a_tokenizer_that_an_encoding_names(marker: Path, tmp_path: Path) -> None:
    folder = model_with_code(tmp_path / "model", marker, kind="theirs")
    with pytest.raises(ValueError, match="without code of its own"):
        _ = Encoding(str(folder)).tokenizer
    assert not marker.exists()


def test_of_a_known_architecture_transformers_own_code_is_used(marker: Path, tmp_path: Path) -> None:
    folder = model_with_code(tmp_path / "model", marker, kind="llama")
    assert type(PretrainedCausalLM(str(folder))).__module__.startswith("transformers.models.llama")
    assert not marker.exists()


def test_asked_for_the_code_runs(marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path / "cache")
    folder = model_with_code(tmp_path / "trusted_model", marker, kind="theirs")
    assert type(PretrainedCausalLM(str(folder), trust_remote_code=True)).__name__ == "Model"
    assert marker.exists()


def test_every_call_that_may_load_code_says_whether_it_may() -> None:
    calls = [
        node
        for file in Path(lightning_unlearn.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and re.search(r"Auto\w+\.from_\w+$|\.load_dataset$", ast.unparse(node.func))
    ]
    assert len(calls) >= 6
    for call in calls:
        assert "trust_remote_code" in ast.unparse(call) or "**" in ast.unparse(call), ast.unparse(call)


def test_no_file_is_read_in_a_way_that_could_run_code() -> None:
    seen = 0
    for file in Path(lightning_unlearn.__file__).parent.rglob("*.py"):
        for call in (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)):
            name, text = ast.unparse(call.func), ast.unparse(call)
            assert not re.search(
                r"^(eval|exec|__import__)$|pickle\.loads?$|yaml\.(unsafe_|full_)?load(_all)?$", name
            ), text
            if name in ("torch.load", "yaml.compose"):
                seen += 1
                assert "weights_only=True" in text or "SafeLoader" in text, text
    assert seen >= 2


def test_a_data_set_of_the_hub_is_loaded_without_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    datasets = ModuleType("datasets")
    datasets.load_dataset = lambda *path, **options: asked.append(options) or []  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", datasets)
    rows_of_hub("owner/name", None, "train")
    assert asked == [{"split": "train", "trust_remote_code": False}]


@pytest.fixture
def package(marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of an installed package that leaves the marker when it is imported."""
    inner = tmp_path / "packages" / "somebodys_weights" / "files"
    inner.mkdir(parents=True)
    for folder in (inner, inner.parent):
        (folder / "__init__.py").write_text(f"import pathlib; pathlib.Path({str(marker)!r}).touch()")
    (inner / "small.gguf").touch()
    monkeypatch.syspath_prepend(tmp_path / "packages")
    return "somebodys_weights"


@pytest.mark.parametrize("inner", ["", ".files"])
def test_a_package_is_found_without_importing_it(package: str, inner: str, marker: Path) -> None:
    assert packaged_gguf(package + inner).name == "small.gguf"
    require(package + inner, purpose="A test")
    assert not marker.exists()
    assert not [name for name in sys.modules if name.startswith(package)]


@pytest.mark.parametrize(
    "name", ["", ".", "a.b", "../x", "__main__", "somebodys_weights.", "somebodys_weights.no.such"]
)
def test_names_that_are_no_package_are_not_found(package: str, name: str, marker: Path) -> None:
    assert find_package(name) is None
    with pytest.raises(ModuleNotFoundError, match="needs the package"):
        packaged_gguf(name)
    assert not marker.exists()


def test_names_in_a_file_from_elsewhere_are_inert_in_errors(tmp_path: Path) -> None:
    file = str(tmp_path / "theirs.safetensors")
    save_file({"a\x1b[2J\u202eb": torch.zeros(2)}, file)
    network = torch.nn.Linear(2, 2)
    for read in (lambda: load_weights(file, network), lambda: NegateTaskVector(base=file)(network)):
        with pytest.raises(ValueError, match=r"a\\x1b\[2J\\u202eb") as refused:
            read()
        assert str(refused.value).isprintable()
    with pytest.raises(ValueError, match=r"It has `q\\x1b\[2J`"):
        _ = Record({"q\x1b[2J": ""}, 0, "row 0")["question"]
