"""Studies: the only place where search and execution meet."""

from automc.study.loop import Listener, Study
from automc.study.spec import Budget, StudySpec

__all__ = ["Budget", "Listener", "Study", "StudySpec"]
