"""Forgetting, guards and checks in training loops that are not Lightning's: Fabric, and Hugging Face's trainers."""

from lightning_unlearn.loops._fabric_loop import FabricLoop
from lightning_unlearn.loops._guest_module import GuestModule, Loss
from lightning_unlearn.loops._hugging_face import UnlearnTrainerCallback
from lightning_unlearn.loops._outer_loop import OuterLoop

__all__ = ["FabricLoop", "GuestModule", "Loss", "OuterLoop", "UnlearnTrainerCallback"]
