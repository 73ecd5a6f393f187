"""GGUF: our bytes, read by the package that reads files; and what Q4_K should be, one block at a time in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_unlearn import GGUF, Quantize
from lightning_unlearn.functional.q4_k import q4_k_bytes

gguf = pytest.importorskip("gguf", reason="its reader is the oracle")


def read(written: Tensor, kind: str = "Q4_K") -> Tensor:
    return torch.from_numpy(gguf.quants.dequantize(written.numpy(), gguf.GGMLQuantizationType[kind]))


def unpacked(block: bytes) -> list[float]:
    """The 256 values of a block of 144 bytes, by the description of the format, bit by bit."""
    d, d_min = np.frombuffer(block[:4], np.float16).astype(float)
    six = block[4:16]
    scales = [six[j] & 63 for j in range(4)] + [(six[8 + j] & 15) | (six[j] >> 6) << 4 for j in range(4)]
    minima = [six[4 + j] & 63 for j in range(4)] + [(six[8 + j] >> 4) | (six[4 + j] >> 6) << 4 for j in range(4)]
    out = []
    for part in range(8):
        pair = block[16 + 32 * (part // 2) : 48 + 32 * (part // 2)]
        codes = [byte >> 4 if part % 2 else byte & 15 for byte in pair]
        out += [d * scales[part] * code - d_min * minima[part] for code in codes]
    return out


def best_of_part(x: list[float]) -> tuple[float, float]:
    """Scale and minimum of 32 weights as ggml chooses them, in plain Python."""
    root = math.sqrt(sum(v * v for v in x) / 32)
    w = [root + abs(v) for v in x]
    low, high = min(0.0, *x), max(x)
    if high == low:
        return 0.0, -low

    def rounded(inverse: float) -> list[int]:
        return [max(0, min(15, round(inverse * (v - low)))) for v in x]

    def error(codes: list[int], scale: float, minimum: float) -> float:
        return sum(a * (scale * c + minimum - v) ** 2 for a, c, v in zip(w, codes, x, strict=True))

    best = ((high - low) / 15, low)
    least = error(rounded(15 / (high - low)), *best)
    for attempt in range(21):
        codes = rounded((14 + 0.1 * attempt) / (high - low))
        matrix = np.array(
            [
                [
                    sum(a * c * c for a, c in zip(w, codes, strict=True)),
                    sum(a * c for a, c in zip(w, codes, strict=True)),
                ],
                [sum(a * c for a, c in zip(w, codes, strict=True)), sum(w)],
            ]
        )
        right = np.array(
            [
                sum(a * c * v for a, c, v in zip(w, codes, x, strict=True)),
                sum(a * v for a, v in zip(w, x, strict=True)),
            ]
        )
        if np.linalg.det(matrix) <= 0:
            continue
        scale, minimum = np.linalg.solve(matrix, right)
        if minimum > 0:
            scale, minimum = right[0] / matrix[0, 0], 0.0
        if (now := error(codes, scale, minimum)) < least:
            least, best = now, (scale, minimum)
    return best[0], -best[1]


def rows(n: int = 3, blocks: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 256 * blocks, generator=generator) * torch.logspace(-2, 0, n)[:, None]


def test_the_package_and_the_description_read_our_bytes_to_the_same_values() -> None:
    written = q4_k_bytes(rows())
    assert written.shape == (3, 288)
    by_hand = [unpacked(bytes(block)) for block in written.view(-1, 144).tolist()]
    assert torch.allclose(read(written), torch.tensor(by_hand).float().view(3, 512), rtol=1e-6, atol=1e-9)


def test_scales_and_codes_are_those_that_ggml_would_choose() -> None:
    values = rows(2, 1)
    for block, found in zip(values, read(q4_k_bytes(values)), strict=True):
        fitted = [best_of_part(part.tolist()) for part in block.double().view(8, 32)]
        d, d_min = (float(np.float16(max(each) / 63)) for each in zip(*fitted, strict=True))
        expected = []
        for part, (scale, minimum) in zip(block.double().view(8, 32).tolist(), fitted, strict=True):
            step = d * min(63, round(63 * scale / max(s for s, _ in fitted)))
            offset = d_min * min(63, round(63 * minimum / max(m for _, m in fitted)))
            expected += [step * max(0, min(15, round((v + offset) / step))) - offset for v in part]
        assert torch.allclose(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-6)


def test_it_loses_less_than_other_roundings_to_four_bits() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(512, 64, bias=False)
    layer.weight.data.normal_()
    lost = {}
    before = layer.weight.detach().clone()
    attacks = {"Q4_K": GGUF(), "Q4_0": GGUF("Q4_0"), "Q8_0": GGUF("Q8_0"), "g32": Quantize(4, group_size=32)}
    for name, attack in attacks.items():
        with attack(layer):
            lost[name] = float((layer.weight.detach() - before).norm() / before.norm())
    assert lost["Q8_0"] < 0.01
    assert lost["Q4_K"] < 0.075 < lost["Q4_0"] < lost["g32"] < 0.1


@pytest.mark.parametrize("value", [0.0, 0.5, -0.5])
def test_rows_of_one_value_are_kept(value: float) -> None:
    assert torch.allclose(read(q4_k_bytes(torch.full((1, 256), value))), torch.full((1, 256), value), rtol=1e-3)


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_simple_blocks_are_those_of_the_package(kind: str) -> None:
    layer = nn.Linear(64, 5)
    layer.weight.data.copy_(rows(5, 1)[:, :64])
    written = gguf.quants.quantize(layer.weight.detach().numpy(), gguf.GGMLQuantizationType[kind])
    with GGUF(kind)(layer):  # type: ignore[arg-type]
        assert torch.equal(layer.weight, read(torch.from_numpy(written), kind))


def test_rows_that_do_not_fit_are_stored_otherwise_or_stay_and_are_said() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(96, 40), nn.Linear(40, 96))
    before = net[0].weight.detach().clone()
    written = gguf.quants.quantize(before.numpy(), gguf.GGMLQuantizationType.Q5_0)
    with GGUF("Q4_K")(net) as points:
        assert list(points) == [4.5]
        assert torch.equal(net[0].weight, read(torch.from_numpy(written), "Q5_0"))
    assert GGUF().share_reached(net) == 0.5
    with pytest.raises(ValueError, match="should hold weights to round.*1 with rows that are no multiple of 32"):
        GGUF()(net[1]).__enter__()


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_unlearn.models._extras.find_package", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"needs the package `gguf`: `pip install lightning-unlearn\[gguf\]`"):
        GGUF()
