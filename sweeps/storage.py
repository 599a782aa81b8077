"""The storage of a sweep: SQLite by default, a database server, or a journal file."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from morphism.errors import UserError, one_line
from morphism.sweeps.trials import Record, record, records, slots

JOURNAL = "journal:///"
BUSY_S = 60  # how long SQLite waits for other processes
TRIES = 5  # of opening a database that another process is making


def open_storage(url: str) -> BaseStorage:
    """The storage at `url`: sqlite:///FILE, postgresql://..., journal:///FILE. Raises UserError if out of reach."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if "://" not in url:
        raise UserError(
            f"--storage is {url!r}; give a URL: sqlite:///FILE, postgresql://USER@HOST/DATABASE or journal:///FILE"
        )
    try:
        if url.startswith(JOURNAL):
            return JournalStorage(JournalFileBackend(url.removeprefix(JOURNAL)))
        return _database(url)
    except ImportError as error:
        raise UserError(
            f"--storage {without_password(url)}: no driver for it ({one_line(error.__cause__ or error)}); for "
            "PostgreSQL: pip install 'psycopg[binary]' and postgresql+psycopg://..."
        ) from error
    except (OSError, SQLAlchemyError, StorageInternalError, ValueError, RuntimeError) as error:
        reason = str(error.__cause__ or error).partition("\n")[0]
        raise UserError(f"--storage {without_password(url)}: cannot be reached ({one_line(reason)[:200]})") from error


def _database(url: str) -> RDBStorage:
    if not url.startswith("sqlite"):
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    for left in reversed(range(TRIES)):
        try:
            storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": BUSY_S}})
            break
        except (SQLAlchemyError, StorageInternalError):  # two processes made its tables at once
            if not left:
                raise
            time.sleep(0.2)
    _serialise(storage.engine)
    return storage


def _serialise(engine: Any) -> None:
    """Makes each transaction of SQLite exclude all others from its start.

    Optuna reads a trial's state and then writes it, with SELECT ... FOR UPDATE in between, which SQLite does not have:
    two processes would both claim a waiting trial. Source: SQLAlchemy's documentation of pysqlite, "Serializable
    isolation".
    """

    @event.listens_for(engine, "connect")
    def connected(connection: Any, entry: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # connections from before


def absolute(url: str) -> str:
    """The same URL from every folder: sqlite:///FILE and journal:///FILE name a file from the current one."""
    found = re.fullmatch(r"(sqlite|journal):///([^/:?][^?]*)(\?.*)?", url)
    return f"{found[1]}:///{Path(found[2]).absolute()}{found[3] or ''}" if found else url


def without_password(url: str) -> str:
    """A URL that may be shown and stored."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1@", url)


@dataclass(frozen=True)
class Store:
    """One study in a storage. Methods that change a trial return whether they did: another worker may be first."""

    url: str
    storage: BaseStorage
    study: int

    def records(self) -> list[Record]:
        return records(self.storage, self.study)

    def slots(self) -> list[Record]:
        return slots(self.storage, self.study)

    def record(self, key: int) -> Record:
        return record(self.storage.get_trial(key))

    def add_slot(self, attributes: dict[str, Any] | None = None) -> int:
        """Adds a trial that waits to be sampled; returns its key."""
        template = create_trial(state=TrialState.WAITING, user_attrs=attributes or {})
        return self.storage.create_new_trial(self.study, template)

    def claim(self, key: int) -> bool:
        """Makes a waiting trial this worker's own: of several that try, one succeeds."""
        # JournalStorage remembers which trial its thread last claimed, and can mistake that claim for this one.
        storage = open_storage(self.url) if isinstance(self.storage, JournalStorage) else self.storage
        return self._set(storage, key, TrialState.RUNNING)

    def release(self, key: int) -> bool:
        """Lets a running trial wait: paused at a rung, or interrupted."""
        return self._set(self.storage, key, TrialState.WAITING)

    def complete(self, key: int, value: float) -> bool:
        return self._set(self.storage, key, TrialState.COMPLETE, [value])

    def prune(self, key: int) -> bool:
        return self._set(self.storage, key, TrialState.PRUNED)

    def fail(self, key: int) -> bool:
        return self._set(self.storage, key, TrialState.FAIL)

    def _set(self, storage: BaseStorage, key: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        try:
            return storage.set_trial_state_values(key, state, values)
        except UpdateFinishedTrialError:
            return False

    def note(self, key: int, **attributes: Any) -> None:
        """Sets user attributes; those of a finished trial cannot be changed any more, and stay."""
        try:
            for name, value in attributes.items():
                self.storage.set_trial_user_attr(key, name, value)
        except UpdateFinishedTrialError:
            return

    def report(self, key: int, step: int, value: float) -> None:
        """Records the metric of a trial at a step."""
        self.storage.set_trial_intermediate_value(key, step, value)


def open_store(url: str, name: str, lower: bool) -> Store:
    """The study `name` in the storage at `url`, which is made if it is not there; `lower`: low metrics are good."""
    storage = open_storage(url)
    direction = StudyDirection.MINIMIZE if lower else StudyDirection.MAXIMIZE
    try:
        study = storage.create_new_study([direction], name)
    except DuplicatedStudyError:
        study = storage.get_study_id_from_name(name)
    return Store(url, storage, study)
