"""How a command ends: done, one sentence and a code, or a traceback if the fault is ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import typer

#: As shells have it: 128 and SIGINT.
INTERRUPTED: Final = 130


def expected(error: BaseException) -> tuple[str, int] | None:
    """The sentence and exit code of a problem that is no fault of ours; None for one that is."""
    from jetmem.adapters.data_folder import Refused
    from jetmem.client import ClientError
    from jetmem.runtime.errors import Broken, RequestFailed, Retryable, WrongFormat
    from jetmem.runtime.settings import SettingsError
    from jetmem.supervisor import StartFailed

    sentence = "; ".join([str(error), *getattr(error, "__notes__", [])])
    if isinstance(error, SettingsError | Refused | WrongFormat):
        return sentence, 2
    return (sentence, 1) if isinstance(error, StartFailed | Broken | Retryable | RequestFailed | ClientError) else None


@contextmanager
def told(command: str, usage: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Say what ended the block, in the name of a command; errors of `usage` end it with code 2.

    Raises:
        Exit: With the code, once said.
    """
    try:
        yield
    except KeyboardInterrupt:
        fail(command, "interrupted; everything was stopped", INTERRUPTED)
    except usage as error:
        fail(command, str(error), 2)
    except Exception as error:
        known = expected(error)
        if known is None:
            raise
        fail(command, *known)


def fail(command: str, sentence: str, code: int) -> NoReturn:
    """End a command.

    Raises:
        Exit: Always.
    """
    typer.echo(f"{command}: {sentence}", err=True)
    raise typer.Exit(code)
