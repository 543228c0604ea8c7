"""What a worker keeps: the last that was made, and nothing beside it."""

import weakref

from jobs.engine.kept import one_at_a_time


class Held:
    """Refers to itself, as a worker does that keeps something by a method of its own."""

    def __init__(self, name: str) -> None:
        self.name, self.itself = name, self


def test_what_was_made_before_is_gone_while_the_next_is_made_even_if_it_refers_to_itself() -> None:
    made: list[weakref.ref[Held]] = []

    def make(name: str) -> Held:
        assert not [each for each in made if each() is not None]
        held = Held(name)
        made.append(weakref.ref(held))
        return held

    get = one_at_a_time(make)
    assert [get(name).name for name in ("one", "one", "two", "one")] == ["one", "one", "two", "one"]
    assert len(made) == 3
