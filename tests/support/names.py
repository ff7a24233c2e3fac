"""Random names of printable characters, those that programs read something into among them."""

import random

COUNT = 240
_ODD = "*?[]{}:;#%&+=,~!$'\"\\^`|<>() @-_."
_MORE = "abzAZ019" + "".join(
    chr(code) for code in (*range(0xA1, 0x250), *range(0x391, 0x3C9), *range(0x4E00, 0x4E20))
    if chr(code).isprintable()
)  # fmt: skip
KNOWN = (
    "s[1].svs", "exp?", "exp1", "exp[1]", "exp*", "**", "a::b", "zip::c", "s3::x", "data:,x",
    "ab:c", "x?versionId=7", "a#b", "a%20b", "a+b", "{a,b}", "~", "~root", " a ", "$HOME", "-rf",
)  # fmt: skip
"""Names that were, or could be, taken for a pattern, a chain, a protocol, a version or a home."""


def printable_names(*, seed: int, count: int = COUNT) -> list[str]:
    """``count`` different names; every other character is one that has a meaning somewhere."""
    draw = random.Random(seed)
    names = dict.fromkeys(KNOWN)
    while len(names) < count:
        length = draw.randint(1, 24)
        name = "".join(draw.choice(draw.choice((_ODD, _MORE))) for _ in range(length))
        if name not in (".", "..") and not name.endswith(".part"):
            names[name] = None
    return list(names)
