"""From survey images to views.

An image of the sky is cut into the two views from which the sources are learned: the view
``"random"``, cutouts at random positions, which hold line-of-sight light alone,

    y = A x_los + η ,

and the view ``"galaxy"``, cutouts at the galaxies, which hold a galaxy on top of it,

    y = A (x_los + x_galaxy) + η .

`read_image` reads flux, noise, mask and WCS; `detect_galaxies` finds the galaxies, or
`read_positions` takes them from a catalog; `place_randoms` chooses the random positions;
`views_from_image` does it all and returns the views. `views_from_images` does it for several
instruments at once.
"""

from .conditions import image_conditions
from .cutouts import Cutouts, cut_out
from .detection import detect_objects
from .find import detect_galaxies, select_galaxies
from .images import SurveyImage, stack_bands
from .noise import estimate_autocorrelation, estimate_noise
from .positions import positions_table, read_positions
from .randoms import place_randoms
from .read import read_image
from .saturation import find_saturation
from .stars import stellar_locus

__all__ = [
    "Cutouts",
    "SurveyImage",
    "cut_out",
    "detect_galaxies",
    "detect_objects",
    "estimate_autocorrelation",
    "estimate_noise",
    "find_saturation",
    "image_conditions",
    "place_randoms",
    "positions_table",
    "read_image",
    "read_positions",
    "select_galaxies",
    "stack_bands",
    "stellar_locus",
]
