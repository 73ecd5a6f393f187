"""Latent spaces in which hidden states are compared: frozen, pluggable, and read from a file."""

from lightning_unlearn.objectives.encoders._encoder import Encoder
from lightning_unlearn.objectives.encoders._identity import Identity
from lightning_unlearn.objectives.encoders._pca import PCA, fit_pca
from lightning_unlearn.objectives.encoders._sae import SAE
from lightning_unlearn.objectives.encoders._targets import LatentTargets, find_targets
from lightning_unlearn.objectives.encoders._train_sae import train_sae

__all__ = ["Encoder", "Identity", "LatentTargets", "PCA", "SAE", "find_targets", "fit_pca", "train_sae"]
