"""From survey images to views.

An image of the sky is cut into the two views from which the sources are learned: the view
``"random"``, cutouts at random positions, which hold line-of-sight light alone,

    y = A x_los + η ,

and the view ``"galaxy"``, cutouts at the galaxies, which hold a galaxy on top of it,

    y = A (x_los + x_galaxy) + η .

`read_image` reads flux, noise, mask and WCS; `detect_galaxies` finds the galaxies, or
`read_positions` takes them from a catalog; `place_randoms` chooses the random positions;
`views_from_image` does it all and returns the views.
"""

from .cutouts import *  # noqa: F403
from .detection import *  # noqa: F403
from .images import *  # noqa: F403
from .noise import *  # noqa: F403
from .positions import *  # noqa: F403
from .psf import *  # noqa: F403
from .saturation import *  # noqa: F403
