"""The class behind :func:`ImageCausalLM`: importing it imports the modelling code of transformers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from typing_extensions import override

from lightning_unlearn.models.vision._patch_encoder import PatchEncoder
from lightning_unlearn.prediction import IGNORED


class ImageTextConfig(PretrainedConfig):  # type: ignore[misc]  # transformers tells no types
    """Settings of the language model, and of the encoder.

    Args:
        text_config: Of the language model, or a mapping of it.
        encoder: Of :class:`PatchEncoder`, by name.
    """

    model_type = "lightning_unlearn_image_text"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig}

    def __init__(self, text_config: Any = None, encoder: dict[str, int] | None = None, **kwargs: Any) -> None:
        if isinstance(text_config, dict):
            text_config = AutoConfig.for_model(**text_config)
        self.text_config = text_config
        self.encoder = encoder or {}
        super().__init__(**kwargs)


class ImageTextModel(PreTrainedModel):  # type: ignore[misc]
    """Positions of an image before the tokens of a language model; see :func:`ImageCausalLM`.

    Args:
        config: Of both parts.
        language_model: Made from ``config`` if it is not given.
        encoder: The same.
    """

    config_class = ImageTextConfig
    main_input_name = "input_ids"
    _supports_sdpa = _supports_flash_attn = _supports_attention_backend = True

    def __init__(
        self, config: ImageTextConfig, language_model: Any = None, encoder: PatchEncoder | None = None
    ) -> None:
        super().__init__(config)
        text = config.text_config
        self.language_model = language_model or AutoModelForCausalLM.from_config(text, trust_remote_code=False)
        self.encoder = encoder or PatchEncoder(**config.encoder)
        embedding: Any = self.language_model.get_input_embeddings()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.encoder.settings["seed"])
            self.projector = nn.Linear(self.encoder.settings["width"], embedding.weight.shape[1])
        self.post_init()

    @override
    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: transformers would draw anew what the parts have been given, or have drawn themselves."""

    @override
    def get_input_embeddings(self) -> Any:
        return self.language_model.get_input_embeddings()

    @override
    def get_output_embeddings(self) -> Any:
        return self.language_model.get_output_embeddings()

    @override
    def set_input_embeddings(self, value: Any) -> None:
        self.language_model.set_input_embeddings(value)

    @override
    def set_output_embeddings(self, value: Any) -> None:
        self.language_model.set_output_embeddings(value)

    @override
    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """What the language model gives, the image's positions included."""
        options = {"use_cache": use_cache, **kwargs}
        if pixel_values is None:
            plain = {"attention_mask": attention_mask, "position_ids": position_ids, "labels": labels}
            return self.language_model(input_ids=input_ids, **plain, **options)
        states = self._states(input_ids, pixel_values)
        before = self.encoder.positions
        if position_ids is not None:
            first = torch.arange(before, device=position_ids.device).expand(len(position_ids), -1)
            position_ids = torch.cat([first, position_ids + before], dim=1)
        if labels is not None:
            labels = F.pad(labels, (before, 0), value=IGNORED)
        mask = self._mask(input_ids, attention_mask)
        return self.language_model(
            inputs_embeds=states, attention_mask=mask, position_ids=position_ids, labels=labels, **options
        )

    def generate(
        self, input_ids: Tensor, pixel_values: Tensor | None = None, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> Any:
        """The tokens that were given, and those that the language model says after them, as it decodes by itself."""
        if pixel_values is None:
            return self.language_model.generate(input_ids, attention_mask=attention_mask, **kwargs)
        # Of embeddings alone, transformers gives what is new.
        states, mask = self._states(input_ids, pixel_values), self._mask(input_ids, attention_mask)
        return torch.cat(
            [input_ids, self.language_model.generate(inputs_embeds=states, attention_mask=mask, **kwargs)], dim=1
        )

    def _states(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        """Embeddings of the image's positions, then of the tokens, ``[B, P + T, D]``."""
        tokens = self.get_input_embeddings()(input_ids)
        seen = self.projector(self.encoder(pixel_values.to(self.encoder.places.dtype)))
        return torch.cat([seen.to(tokens.dtype), tokens], dim=1)

    def _mask(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return F.pad(mask, (self.encoder.positions, 0), value=1)


def config_of(language_model: Any, encoder: PatchEncoder) -> ImageTextConfig:
    """Settings of both parts, with the length of rows that leaves room for an image."""
    text = language_model.config
    # Said again: a configuration that is put into another one forgets how it attends.
    same = {"tie_word_embeddings": text.tie_word_embeddings, "attn_implementation": text._attn_implementation}
    config = ImageTextConfig(text, encoder.settings, **same)
    if isinstance(context := getattr(text, "max_position_embeddings", None), int):
        config.max_position_embeddings = context - encoder.positions
    return config
