from .errors import InputError as InputError
from .posterior.samples import PosteriorSamples as PosteriorSamples
from .separator.clvm import LinearCLVMSourceSeparator as LinearCLVMSourceSeparator
from .separator.clvm_vae import VariationalCLVMSourceSeparator as VariationalCLVMSourceSeparator
from .separator.diffusion import DiffusionSourceSeparator as DiffusionSourceSeparator
from .separator.gaussian import GaussianSourceSeparator as GaussianSourceSeparator
from .separator.many import Tile as Tile
from .separator.many import separate_tiles as separate_tiles
from .separator.pcpca import PCPCASourceSeparator as PCPCASourceSeparator
from .views.dataset import MultiViewDataset as MultiViewDataset
from .views.multi import MultiInstrumentView as MultiInstrumentView
from .views.view import View as View

__version__: str
__all__: list[str]
