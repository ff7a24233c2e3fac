"""Latent diffusion for histopathology at cluster scale.

``cluster``, ``data_prep`` and ``kernels`` are sub-packages of ``histodiff`` whose folders sit
beside it in the repository. Installed wheels already have that shape; a source checkout (Ray
``working_dir``, ``python -m histodiff``) gets it by searching the repository root as well.
"""

from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parent.parent
if (_REPOSITORY / "pyproject.toml").is_file():
    __path__.append(str(_REPOSITORY))
