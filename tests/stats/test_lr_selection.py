"""The learning rate of a group: on validation, pooled over seeds, with what leaves it unresolved."""

import math

import pytest

from peftodyssey.stats.lr_selection import Candidate, Choice, pooled, select


def grid(losses, seed=0, group="g"):
    return [Candidate(group, lr, seed, loss) for lr, loss in losses.items()]


def chosen(rows):
    return {(row.lr, row.seed): choice.edge for row, choice in zip(rows, select(rows), strict=True) if choice.selected}


def test_the_lowest_validation_loss_is_selected_in_every_group():
    rows = grid({1e-3: 3.0, 1e-4: 3.5, 3e-4: 2.9}) + grid({1e-4: 3.1}, group="other")
    assert select(rows) == [Choice(False), Choice(False), Choice(True, None), Choice(True, None)]


@pytest.mark.parametrize(
    ("losses", "best", "edge"), [([1, 2, 3], 1e-5, "low"), ([3, 2, 1], 1e-3, "high"), ([2, 1, 3], 1e-4, None)]
)
def test_an_optimum_at_the_end_of_its_grid_is_marked(losses, best, edge):
    assert chosen(grid(dict(zip((1e-5, 1e-4, 1e-3), losses, strict=True)))) == {(best, 0): edge}


def test_one_rate_is_chosen_for_all_seeds_where_each_would_choose_its_own():
    rows = grid({1e-4: 2.1, 1e-3: 2.0, 1e-2: 2.2}) + grid({1e-4: 1.7, 1e-3: 1.9, 1e-2: 2.2}, seed=1)
    assert chosen(rows) == {(1e-4, 0): "low", (1e-4, 1): "low"}  # means 1.90, 1.95, 2.20
    assert pooled(rows) == pytest.approx({1e-4: 1.9, 1e-3: 1.95, 1e-2: 2.2})


def test_ties_go_to_the_smaller_learning_rate_in_any_order():
    rows = grid({1e-3: 2.0, 1e-4: 2.0})
    assert chosen(rows) == chosen(rows[::-1]) == {(1e-4, 0): "low"}


def test_failed_and_diverged_cells_are_not_selected_but_bound_the_grid():
    assert chosen(grid({1e-4: 2.5, 1e-3: 2.0, 1e-2: math.nan})) == {(1e-3, 0): None}
    assert chosen(grid({1e-2: math.nan})) == {}
    one_seed_failed = grid({1e-4: 2.5, 1e-3: 2.0, 1e-2: 1.0}) + grid({1e-4: 2.5, 1e-3: 2.0, 1e-2: math.inf}, seed=1)
    assert chosen(one_seed_failed) == {(1e-3, 0): None, (1e-3, 1): None}


def test_a_neighbour_that_was_stopped_bounds_nothing():
    assert chosen(grid({1e-4: None, 1e-3: 2.0, 1e-2: 2.1})) == {(1e-3, 0): "unmeasured"}
    assert chosen(grid({1e-4: 2.1, 1e-3: 2.0, 1e-2: None, 1e-1: 2.2})) == {(1e-3, 0): "unmeasured"}
    assert chosen(grid({1e-4: 2.1, 1e-3: 2.0})) == {(1e-3, 0): "high"}


def test_a_rate_without_all_seeds_is_not_measured():
    half = grid({1e-4: 2.1, 1e-3: 2.0, 1e-2: 1.9}) + grid({1e-4: 2.1, 1e-3: 2.0, 1e-2: None}, seed=1)
    assert chosen(half) == {(1e-3, 0): "unmeasured", (1e-3, 1): "unmeasured"}
    only_one_seed = grid({1e-4: 2.1, 1e-3: 2.0, 1e-2: 2.2}) + grid({1e-4: None, 1e-3: None, 1e-2: None}, seed=1)
    assert chosen(only_one_seed) == {(1e-3, 0): None}
