"""Every number that a public class takes is refused, where it is given, if it is NaN, infinite or no number at all."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

import lightning_unlearn
from lightning_unlearn import Corrupt, GradientAscent, LoRA, TinyCausalLM, TrainerFit
from lightning_unlearn.data import Encoding, FileRecords, TextWindows
from lightning_unlearn.functional.settings import check_kind, check_positive, check_whole

NUMBERS = {f"{kind}{rest}" for kind in ("float", "int") for rest in ("", " | None")} | {"GroupSize"}
# Seeds are hashed: any value is one. The others are values that we make ourselves, or torch's own arguments.
NO_SETTINGS = {"seed", "size", "rank_of_process", "index", "stacked", "groups", "world_size"}
MADE_BY_US = {
    *("Gate", "Interval", "Level", "Recovery", "RobustnessReport", "EditRecord", "Observation", "Prediction"),
    *("Likelihood", "HiddenStates", "PairedPrediction", "Probe", "Record", "RowSet", "ResumableLoader"),
    *("Finding", "ForgetStream", "ExampleGradients", "Examples", "Left", "Step", "Layout", "CodeFlips", "Decodability"),
    *("ForgetStream", "ExampleGradients", "Examples", "Left", "Step", "Layout", "CodeFlips", "Decodability"),
    "Distance",
    *("AcrossSeeds", "BlindBaseline", "Bracket", "Change", "Compared", "Comparison", "Cost", "Decay", "Effectivity"),
    *("Entry", "Job", "Dropped"),
    *(
        "EntityCurve",
        "FactsGained",
        "Forgetting",
        "Method",
        "Oscillation",
        "ProbedLayer",
        "ProbedLayers",
        "Retention",
        "Steps",
        "Told",
        "Transfer",
    ),
}
PEOPLE = FileRecords("bundled:people")
SET = {"folder": "nowhere", "windows": TextWindows("bundled"), "encoding": Encoding("bundled")}
REQUIRED: dict[str, dict[str, Any]] = {
    "Bounded": {"objective": GradientAscent()},
    "PromptDecouple": {"objective": GradientAscent()},
    "ScopeTerm": {"objective": GradientAscent()},
    "Unlearn": {"objective": GradientAscent()},
    "BilevelUnlearn": {"objective": GradientAscent()},
    "PenalizedUnlearn": {"objective": GradientAscent()},
    "WithinBudget": {"edit": Corrupt()},
    "Edited": {"edit": Corrupt()},
    "PrototypePush": {"bound": 1.0},
    "LatentPerturbation": {"layer": "layers.0"},
    "TokenwisePerturbation": {"layer": "layers.0"},
    "FindLatentTargets": {"unknown": {"people": []}},
    "FabricLoop": dict.fromkeys(("fabric", "model", "optimizer", "retain", "callbacks")),
    "OuterLoop": {"module": None, "callbacks": [], "device": None},
    "Generation": {"tokenizer": "bundled"},
    "Encoding": {"tokenizer": "bundled"},
    "TextWindows": {"tokenizer": "bundled"},
    "NegateTaskVector": {"base": "weights.safetensors"},
    "Merge": {"sibling": "weights.safetensors"},
    "SubspaceGuard": {"subspace": lightning_unlearn.guards.InputSubspace()},
    "PrimalDual": {"eps": 0.1},
    "LinearSchedule": {"steps": 2},
    "JensUn": {"target": [1]},
    "AnswerWords": {"rows": []},
    "Draws": {"seeds": [0]},
    "IDXImages": {"images": "images", "labels": "labels"},
    "ImageArchive": {"path": "images.zip"},
    "OfClasses": {"classes": ["cat"]},
    "LookaheadRate": {"forget": [], "retain": []},
    "MixedPrototypes": {"prototypes": "kept.safetensors"},
    "ConceptShift": {"beside": "swapped"},
    "DoseResponse": {"counts": {"Ada": 1}},
    "HalfRecall": {"tokenizer": "bundled"},
    "RequestSequence": {
        "folder": "runs",
        "fit": TrainerFit(TinyCausalLM, GradientAscent()),
        "retain": PEOPLE,
        "encoding": Encoding("bundled"),
    },
    "TrainerFit": {"network": TinyCausalLM, "objective": GradientAscent()},
    "FIT": {"network": TinyCausalLM},
    "FITScore": {"tokenizer": "bundled"},
    "SentenceModel": {"name": "nobody/nothing"},
    "Related": {"pool": PEOPLE, "target": PEOPLE},
    "SameShape": {"pool": PEOPLE, "target": PEOPLE},
    "SampledLeak": {"tokenizer": "bundled"},
    "SoftPrompt": {"records": PEOPLE, "encoding": Encoding("bundled")},
    "StealthyForgetRequest": {"records": PEOPLE},
    "TOFU": {"tokenizer": "bundled"},
    "Verbatim": {"tokenizer": "bundled"},
    "AnswerStyles": {"records": PEOPLE},
    "DuplicateDose": {"records": PEOPLE},
    "FictionalKnowledgeData": SET,
    "CIFAR10Data": {"folder": "nowhere"},
    "MNISTCaptionsData": {"folder": "nowhere", "encoding": Encoding("bundled")},
    "MNISTData": {"folder": "nowhere"},
    "Paraphrases": {"records": PEOPLE},
    "PCHData": SET,
    "Reduced": {"forget": 1, "retain": 1},
    "RWKUData": SET,
    "SomeEntities": {"records": PEOPLE},
    "PairedData": {
        "records": FileRecords("bundled:people"),
        "companion": None,
        "encoding": Encoding("bundled"),
    },
}


def public() -> Iterator[type | Any]:
    """Every public class, and functions that are classes in YAML."""
    names = [found.name for found in pkgutil.walk_packages(lightning_unlearn.__path__, "lightning_unlearn.")]
    rooms = [import_module(name) for name in names if not name.endswith("__main__")]
    named = {getattr(room, name) for room in rooms for name in getattr(room, "__all__", []) if name[0].isupper()}
    yield from sorted(
        (made for made in named if inspect.isclass(made) or inspect.isfunction(made)), key=lambda made: made.__name__
    )


def is_error(made: Any) -> bool:
    return isinstance(made, type) and issubclass(made, Exception)


def settings() -> Iterator[tuple[Any, str]]:
    for made in public():
        if made.__name__ in MADE_BY_US or inspect.isabstract(made) or is_error(made):
            continue
        for name, parameter in inspect.signature(made).parameters.items():
            annotation = parameter.annotation
            words = annotation.__name__ if annotation in (float, int) else str(annotation)
            if words in NUMBERS and name not in NO_SETTINGS:
                yield made, name


ALL = list(settings())


def test_the_settings_were_found() -> None:
    assert len(ALL) > 45
    assert {"LoaderSettings", "Unlearn", "NPO", "Relearn", "LoRA"} <= {made.__name__ for made, _ in ALL}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize(("made", "name"), ALL, ids=[f"{made.__name__}.{name}" for made, name in ALL])
def test_numbers_that_are_not_finite_are_refused_by_name(made: Any, name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"`{name}` should be .*Found .*`{name} = {value}`"):
        made(**{**REQUIRED.get(made.__name__, {}), name: value})


@pytest.mark.parametrize("value", ["1", True, [1], None], ids=repr)
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="`x` should be positive and finite. Found `x = "):
        check_positive("x", value)
    with pytest.raises(ValueError, match="`x` should be a whole number. Found `x = "):
        check_whole("x", value)


def test_whole_numbers_of_numpy_and_small_ones_pass() -> None:
    np = pytest.importorskip("numpy")
    for check, number in ((check_whole, np.int64(3)), (check_positive, np.float32(0.5)), (check_positive, 1)):
        assert check("x", number) is None


def test_a_class_in_place_of_its_object_is_refused_with_the_way_out() -> None:
    with pytest.raises(
        TypeError, match=r"`x` should be a `LoRA`, such as `LoRA\(\)`. Found the class `LoRA` itself: call"
    ):
        check_kind("x", LoRA, LoRA, "LoRA()")
    with pytest.raises(TypeError, match=r"Found `8`"):
        check_kind("x", 8, LoRA, "LoRA()")
