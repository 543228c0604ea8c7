"""A worker's start: every process of a pool pays for what is imported, so only for what its work needs."""

import subprocess
import sys

_HEAVY = ("torchvision", "torch._dynamo", "nltk", "sklearn", "pandas", "scipy", "transformers", "spacy")
_STAGES = ("jobs.labelling.run", "jobs.training.features", "jobs.training.loop", "jobs.annotating.stages")


def test_stages_are_imported_without_what_only_some_networks_or_scores_need() -> None:
    code = f"import sys, {', '.join(_STAGES)}; print(*({set(_HEAVY)} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.split() == []
