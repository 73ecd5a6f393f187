"""Labels by chance: anew at each step, once and for all, or all at once."""

import copy
import pickle

import pytest
import torch
from _predictions import renumber, reorder, sample
from scipy import stats
from torch.testing import assert_close

from lightning_unlearn.objectives import FixedRandomLabel, RandomLabel, UniformLabel
from lightning_unlearn.prediction import Prediction


def answers(tokens):
    """Answers of given token ids, one list each, over a vocabulary of 50."""
    labels = torch.tensor([t for answer in tokens for t in answer])
    example = torch.arange(len(tokens)).repeat_interleave(torch.tensor([len(a) for a in tokens]))
    return Prediction(torch.zeros(len(labels), 50), labels, example, len(tokens))


def test_labels_are_drawn_anew_at_each_step():
    objective, student = RandomLabel(), sample()
    assert len({objective(student).item() for _ in range(5)}) == 5


def test_mean_over_draws_is_the_uniform_label():
    objective, student = RandomLabel(), sample()
    losses = torch.stack([objective(student).detach() for _ in range(2000)])
    error = losses.mean() - UniformLabel()(student).detach()
    assert error.abs() < 4 * losses.std() / 2000**0.5


def test_draws_go_on_where_a_checkpoint_left_off():
    first, student = RandomLabel(seed=3), sample()
    first(student)
    state = first.state_dict()
    expected = [first(student).item() for _ in range(3)]
    resumed = RandomLabel(seed=3)
    resumed.load_state_dict(state)
    assert [resumed(student).item() for _ in range(3)] == expected


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["copy", "pickle"])
def test_draws_survive_copying(duplicate):
    objective, student = RandomLabel(), sample()
    objective(student)
    assert duplicate(objective)(student).item() == objective(student).item()


def test_seeds_differ():
    assert RandomLabel(seed=0)(sample()) != RandomLabel(seed=1)(sample())
    assert FixedRandomLabel(seed=0)(sample()) != FixedRandomLabel(seed=1)(sample())


def test_fixed_labels_stay():
    objective, student = FixedRandomLabel(), sample()
    assert_close(objective(student), objective(student), rtol=0, atol=0)


def test_fixed_labels_follow_the_answer_into_any_batch():
    alone = FixedRandomLabel().draw(answers([[7, 8, 9]]))
    among = FixedRandomLabel().draw(answers([[1, 2], [7, 8, 9], [3, 4, 5, 6]]))
    assert torch.equal(alone, among[2:5])


def test_fixed_labels_of_answers_that_differ_in_one_token_have_nothing_in_common():
    tokens = torch.arange(200) % 50
    changed = tokens.clone()
    changed[100] += 1
    first, second = FixedRandomLabel().draw(answers([tokens.tolist(), changed.tolist()])).split(200)
    assert (first == second).sum() < 15  # 4 by chance


def test_fixed_labels_depend_on_the_order_of_tokens():
    first, second = FixedRandomLabel().draw(answers([[3, 4, 5, 6, 7, 8], [8, 7, 6, 5, 4, 3]])).split(6)
    assert not torch.equal(first, second)


def test_fixed_labels_are_uniform_and_independent_of_the_true_ones():
    many = answers(torch.randint(50, (2000, 10), generator=torch.Generator().manual_seed(0)).tolist())
    drawn = FixedRandomLabel().draw(many)
    assert drawn.min() >= 0
    assert drawn.max() < 50
    assert stats.chisquare(torch.bincount(drawn, minlength=50).numpy()).pvalue > 1e-3
    shift = (drawn - many.labels) % 50
    assert stats.chisquare(torch.bincount(shift, minlength=50).numpy()).pvalue > 1e-3


def test_fixed_labels_do_not_mind_what_else_is_in_the_batch_or_its_order():
    student = sample()
    rows = torch.tensor([5, 0, 3, 6, 1, 4, 7, 2, 8])
    moved = reorder(renumber(student, torch.tensor([3, 1, 0, 2]), 4), rows)
    assert torch.equal(FixedRandomLabel().draw(moved), FixedRandomLabel().draw(student)[rows])


def test_fixed_labels_of_single_rows_are_refused():
    with pytest.raises(
        ValueError, match=r"answers of several tokens.* Found 2 rows of 3 examples. Use `RandomLabel\(\)`"
    ):
        FixedRandomLabel()(sample((1, 0, 1)))
