"""What a fit has learned, as one record."""

import numpy as np

from astro_ddprism.separator.state import FittedState, digest


def test_digest_tells_trees_apart():
    def tree(**changes):
        return {"a": np.arange(6), "b": {"c": [1.0, "x"], "d": None}} | changes

    different = [
        tree(),
        tree(a=np.arange(6.0)),
        tree(a=np.arange(6).reshape(2, 3)),
        tree(a=[0, 1, 2, 3, 4, 5]),
        tree(b={"c": [1.0], "d": None}),
        tree(b={"c": [[1.0], "x"], "d": None}),
        tree(e=0),
    ]
    assert len({digest(t) for t in different}) == len(different)
    assert digest(tree()) == digest(tree(a=np.arange(12)[::2] // 2))


def test_round_trip(image_views):
    state = FittedState.before(image_views(psf=True))
    assert state.before_psf == {"los": [True], "galaxy": [True]}
    assert state.source_shapes == {"los": (1, 8, 8), "galaxy": (1, 8, 8)}
    assert state.training.n_observations == {"random": 12, "galaxy": 12}
    again = FittedState.from_tree(state.tree())
    assert again == state
