"""Studies: the only place where search and execution meet."""

from automc.study.loop import Listener
from automc.study.spec import Budget, StudySpec
from automc.study.study import Study

__all__ = ["Budget", "Listener", "Study", "StudySpec"]
