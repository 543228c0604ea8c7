"""Annotated neurons from annotated photographs: what a unit looks for is what its exemplars' regions share.

photographs → `concept_maps` → `concept_table` → `findings`, `concept_neurons` → `descriptions` → `balanced`
                                               → `truth_of`, what is true of each exemplar

Everything here is a pure function of arrays and networks; `jobs.annotate` does it at any scale.
"""

from mami_core.learning.dissected.balance import balanced
from mami_core.learning.dissected.choose import Demands
from mami_core.learning.dissected.concepts import ConceptsConfig, concept_neurons
from mami_core.learning.dissected.detecting import Detectors
from mami_core.learning.dissected.known import class_findings, kinds_of_classes
from mami_core.learning.dissected.locating import Locator
from mami_core.learning.dissected.maps import concept_maps, square
from mami_core.learning.dissected.photographs import Annotation, Photograph
from mami_core.learning.dissected.phrases import Finding, Words, descriptions
from mami_core.learning.dissected.sources import in_two, read_photographs
from mami_core.learning.dissected.table import ConceptTable, concept_table
from mami_core.learning.dissected.truth import Phrasebook, phrasebook, truth_of
from mami_core.learning.dissected.units import Exemplars, Observed, findings
from mami_core.learning.dissected.wordnet import WordNet
from mami_core.learning.dissected.words import Lexicon, Word

__all__ = [
    "Annotation",
    "ConceptTable",
    "ConceptsConfig",
    "Demands",
    "Detectors",
    "Exemplars",
    "Finding",
    "Lexicon",
    "Locator",
    "Observed",
    "Photograph",
    "Phrasebook",
    "Word",
    "WordNet",
    "Words",
    "balanced",
    "class_findings",
    "concept_maps",
    "concept_neurons",
    "concept_table",
    "descriptions",
    "findings",
    "in_two",
    "kinds_of_classes",
    "phrasebook",
    "read_photographs",
    "square",
    "truth_of",
]
