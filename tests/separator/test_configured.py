"""Parameters of separators: checked whenever they are set, read and written as trees."""

import copy
import tomllib

import pytest

from astro_ddprism import DiffusionSourceSeparator, GaussianSourceSeparator, InputError
from astro_ddprism.separator import SourceSeparator
from astro_ddprism.separator.parts import (
    CG,
    MLP,
    Amortized,
    Chains,
    Heun,
    MomentMatching,
    NoiseSchedule,
    UNet,
    WarmStart,
)

TOML = """
method = "diffusion"
sources = ["los", "galaxy"]
seed = 3
symmetries = { galaxy = ["flips"] }

[n_em_iterations]
los = 2
galaxy = 1

[network]
name = "unet"
channels = [4, 8]

[posterior]
name = "amortized"
n_images = 960
flux_factors = { galaxy = [0.5, 2] }
templates = ["galaxy"]
sampler = "heun"

[posterior.otherwise]
name = "moment-matching"
solver = { name = "cg", iterations = 5 }

[chains]
start = 1
sampler = { name = "predictor-corrector", delta = 0.5 }

[execution]
batch_size = 7
"""


def test_a_file_of_nested_tables():
    """Every table becomes its part, every name its defaults, and what is not said has its own."""
    separator = SourceSeparator.from_config(tomllib.loads(TOML))
    assert type(separator) is DiffusionSourceSeparator
    assert separator.network == UNet(channels=(4, 8))
    assert separator.posterior == Amortized(
        n_images=960,
        flux_factors={"galaxy": (0.5, 2.0)},
        templates=("galaxy",),
        sampler=Heun(),
        otherwise=MomentMatching(CG(5)),
    )
    assert separator.n_em_iterations == {"los": 2, "galaxy": 1}
    assert separator.chains.start == 1.0
    assert separator.chains.sampler.delta == 0.5
    assert (separator.chains.sampler.corrections, separator.chains.n_steps) == (1, 16)
    assert separator.execution.batch_size == 7
    assert separator.warm_start == WarmStart()
    assert separator.sources == ("los", "galaxy")


@pytest.mark.parametrize(
    "separator",
    [
        DiffusionSourceSeparator(),
        SourceSeparator.from_config(tomllib.loads(TOML)),
        DiffusionSourceSeparator(network=MLP(8), posterior="mixture", device="cpu"),
        GaussianSourceSeparator(sources=("a",), warm_start={"name": "gaussian", "rank": 3}),
    ],
    ids=["default", "toml", "mixture", "gaussian"],
)
def test_config_makes_a_separator_of_the_same_parameters(separator):
    def plain(tree):
        if isinstance(tree, dict):
            return all(isinstance(key, str) and plain(value) for key, value in tree.items())
        if isinstance(tree, list):
            return all(map(plain, tree))
        return tree is None or type(tree) in {bool, int, float, str}

    config = separator.config
    assert plain(config)
    again = SourceSeparator.from_config(config)
    assert type(again) is type(separator)
    assert again.config == config
    assert again.get_params() == separator.get_params()
    changed = copy.deepcopy(config) | {"seed": 9}
    assert SourceSeparator.from_config(changed).config != config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "transformer"}, "^network: found 'transformer', expected one of .*mlp, unet"),
        (
            {"network": 3},
            "^network: found 3, expected a network, one of .*mlp, unet, or a table with",
        ),
        ({"network": {"channels": [4]}}, "^network: found a table without a name, expected one of"),
        ({"network": {"name": "unet", "hight": 3}}, "^UNet: found hight, expected options out of"),
        ({"network": {"name": "unet", "channels": [4]}}, "^UNet.blocks: found 2 for 1 channels"),
        ({"network": {"name": "unet", "channels": 4}}, "^UNet.channels: found 4, expected a list"),
        ({"chains": {"sampler": "magic"}}, "^sampler: found 'magic', expected one of adams-bash"),
        ({"chains": {"n_steps": 0}}, "^Chains.n_steps: found 0, expected a number not below 1"),
        ({"chains": {"n_steps": 2.5}}, "^Chains.n_steps: found 2.5, expected an integer"),
        ({"chains": {"n_steps": True}}, "^Chains.n_steps: found True, expected an integer"),
        ({"chains": {"n_candidates": 0}}, "^Chains.n_candidates: found 0, expected a number not b"),
        ({"chains": {"max_chi2": float("nan")}}, "^Chains.max_chi2: found nan, expected a finite"),
        ({"chains": {"start": 1.5}}, "^Chains.start: found 1.5, expected a number not above 1"),
        ({"chains": {"start": 0}}, "^Chains.start: found 0.0, expected a number above 0"),
        ({"chains": {"n_setps": 3}}, "^Chains: found n_setps, expected options out of sampler"),
        ({"chains": [3]}, r"^Chains: found \[3\], expected a table of Chains"),
        ({"chains": "fast"}, "^Chains: found 'fast', expected a table of Chains"),
        ({"execution": {"precision": "float16"}}, "precision: found 'float16', expected one of a"),
        ({"execution": {"batch_size": "many"}}, "batch_size: found 'many', expected .*an integer"),
        ({"warm_start": {"name": "gaussian", "components": 0}}, "components: found 0, expected a"),
        ({"training": {"learning_rate": 0.0}}, "learning_rate: found 0.0, expected a number above"),
        ({"training": {"learning_rate": "0.1"}}, "learning_rate: found '0.1', expected a number"),
        (
            {"schedule": {"sigma_min": 5, "sigma_max": 2.0}},
            "^NoiseSchedule: found sigma_min 5 and sigma_max 2, expected sigma_min <",
        ),
        ({"n_em_iterations": -1}, "n_em_iterations: found -1, expected a number not below 0"),
        ({"n_em_iterations": {"a": -1}}, "n_em_iterations: found -1, expected a number not below"),
        ({"n_em_iterations": 1.5}, "n_em_iterations: found 1.5, expected an integer or a table"),
        ({"progress": 1}, "progress: found 1, expected true or false"),
        ({"device": 0}, "device: found 0, expected a text"),
        ({"seed": -1}, "seed: found -1, expected a number not below 0"),
        ({"symmetries": {"a": ["mirror"]}}, "symmetries: found 'mirror', expected one of rotat"),
        ({"symmetries": {"a": "flips"}}, r"symmetries\['a'\]: found 'flips', expected a list"),
        ({"sources": "galaxy"}, "sources: found 'galaxy', expected .*a list, each a text"),
        (
            {"posterior": "exact"},
            "^posterior method: found 'exact', expected one of amortized, .*moment-matching",
        ),
        (
            {"posterior": None},
            "^posterior method: found None, expected a posterior method, one of amor",
        ),
        ({"method": "magic"}, "^method: found 'magic', expected one of .*diffusion, gaussian"),
        ({"method": "gaussian"}, "^method: found 'gaussian', expected 'diffusion', that of Diff"),
        ({"n_setps": 3, "x": 0}, "^configuration: unknown n_setps, x; expected names out of cha"),
    ],
)
def test_options(options, message):
    with pytest.raises(InputError, match=message):
        DiffusionSourceSeparator.from_config(options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "qr"}, "^solver: found 'qr', expected one of cg, dense, gmres"),
        (
            {"solver": {"name": "dense", "iterations": 3}},
            "^Dense: found iterations, expected .*non",
        ),
        ({"solver": {"name": "cg", "iterations": 0}}, "^CG.iterations: found 0, expected a number"),
    ],
)
def test_options_of_solvers(options, message):
    with pytest.raises(InputError, match=message):
        DiffusionSourceSeparator(posterior={"name": "moment-matching", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": {"name": "unet", "hight": 3}}, "^UNet: found hight, expected options out of"),
        ({"network": [3]}, r"network: found \[3\], expected a"),
        ({"n_images": 0}, "^Amortized.n_images: found 0, expected a number not below 1"),
        ({"templates": "galaxy"}, "^Amortized.templates: found 'galaxy', expected a list, each a"),
        ({"flux_factors": [1, 2]}, r"^Amortized.flux_factors: found \[1, 2\], expected a table"),
        ({"flux_factors": {"a": 2.0}}, r"flux_factors\['a'\]: found 2.0, expected 2 values, a num"),
        ({"flux_factors": {"a": [1, 2, 3]}}, r"flux_factors\['a'\]: found \[1, 2, 3\], expected 2"),
        ({"flux_factors": {"a": [3, 2]}}, r"flux_factors\['a'\]: found 3, 2, expected two number"),
        ({"flux_factors": {"a": [0, 2]}}, "flux_factors: found 0.0, expected a number above 0"),
        ({"flux_factors": {"a": [1, "x"]}}, r"flux_factors\['a'\]: found 'x', expected a number"),
    ],
)
def test_options_of_amortized_posteriors(options, message):
    with pytest.raises(InputError, match=message):
        DiffusionSourceSeparator(posterior={"name": "amortized", **options})


def test_options_are_checked_when_they_are_set():
    """There is no separator that cannot be used: what is refused leaves what was there."""
    separator = DiffusionSourceSeparator(seed=2)
    for name, value, message in (
        ("seed", "x", "seed: found 'x', expected an integer"),
        ("chains", {"n_steps": -5}, "n_steps: found -5, expected a number not below 1"),
        ("network", "resnet", "network: found 'resnet'"),
        ("sources", [1], "sources: found 1, expected a text"),
    ):
        before = getattr(separator, name)
        with pytest.raises(InputError, match=message):
            setattr(separator, name, value)
        assert getattr(separator, name) == before
    separator.chains = {"n_steps": 5}
    separator.sources = ["a"]
    separator.network = "mlp"
    assert separator.chains == Chains(n_steps=5)
    assert separator.sources == ("a",)
    assert separator.network == MLP()
    with pytest.raises(AttributeError, match="n_steps"):  # parts are frozen
        separator.chains.n_steps = 6
    for name in ("n_steps", "device"):  # which would do nothing
        with pytest.raises(InputError, match=f"^{name}: no parameter; expected one of sources, "):
            setattr(separator, name, 3)


def test_parameters_as_scikit_learn_has_them():
    separator = DiffusionSourceSeparator(posterior="amortized")
    shallow, deep = separator.get_params(deep=False), separator.get_params()
    assert set(shallow) == {
        "sources", "execution", "in_units_of_noise", "seed", "progress", "network", "posterior",
        "schedule", "warm_start", "training", "chains", "n_em_iterations", "symmetries",
    }  # fmt: skip
    assert deep["posterior"] is separator.posterior
    assert deep["posterior__otherwise__solver__iterations"] == 3
    assert deep["chains__sampler"] is separator.chains.sampler
    assert "network__channels" not in deep  # no network is named
    again = DiffusionSourceSeparator(**shallow)  # as `sklearn.base.clone` makes one
    assert again.get_params() == deep
    changes = {
        "seed": 4,
        "posterior__otherwise__solver": "cg",
        "posterior__network__channels": (8, 8),
        "chains__start": 0.5,
        "chains": {"n_steps": 3},
        "network": "unet",
    }
    assert again.set_params(**changes) is again
    found = again.get_params()
    assert found["posterior__otherwise__solver"] == CG()
    assert found["posterior__network__channels"] == (8, 8)
    assert (found["chains__n_steps"], found["chains__start"]) == (3, 0.5)
    assert (again.seed, again.network) == (4, UNet())
    assert deep == separator.get_params()  # parts are not shared


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_steps": 3}, "^n_steps: no parameter; expected one of sources, "),
        ({"chains__n_setps": 3}, "^chains__n_setps: no parameter"),
        ({"seed__x": 3}, "^seed__x: no parameter"),
        ({"network__channels": (4, 8)}, "^network__channels: no parameter"),
        ({"chains__n_steps": 0}, "^Chains.n_steps: found 0"),
        ({"posterior__solver__iterations": "x"}, "iterations: found 'x'"),
    ],
)
def test_parameters_that_cannot_be_set(changes, message):
    """All of them or none."""
    separator = DiffusionSourceSeparator(seed=1)
    with pytest.raises(InputError, match=message):
        separator.set_params(seed=2, schedule__sigma_min=0.5, **changes)
    assert (separator.seed, separator.schedule) == (1, NoiseSchedule())


def test_a_device_is_short_for_where_to_compute():
    separator = DiffusionSourceSeparator(device="cpu", execution={"precision": "bfloat16"})
    assert (separator.execution.device, separator.execution.precision) == ("cpu", "bfloat16")
    assert DiffusionSourceSeparator().execution.device == "auto"
    assert "device" not in separator.get_params(deep=False)


def test_separators_are_equal_to_themselves_alone(fitted, flat):
    """The same parameters do not make the same model."""
    new = DiffusionSourceSeparator(**flat)
    assert new.config == fitted.config
    assert new != fitted
    assert len({new, fitted, fitted}) == 2
