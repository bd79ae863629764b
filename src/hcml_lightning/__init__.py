"""Hierarchical contrastive motion learning for video action recognition.

Yang et al., *Hierarchical Contrastive Motion Learning for Video Action Recognition*. The public names are loaded when they
are first used, so that `import hcml_lightning` and `hcml --help` cost nothing.
"""

from hcml_lightning._version import __version__

__all__ = ["__version__"]
