"""What people say of neurons, and how captions fare beside it and without it."""

from dataclasses import dataclass

import pyarrow as pa

from mami_core.contracts.arrow import required, table


@dataclass(frozen=True, slots=True, kw_only=True)
class DescriptionsRow:
    """What one person said of one neuron."""

    layer: str
    unit: int
    description: str


DESCRIPTIONS = table(
    "descriptions",
    1,
    [
        required("layer", pa.string()),
        required("unit", pa.int32()),
        required("description", pa.string()),
    ],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresRow:
    """How well one source of texts agrees with people's descriptions, over one group of neurons."""

    subject: str
    captioner: str
    """Identifies the captioner's weights."""
    grouping: str
    """What the group is made by: "all", "length" (words a description) or "layer"."""
    group: str
    """The group's name, such as "5 to 8 words" or "layer3"."""
    source: str
    """Who says the texts: "captions", or a baseline: "constant" (the same text for every neuron), "shuffled" (another
    neuron's caption), "people" (each person against the others of the same neuron); "captions like people" are the
    captions against as many descriptions as each person meets."""
    text: str | None
    """The constant; null for every other source."""
    num_neurons: int
    num_texts: int
    """How many texts were compared; the people of one neuron are several."""
    num_distinct: int
    """How many different texts there are among them."""
    bleu: float
    """Corpus BLEU, 0 to 100, with all descriptions of every neuron."""
    rouge_l: float
    """ROUGE-L F1, 0 to 1: of each text against its best description, averaged."""
    bleu_nltk: float | None
    """As MAMI's paper prints it: nltk's over MILAN's words, with all descriptions and without smoothing. Null where
    spaCy is not installed, which cuts these words."""
    sacrebleu: float
    """sacreBLEU's, as MILAN's paper prints it but with all descriptions."""
    sacrebleu_signature: str
    """sacreBLEU's version and settings."""
    bertscore_precision: float | None
    """BERTScore, at most 1: of each text against its best description, averaged. Null where it was left out."""
    bertscore_recall: float | None
    bertscore_f1: float | None
    bertscore_model: str | None
    """The network and layer that BERTScore was computed with; scores of different ones do not compare."""


SCORES = table(
    "scores",
    2,
    [
        required("subject", pa.string()),
        required("captioner", pa.string()),
        required("grouping", pa.string()),
        required("group", pa.string()),
        required("source", pa.string()),
        pa.field("text", pa.string()),
        required("num_neurons", pa.int64()),
        required("num_texts", pa.int64()),
        required("num_distinct", pa.int64()),
        required("bleu", pa.float64()),
        required("rouge_l", pa.float64()),
        pa.field("bleu_nltk", pa.float64()),
        required("sacrebleu", pa.float64()),
        required("sacrebleu_signature", pa.string()),
        pa.field("bertscore_precision", pa.float64()),
        pa.field("bertscore_recall", pa.float64()),
        pa.field("bertscore_f1", pa.float64()),
        pa.field("bertscore_model", pa.string()),
    ],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuresRow:
    """One number that says how good captions are without comparing their words with a person's, with its interval."""

    subject: str
    captioner: str
    """Identifies the captioner's weights."""
    grouping: str
    """What the group is made by: "all" or "layer"."""
    group: str
    measure: str
    """Such as "trust" or "named"; what each means is said in docs/trust.md."""
    source: str
    """Who says the texts: "captions", "shuffled" (another neuron's caption), "constant" (the commonest caption) or,
    where trust reranked the captions, "not reranked" (those of the highest score)."""
    text: str | None
    """The constant; null for every other source."""
    num_neurons: int
    """The neurons of which the measure says something."""
    value: float
    low: float | None
    """The 95 % interval of the value, by bootstrap over neurons. Null for what resampling would distort."""
    high: float | None
    judge: str | None
    """The scorer, sentence encoder or language model that it was measured with; others' do not compare."""


MEASURES = table(
    "measures",
    1,
    [
        required("subject", pa.string()),
        required("captioner", pa.string()),
        required("grouping", pa.string()),
        required("group", pa.string()),
        required("measure", pa.string()),
        required("source", pa.string()),
        pa.field("text", pa.string()),
        required("num_neurons", pa.int64()),
        required("value", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("judge", pa.string()),
    ],
)
