"""The `pystack` command: arguments in, a command module's work, an exit status out. A traceback never reaches the user."""

from __future__ import annotations

import os
import sys


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status (Compose's: 0, 1 for every error, 130 when interrupted)."""
    from pystack.cli.arguments import parse
    from pystack.cli.client import ApiError, EngineUnreachable
    from pystack.cli.output import Failure, fail

    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        return _run(options)
    except Failure as failure:
        return int(failure.code or 0)
    except ApiError as error:
        return _report(error)
    except EngineUnreachable as error:
        try:
            fail(
                str(error), hint="the next command starts the engine again; containers keep running meanwhile"
            )
        except Failure as failure:
            return int(failure.code or 0)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): end as a program killed by SIGPIPE does, without a complaint at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141


def _run(options: object) -> int:
    import importlib

    verb: str = options.verb  # type: ignore[attr-defined]
    module = {"start": "lifecycle", "stop": "lifecycle", "restart": "lifecycle"}.get(verb, verb)
    command = importlib.import_module(f"pystack.cli.commands.{module}")
    status: int = command.run(options)
    return status


def _report(error: object) -> int:
    from pystack.cli.client import ApiError
    from pystack.cli.output import Failure, fail, note

    assert isinstance(error, ApiError)
    try:
        if error.diagnostics:
            for diagnostic in error.diagnostics:
                note(str(diagnostic.get("rendered") or diagnostic.get("message")))
            count = len(error.diagnostics)
            fail(f"cannot use the stack file: {count} problem{'s' if count > 1 else ''}; nothing was touched")
        fail(error.message, hint=error.hint)
    except Failure as failure:
        return int(failure.code or 0)


if __name__ == "__main__":
    sys.exit(main())
