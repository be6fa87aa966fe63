"""What a model's tokens say of an image before any class is asked for: PCA, similarity, norms, and names."""

from .answers import PatchTokens, Tokens
from .components import principal_components
from .lens import Lens
from .norms import Norms
from .pca import PCA
from .reading import tokens
from .similarity import Similarity, cosine

__all__ = ["PCA", "Lens", "Norms", "PatchTokens", "Similarity", "Tokens", "cosine", "principal_components", "tokens"]
