"""A list of made-up names, which behaves as a list of names does: sorted, its end is unlike the rest."""

import random

STARTS = [*"bcdfghjklmnprstvwyz", "br", "ch", "gr", "kl", "sh", "st", "tr"]
VOWELS = [*"aeiou", "ai", "ea", "ie", "oo"]
ENDS = ["", "", *"nrlsm", "th", "nd", "ck"]


def names(count: int, seed: int = 1) -> list[str]:
    """``count`` different names, sorted."""
    choose, found = random.Random(seed), set[str]()
    while len(found) < count:
        syllables = choose.choice([1, 2, 2, 3])
        name = "".join(choose.choice(kind) for _ in range(syllables) for kind in (STARTS, VOWELS, ENDS))
        found.add(name.capitalize())
    return sorted(found)
