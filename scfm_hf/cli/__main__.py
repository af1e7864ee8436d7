"""``python -m scfm_hf.cli`` is the ``scfm`` command."""

from scfm_hf.cli import app

app(prog_name="scfm")
