"""Symmetries of a source: transformations that leave its prior as it is.

A galaxy looks no different turned by a right angle or mirrored, and neither does the sky. Where
that holds, every drawn image stands for up to eight, and a covariance has a smaller error.
"""

__all__ = [
    "SYMMETRIES",
    "orbit",
    "permutations",
    "permuted",
    "random_transform",
    "random_transform_about_pixel",
    "symmetries_of",
]

import torch
from torch import Tensor, nn

from ...errors import InputError

#: Known symmetries of images, and the transformations of the last two axes that each generates.
SYMMETRIES = ("rotations", "flips")


def symmetries_of(chosen, source_shapes) -> dict[str, tuple[str, ...]]:
    """Symmetries of sources; those of square images where the user does not tell.

    Parameters
    ----------
    chosen : dict of str to tuple of str, or None
        Symmetries of some sources.
    source_shapes : dict of str to tuple of int
        All sources, and their shapes.

    Returns
    -------
    symmetries : dict of str to tuple of str

    Raises
    ------
    InputError
        If there are any of a source that is no square image.
    """
    symmetries = {}
    for source, shape in source_shapes.items():
        square = len(shape) == 3 and shape[-1] == shape[-2]
        own = (chosen or {}).get(source, SYMMETRIES if square else ())
        if own and not square:
            raise InputError(
                f"symmetries[{source!r}]: {list(own)} of a source of shape {shape}; "
                "expected a square image"
            )
        symmetries[source] = tuple(own)
    return symmetries


def _group(symmetries: tuple[str, ...]) -> list[tuple[int, bool]]:
    turns = range(4) if "rotations" in symmetries else range(1)
    flips = (False, True) if "flips" in symmetries else (False,)
    return [(turn, flip) for turn in turns for flip in flips]


def _transform(x: Tensor, turn: int, flip: bool) -> Tensor:
    x = x.flip(-1) if flip else x
    return x.rot90(turn, (-2, -1)) if turn else x


def orbit(x: Tensor, symmetries: tuple[str, ...]) -> Tensor:
    """Every transformed version of images ``(N, ..., ny, nx)``, stacked along the first axis."""
    return torch.cat([_transform(x, *element) for element in _group(symmetries)])


def permutations(
    symmetries: tuple[str, ...], size: tuple[int, int], *, about_pixel: bool = False
) -> Tensor:
    """Which pixel every pixel of a transformed image comes from, for each element of the group.

    Parameters
    ----------
    symmetries : tuple of str
        Symmetries that generate the group.
    size : tuple of int
        Rows and columns of the images.
    about_pixel : bool
        Transform about pixel ``n // 2`` instead of the middle. That pixel holds the position of a
        cutout; in cutouts of even size it is beside the middle, and turned about that a galaxy
        would be in any of four pixels. Edge pixels that come from outside are those that were
        there.

    Returns
    -------
    torch.Tensor
        Numbers of pixels, of shape ``(G, ny * nx)``; the first row is the identity.
    """
    ny, nx = size
    index = torch.arange(ny * nx).view(1, ny, nx)
    if about_pixel:
        padding = (0, 1 - nx % 2, 0, 1 - ny % 2)
        index = nn.functional.pad(index[None].double(), padding, mode="replicate")[0].long()
    group = [_transform(index, *element) for element in _group(symmetries)]
    return torch.stack([element[..., :ny, :nx].flatten() for element in group])


def permuted(x: Tensor, group: Tensor) -> Tensor:
    """Transform every image of ``(N, ..., ny, nx)`` by one of `permutations` drawn at random."""
    if len(group) == 1:
        return x
    pixels = x.flatten(-2)
    chosen = group[torch.randint(len(group), (len(x),), device=x.device)]
    chosen = chosen.view(len(x), *(1,) * (pixels.ndim - 2), -1)
    return pixels.gather(-1, chosen.expand_as(pixels)).view_as(x)


def random_transform(x: Tensor, symmetries: tuple[str, ...]) -> Tensor:
    """Transform every image of ``(N, ..., ny, nx)`` by an element of its group drawn at random."""
    return permuted(x, permutations(symmetries, x.shape[-2:]).to(x.device)) if symmetries else x


def random_transform_about_pixel(x: Tensor, symmetries: tuple[str, ...]) -> Tensor:
    """Transform images about pixel ``n // 2`` instead of their middle."""
    group = permutations(symmetries, x.shape[-2:], about_pixel=True)
    return permuted(x, group.to(x.device))
