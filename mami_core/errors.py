"""Every error that this project raises on purpose.

::

    MamiError
    ├── ConfigError (ValueError)          a setting that cannot work
    ├── ContractError (ValueError)        a table or file of another kind or version
    ├── SubjectError (LookupError)        an unknown network, layer, or weights that do not fit
    ├── ImageError (ValueError)           one image that cannot be decoded; the run goes on without it
    ├── ImageSourceError (ValueError)     no images where images were promised
    ├── DescriptionsError (ValueError)    human descriptions that cannot be read
    ├── CheckpointError (ValueError)      a captioner that cannot be restored
    ├── RunMismatchError (ValueError)     the folder holds a run with another configuration
    ├── IncompleteRunError (RuntimeError) the run ended without everything that was asked for
    └── StorageError (OSError)            storage that stayed unreachable or refused us
        ├── MissingObjectError (FileNotFoundError)  no such object; storage itself is well
        ├── ObjectExistsError (FileExistsError)     something else stands under that name already
        └── StorageRefusedError                     no permission, no credentials, disk full: no use trying again

A message says what was expected, what came, and what to do.
"""


class MamiError(Exception):
    """The root: catch it to catch every error that is meant for the person at the keyboard."""


class ConfigError(MamiError, ValueError):
    """A setting that cannot work, found before any work starts."""


class ContractError(MamiError, ValueError):
    """A table or file that is of another kind or version than the reader."""


class SubjectError(MamiError, LookupError):
    """An unknown network or layer, or weights that do not fit the network."""


class ImageError(MamiError, ValueError):
    """One image that cannot be decoded."""


class ImageSourceError(MamiError, ValueError):
    """A place that was named as the source of images and holds none."""


class DescriptionsError(MamiError, ValueError):
    """Human descriptions that cannot be read."""


class CheckpointError(MamiError, ValueError):
    """A captioner that cannot be restored, or does not fit the run's encoder."""


class RunMismatchError(MamiError, ValueError):
    """The output folder holds a run with another configuration."""


class IncompleteRunError(MamiError, RuntimeError):
    """The run ended without everything that was asked for; running it again finishes it."""


class StorageError(MamiError, OSError):
    """Storage that stayed unreachable after every retry, or that refused us."""


class MissingObjectError(StorageError, FileNotFoundError):
    """There is no such object or file."""


class ObjectExistsError(StorageError, FileExistsError):
    """An object that may be created only once exists already, with other contents."""


class StorageRefusedError(StorageError):
    """Storage that answers, and says no: trying again changes nothing."""


def is_bad_input(error: BaseException) -> bool:
    """Whether what was asked for cannot work, so that asking again is of no use until it is mended."""
    return isinstance(error, MamiError) and isinstance(error, ValueError | LookupError)
