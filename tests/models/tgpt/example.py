"""What tGPT's classes need beside the specification."""

from __future__ import annotations

from models.examples import FamilyExample


class Example(FamilyExample):
    """Cells can be continued, which has tests of its own."""

    def unfit_for_mixin(self, class_name: str) -> dict[str, str]:
        own = "generation runs without a cache, and is tested beside this file"
        return {"test_generation_tester_mixin_inheritance": own}
