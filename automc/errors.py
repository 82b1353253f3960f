"""Everything AutoMC can complain about, besides `kg.errors`, which has the base of all.

AutoMCError                 exit code 2: something the user gave is wrong
├── ModelError              a model that cannot be found, built, loaded or understood
├── DataError               data that cannot be found, read, or does not fit the model
├── MethodError             a strategy or scheme that no method can run
│   └── Infeasible          this method cannot do this to this model; becomes an outcome, never a crash
│       └── OutOfReach      it can remove something, but far less than asked
├── ArtefactError           a saved model that is damaged or from elsewhere
├── OutputInTheWay          a file where a result would go that is none of an earlier run
├── StudyError              a study that exists already, or was given impossible limits
│   └── NotThere            a study, or a trial of it, that does not exist
└── EnvironmentFault        exit code 1: a full disk, a folder that cannot be written, a missing device
"""

from __future__ import annotations

from kg.errors import AutoMCError as AutoMCError


class Note(UserWarning):
    """What a person should know of what they gave, while the work goes on; commands print it, Python warns."""


class ModelError(AutoMCError):
    """A model cannot be found, built, loaded or understood."""


class DataError(AutoMCError):
    """Data cannot be found or read, or does not fit the model."""


class MethodError(AutoMCError):
    """No registered method can run this strategy or scheme."""


class Infeasible(MethodError):
    """A method cannot do what was asked to this model; the reason is for a person to read."""


class OutOfReach(Infeasible):
    """A method can remove something of this model, but misses what was asked by more than a unit."""

    def __init__(self, message: str, params: int = 0) -> None:
        super().__init__(message)
        self.params = params
        """Parameters that its largest step leaves."""


class ArtefactError(AutoMCError):
    """A saved model is damaged or was not written by AutoMC."""


class OutputInTheWay(AutoMCError):
    """A file stands where a result would go, and is no earlier result of the same kind."""


class StudyError(AutoMCError):
    """A study does not exist, exists already, or was given limits it cannot meet."""


class NotThere(StudyError):
    """There is no study of this name, or it has no such trial."""


class EnvironmentFault(AutoMCError):
    """The machine, not the user's input, is at fault."""

    exit_code = 1
