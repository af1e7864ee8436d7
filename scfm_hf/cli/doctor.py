"""scfm doctor."""

from __future__ import annotations

import typer

from scfm_hf.cli.failures import readable_failures


@readable_failures
def run() -> None:
    """Check the installation: versions, accelerator, extras, cache, hub settings, package data."""
    from scfm_hf.diagnosis import diagnose

    checks = diagnose()
    for check in checks:
        typer.echo(f"{'ok ' if check.is_well else 'BAD'} {check.what}: {check.found}")
    if not all(check.is_well for check in checks):
        raise SystemExit(1)
