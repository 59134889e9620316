"""One galaxy with each pattern of masked pixels: what was seen, what was drawn, what was there."""

__all__ = ["draw_masks"]

import matplotlib.pyplot as plt
import numpy as np

TITLES = ("observed", "separated galaxy (mean)", "truth", "separated - truth")


def draw_masks(shown, path):
    """A row for each pattern.

    Parameters
    ----------
    shown : dict of str to tuple of ndarray
        Observed, separated and true images.
    path : path-like
        The picture.
    """
    figure, axes = plt.subplots(
        len(shown), 4, figsize=(7.2, 1.75 * len(shown)), layout="constrained", squeeze=False
    )
    top = max(np.nanmax(truth) for _, _, truth in shown.values())
    for axis, title in zip(axes[0], TITLES, strict=True):
        axis.set_title(title, fontsize=8)
    for row, (name, (observed, separated, truth)) in zip(axes, shown.items(), strict=True):
        row[0].set_ylabel(name, fontsize=8)
        images = (observed, separated, truth, separated - truth)
        for axis, image, title in zip(row, images, TITLES, strict=True):
            difference = title is TITLES[-1]
            limit = top / 10 if difference else top
            axis.set_facecolor("tab:red")
            shown_image = axis.imshow(
                np.arcsinh(image / limit * 10) if not difference else image,
                vmin=-limit if difference else np.arcsinh(-0.3),
                vmax=limit if difference else np.arcsinh(10),
                cmap="coolwarm" if difference else "gray",
                origin="lower",
            )
            axis.set(xticks=[], yticks=[])
        label = f"uJy a pixel, ±{top / 10:.2g}"
        figure.colorbar(shown_image, ax=row[3], shrink=0.8).set_label(label, fontsize=6)
    figure.suptitle("Masked pixels are red; brightness stretched by asinh", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)
