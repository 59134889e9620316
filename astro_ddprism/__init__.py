"""Separate the sources that several views of the sky hold, with priors learned from those views.

The public names are imported from their modules when they are first used, so that what needs no
PyTorch (``ddprism --help``, the errors, the version) does not wait for it.
"""

from importlib import import_module

__version__ = "0.1.dev0"

_MODULES = {
    "DiffusionSourceSeparator": "separator.diffusion",
    "GaussianSourceSeparator": "separator.gaussian",
    "InputError": "errors",
    "LinearCLVMSourceSeparator": "separator.clvm",
    "MultiInstrumentView": "views.multi",
    "MultiViewDataset": "views.dataset",
    "PCPCASourceSeparator": "separator.pcpca",
    "PosteriorSamples": "posterior.samples",
    "Tile": "separator.many",
    "VariationalCLVMSourceSeparator": "separator.clvm_vae",
    "View": "views.view",
    "separate_tiles": "separator.many",
}

__all__ = [
    "DiffusionSourceSeparator",
    "GaussianSourceSeparator",
    "InputError",
    "LinearCLVMSourceSeparator",
    "MultiInstrumentView",
    "MultiViewDataset",
    "PCPCASourceSeparator",
    "PosteriorSamples",
    "Tile",
    "VariationalCLVMSourceSeparator",
    "View",
    "__version__",
    "separate_tiles",
]


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__():
    return sorted({*globals(), *__all__})
