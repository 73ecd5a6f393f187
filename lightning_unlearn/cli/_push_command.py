"""The command ``lightning-unlearn push``: a model with its card, as a folder, and on the hub."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lightning_unlearn.publishing import Release, prepare, push

_ABOUT = (
    "Write a folder with weights, tokenizer and a card that tells what the report found, and push it to the Hugging Face "
    "Hub. For example: lightning-unlearn push --model runs/forgotten/model --report runs/forgotten --folder runs/hub "
    "--license mit --repo you/forgotten. Without --repo the folder is all."
)
_DESPITE = (
    "push although something stands against it, by its name: the codes of failed gates, such as G2, or `weights` if the "
    "report is of other weights"
)


def run_push(arguments: Sequence[str]) -> None:
    """Run ``lightning-unlearn push --model MODEL --report REPORT --folder FOLDER [--repo ID] [--despite NAME ...]``."""
    chosen = _parsed(arguments)
    release = prepare(
        chosen.model,
        chosen.report,
        chosen.folder,
        form=chosen.form,
        tokenizer=chosen.tokenizer,
        network=chosen.network,
        base=chosen.base,
        license=chosen.license,
        language=chosen.language,
    )
    sys.stdout.write(_told(release))
    if chosen.repo is not None and not chosen.dry_run:
        address = push(
            release, chosen.repo, despite=chosen.despite, private=not chosen.public, revision=chosen.revision
        )
        sys.stdout.write(f"Pushed to {address}.\n")


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("lightning-unlearn push", description=_ABOUT)
    parser.add_argument("--model", required=True, help="a folder, an adapter, a GGUF file, or a file of weights")
    parser.add_argument("--report", required=True, help="its report: the folder, or report.json")
    parser.add_argument("--folder", required=True, help="where the files go")
    parser.add_argument("--form", choices=["whole", "adapter"], default="whole", help="an adapter is merged, or alone")
    parser.add_argument("--tokenizer", help="a folder or a hub id, if it is not with the model")
    parser.add_argument("--network", help="what a file of weights belongs to: a folder or a hub id")
    parser.add_argument("--base", help="hub id of the model that was unlearned")
    parser.add_argument("--license", help="as the hub writes it, such as apache-2.0")
    parser.add_argument("--language", help="as the hub writes it, such as en")
    parser.add_argument("--repo", metavar="OWNER/NAME", help="where it is pushed to; it is made if it is not there")
    parser.add_argument("--revision", help="a branch; defaults to main")
    parser.add_argument("--public", action="store_true", help="a repository that is made can be seen by everybody")
    parser.add_argument("--despite", nargs="+", default=[], metavar="NAME", help=_DESPITE)
    parser.add_argument("--dry-run", action="store_true", help="leave the folder, and push nothing")
    return parser.parse_args(arguments)


def _told(release: Release) -> str:
    lines = [f"{release.folder} holds {', '.join(release.files)}."]
    if release.objections:
        lines += ["What stands against publishing it, as its card says:"]
        lines += [f"- {name}: {reason}." for name, reason in release.objections.items()]
    return "".join(f"{line}\n" for line in lines)
