"""An index of many segments: grown, merged, gone on with after a kill, and searched as one."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace

import numpy as np
import pytest

from index import segments as segments_module
from index.audit import audit
from index.build import MOST_SMALL, build_index, one_by_one
from index.errors import StoreError, StoreLockedError
from index.info import current_info, index_folder
from index.kmeans import NearestByBlas
from index.operating import ENOUGH, K_FACTORS
from index.removals import remove_records
from index.search import Searcher
from index.truth import QUERIES
from index.vectors import finished_parts
from tests.made import index_file, on_disk
from tests.runs import started

FAST = "IVF8,PQ8x4fs,Refine(SQfp16)"
TYPES = [
    "flat",
    "IVF8,Flat",
    "IVF8,RaBitQ,Refine(SQfp16)",
    "HNSW16",
    "IVF8,PQ8x4,Refine(Flat)",
    "SQ8",
    "IVF16_HNSW32,Flat",
    "RR64,IVF16,Flat",
    "RR64,IVF16,SQ8,Refine(Flat)",
    "IVF16_HNSW32,RaBitQ,Refine(SQfp16)",
    "IVF16,RaBitQfs,Refine(SQfp16)",
    FAST,
]
EXACT_CODES = ("flat", "IVF8,Flat", "SQ8", "IVF16_HNSW32,Flat", "RR64,IVF16,Flat")

# Builds segments of 100 vectors, and stands still in the middle of the fourth.
KILLED = """
import sys, time
from pathlib import Path
from index import segments
from index.build import build_index
from index.store import Store

def progress(done, total):
    if done == 400:
        Path("reached").touch()
        time.sleep(600)

segments.SEGMENT_BYTES = 100 * 4 * 16
store = Store.open(sys.argv[1])
with store.lock():
    build_index(store, kind="IVF8,Flat", recall=0.9, progress=progress)
"""


def built(store, kind="flat", **options):
    with store.lock():
        return build_index(store, kind=kind, **{"recall": 0.9, **options})


@pytest.fixture
def small(monkeypatch):
    """Segments of 100 vectors of 16 values at the most."""
    monkeypatch.setattr(segments_module, "SEGMENT_BYTES", 100 * 4 * 16)


@pytest.fixture
def clustered():
    """(600, 16) float32, in 12 clusters that differ."""
    generator = np.random.default_rng(8)
    centres = generator.standard_normal((12, 16))
    return (centres[np.arange(600) % 12] + 0.5 * generator.standard_normal((600, 16))).astype(np.float32)


def written(store):
    """When each segment of the live index was written, by its name."""
    folder = on_disk(index_folder(store)) / "segments"
    info = current_info(store)
    assert info is not None
    return {each.name: (folder / each.name / "vectors.faiss").stat().st_mtime_ns for each in info.segments}


def add(builder, store, vectors, number, count=1):
    """`count` new sequences, embedded into one part."""
    start = store.num_sequences
    records = builder.random_records(2000)[1000 + start : 1000 + start + count]
    builder.add_source(store, records, f"more-{number}.fasta")
    builder.write_part(store, store.embedding(), number, range(start, start + count), vectors[:count])


@pytest.mark.parametrize("kind", TYPES)
def test_many_segments_answer_as_one(builder, clustered, monkeypatch, kind):
    one = builder.embedded(clustered, parts=12, name="one")
    assert len(built(one, kind).segments) == 1
    monkeypatch.setattr(segments_module, "SEGMENT_BYTES", 100 * 4 * 16)
    many = builder.embedded(clustered, parts=12, name="many")
    assert [segment.rows for segment in built(many, kind).segments] == [100] * 6
    queries, effort = clustered[::20] + 0.01, {"nprobe": 1000, "k_factor": 20.0}
    allowed = np.flatnonzero(np.arange(600) % 12 < 5)
    few = np.array([3, 177, 590])
    for filtered in (None, allowed, few):
        ids, scores, how = Searcher.open(many).find(queries, 10, allowed=filtered, **effort)
        wanted, values, _ = Searcher.open(one).find(queries, 10, allowed=filtered, **effort)
        assert len(how["searched"]) == 6
        # Graphs and tables of products differ with what they were made over; exact codes are the same.
        if kind in EXACT_CODES:
            np.testing.assert_array_equal(ids, wanted)
        shared = [len(set(a) & set(b)) / len(set(b)) for a, b in zip(ids.tolist(), wanted.tolist(), strict=True)]
        assert np.mean(shared) >= 0.95
        np.testing.assert_allclose(scores, values, atol=0.02)
        assert ((ids >= 0).sum(axis=1) == (10 if filtered is not few else 3)).all()


def test_segments_share_their_lists(builder, clustered, small):
    """The centroids stand once on the disk, whatever the number of segments."""
    store = builder.embedded(clustered, parts=12)
    info = built(store, "IVF64,Flat")
    folder = on_disk(index_folder(store))
    centroids = 64 * 16 * 4
    (trained,) = (folder / "trained").glob("*/vectors.faiss")
    assert trained.stat().st_size > centroids
    for segment in info.segments:
        size = (folder / "segments" / segment.name / "vectors.faiss").stat().st_size
        assert size < segment.rows * (16 * 4 + 8) + 64 * 8 + 1000 < segment.rows * (16 * 4 + 8) + centroids


def test_what_is_new_becomes_a_segment(builder, clustered):
    store = builder.embedded(clustered, parts=2)
    built(store, "IVF8,Flat")
    before = written(store)
    add(builder, store, clustered[:20] + 0.5, 7, 20)
    grown = built(store, "IVF8,Flat")
    assert [segment.rows for segment in grown.segments] == [600, 20]
    assert (grown.rows, grown.learned_rows, grown.added_rows) == (620, 600, 20)
    after = written(store)
    assert after | before == after, "what stood was not touched"
    assert Searcher.open(store).search(clustered[:20] + 0.5, 1)[0].ravel().tolist() == list(range(600, 620))


def test_only_what_changed_is_made_anew(builder, clustered, small):
    store = builder.embedded(clustered, parts=6)
    built(store)
    before = written(store)
    builder.write_part(store, store.embedding(), 0, range(100)[::-1], clustered[:100][::-1])
    again = built(store)
    assert len(set(before) & {segment.name for segment in again.segments}) == 5
    assert Searcher.open(store).search(clustered[5:6], 1)[0].tolist() == [[5]]


def test_many_small_segments_are_built_together(builder, clustered):
    store = builder.embedded(clustered, parts=2)
    built(store, transform="none")
    names = []
    for number in range(MOST_SMALL + 2):
        add(builder, store, -clustered, 10 + number)
        names.append(len(built(store, transform="none").segments))
    assert max(names) == MOST_SMALL + 1
    assert names[-1] < MOST_SMALL
    ids, _ = Searcher.open(store).search(clustered[:3], 1)
    assert ids.ravel().tolist() == [0, 1, 2]


def test_compact(builder, clustered):
    store = builder.embedded(clustered, parts=2)
    with pytest.raises(StoreError, match="no index yet"):
        built(store, compact=True)
    built(store, "IVF8,Flat")
    add(builder, store, clustered[:20] + 0.5, 7, 20)
    grown = built(store, "IVF8,Flat")
    before = Searcher.open(store).find(clustered[:30], 5, nprobe=8)
    compact = built(store, compact=True)
    assert compact.type == "IVF8,Flat"
    assert [segment.rows for segment in compact.segments] == [620]
    assert (compact.trained, compact.learned_rows) == (grown.trained, 600)
    after = Searcher.open(store).find(clustered[:30], 5, nprobe=8)
    np.testing.assert_array_equal(after.seq_ids, before.seq_ids)
    np.testing.assert_array_equal(after.scores, before.scores)
    assert built(store, compact=True).unchanged
    # One more version, and the segments of the first are needed by nobody.
    add(builder, store, clustered[:1] + 0.7, 8)
    built(store, "IVF8,Flat")
    assert len(list(on_disk(index_folder(store) / "segments").iterdir())) == 2


@pytest.mark.parametrize("kind", ["flat", "IVF8,RaBitQ,Refine(SQfp16)"])
def test_a_build_that_was_cut_off_goes_on(builder, clustered, small, kind):
    store = builder.embedded(clustered, parts=6)

    def cut_off(jobs, done):
        one_by_one(jobs[:4], done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        built(store, kind, run=cut_off)
    assert current_info(store) is None
    folder = on_disk(index_folder(store))
    stood = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/vectors.faiss")}
    assert len(stood) == 1 + 4
    # One of them did not survive whole.
    damaged = max(path for path in stood if path.parent.parent.name == "segments")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    built(store, kind)
    kept = [path for path, when in stood.items() if path.stat().st_mtime_ns == when]
    assert len(kept) == 4
    assert damaged not in kept
    assert Searcher.open(store, thorough=True).search(clustered[[7]], 1)[0].tolist() == [[7]]


def test_a_build_that_was_killed_goes_on(builder, clustered, small, tmp_path):
    """By SIGKILL, in the middle of a segment: nothing is published, and what stood is taken as it is."""
    store = builder.embedded(clustered, parts=6)
    script = tmp_path / "build.py"
    script.write_text(KILLED)
    with started([sys.executable, str(script), str(store.root)], cwd=tmp_path) as run:
        run.wait_for((tmp_path / "reached").exists)
        with pytest.raises(StoreLockedError, match=rf"process {run.process.pid} on .* is writing to this store"):
            built(store, "IVF8,Flat")
        os.kill(run.process.pid, signal.SIGKILL)
        run.wait(30)
    assert current_info(store) is None
    with pytest.raises(StoreError, match="no index yet"):
        Searcher.open(store)
    folder = on_disk(index_folder(store))
    stood = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/vectors.faiss")}
    assert len(stood) == 1 + 3
    assert list((on_disk(store.root) / ".tmp").iterdir()), "of the fourth"
    info = built(store, "IVF8,Flat")
    assert [segment.rows for segment in info.segments] == [100] * 6
    assert {path: path.stat().st_mtime_ns for path in stood} == stood
    assert not list((on_disk(store.root) / ".tmp").iterdir())
    assert Searcher.open(store, thorough=True).search(clustered[[7, 555]], 1)[0].tolist() == [[7], [555]]


@pytest.mark.parametrize("kind", ["flat", "IVF8,RaBitQ,Refine(SQfp16)", FAST, "HNSW16", "SQ8"])
def test_parts_without_rows(builder, clustered, small, kind):
    """A shard whose sequences all failed: among others, and alone in a segment."""
    store = builder.embedded(clustered[:200], parts=2)
    for number in (0, 5, 6):
        add(builder, store, clustered[200:], 10 + number, 0 if number else 100)
    info = built(store, kind)
    assert [segment.rows for segment in info.segments] == [100] * 3
    assert sum(part["rows"] == 0 for part in info.parts) == 2
    builder.write_part(store, store.embedding(), 30, [], clustered[:0])
    alone = built(store, kind)
    assert [segment.rows for segment in alone.segments] == [100] * 3 + [0]
    opened = Searcher.open(store)
    for exact in (False, True):
        for allowed in (None, np.arange(150, 300)):
            found = opened.find(clustered[[3, 250]], 5, allowed=allowed, exact=exact)
            assert (found.seq_ids >= 0).all()
            assert found.seq_ids[1, 0] == 250


@pytest.mark.parametrize("kind", ["flat", "IVF8,RaBitQ,Refine(SQfp16)", FAST, "HNSW16", "SQ8"])
def test_removed_sequences_are_in_no_segment(builder, clustered, cosines, small, kind):
    """Two thirds of some segments and all of one: k others are found, and the right ones."""
    store = builder.embedded(clustered, parts=6)
    built(store, kind, transform="none")
    dead = [number for number in range(600) if (number % 3 and number < 300) or 400 <= number < 500]
    with store.lock():
        remove_records(store, [f"R{number:05d}" for number in dead])
    truth = cosines(clustered[:40], clustered)
    truth[:, dead] = -2
    nearest = np.argsort(-truth, axis=1, kind="stable")[:, :10]
    opened = Searcher.open(store)
    found = opened.find(clustered[:40], 10, k_factor=20.0)
    exact = opened.find(clustered[:40], 10, exact=True)
    np.testing.assert_array_equal(exact.seq_ids, nearest)
    assert not np.isin(found.seq_ids, [-1, *dead]).any()
    assert found.how["allowed"] == 600 - len(dead)
    assert np.mean([len(set(a) & set(b)) for a, b in zip(found.seq_ids.tolist(), nearest.tolist(), strict=True)]) >= 9
    few = opened.find(clustered[:2], 10, allowed=np.array([0, 1, 3, 450]))
    assert np.sort(few.seq_ids, axis=1).tolist() == [[-1] * 8 + [0, 3]] * 2


def test_a_segment_is_of_what_was_learned(builder, clustered):
    """Its name follows from the files themselves: lists that were learned again by that name may be others."""
    store = builder.embedded(clustered)
    (part, *_) = finished_parts(store, store.embedding())
    learned = {"name": "a", "checksums": {"vectors.faiss": {"bytes": 10, "sha256": "0" * 64}}}
    job = segments_module.SegmentJob(store, "IVF8,Flat", 16, learned, (part,), NearestByBlas())
    again = {**learned, "checksums": {"vectors.faiss": {"bytes": 10, "sha256": "1" * 64}}}
    assert job.name == replace(job, trained=dict(learned)).name
    assert job.name != replace(job, trained=again).name
    assert job.name != replace(job, parts=(replace(part, digest="2" * 64),)).name


@pytest.mark.parametrize("kind", ["flat", "IVF8,Flat"])
@pytest.mark.parametrize("off", [-1, 1])
def test_files_that_changed_meanwhile_are_told(builder, clustered, kind, off):
    """A segment holds what it says: no rows that were never there, and none too few."""
    store = builder.embedded(clustered)
    altered = []

    def changed(jobs, done):
        altered.extend(
            replace(job, parts=tuple(replace(part, rows=part.rows + off) for part in job.parts)) for job in jobs
        )
        return one_by_one(altered, done)

    with pytest.raises(StoreError, match="embeddings changed while they were indexed"), store.lock():
        build_index(store, kind=kind, recall=0.9, run=changed)
    assert altered
    assert current_info(store) is None


def test_a_recall_that_is_not_reached_is_refused(builder, clustered):
    store = builder.embedded(clustered)
    before = built(store)
    with pytest.raises(StoreError, match=r"'IVF8,SQ4': .* measured to reach a recall@10 of 0\.\d+, and.*--recall 0\."):
        built(store, "IVF8,SQ4", recall=0.999)
    assert current_info(store) == before
    assert built(store, "IVF8,SQ4", recall=0.5).operating["recall_at_10"] >= 0.5
    for wrong in (0, -1, 1.5):
        with pytest.raises(StoreError, match="must be above 0 and at most 1"):
            built(store, "IVF8,SQ4", recall=wrong)


def test_another_recall_builds_nothing_but_measures(builder, clustered):
    store = builder.embedded(clustered, parts=3)
    low = built(store, "IVF16,Flat", recall=0.5)
    before = written(store)
    assert built(store, "IVF16,Flat", recall=0.5).unchanged
    high = built(store, "IVF16,Flat", recall=0.99)
    assert written(store) == before
    assert high.version > low.version
    assert high.operating["nprobe"] >= low.operating["nprobe"]
    assert high.operating["target"] == 0.99 <= high.operating["recall_at_10"]


def test_points_and_efforts(builder, clustered):
    store = builder.embedded(clustered)
    info = built(store, "IVF16,RaBitQ,Refine(SQfp16)", recall=0.8)
    points = info.operating["points"]
    assert sorted({point["k_factor"] for point in points})[:2] == [2.0, 4.0]
    assert points[-1]["recall_at_10"] >= ENOUGH or points[-1]["k_factor"] == K_FACTORS[-1]
    assert all(0 <= point["recall_at_10"] <= 1 and point["ms"] > 0 for point in points)
    opened = Searcher.open(store)
    best = max(point["recall_at_10"] for point in points)
    assert f"nprobe {info.operating['nprobe']} of 16" in opened.find(clustered[:2], 3).how["searched"][0]
    assert "nprobe 5 of 16" in opened.find(clustered[:2], 3, nprobe=5).how["searched"][0]
    opened.find(clustered[:2], 3, recall=best)
    with pytest.raises(StoreError, match=r"measured to reach [01.]+\d* at most"):
        opened.find(clustered[:2], 3, recall=best + 1e-3)


def test_coarse_codes_that_rank_badly_get_many_candidates(builder):
    """As those of whitened vectors of a language model do, which are near to nothing."""
    vectors = np.random.default_rng(3).standard_normal((3000, 24)).astype(np.float32)
    info = built(builder.embedded(vectors), "IVF4,RaBitQ,Refine(SQfp16)", transform="none", recall=0.99)
    assert info.operating["recall_at_10"] >= 0.99
    assert info.operating["k_factor"] > 16
    points = info.operating["points"]
    last = [point["nprobe"] for point in points if point["k_factor"] == max(each["k_factor"] for each in points)]
    assert last == [4], "with fewer lists neighbours had been missed before, whatever the codes"


def test_efforts_that_a_low_recall_may_need_are_tried(builder):
    """Of few lists with more candidates: they find far less than all lists do, and enough."""
    vectors = np.random.default_rng(3).standard_normal((3000, 24)).astype(np.float32)
    info = built(builder.embedded(vectors), "IVF4,RaBitQ,Refine(SQfp16)", transform="none", recall=0.5)
    points = info.operating["points"]
    for k_factor in K_FACTORS:
        assert [point["nprobe"] for point in points if point["k_factor"] == k_factor] == [1, 2, 4]


def test_growth_of_another_kind_is_measured_too(builder):
    """Close families came first, and of them one list finds all; then came vectors that are near to nothing."""
    generator = np.random.default_rng(8)
    centres = generator.standard_normal((32, 16))
    first = centres[np.arange(2400) % 32] + 0.01 * generator.standard_normal((2400, 16))
    store = builder.store(builder.random_records(3000))
    made = builder.embedding()
    store.put_embedding(made)
    builder.write_part(store, made, 0, np.arange(2400), first)
    before = built(store, "IVF32,Flat", transform="none").operating
    assert before["nprobe"] == 1
    builder.write_part(store, made, 1, np.arange(2400, 3000), generator.standard_normal((600, 16)))
    after = built(store, "IVF32,Flat", transform="none", recall=0.97)
    assert (after.added_rows, len(after.segments)) == (600, 2)
    assert after.operating["nprobe"] > 2
    assert audit(store, 3000).recall > 0.95


@pytest.mark.parametrize("kind", ["IVF8,PQ4+8", "HNSW8_PQ4"])
def test_types_that_faiss_cannot_filter(builder, clustered, cosines, kind):
    """They are compared one by one where a filter is asked for, and not after every removal."""
    store = builder.embedded(clustered)
    built(store, kind, transform="none", recall=0.1)
    allowed = np.arange(0, 600, 7)
    found = Searcher.open(store).find(clustered[:20], 10, allowed=allowed)
    truth = cosines(clustered[:20], clustered[allowed])
    np.testing.assert_array_equal(found.seq_ids, allowed[np.argsort(-truth, axis=1, kind="stable")[:, :10]])
    with store.lock():
        remove_records(store, ["R00003"])
    found = Searcher.open(store).find(clustered[:20], 10)
    assert (found.seq_ids >= 0).all()
    assert 3 not in found.seq_ids
    assert found.how["searched"] == ["11 neighbours, without 1 of 600 rows"]


def test_an_index_without_what_recall_is_measured_with_is_built_anew(builder, clustered):
    """As those of the first commits with segments are."""
    store = builder.embedded(clustered)
    before = built(store, "IVF8,Flat")
    info = on_disk(index_folder(store)) / before.version / "index.json"
    said = json.loads(info.read_text())
    del said["trained"]["checksums"][QUERIES]
    info.write_text(json.dumps(said))
    assert built(store, "IVF8,Flat", recall=0.95).version == "000002"


def test_an_approximate_index_of_nothing(builder):
    """All sequences failed, or none came yet."""
    store = builder.store()
    made = builder.embedding()
    store.put_embedding(made)
    builder.write_part(store, made, 0, [], np.empty((0, 16), np.float32))
    assert built(store, "HNSW8").rows == 0
    assert Searcher.open(store).find(np.ones((2, 16), np.float32), 3).seq_ids.tolist() == [[-1] * 3] * 2


def test_near_duplicates_count_as_ties(builder):
    """Families of 60 sequences that hardly differ: which of them stand among the first ten says nothing."""
    generator = np.random.default_rng(2)
    centres = generator.standard_normal((10, 16))
    alike = (centres[np.arange(600) % 10] + 1e-9 * generator.standard_normal((600, 16))).astype(np.float32)
    store = builder.embedded(alike)
    info = built(store, "IVF4,SQfp16", transform="none", recall=0.99)
    assert info.operating["recall_at_10"] >= 0.99


@pytest.mark.parametrize("kind", ["flat", "IVF8,SQ4", "HNSW4", "SQ4"])
def test_exact_is_brute_force(builder, clustered, cosines, small, kind):
    store = builder.embedded(clustered, parts=6)
    built(store, kind, transform="none", recall=0.1)
    opened = Searcher.open(store)
    truth = cosines(clustered[:40], clustered)
    for allowed in (None, np.arange(0, 600, 7)):
        hidden = truth.copy()
        if allowed is not None:
            hidden[:, np.setdiff1d(np.arange(600), allowed)] = -2
        ids, scores, _ = opened.find(clustered[:40], 10, allowed=allowed, exact=True)
        np.testing.assert_array_equal(ids, np.argsort(-hidden, axis=1, kind="stable")[:, :10])
        np.testing.assert_allclose(scores, -np.sort(-hidden, axis=1)[:, :10], atol=1e-6)
    assert opened.find(clustered[:1], 700, exact=True).seq_ids[0, 600:].tolist() == [-1] * 100


def test_min_score(builder, clustered):
    built(store := builder.embedded(clustered), transform="none")
    ids, scores, _ = Searcher.open(store).find(clustered[:30], 20)
    cut, above, _ = Searcher.open(store).find(clustered[:30], 20, min_score=0.9)
    kept = scores >= 0.9
    assert kept.any()
    assert not kept.all()
    np.testing.assert_array_equal(cut, np.where(kept, ids, -1))
    np.testing.assert_array_equal(above, np.where(kept, scores, np.nan))


def test_a_filter_is_of_one_index(builder, clustered):
    store = builder.embedded(clustered)
    built(store)
    opened = Searcher.open(store)
    kept = opened.allow(np.array([5, 9, 9, 10_000, -1]))
    assert kept.rows == 2
    found = opened.find(clustered[:3], 4, allowed=kept)
    assert set(found.seq_ids.ravel().tolist()) == {5, 9, -1}
    assert (found.how["allowed"], found.how["rows"]) == (2, 600)
    assert found.how["searched"] == ["2 of 600 rows compared one by one"]
    built(store, "HNSW8")
    with pytest.raises(StoreError, match="the filter was made for index 000001, this is 000002"):
        Searcher.open(store).find(clustered[:3], 4, allowed=kept)


def test_leftovers_of_a_build_that_was_given_up_go(builder, clustered):
    store = builder.embedded(clustered)
    built(store)
    stray = on_disk(index_folder(store)) / "segments" / "given-up"
    stray.mkdir()
    (stray / "rows.npy").write_bytes(b"")
    built(store, "HNSW8")
    assert not stray.exists()
    assert index_file(on_disk(store.root), "vectors.faiss").exists()
