from __future__ import annotations

import pytest

from registry_adapters.http.uploads import ChunkPlan

KIB = 1 << 10
MIB = 1 << 20


class TestChunkLength:
    def test_without_a_chunk_size_the_upload_is_monolithic(self) -> None:
        plan = ChunkPlan(100 * MIB, None)

        assert (plan.is_monolithic, plan.end(0)) == (True, 100 * MIB)

    def test_chunks_have_the_preferred_length_and_the_last_is_shorter(self) -> None:
        plan = ChunkPlan(10, 4)

        assert [plan.end(offset) for offset in (0, 4, 8)] == [4, 8, 10]

    def test_no_chunk_is_shorter_than_the_registry_accepts(self) -> None:
        """R-073."""
        plan = ChunkPlan(100, 4)

        plan.begin(30)

        assert [plan.end(offset) for offset in (0, 90)] == [30, 100]

    def test_a_large_blob_is_split(self) -> None:
        plan = ChunkPlan(100 * MIB, None)

        assert plan.split()
        assert (plan.is_monolithic, plan.end(MIB)) == (False, 9 * MIB)

    def test_a_small_blob_is_not_split(self) -> None:
        """One chunk would hold all of it."""
        assert not ChunkPlan(8 * MIB, None).split()

    def test_shrinking_quarters_the_length_in_multiples_that_storage_accepts(self) -> None:
        plan, lengths = ChunkPlan(100 * MIB, None), []

        length = 100 * MIB
        while plan.shrink(length):
            length = plan.end(0)
            lengths.append(length)

        assert lengths == [8 * MIB, 2 * MIB, 512 * KIB, 256 * KIB]

    @pytest.mark.parametrize("length", [1, 256 * KIB, MIB])
    def test_chunks_do_not_shrink_below_the_registry_s_minimum(self, length: int) -> None:
        """R-073."""
        plan = ChunkPlan(100 * MIB, None)
        plan.begin(MIB)

        assert not plan.shrink(length)

    def test_without_chunk_support_the_upload_is_monolithic(self) -> None:
        """R-072."""
        plan = ChunkPlan(100 * MIB, 4)

        plan.disable_chunks()

        assert plan.is_monolithic
        assert not plan.split()
        assert not plan.shrink(100 * MIB)


class TestProgress:
    def test_four_requests_without_progress_are_allowed(self) -> None:
        """R-074."""
        plan = ChunkPlan(100, 10)

        assert [plan.record_progress(10, 10, 20) for _ in range(5)] == [True] * 4 + [False]

    @pytest.mark.parametrize(("committed", "continues"), [(6, False), (7, True)])
    def test_less_than_a_sixteenth_of_a_request_is_no_progress(self, committed: int, continues: bool) -> None:
        """R-074: the request has a hundred bytes."""
        plan = ChunkPlan(1000, 100)

        assert [plan.record_progress(0, committed, 100) for _ in range(5)][-1] is continues

    def test_progress_resets_the_count_of_failures(self) -> None:
        """R-051."""
        plan = ChunkPlan(100, 10)
        plan.failures = 3

        plan.record_progress(0, 0, 10, failed=True)
        without_progress = plan.failures
        plan.record_progress(0, 10, 10)

        assert (without_progress, plan.failures) == (3, 0)

    def test_failed_requests_do_not_count_as_lack_of_progress(self) -> None:
        """R-075: the retry policy limits them, and it may allow more."""
        plan = ChunkPlan(100, 10)

        assert all(plan.record_progress(10, 10, 20, failed=True) for _ in range(20))

    def test_repeated_loss_of_progress_ends_the_upload(self) -> None:
        """R-074."""
        plan = ChunkPlan(100, 10)

        results = [plan.record_progress(*step, 20) for _ in range(17) for step in ((10, 20), (20, 10))]

        assert results == [True] * 33 + [False]

    def test_a_new_session_resets_all_counts(self) -> None:
        """R-075."""
        plan = ChunkPlan(100, 10)
        for _ in range(4):
            plan.record_progress(10, 10, 20)

        plan.begin(0)

        assert plan.record_progress(10, 10, 20)
