import builtins
import sys
import types

import photutils
import pytest

from astro_ddprism.progress import Progress, is_watched, photutils_bar


@pytest.fixture
def terminal(monkeypatch):
    """Standard error that claims to be a terminal."""
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda _: True, raising=False)


def test_items_pass_through():
    for shown in (True, False):
        assert list(Progress(shown)(range(3), "counting")) == [0, 1, 2]


def test_short_work_has_no_bar(capfd, terminal):
    assert sum(Progress()(range(100), "counting")) == 4950
    assert capfd.readouterr() == ("", "")


def test_bar_tells_the_time_left(capfd, terminal):
    bar = Progress()(range(4), "counting")
    bar.delay, bar.mininterval = 0, 0  # work that is long already
    next(items := iter(bar))
    next(items)
    err = capfd.readouterr().err
    assert "counting:  25%" in err
    assert "1/4" in err
    assert "<" in err  # elapsed<left
    assert list(items) == [2, 3]


def test_total_of_what_cannot_tell(terminal):
    assert Progress()((i for i in range(2)), "counting", total=7).total == 7
    assert Progress(False)(range(2), "counting").disable


@pytest.mark.parametrize(
    ("version", "keywords"),
    [("3.0.0", {"progress_bar": True}), ("3.1.0", {}), ("3.1.1.dev0", {}), ("4.0.0", {})],
)
def test_bars_of_photutils(monkeypatch, terminal, version, keywords):
    monkeypatch.setattr(photutils, "__version__", version)
    assert photutils_bar(True) == keywords


def test_no_bars_where_nobody_looks(monkeypatch, capfd):
    assert not is_watched()
    assert Progress()(range(2), "counting").disable
    monkeypatch.setattr(sys, "stderr", None)  # a program without a console
    assert not is_watched()


@pytest.mark.parametrize(("config", "watched"), [({"IPKernelApp": {}}, True), ({}, False)])
def test_notebooks_are_looked_at(monkeypatch, config, watched):
    shell = types.SimpleNamespace(config=config)
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    assert is_watched() is watched
