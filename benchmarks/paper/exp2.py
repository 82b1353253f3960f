"""The paper's second experiment: schemes found on one network, on smaller and larger ones (its Table 3).

What the searches of the first experiment found on ResNet-56 is run on ResNet-20 and ResNet-164, what they found on
VGG-16 on VGG-13 and VGG-19, at about 40% of the parameters, beside each method alone. The home of the first experiment
holds the studies, so that comes first.

    python -m benchmarks.paper.exp2 --cifar10 CIFAR10_FOLDER --cifar100 cifar100 --out docs/results/paper-exp2 --plan
    python -m benchmarks.paper.exp2 --cifar10 CIFAR10_FOLDER --cifar100 cifar100 --out docs/results/paper-exp2
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence

from benchmarks.paper.exp1 import networks
from benchmarks.paper.run import experiment
from benchmarks.paper.work import Job, Net, compressing, training

TARGETS = (0.4,)
TO = {"resnet56": ("resnet20", "resnet164"), "vgg16": ("vgg13", "vgg19")}
PAPER = {
    # Table 3: accuracy in per cent. The paper's ResNets have convolutions in their shortcuts, its ResNet-164 no bottlenecks.
    "resnet20": {
        "LMA": 77.61, "LeGR": 89.20, "NS": 88.78, "SFP": 87.81, "HOS": 88.81, "LFB": 91.57,
        "Evolution": 89.95, "AutoMC": 91.42, "RL": 84.28, "Random": 78.38,
    },
    "resnet164": {
        "LMA": 58.21, "LeGR": 83.93, "NS": 83.84, "SFP": 82.06, "HOS": 84.12, "LFB": 24.17,
        "Evolution": 87.69, "AutoMC": 88.50, "RL": 74.21, "Random": 59.37,
    },
    "vgg13": {
        "LMA": 47.16, "LeGR": 70.80, "NS": 70.48, "SFP": 70.69, "HOS": 64.13, "LFB": 63.04,
        "Evolution": 62.95, "AutoMC": 71.77, "RL": 62.36, "Random": 62.02,
    },
    "vgg19": {
        "LMA": 40.02, "LeGR": 69.64, "NS": 69.34, "SFP": 69.42, "HOS": 63.37, "LFB": 56.27,
        "Evolution": 63.30, "AutoMC": 70.56, "RL": 68.31, "Random": 68.81,
    },
}  # fmt: skip


def plan(options: argparse.Namespace, pace: Callable[[Net], tuple[float, int]]) -> Iterator[Job]:
    """Yield the jobs: each network is trained, then compressed.

    Raises:
        SystemExit: a search of the first experiment is missing in this home.
    """
    known = options.work / "studies.json"
    studies = json.loads(known.read_text()) if known.exists() else {}
    for found_on in networks(options):
        missing = [who for who in options.searchers if f"{found_on.network} {who}" not in studies]
        if missing:
            raise SystemExit(
                f"No study of {found_on.network} by {', '.join(missing)} in {options.work}: run benchmarks.paper.exp1 first, or "
                "leave out the network, or these with --searchers."
            )
        for net in (Net(network, found_on.data) for network in TO[found_on.network]):
            speed, n = pace(net)
            yield training(net, speed, n, options)
            for wanted in options.targets or TARGETS:
                for who in (*options.searchers, *options.methods):
                    paper = PAPER.get(net.network, {}).get(who) if wanted == TARGETS[0] else None
                    yield compressing(net, found_on, who, wanted, paper, speed, n, options)


def main(given: Sequence[str] | None = None) -> None:
    """Run one piece of it."""
    experiment("The paper's Table 3", __doc__ or "", plan, given)


if __name__ == "__main__":
    main()
