"""Faults of files that come again with their seed."""

from benchmarks.fuzz.mutations import KINDS, mutated

GOOD = b"SIMPLE  =                    T / " + b"number = 12.5\n" * 400


def test_a_seed_makes_a_fault_and_the_same_one_again():
    found = [mutated(GOOD, [0, i]) for i in range(200)]
    assert {kind for kind, _ in found} == set(KINDS)
    assert all(content != GOOD for _, content in found)
    assert found == [mutated(GOOD, [0, i]) for i in range(200)]
    assert len({content for _, content in found}) > 190
