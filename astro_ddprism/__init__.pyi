from .errors import InputError as InputError
from .posterior.samples import PosteriorSamples as PosteriorSamples
from .separator.diffusion import DiffusionSourceSeparator as DiffusionSourceSeparator
from .separator.gaussian import GaussianSourceSeparator as GaussianSourceSeparator
from .views.dataset import MultiViewDataset as MultiViewDataset
from .views.multi import MultiInstrumentView as MultiInstrumentView
from .views.view import View as View

__version__: str
__all__: list[str]
