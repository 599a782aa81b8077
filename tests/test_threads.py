"""Calls in threads: their order, their errors, and how many of them wait."""

import itertools
import threading

import pytest

from morphism.errors import UserError
from morphism.threads import cores, in_threads


def test_results_come_in_order_and_few_items_are_drawn_ahead():
    drawn, threads = [], set()

    def square(value):
        threads.add(threading.current_thread())
        return value**2

    results = in_threads(square, (drawn.append(each) or each for each in itertools.count()))
    assert [next(results) for _ in range(50)] == [each**2 for each in range(50)]
    assert len(drawn) <= 50 + 4 * cores()
    assert threading.main_thread() not in threads and len(threads) <= cores()
    results.close()
    assert list(in_threads(square, ())) == []


def test_an_error_is_raised_in_its_turn():
    def fail(value):
        if value == 3:
            raise UserError("x.png: cannot be written")
        return value

    results = in_threads(fail, range(1000))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(UserError, match=r"x\.png"):
        next(results)
