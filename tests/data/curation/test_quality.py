"""Outliers are told from the cells of their own sample."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scfm_hf.data.curation.quality import QualityLimits, quality_flags


def figures(n_counts: np.ndarray, share: np.ndarray | float = 0.02) -> pd.DataFrame:
    return pd.DataFrame({"n_counts": n_counts, "n_genes": n_counts // 3, "mitochondrial_share": share})


def test_a_cell_is_an_outlier_of_its_own_sample_only() -> None:
    random = np.random.default_rng(0)
    shallow, deep = random.lognormal(7, 0.3, 200).round(), random.lognormal(10, 0.3, 200).round()
    counts = np.concatenate([shallow, deep, [deep[0]]])
    samples = np.repeat([0, 1, 0], [200, 200, 1])
    flags = quality_flags(figures(counts), samples, np.full(401, 20_000), QualityLimits())
    assert flags["outlier"].iloc[-1]
    assert flags["outlier"].iloc[:-1].mean() < 0.01
    together = quality_flags(figures(counts), np.zeros(401, int), np.full(401, 20_000), QualityLimits())
    assert not together["outlier"].any()


def test_a_high_mitochondrial_share_is_an_outlier_a_low_one_is_not() -> None:
    share = np.random.default_rng(0).normal(0.05, 0.005, 102).clip(0.04, 0.06)
    share[:2] = 0.0, 0.1
    flags = quality_flags(
        figures(np.full(102, 3000.0), share), np.zeros(102, int), np.full(102, 20_000), QualityLimits()
    )
    assert np.flatnonzero(flags["outlier"]).tolist() == [1]
    assert not flags["high_mitochondrial"].any()


def test_few_cells_have_no_outliers_and_panels_no_least_number_of_genes() -> None:
    counts = np.array([10.0] * 9 + [10_000.0])
    of_panel = quality_flags(figures(counts), np.zeros(10, int), np.full(10, 300), QualityLimits())
    assert not of_panel.to_numpy().any()
    whole = quality_flags(figures(counts), np.zeros(10, int), np.full(10, 20_000), QualityLimits())
    assert whole["few_counts"].tolist() == [True] * 9 + [False]
