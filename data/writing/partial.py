"""A folder that appears when all of it is written, and that a second try goes on with."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from morphism.errors import Unwritable, UserError


def partial_of(folder: Path) -> Path:
    """What `folder` is called until it is complete."""
    return folder.with_name(f"{folder.name}.partial")


@contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """The folder to write in, which becomes `folder` at the end. Only one process at a time can be in it.

    Raises UserError if it cannot be made, if another process is in it, or if the disk is full.
    """
    partial = partial_of(folder)
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{partial}: cannot be made ({error.strerror}); name a folder elsewhere") from error
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{partial}: another process writes there; wait for it, or name another folder") from error
        try:
            yield partial
        except (OSError, RuntimeError) as error:  # libraries that write in C++ have only words
            full = os.strerror(errno.ENOSPC)
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or full in str(error):
                raise Unwritable(f"{partial}: {full}; make room and start the same command again") from error
            raise
        if folder.is_dir():
            folder.rmdir()  # an empty one
        partial.rename(folder)
    finally:
        os.close(descriptor)
