"""`tools/bench.py`: what it evaluates has to stay valid, because it runs only when a person measures."""

from tools.bench import grow


def test_each_further_record_is_one_more_resource() -> None:
    (few, _), (many, _) = grow((1, 4))
    assert many - few == 3
