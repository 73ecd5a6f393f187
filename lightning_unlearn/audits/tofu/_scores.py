from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lightning.fabric.utilities import move_data_to_device
from torch import nn

from lightning_unlearn.audits.tofu._tofu import TOFU
from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.compat import Compat
from lightning_unlearn.readouts import Readout


def tofu_scores(
    network: nn.Module,
    readout: Readout,
    probes: Mapping[str, Probe],
    tokenizer: Any,
    *,
    max_new_tokens: int = 64,
    compat: Compat | None = None,
) -> dict[str, dict[str, list[Any]]]:
    """Score a network on the questions of TOFU, outside a fit. Nothing changes; probes are moved to where the network is.

    Args:
        network: A causal language model, on any device and in any precision.
        readout: ``CausalLMReadout()`` or ``PackedCausalLMReadout()``.
        probes: From :func:`tofu_probes`.
        tokenizer: That of the network.
        max_new_tokens: Longer answers are cut off there.
        compat: As in :class:`TOFU`.

    Returns:
        By split and by name, one value for each question, in the order of the data; ``json.dump`` can write it:
        ``token_nll``, ``answer_probability``, ``extraction_strength``, ``exact_memorization``, ``rouge_l_recall``,
        ``rouge_l_f``, ``fluency``, ``texts`` (what was answered) and ``entities``; with wrong answers also ``truth_ratio``
        and ``option_probability``.

    Example:
        >>> from lightning_unlearn import CausalLMReadout, Encoding, TinyCausalLM
        >>> from lightning_unlearn.audits.tofu import tofu_probes
        >>> rows = [{"question": "Who wrote it?", "answer": "Ada", "perturbed_answer": ["Bo", "Cy"]}]
        >>> encoding, network = Encoding("bundled"), TinyCausalLM(hidden_size=32)
        >>> probes = tofu_probes({"forget": rows}, encoding)
        >>> scores = tofu_scores(network, CausalLMReadout(), probes, encoding.tokenizer, max_new_tokens=4)
        >>> sorted(scores["forget"])[:5]
        ['answer_probability', 'entities', 'exact_memorization', 'extraction_strength', 'fluency']
    """
    device = next(network.parameters()).device
    there = {
        split: replace(probe, batches=[(move_data_to_device(b, device), index, own) for b, index, own in probe.batches])
        for split, probe in probes.items()
    }
    audit = TOFU(tokenizer, max_new_tokens=max_new_tokens, compat=compat)
    return audit.of_questions(network, readout=readout, probes=there, engine=GradientEngine(network))
