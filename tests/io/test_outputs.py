"""Outputs that are reserved, written beside their place, and all there at the end or none."""

import errno
import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from astro_ddprism.errors import InputError
from astro_ddprism.io import outputs
from astro_ddprism.io.outputs import check_room, locked, refuse_output, replacing, reserved


def write(path, text="new", **options):
    with replacing(path, **options) as part:
        part.write_text(text)


def test_a_failed_write_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "a"
    write(path, "old")
    with pytest.raises(KeyboardInterrupt), replacing(path, overwrite=True) as part:  # noqa: PT012
        part.write_text("half a file")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_reserved_files_are_all_there_at_the_end(tmp_path):
    first, second, third = (tmp_path / name for name in "abc")
    write(third, "of another run")
    with reserved(first, second, third, overwrite=True):
        write(first, "early")
        write(second)
        write(first)
        assert not first.exists()
        assert not second.exists()
        assert third.exists()
    assert first.read_text() == second.read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]  # nothing was written in place of the third


def test_an_error_leaves_all_as_it_was(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    write(second, "old")
    with pytest.raises(ZeroDivisionError), reserved(first, second, overwrite=True):  # noqa: PT012
        write(first)
        write(second)
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["b"]
    assert second.read_text() == "old"


def test_what_is_read_is_not_written(tmp_path):
    path, link = tmp_path / "a", tmp_path / "link"
    write(path, "input")
    link.symlink_to(path)
    os.link(path, tmp_path / "hard")
    with reserved(path, overwrite=True):
        for name in (path, link, tmp_path / "hard", tmp_path / ".." / tmp_path.name / "a"):
            with pytest.raises(InputError, match="found as input and as output"):
                refuse_output(name)
        refuse_output(tmp_path / "other")
    with (
        pytest.raises(InputError, match="found as two outputs"),
        reserved(path, link, overwrite=True),
    ):
        pass


@pytest.mark.parametrize("kind", ["fifo", "loop", "null", "folder", "nowhere"])
def test_places_that_are_no_files(tmp_path, kind):
    path = tmp_path / "a"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "null":
        path = str(tmp_path) + "/a\0b"
    elif kind == "folder":
        path.mkdir()
    else:
        path = tmp_path / "none" / "a"
    before = os.listdir(tmp_path)
    with (
        pytest.raises(InputError, match=r"found a|found no folder|cannot be"),
        reserved(path, overwrite=True),
    ):
        pass
    assert os.listdir(tmp_path) == before


def test_a_replaced_file_keeps_its_mode(tmp_path):
    path = tmp_path / "a"
    write(path)
    path.chmod(0o640)
    write(path, overwrite=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(InputError, match="found an existing file"), reserved(path):  # noqa: PT012
        write(path)
        path.write_text("of somebody else")
    assert path.read_text() == "of somebody else"
    assert os.listdir(tmp_path) == ["a"]


def test_one_run_at_a_time(tmp_path):
    """Also of two that began together; and in one run, a file that is written over and over."""
    path = tmp_path / "a"
    with reserved(path):
        code = (
            "import sys; from astro_ddprism.io.outputs import locked\n"
            "try:\n    with locked(sys.argv[1]): pass\nexcept ValueError as e: print(e)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, path], capture_output=True, text=True, check=False
        )
        assert "found another run that is writing it" in done.stdout
    with locked(path):
        write(path)
        write(path, overwrite=True)
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_run_leaves_the_next_one_clears_away(tmp_path, number):
    path = tmp_path / "a"
    script = textwrap.dedent(
        f"""
        import os
        from astro_ddprism.io.outputs import replacing
        with replacing({str(path)!r}) as part:
            part.write_text("half")
            os.kill(os.getpid(), {int(number)})
        """
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -number
    assert set(os.listdir(tmp_path)) == {".a.lock", ".a.part"}
    write(path)
    assert os.listdir(tmp_path) == ["a"]


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    path = tmp_path / "a"

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(outputs.os, "fsync", full)
    with pytest.raises(InputError, match=r"a: cannot be written: No space left"):
        write(path)
    assert os.listdir(tmp_path) == []
    with pytest.raises(InputError, match=r"a: found .* MiB of free space in its folder, expected"):
        check_room(path, 2**60)


def test_errors_of_other_files_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"), replacing(tmp_path / "a"):
        Path(tmp_path / "absent").read_text()
