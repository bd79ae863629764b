"""[video file → **label of a flipped video** → batch → model → loss → metric]

Which classes a left/right flip turns into each other.
"""

import re
from collections import Counter

_OPPOSITES = {
    **{f"left{end}": f"right{end}" for end in ("", "ward", "wards")},
    **{"clockwise": "counterclockwise", "cw": "ccw"},
}
_OPPOSITES |= {second: first for first, second in _OPPOSITES.items()}


def mirror_classes(class_names: list[str]) -> dict[int, int]:
    """Find the classes that a left/right flip turns into each other, by the words in their names.

    Args:
        class_names: names, in the order of their labels; words may be separated in any way.

    Returns:
        For each label with a mirrored partner, the label of that partner.

    Example:
        >>> mirror_classes(["push left to right", "lift", "push right to left"])
        {0: 2, 2: 0}
        >>> mirror_classes(["DrawCircleCW", "DrawCircleCCW", "TurnRight"])
        {0: 1, 1: 0}
        >>> mirror_classes(["turn clockwise", "turn anti-clockwise", "walk leftwards", "walk rightwards"])
        {0: 1, 1: 0, 2: 3, 3: 2}
        >>> mirror_classes(["跑 left", "跳 left", "跳 right"])
        {1: 2, 2: 1}
    """
    words = [_words(name) for name in class_names]
    # If several names have the same words, it is unclear which one is the partner.
    count = Counter(words)
    label = {name: i for i, name in enumerate(words) if count[name] == 1}
    mirrored = [tuple(_OPPOSITES.get(word, word) for word in name) for name in words]
    return {
        i: label[other]
        for i, (name, other) in enumerate(zip(words, mirrored, strict=True))
        if other != name and name in label and other in label
    }


def unpaired_classes(class_names: list[str]) -> list[str]:
    """Find the classes with a direction such as "left" in their names for whose flipped videos there is no class.

    Example:
        >>> unpaired_classes(["push left to right", "push right to left", "turn left", "lift"])
        ['turn left']
    """
    paired = mirror_classes(class_names)
    return [
        name
        for i, name in enumerate(class_names)
        if i not in paired and any(word in _OPPOSITES for word in _words(name))
    ]


def _words(name: str) -> tuple[str, ...]:
    # Written in one word, in two, or with a hyphen.
    name = re.sub(r"(?i)(counter|anti)[\W_]*clockwise", " counterclockwise ", name)
    # The last alternative is for other scripts, in which capitals do not separate words.
    found = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+", name)
    return tuple(word.lower() for word in found)
