"""Every error that histodiff raises on purpose, as one tree.

    HistodiffError
    |- ConfigError(ValueError)                    the user's file, flag or input
    |- AccessRefused(PermissionError)             storage that may not be read or written
    |- FileChanged(OSError)                       a remote file is another one than it was
    |- ArtifactError
    |  |- ArtifactNotFound(FileNotFoundError)     no such artifact, or no manifest yet
    |  |- ArtifactBusy                            another driver is writing it
    |  |- ArtifactDrift                           same name@version, another fingerprint
    |  '- ArtifactCorrupt                         checksum or schema mismatch
    |- SlideError                                 one slide is unusable; carries a SkipReason
    |- TransientError                             worth a retry: throttling, a lost node
    |- Preempted                                  told to go; a checkpoint is complete
    '- TrainingDiverged                           bad loss; carries the step

The command line maps user errors (``ConfigError``, ``ArtifactError``) to exit code 2 with one line
and no traceback; anything else is a bug of ours and exits 1.
"""

from enum import StrEnum


class HistodiffError(Exception):
    """Base of everything raised on purpose."""


class ConfigError(HistodiffError, ValueError):
    """The user's file, flag or input is wrong; the message has the place, the value and the fix."""


class AccessRefused(HistodiffError, PermissionError):
    """A place may not be read or written with these credentials; the message has the fix."""


class FileChanged(HistodiffError, OSError):
    """A remote file is not what it was, or not what the server has announced."""


class ArtifactError(HistodiffError):
    """Something about a stored artifact prevents its use."""


class ArtifactNotFound(ArtifactError, FileNotFoundError):
    """No such artifact, or one without a manifest, which means unfinished."""


class ArtifactBusy(ArtifactError):
    """Another driver is writing the same artifact, or took it over."""


class ArtifactDrift(ArtifactError):
    """The same name@version exists with another fingerprint."""


class ArtifactCorrupt(ArtifactError):
    """Stored bytes do not match their checksum or schema."""


class SkipReason(StrEnum):
    """Why a slide, a patch-set image or a row yields nothing."""

    NO_TISSUE = "NO_TISSUE"
    MISSING_MPP = "MISSING_MPP"
    TOO_COARSE = "TOO_COARSE"
    TOO_SMALL = "TOO_SMALL"
    UNREADABLE = "UNREADABLE"

    @property
    def is_failure(self) -> bool:
        """Whether the unit failed (exit code 3) rather than was rightly left out."""
        return self is SkipReason.UNREADABLE


class SlideError(HistodiffError):
    """One slide or image cannot be used; never fatal for the command.

    Args:
        reason: The machine-readable reason stored in tables and manifests.
        detail: One line for people, with the fix where there is one.
    """

    def __init__(self, reason: SkipReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["SlideError"], tuple[SkipReason, str]]:
        return (SlideError, (self.reason, self.detail))


class TransientError(HistodiffError):
    """A fault that a retry may cure."""


class Preempted(HistodiffError):
    """The run was told to end, and has saved everything first.

    Args:
        images_seen: Where it ended.
    """

    def __init__(self, images_seen: int) -> None:
        super().__init__(
            f"told to end after {images_seen} images; everything is saved: run the same command"
            " again to continue"
        )
        self.images_seen = images_seen

    def __reduce__(self) -> tuple[type["Preempted"], tuple[int]]:
        return (Preempted, (self.images_seen,))


class TrainingDiverged(HistodiffError):
    """The loss became non-finite, or leapt where leaps are watched.

    Args:
        step: Optimizer step at which it happened.
        checkpoint: The last good checkpoint, or None when there is none yet.
    """

    def __init__(self, step: int, checkpoint: str | None) -> None:
        hint = f"resume from {checkpoint}" if checkpoint else "there is no checkpoint yet"
        super().__init__(
            f"loss not finite or too large at step {step}; lower the learning rate; {hint}"
        )
        self.step = step
        self.checkpoint = checkpoint

    def __reduce__(self) -> tuple[type["TrainingDiverged"], tuple[int, str | None]]:
        return (TrainingDiverged, (self.step, self.checkpoint))
