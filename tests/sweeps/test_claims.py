"""A trial has one owner, however many workers try for it."""

import threading
import time

import pytest

from morphism.errors import UserError
from morphism.runtime.stopping import StopRequest
from morphism.sweeps import claims
from morphism.sweeps.claims import HERE, Heartbeat, Watch, claim, let_go, owner_of_this_process, take_over
from morphism.sweeps.storage import absolute, open_storage, open_store, without_password


@pytest.fixture(params=["sqlite", "journal"])
def url(request, tmp_path):
    return f"{request.param}:///{tmp_path}/study"


def at_once(count, function):
    """What `function(index)` returns in `count` threads that start together."""
    barrier, found = threading.Barrier(count), [None] * count

    def go(index):
        barrier.wait()
        found[index] = function(index)

    threads = [threading.Thread(target=go, args=(index,)) for index in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return found


def test_of_many_that_claim_a_trial_one_gets_it(url):
    """Each with a connection of its own, as processes have; Optuna's SQLite storage alone gives it to several."""
    stores = [open_store(url, "study", False) for _ in range(4)]
    for _ in range(4):
        key = stores[0].add_slot()
        trial = stores[0].record(key)
        won = at_once(4, lambda index, trial=trial: claim(stores[index], trial, f"worker {index}"))
        assert sum(won) == 1
        assert stores[0].record(key).owner == f"worker {won.index(True)}"


def test_of_many_that_take_over_a_lost_trial_one_gets_it(url, tmp_path):
    stores = [open_store(url, "study", False) for _ in range(4)]
    for _ in range(3):
        key = stores[0].add_slot()
        claim(stores[0], stores[0].record(key), f"{HERE}|999999999|1|gone")
        lost = stores[0].record(key)
        won = at_once(4, lambda index, lost=lost: take_over(stores[index], tmp_path, lost, f"worker {index}"))
        assert sum(won) == 1
        assert stores[0].record(key).owner == f"worker {won.index(True)}"


def test_a_released_trial_is_claimed_again_by_anyone(url):
    first, second = (open_store(url, "study", False) for _ in range(2))
    key = first.add_slot()
    assert claim(first, first.record(key), "first") and not claim(second, second.record(key), "second")
    let_go(first, key)
    assert claim(second, second.record(key), "second") and not claim(first, first.record(key), "first")
    assert first.record(key).owner == "second"


def test_the_dead_are_known_at_once_here_and_by_their_silence_elsewhere(tmp_path):
    store, now = open_store(f"sqlite:///{tmp_path}/study", "study", False), [0.0]
    watch = Watch("me", clock=lambda: now[0])
    key = store.add_slot()

    def owned(owner, beat=0):
        store.note(key, owner=owner, beat=beat)
        return store.record(key)

    assert not watch.lost(owned(owner_of_this_process()))
    assert watch.lost(owned(f"{HERE}|999999999|1|gone"))
    pid, started, _ = owner_of_this_process().removeprefix(f"{HERE}|").split("|")
    assert watch.lost(owned(f"{HERE}|{pid}|{int(started) - 1}|before"))  # another process had this id
    assert watch.lost(owned("me"))
    other = owned("elsewhere|1|2|x")
    assert not watch.lost(other)
    now[0] += claims.SILENT_S - 1
    assert not watch.lost(other)
    beaten = owned("elsewhere|1|2|x", beat=1)
    now[0] += 2
    assert not watch.lost(beaten)
    now[0] += claims.SILENT_S
    assert watch.lost(beaten)


def test_a_run_whose_trial_has_another_owner_is_asked_to_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_S", 0.02)
    store, stop = open_store(f"sqlite:///{tmp_path}/study", "study", False), StopRequest()
    key = store.add_slot()
    claim(store, store.record(key), "me")
    with Heartbeat(store, store.record(key), "me", stop) as heart:
        end = time.monotonic() + 10
        while store.record(key).beat < 2 and time.monotonic() < end:
            time.sleep(0.02)
        assert store.record(key).beat >= 2 and not stop.agreed()
        store.note(key, owner="another")
        while not stop.agreed() and time.monotonic() < end:
            time.sleep(0.02)
        assert stop.agreed() and not heart.check()


def test_a_storage_out_of_reach_is_one_line(tmp_path):
    (tmp_path / "text").write_text("no database, but a text that is long enough to be read as one " * 20)
    for url, words in (
        ("runs/sweep.db", "give a URL"),
        (f"sqlite:///{tmp_path}/no/such/folder/x.db", "cannot be reached"),
        (f"sqlite:///{tmp_path}/text", "cannot be reached"),
        (f"journal:///{tmp_path}/no/such/folder/x.log", "cannot be reached"),
        ("nosuch://host/x", "nosuch"),
    ):
        with pytest.raises(UserError, match=words) as error:
            open_storage(url)
        assert "\n" not in str(error.value)


def test_a_storage_is_the_same_from_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("journal:///a/x.log") == f"journal:///{tmp_path}/a/x.log"
    assert absolute("sqlite:///x.db?mode=rw") == f"sqlite:///{tmp_path}/x.db?mode=rw"
    for url in ("journal:////a/x.log", "sqlite:////a/x.db", "sqlite:///:memory:", "postgresql://me@host/db"):
        assert absolute(url) == url


def test_passwords_are_not_shown():
    assert without_password("postgresql://me:secret@host/db") == "postgresql://me@host/db"
    assert without_password("sqlite:////a/b.db") == "sqlite:////a/b.db"
