"""What a worker of a labelling run has loaded. It lives as long as the worker, through all stages."""

import functools

from jobs.engine.kept import one_at_a_time
from jobs.labelling.judges import Judges
from jobs.labelling.specs import ENCODER, RunSpec, check_same
from jobs.storage.networks import load_encoder
from mami_core.features import Encoder
from mami_core.learning.checkpoint import Trained
from mami_core.subjects import Subject, lean, remembering


class Networks:
    """The networks of a run, each loaded when a stage first needs it, on the workers' device."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        # One at a time: a worker's memory must not grow with the number of subjects.
        self.subject = one_at_a_time(self._load_subject)

    def _load_subject(self, name: str) -> Subject:
        layers, precision = tuple(self.spec.layout.subjects[name]), self.spec.config.precision
        with remembering(self.spec.surveys.get(name, {})):
            return lean(self.whole_subject(name), layers, precision=precision).to(self.spec.device)

    def whole_subject(self, name: str) -> Subject:
        """The subject as it is loaded, with everything in it, on the CPU; it is not kept."""
        subject = next(spec for spec in self.spec.subjects if spec.id == name).load()
        check_same(f"subject {name}", subject.weights_id, self.spec.weights[name])
        return subject

    @functools.cached_property
    def trained(self) -> Trained:
        """The captioner."""
        trained = self.spec.captioner.load()
        check_same("captioner", trained.id, self.spec.captioner_id)
        return trained.to(self.spec.device)

    @functools.cached_property
    def encoder(self) -> Encoder:
        """What the captioner was trained on, regions drawn as the run wants them."""
        with remembering(self.spec.surveys.get(ENCODER, {})):
            encoder = load_encoder(self.trained, precision=self.spec.config.precision)
        return encoder.drawing(self.spec.config.regions).to(self.spec.device)

    @functools.cached_property
    def judges(self) -> Judges:
        """Who judges captions, of a judged run."""
        return Judges(self.spec)

    def let_go(self) -> None:
        """Subject and encoder make room: no stage that comes now sees through them."""
        self.subject = one_at_a_time(self._load_subject)
        vars(self).pop("encoder", None)
