"""How many tokens a text may be, without its model's tokenizer: an estimate that errs on the high side.

A unit given more tokens than it reads does not refuse: it answers garbage (stackflow-protocol 5.1), so too
high costs some history and too low costs the answer. Checked against the vocabularies of Qwen, Llama 3 and
SmolLM2 on prose, code, JSON, tables of numbers, eight scripts, every word of up to three letters and random
characters: never below the largest of the three counts, twice that on English prose.
"""

from __future__ import annotations

import re

LONG_FRAME = 8  # characters; what is longer is taken for a whole frame, since this runs once for each
TOKENS_PER_FRAME = 3  # llm and vlm send every third token (stackflow-protocol 5.1)
LONGEST_COUNTED = 16_384  # characters; more than any window holds, so the rest of a text is only extrapolated

_PIECES = re.compile(r"(?P<word>[A-Za-z]+)|(?P<spaces> +)|(?P<wide>[^\x00-\x7f]+)|[\x00-\x1f!-@\[-`{-\x7f]")
_JOINED = re.compile(r"[!-/:-~]")  # a space becomes one token with these; not with digits: "1 2" is three
_COMMON = frozenset(  # one token each, in all three vocabularies, with and without a space before
    """
    a about after all also am an and any are as ask at away back be been best both but by call can code
    come could data day did do does done down each even every few file find first for from full game get
    give go good got had has have he help her here high his home how i if in into is it its just keep
    kind know last left less like line list live long look made main make many may me mean more most
    much must my name near need new next no not now of off old on once one only open or other our out
    over own page part people place plan play put read real right run same say see send set she should
    show side small so some still such take tell test text than thank that the their them then there
    these they thing this those time to too try turn two type under until up us use used user using very
    want was way we well were what when where which while who why will with word work world would write
    year yes you your
    """.split()  # noqa: SIM905 - as a list it would fill two pages
)
_RARE = re.compile(r"[jqxz]")
# Neighbours that no vocabulary need have as one token. After a vowel nearly everything joins.
_ODD = re.compile(
    "[iu](?=y)|y(?=[iu])|"
    "(?=[^aeiou][^aeiou])(?!b[blrsy]|c[chklrsty]|d[dgrsy]|f[flrsty]|g[ghlnrsy]|h[rty]|k[lnsy]|l[dfklmpstvy]|"
    "m[bmpsy]|n[cdgknstvy]|p[hlprsty]|r[bcdgklmnprstvy]|s[chklmpstwy]|t[chlrstwy]|vy|w[hnrs]|y[mps])[a-z]"
)
_LONGEST_WORD = 16  # letters; longer runs are seldom words
_CUTS = re.compile(r" ?[A-Za-z0-9_']+| ?[^\sA-Za-z0-9_']|\s+?(?=\s|$)|\s")


def estimate(text: str) -> int:
    """Return how many tokens `text` may be, rather too many than too few."""
    if len(text) > LONGEST_COUNTED:
        return -(-estimate(text[:LONGEST_COUNTED]) * len(text) // LONGEST_COUNTED)
    return sum(map(_piece, _PIECES.finditer(text)))


def _piece(piece: re.Match[str]) -> int:
    text = piece.group()
    if piece.lastgroup == "word":
        return _word(text)
    if piece.lastgroup == "spaces":  # runs join each other, the last one what follows
        return len(text) // 2 + (not _JOINED.match(piece.string, piece.end()))
    if piece.lastgroup == "wide":
        return len(text.encode("utf-8", "replace"))  # byte-level vocabularies may need one for each
    return 1


def _word(word: str) -> int:
    if word in _COMMON:
        return 1
    size, letters = len(word), word.lower()
    if letters[1:] != word[1:]:
        return size  # capitals inside: seldom joined
    usual = size // 2 + 1 if size < 6 else (size + 1) // 2 if size <= _LONGEST_WORD else 2 * size // 3 + 1
    return min(size, usual + len(_RARE.findall(letters)) + len(_ODD.findall(letters)))


def pieces(text: str) -> list[str]:
    """Cut a frame's `text` where tokens usually begin, never inside a word; joined they are the text."""
    return _CUTS.findall(text)


def frame_tokens(text: str) -> int:
    """Return how many tokens a frame is: three, or fewer for a short one, the last of an answer."""
    return TOKENS_PER_FRAME if len(text) > LONG_FRAME else min(TOKENS_PER_FRAME, len(pieces(text)))
