"""What the benchmarks make of what they measured: tables, facts, ratios, verdicts. Nothing is measured here."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec

import pytest
from benchmarks.depth import speed_of
from benchmarks.depth import table as depth_table
from benchmarks.load import BenchmarkError, Stream, Target, event_of, read_event, read_reply, tokens_per_s
from benchmarks.measure import Run, sum_counters
from benchmarks.peers import peer_of
from benchmarks.plot import advantages, draw
from benchmarks.report import fact_table, figure_table
from benchmarks.soak import Memory, Outcome, checks
from benchmarks.workloads import ALL

RESULTS = {
    "donabe": [Run({"W2 tok/s": 200.0, "W3 wall s": 5.0}, {"W3": {"steps": 10.0, "forks": 7.0}}),
               Run({"W2 tok/s": 220.0, "W3 wall s": 6.0}, {"W3": {"steps": 12.0, "forks": 7.0}})],
    "other": [Run({"W2 tok/s": 100.0}, {}), Run({"W2 tok/s": 200.0, "W3 wall s": 24.0}, {"W3": {"evaluated": 9000.0}})],
}  # fmt: skip


def test_table_pairs_the_ratios_and_leaves_out_what_a_peer_lacks():
    lines = figure_table(RESULTS).splitlines()
    assert lines[2] == "| W2 tok/s | 210.0 | 150.0, 1.55 (2.00 1.10) |"
    assert lines[3] == "| W3 wall s (lower is better) | 5.500 | 24.000, 0.25 (0.25) |"


def test_facts_are_medians_by_workload():
    assert fact_table(RESULTS).splitlines()[2] == "| W3 | steps 11, forks 7 | evaluated 9000 |"


def test_plot_turns_figures_where_lower_is_better():
    assert advantages(RESULTS, "other") == {"W2 tok/s": pytest.approx(1.55), "W3 wall s": pytest.approx(4.0)}


def test_names_of_workloads_are_unique():
    assert len({workload.name for workload in ALL}) == len(ALL)


def test_counters_are_summed_over_labels_and_missing_ones_are_zero():
    page = '# HELP a b\na_total{model="x y"} 3\na_total{model="z"} 4\na_total_more 5\n'
    assert sum_counters(page, {"a": "a_total", "b": "b_total"}) == {"a": 7, "b": 0}


def target(dialect):
    return Target("x", "http://127.0.0.1:1", "m", dialect)


def test_native_stream_counts_what_its_final_event_says():
    found, stream = target("native"), Stream(0.0)
    assert read_event(found, event_of(found, b'{"response":"a"}'), stream) == "a"
    final = b'{"response":"","done":true,"prompt_eval_count":10,"prompt_cached_count":8,"eval_count":5}'
    assert read_event(found, event_of(found, final), stream) == ""
    assert (found.tally.n_evaluated, found.tally.n_cached, stream.n_tokens) == (2, 8, 5)


def test_openai_stream_counts_timings_or_usage():
    found, stream = target("openai"), Stream(0.0)
    assert event_of(found, b": ping") is None and event_of(found, b"data: [DONE]") is None
    event = event_of(found, b'data: {"choices":[{"delta":{"content":"a"}}]}')
    assert event is not None and read_event(found, event, stream) == "a"
    read_event(found, {"choices": [], "timings": {"cache_n": 4, "prompt_n": 6, "predicted_n": 3}}, stream)
    read_event(found, {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 2,
                                                 "prompt_tokens_details": {"cached_tokens": 9}}}, stream)  # fmt: skip
    assert (found.tally.n_evaluated, found.tally.n_cached) == (7, 13)


def test_errors_inside_a_stream_are_raised():
    with pytest.raises(BenchmarkError, match="out of cells"):
        event_of(target("native"), b'{"error":"out of cells"}')


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def recorded(*pieces: bytes) -> list[tuple[float, bytes]]:
    """One piece a second."""
    return [(float(i), piece) for i, piece in enumerate(pieces)]


def test_a_line_has_the_time_of_the_piece_that_ended_it():
    status, lines = read_reply(recorded(HEAD + b"6\r\nab\ncd\n\r\n3\r\nef", b"g\r\n4;x=1\r\nh\n\ni\r", b"\n0\r\n\r\n"))
    assert status == 200
    assert lines == [(0.0, b"ab"), (0.0, b"cd"), (1.0, b"efgh"), (2.0, b"i")]


def test_a_reply_in_one_part_needs_no_chunks():
    assert read_reply(recorded(b"HTTP/1.1 503 Busy\r\nX: y\r\n", b"\r\n{}\n", b"z")) == (
        503,
        [(1.0, b"{}"), (2.0, b"z")],
    )


@pytest.mark.parametrize("end", [b"", b"5\r\nab", b"2\r\nab\r\n"])
def test_a_reply_that_breaks_off_is_an_error(end):
    with pytest.raises(BenchmarkError, match="in the middle of an answer"):
        read_reply(recorded(HEAD, end))


@pytest.mark.parametrize("pieces", [[], [b""], [b"HTTP/1.1 200 OK\r\n"]])
def test_a_connection_closed_without_an_answer_is_an_error(pieces):
    with pytest.raises(BenchmarkError, match="without an answer"):
        read_reply(recorded(*pieces))


def test_rate_of_streams_in_turn_leaves_their_first_tokens_out():
    streams = [Stream(0.0, times=[1.0, 3.0], n_tokens=9), Stream(5.0, times=[6.0, 7.0], n_tokens=5)]
    assert tokens_per_s(streams) == pytest.approx((8 + 4) / (2.0 + 1.0))


def test_unknown_peer_is_refused_with_the_known_ones():
    with pytest.raises(BenchmarkError, match="no peer vllm: give a URL or one of llama-server"):
        peer_of("vllm", "")


def test_server_given_by_url_needs_its_models_name():
    with pytest.raises(BenchmarkError, match="--peer-model"):
        peer_of("http://127.0.0.1:11434", "").prepare()


def memory(*sizes):
    return Memory([float(i) for i in range(len(sizes))], [size << 20 for size in sizes])


def test_memory_that_only_grows_while_it_warms_up_is_flat():
    assert memory(*range(100, 400, 60), *([400] * 10)).is_flat
    assert not memory(*range(100, 400, 20)).is_flat


@pytest.mark.parametrize(
    ("endings", "held", "p99_s", "failed"),
    [
        ({"answered": 5, "left": 2, "503": 1}, 0, 0.01, []),
        ({"answered": 5, "500": 1}, 0, 0.01, [0]),
        ({"left": 5}, 0, 0.01, [0]),
        ({"answered": 5}, 3, 0.01, [1]),
        ({"answered": 5}, 0, 0.06, [2]),
    ],
)
def test_soak_fails_on_errors_held_cells_and_slow_answers(endings, held, p99_s, failed):
    cells = {"used": 100.0 + held, "cached": 100.0, "running": 0.0, "waiting": 0.0}
    found = checks(Outcome(Counter(endings)), {"server": memory(50, 50, 50)}, cells, p99_s)
    assert [i for i, (holds, _) in enumerate(found) if not holds] == failed


def test_result_line_is_found_in_a_programs_log():
    assert speed_of('loading\nbench: {"n_kv_max": 1, "speed_tg": 42.5}\n', "speed_tg") == 42.5
    with pytest.raises(BenchmarkError, match="gave no result"):
        speed_of("failed\n", "speed_tg")


def test_depth_table_pairs_the_ratios():
    assert depth_table({"decode": [(80.0, 50.0), (60.0, 50.0)]}).splitlines()[2] == (
        "| decode | 70.0 | 50.0 | 1.40 (1.60 1.20) |"
    )


def test_plot_is_drawn_where_its_library_is_installed(tmp_path):
    if find_spec("matplotlib") is None:
        with pytest.raises(BenchmarkError, match=r"donabe\[bench\]"):
            draw(RESULTS, tmp_path / "bench.svg")
    else:
        draw(RESULTS, tmp_path / "bench.svg")
        assert b"W3 wall s" in (tmp_path / "bench.svg").read_bytes()


def test_pythons_share_of_a_step_is_told_with_two_digits():
    run = Run(facts={"W2": {"step ms": 4000.4, "python %": 1.234}})
    assert fact_table({"donabe": [run]}).splitlines()[2] == "| W2 | step ms 4000, python % 1.23 |"
