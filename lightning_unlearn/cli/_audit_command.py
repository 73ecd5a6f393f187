"""The command ``lightning-unlearn audit``: attack a finished model, without a training set-up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning_unlearn.auditing import audit
from lightning_unlearn.cli._config_file import ConfigFile
from lightning_unlearn.cli._parser import Parser
from lightning_unlearn.data import Encoding, FileRecords, Records

_ABOUT = (
    "Attack a finished language model, and write the report; a module of your own is audited in Python, by "
    "`lightning_unlearn.auditing.audit`. For example: lightning-unlearn audit --model runs/unlearned "
    "--original owner/base --control runs/retain-only --forget forget.jsonl --retain retain.jsonl. An audit that was "
    "interrupted goes on when the same command is given again."
)
_GIVEN = {"model", "forget", "retain", "further", "encoding"}
_MODEL = "The model to audit: a Hugging Face folder, a hub id, a GGUF file, an adapter of PEFT, or a file of weights."


@dataclass
class Columns:
    """Names of the fields in files of questions and answers.

    Args:
        question: The question. Found by itself if it has a usual name.
        answer: The answer, likewise.
        entity: What a row is about (an author, a document), or how many rows in turn are about the same. Rows of one entity
            are not independent: without it intervals are too narrow.
    """

    question: str | None = None
    answer: str | None = None
    entity: int | str | None = None


def run_audit(arguments: Sequence[str]) -> None:
    """Run ``lightning-unlearn audit``."""
    parser = Parser(prog="lightning-unlearn audit", description=_ABOUT)
    parser.add_argument("-c", "--config", action=ConfigFile, help="A file with these arguments, as YAML.")
    parser.add_argument("--model", type=str, required=True, help=_MODEL)
    parser.add_argument("--forget", type=str | Records, required=True, help="What must be gone: a file, or records.")
    parser.add_argument("--retain", type=str | Records, required=True, help="What must have stayed, likewise.")
    parser.add_argument("--further", type=dict[str, str], default={}, help="Further files by split, such as holdout.")
    parser.add_argument("--encoding", type=str | Encoding | None, help="A tokenizer. Defaults to that of the model.")
    parser.add_class_arguments(Columns, "columns")
    parser.add_function_arguments(audit, skip=_GIVEN | {"readout"})
    chosen: Any = parser.instantiate(parser.parse_args(arguments))
    given: dict[str, Any] = {key: value for key, value in vars(chosen).items() if key not in ("config", "columns")}
    for name in ("forget", "retain"):
        given[name] = _records(given[name], chosen.columns)
    given["further"] = {split: _records(path, chosen.columns) for split, path in given["further"].items()}
    if isinstance(given["encoding"], str):
        given["encoding"] = Encoding(given["encoding"])
    audit(**given)


def _records(source: str | Records, columns: Columns) -> Records:
    return FileRecords(source, **vars(columns)) if isinstance(source, str) else source
