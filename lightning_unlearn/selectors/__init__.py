"""Which weights matter for what must go."""

from lightning_unlearn.selectors._base import Selector, selectable
from lightning_unlearn.selectors._chosen import AtLeast, Choice, TopNumber, TopShare
from lightning_unlearn.selectors._random import Random

__all__ = ["AtLeast", "Choice", "Random", "Selector", "TopNumber", "TopShare", "selectable"]
