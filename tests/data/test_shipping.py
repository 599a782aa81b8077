"""What worker processes receive does not grow with the number of records."""

import pickle
import tracemalloc
from dataclasses import dataclass, field

import numpy as np
import pytest

from morphism.data.pipeline import EvalBatch, Shard, TrainBatch, train_batches
from morphism.data.shipping import LARGE, shipped
from morphism.errors import UserError
from morphism.experiments.quickstart import get_config

CLASSES = ("even", "odd")


@dataclass(frozen=True)
class Simulated:
    count: int
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    classes = CLASSES

    @property
    def targets(self):
        return {"label": CLASSES}

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"image": np.full((8, 8), index % 251, np.uint8), "label": index % 2, "name": str(index)}


@pytest.fixture
def small():
    config = get_config()
    config.batch_size = 8
    config.data.update(image_size=8, resize_size=8, train_crop="center", pixels="uint8")
    return config


def test_a_hundred_million_records_take_no_memory_and_are_resumed_at_once(small):
    source, shard = Simulated(10**8), Shard(8, 0, 1)
    tracemalloc.start()
    load = TrainBatch.of(source, small, shard)
    step = 3 * 10**8 // 8 + 12345  # in the fourth epoch
    batch = load(step)
    plan = EvalBatch(source, small, shard).plan
    shape, last = plan[len(plan) - 1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20, peak
    assert (batch["draw"] == 3).all() and len(set(batch["id"].tolist())) == 8
    assert (len(plan), list(last), shape) == (12_500_000, list(range(99_999_992, 10**8)), (8, 8))
    assert len(pickle.dumps(load)) < 20_000


def test_workers_map_one_copy_of_a_large_table(small):
    source = Simulated(LARGE, np.arange(LARGE, dtype=np.int32) % 2)
    small.data.balanced = True
    load = TrainBatch.of(source, small, Shard(8, 0, 1))
    with shipped(load) as (sent, received):
        assert len(pickle.dumps(sent)) < 1000
        there = pickle.loads(pickle.dumps(sent))
        files = sorted(path.name for path in sent.folder.iterdir())
        received()
        assert not sent.folder.exists()
    assert files == ["0.npy", "1.npy", "content"]
    assert isinstance(there.source.labels, np.memmap) and isinstance(there.plan.samplers[0].by_class, np.memmap)
    for step in (0, 77_777):
        one, other = load(step), there(step)
        assert all(np.array_equal(one[key], other[key]) for key in one)


def test_batches_of_workers_are_those_of_threads(small, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    source = Simulated(LARGE, np.arange(LARGE, dtype=np.int32) % 2)
    small.data.balanced = True
    threads = list(train_batches(source, small, start_step=3, stop_step=6))
    small.data.workers = 1
    workers = train_batches(source, small, start_step=3, stop_step=6)
    first = next(workers)
    assert list(tmp_path.iterdir()) == []  # the worker has its tables
    for one, other in zip(threads, [first, *workers], strict=True):
        assert all(np.array_equal(one[key], other[key]) for key in one)


def test_a_full_disk_is_one_line(small, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    load = TrainBatch.of(Simulated(LARGE, np.zeros(LARGE, np.int32)), small, Shard(8, 0, 1))
    with pytest.raises(UserError, match=r"No space left on device.*TMPDIR.*--config.data.workers=0"), shipped(load):
        pass
