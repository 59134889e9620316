"""The order in which sources are learned.

A stage takes the views that bring the fewest new sources and learns those, with all sources learned
before held fixed: contrastive views, the k-th of which holds sources 1 to k, give one source a
stage; mixed views, which all hold all sources, give one stage with all of them.
"""

__all__ = ["Stage", "plan_stages"]

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """New sources, and the views that they are learned from."""

    sources: tuple[str, ...]
    views: tuple[str, ...]


def plan_stages(view_sources: dict[str, tuple[str, ...]]) -> list[Stage]:
    """Order the sources into stages.

    Parameters
    ----------
    view_sources : dict of str to tuple of str
        The sources that each view holds.

    Returns
    -------
    list of Stage
        Every source is new in exactly one stage. A view takes part in a stage if it holds a new
        source and no source that is yet unknown.

    Examples
    --------
    >>> plan_stages({"random": ("los",), "galaxy": ("los", "galaxy")})
    [Stage(sources=('los',), views=('random',)), Stage(sources=('galaxy',), views=('galaxy',))]
    """
    stages, known = [], set()
    while any(set(sources) - known for sources in view_sources.values()):
        new = min(
            (
                [s for s in held if s not in known]
                for held in view_sources.values()
                if set(held) - known
            ),
            key=len,
        )
        available = known | set(new)
        views = tuple(
            name
            for name, held in view_sources.items()
            if set(held) <= available and set(held) & set(new)
        )
        stages.append(Stage(tuple(new), views))
        known = available
    return stages
