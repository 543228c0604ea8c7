"""How captions are chosen: what the job says, and otherwise the captioner's own way."""

import dataclasses

from jobs.engine.decode_options import BY_DEFAULT, decode_of
from jobs.evaluate import EvaluateJob
from mami_core.captions.decode_config import DecodeConfig

JOB = EvaluateJob(captioner="shipped", output="there")


def test_what_the_job_does_not_say_is_the_captioners_own_way() -> None:
    own = DecodeConfig(strategy="likelihood", as_taught=False, tidy=True)
    assert decode_of(JOB, own) == own
    assert decode_of(JOB, None) == BY_DEFAULT
    said = dataclasses.replace(JOB, beam_size=7, lm_weight=0.5)
    assert decode_of(said, own) == dataclasses.replace(own, beam_size=7, lm_weight=0.5)


def test_captions_leave_what_was_taught_where_either_says_so() -> None:
    freely = dataclasses.replace(JOB, as_taught=False)
    assert decode_of(JOB, DecodeConfig()).as_taught
    assert not decode_of(freely, DecodeConfig()).as_taught
    assert not decode_of(freely, None).as_taught
    assert not decode_of(JOB, DecodeConfig(as_taught=False)).as_taught
