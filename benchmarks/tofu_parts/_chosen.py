from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from robustness_parts._fit import meanings
from robustness_parts._judges import Judge
from robustness_parts._method import Method, methods
from robustness_parts._runner import available

from tofu_parts._settings import SETTINGS
from tofu_parts._study import TOFUStudy

FILE = Path(__file__).parent / "methods.yaml"


def tofu_study(
    arguments: argparse.Namespace, beside: Mapping[str, Judge] | None = None
) -> tuple[TOFUStudy, dict[str, str]]:
    """The study that a command line asks for, and which methods this version lacks parts of."""
    setting = SETTINGS[arguments.model].on(arguments.device, arguments.precision)
    chosen = [methods(FILE)[name] for name in arguments.methods or methods(FILE)]
    there, missing = available(chosen, meanings(setting, "test", seed=0, rate=1.0), setting.name)
    methods_, seeds = tuple(_with_the_best_two(there)), tuple(arguments.seeds)
    return TOFUStudy(setting, methods_, seeds, arguments.folder / setting.name, beside or {}), missing


def _with_the_best_two(methods: list[Method]) -> list[Method]:
    """With what the best two are chosen from, on which their results depend; without them, where there is no choice."""
    parts = {method.name: dict(method.described) for method in methods if "part" in method.described}
    if len({described["part"] for described in parts.values()}) < 2:
        return [method for method in methods if "best_two" not in method.described]
    return [
        replace(m, described={**m.described, "best_two": parts}) if "best_two" in m.described else m for m in methods
    ]
