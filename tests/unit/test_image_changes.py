"""Dockerfile lines of `--change`, compared with what Docker 26 answered to the same."""

from __future__ import annotations

import pytest

from pystack.image.changes import apply
from pystack.image.shellwords import expand, split
from pystack.model.errors import InvalidInput

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BASE = {"Env": [PATH], "Cmd": ["sh"]}

GOOD = {
    'CMD ["a","b"]': {"Cmd": ["a", "b"]},
    "CMD": {"Cmd": ["/bin/sh", "-c"]},
    'CMD ["a"': {"Cmd": ["/bin/sh", "-c", '["a"']},
    "cmd top -b": {"Cmd": ["/bin/sh", "-c", "top -b"]},
    "ENTRYPOINT top -b": {"Entrypoint": ["/bin/sh", "-c", "top -b"], "Cmd": None},
    "ENTRYPOINT []": {"Entrypoint": None, "Cmd": None},
    'CMD x\nENTRYPOINT ["e"]': {"Entrypoint": ["e"], "Cmd": ["/bin/sh", "-c", "x"]},
    'ENV A=1 B="two words"': {"Env": [PATH, "A=1", "B=two words"]},
    "ENV a b c": {"Env": [PATH, "a=b c"]},
    "ENV A=$HOME B=${PATH}": {"Env": [PATH, "A=", f"B={PATH[5:]}"]},
    r"ENV A='$PATH' B=\$PATH C=${NO:-x} D=${PATH:+y} E=a\ b": {
        "Env": [PATH, "A=$PATH", "B=$PATH", "C=x", "D=y", "E=a b"]
    },
    "ENV PATH=/x": {"Env": ["PATH=/x"]},
    "ENV X=1\nENV X=2 Y=$X": {"Env": [PATH, "X=2", "Y=1"]},
    "EXPOSE 80 90/udp 100-102": {
        "ExposedPorts": {"80/tcp": {}, "90/udp": {}, "100/tcp": {}, "101/tcp": {}, "102/tcp": {}}
    },
    'LABEL x=y "k v"="z"': {"Labels": {"x": "y", "k v": "z"}},
    "LABEL x a b": {"Labels": {"x": "a b"}},
    "VOLUME /v1 /v2": {"Volumes": {"/v1": {}, "/v2": {}}},
    'VOLUME ["/a b"]': {"Volumes": {"/a b": {}}},
    "WORKDIR rel": {"WorkingDir": "/rel"},
    "WORKDIR /a/b\nWORKDIR ../c": {"WorkingDir": "/a/c"},
    "WORKDIR /a b": {"WorkingDir": "/a b"},
    "USER bob": {"User": "bob"},
    "STOPSIGNAL SIGINT": {"StopSignal": "SIGINT"},
    "STOPSIGNAL RTMIN+3": {"StopSignal": "RTMIN+3"},
    "STOPSIGNAL 9": {"StopSignal": "9"},
    "ONBUILD RUN x": {"OnBuild": ["RUN x"]},
    "HEALTHCHECK --interval=5s --retries=2 CMD curl x": {
        "Healthcheck": {"Test": ["CMD-SHELL", "curl x"], "Interval": 5_000_000_000, "Retries": 2}
    },
    "HEALTHCHECK --retries=0 CMD x": {"Healthcheck": {"Test": ["CMD-SHELL", "x"]}},
    'HEALTHCHECK --start-period=1m30s CMD ["a"]': {
        "Healthcheck": {"Test": ["CMD", "a"], "StartPeriod": 90_000_000_000}
    },
    "HEALTHCHECK NONE": {"Healthcheck": {"Test": ["NONE"]}},
    "# nothing\nENV A=1 \\\n  B=2": {"Env": [PATH, "A=1", "B=2"]},
}

BAD = {
    "RUN x": "RUN is not a valid change command",
    "FOO": "FOO is not a valid change command",
    "MAINTAINER x": "MAINTAINER is not a valid change command",
    "ENV": "ENV requires at least one argument",
    "ENV a": "ENV must have two arguments",
    "ENV a=1 b": 'Syntax error - can\'t find = in "b". Must be of the form: name=value',
    "ENV =x": "ENV names can not be blank",
    "ENV a='b": "unexpected end of statement while looking for matching single-quote",
    "LABEL a": "LABEL must have two arguments",
    "EXPOSE 99999": "Invalid containerPort: 99999",
    "EXPOSE abc": "Invalid containerPort: abc",
    "EXPOSE 80/xyz": "Invalid proto: xyz",
    "EXPOSE": "EXPOSE requires at least one argument",
    "WORKDIR": "WORKDIR requires exactly one argument",
    "USER": "USER requires exactly one argument",
    "VOLUME": "VOLUME requires at least one argument",
    'VOLUME ["/a", ""]': "VOLUME specified can not be an empty string",
    "STOPSIGNAL FOO": "invalid signal: FOO",
    "ONBUILD FROM x": "FROM isn't allowed as an ONBUILD trigger",
    "ONBUILD ONBUILD x": "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
    "HEALTHCHECK FOO": 'Unknown type "FOO" in HEALTHCHECK (try CMD)',
    "HEALTHCHECK NONE x": "HEALTHCHECK NONE takes no arguments",
    "HEALTHCHECK --interval=x CMD y": 'time: invalid duration "x"',
    "HEALTHCHECK --bad=1 CMD x": "unknown flag: bad",
    "HEALTHCHECK --retries=-1 CMD x": "--retries cannot be negative (-1)",
    "HEALTHCHECK CMD": "Missing command after HEALTHCHECK CMD",
    "# comment": "file with no instructions",
    "ENV A=${B:?needed}": "B: needed",
}


@pytest.mark.parametrize("line", GOOD)
def test_a_change_that_works(line: str) -> None:
    assert apply(BASE, [line]) == BASE | GOOD[line]


@pytest.mark.parametrize("line", BAD)
def test_a_change_that_does_not(line: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        apply(BASE, [line])
    assert caught.value.message == BAD[line]


def test_no_changes() -> None:
    assert apply(BASE, []) == BASE
    assert BASE == {"Env": [PATH], "Cmd": ["sh"]}


def test_words() -> None:
    assert split(r"""a "b c" d\ e 'f "g' """) == ["a", '"b c"', r"d\ e", "'f \"g'"]
    assert expand(r'"a\"$X\b"', {"X": "y"}) == r'a"y\b'
    assert expand("${A:-${B:-c}}$", {}) == "c$"
    for text in ("${", "${A", "${A:-", '"', "${A!x}", "${" * 40):
        with pytest.raises(InvalidInput):
            expand(text, {})
