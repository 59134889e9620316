"""Which sources are learned when."""

import pytest

from astro_ddprism.diffusion.learning.stages import Stage, plan_stages


@pytest.mark.parametrize(
    ("views", "stages"),
    [
        ({"v": "a"}, [("a", "v")]),
        ({"v": "ab"}, [("ab", "v")]),
        # contrastive: one source a stage, in whichever order the views come
        ({"v": "a", "w": "ab", "u": "abc"}, [("a", "v"), ("b", "w"), ("c", "u")]),
        ({"u": "cab", "w": "ba", "v": "a"}, [("a", "v"), ("b", "w"), ("c", "u")]),
        # mixed: all at once, from all views
        ({"v": "ab", "w": "ab"}, [("ab", "vw")]),
        ({"v": "ab", "w": "ba"}, [("ab", "vw")]),
        # two views of the same source
        ({"v": "a", "w": "a", "u": "ab"}, [("a", "vw"), ("b", "u")]),
        # a source of its own beside: each view is used as soon as it can be
        ({"v": "a", "w": "c", "u": "abc"}, [("a", "v"), ("c", "w"), ("b", "u")]),
        # two new sources at once, and a view that then holds known sources only
        ({"v": "a", "w": "abc", "u": "bc"}, [("a", "v"), ("bc", "wu")]),
        ({}, []),
    ],
)
def test_stages(views, stages):
    expected = [Stage(tuple(sources), tuple(names)) for sources, names in stages]
    assert plan_stages({name: tuple(held) for name, held in views.items()}) == expected
