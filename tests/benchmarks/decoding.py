"""Decoding: captions of neurons by mutual information, beam 50."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mami_core.captions.captioner import Captioner, CaptionerConfig, milan
from mami_core.captions.decode import DecodeConfig, caption
from mami_core.captions.language_model import LanguageModel, LanguageModelConfig
from mami_core.captions.vocabulary import SPECIAL_WORDS, Vocabulary
from tests.benchmarks import measure, plain_captions
from tests.benchmarks.measure import Options, Row, Way, interleaved
from tests.benchmarks.products import Recorder

NEURONS, K, WORDS = 64, 15, 5000
CONFIG = DecodeConfig(beam_size=50, max_length=15, strategy="rerank")


def rows(options: Options) -> Iterator[Row]:
    """One line a captioner."""
    shown = {
        "MAMI, 1,024 features": CaptionerConfig(num_features=1024),
        "MAMI, 3,904 features": CaptionerConfig(num_features=3904),
        "MILAN's (Bahdanau alone), 3,904 features": milan(3904),
    }
    for name, config in shown.items():
        yield _row(name, config, options)


def _row(name: str, config: CaptionerConfig, options: Options) -> Row:
    captioner, language_model = networks(config)
    count = max(16, round(NEURONS * options.share) // 16 * 16)
    features, present = torch.randn(count, K, config.num_features).half(), torch.ones(count, K, dtype=torch.bool)
    with torch.inference_mode(), Recorder() as floor:
        ours = caption(captioner, language_model, features, present, CONFIG)
    same = compare(captioner, language_model, features[:2], ours[:2])
    ways = {
        "ours": Way(lambda: caption(captioner, language_model, features, present, CONFIG)),
        "plain": Way(lambda: plainly(captioner, language_model, features[0]), share=1 / count),
        "floor": Way(floor.replay),
    }
    return Row(
        stage=f"decoding, {name}",
        work=f"{count} of {NEURONS} neurons, vocabulary {WORDS:,}, LSTM 512, beam 50, 15 words, with the language "
        "model; the plain way on 1, scaled",
        timings=interleaved(ways, options),
        at_most=2,
        at_least=4,
        same=same,
        clock=measure.clock_of(options),
    )


def networks(config: CaptionerConfig) -> tuple[Captioner, LanguageModel]:
    """Untrained, but as sure of their words as trained ones are: a flat distribution would be all ties."""
    vocabulary = Vocabulary(tuple(f"word{number}" for number in range(WORDS - len(SPECIAL_WORDS))))
    torch.manual_seed(0)
    captioner = Captioner(config, vocabulary).eval()
    language_model = LanguageModel(LanguageModelConfig(), vocabulary).eval()
    with torch.no_grad():
        captioner.output.weight.mul_(20)
        language_model.output.weight.mul_(5)
    return captioner, language_model


def plainly(captioner: Captioner, language_model: LanguageModel, features: Tensor) -> tuple[str, float]:
    return plain_captions.caption(
        captioner,
        language_model,
        features,
        beam=CONFIG.beam_size,
        length=CONFIG.max_length,
        lm_weight=CONFIG.lm_weight,
    )


def compare(captioner: Captioner, language_model: LanguageModel, features: Tensor, ours: list) -> str:
    apart = 0.0
    for each, beams in zip(features, ours, strict=True):
        text, score = plainly(captioner, language_model, each)
        assert text == beams[0].caption, (text, beams[0])
        apart = max(apart, abs(score - beams[0].score))
    assert apart < 1e-3, apart
    return f"captions equal, scores within {apart:.0e}"


if __name__ == "__main__":
    measure.main(rows)
