"""Programs and seconds of compilation: nested stages count once, other threads count, waits are the main thread's."""

import threading
import time

import jax
import jax.numpy as jnp
import pytest

from jaxrl.runtime.compilation import CompileMonitor, CompileTotals, compile_monitor

pytestmark = pytest.mark.check


def test_a_program_counts_once_and_a_second_call_not_at_all():
    monitor, shown = compile_monitor(), []
    assert compile_monitor() is monitor
    monitor.show, x = shown.append, jnp.arange(7.0)
    function = jax.jit(lambda x: jax.jit(jnp.tanh)(x) * 3)
    before, began = monitor.totals(), time.perf_counter()
    function(x)
    elapsed, after = time.perf_counter() - began, monitor.totals()
    assert after.programs - before.programs == 1
    assert 0 < after.waited - before.waited == pytest.approx(after.seconds - before.seconds, abs=1e-9)
    assert after.seconds - before.seconds <= elapsed  # the inner function is traced inside, and not added twice
    assert shown[::2] == [True] * len(shown[::2]) and shown[1::2] == [False] * len(shown[1::2]) and shown
    function(x)
    assert monitor.totals() == after
    monitor.show = lambda compiling: None


def test_work_of_another_thread_is_no_wait_of_the_main_thread():
    monitor, stage = CompileMonitor(), "/jax/core/compile/backend_compile_duration"

    def compile_elsewhere():
        monitor.on_begin(stage, 0.0)
        time.sleep(0.02)
        monitor.on_end(stage, 0.02)

    thread = threading.Thread(target=compile_elsewhere)
    thread.start()
    thread.join()
    work = monitor.totals()
    assert work.programs == 1 and work.seconds >= 0.02 and work.waited == 0
    with monitor.waiting():
        time.sleep(0.02)
    assert monitor.totals().seconds == work.seconds and monitor.totals().waited >= 0.02


def test_a_failed_stage_and_a_cache_hit():
    monitor, stage = CompileMonitor(), "/jax/core/compile/jaxpr_trace_duration"
    monitor.on_end(stage, 1.0)  # began before the monitor did
    assert monitor.totals() == CompileTotals()
    monitor.on_begin("/jax/other", 0.0)
    monitor.on_event("/jax/compilation_cache/cache_hits")
    assert monitor.totals() == CompileTotals(loaded=1)
