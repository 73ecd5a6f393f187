"""Rounding weights: what a low-bit deployment computes with."""

import math
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from lightning_unlearn.functional.quantization import (
    codebook_codes,
    flipped_fraction,
    integer_codes,
    round_to_codebook,
    round_to_nearest,
)

INTEGER = {
    f"int{bits}-g{group}": partial(round_to_nearest, bits=bits, group_size=group)
    for bits in (2, 4, 8)
    for group in (None, 16, 48)
}
CODEBOOK = {
    f"{name}-b{size}": partial(round_to_codebook, codebook=name, block_size=size)
    for name in ("nf4", "fp4")
    for size in (16, 64)
}
EVERY = INTEGER | CODEBOOK
INTEGER_CODES = {
    f"int{bits}": (partial(integer_codes, bits=bits), partial(round_to_nearest, bits=bits)) for bits in (2, 4, 8)
}
CODEBOOK_CODES = {
    name: (partial(codebook_codes, codebook=name), partial(round_to_codebook, codebook=name)) for name in ("nf4", "fp4")
}

every = pytest.mark.parametrize("quantise", EVERY.values(), ids=EVERY)
every_codes = pytest.mark.parametrize(
    ("codes", "quantise"), (INTEGER_CODES | CODEBOOK_CODES).values(), ids=INTEGER_CODES | CODEBOOK_CODES
)


@pytest.fixture
def weight():
    # 80 inputs: neither 48 nor 64 divides them.
    return torch.randn(6, 80, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 6)[:, None]


def nearest_by_hand(row, bits, group_size):
    """One number at a time, in double precision."""
    rounded = []
    for start in range(0, len(row), group_size):
        group = row[start : start + group_size]
        step = max(abs(w) for w in group) / (2 ** (bits - 1) - 1)
        rounded += [step * math.copysign(math.floor(abs(w) / step + 0.5), w) if step else 0.0 for w in group]
    return rounded


def codebook_by_hand(flat, levels, block_size):
    rounded = []
    for start in range(0, len(flat), block_size):
        block = flat[start : start + block_size]
        top = max(abs(w) for w in block)
        rounded += [top * min(levels, key=lambda level, w=w: abs(level * top - w)) for w in block]
    return rounded


@pytest.mark.parametrize("group_size", [None, 16, 32, 48, 64, 128, 500])
@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_integers_equal_a_loop_in_double_precision(weight, bits, group_size):
    expected = [nearest_by_hand(row, bits, group_size or len(row)) for row in weight.tolist()]
    assert_close(round_to_nearest(weight, bits=bits, group_size=group_size), torch.tensor(expected))


@pytest.mark.parametrize("bits", [2, 4, 6])
def test_one_scale_for_all_is_that_of_one_long_row(weight, bits):
    expected = torch.tensor(nearest_by_hand(weight.flatten().tolist(), bits, weight.numel())).view_as(weight)
    assert_close(round_to_nearest(weight, bits=bits, group_size="tensor"), expected)
    assert len(integer_codes(weight, bits=bits, group_size="tensor").unique()) <= 2**bits - 1


@pytest.mark.parametrize("block_size", [16, 64])
def test_fp4_equals_a_search_over_its_bit_patterns(weight, block_size):
    # Two exponent bits and a mantissa bit as bitsandbytes lays them out: 0, 2, 3, 4, 6, 8, 12 and one tiny value.
    magnitudes = [0, 0.0625, 2, 3, 4, 6, 8, 12]
    levels = [sign * m / 12 for m in magnitudes for sign in (1, -1)]
    expected = torch.tensor(codebook_by_hand(weight.flatten().tolist(), levels, block_size)).view_as(weight)
    assert_close(round_to_codebook(weight, "fp4", block_size=block_size), expected)


def test_nf4_levels_are_normal_quantiles():
    stats = pytest.importorskip("scipy.stats", reason="quantiles of the normal come from scipy")
    offset = 0.9677083  # what QLoRA takes for the outermost probability
    above = stats.norm.ppf([offset + (0.5 - offset) * i / 8 for i in range(8)])
    below = -stats.norm.ppf([offset + (0.5 - offset) * i / 7 for i in range(7)])
    expected = sorted([0.0, *(above / above[0]), *(below / above[0])])
    levels = round_to_codebook(torch.linspace(-1, 1, 4001), "nf4", block_size=4001).unique()
    assert_close(levels, torch.tensor(expected, dtype=torch.float32), atol=2e-7, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(6, 80), (64, 64), (3, 5), (7,), (8, 4, 3, 3)], ids=str)
@pytest.mark.parametrize("block_size", [32, 64])
@pytest.mark.parametrize("codebook", ["nf4", "fp4"])
def test_codebooks_equal_bitsandbytes_bit_for_bit(codebook, block_size, shape, dtype):
    bnb = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is the oracle")
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    # Flat, for the layout is flat; bitsandbytes 0.50 on a CPU takes wrong scales for rows that no block divides.
    packed, state = bnb.quantize_4bit(weight.flatten(), blocksize=block_size, quant_type=codebook)
    ours = round_to_codebook(weight, codebook, block_size=block_size)
    assert torch.equal(ours.flatten(), bnb.dequantize_4bit(packed, state).flatten())


@every
def test_rounding_twice_is_rounding_once(quantise, weight):
    once = quantise(weight)
    assert torch.equal(quantise(once), once)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every
def test_half_precision_is_rounded_in_single(quantise, weight, dtype):
    once = quantise(weight.to(dtype))
    assert once.dtype == dtype
    assert torch.equal(once, quantise(weight.to(dtype).float()).to(dtype))
    assert torch.equal(quantise(once), once)


@pytest.mark.parametrize("quantise", [*INTEGER.values(), CODEBOOK["fp4-b64"]], ids=[*INTEGER, "fp4-b64"])
def test_mirrored_weights_have_mirrored_roundings(quantise, weight):
    assert torch.equal(quantise(-weight), -quantise(weight))


@every
def test_scaling_passes_through(quantise, weight):
    assert torch.equal(quantise(weight * 2**-10), quantise(weight) * 2**-10)


@every
def test_the_largest_weight_is_kept(quantise):
    weight = torch.tensor([0.1, 0.2, 0.7, -0.3])
    assert quantise(weight)[2] == weight[2]


@every
def test_zeros_stay_zeros(quantise, weight):
    weight[2] = 0
    rounded = quantise(weight)
    assert torch.equal(rounded[2], torch.zeros(80))
    assert rounded.isfinite().all()


@every
def test_strides_do_not_matter(quantise, weight):
    assert torch.equal(quantise(weight.t().contiguous().t()), quantise(weight))


@every
def test_the_argument_is_left_alone(quantise, weight):
    before = weight.clone()
    quantise(weight)
    assert torch.equal(weight, before)


@pytest.mark.parametrize("shape", [(0, 80), (4, 0), (0,), (0, 3, 3, 3)], ids=str)
@every
def test_nothing_rounds_to_nothing(quantise, shape):
    assert quantise(torch.empty(shape)).shape == shape


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16])
def test_the_error_is_at_most_half_a_step(weight, bits):
    step = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    error = (round_to_nearest(weight, bits=bits) - weight).abs()
    assert (error <= step * (0.5 + 2**bits * 2**-23)).all()


def test_sixteen_bits_are_nearly_the_identity(weight):
    error = (round_to_nearest(weight, bits=16) - weight).abs().amax(1) / weight.abs().amax(1)
    assert error.max() < 1.6e-5  # half of 1 / 32767, and the rounding of float32


def test_finer_groups_round_better(weight):
    error = [(round_to_nearest(weight, bits=4, group_size=size) - weight).norm() for size in (None, 40, 8, 2)]
    assert error == sorted(error, reverse=True)


def test_double_precision_stays_double():
    weight = torch.tensor([[1.0, 1 / 3]], dtype=torch.float64)
    assert round_to_nearest(weight, bits=4).tolist() == [[1.0, 2 / 7]]


def test_convolutions_have_a_scale_per_output_channel():
    weight = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = round_to_nearest(weight.flatten(1), bits=4).view_as(weight)
    assert torch.equal(round_to_nearest(weight, bits=4), expected)


@every_codes
def test_one_code_one_level(codes, quantise):
    # Within one block the pairs (code, level) are a bijection that keeps the order.
    weight = torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
    pairs = sorted(set(zip(codes(weight).flatten().tolist(), quantise(weight).flatten().tolist(), strict=True)))
    assert len(pairs) == len(set(dict(pairs))) == quantise(weight).unique().numel()
    assert [level for _, level in pairs] == sorted(level for _, level in pairs)


@every_codes
def test_nothing_flips_without_a_change(codes, quantise, weight):
    assert flipped_fraction(weight, weight, codes=codes) == 0
    assert flipped_fraction(weight, quantise(weight), codes=codes) == 0
    assert flipped_fraction(weight[:0], weight[:0], codes=codes) == 0


@every_codes
def test_the_larger_the_change_the_more_flips(codes, quantise):
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    flips = [flipped_fraction(weight, weight + size * noise, codes=codes) for size in (1e-5, 1e-3, 1e-1, 1)]
    assert flips == sorted(flips)
    assert flips[0] < 2e-3
    assert flips[-1] > 0.2


def test_flips_are_counted():
    # Steps of 1 / 7: 0.5 has code 4 (3.5 rounds to even), 0.4 has code 3.
    before, after = torch.tensor([[0.5, 0.5, 1.0, 0.0]]), torch.tensor([[0.4, 0.51, 1.0, 0.0]])
    assert flipped_fraction(before, after, codes=partial(integer_codes, bits=4)) == 0.25


@pytest.mark.parametrize("bits", [-1, 1, 17])
def test_bits_out_of_range_are_refused(weight, bits):
    with pytest.raises(ValueError, match=f"`bits` should be between 2 and 16. Found `bits = {bits}`"):
        round_to_nearest(weight, bits=bits)


def test_other_bad_input_is_refused(weight):
    with pytest.raises(ValueError, match=r"`group_size` should be positive, or None.*Found 0"):
        round_to_nearest(weight, bits=4, group_size=0)
    with pytest.raises(ValueError, match=r"`block_size` should be positive. Found `block_size = 0`"):
        round_to_codebook(weight, "nf4", block_size=0)
    with pytest.raises(ValueError, match=r"`codebook` should be one of 'nf4', 'fp4'. Found `codebook = 'af4'`"):
        round_to_codebook(weight, "af4")
    with pytest.raises(ValueError, match=r"of one shape. Found shapes \(6, 80\) and \(80,\)"):
        flipped_fraction(weight, weight[0], codes=partial(integer_codes, bits=4))
