"""What every learned part costs and gains, from the committed rows and pages; beside what its source reports.

    python -m benchmarks.parts [--check]        # writes docs/results/parts.md; --check says whether it is as written

Nothing is measured: each figure is read from a CSV file, or from a cell of a page's table by its row and column, and what
is not there any more is an error. A second of one core.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.graph_network import GRAPH, LINEAR, RECURRENT, rise, taus_of

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
OUT = RESULTS / "parts.md"


def rows(path: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file under docs/results."""
    with (RESULTS / path).open() as stream:
        return list(csv.DictReader(stream))


def mean(path: str, column: str, scale: float = 1.0, **where: str) -> float:
    """Return the mean of a column over the rows that have these values.

    Raises:
        SystemExit: there is no such row.
    """
    found = [float(r[column]) for r in rows(path) if all(r[name] == value for name, value in where.items())]
    if not found:
        raise SystemExit(f"docs/results/{path} has no row with {where}: mend benchmarks/parts.py.")
    return scale * statistics.fmean(found)


def cell(page: str, first: str, column: str, number: int = 0) -> str:
    """Return a cell of a page's table: of the row that is called or begins so, in the column of that name; the first, or
    a later one.

    Raises:
        SystemExit: there is no such cell.
    """
    begun = [row for row in _cells(page) if column in row and next(iter(row.values())).startswith(first)]
    found = [row[column] for row in sorted(begun, key=lambda row: next(iter(row.values())) != first)]
    if len(found) <= number:
        raise SystemExit(f"docs/results/{page} has no cell '{column}' in a row '{first}': mend benchmarks/parts.py.")
    return found[number]


def _cells(page: str) -> Iterator[dict[str, str]]:
    """Yield the rows of all tables of a page, by column, the first column first."""
    head: list[str] = []
    for line in (RESULTS / page).read_text().splitlines():
        parts = [part.strip() for part in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if parts and not head:
            head = parts
        elif parts and not set("".join(parts)) <= {"-", ":"}:
            yield dict(zip(head, parts, strict=False))
        elif not parts:
            head = []


def lines(*files: str) -> int:
    """Return how many lines of code, blank ones left out, files have."""
    return sum(bool(line.strip()) for file in files for line in (ROOT / file).read_text().splitlines())


def points(path: str, way: str, share: str) -> float:
    """Return the mean test accuracy of a way in a table of ways and shares, in points."""
    return mean(path, "test", 100, way=way, share=share)


def amc(
    way: str,
    column: str = "test",
    scale: float = 100,
    model: str = "resnet20",
    share: str = "0.7",
    equal: str = "parameters",
) -> float:
    """Return a mean of the rows of AMC's table."""
    return mean("amc/runs.csv", column, scale, model=model, share=share, equal=equal, way=way)


def told(count: int, model: str = GRAPH, table: str = "grey6-k12") -> str:
    """Return by how much τ of a model is above the linear model's on a table, with the interval."""
    mine = [row for row in rows("graph-network/runs.csv") if row["table"] == table and row["part"] != "search"]
    return rise(taus_of(mine, model, count), taus_of(mine, LINEAR, count))


def volume(searcher: str, folder: str = "searchers-grey", column: str = "area_steps") -> float:
    """Return the median of a searcher's column."""
    return statistics.median(float(r[column]) for r in rows(f"{folder}/runs.csv") if r["searcher"] == searcher)


@dataclass(frozen=True)
class Part:
    """One learned part."""

    name: str
    files: tuple[str, ...]
    cost: Callable[[], str]
    gain: Callable[[], str]
    page: str
    place: str
    """Where it is used."""


def _search_gain() -> str:
    here, blind = volume("progressive"), volume("random")
    tree, unguided = volume("progressive", "searchers"), volume("progressive-blind", "searchers")
    means = volume("progressive-mean"), volume("progressive-mean", "searchers")
    return (
        f"mean hypervolume of a search on the held-out table {here:.3f}, on the tree {tree:.3f}; with the mean of each strategy in its "
        f"place {means[0]:.3f} and {means[1]:.3f}, without a model {unguided:.3f} (tree), at random {blind:.3f} (held out)"
    )


def _legr() -> str:
    found = []
    for share, length in (("0.4", 24), ("0.4", 120), ("0.7", 24), ("0.7", 120)):
        pair = [
            mean("step-choices/runs.csv", "test", 100, name=f"LeGR {share} {length} {what}")
            for what in ("candidates not trained, half of HP7 for them", "no search, all for training")
        ]
        found.append(f"{pair[0] - pair[1]:+.1f} ({float(share):.0%}, {length} iterations)")
    return f"points of test accuracy beside the same ranking without a search, all iterations for training: {', '.join(found)}"


PARTS = (
    Part(
        "vectors of strategies (TransR)", ("kg/embedding/transr.py", "kg/embedding/negatives.py", "kg/embedding/learn.py"),
        lambda: "most of a minute from nothing, seconds for a method that comes; a file of 1.1 MB; PyKEEN",
        lambda: (
            "settings and neighbours can be read, `kg similar`; for a search nothing: the linear model reads no vectors. The network of Eq. 5 alone: "
            f"{cell('evaluators-vectors.md', 'vectors now', 'digits-k8')} with them, {cell('evaluators-vectors.md', 'a column', 'digits-k8')} with a column for each setting (Spearman, error; digits)"
        ),
        "embedding.md", "`kg similar`; a network's input",
    ),
    Part(
        "RGCN, CompGCN in the place of TransR", ("benchmarks/relational.py",),
        lambda: f"{cell('relational/README.md', 'RGCN', 'seconds')} s each were given, {cell('relational/README.md', 'RGCN', 'epochs')} and {cell('relational/README.md', 'CompGCN', 'epochs')} epochs",
        lambda: (
            "Spearman's correlation of the network of Eq. 5 alone: "
            + "; ".join(
                f"{source} {cell('relational/README.md', 'RGCN', source)} and {cell('relational/README.md', 'CompGCN', source)}, TransR "
                f"{cell('relational/README.md', 'TransR', source)}" for source in ("random.csv", "progressive.csv", "digits-k8")
            )
        ),
        "relational/README.md", "nowhere",
    ),
    Part(
        "NN_exp", ("kg/embedding/experience_net.py", "kg/embedding/records.py"),
        lambda: "part of the vectors' seconds, a small network in their file",
        lambda: (
            f"error of AR on unread sources {cell('published.md', 'the law, and NN_exp', 'over sources')} on top of the law, {cell('published.md', 'the law by size: c of', 'over sources')} the law alone, "
            f"{cell('published.md', 'weighted median', 'over sources')} a constant"
        ),
        "published.md", "moves the vectors; guides no search",
    ),
    Part(
        "law by size", ("kg/embedding/law.py",),
        lambda: "under a second; a slope for each method",
        lambda: (
            f"error of AR on unread sources {cell('published.md', 'the law by size: c of', 'over sources')}, a constant {cell('published.md', 'weighted median', 'over sources')}; a search's front after 10 steps "
            f"{cell('searchers-grey/README.md', '10 steps', 'knowing')} with it, {cell('searchers-grey/README.md', '10 steps', 'not knowing')} without, after 25 {cell('searchers-grey/README.md', '25 steps', 'knowing')} and {cell('searchers-grey/README.md', '25 steps', 'not knowing')}"
        ),
        "first-guess.md", "first guess of every search",
    ),
    Part(
        "F_mo, linear model", ("automc/search/linear.py",),
        lambda: f"{volume('progressive', column='overhead_seconds'):.1f} s for 200 steps, the whole searcher with its network; a matrix of some twenty features",
        _search_gain, "searchers-grey/README.md", "default",
    ),
    Part(
        "F_mo, recurrent network", ("automc/search/network.py", "automc/search/evaluator.py"),
        lambda: "most of the searcher's seconds, and torch; 9,000 weights",
        lambda: f"Kendall's τ among next steps beside the linear model alone, held-out table: {told(20, RECURRENT)} after 20 steps, {told(100, RECURRENT)} after 100",
        "graph-network/README.md", "default, followed only where it has predicted better",
    ),
    Part(
        "graph network over the layers", ("benchmarks/tab/graph_network.py",),
        lambda: "as the recurrent network, and the layer table of every prefix",
        lambda: f"likewise: {told(20)} after 20 steps, {told(50)} after 50, {told(100)} after 100",
        "graph-network/README.md", "nowhere",
    ),
    Part(
        "controller of `reinforce`", ("automc/search/reinforce.py",),
        lambda: f"{volume('reinforce', 'searchers', 'overhead_seconds'):.1f} s for 100 steps",
        lambda: f"mean hypervolume on the tree {volume('reinforce', 'searchers'):.3f}; at random {volume('random', 'searchers'):.3f}, progressive {volume('progressive', 'searchers'):.3f}",
        "searchers/README.md", "baseline",
    ),
    Part(
        "promotion of `eco`", ("automc/search/eco.py",),
        lambda: "next to nothing beside the steps; three files of training states a scheme at most",
        lambda: (
            f"front after 101 s on the tree {cell('eco.md', 'eco', '101 s')} with looks that are never wrong, {cell('eco.md', 'eco', '101 s', 2)} with 3 points of noise; "
            f"progressive {cell('eco.md', 'progressive', '101 s')}, evolution {cell('eco.md', 'evolution', '101 s')}"
        ),
        "eco.md", "`--searcher eco`",
    ),
    Part(
        "LeGR's search", ("automc/methods/legr.py", "automc/methods/ranking.py"),
        lambda: "half of HP7's iterations at most",
        _legr, "step-choices/README.md", "in LeGR",
    ),
    Part(
        "AMC's agent", ("automc/methods/amc.py", "automc/methods/ddpg.py"),
        lambda: f"{amc('AMC', 'seconds', 1):.0f} s a step with 50 episodes, LeGR's step {amc('LeGR', 'seconds', 1):.0f}; four networks of 300 units",
        lambda: "test accuracy of ResNet-20 at 70% of the parameters, and at as many FLOPs as the agent took: " + ", ".join(
            f"{name} {amc(way):.1f}" + ("" if way == "AMC" else f" and {amc(way, equal='FLOPs'):.1f}")
            for name, way in (("agent", "AMC"), ("one ratio everywhere", "uniform"), ("LeGR", "LeGR"), ("magnitude", "L1"))
        ),
        "amc/README.md", "off the default grid",
    ),
    Part(
        "DNQ's policy", ("automc/methods/dnq.py", "automc/methods/policy.py"),
        lambda: "16 allocations judged, on its card 50 or 150; an LSTM of 64 units",
        lambda: f"test accuracy at 4 bits {mean('quantisers/runs.csv', 'test', 100, method='DNQ', bits='4'):.1f}, UQ without a policy {mean('quantisers/runs.csv', 'test', 100, method='UQ', bits='4'):.1f}",
        "quantisers/README.md", "off the default grid",
    ),
    Part(
        "PCO's scores of operators", ("automc/methods/pco.py", "automc/methods/operator_search.py"),
        lambda: f"{mean('operators/runs.csv', 'seconds', way='PCO, K = 4', share='0.7'):.0f} s a step, operators at random {mean('operators/runs.csv', 'seconds', way='operators at random', share='0.7'):.0f}",
        lambda: ", ".join(
            f"{points('operators/runs.csv', way, share) - points('operators/runs.csv', 'operators at random', share):+.1f} points of test accuracy at {float(share):.0%} with {way.removeprefix('PCO, ')}"
            for share in ("0.4", "0.7") for way in ("PCO, K = 4", "PCO, K = 1")
        ) + ", beside operators at random",
        "operators/README.md", "off the default grid",
    ),
    Part(
        "MDP's scores of resolutions, and gates", ("automc/methods/mdp.py", "automc/methods/gates.py", "automc/surgery/downsampled.py"),
        lambda: f"{mean('mdp/runs.csv', 'seconds', way='MDP, channels and resolution'):.0f} s a step, network slimming {mean('mdp/runs.csv', 'seconds', way='NS'):.0f}",
        lambda: "test accuracy at half of the FLOPs: " + ", ".join(
            f"{name} {mean('mdp/runs.csv', 'test', 100, way=way):.1f}"
            for name, way in (("both", "MDP, channels and resolution"), ("resolution", "MDP, resolution"), ("gates", "MDP, channels"), ("NS", "NS"), ("SFP", "SFP"), ("TRP", "TRP"))
        ) + "; time of an image in PyTorch and onnxruntime, of the original's: " + ", ".join(
            f"{name} {mean('mdp/latency/runs.csv', 'ratio', way=way, place='torch'):.2f} and {mean('mdp/latency/runs.csv', 'ratio', way=way, place='onnx'):.2f}"
            for name, way in (("resolution", "MDP, resolution"), ("SFP", "SFP"))
        ),
        "mdp/README.md", "off the default grid",
    ),
    Part(
        "latency predictor", tuple(f"automc/latency/{name}.py" for name in ("calibration", "kernels", "networks", "nodes", "predictor", "sampling", "timing")),
        lambda: "minutes of a quiet machine for a calibration; samples as JSON",
        lambda: (
            f"within 10% of what is measured: {cell('latency/README.md', 'PyTorch', 'within 10%')} of networks in PyTorch, {cell('latency/README.md', 'onnxruntime', 'within 10%')} in onnxruntime; studies of 20 steps under a limit "
            f"find {cell('latency/README.md', 'with', 'meet the limit')} that meet it with predictions, {cell('latency/README.md', 'without', 'meet the limit')} without (three seeds)"
        ),
        "latency/README.md", "where latency is limited and calibrated",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """What a source reports, beside ours."""

    name: str
    theirs: str
    ours: Callable[[], str]
    why: str


SOURCES = (
    Source(
        "AutoMC, ResNet-56 on CIFAR-10, near 40% (Table 2)",
        "search 92.61 (39% removed), evolution 91.77 (50%), RL 87.23 (78%), random 79.50 (76%); best single method LeGR 90.69; before 91.04",
        lambda: f"no search of ours on ResNet-56; single steps at 40%: LMA {cell('single-methods/README.md', 'LMA', 'test accuracy', 2)}, HOS {cell('single-methods/README.md', 'HOS', 'test accuracy', 2)}, LeGR {cell('single-methods/README.md', 'LeGR', 'test accuracy', 2)}; before 88.5",
        "A tenth of the images and half an E0 of 10 epochs here; the paper does not say at how many epochs its tables stand. Its rows differ in size by up to 40 points, so they rank searches by "
        "where they ended, too. On one table of executed steps ours rank as in the paper, with evolution and RL level: progressive, these two, random ([searchers](searchers/README.md))",
    ),
    Source(
        "AutoMC, does a search pay?", "search 92.61 and 92.18 near 40% and 70%, best single method LeGR 90.69 and LFB 90.35",
        lambda: f"at 300 s and 70%: search of the six {cell('pays/README.md', 'search, the six methods', 'test')}, best of them LFB {cell('pays/README.md', 'LFB', 'test')}; search {cell('pays/README.md', 'search', 'test')}, TRP {cell('pays/README.md', 'TRP', 'test')}",
        "Equal processor time for all here, and single methods get what a search spends on looking as more training; the paper gives each method a grid search and compares by schemes",
    ),
    Source(
        "TRP, ResNet-20 on CIFAR-10 (README)", "spatial form 90.62 at 70% removed, channel form 90.50 at 63%; before 91.74",
        lambda: f"70%, 120 iterations: spatial {mean('trp/runs.csv', 'test', 100, way='TRP, spatial', share='0.7', iterations='120'):.1f}, channel {mean('trp/runs.csv', 'test', 100, way='TRP, channel', share='0.7', iterations='120'):.1f}",
        "164 epochs at a learning rate of 0.1 on all images there; 120 iterations on a tenth here, and images in JPEG, on which the same weights have 5 points less. The order of the forms is the same",
    ),
    Source(
        "AMC, ResNet-56 on CIFAR-10, half of the FLOPs (poster)", "agent 91.9, one ratio 89.8, deep 91.5; before 92.8",
        lambda: f"ResNet-56, {amc('AMC', 'fr', 100, 'resnet56', '0.57'):.0f}% of the FLOPs: agent {amc('AMC', model='resnet56', share='0.57'):.1f}, at as many FLOPs " + ", ".join(
            f"{name} {amc(way, model='resnet56', share='0.57', equal='FLOPs'):.1f}" for name, way in (("one ratio", "uniform"), ("LeGR", "LeGR"), ("magnitude", "L1"))
        ),
        "The agent is ahead of one ratio there by two points, here level with it within the error. There fine-tuning is long and the bound is on FLOPs; here it is 120 iterations, and the bound on parameters",
    ),
    Source(
        "latency-aware DARTS", "below 10% relative error, from 100,000 architectures measured on a P100",
        lambda: f"median error {cell('latency/README.md', 'PyTorch', 'median error')} in PyTorch, {cell('latency/README.md', 'onnxruntime', 'median error')} in onnxruntime",
        "Here kernels are measured one by one, a thousand samples in place of 100,000 networks; its 20% less latency in a search of architectures has nothing to compare here",
    ),
    Source(
        "EcoNAS, CIFAR-10 (slides)", "error 2.60 in 8 GPU-days with promotion, 2.94 in 12 without; order kept by a proxy .85",
        lambda: f"front {cell('eco.md', 'eco', '101 s')} with promotion, evolution {cell('eco.md', 'evolution', '101 s')}, progressive {cell('eco.md', 'progressive', '101 s')}",
        "Promotion helps evolution in both. Here a model of steps already says which candidates are worth their length, and a first look costs a third, not a 2,560th",
    ),
    Source(
        "PC-DARTS, CIFAR-10", "error 2.57, 3.6 M parameters, 0.1 GPU-days",
        lambda: f"ResNet-20 at 40% removed {points('operators/runs.csv', 'PCO, K = 4', '0.4'):.1f} (LFB {cell('operators/README.md', '40%', 'test')})",
        "It searches a network to be trained from nothing for 600 epochs; here operators replace trained layers in a step of 120 iterations with 24 updates of the scores",
    ),
    Source("GCN predictor, DNQ, SLQ and MLQ, MDP", "no figure could be read", lambda: "see their pages", "Only abstracts or slides without readable figures"),
)  # fmt: skip


def page() -> str:
    """Return the page."""
    found = [
        "# What the learned parts cost and gain", "",
        "Written by `python -m benchmarks.parts` from the pages and rows that are linked; n, seeds and machines are told there. Lines are those of code, without blank ones.", "",
        "| part | used | lines | costs | gains | from |", "|---|---|---|---|---|---|",
        *(f"| {p.name} | {p.place} | {lines(*p.files):,} | {p.cost()} | {p.gain()} | [{p.page}]({p.page}) |" for p in PARTS), "",
        "What has earned its place in a search by these figures is the linear model and, for its first ten steps, the law by size; vectors serve questions to the graph, and the latency predictor a limit",
        "in PyTorch. AMC's agent is ahead of one ratio at equal parameters, level with LeGR at several times its seconds, and behind both at equal FLOPs on ResNet-20. The other networks and policies are no better than what is simpler, in steps as short as these;",
        "each is off by default, or followed only where it has shown itself better.", "",
        "## Beside the sources", "",
        "Accuracies in per cent. Nothing here has the budget of the papers, so the levels do not compare; what can be compared is the order, and the reasons are named.", "",
        "| source | reports | here | why they differ |", "|---|---|---|---|",
        *(f"| {s.name} | {s.theirs} | {s.ours()} | {s.why} |" for s in SOURCES), "",
    ]  # fmt: skip
    return "\n".join(found)


def main() -> None:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where the page is another one")
    options = parser.parse_args()
    text = page()
    if options.check and OUT.read_text() != text:
        raise SystemExit("docs/results/parts.md is not what its sources say now: python -m benchmarks.parts")
    if not options.check:
        OUT.write_text(text)


if __name__ == "__main__":
    main()
