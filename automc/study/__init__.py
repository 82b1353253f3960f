"""Studies: the only place where search and execution meet. What reads them back needs no torch."""

from typing import TYPE_CHECKING

from automc import lazily

if TYPE_CHECKING:
    from automc.study.loop import Listener
    from automc.study.spec import Budget, StudySpec
    from automc.study.study import Study

__all__ = ["Budget", "Listener", "Study", "StudySpec"]
__getattr__ = lazily.names(__name__, {"Listener": "loop", "Budget": "spec", "StudySpec": "spec", "Study": "study"})
