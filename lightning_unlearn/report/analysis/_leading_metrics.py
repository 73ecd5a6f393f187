"""Which metrics a report leads with, if the user does not say."""

from lightning_unlearn.report.analysis._observation_index import ObservationIndex


def headline_metric(index: ObservationIndex) -> str:
    """The first metric where more means more knowledge and the range is known; failing that, the first."""
    forget = [o for o in index.observations if o.split == "forget" and o.metric in index.metrics]
    rising = [o for o in forget if o.higher_means_known]
    bounded = [o for o in rising if o.bounds]
    return next((o.metric for o in [*bounded, *rising, *forget]), "")


def utility_metric(index: ObservationIndex, headline: str) -> str:
    """The metric that says whether a model still works: the headline, if the retain set was measured by it too."""
    retained = [o.metric for o in index.observations if o.split == "retain"]
    return headline if headline in retained else next(iter(retained), "")
