from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lightning_unlearn.bundled import bundled_path


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer by the same name as :func:`PretrainedCausalLM`; ``"bundled"`` is the small one of the package."""
    if name == "bundled":
        return AutoTokenizer.from_pretrained(str(bundled_path()), trust_remote_code=False)
    from lightning_unlearn.models._pretrained import pretrained_tokenizer

    return pretrained_tokenizer(name)
