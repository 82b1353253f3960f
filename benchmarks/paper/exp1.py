"""The paper's first experiment: ResNet-56 on CIFAR-10 and VGG-16 on CIFAR-100 (its Table 2).

Each network is trained, searched by AutoMC, evolution, reinforcement learning and at random (gamma 0.3, at most five
steps, a tenth of the images, the paper's grid), and compressed by what each found and by each method alone, at about 40
and 70% of the parameters. The plan and its hours on this device come first; each start works for one piece.

    python -m benchmarks.paper.exp1 --cifar10 CIFAR10_FOLDER --cifar100 cifar100 --out docs/results/paper-exp1 --plan
    python -m benchmarks.paper.exp1 --cifar10 CIFAR10_FOLDER --cifar100 cifar100 --out docs/results/paper-exp1

Networks and studies lie in the AutoMC home (AUTOMC_HOME), which is kept between pieces. The paper states neither the
epochs of its steps nor the steps of its searches, but three days on a card: see --unit-epochs and --steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence

from benchmarks.paper.run import experiment
from benchmarks.paper.work import Job, Net, compressing, searching, training

NETS = (("resnet56", "cifar10"), ("vgg16", "cifar100"))
TARGETS = (0.4, 0.7)
PAPER = {
    # Table 2: accuracy in per cent.
    ("resnet56", 0.4): {
        "LMA": 79.61, "LeGR": 90.69, "NS": 89.19, "SFP": 88.24, "HOS": 90.18, "LFB": 89.99,
        "Evolution": 91.77, "AutoMC": 92.61, "RL": 87.23, "Random": 79.50,
    },
    ("resnet56", 0.7): {
        "LMA": 75.25, "LeGR": 85.88, "NS": 85.73, "SFP": 86.94, "HOS": 89.28, "LFB": 90.35,
        "Evolution": 89.21, "AutoMC": 92.18, "RL": 88.30, "Random": 88.36,
    },
    ("vgg16", 0.4): {
        "LMA": 42.11, "LeGR": 69.97, "NS": 70.01, "SFP": 69.62, "HOS": 64.34, "LFB": 60.94,
        "Evolution": 69.03, "AutoMC": 70.73, "RL": 63.23, "Random": 68.45,
    },
    ("vgg16", 0.7): {
        "LMA": 41.51, "LeGR": 69.06, "NS": 68.98, "SFP": 68.15, "HOS": 62.66, "LFB": 57.88,
        "Evolution": 60.47, "AutoMC": 70.10, "RL": 51.20, "Random": 51.76,
    },
}  # fmt: skip


def networks(options: argparse.Namespace) -> list[Net]:
    """Return those whose data are given."""
    return [Net(network, given) for network, data in NETS if (given := getattr(options, data))]


def plan(options: argparse.Namespace, pace: Callable[[Net], tuple[float, int]]) -> Iterator[Job]:
    """Yield the jobs of each network: it is trained, searched, and compressed."""
    for net in networks(options):
        speed, n = pace(net)
        yield training(net, speed, n, options)
        for who in options.searchers:
            yield searching(net, who, speed, n, options)
        for wanted in options.targets or TARGETS:
            for who in (*options.searchers, *options.methods):
                paper = PAPER.get((net.network, wanted), {}).get(who)
                yield compressing(net, net, who, wanted, paper, speed, n, options)


def main(given: Sequence[str] | None = None) -> None:
    """Run one piece of it."""
    experiment("The paper's Table 2", __doc__ or "", plan, given)


if __name__ == "__main__":
    main()
