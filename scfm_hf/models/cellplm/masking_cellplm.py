"""What CellPLM hides from itself in training: some entries of some cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from scfm_hf.models.cellplm.configuration_cellplm import CellPLMConfig

#: First parameter of the beta distribution, and the largest share of a cell that is hidden.
_ALPHA, _LARGEST_RATE = 5.0, 0.9


def draw_input_mask(values: Tensor, config: CellPLMConfig) -> Tensor | None:
    """Choose the entries to hide, by torch's generator.

    Parameters
    ----------
    values
        Counts, (n_cells, n_genes).
    config
        With ``mask_cell_rate``, ``mask_gene_rate`` and ``mask_by_cell``.

    Returns
    -------
    1 = hidden, float, (n_cells, n_genes); None if the configuration hides nothing.
    """
    n_cells, rate = len(values), config.mask_gene_rate
    if not config.mask_cell_rate or not rate:
        return None
    chosen = torch.rand(n_cells).argsort().argsort() < int(config.mask_cell_rate * n_cells)
    rates = torch.full((n_cells,), float(rate))
    if config.mask_by_cell:
        rates = torch.distributions.Beta(_ALPHA, 4 / rate + 2 - _ALPHA).sample((n_cells,)).clamp(max=_LARGEST_RATE)
    rates = (rates * chosen).to(values.device)
    return (torch.rand(values.shape, device=values.device) < rates[:, None]).float()
