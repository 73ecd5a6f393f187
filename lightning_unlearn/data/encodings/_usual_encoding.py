from __future__ import annotations

from lightning_unlearn.data.encodings._encoding import Encoding
from lightning_unlearn.models import load_tokenizer


def usual_encoding(tokenizer: str) -> Encoding:
    """By the tokenizer's chat template; as plain text, where it has none, as those of base models.

    Args:
        tokenizer: A folder or a hub id.

    Raises:
        OSError: If there is no tokenizer.

    Example:
        >>> usual_encoding("bundled").template
        'chat'
    """
    has_template = getattr(load_tokenizer(tokenizer), "chat_template", None) is not None
    return Encoding(tokenizer, template="chat" if has_template else "plain")
