"""Command-line grammar: Compose's global options before or after the verb, and each verb's own.

A parser is built for the one verb that runs, so that `pystack ps` does not pay for the others. Usage errors end with
status 1, as Compose's do (argparse's own is 2).
"""

from __future__ import annotations

import argparse
from typing import NoReturn

from pystack.cli.output import fail

PROGRESS = ("auto", "tty", "plain", "json", "quiet")


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(message, hint=f"{self.prog} --help")


def _global_options(parser: argparse.ArgumentParser, *, taken: frozenset[str] = frozenset()) -> None:
    """Compose's global options, less the short letters that the verb has for itself (`logs -f`, `run -p`)."""

    def flags(*names: str) -> list[str]:
        return [name for name in names if name not in taken]

    group = parser.add_argument_group("stack options")
    group.add_argument(
        *flags("-f", "--file"),
        dest="files",
        action="append",
        metavar="FILE",
        help="stack file (repeat; - is stdin)",
    )
    group.add_argument(
        *flags("-p", "--project-name"), dest="project_name", metavar="NAME", help="name of the stack"
    )
    group.add_argument(
        "--profile", dest="profiles", action="append", metavar="NAME", help="profile to enable (repeat)"
    )
    group.add_argument(
        "--env-file", dest="env_files", action="append", metavar="FILE", help="file with variables (repeat)"
    )
    group.add_argument("--project-directory", metavar="DIR", help="directory that paths are relative to")
    group.add_argument("--progress", choices=PROGRESS, help="how progress is shown")
    group.add_argument("--ansi", choices=("auto", "always", "never"), help="control characters and colours")


def global_parser() -> Parser:
    parser = Parser(
        prog="pystack",
        allow_abbrev=False,
        description="Runs the stacks of Compose files on a container engine of its own.",
        epilog="Commands: up, down, ps, logs, exec, run, config, schema, plan, start, stop, restart, daemon, version. "
        "`pystack COMMAND --help` says more.",
    )
    _global_options(parser)
    parser.add_argument("-v", "--version", action="store_true", help="print the version")
    parser.add_argument("command", nargs="?", metavar="COMMAND")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="…")
    return parser


def _services(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("services", nargs="*", metavar="SERVICE")


def _timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-t", "--timeout", type=int, metavar="SECONDS", help="time to stop before SIGKILL")


def _up(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", "--detach", action="store_true", help="return when the stack is up")
    parser.add_argument(
        "--wait", action="store_true", help="return when services are running or healthy; implies -d"
    )
    parser.add_argument("--wait-timeout", type=float, metavar="SECONDS")
    parser.add_argument("--force-recreate", action="store_true")
    parser.add_argument("--no-recreate", action="store_true")
    parser.add_argument("--no-deps", action="store_true", help="do not start what the services depend on")
    parser.add_argument("--always-recreate-deps", action="store_true")
    parser.add_argument("-V", "--renew-anon-volumes", action="store_true")
    parser.add_argument(
        "--remove-orphans", action="store_true", help="remove containers of services that are gone"
    )
    parser.add_argument("--scale", action="append", metavar="SERVICE=N")
    parser.add_argument("--no-log-prefix", action="store_true")
    parser.add_argument("--no-color", action="store_true")
    parser.add_argument("--dry-run", action="store_true", help="print the plan only")
    _timeout(parser)
    _services(parser)


def _down(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-v", "--volumes", action="store_true", help="remove the stack's named and anonymous volumes, too"
    )
    parser.add_argument("--remove-orphans", action="store_true")
    _timeout(parser)
    _services(parser)


def _ps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="stopped ones, too")
    parser.add_argument("-q", "--quiet", action="store_true", help="ids only")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--no-trunc", action="store_true")
    _services(parser)


def _logs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--follow", action="store_true")
    parser.add_argument("-n", "--tail", default="all", metavar="N")
    parser.add_argument("-t", "--timestamps", action="store_true")
    parser.add_argument("--since")
    parser.add_argument("--until")
    parser.add_argument("--no-log-prefix", action="store_true")
    parser.add_argument("--no-color", action="store_true")
    _services(parser)


def _exec(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", "--detach", action="store_true")
    parser.add_argument("-e", "--env", action="append", metavar="K=V")
    parser.add_argument("-T", "--no-tty", dest="no_tty", action="store_true", help="no pseudo-terminal")
    parser.add_argument("-u", "--user")
    parser.add_argument("-w", "--workdir")
    parser.add_argument("--index", type=int, default=1, help="which replica")
    parser.add_argument("--privileged", action="store_true")
    parser.add_argument("service", metavar="SERVICE")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND …")


def _run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", "--detach", action="store_true")
    parser.add_argument("-e", "--env", action="append", metavar="K=V")
    parser.add_argument("-T", "--no-tty", dest="no_tty", action="store_true", help="no pseudo-terminal")
    parser.add_argument("-u", "--user")
    parser.add_argument("-w", "--workdir")
    parser.add_argument("-v", "--volume", dest="volumes", action="append", metavar="SOURCE:TARGET")
    parser.add_argument("-p", "--publish", action="append", metavar="HOST:CONTAINER")
    parser.add_argument("--entrypoint")
    parser.add_argument("--name")
    parser.add_argument("--no-deps", action="store_true")
    parser.add_argument("--rm", action="store_true", help="remove the container when it ends")
    parser.add_argument("service", metavar="SERVICE")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND …")


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("yaml", "json"), default="yaml")
    parser.add_argument("-q", "--quiet", action="store_true", help="only check")
    parser.add_argument(
        "--services", dest="list_services", action="store_true", help="print the services' names"
    )
    parser.add_argument("--volumes", dest="list_volumes", action="store_true")
    parser.add_argument("--networks", dest="list_networks", action="store_true")
    parser.add_argument("--images", dest="list_images", action="store_true")
    parser.add_argument("--models", dest="list_models", action="store_true")
    parser.add_argument("--profiles", dest="list_profiles", action="store_true")
    parser.add_argument(
        "--hash", metavar="SERVICES", help="print hashes of services: names with commas, or *"
    )
    parser.add_argument("--environment", action="store_true", help="print the variables of interpolation")
    parser.add_argument("--variables", action="store_true", help="print the variables that the files mention")
    parser.add_argument("--no-interpolate", action="store_true", help="leave variables as they stand")
    parser.add_argument("--no-normalize", action="store_true", help="add no default network and no names")
    parser.add_argument("--no-path-resolution", action="store_true", help="leave relative paths")
    parser.add_argument("--no-consistency", action="store_true", help="do not check references")
    parser.add_argument("--no-env-resolution", action="store_true", help="do not read env_file")
    parser.add_argument("--resolve-image-digests", action="store_true", help="pin images to their digests")
    parser.add_argument("--lock-image-digests", action="store_true", help="print an override file of digests")
    parser.add_argument("-o", "--output", metavar="FILE")
    _services(parser)


def _schema(_parser: argparse.ArgumentParser) -> None:
    pass  # no options of its own


def _plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--detailed-exitcode", action="store_true", help="0 no change, 2 changes, 1 error")
    parser.add_argument("--remove-orphans", action="store_true")
    parser.add_argument("--force-recreate", action="store_true")
    _services(parser)


def _lifecycle(parser: argparse.ArgumentParser) -> None:
    _timeout(parser)
    _services(parser)


def _daemon(parser: argparse.ArgumentParser) -> None:
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--stop", action="store_true", help="stop the running daemon; containers go on")
    action.add_argument("--status", action="store_true", help="say whether a daemon answers, and which")
    action.add_argument("--validate", action="store_true", help="check the configuration and end")
    parser.add_argument(
        "-H", "--host", dest="hosts", action="append", metavar="ADDRESS", help="listen there, too (repeat)"
    )
    parser.add_argument("-G", "--group", help="group whose members may use the socket")
    parser.add_argument("--tlsverify", action="store_true", default=None, help="clients need certificates")
    parser.add_argument("--tlscacert", metavar="FILE", help="certificate of who signed the clients'")
    parser.add_argument("--tlscert", metavar="FILE", help="the daemon's certificate")
    parser.add_argument("--tlskey", metavar="FILE", help="the daemon's key")
    parser.add_argument("--config-file", metavar="FILE", help="default: daemon.json in PYSTACK_ROOT")
    parser.add_argument("--debug", action="store_true", default=None, help="log more")


def _version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("pretty", "json"), default="pretty")
    parser.add_argument("--short", action="store_true")


#: verb -> (adds its options, short letters and names that it takes from the global options, what it does)
VERBS = {
    "up": (_up, frozenset[str](), "create and start a stack, or bring it to what its file says"),
    "down": (_down, frozenset[str](), "stop and remove a stack's containers and networks"),
    "ps": (_ps, frozenset[str](), "list a stack's containers"),
    "logs": (_logs, frozenset({"-f"}), "print a stack's logs"),
    "exec": (_exec, frozenset[str](), "run a command in a service's container"),
    "run": (_run, frozenset({"-p"}), "run a one-off command with a service's configuration"),
    "config": (_config, frozenset[str](), "check a stack file and print it resolved"),
    "schema": (_schema, frozenset[str](), "print the JSON Schema of a stack file, for editors"),
    "plan": (_plan, frozenset[str](), "print what `up` would do, and why"),
    "start": (_lifecycle, frozenset[str](), "start a stack's stopped containers"),
    "stop": (_lifecycle, frozenset[str](), "stop a stack's containers"),
    "restart": (_lifecycle, frozenset[str](), "restart a stack's containers"),
    "daemon": (_daemon, frozenset[str](), "run the engine's daemon in the foreground, or stop it"),
    "version": (_version, frozenset[str](), "print versions"),
}


def parse(argv: list[str]) -> argparse.Namespace:
    """The verb's options with the global ones merged in: lists add up, for the rest what stands after the verb wins."""
    first = global_parser().parse_args(argv)
    if first.version:
        first.command, first.rest = "version", []
    if first.command is None:
        global_parser().print_help()
        raise SystemExit(0)
    if first.command not in VERBS:
        import difflib

        close = difflib.get_close_matches(first.command, VERBS, 1)
        fail(
            f"unknown command {first.command!r}",
            hint=f"did you mean `{close[0]}`?" if close else "pystack --help",
        )
    add, taken, description = VERBS[first.command]
    parser = Parser(prog=f"pystack {first.command}", description=description, allow_abbrev=False)
    add(parser)
    _global_options(parser, taken=taken)
    options = parser.parse_args(_without_equals(first.rest))
    for name in ("files", "profiles", "env_files"):
        setattr(options, name, [*(getattr(first, name) or []), *(getattr(options, name) or [])])
    for name, default in (
        ("project_name", None),
        ("project_directory", None),
        ("progress", None),
        ("ansi", "auto"),
    ):
        setattr(options, name, getattr(options, name) or getattr(first, name) or default)
    options.verb = first.command
    return options


def _without_equals(arguments: list[str]) -> list[str]:
    """Go's `--flag=true` and `--flag=false` for flags without a value: the former stays a flag, the latter goes."""
    kept = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals and name.startswith("--") and value == "true":
            kept.append(name)
        elif not (equals and name.startswith("--") and value == "false"):
            kept.append(argument)
    return kept
