"""Strict by default: four virtual CPU devices, no silent promotion of shapes or dtypes, shapes checked at run time."""

import http.server
import json
import os
import threading
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Compiled programs are kept in one folder, which all test processes and the commands that tests start read and write.
# XLA's keys include the program, the flags and the number of devices: an entry of an earlier run is never wrong, and a
# command reuses the programs of the tests only with as many devices and the same flags.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ.get("JAXRL_TEST_CACHE") or str(
    Path(__file__).parents[1] / ".pytest_cache" / "compiled"
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ["JAX_NUM_CPU_DEVICES"] = "4"

import jax
import pytest
from jaxtyping import install_import_hook

from jaxrl.runtime import cpu
from jaxrl.runtime.devices import prepare_devices

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

prepare_devices(4, "")  # exports the flags that commands have with several devices
cpu.cores = lambda: 4  # commands that use one device a core find four

install_import_hook(["models", "jaxrl.algorithms", "jaxrl.sampling", "jaxrl.learning"], "beartype.beartype")


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Runs of a random model of a few thousand parameters."""
    from fixtures.small_runs import save_random_model

    return save_random_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def judged():
    """Rewards that a random model can earn."""
    from fixtures.small_runs import parity_rewards

    with parity_rewards():
        yield


@pytest.fixture(scope="session")
def whole(small, tmp_path_factory):
    """An undisturbed run and its folder. Tests read it; they must not write there."""
    from fixtures.small_runs import parity_rewards

    workdir = tmp_path_factory.mktemp("whole") / "run"
    run = small.run(small.fields(workdir))
    with parity_rewards():
        run.train()
    return run, workdir


@pytest.fixture
def serve():
    """`serve(answer)` starts a server on this machine: `answer(body, number)` gives (status, headers, text) to request
    `number` (from 0), or None to hang up. Has `url` and `requests`, a list of (headers, body)."""
    servers = []

    def start(answer):
        found, lock = SimpleNamespace(url="", requests=[]), threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(found.requests)
                    found.requests.append((dict(self.headers) | {"path": self.path}, body))
                answered = answer(body, number)
                if answered is None:
                    return
                status, headers, text = answered
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        servers.append((server, thread))
        found.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        return found

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()
