"""Outputs: reserved before the work, and all there at its end, or none.

A file is written under a temporary name in the folder where it shall lie, flushed to the disk and
then renamed: a write that is killed leaves the old file, or none, and never half of one. Who works
long for a file reserves it first (`reserved`): a second run to the same file is refused at once,
and so is a file that is read as well. The names of a file ``a.fits`` that is being made are
``.a.fits.part`` and ``.a.fits.lock``; the system takes the lock off a process that is killed, and
the next run to the same file clears both away.
"""

import contextlib
import os
import shutil
import stat
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType

from ..errors import InputError

try:
    import fcntl
except ImportError:  # Windows: no locks
    fcntl = None

__all__ = ["check_room", "locked", "refuse_output", "replacing", "reserved"]

LEAST_ROOM = 1 << 20  # bytes, below which nothing is begun
# Of this run, in whose context a thread begins empty; never changed, but replaced.
_HELD: ContextVar[dict] = ContextVar("outputs", default=MappingProxyType({}))
_LOCKED: ContextVar[frozenset] = ContextVar("locks", default=frozenset())


@contextlib.contextmanager
def reserved(*paths, overwrite=False):
    """Reserve files: within the block nobody else writes them, and after it all are there.

    Within the block `replacing` writes them, as often as it likes. When the block ends without an
    error, those that were written take their places together, and those that were not are removed
    where ``overwrite`` says that they may be. An error leaves all as it was.

    Parameters
    ----------
    *paths : path-like
        The files to be.
    overwrite : bool
        Whether existing files are replaced.

    Raises
    ------
    InputError
        If one of them exists and may not be replaced, is no plain file, is named twice, is being
        written by another run, or cannot be made: its folder is not there, or takes no more.
    """
    held = {}
    with contextlib.ExitStack() as stack:
        for path in paths:
            output = _Output(path, overwrite)
            if output.path in held:
                raise InputError(f"{path}: found as two outputs, expected two files")
            stack.enter_context(output)
            held[output.path] = output
        token = _HELD.set({**_HELD.get(), **held})
        try:
            yield
        finally:
            _HELD.reset(token)
        for output in held.values():
            output.check()
        for output in held.values():
            output.commit()


@contextlib.contextmanager
def replacing(path, overwrite=False):
    """A temporary path that becomes ``path`` when the block ends without an error.

    Of a file that is `reserved`, when that block ends.

    Parameters
    ----------
    path : path-like
        The file to be.
    overwrite : bool
        Whether an existing file is replaced; of one that is reserved, that has been said.

    Yields
    ------
    pathlib.Path
        A path in the same folder, at which to write: an empty file.

    Raises
    ------
    InputError
        If the file exists and may not be replaced, or cannot be written, as on a full disk.
    """
    output = _HELD.get().get(_place(path))
    if output is not None:
        with output.writing() as part:
            yield part
        return
    with _Output(path, overwrite) as output:
        with output.writing() as part:
            yield part
        output.check()
        output.commit()


@contextlib.contextmanager
def locked(path):
    """Within the block no other run `locked` the same file; it may be replaced all the same.

    Parameters
    ----------
    path : path-like
        The file; its folder has to be there.

    Raises
    ------
    InputError
        If another run has, or the folder takes no files.
    """
    path = _place(path)
    if path in _LOCKED.get():  # by who writes it over and over
        yield
        return
    lock = path.with_name(f".{path.name}.lock")
    handle = _lock(lock, path)
    token = _LOCKED.set(_LOCKED.get() | {path})
    try:
        yield
    finally:
        _LOCKED.reset(token)
        lock.unlink(missing_ok=True)  # while it is held: whoever waits for it sees that it is gone
        os.close(handle)


def refuse_output(path):
    """Refuse to read a file that this run has `reserved` to write.

    Parameters
    ----------
    path : path-like
        A file that is to be read.

    Raises
    ------
    InputError
    """
    for output in _HELD.get().values():
        same = output.path == Path(path).resolve()
        with contextlib.suppress(OSError):
            same = same or output.path.samefile(path)
        if same:
            raise InputError(f"{path}: found as input and as output, expected two files")


def check_room(path, size=LEAST_ROOM):
    """Refuse a file for which its disk has no room.

    Parameters
    ----------
    path : path-like
        The file to be.
    size : int
        How many bytes it is going to have.

    Raises
    ------
    InputError
    """
    free = shutil.disk_usage(Path(path).parent).free
    if free < max(size, LEAST_ROOM):
        raise InputError(
            f"{path}: found {free / 2**20:.1f} MiB of free space in its folder, expected "
            f"{max(size, LEAST_ROOM) / 2**20:.1f} MiB or more"
        )


class _Output(contextlib.ExitStack):
    """One file to be: locked while it is open, and written beside its place."""

    def __init__(self, path, overwrite):
        super().__init__()
        self.label, self.overwrite, self.path = path, overwrite, _place(path)
        self.part = self.path.with_name(f".{self.path.name}.part")
        self.is_written = False
        self.check()

    def __enter__(self):
        check_room(self.path)
        self.enter_context(locked(self.path))
        with contextlib.ExitStack() as undo:
            undo.push(self)
            self.callback(self.part.unlink, missing_ok=True)
            self.check()  # now that nobody else can make it
            _create(self.part, self.label)
            undo.pop_all()
        return self

    def check(self):
        """Whether the file may be made."""
        mode = _mode(self.path)
        if mode is None:
            return
        if stat.S_ISDIR(mode):
            raise InputError(f"{self.label}: found a folder, expected a file to write")
        if not stat.S_ISREG(mode):
            raise InputError(
                f"{self.label}: found a device, a pipe or the like, expected a plain file"
            )
        if not self.overwrite:
            raise InputError(
                f"{self.label}: found an existing file, expected a new file, or to be told to "
                "replace it (--overwrite, overwrite=True)"
            )

    @contextlib.contextmanager
    def writing(self):
        try:
            yield self.part
            with open(self.part, "rb+") as file:
                os.fsync(file.fileno())
        except OSError as error:
            if error.filename not in {None, str(self.part), self.part}:
                raise
            raise InputError(f"{self.label}: cannot be written: {_reason(error)}") from error
        self.is_written = True

    def commit(self):
        if not self.is_written:
            if self.overwrite:
                self.path.unlink(missing_ok=True)  # of an output that was replaced
            return
        try:
            # Created for the owner alone; a product is as readable as any other, or as the old one.
            umask = os.umask(0)
            os.umask(umask)
            mode = _mode(self.path)
            self.part.chmod(0o666 & ~umask if mode is None else stat.S_IMODE(mode))
            if not self.overwrite:
                with contextlib.suppress(OSError):  # of file systems without links
                    os.link(self.part, self.path)  # never in place of another
                    self.part.unlink()
                    return
                self.check()
            self.part.replace(self.path)
        except OSError as error:
            raise InputError(f"{self.label}: cannot be written: {_reason(error)}") from error


def _place(path):
    """Where a path leads: what a link points to is replaced, not the link."""
    try:
        place = Path(path).resolve()
        folder = place.parent.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, NUL
        raise InputError(f"{path!s:.200}: cannot be the name of a file ({error})") from error
    if not folder:
        raise InputError(f"{path}: found no folder {Path(path).parent}, expected one to write into")
    return place


def _mode(path):
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {_reason(error)}") from error


def _create(part, label):
    """An empty file in place of what a run that was killed has left."""
    try:
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise InputError(f"{label}: cannot be written: {_reason(error)}") from error


def _lock(lock, path):
    """A locked file; what is left of a run that was killed is locked by nobody."""
    while True:
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        except OSError as error:
            raise InputError(
                f"{path}: found a folder that cannot be written into ({_reason(error)}), expected "
                "another"
            ) from error
        if fcntl is None:
            return handle
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise InputError(
                f"{path}: found another run that is writing it, expected one at a time"
            ) from None
        except OSError:  # a file system without locks
            return handle
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(handle), os.stat(lock)):
                return handle
        os.close(handle)  # the run that had it is done, and took it away


def _reason(error):
    return error.strerror or str(error) or type(error).__name__
