"""Helper package of the VPR workbook: data, models, training, retrieval, results and the notebooks' plumbing.

Importing it is light: no torch, no disk access. The floors of the house are listed in CONTRIBUTING.md.
"""

__version__ = "0.1.0"
