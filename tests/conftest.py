"""Strict by default: four virtual CPU devices, no silent promotion of shapes or dtypes, shapes checked at run time."""

import atexit
import http.server
import json
import os
import shutil
import tempfile
import threading
from types import SimpleNamespace

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax
import pytest
from jaxtyping import install_import_hook

from jaxrl.runtime import devices
from jaxrl.runtime.devices import prepare_devices

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Tests build the same programs many times. JAXRL_TEST_CACHE names a folder that keeps them between test runs.
_COMPILED = os.environ.get("JAXRL_TEST_CACHE") or tempfile.mkdtemp(prefix="jaxrl-compiled-")
if "JAXRL_TEST_CACHE" not in os.environ:
    atexit.register(shutil.rmtree, _COMPILED, ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", _COMPILED)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

prepare_devices(4, "")
devices.cores = lambda: 4  # commands that ask for a device a core find these

install_import_hook(["models", "jaxrl.algorithms"], "beartype.beartype")


pytest_plugins = ["fixtures.small_runs"]


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
