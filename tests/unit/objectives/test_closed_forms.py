"""What is known on paper of each objective."""

import math

import pytest
import torch
from _predictions import original_of, sample, with_logits
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_unlearn.objectives import (
    CEU,
    NPO,
    UNDIAL,
    WGA,
    CrossEntropy,
    GradientAscent,
    KLToReference,
    LogitMarginFlattening,
    SatImp,
    SimNPO,
    TopKKL,
    UniformLabel,
)
from lightning_unlearn.prediction import KnownLikelihood


def gradient_of(objective, student, original=None):
    return torch.autograd.grad(objective(student, original), student.logits)[0]


def exactly(actual, expected):
    assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.fixture
def student():
    return sample()


@pytest.fixture
def original(student):
    return original_of(student)


def test_cross_entropy_is_a_mean_over_tokens_not_over_answers(student):
    per_answer = student.example_nll()[student.supervised()] / torch.tensor([3, 2, 4])
    assert not math.isclose(CrossEntropy()(student).item(), per_answer.mean().item(), rel_tol=1e-3)
    exactly(CrossEntropy()(student), (per_answer * torch.tensor([3, 2, 4])).sum() / 9)


@pytest.mark.parametrize("beta", [0.1, 1.0, 7.0])
def test_npo_of_the_original_itself(student, beta):
    exactly(NPO(beta)(student, student.detach()), torch.tensor(2 / beta * math.log(2), dtype=torch.float64))


def test_npo_needs_likelihoods_only(student, original):
    known = KnownLikelihood(original.token_nll(), original.example, original.batch_size)
    exactly(NPO()(student, known), NPO()(student, original))


def test_npo_tends_to_gradient_ascent():
    student = sample((3, 3, 0, 3))
    original = original_of(student)
    ascent = 3 * gradient_of(GradientAscent(), student)  # NPO sums over an answer's three rows
    errors = [(gradient_of(NPO(beta), student, original) - ascent).norm().item() for beta in (1e-2, 1e-3, 1e-4)]
    assert errors[2] < 1e-3 * ascent.norm()
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.1)


def test_npo_lets_go_of_what_is_forgotten():
    student = sample((1,), known=-50.0)
    original = with_logits(student, torch.zeros_like(student.logits))
    assert gradient_of(NPO(beta=1.0), student, original).norm() < 1e-15
    assert gradient_of(GradientAscent(), student).norm() > 0.1


def test_npo_counts_the_whole_answer():
    """0.9 a token is 0.9 ** 100 for a hundred tokens: the sum of log-likelihoods, not their mean."""
    label_score = torch.tensor([math.log(9.0), 0.0], dtype=torch.float64)
    student = with_logits(sample((100,), classes=2), label_score.expand(100, 2))
    student.labels.zero_()
    certain = KnownLikelihood(torch.zeros(100, dtype=torch.float64), student.example, 1)
    expected = torch.tensor(2 * math.log1p(0.9**100), dtype=torch.float64)
    assert_close(NPO(beta=1.0)(student, certain), expected, rtol=1e-10, atol=0)


def test_sim_npo_is_npo_against_certainty_on_single_tokens():
    student = sample((1, 1, 0, 1))
    certain = KnownLikelihood(torch.zeros(3, dtype=torch.float64), student.example, student.batch_size)
    exactly(SimNPO(beta=2.5)(student), NPO(beta=2.5)(student, certain))


def test_sim_npo_does_not_grow_with_length():
    short, long = (with_logits(p, torch.zeros_like(p.logits)) for p in (sample((2, 2)), sample((20, 20))))
    exactly(SimNPO()(short), SimNPO()(long))
    exactly(SimNPO(beta=2.5)(short), torch.tensor(2 / 2.5 * math.log1p(5**-2.5), dtype=torch.float64))


def test_sim_npo_margin_is_open_unlearnings_delta_times_beta(student):
    beta, delta = 4.5, 0.3
    per_token = student.example_nll()[student.supervised()] / torch.tensor([3, 2, 4])
    theirs = -(2 / beta) * F.logsigmoid(beta * (per_token - delta)).mean()
    exactly(SimNPO(beta=beta, gamma=beta * delta)(student), theirs)


def test_wga_at_zero_is_gradient_ascent(student):
    exactly(WGA(beta=0.0)(student), GradientAscent()(student))
    exactly(gradient_of(WGA(beta=0.0), student), gradient_of(GradientAscent(), student))


def test_wga_gradient_is_gradient_ascents_times_a_power_of_the_likelihood(student):
    weight = torch.exp(-2.0 * student.token_nll().detach())
    exactly(gradient_of(WGA(beta=2.0), student), weight[:, None] * gradient_of(GradientAscent(), student))


def test_sat_imp_without_importance_is_wga(student):
    exactly(gradient_of(SatImp(beta1=2.0, beta2=0.0), student), gradient_of(WGA(beta=2.0), student))


def test_sat_imp_does_not_move_the_certain():
    certain = sample(known=1000.0)
    assert gradient_of(SatImp(), certain).abs().max() == 0


def test_sat_imp_keeps_its_digits_where_a_token_is_well_known():
    """At a likelihood of ``1 - 1e-9`` a weight of ``1 - exp(...)`` in float32 would be exactly zero."""
    logits = torch.tensor([[0.0, -math.log(1e9)]])
    student = with_logits(sample((1,), classes=2), logits)
    student.labels.zero_()
    expected = -1e-9 * 1e-9
    assert SatImp(beta1=5.0, beta2=1.0)(student).item() == pytest.approx(expected, rel=1e-3)


def test_ceu_gradient_takes_from_the_label_and_gives_to_the_others_in_proportion(student):
    p = student.logits.detach().softmax(-1)
    label = p.gather(1, student.labels[:, None])
    expected = -p * label / (1 - label)
    expected.scatter_(1, student.labels[:, None], label)
    exactly(gradient_of(CEU(), student), expected / 9)


def test_ceu_leaves_the_first_tokens_of_each_answer_alone(student):
    untouched = gradient_of(CEU(skip_first_tokens=2), student).abs().amax(-1) == 0
    assert untouched.tolist() == [True, True, False, True, True, True, True, False, False]


def test_ceu_of_answers_that_are_all_first_tokens_is_refused():
    """Nothing would be forgotten, and nothing would say so."""
    with pytest.raises(ValueError, match=r"Found `skip_first_tokens = 2` and at most 2 rows an example. Use `CEU\(\)`"):
        CEU(skip_first_tokens=2)(sample((2, 0, 1)))
    assert CEU(skip_first_tokens=2)(sample((2, 0, 3))).isfinite()


def test_undial_at_zero_is_distillation(student, original):
    q = original.logits.softmax(-1)
    exactly(UNDIAL(beta=0.0)(student, original), -(q * student.logits.log_softmax(-1)).sum(-1).mean())
    entropy = -(q * q.log()).sum(-1).mean()
    exactly(UNDIAL(beta=0.0)(student, original), KLToReference()(student, original) + entropy)


def test_undial_is_met_where_the_label_is_as_much_less_likely_as_asked(student):
    """Odds of the label against any other fall by ``exp(beta)``: there, the gradient is zero."""
    original = student.detach()
    met = student.logits.detach().clone()
    met[torch.arange(9), student.labels] -= 3.0
    assert gradient_of(UNDIAL(beta=3.0), with_logits(student, met.requires_grad_()), original).abs().max() < 1e-15
    assert gradient_of(UNDIAL(beta=3.0), student, original).abs().max() > 1e-3


def test_logit_margin_is_zero_where_flat_and_blind_to_labels_and_offsets(student):
    flat = with_logits(student, torch.full_like(student.logits, 3.0))
    assert LogitMarginFlattening()(flat) == 0
    lifted = with_logits(student, student.logits + torch.arange(9.0)[:, None])
    exactly(LogitMarginFlattening()(lifted), LogitMarginFlattening()(student))
    value = LogitMarginFlattening()(student)
    student.labels.zero_()
    exactly(LogitMarginFlattening()(student), value)


def test_uniform_label_is_the_mean_over_all_labels(student):
    of_label = [F.cross_entropy(student.logits, torch.full((9,), v)) for v in range(5)]
    exactly(UniformLabel()(student), torch.stack(of_label).mean())


def test_uniform_label_is_least_where_flat(student):
    flat = with_logits(student, torch.zeros(9, 5, dtype=torch.float64, requires_grad=True))
    exactly(UniformLabel()(flat), torch.tensor(math.log(5), dtype=torch.float64))
    assert gradient_of(UniformLabel(), flat).abs().max() < 1e-16
    assert UniformLabel()(student) > math.log(5)


@pytest.mark.parametrize("objective", [KLToReference(), TopKKL(k=2), TopKKL(k=99)], ids=repr)
def test_divergence_from_itself_is_zero_and_stationary(student, objective):
    assert objective(student, student.detach()).abs() < 1e-15
    assert gradient_of(objective, student, student.detach()).abs().max() < 1e-15


def test_kl_is_from_the_original_to_the_student(student, original):
    """Not the other way round: cross-entropy to the original minus its entropy."""
    log_p, log_q = (z.logits.log_softmax(-1) for z in (student, original))
    exactly(KLToReference()(student, original), (log_q.exp() * (log_q - log_p)).sum(-1).mean())


def test_top_k_kl_of_all_tokens_is_kl(student, original):
    exactly(TopKKL(k=5)(student, original), KLToReference()(student, original))
    exactly(TopKKL(k=256)(student, original), KLToReference()(student, original))


def test_top_k_kl_is_positive_and_sees_the_likeliest_tokens_only(student, original):
    value = TopKKL(k=2)(student, original)
    assert value > 0
    outside = torch.ones_like(original.logits).scatter(1, original.logits.topk(2).indices, 0.0)
    exactly(TopKKL(k=2)(with_logits(student, student.logits + 7 * outside), original), value)
