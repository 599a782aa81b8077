import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from morphism.data import pipeline, sources
from morphism.data.oddities import Oddities
from morphism.data.pipeline import eval_batches, train_batches
from morphism.errors import UserError


@dataclass(frozen=True)
class Numbers:
    """Record i is a grey image of level i % 256, of class i % 10."""

    count: int
    classes = tuple("0123456789")
    targets = property(lambda self: {"label": self.classes})

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"image": np.full((8, 8), index % 256, np.uint8), "label": index % 10, "name": f"number {index}"}


def ids(batches):
    return np.concatenate([batch["id"][batch["valid"]] for batch in batches])


def test_every_epoch_is_a_shuffle_of_its_own_of_all_records(config):
    found = ids(train_batches(Numbers(100), config, start_step=0, stop_step=25))  # 4 epochs of 100
    epochs = found.reshape(4, 100)
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert abs(np.corrcoef(epochs[0], epochs[1])[0, 1]) < 0.4


def test_the_seed_decides_the_order(config):
    def order(seed):
        config.seed = seed
        return ids(train_batches(Numbers(100), config, start_step=0, stop_step=3)).tolist()

    assert order(0) == order(0) != order(1)


def test_a_run_that_starts_later_sees_the_same_batches(config):
    source = sources.load(config.data, "train")
    whole = list(train_batches(source, config, start_step=0, stop_step=6))
    rest = list(train_batches(source, config, start_step=4, stop_step=6))
    for a, b in zip(whole[4:], rest, strict=True):
        assert all(np.array_equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_each_global_batch_in_order(config, processes):
    source = Numbers(100)
    whole = list(train_batches(source, config, start_step=0, stop_step=4))
    parts = [
        list(train_batches(source, config, start_step=0, stop_step=4, process_index=p, processes=processes))
        for p in range(processes)
    ]
    for step, batch in enumerate(whole):
        for key in batch:
            assert np.array_equal(batch[key], np.concatenate([part[step][key] for part in parts]))


def test_worker_processes_give_the_batches_that_threads_give(config):
    source = sources.load(config.data, "train")
    threads = list(train_batches(source, config, start_step=2, stop_step=7))
    config.data.workers = 2
    workers = list(train_batches(source, config, start_step=2, stop_step=7))
    for a, b in zip(threads, workers, strict=True):
        assert all(np.array_equal(a[key], b[key]) for key in a)


def test_an_example_is_cropped_differently_in_every_epoch_and_alike_in_every_run(config):
    source = sources.load(config.data, "train")

    def crop_of(epoch):
        position = epoch * len(source)
        step = position // config.batch_size
        batch = next(iter(train_batches(source, config, start_step=step, stop_step=step + 1)))
        return batch["id"][0], batch["draw"][0], batch["image"][0]

    first, again, later = crop_of(0), crop_of(0), crop_of(3)
    assert np.array_equal(first[2], again[2])
    assert later[1] == 3


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 15, 16, 17, 1003])
def test_evaluation_holds_every_record_once_in_order(config, count, processes):
    parts = [
        list(eval_batches(Numbers(count), config, batch_size=16, process_index=p, processes=processes))
        for p in range(processes)
    ]
    assert len({len(part) for part in parts}) == 1
    together = [
        {key: np.concatenate([part[i][key] for part in parts]) for key in parts[0][0]} for i in range(len(parts[0]))
    ]
    assert all(batch["image"].shape == (16, 8, 8, 3) for batch in together)
    assert ids(together).tolist() == list(range(count))
    assert not any(batch["image"][~batch["valid"]].any() for batch in together)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_no_image_ends_the_run_with_its_name(config, folder, workers):
    (folder / "train" / "dog" / "2.jpg").write_text("no image")
    config.data.source = f"folder:{folder}"
    config.data.workers = workers
    source = sources.load(config.data, "train")
    with pytest.raises(UserError, match=r"dog/2.jpg: cannot be decoded"):
        list(train_batches(source, config, start_step=0, stop_step=2))


@dataclass(frozen=True)
class Broken(Numbers):
    """Some records cannot be read."""

    broken: tuple[int, ...] = ()

    def __getitem__(self, index):
        if index in self.broken:
            raise UserError(f"number {index} is broken; mend it")
        return super().__getitem__(index)


def test_a_record_that_cannot_be_read_is_replaced_by_the_next_wherever_the_run_resumes(config):
    source = Broken(60, broken=(7, 8, 59))
    with pytest.raises(UserError, match="number .* is broken"):
        ids(train_batches(source, config, start_step=0, stop_step=4))
    expected = list(train_batches(Numbers(60), config, start_step=0, stop_step=9))
    config.data.broken = "skip"
    found = list(train_batches(source, config, start_step=0, stop_step=9))
    place = {7: 9, 8: 9, 59: 0}
    for one, other in zip(expected, found, strict=True):
        broken = np.isin(one["id"], source.broken)
        assert other["id"].tolist() == [place.get(index, index) for index in one["id"].tolist()]
        assert np.array_equal(other["unread"], np.where(broken, one["id"], -1)) and other["valid"].all()
        assert np.array_equal(other["label"], other["id"] % 10)
        assert all(np.array_equal(one[key][~broken], other[key][~broken]) for key in one)
        assert np.array_equal(one["draw"], other["draw"])
    resumed = train_batches(source, config, start_step=5, stop_step=9)
    for one, other in zip(found[5:], resumed, strict=True):
        assert all(np.array_equal(one[key], other[key]) for key in one)
    with pytest.raises(UserError, match="number .* is broken"):  # all are: the disk is
        ids(train_batches(Broken(60, broken=tuple(range(60))), config, start_step=0, stop_step=1))


def test_evaluation_leaves_out_what_cannot_be_read_and_says_so(config):
    source, said = Broken(20, broken=(3, 11)), []
    with pytest.raises(UserError, match="number 3 is broken"):
        ids(eval_batches(source, config, batch_size=8))
    config.data.broken = "skip"
    batches = list(Oddities(source, said.append).watch(eval_batches(source, config, batch_size=8)))
    assert ids(batches).tolist() == [index for index in range(20) if index not in (3, 11)]
    assert said == [
        "data: skipped (config.data.broken), as others may be: number 3 is broken; mend it",
        "data: 2 records could not be read so far, and were skipped (config.data.broken)",
    ]


# Evaluation's crop is always the center's, in workers too.
@pytest.mark.parametrize(("workers", "crop"), [(0, "center"), (0, "random_resized"), (1, "random_resized")])
def test_oddities_travel_with_their_images(config, corpus_folder, workers, crop):
    folder, expected = corpus_folder
    config.data.update(source=f"folder:{folder}", workers=workers, train_crop=crop)
    source = sources.load(config.data, "train")
    steps = -(-len(source) // config.batch_size)
    names = [Path(source[i]["name"]).name for i in range(len(source))]
    for batches in (
        train_batches(source, config, start_step=0, stop_step=steps),
        eval_batches(source, config, batch_size=config.batch_size),
    ):
        found = {}
        for batch in batches:
            found |= {names[i]: odd for i, odd in zip(batch["id"], batch["odd"], strict=True) if i >= 0}
        assert found == expected


def test_strict_makes_an_odd_image_an_error(config, corpus_folder):
    config.data.update(source=f"folder:{corpus_folder[0]}", strict=True)
    source = sources.load(config.data, "train")
    with pytest.raises(UserError, match=r"/\w+\.\w+: .*; mend or remove it, or set config.data.strict=False"):
        list(train_batches(source, config, start_step=0, stop_step=9))


def test_a_label_outside_the_classes_is_named(config):
    @dataclass(frozen=True)
    class Wrong(Numbers):
        classes = tuple("01234")

    with pytest.raises(UserError, match=r"number \d+: label [5-9] is outside the 5 classes"):
        list(train_batches(Wrong(20), config, start_step=0, stop_step=2))


@dataclass(frozen=True)
class Deadly(Numbers):
    """Its record 40 ends the process that reads it, or keeps it forever."""

    how: str = "kill"
    released = threading.Event()

    def __getitem__(self, index):
        if index == 40:
            os.kill(os.getpid(), signal.SIGKILL) if self.how == "kill" else self.released.wait(3600)
        return super().__getitem__(index)


def test_a_worker_that_is_killed_ends_the_run_with_its_signal(config):
    config.data.workers = 2
    with pytest.raises(UserError, match="a worker process died .SIGKILL.*again with fewer --config.data.workers"):
        list(train_batches(Deadly(64, "kill"), config, start_step=0, stop_step=4))


@pytest.mark.parametrize("workers", [0, 1])
def test_input_that_hangs_ends_the_run_within_the_stated_time(config, workers):
    config.data.workers = workers
    config.data.timeout = timeout = 15 if workers else 3
    start = time.monotonic()
    culprit = r"worker processes \d+ hang" if workers else "reading hangs"
    with pytest.raises(UserError, match=f"no batch for {timeout} s; {culprit}"):
        list(train_batches(Deadly(64, "hang"), config, start_step=0, stop_step=4))
    assert time.monotonic() - start < 60
    Deadly.released.set()


def test_what_python_s_children_do_not_warn_of_is_noted_once(config):
    config.data.workers = 1
    before = len(sys.warnoptions)
    for _ in range(3):
        pipeline.iterate(range(3).__getitem__, 0, 3, config.data).close()
    assert len(sys.warnoptions) <= before + 1


def test_a_worker_that_shared_memory_had_no_room_for_names_it_and_what_helps():
    assert "/dev/shm, which holds" in pipeline._death("SIGBUS") and "0 needs none" in pipeline._death("SIGBUS")
    assert "smaller --config.data.prefetch" in pipeline._death("SIGKILL")


def test_an_abandoned_input_leaves_no_process_and_no_thread(config):
    config.data.workers = 1
    batches = train_batches(Numbers(1000), config, start_step=0, stop_step=1000)
    next(batches)
    batches.close()
    deadline = time.monotonic() + 30

    def left_over():
        return multiprocessing.active_children() + [t for t in threading.enumerate() if t.name == "input"]

    while time.monotonic() < deadline and left_over():
        time.sleep(0.1)
    assert left_over() == []


def test_workers_end_when_the_main_process_is_killed(tmp_path):
    script = tmp_path / "main.py"
    script.write_text(
        "import multiprocessing, os, signal\n"
        "from absl import flags\n"
        "flags.FLAGS.mark_as_parsed()\n"
        "from morphism.data import sources\n"
        "from morphism.data.pipeline import train_batches\n"
        "from morphism.experiments.quickstart import get_config\n"
        "if __name__ == '__main__':\n"
        "    config = get_config()\n"
        "    config.data.workers = 2\n"
        "    batches = train_batches(sources.load(config.data, 'train'), config, start_step=0, stop_step=1000)\n"
        "    next(batches)\n"
        "    print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    workers = [int(pid) for pid in done.stdout.split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers):
        time.sleep(0.2)
    assert not any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers)


def test_evaluation_may_see_larger_images_than_training(config):
    config.data.update(image_size=6, eval_size=8, resize_size=8)
    (trained,) = train_batches(Numbers(16), config, start_step=0, stop_step=1)
    (evaluated,) = eval_batches(Numbers(16), config, batch_size=16)
    assert trained["image"].shape == (16, 6, 6, 3)
    assert evaluated["image"].shape == (16, 8, 8, 3)
    assert (evaluated["image"][:, 0, 0, 0] == np.arange(16)).all()
