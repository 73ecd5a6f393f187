"""What a report is made of: values that survive a round trip through JSON unchanged, and how they are put in words."""

from lightning_unlearn.report.schema._gate import Gate, Status
from lightning_unlearn.report.schema._interval import Interval
from lightning_unlearn.report.schema._json_schema import SCHEMA_FILE
from lightning_unlearn.report.schema._level import Level
from lightning_unlearn.report.schema._record import Method, Record
from lightning_unlearn.report.schema._recovery import DEPLOYMENTS, Recovery
from lightning_unlearn.report.schema._report import SCHEMA_VERSION, RobustnessReport

__all__ = [
    "DEPLOYMENTS",
    "Gate",
    "Interval",
    "Level",
    "Method",
    "Record",
    "Recovery",
    "RobustnessReport",
    "SCHEMA_FILE",
    "SCHEMA_VERSION",
    "Status",
]
