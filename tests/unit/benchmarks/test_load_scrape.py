"""Cache hits out of `/metrics`, of vLLM's server and of ours."""

from benchmarks.load.scrape import HitCount, cache_counts, read_samples

_BEFORE = """\
# TYPE vllm:prefix_cache_queries counter
vllm:prefix_cache_queries_total{engine="0"} 100.0
# TYPE vllm:prefix_cache_hits counter
vllm:prefix_cache_hits_total{engine="0"} 40.0
"""
_AFTER = """\
# TYPE vllm:prefix_cache_queries counter
vllm:prefix_cache_queries_total{engine="0"} 300.0
vllm:prefix_cache_queries_total{engine="1"} 200.0
# TYPE vllm:prefix_cache_hits counter
vllm:prefix_cache_hits_total{engine="0"} 140.0
# TYPE qwen3vl_vision_cache_hits counter
qwen3vl_vision_cache_hits_total{tier="host"} 3.0
# TYPE qwen3vl_vision_cache_misses counter
qwen3vl_vision_cache_misses_total{tier="host"} 1.0
# TYPE qwen3vl_visual_items counter
qwen3vl_visual_items_total{pixels="known"} 5.0
qwen3vl_visual_items_total{pixels="decoded"} 5.0
"""


def test_hits_are_those_in_between_over_all_engines() -> None:
    counts = cache_counts(read_samples(_BEFORE), read_samples(_AFTER))
    assert counts == {
        "prefix": HitCount(100, 400),
        "pixels": HitCount(5, 10),
        "vision, host": HitCount(3, 4),
    }


def test_a_server_that_has_begun_anew_tells_nothing() -> None:
    assert cache_counts(read_samples(_AFTER), read_samples(_BEFORE)) == {}


def test_caches_that_nobody_asked_are_left_out() -> None:
    samples = read_samples(_AFTER)
    assert cache_counts(samples, samples) == {}
    assert cache_counts({}, {}) == {}
