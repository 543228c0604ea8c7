import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mami_core.errors import DescriptionsError
from mami_core.metrics import baselines
from mami_core.metrics.baselines import DescribedNeuron, constant_candidates, ranked_constants
from mami_core.metrics.bleu import bleu

texts = st.lists(st.sampled_from(["red", "dogs", "and", "circles"]), max_size=7).map(" ".join)
described = st.lists(st.lists(texts, min_size=1, max_size=4), min_size=1, max_size=9)


def neurons_of(described: list[list[str]]) -> list[DescribedNeuron]:
    return [
        DescribedNeuron(layer="l", unit=i, caption=f"caption {i}", descriptions=tuple(texts))
        for i, texts in enumerate(described)
    ]


@given(described, st.integers(0, 2**31))
def test_shuffling_gives_every_caption_away_and_every_neuron_another(described: list, seed: int) -> None:
    neurons = neurons_of(described)
    shuffled = baselines.shuffled(neurons, torch.Generator().manual_seed(seed))
    if len(neurons) == 1:
        assert shuffled == []
        return
    assert [one.neuron for one in shuffled] == list(range(len(neurons)))
    assert sorted(one.caption for one in shuffled) == sorted(neuron.caption for neuron in neurons)
    for one in shuffled:
        assert one.caption != neurons[one.neuron].caption
        assert one.descriptions == neurons[one.neuron].descriptions


def test_shuffling_follows_its_generator() -> None:
    neurons = neurons_of([["dogs"]] * 50)
    first, again, other = (baselines.shuffled(neurons, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_every_person_meets_the_others_and_so_does_the_caption() -> None:
    neurons = neurons_of([["a"], ["b", "c", "b"]])
    people = [(one.neuron, one.caption, one.descriptions) for one in baselines.people(neurons)]
    assert people == [(1, "b", ("c", "b")), (1, "c", ("b", "b")), (1, "b", ("b", "c"))]
    like_people = [(one.neuron, one.caption, one.descriptions) for one in baselines.own_like_people(neurons)]
    assert like_people == [(neuron, "caption 1", others) for neuron, _, others in people]


@given(described)
def test_constants_are_ranked_by_the_bleu_of_saying_them_everywhere(described: list) -> None:
    ranked = ranked_constants(described)
    assert {tuple(text.split()) for text in ranked} == {tuple(text.split()) for texts in described for text in texts}
    plain = [bleu([text] * len(described), described) for text in ranked]
    assert plain == sorted(plain, reverse=True)


def test_ranking_does_not_depend_on_the_order_of_neurons() -> None:
    described = [["red dogs", "Red dogs!"], ["circles"], ["a red wall", "dogs"], ["circles"]]
    assert ranked_constants(described) == ranked_constants(described[::-1])
    assert "circles" in constant_candidates(described, num_each=1)


def test_neurons_without_descriptions_are_refused() -> None:
    with pytest.raises(DescriptionsError, match="neuron layer4/7: expected at least one description"):
        DescribedNeuron(layer="layer4", unit=7, caption="dogs", descriptions=())
    with pytest.raises(DescriptionsError, match="choose a constant"):
        ranked_constants([])
