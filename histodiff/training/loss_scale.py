"""The factor on the loss that keeps fp16 gradients from underflow.

It is ours rather than DeepSpeed's, so that it is one thing at every ZeRO stage, lies in the
checkpoint, and no skipped step goes unseen. The rule is that of Micikevicius et al. 2018, section
3.2: halve after an overflow, double after many steps without one.
"""

_FIRST = 2.0**16
_GROWTH_STEPS = 2000
_PATIENCE = 32


class LossScale:
    """The factor, step by step.

    Args:
        fixed: The factor where it never changes; None adapts it.
    """

    def __init__(self, fixed: float | None) -> None:
        self._fixed = fixed is not None
        self.value = _FIRST if fixed is None else fixed
        self._good_steps = 0
        self._overflows = 0

    @property
    def is_hopeless(self) -> bool:
        """Whether so many steps in a row have overflowed that the weights must be at fault."""
        return self._overflows >= _PATIENCE

    def update(self, *, overflowed: bool) -> None:
        """Takes in how a step went."""
        if overflowed:
            self._good_steps, self._overflows = 0, self._overflows + 1
            self.value /= 1.0 if self._fixed else 2.0
            return
        self._good_steps, self._overflows = self._good_steps + 1, 0
        if not self._fixed and self._good_steps % _GROWTH_STEPS == 0:
            self.value *= 2.0

    def state(self) -> tuple[float, ...]:
        """All that a checkpoint must hold."""
        return (self.value, float(self._good_steps), float(self._overflows))

    def load(self, state: tuple[float, ...]) -> None:
        """Takes up what ``state`` gave."""
        self.value, good_steps, overflows = state
        self._good_steps, self._overflows = int(good_steps), int(overflows)
