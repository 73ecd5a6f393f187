"""The weights of a model, as files that others can load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_unlearn.models import refuse_other_adapter, refuse_other_weights, savable


def write_whole(network: Any, folder: str) -> None:
    """Write a plain model of transformers, load it back, and compare."""
    with savable(network):
        network.save_pretrained(folder)
    refuse_other_weights(folder, network)


def write_adapter(network: Any, folder: str, base: str | None) -> None:
    """Write the adapter alone, with the base's id on the hub in its settings; load it back, and compare."""
    from peft import PeftConfig

    if base is None:
        raise ValueError(
            "An adapter should name a base that others can load. Found "
            f"`{network.peft_config[network.active_adapter].base_model_name_or_path}`, which is no id on the hub, or a "
            "folder on this machine. Give `base=`, the base's id; or publish the merged model: `form='whole'`."
        )
    if network.active_adapter != "default":
        raise ValueError(
            f"The adapter should be called `default`: PEFT writes others to a folder inside. Found "
            f"`{network.active_adapter}`. Publish the merged model: `form='whole'`."
        )
    with savable(network.get_base_model()):
        network.save_pretrained(folder)
    refuse_other_adapter(folder, network)
    settings = PeftConfig.from_pretrained(folder)
    settings.base_model_name_or_path = base
    settings.save_pretrained(folder)
    (Path(folder) / "README.md").unlink(missing_ok=True)  # PEFT's own, which names the base by its path


def hub_id(name: str | None, *, given: bool = False) -> str | None:
    """The name, if it can be an id on the hub: a folder of this machine means nothing to others.

    Args:
        name: What an adapter names as its base, or somebody gave.
        given: Whether somebody gave it: then it is refused.

    Raises:
        ValueError: If it was given, and is none.

    Example:
        >>> hub_id("your-org/your-model"), hub_id("/models/ours")
        ('your-org/your-model', None)
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if name is None:
        return None
    try:
        validate_repo_id(name)
        known = given or not Path(name).exists()  # a folder may be called as an id is
    except HFValidationError:
        known = False
    if not known and given:
        raise ValueError(f"`base` should be an id on the hub, such as 'owner/name'. Found {name!r}.")
    return name if known else None
