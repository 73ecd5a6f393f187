"""A classifier's batch, in whatever container, becomes one row per supervised example, or one clear error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import ViTConfig, ViTForImageClassification

from lightning_unlearn import ClassificationReadout, CrossEntropy
from lightning_unlearn.readouts import content_key

X = torch.arange(12.0).reshape(4, 3)
Y = torch.tensor([0, 1, -100, 1])
BATCHES: dict[str, Any] = {
    "tuple": ((X, Y), {}),
    "list": ([X, Y], {}),
    "dict": ({"image": X, "label": Y, "id": list("abcd")}, {"inputs": "image", "labels": "label"}),
    "named": ({"image": X, "label": Y}, {}),
    "swapped": ((Y, X), {"inputs": 1, "labels": 0}),
    "small_integers": ((X, Y.to(torch.int16)), {}),
}


@pytest.fixture
def network() -> nn.Module:
    return nn.Linear(3, 2)


@pytest.mark.parametrize("name", BATCHES)
def test_reads_supervised_examples(name: str, network: nn.Module) -> None:
    batch, options = BATCHES[name]
    prediction = ClassificationReadout(**options)(network, batch)
    assert_close(prediction.logits, network(X)[[0, 1, 3]])
    assert prediction.labels.dtype == torch.int64
    assert prediction.labels.tolist() == [0, 1, 1]
    assert prediction.example.tolist() == [0, 1, 3]
    assert prediction.batch_size == 4
    assert prediction.supervised().tolist() == [True, True, False, True]


def test_nothing_supervised_gives_a_zero_that_runs_backward(network: nn.Module) -> None:
    loss = CrossEntropy()(ClassificationReadout()(network, (X, torch.full((4,), -100))))
    loss.backward()
    assert loss.item() == 0
    assert not network.weight.grad.any()


def test_hugging_face_classifiers_are_read_by_their_logits() -> None:
    vit = ViTForImageClassification(
        ViTConfig(
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            image_size=4,
            patch_size=2,
            num_labels=3,
        )
    )
    images, labels = torch.randn(2, 3, 4, 4), torch.tensor([2, 0])
    assert_close(ClassificationReadout()(vit, (images, labels)).logits, vit(images).logits)


def test_keys_are_of_the_content_alone() -> None:
    readout = ClassificationReadout()
    keys = readout.keys((X, Y))
    assert len(set(keys)) == 4
    assert readout.keys((X.flip(0), Y.flip(0))) == keys[::-1]
    assert ClassificationReadout("x", "y").keys({"x": X, "y": Y}) == keys
    assert set(readout.keys((X, Y + 1))).isdisjoint(keys)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.uint8, torch.int64])
def test_content_key_tells_values_shapes_and_types_apart(dtype: torch.dtype) -> None:
    tensors = [torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1, 1, 0]), torch.tensor([[0, 1], [0, 1]]), torch.tensor(1)]
    keys = [content_key(t.to(dtype)) for t in tensors]
    assert len(set(keys)) == 4
    assert content_key(tensors[2].to(dtype).T.contiguous().T) == keys[2]  # memory layout is no content
    assert content_key(tensors[0].to(torch.float64)) not in keys


def test_content_key_is_the_same_everywhere() -> None:
    """It is written into checkpoints."""
    assert content_key(torch.tensor([1, 2]), torch.tensor(0.5)) == "f2a35554cf4397e3"


@pytest.mark.parametrize(
    ("batch", "options", "wanted"),
    [
        (
            {"image": X, "kind": Y},
            {},
            r"two parts, inputs and labels, or .* Found a mapping with keys \['image', 'kind'\]",
        ),
        ([X], {}, "two parts, inputs and labels, or .* Found a list of 1"),
        ((X, Y, Y), {}, "two parts, inputs and labels, or .* Found a tuple of 3"),
        (3.0, {}, "two parts, inputs and labels, or .* Found a float"),
        ([X], {"inputs": 0, "labels": 1}, "inputs at `0` and labels at `1`. Found a list of 1"),
        ({"x": X, "y": Y}, {"labels": "z"}, r"labels at `'z'`. Found a mapping with keys"),
    ],
)
def test_another_form_of_batch_gets_one_clear_error(
    batch: Any, options: dict[str, Any], wanted: str, network: nn.Module
) -> None:
    with pytest.raises(ValueError, match=rf"{wanted}.*ClassificationReadout\(inputs=.*TrainingStepReadout\(\)"):
        ClassificationReadout(**options)(network, batch)


class Masked(nn.Module):
    """Takes its parts by name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.layer(x * mask)


class NeedsLabels(Masked):
    def forward(self, x: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        assert labels.dim() == 1
        return self.layer(x * mask)


class AnyName(Masked):
    def forward(self, **parts: Tensor) -> Tensor:
        assert set(parts) == {"x", "mask"}
        return self.layer(parts["x"] * parts["mask"])


@pytest.mark.parametrize("kind", [Masked, NeedsLabels, AnyName])
def test_named_parts_are_passed_by_name_and_whole(kind: type[Masked]) -> None:
    network, mask = kind(), (X > 5).float()
    prediction = ClassificationReadout()(network, {"labels": Y, "mask": mask, "x": X})
    assert_close(prediction.logits, network.layer(X * mask)[[0, 1, 3]])


def test_a_part_that_the_network_does_not_take_is_not_dropped() -> None:
    with pytest.raises(
        ValueError, match=r"take all parts of a batch by name: \['x', 'mask', 'weight'\]. Found `forward\("
    ):
        ClassificationReadout()(Masked(), {"x": X, "mask": X, "weight": X, "labels": Y})


def test_every_named_part_is_part_of_the_key() -> None:
    batch = {"x": X, "mask": X, "labels": Y, "scale": torch.tensor(2.0)}
    changed = {**batch, "mask": X + 1}
    readout = ClassificationReadout()
    assert set(readout.keys(batch)).isdisjoint(readout.keys(changed))
    assert readout.with_answers(batch, [torch.tensor([1])] * 4)["labels"].tolist() == [1, 1, 1, 1]


def text(left: int = 0, right: int = 0) -> dict[str, Tensor]:
    """Two rows of text, of three tokens and of two, with more padding on a side."""
    parts = {
        "input_ids": torch.tensor([[5, 6, 7], [8, 9, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
        "bbox": torch.arange(1, 25).reshape(2, 3, 4),
    }
    wide = {n: nn.functional.pad(p, (0, 0) * (p.dim() - 2) + (left, right)) for n, p in parts.items()}
    return {**wide, "pixels": torch.arange(1.0, 15.0).reshape(2, 7), "labels": torch.tensor([0, 1])}


@pytest.mark.parametrize(("left", "right"), [(0, 3), (2, 0), (1, 1)])
def test_keys_of_text_do_not_depend_on_padding_and_do_on_all_else(left: int, right: int) -> None:
    readout, keys = ClassificationReadout(), ClassificationReadout().keys(text())
    assert len(set(keys)) == 2
    assert readout.keys(text(left, right)) == keys
    for name, place in (("input_ids", (0, 1)), ("attention_mask", (0, 1)), ("bbox", (0, 1, 2)), ("pixels", (0, 1))):
        changed = text(right=right)
        changed[name][place] = 0
        assert [a == b for a, b in zip(readout.keys(changed), keys, strict=True)] == [False, True]


def test_where_one_part_alone_is_run_its_padding_is_content() -> None:
    readout = ClassificationReadout(inputs="input_ids")
    assert readout.keys(text()) != readout.keys(text(right=1))


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (torch.zeros(4), r"torch.float32 of shape \(4,\)"),
        (torch.zeros(4, 2, dtype=torch.int64), r"torch.int64 of shape \(4, 2\)"),
        ([0, 1, 0, 1], "<class 'list'>"),
    ],
)
def test_another_form_of_labels_gets_one_clear_error(labels: Any, found: str, network: nn.Module) -> None:
    with pytest.raises(ValueError, match=rf"class ids, int64 of shape \[B\]\. Found {found}"):
        ClassificationReadout()(network, (X, labels))


@pytest.mark.parametrize(
    ("network", "found"),
    [(nn.Flatten(0), r"shape \(12,\)"), (nn.LSTM(3, 2), "a tuple"), (nn.Unflatten(1, (3, 1)), r"shape \(4, 3, 1\)")],
)
def test_another_form_of_logits_gets_one_clear_error(network: nn.Module, found: str) -> None:
    with pytest.raises(
        ValueError, match=rf"logits of shape \[B, V\], B = 4, or an object with `logits`\. Found {found}"
    ):
        ClassificationReadout()(network, (X, Y))
