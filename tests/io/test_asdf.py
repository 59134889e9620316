"""Trees in ASDF files, whatever they hold: written whole or not at all, read whole or refused."""

import hashlib
import re
import signal
import subprocess
import sys
import textwrap
import time

import asdf
import numpy as np
import pytest
from astropy import units as u
from astropy.table import QTable

from astro_ddprism import InputError
from astro_ddprism.io.asdf import FORMAT_VERSIONS, read_tree, write_tree


def test_a_tree_of_a_model(tmp_path):
    tree = {
        "kind": "model",
        "weights": {"layer.0": np.arange(6, dtype=np.float32).reshape(2, 3)},
        "history": QTable({"loss": [1.0, 0.5], "time": [1, 2] * u.s}),
        "unit": u.nJy,
        "sources": ["los", "galaxy"],
        "config": {"n": 3, "precise": True, "name": None},
    }
    write_tree(tmp_path / "model.asdf", tree)
    again = read_tree(tmp_path / "model.asdf", "model")
    assert type(again["weights"]["layer.0"]) is np.ndarray
    np.testing.assert_array_equal(again["weights"]["layer.0"], tree["weights"]["layer.0"])
    assert (again["history"]["time"] == tree["history"]["time"]).all()
    assert {name: again[name] for name in ("unit", "sources", "config")} == {
        name: tree[name] for name in ("unit", "sources", "config")
    }
    assert again["format_version"] == FORMAT_VERSIONS["model"] == 4
    assert again["software"]["name"] == "astro-ddprism"


def test_a_killed_write_leaves_a_whole_file(tmp_path):
    """Kill a process that writes over and over: the file is the old or the new one, never half."""
    path = tmp_path / "model.asdf"
    script = textwrap.dedent(
        f"""
        import numpy as np
        from astro_ddprism.io.asdf import write_tree
        for i in range(100000):
            tree = {{"kind": "model", "i": np.full(500_000, i)}}
            write_tree({str(path)!r}, tree, overwrite=True)
            print(i, flush=True)
        """
    )
    for delay in (0.0, 0.013, 0.031):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        with process.stdout:
            process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            process.wait()
        found = read_tree(path, "model")["i"]
        assert (found == found[0]).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"", "found an empty file"),
        (b"SIMPLE  =                    T", "found a FITS file, expected an ASDF file"),
        (b"id,ra,dec\n1,2,3\n", "found something else, expected an ASDF file"),
        (b"#ASDF 1.0.0\n", "found a truncated or damaged ASDF file"),
    ],
)
def test_no_asdf_file(content, message, tmp_path):
    path = tmp_path / "views.asdf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: {message}"):
        read_tree(path, "views")


def test_asdf_file_of_others(tmp_path):
    asdf.AsdfFile({"data": np.ones(3)}).write_to(tmp_path / "other.asdf")
    with pytest.raises(InputError, match=r"other.asdf: found an ASDF file that astro-ddprism did"):
        read_tree(tmp_path / "other.asdf", "views")


def test_checksums_are_those_of_the_standard(tmp_path):
    """MD5 of the bytes of a block as they are stored, whichever version of asdf will read it."""
    path = tmp_path / "model.asdf"
    write_tree(path, {"kind": "model", "array": np.zeros((64, 64))}, compression="zlib")
    content = path.read_bytes()
    start = content.index(b"\xd3BLK")
    size = int.from_bytes(content[start + 4 : start + 6], "big")
    header, body = content[start + 6 : start + 6 + size], content[start + 6 + size :]
    assert header[4:8] == b"zlib"
    used = int.from_bytes(header[16:24], "big")
    assert used < 64 * 64 * 8
    assert header[32:48] == hashlib.md5(body[:used]).digest()
