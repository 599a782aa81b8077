from morphism.tasks.task import spread


def test_records_are_spread_over_a_sorted_split():
    assert spread(1000, 5) == [0, 250, 500, 749, 999]
    assert spread(3, 12) == [0, 1, 2]
    assert spread(1, 12) == [0]
