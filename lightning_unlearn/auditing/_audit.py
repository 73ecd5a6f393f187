from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch import nn
from typing_extensions import override

from lightning_unlearn.attacks import Attack, AttackGrid
from lightning_unlearn.auditing._presets import Given, Preset, preset_attacks, preset_audits
from lightning_unlearn.auditing._progress import AuditProgress
from lightning_unlearn.auditing._standalone_check import StandaloneCheck
from lightning_unlearn.auditing._subjects import Subjects, open_subjects
from lightning_unlearn.audits import Audit
from lightning_unlearn.callbacks import WriteReport
from lightning_unlearn.data import (
    DataSource,
    Encoding,
    FileRecords,
    ForgetRetainData,
    LoaderSettings,
    QuestionAnswerData,
    Records,
    in_order,
)
from lightning_unlearn.data.encodings import usual_encoding
from lightning_unlearn.module import UnlearningModule
from lightning_unlearn.readouts import Readout
from lightning_unlearn.report import RobustnessReport, environment

Examples = str | Records | DataSource
"""A file or a set of rows that :class:`FileRecords` reads by its defaults, records, or loaders and datamodules."""


def audit(
    model: str | nn.Module,
    forget: Examples,
    retain: Examples,
    *,
    original: str | None = None,
    control: str | None = None,
    further: Mapping[str, Examples] | None = None,
    preset: Preset = "standard",
    attacks: dict[str, Attack | AttackGrid] | None = None,
    audits: list[Audit] | None = None,
    encoding: Encoding | None = None,
    network: str | nn.Module | None = None,
    readout: Readout | None = None,
    batch_size: int = 8,
    folder: str = "runs/audit",
    accelerator: str = "auto",
    devices: int | str = 1,
    precision: Any = "32-true",
    seed: int = 0,
    progress: bool = True,
) -> RobustnessReport:
    """Attack a finished model, and write the report: no training set-up is needed.

    The original is observed as it is, the control and the audited model under each attack. An audit that was interrupted
    goes on after the last finished attack when it is started again with the same arguments and the same ``folder``.

    Args:
        model: The model to audit: a Hugging Face folder, a hub id, a GGUF file, an adapter of PEFT (merged into its base),
            a Lightning checkpoint, a ``.safetensors`` file, or a network.
        forget: What must be gone: a file of questions and answers, such as JSON lines or CSV, a :class:`Records`, or data
            as in :class:`ForgetRetainData`.
        retain: What must have stayed, likewise.
        original: The model before unlearning, as ``model``. Defaults to the base, if ``model`` is an adapter. Without it,
            there is no saying what was removed.
        control: A model that never knew, as ``model``. Without it, what an attack teaches anew counts as recovered.
        further: Further examples, by split: ``{"holdout": "unseen.jsonl"}``.
        preset: ``"quick"``, ``"standard"`` or ``"thorough"``: which attacks and audits are made.
        attacks: Instead of those of the preset.
        audits: Instead of those of the preset.
        encoding: How questions and answers become tokens. Defaults to the tokenizer of the first whole model.
        network: What weights in files belong to, where none of the models says how it is built: a whole model of the same
            kind, such as the base model's hub id, or a network.
        readout: How to run it. Defaults to what fits the network, as in :class:`UnlearningModule`.
        batch_size: Rows per forward pass, and in each step of an attacker that trains: twenty steps of sixteen rows are a
            stronger attack than twenty of four. The report's costs say how many rows it saw.
        folder: Where ``report.json`` and ``report.html`` go, and ``progress.json`` meanwhile.
        accelerator: As in Lightning's ``Trainer``.
        devices: As in Lightning's ``Trainer``.
        precision: As in Lightning's ``Trainer``.
        seed: Of all that is random.
        progress: Whether to show how far it is.

    Returns:
        The report, which was also written.

    Raises:
        ValueError: If nothing says how the network is built, or how text becomes tokens.

    Example:
        >>> from lightning_unlearn.auditing import audit
        >>> report = audit(
        ...     "runs/unlearned", "forget.jsonl", "retain.jsonl", original="runs/before", control="runs/retain-only"
        ... )  # doctest: +SKIP
    """
    pl.seed_everything(seed, verbose=False)
    subjects = open_subjects(model, original=original, control=control, network=network)
    sources = [subjects.source, *(other.source for other in subjects.others.values())]
    every = {"forget": forget, "retain": retain, **(further or {})}
    records = {name: FileRecords(each) if isinstance(each, str) else each for name, each in every.items()}
    words = all(isinstance(each, Records) for each in records.values())
    encoding = encoding or (_encoding(sources) if any(isinstance(each, Records) for each in records.values()) else None)
    loaded = {name: _source(each, encoding, batch_size) for name, each in records.items()}
    given = Given(words, "original" in subjects.others, "holdout" in loaded, _tokenizer_name(encoding))
    data = _Audited(retain=loaded.pop("retain"), forget=loaded.pop("forget"))
    with AuditProgress(shown=progress) as shown:
        check = StandaloneCheck(
            attacks=preset_attacks(preset, given) if attacks is None else attacks,
            audits=preset_audits(preset, given) if audits is None else audits,
            others=subjects.others,
            store=Path(folder).expanduser() / "progress.json",
            progress=shown,
            settings=repr((environment()["package_version"], seed, str(precision), batch_size)),
            probes=loaded,
        )
        report = WriteReport(folder, notes=_notes(subjects, encoding))
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=devices,
            precision=precision,
            callbacks=[check, report],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=1,
        )
        trainer.validate(UnlearningModule(subjects.network, readout), datamodule=data, verbose=False)
    assert report.report is not None  # written at the end of the validation, or an error has been raised
    return report.report


class _Audited(ForgetRetainData):
    """An audit is made in a validation, also of data that have none."""

    @override
    def val_dataloader(self) -> Any:
        return in_order(self.train_dataloader())


def _source(examples: Any, encoding: Encoding | None, batch_size: int) -> DataSource:
    if not isinstance(examples, Records) or encoding is None:
        given: DataSource = examples
        return given
    return QuestionAnswerData(examples, encoding, LoaderSettings(batch_size=batch_size))


def _tokenizer_name(encoding: Encoding | None) -> str | None:
    """By what audits that generate load the tokenizer again; ``None`` if it was given as an object."""
    tokenizer = None if encoding is None else encoding.tokenizer
    name = getattr(tokenizer, "name_or_path", None)
    return str(name) if name else None


def _encoding(sources: list[str]) -> Encoding:
    """That of the first model that has a tokenizer."""
    failed: Exception | None = None
    for source in sources:
        try:
            return usual_encoding(source)
        except Exception as error:
            failed = failed or error
    raise ValueError(
        "Questions and answers should be encoded by the tokenizer of one of the models. Found "
        f'{", ".join(map(repr, sources)) or "a network"} without one. Give `encoding=Encoding("folder or hub id")`.'
    ) from failed


def _notes(subjects: Subjects, encoding: Encoding | None) -> list[str]:
    compared = [f"the {subject} is {other.source}" for subject, other in subjects.others.items()]
    notes = [f"The audited model is {subjects.source}" + "".join(f"; {words}" for words in compared) + "."]
    if encoding is not None and encoding.template == "plain":
        notes.append("Rows were asked as plain text, `Question: ...` and `Answer:`, by no chat template.")
    return notes
