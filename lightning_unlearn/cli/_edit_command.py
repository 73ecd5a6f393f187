"""The command ``lightning-unlearn edit``: change a finished model once, without a training set-up."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from lightning_unlearn.auditing._audit import _encoding
from lightning_unlearn.auditing._subjects import open_subjects
from lightning_unlearn.cli._audit_command import Columns, _records
from lightning_unlearn.cli._config_file import ConfigFile
from lightning_unlearn.cli._parser import Parser
from lightning_unlearn.data import Encoding, LoaderSettings, QuestionAnswerData, Records, in_order, loader_of
from lightning_unlearn.edits import Edit, EditRecord
from lightning_unlearn.models import refuse_other_form, savable
from lightning_unlearn.readouts import CausalLMReadout
from lightning_unlearn.runtime import writable_folder, written_whole

_ABOUT = (
    "Change a finished language model once, and write it as a Hugging Face folder, with a record of the change. For "
    "example: lightning-unlearn edit --model owner/base --edit lightning_unlearn.edits.Dampen --edit.alpha 5 --forget "
    "forget.jsonl --retain retain.jsonl --folder runs/dampened. Look at the result by: lightning-unlearn audit"
)
_MODEL = "The model: a Hugging Face folder, a hub id, a GGUF file, an adapter of PEFT (merged), or a file of weights."
_FOLDER = "Where the edited model goes, and edit.json with what was done."
_DEVICE = 'Where it is computed, such as "cpu" or "cuda". Defaults to "cuda" where there is one.'


def run_edit(arguments: Sequence[str]) -> None:
    """Run ``lightning-unlearn edit``."""
    parser = Parser(prog="lightning-unlearn edit", description=_ABOUT)
    parser.add_argument("-c", "--config", action=ConfigFile, help="A file with these arguments, as YAML.")
    parser.add_argument("--model", type=str, required=True, help=_MODEL)
    parser.add_subclass_arguments(Edit, "edit", required=True, help="What is done.")
    parser.add_argument("--folder", type=str, required=True, help=_FOLDER)
    parser.add_argument("--forget", type=str | Records | None, help="What must go, if the edit looks at it.")
    parser.add_argument("--retain", type=str | Records | None, help="What must stay, likewise.")
    parser.add_argument("--encoding", type=str | Encoding | None, help="A tokenizer. Defaults to that of the model.")
    parser.add_argument("--network", type=str | nn.Module | None, help="What a file of weights belongs to.")
    parser.add_argument("--batch_size", type=int, default=8, help="Rows per batch. Some edits depend on it.")
    parser.add_argument("--device", type=str | None, help=_DEVICE)
    parser.add_class_arguments(Columns, "columns")
    chosen: Any = parser.instantiate(parser.parse_args(arguments))
    record = _edit(chosen)
    sys.stdout.write(
        f"{record.edit} changed {record.elements} weights in {record.tensors} tensors, by {record.relative_change:.2%} of "
        f"their length. The model is in {chosen.folder}.\n"
    )


def _edit(chosen: Any) -> EditRecord:
    folder = writable_folder(chosen.folder)
    refuse_other_form(folder, adapter=False)
    edit: Edit = chosen.edit
    given = {name: getattr(chosen, name) for name in ("forget", "retain")}
    for name, needs in (("forget", edit.needs_forget), ("retain", edit.needs_retain)):
        if needs and given[name] is None:
            raise ValueError(
                f"`{type(edit).__name__}` should get {name} data. Found none. Give --{name}, a file of questions and "
                "answers."
            )
    network: Any = open_subjects(chosen.model, network=chosen.network).network
    encoding = _encoding_of(chosen) if any(source is not None for source in given.values()) else None
    device = torch.device(chosen.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    network.to(device)
    batches: dict[str, Any] = {
        name: [_moved(b, device) for b in _batches(source, chosen, encoding)] if source is not None else []
        for name, source in given.items()
    }
    edit.see_original(network)
    record = edit(network, **batches, readout=CausalLMReadout())
    _write(network, encoding, record, folder)
    return record


def _encoding_of(chosen: Any) -> Encoding:
    if isinstance(chosen.encoding, Encoding):
        return chosen.encoding
    return Encoding(chosen.encoding) if chosen.encoding else _encoding([chosen.model])


def _batches(source: str | Records, chosen: Any, encoding: Encoding | None) -> Any:
    assert encoding is not None, "there is some wherever there are data"
    data = QuestionAnswerData(_records(source, chosen.columns), encoding, LoaderSettings(batch_size=chosen.batch_size))
    return in_order(loader_of(data, "data", None))


def _moved(batch: Any, device: torch.device) -> Any:
    return {name: part.to(device) if isinstance(part, torch.Tensor) else part for name, part in batch.items()}


def _write(network: Any, encoding: Encoding | None, record: EditRecord, folder: Any) -> None:
    with savable(network):
        network.save_pretrained(folder)
    save = getattr(getattr(encoding, "tokenizer", None), "save_pretrained", None)
    if save is not None:
        save(folder)
    with written_whole(folder / "edit.json") as new:
        new.write_text(json.dumps(asdict(record), indent=1) + "\n")
