"""What changes the step that is really taken: stages, the chain they work in, and masks."""

from lightning_unlearn.transforms._chain import Stage, StepChain
from lightning_unlearn.transforms._step import Step
from lightning_unlearn.transforms._step_transform import Restriction, StepTransform
from lightning_unlearn.transforms._train_only import TrainOnly

__all__ = ["Restriction", "Stage", "Step", "StepChain", "StepTransform", "TrainOnly"]
