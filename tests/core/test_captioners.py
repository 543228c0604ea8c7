"""The captioner that comes with the project: small, whole, ready to caption, and what jobs take by its name."""

import torch

from jobs.storage.networks import load_captioner
from mami_core.captioners import SHIPPED, shipped
from mami_core.captions.decode import caption
from mami_core.learning import checkpoint
from mami_core.pipeline import encoder_of


def test_it_is_small_and_has_a_card() -> None:
    assert sum(file.stat().st_size for file in shipped().rglob("*.safetensors")) < 25_000_000
    card = (shipped() / "README.md").read_text()
    assert "research" in card
    assert "Known failures" in card


def test_it_loads_by_its_name_and_reads_its_encoder() -> None:
    trained = load_captioner(SHIPPED)
    assert trained.id == checkpoint.load(shipped()).id
    assert encoder_of(trained).num_features == trained.captioner.config.num_features


def test_half_precision_changes_neither_size_nor_captions_of_what_it_stores() -> None:
    trained = checkpoint.load(shipped())
    files = checkpoint.save(checkpoint.in_half_precision(trained))
    again = checkpoint.load(files)
    assert again.id == trained.id
    assert len(files[checkpoint.CAPTIONER]) == (shipped() / checkpoint.CAPTIONER).stat().st_size
    features = trained.captioner.feature_mean + trained.captioner.feature_scale * torch.randn(
        4, 15, trained.captioner.config.num_features
    )
    present = torch.ones(4, 15, dtype=torch.bool)
    first, second = (caption(each.captioner, each.language_model, features, present) for each in (trained, again))
    assert first == second
    assert all(beams[0].caption for beams in first)
