"""Numbers in words, as reports say them: points, names of metrics, intervals."""

from collections import Counter
from collections.abc import Iterable

from histodiff.evaluation.statistics import Interval, Verdict

_COUNTED = {
    Verdict.BETTER: "better",
    Verdict.WORSE: "worse",
    Verdict.NO_EFFECT: "with no effect shown",
    Verdict.NOT_TESTABLE: "not testable",
}


def points(value: float) -> str:
    """A fraction as signed percentage points: 0.0123 -> ``+1.2``."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def words(name: str) -> str:
    """``val_balanced_accuracy`` -> ``validation balanced accuracy``."""
    if name.startswith("val_"):
        return f"validation {words(name.removeprefix('val_'))}"
    return {"auc": "AUC", "macro_f1": "macro-F1", "ece": "ECE"}.get(name, name.replace("_", " "))


def capitalised(text: str) -> str:
    """The text with its first letter in upper case, and the rest as it is."""
    return text[:1].upper() + text[1:]


def interval_words(difference: Interval, *, level: float) -> str:
    """The interval of a paired difference: ``95% interval +0.4 to +3.1, 5 paired seeds``."""
    seeds = f"{difference.num} paired seed" + ("s" if difference.num > 1 else "")
    if difference.low is None or difference.high is None:
        return f"no interval, {seeds}"
    low, high = points(difference.low), points(difference.high)
    return f"{level:.0%} interval {low} to {high}, {seeds}"


def counted(verdicts: Iterable[Verdict]) -> str:
    """How many there are of each: ``2 better, 1 with no effect shown``."""
    counts = Counter(verdicts)
    return ", ".join(f"{counts[each]} {text}" for each, text in _COUNTED.items() if counts[each])
