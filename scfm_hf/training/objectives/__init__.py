"""Objectives of pretraining, as collators and losses for the stock Trainer over an encoder of any family."""

from scfm_hf.training.objectives.mixture import Objectives, load_objectives, make_objectives
from scfm_hf.training.objectives.objective import Objective, objective_names

__all__ = ["Objective", "Objectives", "load_objectives", "make_objectives", "objective_names"]
