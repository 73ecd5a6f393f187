"""How to run a network on a batch."""

from lightning_unlearn.readouts._answers import greedy_answers, has_answer
from lightning_unlearn.readouts._base import Exchange, Readout, content_key
from lightning_unlearn.readouts._causal_lm import CausalLMReadout
from lightning_unlearn.readouts._choice import choose_readout
from lightning_unlearn.readouts._classification import ClassificationReadout
from lightning_unlearn.readouts._companion import CompanionPrediction, CompanionReadout
from lightning_unlearn.readouts._every_position import EveryPositionReadout
from lightning_unlearn.readouts._hidden_states import HiddenStateReadout, HiddenStates
from lightning_unlearn.readouts._language_model import is_language_model, output_head
from lightning_unlearn.readouts._packed_causal_lm import PackedCausalLMReadout
from lightning_unlearn.readouts._paired import PairedPrediction, PairedReadout, PreferredReadout
from lightning_unlearn.readouts._unshifted import UnshiftedReadout

__all__ = [
    "Exchange",
    "Readout",
    "CausalLMReadout",
    "PackedCausalLMReadout",
    "ClassificationReadout",
    "EveryPositionReadout",
    "UnshiftedReadout",
    "PairedPrediction",
    "PairedReadout",
    "HiddenStateReadout",
    "HiddenStates",
    "PreferredReadout",
    "CompanionPrediction",
    "CompanionReadout",
    "choose_readout",
    "greedy_answers",
    "has_answer",
    "content_key",
    "is_language_model",
    "output_head",
]
