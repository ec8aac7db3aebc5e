"""Stack files: the CPU of loading 100 services (1,200 lines), and `pystack config` beside `docker compose config`.

Prints medians. Both programs run on the same file in pairs, so that what else the machine does hits both. The budget: 60 ms
of CPU in a warm process, and a whole process that is no slower than docker compose's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from statistics import median

from pystack.stackfile.canonical import to_canonical
from pystack.stackfile.load import LoadRequest, load, resolve
from pystack.stackfile.source import HostReader

PAIRS = int(os.environ.get("PAIRS", "15"))
COMPOSE = Path(sysconfig.get_path("purelib")) / "compose" / "docker-compose"
PYSTACK = Path(sys.executable).with_name("pystack")
SERVICE = """\
  service{i}:
    image: "registry.example.com/team/service{i}:${{TAG:-1.0}}"
    command: ["serve", "--port", "80"]
    environment:
      NAME: service{i}
      URL: "http://${{HOST:-localhost}}:80{i}"
    ports: ["{port}:80"]
    volumes: ["data{i}:/data", "./conf:/conf:ro"]
    networks: [front, back]
    healthcheck: {{test: curl -f http://localhost, interval: 10s, retries: 3}}
    deploy: {{resources: {{limits: {{cpus: "0.5", memory: 64m}}}}}}
    restart: unless-stopped
"""


def text() -> str:
    services = "".join(SERVICE.format(i=i, port=10_000 + i) for i in range(100))
    volumes = "".join(f"  data{i}:\n" for i in range(100))
    return f"services:\n{services}networks: {{front: {{}}, back: {{}}}}\nvolumes:\n{volumes}"


def cpu(run: object, times: int = 20) -> float:
    """Median CPU time of a call, in ms."""
    assert callable(run)
    taken = []
    for _ in range(times):
        began = time.process_time()
        run()
        taken.append((time.process_time() - began) * 1000)
    return median(taken)


def whole(command: list[str | Path], directory: str, environment: dict[str, str]) -> float:
    """Wall time of a process, in ms."""
    began = time.monotonic()
    subprocess.run(command, cwd=directory, env=environment, check=True, capture_output=True)
    return (time.monotonic() - began) * 1000


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "compose.yml")
        file.write_text(text())
        request = LoadRequest(files=(str(file),), working_dir=directory, environment={"PATH": "/usr/bin"})
        print(f"{text().count(chr(10))} lines, 100 services")
        print(f"load, warm process:            {cpu(lambda: load(request, HostReader())):7.1f} ms CPU")
        print(f"config as JSON, warm process:  {cpu(lambda: _config(request)):7.1f} ms CPU")
        processes(directory)


def _config(request: LoadRequest) -> str:
    return json.dumps(to_canonical(resolve(request, HostReader())))


def processes(directory: str) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "PYSTACK_ROOT": f"{directory}/root",
        "PYSTACK_RUN": f"{directory}/run",
    }
    ours, theirs = [], []
    commands: dict[str, list[str | Path]] = {
        "ours": [PYSTACK, "config", "--format", "json"],
        "theirs": [COMPOSE, "config", "--format", "json"],
    }
    try:
        whole(commands["ours"], directory, environment)  # starts the daemon
        for _ in range(PAIRS):
            ours.append(whole(commands["ours"], directory, environment))
            theirs.append(whole(commands["theirs"], directory, environment))
    finally:
        subprocess.run([PYSTACK, "daemon", "--stop"], env=environment, check=False, capture_output=True)
    print(f"pystack config, process:       {median(ours):7.1f} ms")
    print(f"docker compose config, process:{median(theirs):7.1f} ms")


if __name__ == "__main__":
    main()
