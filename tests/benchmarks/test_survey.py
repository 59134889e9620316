"""Figures of the study of whole surveys: prices, memory, rows that agree, processes that die."""

import sys
import time

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Table

pytest.importorskip("pyarrow")

from benchmarks.survey.processes import Session
from benchmarks.survey.study import STEPS, growth, prices, scaling, shares
from benchmarks.survey.tiles import n_missing, n_twice, same


def costs(samples, objects, per_pixel=2e-6, per_object=0.01, per_draw=0.03, side=1000):
    after = objects * (per_object + samples * per_draw)
    seconds = dict.fromkeys(STEPS, 0.0) | {
        "reading": side**2 * per_pixel / 4, "detection": 3 * side**2 * per_pixel / 4,
        "sampling": after / 2, "photometry": after / 3, "writing": after / 6,
    }  # fmt: skip
    return {"samples": samples, "objects": objects, "steps": seconds}


def test_prices_are_those_that_the_seconds_were_made_of():
    found = prices([costs(2, 90), costs(16, 90)], {"side": 1000})
    for rate in found["rates"]:
        assert rate["by_megapixel_s"] == pytest.approx(2.0)
        assert rate["by_object_s"] == pytest.approx(0.01)
        assert rate["by_draw_s"] == pytest.approx(0.03)
    assert [r["objects_a_second"] for r in found["rates"]] == [
        round(1 / 0.07, 1),
        round(1 / 0.49, 1),
    ]
    lsst = found["surveys"][0]
    assert lsst["galaxies"] == 55 * 3600
    assert lsst["megapixels"] == round(18000**2 / 1e6)
    hours = (18000**2 * 2e-6 + 55 * 3600 * 0.07) / 3600
    assert lsst["core_hours_2"] == pytest.approx(hours, abs=0.06)


def test_shares_and_growth():
    assert [one["share"] for one in shares({"a": 1.0, "b": 3.0})] == [0.25, 0.75]
    histories = [[(0, 90), (2, 100), (3, 105)], [(1, 80), (3, 84)]]
    assert growth(histories, 2) == {
        "first": 2, "at_first_MiB": 100, "at_last_MiB": 105, "ratio": 1.05
    }  # fmt: skip


def test_a_rate_by_processor_time_leaves_the_start_out():
    """One worker starts in 8 s and does 9 tiles in 45; each of two does 32 of 64, 5 s each."""
    one = {"tiles": 9, "wall_s": 90.0, "worker_cpu_s": [53.0], "tiles_cpu_s": 45.0}
    two = {"tiles": 64, "wall_s": 400.0, "worker_cpu_s": [168.0, 160.0], "tiles_cpu_s": 312.0}
    alone, both = scaling([one, two])
    assert (alone["times_as_fast"], alone["times_as_fast_cpu"]) == (1.0, 1.0)
    assert (both["times_as_fast"], both["times_as_fast_cpu"]) == (1.6, 2.0)
    assert both["tiles"] == 64


def test_rows_that_agree_and_objects_that_come_twice():
    table = Table({"id": ["a", "b", "c"], "tile": ["1", "1", "2"], "ra": [10.0, 10.0, 10.0],
                   "dec": [0.0, 1 / 3600, 5 / 3600], "flux": [1.0, np.nan, 2.0]})  # fmt: skip
    assert same(table, table.copy())
    other = table.copy()
    other["flux"][2] = np.nextafter(2.0, 3)
    assert not same(table, other)
    assert n_twice(table) == 0  # those that are near are of one tile
    table["dec"][2] = 2 / 3600
    assert n_twice(table) == 1
    near, far = np.array(table["dec"][:2]) + 1.4 / 3600, np.array(table["dec"][:2]) + 5
    places = np.concatenate([near, far])
    assert n_missing(table, SkyCoord(np.tile(table["ra"][:2], 2), places, unit="deg")) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="memory of others is told by /proc")
def test_a_session_is_watched_and_killed_whole():
    code = "import subprocess, sys, time; x = bytearray(60 << 20); "
    code += "subprocess.run([sys.executable, '-c', 'import time; time.sleep(0.5)'])"
    session = Session([sys.executable, "-c", code], lambda: 1)
    figures = session.wait()
    assert 60 <= figures["peak_MiB"] < 500
    assert len(session.seen) == 2
    assert session.seen[session.process.pid]["history"] == [(1, figures["peak_MiB"])]
    session = Session([sys.executable, "-c", code.replace("0.5", "60")])
    while len(session.seen) < 2:
        time.sleep(0.05)
    session.kill()
    assert not session.is_running
    assert session.seconds < 50
