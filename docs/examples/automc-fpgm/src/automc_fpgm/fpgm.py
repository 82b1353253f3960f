"""Filter pruning via geometric median: what the other filters can replace goes, not what is small.

He et al. 2019, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from automc.errors import MethodError
from automc.methods import Method, StepContext, StepReport, register
from automc.methods.step import Step, setting, short_of
from automc.surgery.groups import Group, Groups
from kg.schema import Strategy


def filters(groups: Groups, group: Group) -> Tensor:
    """The weights that produce each unit of a group, (units, weights); each row as long as the unit's norm."""
    producers = group.of_kind(_ConvNd, nn.Linear, side="out")
    rows = torch.cat([m.weight.detach()[groups.rows(m)].flatten(1) for m in producers], dim=1).double()
    return F.normalize(rows) * groups.weight_norms(group).double()[:, None]


def replaceable(rows: Tensor, count: int, norm_share: float, distance: str) -> list[int]:
    """Choose `count` rows: a share by their norm; of the others those nearest to all others (the paper's Eq. 6)."""
    order = rows.norm(dim=1).argsort(stable=True)
    small, rest = order[: round(norm_share * count)], order[round(norm_share * count) :]
    directions = F.normalize(rows[rest])
    apart = torch.cdist(rows[rest], rows[rest]) if distance == "l2" else 1 - directions @ directions.T
    near = rest[apart.sum(dim=1).argsort(stable=True)]
    return torch.cat([small, near])[:count].tolist()


@register
class GeometricMedian(Method):
    """Delete the filters nearest to the geometric median of their layer, and fine-tune.

    HP1 fine-tuning epochs in units of E0; HP2 share of the original parameters to remove; FPGM_norm share of the
    filters that go by their norm; FPGM_distance l2 or cos. All groups lose filters by one common ratio, inside
    blocks first, residual streams only where that does not suffice. Differs from the paper, which zeroes filters
    again after every epoch of a whole training: here they are chosen once, as in the results the graph holds.
    """

    name = "FPGM"

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """Prune a copy of `model`.

        Raises:
            Infeasible: no channel can be removed, or all of them together are not enough.
        """
        share, distance = setting(strategy, "FPGM_norm", 0.0, 1.0), str(strategy.get("FPGM_distance"))
        if distance not in ("l2", "cos"):
            raise MethodError(f"{strategy.id}: FPGM_distance must be l2 or cos.")
        step = Step(model, strategy, context, (self.iterations(strategy, context.recipe, context.data.n),))
        groups = step.groups()
        for scope in ("blocks", "streams"):
            caps = groups.caps(stream=scope == "streams")
            counts = groups.plan_uniform(step.target, caps, context.recipe.round_to)
            if groups.params(counts) <= step.target:
                break
        chosen = [
            replaceable(filters(groups, group), count, share, distance)
            for group, count in zip(groups.groups, counts, strict=True)
        ]
        plan = groups.removal(chosen, step.target)
        unit, short = groups.unit_cost(plan), short_of(plan, "removing all but the last filters of every group")
        step.settle(plan.params, unit, short)
        groups.apply(plan)
        fitted = step.train()
        step.recalibrate()
        return step.model, step.report(unit, short, channels=plan.units, scope=scope, loss=fitted.loss)

    def relative_cost(self, strategy: Strategy) -> float:
        """HP1."""
        return setting(strategy, "HP1", 0.0, 1000.0)
