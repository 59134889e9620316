"""Pictures of the gallery: each figure that a cell of a script binds to a name.

Figures of the package are made without pyplot, so that sphinx-gallery does not see them by itself.
"""

import weakref

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

_SHOWN = weakref.WeakSet()


def scrape(block, block_vars, gallery_conf):
    """Save the figures that are new."""
    paths = []
    for value in block_vars["example_globals"].values():
        if isinstance(value, Figure) and value not in _SHOWN:
            _SHOWN.add(value)
            paths.append(next(block_vars["image_path_iterator"]))
            value.savefig(paths[-1], dpi=130)
    plt.close("all")
    return figure_rst(paths, gallery_conf["src_dir"])


def _get_sg_image_scraper():
    return scrape
