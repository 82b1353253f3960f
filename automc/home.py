"""Where AutoMC keeps what is not in the graph: the embedded store, studies, vectors and the prefix cache."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from automc.errors import EnvironmentFault
from automc.temporary import sweep_home


def home(create: bool = True) -> Path:
    """Return the AutoMC home: `AUTOMC_HOME`, else the nearest `.automc` upwards, else `./.automc`.

    Args:
        create: make the folder where it is missing.

    Raises:
        EnvironmentFault: the folder cannot be made or written.
    """
    given = os.environ.get("AUTOMC_HOME")
    if given:
        folder = Path(os.path.expanduser(given))
        if str(folder).startswith("~"):
            raise EnvironmentFault(f"AUTOMC_HOME={given}: there is no such user here. Set it to another folder.")
        folder = folder.absolute()
    else:
        here = Path.cwd()
        folder = next((p / ".automc" for p in (here, *here.parents) if (p / ".automc").is_dir()), here / ".automc")
    if create:
        if not given and not folder.exists():
            sys.stderr.write(f"AutoMC keeps its graph, studies and cache in {folder} from now on.\n")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentFault(
                f"The AutoMC home {folder} cannot be made: {error.strerror}. "
                "Set AUTOMC_HOME to a folder that can be written."
            ) from None
        if not os.access(folder, os.W_OK):
            raise EnvironmentFault(f"The AutoMC home {folder} cannot be written. Set AUTOMC_HOME to another folder.")
        sweep_home(folder)
    return folder
