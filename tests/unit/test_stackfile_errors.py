"""What a user reads when the stack file is wrong: place, words, caret, help; everything in one go."""

from __future__ import annotations

from textwrap import dedent

import pytest
from fake.stackfile_reader import MemoryReader

from pystack.model.errors import StackFileError
from pystack.stackfile.diagnostics import Diagnostic
from pystack.stackfile.load import LoadRequest, load


def errors(text: str, **files: str) -> list[Diagnostic]:
    everything = {"/p/stack.yml": dedent(text)} | {f"/p/{n}": dedent(t) for n, t in files.items()}
    names = ("stack.yml", *(n for n in files if n.endswith("yml")))
    with pytest.raises(StackFileError) as caught:
        load(LoadRequest(files=names, working_dir="/p"), MemoryReader(everything))
    return caught.value.diagnostics  # type: ignore[return-value]


def one(text: str) -> Diagnostic:
    found = errors(text)
    assert len(found) == 1, "\n".join(map(str, found))
    return found[0]


def test_the_whole_text_of_an_error() -> None:
    error = one("""\
        services:
          web:
            image: nginx
            prots: ["80:80"]
        """)
    assert str(error) == dedent("""\
        stack.yml:4:5: error: unknown key `prots` in services.web [unknown-key]
           |
         4 |     prots: ["80:80"]
           |     ^^^^^
           = help: did you mean `ports`?""")
    assert error.as_dict() == {
        "severity": "error",
        "code": "unknown-key",
        "message": "unknown key `prots` in services.web",
        "rendered": str(error),
        "file": "stack.yml",
        "line": 4,
        "column": 5,
        "path": "services.web.prots",
        "help": "did you mean `ports`?",
    }


def test_all_errors_of_all_files_at_once_in_order() -> None:
    found = errors(
        """\
        services:
          web:
            image: 5
            depends_on: [dbb]
            stop_grace_period: 90
          db: {image: x, volumes: [dat:/x], restart: alwys}
        volumes: {data: }
        """,
        **{"over.yml": "services: {web: {ports: ['a:b'], foo: 1}}"},
    )
    assert [(e.file, e.line, e.column, e.code) for e in found] == [
        ("over.yml", 1, 26, "bad-port"),
        ("over.yml", 1, 34, "unknown-key"),
        ("stack.yml", 3, 12, "wrong-type"),
        ("stack.yml", 4, 18, "undefined-service"),
        ("stack.yml", 5, 24, "wrong-type"),
        ("stack.yml", 6, 28, "undefined-volume"),
        ("stack.yml", 6, 46, "bad-restart"),
    ]
    assert [e.help for e in found][2:] == [
        'put it in quotes: "5"',
        "did you mean `db`?",
        "write 90s for seconds",
        "did you mean `data`?",
        "did you mean `always`?",
    ]


@pytest.mark.parametrize(
    ("attribute", "code", "column", "words"),
    [
        ("ports: {a: b}", "wrong-type", 24, "must be a list, not a mapping"),
        ("ports: ['80-82:80-81']", "bad-port", 25, "3 host ports for 2 container ports"),
        ("ports: ['80:80/tpc']", "bad-port", 25, "must be tcp, udp or sctp"),
        ("ports: ['x.y:80:80']", "bad-port", 25, "must be an IP address"),
        ("ports: [99999]", "bad-port", 25, "at most 65535"),
        ("ports: [{published: 80}]", "missing-key", 25, "needs `target`"),
        ("volumes: [':/a']", "bad-volume", 27, "empty section"),
        ("volumes: [{type: bind, target: /x}]", "bad-volume", 27, "needs a `source`"),
        ("volumes: [a:/x]", "bad-volume", 27, "absolute path"),
        ("volumes: ['/']", "bad-volume", 27, "the container's root"),
        ("healthcheck: {test: [curl]}", "bad-healthcheck", 38, "must begin with CMD"),
        ("healthcheck: {interval: 5}", "wrong-type", 41, "not the number 5"),
        ("mem_limit: lots", "wrong-type", 28, "must be a size such as 512m"),
        ("deploy: {replicas: -1}", "bad-scale", 36, "cannot have -1 containers"),
        ("scale: two", "wrong-type", 24, "must be a whole number, not the text `two`"),
        ("tty: maybe", "wrong-type", 22, "must be true or false"),
        ("restart: allways", "bad-restart", 26, "is not known"),
        ("environment: {A: [1]}", "wrong-type", 34, "must be a single value, not a list"),
        ("networks: [front]", "undefined-network", 28, "which is not defined"),
        ("secrets: [s]", "undefined-secret", 27, "which is not defined"),
        ("configs: [c]", "undefined-config", 27, "which is not defined"),
        ("env_file: nope.env", "missing-file", 27, "cannot find env file /p/nope.env"),
        ("network_mode: 'service:zz'", "undefined-service", 17, "depends on `zz`"),
        ("build: .", "unsupported", 17, "services.a.build is not supported yet"),
        ("pull_policy: daily", "unsupported", 30, "services.a.pull_policy `daily` is not supported yet"),
        ("volumes: [{type: image, source: y, target: /i}]", "unsupported", 34, "is not supported yet"),
        ("gpus: all", "unsupported", 17, "services.a.gpus is not supported yet"),
        ("deploy: {mode: global}", "unsupported", 32, "deploy.mode `global` is not supported yet"),
        ("labels: [com.docker.compose.project=x]", "reserved-label", 26, "is reserved"),
        ("ulimits: {nofile: abc}", "wrong-type", 35, "must be a whole number"),
        ("image2: x", "unknown-key", 17, "unknown key `image2`"),
        ("command: 'a \"b'", "bad-command", 26, "cannot split command into words"),
        ("extra_hosts: [a]", "bad-host", 31, "as a host and an address"),
        ("pull_policy: sometimes", "bad-pull-policy", 30, "is not known"),
        ("expose: [abc]", "bad-port", 26, "as a container port"),
        ("tmpfs: /a, volumes: [/a]", "duplicate-mount", 24, "mounts /a twice"),
        ("command: '${A:?say A}'", "required-variable", 27, "`A` is not set: say A"),
        (
            "security_opt: [seccomp:none.json]",
            "bad-seccomp",
            32,
            "cannot use the seccomp profile /p/none.json",
        ),
    ],
)
def test_one_wrong_attribute(attribute: str, code: str, column: int, words: str) -> None:
    error = one(f"services:\n  a: {{image: x, {attribute}}}\n")
    assert (error.code, error.line, error.column) == (code, 2, column)
    assert words in error.message


def test_no_error_shows_the_words_of_the_validator() -> None:
    for error in errors(
        "services: {a: {image: [1], ports: 1, depends_on: 5, deploy: x, networks: 1, labels: 4}}"
    ):
        assert "Input should" not in str(error)
        assert " must be " in error.message


@pytest.mark.parametrize(
    ("services", "words"),
    [
        ("{a: {image: x, depends_on: [b]}, b: {image: x, depends_on: [a]}}", "a -> b -> a"),
        ("{a: {image: x, depends_on: [a]}}", "a -> a"),
        (
            "{a: {image: x, depends_on: [b]}, b: {image: x, network_mode: 'service:c'}, c: {image: x, depends_on: [b]}}",
            "b -> c -> b",
        ),
    ],
)
def test_dependency_circles_are_named(services: str, words: str) -> None:
    error = one(f"services: {services}\n")
    assert error.code == "dependency-cycle"
    assert error.message.endswith(words)


@pytest.mark.parametrize(
    ("service", "key"),
    [
        ("scale: 2, deploy: {replicas: 3}", "scale"),
        ("cpus: 1, deploy: {resources: {limits: {memory: 1g}}}", "cpus"),
        ("mem_limit: 1g, deploy: {resources: {limits: {memory: 2g}}}", "mem_limit"),
        ("pids_limit: 1, deploy: {resources: {limits: {pids: 2}}}", "pids_limit"),
        ("mem_reservation: 1g, deploy: {resources: {reservations: {memory: 2g}}}", "mem_reservation"),
    ],
)
def test_twins_must_agree(service: str, key: str) -> None:
    error = one(f"services: {{a: {{image: x, {service}}}}}")
    assert error.code == "conflict"
    assert f"`{key}`" in error.message


def test_a_container_name_belongs_to_one_container() -> None:
    assert one("services: {a: {image: x, scale: 2, container_name: cc}}").code == "conflict"


def test_networks_and_network_mode_exclude_each_other() -> None:
    error = one("services: {a: {image: x, network_mode: host, networks: [default]}}")
    assert error.message == "service `a` sets both `networks` and `network_mode`"


def test_secrets_need_one_source() -> None:
    assert "says nothing" in one("services: {a: {image: x}}\nsecrets: {s: {}}").message
    assert (
        "sets `file` and `environment`"
        in one("services: {a: {image: x}}\nsecrets: {s: {file: a, environment: B}}").message
    )


def test_a_secret_from_an_unset_variable_names_it() -> None:
    error = one("services: {a: {image: x, secrets: [s]}}\nsecrets: {s: {environment: TOKEN}}")
    assert (error.line, error.column) == (2, 28)
    assert "`TOKEN`" in error.message


def test_a_secret_whose_file_is_missing() -> None:
    error = one("services: {a: {image: x, secrets: [s]}}\nsecrets: {s: {file: ./s.txt}}")
    assert error.message == "cannot find /p/s.txt"


def test_empty_and_shapeless_files() -> None:
    assert one("").code == "empty-file"
    assert one("- a\n").code == "wrong-type"
    assert one("services: [a]\n").message == "services must be a mapping, not a list"
    assert one("services: {a: }\n").code == "empty-service"
    assert one("service: {}\nservices: {a: {image: x}}").help == "did you mean `services`?"


def test_networks_that_cannot_be_made_yet() -> None:
    text = "services: {a: {image: x}}\nnetworks: {default: {enable_ipv4: false, ipam: {driver: dhcp}}}"
    assert [(e.code, e.line) for e in errors(text)] == [("unsupported", 2), ("unsupported", 2)]


def test_extends_and_include_circles() -> None:
    assert one("services: {a: {extends: b}, b: {extends: a}}").code == "extends-cycle"
    assert "includes" not in one("include: [stack.yml]\nservices: {a: {image: x}}").code
    assert one("include: [stack.yml]\nservices: {a: {image: x}}").code == "include-cycle"


def test_a_wide_line_is_shown_around_the_caret() -> None:
    text = str(one("services: {a: {image: x, command: [" + "y, " * 400 + "], prots: 1}}"))
    assert max(len(line) for line in text.splitlines()) < 200
    assert "prots: 1" in text
