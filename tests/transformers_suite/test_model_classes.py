"""transformers' own ``ModelTesterMixin``, for every class of every family."""

from __future__ import annotations

import functools
import re
import subprocess
import unittest
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from models.examples import Case, every_class
from transformers_suite.source import common_model_tests

from scfm_hf.models.base import CellPreTrainedModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("default")]

try:
    COMMON = common_model_tests()
except (OSError, ImportError, subprocess.TimeoutExpired) as error:
    pytest.skip(f"transformers' own tests are not at hand: {error}", allow_module_level=True)

#: Which tests may skip, the reason that they give, and why that is right here. Any other skip is a failure.
EXPLAINED: tuple[tuple[str, str, str], ...] = (
    ("test_flash_attn_.*", "requires (Flash Attention|the kernels library|MPS)", "needs a GPU with those kernels"),
    ("test_kernels_can_load_without_crashing", "requires the kernels library", "kernels are for GPUs"),
    ("test_(cpu|disk)_offload.*", "requires accelerator", "offloading needs a device to offload from"),
    ("test_can_load_with_(device_context_manager|global_device_set)", "requires accelerator", "needs a second device"),
    ("test_model_parallelism", "requires multiple accelerators", "needs several GPUs"),
    ("test_(flex_attention_with_grads|sdpa_can_.*)", "requires accelerator", "kernels and compilation for GPUs"),
    ("test_.*_with_deepspeed.*", "requires deepspeed", "deepspeed is no dependency of this library"),
    ("test_torch_compile_for_training", "test is slow", "minutes; tests/models compiles every class into one graph"),
    ("test_.*composite_model.*", "composite|does not support SDPA", "no model is composed of several configurations"),
    (
        "test_internal_model_config_and_subconfig_are_same",
        "No subconfigs",
        "no model is composed of several configurations",
    ),
    ("test_eager_matches_batched_and_grouped_inference.*", "does not support grouped_mm", "no mixture of experts"),
    ("test_(moe|output)_.*router_logits.*", "sparse experts|output_router_logits", "no mixture of experts"),
    (
        "test_.*rope.*",
        "no `base_model_class`",
        "cells have no rotary positions: genes have no order in the sentence of a cell",
    ),
    ("test_sliding_window_mask", "does not support sliding window", "a cell attends to all of its genes"),
    (
        "test_resize_position_vector_embeddings",
        "does not have position",
        "the context length of a pretrained model is fixed",
    ),
    ("test_encoder_decoder_loss_no_double_shift", "No sequence-to-sequence", "no model translates sequences"),
    ("test_causal_lm_loss_honors_shift_labels", "No decoder-only", "not a causal language model"),
    ("test_bc_cache_name_forward", "Do not take a cache", "cells are encoded at once, without a cache"),
    (
        "test_keep_in_fp32_modules.*",
        "[Nn]o `?_keep_in_fp32_modules",
        "no module needs full precision in a half-precision model",
    ),
    (
        "test_(reverse_loading_mapping|can_load_from_already_mapped_keys)",
        "No conversion found",
        "files have the model's names",
    ),
    (
        "test_(capture_outputs_decorator|can_capture_specific_layers_hidden_states)",
        ".*",
        "states are kept in the model's own loop",
    ),
    ("test_tp_plan_matches_params", "does not have a TP plan", "models of this size are not split over GPUs"),
    ("test_(training|enable_input_require_grads).*", "not configured to run training", "an encoder alone has no loss"),
)

#: Tests that load what we refuse to load (an empty file, a file with a placeholder) to look at something else.
LENIENT = ("test_can_init_all_missing_weights", "test_model_weights_reload_no_missing_tied_weights")


def known_fields_only(config: Any) -> None:
    """Large epsilons for comparisons, as the mixin wants them; it would set fields that our configurations refuse."""
    for name in ("layer_norm_eps", "rms_norm_eps", "norm_eps", "layer_norm_epsilon", "batch_norm_eps"):
        if hasattr(config, name):
            setattr(config, name, 1.0)


COMMON.set_config_for_less_flaky_test = known_fields_only


class ModelTester:
    """What the mixin wants to know about a class."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.is_training = case.gives_loss
        config, inputs = case.config(), case.inputs()
        self.batch_size, self.seq_length = next(iter(inputs.values())).shape[:2]
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "num_labels"):
            setattr(self, name, getattr(config, name, None))

    def get_config(self) -> Any:
        return self.case.config()

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, Tensor]]:
        return self.get_config(), self.case.inputs()


class OneClass(COMMON.ModelTesterMixin):
    """The tests, with inputs and labels of the case."""

    __test__ = False
    test_can_init_all_missing_weights_before_2023 = True
    case: Case

    def setUp(self) -> None:
        self.model_tester = ModelTester(self.case)
        self.all_model_classes = (self.case.model_class,)
        self.additional_model_inputs = [
            name for name in self.case.inputs() if name not in ("input_ids", "attention_mask")
        ]
        self.has_attentions = "output_attentions" in self.case.takes
        self.unfit = self.case.example.unfit_for_mixin(self.case.class_name)
        self.parts_run, self.parts_skipped = 0, []

    def _prepare_for_class(
        self, inputs_dict: dict[str, Tensor], model_class: type, return_labels: bool = False
    ) -> dict[str, Tensor]:
        prepared = super()._prepare_for_class(inputs_dict, model_class)
        if return_labels:
            prepared |= self.case.example.labels(self.case.class_name, self.case.config(), prepared)
        return prepared

    @contextmanager
    def subTest(self, *_: Any, **__: Any) -> Iterator[None]:  # noqa: N802
        """A part of a test; one that skips must be explained like a whole test."""
        try:
            yield
            self.parts_run += 1
        except SKIPS as skip:
            self.parts_skipped.append(explain(self._testMethodName, str(skip)))


SKIPS = (unittest.SkipTest, pytest.skip.Exception)


def explain(name: str, why: str) -> str:
    """The table's reason for a skip; fails if there is none."""
    for names, reasons, explanation in EXPLAINED:
        if re.fullmatch(names, name) and re.search(reasons, why):
            return explanation
    return pytest.fail(f"{name} skips ({why}), which EXPLAINED does not allow")


def explained(name: str, test: Callable[..., None]) -> Callable[..., None]:
    """The test, with a reason of the table wherever it skips."""

    @functools.wraps(test)
    def run(self: OneClass) -> None:
        if getattr(test, "__unittest_skip__", False):
            self.skipTest(explain(name, test.__unittest_skip_why__))
        if unfit := next((why for names, why in self.unfit.items() if re.fullmatch(names, name)), None):
            self.skipTest(unfit)
        lenient = patch.object(CellPreTrainedModel, "_refuse_incomplete") if name in LENIENT else nullcontext()
        try:
            with lenient:
                test(self)
        except SKIPS as skip:
            raise unittest.SkipTest(explain(name, str(skip))) from skip
        if self.parts_skipped and not self.parts_run:
            self.skipTest(self.parts_skipped[0])

    run.__dict__.pop("__unittest_skip__", None)
    return run


def suite_of(case: Case) -> type[unittest.TestCase]:
    names = [name for name in dir(OneClass) if name.startswith("test_") and callable(getattr(OneClass, name))]
    tests = {name: explained(name, getattr(OneClass, name)) for name in names}
    return type(case.class_name, (OneClass, unittest.TestCase), {"case": case, "__test__": True, **tests})


globals().update({f"Test{case.class_name}": suite_of(case) for case in every_class()})
