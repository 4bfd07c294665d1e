"""What matched autoencoders have in common.

Example:
  >>> import numpy as np, saejax
  >>> hit = np.array([True, False])
  >>> saejax.analysis.seeds.trend([[None, hit], [hit, None]]).only_in_base_frac
  {2: 0.5}
"""

from saejax.analysis import seeds

__all__ = ["seeds"]
