"""What an EM iteration does with draws."""

import copy

import numpy as np
import pytest
import torch
from azula.noise import VESchedule

from astro_ddprism.diffusion.learning import em as module
from astro_ddprism.diffusion.learning.em import EMState, ExpectationMaximization
from astro_ddprism.diffusion.learning.stages import Stage
from astro_ddprism.diffusion.networks.mlp import MLP
from astro_ddprism.diffusion.posteriors.amortized import AmortizedPosterior
from astro_ddprism.diffusion.posteriors.solvers import Dense
from astro_ddprism.diffusion.priors.denoiser import SourceDenoiser
from astro_ddprism.diffusion.priors.gaussian import GaussianPrior
from astro_ddprism.diffusion.priors.mixture import MixtureResidualDenoiser
from astro_ddprism.diffusion.sampling.chains import JointSampler
from astro_ddprism.errors import InputError
from astro_ddprism.mixing import Identity
from astro_ddprism.separator.state import tree_from_state
from astro_ddprism.views.dataset import MultiViewDataset

CPU = torch.device("cpu")
SCHEDULE = VESchedule(0.1, 100.0)
SIZE = 2
IMAGE = (1, 2, 2)


# --- iterations ----------------------------------------


def make_views(shape=(SIZE,), **held):
    """Views of 12 observations each; every source has a mean of its own.

    Vectors start from mixtures of Gaussians; one of the shape (1, 2) is none and starts from a
    single Gaussian.
    """
    rng = np.random.default_rng(4)
    means = {"a": 4.0, "b": -6.0, "c": 10.0}
    return MultiViewDataset.from_arrays(
        {
            name: {
                "data": sum(rng.normal(means[s], 2, (12, *shape)) for s in sources)
                + rng.normal(size=(12, *shape)),
                "variance": 1.0,
                "mixing": dict.fromkeys(sources, Identity(shape)),
            }
            for name, sources in held.items()
        }
    )


def make_em(views, make_sampler=None, amortize=False, **settings):
    def make_denoiser(source, data_scale, mixture):
        shape = views.source_shapes[source]
        backbone = MLP(shape, SourceDenoiser.n_features, width=8, depth=1, embedding=4)
        if mixture is None:
            return SourceDenoiser(backbone, SCHEDULE, data_scale)
        return MixtureResidualDenoiser(backbone, SCHEDULE, data_scale, mixture)

    def make_posterior(sources, data_scale):
        bands, *size = views.source_shapes[sources[0]]
        shape = (len(sources) * bands, *size)
        backbone = MLP(shape, AmortizedPosterior.n_features, width=8, depth=1, embedding=4)
        return AmortizedPosterior(backbone, VESchedule(0.1, 1000.0), data_scale)

    def joint_sampler(denoisers, gaussians, mixtures, posteriors):
        return JointSampler(
            denoisers,
            gaussians,
            mixtures,
            posteriors,
            schedule=lambda _: SCHEDULE,
            source_shapes=views.source_shapes,
            scale=lambda _: 1.0,
            device=CPU,
            sampler="adams-bashforth",
            n_steps=4,
            solver=Dense(),
            batch_size=5,
            max_chi2=2.0,
            n_candidates=2,
            n_redraws=1,
        )

    return ExpectationMaximization(
        views,
        make_sampler=make_sampler(joint_sampler) if make_sampler else joint_sampler,
        make_denoiser=make_denoiser,
        amortizes=lambda sources: amortize and len(sources) > 1,
        make_posterior=make_posterior,
        source_shapes=views.source_shapes,
        symmetries=dict.fromkeys(views.sources, ()),
        settings={
            "seed": 1,
            "n_em_iterations": 1,
            "templates": (),
            "flux_factors": {},
            "n_posterior_images": 200,
            "warm_start_rank": 2,
            "warm_start_rank_new": 2,
            "warm_start_iterations": 2,
            "warm_start_components": 4,
            "sigma_min": 0.1,
            "sigma_max": 100.0,
            "batch_size": 5,
            "n_first_images": 200,
            "n_images": 200,
            "train_batch_size": 8,
            "learning_rate": 1e-3,
            "precision": "float32",
            "chain_start": 1.0,
            **settings,
        },
        device=CPU,
        track=lambda items, title, **_: items,  # noqa: ARG005
    )


def leaves(tree, name=""):
    if name == "/history":
        tree = dict(tree)
    if name == "/posteriors":
        tree = {"".join(saved["sources"]): saved["weights"] for saved in tree}
    if isinstance(tree, dict):
        return {k: v for key in tree for k, v in leaves(tree[key], f"{name}/{key}").items()}
    return {name: tree}


def assert_same(state, other):
    """All that was learned, drawn and recorded is equal to the last bit, but for the times."""
    first, second = leaves(tree_from_state(state)), leaves(tree_from_state(other))
    assert set(first) == set(second)
    for name, value in first.items():
        if not name.endswith("_time"):
            np.testing.assert_array_equal(value, second[name], err_msg=name)


SETTINGS = [
    {"v": "a"},
    {"v": "a", "w": "ab"},
    {"v": "a", "w": "ab", "u": "abc"},
    {"v": "ab", "w": "ab"},
    {"v": "abc"},
]


@pytest.mark.parametrize("shape", [(SIZE,), (1, SIZE)], ids=["mixture", "gaussian"])
@pytest.mark.parametrize("held", SETTINGS, ids=lambda held: "-".join(held.values()))
def test_sources_are_learned_in_their_stages(held, shape):
    em, state = make_em(make_views(shape, **held)), EMState()
    seen = []
    for _ in em.run(state):
        seen.append((state.stage, state.iteration, "".join(state.denoisers)))
        assert set(state.gaussians) == set(state.denoisers)
        assert set(state.mixtures) == (set(state.denoisers) if shape == (SIZE,) else set())
    expected, known = [], ""
    for k, stage in enumerate(em.stages):
        known += "".join(stage.sources)
        expected += [(k, 1, known), (k + 1, 0, known)]
    assert seen == expected
    assert not state.draws
    rows = [(row["stage"], row["iteration"], row["source"]) for row in state.history]
    assert rows == [
        (k, i, source)
        for k, stage in enumerate(em.stages)
        for i in (0, 1)
        for source in stage.sources
    ]
    for row in state.history:
        assert row["n_chains"] == 12 * len(em.stages[row["stage"]].views)
        assert np.isfinite([row["loss"], row["chi2"], row["chi2_mean"], row["power"]]).all()
        assert row["power"] > 0
        assert row["e_step_time"] > 0
        assert row["m_step_time"] > 0


@pytest.mark.parametrize("shape", [(SIZE,), (1, SIZE)], ids=["mixture", "gaussian"])
def test_known_sources_stay_as_they_are(shape):
    state = EMState()
    weights = {}
    for _ in make_em(make_views(shape, v="a", w="ab")).run(state):
        now = [p.clone() for p in state.denoisers["a"].state_dict().values()]
        if state.mixtures:
            mixture = state.mixtures["a"]
            now += [mixture.weights.clone(), mixture.means.clone(), mixture.covariances.clone()]
        weights[state.stage, state.iteration] = now
    learned = weights[1, 0]
    assert not all(torch.equal(p, q) for p, q in zip(weights[0, 1], learned, strict=True))
    for later in (weights[1, 1], weights[2, 0]):
        assert all(torch.equal(p, q) for p, q in zip(learned, later, strict=True))


@pytest.mark.parametrize(
    ("held", "shape"),
    [(held, (SIZE,)) for held in SETTINGS[1:4]]
    + [(held, shape) for shape in ((1, SIZE), IMAGE) for held in SETTINGS[1:2]],
    ids=["a-ab", "a-ab-abc", "ab-ab", "a-ab-gaussian", "a-ab-amortized"],
)
def test_goes_on_from_any_iteration_as_if_unbroken(held, shape):
    em, state = make_em(make_views(shape, **held), amortize=shape == IMAGE), EMState()
    states = [copy.deepcopy(state) for _ in em.run(state)]
    for between in states[:-1]:
        torch.rand(7)  # whatever else draws random numbers
        for _ in em.run(between):
            pass
        assert_same(between, state)
    assert list(em.run(states[-1])) == []  # nothing left to do


def test_random_numbers_of_the_caller_are_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    list(make_em(make_views(v="a")).run(EMState()))
    assert torch.equal(torch.rand(3), expected)


class Spoiled:
    """A sampler some of whose chains have failed."""

    def __init__(self, sampler, bad):
        self.sampler, self.bad = sampler, bad

    def __getattr__(self, name):
        return getattr(self.sampler, name)

    def draw(self, *args, **options):
        draws = self.sampler.draw(*args, **options)
        draws.x[self.bad] = torch.nan
        draws.chi2[self.bad] = torch.inf
        draws.good = torch.ones_like(draws.good)
        draws.good[self.bad] = False
        draws.n_redrawn = 3
        return draws


def spoil(bad):
    return lambda make: lambda *priors: Spoiled(make(*priors), bad)


def test_failed_chains_are_left_out_and_counted(monkeypatch):
    trained, original = [], module.images

    def images(samples, *args):
        trained.append(samples)
        return original(samples, *args)

    monkeypatch.setattr(module, "images", images)
    state = EMState()
    list(make_em(make_views(v="ab", w="b"), spoil([1, 4])).run(state))
    # First b alone from w; then a from v. Each M-step sees the ten good draws of each view.
    assert [len(samples) for samples in trained] == [10, 10, 10, 10]
    assert all(torch.isfinite(samples).all() for samples in trained)
    for row in state.history:
        assert (row["n_chains"], row["n_left_out"], row["n_redrawn"]) == (12, 2, 3)
        assert np.isfinite([row["chi2"], row["chi2_mean"], row["power"]]).all()


def test_training_sees_the_draws_of_all_views(monkeypatch):
    trained, original = {}, module.images

    def images(samples, *args):
        trained[len(trained)] = samples
        return original(samples, *args)

    monkeypatch.setattr(module, "images", images)
    list(make_em(make_views(v="ab", w="ba"), n_em_iterations=0).run(EMState()))
    assert [len(samples) for samples in trained.values()] == [24, 24]
    # Sources are told apart by name, whatever their order in a view: their sum is the data's.
    sums = trained[0] + trained[1]
    views = make_views(v="ab", w="ba")
    data = np.concatenate([views["v"].data, views["w"].data])
    assert np.sqrt(np.mean((sums.numpy() - data) ** 2)) < 1.3  # noise of 1


def test_no_chain_left():
    em = make_em(make_views(v="a"), spoil(slice(None)))
    with pytest.raises(InputError, match="'v': all 12 chains contradict"):
        list(em.run(EMState()))


# --- which warm start ----------------------------------------


@pytest.mark.parametrize("held", SETTINGS[1:4], ids=lambda held: "-".join(held.values()))
def test_first_draws_of_mixtures_need_no_chain(held, monkeypatch):
    """Until every source of a view has a network, draws are exact; then chains begin from them."""
    chains = []

    def run(sampler, denoisers, observation, first, start, rows):
        chains.append((state.stage, state.iteration, start))
        return first

    monkeypatch.setattr(JointSampler, "_run", run)
    em, state = make_em(make_views(**held), chain_start=0.4), EMState()
    list(em.run(state))
    assert {iteration for _, iteration, _ in chains} == {1}
    assert {stage for stage, _, _ in chains} == set(range(len(em.stages)))
    assert {start for _, _, start in chains} == {0.4}


def test_gaussians_are_the_moments_of_the_mixtures():
    state = EMState()
    list(make_em(make_views(v="a", w="ab"), n_em_iterations=0).run(state))
    for source, mixture in state.mixtures.items():
        assert mixture.means.dtype == torch.float64
        prior, expected = state.gaussians[source], mixture.gaussian()
        assert prior.mean.dtype == torch.float32
        torch.testing.assert_close(prior.mean, expected.mean.float())
        torch.testing.assert_close(prior.factor, expected.factor.float())


@pytest.mark.parametrize("shape", [(SIZE,), (1, SIZE)], ids=["mixture", "gaussian"])
def test_every_iteration_of_mixtures_draws_anew(shape, monkeypatch):
    """Chains of mixtures begin from exact draws, which know every branch; of Gaussians, from the
    last iteration's."""
    given, draw = [], JointSampler.draw

    def note(*args, first=None, **options):
        given.append(first is not None)
        return draw(*args, first=first, **options)

    monkeypatch.setattr(JointSampler, "draw", note)
    list(make_em(make_views(shape, v="a"), n_em_iterations=2).run(EMState()))
    assert given == ([False] * 3 if shape == (SIZE,) else [False, True, True])


def make_mixed_views(first, second, n=24):
    """A source in a view of as many numbers as given, then it and another in a second view."""
    rng = np.random.default_rng(5)
    A = {name: rng.normal(size=(m, SIZE)) for name, m in (("v", first), ("w", second))}
    x = {"v": rng.normal(4, 2, (n, SIZE)), "w": rng.normal(2, 2, (n, SIZE))}
    return MultiViewDataset.from_arrays(
        {
            name: {
                "data": x[name] @ A[name].T + rng.normal(size=(n, len(A[name]))),
                "variance": 1.0,
                "mixing": dict.fromkeys(sources, A[name]),
            }
            for name, sources in (("v", "a"), ("w", "ab"))
        }
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (3, 20),
        (20, 3),
    ],
)
def test_views_of_few_and_of_many_numbers(first, second):
    """A stage starts from mixtures only where those of the sources known before are at hand."""
    state = EMState()
    list(make_em(make_mixed_views(first, second)).run(state))
    assert set(state.denoisers) == {"a", "b"}
    assert set(state.mixtures) == ({"a"} if first == 3 else set())
    assert all(isinstance(prior, GaussianPrior) for prior in state.gaussians.values())
    assert all(row["n_left_out"] < 12 for row in state.history)


# --- amortized posterior ----------------------------------------


@pytest.fixture
def trained(monkeypatch):
    """What networks are trained, (network, number of images, function that draws), in order."""
    seen, train = [], module.train

    def note(network, draw, **options):
        seen.append((network, options["n_images"], draw))
        return train(network, draw, **options)

    monkeypatch.setattr(module, "train", note)
    return seen


def test_an_amortized_posterior_draws_after_its_first_training(trained, monkeypatch):
    """Priors of the stage are trained on its last draws alone."""
    chains, state = [], EMState()
    for name in ("_run", "_run_amortized"):
        method = getattr(JointSampler, name)

        def run(*args, method=method, name=name):
            chains.append((state.stage, state.iteration, name))
            return method(*args)

        monkeypatch.setattr(JointSampler, name, run)
    views = make_views(IMAGE, v="a", w="ab")
    list(make_em(views, amortize=True, n_em_iterations=2).run(state))
    assert set(chains) == {
        (0, 1, "_run"), (0, 2, "_run"), (1, 0, "_run"),
        (1, 1, "_run_amortized"), (1, 2, "_run_amortized"),
    }  # fmt: skip
    assert list(state.posteriors) == [("a", "b")]
    networks = [(network, n_images) for network, n_images, _ in trained]
    a, b, both = state.denoisers["a"], state.denoisers["b"], state.posteriors["a", "b"]
    assert networks == [(a, 200)] * 3 + [(both, 200), (both, 66), (both, 66), (b, 200)]
    assert [row["iteration"] for row in state.history] == [0, 1, 2] * 2
    assert np.isfinite([row["loss"] for row in state.history]).all()


def test_one_posterior_for_views_of_the_same_sources(trained):
    """Mixed views share one network; each of its batches is simulated as one of them."""
    views, state = make_views(IMAGE, v="ab", w="ab", u="abc"), EMState()
    list(make_em(views, amortize=True, n_em_iterations=1).run(state))
    assert list(state.posteriors) == [("a", "b"), ("a", "b", "c")]
    assert set(state.denoisers) == {"a", "b", "c"}
    names = {id(network): name for name, network in state.denoisers.items()}
    names |= {id(network): "".join(name) for name, network in state.posteriors.items()}
    assert [names[id(network)] for network, _, _ in trained] == [
        "ab", "ab", "a", "b", "abc", "abc", "c",
    ]  # fmt: skip


def test_a_view_without_a_posterior_needs_its_priors(trained):
    """b is held by a view alone, too, whose chains want its denoiser in every iteration."""
    for held in ({"v": "a", "w": "ab", "u": "b"}, {"v": "a", "u": "b", "w": "ab"}):
        trained.clear()
        views, state = make_views(IMAGE, **held), EMState()
        em = make_em(views, amortize=True, n_em_iterations=2)
        em.stages = [Stage(("a",), ("v",)), Stage(("b",), tuple(n for n in held if n != "v"))]
        list(em.run(state))
        b, both = state.denoisers["b"], state.posteriors["a", "b"]
        assert [network for network, _, _ in trained][3:] == [both, b] * 3


def test_what_is_simulated_is_what_was_drawn(trained):
    """Sources are draws of the E-step, known ones of their own stage; y is their sum and noise."""
    views, state = make_views(IMAGE, v="a", w="ab"), EMState()
    em = make_em(views, amortize=True, flux_factors={"b": (2.0, 2.0)}, n_em_iterations=0)
    steps = em.run(state)
    next(steps)
    a = state.samples["a"]
    next(steps)
    _, _, draw = trained[1]
    x, observation = draw(500)
    to_a, to_b = (
        (part[:, None] - known).norm(dim=-1)
        for part, known in ((x[:, :4], a), (x[:, 4:], 2 * state.samples["b"]))
    )
    assert to_a.min(dim=1).values.max() < 1e-5
    assert to_b.min(dim=1).values.max() < 1e-4
    assert len(to_a.argmin(dim=1).unique()) == 12
    residual = observation.y - x[:, :4] - x[:, 4:]  # variance 1 in all pixels
    assert residual.mean().abs() < 5 / np.sqrt(2000)
    assert (residual.std() - 1).abs() < 5 / np.sqrt(4000)


def test_posteriors_may_learn_from_templates(monkeypatch):
    """Symmetric parts of all light, then of the source's draws; priors never learn from them."""
    light, learned = [], []
    original, template = module.images, torch.full((3, *IMAGE), 7.0)
    monkeypatch.setattr(module, "symmetric_templates", lambda x: light.append(x) or template)
    monkeypatch.setattr(module, "images", lambda x, *args: learned.append(x) or original(x, *args))
    views, state = make_views(IMAGE, v="a", w="ab"), EMState()
    list(make_em(views, amortize=True, templates=("b",)).run(state))
    assert len(light) == 2
    data = torch.as_tensor(views["w"].data)
    assert (light[0] - data).square().mean().sqrt() < 1.3  # noise of 1
    # The prior of a twice; then a and b for the posterior twice, and b alone.
    expected = [False, False, False, True, False, True, False]
    assert [x is template for x in learned] == expected
    # The prior of b learns from the draws that the last templates were made of.
    assert torch.equal(light[1], learned[-1])


def test_moment_matching_takes_no_templates(monkeypatch):
    monkeypatch.setattr(module, "symmetric_templates", None)
    list(make_em(make_views(IMAGE, v="a", w="ab"), templates=("b",)).run(EMState()))


def test_nothing_symmetric(monkeypatch):
    monkeypatch.setattr(module, "symmetric_templates", lambda light: light[:0])
    em = make_em(make_views(IMAGE, v="a", w="ab"), amortize=True, templates=("b",))
    with pytest.raises(InputError, match="templates: found no image of the source 'b' that is sym"):
        list(em.run(EMState()))


@pytest.mark.parametrize(
    ("amortize", "label"),
    [(False, "the source 'b'"), (True, "the posterior of a, b")],
    ids=["prior", "posterior"],
)
def test_a_training_that_fails_is_named(amortize, label, monkeypatch):
    """The source and the EM iteration; the states before were yielded whole."""
    samples = ExpectationMaximization._samples

    def spoiled(self, stage, state, source):
        x = samples(self, stage, state, source).clone()
        if (source, state.iteration) == ("b", 1):
            x[3, 0] = np.nan
        return x

    monkeypatch.setattr(ExpectationMaximization, "_samples", spoiled)
    em, seen = make_em(make_views(IMAGE, v="a", w="ab"), amortize=amortize), []
    with pytest.raises(InputError, match=rf"{label}, EM iteration 1: found a loss of nan"):
        seen.extend((state.stage, state.iteration) for state in em.run(EMState()))
    assert seen == [(0, 1), (1, 0), (1, 1)]
