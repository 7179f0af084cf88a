"""Related sequences, found by the words of k letters that they share; needs no other program.

Two sequences count as related at an identity p where the shorter one has at least the share p^k of its distinct words
in common with the other: so many are expected to be whole where a share p of the letters agrees (Ondov et al. 2016,
Genome Biol. 17:132, solve it for p). Only the shorter sequence's words are asked for, so a fragment is related to what
it was cut from. At least `FEWEST` words must be shared whatever p is (a stretch of 19 nucleotides has so many; shorter
ones are found by chance among a million), or all words of a sequence that has fewer.

It is no alignment: identities are estimated within some points, changes that lie in clumps make sequences look more
alike, and relatives of less than some 70 % are not found at any p. Families whose members differ more need their names.

Legend: N sequences, P pairs of a word and a sequence that it stands in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from index.lookups import runs
from raypipe.cleaning import md5

WORD = 10
"""Letters of a word: random sequences of 100 and 4,000 nt share fewer than one."""
FEWEST = 10
_WORDS = 4**WORD
_SEEN = 4
"""Words in which a pair must be met before it is compared in full."""
_CHUNK = 1 << 22
"""Words that are looked up at once: some 100 MB."""
_LETTERS = np.full(256, 4, np.uint8)
for _code, _letter in enumerate("ACGU"):
    _LETTERS[ord(_letter)] = _code


def cluster(sequences: Sequence[str], identity: float) -> list[str]:
    """Group sequences around the longest of their relatives.

    From the longest sequence on, each that is in no group yet becomes the centre of one and takes those related to it
    that are in none: the greedy way of CD-HIT (Li and Godzik 2006). Pairs to compare are found as in Linclust
    (Steinegger and Soeding 2018, Nat. Commun. 9:2542), in time that grows with the number of letters: all sequences
    that have a word in common are compared with the longest of them, and with the next longer one. So no member is
    unlike its centre; members of different groups can be related.

    Args:
        sequences: N in the RNA alphabet; words with other letters do not count.
        identity: p, above 0 and up to 1.

    Returns:
        For each sequence the MD5 of its centre, whatever the order of the sequences.

    Raises:
        ValueError: an identity outside of its range.
    """
    sums = [md5(text.encode("ascii")) for text in sequences]
    distinct = dict(zip(sequences, sums, strict=True))
    order = sorted(distinct, key=lambda text: (-len(text), distinct[text]))
    index = _Index.of(order)
    needed = index.needed(identity)
    pairs = _met(index)
    pairs = pairs[index.shared(pairs[:, 1], pairs[:, 0]) >= needed[pairs[:, 1]]]
    relatives: list[list[int]] = [[] for _ in order]
    for longer, shorter in pairs.tolist():
        relatives[longer].append(shorter)
    centre = [-1] * len(order)
    for place, found in enumerate(relatives):
        if centre[place] < 0:
            for one in (place, *found):
                centre[one] = place if centre[one] < 0 else centre[one]
    name = {text: distinct[order[own]] for text, own in zip(order, centre, strict=True)}
    return [name[text] for text in sequences]


def related(sequences: Sequence[str], known: Sequence[str], identity: float) -> np.ndarray:
    """Which sequences are related to at least one of others; all are compared with all.

    Args:
        sequences: N in the RNA alphabet.
        known: the others.
        identity: p, above 0 and up to 1.

    Returns:
        (N,) bool.

    Raises:
        ValueError: an identity outside of its range.
    """
    ours, theirs = _Index.of(sequences), _Index.of(list(dict.fromkeys(known)))
    our_needs, their_needs = ours.needed(identity), theirs.needed(identity)
    same = set(known)
    found = np.array([text in same for text in sequences], bool)
    # By word: where its sequences begin among theirs.
    order = np.argsort(theirs.words, kind="stable")
    words, owners = theirs.words[order], theirs.owners[order]
    begin, end = (np.searchsorted(words, ours.words, side) for side in ("left", "right"))
    # Before each of our sequences, how often the words of those before it stand among theirs.
    many = np.concatenate([[0], np.cumsum(end - begin)])[ours.starts]
    start = 0
    while start < len(sequences):
        # So many sequences that their words meet no more than _CHUNK of the others', but at least one.
        stop = int(np.searchsorted(many, many[start] + _CHUNK, "right")) - 1
        stop = min(max(stop, start + 1), len(sequences))
        low, high = ours.starts[start], ours.starts[stop]
        counts = end[low:high] - begin[low:high]
        skipped = np.cumsum(counts) - counts
        places = np.arange(counts.sum()) + np.repeat(begin[low:high] - skipped, counts)
        met = np.sort(np.repeat(ours.owners[low:high], counts) * len(theirs.counts) + owners[places])
        firsts = np.flatnonzero(np.diff(met, prepend=-1))
        own, other = np.divmod(met[firsts], max(1, len(theirs.counts)))
        need = np.where(ours.counts[own] <= theirs.counts[other], our_needs[own], their_needs[other])
        found[own[np.diff(np.append(firsts, len(met))) >= need]] = True
        start = stop
    return found


@dataclass(frozen=True)
class _Index:
    """The distinct words of sequences.

    Attributes:
        words, owners: (P,) int64, ascending by owner and then word.
        counts: (N,) words of each sequence.
        starts: (N + 1,) where its words begin.
    """

    words: np.ndarray
    owners: np.ndarray
    counts: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, sequences: Sequence[str]) -> _Index:
        letters = _LETTERS[np.frombuffer("".join(sequences).encode("ascii"), np.uint8)]
        offsets = np.concatenate([[0], np.cumsum([len(text) for text in sequences], dtype=np.int64)])
        places = max(0, len(letters) - WORD + 1)
        word, whole = np.zeros(places, np.int64), np.ones(places, bool)
        for place in range(WORD):
            here = letters[place : place + places]
            whole &= here < 4
            word = word * 4 + here
        owner = np.repeat(np.arange(len(sequences)), np.diff(offsets))[:places]
        whole &= np.arange(places) + WORD <= offsets[owner + 1]
        pairs = np.sort(owner[whole] * _WORDS + word[whole])
        owners, words = np.divmod(pairs[np.flatnonzero(np.diff(pairs, prepend=-1))], _WORDS)
        counts = np.bincount(owners, minlength=len(sequences))
        return cls(words, owners, counts, np.concatenate([[0], np.cumsum(counts)]))

    def needed(self, identity: float) -> np.ndarray:
        """(N,) words that each sequence must share with a longer one to be related to it; at least 1."""
        if not 0 < identity <= 1:
            raise ValueError(f"the identity of related sequences is a share above 0 and up to 1, not {identity}")
        wanted = np.maximum(np.ceil(identity**WORD * self.counts), FEWEST).astype(np.int64)
        return np.maximum(np.minimum(wanted, self.counts), 1)

    def shared(self, ones: np.ndarray, others: np.ndarray) -> np.ndarray:
        """(n,) words that sequences have in common with others, pair by pair."""
        held = self.owners * _WORDS + self.words
        stops = np.cumsum(self.counts[ones])
        found = np.zeros(len(ones), np.int64)
        start = 0
        while start < len(ones):
            before = stops[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(stops, before + _CHUNK, "right")))
            own, other = ones[start:stop], others[start:stop]
            counts = self.counts[own]
            wanted = np.repeat(other, counts) * _WORDS + self.words[runs(self.starts[own], counts)]
            at = np.minimum(np.searchsorted(held, wanted), len(held) - 1)
            owner = np.repeat(np.arange(len(own)), counts)
            found[start:stop] = np.bincount(owner[held[at] == wanted], minlength=len(own))
            start = stop
        return found


def _met(index: _Index) -> np.ndarray:
    """Pairs (longer, shorter) (n, 2) that several words bring together; sequences are in descending order of length."""
    number = len(index.counts)
    by_word = np.sort(index.words * max(1, number) + index.owners)
    words, owners = np.divmod(by_word, max(1, number))
    new = np.diff(words, prepend=-1) != 0
    longest = owners[np.flatnonzero(new)][np.cumsum(new) - 1]
    met = np.sort(np.concatenate([longest * number + owners, (np.roll(owners, 1) * number + owners)[~new]]))
    firsts = np.flatnonzero(np.diff(met, prepend=-1))
    times = np.diff(np.append(firsts, len(met)))
    pairs = np.stack(np.divmod(met[firsts], max(1, number)), axis=1)
    few = np.minimum(_SEEN, index.counts[pairs[:, 1]])
    return pairs[(times >= few) & (pairs[:, 0] != pairs[:, 1])]
