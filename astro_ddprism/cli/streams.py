"""Standard output and error that may be closed, or close while a command works, and its ends."""

import contextlib
import os
import signal
import sys
import threading

__all__ = ["Terminated", "open_streams", "patient_errors", "terminable"]


class Terminated(BaseException):
    """A signal that asks to end, such as SIGTERM: what is under way is cleared away first."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def terminable():
    """Within the block, SIGTERM and SIGHUP raise `Terminated`."""

    def terminate(number, _frame):
        signal.signal(number, signal.SIG_IGN)  # once is enough
        raise Terminated(number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    # What is ignored already, as SIGHUP by nohup, stays so.
    numbers = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    old = {number: signal.signal(number, terminate) for number in numbers}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def open_streams():
    """Give a process whose standard streams are closed others, that lead nowhere.

    The next file that is opened would otherwise take the place of standard error, and whatever is
    said there would be written into it. What has taken the place already keeps it (a library that
    was loaded may have), and the stream gets another.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is not None:
            continue
        handle = os.open(os.devnull, os.O_RDWR)
        try:
            os.fstat(number)
        except OSError:
            os.dup2(handle, number)
            os.close(handle)
            handle = number
        setattr(sys, name, open(handle, mode, closefd=False))  # noqa: SIM115


class _Patient:
    """A stream that is written to without complaint, also once nobody reads it any more."""

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        with contextlib.suppress(OSError, ValueError):
            return self._stream.write(text)
        return len(text)

    def flush(self):
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


@contextlib.contextmanager
def patient_errors():
    """Within the block, nothing that is written to standard error ends the work."""
    with contextlib.redirect_stderr(_Patient(sys.stderr)):
        yield
