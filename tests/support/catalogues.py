"""Catalogues as tests ask them."""

from tasks.imagery.protocol import Catalogue
from tasks.samples.window import Window


def windows_of(catalogue: Catalogue) -> list[Window]:
    """Every window."""
    return catalogue.windows()[0]
