import pickle
from dataclasses import dataclass

import numpy as np
import pytest

from morphism.data import sources
from morphism.data.pipeline import train_batches
from morphism.data.sampling import FEW, Balanced, Plan, Shuffled, members_of, spread


@dataclass(frozen=True)
class Skewed:
    """Record i is a grey image; 20 are of class 0, 5 of class 2, 3 of class 3, none of class 1."""

    labels = np.repeat([0, 2, 3], [20, 5, 3]).astype(np.int32)
    classes = tuple("abcd")
    targets = property(lambda self: {"label": self.classes})

    def __len__(self):
        return 28

    def __getitem__(self, index):
        return {"image": np.full((8, 8), index, np.uint8), "label": int(self.labels[index]), "name": str(index)}


def repeated_augmentation(order, repeats):
    """What torchvision's RASampler draws of one epoch's order of records: each in a row, as many as there are."""
    return np.repeat(order, repeats)[: len(order)]


@pytest.mark.parametrize("records", [28, FEW + 1])
@pytest.mark.parametrize("repeats", [1, 2, 3, 4])
def test_an_epoch_repeats_the_shuffled_records_and_ends_after_as_many_draws_as_records(repeats, records):
    once, sampler, orders = Shuffled(records, 1, seed=3), Shuffled(records, repeats, seed=3), []
    for epoch in range(3):
        order = [once(epoch * records + place).index for place in range(records)]
        draws = [sampler(epoch * records + place) for place in range(records)]
        assert sorted(order) == list(range(records)) and order not in orders
        assert [draw.index for draw in draws] == repeated_augmentation(order, repeats).tolist()
        orders.append(order)


@pytest.mark.parametrize(
    "sampler", [Shuffled(28, 1, 0), Shuffled(28, 4, 0), Shuffled(30, 4, 1), Balanced.of(Skewed.labels, 0)]
)
def test_no_draw_of_a_record_has_the_count_of_another(sampler):
    draws = [sampler(position) for position in range(500)]
    assert len(set(draws)) == 500
    assert all(draw.count >= sum(other.index == draw.index for other in draws[:at]) for at, draw in enumerate(draws))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_batches_hold_what_ranks_of_torchvisions_sampler_hold(config, processes):
    """With as many ranks as repeats each rank has its rows in the sampler's order; together always the same rows."""
    config.data.repeats = 4
    source = sources.load(config.data, "train")
    order = [Shuffled(len(source), 1, config.seed)(place).index for place in range(len(source))]
    expected = repeated_augmentation(order, 4)
    for step in (0, 7):
        parts = [
            next(
                train_batches(source, config, start_step=step, stop_step=step + 1, process_index=p, processes=processes)
            )
            for p in range(processes)
        ]
        rows = np.concatenate([part["id"] for part in parts])
        drawn = expected[step * 16 : (step + 1) * 16]
        assert rows.tolist() == np.concatenate([drawn[rank::4] for rank in range(4)]).tolist()


@pytest.mark.parametrize(("rows", "repeats"), [(16, 1), (16, 4), (12, 5), (7, 3), (2, 4)])
def test_a_batch_is_spread_without_losing_a_row(rows, repeats):
    assert sorted(spread(rows, repeats)) == list(range(rows))
    assert repeats > 1 or spread(rows, repeats).tolist() == list(range(rows))


def test_repeats_of_an_image_are_cropped_differently_and_never_mixed_with_each_other(config):
    config.data.update(repeats=4, image_size=20, resize_size=20)
    (batch,) = train_batches(sources.load(config.data, "train"), config, start_step=0, stop_step=1)
    for index in set(batch["id"].tolist()):
        rows = np.flatnonzero(batch["id"] == index)
        assert sorted(batch["draw"][rows]) == [0, 1, 2, 3]
        assert len({batch["image"][row].tobytes() for row in rows}) == 4
    assert (batch["id"][::2] != batch["id"][1::2]).all()


def test_every_round_of_a_balanced_sampler_has_each_class_once():
    draws = [Balanced.of(Skewed.labels, seed=1)(position).index for position in range(300)]
    rounds = Skewed.labels[draws].reshape(100, 3)
    assert all(sorted(each) == [0, 2, 3] for each in rounds)
    assert len({tuple(each) for each in rounds}) == 6  # in every order


def test_a_class_gives_each_of_its_records_before_one_again():
    draws = np.array([Balanced.of(Skewed.labels, seed=1)(position) for position in range(360)])
    for label, records in ((0, 20), (2, 5), (3, 3)):
        own = draws[Skewed.labels[draws[:, 0]] == label]
        passes = own.reshape(-1, records, 2)
        members = np.flatnonzero(Skewed.labels == label)
        assert all(sorted(each) == members.tolist() for each in passes[:, :, 0])
        assert (passes[:, :, 1] == np.arange(len(passes))[:, None]).all()
        assert len({tuple(each) for each in passes[:, :, 0]}) > 1


def test_the_seed_decides_what_a_balanced_sampler_draws():
    first, again, other = ([Balanced.of(Skewed.labels, seed)(p) for p in range(60)] for seed in (0, 0, 1))
    assert first == again != other


def test_balanced_batches_are_the_same_from_any_step_in_workers_and_threads(config):
    config.data.balanced = True
    whole = list(train_batches(Skewed(), config, start_step=0, stop_step=6))
    config.data.workers = 1
    rest = list(train_batches(Skewed(), config, start_step=4, stop_step=6))
    for a, b in zip(whole[4:], rest, strict=True):
        assert all(np.array_equal(a[key], b[key]) for key in a)
    labels = np.concatenate([batch["label"] for batch in whole])
    assert np.bincount(labels, minlength=4).tolist() == [32, 0, 32, 32]


@pytest.mark.parametrize("val_fraction", [0.0, 0.25])
def test_labels_of_a_source_are_those_of_its_records(folder, config, val_fraction):
    for spec in ("embedded", f"folder:{folder}"):
        config.data.update(source=spec, val_fraction=val_fraction)
        for split in ("train", "val"):
            source = sources.load(config.data, split)
            assert source.labels.dtype == np.int32
            assert source.labels.tolist() == [source[index]["label"] for index in range(len(source))]


def test_a_balanced_sampler_goes_to_workers_with_its_labels():
    sampler = Balanced.of(Skewed.labels, 0)
    assert pickle.loads(pickle.dumps(sampler))(17) == sampler(17)


@dataclass(frozen=True)
class Many(Skewed):
    count: int

    def __len__(self):
        return self.count


@pytest.mark.parametrize(("sizes", "batch_size"), [((50, 30, 7), 8), ((3, 100), 16), ((5,), 8)])
def test_batches_hold_one_canvas_and_every_record_comes_equally_often(config, sizes, batch_size):
    canvases = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(np.int32)
    plan = Plan(Many(len(canvases)), config.data, 5, batch_size, members_of(canvases))
    epochs = 16
    steps = sum(count * epochs // batch_size for count in sizes)
    counts = np.zeros(len(canvases), int)
    seen = []
    for step in range(steps):
        canvas, draws = plan(step, slice(0, batch_size))
        seen.append(canvas)
        assert all(canvases[draw.index] == canvas for draw in draws)
        np.add.at(counts, [draw.index for draw in draws], 1)
    drawn = np.array(sizes) * epochs // batch_size * batch_size // np.array(sizes)
    assert np.isin(counts - drawn[canvases], (0, 1)).all()
    assert sorted(seen) != seen or len(sizes) == 1
    assert plan(7, slice(0, 4))[1] + plan(7, slice(4, batch_size))[1] == plan(7, slice(0, batch_size))[1]
