"""Activations → exemplars: the images that drive each unit highest, and where in them.

::

    Search           batches of images → a state per layer, which merges with other images' states
    save_states      states → bytes, of which parts can be read and merged
    exemplars_table  a finished state → the exemplars table
    regions          activation maps and thresholds → masks
"""

from mami_core.exemplars.region import regions
from mami_core.exemplars.search import Search, SearchConfig
from mami_core.exemplars.states import LayerLayout, LayerState, load_states, read_layout, save_states
from mami_core.exemplars.table import exemplars_table

__all__ = [
    "LayerLayout",
    "LayerState",
    "Search",
    "SearchConfig",
    "exemplars_table",
    "load_states",
    "read_layout",
    "regions",
    "save_states",
]
