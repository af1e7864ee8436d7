"""``python -m scfm_hf.quickstart``."""

from __future__ import annotations

from scfm_hf.quickstart import main

main()
