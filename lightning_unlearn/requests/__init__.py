"""One deletion request after another, with a ledger."""

from lightning_unlearn.requests._folder import SequenceFolder
from lightning_unlearn.requests._ledger import Entry, Ledger, in_effect
from lightning_unlearn.requests._named import Unnamed
from lightning_unlearn.requests._parsed import Parsed
from lightning_unlearn.requests._request import Request, read_requests
from lightning_unlearn.requests._request_fit import Job, RequestFit
from lightning_unlearn.requests._request_gates import RequestGates, came_back
from lightning_unlearn.requests._request_sequence import RequestSequence
from lightning_unlearn.requests._sequence_curves import sequence_curves, target
from lightning_unlearn.requests._sequence_report import write_sequence_report
from lightning_unlearn.requests._trainer_fit import TrainerFit, refuse_several_processes
from lightning_unlearn.requests._weights import AdaptersAlone, Keeping, WholeWeights

__all__ = [
    "AdaptersAlone",
    "Entry",
    "Job",
    "Keeping",
    "Ledger",
    "Parsed",
    "Request",
    "RequestFit",
    "RequestGates",
    "RequestSequence",
    "SequenceFolder",
    "TrainerFit",
    "Unnamed",
    "WholeWeights",
    "came_back",
    "in_effect",
    "read_requests",
    "refuse_several_processes",
    "sequence_curves",
    "target",
    "write_sequence_report",
]
