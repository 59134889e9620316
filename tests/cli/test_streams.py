"""Standard streams that are closed, and signals that end a command."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from astro_ddprism.cli import main
from astro_ddprism.cli.streams import Terminated, patient_errors, terminable


@pytest.fixture
def catalog(tmp_path):
    path = tmp_path / "options.toml"
    path.write_text("n_random = 3\n")
    return path


def shell(line, **options):
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False, **options
    )


def test_closed_streams(tmp_path):
    """No file takes the place of standard error; what is said goes nowhere, the status stays."""
    program = f"{sys.executable} -m astro_ddprism.cli"
    done = shell(f"{program} info {tmp_path}/absent.fits 2>&- >&- <&-")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
    code = (
        "import os, sys; from astro_ddprism.cli.streams import open_streams; open_streams(); "
        "file = open(sys.argv[1], 'w'); assert file.fileno() > 2; print('said', file=sys.stderr)"
    )
    done = shell(f'{sys.executable} -c "{code}" {tmp_path}/file 2>&-')
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == ""
    taken = f"other = open({str(tmp_path / 'other')!r}, 'w'); assert other.fileno() == 2"
    done = shell(f'{sys.executable} -c "{taken}; {code}" {tmp_path}/file 2>&-')
    assert done.returncode == 0
    assert [(tmp_path / name).read_text() for name in ("file", "other")] == ["", ""]


def test_nobody_reads_standard_error():
    read, write = os.pipe()
    os.close(read)
    stream, old = open(write, "w"), sys.stderr  # noqa: SIM115
    try:
        sys.stderr = stream
        with patient_errors():
            sys.stderr.write("said")
            sys.stderr.flush()
            assert sys.stderr.fileno() == write
    finally:
        sys.stderr = old
        with pytest.raises(BrokenPipeError):
            stream.close()


def test_signals_end_what_is_under_way(monkeypatch, capsys):
    cleared = []

    def work(_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # twice does not spoil what is cleared away
            cleared.append(True)

    monkeypatch.setattr("astro_ddprism.cli.info.info", work)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["info", "x"]) == 143
    assert cleared == [True]
    assert capsys.readouterr().err == "ddprism: ended by signal 15\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_threads_take_no_signals():
    found = []

    def inside():
        with terminable():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]
    assert Terminated(15).number == 15


def test_memory_that_is_used_up(monkeypatch, capsys):
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you")):

        def info(_, error=error):
            raise error

        monkeypatch.setattr("astro_ddprism.cli.info.info", info)
        assert main(["info", "x"]) == 2
        assert capsys.readouterr().err.startswith("ddprism: error: not enough memory (")
