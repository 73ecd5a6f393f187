"""What each objective should be, written as loops over Python numbers, and its derivative, without autograd.

An oracle is a function of complex numbers. Moving one score by ``1e-30 i`` and looking at the imaginary part of the result
gives the derivative to the last digit (complex-step differentiation); ``z.real`` is a constant, as ``detach`` is.
"""

from __future__ import annotations

from cmath import exp, log
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lightning_unlearn.prediction import Prediction

STEP = 1e-30


@dataclass
class Said:
    """A :class:`Prediction`, and the original model's, as lists of Python numbers."""

    scores: list[list[complex]]
    labels: list[int]
    example: list[int]
    batch_size: int
    original: list[list[float]]

    @property
    def answers(self) -> list[list[int]]:
        """Rows of each example that has some."""
        rows = [[n for n, e in enumerate(self.example) if e == number] for number in range(self.batch_size)]
        return [r for r in rows if r]

    def log_p(self, n: int) -> complex:
        return log_softmax(self.scores[n])[self.labels[n]]

    def log_original(self, n: int) -> complex:
        return log_softmax(self.original[n])[self.labels[n]]


Oracle = Callable[[Said], complex]


def value_and_gradient(oracle: Oracle, student: Prediction, original: Prediction) -> tuple[torch.Tensor, torch.Tensor]:
    def said(scores: list[list[complex]]) -> Said:
        return Said(
            scores, student.labels.tolist(), student.example.tolist(), student.batch_size, original.logits.tolist()
        )

    scores = student.logits.tolist()
    gradient = torch.zeros(student.logits.shape, dtype=torch.float64)
    for n, row in enumerate(scores):
        for v, score in enumerate(row):
            row[v] = score + STEP * 1j
            gradient[n, v] = complex(oracle(said(scores))).imag / STEP
            row[v] = score
    return torch.tensor(complex(oracle(said(scores))).real, dtype=torch.float64), gradient


def log_softmax(row):
    top = max(z.real for z in row)
    total = 0
    for z in row:
        total += exp(z - top)
    return [z - top - log(total) for z in row]


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def positive_part(z):
    return z if z.real > 0 else 0 * z


def cross_entropy(said):
    return mean(-said.log_p(n) for n in range(len(said.labels)))


def gradient_ascent(said):
    return -cross_entropy(said)


def bounded(said, *, objective, bound):
    return positive_part(objective(said) + bound)


def npo(said, *, beta):
    losses = []
    for rows in said.answers:
        ratio = 1
        for n in rows:
            ratio *= exp(said.log_p(n)) / exp(said.log_original(n))
        losses.append(2 / beta * log(1 + ratio**beta))
    return mean(losses)


def span_pair(said, *, beta, kappa):
    """The second half of the answers preferred to the first, each gain shared out by a power of its length."""
    half, losses = said.batch_size // 2, []
    rows = [[n for n, e in enumerate(said.example) if e == number] for number in range(said.batch_size)]

    def gain(answer):
        return sum(said.log_p(n) - said.log_original(n) for n in answer) / max(len(answer), 1) ** kappa

    for dispreferred, preferred in zip(rows[:half], rows[half:], strict=True):
        if preferred or dispreferred:
            sigmoid = 1 / (1 + exp(beta * (gain(dispreferred) - gain(preferred))))
            losses.append(-2 / beta * log(sigmoid))
    return mean(losses)


def sim_npo(said, *, beta, gamma):
    losses = []
    for rows in said.answers:
        margin = -beta / len(rows) * sum(said.log_p(n) for n in rows) - gamma
        losses.append(-2 / beta * log(1 / (1 + exp(-margin))))
    return mean(losses)


def weighted_ascent(said, *, beta1, beta2):
    terms = []
    for n in range(len(said.labels)):
        p = exp(said.log_p(n)).real
        terms.append(p**beta1 * (1 - p) ** beta2 * said.log_p(n))
    return mean(terms)


def ceu(said, *, skip):
    losses = []
    for rows in said.answers:
        for n in rows[skip:]:
            p = [exp(z).real for z in log_softmax(said.scores[n])]
            p[said.labels[n]] = 0.0
            losses.append(-sum(q / sum(p) * z for q, z in zip(p, log_softmax(said.scores[n]), strict=True)))
    return mean(losses)


def undial(said, *, beta):
    losses = []
    for n, label in enumerate(said.labels):
        target = list(said.original[n])
        target[label] -= beta
        q = [exp(z) for z in log_softmax(target)]
        losses.append(-sum(a * b for a, b in zip(q, log_softmax(said.scores[n]), strict=True)))
    return mean(losses)


def logit_margin_flattening(said):
    losses = []
    for row in said.scores:
        largest = row[0]
        for z in row:
            largest = z if z.real > largest.real else largest
        losses.append((largest - mean(row)) ** 2)
    return mean(losses)


def kl_to_reference(said, *, k):
    losses = []
    for row, original in zip(said.scores, said.original, strict=True):
        kept = sorted(range(len(row)), key=lambda v: -original[v])[:k]
        log_p, log_q = log_softmax([row[v] for v in kept]), log_softmax([original[v] for v in kept])
        losses.append(sum(exp(q) * (q - p) for p, q in zip(log_p, log_q, strict=True)))
    return mean(losses)


def jens_un(said, *, target):
    losses = []
    for rows in said.answers:
        for place, n in enumerate(rows):
            certain = [0] * len(said.scores[n])
            certain[target[place % len(target)]] = 1
            losses.append(jensen_shannon(certain, [exp(z) for z in log_softmax(said.scores[n])]))
    return mean(losses)


def jsd_to_reference(said):
    pairs = zip(said.scores, said.original, strict=True)
    return mean(jensen_shannon(*([exp(z) for z in log_softmax(row)] for row in pair)) for pair in pairs)


def jensen_shannon(p, q):
    """By the definition, with the mixture of the two."""
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return sum(a * log(a / b) for one in (p, q) for a, b in zip(one, m, strict=True) if a != 0) / 2


def flat(said):
    """The second half of the answers are templates."""
    half, losses = said.batch_size // 2, []
    rows = [[n for n, e in enumerate(said.example) if e == number] for number in range(said.batch_size)]

    def bounded(answer):
        p = sum(exp(said.log_p(n)) for n in answer) / max(len(answer), 1)
        return (exp(p) - exp(-p)) / (exp(p) + exp(-p)) / 2

    for forget, template in zip(rows[:half], rows[half:], strict=True):
        if forget or template:
            losses.append(bounded(forget) - bounded(template))
    return mean(losses)


def importance_scheduled(said, *, objectives, thresholds):
    """Each answer by itself finds its objective; each objective then sees its answers alone."""
    importances = [mean(1 - exp(said.log_original(n)) for n in rows).real for rows in said.answers]
    total = 0
    for level, objective in enumerate(objectives):
        own = [r for r, g in zip(said.answers, importances, strict=True) if sum(g >= t for t in thresholds) == level]
        rows = sorted(n for answer in own for n in answer)
        if rows:
            parts = ([values[n] for n in rows] for values in (said.scores, said.labels, said.example, said.original))
            scores, labels, example, original = parts
            total += len(own) / len(said.answers) * objective(Said(scores, labels, example, said.batch_size, original))
    return total


def uniform_label(said):
    return mean(-mean(log_softmax(row)) for row in said.scores)


def random_label(said, *, seed):
    classes = len(said.scores[0])
    drawn = torch.randint(classes, (len(said.labels),), generator=torch.Generator().manual_seed(seed)).tolist()
    return mean(-log_softmax(row)[v] for row, v in zip(said.scores, drawn, strict=True))


def fixed_random_label(said, *, seed):
    losses = []
    for rows in said.answers:
        answer = sum(splitmix(splitmix(place + seed) + said.labels[n]) for place, n in enumerate(rows))
        for place, n in enumerate(rows):
            hashed = splitmix(answer + place)
            signed = hashed - (1 << 64) if hashed >> 63 else hashed
            losses.append(-log_softmax(said.scores[n])[signed % len(said.scores[n])])
    return mean(losses)


def splitmix(number):
    """Steele et al., Fast Splittable Pseudorandom Number Generators, 2014, on unsigned 64-bit numbers."""
    mask = (1 << 64) - 1
    number = (number + 0x9E3779B97F4A7C15) & mask
    number = ((number ^ number >> 30) * 0xBF58476D1CE4E5B9) & mask
    number = ((number ^ number >> 27) * 0x94D049BB133111EB) & mask
    return number ^ number >> 31
