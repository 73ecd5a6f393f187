from collections.abc import Sequence

import numpy as np

from lightning_unlearn.observation import Observation
from lightning_unlearn.report.analysis._statistics import Floats


def of_common_examples(observations: Sequence[Observation]) -> list[Observation]:
    """Each observation, of the examples that all of them have; as they are if none names its examples.

    Example:
        >>> whole = Observation(metric="p", split="forget", value=0.5, scores=[0.25, 0.75])
        >>> [o.scores for o in of_common_examples([whole, whole.at({1})])]
        [[0.75], [0.75]]
    """
    numbered = [set(observation.numbers) for observation in observations if _is_mean(observation)]
    if not any(observation.examples for observation in observations if _is_mean(observation)):
        return list(observations)
    common = set.intersection(*numbered)
    return [observation.at(common) if _is_mean(observation) else observation for observation in observations]


def _is_mean(observation: Observation) -> bool:
    # An AUC, which brings its own interval, is of all its examples together.
    return bool(observation.scores) and observation.interval is None


def paired_scores(observations: Sequence[Observation]) -> Floats | None:
    """Scores of several observations as columns, ``[n, k]``; None unless all are finite and of the same examples.

    Example:
        >>> low = Observation(metric="p", split="forget", value=0.1, step=9, scores=[0.1], entities=["Ada"])
        >>> high = Observation(metric="p", split="forget", value=0.9, step=0, scores=[0.9], entities=["Ada"])
        >>> paired_scores([high, low]).tolist()
        [[0.9, 0.1]]
    """
    # Pairing is by position, so the examples have to be the same: their entities, in order, are what can be compared.
    first = observations[0]
    if not first.scores or any(observation.clusters != first.clusters for observation in observations):
        return None
    scores = np.array([observation.scores for observation in observations], dtype=float).T
    return scores if np.isfinite(scores).all() else None
