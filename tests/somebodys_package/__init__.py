"""A package as users have them: a module, its data, and a script. It knows nothing of unlearning."""

from somebodys_package.data import Measurements
from somebodys_package.module import Classifier, Pair

__all__ = ["Classifier", "Measurements", "Pair"]
