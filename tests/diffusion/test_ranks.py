"""Two processes share the work of one, over gloo."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from astropy.io import fits

from astro_ddprism import DiffusionSourceSeparator, MultiViewDataset
from astro_ddprism.cli import main
from astro_ddprism.diffusion import ranks
from astro_ddprism.diffusion.learning.em import ExpectationMaximization
from astro_ddprism.mixing import Identity

FIT = """
n_em_iterations = 1
seed = 3
network = { name = "unet", channels = [4, 8], blocks = [1, 1], embedding = 8 }
training = { n_first_images = 640, n_images = 160, learning_rate = 1e-3 }
chains = { n_steps = 4, max_chi2 = 5.0 }
execution = { device = "cpu", batch_size = 16, precision = "float32" }
warm_start = { name = "gaussian", iterations = 2 }
[posterior]
name = "amortized"
network = { name = "unet", channels = [4], blocks = [1], embedding = 8 }
n_images = %d
"""


def make_views(n=23):
    """Noise at random positions, a blob in the centre of galaxies; an odd number of each."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:8, :8] - 3.5
    blob = 5 * np.exp(-(x**2 + y**2) / 4)
    views = {"random": ("los",), "galaxy": ("los", "galaxy")}
    return MultiViewDataset.from_arrays(
        {
            name: {
                "data": rng.normal((len(sources) - 1) * blob, 1.2, (n, 1, 8, 8)),
                "variance": 1.0,
                "mixing": dict.fromkeys(sources, Identity((1, 8, 8))),
            }
            for name, sources in views.items()
        }
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of views and options of a fit."""
    folder = tmp_path_factory.mktemp("ranks")
    make_views().write(folder / "views.asdf")
    (folder / "short.toml").write_text(FIT % 960)
    (folder / "long.toml").write_text(FIT % 48_000)
    return folder


BREAK = """
from astro_ddprism.diffusion.learning.em import ExpectationMaximization
from astro_ddprism.errors import InputError

whole = ExpectationMaximization.run


def broken(self, state):
    for each in whole(self, state):
        yield each  # whereupon it is saved
        raise InputError("that is enough")


ExpectationMaximization.run = broken
"""

SCRIPT = """
import sys
from astro_ddprism.cli import main
from astro_ddprism.diffusion import ranks

with ranks.joined():
    for command in " ".join(sys.argv[1:]).split(" then "):
        if status := main(command.split()):
            sys.exit(status)
"""


@pytest.fixture
def start():
    """Starts two processes of commands, as torchrun does."""
    started = []

    def start(*arguments):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for k in range(2):
            of_rank = {"RANK": k, "LOCAL_RANK": k, "WORLD_SIZE": 2, "MASTER_PORT": port}
            environment = {
                **os.environ,
                **{name: str(value) for name, value in of_rank.items()},
                "MASTER_ADDR": "127.0.0.1",
                "OMP_NUM_THREADS": "1",
            }
            started.append(
                subprocess.Popen(
                    [sys.executable, *map(str, arguments)],
                    env=environment,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        return started[-2:]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ended(processes):
    """What each said, and its exit status."""
    said = [process.communicate(timeout=300)[1] for process in processes]
    return said, [process.returncode for process in processes]


def weights(path):
    model = DiffusionSourceSeparator.read(path, "cpu")
    networks = {**model.priors_, **model.posterior_}
    return {name: network.state_dict() for name, network in networks.items()}


def differences(path, other):
    """Largest difference of two models' weights, each network's in units of its weights' scale."""
    own, others = weights(path), weights(other)
    assert set(own) == set(others) == {"los", "galaxy", ("los", "galaxy")}
    largest = []
    for network, values in own.items():
        scale = torch.cat([v.flatten() for v in values.values()]).square().mean().sqrt()
        largest += [
            float((value - others[network][name]).abs().max() / scale)
            for name, value in values.items()
        ]
    return max(largest)


@pytest.fixture(scope="module")
def one(files):
    """The model that one process learns."""
    out = files / "one.asdf"
    fit = f"fit {files}/views.asdf --config {files}/short.toml -q -o {out}"
    assert main(fit.split()) == 0
    return out


def test_two_processes_learn_and_draw_what_one_does(files, start, one, tmp_path):
    """Priors, posterior and a product, of 23 observations: shares are odd."""
    two = tmp_path / "two.asdf"
    fit = f"fit {files}/views.asdf --config {files}/short.toml -q -o"
    separate = f"separate {files}/views.asdf --samples 3 --keep-samples -q --model {two} -o"
    said = ended(start("-c", SCRIPT, f"{fit} {two} then {separate} {tmp_path}/two.fits"))
    assert said == (["", ""], [0, 0])
    assert not list(tmp_path.glob("*.checkpoint"))
    assert differences(two, one) < 1e-3
    assert main([*separate.split(), str(tmp_path / "one.fits")]) == 0
    with fits.open(tmp_path / "one.fits") as own, fits.open(tmp_path / "two.fits") as other:
        for name in ("LOS_SAMPLES", "GALAXY_SAMPLES"):
            np.testing.assert_allclose(own[name].data, other[name].data, rtol=0, atol=1e-4)


@pytest.mark.parametrize("first", [1, 2])
def test_a_fit_goes_on_with_another_number_of_processes(
    first, files, start, one, tmp_path, monkeypatch
):
    """Broken off by one and gone on with by two, and the other way round: what one learns."""
    out = tmp_path / "model.asdf"
    fit = f"fit {files}/views.asdf --config {files}/short.toml -q -o {out}"
    if first == 1:
        with monkeypatch.context() as patch:
            patch.setattr(ExpectationMaximization, "run", ExpectationMaximization.run)
            exec(BREAK, {})
            assert main(fit.split()) == 2
    else:
        assert ended(start("-c", BREAK + SCRIPT, fit))[1] == [2, 2]
    assert (tmp_path / "model.asdf.checkpoint").exists()
    assert not out.exists()
    if first == 1:
        assert ended(start("-c", SCRIPT, f"{fit} --resume")) == (["", ""], [0, 0])
    else:
        assert main([*fit.split(), "--resume"]) == 0
    assert not (tmp_path / "model.asdf.checkpoint").exists()
    assert differences(out, one) < 1e-3


def test_a_process_that_dies_ends_all(files, start, tmp_path):
    """With one line and no model, but a checkpoint."""
    out = tmp_path / "model.asdf"
    checkpoint = tmp_path / "model.asdf.checkpoint"
    fit = f"fit {files}/views.asdf --config {files}/long.toml -q -o {out}"
    processes = start("-m", "astro_ddprism", *fit.split())
    deadline = time.monotonic() + 300
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(processes[1].pid, signal.SIGKILL)
    (said, _), status = ended(processes)
    assert status == [2, -signal.SIGKILL]
    assert said == (
        "ddprism: error: process 0 of 2: found that another has ended, expected all to go on; what "
        "the separator had learned before is as it was; to go on from the last EM iteration, "
        f"fit(..., checkpoint={str(checkpoint)!r}, resume=True) (ddprism fit --resume)\n"
    )
    assert checkpoint.exists()
    assert not out.exists()


def test_what_all_processes_find_wrong_is_said_once():
    store = torch.distributed.HashStore()
    assert [ranks._is_first_to_fail(store) for _ in range(3)] == [True, False, False]


def test_one_process_has_it_all():
    x = torch.arange(6.0).view(3, 2)
    assert (ranks.n_ranks(), ranks.rank(), ranks.is_first()) == (1, 0, True)
    assert ranks.own_rows(3) == slice(0, 3)
    assert ranks.gathered(x, 3) is x
    before = x.clone()
    ranks.sum_(x)
    ranks.agree([x])
    assert torch.equal(x, before)
    with ranks.joined():
        assert ranks.n_ranks() == 1


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_are_even(size, monkeypatch):
    rows = np.arange(23)
    monkeypatch.setattr(ranks, "n_ranks", lambda: size)
    shares = []
    for k in range(size):
        monkeypatch.setattr(ranks, "rank", lambda k=k: k)
        shares.append(rows[ranks.own_rows(23)])
    assert np.array_equal(np.concatenate(shares), rows)
    assert np.ptp([len(share) for share in shares]) <= 1
