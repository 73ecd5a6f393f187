"""Auditing finished models, without a training set-up."""

from lightning_unlearn.auditing._audit import audit
from lightning_unlearn.auditing._presets import Given, Preset, preset_attacks, preset_audits

__all__ = ["Given", "Preset", "audit", "preset_attacks", "preset_audits"]
