"""A folder as it can be published."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lightning_unlearn.auditing._subjects import open_subjects
from lightning_unlearn.models import PretrainedCausalLM, load_tokenizer, merged
from lightning_unlearn.publishing._card import write_card
from lightning_unlearn.publishing._objections import objections
from lightning_unlearn.publishing._weights import hub_id, write_adapter, write_whole
from lightning_unlearn.report import RobustnessReport
from lightning_unlearn.runtime import temporary_name, writable_folder

CARD = "README.md"


@dataclass(frozen=True)
class Release:
    """A folder with a model as it can be published.

    Args:
        folder: Where it is.
        files: What of it is published, by name: weights, settings, tokenizer, card. Nothing else that is there.
        objections: What stands against publishing it, by the name that :func:`push` wants to hear.
    """

    folder: Path
    files: list[str]
    objections: dict[str, str]


def prepare(
    model: str | nn.Module,
    report: str | Path | RobustnessReport,
    folder: str | Path,
    *,
    form: Literal["whole", "adapter"] = "whole",
    tokenizer: str | None = None,
    network: str | None = None,
    base: str | None = None,
    license: str | None = None,
    language: str | None = None,
) -> Release:
    """Write a folder that can be published: weights, tokenizer, and a card with the section of the report.

    What was written is loaded back and compared. ``README.md`` is the card: one that is there is kept, and brought up to
    date. The report itself is not published, since it may hold what the model says of what was to be forgotten. Nor are
    paths of this machine.

    Args:
        model: What was unlearned: a folder of :class:`SavePretrained`, an adapter of PEFT, a file of weights with
            ``network``, a GGUF file, or a network.
        report: Of this model: ``WriteReport.report``, its folder, or its ``report.json``.
        folder: Where the files go. Files of the same names are replaced; what else is there is refused.
        form: ``"whole"`` merges an adapter into its base; ``"adapter"`` writes the adapter alone.
        tokenizer: Its folder or hub id. Defaults to that of ``model``.
        network: What a file of weights belongs to: a folder or a hub id.
        base: Hub id of the model that was unlearned, for the card and for an adapter. Defaults to the one that an adapter
            names, if it is no folder.
        license: As the hub writes it, such as ``"apache-2.0"``.
        language: As the hub writes it, such as ``"en"``.

    Raises:
        ValueError: If the form does not fit the model, an adapter names no base on the hub, or what was written is not the
            model.
        OSError: If there is no tokenizer, or the folder cannot be written.

    Example:
        >>> from lightning_unlearn.publishing import prepare, push
        >>> release = prepare("runs/forgotten/model", "runs/forgotten", "runs/hub", license="mit")  # doctest: +SKIP
        >>> push(release, "you/forgotten")  # doctest: +SKIP
    """
    made = report if isinstance(report, RobustnessReport) else RobustnessReport.load(report)
    opened = _opened(model, network)
    _refuse_form(opened, form)
    base = hub_id(base, given=True) if base is not None else hub_id(_named_base(opened))
    target = writable_folder(folder)
    wanted = merged(opened) if form == "whole" and _has_adapter(opened) else opened
    # Beside the folder: so that it never holds half of a model, nor one of two kinds.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=temporary_name(target.name)) as new:
        if form == "whole":
            write_whole(wanted, new)
        else:
            write_adapter(wanted, new, base)
        _tokenizer(model, tokenizer).save_pretrained(new)
        files = _moved(Path(new), target)
    failed = objections(made, _looked_at(opened, wanted))
    about = {"base_model": base, "license": license, "language": language, "pipeline_tag": "text-generation"}
    library = "peft" if form == "adapter" else "transformers"
    sentences = [f"{name}: {reason}." for name, reason in failed.items()]
    write_card(target / CARD, made, title=target.name, metadata={**about, "library_name": library}, failed=sentences)
    return Release(target, sorted([*files, CARD]), failed)


def _opened(model: str | nn.Module, network: str | None) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    if network is not None:
        return open_subjects(model, network=network).network
    return PretrainedCausalLM(model, dtype="auto")


def _has_adapter(network: nn.Module) -> bool:
    return hasattr(network, "peft_config")


def _refuse_form(network: nn.Module, form: str) -> None:
    if form not in ("whole", "adapter"):
        raise ValueError(f"`form` should be 'whole' or 'adapter'. Found `form = {form!r}`.")
    if form == "adapter" and not _has_adapter(network):
        raise ValueError(
            f"`form='adapter'` should be for a model with an adapter of PEFT. Found a `{type(network).__name__}` without "
            "one: it was merged, or all weights were trained. Set `form='whole'`."
        )


def _named_base(network: Any) -> str | None:
    if not _has_adapter(network):
        return None
    return str(network.peft_config[network.active_adapter].base_model_name_or_path or "") or None


def _tokenizer(model: str | nn.Module, name: str | None) -> Any:
    if name is None and isinstance(model, nn.Module):
        raise ValueError(
            "`tokenizer` should be named where `model` is a network. Found none. Give its folder or hub id."
        )
    try:
        return load_tokenizer(str(name or model))
    except OSError as error:
        raise OSError(
            f"A model should be published with its tokenizer. Found none in {str(name or model)!r}. Give `tokenizer=`, a "
            "folder or a hub id."
        ) from error


def _moved(new: Path, target: Path) -> list[str]:
    files = sorted(path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file())
    there = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    if left_over := sorted(there - {*files, CARD}):
        raise ValueError(
            f"`folder` should be empty, or hold what is replaced. Found `{left_over[0]}` and {len(left_over) - 1} more in "
            f"`{target}`. Choose another folder."
        )
    for name in files:
        (target / name).parent.mkdir(exist_ok=True)
        os.replace(new / name, target / name)
    return files


def _looked_at(opened: nn.Module, wanted: nn.Module) -> Iterator[nn.Module]:
    """The model in each form in which a fit or an audit may have hashed it."""
    yield opened
    yield from [] if wanted is opened else [wanted]
    if any(p.dtype != torch.float32 for p in wanted.parameters() if p.is_floating_point()):
        yield deepcopy(wanted).float()  # as `audit` looks at it
