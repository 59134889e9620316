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
from .detection import detect_galaxies, detect_objects, select_galaxies, stellar_locus
from .images import SurveyImage, read_image, stack_bands
from .instruments import views_from_cutouts, views_from_images
from .noise import estimate_autocorrelation, estimate_noise
from .positions import place_randoms, positions_table, read_positions
from .psf import read_psf
from .saturation import find_saturation
from .views import views_from_image

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
    "read_psf",
    "select_galaxies",
    "stack_bands",
    "stellar_locus",
    "views_from_cutouts",
    "views_from_image",
    "views_from_images",
]
