"""What an EM iteration does with draws."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from astro_ddprism.diffusion.learning import data as data_module
from astro_ddprism.diffusion.learning import em as module
from astro_ddprism.diffusion.learning.data import Turns
from astro_ddprism.diffusion.learning.em import EMState, ExpectationMaximization
from astro_ddprism.diffusion.learning.stages import Stage
from astro_ddprism.diffusion.learning.training import Trainer, Training
from astro_ddprism.diffusion.learning.warmstart import WarmStart
from astro_ddprism.diffusion.networks.mlp import MLP
from astro_ddprism.diffusion.parallel import Execution
from astro_ddprism.diffusion.posteriors.amortized import Amortized
from astro_ddprism.diffusion.posteriors.base import Priors
from astro_ddprism.diffusion.posteriors.moment_matching import (
    JointPosteriorDenoiser,
    MomentMatching,
)
from astro_ddprism.diffusion.posteriors.solvers import Dense
from astro_ddprism.diffusion.priors.gaussian import GaussianPrior
from astro_ddprism.diffusion.priors.schedule import NoiseSchedule
from astro_ddprism.diffusion.sampling.chains import Chains
from astro_ddprism.diffusion.sampling.samplers import AdamsBashforth
from astro_ddprism.errors import InputError
from astro_ddprism.mixing import Identity
from astro_ddprism.separator.loader import ViewLoader
from astro_ddprism.separator.trees import draws_tree, priors_tree
from astro_ddprism.views.dataset import MultiViewDataset

CPU = torch.device("cpu")
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


NETWORK = MLP(width=8, depth=1, embedding=4)


def make_state(views):
    networks = dict.fromkeys(views.source_shapes, NETWORK)
    return EMState(Priors(NoiseSchedule(0.1, 100.0), networks))


def make_em(
    views, amortize=None, *, n_em_iterations=1, start=1.0, n_observations=None, held_out=0.0
):
    """EM of small networks; ``amortize`` are the options of an amortized posterior."""
    posterior = MomentMatching(Dense())
    if amortize is not None:
        posterior = Amortized(NETWORK, 200, **amortize, otherwise=posterior)
    training = Training(200, 200, 8, 1e-3, n_observations, held_out)
    return ExpectationMaximization(
        {name: ViewLoader(view, 1.0, CPU) for name, view in views.items()},
        symmetries=dict.fromkeys(views.sources, ()),
        posterior=posterior,
        warm_start=WarmStart(rank=2, rank_new=2, iterations=2, components=4),
        trainer=Trainer(training, Execution("cpu", batch_size=5), lambda steps, _: steps),
        chains=Chains(sampler="adams-bashforth", n_steps=4, start=start, n_candidates=2),
        n_em_iterations=dict.fromkeys(views.sources, n_em_iterations),
        seed=1,
        track=lambda items, *_, **__: items,
    )


def leaves(tree, name=""):
    if name == "/learned":
        tree = {"".join(saved["sources"]): saved["weights"] for saved in tree}
    if isinstance(tree, dict):
        return {k: v for key in tree for k, v in leaves(tree[key], f"{name}/{key}").items()}
    return {name: tree}


def assert_same(state, other):
    """All that was learned, drawn and recorded is equal to the last bit, but for the times."""
    first, second = (
        leaves(priors_tree(s.priors) | draws_tree(s, empty=False) | {
            f"{i} {name}": value for i, row in enumerate(s.history) for name, value in row.items()
        })
        for s in (state, other)
    )  # fmt: skip
    assert (state.stage, state.iteration) == (other.stage, other.iteration)
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
    views = make_views(shape, **held)
    em, state = make_em(views), make_state(views)
    seen = []
    for _ in em.run(state):
        seen.append((state.stage, state.iteration, "".join(state.priors.denoisers)))
        assert set(state.priors.gaussians) == set(state.priors.denoisers)
        assert set(state.priors.mixtures) == (
            set(state.priors.denoisers) if shape == (SIZE,) else set()
        )
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
    views = make_views(shape, v="a", w="ab")
    state = make_state(views)
    weights = {}
    for _ in make_em(views).run(state):
        now = [p.clone() for p in state.priors.denoisers["a"].state_dict().values()]
        if state.priors.mixtures:
            mixture = state.priors.mixtures["a"]
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
    views = make_views(shape, **held)
    em, state = make_em(views, {} if shape == IMAGE else None), make_state(views)
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
    views = make_views(v="a")
    list(make_em(views).run(make_state(views)))
    assert torch.equal(torch.rand(3), expected)


def spoil(monkeypatch, bad):
    """Let some of the chains fail."""

    def draw(*args, original=module.draw_sources, **options):
        draws = original(*args, **options)
        draws.x[bad] = torch.nan
        draws.chi2[bad] = torch.inf
        draws.good = torch.ones_like(draws.good)
        draws.good[bad] = False
        draws.n_redrawn = 3
        return draws

    monkeypatch.setattr(module, "draw_sources", draw)


def test_failed_chains_are_left_out_and_counted(monkeypatch):
    trained, original = [], data_module.images

    def images(samples, *args):
        trained.append(samples)
        return original(samples, *args)

    monkeypatch.setattr(data_module, "images", images)
    spoil(monkeypatch, [1, 4])
    views = make_views(v="ab", w="b")
    state = make_state(views)
    list(make_em(views).run(state))
    # First b alone from w; then a from v. Each M-step sees the ten good draws of each view.
    assert [len(samples) for samples in trained] == [10, 10, 10, 10]
    assert all(torch.isfinite(samples).all() for samples in trained)
    for row in state.history:
        assert (row["n_chains"], row["n_left_out"], row["n_redrawn"]) == (12, 2, 3)
        assert np.isfinite([row["chi2"], row["chi2_mean"], row["power"]]).all()


def test_training_sees_the_draws_of_all_views(monkeypatch):
    trained, original = {}, data_module.images

    def images(samples, *args):
        trained[len(trained)] = samples
        return original(samples, *args)

    monkeypatch.setattr(data_module, "images", images)
    views = make_views(v="ab", w="ba")
    list(make_em(views, n_em_iterations=0).run(make_state(views)))
    assert [len(samples) for samples in trained.values()] == [24, 24]
    # Sources are told apart by name, whatever their order in a view: their sum is the data's.
    sums = trained[0] + trained[1]
    data = np.concatenate([views["v"].data, views["w"].data])
    assert np.sqrt(np.mean((sums.numpy() - data) ** 2)) < 1.3  # noise of 1


def test_no_chain_left(monkeypatch):
    spoil(monkeypatch, slice(None))
    views = make_views(v="a")
    with pytest.raises(InputError, match="'v': all 12 chains contradict"):
        list(make_em(views).run(make_state(views)))


# --- which warm start ----------------------------------------


@pytest.fixture
def chains(monkeypatch):
    """What chains are run, in ``seen``: what `note` returns, the kind of denoiser, the start."""
    log, run = SimpleNamespace(seen=[], note=tuple), AdamsBashforth.run

    def noted(sampler, denoiser, x, rows, *, start, steps):
        log.seen.append((*log.note(), type(denoiser), start))
        return run(sampler, denoiser, x, rows, start=start, steps=steps)

    monkeypatch.setattr(AdamsBashforth, "run", noted)
    return log


@pytest.mark.parametrize("held", SETTINGS[1:4], ids=lambda held: "-".join(held.values()))
def test_first_draws_of_mixtures_need_no_chain(held, chains):
    """Until every source of a view has a network, draws are exact; then chains begin from them."""
    views = make_views(**held)
    em, state = make_em(views, start=0.4), make_state(views)
    chains.note = lambda: (state.stage, state.iteration)
    list(em.run(state))
    assert {iteration for _, iteration, *_ in chains.seen} == {1}
    assert {stage for stage, *_ in chains.seen} == set(range(len(em.stages)))
    assert {start for *_, start in chains.seen} == {0.4}


def test_gaussians_are_the_moments_of_the_mixtures():
    views = make_views(v="a", w="ab")
    state = make_state(views)
    list(make_em(views, n_em_iterations=0).run(state))
    for source, mixture in state.priors.mixtures.items():
        assert mixture.means.dtype == torch.float64
        prior, expected = state.priors.gaussians[source], mixture.gaussian()
        assert prior.mean.dtype == torch.float32
        torch.testing.assert_close(prior.mean, expected.mean.float())
        torch.testing.assert_close(prior.factor, expected.factor.float())


@pytest.mark.parametrize("shape", [(SIZE,), (1, SIZE)], ids=["mixture", "gaussian"])
def test_every_iteration_of_mixtures_draws_anew(shape, monkeypatch):
    """Chains of mixtures begin from exact draws, which know every branch; of Gaussians, from the
    last iteration's."""
    given, draw = [], module.draw_sources

    def note(*args, first=None, **options):
        given.append(first is not None)
        return draw(*args, first=first, **options)

    monkeypatch.setattr(module, "draw_sources", note)
    views = make_views(shape, v="a")
    list(make_em(views, n_em_iterations=2).run(make_state(views)))
    assert given == ([False] * 3 if shape == (SIZE,) else [False, True, True])


def test_observations_take_turns(monkeypatch):
    """All are drawn first and last, else some: networks learn from these, chains go on from all."""
    drawn, trained = [], []
    draw, original = module.draw_sources, module.images_of

    def note(method, priors, loader, index, rows, *, first=None, **options):
        drawn.append((index, first))
        draws = draw(method, priors, loader, index, rows, first=first, **options)
        assert len(draws.x) == len(index)
        return draws

    def images(samples, **options):
        trained.append(samples)
        return original(samples, **options)

    monkeypatch.setattr(module, "draw_sources", note)
    monkeypatch.setattr(module, "images_of", images)
    views = make_views((1, SIZE), v="a")
    em, state = make_em(views, n_em_iterations=4, n_observations=5), make_state(views)
    states = [copy.deepcopy(state) for _ in em.run(state)]
    assert [len(index) for index, _ in drawn] == [12, 5, 5, 5, 12]
    turns = np.concatenate([index for index, _ in drawn[1:4]])
    assert set(turns) == set(range(12))
    assert len(set(turns[:10])) == 10
    for k, before in enumerate(states[:3]):  # the draws of others stay as they are
        (index, first), after = drawn[k + 1], states[k + 1].draws["v"].x
        assert torch.equal(first, before.draws["v"].x[index])
        assert torch.equal(after[index], trained[k + 1][:].flatten(1))
        others = np.setdiff1d(np.arange(12), index)
        assert torch.equal(after[others], before.draws["v"].x[others])
    assert [row["n_chains"] for row in state.history] == [12, 5, 5, 5, 12]
    assert len(state.samples["a"]) == 12  # for later stages all that is known
    for between in states[:-1]:
        for _ in em.run(between):
            pass
        assert_same(between, state)


@pytest.mark.parametrize(
    ("n_matched", "by_matching"), [(0, [0]), (2, [0, 1, 2]), (9, [0, 1, 2, 3])]
)
def test_amortized_posterior_may_wait(n_matched, by_matching, monkeypatch):
    """Until it is trained, moment matching draws and priors learn; the last iteration trains it."""
    methods, draw = [], module.draw_sources

    def note(method, *args, **options):
        methods.append(type(method))
        return draw(method, *args, **options)

    monkeypatch.setattr(module, "draw_sources", note)
    views = make_views(IMAGE, v="a", w="ab")
    em, state = make_em(views, {"n_matched": n_matched}, n_em_iterations=3), make_state(views)
    known = [
        ("b" in state.priors.denoisers, ("a", "b") in state.priors.learned) for _ in em.run(state)
    ]
    assert methods[:4] == [MomentMatching] * 4  # a view of one source
    second = [k for k, method in enumerate(methods[4:]) if method is MomentMatching]
    assert second == by_matching
    # Priors learn in every iteration until the network does, and in the last.
    priors, learned = zip(*known[4:], strict=True)
    assert list(priors) == [n_matched > 0] * 3 + [True]
    assert list(learned) == [k >= by_matching[-1] for k in range(4)]


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
    views = make_mixed_views(first, second)
    state = make_state(views)
    list(make_em(views).run(state))
    assert set(state.priors.denoisers) == {"a", "b"}
    assert set(state.priors.mixtures) == ({"a"} if first == 3 else set())
    assert all(isinstance(prior, GaussianPrior) for prior in state.priors.gaussians.values())
    assert all(row["n_left_out"] < 12 for row in state.history)


# --- amortized posterior ----------------------------------------


@pytest.fixture
def trained(monkeypatch):
    """What networks are trained, (network, number of images, function that draws), in order."""
    seen, train = [], Trainer.train

    def note(trainer, network, draw, n_images, held_out):
        seen.append((network, n_images, draw))
        return train(trainer, network, draw, n_images, held_out)

    monkeypatch.setattr(Trainer, "train", note)
    return seen


def test_an_amortized_posterior_draws_after_its_first_training(trained, chains):
    """Priors of the stage are trained on its last draws alone."""
    views = make_views(IMAGE, v="a", w="ab")
    state = make_state(views)
    chains.note = lambda: (state.stage, state.iteration)
    list(make_em(views, {}, n_em_iterations=2).run(state))
    both = type(state.priors.learned["a", "b"].given(ViewLoader(views["w"], 1.0, CPU).observe([0])))
    assert {chain[:3] for chain in chains.seen} == {
        (0, 1, JointPosteriorDenoiser), (0, 2, JointPosteriorDenoiser),
        (1, 0, JointPosteriorDenoiser), (1, 1, both), (1, 2, both),
    }  # fmt: skip
    assert list(state.priors.learned) == [("a", "b")]
    networks = [(network, n_images) for network, n_images, _ in trained]
    a, b, both = (
        state.priors.denoisers["a"],
        state.priors.denoisers["b"],
        state.priors.learned["a", "b"],
    )
    assert networks == [(a, 200)] * 3 + [(both, 200), (both, 66), (both, 66), (b, 200)]
    assert [row["iteration"] for row in state.history] == [0, 1, 2] * 2
    assert np.isfinite([row["loss"] for row in state.history]).all()


@pytest.mark.parametrize("amortize", [None, {}], ids=["priors", "posterior"])
def test_no_network_sees_what_is_held_out(amortize, monkeypatch):
    """What it is trained on are draws of other observations; all of these, and nothing but these.

    The joint network learns from the draws that were kept of the first source, too.
    """
    views = make_views(IMAGE, v="a", w="ab")
    em, state = make_em(views, amortize, held_out=0.25), make_state(views)
    held_out = em._held_out
    assert {name: held.sum() for name, held in held_out.items()} == {"v": 3, "w": 3}
    train, shown = Trainer.train, []

    def noted(self, denoiser, draw, n_images, unseen):
        pair = [torch.cat([each(400)[0] for each in Turns.of(d).draws]) for d in (draw, unseen)]
        shown.append((state.stage, [set(map(tuple, x.flatten(1).tolist())) for x in pair], {
            name: drawn.x for name, drawn in em._drawn.items()}))  # fmt: skip
        return train(self, denoiser, draw, n_images, unseen)

    monkeypatch.setattr(Trainer, "train", noted)
    kept = {}
    for _ in em.run(state):
        kept |= {s: x.clone() for s, x in state.samples.items()}
    assert len(shown) == (4 if amortize is None else 5)
    for stage, (seen, unseen), drawn in shown:
        some, others = (
            [{tuple(row) for row in (x[held_out[n] == held]).tolist()} for n, x in drawn.items()]
            for held in (False, True)
        )
        size = len(next(iter(seen)))
        if size < 8:  # a source alone, of the views of its stage
            cut = slice(None) if stage == 0 else slice(4, 8)
            views_of = [set().union(*({row[cut] for row in part} for part in parts))
                        for parts in (some, others)]  # fmt: skip
            assert seen == views_of[0]
            assert unseen == views_of[1]
        else:  # any draw of the first source beside any of the second
            first = {tuple(row) for row in kept["a"][~state.held_out["a"]].tolist()}
            last = {tuple(row) for row in kept["a"][state.held_out["a"]].tolist()}
            assert {row[:4] for row in seen} == first
            assert {row[:4] for row in unseen} == last
            assert {row[4:] for row in seen} == {row[4:] for row in some[-1]}
            assert {row[4:] for row in unseen} == {row[4:] for row in others[-1]}
    for row in state.history:
        assert np.isfinite([row["loss_seen"], row["loss_held_out"]]).all()


def test_one_posterior_for_views_of_the_same_sources(trained):
    """Mixed views share one network; each of its batches is simulated as one of them."""
    views = make_views(IMAGE, v="ab", w="ab", u="abc")
    state = make_state(views)
    list(make_em(views, {}).run(state))
    assert list(state.priors.learned) == [("a", "b"), ("a", "b", "c")]
    assert set(state.priors.denoisers) == {"a", "b", "c"}
    names = {id(network): name for name, network in state.priors.denoisers.items()}
    names |= {id(network): "".join(name) for name, network in state.priors.learned.items()}
    assert [names[id(network)] for network, _, _ in trained] == [
        "ab", "ab", "a", "b", "abc", "abc", "c",
    ]  # fmt: skip


def test_a_view_without_a_posterior_needs_its_priors(trained):
    """b is held by a view alone, too, whose chains want its denoiser in every iteration."""
    for held in ({"v": "a", "w": "ab", "u": "b"}, {"v": "a", "u": "b", "w": "ab"}):
        trained.clear()
        views = make_views(IMAGE, **held)
        em, state = make_em(views, {}, n_em_iterations=2), make_state(views)
        em.stages = [Stage(("a",), ("v",)), Stage(("b",), tuple(n for n in held if n != "v"))]
        list(em.run(state))
        b, both = state.priors.denoisers["b"], state.priors.learned["a", "b"]
        assert [network for network, _, _ in trained][3:] == [both, b] * 3


def test_what_is_simulated_is_what_was_drawn(trained):
    """Sources are draws of the E-step, known ones of their own stage; y is their sum and noise."""
    views = make_views(IMAGE, v="a", w="ab")
    state = make_state(views)
    em = make_em(views, {"flux_factors": {"b": (2.0, 2.0)}}, n_em_iterations=0)
    steps = em.run(state)
    next(steps)
    a = state.samples["a"]
    next(steps)
    _, _, draw = trained[1]
    x, observation = draw.draws[0](500)  # of the only view
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
    original, template = data_module.images, torch.full((3, *IMAGE), 7.0)
    monkeypatch.setattr(
        data_module, "symmetric_templates", lambda x: light.append(x) or (template, torch.arange(3))
    )
    monkeypatch.setattr(
        data_module, "images", lambda x, *a, **k: learned.append(x) or original(x, *a, **k)
    )
    views = make_views(IMAGE, v="a", w="ab")
    list(make_em(views, {"templates": ("b",)}).run(make_state(views)))
    assert len(light) == 2
    data = torch.as_tensor(views["w"].data)
    assert (light[0] - data).square().mean().sqrt() < 1.3  # noise of 1
    # The prior of a twice; then a and b for the posterior twice, and b alone.
    expected = [False, False, False, True, False, True, False]
    assert [x is template for x in learned] == expected
    # The prior of b learns from the draws that the last templates were made of.
    assert torch.equal(light[1], learned[-1])


def test_nothing_symmetric(monkeypatch):
    monkeypatch.setattr(data_module, "symmetric_templates", lambda light: (light[:0], slice(0)))
    views = make_views(IMAGE, v="a", w="ab")
    em = make_em(views, {"templates": ("b",)})
    with pytest.raises(InputError, match="templates: found no image of the source 'b' that is sym"):
        list(em.run(make_state(views)))


@pytest.mark.parametrize(
    ("amortize", "label"),
    [(None, "the source 'b'"), ({}, "the posterior of a, b")],
    ids=["prior", "posterior"],
)
def test_a_training_that_fails_is_named(amortize, label, monkeypatch):
    """The source and the EM iteration; the states before were yielded whole."""
    samples = ExpectationMaximization._samples

    def spoiled(self, stage, source):
        x = samples(self, stage, source).clone()
        if (source, state.iteration) == ("b", 1):
            x[3, 0] = np.nan
        return x

    monkeypatch.setattr(ExpectationMaximization, "_samples", spoiled)
    views, seen = make_views(IMAGE, v="a", w="ab"), []
    em, state = make_em(views, amortize), make_state(views)
    with pytest.raises(InputError, match=rf"{label}, EM iteration 1: found a loss of nan"):
        seen.extend((state.stage, state.iteration) for _ in em.run(state))
    assert seen == [(0, 1), (1, 0), (1, 1)]


def test_known_priors_need_no_warm_start(monkeypatch):
    """Those of another fit: iterations begin with the first that draws from networks."""
    views = make_views(v="a", w="ab")
    learned, state = make_state(views), make_state(views)
    list(make_em(views).run(learned))
    state.priors = learned.priors
    monkeypatch.setattr(WarmStart, "fit", None)
    assert [(s.stage, s.iteration) for s in make_em(views).run(state)] == [(1, 0), (2, 0)]
    assert [row["iteration"] for row in state.history] == [1, 1]
