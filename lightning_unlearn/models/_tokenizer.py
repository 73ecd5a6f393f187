from typing import Any

from lightning_unlearn.bundled import bundled_path
from lightning_unlearn.models._pretrained import pretrained_tokenizer


def load_tokenizer(name: str) -> Any:
    """Load a tokenizer by the same name as :func:`PretrainedCausalLM`; ``"bundled"`` is the small one of the package.

    Returns:
        A ``transformers.PreTrainedTokenizerBase``.
    """
    return pretrained_tokenizer(str(bundled_path()) if name == "bundled" else name)
