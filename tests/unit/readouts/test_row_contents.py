"""Rows with the same text and other images or sounds have other keys, whatever the shape in which these come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_unlearn import CausalLMReadout, PackedCausalLMReadout

TEXT: dict[str, Tensor] = {
    "input_ids": torch.tensor([[5, 9, 9, 7], [5, 9, 9, 7], [5, 9, 9, 8]]),
    "attention_mask": torch.ones(3, 4, dtype=torch.int64),
    "labels": torch.tensor([[-100, -100, 9, 7], [-100, -100, 9, 7], [-100, -100, 9, 8]]),
}
Images = list[Tensor]
"""One of each row, ``[3, 4, 4]``."""


def images(seed: int = 0) -> Images:
    return list(torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(seed)))


def patches(image: Tensor) -> Tensor:
    return image.reshape(4, 12)


PER_ROW: dict[str, Callable[[Images], dict[str, Any]]] = {
    "one image to each row": lambda given: {"pixel_values": torch.stack(given)},
    "several images to each row": lambda given: {"pixel_values": torch.stack([torch.stack([i, -i]) for i in given])},
    "a list with an entry for each row": lambda given: {"pixel_values": [i[None] for i in given]},
    "lists inside of lists": lambda given: {"pixel_values": [[i, i + 1] for i in given]},
    "mappings for each row": lambda given: {"sound": [{"wave": i, "rate": 16} for i in given]},
    "numbers in lists of lists": lambda given: {
        "boxes": [i.flatten()[:4].tolist() and [i[0, 0].tolist()] for i in given]
    },
}
OF_ALL_ROWS: dict[str, Callable[[Images], dict[str, Any]]] = {
    "patches of all images, with a grid": lambda given: {
        "pixel_values": torch.cat([patches(i) for i in given]),
        "image_grid_thw": torch.tensor([[1, 2, 2]] * len(given)),
    },
    "two images to each row, one after the other": lambda given: {
        "pixel_values": torch.stack([x for i in given for x in (i, -i)])
    },
    "crops of one list": lambda given: {"pixel_values": [x for i in given for x in (i, -i)], "image_sizes": None},
}
EVERY = {**PER_ROW, **OF_ALL_ROWS}


@pytest.fixture(params=[CausalLMReadout, PackedCausalLMReadout])
def readout(request: pytest.FixtureRequest) -> CausalLMReadout:
    made: CausalLMReadout = request.param()
    return made


@pytest.mark.parametrize("form", EVERY)
def test_the_same_text_with_another_image_has_another_key(readout: CausalLMReadout, form: str) -> None:
    first, second, third = images()
    keys = readout.keys({**TEXT, **EVERY[form]([first, second, third])})
    others = readout.keys({**TEXT, **EVERY[form]([second, first, third])})
    assert len({*keys[:2], *others[:2]}) >= 2
    assert keys[0] != keys[1]
    assert keys[0] != others[0]
    assert keys[1] != others[1]
    assert readout.keys({**TEXT, **EVERY[form]([first, second, third])}) == keys


@pytest.mark.parametrize("form", PER_ROW)
def test_what_is_a_rows_own_goes_with_it_into_any_batch(readout: CausalLMReadout, form: str) -> None:
    given = images()
    keys = readout.keys({**TEXT, **PER_ROW[form](given)})
    order = [2, 0]
    text = {name: value[order] for name, value in TEXT.items()}
    assert readout.keys({**text, **PER_ROW[form]([given[row] for row in order])}) == [keys[row] for row in order]
    alone = {name: value[1:2] for name, value in TEXT.items()}
    assert readout.keys({**alone, **PER_ROW[form]([given[1]])}) == keys[1:2]


@pytest.mark.parametrize("form", OF_ALL_ROWS)
def test_what_cannot_be_taken_apart_is_never_shared(readout: CausalLMReadout, form: str) -> None:
    """The same row with the same image beside another one may be two things: its image may be the other's."""
    first, second, third = images()
    keys = readout.keys({**TEXT, **OF_ALL_ROWS[form]([first, second, third])})
    others = readout.keys({**TEXT, **OF_ALL_ROWS[form]([first, second, -third])})
    assert not set(keys) & set(others)


@pytest.mark.parametrize("form", OF_ALL_ROWS)
def test_a_row_alone_has_everything_and_always_the_same_key(readout: CausalLMReadout, form: str) -> None:
    alone = {name: value[:1] for name, value in TEXT.items()}
    first, second, _ = images()
    assert readout.keys({**alone, **OF_ALL_ROWS[form]([first])}) == readout.keys(
        {**alone, **OF_ALL_ROWS[form]([first.clone()])}
    )
    assert readout.keys({**alone, **OF_ALL_ROWS[form]([first])}) != readout.keys(
        {**alone, **OF_ALL_ROWS[form]([second])}
    )


def test_as_many_images_as_rows_with_a_grid_are_not_one_for_each(readout: CausalLMReadout) -> None:
    """Two images of the first row, none of the second: one patch each, so that everything has as many parts as rows."""
    text = {name: value[:2] for name, value in TEXT.items()}
    grid = torch.tensor([[1, 1, 1], [1, 1, 1]])
    a, b, c = torch.randn(3, 12, generator=torch.Generator().manual_seed(1))
    keys = [
        readout.keys({**text, "pixel_values": torch.stack([a, second]), "image_grid_thw": grid}) for second in (b, c)
    ]
    assert keys[0][0] != keys[1][0]


def test_numbers_and_names_of_rows_are_no_inputs(readout: CausalLMReadout) -> None:
    keys = readout.keys(TEXT)
    beside = {"row": torch.arange(3), "entity": ["Ann", "Bo", None], "weight": 0.5, "extra": None}
    assert readout.keys({**TEXT, **beside}) == keys


def test_a_batch_beside_is_no_input(readout: CausalLMReadout) -> None:
    assert readout.keys({**TEXT, "companion": {name: value + 1 for name, value in TEXT.items()}}) == readout.keys(TEXT)


def test_the_name_of_an_input_counts(readout: CausalLMReadout) -> None:
    value = torch.stack(images())
    assert readout.keys({**TEXT, "pixel_values": value}) != readout.keys({**TEXT, "input_features": value})


def test_an_input_that_is_none_is_no_input(readout: CausalLMReadout) -> None:
    assert readout.keys({**TEXT, "pixel_values": None}) == readout.keys(TEXT)


def test_values_for_each_token_are_without_padding(readout: CausalLMReadout) -> None:
    kinds = torch.tensor([[0, 1, 1, 0]] * 3)
    keys = readout.keys({**TEXT, "token_type_ids": kinds})
    wide = {name: torch.nn.functional.pad(v, (2, 0), value=-100 if name == "labels" else 0) for name, v in TEXT.items()}
    assert readout.keys({**wide, "token_type_ids": torch.nn.functional.pad(kinds, (2, 0))}) == keys
