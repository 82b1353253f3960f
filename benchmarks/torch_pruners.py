"""How torch-pruning, a baseline, prunes the layers of ours that it does not know."""

from __future__ import annotations

from collections.abc import Sequence

import torch_pruning
from torch import nn

from automc.models.shortcuts import GatherShortcut
from automc.surgery.lma import LMA


class GatherPruner(torch_pruning.BasePruningFunc):  # type: ignore[misc]
    """The two functions differ, so torch-pruning keeps the channels before and after the shortcut apart."""

    def prune_in_channels(self, layer: GatherShortcut, idxs: Sequence[int]) -> nn.Module:
        """Remap the sources after the input channels `idxs` are gone."""
        layer.drop_inputs(idxs)
        return layer

    def prune_out_channels(self, layer: GatherShortcut, idxs: Sequence[int]) -> nn.Module:
        """Drop the output channels `idxs`."""
        layer.drop_outputs(idxs)
        return layer

    def get_out_channels(self, layer: GatherShortcut) -> int:
        """Width of the output."""
        return layer.out_channels

    def get_in_channels(self, layer: GatherShortcut) -> int:
        """Width of the input."""
        return layer.in_channels


class ElementwisePruner(torch_pruning.BasePruningFunc):  # type: ignore[misc]
    """For an activation whose parameters are shared by all channels: nothing of it goes with a channel."""

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        """Leave the layer as it is."""
        return layer

    prune_in_channels = prune_out_channels  # what goes in comes out: one group

    def get_out_channels(self, layer: nn.Module) -> None:
        """Unknown: whatever comes in."""

    get_in_channels = get_out_channels


PRUNERS: dict[type[nn.Module], type[torch_pruning.BasePruningFunc]] = {
    GatherShortcut: GatherPruner,
    LMA: ElementwisePruner,
}
