"""What is read: plain files alone; and what libraries throw becomes one line."""

import os
import zlib

import pytest

from astro_ddprism.errors import InputError
from astro_ddprism.io.outputs import reserved
from astro_ddprism.io.reading import check_input, file_name, open_input, reading


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("text")
    return path


@pytest.mark.parametrize(
    "error",
    [ValueError("many\n lines"), zlib.error("-3"), MemoryError(), KeyError("x"), OSError("bare"),
     RecursionError("deep"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no")],
)  # fmt: skip
def test_all_that_is_thrown_becomes_one_line(path, error):
    with pytest.raises(InputError) as caught, reading(path, "a table"):
        raise error
    message = str(caught.value)
    assert message.startswith(f"{path}: found a file that is damaged or something else (")
    assert type(error).__name__ in message
    assert message.endswith("expected a table")
    assert "\n" not in message
    assert caught.value.__cause__ is error


def test_what_says_enough_is_passed_on(path):
    for error in (InputError("as it is"), FileNotFoundError(2, "no", "other")):
        with pytest.raises(type(error)) as caught, reading(path, "a table"):
            raise error
        assert caught.value is error


def test_what_never_ends_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, found in (
        (tmp_path / "pipe", "a pipe"),
        ("/dev/zero", "a device"),
        (tmp_path, "a folder"),
    ):
        with pytest.raises(InputError, match=f"found .*{found}"):
            open_input(name)
    with pytest.raises(InputError, match="cannot be the name of a file"):
        check_input("a\0b")
    with pytest.raises(FileNotFoundError):
        check_input(tmp_path / "absent")


def test_an_output_is_no_input(path):
    with reserved(path, overwrite=True), pytest.raises(InputError, match="input and as output"):
        open_input(path)


def test_names_of_any_bytes_are_text():
    assert file_name(os.fsdecode(b"/tmp/tile\xff\xc3\xa9.fits")) == "tile\\xffé.fits"
