"""How to run a network on a batch."""

from lightning_unlearn.readouts._answers import greedy_answers, has_answer, sampled_answers
from lightning_unlearn.readouts._base import Exchange, Readout, content_key
from lightning_unlearn.readouts._begun import answer_tokens, begun_by
from lightning_unlearn.readouts._causal_lm import CausalLMReadout
from lightning_unlearn.readouts._choice import choose_readout
from lightning_unlearn.readouts._classification import ClassificationReadout
from lightning_unlearn.readouts._companion import CompanionReadout
from lightning_unlearn.readouts._cutting import CUTS
from lightning_unlearn.readouts._draws import Draws
from lightning_unlearn.readouts._embedding import EmbeddingReadout
from lightning_unlearn.readouts._encoder_decoder import EncoderDecoderReadout
from lightning_unlearn.readouts._every_position import EveryPositionReadout
from lightning_unlearn.readouts._halves import Halves, PairedPrediction, halves_of_examples, halves_of_rows
from lightning_unlearn.readouts._head_readout import HeadReadout
from lightning_unlearn.readouts._hidden_states import HiddenStateReadout, HiddenStates
from lightning_unlearn.readouts._joined import join_rows, may_join, split_rows
from lightning_unlearn.readouts._language_model import is_language_model
from lightning_unlearn.readouts._layers import LayersReadout
from lightning_unlearn.readouts._own_loss import how_close, own_loss
from lightning_unlearn.readouts._packed_causal_lm import PackedCausalLMReadout
from lightning_unlearn.readouts._packing_check import is_packed_exactly, packing_decided_apart
from lightning_unlearn.readouts._paired import PairedReadout
from lightning_unlearn.readouts._predicting import PredictingReadout
from lightning_unlearn.readouts._prompt_end import PromptEndReadout
from lightning_unlearn.readouts._putting_off import logits_at_once, read_for_a_loss
from lightning_unlearn.readouts._refusals import refuse_foreign_labels, refuse_foreign_tokens
from lightning_unlearn.readouts._training_step import TrainingStepReadout
from lightning_unlearn.readouts._unshifted import UnshiftedReadout
from lightning_unlearn.readouts._wrapping import WrappingReadout

__all__ = [
    "packing_decided_apart",
    "CUTS",
    "CausalLMReadout",
    "ClassificationReadout",
    "CompanionReadout",
    "Draws",
    "EmbeddingReadout",
    "EncoderDecoderReadout",
    "EveryPositionReadout",
    "Exchange",
    "Halves",
    "HeadReadout",
    "HiddenStateReadout",
    "HiddenStates",
    "LayersReadout",
    "PackedCausalLMReadout",
    "PairedPrediction",
    "PairedReadout",
    "PredictingReadout",
    "PromptEndReadout",
    "Readout",
    "TrainingStepReadout",
    "UnshiftedReadout",
    "WrappingReadout",
    "answer_tokens",
    "begun_by",
    "choose_readout",
    "content_key",
    "greedy_answers",
    "halves_of_examples",
    "halves_of_rows",
    "has_answer",
    "how_close",
    "is_language_model",
    "is_packed_exactly",
    "join_rows",
    "may_join",
    "logits_at_once",
    "own_loss",
    "read_for_a_loss",
    "refuse_foreign_labels",
    "refuse_foreign_tokens",
    "sampled_answers",
    "split_rows",
]
