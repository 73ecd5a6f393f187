"""Tiny image-text models of several families and of this package, and a batch for each."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from lightning_unlearn import ImageCausalLM, ImageEncoding, PatchEncoder, TinyCausalLM
from lightning_unlearn.data import Ask, ImageQuestions, Images, LabelledImages, Picture, QuestionAnswer
from lightning_unlearn.data.encodings._encoded_row import EncodedRow

IMAGE, VOCABULARY = 30, 32  # the number of the image's mark, and how many tokens there are
_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SEES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}


def _llava() -> nn.Module:
    vision = hf.CLIPVisionConfig(**_SEES, projection_dim=16)
    config = hf.LlavaConfig(
        vision_config=vision,
        text_config=hf.LlamaConfig(**_TEXT),
        image_token_id=IMAGE,
        vision_feature_layer=-1,
        image_seq_length=4,
    )
    return hf.LlavaForConditionalGeneration(config)


def _paligemma() -> nn.Module:
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**_SEES, vision_use_head=False),
        text_config=hf.GemmaConfig(**_TEXT, head_dim=8),
        image_token_id=IMAGE,
        projection_dim=16,
    )
    return hf.PaliGemmaForConditionalGeneration(config)


def _idefics3() -> nn.Module:
    config = hf.Idefics3Config(
        vision_config=hf.Idefics3VisionConfig(**_SEES),
        text_config=hf.LlamaConfig(**_TEXT),
        image_token_id=IMAGE,
        scale_factor=1,
    )
    return hf.Idefics3ForConditionalGeneration(config)


def _internvl() -> nn.Module:
    sees = {**_SEES, "image_size": [8, 8], "patch_size": [4, 4]}
    config = hf.InternVLConfig(
        vision_config=hf.InternVLVisionConfig(**sees),
        text_config=hf.Qwen2Config(**_TEXT),
        image_token_id=IMAGE,
        image_seq_length=4,
        downsample_ratio=1.0,
    )
    return hf.InternVLForConditionalGeneration(config)


def _blip2() -> nn.Module:
    config = hf.Blip2Config(
        vision_config=hf.Blip2VisionConfig(**_SEES).to_dict(),
        qformer_config=hf.Blip2QFormerConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            encoder_hidden_size=16,
        ).to_dict(),
        text_config=hf.OPTConfig(**{**_TEXT, "ffn_dim": 24, "word_embed_proj_dim": 16}).to_dict(),
        num_query_tokens=4,
        image_token_index=IMAGE,
    )
    return hf.Blip2ForConditionalGeneration(config)


IMAGE_TEXT_MODELS: dict[str, Callable[[], nn.Module]] = {
    "ours": lambda: ImageCausalLM(TinyCausalLM(hidden_size=32, num_hidden_layers=2), PatchEncoder(8, 4, 3, 16)),
    "llava": _llava,
    "paligemma": _paligemma,
    "idefics3": _idefics3,
    "internvl": _internvl,
    "blip2": _blip2,
}


def image_text_model(name: str) -> nn.Module:
    """In evaluation mode, with weights large enough that every pixel matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = IMAGE_TEXT_MODELS[name]().eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def image_batch(
    name: str, *, lengths: tuple[int, ...] = (9, 6, 7), prompt: int = 3, seed: int = 0
) -> dict[str, Tensor]:
    """Rows of several lengths, padded on the right; with the image's four marks before the text, where a model has such."""
    generator = torch.Generator().manual_seed(seed)
    marks = torch.full((0 if name == "ours" else 4,), IMAGE)
    rows = [torch.cat([marks, torch.randint(3, IMAGE, (n,), generator=generator)]) for n in lengths]
    width = max(map(len, rows))
    batch = {
        "input_ids": torch.zeros(len(rows), width, dtype=torch.int64),
        "attention_mask": torch.zeros(len(rows), width, dtype=torch.int64),
        "labels": torch.full((len(rows), width), -100),
        "pixel_values": torch.randn(len(rows), 3, 8, 8, generator=generator),
    }
    for place, row in enumerate(rows):
        batch["input_ids"][place, : len(row)], batch["attention_mask"][place, : len(row)] = row, 1
        batch["labels"][place, len(marks) + prompt : len(row)] = row[len(marks) + prompt :]
    if name == "idefics3":
        batch["pixel_values"] = batch["pixel_values"][:, None]  # several images to a row
    if name == "paligemma":
        batch["token_type_ids"] = (batch["labels"] != -100).long()
    return batch


class Illustrated(ImageEncoding):
    """Every row gets an image, drawn from the words that are asked about it: any records of text become image-text ones."""

    def encode(self, row: QuestionAnswer) -> EncodedRow:
        return super().encode(replace(row, image=Picture(torch.zeros(3, 8, 8))))

    def beside(self, row: QuestionAnswer) -> dict[str, Tensor]:
        drawn = torch.Generator().manual_seed(zlib.crc32(f"{row.entity} {row.question}".encode()))
        return {"pixel_values": torch.randn(3, 8, 8, generator=drawn)}


def SeeingTiny(hidden_size: int = 32, num_hidden_layers: int = 2, seed: int = 0) -> nn.Module:
    """The language model of most tests, behind an encoder of four positions."""
    return ImageCausalLM(
        TinyCausalLM(hidden_size=hidden_size, num_hidden_layers=num_hidden_layers, seed=seed),
        PatchEncoder(8, 4, 3, 16, seed=seed),
    )


class Spots(Images):
    """Four kinds of images, of which each has its own bright corner; images of one kind differ by noise."""

    def __init__(self, count: int = 48, seed: int = 0) -> None:
        self.count, self.seed = count, seed

    def load(self) -> LabelledImages:
        labels = torch.arange(self.count) % 4
        images = 0.3 * torch.randn(self.count, 3, 8, 8, generator=torch.Generator().manual_seed(self.seed))
        for image, label in zip(images, labels.tolist(), strict=True):
            image[:, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 2
        return LabelledImages(images, labels, ["a", "b", "c", "d"])


SPOTS = [
    Ask("corner", "Which corner?", ["north west", "north east", "south west", "south east"]),
    Ask("side", "Which side?", ["up", "up", "down", "down"]),
]


def spots(*names: str, gone: bool | None = None, count: int = 48, seed: int = 0) -> ImageQuestions:
    """What is asked, of images of the corner that must go (north east), of the others, or of all."""
    where: dict[str, Any] = {"asks": list(names)}
    if gone is not None:
        where["corner"] = [text for text in SPOTS[0].answers if (text == "north east") == gone]
    return ImageQuestions(Spots(count, seed), SPOTS, where=where)
