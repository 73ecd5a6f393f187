"""Writing a network as a folder of Hugging Face's that holds the same network, and a look whether it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.models.layers import is_tied, output_head


@contextmanager
def savable(network: Any) -> Iterator[None]:
    """Meanwhile, let the settings of a network be what they have to be for a folder that loads as it is.

    ``tie_word_embeddings`` says whether head and embeddings are tied; transformers believes it, and would make up a head, or
    lose one. Settings for generation that transformers does not save, such as a temperature without sampling, are left
    out but for their token ids.
    """
    held = [(c, c.tie_word_embeddings) for c in _configs(network) if hasattr(c, "tie_word_embeddings")]
    generation = getattr(network, "generation_config", None)
    if output_head(network) is not None:
        for config, _ in held:
            config.tie_word_embeddings = is_tied(network)
    if generation is not None:
        network.generation_config = _valid(generation)
    try:
        yield
    finally:
        for config, was in held:
            config.tie_word_embeddings = was
        if generation is not None:
            network.generation_config = generation


def refuse_other_form(folder: str | Path, *, adapter: bool) -> None:
    """Refuse a folder with a whole model where an adapter is to be written, and the other way round.

    transformers would load both, the adapter on top of the whole model.

    Args:
        folder: Where a network is to be written.
        adapter: Whether it is an adapter alone.

    Raises:
        ValueError: If the other form is there.
    """
    other = "config.json" if adapter else "adapter_config.json"
    if (Path(folder).expanduser() / other).is_file():
        here, there = ("an adapter", "a whole model") if adapter else ("a whole model", "an adapter")
        raise ValueError(
            f"`folder` should be empty, or hold what is replaced, where {here} is to be written. Found `{other}` of {there} "
            f"in `{folder}`: the two would be loaded together. Choose another folder."
        )


def refuse_other_weights(folder: str, network: Any, state: Mapping[str, Tensor] | None = None) -> None:
    """Load ``folder`` back and compare: another network must not pass for the one that was written.

    Args:
        folder: What ``network.save_pretrained`` has written.
        network: A transformers model.
        state: Its weights, if it holds shards of them only.

    Raises:
        ValueError: If weights are missing in the folder, or differ.
    """
    # FSDP2 makes classes of its own. Not an `Auto` class: it would ask whether to run a model's own code.
    kind: Any = next(c for c in type(network).__mro__ if not c.__name__.startswith("FSDP"))
    again = kind.from_pretrained(folder, dtype=network.dtype)
    found = again.state_dict()
    for name, tensor in (network.state_dict() if state is None else state).items():
        if name not in found or not _same(found[name], tensor):
            raise ValueError(
                f"The folder should load as the network that was written. Found other values in `{name}`. Weights that are "
                "shared or computed in a way of your own are not written by transformers: save `network.state_dict()` with "
                "`torch.save`."
            )


def refuse_other_adapter(folder: str, network: Any, state: Mapping[str, Tensor] | None = None) -> None:
    """The same for an adapter alone, which is small.

    Args:
        folder: What ``network.save_pretrained`` has written.
        network: A ``peft.PeftModel``.
        state: Its weights, if it holds shards of them only.
    """
    from peft import get_peft_model_state_dict
    from peft.utils import load_peft_weights

    name = network.active_adapter
    wanted = get_peft_model_state_dict(network, state_dict=state, adapter_name=name)
    found = load_peft_weights(folder if name == "default" else f"{folder}/{name}", device="cpu")
    other = [key for key, tensor in wanted.items() if key not in found or not _same(found[key], tensor)]
    if other:
        raise ValueError(f"The folder should hold the adapter that was trained. Found other values in `{other[0]}`.")


def _same(found: Tensor, wanted: Tensor) -> bool:
    pair = found.cpu(), wanted.detach().cpu().to(found.dtype)
    return torch.equal(*pair) or torch.allclose(*pair, rtol=0, atol=0, equal_nan=True)  # after a fit that diverged


def _configs(network: Any) -> list[Any]:
    config = network.config
    return list({id(c): c for c in (config, config.get_text_config())}.values())


def _valid(generation: Any) -> Any:
    try:
        generation.validate(strict=True)
    except ValueError:
        ids = {name: value for name, value in generation.to_dict().items() if name.endswith("_token_id")}
        return type(generation)(**ids)
    return generation
