"""A program as a session of processes of its own: watched, and killed whole or in part.

Memory and processor time are those that Linux tells in ``/proc``; a process that ends between two
looks counts with what was seen of it last.
"""

__all__ = ["Session"]

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

TICK, PAGES = os.sysconf("SC_CLK_TCK"), 1 << 10
PAUSE = 0.25  # seconds between two looks


class Session:
    """One program and all that it starts.

    Parameters
    ----------
    command : list of str
        What to run.
    count : callable, optional
        Called at each look: how much is done.

    Attributes
    ----------
    seen : dict of int to dict
        By the number of a process ``command``, ``peak_MiB``, ``cpu_s``, and ``history``: pairs of
        what ``count`` returned and of the peak until then.
    """

    def __init__(self, command, count=None):
        self.seen, self._count = {}, count or (lambda: 0)
        self.started = time.perf_counter()
        self.process = subprocess.Popen(command, start_new_session=True)  # noqa: S603
        self._watch = threading.Thread(target=self._look_on, daemon=True)
        self._watch.start()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.started

    @property
    def is_running(self) -> bool:
        """Whether the program has not ended."""
        return self.process.poll() is None

    @property
    def cpu_s(self) -> float:
        """Processor time of all processes so far."""
        return sum(one["cpu_s"] for one in self.seen.values())

    def wait(self) -> dict:
        """Wait for the end.

        Returns
        -------
        figures : dict
            ``wall_s``, ``cpu_s`` of all processes, and the peak of the first, ``peak_MiB``.
        """
        if self.process.wait():
            raise RuntimeError(f"{self.process.args}: ended with {self.process.returncode}")
        seconds = self.seconds
        self._watch.join()
        return {
            "wall_s": round(seconds, 1),
            "cpu_s": round(self.cpu_s, 1),
            "peak_MiB": self.seen[self.process.pid]["peak_MiB"],
        }

    def workers(self) -> list[dict]:
        """What was seen of processes of Dask, those that did the most first."""
        found = [one for one in self.seen.values() if "spawn_main" in one["command"]]
        return sorted(found, key=lambda one: -one["cpu_s"])

    def kill_a_worker(self) -> bool:
        """Kill the process of Dask that did the most so far; whether there was one."""
        running = [pid for pid in _members(self.process.pid) if pid in self.seen]
        running = [pid for pid in running if "spawn_main" in self.seen[pid]["command"]]
        if running:
            os.kill(max(running, key=lambda pid: self.seen[pid]["cpu_s"]), signal.SIGKILL)
        return bool(running)

    def kill(self):
        """All of it at once, as of a machine that goes down."""
        for pid in {self.process.pid, *_members(self.process.pid)}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()
        while _members(self.process.pid):
            time.sleep(PAUSE)
        self._watch.join()

    def _look_on(self):
        while self.is_running:
            done = self._count()
            for pid in _members(self.process.pid):
                told = _told(pid)
                if told:
                    history = dict(self.seen.get(pid, {}).get("history", ()))
                    history[done] = told["peak_MiB"]
                    self.seen[pid] = told | {"history": list(history.items())}
            time.sleep(PAUSE)


def _members(session) -> list[int]:
    """Processes of a session that have not ended."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            fields = _fields(int(path.name))
            if fields and int(fields[3]) == session and fields[0] != "Z":
                found.append(int(path.name))
    return found


def _fields(pid) -> list[str]:
    """Of ``/proc/PID/stat``, what follows the name."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _told(pid) -> dict:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        peak = int(status.partition("VmHWM:")[2].split()[0]) // PAGES
    except (OSError, IndexError):
        return {}
    fields = _fields(pid)
    if not fields or not command:  # it is ending
        return {}
    return {"command": command, "peak_MiB": peak, "cpu_s": sum(map(int, fields[11:13])) / TICK}
