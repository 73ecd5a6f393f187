"""The console script ``lightning-unlearn``, a module of its own: help and versions are told before torch is imported."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version

ABOUT = "Make a model forget inside a PyTorch Lightning fit, and measure whether it did."
_HELP = f"""\
usage: lightning-unlearn COMMAND [ARGUMENTS]

{ABOUT}

to begin with:
  demo        A tiny model is taught facts, forgets three, and is attacked: a report in a few minutes, no download.
  configs     List the configurations that come with the package, or print one.

a language model, a file of what must go, a file of what must stay:
  forget      Unlearn with LoRA, under attack; write the report and the merged model.

a fit of your own:
  fit         Unlearn: train on what must stay, merge in what must go, attack, and write the report.
  validate    Run the checks alone, on the model or on --ckpt_path, with the validation loop; write the report.
  test        Run the checks alone, on the model or on --ckpt_path, with the test loop; write the report.
  predict     Run the module's own predictions.
  requests    Carry out deletion requests one after another, with a ledger, undo and a report.

before a fit:
  lint        Look over what must go and what must stay: rows in both, contradictions, near duplicates, poisoned words.

models and reports that are there:
  audit       Attack a finished model, and write the report.
  compare     Set reports side by side.
  benchmarks  Add what lm-eval found to a report, with a gate for the loss that is allowed.
  edit        Change a model once, by dampening, resetting, projecting, ..., and write it.
  push        Write a model with a card that tells what was found, and push it to the Hugging Face Hub.

options:
  -h, --help  Show this and exit. Each command has its own: lightning-unlearn fit --help
  --version   Show the versions that matter in a bug report, and exit.

for example:
  lightning-unlearn demo
  lightning-unlearn fit --config bundled:quickstart --unlearn.objective.beta=0.2
  lightning-unlearn configs npo

`lightning-unlearn configs` lists what can stand after `bundled:`.
"""
_MATTER = ("torch", "lightning", "transformers", "peft")


def script() -> None:
    """Answer what needs no torch; all else is :func:`lightning_unlearn.cli.script`."""
    said = answer(sys.argv[1:])
    if said is not None:
        sys.stdout.write(said)
        sys.exit(0)
    from lightning_unlearn.cli import script as whole

    whole()


def answer(arguments: list[str]) -> str | None:
    """The help or the versions, if these arguments ask for no more than that.

    Example:
        >>> print(answer(["--help"]).splitlines()[0])
        usage: lightning-unlearn COMMAND [ARGUMENTS]
        >>> answer(["fit", "--help"]) is None
        True
    """
    if arguments in ([], ["-h"], ["--help"]):
        return _HELP
    if arguments == ["--version"]:
        others = ", ".join(f"{name} {version(name)}" for name in _MATTER)
        return f"lightning-unlearn {version('lightning-unlearn')} (Python {platform.python_version()}, {others})\n"
    return None


if __name__ == "__main__":
    script()
