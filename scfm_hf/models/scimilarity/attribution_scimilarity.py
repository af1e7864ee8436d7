"""Which genes set a cell apart from another: integrated gradients of the distance between their embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from scfm_hf.models.scimilarity.modeling_scimilarity import SCimilarityModel


def attribute_genes(
    model: SCimilarityModel, anchors: Tensor, negatives: Tensor, *, n_steps: int = 50
) -> NDArray[np.float32]:
    """Importance of each gene for the squared distance between pairs of cells: what an anchor has more of, and counts.

    Parameters
    ----------
    model, anchors, negatives, n_steps
        As in :func:`integrated_gradients`.

    Returns
    -------
    Sizes of the integrated gradients, float32, (n_pairs, num_genes); 0 unless the anchor has more of the gene.
    """
    signed = integrated_gradients(model, anchors, negatives, n_steps=n_steps)
    return np.where((anchors > negatives).cpu().numpy(), np.abs(signed), np.float32(0))


def integrated_gradients(
    model: SCimilarityModel, anchors: Tensor, negatives: Tensor, *, n_steps: int = 50
) -> NDArray[np.float32]:
    """Share of each gene in the squared distance between the embeddings of pairs of cells.

    The gradient of the distance by the anchor's profile, averaged along the straight way from the negative's profile
    (Gauss-Legendre points), times the difference of the profiles. The shares add up to the distance.

    Parameters
    ----------
    model
        The encoder; what it does in evaluation is explained, whichever mode it is in.
    anchors, negatives
        Whole profiles, (n_pairs, num_genes) each, from ``model.profiles(**tokenizer(adata, ...))``.
    n_steps
        Points of the way.

    Returns
    -------
    float32, (n_pairs, num_genes).

    Raises
    ------
    ValueError
        If the two differ in shape.

    References
    ----------
    Sundararajan et al. 2017, ICML, "Axiomatic Attribution for Deep Networks".
    """
    if anchors.shape != negatives.shape:
        raise ValueError(
            f"anchors have the shape {tuple(anchors.shape)}, negatives {tuple(negatives.shape)}: each anchor needs one "
            "negative."
        )
    anchors, negatives = (given.to(model.device, torch.float32) for given in (anchors, negatives))
    difference = anchors - negatives
    points, weights = np.polynomial.legendre.leggauss(n_steps)
    total = torch.zeros_like(anchors)
    training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            target = model(values=negatives).latent.detach()
            for point, weight in zip((1 + points) / 2, weights / 2, strict=True):
                between = (negatives + float(point) * difference).requires_grad_()
                distance = (target - model(values=between).latent).square().sum()
                (gradient,) = torch.autograd.grad(distance, between)
                total += float(weight) * gradient
    finally:
        model.train(training)
    return (total * difference).cpu().numpy()


def rank_genes(attributions: NDArray[np.floating], genes: Sequence[str]) -> pd.DataFrame:
    """Genes by their mean attribution, highest first.

    Parameters
    ----------
    attributions
        From :func:`attribute_genes`, (n_pairs, num_genes).
    genes
        Names of the genes, ``tokenizer.vocabulary.gene_tokens``.

    Returns
    -------
    Columns ``gene``, ``index`` (place in ``genes``), ``attribution`` (mean), ``attribution_std`` (of the population)
    and ``n_pairs``.
    """
    values = np.asarray(attributions, np.float64)
    means = values.mean(0)
    # The authors turn the ascending order round: of equal genes the last comes first.
    order = np.argsort(means)[::-1]
    return pd.DataFrame(
        {
            "gene": np.asarray(genes, object)[order],
            "index": order,
            "attribution": means[order],
            "attribution_std": values.std(0)[order],
            "n_pairs": len(values),
        }
    )
