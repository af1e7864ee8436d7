"""Build the tokenizers that ship from the released vocabularies and statistics.

Usage: python scripts/build_released_tokenizers.py FOLDER_OF_VOCABULARIES [FAMILY ...]

Each family whose conversion module has a function ``released(folder)`` gives name -> (tokenizer, source); the result is
written to ``scfm_hf/models/<family>/released/<name>/``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from scfm_hf.folders import whole_folder
from scfm_hf.models.registry import families
from scfm_hf.models.released import SOURCE_FILE

MODELS = Path(__file__).parents[1] / "scfm_hf" / "models"


def main() -> None:
    """Write all of them, each whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vocabularies", type=Path, help="folder with one sub-folder a family")
    parser.add_argument("families", nargs="*", help="families to build; all that can be, by default")
    arguments = parser.parse_args()
    for name in arguments.families or list(families()):
        conversion = families()[name].load_conversion()
        if not hasattr(conversion, "released"):
            continue
        for title, (tokenizer, source) in conversion.released(arguments.vocabularies).items():
            target = MODELS / name / "released" / title
            with whole_folder(target, replace=True) as folder:
                tokenizer.save_pretrained(folder)
                (folder / SOURCE_FILE).write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")
            size = sum(file.stat().st_size for file in target.iterdir()) / 1e6
            print(f"{title}: {len(tokenizer):,} entries, {size:.1f} MB in {target.relative_to(MODELS.parents[1])}")


if __name__ == "__main__":
    main()
