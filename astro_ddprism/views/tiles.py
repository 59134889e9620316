"""Cutouts of many images in one file, with the memory of one image.

The views of each image are written to a file of their own in a temporary folder; files are then
joined, in which all arrays stay where they are (`~astro_ddprism.io.mapped`), and written again.
"""

import logging
import tempfile
from pathlib import Path

from ..errors import InputError
from .dataset import MultiViewDataset

__all__ = ["write_tiles"]

logger = logging.getLogger(__name__)

# Files that are open at a time.
MOST_OPEN = 64


def write_tiles(path, tiles, overwrite=False, *, track=iter, **options) -> MultiViewDataset:
    """Cut views out of many images, into one file.

    Parameters
    ----------
    path : path-like
        The ASDF file to be. Beside it, in a temporary folder, lies as much once more; what is
        joined lies in the folder of temporary files (``TMPDIR``), while it is.
    tiles : mapping of str to tuple
        For each image its name, with which the ids of its observations begin, and the image and
        options of its own, as `~astro_ddprism.MultiViewDataset.from_image` takes them.
    overwrite : bool
        Whether to replace an existing file.
    track : callable
        Called with an iterable; returns it in a progress bar.
    **options
        For all images. Random positions of an image have a seed of their own, counted from
        ``seed``.

    Returns
    -------
    dataset : MultiViewDataset
        What was written; its arrays are in temporary files.

    Raises
    ------
    InputError
        If there is no image, one cannot be used, or their views do not go together.
    """
    if not tiles:
        raise InputError("tiles: found none, expected images")
    seed = options.pop("seed", 0)
    with tempfile.TemporaryDirectory(dir=Path(path).parent, prefix=".cutouts-") as folder:
        parts = []
        for number, (name, (image, own)) in enumerate(track(tiles.items())):
            given = {"seed": seed + number, **options, **own}
            views = MultiViewDataset.join(
                [MultiViewDataset.from_image(image, **given)], names=[name]
            )
            parts.append(Path(folder, f"tile-{number}.asdf"))
            views.write(parts[-1])
            logger.info("%s: %s", name, ", ".join(f"{len(v)} of {n}" for n, v in views.items()))
        for level in range(len(parts)):
            if len(parts) <= MOST_OPEN:
                break
            parts = [
                _join(some, Path(folder, f"{level}-{number}.asdf"))
                for number, some in enumerate(
                    parts[i : i + MOST_OPEN] for i in range(0, len(parts), MOST_OPEN)
                )
            ]
        dataset = _joined(parts)
        dataset.write(path, overwrite)
        return dataset


def _joined(parts) -> MultiViewDataset:
    several = [MultiViewDataset.read(part, memmap=True) for part in parts]
    return several[0] if len(several) == 1 else MultiViewDataset.join(several)


def _join(parts, path) -> Path:
    _joined(parts).write(path)
    for part in parts:
        part.unlink()
    return path
