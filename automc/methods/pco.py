"""Cheaper operators, chosen by a differentiable search that mixes them in part of the channels.

After Xu et al. 2020, "PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search".
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

from automc.errors import Infeasible
from automc.methods import register
from automc.methods.base import StepContext, StepReport
from automc.methods.operator_search import OperatorSearch
from automc.methods.searching import Searching
from automc.methods.step import Step
from automc.surgery import branches, lowrank
from automc.surgery.knapsack import least_rise
from automc.surgery.operators import searched
from automc.training.alternating import Alternation, judging
from automc.training.distill import taught
from automc.training.loop import Loss
from automc.training.seeds import derived
from kg.schema import Strategy

TEMPERATURE = 4.0
TEACHER = 0.5
"""Weight of the input model's outputs, in the search and in the fine-tuning."""


@register
class PartialChannelOperators(Searching):
    """Replace convolutions by cheaper operators that a search chooses, and fine-tune with the input as the teacher.

    HP1 epochs of fine-tuning and HP25 epochs of the search in units of E0; HP2 share of the original parameters to
    remove; HP26 divisor K: the search mixes operators in 1/K of each convolution's output channels, drawn once. A k×k
    convolution may stay or become two layers of low rank (a half or a quarter; in the form that loses less), a
    depthwise and a pointwise one, a grouped one with a shuffle, or a 1×1 one; a residual branch around a plain shortcut
    may go. Where that is not enough, 1×1 and linear layers get low ranks. All start as what is nearest to the trained
    layer. Scores are trained in the second half of the search on a fifth of the training images, under a price on the
    expected parameters; then the best scores within the target are chosen exactly, and ranks use up what is left.

    Differs from the source, which searches for a cell from nothing: here each place of a trained network chooses for
    itself. The scores of edges remain where edges compete, a shortcut with its branch. A mixture of linear operators is
    one convolution with the mixture of their kernels, so a partial search saves no time here, only disturbs less.
    """

    name = "PCO"
    factors = True
    search_cost = 2.0

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """Search on a copy of `model`, rebuild and train it.

        Raises:
            Infeasible: there is no convolution or branch to choose for, or the cheapest choices are not enough.
        """
        self.check(strategy)
        step = Step(model, strategy, context, self.phases(strategy, context.recipe, context.data.n))
        step.insist_float("Other operators would not lie on their levels: choose first, then quantise.")
        search, cheapest = self.prepared(step, strategy)
        items = search.items()
        left = search.least(items)
        short = f"the cheapest operators everywhere, and rank 1 in other layers, leave {left} parameters"
        step.settle(left, least_rise([item.options for item in items], cheapest), short)
        teacher = copy.deepcopy(step.model).eval().requires_grad_(False).to(memory_format=context.data.layout)
        loss = taught(step.objective, teacher, TEACHER, TEMPERATURE)
        self.search(step, search, loss)
        items = search.items()
        chosen = search.choose(items, step.target)
        rise = least_rise([item.options for item in items], chosen)
        said = search.build(items, chosen, step.target)
        step.check_runs(teacher)
        fitted = step.train(phase=1, loss=loss)
        step.recalibrate()
        return step.model, step.report(
            search.unit or rise, short, operators=said, loss=fitted.loss, sites=len(search.mixed),
            branches=len(search.bypassed), late=search.late,
        )  # fmt: skip

    def prepared(self, step: Step, strategy: Strategy) -> tuple[OperatorSearch, list[int]]:
        """Return the search of a step, and the cheapest option of each of its items.

        Raises:
            Infeasible: there is nothing to choose.
        """
        keep = step.context.keep
        blocks = branches.branches(step.model, step.example, keep)
        step.whole(blocks, branches.exact)
        blocks = [branch for branch in blocks if branch.name not in step.refused]
        uncut = step.whole(lowrank.sites(step.model, keep), lowrank.exact)
        divisor, seed = round(strategy.number("HP26")), step.context.seed
        search = OperatorSearch(step.model, searched(step.model, uncut), blocks, divisor, seed, uncut)
        if not search.scores:
            late = f" There was no time to look at {search.late} of them." if search.late else ""
            raise Infeasible(
                f"{strategy.id}: this model has no k×k convolution that could be another operator, and no residual "
                f"branch around a plain shortcut.{late}{step.staying}"
            )
        return search, [min(range(len(item.options)), key=lambda i: item.options[i]) for item in search.items()]

    def search(self, step: Step, search: OperatorSearch, loss: Loss) -> None:
        """Train weights and scores in turns; the model's layers are back at the end."""
        context, length = step.context, step.lengths[0]
        whole = context.original_params
        seed = derived(context.seed, "scores")

        def excess() -> Tensor:
            return (search.expected() - step.target).clamp_min(0) / whole

        turns = Alternation(
            step.model, search.scores, loss, [excess], judging(context.data, seed), context.recipe, length, seed
        )
        search.enter()
        try:
            step.train(phase=0, loss=loss, after_update=turns)
        finally:
            search.leave()
