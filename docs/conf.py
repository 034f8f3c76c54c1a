"""Sphinx: `sphinx-build -W docs output/html` makes pages of the documents and docstrings.

Needs ``pip install -e ".[docs]"``.
"""

import lambda_det

project = "lambda_det"
version = release = lambda_det.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "alabaster"

autodoc_typehints = "none"  # the docstrings say what a value is, with its shape
autodoc_member_order = "bysource"
myst_heading_anchors = 3
# The pages are read in a checkout too, where they link to files that are not pages.
suppress_warnings = ["myst.xref_missing"]
