"""Classifiers and gradient reversal."""

from __future__ import annotations

import torch
from torch import nn

from scfm_hf.nn.classifiers import DeepClassifier, reverse_gradient


def test_depth_counts_all_linear_layers() -> None:
    for depth in (1, 2, 4):
        classifier = DeepClassifier(8, 3, n_layers=depth)
        assert sum(isinstance(module, nn.Linear) for module in classifier.modules()) == depth
        assert classifier(torch.randn(2, 5, 8)).shape == (2, 5, 3)


def test_reversal_changes_no_value_and_turns_the_gradient_round() -> None:
    values = torch.randn(3, 4, requires_grad=True)
    passed = reverse_gradient(values, 0.3)
    assert torch.equal(passed, values)
    (passed * torch.arange(4.0)).sum().backward()
    torch.testing.assert_close(values.grad, -0.3 * torch.arange(4.0).expand(3, -1))
