from __future__ import annotations

import pytest

from registry_adapters.http.uploads import ChunkPlan

KIB = 1 << 10
MIB = 1 << 20


class TestLength:
    def test_all_goes_in_one_unless_chunks_are_wanted(self) -> None:
        pace = ChunkPlan(100 * MIB, None)

        assert (pace.whole, pace.end(0)) == (True, 100 * MIB)

    def test_chunks_are_as_long_as_wanted_and_the_last_is_shorter(self) -> None:
        pace = ChunkPlan(10, 4)

        assert [pace.end(offset) for offset in (0, 4, 8)] == [4, 8, 10]

    def test_no_chunk_is_shorter_than_the_registry_takes(self) -> None:
        """R-073."""
        pace = ChunkPlan(100, 4)

        pace.begin(30)

        assert [pace.end(offset) for offset in (0, 90)] == [30, 100]

    def test_a_large_blob_is_split(self) -> None:
        pace = ChunkPlan(100 * MIB, None)

        assert pace.split()
        assert (pace.whole, pace.end(MIB)) == (False, 9 * MIB)

    def test_a_small_one_is_not(self) -> None:
        """Nothing would be gained."""
        assert not ChunkPlan(8 * MIB, None).split()

    def test_quarters_are_multiples_that_every_storage_takes(self) -> None:
        pace, lengths = ChunkPlan(100 * MIB, None), []

        tried = 100 * MIB
        while pace.shrink(tried):
            tried = pace.end(0)
            lengths.append(tried)

        assert lengths == [8 * MIB, 2 * MIB, 512 * KIB, 256 * KIB]

    @pytest.mark.parametrize("tried", [1, 256 * KIB, MIB])
    def test_nothing_is_shrunk_below_what_the_registry_takes(self, tried: int) -> None:
        """R-073."""
        pace = ChunkPlan(100 * MIB, None)
        pace.begin(MIB)

        assert not pace.shrink(tried)

    def test_who_knows_no_chunks_gets_none(self) -> None:
        """R-072."""
        pace = ChunkPlan(100 * MIB, 4)

        pace.refuse_chunks()

        assert pace.whole
        assert not pace.split()
        assert not pace.shrink(100 * MIB)


class TestProgress:
    def test_a_few_answers_without_any_are_borne(self) -> None:
        """R-074."""
        pace = ChunkPlan(100, 10)

        assert [pace.is_stuck(10, 10, 20) for _ in range(5)] == [False] * 4 + [True]

    @pytest.mark.parametrize(("reached", "stuck"), [(6, True), (7, False)])
    def test_less_than_a_sixteenth_is_none(self, reached: int, stuck: bool) -> None:
        """R-074: of a hundred bytes."""
        pace = ChunkPlan(1000, 100)

        assert [pace.is_stuck(0, reached, 100) for _ in range(5)][-1] is stuck

    def test_it_starts_the_count_of_failures_anew(self) -> None:
        """R-051."""
        pace = ChunkPlan(100, 10)
        pace.failures = 3

        pace.is_stuck(0, 0, 10, failed=True)
        without = pace.failures
        pace.is_stuck(0, 10, 10)

        assert (without, pace.failures) == (3, 0)

    def test_failures_are_counted_by_themselves(self) -> None:
        """R-075: they end by the policy, which may have more patience."""
        pace = ChunkPlan(100, 10)

        assert not any(pace.is_stuck(10, 10, 20, failed=True) for _ in range(20))

    def test_forward_and_back_again_is_none(self) -> None:
        """R-074."""
        pace = ChunkPlan(100, 10)

        stuck = [pace.is_stuck(*step, 20) for _ in range(17) for step in ((10, 20), (20, 10))]

        assert stuck == [False] * 33 + [True]

    def test_a_new_session_is_judged_anew(self) -> None:
        """R-075."""
        pace = ChunkPlan(100, 10)
        for _ in range(4):
            pace.is_stuck(10, 10, 20)

        pace.begin(0)

        assert not pace.is_stuck(10, 10, 20)
