"""What every run measured and found, kept in one local database, and how a check went over the runs."""

from editguard.history.git import Commit, present_commit
from editguard.history.run import RunCheck, RunRecord
from editguard.history.store import RunHistory
from editguard.history.trend import Series, last_change, series_of, since_regressed

__all__ = [
    "Commit",
    "RunCheck",
    "RunHistory",
    "RunRecord",
    "Series",
    "last_change",
    "present_commit",
    "series_of",
    "since_regressed",
]
