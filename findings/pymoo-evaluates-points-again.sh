#!/usr/bin/env bash
# pymoo 0.6.2: eliminate_duplicates looks at the current population only. A search over few integer points
# evaluates the same point again and again, once it has left the population: what is costly must be remembered outside.
# Seen: "293 evaluations of 60 different points"
set -euo pipefail
dir="$(mktemp -d)"
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check pymoo==0.6.2 numpy==2.4.6
cd "$dir"
venv/bin/python - <<'PY'
import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize

evaluated: list[tuple[int, ...]] = []


class Grid(Problem):
    """64 points, two objectives."""

    def __init__(self) -> None:
        super().__init__(n_var=3, n_obj=2, xl=0, xu=3, vtype=int)

    def _evaluate(self, x, out, *args, **kwargs) -> None:
        evaluated.extend(map(tuple, x.astype(int).tolist()))
        out["F"] = np.column_stack([x.sum(1), (3 - x).prod(1)])


rounded = {"vtype": float, "repair": RoundingRepair()}
searcher = NSGA2(
    pop_size=20, sampling=IntegerRandomSampling(), crossover=SBX(**rounded), mutation=PM(**rounded), eliminate_duplicates=True
)
minimize(Grid(), searcher, ("n_gen", 15), seed=1)
print(f"{len(evaluated)} evaluations of {len(set(evaluated))} different points")
assert len(set(evaluated)) <= 64
assert len(evaluated) > 4 * len(set(evaluated))
PY
