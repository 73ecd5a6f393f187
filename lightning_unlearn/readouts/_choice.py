from __future__ import annotations

from torch import nn

from lightning_unlearn.readouts._base import Readout
from lightning_unlearn.readouts._classification import ClassificationReadout
from lightning_unlearn.readouts._encoder_decoder import EncoderDecoderReadout
from lightning_unlearn.readouts._language_model import is_causal, is_encoder_decoder, is_language_model
from lightning_unlearn.readouts._packed_causal_lm import PackedCausalLMReadout
from lightning_unlearn.readouts._training_step import TrainingStepReadout


def choose_readout(module: nn.Module) -> Readout:
    """What looks right for ``module``: its own ``readout``, one for a language model or a classifier, its own loss.

    In a fit the choice is checked; see :func:`lightning_unlearn.engine.decided_readout`.

    Example:
        >>> choose_readout(nn.Linear(3, 2))
        ClassificationReadout()
    """
    if isinstance(own := getattr(module, "readout", None), Readout):
        return own
    if any(is_causal(m) for m in module.modules()):
        return PackedCausalLMReadout()
    if any(is_encoder_decoder(m) for m in module.modules()):
        return EncoderDecoderReadout()
    if is_language_model(module):
        return PackedCausalLMReadout()  # which says why it is refused
    return ClassificationReadout() if _has_forward(module) else TrainingStepReadout()


def _has_forward(module: nn.Module) -> bool:
    """Whether a LightningModule defines ``forward``: Lightning's own only raises."""
    return not (hasattr(module, "training_step") and type(module).forward.__qualname__ == "LightningModule.forward")
