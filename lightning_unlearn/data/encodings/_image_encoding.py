from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.data.encodings._encoded_row import EncodedRow
from lightning_unlearn.data.encodings._encoding import Encoding
from lightning_unlearn.data.encodings._padding import Batch, Collate
from lightning_unlearn.data.records import QuestionAnswer


class ImageEncoding(Encoding):
    """How questions about images become tokens and pixels: an :class:`Encoding`, and ``pixel_values`` beside it.

    Images are read when a row is asked for, and not kept. Without a ``processor`` bytes become values in [0, 1], and
    numbers of arrays and tensors stay as they are.

    Args:
        tokenizer: As in :class:`Encoding`.
        image_text: What is written before each question, for models that want marks where the image is:
            ``"<image>" * 576``, as many as the model has positions for it. Nothing for :class:`ImageCausalLM`.
        processor: A folder or a hub id with an image processor of transformers, or such a processor: one that brings
            Python code of its own has to be loaded by you.
        **kwargs: As in :class:`Encoding`.

    Raises:
        ValueError: If a row has no image; if the processor gives anything but one tensor ``[C, H, W]`` of an image.

    Example:
        >>> from lightning_unlearn.data import InMemoryRecords
        >>> seen = [{"question": "What is it?", "answer": "a square", "image": torch.ones(1, 4, 4)}]
        >>> (row,) = InMemoryRecords(seen, image="image").questions()
        >>> sorted(ImageEncoding("bundled")(row))
        ['input_ids', 'labels', 'pixel_values']
    """

    def __init__(self, tokenizer: Any, *, image_text: str = "", processor: Any = None, **kwargs: Any) -> None:
        super().__init__(tokenizer, **kwargs)
        self.image_text = image_text
        self._processor = processor

    @cached_property
    def processor(self) -> Any:
        """The image processor, loaded when it is first needed; ``None`` without one."""
        if not isinstance(self._processor, str):
            return self._processor
        from transformers import AutoImageProcessor

        return AutoImageProcessor.from_pretrained(self._processor, trust_remote_code=False)

    @override
    def encode(self, row: QuestionAnswer) -> EncodedRow:
        if row.image is None:
            raise ValueError(
                f"`ImageEncoding` should get rows with an image. Found none in {row.source}. Name the field with it, "
                "`image='image'` of the records; for text alone use `Encoding`."
            )
        return super().encode(replace(row, question=self.image_text + row.question))

    @override
    def beside(self, row: QuestionAnswer) -> Batch:
        """``pixel_values``, ``[C, H, W]``."""
        assert row.image is not None, "`encode` refuses it"
        pixels = row.image.pixels
        if self.processor is not None:
            return {"pixel_values": self._processed(pixels)}
        return {"pixel_values": pixels.float() if pixels.is_floating_point() else pixels.float() / 255}

    @override
    def collate(self) -> Collate:
        return partial(stack_images, pad=super().collate())

    def _processed(self, pixels: Tensor) -> Tensor:
        given = {} if not pixels.is_floating_point() else {"do_rescale": False}
        found = dict(self.processor(images=pixels, return_tensors="pt", **given))
        values = found.pop("pixel_values", None)
        if found or not isinstance(values, Tensor) or values.dim() != 4 or len(values) != 1:
            shape = tuple(values.shape) if isinstance(values, Tensor) else None
            raise ValueError(
                "`processor` should give `pixel_values [1, C, H, W]` of an image, and nothing else. Found "
                f"`pixel_values` of shape {shape} and {sorted(found)}. For other models give a loader of your own, with "
                "batches as the model takes them."
            )
        return values[0]


def stack_images(examples: Sequence[Batch], *, pad: Collate) -> Batch:
    """Collate encoded rows with images: the batch of their tokens, with ``pixel_values [B, C, H, W]``.

    Raises:
        ValueError: If images have several sizes.
    """
    images = [example["pixel_values"] for example in examples]
    if len(shapes := {tuple(image.shape) for image in images}) > 1:
        raise ValueError(
            f"Images of a batch should have one size. Found {sorted(shapes)}. Give `ImageEncoding(processor=...)`, or "
            "resize them."
        )
    return {**pad(examples), "pixel_values": torch.stack(images)}
