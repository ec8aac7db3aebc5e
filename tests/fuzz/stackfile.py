"""Coverage-guided fuzzing of the loader: `make fuzz` (needs `pip install atheris`). Any exception but ours is a find.

Arguments are libFuzzer's: `-max_total_time=60`, a corpus directory, a file to try again.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["pystack.stackfile"]):
    from fake.stackfile_reader import MemoryReader

    from pystack.model.errors import PystackError
    from pystack.stackfile.canonical import to_canonical
    from pystack.stackfile.load import LoadRequest, load, resolve


def one_input(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    reader = MemoryReader({"/p/s.yml": text, "/p/.env": text[:100]})
    request = LoadRequest(files=("s.yml",), working_dir="/p", environment={"A": "b"})
    for run in (lambda: load(request, reader), lambda: to_canonical(resolve(request, reader))):
        try:
            run()
        except PystackError:
            pass  # an answer


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
